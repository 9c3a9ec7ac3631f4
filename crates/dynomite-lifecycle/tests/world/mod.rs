//! A made-up pod around a real life: store, engine, launchers, and the rest of the ring, which goes on writing.
//!
//! The world knows which writes exist and which of them the node's store has,
//! so a test can ask for the truth instead of for what the node believes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::struct_excessive_bools,
    reason = "each test uses another part of the world, and switches of its own"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dynomite_api::Token;
use dynomite_api::contract::{
    ClusterRef, Consistency, Cut, Donor, EngineFacts, EngineSettings, EngineState, Grant,
    HealthSettings, Hold, HoldStore, NodeDesired, NodeIdentity, NodePhase, Peer, Received,
    StoreFacts, StoreRole, StoreSettings,
};
use dynomite_lifecycle::{
    Beginning, CutSight, DonorSight, Effect, EngineObservation, EngineSight, Event, Lifecycle,
    Order, OrderId, Outline, PingAnswer, ProcessEvent, ProcessName, Provided, Record, ReplicaLink,
    SettingFault, StoreObservation, StoreSight, WhichData, Word,
};
use jiff::Timestamp;

/// Where people read what a finding means and what they can do.
const PAGE: &str = include_str!("../../../../docs/operations.md");
/// The pod's UID.
pub const POD: &str = "pod-1";
/// One step of the world, milliseconds.
pub const STEP_MS: i64 = 50;
/// Steps after which the rest of the ring has applied a write that this node
/// got, or refused, when it was made.
const DONOR_DELAY: u64 = 4;
/// Steps by which a replica is behind its donor.
const REPLICA_LAG: usize = 3;
/// Steps of a first copy.
const COPY_STEPS: u64 = 5;
/// Bytes of the replication stream for one write.
const WRITE_BYTES: u64 = 100;
/// Steps after which a coordinator has said how far it is.
const POSITION_DELAY: u64 = 2;
/// The one coordinator of the ring's writes.
const COORDINATOR: &str = "c";
/// Steps after which an engine drops what it holds (its `timeout`, 5 s).
const HOLD_STEPS: u64 = 100;

/// One incarnation of the store.
pub struct Store {
    pub run_id: String,
    pub has: BTreeSet<u64>,
    pub role: StoreRole,
    /// While it is a replica: when the first copy will have arrived.
    copied_at: Option<u64>,
    offset: u64,
    history: String,
    pub loading: bool,
    pub complaint: Option<String>,
    /// When the log that it writes anew is complete.
    pub durable_at: Option<u64>,
}

/// One incarnation of the engine.
pub struct Engine {
    pub incarnation: String,
    pub state: EngineState,
    held: Vec<(u64, u64)>,
    requests: u64,
    /// Since when it holds writes, and from which on it has them all.
    capture: Option<(u64, Option<u64>)>,
    /// What it has received: nothing before it has adopted a donor's.
    pub received: Received,
}

/// The rest of the ring, of which the donor is a part.
pub struct Ring {
    pub reachable: bool,
    pub run: u64,
    pub writes: bool,
    applied: Vec<u64>,
    base: usize,
    coming: VecDeque<(u64, u64)>,
    next: u64,
    /// How many writes were applied in the last steps, oldest first.
    lengths: VecDeque<usize>,
}

