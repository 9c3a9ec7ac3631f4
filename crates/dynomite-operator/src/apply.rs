//! Carries out a plan's actions, each for itself; it makes no choice of its own.
//!
//! Every write is checked against the right to write, and every delete names
//! the UID of what was seen: a late or deposed operator destroys nothing.

use std::fmt::Debug;

use dynomite_api::annotations::{FIELD_MANAGER, FINALIZER};
use dynomite_api::contract::{BucketRequest, CallAnswer, NodeDesired};
use dynomite_api::crd::{DynomiteBackup, DynomiteCluster, DynomiteRestore};
use dynomite_planner::{
    Action, ByContainer, Cluster, EventKind, Failure, Kind, Object, Outcome, Planned,
    ResizeRefused, Resources,
};
use either::Either;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use kube_runtime::events::{Event, EventType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use crate::beside;
use crate::context::{Context, Memory};
use crate::failure::{describe, is_conflict, is_final, is_not_found};
use crate::index::Index;
use crate::issue;
use crate::leadership::NotLeader;
use crate::names::{Holder, holder, watched};
use crate::node_client::{Assigned, Error as NodeError, NodeClient, Target};
use crate::observe::node_client;
use crate::stores;

/// How many actions of one kind of a cluster are under way at once.
const UNDER_WAY_MAX: usize = 8;

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This operator does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The API server refused.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The node refused or could not be reached.
    #[error("{0}")]
    Node(#[from] NodeError),
    /// The node cannot be spoken with.
    #[error("{0}")]
    NoClient(String),
    /// A certificate could not be made.
    #[error("{0}")]
    Certificate(#[from] crate::certificates::Error),
    /// The node does not take its document. Most often it holds another one by
    /// now; one that is refused again and again reaches the status.
    #[error("{0}")]
    Refused(String),
    /// What is to be made has the name of something else.
    #[error("{0}")]
    Taken(String),
    /// What was seen is no longer so: the next look decides anew.
    #[error("it has changed meanwhile")]
    Outdated,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// What the status is made from.
    pub outcome: Outcome,
    /// How many actions were tried.
    pub tried: usize,
    /// Whether the right to write ended on the way.
    pub deposed: bool,
}

/// Carries out the actions: neighbours of one kind at once, kinds in their order.
pub async fn apply(
    ctx: &Context,
    memory: &mut Memory,
    resource: &DynomiteCluster,
    cluster: &Cluster,
    actions: &[Planned],
) -> Applied {
    let mut applied = Applied::default();
    for group in actions.chunk_by(|a, b| class(&a.action) == class(&b.action)) {
        let results = match class(&group[0].action) {
            Class::Apply => apply_all(ctx, memory, cluster, group).await,
            Class::Assign => assign_all(ctx, memory, group).await,
            Class::Other => one_by_one(ctx, memory, resource, cluster, group).await,
        };
        for (planned, result) in group.iter().zip(results) {
            applied.tried += 1;
            note(ctx, cluster, planned, result, &mut applied);
        }
        if applied.deposed {
            break;
        }
    }
    applied
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Apply,
    Assign,
    Other,
}

fn class(action: &Action) -> Class {
    match action {
        Action::Apply(_) => Class::Apply,
        Action::Assign { .. } => Class::Assign,
        _ => Class::Other,
    }
}

/// Logs and counts what became of an action; failures go into the outcome.
fn note(
    ctx: &Context,
    cluster: &Cluster,
    planned: &Planned,
    result: Result<(), Error>,
    applied: &mut Applied,
) {
    let (namespace, name) = (&cluster.id.namespace, &cluster.id.name);
    let target = planned.action.target();
    let step = planned.step.name();
    let (reason, message) = match result {
        Ok(()) => {
            ctx.metrics.acted(step);
            tracing::info!(%namespace, cluster = %name, step, object = %target, why = %planned.why, "done");
            return;
        }
        Err(Error::NotLeader(_)) => {
            applied.deposed = true;
            return;
        }
        Err(Error::Outdated | Error::Refused(_)) => {
            tracing::debug!(%namespace, cluster = %name, step, object = %target, "changed meanwhile");
            return;
        }
        Err(Error::Api(error)) => {
            let described = describe(&error);
            (described.reason, described.message)
        }
        Err(error @ (Error::Node(_) | Error::NoClient(_))) => {
            ("NodeUnreachable".to_owned(), error.to_string())
        }
        // Only a person can help.
        Err(Error::Taken(why)) => ("NameTaken".to_owned(), why),
        Err(error @ Error::Certificate(_)) => ("CertificateNotMade".to_owned(), error.to_string()),
    };
    ctx.metrics.call_failed(step, &reason);
    tracing::warn!(%namespace, cluster = %name, step, object = %target, %reason, %message, "failed");
    applied.outcome.failures.push(Failure {
        step: planned.step,
        target,
        reason,
        message,
    });
}

async fn apply_all(
    ctx: &Context,
    memory: &mut Memory,
    cluster: &Cluster,
    group: &[Planned],
) -> Vec<Result<(), Error>> {
    let namespace = cluster.id.namespace.as_str();
    let makes = |planned: &Planned| match &planned.action {
        Action::Apply(o) => watched(ctx, namespace, o.kind(), o.name()).is_none(),
        _ => false,
    };
    // Two rings may want the same names. The one whose turn it is makes all of
    // its objects before the other looks, so that neither ends with half of them.
    let _turn = if group.iter().any(makes) {
        Some(ctx.turn_to_make(namespace).await)
    } else {
        None
    };
    let mut work = Vec::new();
    for planned in group {
        let apply = async move {
            let Action::Apply(object) = &planned.action else {
                return (Ok(()), None);
            };
            match holder(ctx, cluster, object).await {
                Ok(Holder::Nobody) => (apply_object(ctx, namespace, object, None).await, None),
                Ok(Holder::Us(uid)) => (apply_object(ctx, namespace, object, uid).await, None),
                Ok(Holder::Stranger(stranger)) => (Err(Error::Outdated), Some(*stranger)),
                Err(error) => (Err(error.into()), None),
            }
        };
        work.push(apply.boxed());
    }
    let results: Vec<(Result<(), Error>, Option<Object>)> = at_once(work).await;
    let now = Instant::now();
    let mut outcomes = Vec::new();
    for (planned, (result, stranger)) in group.iter().zip(results) {
        if let Action::Apply(object) = &planned.action {
            let name = (object.kind(), object.name().to_owned());
            match stranger {
                Some(stranger) => drop(memory.strangers.insert(name, (now, stranger))),
                None if result.is_ok() => drop(memory.strangers.remove(&name)),
                None => {}
            }
        }
        outcomes.push(result);
    }
    outcomes
}

/// Applies to the object of this UID; without one, makes it.
async fn apply_object(
    ctx: &Context,
    namespace: &str,
    object: &Object,
    uid: Option<String>,
) -> Result<(), Error> {
    let world = &ctx.world;
    match object.clone() {
        Object::StatefulSet(o) => patch(ctx, namespace, o, uid, &world.stateful_sets).await,
        Object::Service(o) => patch(ctx, namespace, o, uid, &world.services).await,
        Object::ConfigMap(o) => patch(ctx, namespace, o, uid, &world.config_maps).await,
        Object::PodDisruptionBudget(o) => patch(ctx, namespace, o, uid, &world.budgets).await,
        Object::PersistentVolumeClaim(o) => patch(ctx, namespace, o, uid, &world.claims).await,
    }
}

/// Server-side apply; the answer goes into the index, so that the next look
/// sees at least this write. Only what was seen to be ours is applied with
/// force: where somebody else was first meanwhile, the API server says so.
async fn patch<K>(
    ctx: &Context,
    namespace: &str,
    mut object: K,
    uid: Option<String>,
    index: &Index<K>,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + DeserializeOwned + Serialize + Debug,
{
    ctx.leadership.check()?;
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    let mut parameters = PatchParams::apply(FIELD_MANAGER);
    parameters.force = uid.is_some();
    object.meta_mut().uid = uid;
    let applied = api
        .patch(&object.name_any(), &parameters, &Patch::Apply(&object))
        .await;
    match applied {
        Ok(mut written) => {
            written.meta_mut().managed_fields = None;
            index.absorb(written);
            Ok(())
        }
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

async fn assign_all(
    ctx: &Context,
    memory: &mut Memory,
    group: &[Planned],
) -> Vec<Result<(), Error>> {
    let client = node_client(memory);
    let mut work = Vec::new();
    for planned in group {
        let client = client.clone();
        let assign = async move {
            let Action::Assign {
                address, desired, ..
            } = &planned.action
            else {
                return Ok(());
            };
            let client = client.map_err(Error::NoClient)?;
            assign(ctx, &client, address, desired).await
        };
        work.push(assign.boxed());
    }
    let results = at_once(work).await;
    for (planned, result) in group.iter().zip(&results) {
        if let Action::Assign { node, desired, .. } = &planned.action {
            match result {
                Ok(()) => drop(memory.refusals.remove(node)),
                Err(Error::Refused(why)) => {
                    let refused = memory.refusals.entry(node.clone()).or_default();
                    refused.note(&desired.node.pod_uid, why);
                }
                Err(_) => {}
            }
        }
    }
    results
}

/// Several things at once, but not too many; their results in their order.
async fn at_once<T>(work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(work).buffered(UNDER_WAY_MAX).collect().await
}

async fn assign(
    ctx: &Context,
    client: &NodeClient,
    address: &str,
    desired: &NodeDesired,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let address = address
        .parse()
        .map_err(|_| Error::NoClient(format!("{address:?} is not an address")))?;
    let target = Target {
        pod_uid: desired.node.pod_uid.clone(),
        address,
        host: desired.node.host.clone(),
    };
    match client.assign(&target, desired).await? {
        Assigned::Accepted => Ok(()),
        Assigned::Conflict(why) => Err(Error::Refused(why)),
    }
}

/// A node to speak with.
fn target(cluster: &Cluster, node: &str, pod_uid: &str, address: &str) -> Result<Target, Error> {
    let parsed = address.parse();
    let address = parsed.map_err(|_| Error::NoClient(format!("{address:?} is not an address")))?;
    Ok(Target {
        pod_uid: pod_uid.to_owned(),
        address,
        host: cluster.host(node),
    })
}

async fn hand_credentials(
    ctx: &Context,
    memory: &mut Memory,
    target: &Target,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let client = node_client(memory).map_err(Error::NoClient)?;
    let Some(held) = &memory.stores else {
        return Err(Error::Outdated);
    };
    Ok(client.hand_credentials(target, &held.credentials).await?)
}

async fn answer_call(
    ctx: &Context,
    memory: &mut Memory,
    target: &Target,
    answer: &CallAnswer,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let client = node_client(memory).map_err(Error::NoClient)?;
    Ok(client.answer_call(target, answer).await?)
}

fn ask_bucket(
    ctx: &Context,
    memory: &mut Memory,
    cluster: &Cluster,
    target: Target,
    request: &BucketRequest,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let client = node_client(memory).map_err(Error::NoClient)?;
    stores::ask(ctx, &memory.desk, cluster, client, target, request.clone());
    Ok(())
}

async fn one_by_one(
    ctx: &Context,
    memory: &mut Memory,
    resource: &DynomiteCluster,
    cluster: &Cluster,
    group: &[Planned],
) -> Vec<Result<(), Error>> {
    let namespace = cluster.id.namespace.as_str();
    let mut results: Vec<Result<(), Error>> = Vec::new();
    for planned in group {
        // An Event tells of what was just done: not when that failed.
        let failed = results.last().is_some_and(Result::is_err);
        results.push(match &planned.action {
            Action::Event { .. } if failed => Err(Error::Outdated),
            Action::Delete {
                kind,
                name,
                uid,
                resource_version,
            } => {
                let seen = Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: resource_version.clone(),
                };
                delete_kind(ctx, memory, namespace, *kind, name, seen).await
            }
            Action::DeleteAtOnce { name, uid } => {
                let seen = Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                };
                let at_once = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(seen),
                    ..DeleteParams::default()
                };
                let pods = &ctx.world.pods;
                delete::<Pod>(ctx, namespace, name, at_once, Some(pods)).await
            }
            Action::Orphan { name, uid } => {
                let seen = Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                };
                let alone = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Orphan),
                    preconditions: Some(seen),
                    ..DeleteParams::default()
                };
                let sets = &ctx.world.stateful_sets;
                delete::<StatefulSet>(ctx, namespace, name, alone, Some(sets)).await
            }
            Action::Resize {
                pod,
                uid,
                resources,
            } => resize(ctx, memory, namespace, pod, uid, resources).await,
            Action::IssueCertificates(wanted) => {
                issue::certificates(ctx, memory, resource, wanted).await
            }
            Action::SetFinalizer { present } => set_finalizer(ctx, resource, *present).await,
            Action::Event {
                kind,
                reason,
                message,
            } => tell(ctx, resource, *kind, reason, message).await,
            Action::HandCredentials {
                node,
                pod_uid,
                address,
            } => match target(cluster, node, pod_uid, address) {
                Ok(target) => hand_credentials(ctx, memory, &target).await,
                Err(error) => Err(error),
            },
            Action::AskBucket {
                node,
                pod_uid,
                address,
                request,
            } => match target(cluster, node, pod_uid, address) {
                Ok(target) => ask_bucket(ctx, memory, cluster, target, request),
                Err(error) => Err(error),
            },
            Action::AnswerCall {
                node,
                pod_uid,
                address,
                answer,
            } => match target(cluster, node, pod_uid, address) {
                Ok(target) => answer_call(ctx, memory, &target, answer).await,
                Err(error) => Err(error),
            },
            Action::WriteBackup { seen, status } => {
                beside::write::<DynomiteBackup>(ctx, namespace, seen, status).await
            }
            Action::MakeBackup(backup) => beside::make(ctx, &**backup).await,
            Action::TakeAnnotation { annotation, value } => {
                take_annotation(ctx, resource, annotation, value).await
            }
            Action::MakeRestore(restore) => beside::make(ctx, &**restore).await,
            Action::WriteRestore { seen, status } => {
                beside::write::<DynomiteRestore>(ctx, namespace, seen, status).await
            }
            Action::SetRestoreFinalizer { name, uid, present } => {
                beside::set_finalizer::<DynomiteRestore>(ctx, namespace, name, uid, *present).await
            }
            Action::SetBackupFinalizer { name, uid, present } => {
                beside::set_finalizer::<DynomiteBackup>(ctx, namespace, name, uid, *present).await
            }
            Action::MakeScratch(pod) => make_scratch(ctx, namespace, pod).await,
            Action::EndScratch { name, uid } => {
                let seen = Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                };
                delete_kind(ctx, memory, namespace, Kind::Pod, name, seen).await
            }
            Action::Apply(_) | Action::Assign { .. } => Ok(()),
        });
    }
    results
}

