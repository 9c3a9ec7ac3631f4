//! Who holds the names a ring needs: what lies on them is looked at before it is written, whoever made it.

use std::fmt::Debug;
use std::time::Duration;

use dynomite_planner::{Cluster, Kind, Object, Observed, is_ours, other_ring};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::context::{Context, Memory};
use crate::failure::describe;

/// When what lies on one of our names without our label is looked at again.
const STRANGERS: Duration = Duration::from_secs(10);
/// The kinds whose names a ring takes from its own and its racks' names.
const NAMED: [Kind; 4] = [
    Kind::StatefulSet,
    Kind::Service,
    Kind::ConfigMap,
    Kind::PodDisruptionBudget,
];

/// Who holds a name.
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This cluster, with the object of this UID.
    Us(Option<String>),
    /// Somebody else: it must not be touched.
    Stranger(Box<Object>),
}

/// Who holds the name of an object that is about to be applied.
///
/// The watches are asked first, whichever ring's the object is; they show only
/// what carries our label, so a name they do not show is looked up.
pub async fn holder(
    ctx: &Context,
    cluster: &Cluster,
    object: &Object,
) -> Result<Holder, kube::Error> {
    let (kind, name) = (object.kind(), object.name());
    let namespace = cluster.id.namespace.as_str();
    if kind == Kind::PersistentVolumeClaim {
        // Marked, never made: the planner saw the one it names by UID.
        return Ok(Holder::Us(object.metadata().uid.clone()));
    }
    let there = match watched(ctx, namespace, kind, name) {
        Some(there) => Some(there),
        None => look_up(ctx, namespace, kind, name).await?,
    };
    Ok(match there {
        None => Holder::Nobody,
        Some(there) if is_ours(cluster, kind, there.metadata()) => {
            Holder::Us(there.metadata().uid.clone())
        }
        Some(there) => Holder::Stranger(Box::new(there)),
    })
}

/// The object of this kind and name as the watches show it, whichever ring's it is.
pub fn watched(ctx: &Context, namespace: &str, kind: Kind, name: &str) -> Option<Object> {
    let world = &ctx.world;
    Some(match kind {
        Kind::StatefulSet => {
            Object::StatefulSet(world.stateful_sets.get(namespace, name)?.as_ref().clone())
        }
        Kind::Service => Object::Service(world.services.get(namespace, name)?.as_ref().clone()),
        Kind::ConfigMap => {
            Object::ConfigMap(world.config_maps.get(namespace, name)?.as_ref().clone())
        }
        Kind::PodDisruptionBudget => {
            Object::PodDisruptionBudget(world.budgets.get(namespace, name)?.as_ref().clone())
        }
        Kind::PersistentVolumeClaim => {
            Object::PersistentVolumeClaim(world.claims.get(namespace, name)?.as_ref().clone())
        }
        Kind::Pod | Kind::Secret | Kind::DynomiteBackup | Kind::DynomiteRestore => return None,
    })
}

/// The object of this kind and name as the API server has it.
async fn look_up(
    ctx: &Context,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Result<Option<Object>, kube::Error> {
    async fn get<K>(ctx: &Context, namespace: &str, name: &str) -> Result<Option<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
        api.get_opt(name).await
    }
    Ok(match kind {
        Kind::StatefulSet => get::<StatefulSet>(ctx, namespace, name)
            .await?
            .map(Object::StatefulSet),
        Kind::Service => get::<Service>(ctx, namespace, name)
            .await?
            .map(Object::Service),
        Kind::ConfigMap => get::<ConfigMap>(ctx, namespace, name)
            .await?
            .map(Object::ConfigMap),
        Kind::PodDisruptionBudget => get::<PodDisruptionBudget>(ctx, namespace, name)
            .await?
            .map(Object::PodDisruptionBudget),
        Kind::PersistentVolumeClaim
        | Kind::Pod
        | Kind::Secret
        | Kind::DynomiteBackup
        | Kind::DynomiteRestore => None,
    })
}

/// Adds what lies on the cluster's names and is not its own: of other rings, as
/// the watches show it; without our label, as it was last looked up.
pub async fn add_strangers(
    ctx: &Context,
    memory: &mut Memory,
    cluster: &Cluster,
    observed: &mut Observed,
    now: Instant,
) {
    let namespace = cluster.id.namespace.as_str();
    for name in cluster.object_names() {
        for kind in NAMED {
            let there = watched(ctx, namespace, kind, &name);
            if let Some(there) = there.filter(|o| !is_ours(cluster, kind, o.metadata())) {
                show(observed, there);
            }
        }
    }
    add_foreign_claims(ctx, cluster, observed);
    look_again(ctx, memory, namespace, now).await;
    for (_, object) in memory.strangers.values() {
        show(observed, object.clone());
    }
}

/// Claims that other rings have left under names that nodes of this one would use.
fn add_foreign_claims(ctx: &Context, cluster: &Cluster, observed: &mut Observed) {
    if !cluster.has_volumes() {
        return;
    }
    for rack in &cluster.racks {
        for ordinal in 0..cluster.tokens.len() {
            let name = Cluster::claim_name(&cluster.node_name(&rack.name, ordinal));
            let claim = ctx.world.claims.get(&cluster.id.namespace, &name);
            if let Some(claim) = claim.filter(|c| other_ring(cluster, &c.metadata).is_some()) {
                observed.foreign_claims.insert(name, claim.as_ref().clone());
            }
        }
    }
}

/// Looks again at what was on our names a while ago. One that cannot be read
/// is taken to be there still.
async fn look_again(ctx: &Context, memory: &mut Memory, namespace: &str, now: Instant) {
    let due: Vec<(Kind, String)> = memory
        .strangers
        .iter()
        .filter(|(_, (at, _))| now.duration_since(*at) >= STRANGERS)
        .map(|(key, _)| key.clone())
        .collect();
    for (kind, name) in due {
        match look_up(ctx, namespace, kind, &name).await {
            Ok(Some(there)) => drop(memory.strangers.insert((kind, name), (now, there))),
            Ok(None) => drop(memory.strangers.remove(&(kind, name))),
            Err(error) => ctx.metrics.call_failed("observe", &describe(&error).reason),
        }
    }
}

fn show(observed: &mut Observed, object: Object) {
    let name = object.name().to_owned();
    match object {
        Object::StatefulSet(o) => {
            observed.stateful_sets.entry(name).or_insert(o);
        }
        Object::Service(o) => {
            observed.services.entry(name).or_insert(o);
        }
        Object::ConfigMap(o) => {
            observed.config_maps.entry(name).or_insert(o);
        }
        Object::PodDisruptionBudget(o) => {
            observed.pod_disruption_budgets.entry(name).or_insert(o);
        }
        // Those of other rings have a place of their own.
        Object::PersistentVolumeClaim(_) => {}
    }
}
