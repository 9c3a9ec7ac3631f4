//! The node's files: what it remembers, and what its processes read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dynomite_api::contract::NodeDesired;
use dynomite_lifecycle::Record;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::render;
use crate::shared::Site;

/// Makes the directories that are not there yet.
pub(crate) fn prepare(site: &Site) -> io::Result<()> {
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

/// How many sets of files that could not be loaded are kept; none is ever
/// deleted, so a volume that spoils its files again and again must be looked at.
const SETS_ASIDE: usize = 3;

/// Moves the store's files aside, into a directory named by the time.
///
/// # Errors
/// In words, when there are too many such directories or the volume cannot be
/// written to.
pub(super) fn set_aside(site: &Site, now: Timestamp) -> Result<(), String> {
    let aside = site.data_dir.join("set-aside");
    let words = |error: io::Error| format!("{}: {error}", aside.display());
    fs::create_dir_all(&aside).map_err(words)?;
    let kept = fs::read_dir(&aside).map_err(words)?.count();
    if kept >= SETS_ASIDE {
        return Err(format!(
            "{kept} sets of files lie in {} already: look why the volume spoils them, and remove \
             those that nobody needs",
            aside.display()
        ));
    }
    let name = now.strftime("%Y%m%dT%H%M%S%3fZ").to_string();
    let store = site.data_dir.join("store");
    fs::rename(&store, aside.join(name)).map_err(words)?;
    fs::create_dir_all(&store).map_err(words)
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
    fn spoilt_files_are_moved_and_never_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let site = super::super::tests::site_in(directory.path());
        let store = site.data_dir.join("store");
        for round in 0..SETS_ASIDE {
            fs::write(store.join("dump.rdb"), round.to_string()).expect("can be written");
            let now = Timestamp::from_second(i64::try_from(round).expect("small"));
            set_aside(&site, now.expect("a time")).expect("there is room");
            assert!(!store.join("dump.rdb").exists() && store.is_dir());
        }
        fs::write(store.join("dump.rdb"), "last").expect("can be written");
        let refused = set_aside(&site, Timestamp::MAX).expect_err("enough");
        assert!(refused.contains("set-aside"), "{refused}");
        assert!(store.join("dump.rdb").exists());
        let kept = site.data_dir.join("set-aside/19700101T000001000Z/dump.rdb");
        assert_eq!(fs::read_to_string(kept).expect("is kept"), "1");
    }

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
