//! The driver: feeds the node's life with what the hands say, and has them do what follows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{DesiredMark, NodeDesired, NodePhase, NodeReport};
use dynomite_lifecycle::{
    Beginning, DataSight, Effect, Event, Lifecycle, Order, OrderId, ProcessName, Provided, Record,
    StoreObservation, WhichData, accept, room_for_copy,
};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::donor::{self, DonorOrder, Reach};
use super::engine::{self, EngineOrder};
use super::pace::{Ear, Pace, Said};
use super::store::{self, StoreOrder};
use super::{disk, sockets};
use crate::compare::Comparer;
use crate::launch;
use crate::shared::{Input, Refused, Site, View};
use crate::snapshot::Desk;
use crate::tunnel::{self, Gate};

/// Orders and messages that may wait between the driver and its tasks. There is
/// one order at a time; the rest is for those whose answers nobody awaits any more.
const QUEUE: usize = 16;
/// Records that may wait for the disk.
const RECORD_QUEUE: usize = 64;
/// A peer that has asked for nothing for so long does not copy any more; while
/// the first copy comes it has nothing to ask.
const GUEST_LIMIT: Duration = Duration::from_mins(30);
/// The view is shown anew at least this often, so that its time tells whether
/// the driver lives.
const SHOW_AT_LEAST: Duration = Duration::from_secs(1);

/// A clock that never goes back: the machine's time when the sidecar started,
/// and what has passed since.
#[derive(Clone, Copy, Debug)]
struct Clock {
    base: Timestamp,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            base: Timestamp::now(),
            started: Instant::now(),
        }
    }

    fn now(&self) -> Timestamp {
        let passed = self.started.elapsed();
        self.base.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// What the driver asks the task that writes records.
enum Writing {
    Save(Box<Record>),
    Record(OrderId, Box<Record>),
    /// Say whether what was given before is kept.
    Kept(oneshot::Sender<Result<(), String>>),
}

/// Those whose work the report tells of, and who do it beside the driver.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    /// Snapshots and restores.
    pub(super) desk: Arc<Desk>,
    /// Comparisons with the other replicas.
    pub(super) comparer: Arc<Comparer>,
}

impl Beside {
    fn add_to(&self, report: &mut NodeReport, desired: Option<&NodeDesired>) {
        self.desk.add_to(report);
        self.comparer.add_to(report, desired);
    }
}

/// Lives one node's life.
pub(super) struct Driver {
    site: Arc<Site>,
    clock: Clock,
    life: Lifecycle,
    heard: mpsc::Receiver<Input>,
    said: mpsc::Receiver<Said>,
    store_launcher: launch::Client,
    engine_launcher: launch::Client,
    store_orders: mpsc::Sender<(OrderId, StoreOrder)>,
    engine_orders: mpsc::Sender<(OrderId, EngineOrder)>,
    donor_orders: mpsc::Sender<(OrderId, DonorOrder)>,
    gate: Arc<Gate>,
    beside: Beside,
    /// The data for a restore, staged and saved, as the node's life last heard of it.
    data: (DataSight, DataSight),
    /// Peers that copy this node, and when they last asked.
    guests: HashMap<String, Instant>,
    writings: mpsc::Sender<Writing>,
    pace: watch::Sender<Pace>,
    view: watch::Sender<View>,
    desired: Option<Arc<NodeDesired>>,
    mark: Option<DesiredMark>,
    phase: (NodePhase, Timestamp),
    operator_heard_at: Option<Instant>,
    ended: bool,
}

