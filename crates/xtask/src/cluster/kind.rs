//! A cluster made by kind, for machines with Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{layout, packages};
use crate::stage::Stages;
use crate::workspace;

/// Whether kind is installed and a Docker engine answers.
pub(super) fn usable() -> bool {
    packages::find("kind").is_some()
        && Command::new("docker")
            .args(["info", "--format", "{{.ServerVersion}}"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Creates the cluster unless it exists, and returns whether anything was done.
pub(super) fn up(name: &str, stages: &mut Stages) -> Result<bool> {
    let file = kubeconfig(name)?;
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    if exists(name)? {
        // Another checkout may have made it; the file is ours to have.
        let output = kind(&["get", "kubeconfig", "--name", name]).output()?;
        ensure!(
            output.status.success(),
            "kind does not give the kubeconfig of {name}"
        );
        fs::write(&file, output.stdout)?;
        return Ok(false);
    }
    let configuration = workspace::root().join("kind-config.yaml");
    stages.run("creating a cluster with kind", |stage| {
        stage.note("one control plane and three workers in three zones");
        let mut command = kind(&["create", "cluster", "--name", name, "--wait", "180s"]);
        command
            .arg("--config")
            .arg(configuration)
            .arg("--kubeconfig")
            .arg(&file);
        succeed(command)
    })?;
    Ok(true)
}

/// Deletes the cluster, and returns whether there was one.
pub(super) fn down(name: &str) -> Result<bool> {
    let found = exists(name)?;
    if found {
        succeed(kind(&["delete", "cluster", "--name", name]))?;
    }
    let file = kubeconfig(name)?;
    if file.exists() {
        fs::remove_file(file)?;
    }
    Ok(found)
}

/// Whether kind knows the cluster.
pub(super) fn exists(name: &str) -> Result<bool> {
    ensure!(
        usable(),
        "kind needs the program kind (https://kind.sigs.k8s.io) and a Docker engine that answers"
    );
    let output = kind(&["get", "clusters"])
        .output()
        .context("starting kind")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .any(|line| line == name))
}

/// Where the cluster's kubeconfig is kept; the user's own file is left alone.
pub(super) fn kubeconfig(name: &str) -> Result<PathBuf> {
    Ok(layout::cache()?
        .join("kind")
        .join(format!("{name}.kubeconfig")))
}

/// Gives all nodes the images of an archive.
pub(super) fn load(name: &str, archive: &Path) -> Result<()> {
    let mut command = kind(&["load", "image-archive", "--name", name]);
    command.arg(archive);
    succeed(command)
}

fn kind(arguments: &[&str]) -> Command {
    let mut command = Command::new("kind");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn succeed(mut command: Command) -> Result<()> {
    let output = command.output().context("starting kind")?;
    ensure!(
        output.status.success(),
        "kind: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
