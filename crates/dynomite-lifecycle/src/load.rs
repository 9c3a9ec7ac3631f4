//! Loading a backup: the store is made a replica of what was staged, and is proven when it has taken all of it.
//!
//! ```text
//!   Held, or never proven
//!     | told to load, and it is staged
//!   Save --> Mark -----> Provide --> Attach --> Take --> Detach --> Recording --> Opening --> Held
//!     |       | on disk: a load has begun, nothing is proven           (proof: Restored)
//!     |       |
//!     `-------+- failed before: held as it was     failed after: unproven, and touched
//! ```
//!
//! What is staged cannot change any more and nobody else writes while the node is
//! held, so there is no cut: when the replica has taken the copy it is whole. From
//! the mark on the store's data is neither what it was nor the backup's, until a
//! proof says so. The mark names restore and attempt: a sidecar, store or pod that
//! starts again does not load a second time by itself, and takes no half of a load
//! for a whole. Only the operator orders another attempt.
//!
//! Going back is the same with the data that the node has saved of itself.

use std::time::Duration;

use dynomite_api::contract::{
    Awaiting, NodePhase, ProofKind, RestoreGoal, RestoreOrder, RestoreReport, RestoreState,
    StoreRole,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Order};
use crate::event::{DataSight, OrderId, Provided, WhichData};
use crate::lifecycle::Lifecycle;
use crate::readiness::Why;
use crate::reason;
use crate::record::{ProofRecord, Record};
use crate::state::{Entry, Progress, State};
use crate::time::elapsed;

/// A load that stands still this long has failed. A store empties itself first,
/// and may answer nothing for as long as that takes.
const STALL_LIMIT: Duration = Duration::from_mins(2);

/// What a node remembers of the load it has begun last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadRecord {
    /// [`RestoreOrder::restore`].
    pub restore: String,
    /// [`RestoreOrder::attempt`].
    pub attempt: u32,
    /// [`RestoreOrder::goal`].
    pub goal: RestoreGoal,
    /// When it began.
    pub began: Timestamp,
    /// What came of it.
    pub stage: LoadStage,
}

/// What came of a load that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum LoadStage {
    /// Nothing yet: the store's data is neither what it was nor the backup's.
    Begun,
    /// The store had taken all of it.
    Done {
        /// Keys in the store then.
        keys: u64,
    },
    /// It did not work.
    Failed {
        /// One word.
        reason: String,
        /// For people.
        message: String,
        /// Whether another attempt may succeed.
        retry: bool,
    },
}

/// What a node has saved of its own data before a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviousRecord {
    /// [`RestoreOrder::restore`] of the load.
    pub restore: String,
    /// Keys in it.
    pub keys: u64,
    /// How many of them expire some time.
    pub expiring: u64,
}

/// Data that is complete and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadyData {
    pub(crate) restore: String,
    pub(crate) keys: u64,
    pub(crate) expiring: u64,
}

/// One load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    restore: String,
    attempt: u32,
    goal: RestoreGoal,
    began: Timestamp,
    /// The proof the node has until the load begins.
    had: Option<Box<ProofRecord>>,
    /// Keys of the data, and how many may be gone because they expire.
    keys: (u64, u64),
    /// The history that the data seems to come from.
    history: String,
    /// Bytes done of what it does, and of how many.
    bytes: (u64, Option<u64>),
    progress: Progress,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The node saves its own data.
    Save { told: bool },
    /// That a load begins is written to disk.
    Mark,
    /// The data is made ready to be copied.
    Provide,
    /// The store is made its replica.
    Attach,
    /// It takes the data in, and writes its own files anew.
    Take,
    /// It is made a primary.
    Detach,
}

impl Step {
    /// Whether the store's data is still what it was.
    fn is_before(&self) -> bool {
        matches!(self, Self::Save { .. } | Self::Mark)
    }
}

/// Why a load ended.
struct Fault {
    reason: &'static str,
    message: String,
    retry: bool,
}

impl Fault {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry: true,
        }
    }
}

impl Lifecycle {
    /// The order to load, if the node has one and may obey it now: nobody
    /// writes while the ring is held, or while it has never served.
    fn load_order(&self) -> Option<&RestoreOrder> {
        let desired = self.desired.as_ref()?;
        let order = desired.restore.as_ref()?;
        let loads = order.goal != RestoreGoal::Stage && order.pod_uid == self.pod_uid;
        let quiet = desired.hold.as_ref().is_some_and(|hold| hold.ring) || !desired.serve;
        (loads && quiet).then_some(order)
    }

