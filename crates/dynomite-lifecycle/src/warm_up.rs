//! Copying a donor: attach, copy, follow, then the cut in which the engine holds writes.

use std::time::Duration;

use dynomite_api::contract::{EngineState, NodeDesired, ProofKind, StoreRole};
use jiff::Timestamp;

use crate::effect::Order;
use crate::event::{DonorSight, ReplicaLink};
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::record::ProofRecord;
use crate::state::{Entry, Progress, State, Step, WarmUp, hold_limit};
use crate::time::{after, elapsed};

/// A copy that stands still this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at the donor while its stream is followed.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// So few bytes behind, the rest arrives while the engine holds writes.
const NEAR_BYTES: u64 = 1 << 20;
/// After following this long the cut is tried however far behind the copy is:
/// writes that never pause keep some distance for ever.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);
/// Between the moment this engine holds writes and the last look at the donor:
/// a write that this node still refused has reached the donor by then.
const SETTLE: Duration = Duration::from_millis(200);
/// Cuts that are tried with one donor.
const CUTS_LIMIT: u32 = 3;
/// Before a cut that failed is tried again.
const CUT_PAUSE: Duration = Duration::from_secs(1);
/// The pause after all donors failed once; it doubles with each round.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between rounds.
const ROUND_PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// What a step has led to.
enum Turn {
    Stay,
    Advance(Step),
    Fail(&'static str, String),
    CutFailed,
    Whole { resume_by: Timestamp },
}

impl Lifecycle {
    /// The best donor that has not failed in this round, when it is time.
    pub(crate) fn choose_donor(&mut self, now: Timestamp, desired: &NodeDesired) -> Option<State> {
        if self
            .failure
            .as_ref()
            .is_some_and(|failure| now < failure.retry_at)
        {
            return None;
        }
        if desired.copy_not_before.is_some_and(|turn| now < turn) {
            return None;
        }
        let count = u32::try_from(desired.donors.len())
            .ok()
            .filter(|n| *n > 0)?;
        let donor = desired
            .donors
            .get((self.failed_warm_ups % count) as usize)?
            .clone();
        let message = format!("copying {}", donor.name);
        self.note(false, reason::COPYING, message);
        Some(State::WarmUp(Box::new(WarmUp {
            donor,
            attempt: self.failed_warm_ups.saturating_add(1),
            began: now,
            donor_run: String::new(),
            donor_history: String::new(),
            donor_keys: 0,
            progress: Progress {
                seen: (0, 0, 0, false),
                at: now,
            },
            lag: None,
            cuts: 0,
            step: Step::Connect,
        })))
    }

    /// The next state of a node that copies.
    pub(crate) fn warm_up(&mut self, now: Timestamp) -> Option<State> {
        let State::WarmUp(copy) = &self.state else {
            return None;
        };
        let mut copy = copy.clone();
        let turn = self.turn(now, &mut copy);
        self.finish_turn(now, copy, turn)
    }

    fn finish_turn(&mut self, now: Timestamp, mut copy: Box<WarmUp>, turn: Turn) -> Option<State> {
        match turn {
            Turn::Stay => {
                self.state = State::WarmUp(copy);
                None
            }
            Turn::Advance(step) => {
                copy.step = step;
                Some(State::WarmUp(copy))
            }
            Turn::Fail(reason, why) => {
                self.state = State::WarmUp(copy);
                self.give_up_donor(now, reason, &why);
                None
            }
            Turn::CutFailed => {
                self.cut_failed(now, copy);
                None
            }
            Turn::Whole { resume_by } => {
                self.state = State::WarmUp(copy);
                self.prove_copy(now, resume_by)
            }
        }
    }

    fn turn(&mut self, now: Timestamp, copy: &mut WarmUp) -> Turn {
        if copy.step.cut_until().is_some_and(|until| until <= now) {
            return Turn::CutFailed;
        }
        if copy.step.holds_writes() && !self.engine_may_hold() {
            return Turn::CutFailed;
        }
        if self.slot.is_some() {
            return Turn::Stay;
        }
        if copy.step.cut_until().is_none() {
            self.hold_engine(now);
            if self.slot.is_some() {
                return Turn::Stay;
            }
        }
        match copy.step.clone() {
            Step::Connect | Step::First { .. } => self.ask(now, Order::ReadDonor),
            Step::Attach => self.ask(now, Order::CopyDonor),
            Step::Copy => self.watch_copy(now, copy),
            Step::Follow { read_at, .. } => self.follow(now, copy, read_at),
            Step::Hold { until } => self.hold_writes(now, until),
            Step::Second { read_at, .. } if read_at <= now => self.ask(now, Order::ReadDonor),
            Step::Second { .. } => Turn::Stay,
            Step::Reach { until, target } => self.reach(copy, until, target),
            Step::Detach { until } => self.detach(now, copy, until),
        }
    }

