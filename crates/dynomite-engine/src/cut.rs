//! The exact cut of a warm-up: what the donor's engine and the newcomer's do for it.
//!
//! ```text
//!  donor      writes ... 41 42 ─┬─ 43 44 ...   INFO goes between two writes: its answer has the
//!  (NORMAL)                   INFO             offset at which exactly 1 to 42 are in the store
//!
//!  newcomer   (39 40 refused)  41 42 43 44 ...   held since WRITES_ONLY: from 41 on, so that
//!                              drop  keep        nothing lies between the copy and what is held
//! ```
//!
//! Nothing is held at the donor. The newcomer may release what it holds only when, for every
//! coordinator that is connected to the donor, its first captured number is at most the one after
//! the donor's last.

use bytes::Bytes;
use dynomite_protocol::dnode::Kind;
use dynomite_protocol::received::Received;
use dynomite_protocol::resp::reply;

use crate::command::Access;
use crate::coordinate::Message;
use crate::engine::Engine;
use crate::error_text;
use crate::limits::MAX_CUTS;
use crate::link::{InFlight, Link, Purpose, Speaks};
use crate::now::Now;
use crate::numbers::{Capture, Tag};
use crate::output::{LinkId, Output};
use crate::protection::Protection;
use crate::run_state::RunState;

/// Replication id, offset and keys are of one instant only in one answer, and stores before
/// Redis 7 take one section or all.
const WHERE: &[u8] = b"*1\r\n$4\r\nINFO\r\n";

/// One cut that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutId(pub u64);

/// A moment of the donor's store between two writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The store's replication id.
    pub replication_id: String,
    /// Its replication offset, bytes.
    pub offset: u64,
    /// Keys in database 0.
    pub keys: u64,
    /// The writes that the store had executed, and no others.
    pub received: Received,
}

/// Why this node cannot be a donor now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutRefused {
    /// What its store has is still to be complemented by what it holds.
    #[error("this node is {0}, not NORMAL: take another donor, or wait until it serves")]
    State(RunState),
    /// Its store is away.
    #[error("the store is not connected, or takes no more: wait for it, or take another donor")]
    Store,
    /// It still has writes that are to be released.
    #[error("writes that were held back are still on their way to the store: try again")]
    Held,
    /// Somebody does not number writes.
    #[error("{0}")]
    NotCounted(NotCounted),
    /// Too many at a time.
    #[error("{MAX_CUTS} cuts are being made already: try again")]
    Busy,
    /// The store did not say where it is.
    #[error("the store's answer to INFO tells no replication offset of a primary: {0}")]
    Answer(String),
}

/// A node of the datacenter does not number its writes, so that they cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} does not number its writes (it is Netflix's engine, or an older one of this project): \
     no cut is exact before all engines of the datacenter do"
)]
pub struct NotCounted(pub String);

/// Why what is held back cannot follow a copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCaptured {
    /// Nothing is held back.
    #[error("this node is {0}: only in WRITES_ONLY are writes captured")]
    State(RunState),
    /// Writes were refused.
    #[error(
        "writes were refused since WRITES_ONLY began (they waited for longer than the timeout, \
         or were too many): go back to STANDBY and begin again"
    )]
    Void,
    /// A coordinator whose writes are not all here.
    #[error(
        "not all writes of coordinator {0} that follow the cut are captured: take a later cut; \
         if it stays so, that coordinator has no connection to this node"
    )]
    NotCovered(String),
    /// Somebody does not number writes.
    #[error("{0}")]
    NotCounted(NotCounted),
}

/// What became of the writes that were held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// They are released, in order.
    pub applied: usize,
    /// The copy has them already.
    pub dropped: usize,
}

/// Cuts whose answer is on its way.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    pending: Vec<(CutId, Received)>,
    next: u64,
}

impl Engine {
    /// Asks the store where it is, between two writes. [`Output::Cut`] brings the result.
    pub fn handle_cut(&mut self, now: Now) -> Result<CutId, CutRefused> {
        // In STANDBY nothing reaches the store, so the moment lasts; whether what it has is whole
        // is for the sidecar to know, which alone asks here.
        if !matches!(self.state, RunState::Normal | RunState::Standby) {
            return Err(CutRefused::State(self.state));
        }
        self.check_counted().map_err(CutRefused::NotCounted)?;
        if self.held.len() > 0 {
            return Err(CutRefused::Held);
        }
        if self.cuts.pending.len() >= MAX_CUTS {
            return Err(CutRefused::Busy);
        }
        let usable = |link: &Link| link.is_up() && !link.is_congested();
        if !self.link(LinkId::STORE).is_some_and(usable) {
            return Err(CutRefused::Store);
        }
        let id = CutId(self.cuts.next);
        self.cuts.next += 1;
        let received = self.numbers.received(now.since_start);
        self.cuts.pending.push((id, received));
        let question = Message {
            purpose: Purpose::Cut(id),
            access: Access::Read,
            kind: Kind::Request,
            payload: &Bytes::from_static(WHERE),
            tag: None,
        };
        self.transmit(now, LinkId::STORE, question);
        Ok(id)
    }

    /// The store has said where it was.
    pub(crate) fn finish_cut(&mut self, id: CutId, answer: &[u8]) {
        let Some(received) = self.take_cut(id) else {
            return;
        };
        let outcome = match position(answer) {
            Ok((replication_id, offset, keys)) => Ok(Box::new(Cut {
                replication_id,
                offset,
                keys,
                received,
            })),
            Err(why) => Err(CutRefused::Answer(why)),
        };
        self.outputs.push_back(Output::Cut { id, outcome });
    }

