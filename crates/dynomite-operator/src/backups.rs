//! `DynomiteBackup`s: where they are kept, and how one is made.

use dynomite_api::annotations::{BACKUP_FINALIZER, FIELD_MANAGER};
use dynomite_api::crd::DynomiteBackup;
use kube::ResourceExt;
use kube::api::PostParams;

use crate::apply::Error;
use crate::beside::{Beside, absorb, api};
use crate::context::Context;
use crate::index::Index;
use crate::world::World;

impl Beside for DynomiteBackup {
    const FINALIZER: &'static str = BACKUP_FINALIZER;

    fn index(world: &World) -> &Index<Self> {
        &world.backups
    }
}

/// Makes a backup. One of this name that is of the same cluster is as good.
pub async fn make(ctx: &Context, backup: &DynomiteBackup) -> Result<(), Error> {
    ctx.leadership.check()?;
    let namespace = backup.namespace().unwrap_or_default();
    let api = api::<DynomiteBackup>(ctx, &namespace);
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