pub struct World {
    pub step: u64,
    pub life: Lifecycle,
    pub desired: NodeDesired,
    pub record: Record,
    pub store: Option<Store>,
    pub engine: Option<Engine>,
    pub store_launcher: bool,
    pub engine_launcher: bool,
    pub exposed: bool,
    pub ring: Ring,
    /// What the store's files hold, for its next incarnation; `None` is memory only.
    pub files: Option<BTreeSet<u64>>,
    pub store_slow: bool,
    pub engine_slow: bool,
    pub ping_fails: bool,
    /// The donor can be read, but nothing comes over the replication link.
    pub link_stands: bool,
    /// The engine answers, but takes no other state.
    pub engine_deaf: bool,
    pub disk_full: bool,
    /// The store cannot load its files.
    pub files_spoilt: bool,
    /// The further settings in the store's file.
    pub file: BTreeMap<String, String>,
    /// Sets of files that lie aside.
    pub set_aside: Vec<BTreeSet<u64>>,
    /// Whether the engines number their writes, as ours do.
    pub numbered: bool,
    /// Whether the donor's engine does.
    pub donor_numbers: bool,
    /// The coordinator has no connection to this node.
    pub cut_off: bool,
    /// The engine has lost something of what it held.
    pub capture_void: bool,
    /// Nodes that do not know this one's address.
    pub unaware: Vec<String>,
    /// How far the donor's stream is let through, bytes.
    limit: Option<u64>,
    /// What the backup has, as it is staged.
    pub staged: Option<BTreeSet<u64>>,
    /// What the node has saved of its own, and for which restore.
    pub previous: Option<(String, BTreeSet<u64>)>,
    /// What the tunnel gives the store, and as which history.
    pub given: Option<(String, BTreeSet<u64>)>,
    /// The tunnel gives only the first half.
    pub given_cut: bool,
    /// Writes that were applied to what the store had them in already.
    pub twice: Vec<u64>,
    pub probing: bool,
    pub exited: bool,
    /// Whether somebody changed store or engine behind the node's back since it
    /// last looked.
    pub meddled: bool,
    /// Whether somebody ever did.
    pub was_meddled: bool,
    /// Effects in words, for transcripts.
    pub log: Vec<String>,
    incarnations: u64,
    orders: VecDeque<(OrderId, Order)>,
}

/// A setting that no store knows.
pub const TYPO: &str = "maxmemory-polcy";

/// Whether the store refuses a line.
fn is_bad(name: &str, value: &str) -> bool {
    let numeric = ["hz", "databases"].contains(&name);
    name == TYPO || (numeric && value.parse::<u32>().is_err())
}

/// A node of a ring of three racks, with two donors, told to serve.
pub fn desired() -> NodeDesired {
    let token = Token(7);
    let peer = |name: &str, rack: &str, token| Peer {
        host: format!("{name}.nodes"),
        address: None,
        port: 8101,
        datacenter: "dc1".to_owned(),
        rack: rack.to_owned(),
        token,
    };
    let donor = |name: &str| Donor {
        name: name.to_owned(),
        host: format!("{name}.nodes"),
        address: None,
        port: 8443,
    };
    NodeDesired {
        cluster: ClusterRef {
            namespace: "default".to_owned(),
            name: "ring".to_owned(),
            uid: "cluster-1".to_owned(),
            created: Some(Timestamp::UNIX_EPOCH),
        },
        cluster_generation: 1,
        generation: 1,
        node: NodeIdentity {
            name: "ring-dc1-a-0".to_owned(),
            pod_uid: POD.to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "dc1-a".to_owned(),
            token,
            host: "ring-dc1-a-0.nodes".to_owned(),
        },
        peers: vec![
            peer("b", "dc1-b", token),
            peer("c", "dc1-c", token),
            peer("d", "dc1-b", Token(9)),
        ],
        donors: vec![donor("b"), donor("c")],
        grant: None,
        copy_not_before: None,
        snapshot: None,
        restore: None,
        compare: None,
        distrust: None,
        hold: None,
        serve: true,
        consistency: Consistency::default(),
        engine: EngineSettings {
            timeout_ms: 5000,
            ..EngineSettings::default()
        },
        store: StoreSettings::default(),
        health: HealthSettings::default(),
    }
}

/// The same in a ring of one rack: nobody else has the data.
pub fn one_rack() -> NodeDesired {
    NodeDesired {
        peers: Vec::new(),
        donors: Vec::new(),
        ..desired()
    }
}

/// The permission to begin empty.
pub fn bootstrap() -> Grant {
    Grant::Bootstrap {
        pod_uid: POD.to_owned(),
    }
}

/// The permission to keep what the store has.
pub fn accept_local() -> Grant {
    Grant::AcceptLocal {
        pod_uid: POD.to_owned(),
    }
}

fn life(desired: Option<NodeDesired>, record: Record, exposed: bool) -> Lifecycle {
    Lifecycle::new(Beginning {
        pod_uid: POD.to_owned(),
        desired,
        record,
        exposed,
    })
}

