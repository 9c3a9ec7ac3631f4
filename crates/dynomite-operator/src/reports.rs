//! When each node is asked for its report: at every look while it answers or refuses, ever more rarely while it hangs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use dynomite_api::contract::NodeReport;
use dynomite_planner::Seen;
use tokio::time::Instant;

/// The pause after the first time a node did not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The next look at a cluster in which something is still moving.
const LOOK_MOVING: Duration = Duration::from_millis(300);
/// The next look at a cluster that has not moved for [`PATIENCE`].
const LOOK_STUCK: Duration = Duration::from_secs(2);
/// The next look at a settled cluster.
const LOOK_SETTLED: Duration = Duration::from_secs(5);
/// After how long without a change an unsettled cluster is looked at more rarely.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a node that was asked had to say.
#[derive(Debug)]
pub enum Answer {
    /// Its report.
    Report(Box<NodeReport>),
    /// It could not be asked, and that was known at once: a pod that comes up
    /// refuses connections until its sidecar listens.
    Refused(String),
    /// It kept the operator waiting in vain.
    Hung(String),
}

/// What is known of the nodes that hang, by pod UID.
#[derive(Default)]
pub struct Pauses {
    silent: HashMap<String, Silence>,
}

struct Silence {
    address: IpAddr,
    why: String,
    tries: u32,
    until: Instant,
}

impl Pauses {
    /// Why the node is not asked now, if it is better left alone for a while.
    pub fn reason(&self, pod_uid: &str, address: IpAddr, now: Instant) -> Option<String> {
        let silence = self.silent.get(pod_uid)?;
        (silence.address == address && now < silence.until).then(|| silence.why.clone())
    }

    /// Takes in what a node answered, and returns it as the planner sees it.
    pub fn note(
        &mut self,
        pod_uid: &str,
        address: IpAddr,
        answer: Answer,
        now: Instant,
    ) -> Seen<NodeReport> {
        let why = match answer {
            Answer::Report(report) => {
                self.silent.remove(pod_uid);
                return Seen::Known(*report);
            }
            Answer::Refused(why) => {
                self.silent.remove(pod_uid);
                return Seen::Unknown(why);
            }
            Answer::Hung(why) => why,
        };
        let tries = self
            .silent
            .get(pod_uid)
            .filter(|silence| silence.address == address)
            .map_or(0, |silence| silence.tries);
        let silence = Silence {
            address,
            why: why.clone(),
            tries: tries.saturating_add(1),
            until: now + pause(tries),
        };
        self.silent.insert(pod_uid.to_owned(), silence);
        Seen::Unknown(why)
    }

    /// Forgets all pods but these.
    pub fn keep_only(&mut self, is_there: impl Fn(&str) -> bool) {
        self.silent.retain(|uid, _| is_there(uid));
    }
}

/// The pause after `tries` earlier failures: doubled each time, with a limit.
pub fn pause(tries: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << tries.min(16)).min(PAUSE_MAX)
}

/// When a cluster is looked at again although no watch says that it changed.
pub fn next_look(settled: bool, unchanged_for: Duration) -> Duration {
    match (settled, unchanged_for > PATIENCE) {
        (true, _) => LOOK_SETTLED,
        (false, false) => LOOK_MOVING,
        (false, true) => LOOK_STUCK,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_asked_ever_more_rarely_and_a_new_address_at_once() {
        let mut pauses = Pauses::default();
        let mut now = Instant::now();
        let mut asked = 0;
        let end = now + Duration::from_mins(1);
        while now < end {
            if pauses.reason("uid", HERE, now).is_none() {
                asked += 1;
                pauses.note("uid", HERE, Answer::Hung("silent".into()), now);
            }
            now += Duration::from_millis(50);
        }
        // 0.25 + 0.5 + 1 + 2 + 4 seconds, then one each five seconds.
        assert!((14..=18).contains(&asked), "{asked}");
        assert_eq!(pauses.reason("uid", HERE, now).as_deref(), Some("silent"));
        let elsewhere = IpAddr::V4(Ipv4Addr::BROADCAST);
        assert_eq!(pauses.reason("uid", elsewhere, now), None);
        pauses.keep_only(|_| false);
        assert_eq!(pauses.reason("uid", HERE, now), None);
    }

    #[test]
    fn pauses_grow_and_never_pass_the_limit() {
        let all: Vec<Duration> = (0..40).map(pause).collect();
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((all[0], all[39]), (PAUSE_MIN, PAUSE_MAX));
    }

    #[test]
    fn a_settled_cluster_is_looked_at_most_rarely() {
        let long = Duration::from_hours(1);
        assert!(next_look(false, Duration::ZERO) < next_look(false, long));
        assert!(next_look(false, long) < next_look(true, Duration::ZERO));
    }
}
