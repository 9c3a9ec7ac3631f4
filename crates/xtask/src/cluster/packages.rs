//! The distribution's programs that the embedded cluster needs, installed where that is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::stage::{Stage, Stages};

/// A program, the Debian package that has it, and what it is for.
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: [Need; 8] = [
    need("containerd", "containerd", "runs the nodes' containers"),
    need("ctr", "containerd", "loads images into the nodes"),
    need("runc", "runc", "starts one container"),
    need("nft", "nftables", "kube-proxy routes Services with it"),
    need("ip", "iproute2", "makes the nodes' network"),
    need("nsenter", "util-linux", "enters a node's network"),
    need("unshare", "util-linux", "makes the cluster's namespaces"),
    need("mount", "mount", "kubelet mounts volumes with it"),
];

const fn need(program: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need {
        program,
        package,
        purpose,
    }
}

/// Network plugins have no place of their own: each distribution puts them somewhere else.
const PLUGIN_DIRECTORIES: [&str; 4] = [
    "/usr/lib/cni",
    "/opt/cni/bin",
    "/usr/libexec/cni",
    "/usr/lib/cni-plugins",
];
const PLUGINS: [&str; 3] = ["ptp", "host-local", "loopback"];
const PLUGIN_PACKAGE: &str = "containernetworking-plugins";

/// Installs what is missing, or says what is missing and how to get it.
pub(super) fn ensure(stages: &mut Stages) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let why: Vec<_> = missing
        .iter()
        .map(|(package, why)| format!("{package} ({why})"))
        .collect();
    let packages: Vec<_> = missing.iter().map(|(package, _)| *package).collect();
    let by_hand = format!(
        "install with your package manager: {} (Debian's names of the packages)",
        packages.join(" ")
    );
    if find("apt-get").is_none() {
        bail!("missing: {}; {by_hand}", why.join(", "));
    }
    stages.run("installing Debian packages", |stage| {
        stage.note(&format!("the embedded cluster needs {}", why.join(", ")));
        install(&packages, stage).with_context(|| by_hand.clone())
    })?;
    let still: Vec<_> = self::missing()
        .iter()
        .map(|(package, _)| *package)
        .collect();
    if !still.is_empty() {
        bail!(
            "after installing, the programs of {} are still not found; {by_hand}",
            still.join(", ")
        );
    }
    Ok(())
}

/// The directory with all network plugins that the nodes use.
pub(super) fn plugin_directory() -> Option<PathBuf> {
    PLUGIN_DIRECTORIES
        .iter()
        .map(PathBuf::from)
        .find(|directory| {
            PLUGINS
                .iter()
                .all(|plugin| directory.join(plugin).is_file())
        })
}

/// Finds a program as a shell would, and where administrators' programs are.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| Path::is_file(candidate))
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let mut missing: Vec<(&str, &str)> = Vec::new();
    for need in &NEEDS {
        let known = missing.iter().any(|(package, _)| *package == need.package);
        if !known && find(need.program).is_none() {
            missing.push((need.package, need.purpose));
        }
    }
    if plugin_directory().is_none() {
        missing.push((PLUGIN_PACKAGE, "gives pods their network"));
    }
    missing
}

/// A fresh machine may have no package lists yet, so a failure is tried again after fetching them.
fn install(packages: &[&str], stage: &Stage) -> Result<()> {
    if apt(["install", "-y", "--no-install-recommends"]
        .iter()
        .chain(packages))
    .is_ok()
    {
        return Ok(());
    }
    stage.note("fetching the package lists first");
    apt(["update"].iter())?;
    apt(["install", "-y", "--no-install-recommends"]
        .iter()
        .chain(packages))
}

fn apt<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> Result<()> {
    let output = Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("starting apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "apt-get: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_absent_ones_are_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
