//! The `DynomiteBackup`: one backup of one ring, asked for, under way or there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Token;

/// A backup of a ring: one snapshot of each token, and a manifest, which is
/// written last. It can be restored once its condition Completed is True.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "dynomite.io",
    version = "v1alpha1",
    kind = "DynomiteBackup",
    plural = "dynomitebackups",
    singular = "dynomitebackup",
    shortname = "dynb",
    category = "dynomite",
    category = "databases",
    namespaced,
    status = "DynomiteBackupStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A backup of a DynomiteCluster in object storage. Creating it takes the backup, deleting it cancels it while it runs.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Tokens", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Stored", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completedAt"),
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.verifiedAt"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Store",
        type_ = "string",
        json_path = ".status.store",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.store) == has(oldSelf.store) && (!has(self.store) || self.store == oldSelf.store)").message("store cannot be changed: create another DynomiteBackup for the other store"),
    validation = Rule::new("has(self.directory) == has(oldSelf.directory) && (!has(self.directory) || self.directory == oldSelf.directory)").message("directory cannot be changed: create another DynomiteBackup"),
    validation = Rule::new("!has(self.directory) || self.deletionPolicy == 'Retain'").message("deletionPolicy must be Retain where directory is given: what this cluster has not taken is not deleted with its object")
)]
pub struct DynomiteBackupSpec {
    /// The DynomiteCluster to back up, in the same namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("cluster cannot be changed: create another DynomiteBackup for the other cluster"))]
    pub cluster: String,
    /// Where to, a name in the cluster's spec.backup.stores. Absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub store: Option<String>,
    /// A backup that lies in the store already, by what the keys of its objects
    /// begin with, as in
    /// dynomite/shop/ring/0d3f8a6e-1f0b-4c55-9d9e-0a5a3a1c2b3d/20261120T000000Z-00c0ffee00c0ffee-nightly/.
    /// Nothing is taken: the object shows that one, and deletes nothing of it.
    /// Absent: a backup is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$")
    )]
    pub directory: Option<String>,
    /// What becomes of the backup in the store when this object is deleted:
    /// Retain keeps it, Delete deletes it, its manifest first.
    #[serde(default)]
    pub deletion_policy: BackupDeletionPolicy,
    /// true keeps it from the cluster's retention: it stays until a person
    /// deletes it.
    #[serde(default)]
    pub keep: bool,
    /// true loads it into a scratch store to prove it, false does not. Absent: as
    /// the cluster's spec.backup.verify says. May be set at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

/// What becomes of a backup in its store when its object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupDeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes, its manifest first.
    Delete,
}

/// What has become of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DynomiteBackupStatus {
    /// Where it is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// One word for why it is there, CamelCase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people, with what they can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The UID of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_uid: String,
    /// The name of its directory in the store. It is chosen once, before
    /// anything is written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The store, a name in the cluster's spec.backup.stores.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store: String,
    /// Which state of the store's Secret its orders name; it tells nothing of
    /// what is in there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub credentials: String,
    /// What the keys of its objects begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// Where it lies, as a URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// When it began: what was written later may not be in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its manifest was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// When it was loaded into a store to prove it, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
    /// How far that is, while it goes on, or what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<BackupVerification>,
    /// Tokens that are done of all tokens, such as 2/3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Bytes of data, as the stores wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes in the store, after compression and encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// The same for people, such as 1.5Gi.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub size: String,
    /// Keys of all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// SHA-256 of the manifest, which holds the digests of all objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest_digest: String,
    /// Whether objects of attempts that were given up are still to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaning: bool,
    /// Whether the retention that follows a completed backup is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retention_done: bool,
    /// Each token and how far it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["token"]))]
    pub tokens: Vec<BackupTokenStatus>,
    /// Completed and Failed, in the form that kubectl wait understands. One of
    /// them becomes True in the end. Verified is there once it is to be loaded to
    /// prove it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How a backup is loaded to prove it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVerification {
    /// Where it is.
    pub phase: VerificationPhase,
    /// One word for why it is there, CamelCase; empty when it goes well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it began.
    pub started_at: Time,
    /// When a token was loaded last, or it began.
    pub updated_at: Time,
    /// Since when the scratch store is not there, or what opens the backup is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The tokens whose snapshots were loaded and are right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub tokens: Vec<Token>,
    /// Keys that the scratch store had, of all those tokens.
    #[serde(default)]
    pub keys: u64,
}

/// Where the verification of a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationPhase {
    /// A scratch store loads one token after the other.
    Running,
    /// A store has loaded all of it.
    Verified,
    /// It cannot be restored as it is, or that could not be found out; the reason says.
    Failed,
}

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupPhase {
    /// It has not begun; the reason says for what it waits.
    Pending,
    /// Nodes take snapshots and upload them.
    Running,
    /// All tokens are done, and the manifest is being written.
    Writing,
    /// It can be restored.
    Completed,
    /// It cannot; the reason says why.
    Failed,
}

impl BackupPhase {
    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// The snapshot of one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTokenStatus {
    /// The token.
    pub token: Token,
    /// Where it is.
    pub phase: BackupTokenPhase,
    /// One word for why it is there, CamelCase; empty when it goes well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The node that takes it, or has taken it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The UID of its pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// Which attempt, counted from 0; each has an object of its own.
    #[serde(default)]
    pub attempt: u32,
    /// How many attempts have failed.
    #[serde(default)]
    pub failures: u32,
    /// When the next attempt may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// When this attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// When the numbers below were true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Time>,
    /// Since when the node has not been heard of it, or no node could take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard_since: Option<Time>,
    /// Bytes of data read so far.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes stored so far.
    #[serde(default)]
    pub stored_bytes: u64,
    /// How fast it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Its entry of the manifest, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("type" = "object", "x-kubernetes-preserve-unknown-fields" = true))]
    pub entry: Option<serde_json::Value>,
}

/// Where the snapshot of a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupTokenPhase {
    /// No node has been asked yet, or the next attempt waits.
    Waiting,
    /// A node takes and uploads it.
    Running,
    /// Its object is complete and was verified.
    Done,
    /// It was given up.
    Failed,
}
