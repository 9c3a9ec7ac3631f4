//! What the operator says of a `DynomiteCluster`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Token;
use crate::contract::NodePhase;

/// What was observed of the cluster, and what happens next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DynomiteClusterStatus {
    /// The `metadata.generation` this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state of the cluster in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ClusterPhase>,
    /// Ready nodes of all nodes, such as `5/6`.
    #[serde(default)]
    pub nodes: String,
    /// Racks in which every node is ready, of all racks, such as `2/3`.
    #[serde(default)]
    pub racks_ready: String,
    /// Where clients inside Kubernetes connect, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Since when the ring has served clients. While it is absent the ring is
    /// known to be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_since: Option<Time>,
    /// The state of things in the form that `kubectl wait` understands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The racks and their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub racks: Vec<RackStatus>,
    /// Each token, with how many replicas it can still lose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["token"]))]
    pub tokens: Vec<TokenStatus>,
    /// The datacenters elsewhere that describe themselves, as they last did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub remote_datacenters: Vec<RemoteDatacenterStatus>,
    /// Backups of the cluster, where its spec has stores for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ClusterBackupStatus>,
    /// The refresh of the cluster, where its spec has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<super::refresh::RefreshStatus>,
    /// What the operator does next, and what it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanStatus>,
}

/// A datacenter elsewhere that describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteDatacenterStatus {
    /// Its name.
    pub name: String,
    /// Why it cannot be asked now; empty when it answers. Its nodes stay as they
    /// were last known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its nodes by its last good answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub nodes: Vec<RemoteNodeStatus>,
}

/// A node of a datacenter elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteNodeStatus {
    /// Its host name, or its address where it has none.
    pub host: String,
    /// The address it said it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its peer port.
    pub port: u16,
    /// Its rack.
    pub rack: String,
    /// Its token.
    pub token: Token,
}

/// Backups of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupStatus {
    /// The DynomiteBackup that was completed last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_completed: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed_at: Option<Time>,
    /// The DynomiteBackup that was loaded last to prove it, and was right.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_verified: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_at: Option<Time>,
    /// The schedules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<ScheduleStatus>,
}

/// One schedule of backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// Its last time that was heeded; at first, when the operator first saw it.
    pub last: Time,
    /// Its next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
    /// What is wrong with it; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The state of a cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClusterPhase {
    /// Its objects are being made and its nodes come up for the first time.
    Provisioning,
    /// Every node is ready.
    Ready,
    /// It serves, and something is being changed.
    Updating,
    /// It serves every token, and a node is missing.
    Degraded,
    /// A token cannot be served at the configured consistency.
    Unavailable,
    /// It needs a person; the condition `Stalled` says for what.
    Stalled,
    /// `spec.paused` keeps the operator from changing anything.
    Paused,
    /// It is being deleted.
    Deleting,
}

/// One rack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RackStatus {
    /// The rack's name.
    pub name: String,
    /// Ready nodes of all nodes, such as `2/2`.
    #[serde(default)]
    pub ready: String,
    /// What keeps the rack from being complete; empty when nothing does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<NodeStatus>,
}

/// One node: what Dynomite-manager kept in its external store, and its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name, which is its pod's name.
    pub name: String,
    /// The token it owns for life.
    pub token: Token,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The pod's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The Kubernetes node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// That node's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Where it is in its life; absent when nobody could ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<NodePhase>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Whether it is among the endpoints of the Services.
    pub ready: bool,
    /// Why it is not ready; empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The warm-up that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUpStatus>,
    /// What is wrong with it, and what is done or can be done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reason"]))]
    pub findings: Vec<FindingStatus>,
}

/// Something that is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingStatus {
    /// One word for it, `CamelCase`.
    pub reason: String,
    /// The same for people, with what they can do.
    pub message: String,
    /// Since when, where the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A warm-up that is going on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmUpStatus {
    /// The node it copies from.
    pub donor: String,
    /// What it does now: Connecting, Copying, Following or Cutting.
    pub stage: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How much of the first copy has arrived, of a hundred; an estimate where
    /// the donor does not know the size of what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// How fast it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// What has been written since and is still to come, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
}

/// One token and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// The token.
    pub token: Token,
    /// How many of its replicas are ready.
    pub ready: u32,
    /// How many must be, at the configured consistency.
    pub required: u32,
    /// How many may be lost now: `ready - required`; negative when too many are lost already.
    pub headroom: i32,
}

/// One thing the operator does next or waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// The step it belongs to.
    pub step: String,
    /// One word for what is done or waited for, `CamelCase`.
    pub reason: String,
    /// The same for people.
    pub message: String,
}