    /// The beginning of a load that is due.
    pub(crate) fn begin_load(
        &mut self,
        now: Timestamp,
        had: Option<&ProofRecord>,
    ) -> Option<State> {
        let order = self.load_order()?.clone();
        let restore = order.restore.clone();
        let tried = self.record.load.as_ref().is_some_and(|load| {
            (&load.restore, load.attempt, load.goal) == (&restore, order.attempt, order.goal)
        });
        let refused = self
            .load_refused
            .as_ref()
            .is_some_and(|report| (&report.restore, report.attempt) == (&restore, order.attempt));
        if tried || refused {
            return None;
        }
        let previous = self.record.previous.as_ref();
        let previous = previous.filter(|previous| previous.restore == restore);
        let keys = if order.goal == RestoreGoal::Revert {
            let Some(previous) = previous else {
                let why = "the node has saved nothing of its own data that it could go back to";
                let mut fault = Fault::new(reason::NOTHING_SAVED, why);
                fault.retry = false;
                let touched = self.is_touched(&restore);
                self.refuse_load(now, &order, fault, touched);
                return None;
            };
            (previous.keys, previous.expiring)
        } else {
            let staged = self.staged.as_ref();
            let staged = staged.filter(|staged| staged.restore == restore)?;
            (staged.keys, staged.expiring)
        };
        // What a store that ended has read again is the node's own until a load touches it.
        let own = had.map_or(!self.is_touched(&restore), |proof| {
            proof.restore.as_ref() != Some(&restore)
        });
        let keeps = order.save_previous && order.goal == RestoreGoal::Load;
        let saves = keeps && own && previous.is_none();
        self.note(
            false,
            reason::LOADING,
            format!("loads the data of restore {restore}"),
        );
        Some(State::Loading(Box::new(Load {
            restore,
            attempt: order.attempt,
            goal: order.goal,
            began: now,
            had: had.cloned().map(Box::new),
            keys,
            history: String::new(),
            bytes: (0, None),
            progress: Progress {
                seen: (0, 0, 0, false),
                at: now,
            },
            step: if saves {
                Step::Save { told: false }
            } else {
                Step::Mark
            },
        })))
    }

    /// Whether a load of the restore has begun to replace the store's data.
    fn is_touched(&self, restore: &str) -> bool {
        let load = self.record.load.as_ref();
        load.is_some_and(|load| load.restore == restore)
    }

    /// The next state of a node that loads.
    pub(crate) fn load(&mut self, now: Timestamp) -> Option<State> {
        let State::Loading(load) = &self.state else {
            return None;
        };
        let mut load = load.clone();
        let meant = self.load_order().is_some_and(|order| {
            (&order.restore, order.attempt, order.goal) == (&load.restore, load.attempt, load.goal)
        });
        if !meant {
            let why = "the word to load it was taken back";
            return self.end_load(now, &load, Fault::new(reason::LOAD_ABORTED, why));
        }
        if let Some(proof) = &load.had
            && let Some((reason, message)) = self.breach(proof)
        {
            return self.end_load(now, &load, Fault::new(reason, message));
        }
        if self.slot.is_some() {
            return None;
        }
        if !self.stands_by() {
            self.hold_engine(now);
            return None;
        }
        match self.load_turn(now, &mut load) {
            Err(fault) => self.end_load(now, &load, fault),
            Ok(Some(next)) => Some(next),
            Ok(None) => {
                if let State::Loading(now) = &mut self.state {
                    *now = load;
                }
                None
            }
        }
    }

    fn load_turn(&mut self, now: Timestamp, load: &mut Load) -> Result<Option<State>, Fault> {
        match load.step {
            Step::Save { told } => {
                if !told {
                    let restore = load.restore.clone();
                    self.order(now, Order::SavePrevious { restore });
                }
            }
            Step::Mark => {
                self.withdraw();
                // Whatever is written from now on says so.
                mark(&mut self.record, load);
                let record = self.record.clone();
                self.order(now, Order::Record(Box::new(record)));
            }
            Step::Provide => {
                let order = Order::Provide {
                    restore: load.restore.clone(),
                    which: which(load.goal),
                };
                self.order(now, order);
            }
            Step::Attach => self.order(now, Order::CopyDonor),
            Step::Take => self.take_in(now, load)?,
            Step::Detach => return self.leave_source(now, load),
        }
        Ok(None)
    }

