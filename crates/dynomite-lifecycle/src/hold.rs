//! Held: out of the endpoints, engine standing by, data kept, until the word is taken back.
//!
//! ```text
//!            told to stay out            clients are gone            seen
//!   Open ----------------------> Quiet ------------------> Standby ------> Held
//!     ^                            |                          |             |
//!     +------- let go -------------+      let go, nothing missed            |
//!     +--------------- (by way of Opening) ---------------------------------+
//!   Unproven <----------- let go, but the others went on -------------------+
//! ```
//!
//! Two may say so: the operator, in the desired document, and a person by the
//! old REST calls, of this pod. Where every node of the datacenter is held at
//! once nobody takes a write, so none is missed: the proof goes on counting, and
//! the node may be copied. One that was held while others went on has missed
//! what they took, and comes back by a warm-up; without replicas there is nobody
//! to take anything. A node that was never proven stays out all the same.

use std::time::Duration;

use dynomite_api::contract::{EngineState, HoldStore};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drain::Quiet;
use crate::effect::Order;
use crate::event::ProcessName;
use crate::lifecycle::Lifecycle;
use crate::readiness::Why;
use crate::reason;
use crate::record::ProofRecord;
use crate::state::{Entry, State};

/// What the engine gets to end; it has nothing to save.
const ENGINE_GRACE: Duration = Duration::from_secs(3);
/// What the store gets to save its data.
const STORE_GRACE: Duration = Duration::from_secs(20);

/// A process that one of the old REST calls starts or stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `stop`: the engine stays stopped.
    StopEngine,
    /// `start`: it runs again.
    StartEngine,
    /// `stopstorageprocess`: the store stays stopped.
    StopStore,
    /// `startstorageprocess`: it runs again.
    StartStore,
}

/// What a pod was told by the old REST calls and has to keep to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// The pod that was told: one that comes after it starts as usual.
    pub pod_uid: String,
    /// When its engine was stopped, and by whom.
    pub engine: Option<Stopped>,
    /// When its store was.
    pub store: Option<Stopped>,
}

/// Who stopped a process, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// The common name of the client's certificate.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A node that was held, for a sidecar that starts again meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldRecord {
    /// [`ProofRecord::since`] of the proof it kept.
    pub proof_since: Timestamp,
    /// Whether nobody can have written meanwhile.
    pub whole: bool,
}

/// How far a node that is told to stay out has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HoldStep {
    /// Clients go elsewhere and open requests finish.
    Quiet {
        since: Timestamp,
        still: Option<(u64, Timestamp)>,
    },
    /// The engine is told to refuse what still comes.
    Standby,
    /// It does.
    Held,
}

/// All that is asked of a node that stays out.
pub(crate) struct Stay {
    why: Why,
    engine_runs: bool,
    store_runs: bool,
    /// Whether every node of the datacenter stays out with it.
    ring: bool,
}

impl Lifecycle {
    /// What keeps the node out, if anything does.
    pub(crate) fn stay(&self) -> Option<Stay> {
        let told = Some(&self.record.told).filter(|told| told.pod_uid == self.pod_uid);
        let engine = told.and_then(|told| told.engine.as_ref());
        let store = told.and_then(|told| told.store.as_ref());
        let hold = self.desired.as_ref().and_then(|d| d.hold.as_ref());
        let mut words: Vec<String> = Vec::new();
        for (call, undo, stopped) in [
            ("stop", "start", engine),
            ("stopstorageprocess", "startstorageprocess", store),
        ] {
            if let Some(Stopped { by, at }) = stopped {
                words.push(format!(
                    "stopped by REST call {call} of {by} at {at:.0}; {undo} takes it back"
                ));
            }
        }
        let by_rest = !words.is_empty();
        words.extend(hold.map(|hold| format!("held by the operator: {}", hold.why)));
        if words.is_empty() {
            return None;
        }
        let reason = if by_rest {
            reason::STOPPED_BY_REST
        } else {
            reason::HELD
        };
        Some(Stay {
            why: (reason, words.join("; ")),
            engine_runs: engine.is_none(),
            store_runs: store.is_none() && hold.is_none_or(|hold| hold.store == HoldStore::Running),
            ring: !by_rest && hold.is_some_and(|hold| hold.ring),
        })
    }

    /// Why the node stays out, while it does.
    pub(crate) fn stay_why(&self) -> Option<Why> {
        self.stay().map(|stay| stay.why)
    }

    /// Whether a node that stays out may prove its data meanwhile.
    pub(crate) fn may_be_proven(&self) -> bool {
        self.stay()
            .is_none_or(|stay| stay.ring || !self.has_replicas())
    }

    /// Takes one of the old calls to heart, from the record on.
    pub(crate) fn told(&mut self, now: Timestamp, word: Word, by: String) {
        if self.record.told.pod_uid != self.pod_uid {
            self.record.told = Told {
                pod_uid: self.pod_uid.clone(),
                ..Told::default()
            };
        }
        let told = &mut self.record.told;
        let (place, stopped) = match word {
            Word::StopEngine => (&mut told.engine, true),
            Word::StartEngine => (&mut told.engine, false),
            Word::StopStore => (&mut told.store, true),
            Word::StartStore => (&mut told.store, false),
        };
        if place.is_some() == stopped {
            return;
        }
        *place = stopped.then_some(Stopped { by, at: now });
        self.save();
        let message = match self.stay_why() {
            Some((_, why)) => why,
            None => "nothing is stopped by REST any more".to_owned(),
        };
        self.note(false, reason::STOPPED_BY_REST, message);
    }

