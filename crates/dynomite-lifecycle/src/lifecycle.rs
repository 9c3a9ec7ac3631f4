//! The machine itself: what each event changes, and what follows from where the node then is.

use std::time::Duration;

use dynomite_api::contract::{
    Consistency, Donor, EngineSettings, EngineState, NodeDesired, StoreSettings,
};
use jiff::Timestamp;

use crate::effect::{Addressee, Effect, Note, Order};
use crate::event::{
    EngineObservation, EngineSight, Event, OrderId, PingAnswer, ProcessEvent, ProcessName,
    SettingFault, StoreObservation, StoreSight,
};
use crate::files::Spoilt;
use crate::findings::Noted;
use crate::hold::HoldStep;
use crate::load::ReadyData;
use crate::process::{Change, Process};
use crate::readiness::Withdrawal;
use crate::reason;
use crate::record::{ProofRecord, Record};
use crate::renewal::Renewal;
use crate::state::{Entry, Failure, InFlight, State};
use crate::time::{after, elapsed};
use crate::watched::Watched;

/// An order without an answer by then counts as failed; the hands answer sooner.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// Before a proof that could not be written is tried again.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
/// States passed through in one call; more would be a loop.
const STEPS_LIMIT: usize = 16;

/// What a life begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The pod's UID; empty outside Kubernetes.
    pub pod_uid: String,
    /// The desired document from disk.
    pub desired: Option<NodeDesired>,
    /// The record from disk.
    pub record: Record,
    /// Whether the store's socket lies at the path the engine knows.
    pub exposed: bool,
}

/// One node's life. See the crate's page for its states.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    pub(crate) pod_uid: String,
    pub(crate) desired: Option<Box<NodeDesired>>,
    pub(crate) state: State,
    pub(crate) store_process: Process,
    pub(crate) engine_process: Process,
    pub(crate) store: Watched<StoreSight>,
    pub(crate) engine: Watched<EngineSight>,
    pub(crate) record: Record,
    pub(crate) exposed: bool,
    /// Whether the donor's stream is held back, or may be.
    pub(crate) stream_held: bool,
    /// How a proof that is distrusted is given up, while the node is open.
    pub(crate) renewal: Option<Renewal>,
    /// What was seen to be wrong, by its word.
    pub(crate) noted: std::collections::BTreeMap<&'static str, Noted>,
    /// When that was last looked at.
    pub(crate) looked_at: Timestamp,
    /// Files the store could not load.
    pub(crate) spoilt: Option<Spoilt>,
    pub(crate) slot: Option<InFlight>,
    last_order: u64,
    pub(crate) failure: Option<Failure>,
    /// Warm-ups that failed since the data was last proven.
    pub(crate) failed_warm_ups: u32,
    /// The consistency the running engine was told.
    pub(crate) consistency: Option<Consistency>,
    /// Settings the running store did not take, with the value it refused.
    pub(crate) refused_settings: std::collections::BTreeMap<String, crate::settings::Refused>,
    pub(crate) withdrawal: Withdrawal,
    /// What is staged of a backup.
    pub(crate) staged: Option<ReadyData>,
    /// A load that ended before it touched anything.
    pub(crate) load_refused: Option<dynomite_api::contract::RestoreReport>,
    /// What the files of the processes were made from, once they were made.
    pub(crate) files: Option<(StoreSettings, EngineSettings)>,
    /// Whether the files of the document that is held were asked for.
    pub(crate) render_asked: bool,
    /// Why they could not be made; those made before stay.
    pub(crate) invalid: Option<String>,
    pub(crate) effects: Vec<Effect>,
}

impl Lifecycle {
    /// A life that begins now; its first effects come with the first event.
    pub fn new(beginning: Beginning) -> Self {
        Self {
            pod_uid: beginning.pod_uid,
            desired: beginning.desired.map(Box::new),
            state: State::Unproven,
            store_process: Process::new(ProcessName::Store),
            engine_process: Process::new(ProcessName::Engine),
            store: Watched::new(),
            engine: Watched::new(),
            record: beginning.record,
            exposed: beginning.exposed,
            stream_held: false,
            renewal: None,
            noted: std::collections::BTreeMap::new(),
            looked_at: Timestamp::UNIX_EPOCH,
            spoilt: None,
            slot: None,
            last_order: 0,
            failure: None,
            failed_warm_ups: 0,
            consistency: None,
            refused_settings: std::collections::BTreeMap::new(),
            withdrawal: Withdrawal::default(),
            staged: None,
            load_refused: None,
            files: None,
            render_asked: false,
            invalid: None,
            effects: Vec::new(),
        }
    }

