//! The time as the driver reads it.

use std::time::Duration;

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Time that only goes forward, since an arbitrary beginning.
    pub since_start: Duration,
    /// Milliseconds of the wall clock since 1970, for expiry times and stream ids.
    pub unix_millis: u64,
}
