//! What the end and the beginning of a process mean for the data: a store is a new question, an engine has missed writes.

use jiff::Timestamp;

use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::record::Started;
use crate::state::{Entry, State};

impl Lifecycle {
    /// A launcher can be spoken to again.
    pub(crate) fn launcher_is_back(&mut self) {
        if let State::Stopped { exit: false } = self.state {
            // One container was told to end, and another took its place in the
            // same pod: the node goes on.
            self.state = State::Unproven;
        }
    }

    pub(crate) fn store_started(&mut self, now: Timestamp) {
        let Some(incarnation) = self.store_process.incarnation() else {
            return;
        };
        let known = self.record.store.as_ref();
        if known.is_some_and(|known| known.incarnation == incarnation) {
            return;
        }
        let incarnation = incarnation.to_owned();
        self.store_ended(now);
        self.record.store = self.files.as_ref().map(|(settings, _)| Started {
            incarnation,
            settings: settings.clone(),
        });
        self.record.live.clear();
        self.forget_late_settings();
        self.save();
    }

    pub(crate) fn store_ended(&mut self, now: Timestamp) {
        self.store.forget();
        self.note_spoilt_files(now);
        self.note_bad_line();
        match self.state {
            State::WarmUp(_)
            | State::Recording { .. }
            | State::Opening { .. }
            | State::Open { .. }
            | State::Held { .. } => {
                let message = format!(
                    "the store ended ({}); its successor has missed writes",
                    self.store_process.last_exit()
                );
                self.unprove(now, reason::STORE_ENDED, message);
            }
            State::Loading(_) => self.store_left_the_load(now),
            State::Unproven | State::Draining(_) | State::Stopped { .. } => self.withdraw(),
        }
    }

    pub(crate) fn engine_started(&mut self) {
        let Some(incarnation) = self.engine_process.incarnation() else {
            return;
        };
        let known = self.record.engine.as_ref();
        if known.is_some_and(|known| known.incarnation == incarnation) {
            return;
        }
        let incarnation = incarnation.to_owned();
        self.engine.forget();
        self.consistency = None;
        self.record.engine = self.files.as_ref().map(|(_, settings)| Started {
            incarnation,
            settings: settings.clone(),
        });
        self.save();
    }

    pub(crate) fn engine_ended(&mut self, now: Timestamp) {
        self.engine.forget();
        self.consistency = None;
        match &self.state {
            State::Opening { proof, .. } | State::Open { proof } if !self.has_replicas() => {
                // Nobody else has taken a write meanwhile, so none was missed.
                let proof = proof.clone();
                self.withdraw();
                self.slot = None;
                self.state = State::Opening {
                    proof,
                    entry: Entry::Grant,
                };
            }
            State::Held { .. } if !self.has_replicas() => self.withdraw(),
            State::Recording { .. }
            | State::Opening { .. }
            | State::Open { .. }
            | State::Held { .. } => {
                let message = format!(
                    "the engine ended ({}); the node has missed writes",
                    self.engine_process.last_exit()
                );
                self.unprove(now, reason::ENGINE_ENDED, message);
            }
            State::WarmUp(_) => self.engine_left_the_cut(now),
            // Of what it has received nothing counts but what comes after the load.
            State::Unproven | State::Loading(_) | State::Draining(_) | State::Stopped { .. } => {
                self.withdraw();
            }
        }
    }
}
