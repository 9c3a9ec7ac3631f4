//! What a node's life asks of the hands: immediate acts, and orders that are answered.

use std::time::Duration;

use dynomite_api::contract::{Consistency, EngineState};

use crate::event::{OrderId, ProcessName};
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
    /// Keep the record on disk; losing it costs a warm-up, never data.
    Save(Box<Record>),
    /// Do something that is answered by [`Done`](crate::Event::Done),
    /// [`Donor`](crate::Event::Donor) or [`Failed`](crate::Event::Failed) with
    /// this id.
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
    /// Rename the store's socket to the path the engine knows.
    Expose,
    /// Make the store a replica of the donor, through the tunnel.
    CopyDonor,
    /// Make the store a primary.
    Detach,
    /// Read the donor's facts through the tunnel.
    ReadDonor,
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
    /// The donor's store.
    Donor,
}

impl Order {
    /// Who carries it out.
    pub fn addressee(&self) -> Addressee {
        match self {
            Self::Record(_) | Self::Expose => Addressee::Files,
            Self::CopyDonor | Self::Detach | Self::StoreSetting { .. } => Addressee::Store,
            Self::EngineState(_) | Self::Consistency(_) => Addressee::Engine,
            Self::ReadDonor => Addressee::Donor,
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
