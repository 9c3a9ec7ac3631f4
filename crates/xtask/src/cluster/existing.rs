//! A cluster that exists and that the user names; never the one that happens to be configured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Cluster, Options, Origin, layout, packages, programs};
use crate::stage::Stages;

/// Finds the cluster and asks it for its version.
pub(super) fn find(options: &Options, stages: &mut Stages) -> Result<Cluster> {
    let kubectl = kubectl(stages)?;
    let mut view = Command::new(&kubectl);
    view.args(["config", "view", "--minify", "--flatten"]);
    let mut name = String::from("file");
    if let Some(file) = &options.kubeconfig {
        ensure!(file.is_file(), "there is no kubeconfig {}", file.display());
        view.arg("--kubeconfig").arg(file);
    }
    if let Some(context) = &options.context {
        view.arg("--context").arg(context);
        name = context.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    }
    let output = view.output().context("starting kubectl")?;
    ensure!(
        output.status.success(),
        "kubectl: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // One file with only this context: nothing after this can reach another cluster by mistake.
    let directory = layout::cache()?.join("existing");
    fs::create_dir_all(&directory)?;
    let kubeconfig = directory.join(format!("{name}.kubeconfig"));
    fs::write(&kubeconfig, output.stdout)?;
    fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o600))?;
    let cluster = Cluster {
        kubeconfig,
        kubectl,
        origin: Origin::Named,
    };
    let answer = cluster
        .kubectl()
        .args(["version", "--request-timeout=10s"])
        .output()?;
    ensure!(
        answer.status.success(),
        "the named cluster does not answer: {}",
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    Ok(cluster)
}

/// The user's kubectl, which knows how to sign in; else one of our own.
pub(super) fn kubectl(stages: &mut Stages) -> Result<PathBuf> {
    match packages::find("kubectl") {
        Some(kubectl) => Ok(kubectl),
        None => programs::kubectl(stages),
    }
}
