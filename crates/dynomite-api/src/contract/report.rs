//! What a node says of itself.

use dynomite_protocol::received::Received;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The facts a node knows, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node's name.
    pub node: String,
    /// The UID of the pod that speaks; empty outside Kubernetes.
    #[serde(default)]
    pub pod_uid: String,
    /// The sidecar's version.
    pub version: String,
    /// When the report was made.
    pub at: Timestamp,
    /// The desired document the node holds, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredMark>,
    /// Where the node is in its life.
    pub phase: NodePhase,
    /// Since when it has been there.
    pub since: Timestamp,
    /// One word for why, `CamelCase`; empty when there is nothing to explain.
    #[serde(default)]
    pub reason: String,
    /// The same for people, with what they can do.
    #[serde(default)]
    pub message: String,
    /// Whether `/readyz` answers 200.
    pub ready: bool,
    /// Whether the data is known to be whole.
    pub proof: Proof,
    /// What the node needs from the operator before it can go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting: Option<Awaiting>,
    /// The store, if it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreFacts>,
    /// The engine, if it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineFacts>,
    /// The store's process.
    #[serde(default)]
    pub store_process: ProcessFacts,
    /// The engine's process.
    #[serde(default)]
    pub engine_process: ProcessFacts,
    /// The warm-up that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUpProgress>,
    /// Settings the node holds that take effect only when a process restarts:
    /// `dynomite.<key>` and `store.<setting>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_required: Vec<String>,
    /// What is wrong with the node now, whatever its phase; empty in good health.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The snapshot that was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<super::SnapshotReport>,
    /// The restore that was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<super::RestoreReport>,
    /// Comparisons with the other replicas; absent when the node knows nothing of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<super::CompareReport>,
    /// The ids of the credentials that the node holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// What people have asked of the ring through this node, and wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<super::Call>,
}

impl NodeReport {
    /// A node of which nothing else is known yet: it is starting, and has no data.
    pub fn new(node: &str, pod_uid: &str, version: &str, at: Timestamp) -> Self {
        Self {
            node: node.to_owned(),
            pod_uid: pod_uid.to_owned(),
            version: version.to_owned(),
            at,
            desired: None,
            phase: NodePhase::Starting,
            since: at,
            reason: String::new(),
            message: String::new(),
            ready: false,
            proof: Proof {
                kind: ProofKind::Unproven,
                since: None,
                exact: None,
                before: false,
                remembered: None,
            },
            awaiting: None,
            store: None,
            engine: None,
            store_process: ProcessFacts::default(),
            engine_process: ProcessFacts::default(),
            warm_up: None,
            restart_required: Vec::new(),
            findings: Vec::new(),
            snapshot: None,
            restore: None,
            compare: None,
            credentials: Vec::new(),
            calls: Vec::new(),
        }
    }
}

/// The reason of the finding that names settings which the node leaves out,
/// because its store would not start with them, or its files cannot hold them.
pub const FINDING_SETTING_REFUSED: &str = "SettingRefused";

/// Something that is wrong with a node, and what the node does about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// One word for it, `CamelCase`.
    pub reason: String,
    /// The same for people, with what they can do.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// How often the node has tried its own remedy since then; 0 when it has
    /// none, or has not tried yet.
    #[serde(default)]
    pub remedies: u32,
}

/// Which desired document a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredMark {
    /// UID of the cluster it was decided for.
    pub cluster_uid: String,
    /// UID of the pod it was written for.
    pub pod_uid: String,
    /// Its `clusterGeneration`.
    pub cluster_generation: i64,
    /// Its `generation`.
    pub generation: u64,
    /// Its [`digest`](super::NodeDesired::digest).
    pub digest: String,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum NodePhase {
    /// Its processes are coming up, or it waits for a permission.
    Starting,
    /// It loads a snapshot.
    Restoring,
    /// It copies a donor's data.
    WarmingUp,
    /// It has the data and takes over the last writes.
    CatchingUp,
    /// Its data is proven and its engine is NORMAL.
    Serving,
    /// It was told to stay out.
    Held,
    /// It is leaving.
    Draining,
    /// It could not do what it should; the reason says why, and it tries again.
    Failed,
}

