//! Ready or not: everything must be right at once, and a node that left must have been seen to leave.

use std::time::Duration;

use dynomite_api::contract::EngineState;
use jiff::Timestamp;

use crate::decide::complains;
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::state::State;
use crate::time::elapsed;

/// Without any probe in this time nobody is probing, and the node need not wait.
const UNSEEN_LIMIT: Duration = Duration::from_secs(5);

/// Whether the node is ready, and whether its last "not ready" was noticed.
///
/// Kubernetes learns of readiness by asking now and then. A node that was not
/// ready for a moment between two questions would keep its connections and its
/// place in the endpoints, with nobody having noticed that it was gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Withdrawal {
    ready: bool,
    /// Since when a "not ready" waits to be seen.
    unseen_since: Option<Timestamp>,
}

impl Withdrawal {
    pub(crate) fn seen(&mut self) {
        if !self.ready {
            self.unseen_since = None;
        }
    }

    fn is_awaited(&self, now: Timestamp) -> bool {
        self.unseen_since
            .is_some_and(|since| elapsed(now, since) < UNSEEN_LIMIT)
    }
}

/// Why a node is not ready: one word, and the same for people.
pub(crate) type Why = (&'static str, String);

impl Lifecycle {
    /// Whether the node may get client traffic, as `/readyz` says.
    pub fn is_ready(&self) -> bool {
        self.withdrawal.ready
    }

    /// Whether clients may come as far as the node's own health goes.
    pub(crate) fn is_healthy(&self, now: Timestamp) -> Result<(), Why> {
        if !self.donates() {
            return Err((reason::OPENING, "the node is not open".to_owned()));
        }
        for process in [&self.store_process, &self.engine_process] {
            if !process.is_up() {
                return Err(process.why_down());
            }
        }
        let patience = self.patience();
        if let Err(why) = self.store.health(now, &patience) {
            return Err((reason::STORE_UNRESPONSIVE, format!("the store {why}")));
        }
        if let Err(why) = self.engine.health(now, &patience) {
            return Err((reason::ENGINE_UNRESPONSIVE, format!("the engine {why}")));
        }
        let normal = self
            .engine
            .last()
            .is_some_and(|sight| sight.facts.state == EngineState::Normal);
        if !normal && !self.is_held_whole() {
            let message = "the engine is not NORMAL".to_owned();
            return Err((reason::ENGINE_LEFT_NORMAL, message));
        }
        let store = self.store.last();
        if store.is_some_and(|sight| sight.facts.loading) {
            return Err((reason::STORE_LOADING, "the store is loading".to_owned()));
        }
        if let Some(store) = store.filter(|store| complains(store)) {
            let complaint = store.facts.complaint.clone().unwrap_or_default();
            return Err((reason::STORE_COMPLAINS, complaint));
        }
        Ok(())
    }

    /// Why the node is not ready, if it is not.
    pub(crate) fn readiness(&self, now: Timestamp) -> Result<(), Why> {
        if let State::Held { .. } = &self.state {
            let let_go = || (reason::OPENING, "the node is let go".to_owned());
            return Err(self.stay_why().unwrap_or_else(let_go));
        }
        self.is_healthy(now)?;
        if self.is_leaving_to_renew()
            && let Some(why) = self.renewal_why()
        {
            return Err(why);
        }
        if !self.desired.as_ref().is_some_and(|desired| desired.serve) {
            let message = "the node is whole and waits for the word to serve".to_owned();
            return Err((reason::AWAITING_SERVE, message));
        }
        if self.spent_bootstrap().is_some() {
            let message = "that the node has begun is being written to disk".to_owned();
            return Err((reason::RECORDING, message));
        }
        if self.withdrawal.is_awaited(now) {
            let message = "no probe has seen yet that the node was not ready".to_owned();
            return Err((reason::WITHDRAWAL_UNSEEN, message));
        }
        Ok(())
    }

    /// Takes note of whether the node is ready after all that happened.
    pub(crate) fn note_readiness(&mut self, now: Timestamp) {
        let readiness = self.readiness(now);
        let ready = readiness.is_ok();
        if ready == self.withdrawal.ready {
            return;
        }
        self.withdrawal.ready = ready;
        self.withdrawal.unseen_since = (!ready).then_some(now);
        match readiness {
            Ok(()) => self.note(false, reason::READY, "the node is ready".to_owned()),
            Err((reason, message)) => {
                self.note(true, reason, format!("not ready any more: {message}"));
            }
        }
    }
}