impl Driver {
    /// Takes up the node's life from what is on disk, and starts the tasks that
    /// look after its processes.
    pub(super) fn new(
        site: Arc<Site>,
        heard: mpsc::Receiver<Input>,
        inputs: &mpsc::Sender<Input>,
        reach: Reach,
        beside: Beside,
    ) -> Self {
        let clock = Clock::new();
        let desired = disk::load_desired(&site);
        let life = Lifecycle::new(Beginning {
            pod_uid: site.pod_uid.clone(),
            desired: desired.clone(),
            record: disk::load_record(&site),
            exposed: sockets::is_exposed(&site),
        });
        let launcher = |name: ProcessName| {
            launch::Client::spawn(name, site.launcher_socket(name), inputs.clone())
        };
        let (saying, said) = mpsc::channel(QUEUE);
        let pace = watch::Sender::new(pace_of(&life));
        let (store_orders, orders) = mpsc::channel(QUEUE);
        tokio::spawn(store::attend(
            Arc::clone(&site),
            ear(orders, &pace),
            saying.clone(),
        ));
        let (engine_orders, orders) = mpsc::channel(QUEUE);
        tokio::spawn(engine::attend(
            Arc::clone(&site),
            ear(orders, &pace),
            saying.clone(),
        ));
        let (writings, to_write) = mpsc::channel(RECORD_QUEUE);
        tokio::spawn(write(Arc::clone(&site), to_write, saying.clone()));
        let now = clock.now();
        let phase = (life.outline(now).phase, now);
        let desired = desired.map(Arc::new);
        let mark = desired.as_deref().map(mark_of);
        let mut report = make_report(&site, &life, desired.as_deref(), mark.clone(), phase, now);
        beside.add_to(&mut report, desired.as_deref());
        let view = watch::Sender::new(View {
            report,
            seeds: seeds_of(desired.as_deref()),
            desired: desired.clone(),
            started: false,
            ready: false,
            live: true,
            donor: None,
            donates: false,
            store_socket: sockets::current(&site),
            operator_heard_at: None,
        });
        let gate = Arc::clone(&reach.gate);
        let (donor_orders, orders) = mpsc::channel(QUEUE);
        let shown = view.subscribe();
        tokio::spawn(donor::attend(
            Arc::clone(&site),
            reach,
            shown,
            orders,
            saying,
        ));
        Self {
            store_launcher: launcher(ProcessName::Store),
            engine_launcher: launcher(ProcessName::Engine),
            site,
            clock,
            life,
            heard,
            said,
            store_orders,
            engine_orders,
            donor_orders,
            gate,
            beside,
            data: (DataSight::Missing, DataSight::Missing),
            guests: HashMap::new(),
            writings,
            pace,
            view,
            desired,
            mark,
            phase,
            operator_heard_at: None,
            ended: false,
        }
    }

    /// What the hands are shown.
    pub(super) fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Lives until the node has left.
    pub(super) async fn run(mut self) {
        let mut next_tick = Instant::now();
        while !self.ended {
            next_tick = next_tick.min(Instant::now() + self.life.interval());
            tokio::select! {
                input = self.heard.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return,
                },
                said = self.said.recv() => match said {
                    Some(said) => self.handle(self.event_of(said)),
                    None => return,
                },
                () = tokio::time::sleep_until(next_tick) => {
                    next_tick = Instant::now() + self.life.interval();
                    self.look_at_desk();
                    self.handle(Event::Tick);
                }
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Desired(desired, answer) => self.take_desired(desired, answer).await,
            Input::OperatorHeard => {
                self.operator_heard_at = Some(Instant::now());
                self.show();
            }
            Input::Process(name, event) => {
                tracing::debug!(process = name.name(), ?event, "the launcher says");
                self.handle(Event::Process(name, event));
            }
            Input::Replication(ask, answer) => {
                let now = self.clock.now();
                let outcome = self
                    .life
                    .may_be_copied(now, &ask.cluster_uid, ask.token)
                    .and_then(|()| self.has_room(&ask.node));
                match &outcome {
                    Ok(()) => tracing::info!(peer = ask.node, "lets a peer copy the store"),
                    Err(why) => tracing::info!(peer = ask.node, why, "lets no peer copy the store"),
                }
                // A peer that has gone away meanwhile needs no answer.
                let _ = answer.send(outcome);
            }
            Input::DonorRefused { donor, why } => self.handle(Event::DonorRefused { donor, why }),
            Input::Told(word, by, answer) => {
                self.handle(Event::Told { word, by });
                let full = self.writings.try_send(Writing::Kept(answer));
                if full.is_err() {
                    tracing::warn!("the disk is too slow to keep what the node was told");
                }
            }
            Input::NotReadySeen => self.handle(Event::NotReadySeen),
            Input::Terminate => self.handle(Event::Terminate),
        }
    }

    /// Whether the store has the memory to be copied by a peer. A peer that was
    /// let in lately goes on with its copy, which has forked already.
    fn has_room(&mut self, peer: &str) -> Result<(), String> {
        let now = Instant::now();
        self.guests
            .retain(|_, at| now.duration_since(*at) < GUEST_LIMIT);
        if !self.guests.contains_key(peer) {
            let sockets = self.site.run_dir.join("launch");
            let limit = launch::memory::read(&sockets, ProcessName::Store.name());
            let used = self
                .life
                .outline(self.clock.now())
                .store
                .map(|store| store.used_memory_bytes);
            if let (Some(limit), Some(used)) = (limit, used) {
                room_for_copy(used, limit)?;
            }
        }
        self.guests.insert(peer.to_owned(), now);
        Ok(())
    }

