//! Writes of `DynomiteBackup`s: status and finalizer, each exactly of the one that was seen.

use std::time::Duration;

use dynomite_api::annotations::{BACKUP_FINALIZER, FIELD_MANAGER};
use dynomite_api::crd::{DynomiteBackup, DynomiteBackupStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::apply::Error;
use crate::context::Context;
use crate::failure::{is_conflict, is_not_found};
use crate::index::ClusterKey;

/// When a write for a cluster that is gone is tried again.
const AGAIN: Duration = Duration::from_secs(5);

fn api(ctx: &Context, namespace: &str) -> Api<DynomiteBackup> {
    Api::namespaced(ctx.client.clone(), namespace)
}

/// Writes a status; the orders of the next pass rest on it.
pub async fn write(
    ctx: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    status: &DynomiteBackupStatus,
) -> Result<(), Error> {
    ctx.leadership.check()?;
    let change = json!({
        "apiVersion": DynomiteBackup::api_version(&()),
        "kind": DynomiteBackup::kind(&()),
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

/// Makes a backup. One of this name that is of the same cluster is as good.
pub async fn make(ctx: &Context, backup: &DynomiteBackup) -> Result<(), Error> {
    ctx.leadership.check()?;
    let namespace = backup.namespace().unwrap_or_default();
    let api = api(ctx, &namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, backup).await {
        Ok(made) => {
            absorb(ctx, made);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let there = api.get(&backup.name_any()).await?;
            if there.spec.cluster != backup.spec.cluster {
                let name = backup.name_any();
                let of = &there.spec.cluster;
                return Err(Error::Refused(format!(
                    "DynomiteBackup {name} is of cluster {of}: choose another name"
                )));
            }
            absorb(ctx, there);
            Ok(())
        }
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
    let held = ctx.world.backups.get(namespace, name);
    let Some(held) = held.filter(|held| held.uid().as_deref() == Some(uid)) else {
        return Err(Error::Outdated);
    };
    let mut finalizers: Vec<String> = held.finalizers().to_vec();
    finalizers.retain(|name| name != BACKUP_FINALIZER);
    if present {
        finalizers.push(BACKUP_FINALIZER.to_owned());
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

/// Lets backups go whose cluster is gone: nobody can reach their stores any
/// more, and they must not hold up their namespace.
pub async fn let_go(ctx: &Context, cluster: &ClusterKey) {
    if ctx.leadership.check().is_err() {
        return;
    }
    for backup in ctx.world.backups.of_cluster(cluster) {
        let ours = backup.finalizers().iter().any(|f| f == BACKUP_FINALIZER);
        if backup.metadata.deletion_timestamp.is_none() || !ours {
            continue;
        }
        let (name, uid) = (backup.name_any(), backup.uid().unwrap_or_default());
        let done = set_finalizer(ctx, &cluster.namespace, &name, &uid, false).await;
        if let Err(error) = done {
            tracing::warn!(%cluster, backup = %name, %error, "could not let a backup go");
            tokio::time::sleep(AGAIN).await;
            ctx.world.triggers.push(cluster.clone());
        }
    }
}

fn absorb(ctx: &Context, mut written: DynomiteBackup) {
    written.meta_mut().managed_fields = None;
    ctx.world.backups.absorb(written);
}