    /// Takes in one event and says what to do about it.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        self.absorb(now, event);
        self.expire_order(now);
        for _ in 0..STEPS_LIMIT {
            match self.step(now) {
                Some(next) => self.enter(next),
                None => break,
            }
        }
        self.note_findings(now);
        self.keep_processes(now);
        self.note_readiness(now);
        std::mem::take(&mut self.effects)
    }

    /// The desired document the node holds.
    pub fn desired(&self) -> Option<&NodeDesired> {
        self.desired.as_deref()
    }

    fn absorb(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Desired(desired) => self.take_desired(now, desired),
            Event::Process(name, event) => self.process_spoke(now, name, event),
            Event::Store(observation) => self.saw_store(now, observation),
            Event::Engine(observation) => self.saw_engine(now, observation),
            Event::Done(id) => {
                if let Some(order) = self.answered(id) {
                    self.done(now, &order);
                }
            }
            Event::Donor(id, sight) => {
                if self.answered(id).is_some() {
                    self.read_donor(now, &sight);
                    self.renewal_donor_read(now, &sight);
                }
            }
            Event::Cut(id, sight) => {
                if self.answered(id).is_some() {
                    self.cut_read(now, sight);
                }
            }
            Event::Introduced(id, unaware) => {
                if self.answered(id).is_some() {
                    self.introduced(now, unaware);
                }
            }
            Event::Failed(id, why) => {
                if let Some(order) = self.answered(id) {
                    self.failed(now, &order, why);
                }
            }
            Event::SettingRefused(id, fault, why) => {
                if let Some(Order::StoreSetting { name, value }) = self.answered(id) {
                    self.setting_refused(&name, &value, fault, &why);
                }
            }
            Event::Rendered(outcome) => self.rendered(outcome),
            Event::DonorRefused { donor, why } => {
                self.donor_refused(now, &donor, &why);
                self.source_failed(now, &donor, &why);
            }
            Event::Data(which, sight) => self.saw_data(now, which, sight),
            Event::Provided(id, provided) => self.absorb_provided(id, provided),
            Event::Told { word, by } => self.told(now, word, by),
            Event::NotReadySeen => self.withdrawal.seen(),
            Event::Terminate => self.begin_drain(now, true),
            Event::Tick => {}
        }
    }

    fn take_desired(&mut self, now: Timestamp, desired: Box<NodeDesired>) {
        let before = self.desired.replace(desired);
        self.render_asked = false;
        let (Some(before), Some(after)) = (before, &self.desired) else {
            return;
        };
        if before.store != after.store || before.engine != after.engine {
            self.refused_settings.clear();
            self.store_process.forgive(now);
            self.engine_process.forgive(now);
        }
        // The operator knows better now: no reason to wait out a pause.
        if before.donors != after.donors || before.grant != after.grant {
            if let Some(failure) = &mut self.failure {
                failure.retry_at = now;
            }
            self.forget_used_grant();
        }
    }

    fn rendered(&mut self, outcome: Result<(), String>) {
        self.invalid = outcome.err();
        if let Some(why) = &self.invalid {
            self.note(true, reason::SETTINGS_INVALID, why.clone());
        } else if let Some(desired) = &self.desired {
            self.files = Some((self.startable(&desired.store), desired.engine.clone()));
        }
    }

    /// Whether the files of the processes are there, so that their containers
    /// may start.
    pub fn is_prepared(&self) -> bool {
        self.files.is_some()
    }

    fn process_spoke(&mut self, now: Timestamp, name: ProcessName, event: ProcessEvent) {
        let change = match name {
            ProcessName::Store => self.store_process.absorb(now, event),
            ProcessName::Engine => self.engine_process.absorb(now, event),
        };
        match (name, change) {
            (_, Change::Nothing) => {}
            (_, Change::Attached) => self.launcher_is_back(),
            (ProcessName::Store, Change::AttachedIdle) => {
                self.launcher_is_back();
                self.store_ended(now);
            }
            (ProcessName::Engine, Change::AttachedIdle) => {
                self.launcher_is_back();
                self.engine_ended(now);
            }
            (_, Change::Terminating) => self.begin_drain(now, false),
            (ProcessName::Store, Change::Started) => self.store_started(now),
            (ProcessName::Store, Change::Ended) => self.store_ended(now),
            (ProcessName::Engine, Change::Started) => self.engine_started(),
            (ProcessName::Engine, Change::Ended) => self.engine_ended(now),
        }
    }

    fn saw_store(&mut self, now: Timestamp, observation: StoreObservation) {
        let settled = self.is_settled(Addressee::Store);
        match observation {
            StoreObservation::Facts(sight) => {
                if !sight.facts.loading {
                    self.spoilt = None;
                }
                self.store.saw(now, sight, settled);
            }
            StoreObservation::Slow => self.store.was_slow(),
            StoreObservation::Unreachable { why } => self.store.is_down(why),
        }
    }

    fn saw_engine(&mut self, now: Timestamp, observation: EngineObservation) {
        let settled = self.is_settled(Addressee::Engine);
        match observation {
            EngineObservation::Facts(sight) => match sight.ping.clone() {
                PingAnswer::Slow => self.engine.saw_slow_door(now, sight, settled),
                PingAnswer::Refused { why } => {
                    self.engine.saw(now, sight, settled);
                    self.engine.door_is_closed(why);
                }
                PingAnswer::Pong | PingAnswer::NotAsked => self.engine.saw(now, sight, settled),
            },
            EngineObservation::Slow => self.engine.was_slow(),
            EngineObservation::Unreachable { why } => self.engine.is_down(why),
        }
    }

    fn is_settled(&self, addressee: Addressee) -> bool {
        self.slot
            .as_ref()
            .is_none_or(|flying| flying.order.addressee() != addressee)
    }

    /// The order that `id` answers, if it is the one under way.
    pub(crate) fn answered(&mut self, id: OrderId) -> Option<Order> {
        let flying = self.slot.take_if(|flying| flying.id == id)?;
        match flying.order.addressee() {
            Addressee::Store => self.store.outdate(),
            Addressee::Engine => self.engine.outdate(),
            Addressee::Files | Addressee::Donor | Addressee::Tunnel => {}
        }
        Some(flying.order)
    }

    fn expire_order(&mut self, now: Timestamp) {
        let Some(flying) = &self.slot else { return };
        if elapsed(now, flying.since) < ORDER_LIMIT {
            return;
        }
        let id = flying.id;
        if let Some(order) = self.answered(id) {
            let why = format!("no answer within {} s", ORDER_LIMIT.as_secs());
            self.failed(now, &order, why);
        }
    }

    /// Whether this order is under way.
    pub(crate) fn is_ordered(&self, order: &Order) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|flying| flying.order == *order)
    }

    /// Gives an order, unless one is under way.
    pub(crate) fn order(&mut self, now: Timestamp, order: Order) {
        if self.slot.is_some() {
            return;
        }
        self.last_order += 1;
        let id = OrderId(self.last_order);
        if order == Order::Expose {
            // Counted from the order on: what may be open must be closed.
            self.exposed = true;
        }
        if order == Order::PauseStream {
            self.stream_held = true;
        }
        self.effects.push(Effect::Order(id, order.clone()));
        self.slot = Some(InFlight {
            id,
            order,
            since: now,
        });
    }

    fn done(&mut self, now: Timestamp, order: &Order) {
        match order {
            Order::Record(record) => {
                self.grants_recorded(record);
                self.recorded();
                self.load_order_done(now, order);
            }
            Order::Consistency(set) => self.consistency = Some(*set),
            Order::StoreSetting { name, value } => self.setting_taken(name, value),
            Order::CopyDonor | Order::Detach => {
                self.warm_up_order_done(now, order);
                self.load_order_done(now, order);
            }
            Order::SavePrevious { .. } => self.load_order_done(now, order),
            Order::PauseStream | Order::CheckCapture(_) | Order::LetThrough { .. } => {
                self.cut_order_done(now, order);
            }
            Order::CommitCapture(_) => self.committed(),
            Order::SetAside => self.files_set_aside(now),
            Order::Expose
            | Order::EngineState(_)
            | Order::ReadDonor
            | Order::ReadCut
            | Order::Provide { .. }
            | Order::AskPeers => {}
        }
    }

    fn failed(&mut self, now: Timestamp, order: &Order, why: String) {
        match order {
            // The engine's state is ordered again as long as it is not so.
            _ if !matches!(order, Order::EngineState(_)) && self.load_order_failed(now, &why) => {}
            Order::Record(_) => {
                let message = format!(
                    "the proof could not be written to disk ({why}); see that the data volume has space"
                );
                if let State::Recording { .. } = self.state {
                    self.unprove_for(now, RECORD_PAUSE, reason::RECORD_FAILED, message);
                } else {
                    self.note(true, reason::RECORD_FAILED, message);
                }
            }
            Order::Expose => self.exposed_failed(now, &why),
            Order::SetAside => self.files_not_set_aside(now, &why),
            // Not by the store's word: tried again when it starts.
            Order::StoreSetting { name, value } => {
                self.setting_refused(name, value, SettingFault::AtStart, &why);
            }
            Order::CopyDonor | Order::Detach | Order::ReadDonor => {
                self.warm_up_order_failed(now, order, &why);
                self.refused_to_renew(now, &why);
            }
            Order::AskPeers
            | Order::PauseStream
            | Order::ReadCut
            | Order::CheckCapture(_)
            | Order::LetThrough { .. } => self.cut_order_failed(now, order, &why),
            Order::CommitCapture(_) => self.commit_failed(now, &why),
            // Both belong to a load, which has heard of it already if it goes on.
            Order::SavePrevious { .. } | Order::Provide { .. } => {}
            // Both are ordered again as long as they are not so.
            Order::EngineState(_) | Order::Consistency(_) => {
                self.note(false, reason::ENGINE_UNRESPONSIVE, why);
            }
        }
    }

    fn exposed_failed(&mut self, now: Timestamp, why: &str) {
        self.withdraw();
        if let State::Opening { .. } | State::WarmUp(_) = self.state {
            let message = format!("the store's socket could not be opened to the engine: {why}");
            self.unprove(now, reason::STORE_UNRESPONSIVE, message);
        }
    }

    fn keep_processes(&mut self, now: Timestamp) {
        if self.desired.is_some() && !self.render_asked {
            self.render_asked = true;
            self.effects.push(Effect::Render);
        }
        let leaves = matches!(self.state, State::Draining(_) | State::Stopped { .. });
        if self.files.is_none() || leaves {
            return;
        }
        let (store_stopped, engine_stopped) = self.stopped();
        if store_stopped {
            self.keep_down(now, ProcessName::Store);
        } else if !self.rescue_files(now) {
            let effects = self.store_process.keep_up(now);
            self.effects.extend(effects);
        }
        if engine_stopped {
            self.keep_down(now, ProcessName::Engine);
            return;
        }
        let effects = self.engine_process.keep_up(now);
        if !effects.is_empty() {
            // Netflix's engine is NORMAL from the start: it must not find the
            // store before it is known what it has missed.
            self.withdraw();
        }
        self.effects.extend(effects);
    }

    /// What follows from where the node is; `None` when it stays there.
    fn step(&mut self, now: Timestamp) -> Option<State> {
        match &self.state {
            State::Unproven => self.decide(now),
            State::WarmUp(_) => self.warm_up(now),
            State::Opening { .. } => self.open(now),
            State::Open { .. } => self.stay_open(now),
            State::Held { .. } => self.held(now),
            State::Loading(_) => self.load(now),
            State::Draining(_) => self.drain(now),
            State::Recording { .. } | State::Stopped { .. } => None,
        }
    }

    fn enter(&mut self, next: State) {
        if let State::Open { .. } = next {
            self.failure = None;
            self.failed_warm_ups = 0;
        }
        self.state = next;
    }

    /// The data counts as unproven from now on.
    pub(crate) fn unprove(&mut self, now: Timestamp, reason: &'static str, message: String) {
        self.withdraw();
        self.open_stream();
        self.renewal = None;
        self.slot = None;
        if self.record.proof.take().is_some() {
            self.save();
        }
        self.note(true, reason, message.clone());
        self.failure = Some(Failure {
            reason,
            message,
            retry_at: now,
        });
        self.state = State::Unproven;
    }

    /// The same after a failure that time may cure.
    pub(crate) fn unprove_for(
        &mut self,
        now: Timestamp,
        pause: Duration,
        reason: &'static str,
        message: String,
    ) {
        self.unprove(now, reason, message);
        if let Some(failure) = &mut self.failure {
            failure.retry_at = after(now, pause);
        }
    }

    pub(crate) fn withdraw(&mut self) {
        if self.exposed {
            self.exposed = false;
            self.effects.push(Effect::Withdraw);
        }
    }

    pub(crate) fn save(&mut self) {
        self.effects
            .push(Effect::Save(Box::new(self.record.clone())));
    }

    pub(crate) fn note(&mut self, warning: bool, reason: &'static str, message: String) {
        self.effects.push(Effect::Note(Note {
            warning,
            reason,
            message,
        }));
    }

    /// Whether another node of this datacenter has the same data.
    pub(crate) fn has_replicas(&self) -> bool {
        self.desired.as_ref().is_none_or(|desired| {
            let own = &desired.node;
            desired
                .peers
                .iter()
                .any(|peer| peer.token == own.token && peer.datacenter == own.datacenter)
        })
    }

    /// The proof, in the states that have one on disk.
    pub(crate) fn proof(&self) -> Option<&ProofRecord> {
        match &self.state {
            State::Opening { proof, .. } | State::Open { proof } | State::Held { proof, .. } => {
                Some(proof)
            }
            _ => self.proof_before_load(),
        }
    }

    /// Whom the tunnel may connect to.
    pub fn donor(&self) -> Option<&Donor> {
        match &self.state {
            State::WarmUp(warm_up) => Some(&warm_up.donor),
            State::Open { .. } => self.renewal_donor(),
            _ => None,
        }
    }

    /// Whether this node's data is whole enough to be copied further. A copy
    /// that began may go on through a moment of bad health, because that loses
    /// no write; without the proof it must end.
    pub fn donates(&self) -> bool {
        matches!(self.state, State::Open { .. }) || self.is_held_whole()
    }

    /// How soon the node should be asked again.
    pub fn interval(&self) -> Duration {
        /// Where every look brings the node further.
        const BUSY: Duration = Duration::from_millis(50);
        /// Where it waits for others.
        const IDLE: Duration = Duration::from_millis(200);
        /// While writes are held: they are waited for.
        const CUT: Duration = Duration::from_millis(10);
        match &self.state {
            State::WarmUp(copy) if copy.step.cut_until().is_some() => CUT,
            State::Recording { entry, .. } | State::Opening { entry, .. }
                if matches!(entry, Entry::Copy { .. }) =>
            {
                CUT
            }
            State::Open { .. } => {
                Duration::from_millis(u64::from(self.patience().interval_ms)).max(BUSY)
            }
            State::Stopped { .. }
            | State::Held {
                step: HoldStep::Held,
                ..
            } => IDLE,
            State::Unproven if self.failure.is_some() => IDLE,
            _ => BUSY,
        }
    }

    /// Whether a peer may begin to copy this node; `Err` says why not.
    pub fn may_be_copied(
        &self,
        now: Timestamp,
        cluster_uid: &str,
        token: dynomite_api::Token,
    ) -> Result<(), String> {
        let Some(desired) = &self.desired else {
            return Err("this node has no desired document".to_owned());
        };
        if desired.cluster.uid != cluster_uid {
            return Err(format!(
                "this node belongs to cluster {:?}",
                desired.cluster.uid
            ));
        }
        if desired.node.token != token {
            return Err(format!("this node has token {}", desired.node.token));
        }
        if !desired.serve && !self.is_held_whole() {
            return Err("this node does not serve".to_owned());
        }
        let hold = desired.hold.as_ref();
        let exchanged = desired.serve && hold.is_some_and(|hold| hold.ring);
        if exchanged && desired.donors.is_empty() && self.has_replicas() {
            return Err("the ring's data is being exchanged: nobody copies it".to_owned());
        }
        if let State::Held { whole: false, .. } = self.state {
            let message = "this node is held by itself, and misses what the others write";
            return Err(message.to_owned());
        }
        if self.is_leaving_to_renew() {
            return Err("this node has missed writes and is about to be copied anew".to_owned());
        }
        self.is_healthy(now)
            .map_err(|(reason, message)| format!("this node does not serve: {reason}: {message}"))
    }

    /// Whether `PING` should be sent through the engine's client port: while
    /// nothing is open it would only be refused, and while the node drains it
    /// would count as a client.
    pub fn asks_client_port(&self) -> bool {
        matches!(self.state, State::Opening { .. } | State::Open { .. })
    }

    pub(crate) fn patience(&self) -> dynomite_api::contract::HealthSettings {
        self.desired
            .as_ref()
            .map(|desired| desired.health.clone())
            .unwrap_or_default()
    }

    /// Keeps an engine that answers from touching unproven data.
    pub(crate) fn hold_engine(&mut self, now: Timestamp) {
        let state = self.engine.fresh().map(|sight| sight.facts.state);
        if self.engine_process.is_up() && state.is_some_and(|state| state != EngineState::Standby) {
            self.order(now, Order::EngineState(EngineState::Standby));
        }
    }
}
