//! The reconcile of one cluster: observe, plan, apply, publish.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::crd::{ConditionType, DynomiteCluster, set_condition};
use dynomite_planner::{Cluster, Plan, Violations, invalid_status, plan, status};
use futures::FutureExt;
use kube_runtime::controller::Action;
use tokio::time::Instant;

use crate::apply::{Applied, apply};
use crate::context::{Context, Memory, Went, backoff};
use crate::index::ClusterKey;
use crate::observe::observe;
use crate::publish::{self, publish};

/// When a follower looks whether it leads.
const FOLLOWER_LOOK: Duration = Duration::from_secs(15);

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resource asks for what cannot be. Only another resource helps.
    #[error("the resource cannot be carried out: {0}")]
    Invalid(Violations),
    /// This operator does not lead; whoever does sees to the cluster.
    #[error("this operator does not lead")]
    NotLeader,
    /// The status could not be written.
    #[error("publishing the status: {0}")]
    Publish(publish::Error),
    /// A bug. The other clusters do not suffer from it.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// The error as a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::NotLeader => "not_leader",
            Self::Publish(_) => "publish_failed",
            Self::Panicked(_) => "panicked",
        }
    }
}

impl From<publish::Error> for Error {
    fn from(error: publish::Error) -> Self {
        match error {
            publish::Error::NotLeader(_) => Self::NotLeader,
            error => Self::Publish(error),
        }
    }
}

/// Reconciles one cluster; whatever happens in there stays in there.
pub async fn reconcile(resource: Arc<DynomiteCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some(key) = ClusterKey::of_self(resource.as_ref()) else {
        return Ok(Action::await_change());
    };
    // The queue's copy may be older than what was written last.
    let resource = ctx
        .world
        .clusters
        .get(&key.namespace, &key.name)
        .unwrap_or(resource);
    let begun = Instant::now();
    let result = guarded(reconcile_once(&ctx, &key, &resource).boxed()).await;
    let outcome = match &result {
        Ok((went, _)) => went.label(),
        Err(error) => error.label(),
    };
    let took = begun.elapsed();
    ctx.metrics.reconciled(outcome, took);
    if result.is_ok() {
        let asking = ctx.memory(&key).lock().await.asking;
        ctx.metrics.spent(&key, took, asking);
    }
    match &result {
        Ok(_) => ctx.succeeded(&key),
        Err(Error::Panicked(words)) => {
            // What a panic left behind may be half-written.
            ctx.forget(&key);
            tell_of_panic(&ctx, &resource, words).await;
        }
        Err(_) => {}
    }
    result.map(|(_, pause)| Action::requeue(pause))
}

/// Turns a panic into an error.
async fn guarded<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(Error::Panicked(words_of(panic.as_ref()))))
}

/// Says in the status that the operator itself failed; the ring serves on, and
/// the next reconcile that succeeds takes it back.
async fn tell_of_panic(ctx: &Context, resource: &DynomiteCluster, words: &str) {
    let mut status = resource.status.clone().unwrap_or_default();
    let message = format!(
        "the operator failed on this resource and tries again; nodes serve on. \
         Report it with the operator's log: {words}"
    );
    set_condition(
        &mut status.conditions,
        ConditionType::Stalled,
        Some(true),
        "OperatorPanicked",
        &message,
        resource.metadata.generation,
        ctx.now(),
    );
    let published = guarded(async { Ok(publish(ctx, &mut None, resource, &status).await?) }).await;
    if let Err(error) = published {
        tracing::warn!(%error, "could not tell of a panic");
    }
}

async fn reconcile_once(
    ctx: &Context,
    key: &ClusterKey,
    resource: &DynomiteCluster,
) -> Result<(Went, Duration), Error> {
    ctx.leadership.check().map_err(|_| Error::NotLeader)?;
    let memory = ctx.memory(key);
    let memory = &mut *memory.lock().await;
    memory.begin(resource);
    // pure
    let cluster = match Cluster::new(resource, &ctx.defaults) {
        Ok(cluster) => cluster,
        Err(violations) => {
            // Deleting is a later word than whatever the spec says.
            if let Some(cluster) = Cluster::leaving(resource, &ctx.defaults) {
                cluster
            } else {
                let status = invalid_status(resource, &violations, ctx.now());
                publish(ctx, &mut memory.status_written, resource, &status).await?;
                return Err(Error::Invalid(violations));
            }
        }
    };
    // client
    let observed = observe(ctx, memory, &cluster).await;
    // pure
    let plan = plan(&cluster, &observed, ctx.now());
    // client
    let applied = apply(ctx, memory, resource, &cluster, &plan.actions).await;
    // pure
    let previous = resource.status.as_ref();
    let outcome = &applied.outcome;
    let status = status(&cluster, &observed, &plan, previous, outcome, ctx.now());
    // client
    let changed = publish(ctx, &mut memory.status_written, resource, &status).await?;
    if applied.deposed {
        return Err(Error::NotLeader);
    }
    let went = went(&plan, &applied);
    let pause = memory.pace.next(went, changed, Instant::now());
    Ok((went, until_wake(&plan, pause, ctx)))
}

impl Memory {
    /// Begins anew when this is another cluster of the same name.
    fn begin(&mut self, resource: &DynomiteCluster) {
        let uid = resource.metadata.uid.as_deref().unwrap_or_default();
        if self.uid != uid {
            *self = Self {
                uid: uid.to_owned(),
                ..Self::default()
            };
        }
    }
}

impl Went {
    fn label(self) -> &'static str {
        match self {
            Self::Acted => "acted",
            Self::Failed => "action_failed",
            Self::Waited => "waited",
            Self::Settled => "settled",
        }
    }
}

fn went(plan: &Plan, applied: &Applied) -> Went {
    if !applied.outcome.failures.is_empty() {
        Went::Failed
    } else if applied.tried > 0 {
        Went::Acted
    } else if plan.waits.iter().all(|waiting| waiting.wait.informs()) {
        Went::Settled
    } else {
        Went::Waited
    }
}

/// The pause, shortened when the plan asks to be woken earlier.
fn until_wake(plan: &Plan, pause: Duration, ctx: &Context) -> Duration {
    let Some(wake_at) = plan.wake_at else {
        return pause;
    };
    let until = wake_at.duration_since(ctx.now());
    Duration::try_from(until).map_or(Duration::ZERO, |until| until.min(pause))
}

/// What happens after an error. An invalid resource waits for a change: trying
/// again cannot help. A follower is woken when it becomes the leader; until
/// then a look now and then costs nothing.
pub fn error_policy(resource: &DynomiteCluster, error: &Error, ctx: &Context) -> Action {
    let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
    let cluster = resource.metadata.name.as_deref().unwrap_or_default();
    match error {
        Error::NotLeader => Action::requeue(FOLLOWER_LOOK),
        Error::Invalid(violations) => {
            tracing::warn!(%namespace, %cluster, %violations, "the resource cannot be carried out");
            Action::await_change()
        }
        Error::Publish(_) | Error::Panicked(_) => {
            tracing::error!(%namespace, %cluster, %error, "reconcile failed");
            let key = ClusterKey::of_self(resource);
            let tries = key.map_or(0, |key| ctx.failed_again(&key));
            Action::requeue(backoff(tries))
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a word".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_words() {
        let which = || std::hint::black_box(7);
        let panics = guarded(async {
            assert_eq!(which(), 8, "a bug");
            Ok(())
        });
        let result = panics.await;
        assert!(matches!(&result, Err(Error::Panicked(words)) if words.contains("a bug")));
        assert!(guarded(async { Ok(which()) }).await.is_ok());
    }
}
