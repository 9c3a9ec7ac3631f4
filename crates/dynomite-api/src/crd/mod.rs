//! The custom resources people write: `DynomiteCluster`, `DynomiteBackup`, `DynomiteRestore`.

// These comments are what `kubectl explain` prints, where backticks would be noise.
#![allow(clippy::doc_markdown)]
// The columns of a definition are attributes of one name, each with its own words.
#![allow(clippy::duplicated_attributes)]

mod backup;
mod backup_spec;
mod cluster;
mod condition;
mod definition;
mod refresh;
mod restore;
mod status;
mod volume;

pub use backup::{
    BackupDeletionPolicy, BackupPhase, BackupTokenPhase, BackupTokenStatus, BackupVerification,
    DynomiteBackup, DynomiteBackupSpec, DynomiteBackupStatus, VerificationPhase,
};
pub use backup_spec::{
    AzureStore, BackupCompression, BackupEncryption, BackupRetention, BackupSchedule, BackupSpec,
    BackupStore, BackupVerify, BootstrapRestore, BootstrapSpec, GoogleStore, LocalStore, S3Store,
};
pub use cluster::{
    CompareSpec, ConsistencySpec, DynomiteCluster, DynomiteClusterSpec, EngineSpec, HealthSpec,
    PodSpec, RackSpec, RemoteDatacenter, StoreSpec, WarmUpSpec,
};
pub use condition::{
    CONDITION_COMPLETED, CONDITION_FAILED, CONDITION_VERIFIED, ConditionType, condition,
    set_condition, set_outcome, set_verified,
};
pub use definition::{definition, definitions};
pub use refresh::{RefreshSpec, RefreshStatus};
pub use restore::{
    DynomiteRestore, DynomiteRestoreSpec, DynomiteRestoreStatus, ManagerBackup, RESTORE_FINALIZER,
    RestoreFileStatus, RestoreFrom, RestoreNodeStatus, RestorePhase, RestoreTokenStatus,
    SourceCluster,
};
pub use status::{
    ClusterBackupStatus, ClusterPhase, DynomiteClusterStatus, FindingStatus, NodeStatus,
    PlanStatus, RackStatus, RemoteDatacenterStatus, RemoteNodeStatus, ScheduleStatus, TokenStatus,
    WarmUpStatus,
};
pub use volume::{Retention, StorageMedium, StorageSpec};

/// The group of all custom resources of this project.
pub const GROUP: &str = "dynomite.io";

/// The longest `<cluster>-<rack>`: a `StatefulSet` puts a hash of up to eleven
/// characters behind it in a label, and labels end at 63.
pub const MAX_STATEFULSET_NAME: usize = 52;
