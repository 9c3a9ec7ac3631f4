//! Leaving: out of the endpoints, open requests finished, standby, engine ends, store ends.

use std::time::Duration;

use dynomite_api::contract::EngineState;
use jiff::Timestamp;

use crate::effect::{Effect, Order};
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::state::{Drain, DrainStep, State};
use crate::time::elapsed;

/// No request and none open for this long: the clients have gone elsewhere.
const QUIET: Duration = Duration::from_secs(1);
/// Clients that have not gone by then keep their connections until the engine
/// ends: nothing else makes them go.
const QUIET_LIMIT: Duration = Duration::from_secs(6);
/// An engine that cannot be told to stand by is ended all the same.
const STANDBY_LIMIT: Duration = Duration::from_secs(1);
/// What the engine gets to end; it has nothing to save.
const ENGINE_GRACE: Duration = Duration::from_secs(3);
/// What the store gets to save its data; its launcher shortens it to what is
/// left of the pod's own grace.
const STORE_GRACE: Duration = Duration::from_mins(2);

impl Lifecycle {
    /// The node was told to leave; `exit` ends the sidecar too.
    pub(crate) fn begin_drain(&mut self, now: Timestamp, exit: bool) {
        match &mut self.state {
            State::Draining(drain) => drain.exit |= exit,
            State::Stopped { exit: told } => {
                if exit && !*told {
                    *told = true;
                    self.effects.push(Effect::Exit);
                }
            }
            _ => {
                let step = if let State::Open { proof } = &self.state {
                    DrainStep::Quiet {
                        since: now,
                        still: None,
                        proof: proof.clone(),
                    }
                } else {
                    DrainStep::Engine
                };
                self.slot = None;
                self.open_stream();
                self.renewal = None;
                if self.record.proof.take().is_some() {
                    self.save();
                }
                self.note(false, reason::TERMINATING, "the node leaves".to_owned());
                self.state = State::Draining(Drain { exit, step });
            }
        }
    }

    /// The next state of a node that leaves.
    pub(crate) fn drain(&mut self, now: Timestamp) -> Option<State> {
        let State::Draining(drain) = &self.state else {
            return None;
        };
        let drain = drain.clone();
        let exit = drain.exit;
        let go_on = |step| Some(State::Draining(Drain { exit, step }));
        match drain.step {
            DrainStep::Quiet { proof, .. } if self.breach(&proof).is_some() => {
                self.withdraw();
                go_on(DrainStep::Standby { since: now })
            }
            DrainStep::Quiet {
                since,
                still,
                proof,
            } => match self.quiet(now, since, still) {
                Quiet::Yes => go_on(DrainStep::Standby { since: now }),
                Quiet::No(still) => {
                    let step = DrainStep::Quiet {
                        since,
                        still,
                        proof,
                    };
                    self.state = State::Draining(Drain { exit, step });
                    None
                }
            },
            DrainStep::Standby { since } => {
                if elapsed(now, since) >= STANDBY_LIMIT || !self.engine_process.is_up() {
                    self.slot = None;
                    return go_on(DrainStep::Engine);
                }
                let state = self.engine.fresh()?.facts.state;
                if state == EngineState::Standby {
                    return go_on(DrainStep::Engine);
                }
                self.order(now, Order::EngineState(EngineState::Standby));
                None
            }
            DrainStep::Engine => match self.engine_process.bring_down(now, ENGINE_GRACE) {
                Some(effects) => {
                    self.effects.extend(effects);
                    None
                }
                None => go_on(DrainStep::Store),
            },
            DrainStep::Store => {
                self.withdraw();
                if let Some(effects) = self.store_process.bring_down(now, STORE_GRACE) {
                    self.effects.extend(effects);
                    return None;
                }
                if exit {
                    self.effects.push(Effect::Exit);
                }
                Some(State::Stopped { exit })
            }
        }
    }

    /// Whether clients have stopped asking. An engine that counts its open
    /// requests must have none; one that does not must have answered and heard
    /// nothing new for as long.
    pub(crate) fn quiet(
        &self,
        now: Timestamp,
        since: Timestamp,
        still: Option<(u64, Timestamp)>,
    ) -> Quiet {
        if elapsed(now, since) >= QUIET_LIMIT || !self.engine_process.is_up() {
            return Quiet::Yes;
        }
        let Some(sight) = self.engine.last() else {
            return Quiet::No(still);
        };
        if sight.in_flight.is_some_and(|open| open > 0) {
            return Quiet::No(None);
        }
        match still {
            Some((count, at)) if count == sight.client_requests => {
                if elapsed(now, at) >= QUIET {
                    Quiet::Yes
                } else {
                    Quiet::No(still)
                }
            }
            _ => Quiet::No(Some((sight.client_requests, now))),
        }
    }
}

/// Whether clients have stopped asking; if not, what to compare with next.
pub(crate) enum Quiet {
    Yes,
    No(Option<(u64, Timestamp)>),
}
