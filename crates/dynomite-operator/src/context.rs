//! What a reconcile works with: the client, the watches, and what may be forgotten about each cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynomite_planner::{Defaults, Kind, Object, ResizeRefused, Seen, VolumeFacts};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube_runtime::events::Recorder;
use tokio::time::Instant;

use crate::index::ClusterKey;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::node_client::NodeClient;
use crate::remotes::Remotes;
use crate::reports::{self, Pauses};
use crate::stores::{Desk, Held};
use crate::world::World;

/// How many reconciles in a row may follow each other at once, because each had
/// something to do. A cluster is provisioned in fewer; more is going in circles.
const HURRIED_MAX: u32 = 12;
/// The pause before the reconcile that follows one that did something.
const HURRY: Duration = Duration::from_millis(20);
/// The longest pause of a cluster that cannot be reconciled at all.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause after an action failed: the nodes are asked no more
/// rarely than this, whatever the API server refuses.
const FAILED_MAX: Duration = Duration::from_secs(5);

/// How often in a row a node may refuse its document before the status says so:
/// once or twice, somebody else was merely faster.
const REFUSED_MAX: u32 = 3;

/// What every reconcile shares.
pub struct Context {
    /// Speaks with the API server.
    pub client: Client,
    /// What the installation decides.
    pub defaults: Defaults,
    /// The right to write.
    pub leadership: Leadership,
    /// What the watches have shown.
    pub world: Arc<World>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells people.
    pub recorder: Recorder,
    memories: Mutex<HashMap<ClusterKey, Arc<tokio::sync::Mutex<Memory>>>>,
    /// Whose turn it is to make objects, by namespace.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// How often in a row a cluster could not be reconciled at all.
    failures: Mutex<HashMap<ClusterKey, u32>>,
}

impl Context {
    /// A context that remembers nothing yet.
    pub fn new(
        client: Client,
        defaults: Defaults,
        leadership: Leadership,
        world: Arc<World>,
        metrics: Arc<Metrics>,
        recorder: Recorder,
    ) -> Self {
        Self {
            client,
            defaults,
            leadership,
            world,
            metrics,
            recorder,
            memories: Mutex::default(),
            turns: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// What is remembered of a cluster.
    pub fn memory(&self, key: &ClusterKey) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(key.clone()).or_default())
    }

    /// Forgets a cluster: it is gone, or what is remembered may be half-written.
    pub fn forget(&self, key: &ClusterKey) {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.remove(key);
    }

