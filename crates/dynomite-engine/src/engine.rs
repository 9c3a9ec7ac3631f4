//! The engine: what it holds, and what may happen to it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use dynomite_protocol::config::{Config, Endpoint, SeedProvider, StartState};
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::hash::Placement;
use dynomite_protocol::limits::{Limits, MAX_ARGS};
use dynomite_protocol::seeds::Seed;
use dynomite_protocol::token::Token;
use dynomite_protocol::topology::{Member, Topology};
use slotmap::SlotMap;

use crate::counters::{Counters, Histogram, StoreRequests};
use crate::cut::Cuts;
use crate::job::{Job, JobId};
use crate::limits::{MAX_OUTPUT_BYTES, MAX_PARTIAL_BYTES, MAX_PEER_SESSIONS};
use crate::link::Link;
use crate::now::Now;
use crate::numbers::Numbers;
use crate::output::{Conn, LinkId, Output, SessionId};
use crate::rewrite::StreamClock;
use crate::run_state::{HeldWrites, RunState};
use crate::session::{ClientState, PeerSpeaks, PeerState, Role, Session};

/// What an engine must know at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Own datacenter.
    pub datacenter: String,
    /// Own rack.
    pub rack: String,
    /// Own token.
    pub token: Token,
    /// Name of the own node for people: the host of `dyn_listen`.
    pub host: String,
    /// Own peer port.
    pub port: u16,
    /// The local store.
    pub store: Endpoint,
    /// How keys are placed.
    pub placement: Placement,
    /// How long a request may take, before the timeout factor.
    pub timeout: Duration,
    /// Level of reads.
    pub read_consistency: Consistency,
    /// Level of writes.
    pub write_consistency: Consistency,
    /// State at start.
    pub start_state: RunState,
    /// Whether writes are given absolute times before they fan out.
    pub deterministic_writes: bool,
    /// Whether the ring has nodes of Netflix's engine, which must not be sent what they do not
    /// understand.
    pub netflix_peers: bool,
    /// Bytes of one request.
    pub max_request_bytes: usize,
    /// Clients at a time.
    pub max_clients: usize,
    /// Peers known at start; `None` when a provider must first say who they are. Until it does,
    /// nothing that has a key is answered: a node that takes itself for the whole ring would
    /// acknowledge writes that no other rack gets.
    pub seeds: Option<Vec<Seed>>,
    /// Tells this run of the process from every other: letters, digits, `-` and `_`, at most
    /// [`dynomite_protocol::limits::MAX_INCARNATION`].
    pub incarnation: String,
}

impl Settings {
    /// The settings a configuration file asks for.
    pub fn from_config(config: &Config, incarnation: String) -> Self {
        let (host, port) = match &config.dyn_listen {
            Endpoint::Tcp(host, port) => (host.clone(), *port),
            Endpoint::Unix(path) => (path.clone(), 0),
        };
        let must_ask = config.seed_provider == SeedProvider::Florida && config.seeds.is_empty();
        Self {
            datacenter: config.datacenter.clone(),
            rack: config.rack.clone(),
            token: config.token,
            host,
            port,
            store: config.server.clone(),
            placement: config.placement,
            timeout: config.timeout,
            read_consistency: config.read_consistency,
            write_consistency: config.write_consistency,
            start_state: match config.start_state {
                StartState::Normal => RunState::Normal,
                StartState::Standby => RunState::Standby,
            },
            deterministic_writes: config.deterministic_writes,
            netflix_peers: config.netflix_peers,
            max_request_bytes: config.max_request_bytes,
            max_clients: config.max_client_connections,
            seeds: (!must_ask).then(|| config.seeds.clone()),
            incarnation,
        }
    }
}

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKind {
    /// A client, from this address (for `CLIENT LIST`).
    Client(String),
    /// Another node of the ring.
    Peer,
}

/// The engine takes no more connections of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections")]
pub struct Refused;

