//! Copying a donor: attach, copy, follow; the cut that ends it is in [`cut`](crate::cut).

use std::time::Duration;

use dynomite_api::contract::{Cut, EngineState, NodeDesired};
use jiff::Timestamp;

use crate::effect::Order;
use crate::event::{DonorSight, ReplicaLink};
use crate::lifecycle::Lifecycle;
use crate::reason;
use crate::state::{Progress, State, Step, WarmUp, hold_limit};
use crate::time::{after, elapsed};

/// A copy that stands still this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// A stream that has run and broke off has this long to go on where it was,
/// which costs the donor nothing; the next donor would have to copy everything.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the donor while its stream is followed.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// So few bytes behind, the rest arrives while the engine holds writes.
const NEAR_BYTES: u64 = 1 << 20;
/// After following this long the cut is tried however far behind the copy is:
/// writes that never pause keep some distance for ever.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);
/// The pause after all donors failed once; it doubles with each round.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between rounds.
const ROUND_PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// What a step has led to.
pub(crate) enum Turn {
    Stay,
    Advance(Step),
    Fail(&'static str, String),
    CutFailed,
    /// Whole at `cut`, where that is known; the engine holds writes until then.
    Whole {
        until: Timestamp,
        cut: Option<Box<Cut>>,
    },
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
            donor_bytes: 0,
            copies_since: None,
            donor_seen: now,
            followed: false,
            cuts: 0,
            trouble: None,
            unaware: Vec::new(),
            introduced: false,
            plain: false,
            step: Step::Connect,
        })))
    }

    /// The next state of a node that copies.
    pub(crate) fn warm_up(&mut self, now: Timestamp) -> Option<State> {
        self.give_up_copy(now);
        let State::WarmUp(copy) = &self.state else {
            return None;
        };
        let mut copy = copy.clone();
        let turn = self.turn(now, &mut copy);
        self.finish_turn(now, copy, turn)
    }

    /// Lets an answer lead the copy on.
    pub(crate) fn turn_copy(&mut self, now: Timestamp, turn: impl FnOnce(&mut WarmUp) -> Turn) {
        let State::WarmUp(copy) = &self.state else {
            return;
        };
        let mut copy = copy.clone();
        let turn = turn(&mut copy);
        if let Some(next) = self.finish_turn(now, copy, turn) {
            self.state = next;
        }
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
            Turn::Whole { until, cut } => {
                self.state = State::WarmUp(copy);
                self.prove_copy(now, until, cut)
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
            Step::Connect => self.ask(now, Order::ReadDonor),
            Step::Attach => self.ask(now, Order::CopyDonor),
            Step::Copy => self.watch_copy(now, copy),
            Step::Follow { read_at, .. } => self.follow(now, copy, read_at),
            _ => self.cut_turn(now, copy),
        }
    }

    pub(crate) fn ask(&mut self, now: Timestamp, order: Order) -> Turn {
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
            copy.followed = true;
            copy.donor_seen = now;
            return Turn::Advance(Step::Follow {
                since: now,
                read_at: now,
            });
        }
        let broken = copy.followed && !link.up && !link.copying && !sight.facts.loading;
        if broken && elapsed(now, copy.donor_seen) >= LINK_PATIENCE {
            let why = format!(
                "the stream broke off and did not go on within {} s",
                LINK_PATIENCE.as_secs()
            );
            return Turn::Fail(reason::COPY_STALLED, why);
        }
        Turn::Stay
    }

    fn follow(&mut self, now: Timestamp, copy: &mut WarmUp, read_at: Timestamp) -> Turn {
        match self.link() {
            None => return Turn::Stay,
            Some(link) if !link.up => {
                // The store connects again by itself; watched while it does.
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
        copy.donor_seen = now;
        match copy.step.clone() {
            Step::Connect => {
                copy.donor_bytes = donor.data_bytes;
                Turn::Advance(Step::Attach)
            }
            Step::Follow { since, .. } => self.may_cut(now, copy, donor, since),
            Step::First { until, held_at } => Turn::Advance(Step::Second {
                until,
                read_at: after(held_at, crate::cut::SETTLE),
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
        Turn::Advance(self.begin_cut(now, copy, hold_limit(timeout)))
    }

    /// An order of the warm-up was carried out.
    pub(crate) fn warm_up_order_done(&mut self, now: Timestamp, order: &Order) {
        if let State::WarmUp(copy) = &mut self.state
            && copy.step == Step::Attach
            && *order == Order::CopyDonor
        {
            copy.step = Step::Copy;
            copy.progress.at = now;
            copy.copies_since = Some(now);
        }
    }

    /// An order of the warm-up failed.
    pub(crate) fn warm_up_order_failed(&mut self, now: Timestamp, order: &Order, why: &str) {
        let State::WarmUp(copy) = &mut self.state else {
            return;
        };
        if *order == Order::ReadDonor
            && let Step::Follow { since, .. } = copy.step
            && elapsed(now, copy.donor_seen) < LINK_PATIENCE
        {
            copy.step = Step::Follow {
                since,
                read_at: after(now, FOLLOW_PAUSE),
            };
            return;
        }
        self.give_up_donor(now, reason::DONOR_UNAVAILABLE, why);
    }

    /// The donor's sidecar said no, or was not there.
    pub(crate) fn donor_refused(&mut self, now: Timestamp, donor: &str, why: &str) {
        let State::WarmUp(copy) = &self.state else {
            return;
        };
        let bears = copy.followed && elapsed(now, copy.donor_seen) < LINK_PATIENCE;
        if copy.donor.name == donor && !bears && !matches!(copy.step, Step::Detach { .. }) {
            self.give_up_donor(now, reason::DONOR_UNAVAILABLE, why);
        }
    }

    /// This donor has failed: the next one, after a pause when all have.
    pub(crate) fn give_up_donor(&mut self, now: Timestamp, reason: &'static str, why: &str) {
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
            round_pause(rounds)
        } else {
            Duration::ZERO
        };
        self.unprove_for(now, pause, reason, message);
    }
}

/// The pause after every donor has failed `rounds` times.
pub(crate) fn round_pause(rounds: u32) -> Duration {
    ROUND_PAUSE
        .saturating_mul(1 << rounds.saturating_sub(1).min(10))
        .min(ROUND_PAUSE_LIMIT)
}
