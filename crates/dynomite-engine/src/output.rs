//! What the engine wants done, and the bytes that wait for it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::config::Endpoint;

use crate::cut::{Cut, CutId, CutRefused};

slotmap::new_key_type! {
    /// One accepted connection: a client, or a peer that connected to us.
    pub struct SessionId;
}

/// One connection that we make: to the store or to a peer. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

impl LinkId {
    /// The link to the local store.
    pub const STORE: Self = Self(0);
}

/// One attempt to connect a link. Events that carry an older attempt are ignored, so that the end
/// of a connection that was given up cannot be taken for the end of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt(pub u32);

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conn {
    /// To a client or a connected peer.
    Session(SessionId),
    /// To the store or a peer.
    Link(LinkId, Attempt),
}

/// One thing to do. They are to be done in the order in which they are polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes, and report by `handle_sent` when the system has taken them.
    Send {
        /// To whom.
        to: Conn,
        /// What.
        bytes: Bytes,
    },
    /// Read no more from this session.
    PauseRead(SessionId),
    /// Read again.
    ResumeRead(SessionId),
    /// Close when everything sent before has been taken.
    Close(SessionId),
    /// Close at once; nobody takes what is left.
    Abort(SessionId),
    /// Connect, and report by `handle_link_up` or `handle_link_down`.
    Connect {
        /// Which link.
        link: LinkId,
        /// To be named in every event of this connection.
        attempt: Attempt,
        /// Where.
        endpoint: Endpoint,
    },
    /// A cut that was asked for is made, or cannot be.
    Cut {
        /// Which.
        id: CutId,
        /// What came of it.
        outcome: Result<Box<Cut>, CutRefused>,
    },
    /// Drop a connection; its end need not be reported.
    Disconnect {
        /// Which link.
        link: LinkId,
        /// Which connection of it.
        attempt: Attempt,
    },
}

/// From this size on, bytes are passed on as they are; smaller ones are copied together, so that
/// one write carries many.
const COPY_BELOW: usize = 16 * 1024;

/// Bytes on their way to one connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes that were pushed and not yet reported as sent.
    pub(crate) unsent: usize,
    /// Whether the connection stands in the engine's list of those with something to send.
    pub(crate) listed: bool,
}

impl Outgoing {
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.unsent += bytes.len();
        if bytes.len() < COPY_BELOW {
            self.tail.extend_from_slice(bytes);
        } else {
            self.seal();
            self.whole.push_back(bytes.clone());
        }
    }

    /// Appends what `write` writes.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.unsent += self.tail.len() - before;
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.whole.pop_front() {
            return Some(bytes);
        }
        // Taken as a whole: what is kept for later would hold its memory while it idles.
        (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze())
    }

    pub(crate) fn sent(&mut self, count: usize) {
        self.unsent = self.unsent.saturating_sub(count);
    }

    pub(crate) fn clear(&mut self) {
        let listed = self.listed;
        *self = Self::default();
        self.listed = listed;
    }
}
