//! The states of a node's life, each with what only it needs to know.

use std::time::Duration;

use dynomite_api::contract::{Cut, Donor, Received, WarmUpStage};
use jiff::Timestamp;

use crate::effect::Order;
use crate::event::OrderId;
use crate::hold::HoldStep;
use crate::load::Load;
use crate::record::ProofRecord;

/// Where the node is. A state without a [`ProofRecord`] cannot serve.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The data is not known to be whole.
    Unproven,
    /// A donor's data is being copied.
    WarmUp(Box<WarmUp>),
    /// The proof is being written to disk.
    Recording {
        proof: Box<ProofRecord>,
        entry: Entry,
    },
    /// The data is proven, the engine is on its way to NORMAL.
    Opening {
        proof: Box<ProofRecord>,
        entry: Entry,
    },
    /// The data is proven and the engine is NORMAL.
    Open { proof: Box<ProofRecord> },
    /// The data is proven, and the node is told to stay out of service.
    Held {
        proof: Box<ProofRecord>,
        step: HoldStep,
        /// Whether nobody can have written since the engine took nothing more.
        whole: bool,
    },
    /// A backup is being loaded; there is a proof until the load begins.
    Loading(Box<Load>),
    /// The node leaves.
    Draining(Drain),
    /// Both processes have ended.
    Stopped { exit: bool },
}

/// What a node opens after, and so what its engine may be found at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nobody has written what this node has not: the engine may be anywhere.
    Grant,
    /// A cut: the engine holds writes, until `resume_by` at the latest.
    Copy {
        resume_by: Timestamp,
        /// What the donor had received, until the engine has taken it over;
        /// only the donor of an exact cut says so.
        commit: Option<Box<Received>>,
    },
    /// A sidecar that ended: the engine was NORMAL all the time.
    Memory,
}

/// One attempt to copy a donor.
#[derive(Clone, Debug)]
pub(crate) struct WarmUp {
    pub(crate) donor: Donor,
    /// Which attempt since the data was last proven, from 1.
    pub(crate) attempt: u32,
    pub(crate) began: Timestamp,
    /// The donor's incarnation, once it has been read.
    pub(crate) donor_run: String,
    /// The id of its replication history.
    pub(crate) donor_history: String,
    /// Keys the donor had when it was last read.
    pub(crate) donor_keys: u64,
    pub(crate) progress: Progress,
    pub(crate) lag: Option<u64>,
    /// Memory that the donor's data took when it was first read, bytes.
    pub(crate) donor_bytes: u64,
    /// When the store was told to copy.
    pub(crate) copies_since: Option<Timestamp>,
    /// When donor and stream were last there.
    pub(crate) donor_seen: Timestamp,
    /// Whether the stream has run: then it can go on where it broke off.
    pub(crate) followed: bool,
    /// Cuts that were given up.
    pub(crate) cuts: u32,
    /// Why the last one was, unless it only took too long.
    pub(crate) trouble: Option<(&'static str, String)>,
    /// Nodes that do not know this one's address, when they were last asked.
    pub(crate) unaware: Vec<String>,
    /// Whether all know it, or the wait for them is over.
    pub(crate) introduced: bool,
    /// Whether the donor's engine cannot say what it has received.
    pub(crate) plain: bool,
    pub(crate) step: Step,
}

/// What of a copy grows, and when it last did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) seen: (u64, u64, u64, bool),
    pub(crate) at: Timestamp,
}

/// The steps of a warm-up, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The donor is read, to know that it grants.
    Connect,
    /// The store is made its replica.
    Attach,
    /// The first copy is on its way.
    Copy,
    /// The stream is followed; `read_at` is when the donor is read next.
    Follow {
        since: Timestamp,
        read_at: Timestamp,
    },
    /// The other nodes must know this one's address: their engines do not count
    /// what they send to the one before.
    Introduce { since: Timestamp, ask_at: Timestamp },
    /// The engine is told to hold writes.
    Hold { until: Timestamp },
    /// The stream is stopped.
    Pause { until: Timestamp },
    /// The donor is asked for a moment.
    ReadCut { until: Timestamp },
    /// What the engine holds must follow that moment without a gap.
    Check { until: Timestamp, cut: Box<Cut> },
    /// It does not yet: another moment is asked for at `at`.
    Again { until: Timestamp, at: Timestamp },
    /// The stream is let through up to that moment.
    LetThrough { until: Timestamp, cut: Box<Cut> },
    /// The replica must be exactly there.
    Level { until: Timestamp, cut: Box<Cut> },
    /// Writes are held since `held_at`; the donor is read for the first time.
    First {
        until: Timestamp,
        held_at: Timestamp,
    },
    /// It is read again, once what was in flight has arrived there.
    Second {
        until: Timestamp,
        read_at: Timestamp,
    },
    /// The replica has to reach `target`.
    Reach { until: Timestamp, target: u64 },
    /// It is made a primary; `cut` is where it left the donor, if it is known.
    Detach {
        until: Timestamp,
        cut: Option<Box<Cut>>,
    },
}

impl Step {
    /// What the report calls it.
    pub(crate) fn stage(&self) -> WarmUpStage {
        match self {
            Self::Connect | Self::Attach => WarmUpStage::Connecting,
            Self::Copy => WarmUpStage::Copying,
            Self::Follow { .. } | Self::Introduce { .. } => WarmUpStage::Following,
            _ => WarmUpStage::Cutting,
        }
    }

    /// Whether the engine was seen to hold writes.
    pub(crate) fn holds_writes(&self) -> bool {
        self.cut_until().is_some() && !matches!(self, Self::Hold { .. })
    }

    /// Until when the engine may hold writes, while it does.
    pub(crate) fn cut_until(&self) -> Option<Timestamp> {
        match self {
            Self::Hold { until }
            | Self::Pause { until }
            | Self::ReadCut { until }
            | Self::Check { until, .. }
            | Self::Again { until, .. }
            | Self::LetThrough { until, .. }
            | Self::Level { until, .. }
            | Self::First { until, .. }
            | Self::Second { until, .. }
            | Self::Reach { until, .. }
            | Self::Detach { until, .. } => Some(*until),
            Self::Connect
            | Self::Attach
            | Self::Copy
            | Self::Follow { .. }
            | Self::Introduce { .. } => None,
        }
    }
}

/// How a node leaves.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    /// Whether the sidecar itself ends afterwards.
    pub(crate) exit: bool,
    pub(crate) step: DrainStep,
}

/// The steps of leaving, in order.
#[derive(Clone, Debug)]
pub(crate) enum DrainStep {
    /// Clients go elsewhere and open requests finish.
    Quiet {
        since: Timestamp,
        /// The number of requests last seen, and since when it has been that.
        still: Option<(u64, Timestamp)>,
        /// What the open requests may still be answered by.
        proof: Box<ProofRecord>,
    },
    /// The engine is told to refuse what still comes.
    Standby { since: Timestamp },
    /// The engine ends.
    Engine,
    /// The store ends.
    Store,
}

/// An order under way.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) id: OrderId,
    pub(crate) order: Order,
    pub(crate) since: Timestamp,
}

/// The last thing that went wrong, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry_at: Timestamp,
}

/// How long the engine may hold writes: less than its `timeout`, because then
/// it gives up what it holds.
pub(crate) fn hold_limit(timeout_ms: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(2);
    const SHORTEST: Duration = Duration::from_millis(500);
    Duration::from_millis(u64::from(timeout_ms) / 2).clamp(SHORTEST, LONGEST)
}
