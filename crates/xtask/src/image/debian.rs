//! Files out of Debian packages without installing them: download, unpack, find what they link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::elf;
use super::tree::Tree;
use crate::stage::Stage;
use crate::{process, workspace};

/// How deep a chain of library packages may be before we call it a mistake.
const MAX_DEPTH: usize = 12;

/// The first needed tool that this machine lacks.
pub(crate) fn missing() -> Option<&'static str> {
    ["apt-get", "dpkg-deb"]
        .into_iter()
        .find(|tool| process::find(tool).is_none())
}

/// Packages unpacked side by side into one directory, with every library package they depend on.
pub(crate) struct Unpacked {
    directory: PathBuf,
    /// Version by package.
    versions: BTreeMap<String, String>,
}

impl Unpacked {
    /// Downloads and unpacks `packages` below `scratch`, which is emptied first.
    pub(crate) fn new(packages: &[&str], scratch: &Path, stage: &Stage) -> Result<Self> {
        if scratch.exists() {
            fs::remove_dir_all(scratch)?;
        }
        fs::create_dir_all(scratch)?;
        let mut unpacked = Self {
            directory: scratch.to_owned(),
            versions: BTreeMap::new(),
        };
        let mut wanted: BTreeSet<String> =
            packages.iter().map(|&package| package.to_owned()).collect();
        for _ in 0..MAX_DEPTH {
            wanted.retain(|package| !unpacked.versions.contains_key(package));
            if wanted.is_empty() {
                return Ok(unpacked);
            }
            let mut next = BTreeSet::new();
            for (package, file) in download(&wanted, stage)? {
                next.extend(unpacked.unpack(&package, &file)?);
            }
            wanted = next;
        }
        bail!("the packages {packages:?} depend on each other too deeply");
    }

    /// Unpacks one file and tells which libraries its package depends on.
    fn unpack(&mut self, package: &str, file: &Path) -> Result<Vec<String>> {
        process::read(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(file)
                .arg(&self.directory),
        )?;
        let field = |name| process::read(Command::new("dpkg-deb").arg("-f").arg(file).arg(name));
        let version = field("Version")?.trim().to_owned();
        self.versions.insert(package.to_owned(), version);
        Ok(library_packages(&field("Depends")?))
    }

    /// The version of `package`.
    pub(crate) fn version(&self, package: &str) -> Option<&str> {
        self.versions.get(package).map(String::as_str)
    }

    /// Adds the unpacked program `usr/bin/{name}` and the libraries it links to `tree`.
    pub(crate) fn add_program(&self, tree: &mut Tree, name: &str) -> Result<()> {
        let binary = self.directory.join("usr/bin").join(name);
        tree.add_copy(&format!("usr/local/bin/{name}"), &binary)?;
        self.add_libraries(tree, &binary)
    }

    /// Adds what `binary` links, taken from the unpacked packages and never from this machine.
    pub(crate) fn add_libraries(&self, tree: &mut Tree, binary: &Path) -> Result<()> {
        let Some(loader) = elf::interpreter(&fs::read(binary)?)? else {
            return Ok(());
        };
        let loader_name = loader.rsplit('/').next().unwrap_or(&loader);
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let directories = ["lib", "usr/lib"].map(|lib| self.directory.join(lib).join(&multiarch));
        let Some(own_loader) = directories
            .iter()
            .map(|directory| directory.join(loader_name))
            .find(|path| path.is_file())
        else {
            bail!("no package brings the loader {loader}");
        };
        let path = std::env::join_paths(&directories)?;
        let listing = process::read(
            Command::new(&own_loader)
                .arg("--list")
                .arg("--library-path")
                .arg(path)
                .arg(binary),
        )?;
        for library in elf::libraries(&listing)? {
            if !library.starts_with(&self.directory) {
                bail!(
                    "{} of {} is in no package",
                    library.display(),
                    binary.display()
                );
            }
            let name = library
                .file_name()
                .and_then(|name| name.to_str())
                .context("a library without a name")?;
            tree.add_copy(&format!("lib/{multiarch}/{name}"), &library)?;
        }
        tree.add_copy(&loader, &own_loader)
    }
}

/// Downloads `packages` into the cache and gives the file of each.
fn download(packages: &BTreeSet<String>, stage: &Stage) -> Result<Vec<(String, PathBuf)>> {
    let cache = workspace::cache().join("packages");
    fs::create_dir_all(&cache)?;
    let locate = || {
        process::read(
            Command::new("apt-get")
                .args(["--print-uris", "download"])
                .args(packages),
        )
    };
    let listing = if let Ok(listing) = locate() {
        listing
    } else {
        stage.note("the package lists are missing or old: apt-get update");
        process::run(Command::new("apt-get").arg("update"), stage)?;
        locate()?
    };
    let files = archives(&listing);
    let absent: Vec<_> = files
        .iter()
        .filter(|(_, file)| !cache.join(file).is_file())
        .map(|(package, _)| package)
        .collect();
    if !absent.is_empty() {
        stage.note(&format!("downloading {} packages", absent.len()));
        process::run(
            Command::new("apt-get")
                .current_dir(&cache)
                .args(["--quiet", "download"])
                .args(absent),
            stage,
        )?;
    }
    Ok(files
        .into_iter()
        .map(|(package, file)| (package, cache.join(file)))
        .collect())
}

/// Package and file name from lines like `'http://…' redis_7_amd64.deb 123 SHA256:…`.
fn archives(listing: &str) -> Vec<(String, String)> {
    listing
        .lines()
        .filter_map(|line| {
            let file = line.strip_prefix('\'')?.split_whitespace().nth(1)?;
            let package = file.split('_').next()?;
            Some((package.to_owned(), file.to_owned()))
        })
        .collect()
}

/// The shared libraries among a `Depends` field; of alternatives the first.
fn library_packages(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|clause| {
            let name = clause.trim().split([' ', '|', ':', '(']).next()?;
            name.starts_with("lib").then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_gives_libraries_only() {
        let depends =
            "adduser, libatomic1 (>= 4.8), libsystemd0 | libelogind0, libssl3:any, lsb-base\n";
        assert_eq!(
            library_packages(depends),
            ["libatomic1", "libsystemd0", "libssl3"]
        );
        assert!(library_packages("").is_empty());
    }

    #[test]
    fn uris_give_package_and_file() {
        let listing =
            "Reading...\n'http://host/r.deb' redis-server_5%3a7.0.15-1_amd64.deb 74460 SHA256:00\n";
        assert_eq!(
            archives(listing),
            [(
                "redis-server".to_owned(),
                "redis-server_5%3a7.0.15-1_amd64.deb".to_owned()
            )]
        );
    }
}
