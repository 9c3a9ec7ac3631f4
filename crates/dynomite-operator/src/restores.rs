//! Writes of `DynomiteRestore`s: status and finalizer, each exactly of the one that was seen.

use std::time::Duration;

use dynomite_api::annotations::FIELD_MANAGER;
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RESTORE_FINALIZER};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::apply::Error;
use crate::context::Context;
use crate::failure::{is_conflict, is_not_found};
use crate::index::ClusterKey;

/// When a write for a cluster that is gone is tried again.
const AGAIN: Duration = Duration::from_secs(5);

fn api(ctx: &Context, namespace: &str) -> Api<DynomiteRestore> {
    Api::namespaced(ctx.client.clone(), namespace)
}

/// Makes a restore; one of its name that is there already is as good.
pub async fn make(ctx: &Context, restore: &DynomiteRestore) -> Result<(), Error> {
    ctx.leadership.check()?;
    let namespace = restore.namespace().unwrap_or_default();
    let parameters = PostParams::default();
    match api(ctx, &namespace).create(&parameters, restore).await {
        Ok(written) => {
            absorb(ctx, written);
            Ok(())
        }
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes a status; the orders of the next pass rest on it.
pub async fn write(
    ctx: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    status: &DynomiteRestoreStatus,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let change = json!({
        "apiVersion": DynomiteRestore::api_version(&()),
        "kind": DynomiteRestore::kind(&()),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&change);
    match api(ctx, namespace)
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

/// Sets or removes the finalizer.
pub async fn set_finalizer(
    ctx: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    present: bool,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let held = ctx.world.restores.get(namespace, name);
    let Some(held) = held.filter(|held| held.uid().as_deref() == Some(uid)) else {
        return Err(Error::Outdated);
    };
    let mut finalizers: Vec<String> = held.finalizers().to_vec();
    finalizers.retain(|name| name != RESTORE_FINALIZER);
    if present {
        finalizers.push(RESTORE_FINALIZER.to_owned());
    }
    // The list is replaced as a whole: the version makes sure that no one
    // else's entry is lost.
    let change = json!({"metadata": {
        "resourceVersion": held.resource_version(),
        "finalizers": finalizers,
    }});
    let patch = Patch::Merge(&change);
    match api(ctx, namespace)
        .patch(name, &PatchParams::default(), &patch)
        .await
    {
        Ok(written) => {
            if written.meta().deletion_timestamp.is_none() || present {
                absorb(ctx, written);
            }
            Ok(())
        }
        Err(error) if is_not_found(&error) && !present => Ok(()),
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Lets restores go whose cluster is gone: there is nothing left that they could
/// leave half done, and they must not hold up their namespace.
pub async fn let_go(ctx: &Context, cluster: &ClusterKey) {
    if ctx.leadership.check().is_err() {
        return;
    }
    for restore in ctx.world.restores.of_cluster(cluster) {
        let ours = restore.finalizers().iter().any(|f| f == RESTORE_FINALIZER);
        if restore.metadata.deletion_timestamp.is_none() || !ours {
            continue;
        }
        let (name, uid) = (restore.name_any(), restore.uid().unwrap_or_default());
        let done = set_finalizer(ctx, &cluster.namespace, &name, &uid, false).await;
        if let Err(error) = done {
            tracing::warn!(%cluster, restore = %name, %error, "could not let a restore go");
            tokio::time::sleep(AGAIN).await;
            ctx.world.triggers.push(cluster.clone());
        }
    }
}

fn absorb(ctx: &Context, mut written: DynomiteRestore) {
    written.meta_mut().managed_fields = None;
    ctx.world.restores.absorb(written);
}