impl Ring {
    /// The ring has this now, all of it.
    pub fn applied_is(&mut self, writes: &BTreeSet<u64>) {
        self.applied = writes.iter().copied().collect();
        self.coming.clear();
        self.next = self.applied.last().map_or(1, |last| last + 1);
    }
}

impl World {
    /// A pod whose launchers are up and hold, and that has `desired`; the ring
    /// serves already and goes on writing.
    pub fn new(desired: NodeDesired) -> Self {
        let mut world = Self {
            step: 0,
            life: life(None, Record::default(), false),
            desired: desired.clone(),
            record: Record::default(),
            store: None,
            engine: None,
            store_launcher: false,
            engine_launcher: false,
            exposed: false,
            ring: Ring {
                reachable: true,
                run: 1,
                writes: true,
                applied: vec![0],
                base: 0,
                coming: VecDeque::new(),
                next: 1,
                lengths: VecDeque::new(),
            },
            files: None,
            store_slow: false,
            engine_slow: false,
            ping_fails: false,
            link_stands: false,
            engine_deaf: false,
            disk_full: false,
            files_spoilt: false,
            file: BTreeMap::new(),
            set_aside: Vec::new(),
            numbered: false,
            donor_numbers: true,
            cut_off: false,
            capture_void: false,
            unaware: Vec::new(),
            limit: None,
            staged: None,
            previous: None,
            given: None,
            given_cut: false,
            twice: Vec::new(),
            probing: true,
            exited: false,
            meddled: false,
            was_meddled: false,
            log: Vec::new(),
            incarnations: 0,
            orders: VecDeque::new(),
        };
        world.send(Event::Desired(Box::new(desired)));
        world.launchers_come();
        world
    }

    /// A ring that has never served: no data anywhere.
    pub fn unborn(desired: NodeDesired) -> Self {
        let mut world = Self::new(desired);
        world.ring.applied.clear();
        world.ring.writes = false;
        world
    }

