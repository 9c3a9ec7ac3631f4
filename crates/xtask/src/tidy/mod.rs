//! Checks what compiler and clippy cannot see: the crate table, banned calls, generated files, links.

mod banned;
mod dependencies;
mod faults;
mod links;
mod size;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::stage::Stages;
use crate::{crds, workspace};
use source::Source;

/// Runs every check and fails if one found something.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::new();
    let result = check(&mut stages);
    stages.summary();
    result
}

/// The checks as stages of a longer command; all of them run before the first failure counts.
pub(crate) fn check(stages: &mut Stages) -> Result<()> {
    let root = workspace::root();
    let sources = source::read_all(&root)?;
    let checks = [
        stages.run("tidy: dependencies", |_| report(&dependencies::check()?)),
        stages.run("tidy: banned calls", |_| report(&banned::check(&sources))),
        stages.run("tidy: links", |_| {
            report(&links::check(&root, &files(&root, "md")?))
        }),
        stages.run("tidy: table of faults", |_| {
            let page = fs::read_to_string(root.join(faults::PAGE)).context(faults::PAGE)?;
            report(&faults::check(&page, &sources))
        }),
        stages.run("tidy: generated files", |stage| {
            report(&stale(crds::generate(stage)?, &root))
        }),
    ];
    print_sizes(&sources);
    let failures: Vec<_> = checks
        .into_iter()
        .filter_map(|check| Some(check.err()?.to_string()))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// What stands in a message: where and why. A check gives one for each finding.
type Findings = Vec<String>;

fn report(findings: &Findings) -> Result<()> {
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    Ok(())
}

/// Those of the generated files that differ from what lies there.
fn stale(generated: BTreeMap<PathBuf, String>, root: &Path) -> Findings {
    generated
        .into_iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text))
        .map(|(path, _)| {
            let path = path.strip_prefix(root).unwrap_or(&path).display();
            format!("{path} is not up to date: run `cargo xtask crds`")
        })
        .collect()
}

/// Lists long functions and files: places to look at, not limits.
fn print_sizes(sources: &[Source]) {
    let long = size::long(sources);
    if long.is_empty() {
        return;
    }
    println!("long, worth a look:");
    for line in long {
        println!("    {line}");
    }
}

/// Every file with the extension that belongs to the repository, sorted.
fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.');
            let kind = entry.file_type()?;
            if kind.is_dir() && !hidden && name != "target" && name != "node_modules" {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_and_missing_generated_files_are_found() {
        let root = std::env::temp_dir().join(format!("xtask-stale-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("same.yaml"), "a").unwrap();
        fs::write(root.join("edited.yaml"), "b").unwrap();
        let generated = ["same.yaml", "edited.yaml", "missing.yaml"]
            .map(|name| (root.join(name), "a".to_owned()));
        let findings = stale(BTreeMap::from(generated), &root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(findings.len(), 2);
        assert!(findings[0].starts_with("edited.yaml is not up to date"));
        assert!(findings[1].starts_with("missing.yaml is not up to date"));
    }
}
