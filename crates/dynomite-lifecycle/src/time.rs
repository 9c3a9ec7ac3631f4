//! Time as the caller gives it: differences that never go below zero.

use std::time::Duration;

use jiff::Timestamp;

/// How long after `since` it is at `now`; zero if it is before.
pub(crate) fn elapsed(now: Timestamp, since: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

/// The moment `wait` after `now`.
pub(crate) fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
