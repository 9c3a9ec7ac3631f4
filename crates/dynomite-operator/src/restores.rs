//! `DynomiteRestore`s: where they are kept.

use dynomite_api::crd::{DynomiteRestore, RESTORE_FINALIZER};

use crate::beside::Beside;
use crate::index::Index;
use crate::world::World;

impl Beside for DynomiteRestore {
    const FINALIZER: &'static str = RESTORE_FINALIZER;

    fn index(world: &World) -> &Index<Self> {
        &world.restores
    }

    fn cluster(&self) -> &str {
        &self.spec.cluster
    }
}
