//! What a node says of itself: its phase, and why it is there.

use dynomite_api::contract::{
    Awaiting, Finding, Grant, NodePhase, ProcessFacts, ProofKind, WarmUpProgress,
};
use dynomite_api::contract::{EngineFacts, Proof, StoreFacts};
use jiff::Timestamp;

use crate::decide::complains;
use crate::lifecycle::Lifecycle;
use crate::process::Process;
use crate::readiness::Why;
use crate::reason;
use crate::state::{State, Step, WarmUp};
use crate::time::elapsed;

/// So many ends in a row are no accident any more.
const CRASHING: u32 = 3;

/// The parts of a [`NodeReport`](dynomite_api::contract::NodeReport) that the
/// machine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Where the node is.
    pub phase: NodePhase,
    /// One word for why; empty when there is nothing to explain.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
    /// What it needs from the operator.
    pub awaiting: Option<Awaiting>,
    /// Whether the data is whole.
    pub proof: Proof,
    /// The warm-up that is going on.
    pub warm_up: Option<WarmUpProgress>,
    /// The store, while it can be asked.
    pub store: Option<StoreFacts>,
    /// The engine, while it can be asked.
    pub engine: Option<EngineFacts>,
    /// The store's process.
    pub store_process: ProcessFacts,
    /// The engine's process.
    pub engine_process: ProcessFacts,
    /// How far a load of a backup is; the node says so even where the order
    /// speaks only of staging, since a load that has begun is not undone by it.
    pub restore: Option<dynomite_api::contract::RestoreReport>,
    /// What is wrong with it now.
    pub findings: Vec<Finding>,
}

impl Lifecycle {
    /// What the node says of itself at `now`.
    pub fn outline(&self, now: Timestamp) -> Outline {
        let (phase, (reason, message), awaiting) = self.position(now);
        let patience = self.patience();
        Outline {
            phase,
            reason,
            message,
            awaiting,
            proof: self.proof_facts(),
            warm_up: self.progress(now),
            store: self
                .store
                .last()
                .filter(|_| self.store.health(now, &patience).is_ok())
                .map(|sight| sight.facts.clone()),
            engine: self
                .engine
                .last()
                .filter(|_| !self.engine.is_gone())
                .map(|sight| sight.facts.clone()),
            store_process: self.store_process.facts(),
            engine_process: self.engine_process.facts(),
            restore: self.load_report(),
            findings: self.findings(now),
        }
    }

    fn position(&self, now: Timestamp) -> (NodePhase, Why, Option<Awaiting>) {
        match &self.state {
            State::Unproven => self.unproven_position(),
            State::WarmUp(copy) => {
                let phase = match copy.step.stage() {
                    dynomite_api::contract::WarmUpStage::Connecting
                    | dynomite_api::contract::WarmUpStage::Copying => NodePhase::WarmingUp,
                    _ => NodePhase::CatchingUp,
                };
                (phase, copying(copy), None)
            }
            State::Recording { .. } => {
                let message = "the proof is being written to disk".to_owned();
                (self.opening_phase(), (reason::RECORDING, message), None)
            }
            State::Opening { .. } => {
                let why = self.opening_why(now);
                (self.opening_phase(), why, None)
            }
            State::Open { .. } => self.open_position(now),
            State::Held { .. } => self.held_position(now),
            State::Loading(_) => {
                let why = self.load_why().unwrap_or_default();
                (NodePhase::Restoring, why, None)
            }
            State::Draining(_) | State::Stopped { .. } => {
                let message = "the node leaves".to_owned();
                (NodePhase::Draining, (reason::TERMINATING, message), None)
            }
        }
    }

    fn open_position(&self, now: Timestamp) -> (NodePhase, Why, Option<Awaiting>) {
        match self.readiness(now) {
            Ok(()) => (NodePhase::Serving, self.serving_why(), None),
            Err(why) if why.0 == reason::AWAITING_SERVE => {
                (NodePhase::Held, why, Some(Awaiting::Serve))
            }
            Err(why) if why.0 == reason::RECORDING => (NodePhase::Starting, why, None),
            Err(why) if why.0 == reason::WRITES_MISSED => (NodePhase::WarmingUp, why, None),
            Err(why) if why.0 == reason::WITHDRAWAL_UNSEEN => (NodePhase::CatchingUp, why, None),
            Err(why) => (NodePhase::Failed, why, None),
        }
    }

