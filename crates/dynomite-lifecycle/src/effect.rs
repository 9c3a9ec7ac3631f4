//! What a node's life asks of the hands: immediate acts, and orders that are answered.

use std::time::Duration;

use dynomite_api::contract::{Consistency, EngineState, Received};

use crate::event::{OrderId, ProcessName, WhichData};
use crate::record::Record;

/// Something to do at once and in order, without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the configurations of both processes from the desired document;
    /// answered by [`Rendered`](crate::Event::Rendered). The processes read them
    /// only when they start.
    Render,
    /// Have the launcher start the process.
    Start(ProcessName),
    /// Have the launcher stop the process: SIGTERM, and SIGKILL after `grace`.
    Stop {
        /// Which.
        process: ProcessName,
        /// How long it may take to end by itself.
        grace: Duration,
    },
    /// Take the store's socket away from the path the engine knows.
    Withdraw,
    /// Let the donor's stream through again, whatever held it.
    OpenStream,
    /// Give the store nothing but donors' streams again.
    EndProviding,
    /// Keep the record on disk; losing it costs a warm-up, never data.
    Save(Box<Record>),
    /// Do something that is answered by [`Done`](crate::Event::Done),
    /// [`Donor`](crate::Event::Donor), [`Cut`](crate::Event::Cut),
    /// [`Introduced`](crate::Event::Introduced) or [`Failed`](crate::Event::Failed)
    /// with this id.
    Order(OrderId, Order),
    /// Say it in the log.
    Note(Note),
    /// Everything is stopped: the sidecar may end.
    Exit,
}

/// Something to do that is answered.
///
/// Orders to the same addressee are carried out in turn with its observations,
/// so that what is seen after an answer is what the order has brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Keep the record on disk, synced, before anybody relies on it.
    Record(Box<Record>),
    /// Move the store's files away from where it looks for them, and keep them.
    SetAside,
    /// Rename the store's socket to the path the engine knows.
    Expose,
    /// Make the store a replica of the donor, through the tunnel.
    CopyDonor,
    /// Make the store a primary.
    Detach,
    /// Begin to save what the store has, as a file beside its own; how that goes
    /// is told by [`Data`](crate::Event::Data).
    SavePrevious {
        /// UID of the restore it is saved for.
        restore: String,
    },
    /// From now on give the store this data at the tunnel, under a history of its
    /// own; answered by [`Provided`](crate::Event::Provided).
    Provide {
        /// UID of the restore.
        restore: String,
        /// Which.
        which: WhichData,
    },
    /// Read the donor's facts through the tunnel.
    ReadDonor,
    /// Ask the other nodes of the datacenter whether their engines know this
    /// node's address; answered by [`Introduced`](crate::Event::Introduced).
    AskPeers,
    /// Let nothing more of the donor's stream through, from where it is now:
    /// not on this connection, and not on one that follows it.
    PauseStream,
    /// Read a moment of the donor's store, and what its engine had received by
    /// then; answered by [`Cut`](crate::Event::Cut).
    ReadCut,
    /// Ask the engine whether what it has captured follows this without a gap.
    CheckCapture(Box<Received>),
    /// Let the stream through up to this offset and no further; done when the
    /// store has been given all of it.
    LetThrough {
        /// The replication history it is an offset of.
        history: String,
        /// Bytes.
        offset: u64,
    },
    /// Have the engine take this as received, drop what it holds of it, and
    /// let the rest go to the store: it is RESUMING then.
    CommitCapture(Box<Received>),
    /// Set the engine's state.
    EngineState(EngineState),
    /// Set the engine's consistency.
    Consistency(Consistency),
    /// Set one setting of the store while it runs.
    StoreSetting {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
}

/// Who carries an order out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The file system.
    Files,
    /// The store.
    Store,
    /// The engine.
    Engine,
    /// The donor, or other nodes.
    Donor,
    /// The tunnel through which the donor's stream comes.
    Tunnel,
}

impl Order {
    /// Who carries it out.
    pub fn addressee(&self) -> Addressee {
        match self {
            Self::Record(_) | Self::SetAside | Self::Expose | Self::SavePrevious { .. } => {
                Addressee::Files
            }
            Self::CopyDonor | Self::Detach | Self::StoreSetting { .. } => Addressee::Store,
            Self::EngineState(_)
            | Self::Consistency(_)
            | Self::CheckCapture(_)
            | Self::CommitCapture(_) => Addressee::Engine,
            Self::ReadDonor | Self::ReadCut | Self::AskPeers => Addressee::Donor,
            Self::PauseStream | Self::LetThrough { .. } | Self::Provide { .. } => Addressee::Tunnel,
        }
    }
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether a person should look.
    pub warning: bool,
    /// One word for it, `CamelCase`.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
}
