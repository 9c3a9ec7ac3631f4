//! The operator as plain manifests, rendered from its chart for people without Helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::stage::Stages;
use crate::{cluster, process, workspace};

/// What stands above the rendered chart: Helm would make the namespace by itself.
const HEADER: &str = "\
# The operator for all namespaces, without Helm. Generated from
# charts/dynomite-operator; the image has to be yours (`cargo xtask images`).
#
#   kubectl apply --server-side -f crds/ -f deploy/operator.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: dynomite-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";

/// Lines that are true only of what Helm manages.
const HELM_ONLY: [&str; 3] = [
    "# Source: ",
    "helm.sh/chart: ",
    "app.kubernetes.io/managed-by: Helm",
];

/// The file that is generated.
pub(crate) fn path() -> PathBuf {
    workspace::root().join("deploy/operator.yaml")
}

/// Writes the file when it is not as it should be.
pub(crate) fn run() -> Result<()> {
    let helm = cluster::helm(&mut Stages::new())?;
    let text = generate(&helm)?;
    if fs::read_to_string(path()).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path(), text).with_context(|| format!("writing {}", path().display()))?;
    println!("wrote {}", path().display());
    Ok(())
}

/// The file's text as the chart has it now.
pub(crate) fn generate(helm: &Path) -> Result<String> {
    let rendered = process::read(
        Command::new(helm)
            .args(["template", "dynomite-operator"])
            .arg(workspace::root().join("charts/dynomite-operator"))
            .args(["--namespace", "dynomite-system"])
            .args(["--set", "crds.install=false"]),
    )?;
    Ok(format!("{HEADER}{}", plain(&rendered)))
}

/// The rendered manifests without what only Helm needs.
fn plain(rendered: &str) -> String {
    rendered
        .lines()
        .filter(|line| {
            let content = line.trim_start();
            !content.is_empty() && !HELM_ONLY.iter().any(|mark| content.starts_with(mark))
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_helm_are_left_out() {
        let rendered = "---\n# Source: a/b.yaml\nkind: A\nmetadata:\n  labels:\n    helm.sh/chart: a-1\n    app.kubernetes.io/managed-by: Helm\n    x: y\n\n# kept\n";
        assert_eq!(
            plain(rendered),
            "---\nkind: A\nmetadata:\n  labels:\n    x: y\n# kept\n"
        );
    }
}
