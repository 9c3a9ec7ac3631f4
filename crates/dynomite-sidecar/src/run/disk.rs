//! The node's files: what it remembers, and what its processes read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dynomite_api::contract::NodeDesired;
use dynomite_lifecycle::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::render;
use crate::shared::Site;

/// Makes the directories that are not there yet.
pub(super) fn prepare(site: &Site) -> io::Result<()> {
    let directories = [
        memory(site),
        site.data_dir.join("store"),
        site.run_dir.join("conf"),
        site.run_dir.join("private"),
        site.run_dir.join("launch"),
    ];
    for directory in directories {
        fs::create_dir_all(&directory).map_err(|error| {
            let why = format!("{}: {error}", directory.display());
            io::Error::new(error.kind(), why)
        })?;
    }
    Ok(())
}

/// Where the node keeps what it remembers.
fn memory(site: &Site) -> PathBuf {
    site.data_dir.join(".dynomite")
}

fn desired_path(site: &Site) -> PathBuf {
    memory(site).join("desired.json")
}

fn record_path(site: &Site) -> PathBuf {
    memory(site).join("record.json")
}

/// The desired document the node held before.
pub(super) fn load_desired(site: &Site) -> Option<NodeDesired> {
    load(&desired_path(site))
}

/// What the node remembered; a new node remembers nothing.
pub(super) fn load_record(site: &Site) -> Record {
    load(&record_path(site)).unwrap_or_default()
}

/// A file that cannot be understood counts as none: what it said is asked for
/// again, and nothing is taken as proven.
fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot be read");
            }
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot be understood"))
        .ok()
}

/// Keeps the desired document; when it returns, it survives a loss of power.
pub(super) fn save_desired(site: &Site, desired: &NodeDesired) -> io::Result<()> {
    save(&desired_path(site), desired)
}

/// Keeps the record; when it returns, it survives a loss of power.
pub(super) fn save_record(site: &Site, record: &Record) -> io::Result<()> {
    save(&record_path(site), record)
}

fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    // The new name is on disk only once its directory is.
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes what the two processes read when they start.
///
/// # Errors
/// In words, when the document cannot be rendered or a file not be written;
/// then both files are as they were.
pub(super) fn render(site: &Site, desired: &NodeDesired) -> Result<(), String> {
    let engine = render::engine_conf(desired, site).map_err(|error| error.to_string())?;
    let store = render::store_conf(desired, site).map_err(|error| error.to_string())?;
    for (path, text) in [(site.engine_conf(), engine), (site.store_conf(), store)] {
        let fresh = path.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_loaded_and_garbage_is_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record.json");
        assert_eq!(load::<Record>(&path), None);
        let record = Record {
            live: [("hz".to_owned(), "20".to_owned())].into(),
            ..Record::default()
        };
        save(&path, &record).expect("can be written");
        assert_eq!(load::<Record>(&path), Some(record));
        fs::write(&path, b"{\"proof\": {").expect("can be written");
        assert_eq!(load::<Record>(&path), None);
    }
}
