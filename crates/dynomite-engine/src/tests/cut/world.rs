//! Engines and stores whose messages take their time, and connections that break half-way.
//!
//! A connection that breaks loses what is on its way from some moment on, in each direction, and
//! each end learns of it at a moment of its own: until then it sends into the void, and the
//! acceptor may see the next connection before it sees the end of this one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::config::Endpoint;
use dynomite_protocol::resp::Request;
use dynomite_protocol::seeds::Seed;

use super::random::Random;
use super::store::{Store, StoreSession};
use crate::limits::{MAX_LINK_UNSENT_BYTES, TICK};
use crate::protection::Protection;
use crate::tests::world::{settings, token};
use crate::{
    Attempt, Conn, Cut, CutId, CutRefused, Engine, LinkId, Now, Output, RunState, SessionId,
    SessionKind, Settings,
};

pub(super) const RACKS: usize = 3;
/// Nodes of a rack; those with number 0 have the token that is looked at.
pub(super) const PER_RACK: usize = 2;
pub(super) const NODES: usize = RACKS * PER_RACK;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_millis(600);

/// A process that may be gone when something arrives for it.
type Process = (usize, u32);

#[derive(Debug, Clone, Copy)]
enum End {
    Engine(Process, Conn),
    Store(usize),
}

struct Wire {
    /// The one that connected, and the one that accepted.
    ends: [End; 2],
    is_broken: bool,
    /// When the last bytes arrive at each end.
    arrives: [Duration; 2],
    /// What arrives at each end from here on is lost.
    lost_from: [Option<Duration>; 2],
    store: StoreSession,
}

enum Event {
    Bytes(usize, usize, Bytes),
    Closed(usize, usize),
    Connect(Process, LinkId, Attempt, Endpoint),
    Connected(Process, LinkId, Attempt, usize),
    Tick(Process),
}

pub(super) struct Node {
    pub(super) engine: Option<Engine>,
    generation: u32,
    pub(super) store: Store,
    seed: Seed,
    settings: Settings,
    clients: BTreeMap<usize, SessionId>,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    /// What donors answered.
    pub(super) cuts: HashMap<(usize, CutId), Result<Box<Cut>, CutRefused>>,
    /// Pairs of nodes that cannot connect to each other.
    pub(super) apart: BTreeSet<(usize, usize)>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: HashMap<usize, Event>,
    next_event: usize,
    wires: Vec<Wire>,
    wire_of: HashMap<(Process, Conn), (usize, usize)>,
    /// Milliseconds a message takes at most, on most ways and on a few slow ones.
    delay: u64,
    slow: u64,
    /// Ways, by the two ends, on which messages are slow.
    slow_ways: BTreeSet<(usize, usize)>,
    without: Option<Protection>,
}

fn index(random: &mut Random) -> usize {
    usize::try_from(random.below(NODES as u64)).unwrap()
}

pub(super) fn is_counted(node: usize) -> bool {
    node.is_multiple_of(PER_RACK)
}

impl World {
    /// A ring in which `newcomer` has not got its data yet.
    pub(super) fn new(seed: u64, newcomer: Option<usize>, without: Option<Protection>) -> Self {
        let seeds: Vec<Seed> = (0..NODES)
            .map(|node| Seed {
                host: format!("n{node}"),
                port: 8101,
                rack: format!("r{}", node / PER_RACK),
                datacenter: "dc1".to_owned(),
                token: token(node % PER_RACK, PER_RACK),
            })
            .collect();
        let nodes = seeds
            .iter()
            .map(|seed| {
                let mut settings = settings(seed, &seeds);
                settings.timeout = TIMEOUT;
                Node {
                    engine: None,
                    generation: 0,
                    store: Store::new(&seed.host),
                    seed: seed.clone(),
                    settings,
                    clients: BTreeMap::new(),
                }
            })
            .collect();
        let mut random = Random(seed);
        let delay = random.pick(&[1, 4, 15]);
        let slow = random.pick(&[40, 120, 250]);
        let mut slow_ways = BTreeSet::new();
        for _ in 0..random.below(4) {
            slow_ways.insert((index(&mut random), index(&mut random)));
        }
        let mut world = Self {
            now: Duration::from_secs(1),
            random,
            nodes,
            cuts: HashMap::new(),
            apart: BTreeSet::new(),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next_event: 0,
            wires: Vec::new(),
            wire_of: HashMap::new(),
            delay,
            slow,
            slow_ways,
            without,
        };
        if let Some(node) = newcomer {
            world.nodes[node].settings.start_state = RunState::Standby;
            world.nodes[node].store.is_exposed = false;
        }
        for node in 0..NODES {
            world.start(node);
        }
        world
    }