    /// Watches the store take the data in.
    fn take_in(&mut self, now: Timestamp, load: &mut Load) -> Result<(), Fault> {
        if elapsed(now, load.progress.at) >= STALL_LIMIT {
            let why = format!("no progress for {} s", STALL_LIMIT.as_secs());
            return Err(Fault::new(reason::LOAD_STALLED, why));
        }
        let Some(sight) = self.store.fresh() else {
            return Ok(());
        };
        let Some(link) = sight.link else {
            let why = "the store stopped being a replica";
            return Err(Fault::new(reason::STORE_CHANGED, why));
        };
        load.bytes = (link.bytes_done, link.bytes_total);
        let seen = (
            link.bytes_done,
            sight.all_keys,
            sight.facts.used_memory_bytes,
            link.up,
        );
        let whole = link.up && !link.copying && !sight.facts.loading;
        // How long a store writes its own files is nobody's fault.
        if load.progress.seen != seen || (whole && !sight.durable) {
            load.progress = Progress { seen, at: now };
        }
        if !whole || sight.replication_id != load.history || !sight.durable {
            return Ok(());
        }
        let (most, expiring) = load.keys;
        let least = most.saturating_sub(expiring);
        if !(least..=most).contains(&sight.all_keys) {
            let why = format!(
                "the data has {most} keys, {expiring} of which expire, and the store took {}",
                sight.all_keys
            );
            return Err(Fault::new(reason::LOAD_DIFFERS, why));
        }
        load.step = Step::Detach;
        Ok(())
    }

    fn leave_source(&mut self, now: Timestamp, load: &mut Load) -> Result<Option<State>, Fault> {
        let Some(sight) = self.store.fresh().cloned() else {
            return Ok(None);
        };
        if sight.facts.role == StoreRole::Replica {
            self.order(now, Order::Detach);
            return Ok(None);
        }
        if let Some((history, _)) = &sight.left
            && *history != load.history
        {
            let why = "the store left another history than the one it was given";
            return Err(Fault::new(reason::STORE_CHANGED, why));
        }
        let Some(engine) = self.engine_process.incarnation() else {
            return Ok(None);
        };
        let proof = ProofRecord {
            pod_uid: self.pod_uid.clone(),
            run_id: sight.facts.run_id.clone(),
            engine: engine.to_owned(),
            kind: ProofKind::Restored,
            since: now,
            exact: None,
            restore: Some(load.restore.clone()),
        };
        let keys = sight.all_keys;
        if let Some(record) = &mut self.record.load {
            record.stage = LoadStage::Done { keys };
        }
        let next = self.prove(now, proof, Entry::Grant);
        if next.is_some() {
            self.effects.push(Effect::EndProviding);
            self.failure = None;
            self.failed_warm_ups = 0;
        }
        Ok(next)
    }

    /// The load is over. Before the mark nothing has happened to the data.
    fn end_load(&mut self, now: Timestamp, load: &Load, fault: Fault) -> Option<State> {
        self.slot = None;
        self.effects.push(Effect::EndProviding);
        if load.step.is_before() {
            // What the mark may have written names no proof: it is written anew.
            self.record.proof = load.had.as_deref().cloned();
            self.record.before |= load.had.is_some();
            self.record.load = None;
            self.save();
            self.load_refused = Some(report(load, &fault, false));
            let (reason, message) = (fault.reason, fault.message);
            match &load.had {
                Some(proof) if self.breach(proof).is_none() => {
                    self.note(true, reason, message);
                    return Some(State::Opening {
                        proof: proof.clone(),
                        entry: Entry::Grant,
                    });
                }
                _ => self.unprove(now, reason, message),
            }
            return None;
        }
        if let Some(record) = &mut self.record.load {
            record.stage = LoadStage::Failed {
                reason: fault.reason.to_owned(),
                message: fault.message.clone(),
                retry: fault.retry,
            };
        }
        self.save();
        self.unprove(
            now,
            fault.reason,
            format!("the load failed: {}", fault.message),
        );
        None
    }

    /// A load that cannot begin.
    fn refuse_load(&mut self, now: Timestamp, order: &RestoreOrder, fault: Fault, touched: bool) {
        self.note(true, fault.reason, fault.message.clone());
        self.load_refused = Some(RestoreReport {
            restore: order.restore.clone(),
            attempt: order.attempt,
            started_at: now,
            bytes: 0,
            bytes_total: None,
            state: RestoreState::Failed {
                reason: fault.reason.to_owned(),
                message: fault.message,
                retry: fault.retry,
                touched,
            },
        });
    }