    fn held_position(&self, now: Timestamp) -> (NodePhase, Why, Option<Awaiting>) {
        let why = self.readiness(now).err();
        (NodePhase::Held, why.unwrap_or_default(), None)
    }

    /// What is worth knowing of a node that serves.
    fn serving_why(&self) -> Why {
        if let Some(why) = &self.invalid {
            return (reason::SETTINGS_INVALID, why.clone());
        }
        if let Some(why) = self.renewal_why() {
            return why;
        }
        if self.proof().is_some_and(|proof| proof.exact == Some(false)) {
            let message = "the copy did not take over exactly, because not every engine of                            the datacenter numbers its writes: some may be here twice";
            return (reason::CUT_NOT_EXACT, message.to_owned());
        }
        ("", String::new())
    }

    fn opening_phase(&self) -> NodePhase {
        match &self.record.proof {
            Some(proof) if proof.kind == ProofKind::WarmUp => NodePhase::CatchingUp,
            _ => NodePhase::Starting,
        }
    }

    fn opening_why(&self, now: Timestamp) -> Why {
        for process in [&self.store_process, &self.engine_process] {
            if !process.is_up() {
                return process.why_down();
            }
        }
        if let Err(why) = self.engine.health(now, &self.patience()) {
            return (reason::ENGINE_UNRESPONSIVE, format!("the engine {why}"));
        }
        let message = "the engine is being brought to NORMAL".to_owned();
        (reason::OPENING, message)
    }

    fn unproven_position(&self) -> (NodePhase, Why, Option<Awaiting>) {
        let starting = |why| (NodePhase::Starting, why, None);
        let Some(desired) = &self.desired else {
            let message = "the operator has not sent a desired document yet".to_owned();
            let why = (reason::AWAITING_DESIRED, message);
            return (NodePhase::Starting, why, Some(Awaiting::Desired));
        };
        if let (None, Some(why)) = (&self.files, &self.invalid) {
            let why = (reason::SETTINGS_INVALID, why.clone());
            return (NodePhase::Failed, why, None);
        }
        let waits = !self.may_be_proven() || self.stopped() != (false, false);
        if let Some(why) = self.stay_why().filter(|_| waits) {
            return (NodePhase::Held, why, None);
        }
        if !self.store_process.is_up() {
            if let Some(why) = self.spoilt_why() {
                return (NodePhase::Failed, why, None);
            }
            return process_position(&self.store_process);
        }
        let Some(store) = self.store.last() else {
            let message = "the store does not answer yet".to_owned();
            return starting((reason::STORE_UNRESPONSIVE, message));
        };
        if store.facts.loading {
            let message = "the store is reading its files".to_owned();
            return starting((reason::STORE_LOADING, message));
        }
        if complains(store) {
            let complaint = store.facts.complaint.clone().unwrap_or_default();
            return (
                NodePhase::Failed,
                (reason::STORE_COMPLAINS, complaint),
                None,
            );
        }
        if let Some(position) = self.load_position() {
            return position;
        }
        let granted = desired
            .grant
            .as_ref()
            .filter(|grant| grant.pod_uid() == self.pod_uid && !self.record.used.contains(*grant));
        match granted {
            Some(Grant::Bootstrap { .. }) if !store.empty => {
                let message = format!(
                    "the node was to begin empty, but its store holds {} keys; \
                     it needs a donor, or a permission to keep what it has",
                    store.facts.keys
                );
                let awaiting = desired.donors.is_empty().then_some(Awaiting::DonorOrGrant);
                let why = (reason::BOOTSTRAP_NOT_EMPTY, message);
                return (NodePhase::Failed, why, awaiting);
            }
            Some(_) => return process_position(&self.engine_process),
            None => {}
        }
        if let Some(failure) = &self.failure
            && self.failed_warm_ups > 0
        {
            let all = self.failed_warm_ups as usize >= desired.donors.len();
            let why = (
                failure.reason,
                format!("{}{}", failure.message, remedy(desired.donors.is_empty())),
            );
            return (
                NodePhase::Failed,
                why,
                all.then_some(Awaiting::DonorOrGrant),
            );
        }
        if !desired.donors.is_empty() {
            let message = "about to copy a donor".to_owned();
            return starting((reason::COPYING, message));
        }
        let mut what_was = self.failure.as_ref().map_or_else(
            || "the data is not proven".to_owned(),
            |failure| failure.message.clone(),
        );
        if self.record.set_aside {
            what_was.push_str(
                "; the files that the store could not load are kept in set-aside on the data \
                 volume, to be repaired and put back",
            );
        }
        let why = (
            reason::AWAITING_DONOR,
            format!("{what_was}{}", remedy(true)),
        );
        (NodePhase::Starting, why, Some(Awaiting::DonorOrGrant))
    }

