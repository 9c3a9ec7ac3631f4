//! Leader election by a Lease: taken when free or expired, renewed every few seconds, given back at the end.
//!
//! ```text
//!              free, or not renewed for LEASE
//!   Follower ---------------------------------> Leader
//!      ^                                          |
//!      +------ another holder, or no renewal -----+
//!                     for VALIDITY
//! ```
//!
//! Whether a lease has expired is judged by this machine's clock alone: it has
//! when nothing about it changed for its whole duration. Clocks of different
//! machines are never compared.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::failure::{describe, is_conflict};
use crate::leadership::Leadership;

/// How long a lease lasts that is not renewed.
const LEASE: Duration = Duration::from_secs(15);
/// How long after asking for a renewal its holder may write; the rest of
/// [`LEASE`] is for writes that were already on their way.
const VALIDITY: Duration = Duration::from_secs(10);
/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at a lease that another holds, or after a failure.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// Takes part in the election until `stop`, then gives the lease back.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    leadership: Leadership,
    seen: Option<Seen>,
    /// Whether the last round failed: an outage is told once, not each second.
    failing: bool,
}

/// A lease, and since when it has looked like that.
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It does not exist.
    Create,
    /// It is free or has expired.
    Take,
    /// It is ours.
    Renew,
    /// Another holds it.
    Leave,
}

impl Election {
    /// `me` must be another name in every process, such as the pod's.
    pub fn new(api: Api<Lease>, name: &str, me: String, leadership: Leadership) -> Self {
        Self {
            api,
            name: name.to_owned(),
            me,
            leadership,
            seen: None,
            failing: false,
        }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                let pause = self.round().await;
                sleep(pause).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = round => {}
            }
        }
        self.leadership.end();
        self.give_back().await;
    }

    /// One look and at most one write; returns the pause before the next.
    async fn round(&mut self) -> Duration {
        let why = match timeout(CALL_DEADLINE, self.try_round()).await {
            Ok(Ok(pause)) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the lease can be reached again");
                }
                return pause;
            }
            Ok(Err(error)) if is_conflict(&error) => None,
            Ok(Err(error)) => Some(describe(&error).message),
            Err(_) => Some("no answer in time".to_owned()),
        };
        // Another write came first, or the lease cannot be reached: whatever
        // was known of it may be outdated.
        if let Some(seen) = &mut self.seen {
            seen.lease.metadata.resource_version = None;
        }
        if let Some(why) = why
            && !std::mem::replace(&mut self.failing, true)
        {
            tracing::warn!(%why, "the lease cannot be reached and is tried every second");
        }
        RETRY_EVERY
    }

    async fn try_round(&mut self) -> Result<Duration, kube::Error> {
        let mine = self.seen.as_ref().is_some_and(|seen| {
            holder(&seen.lease) == self.me && seen.lease.metadata.resource_version.is_some()
        });
        if !mine {
            let found = self.api.get_opt(&self.name).await?;
            self.note(found);
        }
        let asked_at = Instant::now();
        let step = step(self.seen.as_ref(), &self.me, asked_at);
        let written = match step {
            Step::Leave => {
                self.leadership.end();
                return Ok(RETRY_EVERY);
            }
            Step::Create => {
                let lease = self.lease(None);
                self.api.create(&PostParams::default(), &lease).await?
            }
            Step::Take | Step::Renew => {
                let old = self.seen.as_ref().map(|seen| &seen.lease);
                let lease = self.lease(old);
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?
            }
        };
        if step != Step::Renew {
            tracing::info!(holder = %self.me, "leading");
        }
        self.note(Some(written));
        self.leadership.extend(asked_at, VALIDITY);
        Ok(RENEW_EVERY)
    }

    /// Keeps the time since when the lease looks as it does.
    fn note(&mut self, found: Option<Lease>) {
        self.seen = found.map(|lease| {
            let since = match &self.seen {
                Some(seen) if seen.lease.spec == lease.spec => seen.since,
                _ => Instant::now(),
            };
            Seen { lease, since }
        });
    }

    /// The lease as it is when held by us; `old` gives the version to replace.
    fn lease(&self, old: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let kept = spec.holder_identity.as_deref() == Some(&self.me);
        let transitions = spec.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: old.and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                acquire_time: if kept {
                    spec.acquire_time
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now),
                lease_transitions: Some(transitions + i32::from(!kept)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets a successor take over at once.
    async fn give_back(&mut self) {
        let Some(seen) = &self.seen else { return };
        if holder(&seen.lease) != self.me {
            return;
        }
        let mut lease = seen.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let parameters = PostParams::default();
        let call = self.api.replace(&self.name, &parameters, &lease);
        match timeout(CALL_DEADLINE, call).await {
            Ok(Ok(_)) => tracing::info!("gave the lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "could not give the lease back"),
            Err(_) => tracing::warn!("could not give the lease back in time"),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

fn step(seen: Option<&Seen>, me: &str, now: Instant) -> Step {
    let Some(seen) = seen else {
        return Step::Create;
    };
    let spec = seen.lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let duration = seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(LEASE, Duration::from_secs);
    match holder(&seen.lease) {
        "" => Step::Take,
        holder if holder == me => Step::Renew,
        _ if now.duration_since(seen.since) > duration => Step::Take,
        _ => Step::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: Option<&str>, since: Instant) -> Seen {
        Seen {
            lease: Lease {
                spec: Some(LeaseSpec {
                    holder_identity: holder.map(str::to_owned),
                    lease_duration_seconds: Some(15),
                    ..LeaseSpec::default()
                }),
                ..Lease::default()
            },
            since,
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_nobody_renews_it() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(step(None, "me", now), Step::Create);
        assert_eq!(step(Some(&seen(None, now)), "me", now), Step::Take);
        assert_eq!(
            step(Some(&seen(Some("me"), now)), "me", at(99)),
            Step::Renew
        );
        let other = seen(Some("other"), now);
        assert_eq!(step(Some(&other), "me", at(15)), Step::Leave);
        assert_eq!(step(Some(&other), "me", at(16)), Step::Take);
    }

    #[test]
    fn the_holder_stops_writing_before_another_may_take_over() {
        // A write that was checked at the last moment has this long to arrive.
        assert!(VALIDITY + CALL_DEADLINE < LEASE);
        // One renewal may hang and the next still comes in time.
        assert!(RENEW_EVERY + CALL_DEADLINE + RETRY_EVERY < VALIDITY);
    }
}