/// Whether the data of the store that runs now is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Whether, and by what.
    pub kind: ProofKind,
    /// Since when; absent while unproven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whether the copy took over from its donor exactly: nothing lost, nothing
    /// applied twice. Absent where nothing was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Whether this volume has held proven data of the node before: what an
    /// empty volume holds is nobody's data.
    #[serde(default)]
    pub before: bool,
    /// Since when it was proven, by a proof on disk that a sidecar which has just
    /// started has yet to compare with what runs: it may find that it still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<Timestamp>,
}

/// By what the data is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProofKind {
    /// Not at all: the node must not serve.
    Unproven,
    /// The token had never served and the store was empty.
    Bootstrap,
    /// It was copied from a proven donor.
    WarmUp,
    /// The operator, or a person, accepted what the store had.
    AcceptedLocal,
    /// It was loaded from a backup.
    Restored,
}

/// What a node needs from the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaiting {
    /// A desired document.
    Desired,
    /// A donor that answers, or a [`Grant`](super::Grant).
    DonorOrGrant,
    /// `serve: true`: everything else is done, and the phase is `Held`.
    Serve,
}

/// What the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreFacts {
    /// Redis' `run_id`: another one is another incarnation.
    pub run_id: String,
    /// The server's version.
    pub version: String,
    /// Whether it replicates now.
    pub role: StoreRole,
    /// Whether it is still loading its files.
    pub loading: bool,
    /// Keys in database 0.
    pub keys: u64,
    /// `used_memory`, bytes.
    pub used_memory_bytes: u64,
    /// `maxmemory`, bytes; 0 is unlimited.
    pub max_memory_bytes: u64,
    /// `master_repl_offset`, bytes; comparable only within one replication id.
    pub replication_offset: u64,
    /// The store's last complaint (MISCONF, OOM, LOADING ...), if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complaint: Option<String>,
}

/// The store's role in replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreRole {
    /// It takes writes of its own.
    #[default]
    Primary,
    /// It copies another store.
    Replica,
}

/// What the engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineFacts {
    /// Its state.
    pub state: EngineState,
    /// Another one is another incarnation; empty when the engine does not say.
    #[serde(default)]
    pub incarnation: String,
    /// The engine's version; empty when it does not say.
    #[serde(default)]
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Peers of the ring map it is connected to; absent when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers_connected: Option<u32>,
    /// Which numbered writes it has received of whom; absent when it does not
    /// number them, as Netflix's engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
}

/// The engine's state, as its REST interface names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EngineState {
    /// Neither reads nor writes reach the store.
    Standby,
    /// Writes are held, reads are refused.
    WritesOnly,
    /// Writes pass, reads are refused.
    Resuming,
    /// Everything passes.
    Normal,
    /// Anything else the engine may say.
    Other,
}

/// One process of the pod, as its launcher knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFacts {
    /// Whether it runs.
    pub running: bool,
    /// How often it has been started in this pod.
    pub starts: u64,
    /// How it last ended, in words; empty when it never did.
    #[serde(default)]
    pub last_exit: String,
}

/// How far a warm-up is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmUpProgress {
    /// The donor's node name.
    pub donor: String,
    /// What it does now.
    pub stage: WarmUpStage,
    /// When this attempt began.
    pub started_at: Timestamp,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Bytes of the first copy that have arrived.
    pub bytes_done: u64,
    /// Bytes of the first copy, once the donor has said so or it can be estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Whether `bytes_total` is an estimate: a donor that makes its copy while
    /// it sends does not know its length.
    #[serde(default)]
    pub bytes_total_estimated: bool,
    /// How fast the first copy has come so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long the rest of the first copy takes at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Bytes of replication stream still to apply; known once the link is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
}

/// The stages of a warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WarmUpStage {
    /// The donor is being asked.
    Connecting,
    /// The first copy is on its way.
    Copying,
    /// The replication stream is being followed.
    Following,
    /// Writes are held while the last bytes arrive.
    Cutting,
}