    /// Waits until no other cluster of the namespace makes objects, and keeps it so.
    pub async fn turn_to_make(&self, namespace: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(namespace.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// Counts a reconcile that failed; returns how many had failed before it.
    pub fn failed_again(&self, key: &ClusterKey) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count - 1
    }

    /// Forgives the failures of a cluster.
    pub fn succeeded(&self, key: &ClusterKey) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(key);
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// What is kept between two reconciles of one cluster to spare calls. No
/// decision rests on it: a restarted operator begins with nothing.
#[derive(Default)]
pub struct Memory {
    /// The UID of the cluster this is about; another one begins anew.
    pub uid: String,
    /// The cluster's Secrets.
    pub secrets: Option<Secrets>,
    /// Speaks with the nodes, and the version of the Secret it was made from.
    pub nodes: Option<(String, Arc<NodeClient>)>,
    /// Nodes that hang.
    pub pauses: Pauses,
    /// Objects on our names that do not carry our label.
    pub strangers: BTreeMap<(Kind, String), (Instant, Object)>,
    /// The volumes that were looked at, and when.
    pub volumes: BTreeMap<String, (Instant, Seen<VolumeFacts>)>,
    /// The newest warning of each `StatefulSet` that lacks pods.
    pub warnings: Option<(Instant, BTreeMap<String, String>)>,
    /// When the status was last written.
    pub status_written: Option<Instant>,
    /// What the API server would not give a pod in place, by pod name.
    pub resizes_refused: BTreeMap<String, ResizeRefused>,
    /// Nodes that did not take what they were told, by name.
    pub refusals: BTreeMap<String, Refusals>,
    /// What opens the stores of backups, while it is needed.
    pub stores: Option<Held>,
    /// Questions to them.
    pub desk: Desk,
    /// Datacenters elsewhere that describe themselves.
    pub remotes: Remotes,
    /// How long the last pass waited for the nodes' reports.
    pub asking: Duration,
    /// How often to look.
    pub pace: Pace,
}

/// How often a pod did not take its document.
#[derive(Default)]
pub struct Refusals {
    pod_uid: String,
    in_a_row: u32,
    why: String,
}

impl Refusals {
    /// Counts one more.
    pub fn note(&mut self, pod_uid: &str, why: &str) {
        if self.pod_uid != pod_uid {
            *self = Self {
                pod_uid: pod_uid.to_owned(),
                ..Self::default()
            };
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        why.clone_into(&mut self.why);
    }

    /// Whether they are about this pod.
    pub fn is_of(&self, pod_uid: Option<&str>) -> bool {
        pod_uid == Some(self.pod_uid.as_str())
    }

    /// Why, once it was refused so often that another look will not help.
    pub fn lasting(&self) -> Option<&str> {
        (self.in_a_row >= REFUSED_MAX).then_some(self.why.as_str())
    }
}

/// The Secrets of a cluster as they were last read.
pub struct Secrets {
    /// The CA's; `None` when it does not exist.
    pub ca: Result<Option<Secret>, String>,
    /// The nodes'; `None` when it does not exist.
    pub node: Result<Option<Secret>, String>,
    /// People's; `None` when it does not exist.
    pub admin: Result<Option<Secret>, String>,
    /// When they were read.
    pub at: Instant,
}

/// How a reconcile went, as far as the next one's time depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// Something was done, and its effect must be looked at.
    Acted,
    /// Something could not be done.
    Failed,
    /// There was nothing to do, and something is waited for.
    Waited,
    /// There was nothing to do and nothing is waited for.
    Settled,
}

/// How often a cluster is looked at.
#[derive(Default)]
pub struct Pace {
    hurried: u32,
    failures: u32,
    settled: bool,
    changed_at: Option<Instant>,
}

impl Pace {
    /// Takes in how a reconcile went; returns the pause before the next.
    pub fn next(&mut self, went: Went, status_changed: bool, now: Instant) -> Duration {
        if status_changed || self.changed_at.is_none() {
            self.changed_at = Some(now);
        }
        self.settled = went == Went::Settled;
        self.failures = match went {
            Went::Failed => self.failures.saturating_add(1),
            _ => 0,
        };
        self.hurried = match went {
            Went::Acted => self.hurried.saturating_add(1),
            _ => 0,
        };
        match went {
            Went::Failed => backoff(self.failures - 1).min(FAILED_MAX),
            Went::Acted if self.hurried <= HURRIED_MAX => HURRY,
            Went::Acted => backoff(self.hurried - HURRIED_MAX),
            Went::Waited | Went::Settled => {
                reports::next_look(self.settled, self.unchanged_for(now))
            }
        }
    }

    /// Whether the last reconcile found everything as it should be.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Since when the status says the same.
    pub fn unchanged_for(&self, now: Instant) -> Duration {
        self.changed_at
            .map_or(Duration::ZERO, |at| now.duration_since(at))
    }
}

/// The pause after `tries` earlier failures: doubled each time, with a limit.
pub fn backoff(tries: u32) -> Duration {
    Duration::from_millis(250)
        .saturating_mul(1 << tries.min(16))
        .min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_hurried_until_it_goes_in_circles() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let pauses: Vec<Duration> = (0..40)
            .map(|_| pace.next(Went::Acted, false, now))
            .collect();
        assert_eq!(pauses[0], HURRY);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[39], PAUSE_MAX);
        pace.next(Went::Settled, false, now);
        assert_eq!(pace.next(Went::Acted, false, now), HURRY);
    }

    #[test]
    fn failures_back_off_and_a_success_forgives_them() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let pauses: Vec<Duration> = (0..20)
            .map(|_| pace.next(Went::Failed, false, now))
            .collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((pauses[0], pauses[19]), (backoff(0), FAILED_MAX));
        pace.next(Went::Waited, false, now);
        assert_eq!(pace.next(Went::Failed, false, now), backoff(0));
    }

    #[test]
    fn a_cluster_that_does_not_move_is_looked_at_more_rarely() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let moving = pace.next(Went::Waited, true, now);
        let later = now + Duration::from_mins(10);
        let stuck = pace.next(Went::Waited, false, later);
        assert!(moving < stuck);
        assert_eq!(pace.next(Went::Waited, true, later), moving);
        assert!(stuck < pace.next(Went::Settled, false, later));
    }
}