    pub(super) fn clock(&self) -> Now {
        Now {
            since_start: self.now,
            unix_millis: 1_700_000_000_000,
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        let id = self.next_event;
        self.next_event += 1;
        self.events.insert(id, event);
        self.queue.push(Reverse((time, id as u64, id)));
    }

    /// Does all that happens up to a moment.
    pub(super) fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((time, _, id))) = self.queue.peek().copied()
            && time <= end
        {
            self.queue.pop();
            self.now = self.now.max(time);
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
            }
        }
        self.now = self.now.max(end);
    }

    fn engine(&mut self, (node, generation): Process) -> Option<&mut Engine> {
        let node = self.nodes.get_mut(node)?;
        node.engine
            .as_mut()
            .filter(|_| node.generation == generation)
    }

    fn happen(&mut self, event: Event) {
        let now = self.clock();
        match event {
            Event::Tick(process) => {
                if let Some(engine) = self.engine(process) {
                    engine.handle_tick(now);
                    self.at(now.since_start + TICK, Event::Tick(process));
                    self.drain(process);
                }
            }
            Event::Connect(process, link, attempt, endpoint) => {
                self.connect(process, link, attempt, &endpoint);
            }
            Event::Connected(process, link, attempt, wire) => {
                let wanted = self
                    .engine(process)
                    .is_some_and(|engine| engine.handle_link_up(now, link, attempt));
                if wanted {
                    self.drain(process);
                } else {
                    self.break_wire(wire);
                }
            }
            Event::Bytes(wire, to, bytes) => self.arrive(wire, to, &bytes),
            Event::Closed(wire, to) => self.tell_closed(wire, to),
        }
    }

    fn arrive(&mut self, wire: usize, to: usize, bytes: &Bytes) {
        let now = self.clock();
        if self.wires[wire].lost_from[to].is_some_and(|from| now.since_start >= from) {
            return;
        }
        match self.wires[wire].ends[to] {
            End::Store(node) => {
                let session = &mut self.wires[wire].store;
                let store = &mut self.nodes[node].store;
                let replies = session.receive(now.since_start, store, bytes);
                if !replies.is_empty() {
                    self.post(wire, 1 - to, replies.freeze());
                }
            }
            End::Engine(process, conn) => {
                if !self.wire_of.contains_key(&(process, conn)) {
                    return;
                }
                let bytes = BytesMut::from(&bytes[..]);
                if let Some(engine) = self.engine(process) {
                    match conn {
                        Conn::Session(id) => engine.handle_session_bytes(now, id, bytes),
                        Conn::Link(id, attempt) => {
                            engine.handle_link_bytes(now, id, attempt, bytes);
                        }
                    }
                }
                self.drain(process);
            }
        }
    }

    fn post(&mut self, wire: usize, to: usize, bytes: Bytes) {
        if self.wires[wire].is_broken {
            return;
        }
        let delay = match (self.wires[wire].ends[1 - to], self.wires[wire].ends[to]) {
            (End::Engine((from, _), _), End::Engine((to, _), _))
                if self.slow_ways.contains(&(from, to)) =>
            {
                self.slow
            }
            _ => self.delay,
        };
        let arrives = self.now + self.random.millis(delay);
        let arrives = arrives.max(self.wires[wire].arrives[to]);
        self.wires[wire].arrives[to] = arrives;
        self.at(arrives, Event::Bytes(wire, to, bytes));
    }

    fn drain(&mut self, process: Process) {
        while let Some(output) = self.engine(process).and_then(Engine::poll_output) {
            self.perform(process, output);
        }
    }

    fn perform(&mut self, process: Process, output: Output) {
        let now = self.clock();
        match output {
            Output::Send { to, bytes } => {
                if let Some(engine) = self.engine(process) {
                    engine.handle_sent(now, to, bytes.len());
                }
                if let Some(&(wire, end)) = self.wire_of.get(&(process, to)) {
                    self.post(wire, 1 - end, bytes);
                }
            }
            Output::Connect {
                link,
                attempt,
                endpoint,
            } => {
                let at = self.now + self.random.millis(self.delay);
                self.at(at, Event::Connect(process, link, attempt, endpoint));
            }
            Output::Disconnect { link, attempt } => {
                self.hang_up(process, Conn::Link(link, attempt));
            }
            Output::Abort(id) | Output::Close(id) => {
                self.hang_up(process, Conn::Session(id));
                if let Some(engine) = self.engine(process) {
                    engine.handle_session_closed(now, id);
                }
            }
            Output::Cut { id, outcome } => {
                self.cuts.insert((process.0, id), outcome);
            }
            Output::PauseRead(_) | Output::ResumeRead(_) => {}
        }
    }

    /// One end is given up by its own engine; the other one learns of it.
    fn hang_up(&mut self, process: Process, conn: Conn) {
        if let Some((wire, end)) = self.wire_of.remove(&(process, conn)) {
            self.wires[wire].is_broken = true;
            let at = self.wires[wire].arrives[1 - end].max(self.now) + self.random.millis(20);
            self.at(at, Event::Closed(wire, 1 - end));
        }
    }

    fn connect(&mut self, process: Process, link: LinkId, attempt: Attempt, to: &Endpoint) {
        let now = self.clock();
        let accepted = match to {
            Endpoint::Unix(_) => {
                let exposed = self.nodes[process.0].store.is_exposed;
                exposed.then_some(End::Store(process.0))
            }
            Endpoint::Tcp(host, _) => self.accept(process.0, host),
        };
        let Some(accepted) = accepted else {
            if let Some(engine) = self.engine(process) {
                engine.handle_link_down(now, link, attempt);
            }
            self.drain(process);
            return;
        };
        let own = Conn::Link(link, attempt);
        let wire = self.wires.len();
        self.wires.push(Wire {
            ends: [End::Engine(process, own), accepted],
            is_broken: false,
            arrives: [Duration::ZERO; 2],
            lost_from: [None; 2],
            store: StoreSession::default(),
        });
        self.wire_of.insert((process, own), (wire, 0));
        if let End::Engine(process, conn) = accepted {
            self.wire_of.insert((process, conn), (wire, 1));
        }
        let at = self.now + self.random.millis(self.delay);
        self.at(at, Event::Connected(process, link, attempt, wire));
    }

    fn accept(&mut self, from: usize, host: &str) -> Option<End> {
        let to = self.nodes.iter().position(|node| node.seed.host == host)?;
        if self.are_apart(from, to) {
            return None;
        }
        let process = (to, self.nodes[to].generation);
        let id = self
            .engine(process)?
            .handle_accept(SessionKind::Peer)
            .ok()?;
        Some(End::Engine(process, Conn::Session(id)))
    }

    fn are_apart(&self, a: usize, b: usize) -> bool {
        self.apart.contains(&(a.min(b), a.max(b)))
    }

    fn tell_closed(&mut self, wire: usize, to: usize) {
        let now = self.clock();
        let End::Engine(process, conn) = self.wires[wire].ends[to] else {
            return;
        };
        if self.wire_of.remove(&(process, conn)).is_none() {
            return;
        }
        if let Some(engine) = self.engine(process) {
            match conn {
                Conn::Session(id) => engine.handle_session_closed(now, id),
                Conn::Link(id, attempt) => engine.handle_link_down(now, id, attempt),
            }
        }
        self.drain(process);
    }

    fn break_wire(&mut self, wire: usize) {
        if std::mem::replace(&mut self.wires[wire].is_broken, true) {
            return;
        }
        for end in 0..2 {
            let from = self.now + self.random.millis(self.delay);
            self.wires[wire].lost_from[end] = Some(from);
            let slow = self.random.pick(&[1, 5, 40, 300]);
            let learns = from + self.random.millis(slow);
            self.at(learns, Event::Closed(wire, end));
        }
    }

    fn break_wires(&mut self, chosen: impl Fn(&[End; 2]) -> bool) {
        for wire in 0..self.wires.len() {
            if chosen(&self.wires[wire].ends) {
                self.break_wire(wire);
            }
        }
    }

    /// The connections between two nodes break, in both directions or in one.
    pub(super) fn break_between(&mut self, from: usize, to: usize, both: bool) {
        self.break_wires(|ends| match ends {
            [End::Engine((a, _), _), End::Engine((b, _), _)] => {
                (*a, *b) == (from, to) || (both && (*a, *b) == (to, from))
            }
            _ => false,
        });
    }

    pub(super) fn break_store(&mut self, node: usize) {
        self.break_wires(|ends| matches!(ends[1], End::Store(of) if of == node));
    }

    /// The engine's process ends at once.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].engine = None;
        self.nodes[node].clients.clear();
        self.break_wires(|ends| {
            let is_of = |end: &End| match end {
                End::Engine((of, _), _) | End::Store(of) => *of == node,
            };
            ends.iter().any(is_of)
        });
    }

    pub(super) fn start(&mut self, node: usize) {
        let without = self.without;
        let place = &mut self.nodes[node];
        place.generation += 1;
        place.settings.incarnation = format!("n{node}-{}", place.generation);
        let mut engine = Engine::new(place.settings.clone());
        engine.without = without;
        place.engine = Some(engine);
        let process = (node, place.generation);
        let at = self.now + self.random.millis(20);
        self.at(at, Event::Tick(process));
    }

    /// A link of a node takes no more, as if the other side were too slow, or takes it again.
    pub(super) fn set_congested(&mut self, node: usize, to: usize, congested: bool) {
        let host = self.nodes[to].seed.host.clone();
        let Some(engine) = &mut self.nodes[node].engine else {
            return;
        };
        let links = engine.links.iter_mut().flatten();
        for link in links {
            if link.peer.as_ref().is_some_and(|peer| peer.host == host) {
                link.out.unsent = if congested { MAX_LINK_UNSENT_BYTES } else { 0 };
            }
        }
    }

    /// A client of a node sends a request.
    pub(super) fn write(&mut self, client: usize, node: usize, words: &[&str]) {
        let now = self.clock();
        let process = (node, self.nodes[node].generation);
        let known = self.nodes[node].clients.get(&client).copied();
        let Some(engine) = self.engine(process) else {
            return;
        };
        let kind = SessionKind::Client("client".to_owned());
        let Some(id) = known.or_else(|| engine.handle_accept(kind).ok()) else {
            return;
        };
        let request = Request::from_args(words);
        engine.handle_session_bytes(now, id, BytesMut::from(&request.raw()[..]));
        self.nodes[node].clients.insert(client, id);
        self.drain(process);
    }

    /// Something is done to an engine, and what comes of it happens.
    pub(super) fn with_engine<T>(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Engine, Now) -> T,
    ) -> Option<T> {
        let now = self.clock();
        let process = (node, self.nodes[node].generation);
        let result = act(self.engine(process)?, now);
        self.drain(process);
        Some(result)
    }
}
