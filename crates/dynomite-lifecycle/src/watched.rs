//! What was last seen of a thing that is asked again and again, and whether that is good and new enough.

use std::time::Duration;

use dynomite_api::contract::HealthSettings;
use jiff::Timestamp;

use crate::time::elapsed;

/// What a late scheduler may add to the age of an observation.
const AGE_SLACK: Duration = Duration::from_secs(2);

/// The last good sight of a thing, and how the attempts since then went.
#[derive(Clone, Debug)]
pub(crate) struct Watched<T> {
    last: Option<T>,
    at: Timestamp,
    /// Attempts in a row that got no timely answer.
    slow: u32,
    /// Why nobody listens there, after an attempt that found so.
    down: Option<String>,
    /// Whether `last` was seen after everything that was ordered.
    fresh: bool,
}

impl<T> Watched<T> {
    pub(crate) fn new() -> Self {
        Self {
            last: None,
            at: Timestamp::UNIX_EPOCH,
            slow: 0,
            down: None,
            fresh: false,
        }
    }

    /// It answered; `settled` says that no order to it is under way.
    pub(crate) fn saw(&mut self, now: Timestamp, sight: T, settled: bool) {
        self.last = Some(sight);
        self.at = now;
        self.slow = 0;
        self.down = None;
        self.fresh = settled;
    }

    /// It answered, but one of its doors did not in time.
    pub(crate) fn saw_slow_door(&mut self, now: Timestamp, sight: T, settled: bool) {
        let slow = self.slow.saturating_add(1);
        self.saw(now, sight, settled);
        self.slow = slow;
    }

    pub(crate) fn was_slow(&mut self) {
        self.slow = self.slow.saturating_add(1);
    }

    /// It answers, but not at the door that others use.
    pub(crate) fn door_is_closed(&mut self, why: String) {
        self.down = Some(why);
    }

    pub(crate) fn is_down(&mut self, why: String) {
        self.down = Some(why);
        self.fresh = false;
    }

    /// An order has changed it: what was seen before does not count.
    pub(crate) fn outdate(&mut self) {
        self.fresh = false;
    }

    /// It is another one now: nothing that was seen counts.
    pub(crate) fn forget(&mut self) {
        *self = Self::new();
    }

    /// What was last seen, however old.
    pub(crate) fn last(&self) -> Option<&T> {
        self.last.as_ref()
    }

    /// What was seen after everything that was ordered.
    pub(crate) fn fresh(&self) -> Option<&T> {
        self.last.as_ref().filter(|_| self.fresh)
    }

    /// Whether nobody listens there.
    pub(crate) fn is_gone(&self) -> bool {
        self.down.is_some()
    }

    /// Whether it listens and gives no answer in time, again and again.
    pub(crate) fn is_slow(&self, patience: &HealthSettings) -> bool {
        self.down.is_none() && self.slow >= patience.failure_threshold.max(1)
    }

    /// `Err` says what is wrong with it.
    pub(crate) fn health(&self, now: Timestamp, patience: &HealthSettings) -> Result<(), String> {
        if let Some(why) = &self.down {
            return Err(why.clone());
        }
        if self.last.is_none() {
            return Err("has not answered yet".to_owned());
        }
        if self.slow >= patience.failure_threshold.max(1) {
            return Err(format!(
                "gave no answer within {} ms, {} times in a row",
                patience.timeout_ms, self.slow
            ));
        }
        let round = Duration::from_millis(
            u64::from(patience.interval_ms).saturating_add(u64::from(patience.timeout_ms)),
        );
        let limit = round
            .saturating_mul(patience.failure_threshold.max(1))
            .saturating_add(AGE_SLACK);
        let age = elapsed(now, self.at);
        if age > limit {
            return Err(format!("was last seen {} s ago", age.as_secs()));
        }
        Ok(())
    }
}
