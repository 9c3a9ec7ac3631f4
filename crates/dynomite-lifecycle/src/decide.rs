//! Unproven: what could prove the data, in the order in which it is tried.

use dynomite_api::contract::{EngineState, Grant, NodeDesired, ProofKind, StoreRole};
use jiff::Timestamp;

use crate::effect::Order;
use crate::event::StoreSight;
use crate::hold::HoldStep;
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::record::{ProofRecord, Record};
use crate::state::{Entry, State};

/// What the record on disk says about the store that runs.
enum Remembered {
    /// It was proven and nothing was missed.
    Proven(ProofRecord),
    /// It was proven and is held; whether nobody can have written meanwhile.
    Held(ProofRecord, bool),
    /// It was proven, and the engine that started since has missed nothing.
    ProvenBefore(ProofRecord),
    /// It cannot be said before the launchers have spoken.
    WaitForProcesses,
    /// Nothing that counts.
    Nothing,
}

impl Lifecycle {
    /// The next state of a node whose data is unproven.
    pub(crate) fn decide(&mut self, now: Timestamp) -> Option<State> {
        let desired = self.desired.clone()?;
        let store = self.store.fresh()?.clone();
        if store.facts.loading {
            return None;
        }
        match self.remembered(&store) {
            Remembered::WaitForProcesses => return None,
            Remembered::Proven(proof) => {
                return Some(State::Opening {
                    proof: Box::new(proof),
                    entry: Entry::Memory,
                });
            }
            Remembered::Held(proof, whole) => {
                return Some(State::Held {
                    proof: Box::new(proof),
                    step: HoldStep::Standby,
                    whole,
                });
            }
            Remembered::ProvenBefore(proof) => return self.prove(now, proof, Entry::Grant),
            Remembered::Nothing => {}
        }
        self.withdraw();
        let forgotten = self.record.proof.take().is_some() || self.record.held.take().is_some();
        if forgotten {
            self.save();
        }
        if complains(&store) || !self.store_process.is_up() {
            self.hold_engine(now);
            return None;
        }
        if !self.may_be_proven() {
            self.hold_engine(now);
            return None;
        }
        if let Some(load) = self.begin_load(now, None) {
            return Some(load);
        }
        if let Some(grant) = self.usable_grant(&desired, &store) {
            return self.use_grant(now, &grant, &store);
        }
        self.hold_engine(now);
        self.choose_donor(now, &desired)
    }

    fn remembered(&self, store: &StoreSight) -> Remembered {
        let Some(proof) = &self.record.proof else {
            return Remembered::Nothing;
        };
        let same_store = proof.run_id == store.facts.run_id
            && proof.pod_uid == self.pod_uid
            && store.facts.role == StoreRole::Primary;
        if !same_store {
            return Remembered::Nothing;
        }
        if !self.store_process.is_up() {
            return Remembered::WaitForProcesses;
        }
        let Some(incarnation) = self.engine_process.incarnation() else {
            let may_run = !self.engine_process.is_known() || self.engine_process.is_starting();
            return if may_run {
                Remembered::WaitForProcesses
            } else {
                Remembered::Nothing
            };
        };
        if !self.has_replicas() {
            let mut proof = proof.clone();
            if proof.engine == incarnation {
                return Remembered::Proven(proof);
            }
            incarnation.clone_into(&mut proof.engine);
            return Remembered::ProvenBefore(proof);
        }
        if proof.engine != incarnation {
            return Remembered::Nothing;
        }
        let held = self.record.held.as_ref();
        let held = held.filter(|held| held.proof_since == proof.since);
        match (self.engine.fresh(), held) {
            (None, _) => Remembered::WaitForProcesses,
            (Some(sight), Some(held)) if sight.facts.state == EngineState::Standby => {
                Remembered::Held(proof.clone(), held.whole)
            }
            (Some(sight), _) if sight.facts.state == EngineState::Normal => {
                Remembered::Proven(proof.clone())
            }
            (Some(_), _) => Remembered::Nothing,
        }
    }

    /// Since when the data was proven, by what the disk says of this pod, while it
    /// is not known yet whether that still holds.
    pub(crate) fn remembered_since(&self) -> Option<Timestamp> {
        let proof = self.record.proof.as_ref();
        let proof = proof.filter(|proof| proof.pod_uid == self.pod_uid)?;
        self.proof().is_none().then_some(proof.since)
    }

    /// The grant of the desired document, if it is for this pod, has not been
    /// used, and its condition holds.
    fn usable_grant(&self, desired: &NodeDesired, store: &StoreSight) -> Option<Grant> {
        let grant = desired.grant.as_ref()?;
        if grant.pod_uid() != self.pod_uid || self.record.used.contains(grant) {
            return None;
        }
        match grant {
            Grant::Bootstrap { .. } => store.empty.then(|| grant.clone()),
            Grant::AcceptLocal { .. } => Some(grant.clone()),
        }
    }

