//! Our image: the three static binaries, built so that neither checkout nor machine shows in them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::oci::{ImageSpec, sha256};
use super::tree::{Entry, Tree};
use super::{OTHER_ENGINE, OURS, Record, elf, store, unchanged};
use crate::stage::Stage;
use crate::{process, workspace};

/// Package and binary of each program in the image.
const BINARIES: [(&str, &str); 3] = [
    ("dynomite-operator", "dynomite-operator"),
    ("dynomite-sidecar", "dynomite-sidecar"),
    ("dynomite-server", "dynomite"),
];

/// The user of all our processes; no name service knows it, which restricted pods need.
const USER: u32 = 65_532;

/// Where Debian and Ubuntu keep the roots that object stores are checked against.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the binaries and packs them, if they changed.
pub(crate) fn build(stage: &Stage) -> Result<Record> {
    let mut tree = base();
    for (name, path) in binaries(stage)? {
        elf::ensure_static(&path)?;
        tree.add_copy(&format!("usr/local/bin/{name}"), &path)?;
    }
    let certificates = Path::new(CERTIFICATES);
    if certificates.is_file() {
        tree.add_copy(CERTIFICATES, certificates)?;
    }
    pack("dynomite-operator", OURS, tree, stage)
}

/// Packs another build of the engine, with the libraries it was linked to on this machine.
pub(crate) fn build_engine(engine: &Path, stage: &Stage) -> Result<()> {
    let engine = engine
        .canonicalize()
        .with_context(|| format!("looking for the engine {}", engine.display()))?;
    let mut tree = base();
    tree.add_copy("usr/local/bin/dynomite", &engine)?;
    elf::add_libraries(&mut tree, &engine)?;
    pack("dynomite-other", OTHER_ENGINE, tree, stage).map(drop)
}

fn pack(name: &str, reference: &str, tree: Tree, stage: &Stage) -> Result<Record> {
    let inputs = sha256(format!("{reference}\n{}", sha256(&tree.to_tar()?)).as_bytes());
    if let Some(record) = unchanged(name, &inputs) {
        return Ok(record);
    }
    store(name, &spec(name, reference, tree), inputs, stage)
}

fn spec(name: &str, reference: &str, tree: Tree) -> ImageSpec {
    let labels = [
        ("title", name),
        ("description", "Dynomite on Kubernetes"),
        ("licenses", "Apache-2.0"),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    ImageSpec {
        references: vec![reference.to_owned()],
        tree,
        user: format!("{USER}:{USER}"),
        environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()],
        command: Vec::new(),
        labels: labels
            .into_iter()
            .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// What every image of ours has besides programs.
fn base() -> Tree {
    let mut tree = Tree::new();
    tree.add_text(
        "etc/passwd",
        &format!(
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n"
        ),
    );
    tree.add_text("etc/group", &format!("root:x:0:\nnonroot:x:{USER}:\n"));
    tree.add_text("etc/nsswitch.conf", "hosts: files dns\n");
    tree.add("tmp", Entry::Directory { mode: 0o1777 });
    tree
}

/// Builds the three programs and gives name and path of each.
fn binaries(stage: &Stage) -> Result<Vec<(&'static str, PathBuf)>> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = process::cargo();
    command
        .args(["build", "--release", "--locked", "--target", &triple])
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags()?)
        .env("CFLAGS", c_flags()?);
    for (package, _) in BINARIES {
        command.args(["--package", package]);
    }
    process::run(&mut command, stage)?;
    let directory = workspace::target().join(&triple).join("release");
    Ok(BINARIES
        .map(|(_, name)| (name, directory.join(name)))
        .to_vec())
}

/// Static linking, and every directory of this machine renamed in panics and debug data.
fn rust_flags() -> Result<OsString> {
    let mut flags = vec![OsString::from("-Ctarget-feature=+crt-static")];
    for (from, to) in directories()? {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push(format!("={to}"));
        flags.push(flag);
    }
    // Cargo separates encoded flags by this character, so that paths may hold spaces.
    Ok(flags.join(&OsString::from("\u{1f}")))
}

/// The same for the C code that some dependencies bring.
fn c_flags() -> Result<OsString> {
    let flags = directories()?.into_iter().map(|(from, to)| {
        let mut flag = OsString::from("-ffile-prefix-map=");
        flag.push(from);
        flag.push(format!("={to}"));
        flag
    });
    Ok(flags.collect::<Vec<_>>().join(&OsString::from(" ")))
}

/// Directories that differ between machines, and what stands for them; the last match counts.
fn directories() -> Result<Vec<(PathBuf, &'static str)>> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = process::read(Command::new(compiler).args(["--print", "sysroot"]))?;
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_default();
            PathBuf::from(home).join(".cargo")
        },
        PathBuf::from,
    );
    Ok(vec![
        (PathBuf::from(sysroot.trim()), "/rust"),
        (cargo_home, "/cargo"),
        (workspace::root(), "/source"),
        (workspace::target(), "/target"),
    ])
}
