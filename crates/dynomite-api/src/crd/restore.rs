//! The `DynomiteRestore`: a backup, or a file of any Redis, put in place of a ring's data.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Token;

/// The finalizer that keeps a restore from being forgotten half-way.
pub const RESTORE_FINALIZER: &str = "dynomite.io/restore";

/// Puts the data of a backup in place of a ring's data. Everything is read and
/// verified before anything is touched; if a node cannot load it, the ring goes
/// back to the data it had.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "dynomite.io",
    version = "v1alpha1",
    kind = "DynomiteRestore",
    plural = "dynomiterestores",
    singular = "dynomiterestore",
    shortname = "dynr",
    category = "dynomite",
    category = "databases",
    namespaced,
    status = "DynomiteRestoreStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A restore of a DynomiteCluster. A ring has one at a time; clients are not served while the data is exchanged.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Tokens", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completedAt"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Backup",
        type_ = "string",
        json_path = ".status.backup",
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
    validation = Rule::new("self.from == oldSelf.from").message("from cannot be changed: create another DynomiteRestore"),
    validation = Rule::new("has(self.store) == has(oldSelf.store) && (!has(self.store) || self.store == oldSelf.store)").message("store cannot be changed: create another DynomiteRestore"),
    validation = Rule::new("has(self.sourceCluster) == has(oldSelf.sourceCluster) && (!has(self.sourceCluster) || self.sourceCluster == oldSelf.sourceCluster)").message("sourceCluster cannot be changed: create another DynomiteRestore"),
    validation = Rule::new("self.tokens == oldSelf.tokens && self.nodes == oldSelf.nodes").message("tokens and nodes cannot be changed: create another DynomiteRestore"),
    validation = Rule::new("size(self.tokens) == 0 || size(self.nodes) == 0").message("give tokens or nodes, not both: a node stands for its token"),
    validation = Rule::new("!oldSelf.abort || self.abort").message("abort cannot be taken back: create another DynomiteRestore")
)]
pub struct DynomiteRestoreSpec {
    /// The DynomiteCluster that gets the data, in the same namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("cluster cannot be changed: create another DynomiteRestore for the other cluster"))]
    pub cluster: String,
    /// Where the data lies, a name in the cluster's spec.backup.stores. Absent:
    /// the store of the DynomiteBackup that is named, else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub store: Option<String>,
    /// What to restore.
    pub from: RestoreFrom,
    /// The cluster that the backup is of. Absent: the one that gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster: Option<SourceCluster>,
    /// Only the data of these tokens: their nodes, of all racks, exchange it, and
    /// all others serve on. Empty: of all.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub tokens: Vec<Token>,
    /// Only the data of these nodes, named as their pods. A node stands for its
    /// token: the nodes of the same token in the other racks get it too, because
    /// replicas hold the same. Empty: of all.
    #[serde(default)]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub nodes: Vec<String>,
    /// true gives it up. Once the new data is being loaded, the ring goes back
    /// to the data it had; a restore that is completed stays.
    #[serde(default)]
    pub abort: bool,
}

/// What to restore: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.backup), has(self.id), has(self.latest), has(self.asOf), has(self.file), has(self.files), has(self.manager)].filter(x, x).size() == 1").message("from must have exactly one of backup, id, latest, asOf, file, files and manager"),
    validation = Rule::new("!has(self.latest) || self.latest").message("from.latest is true or absent")
)]
pub struct RestoreFrom {
    /// A DynomiteBackup of this namespace, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup: Option<String>,
    /// A backup in the store, by the name of its directory or by the name it was
    /// given, also where no DynomiteBackup is left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub id: Option<String>,
    /// true restores the newest good backup in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// The newest good backup that holds nothing written after this time, as in
    /// 2026-11-20T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// A file that any Redis or Valkey has saved (dump.rdb), by its whole key in
    /// the bucket; the store's prefix does not go before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
    /// Several such files, of the shards of a Redis Cluster or of several stores
    /// that share no key. What two of them have is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        inner(length(min = 1, max = 1024)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub files: Option<Vec<String>>,
    /// RDB files of Dynomite-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerBackup>,
}