    fn ask(&mut self, now: Timestamp, order: Order) -> Turn {
        self.order(now, order);
        Turn::Stay
    }

    fn watch_copy(&mut self, now: Timestamp, copy: &mut WarmUp) -> Turn {
        if elapsed(now, copy.progress.at) >= STALL_LIMIT {
            let why = format!("no progress for {} s", STALL_LIMIT.as_secs());
            return Turn::Fail(reason::COPY_STALLED, why);
        }
        let Some(sight) = self.store.fresh() else {
            return Turn::Stay;
        };
        let Some(link) = sight.link else {
            return Turn::Fail(
                reason::STORE_CHANGED,
                "the store stopped being a replica".to_owned(),
            );
        };
        let seen = (
            link.bytes_done,
            link.offset,
            sight.facts.used_memory_bytes,
            link.up,
        );
        if copy.progress.seen != seen {
            copy.progress = Progress { seen, at: now };
        }
        if link.up && !link.copying && !sight.facts.loading {
            return Turn::Advance(Step::Follow {
                since: now,
                read_at: now,
            });
        }
        Turn::Stay
    }

    fn follow(&mut self, now: Timestamp, copy: &mut WarmUp, read_at: Timestamp) -> Turn {
        match self.link() {
            None => return Turn::Stay,
            Some(link) if !link.up => {
                // The store connects again by itself; the stall limit bounds it.
                copy.progress.at = now;
                return Turn::Advance(Step::Copy);
            }
            Some(_) => {}
        }
        if read_at > now {
            return Turn::Stay;
        }
        self.ask(now, Order::ReadDonor)
    }

    fn link(&self) -> Option<ReplicaLink> {
        self.store.fresh().and_then(|sight| sight.link)
    }

    fn hold_writes(&mut self, now: Timestamp, until: Timestamp) -> Turn {
        if !self.exposed {
            return self.ask(now, Order::Expose);
        }
        match self.engine.fresh().map(|sight| sight.facts.state) {
            None => Turn::Stay,
            Some(EngineState::WritesOnly) => Turn::Advance(Step::First {
                until,
                held_at: now,
            }),
            Some(_) => self.ask(now, Order::EngineState(EngineState::WritesOnly)),
        }
    }

    /// Whether nothing speaks against the engine holding every write.
    fn engine_may_hold(&self) -> bool {
        self.engine
            .fresh()
            .is_none_or(|sight| sight.facts.state == EngineState::WritesOnly)
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
            Turn::Advance(Step::Detach { until })
        } else {
            Turn::Stay
        }
    }

    fn detach(&mut self, now: Timestamp, copy: &WarmUp, until: Timestamp) -> Turn {
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
        Turn::Whole { resume_by: until }
    }

    fn prove_copy(&mut self, now: Timestamp, resume_by: Timestamp) -> Option<State> {
        let run_id = self.store.last()?.facts.run_id.clone();
        let engine = self.engine_process.incarnation()?.to_owned();
        let proof = ProofRecord {
            pod_uid: self.pod_uid.clone(),
            run_id,
            engine,
            kind: ProofKind::WarmUp,
            since: now,
            exact: Some(false),
        };
        self.prove(now, proof, Entry::Copy { resume_by })
    }

    /// The donor's store answered.
    pub(crate) fn read_donor(&mut self, now: Timestamp, donor: &DonorSight) {
        let State::WarmUp(copy) = &self.state else {
            return;
        };
        let mut copy = copy.clone();
        let turn = self.donor_turn(now, &mut copy, donor);
        if let Some(next) = self.finish_turn(now, copy, turn) {
            self.state = next;
        }
    }

    fn donor_turn(&self, now: Timestamp, copy: &mut WarmUp, donor: &DonorSight) -> Turn {
        if !donor.primary {
            let why = "its store is a replica itself".to_owned();
            return Turn::Fail(reason::DONOR_UNAVAILABLE, why);
        }
        if !copy.donor_run.is_empty() && copy.donor_run != donor.run_id {
            let why = "its store started again during the copy".to_owned();
            return Turn::Fail(reason::DONOR_CHANGED, why);
        }
        copy.donor_run.clone_from(&donor.run_id);
        copy.donor_history.clone_from(&donor.replication_id);
        copy.donor_keys = donor.keys;
        match copy.step.clone() {
            Step::Connect => Turn::Advance(Step::Attach),
            Step::Follow { since, .. } => self.may_cut(now, copy, donor, since),
            Step::First { until, held_at } => Turn::Advance(Step::Second {
                until,
                read_at: after(held_at, SETTLE),
            }),
            Step::Second { until, .. } => Turn::Advance(Step::Reach {
                until,
                target: donor.offset,
            }),
            _ => Turn::Stay,
        }
    }

