//! The node's run state: what may reach the local store.
//!
//! ```text
//!            standby              writes_only            resuming           normal
//!   NORMAL ──────────▶ STANDBY ──────────────▶ WRITES_ONLY ────────▶ RESUMING ───────▶ NORMAL
//!   reads, writes      neither                 writes are held       writes, the       reads,
//!                                              back in order         held ones first   writes
//! ```
//!
//! Any state may follow any other. Only the way to the own store is closed: what concerns other
//! nodes is passed on in every state.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::command::Access;
use crate::limits::{MAX_HELD_BYTES, MAX_HELD_WRITES};
use crate::link::Purpose;
use crate::numbers::Tag;

/// What a node does with requests for its own store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Refuse them.
    Standby,
    /// Refuse reads, hold writes back.
    WritesOnly,
    /// Refuse reads, let writes through.
    Resuming,
    /// Let them through.
    Normal,
}

impl RunState {
    /// The name the admin port uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standby => "STANDBY",
            Self::WritesOnly => "WRITES_ONLY",
            Self::Resuming => "RESUMING",
            Self::Normal => "NORMAL",
        }
    }

    pub(crate) fn admission(self, access: Access) -> Admission {
        match (self, access) {
            (Self::Normal, _) | (Self::Resuming, Access::Write) => Admission::Send,
            (Self::WritesOnly, Access::Write) => Admission::Hold,
            _ => Admission::Refuse,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Send,
    Hold,
    Refuse,
}

/// A write that waits for the store.
#[derive(Debug)]
pub(crate) struct HeldWrite {
    pub(crate) purpose: Purpose,
    pub(crate) payload: Bytes,
    pub(crate) since: Duration,
    pub(crate) tag: Option<Tag>,
}

/// The writes held back, oldest first.
#[derive(Debug, Default)]
pub(crate) struct HeldWrites {
    queue: VecDeque<HeldWrite>,
    bytes: usize,
}

impl HeldWrites {
    /// Takes a write, or gives it back when the queue is full.
    pub(crate) fn push(&mut self, write: HeldWrite) -> Result<(), HeldWrite> {
        let bytes = self.bytes + write.payload.len();
        if self.queue.len() >= MAX_HELD_WRITES || bytes > MAX_HELD_BYTES {
            return Err(write);
        }
        self.bytes = bytes;
        self.queue.push_back(write);
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<HeldWrite> {
        let write = self.queue.pop_front()?;
        self.bytes -= write.payload.len();
        Some(write)
    }

    /// Takes the oldest write if it was there before `limit`.
    pub(crate) fn pop_older_than(&mut self, limit: Duration) -> Option<HeldWrite> {
        let due = self.queue.front().is_some_and(|write| write.since <= limit);
        if due { self.pop() } else { None }
    }

    /// Takes out the writes for which `keep` says no.
    pub(crate) fn take_unless(&mut self, keep: impl Fn(&HeldWrite) -> bool) -> Vec<HeldWrite> {
        let (kept, taken): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(keep);
        self.queue = kept;
        self.bytes -= taken.iter().map(|write| write.payload.len()).sum::<usize>();
        taken.into()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &HeldWrite> {
        self.queue.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
