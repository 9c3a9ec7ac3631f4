//! Both clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dynomite_engine::Now;

/// Tells the time since the process began, and the wall clock's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            since_start: self.start.elapsed(),
            unix_millis: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