    async fn take_desired(
        &mut self,
        desired: Box<NodeDesired>,
        answer: oneshot::Sender<Result<NodeReport, Refused>>,
    ) {
        let held = self.desired.as_deref();
        let outcome = accept(&self.site.pod_uid, held, &desired);
        if outcome.is_ok() {
            self.keep(&desired).await;
            self.mark = Some(mark_of(&desired));
            self.desired = Some(Arc::new((*desired).clone()));
            self.operator_heard_at = Some(Instant::now());
            tracing::info!(generation = desired.generation, "a new desired document");
            self.handle(Event::Desired(desired));
        }
        let report = self.view.borrow().report.clone();
        let answered = match outcome {
            Ok(()) => answer.send(Ok(report)),
            Err(why) => answer.send(Err(Refused { why, report })),
        };
        if answered.is_err() {
            tracing::debug!("whoever sent the desired document did not wait for the answer");
        }
    }

    /// A document that cannot be kept is followed all the same: after a restart
    /// the node says which one it holds, and is given the newest again.
    async fn keep(&self, desired: &NodeDesired) {
        let (site, desired) = (Arc::clone(&self.site), desired.clone());
        let kept = tokio::task::spawn_blocking(move || disk::save_desired(&site, &desired)).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot keep the desired document"),
            Err(error) => tracing::warn!(%error, "cannot keep the desired document"),
        }
    }

    /// Feeds one event, and those that its effects bring about at once.
    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.life.handle(self.clock.now(), event);
            for effect in effects {
                events.extend(self.carry_out(effect));
            }
        }
        self.show();
    }

    /// Does one thing; some have a result at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Render => {
                let desired = self.desired.as_deref()?;
                let store = self.life.startable(&desired.store);
                let startable = NodeDesired {
                    store,
                    ..desired.clone()
                };
                return Some(Event::Rendered(disk::render(&self.site, &startable)));
            }
            Effect::Start(name) => self.launcher(name).start(),
            Effect::Stop { process, grace } => self.launcher(process).stop(grace),
            Effect::Withdraw => {
                if let Err(error) = sockets::withdraw(&self.site) {
                    tracing::error!(%error, "cannot take the store's socket from the engine");
                }
            }
            Effect::OpenStream => self.gate.open(),
            Effect::EndProviding => self.gate.plays(None),
            Effect::Save(record) => {
                if self.writings.try_send(Writing::Save(record)).is_err() {
                    tracing::warn!("the disk is too slow to keep what the node remembers");
                }
            }
            Effect::Order(id, order) => return self.pass_on(id, order),
            Effect::Note(note) => {
                let reason = note.reason;
                if note.warning {
                    tracing::warn!(reason, "{}", note.message);
                } else {
                    tracing::info!(reason, "{}", note.message);
                }
            }
            Effect::Exit => self.ended = true,
        }
        None
    }

    fn pass_on(&self, id: OrderId, order: Order) -> Option<Event> {
        tracing::debug!(?id, ?order, "orders");
        let passed = match order {
            Order::Expose => {
                return Some(match sockets::expose(&self.site) {
                    Ok(()) => Event::Done(id),
                    Err(error) => Event::Failed(id, error.to_string()),
                });
            }
            Order::SetAside => {
                // Two renames: done before the store could be started again.
                return Some(match disk::set_aside(&self.site, self.clock.now()) {
                    Ok(()) => Event::Done(id),
                    Err(why) => Event::Failed(id, why),
                });
            }
            Order::Record(record) => self.writings.try_send(Writing::Record(id, record)).is_ok(),
            Order::CopyDonor => self.order_store(id, StoreOrder::CopyDonor),
            Order::Detach => self.order_store(id, StoreOrder::Detach),
            Order::StoreSetting { name, value } => {
                self.order_store(id, StoreOrder::Setting { name, value })
            }
            Order::EngineState(state) => self.order_engine(id, EngineOrder::State(state)),
            Order::Consistency(consistency) => {
                self.order_engine(id, EngineOrder::Consistency(consistency))
            }
            Order::CheckCapture(received) => {
                self.order_engine(id, EngineOrder::CheckCapture(received))
            }
            Order::CommitCapture(received) => {
                self.order_engine(id, EngineOrder::CommitCapture(received))
            }
            Order::PauseStream => {
                return Some(match self.gate.pause() {
                    Ok(()) => Event::Done(id),
                    Err(why) => Event::Failed(id, why),
                });
            }
            Order::LetThrough { history, offset } => {
                self.order_donor(id, DonorOrder::LetThrough { history, offset })
            }
            Order::Provide { restore, which } => {
                return Some(match self.provide(&restore, which) {
                    Ok(provided) => Event::Provided(id, provided),
                    Err(why) => Event::Failed(id, why),
                });
            }
            Order::SavePrevious { restore } => {
                self.beside.desk.save_previous(restore);
                return Some(Event::Done(id));
            }
            Order::ReadDonor => self.order_donor(id, DonorOrder::Read),
            Order::ReadCut => self.order_donor(id, DonorOrder::Cut),
            Order::AskPeers => self.order_donor(id, DonorOrder::Peers),
        };
        (!passed).then(|| Event::Failed(id, "too many orders wait already".to_owned()))
    }

    /// Has the tunnel give the store the data of a restore.
    fn provide(&self, restore: &str, which: WhichData) -> Result<Provided, String> {
        let path = match which {
            WhichData::Staged => self.site.staged(restore),
            WhichData::Previous => self.site.previous(restore),
        };
        let facts = std::fs::metadata(&path);
        let facts = facts.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let now = self.clock.now();
        let history = tunnel::fresh_history(&format!("{} {restore} {now}", self.site.pod_uid));
        self.gate.plays(Some(Arc::new(tunnel::Play {
            history: history.clone(),
            source: Box::new(tunnel::File(path)),
        })));
        let bytes = facts.len();
        Ok(Provided { history, bytes })
    }

    /// Tells the node's life what has become of the data that others prepare.
    fn look_at_desk(&mut self) {
        let seen = (self.beside.desk.staged(), self.beside.desk.previous());
        if seen == self.data {
            return;
        }
        self.data = seen.clone();
        self.handle(Event::Data(WhichData::Staged, seen.0));
        self.handle(Event::Data(WhichData::Previous, seen.1));
    }

    fn event_of(&self, said: Said) -> Event {
        match said {
            Said::Store(mut observation) => {
                self.add_copied(&mut observation);
                Event::Store(observation)
            }
            Said::Engine(observation) => Event::Engine(observation),
            Said::Done(id) => Event::Done(id),
            Said::Donor(id, sight) => Event::Donor(id, sight),
            Said::Cut(id, sight) => Event::Cut(id, sight),
            Said::Introduced(id, unaware) => Event::Introduced(id, unaware),
            Said::Failed(id, why) => Event::Failed(id, why),
            Said::SettingRefused(id, fault, why) => Event::SettingRefused(id, fault, why),
        }
    }

    /// The store counts what it has read only when it reads from a file; the
    /// tunnel has seen it all.
    fn add_copied(&self, observation: &mut StoreObservation) {
        if let StoreObservation::Facts(sight) = observation
            && let Some(link) = &mut sight.link
        {
            let copied = self.gate.copied();
            link.bytes_done = link.bytes_done.max(copied.done);
            link.bytes_total = link.bytes_total.or(copied.total);
        }
    }

    fn order_store(&self, id: OrderId, order: StoreOrder) -> bool {
        self.store_orders.try_send((id, order)).is_ok()
    }

    fn order_engine(&self, id: OrderId, order: EngineOrder) -> bool {
        self.engine_orders.try_send((id, order)).is_ok()
    }

    fn order_donor(&self, id: OrderId, order: DonorOrder) -> bool {
        self.donor_orders.try_send((id, order)).is_ok()
    }

    fn launcher(&self, name: ProcessName) -> &launch::Client {
        match name {
            ProcessName::Store => &self.store_launcher,
            ProcessName::Engine => &self.engine_launcher,
        }
    }

    /// Shows the hands how things are, and leads the tasks accordingly.
    fn show(&mut self) {
        let pace = pace_of(&self.life);
        self.pace.send_if_modified(|shown| {
            let differs = *shown != pace;
            *shown = pace;
            differs
        });
        let now = self.clock.now();
        let phase = self.life.outline(now).phase;
        if phase != self.phase.0 {
            tracing::info!(from = ?self.phase.0, to = ?phase, "the node's phase");
            self.phase = (phase, now);
        }
        let desired = self.desired.clone();
        let mut report = make_report(
            &self.site,
            &self.life,
            desired.as_deref(),
            self.mark.clone(),
            self.phase,
            now,
        );
        self.beside.add_to(&mut report, desired.as_deref());
        let view = View {
            report,
            seeds: seeds_of(desired.as_deref()),
            desired,
            started: self.life.is_prepared(),
            ready: self.life.is_ready(),
            live: true,
            donor: self.life.donor().cloned(),
            donates: self.life.donates(),
            store_socket: sockets::current(&self.site),
            operator_heard_at: self.operator_heard_at,
        };
        self.view.send_if_modified(|shown| {
            let differs = differs(shown, &view);
            if differs {
                *shown = view;
            }
            differs
        });
    }
}

