//! Which backups there are, which of them may go, and which objects are nobody's.
//!
//! Manifests decide, never the order or completeness of a listing: an object is nobody's only when
//! the manifest beside it was asked for by its key and is not there.
//!
//! ```text
//!  manifest   all its objects listed    state      restore   retention
//!  read       yes                       Good       yes       may delete it, never the newest
//!  read       no, or verified as wrong  Bad        no        waits while it is the newest
//!  no sense                             Bad        no        waits while it is the newest
//!  none       (upload goes on)          Running    no        looks past it
//!  none                                 Failed     no        waits while it is the newest
//!  not asked, no answer                 Unknown    no        waits while it is the newest
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dynomite_protocol::token::Token;
use jiff::{SignedDuration, Timestamp};

use crate::layout::{BackupId, Directory, Found, Object, find};
use crate::manifest::Manifest;

mod retention;

pub use retention::{Policy, Retention};

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// What came of asking for a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It was read.
    Read(Box<Manifest>),
    /// It is there and makes no sense, and why.
    Unreadable(String),
    /// The store said that there is none.
    Absent,
    /// The store gave no answer, and why.
    Unknown(String),
}

/// What is known about a bucket.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Objects under the prefix.
    pub listing: Vec<Listed>,
    /// What came of asking for the manifests of directories in the listing, and of those known
    /// from elsewhere.
    pub manifests: BTreeMap<Directory, Asked>,
    /// Backups that did not load when they were verified.
    pub refuted: BTreeSet<Directory>,
    /// Backups that are being restored or verified, or that somebody asked to keep.
    pub in_use: BTreeSet<Directory>,
    /// Backups that are being taken.
    pub running: BTreeSet<Directory>,
}

/// The backups of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    entries: Vec<Entry>,
    days: Vec<ManagerDay>,
}

/// A backup, or what may become or was to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub directory: Directory,
    /// Whether it can be restored.
    pub state: State,
    /// Whether it must stay whatever its age.
    pub in_use: bool,
    /// Whether an upload into it goes on.
    pub running: bool,
    /// Its objects, by key.
    pub objects: BTreeMap<String, (u64, Timestamp)>,
}

/// Whether a backup can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It can.
    Good(Box<Manifest>),
    /// It cannot, and why.
    Bad(String),
    /// It is being taken.
    Running,
    /// It has no manifest, and nobody is at it.
    Failed,
    /// Nobody knows, and why.
    Unknown(String),
}

/// A day's files of Dynomite-manager from one rack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerDay {
    /// The midnight before.
    pub day: Timestamp,
    /// Datacenter.
    pub datacenter: String,
    /// Rack.
    pub rack: String,
    /// Keys of the files.
    pub files: BTreeMap<Token, String>,
}

/// Which backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The newest.
    Latest,
    /// The newest that has nothing written after this time.
    AsOf(Timestamp),
    /// By its name, or by its whole id when several have the name; the newest of them.
    Named(String),
}

impl Catalog {
    /// What `facts` say about the objects under `prefix`.
    pub fn new(prefix: &str, facts: &Facts) -> Self {
        let mut objects: BTreeMap<Directory, BTreeMap<String, (u64, Timestamp)>> = BTreeMap::new();
        let mut days: BTreeMap<(Timestamp, String, String), BTreeMap<Token, String>> =
            BTreeMap::new();
        for directory in facts.manifests.keys().chain(&facts.running) {
            objects.entry(directory.clone()).or_default();
        }
        for Listed {
            key,
            bytes,
            modified,
        } in &facts.listing
        {
            match find(prefix, key) {
                Found::Ours(directory, _) => {
                    let known = objects.entry(directory).or_default();
                    known.insert(key.clone(), (*bytes, *modified));
                }
                Found::Manager(file) => {
                    let day = (file.day, file.datacenter, file.rack);
                    days.entry(day).or_default().insert(file.token, key.clone());
                }
                Found::Foreign => {}
            }
        }
        let entries = objects.into_iter();
        let mut entries: Vec<Entry> = entries
            .map(|(directory, objects)| Entry::new(directory, objects, facts))
            .filter(|entry| entry.exists(facts))
            .collect();
        // Newest first; of one second, any fixed order.
        entries.sort_by(|a, b| {
            let time = |entry: &Entry| entry.directory.id.started();
            time(b).cmp(&time(a)).then(a.directory.cmp(&b.directory))
        });
        let days = days.into_iter().rev();
        let days = days.map(|((day, datacenter, rack), files)| ManagerDay {
            day,
            datacenter,
            rack,
            files,
        });
        Self {
            entries,
            days: days.collect(),
        }
    }

    /// All, newest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those of one ring, newest first.
    pub fn of<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Entry> {
        let entries = self.entries.iter();
        entries.filter(move |entry| entry.directory.place.uid() == uid)
    }

