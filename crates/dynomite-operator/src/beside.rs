//! Writes of resources that stand beside a cluster, each exactly of the one that was seen: status and finalizer.

use std::fmt::Debug;
use std::time::Duration;

use dynomite_api::annotations::FIELD_MANAGER;
use dynomite_planner::AsSeen;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::apply::Error;
use crate::context::Context;
use crate::failure::{is_conflict, is_not_found};
use crate::index::{ClusterKey, Index};
use crate::world::World;

/// When a write for a cluster that is gone is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A watched resource with a finalizer of ours.
pub trait Beside:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The finalizer.
    const FINALIZER: &'static str;

    /// Where those that were seen are kept.
    fn index(world: &World) -> &Index<Self>;

    /// The name of its cluster.
    fn cluster(&self) -> &str;
}

/// The API of a kind in a namespace.
pub(crate) fn api<K: Beside>(ctx: &Context, namespace: &str) -> Api<K> {
    Api::namespaced(ctx.client.clone(), namespace)
}

/// Keeps what the API server gave back.
pub(crate) fn absorb<K: Beside>(ctx: &Context, mut written: K) {
    written.meta_mut().managed_fields = None;
    K::index(&ctx.world).absorb(written);
}

/// Makes one. One of this name that is of the same cluster is as good.
///
/// # Errors
/// [`Error::Taken`] when it is of another cluster, and what the API server says.
pub async fn make<K: Beside>(ctx: &Context, wanted: &K) -> Result<(), Error> {
    ctx.leadership.check()?;
    let api = api::<K>(ctx, &wanted.namespace().unwrap_or_default());
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, wanted).await {
        Ok(made) => {
            absorb(ctx, made);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let name = wanted.name_any();
            let there = api.get(&name).await?;
            if there.cluster() != wanted.cluster() {
                let (kind, of) = (K::kind(&()), there.cluster());
                return Err(Error::Taken(format!(
                    "{kind} {name} is of cluster {of}: delete it when it has ended and nobody \
                     needs it, or choose another name"
                )));
            }
            absorb(ctx, there);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes a status; the orders of the next pass rest on it. It was decided from what
/// was seen, so it is written on nothing else: the next look decides anew.
///
/// # Errors
/// [`Error::Outdated`] when it has changed meanwhile, and what the API server says.
pub async fn write<K: Beside>(
    ctx: &Context,
    namespace: &str,
    seen: &AsSeen,
    status: &impl Serialize,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let name = &seen.name;
    let change = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "uid": seen.uid, "resourceVersion": seen.version},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&change);
    match api::<K>(ctx, namespace)
        .patch_status(name, &parameters, &patch)
        .await
    {
        Ok(written) => {
            absorb(ctx, written);
            Ok(())
        }
        Err(error) if is_not_found(&error) || is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Sets or removes the finalizer of the one that was seen with this UID.
///
/// # Errors
/// [`Error::Outdated`] when it is another one by now, and what the API server says.
pub async fn set_finalizer<K: Beside>(
    ctx: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    present: bool,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let held = K::index(&ctx.world).get(namespace, name);
    let Some(held) = held.filter(|held| held.uid().as_deref() == Some(uid)) else {
        return Err(Error::Outdated);
    };
    let written = finalize(&api::<K>(ctx, namespace), &*held, K::FINALIZER, present).await?;
    if let Some(written) = written {
        absorb(ctx, written);
    }
    Ok(())
}

/// Sets or removes a finalizer of an object as it was seen; gives it back while it is still there.
///
/// # Errors
/// [`Error::Outdated`] when it has changed, and what the API server says.
pub(crate) async fn finalize<K>(
    api: &Api<K>,
    seen: &K,
    finalizer: &str,
    present: bool,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers: Vec<String> = seen.finalizers().to_vec();
    finalizers.retain(|name| name != finalizer);
    if present {
        finalizers.push(finalizer.to_owned());
    }
    // The list is replaced as a whole: the version makes sure that no one
    // else's entry is lost.
    let change = json!({"metadata": {
        "resourceVersion": seen.resource_version(),
        "finalizers": finalizers,
    }});
    let parameters = PatchParams::default();
    match api
        .patch(&seen.name_any(), &parameters, &Patch::Merge(&change))
        .await
    {
        Ok(written) => {
            let stays = written.meta().deletion_timestamp.is_none() || present;
            Ok(stays.then_some(written))
        }
        Err(error) if is_not_found(&error) && !present => Ok(None),
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Lets those go whose cluster is gone: nothing more can be done for them, and they
/// must not hold up their namespace.
pub async fn let_go<K: Beside>(ctx: &Context, cluster: &ClusterKey) {
    if ctx.leadership.check().is_err() {
        return;
    }
    for held in K::index(&ctx.world).of_cluster(cluster) {
        let ours = held.finalizers().iter().any(|name| name == K::FINALIZER);
        if held.meta().deletion_timestamp.is_none() || !ours {
            continue;
        }
        let (name, uid) = (held.name_any(), held.uid().unwrap_or_default());
        let done = set_finalizer::<K>(ctx, &cluster.namespace, &name, &uid, false).await;
        if let Err(error) = done {
            tracing::warn!(%cluster, kind = %K::kind(&()), name, %error, "could not let it go");
            tokio::time::sleep(AGAIN).await;
            ctx.world.triggers.push(cluster.clone());
        }
    }
}
