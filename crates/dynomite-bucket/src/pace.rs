//! A throttle: so many bytes per second, on average, from now on.

use std::time::Duration;

use tokio::time::Instant;

/// What was not used may be used later, but not more than this, so that a pause is
/// not followed by a burst.
const SAVED: Duration = Duration::from_millis(200);

/// Holds back whoever moves bytes too fast.
#[derive(Debug)]
pub struct Pace {
    per_second: Option<u64>,
    /// When the bytes that were let through so far would be through at the exact rate.
    due: Instant,
}

impl Pace {
    /// At most so many bytes per second; unlimited when absent or 0.
    pub fn new(per_second: Option<u64>) -> Self {
        Self {
            per_second: per_second.filter(|bytes| *bytes > 0),
            due: Instant::now(),
        }
    }

    /// Waits until so many bytes may follow those before.
    pub async fn pass(&mut self, bytes: usize) {
        let Some(per_second) = self.per_second else {
            return;
        };
        let now = Instant::now();
        let earliest = now.checked_sub(SAVED).unwrap_or(now);
        let micros = u128::from(bytes as u64) * 1_000_000 / u128::from(per_second);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.due = self.due.max(earliest) + takes;
        tokio::time::sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_a_pause_is_no_reserve() {
        let mut pace = Pace::new(Some(1000));
        let begin = Instant::now();
        for _ in 0..10 {
            pace.pass(500).await;
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(4800), "{took:?}");
        assert!(took <= Duration::from_millis(5200), "{took:?}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let begin = Instant::now();
        pace.pass(2000).await;
        assert!(begin.elapsed() >= Duration::from_millis(1700));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_holds_nobody_back() {
        for rate in [None, Some(0)] {
            let begin = Instant::now();
            Pace::new(rate).pass(usize::MAX).await;
            assert_eq!(begin.elapsed(), Duration::ZERO);
        }
    }
}
