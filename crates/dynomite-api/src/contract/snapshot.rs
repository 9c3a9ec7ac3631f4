//! Snapshots and restores, as operator and node speak of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Token;

/// Where backups lie, without any secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupPlace {
    /// The name of the store in `spec.backup.stores`.
    pub store: String,
    /// Whose storage it is.
    pub provider: Provider,
    /// What all keys begin with, without a slash at its ends; may be empty.
    #[serde(default)]
    pub prefix: String,
    /// The [`StoreCredentials::id`] with which it is opened; empty when the pod's
    /// own identity, or no identity, opens it.
    #[serde(default)]
    pub credentials: String,
}

/// Whose object storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Provider {
    /// Amazon S3, or what speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// Its region; `us-east-1` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        /// The URL of a service other than Amazon's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// Whether the bucket stands in the path of a URL instead of its host.
        #[serde(default)]
        path_style: bool,
    },
    /// Google Cloud Storage.
    Google {
        /// The bucket.
        bucket: String,
        /// The URL of a service other than Google's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// The URL of a service other than Azure's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// A directory of a volume that every node mounts.
    Local {
        /// Where the pods see it.
        path: String,
    },
}

/// `PUT` to [`PATH_CREDENTIALS`](super::PATH_CREDENTIALS): what opens the stores,
/// read by the operator from Secrets. A node keeps it in memory only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// By the name of the store.
    pub stores: BTreeMap<String, StoreCredentials>,
    /// Keys of encryption by their id, 32 bytes each, Base64.
    #[serde(default)]
    pub encryption_keys: BTreeMap<String, String>,
}

/// What opens one store.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreCredentials {
    /// Another one is other content: a digest of it that tells nothing of it.
    pub id: String,
    /// The entries of the Secret, by their keys.
    pub entries: BTreeMap<String, String>,
}

// Never derived: what is printed ends in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<&String> = self.encryption_keys.keys().collect();
        f.debug_struct("Credentials")
            .field("stores", &self.stores)
            .field("encryption_keys", &keys)
            .finish()
    }
}

impl std::fmt::Debug for StoreCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<&String> = self.entries.keys().collect();
        f.debug_struct("StoreCredentials")
            .field("id", &self.id)
            .field("entries", &keys)
            .finish()
    }
}

/// Take a snapshot of this node's data and upload it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotOrder {
    /// The pod that is to do it.
    pub pod_uid: String,
    /// The name of the backup's directory; with `attempt` it names the work.
    pub backup: String,
    /// Counts from 0 the snapshots of this token within the backup.
    pub attempt: u32,
    /// Where to.
    pub place: BackupPlace,
    /// Where the data comes from.
    pub source: SnapshotSource,
    /// Whether to compress with Zstandard.
    pub compress: bool,
    /// The key of encryption, if any, by its id in [`Credentials`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<String>,
    /// At most so many bytes per second leave the store; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// How a node takes a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum SnapshotSource {
    /// The stream that a replica would get: no disk is needed.
    #[default]
    Replication,
    /// A file that the store has saved: nothing waits for a slow upload.
    File,
}

/// How far the node is with its [`SnapshotOrder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotReport {
    /// [`SnapshotOrder::backup`].
    pub backup: String,
    /// [`SnapshotOrder::attempt`].
    pub attempt: u32,
    /// When the node began.
    pub started_at: Timestamp,
    /// Bytes of data read so far.
    pub bytes: u64,
    /// Bytes stored so far.
    pub stored_bytes: u64,
    /// Where it is.
    pub state: SnapshotState,
}

/// Where a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum SnapshotState {
    /// It has not begun: credentials or memory are missing, or a warm-up goes first.
    Waiting {
        /// One word, `CamelCase`.
        reason: String,
        /// For people.
        message: String,
    },
    /// It goes on.
    Running,
    /// The object is complete and was verified.
    Done {
        /// The entry of the manifest, as `dynomite-snapshot` writes it.
        entry: serde_json::Value,
    },
    /// It ended, and what it had stored is removed.
    Failed {
        /// One word, `CamelCase`.
        reason: String,
        /// For people, with what they can do.
        message: String,
        /// Whether another attempt, or another node, may succeed.
        retry: bool,
    },
}

/// Get data from a backup, and put it in place of the node's own when told so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreOrder {
    /// The pod that is to do it.
    pub pod_uid: String,
    /// The UID of the `DynomiteRestore`.
    pub restore: String,
    /// Another one is another attempt to load; staged data stays.
    pub attempt: u32,
    /// How far to go.
    pub goal: RestoreGoal,
    /// Where from.
    pub place: BackupPlace,
    /// What to read, in this order.
    pub parts: Vec<RestorePart>,
    /// Which keys to keep of it; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<TokenRange>,
    /// At most so many bytes per second are read from the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Whether the node saves its own data before it loads, because nobody else has it.
    pub save_previous: bool,
}

/// How far a [`RestoreOrder`] goes. A node never goes further than told, and each
/// includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreGoal {
    /// Download, verify, lay beside the live data; the node serves on.
    Stage,
    /// Put it in place of the live data. Only while the node is held.
    Load,
    /// Put the saved data back.
    Revert,
}

