//! A pod that runs: a real life around a made-up store, engine and launchers.

use std::collections::{BTreeMap, VecDeque};

use dynomite_api::contract::{
    DesiredMark, EngineFacts, EngineState, Grant, NodeDesired, NodePhase, NodeReport, ProofKind,
    Received, StoreRole,
};
use dynomite_lifecycle::{
    Beginning, Effect, EngineObservation, EngineSight, Event, Lifecycle, Order, OrderId, Outline,
    PingAnswer, ProcessEvent, ProcessName, Record, Refusal, StoreObservation, Told, Word, accept,
};
use jiff::Timestamp;

use crate::processes::{Engine, Store};
use crate::writes::Bits;

/// What lies on a node's data volume.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The last desired document.
    pub desired: Option<NodeDesired>,
    /// What the sidecar remembers.
    pub record: Record,
    /// The store's files.
    pub files: Bits,
}

/// What is left out of a world, to see that its oracles notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Without {
    /// Nothing.
    #[default]
    Nothing,
    /// The engine finds the store whatever is proven.
    Proof,
    /// Any document is taken, however old, and the report does not say which.
    OrderOfDocuments,
    /// The word to serve is in every document.
    ServeGate,
    /// Pods are replaced two at a time.
    Headroom,
    /// Waits are left out of the status.
    Reasons,
    /// Every document permits to keep what the store has.
    Grants,
    /// Nobody hears what nodes have received.
    Numbers,
    /// What is gone for good is not replaced.
    Replacement,
    /// Nodes are not told to stay out.
    Holds,
    /// A sidecar that starts again has forgotten what a person stopped.
    Told,
    /// A sidecar that runs goes by the clock of its machine when that jumps.
    SteadyClock,
}

/// Orders that were given and not yet carried out.
type Orders = VecDeque<(u64, OrderId, Order)>;

/// A pod whose containers run, and what lives in it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each answers a question of its own"
)]
pub struct Node {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Its address.
    pub address: String,
    /// Its life; `None` while the sidecar starts.
    pub life: Option<Box<Lifecycle>>,
    /// When a sidecar that is down comes back, milliseconds.
    pub sidecar_at: u64,
    /// The store's process.
    pub store: Option<Store>,
    /// The engine's process.
    pub engine: Option<Engine>,
    /// Whether each launcher runs, store first.
    pub launchers: [bool; 2],
    /// When launchers that are down come back, milliseconds.
    pub launchers_at: [u64; 2],
    /// Whether the store's socket lies where the engine looks.
    pub exposed: bool,
    /// The data volume.
    pub disk: Disk,
    /// Which document it holds.
    mark: Option<DesiredMark>,
    /// What was written without waiting and is not on disk yet.
    unsaved: Option<Record>,
    orders: Orders,
    /// When store and engine are asked next, milliseconds.
    pub look_at: u64,
    /// When the operator was last heard, milliseconds.
    pub heard_at: Option<u64>,
    /// Addresses of the peers as the engine has them, by node.
    pub peers: BTreeMap<String, String>,
    /// When they are read again, milliseconds.
    pub seeds_at: u64,
    /// Since when the node is in its phase.
    since: (NodePhase, Timestamp),
    /// Since when the pod is told to end, milliseconds.
    pub terminating: Option<u64>,
    /// Whether the sidecar has ended after the others.
    pub exited: bool,
    /// Whether the engine starts NORMAL, as Netflix's does, or in standby.
    pub starts_normal: bool,
    /// What is left out.
    pub without: Without,
    /// How long a store reads its files, milliseconds.
    pub loading_ms: u64,
    /// Whether its engine numbers writes.
    pub numbers: bool,
    /// How far its clock is off, milliseconds: set when the sidecar starts, which
    /// counts on from there by itself.
    pub clock_ms: i64,
    starts: u64,
    /// What happened, for the transcript.
    pub log: Vec<String>,
}

/// A moment of the virtual time.
pub fn moment(ms: u64) -> Timestamp {
    shown(ms, 0)
}

/// The same as a clock shows it that is off by so many milliseconds.
pub fn shown(ms: u64, off_ms: i64) -> Timestamp {
    let base = 1_800_000_000_000;
    let shown = base + i64::try_from(ms).unwrap_or(0) + off_ms;
    Timestamp::from_millisecond(shown).unwrap_or_default()
}

const PROCESSES: [ProcessName; 2] = [ProcessName::Store, ProcessName::Engine];

fn index(name: ProcessName) -> usize {
    match name {
        ProcessName::Store => 0,
        ProcessName::Engine => 1,
    }
}