/// The proxy. See the crate's page for the path of a request.
#[derive(Debug)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) request_limits: Limits,
    pub(crate) topology: Topology<LinkId>,
    pub(crate) topology_known: bool,
    /// By [`LinkId`]; `None` where a peer was removed.
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) sessions: SlotMap<SessionId, Session>,
    pub(crate) clients: usize,
    pub(crate) clients_ever: u64,
    pub(crate) jobs: SlotMap<JobId, Job>,
    pub(crate) jobs_by_age: VecDeque<(Duration, JobId)>,
    pub(crate) job_bytes: usize,
    pub(crate) client_jobs: usize,
    pub(crate) partial_bytes: usize,
    pub(crate) state: RunState,
    pub(crate) held: HeldWrites,
    pub(crate) numbers: Numbers,
    pub(crate) cuts: Cuts,
    /// Peers of the own datacenter, connected to us, that do not number their writes.
    pub(crate) plain_sessions: usize,
    pub(crate) read_level: Consistency,
    pub(crate) write_level: Consistency,
    pub(crate) timeout_factor: u32,
    pub(crate) next_message: u64,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) listed: Vec<Conn>,
    /// Sessions to look at again before the current event ends.
    pub(crate) woken: Vec<SessionId>,
    pub(crate) stream_clock: StreamClock,
    pub(crate) counters: Counters,
    pub(crate) store_requests: StoreRequests,
    pub(crate) latency: Histogram,
    pub(crate) payload: Histogram,
    pub(crate) draining: bool,
    #[cfg(test)]
    pub(crate) without: Option<crate::protection::Protection>,
}

impl Engine {
    /// An engine that has not connected to anything yet; the first tick does.
    pub fn new(settings: Settings) -> Self {
        let own = Member {
            datacenter: settings.datacenter.clone(),
            rack: settings.rack.clone(),
            token: settings.token,
            node: LinkId::STORE,
        };
        let seeds = settings.seeds.clone();
        let mut engine = Self {
            request_limits: Limits {
                max_bytes: settings.max_request_bytes,
                max_args: MAX_ARGS,
            },
            topology: Topology::new(&own, &[]),
            topology_known: false,
            links: vec![Some(Link::new(settings.store.clone(), None, true))],
            sessions: SlotMap::with_key(),
            clients: 0,
            clients_ever: 0,
            jobs: SlotMap::with_key(),
            jobs_by_age: VecDeque::new(),
            job_bytes: 0,
            client_jobs: 0,
            partial_bytes: 0,
            state: settings.start_state,
            held: HeldWrites::default(),
            numbers: Numbers::new(&settings.incarnation),
            cuts: Cuts::default(),
            plain_sessions: 0,
            read_level: settings.read_consistency,
            write_level: settings.write_consistency,
            timeout_factor: 1,
            next_message: 1,
            outputs: VecDeque::new(),
            listed: Vec::new(),
            woken: Vec::new(),
            stream_clock: StreamClock::default(),
            counters: Counters::default(),
            store_requests: StoreRequests::default(),
            latency: Histogram::default(),
            payload: Histogram::default(),
            draining: false,
            #[cfg(test)]
            without: None,
            settings,
        };
        if let Some(seeds) = seeds {
            engine.handle_seeds(Now::default(), seeds);
        }
        engine
    }

    /// A connection was accepted.
    pub fn handle_accept(&mut self, kind: SessionKind) -> Result<SessionId, Refused> {
        if self.draining {
            return Err(Refused);
        }
        let role = match kind {
            SessionKind::Client(address) => {
                if self.clients >= self.settings.max_clients {
                    return Err(Refused);
                }
                self.clients += 1;
                self.clients_ever += 1;
                Role::Client(ClientState {
                    address,
                    number: self.clients_ever,
                    ..ClientState::default()
                })
            }
            SessionKind::Peer => {
                if self.sessions.len() - self.clients >= MAX_PEER_SESSIONS {
                    return Err(Refused);
                }
                Role::Peer(PeerState::default())
            }
        };
        Ok(self.sessions.insert(Session::new(role)))
    }