    fn proof_facts(&self) -> Proof {
        match self.proof() {
            Some(proof) => Proof {
                kind: proof.kind,
                since: Some(proof.since),
                exact: proof.exact,
                before: self.record.before,
                remembered: None,
            },
            None => Proof {
                kind: ProofKind::Unproven,
                since: None,
                exact: None,
                before: self.record.before,
                remembered: self.remembered_since(),
            },
        }
    }

    fn progress(&self, now: Timestamp) -> Option<WarmUpProgress> {
        let State::WarmUp(copy) = &self.state else {
            return None;
        };
        let sight = self.store.last();
        let link = sight.and_then(|sight| sight.link);
        let done = link.map_or(0, |link| link.bytes_done);
        let known = link.and_then(|link| link.bytes_total);
        let own = sight.map_or(0, |sight| sight.facts.used_memory_bytes);
        let estimate = copy_estimate(done, own, copy.donor_bytes);
        let total = known.or(estimate).map(|total| total.max(done));
        let copying = copy.step == Step::Copy;
        let rate = copy.copies_since.filter(|_| copying).and_then(|since| {
            let passed = u64::try_from(elapsed(now, since).as_millis()).ok()?;
            done.saturating_mul(1000).checked_div(passed)
        });
        let left = total.zip(rate).and_then(|(total, rate)| {
            let left = total.saturating_sub(done);
            left.checked_div(rate)
        });
        Some(WarmUpProgress {
            donor: copy.donor.name.clone(),
            stage: copy.step.stage(),
            started_at: copy.began,
            attempt: copy.attempt,
            bytes_done: done,
            bytes_total: total,
            bytes_total_estimated: known.is_none() && total.is_some(),
            bytes_per_second: rate,
            seconds_left: left,
            lag_bytes: copy.lag,
        })
    }
}

/// How long a copy may be whose donor does not say: as it has taken this node's
/// memory so far, so the rest will, up to what the donor's data takes.
fn copy_estimate(done: u64, own: u64, donor: u64) -> Option<u64> {
    /// Below this share of the donor's data, what a store needs for itself
    /// would be most of what is compared.
    const SHARE: u64 = 20;
    if donor == 0 {
        return None;
    }
    if done == 0 || own < donor / SHARE {
        return Some(donor);
    }
    let total = u128::from(done) * u128::from(donor) / u128::from(own.min(donor).max(1));
    u64::try_from(total).ok()
}

/// What a copy is at, and what is in its way.
fn copying(copy: &WarmUp) -> Why {
    let donor = &copy.donor.name;
    if let Step::Introduce { .. } = copy.step {
        let message = format!(
            "copied {donor}; waits until other nodes know its new address: {}",
            copy.unaware.join(", ")
        );
        return (reason::INTRODUCING, message);
    }
    match &copy.trouble {
        Some((reason, why)) => {
            let message = format!("copying {donor}; the cut is tried again: {why}");
            (reason, message)
        }
        None => (reason::COPYING, format!("copying {donor}")),
    }
}

/// What a person can do about a node that finds nobody to copy.
fn remedy(no_donors: bool) -> &'static str {
    if no_donors {
        "; no node of the same token can be copied: bring one back, \
         or accept the loss of what only they had"
    } else {
        "; it is tried again: see to the donors, or accept the loss of what only they had"
    }
}

fn process_position(process: &Process) -> (NodePhase, Why, Option<Awaiting>) {
    let phase = if process.ends_in_a_row() >= CRASHING {
        NodePhase::Failed
    } else {
        NodePhase::Starting
    };
    (phase, process.why_down(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_copy_is_estimated_by_what_it_has_filled() {
        // Bytes that came, own memory, the donor's data.
        let table = [
            ((0, 0, 0), None),
            ((0, 900, 1000), Some(1000)),
            ((10, 20, 1000), Some(1000)),
            ((100, 250, 1000), Some(400)),
            ((400, 1000, 1000), Some(400)),
            ((400, 1200, 1000), Some(400)),
            ((u64::MAX, 1, 10), None),
        ];
        for ((done, own, donor), expected) in table {
            let got = copy_estimate(done, own, donor);
            assert_eq!(got, expected, "{done} {own} {donor}");
        }
    }
}
