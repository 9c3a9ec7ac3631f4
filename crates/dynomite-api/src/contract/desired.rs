//! What the operator wants of one node.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Token;

/// Further settings by name, as text: values of `dynomite.yml` or of the store.
pub type Settings = BTreeMap<String, String>;

/// Everything one node has to know, as the operator last decided it.
///
/// The node keeps it on disk and lives by it while the operator is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDesired {
    /// The cluster the node belongs to.
    pub cluster: ClusterRef,
    /// `metadata.generation` of the resource this was decided from. A node
    /// refuses a document that was decided from an older one.
    pub cluster_generation: i64,
    /// Counts the documents of this node. A node takes only the one that
    /// follows the document it holds, so a deposed operator cannot overwrite
    /// what its successor said.
    pub generation: u64,
    /// Who the node is.
    pub node: NodeIdentity,
    /// Every other node of the ring, in this datacenter and in others.
    pub peers: Vec<Peer>,
    /// From whom to copy, best first: nodes of the same token and datacenter.
    #[serde(default)]
    pub donors: Vec<Donor>,
    /// Until when the node leaves it to others to copy: so many may at once. It
    /// ends by itself, so that nobody waits for an operator that is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_not_before: Option<jiff::Timestamp>,
    /// The permission to call the data proven without a donor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// The proof that counts no longer, if there is one: the node warms up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust: Option<Distrust>,
    /// That the node stays out of service for now, with its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// A snapshot to take and upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<super::SnapshotOrder>,
    /// A backup to stage or to load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<super::RestoreOrder>,
    /// A comparison with the other replicas to take part in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<super::CompareOrder>,
    /// Whether the node may get client traffic once its data is proven.
    pub serve: bool,
    /// How many replicas must agree.
    pub consistency: Consistency,
    /// How the engine runs.
    pub engine: EngineSettings,
    /// How the store runs.
    pub store: StoreSettings,
    /// How often and how patiently health is checked.
    pub health: HealthSettings,
}

impl NodeDesired {
    /// A digest of the content, without [`generation`](Self::generation),
    /// [`compare`](Self::compare) and [`ClusterRef::created`]: two documents with
    /// the same digest ask for the same thing. Comparisons come and go beside it,
    /// because they change nothing of how the node lives; the report says which
    /// the node was told of.
    pub fn digest(&self) -> String {
        let mut content = self.clone();
        content.generation = 0;
        content.compare = None;
        // It goes with the UID, and nodes that do not know the field yet digest without it.
        content.cluster.created = None;
        // A struct of strings, numbers and string maps always serialises.
        let bytes = serde_json::to_vec(&content).unwrap_or_default();
        let hash = Sha256::digest(&bytes);
        let mut digest = String::with_capacity(32);
        for byte in hash.iter().take(16) {
            // Writing to a string cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }
}

/// Which `DynomiteCluster` is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; another cluster of the same name is another incarnation of it.
    pub uid: String,
    /// When the resource was made, whole seconds: of two incarnations the later
    /// one counts. Absent in documents of operators that did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<jiff::Timestamp>,
}

/// Who a node is and which part of the ring it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// The node's name, which is its pod's name.
    pub name: String,
    /// The UID of the pod this document is for; empty outside Kubernetes.
    #[serde(default)]
    pub pod_uid: String,
    /// Datacenter.
    pub datacenter: String,
    /// Rack.
    pub rack: String,
    /// The token the node owns for life.
    pub token: Token,
    /// The host name under which peers reach it.
    pub host: String,
}

/// Another node of the ring, as a seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The host name, stable over restarts.
    pub host: String,
    /// The address the operator last saw, if it has one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The peer port.
    pub port: u16,
    /// Datacenter.
    pub datacenter: String,
    /// Rack.
    pub rack: String,
    /// Token.
    pub token: Token,
}

/// A node to copy from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Donor {
    /// The donor's node name, which its certificate's holder must report.
    pub name: String,
    /// The host name, stable over restarts.
    pub host: String,
    /// The address the operator last saw, if it has one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port of its sidecar's mutual-TLS listener.
    pub port: u16,
}

/// A permission to treat data as proven that no donor has confirmed.
///
/// It names the pod it was given to: a pod that comes after it must ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Grant {
    /// The token has never served: an empty store is all there is. Once the
    /// node was told to serve, or has held a key, it opens nothing any more.
    Bootstrap {
        /// The pod this is for.
        pod_uid: String,
    },
    /// What the store has loaded is the best there is: the ring has no second
    /// rack, or a person has accepted the loss. Where other racks have the token
    /// it counts once; it can be given again after a document without it.
    AcceptLocal {
        /// The pod this is for.
        pod_uid: String,
    },
}

