//! Where backups of a cluster go, when they are taken and how long they are kept.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::restore::RestoreFrom;
use crate::contract::SnapshotSource;

/// Backups of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.schedules.all(s, !has(s.store) || self.stores.exists(p, p.name == s.store))").message("backup.schedules[].store names no store: add it to backup.stores, or leave it out for the first one"),
    validation = Rule::new("!has(self.bandwidthLimit) || (isQuantity(string(self.bandwidthLimit)) && quantity(string(self.bandwidthLimit)).compareTo(quantity('64Ki')) >= 0)").message("backup.bandwidthLimit is bytes per second, at least 64Ki, such as 50Mi: a slower copy would not end before the next one begins")
)]
pub struct BackupSpec {
    /// Places for backups. The first is used where none is named. Several with
    /// different vendors keep copies apart: give each a schedule of its own.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stores: Vec<BackupStore>,
    /// When backups are taken by themselves.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<BackupSchedule>,
    /// How long backups are kept. Absent: for ever. The newest good backup of a
    /// store is never deleted, whatever the rules say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<BackupRetention>,
    /// Loads backups into a scratch store, a pod of its own that is deleted
    /// afterwards, and compares what the store has then with the manifest. Absent:
    /// only those whose own spec.verify is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<BackupVerify>,
    /// At most so many bytes per second leave each node that takes a snapshot,
    /// such as 50Mi. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Quantity>,
    /// How many nodes of the ring may take a snapshot at the same time.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 128))]
    pub parallelism: u32,
    /// The rack whose nodes are asked first. When one of them cannot, a node of
    /// the same token in another rack takes its place. Absent: the last rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    pub preferred_rack: Option<String>,
    /// How snapshots are compressed.
    #[serde(default)]
    pub compression: BackupCompression,
    /// Encrypts snapshots before they leave the node. Absent: they are stored
    /// as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// Where a node takes its data from: Replication is the stream that a replica
    /// would get, which needs no disk; File is a file that the store saves, for
    /// slow storage, because nothing waits for its upload then.
    #[serde(default)]
    pub source: SnapshotSource,
    /// The ServiceAccount of the ring's pods, for clouds that give pods an
    /// identity by it. The pods get no token for the Kubernetes API. Absent: the
    /// default one of the namespace. A change replaces the pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub service_account_name: Option<String>,
}

/// A place for backups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.s3), has(self.google), has(self.azure), has(self.local)].filter(x, x).size() == 1").message("backup.stores[] must have exactly one of s3, google, azure and local")
)]
pub struct BackupStore {
    /// Its name, by which backups and restores choose it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// What the names of all objects begin with, as in team/backups. Several
    /// rings may share a bucket and a prefix.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(
            pattern = r"^$|^[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"
        )
    )]
    pub prefix: String,
    /// Amazon S3, or a service that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub google: Option<GoogleStore>,
    /// Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStore>,
    /// A directory of a volume that all pods of the ring mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalStore>,
    /// The Secret of the cluster's namespace that opens the store. Its entries:
    /// for s3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps
    /// AWS_SESSION_TOKEN; for google GOOGLE_SERVICE_ACCOUNT_KEY (the JSON of a
    /// key); for azure AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or
    /// AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID; and for each
    /// ca.crt, the certificates that sign the endpoint's. Absent: the identity
    /// that the cloud gives the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub credentials_secret: Option<String>,
}

/// A bucket of Amazon S3, or of a service that speaks its protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// The bucket. It must exist.
    #[schemars(
        length(min = 3, max = 255),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub bucket: String,
    /// Its region. Absent: us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// The URL of a service other than Amazon's, such as
    /// https://minio.storage:9000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s]+$"))]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path of a URL instead of its host, as
    /// most services other than Amazon's want it.
    #[serde(default)]
    pub path_style: bool,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoogleStore {
    /// The bucket. It must exist.
    #[schemars(
        length(min = 3, max = 222),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub bucket: String,
    /// The URL of a service other than Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s]+$"))]
    pub endpoint: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureStore {
    /// The storage account.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,
    /// The container. It must exist.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[$a-z0-9][-a-z0-9]*$"))]
    pub container: String,
    /// The URL of a service other than Azure's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s]+$"))]
    pub endpoint: Option<String>,
}

/// A directory of a volume that all pods of the ring mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalStore {
    /// The directory within the volume; it is made when it is not there. Absent:
    /// the whole volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(
            pattern = r"^$|^[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"
        )
    )]
    pub path: String,
    /// The PersistentVolumeClaim, which several pods at once must be able to
    /// write (ReadWriteMany). To add it replaces the pods one by one.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub claim_name: String,
}

/// When backups are taken by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// Its name, which the names of its backups contain.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// When, in the five fields of cron: minute, hour, day of the month, month,
    /// day of the week. As in 30 2 * * *, every night at half past two.
    #[schemars(length(min = 9, max = 120), regex(pattern = r"^\s*(\S+\s+){4}\S+\s*$"))]
    pub cron: String,
    /// The time zone of the fields, as in Europe/Berlin.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: String,
    /// How late a backup may begin that was missed, because the operator was
    /// away or the schedule suspended, seconds. However many were missed, one is
    /// taken. Absent: however late it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub starting_deadline_seconds: Option<i64>,
    /// true takes no new backups by this schedule.
    #[serde(default)]
    pub suspend: bool,
    /// The store; the first one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub store: Option<String>,
}

/// How long backups are kept: as long as one of the rules wants them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.count) || has(self.age)").message("backup.retention needs count, age or both: leave retention out to keep backups for ever")
)]
pub struct BackupRetention {
    /// So many of the newest, in each store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub count: Option<u32>,
    /// Those that are not older, as in 12h, 30d or 8w.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6), regex(pattern = r"^[1-9][0-9]{0,4}[hdw]$"))]
    pub age: Option<String>,
}

/// Which backups are loaded to prove them: the newest of each store, one at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVerify {
    /// At least this long between two of a store, as in 24h, 7d or 1w. Absent: each
    /// time a backup is completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6), regex(pattern = r"^[1-9][0-9]{0,4}[hdw]$"))]
    pub interval: Option<String>,
}

/// How snapshots are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupCompression {
    /// As the store writes them.
    None,
    /// By Zstandard, which costs little and saves most of what can be saved.
    #[default]
    Zstd,
}

/// Encrypts snapshots before they leave the node, by AES-256-GCM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupEncryption {
    /// The Secret with the keys, in the cluster's namespace. Each entry is a key:
    /// its name is the key's id, its value 32 random bytes. Keep the entries of
    /// old backups: without its key a backup cannot be read.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub key_secret: String,
    /// The id of the key for new backups.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key_id: String,
}

/// What a new cluster begins with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// The data it begins with. Absent: it begins empty. A ring that has served
    /// ignores it: use a DynomiteRestore then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<BootstrapRestore>,
}

/// The backup that a new cluster begins with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapRestore {
    /// The store, of this cluster's spec.backup.stores; the first one when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub store: Option<String>,
    /// Which backup.
    pub from: RestoreFrom,
    /// The cluster that the backup is of, if it has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster: Option<super::restore::SourceCluster>,
}

fn default_parallelism() -> u32 {
    4
}

pub(super) fn default_time_zone() -> String {
    "UTC".into()
}

impl BackupSpec {
    /// The store of that name, or the first when none is named.
    pub fn store(&self, name: Option<&str>) -> Option<&BackupStore> {
        match name {
            Some(name) => self.stores.iter().find(|store| store.name == name),
            None => self.stores.first(),
        }
    }
}
