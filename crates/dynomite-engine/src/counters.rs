//! What is counted.

use std::time::Duration;

/// Numbers since the start, under the names of Netflix's `/info` where it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names are those of `/info` and say what they count"
)]
pub struct Counters {
    pub client_eof: u64,
    pub client_err: u64,
    pub client_read_requests: u64,
    pub client_write_requests: u64,
    pub client_dropped_requests: u64,
    pub client_non_quorum_w_responses: u64,
    pub client_non_quorum_r_responses: u64,
    pub dnode_client_eof: u64,
    pub dnode_client_err: u64,
    pub remote_peer_dropped_requests: u64,
    pub remote_peer_failover_requests: u64,
    pub peer_timedout_requests: u64,
    pub forward_error: u64,
    pub fragments: u64,
    pub server_timedout_requests: u64,
    pub server_dropped_requests: u64,
    pub read_failover_requests: u64,
    pub held_writes_expired: u64,
    pub late_writes: u64,
    pub seeds_applied: u64,
}

/// Requests to the local store by kind, under the names of Netflix's `/info`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names are those of `/info` and say what they count"
)]
pub struct StoreRequests {
    pub read_requests: u64,
    pub write_requests: u64,
}

/// How often which size occurred: eight steps per power of two, so a value is at most an eighth
/// too large, in memory that does not grow.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

const STEPS: u32 = 8;
/// Values up to 2^40: twelve days in microseconds, a terabyte in bytes.
const POWERS: u32 = 40;

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; (STEPS * POWERS) as usize],
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < u64::from(STEPS) {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = value.ilog2();
    let step = (value >> (power - 3)) & 7;
    let index = (power - 2) * STEPS + u32::try_from(step).unwrap_or(0);
    index.min(STEPS * POWERS - 1) as usize
}

fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < u64::from(STEPS) {
        return index;
    }
    let power = index / u64::from(STEPS) + 2;
    let step = index % u64::from(STEPS);
    ((8 + step + 1) << (power - 3)) - 1
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts a time in microseconds.
    pub fn record_time(&mut self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The value that `per_mille` of 1000 values do not exceed; 0 without values.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return upper_end(index).min(self.max);
            }
        }
        self.max
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 without values.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut histogram = Histogram::default();
        assert_eq!(
            (histogram.quantile(990), histogram.mean(), histogram.max()),
            (0, 0, 0)
        );
        for value in 1..=1000 {
            histogram.record(value);
        }
        assert_eq!((histogram.max(), histogram.mean()), (1000, 500));
        assert!((500..=563).contains(&histogram.quantile(500)));
        assert!((990..=1000).contains(&histogram.quantile(990)));
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 0..1_u64 << 39) {
            let end = upper_end(bucket(value));
            prop_assert!(end >= value && end <= value + value / 8);
        }
    }
}