fn ear<T>(orders: mpsc::Receiver<(OrderId, T)>, pace: &watch::Sender<Pace>) -> Ear<T> {
    Ear {
        orders,
        pace: pace.subscribe(),
        next: Instant::now(),
    }
}

/// Writes records, one after the other, beside the driver's thread: a disk that
/// is slow to sync must not keep the node from noticing a crash.
async fn write(site: Arc<Site>, mut writings: mpsc::Receiver<Writing>, said: mpsc::Sender<Said>) {
    let mut last = Ok(());
    while let Some(writing) = writings.recv().await {
        let (id, record) = match writing {
            Writing::Kept(answer) => {
                // Whoever asked may have gone away.
                let _ = answer.send(last.clone());
                continue;
            }
            Writing::Save(record) => (None, record),
            Writing::Record(id, record) => (Some(id), record),
        };
        let site = Arc::clone(&site);
        let written = tokio::task::spawn_blocking(move || disk::save_record(&site, &record)).await;
        let outcome = match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        last.clone_from(&outcome);
        if let Err(why) = &outcome {
            tracing::warn!(why, "cannot keep what the node remembers");
        }
        if let Some(id) = id
            && said.send(Said::answer(id, outcome)).await.is_err()
        {
            return;
        }
    }
}

fn pace_of(life: &Lifecycle) -> Pace {
    let timeout = life.desired().map_or(engine::FIRST_TIMEOUT, |desired| {
        Duration::from_millis(u64::from(desired.health.timeout_ms))
    });
    Pace {
        interval: life.interval(),
        timeout,
        client_port: life.asks_client_port(),
    }
}