/// Makes the scratch pod. One that is there already is looked at by the next pass: by its owner
/// it is told whose it is.
async fn make_scratch(ctx: &Context, namespace: &str, pod: &Pod) -> Result<(), Error> {
    ctx.leadership.check()?;
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, pod).await {
        Ok(mut made) => {
            made.metadata.managed_fields = None;
            ctx.world.pods.absorb(made);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

async fn delete_kind(
    ctx: &Context,
    memory: &mut Memory,
    namespace: &str,
    kind: Kind,
    name: &str,
    seen: Preconditions,
) -> Result<(), Error> {
    let world = &ctx.world;
    let seen = DeleteParams {
        preconditions: Some(seen),
        ..DeleteParams::default()
    };
    match kind {
        Kind::StatefulSet => {
            delete::<StatefulSet>(ctx, namespace, name, seen, Some(&world.stateful_sets)).await
        }
        Kind::Service => delete::<Service>(ctx, namespace, name, seen, Some(&world.services)).await,
        Kind::ConfigMap => {
            delete::<ConfigMap>(ctx, namespace, name, seen, Some(&world.config_maps)).await
        }
        Kind::PodDisruptionBudget => {
            delete::<PodDisruptionBudget>(ctx, namespace, name, seen, Some(&world.budgets)).await
        }
        Kind::PersistentVolumeClaim => {
            delete::<PersistentVolumeClaim>(ctx, namespace, name, seen, Some(&world.claims)).await
        }
        Kind::Pod => delete::<Pod>(ctx, namespace, name, seen, Some(&world.pods)).await,
        Kind::DynomiteBackup => {
            delete::<DynomiteBackup>(ctx, namespace, name, seen, Some(&world.backups)).await
        }
        Kind::DynomiteRestore => {
            delete::<DynomiteRestore>(ctx, namespace, name, seen, Some(&world.restores)).await
        }
        Kind::Secret => {
            memory.secrets = None;
            delete::<Secret>(ctx, namespace, name, seen, None).await
        }
    }
}

/// Deletes an object only as it was seen.
async fn delete<K>(
    ctx: &Context,
    namespace: &str,
    name: &str,
    parameters: DeleteParams,
    index: Option<&Index<K>>,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + DeserializeOwned + Debug,
{
    ctx.leadership.check()?;
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    let seen = parameters.preconditions.as_ref();
    let uid = seen.and_then(|seen| seen.uid.clone()).unwrap_or_default();
    match api.delete(name, &parameters).await.map(Either::left) {
        Ok(Some(mut leaving)) if leaving.meta().deletion_timestamp.is_some() => {
            leaving.meta_mut().managed_fields = None;
            if let Some(index) = index {
                index.absorb(leaving);
            }
            Ok(())
        }
        // Gone already: the answer is a word, or the object as it was before.
        Ok(_) => {
            if let Some(index) = index {
                index.forget(namespace, name, &uid);
            }
            Ok(())
        }
        Err(error) if is_not_found(&error) => {
            if let Some(index) = index {
                index.forget(namespace, name, &uid);
            }
            Ok(())
        }
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Gives a running pod other resources. What the API server will never take is
/// remembered, so that the planner finds another way.
async fn resize(
    ctx: &Context,
    memory: &mut Memory,
    namespace: &str,
    pod: &str,
    uid: &str,
    resources: &Resources,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let list = |of: &ByContainer| -> Vec<serde_json::Value> {
        of.iter()
            .map(|(name, resources)| json!({"name": name, "resources": resources}))
            .collect()
    };
    // With the UID a successor of the same name is left alone.
    let change = json!({
        "metadata": {"uid": uid},
        "spec": {"initContainers": list(&resources.init), "containers": list(&resources.main)},
    });
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(&change);
    match api
        .patch_subresource("resize", pod, &parameters, &patch)
        .await
    {
        Ok(mut written) => {
            written.meta_mut().managed_fields = None;
            ctx.world.pods.absorb(written);
            Ok(())
        }
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => {
            if is_final(&error) {
                let refused = ResizeRefused {
                    pod_uid: uid.to_owned(),
                    resources: resources.digest(),
                    why: describe(&error).message,
                };
                memory.resizes_refused.insert(pod.to_owned(), refused);
            }
            Err(error.into())
        }
    }
}

async fn set_finalizer(
    ctx: &Context,
    resource: &DynomiteCluster,
    present: bool,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynomiteCluster> = Api::namespaced(ctx.client.clone(), &namespace);
    let written = beside::finalize(&api, resource, FINALIZER, present).await?;
    if let Some(written) = written {
        ctx.world.clusters.absorb(written);
    }
    Ok(())
}

/// Takes an annotation off, unless somebody has given it another value meanwhile.
async fn take_annotation(
    ctx: &Context,
    resource: &DynomiteCluster,
    annotation: &str,
    value: &str,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    if resource.annotations().get(annotation).map(String::as_str) != Some(value) {
        return Err(Error::Outdated);
    }
    let change = json!({"metadata": {
        "resourceVersion": resource.resource_version(),
        "annotations": {annotation: null},
    }});
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynomiteCluster> = Api::namespaced(ctx.client.clone(), &namespace);
    let patch = Patch::Merge(&change);
    match api
        .patch(&resource.name_any(), &PatchParams::default(), &patch)
        .await
    {
        Ok(written) => {
            ctx.world.clusters.absorb(written);
            Ok(())
        }
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// An Event that cannot be written is logged, not tried again: it must never
/// keep the ring from what it needs.
async fn tell(
    ctx: &Context,
    resource: &DynomiteCluster,
    kind: EventKind,
    reason: &str,
    message: &str,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let event = Event {
        type_: match kind {
            EventKind::Normal => EventType::Normal,
            EventKind::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let about = resource.object_ref(&());
    if let Err(error) = ctx.recorder.publish(&event, &about).await {
        let described = describe(&error);
        ctx.metrics.call_failed("event", &described.reason);
        tracing::warn!(reason, message = %described.message, "could not write an Event");
    }
    Ok(())
}
