//! `DynomiteBackup`s: where they are kept.

use dynomite_api::annotations::BACKUP_FINALIZER;
use dynomite_api::crd::DynomiteBackup;

use crate::beside::Beside;
use crate::index::Index;
use crate::world::World;

impl Beside for DynomiteBackup {
    const FINALIZER: &'static str = BACKUP_FINALIZER;

    fn index(world: &World) -> &Index<Self> {
        &world.backups
    }

    fn cluster(&self) -> &str {
        &self.spec.cluster
    }
}