fn mark_of(desired: &NodeDesired) -> DesiredMark {
    DesiredMark {
        cluster_uid: desired.cluster.uid.clone(),
        pod_uid: desired.node.pod_uid.clone(),
        cluster_generation: desired.cluster_generation,
        generation: desired.generation,
        digest: desired.digest(),
    }
}

fn seeds_of(desired: Option<&NodeDesired>) -> Arc<[dynomite_api::contract::Peer]> {
    desired.map_or_else(|| Arc::from([]), |desired| desired.peers.clone().into())
}

fn make_report(
    site: &Site,
    life: &Lifecycle,
    desired: Option<&NodeDesired>,
    mark: Option<DesiredMark>,
    (phase, since): (NodePhase, Timestamp),
    now: Timestamp,
) -> NodeReport {
    let outline = life.outline(now);
    NodeReport {
        node: desired.map_or_else(|| site.node.clone(), |desired| desired.node.name.clone()),
        pod_uid: site.pod_uid.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: now,
        desired: mark,
        phase,
        since,
        reason: outline.reason.to_owned(),
        message: outline.message,
        ready: life.is_ready(),
        proof: outline.proof,
        awaiting: outline.awaiting,
        store: outline.store,
        engine: outline.engine,
        store_process: outline.store_process,
        engine_process: outline.engine_process,
        warm_up: outline.warm_up,
        restart_required: life.restart_required(),
        findings: outline.findings,
        snapshot: None,
        restore: outline.restore,
        compare: None,
        credentials: Vec::new(),
        calls: Vec::new(),
    }
}

/// Whether somebody would see a difference, or has not been shown anything for long.
fn differs(shown: &View, view: &View) -> bool {
    let age = view.report.at.duration_since(shown.report.at);
    if Duration::try_from(age).is_ok_and(|age| age >= SHOW_AT_LEAST) {
        return true;
    }
    let at = shown.report.at;
    let same_report = shown.report
        == NodeReport {
            at,
            ..view.report.clone()
        };
    let same_desired = match (&shown.desired, &view.desired) {
        (Some(shown), Some(desired)) => Arc::ptr_eq(shown, desired),
        (None, None) => true,
        _ => false,
    };
    !(same_report
        && same_desired
        && shown.started == view.started
        && shown.ready == view.ready
        && shown.donor == view.donor
        && shown.donates == view.donates
        && shown.store_socket == view.store_socket
        && shown.operator_heard_at == view.operator_heard_at)
}