/// One object of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePart {
    /// Its whole key, prefix included.
    pub key: String,
    /// The entry of the manifest; absent for a file that no manifest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<serde_json::Value>,
    /// What an encrypted object is bound to: `UID/BACKUP-ID`, without the token.
    #[serde(default)]
    pub context: String,
    /// What part of a ring it was; absent for data without a ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<TokenRange>,
}

/// The keys of one token in a ring of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRange {
    /// Tokens of a rack, ascending.
    pub tokens: Vec<Token>,
    /// The owner's.
    pub own: Token,
}

/// How far the node is with its [`RestoreOrder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// [`RestoreOrder::restore`].
    pub restore: String,
    /// [`RestoreOrder::attempt`].
    pub attempt: u32,
    /// When the node began.
    pub started_at: Timestamp,
    /// Bytes done of the step it is at.
    pub bytes: u64,
    /// Bytes of that step, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Where it is.
    pub state: RestoreState,
}

/// Where a restore is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum RestoreState {
    /// It cannot go on yet.
    Waiting {
        /// One word, `CamelCase`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Objects are being read and verified.
    Downloading,
    /// All is there and verified.
    Staged {
        /// Keys that will be loaded, those that expire meanwhile included.
        keys: u64,
        /// How many of them expire some time.
        expiring: u64,
        /// How many of them lie outside of database 0.
        #[serde(default)]
        elsewhere: u64,
    },
    /// The node saves its own data.
    Saving,
    /// The store takes it in.
    Loading,
    /// The store has it, and it is proven.
    Loaded {
        /// Keys in the store at that moment.
        keys: u64,
    },
    /// The store has what it had before, and it is proven.
    Reverted,
    /// It did not work; the store's data is what it was before, unless a load had begun.
    Failed {
        /// One word, `CamelCase`.
        reason: String,
        /// For people, with what they can do.
        message: String,
        /// Whether another attempt may succeed.
        retry: bool,
        /// Whether the store's data is no longer what it was.
        touched: bool,
    },
}

/// `POST` to [`PATH_BUCKET`](super::PATH_BUCKET), by the operator: small work in a
/// place, done by a node because it is there that the identity lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketRequest {
    /// Where.
    pub place: BackupPlace,
    /// What.
    pub action: BucketAction,
}

/// What to do in a place. Keys are whole keys, prefix included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum BucketAction {
    /// List what lies under a prefix, after a key, at most [`MAX_LISTED`] objects.
    List {
        /// The prefix, whole path segments.
        under: String,
        /// Where the last listing ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Read a small object, up to [`MAX_SMALL_OBJECT`].
    Get {
        /// Its key.
        key: String,
    },
    /// Size and time of an object.
    Head {
        /// Its key.
        key: String,
    },
    /// Write a small object; an object of that key is replaced.
    Put {
        /// Its key.
        key: String,
        /// Its content as text.
        text: String,
    },
    /// Delete objects, at most [`MAX_LISTED`]; those that are not there are no error.
    Delete {
        /// Their keys.
        keys: Vec<String>,
    },
    /// Read the head of an RDB file that no manifest speaks of, and say what it is.
    Inspect {
        /// Its key.
        key: String,
    },
    /// Load an object of a backup into the scratch store of this pod, and compare what
    /// the store has then with the manifest's entry. No node of a ring does it.
    Load {
        /// The pod that is to do it.
        pod_uid: String,
        /// The object, with its entry of the manifest.
        part: Box<RestorePart>,
        /// At most so many bytes per second are read from the place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes_per_second: Option<u64>,
    },
}

/// How many objects one [`BucketAction`] may name.
pub const MAX_LISTED: usize = 1000;
/// The largest object that [`BucketAction::Get`] and [`BucketAction::Put`] move, bytes.
pub const MAX_SMALL_OBJECT: usize = 4 << 20;

/// The answer to a [`BucketRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum BucketAnswer {
    /// Objects, by key.
    Listed {
        /// What lies there.
        objects: Vec<ObjectFacts>,
        /// Whether more follow after the last.
        more: bool,
    },
    /// The content, as text.
    Text {
        /// It.
        text: String,
    },
    /// Size and time.
    Facts {
        /// They.
        object: ObjectFacts,
    },
    /// It is done.
    Done,
    /// There is no such object.
    Missing,
    /// What an RDB file is, by its head: nobody has read it to its end.
    Inspected {
        /// Its bytes.
        bytes: u64,
        /// Its format, as it stands in the file: `REDIS0009`.
        rdb: String,
        /// When its store began to save it, as it says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        saved_at: Option<Timestamp>,
        /// Bytes of memory that its store used, as it says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_bytes: Option<u64>,
    },
    /// A store has loaded the object, and has what the manifest says.
    Loaded {
        /// Keys that the store had then.
        keys: u64,
    },
    /// It did not work.
    Failed {
        /// One word, `CamelCase`: `CredentialsMissing`, `Forbidden`, `NoSuchBucket`, `Unavailable`, ...
        reason: String,
        /// For people, with what they can do.
        message: String,
        /// Whether it may work later.
        retry: bool,
    },
}

/// An object in a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectFacts {
    /// Its whole key.
    pub key: String,
    /// Bytes.
    pub bytes: u64,
    /// When it was written, by the clock of the storage.
    pub modified: Timestamp,
}
