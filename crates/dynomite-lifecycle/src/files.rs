//! Files that the store cannot load: kept aside while others have the data, else left for a person.
//!
//! A store whose files are spoilt never starts, and must not start empty where
//! nobody else has what the files hold. Where a peer can be copied they are
//! moved aside, never deleted, and the store that then starts empty is unproven
//! like every store that starts.

use jiff::Timestamp;

use crate::effect::Order;
use crate::event::ProcessName;
use crate::lifecycle::Lifecycle;
use crate::readiness::Why;
use crate::reason;
use crate::time::after;

/// Before files that could not be moved are tried again.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(30);

/// What Redis and Valkey say, when they end, of files they cannot load.
const SAID: [&str; 9] = [
    "RDB ERROR DETECTED",
    "Internal error in RDB",
    "rdb file reading failure",
    "Fatal error loading the DB",
    "Wrong signature trying to load DB",
    "Bad file format reading the append only file",
    "Unexpected end of file reading the append only file",
    "AOF MANIFEST FILE ERROR",
    "Unable to obtain the AOF file",
];

/// Whether a line of a store's log says that its files are spoilt.
pub fn spoils_files(line: &str) -> bool {
    SAID.iter().any(|said| line.contains(said))
}

/// What is known of files that the store could not load.
#[derive(Clone, Debug)]
pub(crate) struct Spoilt {
    /// The store's words.
    said: String,
    /// Why they could not be moved aside, if that was tried.
    stuck: Option<String>,
    retry_at: Timestamp,
}

impl Lifecycle {
    /// The store ended; whether its files are why.
    pub(crate) fn note_spoilt_files(&mut self, now: Timestamp) {
        let said = self.store_process.last_exit();
        if !spoils_files(said) {
            return;
        }
        let said = said.to_owned();
        if self.spoilt.is_none() {
            let message = format!("the store cannot load its files: {said}");
            self.note(true, reason::FILES_SPOILT, message);
        }
        let spoilt = self.spoilt.get_or_insert_with(|| Spoilt {
            said: String::new(),
            stuck: None,
            retry_at: now,
        });
        spoilt.said = said;
    }

    /// Has the files moved aside when others have the data; whether the store
    /// must not start meanwhile.
    pub(crate) fn rescue_files(&mut self, now: Timestamp) -> bool {
        if self.is_ordered(&Order::SetAside) {
            // A store that starts now would have them moved from under it.
            return true;
        }
        let Some(spoilt) = &self.spoilt else {
            return false;
        };
        let others = self.desired.as_ref().is_some_and(|d| !d.donors.is_empty());
        // A store that nobody has seen end may be reading them.
        if !self.store_process.is_down() || !others || !self.has_replicas() {
            return false;
        }
        if spoilt.retry_at <= now {
            self.order(now, Order::SetAside);
        }
        true
    }

    /// The files are out of the way.
    pub(crate) fn files_set_aside(&mut self, now: Timestamp) {
        self.spoilt = None;
        self.record.set_aside = true;
        self.save();
        self.store_process.forgive(now);
        let message = "the store's files were moved aside, into set-aside on the data volume; \
                       the data is copied from a peer"
            .to_owned();
        self.note(true, reason::FILES_SPOILT, message);
    }

    pub(crate) fn files_not_set_aside(&mut self, now: Timestamp, why: &str) {
        if let Some(spoilt) = &mut self.spoilt {
            spoilt.stuck = Some(why.to_owned());
            spoilt.retry_at = after(now, PAUSE);
        }
    }

    /// Why the store does not start, when its files are why.
    pub(crate) fn spoilt_why(&self) -> Option<Why> {
        let spoilt = self.spoilt.as_ref()?;
        let name = ProcessName::Store.name();
        let message = match &spoilt.stuck {
            Some(why) => format!(
                "the store cannot load its files ({}) and they cannot be moved aside: {why}",
                spoilt.said
            ),
            None => format!(
                "the store cannot load its files ({}) and no replica can be copied: repair them \
                 in the container {name} with redis-check-aof --fix or redis-check-rdb, bring a \
                 replica back, or remove them from the data volume to begin without them",
                spoilt.said
            ),
        };
        Some((reason::FILES_SPOILT, message))
    }
}