    /// An order of a load was carried out.
    pub(crate) fn load_order_done(&mut self, now: Timestamp, order: &Order) {
        let State::Loading(load) = &mut self.state else {
            return;
        };
        match (&load.step, order) {
            (Step::Save { .. }, Order::SavePrevious { .. }) => {
                load.step = Step::Save { told: true };
            }
            (Step::Mark, Order::Record(_)) => {
                load.step = Step::Provide;
                load.had = None;
            }
            (Step::Attach, Order::CopyDonor) => {
                load.step = Step::Take;
                load.progress.at = now;
            }
            _ => {}
        }
    }

    /// An order of a load failed; whether it was one.
    pub(crate) fn load_order_failed(&mut self, now: Timestamp, why: &str) -> bool {
        let State::Loading(load) = &self.state else {
            return false;
        };
        let load = load.clone();
        if let Some(next) = self.end_load(now, &load, Fault::new(reason::LOAD_FAILED, why)) {
            self.state = next;
        }
        true
    }

    /// The data can be copied.
    pub(crate) fn provided(&mut self, provided: Provided) {
        if let State::Loading(load) = &mut self.state
            && load.step == Step::Provide
        {
            load.history = provided.history;
            load.bytes = (0, Some(provided.bytes));
            load.step = Step::Attach;
        }
    }

    /// The data that is given to the store cannot be read any more.
    pub(crate) fn source_failed(&mut self, now: Timestamp, history: &str, why: &str) {
        let State::Loading(load) = &self.state else {
            return;
        };
        if load.history == history {
            self.load_order_failed(now, why);
        }
    }

    /// What is staged, or saved, has changed.
    pub(crate) fn saw_data(&mut self, now: Timestamp, which: WhichData, sight: DataSight) {
        match which {
            WhichData::Staged => self.staged = sight.ready(),
            WhichData::Previous => self.saw_previous(now, sight),
        }
    }

    fn saw_previous(&mut self, now: Timestamp, sight: DataSight) {
        let State::Loading(load) = &mut self.state else {
            return;
        };
        if load.step != (Step::Save { told: true }) {
            return;
        }
        match sight {
            DataSight::Coming { restore, bytes } if restore == load.restore => {
                load.bytes = (bytes, None);
            }
            DataSight::Ready {
                restore,
                keys,
                expiring,
            } if restore == load.restore => {
                self.record.previous = Some(PreviousRecord {
                    restore,
                    keys,
                    expiring,
                });
                load.step = Step::Mark;
            }
            DataSight::Failed { restore, why } if restore == load.restore => {
                let message = format!("the node's own data could not be saved: {why}");
                let load = load.clone();
                let fault = Fault::new(reason::NOT_SAVED, message);
                if let Some(next) = self.end_load(now, &load, fault) {
                    self.state = next;
                }
            }
            _ => {}
        }
    }

    /// The store ended while it loaded.
    pub(crate) fn store_left_the_load(&mut self, now: Timestamp) {
        let State::Loading(load) = &self.state else {
            return;
        };
        let load = load.clone();
        let how = self.store_process.last_exit();
        let message = format!("the store ended ({how}) while it loaded");
        let fault = Fault::new(reason::STORE_ENDED, message);
        if let Some(State::Opening { .. }) = self.end_load(now, &load, fault) {
            // Its data has ended with it.
            let message = format!(
                "the store ended ({how})",
                how = self.store_process.last_exit()
            );
            self.unprove(now, reason::STORE_ENDED, message);
        }
    }

    /// What the node says of the load it was told of; `None` where it has not
    /// come to it, and the staging speaks for itself.
    pub(crate) fn load_report(&self) -> Option<RestoreReport> {
        if let State::Loading(load) = &self.state {
            let state = match load.step {
                Step::Save { .. } => RestoreState::Saving,
                _ => RestoreState::Loading,
            };
            return Some(RestoreReport {
                restore: load.restore.clone(),
                attempt: load.attempt,
                started_at: load.began,
                bytes: load.bytes.0,
                bytes_total: load.bytes.1,
                state,
            });
        }
        let order = self.desired.as_ref()?.restore.as_ref()?;
        let same = |restore: &str, attempt| (restore, attempt) == (&order.restore, order.attempt);
        let refused = self.load_refused.as_ref();
        if let Some(report) = refused.filter(|report| same(&report.restore, report.attempt)) {
            return Some(report.clone());
        }
        let record = self.record.load.as_ref();
        let record = record.filter(|record| same(&record.restore, record.attempt))?;
        if order.goal == RestoreGoal::Revert && record.goal != RestoreGoal::Revert {
            return None;
        }
        Some(RestoreReport {
            restore: record.restore.clone(),
            attempt: record.attempt,
            started_at: record.began,
            bytes: 0,
            bytes_total: None,
            state: self.loaded_state(record),
        })
    }

