//! Container images built without Docker: which there are, their names, where they lie.

mod debian;
mod elf;
pub(crate) mod oci;
mod ours;
mod redis;
mod seaweedfs;
pub(crate) mod tree;
mod valkey;
mod wheel;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::stage::{Stage, Stages};
use crate::workspace;
use oci::ImageSpec;
pub(crate) use seaweedfs::program as seaweedfs;
pub(crate) use wheel::INDEX as PYTHON_INDEX;

/// Our image: operator, sidecar and engine, as the tests and the demo name it.
pub(crate) const OURS: &str = "localhost/dynomite-operator:dev";

/// The image of another build of the engine, made by `--engine PATH`.
pub(crate) const OTHER_ENGINE: &str = "localhost/dynomite-other:dev";

/// What our image may weigh in a registry: nodes pull it while a ring waits for them.
const OURS_LIMIT: u64 = 25 * 1024 * 1024;

/// Which images to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Operator, sidecar and engine.
    Ours,
    /// Redis from the distribution's packages.
    Redis,
    /// Valkey from a Python package that carries its server.
    Valkey,
    /// The S3 server `SeaweedFS` from a Python package that carries it.
    Seaweedfs,
}

/// What `cargo xtask images` takes.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Builds only these images; without it, all of them.
    #[arg(value_enum)]
    pub(crate) names: Vec<Name>,
    /// Packs this `dynomite` binary with its libraries into a second image, for interoperability.
    #[arg(long, value_name = "PATH")]
    pub(crate) engine: Option<PathBuf>,
    /// Packs the store images again from what the package sources offer now.
    #[arg(long)]
    pub(crate) fresh: bool,
}

/// What is known of an archive that was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// All names of the image; the first is the one tests use.
    pub(crate) references: Vec<String>,
    /// Digest of the image's manifest.
    pub(crate) digest: String,
    /// Bytes a registry would store.
    pub(crate) compressed: u64,
    /// Digest of what the archive was made from: while it stays, the archive is kept.
    inputs: String,
}

/// A program of the distribution, fetched without installing it. It runs with this machine's own
/// libraries.
pub(crate) fn debian_program(name: &str, stage: &Stage) -> Result<PathBuf> {
    if let Some(tool) = debian::missing() {
        anyhow::bail!("it comes as a Debian package, and {tool} is missing");
    }
    let scratch = workspace::target().join("images").join(name);
    debian::Unpacked::new(&[name], &scratch, stage)?;
    let program = scratch.join("usr/bin").join(name);
    ensure!(program.is_file(), "its package brings no program {name}");
    Ok(program)
}

/// Builds every image whose inputs changed and prints what there is then.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut stages = Stages::new();
    let result = build(arguments, &mut stages);
    stages.summary();
    result
}

/// Builds the images as stages of a longer command.
pub(crate) fn build(arguments: &Arguments, stages: &mut Stages) -> Result<()> {
    let wanted = |name| arguments.names.is_empty() || arguments.names.contains(&name);
    if wanted(Name::Ours) {
        stages.run("image dynomite-operator", |stage| {
            let record = ours::build(stage)?;
            ensure!(
                record.compressed < OURS_LIMIT,
                "the image has {} bytes compressed, more than the {OURS_LIMIT} it may have",
                record.compressed
            );
            Ok(())
        })?;
    }
    if wanted(Name::Redis) {
        match debian::missing() {
            None => stages.run("image redis", |stage| redis::build(stage, arguments.fresh))?,
            Some(tool) => stages.skip("image redis", &format!("{tool} is missing")),
        }
    }
    if wanted(Name::Valkey) {
        match valkey::missing() {
            None => stages.run("image valkey", |stage| {
                valkey::build(stage, arguments.fresh)
            })?,
            Some(tool) => stages.skip("image valkey", &format!("{tool} is missing")),
        }
    }
    if wanted(Name::Seaweedfs) {
        match wheel::missing() {
            None => stages.run("image seaweedfs", |stage| {
                seaweedfs::build(stage, arguments.fresh)
            })?,
            Some(tool) => stages.skip("image seaweedfs", &format!("{tool} is missing")),
        }
    }
    if let Some(engine) = &arguments.engine {
        stages.run("image dynomite-other", |stage| {
            ours::build_engine(engine, stage)
        })?;
    }
    for (name, record) in records() {
        println!(
            "{:<40} {:>6.1} MB  {}",
            record.references.join(", "),
            megabytes(record.compressed),
            record.digest
        );
        println!("    {}", archive(&name).display());
    }
    Ok(())
}

/// The archives built so far, sorted by name; each is taken by `ctr images import`,
/// `kind load image-archive` and `docker load`.
pub(crate) fn built() -> Vec<PathBuf> {
    records().keys().map(|name| archive(name)).collect()
}

/// The name by which tests use the image `name`, once it was built.
pub(crate) fn reference(name: &str) -> Option<String> {
    records().get(name)?.references.first().cloned()
}

/// The digest of the image `name`, once it was built.
pub(crate) fn digest(name: &str) -> Option<String> {
    Some(record(name)?.digest)
}

/// Where image archives are written.
fn directory() -> PathBuf {
    workspace::target().join("images")
}

/// The archive of the image `name`.
pub(crate) fn archive(name: &str) -> PathBuf {
    directory().join(format!("{name}.tar"))
}

/// Every record whose archive is there, by the image's short name.
fn records() -> BTreeMap<String, Record> {
    let Ok(entries) = fs::read_dir(directory()) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "json").then_some(())?;
            Some((name.clone(), record(&name)?))
        })
        .collect()
}

/// What is known of `name`, if its archive is still there.
fn record(name: &str) -> Option<Record> {
    let text = fs::read(archive(name).with_extension("json")).ok()?;
    archive(name)
        .is_file()
        .then(|| serde_json::from_slice(&text).ok())?
}

/// The record of `name` when it was made from `inputs` already.
fn unchanged(name: &str, inputs: &str) -> Option<Record> {
    record(name).filter(|record| record.inputs == inputs)
}

/// Writes `spec` as the archive `name` and remembers what it was made from.
fn store(name: &str, spec: &ImageSpec, inputs: String, stage: &Stage) -> Result<Record> {
    stage.note(&format!("packing {}", spec.references.join(", ")));
    let out = archive(name);
    let written = oci::write(spec, &out)?;
    let record = Record {
        references: spec.references.clone(),
        digest: written.digest,
        compressed: written.compressed,
        inputs,
    };
    fs::write(
        out.with_extension("json"),
        serde_json::to_vec_pretty(&record)?,
    )
    .with_context(|| format!("writing beside {}", out.display()))?;
    Ok(record)
}

/// A size for people.
#[expect(
    clippy::cast_precision_loss,
    reason = "no image comes near the 52 bits that a float keeps exactly"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
