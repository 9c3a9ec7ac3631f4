//! Builds every test program once and runs them itself, so that all suites share one build.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Urgency;
use super::tally::Tally;
use crate::process;
use crate::stage::Stage;

/// Features that all builds of a test run share: another set would compile dependencies again.
pub(crate) const FEATURES: [&str; 2] = ["--features", "dynomite-api/crd"];

/// The package whose integration tests need a cluster.
const CLUSTER_PACKAGE: &str = "dynomite-e2e";

/// The cluster package's target that needs the definitions only, no operator.
const API_TARGET: &str = "api";

/// What a test program needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing.
    Unit,
    /// An API server.
    Api,
    /// Nodes that run pods.
    EndToEnd,
}

/// One test program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Package and target, for people.
    pub(crate) name: String,
    pub(crate) level: Level,
    executable: PathBuf,
    /// Where `cargo test` would run it.
    directory: PathBuf,
}

/// The part of cargo's messages that names test programs.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the programs of the end-to-end package and finds one of them.
pub(crate) fn build_program(name: &str, stage: &Stage) -> Result<PathBuf> {
    let said = process::run(
        process::cargo()
            .args(["build", "-p", CLUSTER_PACKAGE, "--bins"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(FEATURES),
        stage,
    )?;
    said.lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find(|message| {
            message
                .target
                .as_ref()
                .is_some_and(|target| target.name == name)
        })
        .and_then(|message| message.executable)
        .with_context(|| format!("{CLUSTER_PACKAGE} has no program {name}"))
}

/// Builds the program of a package's own tests as users get the package, and finds it.
pub(crate) fn build_release_test(package: &str, stage: &Stage) -> Result<PathBuf> {
    let said = process::run(
        process::cargo()
            .args(["test", "--release", "--no-run", "-p", package, "--bins"])
            .args(["--message-format", "json-render-diagnostics"]),
        stage,
    )?;
    let found = said.lines().find_map(program);
    found
        .map(|program| program.executable)
        .with_context(|| format!("{package} has no tests"))
}

/// Builds the test programs that cargo is told of.
pub(crate) fn build(what: &[&str], stage: &Stage) -> Result<Vec<Program>> {
    let said = process::run(
        process::cargo()
            .args(["test", "--no-run"])
            .args(what)
            .args(["--message-format", "json-render-diagnostics"])
            .args(FEATURES),
        stage,
    )?;
    Ok(said.lines().filter_map(program).collect())
}

/// The test program that one line of cargo's messages is about.
fn program(line: &str) -> Option<Program> {
    let message: Message = serde_json::from_str(line).ok()?;
    let target = message.target?;
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let directory = message.manifest_path?.parent()?.to_owned();
    let package = directory.file_name()?.to_str()?.to_owned();
    // The end-to-end package's folder is not named like the package.
    let on_cluster =
        directory.ends_with("tests/e2e") && target.kind.iter().any(|kind| kind == "test");
    let level = match (on_cluster, target.name.as_str()) {
        (false, _) => Level::Unit,
        (true, API_TARGET) => Level::Api,
        (true, _) => Level::EndToEnd,
    };
    let package = if on_cluster {
        CLUSTER_PACKAGE
    } else {
        &package
    };
    Some(Program {
        name: format!("{package} {}", target.name),
        level,
        executable: message.executable?,
        directory,
    })
}

impl Program {
    /// Runs it and counts; gives back the end of what it said when a test failed.
    pub(super) fn run(
        &self,
        urgency: Urgency,
        prepare: impl FnOnce(&mut Command),
        tally: &mut Tally,
        stage: &Stage,
    ) -> Result<Option<String>> {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.directory)
            .env("CARGO_MANIFEST_DIR", &self.directory);
        prepare(&mut command);
        let output = process::capture(&mut urgency.command(command), stage)?;
        tally.add(&output.text, output.success);
        Ok((!output.success).then(|| format!("{}:\n{}", self.name, output.tail())))
    }
}

/// Runs the examples in documentation, which only cargo can.
pub(crate) fn run_documentation(tally: &mut Tally, stage: &Stage) -> Result<Option<String>> {
    let output = process::capture(
        process::cargo()
            .args(["test", "--workspace", "--doc"])
            .args(FEATURES),
        stage,
    )?;
    tally.add(&output.text, output.success);
    Ok((!output.success).then(|| format!("documentation:\n{}", output.tail())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(manifest: &str, kind: &str, name: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": manifest,
            "target": { "name": name, "kind": [kind] },
            "profile": { "test": test },
            "executable": "/t/debug/deps/x",
        })
        .to_string()
    }

    #[test]
    fn programs_are_sorted_by_what_they_need() {
        let level = |line: &str| program(line).map(|program| program.level);
        let e2e = "/r/tests/e2e/Cargo.toml";
        assert_eq!(level(&line(e2e, "test", "api", true)), Some(Level::Api));
        assert_eq!(
            level(&line(e2e, "test", "ring", true)),
            Some(Level::EndToEnd)
        );
        assert_eq!(
            level(&line(e2e, "lib", "dynomite_e2e", true)),
            Some(Level::Unit)
        );
        let crate_manifest = "/r/crates/dynomite-api/Cargo.toml";
        assert_eq!(
            level(&line(crate_manifest, "test", "api", true)),
            Some(Level::Unit)
        );
        assert_eq!(level(&line(crate_manifest, "example", "x", false)), None);
        assert_eq!(level("   Compiling x v0.1.0"), None);
    }
}