    /// Bytes arrived from a client or a connected peer.
    pub fn handle_session_bytes(&mut self, now: Now, id: SessionId, bytes: BytesMut) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.closing {
            return;
        }
        self.partial_bytes += bytes.len();
        if session.inbox.is_empty() {
            session.inbox = bytes;
        } else {
            session.inbox.extend_from_slice(&bytes);
        }
        self.woken.push(id);
        self.settle(now);
        if self.partial_bytes > MAX_PARTIAL_BYTES {
            self.abort(id);
        }
    }

    /// A client or peer sends nothing more, but may still read: it gets its answers.
    pub fn handle_session_eof(&mut self, now: Now, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            if session.is_client() {
                self.counters.client_eof += 1;
            } else {
                self.counters.dnode_client_eof += 1;
            }
            self.end_source(now, id);
            self.stop_reading(id);
            self.woken.push(id);
        }
        self.settle(now);
    }

    /// Nothing more comes from a coordinator over this connection.
    fn end_source(&mut self, now: Now, id: SessionId) {
        let peer = self.sessions.get(id).and_then(Session::peer);
        if let Some(PeerSpeaks::Source(source)) = peer.map(|peer| peer.speaks) {
            self.numbers.session_ended(now.since_start, source, id);
        }
    }

    /// A client or peer is gone. What it asked for goes on; nobody sees the answers.
    pub fn handle_session_closed(&mut self, now: Now, id: SessionId) {
        self.end_source(now, id);
        self.stop_reading(id);
        if let Some(session) = self.sessions.remove(id) {
            if session.is_client() {
                self.clients -= 1;
            }
            let speaks = session.peer().map(|peer| peer.speaks);
            self.plain_sessions -= usize::from(speaks == Some(PeerSpeaks::Plain));
            if !session.closed && !session.closing {
                if session.is_client() {
                    self.counters.client_err += 1;
                } else {
                    self.counters.dnode_client_err += 1;
                }
            }
        }
        self.settle(now);
    }

    /// The system took bytes of an [`Output::Send`].
    pub fn handle_sent(&mut self, now: Now, to: Conn, count: usize) {
        match to {
            Conn::Session(id) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.out.sent(count);
                    if session.paused {
                        self.woken.push(id);
                        self.settle(now);
                    }
                }
            }
            Conn::Link(id, attempt) => {
                if let Some(link) = self.link_mut(id).filter(|link| link.attempt == attempt) {
                    link.out.sent(count);
                }
            }
        }
    }

    /// Takes no more requests; every session closes when its answers have left.
    pub fn handle_drain(&mut self, now: Now) {
        self.draining = true;
        let ids: Vec<SessionId> = self.sessions.keys().collect();
        for id in ids {
            self.stop_reading(id);
            self.woken.push(id);
        }
        self.settle(now);
    }

    /// Whether nobody is connected any more.
    pub fn is_drained(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The next thing to do, or `None` until something happens.
    pub fn poll_output(&mut self) -> Option<Output> {
        while let Some(to) = self.listed.last().copied() {
            let out = match to {
                Conn::Session(id) => self.sessions.get_mut(id).map(|session| &mut session.out),
                Conn::Link(id, attempt) => self
                    .links
                    .get_mut(id.0 as usize)
                    .and_then(Option::as_mut)
                    .filter(|link| link.attempt == attempt)
                    .map(|link| &mut link.out),
            };
            if let Some(out) = out {
                if let Some(bytes) = out.pop() {
                    return Some(Output::Send { to, bytes });
                }
                out.listed = false;
            }
            self.listed.pop();
        }
        self.outputs.pop_front()
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.0 as usize)?.as_mut()
    }

    /// How long a request may take now.
    pub(crate) fn timeout(&self) -> Duration {
        self.settings.timeout * self.timeout_factor
    }

    /// Puts a connection on the list of those with something to send.
    pub(crate) fn list(&mut self, to: Conn) {
        let out = match to {
            Conn::Session(id) => self.sessions.get_mut(id).map(|session| &mut session.out),
            Conn::Link(id, _) => self
                .links
                .get_mut(id.0 as usize)
                .and_then(Option::as_mut)
                .map(|link| &mut link.out),
        };
        if let Some(out) = out.filter(|out| !out.listed) {
            out.listed = true;
            self.listed.push(to);
        }
    }

    /// Takes nothing more from a session; what it sent beyond its last whole request is dropped.
    pub(crate) fn stop_reading(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            self.partial_bytes -= session.inbox.len();
            session.inbox = BytesMut::new();
            session.closing = true;
        }
    }

    /// Ends a session without regard for what it was to be told.
    pub(crate) fn abort(&mut self, id: SessionId) {
        self.stop_reading(id);
        if let Some(session) = self.sessions.get_mut(id).filter(|session| !session.closed) {
            session.closed = true;
            session.out.clear();
            self.outputs.push_back(Output::Abort(id));
        }
    }

    /// Looks at every woken session until none is left: more requests may be taken, reading may
    /// pause or go on, the session may be at its end.
    pub(crate) fn settle(&mut self, now: Now) {
        while let Some(id) = self.woken.pop() {
            self.take_requests(now, id);
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            if session.out.unsent > MAX_OUTPUT_BYTES && session.in_flight() > 0 {
                self.abort(id);
            } else if session.closing && session.in_flight() == 0 && !session.closed {
                session.closed = true;
                self.outputs.push_back(Output::Close(id));
            }
        }
    }
}