impl Grant {
    /// The pod the permission was given to.
    pub fn pod_uid(&self) -> &str {
        match self {
            Self::Bootstrap { pod_uid } | Self::AcceptLocal { pod_uid } => pod_uid,
        }
    }
}

/// The word that a node's data is not whole any more: it has missed writes that
/// its replicas have. The node gives up its proof and copies a donor.
///
/// It names the proof it was said of, so the proof that the next warm-up brings
/// is another, and the word has no effect when it is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distrust {
    /// The pod whose proof it is.
    pub pod_uid: String,
    /// [`Proof::since`](super::Proof::since) of that proof.
    pub proof_since: jiff::Timestamp,
    /// Why, in words.
    pub why: String,
}

/// The word that a node stays out of service: it leaves the endpoints, its open
/// requests finish, and its engine stands by, which takes nothing from anybody.
///
/// The proof of the data stays while the store runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Why, in words.
    pub why: String,
    /// What the store does meanwhile.
    pub store: HoldStore,
    /// Whether every node of the datacenter is held with it, from before the
    /// first was held until after the last is let go. Then nobody takes writes
    /// and nobody misses one: the node serves again without a copy, and may be
    /// copied meanwhile. Without it the others went on, so the node comes back
    /// by a warm-up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ring: bool,
}

/// What the store of a held node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldStore {
    /// It runs, and its data stays proven.
    Running,
    /// It is stopped, and its data is unproven afterwards.
    Stopped,
}

/// How many replicas of a datacenter must agree before a client is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum ConsistencyLevel {
    /// The replica in the coordinator's own rack answers; the others follow.
    #[default]
    #[serde(rename = "DC_ONE")]
    DcOne,
    /// A majority of the racks of the datacenter answers.
    #[serde(rename = "DC_QUORUM")]
    DcQuorum,
    /// A majority answers, and the answers are the same.
    #[serde(rename = "DC_SAFE_QUORUM")]
    DcSafeQuorum,
}

impl ConsistencyLevel {
    /// The name as it stands in `dynomite.yml` and in the engine's REST paths (there in lower case).
    pub fn name(self) -> &'static str {
        match self {
            Self::DcOne => "DC_ONE",
            Self::DcQuorum => "DC_QUORUM",
            Self::DcSafeQuorum => "DC_SAFE_QUORUM",
        }
    }

    /// How many same-token nodes must be up in a datacenter of `racks` racks.
    pub fn required(self, racks: usize) -> usize {
        match self {
            Self::DcOne => 1,
            Self::DcQuorum | Self::DcSafeQuorum => racks / 2 + 1,
        }
    }
}

/// The consistency of reads and of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consistency {
    /// For reads.
    pub read: ConsistencyLevel,
    /// For writes.
    pub write: ConsistencyLevel,
}

/// How the engine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineSettings {
    /// `timeout` of `dynomite.yml`, milliseconds.
    pub timeout_ms: u32,
    /// Further keys of `dynomite.yml`; they take effect when the engine starts.
    #[serde(default)]
    pub settings: Settings,
}

/// Which store a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Redis, Valkey or another server that reads a `redis.conf` and speaks its replication.
    #[default]
    Redis,
}

/// What of the data survives the loss of all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Persistence {
    /// Nothing: memory only.
    None,
    /// A snapshot now and then.
    Rdb,
    /// Every write, appended to a log that is synced each second.
    #[default]
    Aof,
}

impl Persistence {
    /// The name as it stands in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rdb => "rdb",
            Self::Aof => "aof",
        }
    }
}

/// How the store runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreSettings {
    /// Which store.
    pub kind: StoreKind,
    /// What survives.
    pub persistence: Persistence,
    /// `maxmemory`, bytes; 0 leaves the store unlimited.
    pub max_memory_bytes: u64,
    /// Further settings. Those that the store can change while it runs are
    /// applied at once, the others when it starts.
    #[serde(default)]
    pub settings: Settings,
}

/// How often and how patiently a node is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthSettings {
    /// Between two checks, milliseconds.
    pub interval_ms: u32,
    /// How long one PING may take, milliseconds.
    pub timeout_ms: u32,
    /// How many failed checks in a row make a node unhealthy.
    pub failure_threshold: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            interval_ms: 500,
            timeout_ms: 1000,
            failure_threshold: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_only_what_is_said() {
        let apart = Hold {
            why: "restore r1".to_owned(),
            store: HoldStore::Running,
            ring: false,
        };
        let json = serde_json::to_value(&apart).expect("serialises");
        let expected = serde_json::json!({"why": "restore r1", "store": "running"});
        assert_eq!(json, expected);
        let read: Hold = serde_json::from_value(json).expect("reads");
        assert_eq!(read, apart);
    }
}
