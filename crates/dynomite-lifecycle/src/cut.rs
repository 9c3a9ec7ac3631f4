//! The cut of a warm-up: the engine holds writes, the copy reaches a moment of its donor and becomes a primary.
//!
//! ```text
//!   Hold -+-> Pause -> ReadCut -> Check -> LetThrough -> Level -----+-> Detach   exact
//!         |     ^________ Again ____|                               |
//!         |               not every coordinator is captured yet     |
//!         +-> First ------> Second ------> Reach -------------------+            plain
//! ```
//!
//! Exact is the cut where engines number their writes. The donor names an offset
//! of its stream and the writes it had executed by then. The stream is let
//! through up to that offset, so the copy has executed these writes and no
//! others. What the engine has captured since before that moment is every later
//! write; of what it has captured from before, the numbers say so, and it is
//! dropped. So each write is there once.
//!
//! The plain cut knows no numbers: the stream goes on until a moment after the
//! engine began to hold, so nothing is lost that was sent to this node, and what
//! was in flight may be applied twice.

use std::time::Duration;

use dynomite_api::contract::{Cut, EngineState, ProofKind, StoreRole};
use jiff::Timestamp;

use crate::effect::{Effect, Order};
use crate::event::CutSight;
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::record::ProofRecord;
use crate::state::{Entry, State, Step, WarmUp};
use crate::time::{after, elapsed};
use crate::warm_up::Turn;

