//! One connection that we make: to the store, or to a peer.
//!
//! ```text
//!   Down(retry at) ──Connect──▶ Connecting ──up──▶ Up
//!        ▲                          │               │
//!        └────────── down ──────────┴─── down ──────┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::config::Endpoint;
use dynomite_protocol::dnode::{self, Header, HeaderParser, Kind};
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::ReplyParser;
use dynomite_protocol::seeds::Seed;

use crate::cut::CutId;
use crate::job::Leg;
use crate::limits::{
    MAX_LINK_IN_FLIGHT, MAX_LINK_UNSENT_BYTES, PEER_RETRY_MAX, PEER_RETRY_MIN, STORE_RETRY,
};
use crate::numbers::Tag;
use crate::output::{Attempt, Outgoing};

/// What waits for an answer on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A vote in a request.
    Leg(Leg),
    /// Nobody waits for the answer; it is only seen whether it came.
    Copy,
    /// The question how the peer is.
    Probe,
    /// The question where the store is; the moment it is sent is a cut.
    Cut(CutId),
}

/// One message without an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) purpose: Purpose,
    pub(crate) write: bool,
    pub(crate) id: u64,
    pub(crate) sent: Duration,
    /// The number of the write, towards the store.
    pub(crate) tag: Option<Tag>,
}

/// Whether there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Down { retry_at: Duration },
    Connecting,
    Up,
}

/// Numbers about one link since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Messages sent.
    pub requests: u64,
    /// Bytes of them.
    pub request_bytes: u64,
    /// Answers that came.
    pub responses: u64,
    /// Bytes of them.
    pub response_bytes: u64,
    /// Connections that ended.
    pub disconnects: u64,
    /// Writes of which nobody knows that this node executed them.
    pub missed_writes: u64,
    /// Requests that timed out here.
    pub timeouts: u64,
    /// Answers that came in the wrong order.
    pub mismatches: u64,
}

#[derive(Debug)]
pub(crate) struct Link {
    /// The peer; `None` for the store.
    pub(crate) peer: Option<Seed>,
    pub(crate) endpoint: Endpoint,
    pub(crate) same_dc: bool,
    pub(crate) state: State,
    pub(crate) attempt: Attempt,
    backoff: Duration,
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) out: Outgoing,
    inbox: BytesMut,
    replies: ReplyParser,
    headers: HeaderParser,
    header: Option<Header>,
    pub(crate) last_received: Duration,
    pub(crate) last_probe: Duration,
    /// It said that it serves, and has not said otherwise since.
    pub(crate) serving: bool,
    /// It has been silent for long.
    pub(crate) suspect: bool,
    /// What is known about the engine at the other end.
    pub(crate) speaks: Speaks,
    /// The highest number it was told over this connection. Nothing while it has not said whether
    /// it counts writes: before, it gets none.
    pub(crate) told: Option<u64>,
    pub(crate) counters: LinkCounters,
}

/// Whether an engine knows numbers of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// It has not said anything yet.
    Unknown,
    /// It is one of ours.
    Numbers,
    /// It is Netflix's, or an older one of ours.
    Plain,
}

/// What came over a link.
pub(crate) enum Heard {
    /// An answer.
    Answer(Answer),
    /// The word that the other side counts writes.
    Greeting,
}

