//! The files of one image layer, in memory and in order, so that the same input makes the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A directory with its permission bits.
    Directory { mode: u32 },
    /// A regular file with its permission bits.
    File { mode: u32, content: Vec<u8> },
    /// A symbolic link to `target`.
    Link { target: String },
}

/// A root file system: paths without a leading slash, sorted; owner is always root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// An empty root.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an entry and the directories above it. A later entry replaces an earlier one.
    pub(crate) fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (position, _) in path.match_indices('/') {
            self.entries
                .entry(path[..position].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds a regular file made here.
    pub(crate) fn add_text(&mut self, path: &str, text: &str) {
        self.add(
            path,
            Entry::File {
                mode: 0o644,
                content: text.as_bytes().to_vec(),
            },
        );
    }

    /// Adds a copy of the host's file `from` (links are followed), executable when it is there.
    pub(crate) fn add_copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let executable = fs::metadata(from)?.permissions().mode() & 0o111 != 0;
        // The host's umask must not reach the image's digest.
        let mode = if executable { 0o755 } else { 0o644 };
        self.add(path, Entry::File { mode, content });
        Ok(())
    }

    /// All entries, parents before children.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_str(), entry))
    }

    /// The layer: a tar with sorted entries, owner root, time zero.
    pub(crate) fn to_tar(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.mode(tar::HeaderMode::Deterministic);
        for (path, entry) in self.entries() {
            append(&mut archive, path, entry).with_context(|| format!("packing {path}"))?;
        }
        Ok(archive.into_inner()?)
    }
}

/// Appends one entry with the fixed owner and time that make archives comparable.
pub(crate) fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, entry: &Entry) -> Result<()> {
    ensure!(!path.is_empty(), "an entry needs a name");
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    match entry {
        Entry::Directory { mode } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Entry::File { mode, content } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())?;
        }
        Entry::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children_and_order_of_adding_does_not_matter() {
        let mut one = Tree::new();
        one.add_text("/etc/passwd", "root");
        one.add("tmp", Entry::Directory { mode: 0o1777 });
        let mut two = Tree::new();
        two.add("tmp", Entry::Directory { mode: 0o1777 });
        two.add_text("etc/passwd", "root");
        let paths: Vec<_> = one.entries().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(paths, ["etc", "etc/passwd", "tmp"]);
        assert_eq!(one.to_tar().unwrap(), two.to_tar().unwrap());
    }

    #[test]
    fn tar_carries_no_time_and_no_owner() {
        let mut tree = Tree::new();
        tree.add_text("a", "x");
        let bytes = tree.to_tar().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!(
                (
                    header.mtime().unwrap(),
                    header.uid().unwrap(),
                    header.gid().unwrap()
                ),
                (0, 0, 0)
            );
        }
    }
}
