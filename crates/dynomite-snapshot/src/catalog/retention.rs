//! Which backups may go.

use jiff::{SignedDuration, Timestamp};

use super::{Catalog, Entry, State};
use crate::layout::Directory;

/// How long backups are kept: as long as one of the rules wants them. Without rules, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// So many of the newest.
    pub count: Option<u32>,
    /// Those that are not older than this.
    pub age: Option<SignedDuration>,
}

/// What retention wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    /// To delete these, oldest first.
    Delete(Vec<Directory>),
    /// To delete nothing while the newest backup is not a good one: what it wanted to replace may
    /// be the last that is.
    Wait {
        /// The newest.
        newest: Directory,
        /// What is the matter with it.
        why: String,
    },
}

impl Catalog {
    /// Which backups of a ring may go. The newest good one never does, whatever the rules say, nor
    /// one in use; those that are not good are left for a person to look at.
    pub fn retention(&self, uid: &str, policy: Policy, now: Timestamp) -> Retention {
        // One that is being taken is no reason to wait: it becomes good or bad by itself.
        let newest = self.of(uid).find(|entry| entry.state != State::Running);
        if let Some(entry) = newest
            && let Some(why) = trouble(entry)
        {
            return Retention::Wait {
                newest: entry.directory.clone(),
                why,
            };
        }
        let good = self.of(uid).filter(|entry| entry.manifest().is_some());
        let expired = good.enumerate().skip(1).filter(|(number, entry)| {
            policy.expires(*number, entry, now) && !entry.in_use && !entry.running
        });
        let mut expired: Vec<Directory> =
            expired.map(|(_, entry)| entry.directory.clone()).collect();
        expired.reverse();
        Retention::Delete(expired)
    }
}

fn trouble(entry: &Entry) -> Option<String> {
    match &entry.state {
        State::Good(_) | State::Running => None,
        State::Bad(why) | State::Unknown(why) => Some(why.clone()),
        State::Failed => Some("it has no manifest".to_owned()),
    }
}

impl Policy {
    /// Whether no rule wants to keep a backup that has `newer` good ones before it.
    fn expires(self, newer: usize, entry: &Entry, now: Timestamp) -> bool {
        let counted = self.count.map(|count| newer < count as usize);
        let young = self.age.map(|age| {
            let begun = entry.directory.id.started();
            now.duration_since(begun) <= age
        });
        let rules = [counted, young];
        rules.iter().any(Option::is_some) && !rules.contains(&Some(true))
    }
}