/// One answer that came over a link.
pub(crate) struct Answer {
    /// The message it answers; `None` on the link to the store, which answers in order.
    pub(crate) id: Option<u64>,
    pub(crate) reply: Bytes,
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, peer: Option<Seed>, same_dc: bool) -> Self {
        Self {
            peer,
            endpoint,
            same_dc,
            state: State::Down {
                retry_at: Duration::ZERO,
            },
            attempt: Attempt(0),
            backoff: PEER_RETRY_MIN,
            in_flight: VecDeque::new(),
            out: Outgoing::default(),
            inbox: BytesMut::new(),
            replies: ReplyParser::default(),
            headers: HeaderParser::default(),
            header: None,
            last_received: Duration::ZERO,
            last_probe: Duration::ZERO,
            serving: true,
            suspect: false,
            speaks: Speaks::Unknown,
            told: None,
            counters: LinkCounters::default(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether writes may be sent: within the datacenter only when it is known whether the other
    /// side wants their numbers.
    pub(crate) fn takes_writes(&self) -> bool {
        self.is_up() && (self.told.is_some() || !self.is_counted())
    }

    /// Whether the other side may count our writes.
    pub(crate) fn is_counted(&self) -> bool {
        self.peer.is_some() && self.same_dc
    }

    /// Whether the other side counts our writes.
    pub(crate) fn counts(&self) -> bool {
        self.is_up() && self.told.is_some() && self.speaks == Speaks::Numbers
    }

    /// Whether it makes sense to expect an answer soon.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_up() && self.serving && !self.suspect
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.in_flight.len() >= MAX_LINK_IN_FLIGHT || self.out.unsent >= MAX_LINK_UNSENT_BYTES
    }

    pub(crate) fn connecting(&mut self) -> Attempt {
        self.attempt = Attempt(self.attempt.0.wrapping_add(1));
        self.state = State::Connecting;
        self.attempt
    }

    pub(crate) fn up(&mut self, now: Duration) {
        self.state = State::Up;
        self.backoff = PEER_RETRY_MIN;
        self.told = None;
        self.last_received = now;
        // The first probe leaves with the next tick.
        self.last_probe = Duration::ZERO;
    }

    /// Ends the connection and returns what nobody will answer any more.
    pub(crate) fn down(&mut self, now: Duration) -> VecDeque<InFlight> {
        let wait = if self.peer.is_none() {
            STORE_RETRY
        } else {
            let wait = self.backoff;
            self.backoff = (self.backoff * 2).min(PEER_RETRY_MAX);
            wait
        };
        if self.is_up() {
            self.counters.disconnects += 1;
        }
        self.state = State::Down {
            retry_at: now + wait,
        };
        self.out.clear();
        self.inbox = BytesMut::new();
        self.replies = ReplyParser::default();
        self.headers = HeaderParser::default();
        self.header = None;
        std::mem::take(&mut self.in_flight)
    }

    /// Sends a message. `id` and `kind` concern peers only.
    pub(crate) fn send(&mut self, message: InFlight, kind: Kind, payload: &Bytes) {
        if self.peer.is_some() {
            let tag = match message.tag {
                Some(tag) if self.counts() => {
                    self.told = Some(tag.number);
                    dnode::Tag::Number(tag.number)
                }
                _ if self.is_counted() && self.told.is_none() => dnode::Tag::Offer,
                _ => dnode::Tag::None,
            };
            self.write_header(message.id, kind, tag, payload.len());
        }
        self.out.push(payload);
        self.counters.requests += 1;
        self.counters.request_bytes += payload.len() as u64;
        self.in_flight.push_back(message);
    }

    fn write_header(&mut self, id: u64, kind: Kind, tag: dnode::Tag, payload: usize) {
        let header = Header {
            id,
            kind,
            encrypted: false,
            same_dc: self.same_dc,
            tag,
        };
        self.out
            .write(|out| dnode::write_header(out, &header, payload));
    }

    /// Says something about the numbers of writes.
    pub(crate) fn tell(&mut self, id: u64, tag: dnode::Tag, given: u64) {
        self.told = Some(given);
        self.write_header(id, Kind::Numbers, tag, 0);
    }

    /// The other side has said whether it counts writes.
    fn greet(&mut self, speaks: Speaks) {
        self.told = Some(0);
        self.speaks = speaks;
    }

    pub(crate) fn receive(&mut self, now: Duration, bytes: BytesMut) {
        self.last_received = now;
        self.suspect = false;
        if self.inbox.is_empty() {
            self.inbox = bytes;
        } else {
            self.inbox.extend_from_slice(&bytes);
        }
    }

    /// What has fully arrived next; an error when the bytes make no sense.
    pub(crate) fn next_heard(&mut self) -> Result<Option<Heard>, String> {
        let mut id = None;
        if self.peer.is_some() {
            while self.header.is_none() {
                let parsed = self
                    .headers
                    .parse(&mut self.inbox)
                    .map_err(|e| e.to_string())?;
                let Some(header) = parsed else {
                    return Ok(None);
                };
                if header.encrypted {
                    return Err("the peer encrypts, which is not built".to_owned());
                }
                if header.kind == Kind::Numbers && header.tag == dnode::Tag::Offer {
                    self.greet(Speaks::Numbers);
                    return Ok(Some(Heard::Greeting));
                }
                if header.kind == Kind::Response {
                    if self.told.is_none() {
                        self.greet(Speaks::Plain);
                    }
                    self.header = Some(header);
                }
            }
            id = self.header.as_ref().map(|header| header.id);
        }
        let reply = self
            .replies
            .parse(&mut self.inbox, &Limits::REPLY)
            .map_err(|error| error.to_string())?;
        let Some(reply) = reply else {
            return Ok(None);
        };
        self.header = None;
        self.counters.responses += 1;
        self.counters.response_bytes += reply.len() as u64;
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Ok(Some(Heard::Answer(Answer { id, reply })))
    }
}
