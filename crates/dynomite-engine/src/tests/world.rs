//! Engines, stores and clients wired together, with a clock of their own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::config::Endpoint;
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::hash::Placement;
use dynomite_protocol::resp::Request;
use dynomite_protocol::seeds::Seed;
use dynomite_protocol::token::Token;

use super::store::{Store, StoreSession};
use crate::limits::TICK;
use crate::{
    Attempt, Conn, Engine, LinkId, Now, Output, RunState, SessionId, SessionKind, Settings,
};

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Engine(usize, Conn),
    Store(usize, u32),
    Client(usize),
}

pub(super) struct Node {
    pub(super) seed: Seed,
    pub(super) engine: Engine,
    pub(super) store: Store,
    pub(super) store_is_up: bool,
    /// The process takes nothing in, as if it were stopped.
    pub(super) frozen: bool,
    pub(super) is_up: bool,
    settings: Settings,
}

#[derive(Default)]
struct Client {
    received: BytesMut,
    closed: bool,
    reading: bool,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    clients: Vec<Client>,
    wires: HashMap<End, End>,
    store_sessions: BTreeMap<u32, StoreSession>,
    in_transit: VecDeque<(End, Bytes)>,
    now: Duration,
    /// Bytes are delivered in pieces of this size; 0 keeps them whole.
    pub(super) piece: usize,
    /// Pairs of nodes between which nothing arrives.
    pub(super) cut: Vec<(usize, usize)>,
}

pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Tokens of a rack of `count` nodes.
pub(super) fn token(index: usize, count: usize) -> Token {
    let step = u32::MAX / u32::try_from(count).unwrap();
    Token(step * u32::try_from(index).unwrap() + 1000)
}

/// A ring of one datacenter.
pub(super) fn ring(racks: usize, nodes: usize) -> World {
    World::new(&[("dc1", racks)], nodes)
}

impl World {
    pub(super) fn new(datacenters: &[(&str, usize)], nodes_per_rack: usize) -> Self {
        let mut seeds = Vec::new();
        for (datacenter, racks) in datacenters {
            for rack in 0..*racks {
                for index in 0..nodes_per_rack {
                    seeds.push(Seed {
                        host: format!("{datacenter}-r{rack}-{index}"),
                        port: 8101,
                        rack: format!("r{rack}"),
                        datacenter: (*datacenter).to_owned(),
                        token: token(index, nodes_per_rack),
                    });
                }
            }
        }
        Self::with_seeds(&seeds, |_| {})
    }

    pub(super) fn with_seeds(seeds: &[Seed], adjust: impl Fn(&mut Settings)) -> Self {
        let nodes = seeds
            .iter()
            .map(|seed| {
                let mut settings = settings(seed, seeds);
                adjust(&mut settings);
                Node {
                    seed: seed.clone(),
                    engine: Engine::new(settings.clone()),
                    store: Store::default(),
                    store_is_up: true,
                    frozen: false,
                    is_up: true,
                    settings,
                }
            })
            .collect();
        let mut world = Self {
            nodes,
            clients: Vec::new(),
            wires: HashMap::new(),
            store_sessions: BTreeMap::new(),
            in_transit: VecDeque::new(),
            now: Duration::ZERO,
            piece: 0,
            cut: Vec::new(),
        };
        world.tick();
        world.run();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now {
            since_start: self.now,
            unix_millis: 1_700_000_000_000 + u64::try_from(self.now.as_millis()).unwrap(),
        }
    }

    pub(super) fn connect(&mut self, node: usize) -> usize {
        let kind = SessionKind::Client("test".to_owned());
        let id = self.nodes[node]
            .engine
            .handle_accept(kind)
            .expect("room for a client");
        self.clients.push(Client {
            reading: true,
            ..Client::default()
        });
        let client = self.clients.len() - 1;
        self.wire(End::Client(client), End::Engine(node, Conn::Session(id)));
        client
    }

    fn wire(&mut self, a: End, b: End) {
        self.wires.insert(a, b);
        self.wires.insert(b, a);
    }

