//! One accepted connection: answers leave in the order in which the requests came.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::dnode::{self, Header, HeaderParser, Kind, Tag};
use dynomite_protocol::resp::{Request, RequestParser};

use crate::limits::{FIRST_WINDOW, LARGE_ANSWER, MAX_SESSION_IN_FLIGHT, PAUSE_OUTPUT_BYTES};
use crate::numbers::SourceId;
use crate::output::Outgoing;
use crate::resp3::{self, Shape};

/// Who connected.
#[derive(Debug)]
pub(crate) enum Role {
    /// A client.
    Client(ClientState),
    /// Another node of the ring.
    Peer(PeerState),
}

/// What a client set for its connection.
#[derive(Debug, Default)]
pub(crate) struct ClientState {
    pub(crate) name: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) address: String,
    /// Its own levels, when it asked for them.
    pub(crate) consistency: Option<Consistency>,
    /// It asked for RESP3.
    pub(crate) resp3: bool,
}

/// The half-read message of a peer.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) headers: HeaderParser,
    pub(crate) header: Option<Header>,
    pub(crate) speaks: PeerSpeaks,
}

/// Whether the engine at the other end numbers its writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum PeerSpeaks {
    /// It has not said anything yet, or is in another datacenter.
    #[default]
    Unknown,
    /// It numbers them, and has not said yet for whom.
    Numbers,
    /// It numbers them, as this source.
    Source(SourceId),
    /// It is Netflix's, or an older one of ours.
    Plain,
}

/// The place of one answer.
#[derive(Debug)]
struct Slot {
    /// The message to answer, for peers.
    message: Option<(u64, bool)>,
    /// What the answer is in RESP3, for clients that speak it.
    shape: Option<Shape>,
    answer: Option<Bytes>,
}

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) role: Role,
    pub(crate) inbox: BytesMut,
    pub(crate) parser: RequestParser,
    pub(crate) out: Outgoing,
    slots: VecDeque<Slot>,
    /// Sequence number of the first slot.
    first: u64,
    /// How many requests of a client may be open.
    window: usize,
    pub(crate) paused: bool,
    /// Nothing more is taken from this session; it closes when the last answer has left.
    pub(crate) closing: bool,
    /// The driver has been told to close it.
    pub(crate) closed: bool,
}

impl Session {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            inbox: BytesMut::new(),
            parser: RequestParser::default(),
            out: Outgoing::default(),
            slots: VecDeque::new(),
            first: 0,
            window: FIRST_WINDOW,
            paused: false,
            closing: false,
            closed: false,
        }
    }

    pub(crate) fn peer_mut(&mut self) -> Option<&mut PeerState> {
        match &mut self.role {
            Role::Peer(peer) => Some(peer),
            Role::Client(_) => None,
        }
    }

    pub(crate) fn peer(&self) -> Option<&PeerState> {
        match &self.role {
            Role::Peer(peer) => Some(peer),
            Role::Client(_) => None,
        }
    }

    pub(crate) fn is_client(&self) -> bool {
        matches!(self.role, Role::Client(_))
    }

    /// Requests without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Opens a place for an answer.
    pub(crate) fn open_slot(&mut self, header: Option<&Header>) -> u64 {
        self.slots.push_back(Slot {
            message: header.map(|header| (header.id, header.same_dc)),
            shape: None,
            answer: None,
        });
        self.first + self.slots.len() as u64 - 1
    }

    /// Says that writes are counted here. Between two whole answers this may stand anywhere.
    pub(crate) fn greet(&mut self) {
        let header = Header {
            id: 0,
            kind: Kind::Numbers,
            encrypted: false,
            same_dc: true,
            tag: Tag::Offer,
        };
        self.out.write(|out| dnode::write_header(out, &header, 0));
    }

    /// Says what the answer in the newest place is in RESP3, if the client speaks it.
    pub(crate) fn shape_newest(&mut self, request: &Request) {
        let speaks = matches!(&self.role, Role::Client(client) if client.resp3);
        if let Some(slot) = self.slots.back_mut().filter(|_| speaks) {
            slot.shape = Some(resp3::shape_of(request));
        }
    }

    /// Fills a place, and moves every answer that may leave to the outgoing bytes. Returns
    /// whether there is something to send.
    pub(crate) fn answer(&mut self, sequence: u64, answer: Bytes) -> bool {
        let place = sequence
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = place.and_then(|index| self.slots.get_mut(index)) {
            slot.answer = Some(answer);
        }
        let mut sends = false;
        while let Some(Slot {
            answer: Some(_), ..
        }) = self.slots.front()
        {
            let Some(slot) = self.slots.pop_front() else {
                break;
            };
            self.first += 1;
            let Some(answer) = slot.answer else { break };
            let answer = match slot.shape {
                Some(shape) => resp3::convert(&answer, shape),
                None => answer,
            };
            self.learn(answer.len());
            if let Some((id, same_dc)) = slot.message {
                let header = Header {
                    id,
                    kind: Kind::Response,
                    encrypted: false,
                    same_dc,
                    tag: Tag::None,
                };
                self.out
                    .write(|out| dnode::write_header(out, &header, answer.len()));
            }
            self.out.push(&answer);
            sends = true;
        }
        sends
    }

    /// Adapts how many requests may be open to the size of the answers: nobody knows it before,
    /// and a client that asks for many large values at once would fill every buffer on their way.
    fn learn(&mut self, answer: usize) {
        if answer < LARGE_ANSWER {
            self.window = (self.window + 1).min(MAX_SESSION_IN_FLIGHT);
        } else {
            self.window = self.window.min(PAUSE_OUTPUT_BYTES / answer).max(1);
        }
    }

    fn window(&self) -> usize {
        if self.is_client() {
            self.window
        } else {
            MAX_SESSION_IN_FLIGHT
        }
    }

    /// Whether it has so much to be answered or to be taken that no more should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.window() || self.out.unsent >= PAUSE_OUTPUT_BYTES
    }

    /// Whether enough has left to read again.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() <= self.window() / 2 && self.out.unsent < PAUSE_OUTPUT_BYTES / 2
    }
}