    /// The way out of service, when the node is open and told to stay out.
    pub(crate) fn begin_hold(&mut self, now: Timestamp, proof: &ProofRecord) -> Option<State> {
        let stay = self.stay()?;
        self.renewal = None;
        self.slot = None;
        self.note(false, stay.why.0, stay.why.1);
        Some(State::Held {
            proof: Box::new(proof.clone()),
            step: HoldStep::Quiet {
                since: now,
                still: None,
            },
            whole: stay.ring || !self.has_replicas(),
        })
    }

    /// The next state of a node that is held.
    pub(crate) fn held(&mut self, now: Timestamp) -> Option<State> {
        let State::Held { proof, step, whole } = &self.state else {
            return None;
        };
        let (proof, step, whole) = (proof.clone(), step.clone(), *whole);
        if let Some((reason, message)) = self.breach(&proof) {
            self.unprove(now, reason, message);
            return None;
        }
        if let Some(distrust) = self.distrusted(&proof) {
            // It serves nobody, so nobody loses anything by it.
            let message = format!("gave up its proof: {}", distrust.why);
            self.unprove(now, reason::WRITES_MISSED, message);
            return None;
        }
        let Some(stay) = self.stay() else {
            return self.let_go(now, proof, &step, whole);
        };
        if step == HoldStep::Held
            && stay.store_runs
            && let Some(load) = self.begin_load(now, Some(&proof))
        {
            return Some(load);
        }
        let still_whole = whole && (stay.ring || !self.has_replicas());
        let next = match step.clone() {
            HoldStep::Quiet { since, still } => match self.quiet(now, since, still) {
                Quiet::Yes => HoldStep::Standby,
                Quiet::No(still) => HoldStep::Quiet { since, still },
            },
            HoldStep::Standby if self.stands_by() => HoldStep::Held,
            HoldStep::Standby | HoldStep::Held => {
                self.hold_engine(now);
                step.clone()
            }
        };
        let changed = next != step;
        if still_whole != whole || (changed && next == HoldStep::Standby) {
            self.record.held = Some(HeldRecord {
                proof_since: proof.since,
                whole: still_whole,
            });
            self.save();
        }
        let quiet = matches!(next, HoldStep::Quiet { .. });
        let state = State::Held {
            proof,
            step: next,
            whole: still_whole,
        };
        if changed && !quiet {
            return Some(state);
        }
        self.state = state;
        None
    }

    pub(crate) fn stands_by(&self) -> bool {
        let state = self.engine.fresh().map(|sight| sight.facts.state);
        state == Some(EngineState::Standby) || !self.engine_process.is_up()
    }

    fn let_go(
        &mut self,
        now: Timestamp,
        proof: Box<ProofRecord>,
        step: &HoldStep,
        whole: bool,
    ) -> Option<State> {
        if self.record.held.take().is_some() {
            self.save();
        }
        if let HoldStep::Quiet { .. } = step {
            return Some(State::Open { proof });
        }
        if whole {
            return Some(State::Opening {
                proof,
                entry: Entry::Grant,
            });
        }
        let message = "it was held while the other nodes took writes".to_owned();
        self.unprove(now, reason::HELD, message);
        None
    }

    /// Where a node that is proven goes instead of NORMAL, while it is told to
    /// stay out. Its engine has taken over what it copied when it stands by.
    pub(crate) fn open_to_hold(&mut self, now: Timestamp, proof: &ProofRecord) -> Option<State> {
        let state = self.engine.fresh()?.facts.state;
        if state == EngineState::WritesOnly {
            self.order(now, Order::EngineState(EngineState::Resuming));
            return None;
        }
        let stay = self.stay()?;
        let whole = stay.ring || !self.has_replicas();
        let proof = Box::new(proof.clone());
        self.record.held = Some(HeldRecord {
            proof_since: proof.since,
            whole,
        });
        self.save();
        let step = HoldStep::Standby;
        Some(State::Held { proof, step, whole })
    }

    /// Whether a node that is held has all that its replicas have, and keeps it.
    pub(crate) fn is_held_whole(&self) -> bool {
        matches!(self.state, State::Held { whole: true, .. })
    }

    /// The processes that the node's hold keeps from running: store, engine.
    pub(crate) fn stopped(&self) -> (bool, bool) {
        let out = match &self.state {
            State::Unproven => true,
            State::Held { step, .. } => *step == HoldStep::Held,
            _ => false,
        };
        let Some(stay) = self.stay().filter(|_| out) else {
            return (false, false);
        };
        (!stay.store_runs, !stay.engine_runs)
    }

    /// Has a process ended that is to be stopped.
    pub(crate) fn keep_down(&mut self, now: Timestamp, name: ProcessName) {
        let (process, grace) = match name {
            ProcessName::Store => (&mut self.store_process, STORE_GRACE),
            ProcessName::Engine => (&mut self.engine_process, ENGINE_GRACE),
        };
        if let Some(effects) = process.bring_down(now, grace) {
            self.effects.extend(effects);
        }
    }

    /// A copy that would be outdated at once is given up.
    pub(crate) fn give_up_copy(&mut self, now: Timestamp) {
        if self.may_be_proven() {
            return;
        }
        if let Some((_, why)) = self.stay_why() {
            self.unprove(now, reason::HELD, format!("the copy is given up: {why}"));
        }
    }
}