    pub(super) fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(&to) = self.wires.get(&End::Client(client)) {
            self.post(to, Bytes::copy_from_slice(bytes));
        }
    }

    /// What a client has received since it was last asked.
    pub(super) fn received(&mut self, client: usize) -> String {
        let bytes = self.clients[client].received.split();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn is_closed(&self, client: usize) -> bool {
        self.clients[client].closed
    }

    /// A client stops taking what it is sent, or goes on.
    pub(super) fn set_reading(&mut self, client: usize, reading: bool) {
        self.clients[client].reading = reading;
    }

    /// Sends a request given as words, and returns the answer once everything is at rest.
    pub(super) fn ask(&mut self, client: usize, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        self.send(client, Request::from_args(&words).raw());
        self.run();
        self.received(client)
    }

    /// A new client's request.
    pub(super) fn once(&mut self, node: usize, words: &str) -> String {
        let client = self.connect(node);
        let answer = self.ask(client, words);
        self.hang_up(client);
        answer
    }

    /// Which nodes hold a key.
    pub(super) fn holders(&self, key: &str) -> Vec<usize> {
        let holds = |node: &Node| node.store.data.contains_key(key.as_bytes());
        (0..self.nodes.len())
            .filter(|&index| holds(&self.nodes[index]))
            .collect()
    }

    fn post(&mut self, to: End, bytes: Bytes) {
        if self.piece == 0 {
            self.in_transit.push_back((to, bytes));
            return;
        }
        for piece in bytes.chunks(self.piece) {
            self.in_transit
                .push_back((to, Bytes::copy_from_slice(piece)));
        }
    }

    /// Lets everything happen that happens without time passing.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        loop {
            for node in 0..self.nodes.len() {
                self.drain(node);
            }
            let mut kept = VecDeque::new();
            let mut moved = false;
            while let Some((to, bytes)) = self.in_transit.pop_front() {
                if self.is_stuck(to) {
                    kept.push_back((to, bytes));
                    continue;
                }
                moved = true;
                self.deliver(to, &bytes);
            }
            self.in_transit = kept;
            if !moved {
                return;
            }
            steps += 1;
            assert!(steps < 100_000, "the ring never comes to rest");
        }
    }

    fn is_stuck(&self, to: End) -> bool {
        let node_of = |end: End| match end {
            End::Engine(node, _) | End::Store(node, _) => Some(node),
            End::Client(_) => None,
        };
        let from = self.wires.get(&to).copied().and_then(node_of);
        match (from, node_of(to)) {
            (_, None) => false,
            (from, Some(node)) => {
                self.nodes[node].frozen
                    || from.is_some_and(|from| {
                        self.cut.contains(&(from, node)) || self.cut.contains(&(node, from))
                    })
            }
        }
    }

    fn deliver(&mut self, to: End, bytes: &Bytes) {
        let now = self.now();
        match to {
            End::Client(client) => self.clients[client].received.extend_from_slice(bytes),
            End::Store(node, id) => {
                let Some(session) = self.store_sessions.get_mut(&id) else {
                    return;
                };
                let replies = session.receive(&mut self.nodes[node].store, bytes);
                if let Some(&back) = self.wires.get(&to) {
                    for reply in replies {
                        self.post(back, reply);
                    }
                }
            }
            End::Engine(node, Conn::Session(id)) => {
                let bytes = BytesMut::from(&bytes[..]);
                self.nodes[node].engine.handle_session_bytes(now, id, bytes);
            }
            End::Engine(node, Conn::Link(link, attempt)) => {
                let bytes = BytesMut::from(&bytes[..]);
                self.nodes[node]
                    .engine
                    .handle_link_bytes(now, link, attempt, bytes);
            }
        }
    }

    fn drain(&mut self, node: usize) {
        if self.nodes[node].frozen || !self.nodes[node].is_up {
            return;
        }
        while let Some(output) = self.nodes[node].engine.poll_output() {
            self.perform(node, output);
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        let now = self.now();
        match output {
            Output::Send { to, bytes } => {
                let Some(&peer) = self.wires.get(&End::Engine(node, to)) else {
                    return;
                };
                let takes = match peer {
                    End::Client(client) => self.clients[client].reading,
                    _ => true,
                };
                if takes {
                    self.nodes[node].engine.handle_sent(now, to, bytes.len());
                }
                self.post(peer, bytes);
            }
            Output::PauseRead(_) | Output::ResumeRead(_) | Output::Cut { .. } => {}
            Output::Close(id) | Output::Abort(id) => {
                self.close(End::Engine(node, Conn::Session(id)));
            }
            Output::Connect {
                link,
                attempt,
                endpoint,
            } => self.open(node, link, attempt, &endpoint),
            Output::Disconnect { link, attempt } => {
                self.close(End::Engine(node, Conn::Link(link, attempt)));
            }
        }
    }

    fn open(&mut self, node: usize, link: LinkId, attempt: Attempt, endpoint: &Endpoint) {
        let now = self.now();
        let own = End::Engine(node, Conn::Link(link, attempt));
        let reached = match endpoint {
            Endpoint::Unix(_) => self.nodes[node].store_is_up.then(|| {
                let id = self
                    .store_sessions
                    .last_key_value()
                    .map_or(0, |(id, _)| id + 1);
                self.store_sessions.insert(id, StoreSession::default());
                End::Store(node, id)
            }),
            Endpoint::Tcp(host, _) => self.accept_at(node, host),
        };
        match reached {
            Some(end) => {
                self.wire(own, end);
                assert!(self.nodes[node].engine.handle_link_up(now, link, attempt));
            }
            None => self.nodes[node].engine.handle_link_down(now, link, attempt),
        }
    }

    fn accept_at(&mut self, from: usize, host: &str) -> Option<End> {
        let to = self
            .nodes
            .iter()
            .position(|node| node.seed.host == host && node.is_up)?;
        if self.cut.contains(&(from, to)) || self.cut.contains(&(to, from)) {
            return None;
        }
        let id = self.nodes[to]
            .engine
            .handle_accept(SessionKind::Peer)
            .ok()?;
        Some(End::Engine(to, Conn::Session(id)))
    }

    /// Ends a connection; both sides learn of it.
    fn close(&mut self, end: End) {
        let Some(other) = self.wires.remove(&end) else {
            return;
        };
        self.wires.remove(&other);
        // What was sent before the end still arrives.
        let (arriving, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.in_transit)
            .into_iter()
            .partition(|(to, _)| *to == other);
        self.in_transit = rest;
        if !matches!(other, End::Engine(..)) {
            for (to, bytes) in arriving {
                self.deliver(to, &bytes);
            }
        }
        self.tell_closed(end);
        self.tell_closed(other);
    }

    fn tell_closed(&mut self, end: End) {
        let now = self.now();
        match end {
            End::Client(client) => self.clients[client].closed = true,
            End::Store(_, id) => {
                self.store_sessions.remove(&id);
            }
            End::Engine(node, Conn::Session(id)) => {
                self.nodes[node].engine.handle_session_closed(now, id);
            }
            End::Engine(node, Conn::Link(link, attempt)) => {
                self.nodes[node].engine.handle_link_down(now, link, attempt);
            }
        }
    }

    /// Every connection of a node, or of its store, breaks.
    fn break_connections(&mut self, of_node: usize, store_only: bool) {
        let ends: Vec<End> = self
            .wires
            .keys()
            .filter(|end| match end {
                End::Store(node, _) => *node == of_node,
                End::Engine(node, _) => *node == of_node && !store_only,
                End::Client(_) => false,
            })
            .copied()
            .collect();
        for end in ends {
            self.close(end);
        }
    }

    /// A client goes away.
    pub(super) fn hang_up(&mut self, client: usize) {
        self.close(End::Client(client));
    }

    pub(super) fn stop_store(&mut self, node: usize) {
        self.nodes[node].store_is_up = false;
        self.break_connections(node, true);
    }

    pub(super) fn start_store(&mut self, node: usize) {
        self.nodes[node].store_is_up = true;
    }

    /// The engine of a node dies; its store stays.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].is_up = false;
        self.break_connections(node, false);
        self.run();
    }

    pub(super) fn start(&mut self, node: usize) {
        self.nodes[node].settings.incarnation += "-again";
        self.nodes[node].engine = Engine::new(self.nodes[node].settings.clone());
        self.nodes[node].is_up = true;
    }

    pub(super) fn set_state(&mut self, node: usize, state: RunState) {
        let now = self.now();
        self.nodes[node].engine.handle_state(now, state);
        self.run();
    }

    pub(super) fn set_seeds(&mut self, node: usize, seeds: Vec<Seed>) {
        let now = self.now();
        self.nodes[node].engine.handle_seeds(now, seeds);
        self.run();
    }

    pub(super) fn set_consistency(&mut self, level: Consistency) {
        for node in &mut self.nodes {
            node.engine.set_read_consistency(level);
            node.engine.set_write_consistency(level);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        for node in self
            .nodes
            .iter_mut()
            .filter(|node| node.is_up && !node.frozen)
        {
            node.engine.handle_tick(now);
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.tick();
            self.run();
        }
    }

    /// Does what a node wants done, for tests that look at its outputs themselves.
    pub(super) fn perform_for_test(&mut self, node: usize, output: Output) {
        self.perform(node, output);
    }

    /// Delivers what is on its way, for tests that look at outputs themselves.
    pub(super) fn deliver_for_test(&mut self) {
        while let Some((to, bytes)) = self.in_transit.pop_front() {
            self.deliver(to, &bytes);
        }
    }

    /// The session a client has at its node.
    pub(super) fn session_of(&self, client: usize) -> Option<(usize, SessionId)> {
        match self.wires.get(&End::Client(client)) {
            Some(End::Engine(node, Conn::Session(id))) => Some((*node, *id)),
            _ => None,
        }
    }
}

pub(super) fn settings(own: &Seed, seeds: &[Seed]) -> Settings {
    Settings {
        datacenter: own.datacenter.clone(),
        rack: own.rack.clone(),
        token: own.token,
        host: own.host.clone(),
        port: own.port,
        store: Endpoint::Unix("/store".to_owned()),
        placement: Placement::default(),
        timeout: TIMEOUT,
        read_consistency: Consistency::DcOne,
        write_consistency: Consistency::DcOne,
        start_state: RunState::Normal,
        deterministic_writes: true,
        netflix_peers: false,
        max_request_bytes: 1024 * 1024,
        max_clients: 100,
        seeds: Some(seeds.to_vec()),
        incarnation: own.host.replace('.', "-"),
    }
}
