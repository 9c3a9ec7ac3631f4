//! The custom resource definitions as files, written from their Rust types.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::stage::{Stage, Stages};
use crate::{process, workspace};

/// Writes every file that is not as it should be.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::new();
    let files = stages.run("crds", generate)?;
    for (path, text) in files {
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Every generated file with its text.
pub(crate) fn generate(stage: &Stage) -> Result<BTreeMap<PathBuf, String>> {
    // The whole workspace is selected so that dependencies get the features they have in tests:
    // otherwise half of them would be compiled once more.
    process::run(
        process::cargo()
            .args(["build", "--workspace", "--example", "print-crds"])
            .args(crate::suite::FEATURES),
        stage,
    )?;
    let program = workspace::target().join("debug/examples/print-crds");
    let printed = process::read(&mut Command::new(program))?;
    let root = workspace::root();
    let mut directories = vec![root.join("crds")];
    let chart = root.join("charts/dynomite-operator");
    if chart.join("Chart.yaml").is_file() {
        // Not below `templates`: a brace in a description must not be read as a template.
        directories.push(chart.join("files/crds"));
    }
    let documents = documents(&printed)?;
    Ok(directories
        .iter()
        .flat_map(|directory| {
            documents
                .iter()
                .map(|(name, text)| (directory.join(format!("{name}.yaml")), text.clone()))
        })
        .collect())
}

/// Splits a YAML stream and names each document by its metadata.
fn documents(stream: &str) -> Result<Vec<(String, String)>> {
    stream
        .split("---\n")
        .filter(|text| !text.trim().is_empty())
        .map(|text| {
            let name = name(text).context("a definition without metadata.name")?;
            Ok((name.to_owned(), text.to_owned()))
        })
        .collect()
}

/// `metadata.name` of a document in block style.
fn name(document: &str) -> Option<&str> {
    document
        .lines()
        .skip_while(|line| *line != "metadata:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| line.strip_prefix("  name: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_named_by_their_metadata() {
        let stream = "kind: A\nmetadata:\n  name: a.x\nspec:\n  name: no\n---\nmetadata:\n  labels: {}\n  name: b.x\n";
        let names: Vec<_> = documents(stream)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["a.x", "b.x"]);
        documents("spec:\n  name: no\n").unwrap_err();
    }
}
