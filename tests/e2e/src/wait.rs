//! Waiting for conditions, with an end and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// Looks at a condition until it holds, at most for `limit`.
///
/// `look` gives the wanted value, or what is still missing, which is what the
/// error says when the time is up.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let missing = match look() {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(missing)) => missing,
            Err(error) => format!("{error:#}"),
        };
        if begin.elapsed() >= limit {
            bail!("waited {} s for {what}: {missing}", limit.as_secs());
        }
        std::thread::sleep(PERIOD);
    }
}