/// Files as Dynomite-manager stored them: base/datacenter/rack/token/midnight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagerBackup {
    /// What their keys begin with: its setting backup.s3.base_dir, which was
    /// backup by default.
    #[serde(default = "default_base")]
    #[schemars(length(min = 1, max = 512))]
    pub base: String,
    /// The day, as in 2026-11-20, in the time zone of the old machines. Absent:
    /// the newest file of each token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub date: Option<String>,
    /// The datacenter that they are of. Absent: the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub datacenter: Option<String>,
    /// The rack that they are of. Absent: of each token the file of any rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rack: Option<String>,
    /// The tokens that the old ring had. Empty: every token that has files there;
    /// each of them must have one of the day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub tokens: Vec<Token>,
}

/// The cluster that a backup is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceCluster {
    /// Its namespace. Absent: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its UID, where several clusters have had that name. Absent: any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub uid: Option<String>,
}

/// What has become of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DynomiteRestoreStatus {
    /// Where it is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// One word for why it is there, CamelCase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people, with what they can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The UID of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_uid: String,
    /// The store, a name in the cluster's spec.backup.stores.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store: String,
    /// What is restored: the name of the backup's directory, or a key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backup: String,
    /// What the keys of its objects begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// The files that are restored, where no manifest speaks of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key"]))]
    pub files: Vec<RestoreFileStatus>,
    /// The time of the data: nothing written later is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Since when clients were not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<Time>,
    /// When the new data was in place on one node of each token: from then on
    /// there is no way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Time>,
    /// When it ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Tokens whose data is in place of all tokens, such as 2/3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Each token and how far it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["token"]))]
    pub tokens: Vec<RestoreTokenStatus>,
    /// The proofs of the nodes' data from before the new data was loaded: by them
    /// old data is told from new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub nodes: Vec<RestoreNodeStatus>,
    /// Completed and Failed, in the form that kubectl wait understands. One of
    /// them becomes True in the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a restore is in its life.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RestorePhase {
    /// It has not begun; the reason says for what it waits.
    Pending,
    /// The backup is looked for, and compared with the ring.
    Checking,
    /// Nodes download and verify it, and serve on.
    Staging,
    /// Clients are not served any more; the ring comes to rest.
    Holding,
    /// One node of each token loads it.
    Loading,
    /// It is in place; the nodes of the other racks copy it.
    Leveling,
    /// It is given up, and the nodes that have the new data go back to the old.
    RollingBack,
    /// It is done.
    Completed,
    /// It could not be done, and nothing was changed.
    Failed,
    /// It was given up by a person before anything was changed.
    Aborted,
    /// A node could not load it, or a person gave it up, and the ring has the
    /// data that it had before.
    RolledBack,
}

impl RestorePhase {
    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Aborted | Self::RolledBack
        )
    }
}

/// One token of a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTokenStatus {
    /// The token.
    pub token: Token,
    /// What its node does: Waiting, Downloading, Staged, Saving, Loading, Loaded,
    /// Lost (after it was loaded), Reverted or Failed.
    pub state: String,
    /// The node that loads it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The UID of its pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// Which attempt to load, counted from 0.
    #[serde(default)]
    pub attempt: u32,
    /// How many attempts have failed.
    #[serde(default)]
    pub failures: u32,
    /// When the next attempt may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Bytes done of what it does.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of that, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Keys that were loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Why it waits or failed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What its nodes load, as they are told it: JSON, for the operator. It is
    /// written once, so that a store that is away keeps no ring held.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub load: String,
}

/// A file that no manifest speaks of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFileStatus {
    /// Its whole key.
    pub key: String,
    /// The token of the old ring that it is of, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Its bytes.
    pub bytes: u64,
    /// Its format, as REDIS0009.
    pub rdb: String,
    /// When its store began to save it, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_at: Option<Time>,
    /// Memory that its store used, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// A node's data before a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreNodeStatus {
    /// The node.
    pub node: String,
    /// The UID of its pod.
    pub pod_uid: String,
    /// Since when its data was proven, as the node itself writes it: times of
    /// resources have whole seconds only, and no two proofs may look alike.
    pub proof_since: String,
}

fn default_base() -> String {
    "backup".into()
}