    /// The store went away before it could say it.
    pub(crate) fn abandon_cut(&mut self, id: CutId) {
        if self.take_cut(id).is_some() {
            let outcome = Err(CutRefused::Store);
            self.outputs.push_back(Output::Cut { id, outcome });
        }
    }

    fn take_cut(&mut self, id: CutId) -> Option<Received> {
        let at = self.cuts.pending.iter().position(|cut| cut.0 == id)?;
        Some(self.cuts.pending.remove(at).1)
    }

    /// A write that was handed to the store was not executed. Cuts that wait for their answer
    /// follow it in the queue, so it is not in them either.
    pub(crate) fn note_lost(&mut self, link: LinkId, message: &InFlight) {
        if let Some(tag) = message.tag.filter(|_| link == LinkId::STORE) {
            if self.protects_by(Protection::LostWrites) {
                self.numbers.lost(tag);
            }
            if !self.protects_by(Protection::LossesInCuts) {
                return;
            }
            let name = self.numbers.name(tag.source);
            for (_, received) in &mut self.cuts.pending {
                received.source_mut(name).lost(tag.number);
            }
        }
    }

    /// What this node has received, by the numbers of the coordinators; nothing when the numbers
    /// do not tell it.
    pub fn received(&self, now: Now) -> Result<Received, NotCounted> {
        self.check_counted()?;
        Ok(self.numbers.received(now.since_start))
    }

    /// Whether every engine of the datacenter numbers its writes.
    fn check_counted(&self) -> Result<(), NotCounted> {
        let plain = |link: &&Link| link.same_dc && link.speaks == Speaks::Plain;
        let peers = self.links.iter().flatten();
        if let Some(peer) = peers.filter(plain).find_map(|link| link.peer.as_ref()) {
            let name = format!("{}:{} of rack {}", peer.host, peer.port, peer.rack);
            return Err(NotCounted(name));
        }
        if self.plain_sessions > 0 {
            let name = "an engine that is connected to this one".to_owned();
            return Err(NotCounted(name));
        }
        Ok(())
    }

    /// Whether what is held back can follow a copy that has exactly the writes of `donor`.
    pub fn check_capture(&self, donor: &Received) -> Result<(), NotCaptured> {
        match self.numbers.capture {
            Capture::Off => return Err(NotCaptured::State(self.state)),
            Capture::Void => return Err(NotCaptured::Void),
            Capture::On => {}
        }
        self.check_counted().map_err(NotCaptured::NotCounted)?;
        if !self.protects_by(Protection::Coverage) {
            return Ok(());
        }
        donor
            .is_followed_by(&self.numbers.captured_from())
            .map_err(NotCaptured::NotCovered)
    }

    /// The store is now a copy that has exactly the writes of `donor`: what is held back and not
    /// among them is released, in order, and the state is `RESUMING`. An error changes nothing.
    pub fn handle_commit(&mut self, now: Now, donor: &Received) -> Result<Committed, NotCaptured> {
        self.check_capture(donor)?;
        let seen = self.numbers.adopt(now.since_start, donor);
        let numbers = &self.numbers;
        let filters = self.protects_by(Protection::CopiedNumbers);
        let past = |tag: Tag| filters && donor.is_past(numbers.name(tag.source), tag.number);
        let dropped = self.held.take_unless(|write| !write.tag.is_some_and(past));
        for tag in self.held.iter().filter_map(|write| write.tag) {
            self.numbers.arrived(tag);
        }
        for tag in seen {
            self.numbers.passed(tag);
        }
        let committed = Committed {
            applied: self.held.len(),
            dropped: dropped.len(),
        };
        for write in &dropped {
            self.tell_refused(now, write, error_text::PAST);
        }
        self.numbers.end_capture();
        tracing::info!(?committed, "the copy is taken over");
        self.handle_state(now, RunState::Resuming);
        Ok(committed)
    }

    pub(crate) fn void_capture(&mut self) {
        if self.numbers.capture == Capture::On {
            self.numbers.capture = Capture::Void;
        }
    }

    /// Captures begin and end with `WRITES_ONLY`.
    pub(crate) fn note_capture(&mut self, from: RunState, to: RunState) {
        match (from, to) {
            (RunState::WritesOnly, RunState::WritesOnly) => {}
            (_, RunState::WritesOnly) => self.numbers.begin_capture(),
            (_, RunState::Standby) => self.numbers.end_capture(),
            (RunState::WritesOnly, _) if self.numbers.capture != Capture::Off => {
                self.numbers.end_capture();
                self.numbers.trust();
            }
            _ => {}
        }
    }
}

/// Replication id, offset and number of keys from the answer to INFO.
fn position(answer: &[u8]) -> Result<(String, u64, u64), String> {
    let words = || String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    if reply::is_error(answer) {
        return Err(words());
    }
    let text = String::from_utf8_lossy(answer);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    if field("role") != Some("master") {
        return Err(format!("role is {}", field("role").unwrap_or("missing")));
    }
    let replication_id = field("master_replid").ok_or_else(words)?;
    let offset = field("master_repl_offset").and_then(|offset| offset.parse().ok());
    // Without keys there is no line.
    let keys = match field("db0") {
        None => Some(0),
        Some(line) => line
            .split(',')
            .find_map(|pair| pair.strip_prefix("keys=")?.parse().ok()),
    };
    Ok((
        replication_id.to_owned(),
        offset.ok_or_else(words)?,
        keys.ok_or_else(words)?,
    ))
}