/// Between the moment this engine holds writes and the last look at the donor:
/// a write that this node still refused has reached the donor by then.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);
/// Before another moment of the donor is asked for; coordinators say how far
/// they are ten times a second while a node is not NORMAL.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);
/// Cuts that are tried with one donor when they only take too long.
const CUTS_LIMIT: u32 = 3;
/// Cuts that are tried while something is in their way that the next donor
/// would not take out of it.
const TROUBLED_CUTS_LIMIT: u32 = 30;
/// Before a cut that failed is tried again; it doubles while trouble lasts.
const CUT_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const CUT_PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than the cut the engine may take to resume: what it has
/// captured it keeps, or says that it has not.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// How long engines that do not count what they send are given to learn this
/// node's address; Netflix's ask for their seeds every 30 s.
const INTRODUCE_LIMIT: Duration = Duration::from_secs(45);
/// Between two questions to them.
const INTRODUCE_PAUSE: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Whether this node's engine counts the writes it receives.
    pub(crate) fn numbers(&self) -> bool {
        self.engine
            .last()
            .is_some_and(|sight| sight.facts.received.is_some())
    }

    /// What a copy does once it is near enough for the cut.
    pub(crate) fn begin_cut(&self, now: Timestamp, copy: &WarmUp, limit: Duration) -> Step {
        let exact = self.numbers() && !copy.plain;
        if exact || copy.introduced {
            return Step::Hold {
                until: after(now, limit),
            };
        }
        Step::Introduce {
            since: now,
            ask_at: now,
        }
    }

    /// One step of the cut.
    pub(crate) fn cut_turn(&mut self, now: Timestamp, copy: &mut WarmUp) -> Turn {
        match copy.step.clone() {
            Step::Introduce { ask_at, .. } if ask_at <= now => self.ask(now, Order::AskPeers),
            Step::Hold { until } => self.hold_writes(now, copy, until),
            Step::Pause { .. } => self.ask(now, Order::PauseStream),
            Step::ReadCut { .. } => self.ask(now, Order::ReadCut),
            Step::Check { cut, .. } => {
                self.ask(now, Order::CheckCapture(Box::new(cut.received.clone())))
            }
            Step::Again { until, at } if at <= now => Turn::Advance(Step::Pause { until }),
            Step::LetThrough { cut, .. } => {
                let order = Order::LetThrough {
                    history: cut.replication_id.clone(),
                    offset: cut.offset,
                };
                self.ask(now, order)
            }
            Step::Level { until, cut } => self.level(until, cut),
            Step::First { .. } => self.ask(now, Order::ReadDonor),
            Step::Second { read_at, .. } if read_at <= now => self.ask(now, Order::ReadDonor),
            Step::Reach { until, target } => self.reach(copy, until, target),
            Step::Detach { until, cut } => self.detach(now, copy, until, cut),
            _ => Turn::Stay,
        }
    }

    fn hold_writes(&mut self, now: Timestamp, copy: &mut WarmUp, until: Timestamp) -> Turn {
        // The engine must have its way to the store before it lets go what it
        // holds; a replica takes no writes, and the engine's state no reads.
        if !self.exposed {
            return self.ask(now, Order::Expose);
        }
        match self.engine.fresh().map(|sight| sight.facts.state) {
            None => Turn::Stay,
            Some(EngineState::WritesOnly) if self.numbers() && !copy.plain => {
                Turn::Advance(Step::Pause { until })
            }
            Some(EngineState::WritesOnly) if !copy.introduced => {
                let why = "an engine that does not number its writes has come".to_owned();
                copy.trouble = Some((reason::CUT_NOT_EXACT, why));
                Turn::CutFailed
            }
            Some(EngineState::WritesOnly) => Turn::Advance(Step::First {
                until,
                held_at: now,
            }),
            Some(_) => self.ask(now, Order::EngineState(EngineState::WritesOnly)),
        }
    }

    /// Whether nothing speaks against the engine holding every write.
    pub(crate) fn engine_may_hold(&self) -> bool {
        self.engine
            .fresh()
            .is_none_or(|sight| sight.facts.state == EngineState::WritesOnly)
    }

    fn level(&self, until: Timestamp, cut: Box<Cut>) -> Turn {
        let Some(sight) = self.store.fresh() else {
            return Turn::Stay;
        };
        let Some(link) = sight.link else {
            return Turn::CutFailed;
        };
        if sight.replication_id != cut.replication_id || link.offset > cut.offset {
            return Turn::CutFailed;
        }
        if link.offset < cut.offset {
            return Turn::Stay;
        }
        if sight.facts.keys != cut.keys {
            let why = format!(
                "at offset {} the donor had {} keys and the copy has {}",
                cut.offset, cut.keys, sight.facts.keys
            );
            return Turn::Fail(reason::COPY_DIFFERS, why);
        }
        let cut = Some(cut);
        Turn::Advance(Step::Detach { until, cut })
    }

    fn reach(&self, copy: &WarmUp, until: Timestamp, target: u64) -> Turn {
        let Some(sight) = self.store.fresh() else {
            return Turn::Stay;
        };
        let reached = sight
            .link
            .is_some_and(|link| link.up && link.offset >= target)
            && sight.replication_id == copy.donor_history;
        if reached {
            Turn::Advance(Step::Detach { until, cut: None })
        } else {
            Turn::Stay
        }
    }

    fn detach(
        &mut self,
        now: Timestamp,
        copy: &WarmUp,
        until: Timestamp,
        cut: Option<Box<Cut>>,
    ) -> Turn {
        let Some(sight) = self.store.fresh() else {
            return Turn::Stay;
        };
        if sight.facts.role == StoreRole::Replica {
            return self.ask(now, Order::Detach);
        }
        if sight.empty && copy.donor_keys > 0 {
            let why = format!("the donor has {} keys, the copy none", copy.donor_keys);
            return Turn::Fail(reason::COPY_EMPTY, why);
        }
        if let (Some(cut), Some((history, offset))) = (&cut, &sight.left)
            && (*history != cut.replication_id || *offset != cut.offset)
        {
            let why = format!(
                "the copy left its donor at offset {offset} instead of {}",
                cut.offset
            );
            return Turn::Fail(reason::COPY_DIFFERS, why);
        }
        Turn::Whole { until, cut }
    }

    /// The store is a primary and has everything up to the cut.
    pub(crate) fn prove_copy(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        cut: Option<Box<Cut>>,
    ) -> Option<State> {
        let run_id = self.store.last()?.facts.run_id.clone();
        let engine = self.engine_process.incarnation()?.to_owned();
        let proof = ProofRecord {
            pod_uid: self.pod_uid.clone(),
            run_id,
            engine,
            kind: ProofKind::WarmUp,
            since: now,
            exact: Some(cut.is_some()),
            restore: None,
        };
        let entry = match cut {
            Some(cut) => Entry::Copy {
                resume_by: after(until, COMMIT_LIMIT),
                commit: Some(Box::new(cut.received)),
            },
            None => Entry::Copy {
                resume_by: until,
                commit: None,
            },
        };
        let next = self.prove(now, proof, entry)?;
        self.open_stream();
        Some(next)
    }

    /// What held the donor's stream holds it no longer.
    pub(crate) fn open_stream(&mut self) {
        if self.stream_held {
            self.stream_held = false;
            self.effects.push(Effect::OpenStream);
        }
    }

    /// The donor has named a moment, or cannot.
    pub(crate) fn cut_read(&mut self, now: Timestamp, sight: CutSight) {
        self.turn_copy(now, |copy| {
            let Step::ReadCut { until } = copy.step else {
                return Turn::Stay;
            };
            match sight {
                CutSight::Unnumbered { why } => {
                    copy.plain = true;
                    copy.trouble = Some((reason::CUT_NOT_EXACT, why));
                    Turn::CutFailed
                }
                CutSight::Cut(cut) if cut.replication_id != copy.donor_history => {
                    let why = "its store started another history during the copy".to_owned();
                    Turn::Fail(reason::DONOR_CHANGED, why)
                }
                CutSight::Cut(cut) => {
                    copy.donor_keys = cut.keys;
                    Turn::Advance(Step::Check { until, cut })
                }
            }
        });
    }

    /// The other nodes have said whether they know this one.
    pub(crate) fn introduced(&mut self, now: Timestamp, unaware: Vec<String>) {
        let (mut waited, mut names) = (false, String::new());
        self.turn_copy(now, |copy| {
            let Step::Introduce { since, .. } = copy.step else {
                return Turn::Stay;
            };
            waited = !unaware.is_empty() && elapsed(now, since) >= INTRODUCE_LIMIT;
            names = unaware.join(", ");
            copy.introduced = waited || unaware.is_empty();
            copy.unaware = unaware;
            if copy.introduced {
                // Meanwhile the donor has gone on.
                return Turn::Advance(Step::Follow {
                    since: now,
                    read_at: now,
                });
            }
            Turn::Advance(Step::Introduce {
                since,
                ask_at: after(now, INTRODUCE_PAUSE),
            })
        });
        if waited {
            let message = format!(
                "{names} did not learn this node's address within {} s; \
                 what they write meanwhile may be missing here",
                INTRODUCE_LIMIT.as_secs()
            );
            self.note(true, reason::NOT_INTRODUCED, message);
        }
    }

    /// An order of the cut was carried out.
    pub(crate) fn cut_order_done(&mut self, now: Timestamp, order: &Order) {
        self.turn_copy(now, |copy| match (copy.step.clone(), order) {
            (Step::Pause { until }, Order::PauseStream) => Turn::Advance(Step::ReadCut { until }),
            (Step::Check { until, cut }, Order::CheckCapture(_)) => {
                Turn::Advance(Step::LetThrough { until, cut })
            }
            (Step::LetThrough { until, cut }, Order::LetThrough { .. }) => {
                Turn::Advance(Step::Level { until, cut })
            }
            _ => Turn::Stay,
        });
    }

    /// An order of the cut failed.
    pub(crate) fn cut_order_failed(&mut self, now: Timestamp, order: &Order, why: &str) {
        let mut again = false;
        self.turn_copy(now, |copy| {
            let at = after(now, AGAIN_PAUSE);
            match (&copy.step, order) {
                (Step::ReadCut { until }, Order::ReadCut) => {
                    copy.trouble = Some((reason::CUT_REFUSED, why.to_owned()));
                    again = true;
                    Turn::Advance(Step::Again { until: *until, at })
                }
                (Step::Check { until, .. }, Order::CheckCapture(_)) => {
                    copy.trouble = Some((reason::CUT_NOT_COVERED, why.to_owned()));
                    again = true;
                    Turn::Advance(Step::Again { until: *until, at })
                }
                (Step::Pause { .. }, Order::PauseStream)
                | (Step::LetThrough { .. }, Order::LetThrough { .. }) => {
                    copy.trouble = Some((reason::STREAM_BROKEN, why.to_owned()));
                    Turn::CutFailed
                }
                (Step::Introduce { since, .. }, Order::AskPeers) => {
                    Turn::Advance(Step::Introduce {
                        since: *since,
                        ask_at: after(now, INTRODUCE_PAUSE),
                    })
                }
                _ => Turn::Stay,
            }
        });
        if again {
            self.open_stream();
        }
    }

    /// The engine ended: what it held is lost, so a cut cannot go on.
    pub(crate) fn engine_left_the_cut(&mut self, now: Timestamp) {
        self.turn_copy(now, |copy| match copy.step.cut_until() {
            Some(_) => Turn::CutFailed,
            None => Turn::Stay,
        });
    }

    pub(crate) fn cut_failed(&mut self, now: Timestamp, mut copy: Box<WarmUp>) {
        self.withdraw();
        self.slot = None;
        self.open_stream();
        copy.cuts += 1;
        let detached = matches!(copy.step, Step::Detach { .. });
        let (cuts, trouble) = (copy.cuts, copy.trouble.clone());
        let (limit, pause) = match &trouble {
            None => (CUTS_LIMIT, CUT_PAUSE),
            Some(_) => (
                TROUBLED_CUTS_LIMIT,
                CUT_PAUSE
                    .saturating_mul(1 << (cuts - 1).min(10))
                    .min(CUT_PAUSE_LIMIT),
            ),
        };
        copy.step = Step::Follow {
            since: now,
            read_at: after(now, pause),
        };
        self.state = State::WarmUp(copy);
        if !detached && cuts < limit {
            return;
        }
        let (reason, why) = trouble.unwrap_or_else(|| {
            let why = "the last bytes did not arrive while writes were held".to_owned();
            (reason::COPY_OUTRUN, why)
        });
        self.give_up_donor(now, reason, &format!("{cuts} times: {why}"));
    }
}
