//! Proven: bring the engine to NORMAL, and notice at once when the proof no longer holds.

use dynomite_api::contract::{EngineState, StoreRole};
use jiff::Timestamp;

use crate::decide::complains;
use crate::effect::Order;
use crate::event::PingAnswer;
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::record::ProofRecord;
use crate::state::{Entry, State};

impl Lifecycle {
    /// The next state of a node that is proven and not open yet.
    pub(crate) fn open(&mut self, now: Timestamp) -> Option<State> {
        let State::Opening { proof, entry } = &self.state else {
            return None;
        };
        let (proof, entry) = (proof.clone(), entry.clone());
        if let Some((reason, message)) = self.breach(&proof) {
            self.unprove(now, reason, message);
            return None;
        }
        if let Entry::Copy { resume_by, .. } = entry
            && resume_by <= now
            && !self.engine_takes_writes()
        {
            let message =
                "the engine held writes for too long and may have dropped them".to_owned();
            self.unprove(now, reason::ENGINE_SLOW_TO_RESUME, message);
            return None;
        }
        self.store.fresh()?;
        let incarnation = self.engine_process.incarnation()?.to_owned();
        if self.slot.is_some() {
            return None;
        }
        if proof.engine != incarnation {
            let proof = ProofRecord {
                engine: incarnation,
                ..*proof
            };
            return self.prove(now, proof, Entry::Grant);
        }
        if !self.exposed {
            self.order(now, Order::Expose);
            return None;
        }
        let state = self.engine.fresh()?.facts.state;
        let expected = match &entry {
            Entry::Grant => true,
            Entry::Copy {
                commit: Some(received),
                ..
            } => {
                if state == EngineState::WritesOnly {
                    let order = Order::CommitCapture(received.clone());
                    self.order(now, order);
                    return None;
                }
                false
            }
            Entry::Copy { commit: None, .. } => {
                !matches!(state, EngineState::Standby | EngineState::Other)
            }
            Entry::Memory => state == EngineState::Normal || !self.has_replicas(),
        };
        if !expected {
            let message =
                "somebody changed the engine's state; the node has missed writes".to_owned();
            self.unprove(now, reason::ENGINE_LEFT_NORMAL, message);
            return None;
        }
        // One that was open all the time first lets its clients go.
        let was_open = entry == Entry::Memory && state == EngineState::Normal;
        if self.stay().is_some() && !was_open {
            return self.open_to_hold(now, &proof);
        }
        self.bring_to_normal(now, proof)
    }

    fn bring_to_normal(&mut self, now: Timestamp, proof: Box<ProofRecord>) -> Option<State> {
        let (state, ping) = {
            let sight = self.engine.fresh()?;
            (sight.facts.state, sight.ping.clone())
        };
        match state {
            EngineState::Normal => {}
            EngineState::Resuming => {
                self.order(now, Order::EngineState(EngineState::Normal));
                return None;
            }
            EngineState::Standby | EngineState::WritesOnly | EngineState::Other => {
                self.order(now, Order::EngineState(EngineState::Resuming));
                return None;
            }
        }
        if self.order_consistency(now) || ping != PingAnswer::Pong {
            return None;
        }
        let patience = self.patience();
        self.store.health(now, &patience).ok()?;
        self.engine.health(now, &patience).ok()?;
        Some(State::Open { proof })
    }

    /// The engine has taken over what the donor had received, and lets go what
    /// it holds beyond that.
    pub(crate) fn committed(&mut self) {
        if let State::Opening {
            entry: Entry::Copy { commit, .. },
            ..
        } = &mut self.state
        {
            *commit = None;
        }
    }

    /// It has not: what it held may be incomplete.
    pub(crate) fn commit_failed(&mut self, now: Timestamp, why: &str) {
        if let State::Opening { .. } = self.state {
            let message = format!("the engine could not take over from the donor: {why}");
            self.unprove(now, reason::CAPTURE_LOST, message);
        }
    }

    fn engine_takes_writes(&self) -> bool {
        self.engine.last().is_some_and(|sight| {
            matches!(
                sight.facts.state,
                EngineState::Resuming | EngineState::Normal
            )
        })
    }

    /// Whether the engine has yet to be told the consistency; then it is.
    fn order_consistency(&mut self, now: Timestamp) -> bool {
        let Some(wanted) = self.desired.as_ref().map(|desired| desired.consistency) else {
            return false;
        };
        if self.consistency == Some(wanted) {
            return false;
        }
        self.order(now, Order::Consistency(wanted));
        true
    }

    /// The next state of a node that is open.
    pub(crate) fn stay_open(&mut self, now: Timestamp) -> Option<State> {
        let State::Open { proof } = &self.state else {
            return None;
        };
        let proof = proof.clone();
        if let Some((reason, message)) = self.breach(&proof) {
            self.unprove(now, reason, message);
            return None;
        }
        if let Some(held) = self.begin_hold(now, &proof) {
            return Some(held);
        }
        if self.renew(now, &proof) {
            return None;
        }
        let normal = self
            .engine
            .fresh()
            .is_none_or(|sight| sight.facts.state == EngineState::Normal);
        if !normal && self.has_replicas() {
            let message =
                "somebody changed the engine's state; the node has missed writes".to_owned();
            self.unprove(now, reason::ENGINE_LEFT_NORMAL, message);
            return None;
        }
        let other_engine = self
            .engine_process
            .incarnation()
            .is_some_and(|incarnation| incarnation != proof.engine);
        if !normal || other_engine {
            return Some(State::Opening {
                proof,
                entry: Entry::Grant,
            });
        }
        if self.slot.is_none() && !self.order_spent_bootstrap(now) && !self.order_consistency(now) {
            self.order_setting(now);
        }
        None
    }

    /// Why the proof holds no longer, if it does not.
    pub(crate) fn breach(&self, proof: &ProofRecord) -> Option<(&'static str, String)> {
        let replicas = self.has_replicas();
        if let Some(incarnation) = self.engine_process.incarnation()
            && incarnation != proof.engine
            && replicas
        {
            let message = "another engine runs; the node has missed writes".to_owned();
            return Some((reason::ENGINE_ENDED, message));
        }
        let store = self.store.last()?;
        if store.facts.run_id != proof.run_id {
            let message = "another store runs than the one that was proven".to_owned();
            return Some((reason::STORE_CHANGED, message));
        }
        if store.facts.role == StoreRole::Replica {
            let message = "somebody made the store a replica".to_owned();
            return Some((reason::STORE_REPLICA, message));
        }
        if complains(store) && replicas {
            let complaint = store.facts.complaint.as_deref().unwrap_or_default();
            let message = format!("the store refuses its work, so it misses writes: {complaint}");
            return Some((reason::STORE_COMPLAINS, message));
        }
        None
    }
}