    /// Whether no order is under way.
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty()
    }

    pub fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.step).expect("tests are short") * STEP_MS;
        Timestamp::from_millisecond(1_800_000_000_000 + ms).expect("in range")
    }

    pub fn outline(&self) -> Outline {
        self.life.outline(self.now())
    }

    pub fn phase(&self) -> NodePhase {
        self.outline().phase
    }

    /// Tells the life something and carries out what it says, orders excepted:
    /// those take until the next step.
    pub fn send(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.life.handle(self.now(), event) {
                self.log.push(format!("{effect:?}"));
                events.extend(self.carry_out(effect));
            }
            self.check();
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Vec<Event> {
        match effect {
            Effect::Render => {
                let desired = self.life.desired().expect("there is something to render");
                self.file = self.life.startable(&desired.store).settings;
                return vec![Event::Rendered(Ok(()))];
            }
            Effect::Start(name) => return self.start(name),
            Effect::Stop { process, .. } => return self.stop(process),
            Effect::Withdraw => self.exposed = false,
            Effect::OpenStream => self.limit = None,
            Effect::EndProviding => self.given = None,
            Effect::Save(record) => {
                if !self.disk_full {
                    self.record = *record;
                }
            }
            Effect::Order(id, Order::Expose) => {
                if self.store.is_none() {
                    return vec![Event::Failed(id, "no socket".to_owned())];
                }
                self.exposed = true;
                return vec![Event::Done(id)];
            }
            Effect::Order(id, Order::SavePrevious { restore }) => {
                if let Some(store) = &self.store {
                    self.previous = Some((restore, store.has.clone()));
                }
                return vec![Event::Done(id)];
            }
            Effect::Order(id, order) => self.orders.push_back((id, order)),
            Effect::Note(_) => {}
            Effect::Exit => self.exited = true,
        }
        Vec::new()
    }

    fn fresh_name(&mut self, what: &str) -> String {
        self.incarnations += 1;
        format!("{what}-{}", self.incarnations)
    }

    fn start(&mut self, name: ProcessName) -> Vec<Event> {
        let up = match name {
            ProcessName::Store => self.store_launcher,
            ProcessName::Engine => self.engine_launcher,
        };
        if !up {
            return Vec::new();
        }
        let bad = self.file.iter().find(|(name, value)| is_bad(name, value));
        let bad = bad.map(|(name, value)| {
            format!(
                "exit status 1: >>> '{name} {value}' Bad directive or wrong number of arguments"
            )
        });
        let spoilt = "exit status 1: # Internal error in RDB reading offset 0".to_owned();
        match name {
            ProcessName::Store if self.store.is_none() && (self.files_spoilt || bad.is_some()) => {
                let started = ProcessEvent::Started {
                    pid: 7,
                    incarnation: self.fresh_name("run"),
                    starts: 1,
                };
                let how = bad.unwrap_or(spoilt);
                return vec![
                    Event::Process(name, started),
                    Event::Process(name, ProcessEvent::Exited { how }),
                ];
            }
            ProcessName::Store if self.store.is_none() => {
                assert!(!self.exposed, "a store starts while its path is open");
                let run_id = self.fresh_name("run");
                self.store = Some(Store {
                    history: run_id.clone(),
                    run_id,
                    has: self.files.clone().unwrap_or_default(),
                    role: StoreRole::Primary,
                    copied_at: None,
                    offset: 0,
                    loading: false,
                    complaint: None,
                    durable_at: None,
                });
            }
            ProcessName::Engine if self.engine.is_none() => {
                assert!(!self.exposed, "an engine starts and finds the store");
                let incarnation = self.fresh_name("engine");
                // As Netflix's engine does it.
                let state = EngineState::Normal;
                self.engine = Some(Engine {
                    incarnation,
                    state,
                    held: Vec::new(),
                    requests: 0,
                    capture: None,
                    received: Received::default(),
                });
            }
            _ => {}
        }
        vec![self.started(name)]
    }

    fn started(&self, name: ProcessName) -> Event {
        let incarnation = match name {
            ProcessName::Store => self.store.as_ref().map(|store| store.run_id.clone()),
            ProcessName::Engine => self.engine.as_ref().map(|e| e.incarnation.clone()),
        };
        let event = ProcessEvent::Started {
            pid: 7,
            incarnation: incarnation.unwrap_or_default(),
            starts: 1,
        };
        Event::Process(name, event)
    }

    fn stop(&mut self, name: ProcessName) -> Vec<Event> {
        let how = "stopped".to_owned();
        self.drop_process(name);
        vec![Event::Process(name, ProcessEvent::Exited { how })]
    }

    fn drop_process(&mut self, name: ProcessName) {
        match name {
            ProcessName::Store => {
                if let (Some(store), Some(files)) = (self.store.take(), &mut self.files) {
                    files.clone_from(&store.has);
                }
            }
            ProcessName::Engine => self.engine = None,
        }
    }

    /// The process dies, and its launcher says so.
    pub fn kill(&mut self, name: ProcessName) {
        let runs = match name {
            ProcessName::Store => self.store.is_some(),
            ProcessName::Engine => self.engine.is_some(),
        };
        if runs {
            self.drop_process(name);
            let how = "signal 9".to_owned();
            self.send(Event::Process(name, ProcessEvent::Exited { how }));
        }
    }

    /// The whole container goes, launcher and all.
    pub fn container_goes(&mut self, name: ProcessName) {
        self.drop_process(name);
        self.launcher_goes(name);
    }

    /// Only the connection to the launcher goes.
    pub fn launcher_goes(&mut self, name: ProcessName) {
        match name {
            ProcessName::Store => self.store_launcher = false,
            ProcessName::Engine => self.engine_launcher = false,
        }
        self.send(Event::Process(name, ProcessEvent::LauncherGone));
    }

    pub fn launchers_come(&mut self) {
        if !self.store_launcher {
            self.store_launcher = true;
            self.launcher_speaks(ProcessName::Store);
        }
        if !self.engine_launcher {
            self.engine_launcher = true;
            self.launcher_speaks(ProcessName::Engine);
        }
    }

    fn launcher_speaks(&mut self, name: ProcessName) {
        let running = match name {
            ProcessName::Store => self.store.is_some(),
            ProcessName::Engine => self.engine.is_some(),
        };
        self.send(Event::Process(name, ProcessEvent::LauncherUp { running }));
        if running {
            let started = self.started(name);
            self.send(started);
        }
    }

    /// The sidecar crashes and starts again with what is on disk.
    pub fn sidecar_restarts(&mut self) {
        self.orders.clear();
        self.limit = None;
        self.given = None;
        let desired = Some(self.desired.clone());
        self.life = life(desired, self.record.clone(), self.exposed);
        self.send(Event::Tick);
        for (up, name) in [
            (self.store_launcher, ProcessName::Store),
            (self.engine_launcher, ProcessName::Engine),
        ] {
            if up {
                self.launcher_speaks(name);
            }
        }
    }

    pub fn desire(&mut self, change: impl FnOnce(&mut NodeDesired)) {
        change(&mut self.desired);
        self.desired.generation += 1;
        self.send(Event::Desired(Box::new(self.desired.clone())));
    }

    /// The operator says that the node stays out, with the whole ring or by
    /// itself. A ring that is held takes no writes.
    pub fn hold(&mut self, ring: bool, store_runs: bool) {
        self.desire(|desired| {
            desired.hold = Some(Hold {
                why: "restore r1".to_owned(),
                store: if store_runs {
                    HoldStore::Running
                } else {
                    HoldStore::Stopped
                },
                ring,
            });
        });
        self.ring.writes &= !ring;
    }

    /// A person says it, by one of the old calls.
    pub fn tell(&mut self, word: Word) {
        let by = "dynomite-admin".to_owned();
        self.send(Event::Told { word, by });
    }

    /// Another pod takes the place of this one, on the same volume.
    pub fn pod_is_replaced(&mut self) {
        self.drop_process(ProcessName::Store);
        self.drop_process(ProcessName::Engine);
        self.exposed = false;
        self.orders.clear();
        "pod-2".clone_into(&mut self.desired.node.pod_uid);
        self.desired.generation += 1;
        self.life = Lifecycle::new(Beginning {
            pod_uid: "pod-2".to_owned(),
            desired: Some(self.desired.clone()),
            record: self.record.clone(),
            exposed: false,
        });
        self.launcher_speaks(ProcessName::Store);
        self.launcher_speaks(ProcessName::Engine);
    }

    /// The donor's store starts again and is whole again: another history.
    pub fn donor_restarts(&mut self) {
        self.ring.run += 1;
        self.ring.base = self.ring.applied.len();
        if let Some(store) = &mut self.store
            && store.role == StoreRole::Replica
        {
            store.copied_at = None;
        }
    }

    /// Lets time pass.
    pub fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.one_step();
        }
    }

    /// Lets time pass until something holds; panics when it never does.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2400 {
            if holds(self) {
                return;
            }
            self.one_step();
        }
        panic!("never: {what}; now {:#?}", self.outline());
    }

    pub fn until_ready(&mut self) {
        self.until("ready", |world| world.life.is_ready());
    }

    fn one_step(&mut self) {
        self.step += 1;
        self.ring_writes();
        self.replicate();
        self.engine_flushes();
        for (id, order) in std::mem::take(&mut self.orders) {
            let event = self.obey(id, order);
            self.send(event);
        }
        let observation = self.look_at_store();
        self.send(Event::Store(observation));
        let observation = self.look_at_engine();
        self.send(Event::Engine(observation));
        // What nobody could see yet, nobody could act on.
        self.meddled &= self.store_slow || self.engine_slow;
        if self.probing && self.step.is_multiple_of(10) && !self.life.is_ready() {
            self.send(Event::NotReadySeen);
        }
        self.send(Event::Tick);
    }

    /// A client writes: this node's engine gets it now, the others apply it later.
    fn ring_writes(&mut self) {
        if self.life.is_ready() {
            self.ring.writes = true;
        }
        if self.ring.writes {
            let write = self.ring.next;
            self.ring.next += 1;
            self.ring.coming.push_back((self.step + DONOR_DELAY, write));
            let reaches = self.exposed;
            if let Some(engine) = &mut self.engine {
                engine.requests += 1;
                match engine.state {
                    EngineState::WritesOnly if !self.cut_off => {
                        engine.held.push((self.step, write));
                        if let Some((_, first)) = &mut engine.capture {
                            first.get_or_insert(write);
                        }
                    }
                    EngineState::Resuming | EngineState::Normal if reaches => {
                        if let Some(store) = &mut self.store
                            && store.role == StoreRole::Primary
                            && !store.has.insert(write)
                        {
                            self.twice.push(write);
                        }
                    }
                    _ => {}
                }
            }
        }
        while let Some((due, write)) = self.ring.coming.front().copied() {
            if due > self.step {
                break;
            }
            self.ring.coming.pop_front();
            self.ring.applied.push(write);
        }
    }

    fn donor_offset(&self) -> u64 {
        self.offset_of(self.ring.applied.len())
    }

    fn offset_of(&self, length: usize) -> u64 {
        length.saturating_sub(self.ring.base) as u64 * WRITE_BYTES
    }

    fn donor_history(&self) -> String {
        format!("history-{}", self.ring.run)
    }

    fn replicate(&mut self) {
        self.ring.lengths.push_back(self.ring.applied.len());
        if self.ring.lengths.len() > REPLICA_LAG {
            self.ring.lengths.pop_front();
        }
        let mut length = self.ring.lengths.front().copied().unwrap_or_default();
        while self
            .limit
            .is_some_and(|limit| self.offset_of(length) > limit)
        {
            length -= 1;
        }
        if let Some((history, has)) = self.given.clone() {
            self.take_given(history, has);
            return;
        }
        let (step, offset, history) = (self.step, self.offset_of(length), self.donor_history());
        let reachable = self.ring.reachable && self.life.donor().is_some();
        let Some(store) = &mut self.store else { return };
        if store.role != StoreRole::Replica {
            return;
        }
        if !reachable {
            store.copied_at = None;
            return;
        }
        let copied_at = *store.copied_at.get_or_insert(step + COPY_STEPS);
        if copied_at <= step && !self.link_stands {
            store.has = self.ring.applied[..length].iter().copied().collect();
            store.offset = offset;
            store.history = history;
        }
    }

    /// The store copies what the tunnel gives it, and writes its log anew.
    fn take_given(&mut self, history: String, has: BTreeSet<u64>) {
        let (step, cut) = (self.step, self.given_cut);
        let Some(store) = &mut self.store else { return };
        if store.role != StoreRole::Replica || cut {
            return;
        }
        if *store.copied_at.get_or_insert(step + COPY_STEPS) <= step && store.history != history {
            (store.has, store.history, store.offset) = (has, history, 0);
            store.durable_at = Some(step + COPY_STEPS);
        }
        if let (Some(files), Some(at)) = (&mut self.files, store.durable_at)
            && at <= step
        {
            files.clone_from(&store.has);
        }
    }

    fn engine_flushes(&mut self) {
        let (step, exposed) = (self.step, self.exposed);
        let Some(engine) = &mut self.engine else {
            return;
        };
        match &mut engine.capture {
            _ if engine.state != EngineState::WritesOnly => engine.capture = None,
            // A session that broke may have lost something.
            Some((since, first)) if self.cut_off => (*since, *first) = (step, None),
            Some((since, first)) if step - *since >= POSITION_DELAY => {
                first.get_or_insert(self.ring.next);
            }
            _ => {}
        }
        engine.held.retain(|(since, _)| step - since < HOLD_STEPS);
        if !matches!(engine.state, EngineState::Resuming | EngineState::Normal) || !exposed {
            return;
        }
        if let Some(store) = &mut self.store
            && store.role == StoreRole::Primary
        {
            for (_, write) in engine.held.drain(..) {
                if !store.has.insert(write) {
                    self.twice.push(write);
                }
            }
        }
    }

    fn obey(&mut self, id: OrderId, order: Order) -> Event {
        let failed = |why: &str| Event::Failed(id, why.to_owned());
        match order {
            Order::Record(record) => {
                if self.disk_full {
                    return failed("no space");
                }
                self.record = *record;
            }
            Order::Expose | Order::SavePrevious { .. } => {}
            Order::SetAside if self.set_aside.len() >= 3 => {
                return failed("3 sets lie there already");
            }
            Order::SetAside => {
                assert!(self.store.is_none(), "files are moved from under a store");
                let files = self.files.replace(BTreeSet::new());
                self.set_aside.push(files.unwrap_or_default());
                self.files_spoilt = false;
            }
            Order::CopyDonor => {
                let Some(store) = &mut self.store else {
                    return failed("no store");
                };
                store.role = StoreRole::Replica;
                store.copied_at = None;
            }
            Order::Detach => {
                let Some(store) = &mut self.store else {
                    return failed("no store");
                };
                store.role = StoreRole::Primary;
                store.copied_at = None;
            }
            Order::Provide { which, .. } => {
                let data = match which {
                    WhichData::Staged => self.staged.clone(),
                    WhichData::Previous => self.previous.clone().map(|(_, has)| has),
                };
                let Some(has) = data else {
                    return failed("there is no such file");
                };
                let history = self.fresh_name("given");
                self.given = Some((history.clone(), has));
                return Event::Provided(id, Provided { history, bytes: 9 });
            }
            Order::ReadDonor => {
                if !self.ring.reachable {
                    return failed("connection refused");
                }
                let sight = DonorSight {
                    run_id: format!("donor-{}", self.ring.run),
                    replication_id: self.donor_history(),
                    offset: self.donor_offset(),
                    keys: self.ring.applied.len() as u64,
                    primary: true,
                    data_bytes: 1000,
                };
                return Event::Donor(id, sight);
            }
            Order::EngineState(_) | Order::CommitCapture(_) if self.engine_deaf => {
                return failed("no answer");
            }
            Order::EngineState(state) => match &mut self.engine {
                Some(engine) => {
                    engine.state = state;
                    engine.capture =
                        (state == EngineState::WritesOnly).then_some((self.step, None));
                }
                None => return failed("no engine"),
            },
            Order::AskPeers => return Event::Introduced(id, self.unaware.clone()),
            Order::PauseStream => match &self.store {
                Some(store) if store.role == StoreRole::Replica && self.ring.reachable => {
                    self.limit = Some(store.offset);
                }
                _ => return failed("there is no stream"),
            },
            Order::ReadCut if !self.ring.reachable => return failed("connection refused"),
            Order::ReadCut => return Event::Cut(id, self.donor_cut()),
            Order::LetThrough { history, offset } => {
                let is = self.store.as_ref().map_or(u64::MAX, |store| store.offset);
                if history != self.donor_history() || is > offset {
                    return failed("the stream is past that");
                }
                self.limit = Some(offset);
            }
            Order::CheckCapture(received) => {
                if let Err(why) = self.covers(&received) {
                    return Event::Failed(id, why);
                }
            }
            Order::CommitCapture(received) => {
                if let Err(why) = self.covers(&received) {
                    return Event::Failed(id, why);
                }
                if let Some(engine) = &mut self.engine {
                    engine
                        .held
                        .retain(|(_, write)| !received.is_past(COORDINATOR, *write));
                    engine.state = EngineState::Resuming;
                    engine.received = *received;
                }
            }
            Order::Consistency(_) => {
                if self.engine.is_none() {
                    return failed("no engine");
                }
            }
            Order::StoreSetting { name, value } => {
                if is_bad(&name, &value) {
                    let fault = if name == TYPO {
                        SettingFault::Unknown
                    } else {
                        SettingFault::Value
                    };
                    let why = format!("ERR no {name} {value}");
                    return Event::SettingRefused(id, fault, why);
                }
                if name == "databases" {
                    return failed("ERR can't set immutable config");
                }
            }
        }
        Event::Done(id)
    }

    /// What the donor's store has, and what its engine had given it.
    fn donor_cut(&self) -> CutSight {
        if !self.donor_numbers {
            let why = "its engine does not number its writes".to_owned();
            return CutSight::Unnumbered { why };
        }
        let mut received = Received::default();
        let last = self.ring.applied.last().copied().unwrap_or_default();
        for number in 1..=last {
            received.source_mut(COORDINATOR).arrived(number);
        }
        CutSight::Cut(Box::new(Cut {
            replication_id: self.donor_history(),
            offset: self.donor_offset(),
            keys: self.ring.applied.len() as u64,
            received,
        }))
    }

    fn covers(&self, received: &Received) -> Result<(), String> {
        let engine = self.engine.as_ref().ok_or("no engine")?;
        if engine.state != EngineState::WritesOnly || self.capture_void {
            return Err("nothing is captured".to_owned());
        }
        let first = engine.capture.and_then(|(_, first)| first);
        let first: BTreeMap<String, u64> = first
            .map(|first| (COORDINATOR.to_owned(), first))
            .into_iter()
            .collect();
        received
            .is_followed_by(&first)
            .map_err(|name| format!("{name} is not covered"))
    }

    fn look_at_store(&self) -> StoreObservation {
        if self.store_slow {
            return StoreObservation::Slow;
        }
        let Some(store) = &self.store else {
            let why = "cannot be reached: refused".to_owned();
            return StoreObservation::Unreachable { why };
        };
        let up = store.copied_at.is_some_and(|at| at <= self.step);
        StoreObservation::Facts(StoreSight {
            facts: StoreFacts {
                run_id: store.run_id.clone(),
                role: store.role,
                loading: store.loading,
                keys: store.has.len() as u64,
                complaint: store.complaint.clone(),
                ..StoreFacts::default()
            },
            empty: store.has.is_empty(),
            all_keys: store.has.len() as u64,
            durable: store.durable_at.is_none_or(|at| at <= self.step),
            replication_id: store.history.clone(),
            link: (store.role == StoreRole::Replica).then(|| ReplicaLink {
                up,
                copying: store.copied_at.is_some() && !up,
                bytes_done: 0,
                bytes_total: None,
                offset: store.offset,
            }),
            left: None,
        })
    }

    fn look_at_engine(&self) -> EngineObservation {
        if self.engine_slow {
            return EngineObservation::Slow;
        }
        let Some(engine) = &self.engine else {
            let why = "cannot be reached: refused".to_owned();
            return EngineObservation::Unreachable { why };
        };
        let answers = engine.state == EngineState::Normal && self.exposed && !self.ping_fails;
        let ping = if answers {
            PingAnswer::Pong
        } else if !self.life.asks_client_port() {
            PingAnswer::NotAsked
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
                received: self.numbered.then(|| engine.received.clone()),
            },
            ping,
            client_requests: engine.requests,
            in_flight: None,
        })
    }

    /// Whether the store has, or its engine holds for it, every write there is.
    pub fn is_whole(&self) -> bool {
        let Some(store) = &self.store else {
            return false;
        };
        let held: BTreeSet<u64> = self
            .engine
            .iter()
            .flat_map(|engine| engine.held.iter().map(|(_, write)| *write))
            .collect();
        let coming = self.ring.coming.iter().map(|(_, write)| write);
        self.ring
            .applied
            .iter()
            .chain(coming)
            .all(|write| store.has.contains(write) || held.contains(write))
    }

    /// What must hold after everything that happens.
    fn check(&self) {
        let outline = self.outline();
        let ready = self.life.is_ready();
        if ready && !self.meddled {
            assert!(
                self.is_whole(),
                "ready without all the data: {:#?}",
                self.log
            );
            let normal = self
                .engine
                .as_ref()
                .is_some_and(|engine| engine.state == EngineState::Normal);
            assert!(normal, "ready and not NORMAL: {outline:#?}");
        }
        for finding in &outline.findings {
            let row = format!("`{}`", finding.reason);
            assert!(PAGE.contains(&row), "{row} is not explained to people");
            assert!(!finding.message.is_empty(), "{row} says nothing");
        }
        assert_eq!(ready, outline.phase == NodePhase::Serving, "{outline:#?}");
        if !ready {
            assert!(!outline.reason.is_empty(), "no reason: {outline:#?}");
            assert!(!outline.message.is_empty(), "no message: {outline:#?}");
        }
        let readable = self.exposed
            && self.store.is_some()
            && !self.meddled
            && self
                .engine
                .as_ref()
                .is_some_and(|engine| engine.state == EngineState::Normal);
        if readable {
            assert!(
                self.is_whole(),
                "reads what is not whole: {outline:#?} {:#?}",
                self.log
            );
        }
    }
}
