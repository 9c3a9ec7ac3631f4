//! The charts, checked by helm without a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::stage::Stage;
use crate::{manifests, process, workspace};

/// Value files of a chart that its rendering is tried with, beside the defaults.
const CASES: &str = "ci";

/// Every chart of the repository.
pub(crate) fn all() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(workspace::root().join("charts")) else {
        return Vec::new();
    };
    let mut charts: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Chart.yaml").is_file())
        .collect();
    charts.sort();
    charts
}

/// Lints each chart and renders it with its defaults and every file in its `ci` directory.
pub(crate) fn check(helm: &Path, charts: &[PathBuf], stage: &Stage) -> Result<()> {
    for chart in charts {
        process::run(
            Command::new(helm).args(["lint", "--strict"]).arg(chart),
            stage,
        )?;
        let mut cases = vec![None];
        if let Ok(entries) = std::fs::read_dir(chart.join(CASES)) {
            cases.extend(entries.filter_map(|entry| Some(Some(entry.ok()?.path()))));
        }
        for values in cases {
            let mut command = Command::new(helm);
            command.args(["template", "check"]).arg(chart);
            if let Some(values) = &values {
                command.arg("--values").arg(values);
            }
            let rendered = process::read(&mut command)
                .with_context(|| format!("{} with {values:?}", chart.display()))?;
            ensure!(
                rendered.contains("kind:"),
                "{} renders nothing",
                chart.display()
            );
        }
    }
    let present = std::fs::read_to_string(manifests::path()).unwrap_or_default();
    ensure!(
        present == manifests::generate(helm)?,
        "deploy/operator.yaml is not up to date: run `cargo xtask manifests`"
    );
    Ok(())
}
