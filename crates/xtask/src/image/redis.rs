//! A Redis image from the distribution's packages, for clusters that reach no registry.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::debian::Unpacked;
use super::oci::{ImageSpec, sha256};
use super::tree::{Entry, Tree};
use super::{store, unchanged};
use crate::stage::Stage;
use crate::workspace;

/// Raise it when the recipe changes: kept archives are then packed again.
const RECIPE: u32 = 1;

/// The programs that tests, demo and people use.
pub(crate) const PROGRAMS: [&str; 3] = ["redis-server", "redis-cli", "redis-benchmark"];

/// The user of the upstream image, so that volumes fit both.
pub(crate) const USER: u32 = 999;

/// Packs the image, if this machine has none yet or `fresh` packages are asked for.
pub(crate) fn build(stage: &Stage, fresh: bool) -> Result<()> {
    let inputs = inputs("redis", RECIPE);
    if !fresh && unchanged("redis", &inputs).is_some() {
        return Ok(());
    }
    let unpacked = programs(stage)?;
    let version = unpacked
        .version("redis-server")
        .context("the package redis-server was not unpacked")?;
    let major = major(version);
    let mut tree = base("redis");
    for program in PROGRAMS {
        unpacked.add_program(&mut tree, program)?;
    }
    // Upstream's server looks at its own name to become a sentinel or a checker; only the server
    // is of use here.
    let spec = spec(
        vec![
            format!("localhost/redis:{major}"),
            "localhost/redis:dev".to_owned(),
        ],
        tree,
        "redis-server",
        version,
    );
    store("redis", &spec, inputs, stage).map(drop)
}

/// The distribution's Redis programs, unpacked beside the images.
pub(crate) fn programs(stage: &Stage) -> Result<Unpacked> {
    Unpacked::new(
        &["redis-server", "redis-tools", "libc6"],
        &workspace::target().join("images/debian"),
        stage,
    )
}

/// What every store image has besides programs: its user, a writable place, a data directory.
pub(crate) fn base(user: &str) -> Tree {
    let mut tree = Tree::new();
    tree.add_text(
        "etc/passwd",
        &format!("root:x:0:0:root:/root:/bin/false\n{user}:x:{USER}:{USER}::/data:/bin/false\n"),
    );
    tree.add_text("etc/group", &format!("root:x:0:\n{user}:x:{USER}:\n"));
    tree.add_text("etc/nsswitch.conf", "hosts: files dns\n");
    tree.add("tmp", Entry::Directory { mode: 0o1777 });
    tree.add("data", Entry::Directory { mode: 0o1777 });
    tree
}

/// An image that runs `server` by default.
pub(crate) fn spec(references: Vec<String>, tree: Tree, server: &str, version: &str) -> ImageSpec {
    ImageSpec {
        references,
        tree,
        user: format!("{USER}:{USER}"),
        environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()],
        command: vec![server.to_owned()],
        labels: BTreeMap::from([(
            "org.opencontainers.image.version".to_owned(),
            version.to_owned(),
        )]),
    }
}

/// What a kept archive must have been made from: recipe and kind of machine. New package versions
/// alone do not count, so that a repeated build asks no package source.
pub(crate) fn inputs(name: &str, recipe: u32) -> String {
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    sha256(format!("{name} {recipe} {} {system}", std::env::consts::ARCH).as_bytes())
}

/// The first number of a version like `5:7.0.15-1~deb12u10`.
pub(crate) fn major(version: &str) -> &str {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split('.').next().unwrap_or(upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_skips_the_epoch() {
        assert_eq!(major("5:7.0.15-1~deb12u10"), "7");
        assert_eq!(major("9.1.2.post2"), "9");
    }
}
