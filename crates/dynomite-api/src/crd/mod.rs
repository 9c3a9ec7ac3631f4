//! The custom resources people write: `DynomiteCluster`.

// These comments are what `kubectl explain` prints, where backticks would be noise.
#![allow(clippy::doc_markdown)]

mod cluster;
mod condition;
mod definition;
mod status;
mod volume;

pub use cluster::{
    ConsistencySpec, DynomiteCluster, DynomiteClusterSpec, EngineSpec, HealthSpec, PodSpec,
    RackSpec, RemoteDatacenter, StoreSpec, WarmUpSpec,
};
pub use condition::{ConditionType, condition, set_condition};
pub use definition::definition;
pub use status::{
    ClusterPhase, DynomiteClusterStatus, FindingStatus, NodeStatus, PlanStatus, RackStatus,
    TokenStatus, WarmUpStatus,
};
pub use volume::{Retention, StorageMedium, StorageSpec};

/// The group of all custom resources of this project.
pub const GROUP: &str = "dynomite.io";

/// The longest `<cluster>-<rack>`: a `StatefulSet` puts a hash of up to eleven
/// characters behind it in a label, and labels end at 63.
pub const MAX_STATEFULSET_NAME: usize = 52;
