//! Writes the status, last and only when it says something new, and tells of what changed.

use std::time::Duration;

use dynomite_api::annotations::FIELD_MANAGER;
use dynomite_api::crd::{DynomiteCluster, DynomiteClusterStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use kube_runtime::events::{Event, EventType};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::context::Context;
use crate::events::{self, Told};
use crate::failure::{describe, is_conflict, is_not_found};
use crate::index::ClusterKey;
use crate::leadership::NotLeader;

/// Why the status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This operator does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The API server refused.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The status is no JSON.
    #[error("the status cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// How long small news wait for each other: while a ring comes up something
/// changes with every look, and each write costs the API server and the reconcile.
const SMALL_NEWS: Duration = Duration::from_secs(1);

/// Writes `status` if it differs from what the resource says; returns whether it did.
///
/// `written` is when that was last done. Soon after it only what people and
/// programs wait for is written; the rest follows with the next look after it.
pub async fn publish(
    ctx: &Context,
    written: &mut Option<Instant>,
    resource: &DynomiteCluster,
    status: &DynomiteClusterStatus,
) -> Result<bool, Error> {
    if let Some(key) = ClusterKey::of_self(resource) {
        ctx.metrics.cluster(&key, status);
    }
    let old = resource.status.clone().unwrap_or_default();
    if same(&old, status)? {
        return Ok(false);
    }
    let now = Instant::now();
    let just_written = written.is_some_and(|at| now.duration_since(at) < SMALL_NEWS);
    if just_written && !is_urgent(&old, status) {
        return Ok(false);
    }
    ctx.leadership.check()?;
    *written = Some(now);
    let name = resource.name_any();
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynomiteCluster> = Api::namespaced(ctx.client.clone(), &namespace);
    // With the UID a successor of the same name cannot be given a foreign status.
    let change = json!({
        "apiVersion": DynomiteCluster::api_version(&()),
        "kind": DynomiteCluster::kind(&()),
        "metadata": {"name": name, "uid": resource.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api
        .patch_status(&name, &parameters, &Patch::Apply(&change))
        .await
    {
        Ok(mut written) => {
            written.meta_mut().managed_fields = None;
            ctx.world.clusters.absorb(written);
        }
        // It is gone, or another one: then there is nobody to tell.
        Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    for told in events::changes(&old, status) {
        tell(ctx, resource, &told).await;
    }
    Ok(true)
}

/// Whether something changed that somebody may wait for: a condition, the
/// phase, how many nodes are ready, or the generation that was seen. A cluster
/// that settles changes one of them with its last step.
fn is_urgent(old: &DynomiteClusterStatus, new: &DynomiteClusterStatus) -> bool {
    fn heads(status: &DynomiteClusterStatus) -> impl PartialEq {
        let conditions: Vec<(String, String)> = status
            .conditions
            .iter()
            .map(|c| (c.type_.clone(), c.status.clone()))
            .collect();
        (
            conditions,
            status.phase,
            status.nodes.clone(),
            status.racks_ready.clone(),
            status.observed_generation,
            status.served_since.clone(),
            status.plan.is_empty(),
        )
    }
    heads(old) != heads(new)
}

/// Whether two statuses say the same, compared as they are written.
fn same(a: &DynomiteClusterStatus, b: &DynomiteClusterStatus) -> Result<bool, serde_json::Error> {
    let written = |status| -> Result<Value, serde_json::Error> { serde_json::to_value(status) };
    Ok(a == b || written(a)? == written(b)?)
}

/// Writes an Event; one that cannot be written is logged, not tried again.
async fn tell(ctx: &Context, resource: &DynomiteCluster, told: &Told) {
    let event = Event {
        type_: if told.reason.warns() {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: told.reason.name().to_owned(),
        note: Some(told.message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let about = resource.object_ref(&());
    if let Err(error) = ctx.recorder.publish(&event, &about).await {
        let described = describe(&error);
        ctx.metrics.call_failed("event", &described.reason);
        tracing::warn!(reason = told.reason.name(), message = %described.message, "could not write an Event");
    }
}