    /// A load counts only as long as the proof that came of it.
    fn loaded_state(&self, record: &LoadRecord) -> RestoreState {
        let of_load = |proof: &ProofRecord| proof.restore.as_ref() == Some(&record.restore);
        let proven = self.proof().is_some_and(of_load);
        let remembered = self.proof().is_none() && self.record.proof.as_ref().is_some_and(of_load);
        let failed = |reason: &str, message: &str, retry| RestoreState::Failed {
            reason: reason.to_owned(),
            message: message.to_owned(),
            retry,
            touched: true,
        };
        match &record.stage {
            LoadStage::Done { .. } if matches!(self.state, State::Recording { .. }) => {
                RestoreState::Loading
            }
            LoadStage::Done { keys } if proven && record.goal == RestoreGoal::Load => {
                RestoreState::Loaded { keys: *keys }
            }
            LoadStage::Done { .. } if proven => RestoreState::Reverted,
            // A sidecar that starts has yet to look at what runs.
            LoadStage::Done { .. } if remembered => RestoreState::Loading,
            LoadStage::Done { .. } => failed(
                reason::PROOF_LOST,
                "the data was loaded, and its proof was lost since",
                true,
            ),
            LoadStage::Begun => failed(
                reason::LOAD_INTERRUPTED,
                "the node started again in the middle of the load",
                true,
            ),
            LoadStage::Failed {
                reason,
                message,
                retry,
            } => failed(reason, message, *retry),
        }
    }

    /// Why the node is where it is, while it loads.
    pub(crate) fn load_why(&self) -> Option<Why> {
        let State::Loading(load) = &self.state else {
            return None;
        };
        let message = match load.step {
            Step::Save { .. } => "saves its own data before it loads a backup",
            Step::Mark | Step::Provide | Step::Attach => "begins to load a backup",
            Step::Take | Step::Detach if load.goal == RestoreGoal::Revert => {
                "goes back to the data it had before"
            }
            Step::Take | Step::Detach => "its store takes in a backup",
        };
        let message = format!("{message}; restore {}", load.restore);
        Some((reason::LOADING, message))
    }

    /// Where an unproven node is that was told to load.
    pub(crate) fn load_position(&self) -> Option<(NodePhase, Why, Option<Awaiting>)> {
        let order = self.load_order()?;
        let report = self.load_report();
        if let Some(RestoreState::Failed { message, .. }) = report.map(|report| report.state) {
            let message = format!("{message}; the operator decides how it goes on");
            return Some((NodePhase::Failed, (reason::LOAD_FAILED, message), None));
        }
        let message = format!("waits until restore {} is staged", order.restore);
        Some((NodePhase::Restoring, (reason::STAGING, message), None))
    }

    /// The proof that a node has kept up to the mark of its load.
    pub(crate) fn proof_before_load(&self) -> Option<&ProofRecord> {
        match &self.state {
            State::Loading(load) => load.had.as_deref(),
            _ => None,
        }
    }

    /// An order to make the data ready was carried out.
    pub(crate) fn absorb_provided(&mut self, id: OrderId, provided: Provided) {
        if self.answered(id).is_some() {
            self.provided(provided);
        }
    }
}

impl DataSight {
    fn ready(self) -> Option<ReadyData> {
        match self {
            Self::Ready {
                restore,
                keys,
                expiring,
            } => Some(ReadyData {
                restore,
                keys,
                expiring,
            }),
            _ => None,
        }
    }
}

/// Says that a load has begun and nothing is proven.
fn mark(record: &mut Record, load: &Load) {
    record.proof = None;
    // What is neither old nor new is nobody's data, until the next proof.
    record.before = false;
    record.held = None;
    record.load = Some(LoadRecord {
        restore: load.restore.clone(),
        attempt: load.attempt,
        goal: load.goal,
        began: load.began,
        stage: LoadStage::Begun,
    });
}

fn which(goal: RestoreGoal) -> WhichData {
    match goal {
        RestoreGoal::Revert => WhichData::Previous,
        RestoreGoal::Stage | RestoreGoal::Load => WhichData::Staged,
    }
}

fn report(load: &Load, fault: &Fault, touched: bool) -> RestoreReport {
    RestoreReport {
        restore: load.restore.clone(),
        attempt: load.attempt,
        started_at: load.began,
        bytes: 0,
        bytes_total: None,
        state: RestoreState::Failed {
            reason: fault.reason.to_owned(),
            message: fault.message.clone(),
            retry: fault.retry,
            touched,
        },
    }
}
