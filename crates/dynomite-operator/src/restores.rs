//! `DynomiteRestore`s: where they are kept, and how one is made.

use dynomite_api::crd::{DynomiteRestore, RESTORE_FINALIZER};
use kube::ResourceExt;
use kube::api::PostParams;

use crate::apply::Error;
use crate::beside::{Beside, absorb, api};
use crate::context::Context;
use crate::failure::is_conflict;
use crate::index::Index;
use crate::world::World;

impl Beside for DynomiteRestore {
    const FINALIZER: &'static str = RESTORE_FINALIZER;

    fn index(world: &World) -> &Index<Self> {
        &world.restores
    }
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