impl Node {
    /// A pod whose containers are about to start.
    pub fn new(name: &str, uid: &str, address: String, disk: Disk, now: u64) -> Self {
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            address,
            life: None,
            sidecar_at: now,
            store: None,
            engine: None,
            launchers: [false; 2],
            launchers_at: [now; 2],
            exposed: false,
            mark: disk.desired.as_ref().map(mark_of),
            disk,
            unsaved: None,
            orders: VecDeque::new(),
            look_at: now,
            heard_at: None,
            peers: BTreeMap::new(),
            seeds_at: now,
            since: (NodePhase::Starting, moment(now)),
            terminating: None,
            exited: false,
            starts_normal: true,
            without: Without::Nothing,
            loading_ms: 0,
            numbers: false,
            clock_ms: 0,
            starts: 0,
            log: Vec::new(),
        }
    }

    /// The time by the sidecar's clock.
    pub fn clock(&self, now: u64) -> Timestamp {
        shown(now, self.clock_ms)
    }

    /// Tells the life something and does what it says at once, orders excepted.
    pub fn send(&mut self, now: u64, event: Event) {
        let clock = self.clock(now);
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(life) = &mut self.life else { return };
            for effect in life.handle(clock, event) {
                events.extend(self.carry_out(now, effect));
            }
        }
        self.note_phase(now);
    }

    fn note_phase(&mut self, now: u64) {
        let Some(outline) = self.outline(now) else {
            return;
        };
        if outline.phase != self.since.0 {
            let name = &self.name;
            let line = format!("{name} is {:?} {}", outline.phase, outline.message);
            self.log.push(line);
            self.since = (outline.phase, self.clock(now));
        }
    }

    fn carry_out(&mut self, now: u64, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Render => return Some(Event::Rendered(Ok(()))),
            Effect::Start(name) => return self.start(now, name),
            Effect::Stop { process, .. } => return self.stop(process),
            Effect::Withdraw => self.exposed = (self.without == Without::Proof) && self.exposed,
            // The model's donors never number their writes, so nothing holds a stream.
            Effect::OpenStream | Effect::EndProviding => {}
            Effect::Save(record) => self.unsaved = Some(*record),
            Effect::Order(id, Order::Expose) => {
                if self.store.is_none() {
                    return Some(Event::Failed(id, "no socket".to_owned()));
                }
                self.exposed = true;
                return Some(Event::Done(id));
            }
            Effect::Order(id, order) => self.orders.push_back((now + 10, id, order)),
            Effect::Note(note) => {
                let name = &self.name;
                self.log
                    .push(format!("{name} {}: {}", note.reason, note.message));
            }
            Effect::Exit => self.exited = true,
        }
        None
    }

    fn start(&mut self, now: u64, name: ProcessName) -> Option<Event> {
        if !self.launchers[index(name)] {
            return None;
        }
        self.starts += 1;
        let incarnation = format!("{}-{}-{}", self.uid, name.name(), self.starts);
        match name {
            ProcessName::Store if self.store.is_none() => {
                let loaded = now + self.loading_ms;
                self.store = Some(Store::new(incarnation, self.disk.files.clone(), loaded));
                self.exposed |= self.without == Without::Proof;
            }
            ProcessName::Engine if self.engine.is_none() => {
                let state = if self.starts_normal {
                    EngineState::Normal
                } else {
                    EngineState::Standby
                };
                self.engine = Some(Engine::new(incarnation, state));
            }
            _ => {}
        }
        self.started(name)
    }

    fn started(&self, name: ProcessName) -> Option<Event> {
        let incarnation = match name {
            ProcessName::Store => self.store.as_ref()?.run_id.clone(),
            ProcessName::Engine => self.engine.as_ref()?.incarnation.clone(),
        };
        let event = ProcessEvent::Started {
            pid: 7,
            incarnation,
            starts: self.starts,
        };
        Some(Event::Process(name, event))
    }

    fn stop(&mut self, name: ProcessName) -> Option<Event> {
        if !self.end_process(name) {
            return None;
        }
        let how = "stopped".to_owned();
        Some(Event::Process(name, ProcessEvent::Exited { how }))
    }

    /// The process is no more; whether it ran.
    fn end_process(&mut self, name: ProcessName) -> bool {
        match name {
            ProcessName::Store => {
                let Some(store) = self.store.take() else {
                    return false;
                };
                let persists = self.life.as_ref().and_then(|life| life.desired());
                let none = dynomite_api::contract::Persistence::None;
                if persists.is_some_and(|desired| desired.store.persistence != none) {
                    self.disk.files = store.has;
                }
                true
            }
            ProcessName::Engine => self.engine.take().is_some(),
        }
    }

    /// A process dies, and its launcher says so.
    pub fn kill(&mut self, now: u64, name: ProcessName) {
        if self.end_process(name) {
            let how = "signal 9".to_owned();
            self.send(now, Event::Process(name, ProcessEvent::Exited { how }));
        }
    }

    /// A person stops or starts a process by one of the old REST calls.
    pub fn told(&mut self, now: u64, word: Word) {
        let by = "dynomite-admin".to_owned();
        self.send(now, Event::Told { word, by });
    }

    /// Whether a process runs.
    pub fn runs(&self, name: ProcessName) -> bool {
        match name {
            ProcessName::Store => self.store.is_some(),
            ProcessName::Engine => self.engine.is_some(),
        }
    }

    /// A container goes, launcher and process, and comes back at a time.
    pub fn container_goes(&mut self, now: u64, name: ProcessName, back_at: u64) {
        self.end_process(name);
        self.launchers[index(name)] = false;
        self.launchers_at[index(name)] = back_at;
        self.send(now, Event::Process(name, ProcessEvent::LauncherGone));
    }

    /// The sidecar crashes: what it has not written is lost, the processes go on.
    pub fn sidecar_crashes(&mut self, back_at: u64) {
        self.life = None;
        if self.without == Without::Told {
            self.disk.record.told = Told::default();
        }
        self.orders.clear();
        self.unsaved = None;
        self.heard_at = None;
        self.sidecar_at = back_at;
    }

    /// Everything in the pod is gone at once; the disk is what stays.
    pub fn into_disk(mut self) -> Disk {
        self.end_process(ProcessName::Store);
        self.disk
    }

    /// Brings back what is down and due, containers only once the files are there.
    pub fn come_back(&mut self, now: u64) {
        if self.life.is_none() && now >= self.sidecar_at && !self.exited {
            let beginning = Beginning {
                pod_uid: self.uid.clone(),
                desired: self.disk.desired.clone(),
                record: self.disk.record.clone(),
                exposed: self.exposed,
            };
            self.life = Some(Box::new(Lifecycle::new(beginning)));
            self.send(now, Event::Tick);
            for name in PROCESSES {
                if self.launchers[index(name)] {
                    self.launcher_speaks(now, name);
                }
            }
        }
        let prepared = self.life.as_ref().is_some_and(|life| life.is_prepared());
        for name in PROCESSES {
            let i = index(name);
            let due = prepared && self.terminating.is_none() && now >= self.launchers_at[i];
            if !self.launchers[i] && due {
                self.launchers[i] = true;
                self.launcher_speaks(now, name);
            }
        }
    }

    fn launcher_speaks(&mut self, now: u64, name: ProcessName) {
        let started = self.started(name);
        let running = started.is_some();
        self.send(
            now,
            Event::Process(name, ProcessEvent::LauncherUp { running }),
        );
        if let Some(started) = started {
            self.send(now, started);
        }
    }

    /// A document arrives: taken as a real sidecar takes it.
    pub fn assign(&mut self, now: u64, given: &NodeDesired) -> Result<(), Refusal> {
        self.heard_at = Some(now);
        if self.without != Without::OrderOfDocuments {
            accept(&self.uid, self.disk.desired.as_ref(), given)?;
        }
        let mut given = given.clone();
        if self.without == Without::ServeGate {
            given.serve = true;
        }
        if self.without == Without::Grants {
            let pod_uid = self.uid.clone();
            given.grant = Some(Grant::AcceptLocal { pod_uid });
        }
        self.mark = Some(mark_of(&given));
        if self.without == Without::Holds {
            given.hold = None;
        }
        self.disk.desired = Some(given.clone());
        self.send(now, Event::Desired(Box::new(given)));
        Ok(())
    }

    /// What was ordered and is due now: donors are asked by the world.
    pub fn due_orders(&mut self, now: u64) -> Vec<(OrderId, Order)> {
        if let Some(record) = self.unsaved.take() {
            self.disk.record = record;
        }
        let mut due = Vec::new();
        while self.orders.front().is_some_and(|(at, ..)| *at <= now) {
            due.extend(self.orders.pop_front().map(|(_, id, order)| (id, order)));
        }
        due
    }

    /// Carries out what needs nobody else.
    pub fn obey(&mut self, id: OrderId, order: Order) -> Event {
        let failed = |why: &str| Event::Failed(id, why.to_owned());
        match order {
            Order::Record(record) => self.disk.record = *record,
            Order::CopyDonor => {
                let Some(store) = &mut self.store else {
                    return failed("no store");
                };
                store.role = StoreRole::Replica;
                store.link = None;
            }
            Order::Detach => match &mut self.store {
                Some(store) => store.detach(),
                None => return failed("no store"),
            },
            Order::EngineState(state) => match &mut self.engine {
                Some(engine) => engine.state = state,
                None => return failed("no engine"),
            },
            Order::Consistency(_) if self.engine.is_none() => return failed("no engine"),
            Order::StoreSetting { .. } if self.store.is_none() => return failed("no store"),
            Order::Consistency(_) | Order::StoreSetting { .. } | Order::Expose => {}
            Order::ReadDonor | Order::AskPeers => return failed("the world asks others"),
            // The model's files are never spoilt.
            Order::SetAside
            | Order::PauseStream
            | Order::ReadCut
            | Order::CheckCapture(_)
            | Order::LetThrough { .. }
            | Order::CommitCapture(_) => return failed("the model numbers no writes"),
            Order::SavePrevious { .. } | Order::Provide { .. } => {
                return failed("the model has no backups");
            }
        }
        Event::Done(id)
    }

    /// Asks store and engine, as the sidecar does.
    pub fn look(&mut self, now: u64) {
        let Some(life) = &self.life else { return };
        let asks = life.asks_client_port();
        let store = match &self.store {
            Some(store) => StoreObservation::Facts(store.sight(now)),
            None => StoreObservation::Unreachable {
                why: "cannot be reached: refused".to_owned(),
            },
        };
        self.send(now, Event::Store(store));
        let engine = self.look_at_engine(asks);
        self.send(now, Event::Engine(engine));
        self.send(now, Event::Tick);
        if let Some(life) = &self.life {
            let pause = u64::try_from(life.interval().as_millis()).unwrap_or(500);
            self.look_at = now + pause;
        }
    }

    fn look_at_engine(&self, asks: bool) -> EngineObservation {
        let Some(engine) = &self.engine else {
            let why = "cannot be reached: refused".to_owned();
            return EngineObservation::Unreachable { why };
        };
        let ping = if !asks {
            PingAnswer::NotAsked
        } else if self.reads() {
            PingAnswer::Pong
        } else {
            PingAnswer::Refused {
                why: "answers PING with an error".to_owned(),
            }
        };
        EngineObservation::Facts(EngineSight {
            facts: EngineFacts {
                state: engine.state,
                incarnation: engine.incarnation.clone(),
                version: String::new(),
                uptime_seconds: 1,
                peers_connected: None,
                received: None,
            },
            ping,
            client_requests: engine.requests,
            in_flight: Some(0),
        })
    }

    /// Whether a read that reaches this engine is answered from this store.
    pub fn reads(&self) -> bool {
        let normal = self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.state == EngineState::Normal);
        normal && self.exposed && self.store.is_some()
    }

    /// Whether the node says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.is_ready())
    }

    /// Whether the node says that its data is proven.
    pub fn is_proven(&self, now: u64) -> bool {
        let outline = self.outline(now);
        outline.is_some_and(|outline| outline.proof.kind != ProofKind::Unproven)
    }

    /// What the life says of itself.
    pub fn outline(&self, now: u64) -> Option<Outline> {
        let life = self.life.as_ref()?;
        Some(life.outline(self.clock(now)))
    }

    /// What the operator hears of numbers. The node's own life does without:
    /// the exact cut has a world of its own, and the plain one shows in the
    /// numbers what it has missed.
    fn received(&self, now: u64) -> Option<Received> {
        let engine = self
            .engine
            .as_ref()
            .filter(|_| self.numbers && self.without != Without::Numbers)?;
        Some(engine.numbers.report(now))
    }

    /// The report the operator gets; `None` while no sidecar listens.
    pub fn report(&mut self, now: u64) -> Option<NodeReport> {
        let outline = self.outline(now)?;
        self.heard_at = Some(now);
        let life = self.life.as_ref()?;
        Some(NodeReport {
            node: self.name.clone(),
            pod_uid: self.uid.clone(),
            version: "1".to_owned(),
            at: self.clock(now),
            desired: self.mark.clone().map(|mark| DesiredMark {
                cluster_generation: if self.without == Without::OrderOfDocuments {
                    0
                } else {
                    mark.cluster_generation
                },
                ..mark
            }),
            phase: outline.phase,
            since: self.since.1,
            reason: outline.reason.to_owned(),
            message: outline.message,
            ready: life.is_ready(),
            proof: outline.proof,
            awaiting: outline.awaiting,
            store: outline.store,
            engine: outline.engine.map(|facts| EngineFacts {
                received: self.received(now),
                uptime_seconds: 1000,
                ..facts
            }),
            store_process: outline.store_process,
            engine_process: outline.engine_process,
            warm_up: outline.warm_up,
            restart_required: life.restart_required(),
            findings: outline.findings,
            snapshot: None,
            restore: None,
            compare: None,
            credentials: Vec::new(),
            calls: Vec::new(),
        })
    }
}

fn mark_of(held: &NodeDesired) -> DesiredMark {
    DesiredMark {
        cluster_uid: held.cluster.uid.clone(),
        pod_uid: held.node.pod_uid.clone(),
        cluster_generation: held.cluster_generation,
        generation: held.generation,
        digest: held.digest(),
    }
}
