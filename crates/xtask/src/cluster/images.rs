//! The two images that the embedded cluster needs for itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layout;
use super::programs::Programs;
use crate::image::oci::{self, ImageSpec};
use crate::image::tree::Tree;
use crate::stage::Stages;

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "localhost/dynomite-cluster-pause:1";
/// The cluster's name server.
pub(super) const COREDNS: &str = "localhost/dynomite-cluster-coredns:1";

/// Packs the images that the cache lacks and returns the archives of all.
pub(super) fn ensure(programs: &Programs, stages: &mut Stages) -> Result<Vec<PathBuf>> {
    [(PAUSE, &programs.pause), (COREDNS, &programs.coredns)]
        .into_iter()
        .map(|(reference, program)| {
            let archive = archive(program)?;
            if !archive.is_file() {
                stages.run(&format!("packing {reference}"), |_| {
                    pack(reference, program, &archive)
                })?;
            }
            Ok(archive)
        })
        .collect()
}

/// The archives of all images, packed before.
pub(super) fn packed(programs: &Programs) -> Result<Vec<PathBuf>> {
    [&programs.pause, &programs.coredns]
        .into_iter()
        .map(|program| archive(program))
        .collect()
}

/// The archive of a program: named as the program's directory, whose name is a digest.
fn archive(program: &Path) -> Result<PathBuf> {
    let digest = program
        .parent()
        .and_then(Path::file_name)
        .context("a built program has a directory")?;
    Ok(layout::cache()?
        .join("images")
        .join(digest)
        .with_extension("tar"))
}

fn pack(reference: &str, program: &Path, archive: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let path = format!("/{}", name.to_string_lossy());
    let mut tree = Tree::new();
    tree.add_copy(&path, program)?;
    let spec = ImageSpec {
        references: vec![reference.to_owned()],
        tree,
        user: "65532:65532".to_owned(),
        environment: Vec::new(),
        command: vec![path],
        labels: BTreeMap::new(),
    };
    oci::write(&spec, archive).map(drop)
}