    fn use_grant(&mut self, now: Timestamp, grant: &Grant, store: &StoreSight) -> Option<State> {
        let engine = self.engine_process.incarnation()?.to_owned();
        self.engine.fresh()?;
        if store.facts.role != StoreRole::Primary {
            self.order(now, Order::Detach);
            return None;
        }
        let pauses = self
            .failure
            .as_ref()
            .is_some_and(|failure| now < failure.retry_at);
        if self.slot.is_some() || pauses {
            return None;
        }
        let kind = match grant {
            Grant::Bootstrap { .. } => ProofKind::Bootstrap,
            Grant::AcceptLocal { .. } => ProofKind::AcceptedLocal,
        };
        // Where others have the data, accepting what is here is a word for this
        // one time: the next loss is made good by a donor.
        if kind == ProofKind::AcceptedLocal && self.has_replicas() {
            self.record.used.push(grant.clone());
        }
        let proof = ProofRecord {
            pod_uid: self.pod_uid.clone(),
            run_id: store.facts.run_id.clone(),
            engine,
            kind,
            since: now,
            exact: None,
            restore: None,
        };
        self.prove(now, proof, Entry::Grant)
    }

    /// Writes the proof down, then opens.
    pub(crate) fn prove(
        &mut self,
        now: Timestamp,
        proof: ProofRecord,
        entry: Entry,
    ) -> Option<State> {
        if self.slot.is_some() {
            return None;
        }
        self.record.proof = Some(proof.clone());
        self.record.before = true;
        let mut record = self.record.clone();
        record.set_aside = false;
        if proof.kind != ProofKind::Bootstrap {
            // Written with the proof, so that nothing is left to write before it serves.
            record.used.extend(self.spent_bootstrap());
        }
        self.order(now, Order::Record(Box::new(record)));
        Some(State::Recording {
            proof: Box::new(proof),
            entry,
        })
    }

    /// The proof is on disk.
    pub(crate) fn recorded(&mut self) {
        self.record.set_aside = false;
        if let State::Recording { proof, entry } = &self.state {
            let (proof, entry) = (proof.clone(), entry.clone());
            let message = format!("the data is proven by {:?}", proof.kind);
            self.note(false, reason::PROVEN, message);
            self.state = State::Opening { proof, entry };
        }
    }

    /// A permission that is not in the document any more can be given again.
    /// A bootstrap cannot: a token that has served once has served.
    pub(crate) fn forget_used_grant(&mut self) {
        let given = self
            .desired
            .as_ref()
            .and_then(|desired| desired.grant.clone());
        let before = self.record.used.len();
        self.record.used.retain(|used| match used {
            // What earlier pods of this volume have used is not given again.
            Grant::Bootstrap { pod_uid } => *pod_uid == self.pod_uid,
            Grant::AcceptLocal { .. } => given.as_ref() == Some(used),
        });
        if self.record.used.len() != before {
            self.save();
        }
    }

    /// The bootstrap that opens nothing any more because there is something to
    /// lose: clients may write, or a peer has passed a write on. It is spent even
    /// where the document does not give it now, for an operator that sees what
    /// was could give it again. It is there until the disk knows.
    pub(crate) fn spent_bootstrap(&self) -> Option<Grant> {
        let desired = self.desired.as_ref()?;
        let grant = self.own_bootstrap();
        let given = desired.grant.as_ref() == Some(&grant);
        let written = self.store.last().is_some_and(|sight| !sight.empty);
        let spent = desired.serve || (given && written);
        (spent && !self.record.used.contains(&grant)).then_some(grant)
    }

    fn own_bootstrap(&self) -> Grant {
        Grant::Bootstrap {
            pod_uid: self.pod_uid.clone(),
        }
    }

    /// Writes down that the bootstrap is spent, before the node is ready.
    pub(crate) fn order_spent_bootstrap(&mut self, now: Timestamp) -> bool {
        let Some(grant) = self.spent_bootstrap() else {
            return false;
        };
        let mut record = self.record.clone();
        record.used.push(grant);
        self.order(now, Order::Record(Box::new(record)));
        true
    }

    /// The disk knows which grants are used.
    pub(crate) fn grants_recorded(&mut self, record: &Record) {
        for grant in &record.used {
            let bootstrap = matches!(grant, Grant::Bootstrap { .. });
            if bootstrap && !self.record.used.contains(grant) {
                self.record.used.push(grant.clone());
            }
        }
    }
}

/// Whether the store says that it cannot do its work; that it is full is for
/// people to know, because its peers are as full.
pub(crate) fn complains(store: &StoreSight) -> bool {
    let text = store.facts.complaint.as_deref().unwrap_or_default();
    !text.is_empty() && !text.starts_with("OOM") && !text.starts_with("LOADING")
}