    fn may_cut(
        &self,
        now: Timestamp,
        copy: &mut WarmUp,
        donor: &DonorSight,
        since: Timestamp,
    ) -> Turn {
        let again = Turn::Advance(Step::Follow {
            since,
            read_at: after(now, FOLLOW_PAUSE),
        });
        let Some(sight) = self.store.last() else {
            return again;
        };
        let Some(link) = sight.link.filter(|link| link.up) else {
            return again;
        };
        if sight.replication_id != donor.replication_id {
            return again;
        }
        let lag = donor.offset.saturating_sub(link.offset);
        copy.lag = Some(lag);
        let near = lag <= NEAR_BYTES || elapsed(now, since) >= FOLLOW_LIMIT;
        let engine_waits = self.engine_process.is_up()
            && self
                .engine
                .fresh()
                .is_some_and(|sight| sight.facts.state == EngineState::Standby);
        if !near || !engine_waits {
            return again;
        }
        let timeout = self.desired.as_ref().map_or(0, |d| d.engine.timeout_ms);
        Turn::Advance(Step::Hold {
            until: after(now, hold_limit(timeout)),
        })
    }

    /// An order of the warm-up was carried out.
    pub(crate) fn warm_up_order_done(&mut self, now: Timestamp, order: &Order) {
        if let State::WarmUp(copy) = &mut self.state
            && copy.step == Step::Attach
            && *order == Order::CopyDonor
        {
            copy.step = Step::Copy;
            copy.progress.at = now;
        }
    }

    /// An order of the warm-up failed.
    pub(crate) fn warm_up_order_failed(&mut self, now: Timestamp, why: &str) {
        if let State::WarmUp(_) = &self.state {
            self.give_up_donor(now, reason::DONOR_UNAVAILABLE, why);
        }
    }

    /// The donor's sidecar said no, or was not there.
    pub(crate) fn donor_refused(&mut self, now: Timestamp, donor: &str, why: &str) {
        if let State::WarmUp(copy) = &self.state
            && copy.donor.name == donor
            && !matches!(copy.step, Step::Detach { .. })
        {
            self.give_up_donor(now, reason::DONOR_UNAVAILABLE, why);
        }
    }

    /// The engine ended: what it held is lost, so a cut cannot go on.
    pub(crate) fn engine_left_the_cut(&mut self, now: Timestamp) {
        let State::WarmUp(copy) = &self.state else {
            return;
        };
        if copy.step.cut_until().is_some() {
            let copy = copy.clone();
            self.cut_failed(now, copy);
        }
    }

    fn cut_failed(&mut self, now: Timestamp, mut copy: Box<WarmUp>) {
        self.withdraw();
        self.slot = None;
        copy.cuts += 1;
        let detached = matches!(copy.step, Step::Detach { .. });
        let cuts = copy.cuts;
        copy.step = Step::Follow {
            since: now,
            read_at: after(now, CUT_PAUSE),
        };
        self.state = State::WarmUp(copy);
        if detached || cuts >= CUTS_LIMIT {
            let why = format!("{cuts} times the last bytes did not arrive while writes were held");
            self.give_up_donor(now, reason::COPY_OUTRUN, &why);
        }
    }

    /// This donor has failed: the next one, after a pause when all have.
    fn give_up_donor(&mut self, now: Timestamp, reason: &'static str, why: &str) {
        let State::WarmUp(copy) = &self.state else {
            return;
        };
        let message = format!("copying {}: {why}", copy.donor.name);
        self.failed_warm_ups = self.failed_warm_ups.saturating_add(1);
        let donors = self.desired.as_ref().map_or(1, |desired| {
            u32::try_from(desired.donors.len())
                .unwrap_or(u32::MAX)
                .max(1)
        });
        let pause = if self.failed_warm_ups.is_multiple_of(donors) {
            let rounds = (self.failed_warm_ups / donors).min(10);
            ROUND_PAUSE
                .saturating_mul(1 << rounds.saturating_sub(1))
                .min(ROUND_PAUSE_LIMIT)
        } else {
            Duration::ZERO
        };
        self.unprove_for(now, pause, reason, message);
    }
}