    /// Days of Dynomite-manager, newest first.
    pub fn manager_days(&self) -> &[ManagerDay] {
        &self.days
    }

    /// The good backup that is wanted, of the rings of this namespace and name: a ring that was
    /// made anew has another UID than its backups.
    pub fn choose(&self, namespace: &str, cluster: &str, choice: &Choice) -> Option<&Entry> {
        self.entries.iter().find(|entry| {
            let Directory { place, id } = &entry.directory;
            let ring = place.namespace() == namespace && place.cluster() == cluster;
            ring && entry.manifest().is_some_and(|manifest| match choice {
                Choice::Latest => true,
                Choice::AsOf(time) => manifest.backup.finished_at <= *time,
                Choice::Named(name) => id.name() == name || id.to_string() == *name,
            })
        })
    }

    /// Keys of objects that belong to no backup and to no upload that goes on, and were written
    /// more than `grace` ago: leftovers of uploads that failed or were given up.
    pub fn orphans(&self, grace: SignedDuration, now: Timestamp) -> Vec<String> {
        let old = |modified: &Timestamp| now.duration_since(*modified) > grace;
        let mut orphans = Vec::new();
        for entry in &self.entries {
            if entry.in_use || entry.running {
                continue;
            }
            let ours: BTreeSet<String> = match &entry.state {
                State::Good(manifest) => entry.keys_of(manifest).collect(),
                State::Failed => BTreeSet::new(),
                State::Bad(_) | State::Running | State::Unknown(_) => continue,
            };
            // While a part of it is young, an upload may go on that nobody here knows of.
            let objects = || entry.objects.iter().filter(|(key, _)| !ours.contains(*key));
            if objects().all(|(_, (_, modified))| old(modified)) {
                orphans.extend(objects().map(|(key, _)| key.clone()));
            }
        }
        orphans
    }
}

impl Entry {
    fn new(
        directory: Directory,
        objects: BTreeMap<String, (u64, Timestamp)>,
        facts: &Facts,
    ) -> Self {
        let running = facts.running.contains(&directory);
        let mut entry = Self {
            in_use: facts.in_use.contains(&directory),
            state: State::Failed,
            running,
            directory,
            objects,
        };
        entry.state = match facts.manifests.get(&entry.directory) {
            Some(Asked::Read(manifest)) => match entry.against(manifest, facts) {
                Some(why) => State::Bad(why),
                None => State::Good(manifest.clone()),
            },
            Some(Asked::Unreadable(why)) => State::Bad(why.clone()),
            Some(Asked::Unknown(why)) => State::Unknown(why.clone()),
            _ if running => State::Running,
            Some(Asked::Absent) => State::Failed,
            None => State::Unknown("its manifest was not asked for".to_owned()),
        };
        entry
    }

    /// A directory that was asked about and is nowhere to be seen is none.
    fn exists(&self, facts: &Facts) -> bool {
        let absent = facts.manifests.get(&self.directory) == Some(&Asked::Absent);
        self.running || !self.objects.is_empty() || !absent
    }

    /// What speaks against restoring it.
    fn against(&self, manifest: &Manifest, facts: &Facts) -> Option<String> {
        let Directory { place, id } = &self.directory;
        if BackupId::parse(&manifest.backup.id).as_ref() != Some(id)
            || manifest.ring.uid != place.uid()
        {
            return Some("its manifest is of another backup".to_owned());
        }
        if facts.refuted.contains(&self.directory) {
            return Some("it did not load when it was verified".to_owned());
        }
        manifest.snapshots.iter().find_map(|snapshot| {
            let key = format!("{}{}", self.directory, snapshot.object);
            match self.objects.get(&key) {
                None => Some(format!("{} is missing", snapshot.object)),
                Some((bytes, _)) if *bytes != snapshot.stored.bytes => Some(format!(
                    "{} has {bytes} bytes, and {} were written",
                    snapshot.object, snapshot.stored.bytes
                )),
                Some(_) => None,
            }
        })
    }

    fn keys_of<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = String> + 'a {
        let snapshots = manifest.snapshots.iter();
        let snapshots = snapshots.map(|snapshot| format!("{}{}", self.directory, snapshot.object));
        snapshots.chain([self.directory.key(Object::Manifest)])
    }

    /// Its manifest, if it can be restored.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.state {
            State::Good(manifest) => Some(manifest),
            _ => None,
        }
    }

    /// Keys to delete, in this order: without its manifest it is no backup any more, so that one
    /// that is deleted half can never be taken for whole.
    pub fn deletion(&self) -> Vec<String> {
        let manifest = self.directory.key(Object::Manifest);
        let others = self.objects.keys().filter(|key| **key != manifest).cloned();
        let others: Vec<String> = others.collect();
        [vec![manifest], others].concat()
    }
}

#[cfg(test)]
mod tests;
