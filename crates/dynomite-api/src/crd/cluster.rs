//! The `DynomiteCluster`: one ring, or the part of a ring that lies in one datacenter.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_spec::{BackupSpec, BootstrapSpec};
use super::refresh::RefreshSpec;
use super::status::DynomiteClusterStatus;
use super::volume::StorageSpec;
use crate::Token;
use crate::contract::{ConsistencyLevel, Persistence, StoreKind};

/// A Dynomite ring: racks that each hold all the data, and nodes that each own
/// one token of their rack. Nodes with the same token in different racks are
/// replicas of each other.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "dynomite.io",
    version = "v1alpha1",
    kind = "DynomiteCluster",
    plural = "dynomiteclusters",
    singular = "dynomitecluster",
    shortname = "dyn",
    category = "dynomite",
    category = "databases",
    namespaced,
    status = "DynomiteClusterStatus",
    derive = "PartialEq",
    doc = "A Dynomite ring on Kubernetes: one StatefulSet per rack, tokens in its status, and Services whose endpoints are the healthy nodes.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes"),
    printcolumn(name = "Racks", type_ = "string", json_path = ".status.racksReady"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Datacenter", type_ = "string", json_path = ".spec.datacenter", priority = 1),
    printcolumn(name = "Read", type_ = "string", json_path = ".spec.consistency.read", priority = 1),
    printcolumn(name = "Write", type_ = "string", json_path = ".spec.consistency.write", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes the name of Services: use lower-case letters, digits and '-', and begin with a letter"),
    validation = Rule::new("self.spec.racks.all(r, size(self.metadata.name) + 1 + size(r.name) <= 52)").message("metadata.name and a rack's name together make a StatefulSet's name '<cluster>-<rack>', which may have at most 52 characters: shorten one of them"),
    validation = Rule::new("!has(self.spec.refresh) || has(self.spec.refresh.sourceCluster.namespace) || self.spec.refresh.sourceCluster.name != self.metadata.name").message("refresh.sourceCluster is this cluster itself: what was written since its last backup would be lost each time; name the ring whose data this one is to get")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.racks.all(r, has(r.tokens) == has(self.racks[0].tokens) && (!has(r.tokens) || r.tokens == self.racks[0].tokens))").message("racks[].tokens must be the same list in every rack, or absent in all: nodes with the same token are each other's replicas"),
    validation = Rule::new("self.racks.all(r, !has(r.tokens) || size(r.tokens) == self.nodesPerRack)").message("racks[].tokens must have one token for each node: give nodesPerRack tokens, or none to have them spread evenly"),
    validation = Rule::new("self.consistency.read == 'DC_ONE' || size(self.racks) >= 3").message("consistency.read: a quorum needs at least three racks, because with fewer one lost node fails every request of its token: add racks or use DC_ONE"),
    validation = Rule::new("self.consistency.write == 'DC_ONE' || size(self.racks) >= 3").message("consistency.write: a quorum needs at least three racks, because with fewer one lost node fails every request of its token: add racks or use DC_ONE"),
    validation = Rule::new("self.storage.medium != 'None' || !has(self.store.persistence) || self.store.persistence == 'none'").message("store.persistence needs a volume: set it to none, or storage.medium to Volume"),
    validation = Rule::new("!has(self.backup) || !has(self.backup.preferredRack) || self.racks.exists(r, r.name == self.backup.preferredRack)").message("backup.preferredRack names no rack of the ring: give one of racks[].name, or leave it out"),
    validation = Rule::new("!has(self.refresh) || has(self.backup) && (!has(self.refresh.store) || self.backup.stores.exists(p, p.name == self.refresh.store))").message("refresh needs the store that the backups lie in: add it to backup.stores, and name it or leave refresh.store out for the first one"),
    validation = Rule::new("!has(self.refresh) || !has(self.backup) || size(self.backup.schedules) == 0").message("refresh gives up what was written to this ring, and backup.schedules keeps it: a ring has one or the other, so that no ring whose data matters is refreshed by mistake"),
    validation = Rule::new("!has(self.refresh) || size(self.remoteDatacenters) == 0").message("refresh and remoteDatacenters exclude each other: the other datacenters would keep, and send, what this one gives up"),
    validation = Rule::new("self.remoteDatacenters.all(d, d.name != self.datacenter)").message("remoteDatacenters must not name this cluster's own datacenter: give each datacenter a name of its own")
)]
pub struct DynomiteClusterSpec {
    /// The name of the datacenter that this ring is, or is a part of.
    /// It cannot be changed.
    #[serde(default = "default_datacenter")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("datacenter cannot be changed: nodes and clients know the ring by it; create another cluster instead"))]
    pub datacenter: String,
    /// The racks. Each holds one full copy of the data, so their number is the
    /// number of replicas; put each into a zone of its own.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub racks: Vec<RackSpec>,
    /// How many nodes each rack has; the data of a rack is spread over them.
    /// It cannot be changed yet.
    #[schemars(range(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("nodesPerRack cannot be changed: the tokens of a ring are fixed when it is made; create a ring of the new size and load a backup into it"))]
    pub nodes_per_rack: u32,
    /// Datacenters elsewhere that hold the same data.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub remote_datacenters: Vec<RemoteDatacenter>,
    /// How many replicas must agree before a client is answered. It changes
    /// while the ring serves.
    #[serde(default)]
    pub consistency: ConsistencySpec,
    /// The Dynomite engine.
    #[serde(default)]
    pub dynomite: EngineSpec,
    /// The store behind each engine.
    #[serde(default)]
    pub store: StoreSpec,
    /// Where the data lies.
    #[serde(default)]
    pub storage: StorageSpec,
    /// What else the pods get.
    #[serde(default)]
    pub pod: PodSpec,
    /// How health is checked.
    #[serde(default)]
    pub health: HealthSpec,
    /// How nodes copy the data of their replicas.
    #[serde(default)]
    pub warm_up: WarmUpSpec,
    /// How replicas are compared with each other.
    #[serde(default)]
    pub compare: CompareSpec,
    /// Backups. Absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// What a new ring begins with. Absent: it begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,
    /// The latest backup of another ring, restored into this one on a schedule.
    /// Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshSpec>,
    /// The DNS domain of the Kubernetes cluster.
    #[serde(default = "default_cluster_domain")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_domain: String,
    /// `true` keeps the operator from changing anything of this cluster; its
    /// nodes serve on.
    #[serde(default)]
    pub paused: bool,
}

/// One rack: one full copy of the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.name != 'nodes'").message("a rack cannot be called 'nodes': '<cluster>-nodes' is the Service of the peers; choose another name"),
    validation = Rule::new("has(self.tokens) == has(oldSelf.tokens) && (!has(self.tokens) || self.tokens == oldSelf.tokens)").message("a rack's tokens cannot be changed: each node keeps its token for life; restore the list as it was"),
    validation = Rule::new("!has(self.tokens) || self.tokens.all(t, self.tokens.exists_one(u, u == t))").message("racks[].tokens holds a token twice: every node of a rack needs a token of its own")
)]
pub struct RackSpec {
    /// The rack's name. Netflix's Dyno client works out the datacenter from it,
    /// so let it contain the datacenter's name, such as `dc1-a`.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// The zone its nodes run in, a value of the label
    /// `topology.kubernetes.io/zone`. Absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Labels that the Kubernetes nodes of this rack must carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of Kubernetes nodes that the rack's pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The nodes' tokens, in the order of the pods. Absent: spread evenly, as
    /// Dynomite-manager did it. They cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tokens: Option<Vec<Token>>,
}

/// A datacenter elsewhere that holds the same data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.seeds) != has(self.describe)").message("a remote datacenter names its nodes in seeds, or the URL at which it describes itself in describe: give one of the two")
)]
pub struct RemoteDatacenter {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Where it describes itself, such as
    /// `http://node.example:8080/REST/v1/admin/cluster_describe`: sidecars answer
    /// there, and so does Dynomite-manager. The operator asks every few seconds
    /// and follows what it says. Instead of `seeds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub describe: Option<String>,
    /// Its nodes, each as `host:port:rack:datacenter:token`. Instead of `describe`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 512),
        inner(
            length(min = 1, max = 512),
            regex(
                pattern = r"^[^|\s]+:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]):[^:|\s]+:[^:|\s]+:([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])$"
            )
        )
    )]
    #[x_kube(validation = Rule::new("self.all(s, s.size() > 0)").message("seeds must not be empty: write host:port:rack:datacenter:token"))]
    pub seeds: Vec<String>,
}

/// How many replicas must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsistencySpec {
    /// For reads: `DC_ONE` asks the replica in the client's rack, `DC_QUORUM` a
    /// majority of the racks, `DC_SAFE_QUORUM` a majority that agrees.
    #[serde(default)]
    pub read: ConsistencyLevel,
    /// For writes. All replicas are written at every level; the level is how
    /// many must have confirmed before the client is answered.
    #[serde(default)]
    pub write: ConsistencyLevel,
}

/// The Dynomite engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.settings) || self.settings.all(k, !(k.lowerAscii() in ['listen', 'dyn_listen', 'stats_listen', 'servers', 'tokens', 'datacenter', 'rack', 'dyn_seeds', 'dyn_seed_provider', 'data_store', 'timeout', 'read_consistency', 'write_consistency', 'enable_gossip', 'gos_interval']))").message("dynomite.settings holds a key that the operator sets itself: use the field of the spec that stands for it, or leave it out")
)]
pub struct EngineSpec {
    /// The image with the `dynomite` binary; the operator's own image when
    /// absent. Netflix's engine works too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory of the engine's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How long a request may take, milliseconds.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 10, max = 600_000))]
    pub timeout_milliseconds: u32,
    /// Further keys of `dynomite.yml`, as text. A change restarts the nodes one
    /// by one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub settings: BTreeMap<String, String>,
}

/// The store behind each engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.settings) || self.settings.all(k, !(k.lowerAscii() in ['tls-port', 'enable-debug-command', 'enable-module-command', 'enable-protected-configs', 'port', 'unixsocket', 'unixsocketperm', 'dir', 'daemonize', 'bind', 'maxmemory', 'appendonly', 'replicaof', 'slaveof', 'include', 'loadmodule', 'requirepass', 'masterauth', 'aclfile', 'user', 'rename-command', 'cluster-enabled', 'supervised', 'pidfile', 'logfile']))").message("store.settings holds a key that the operator sets itself or that would take the store out of its hands: leave it out")
)]
pub struct StoreSpec {
    /// What kind of store: `redis` is any server that reads a `redis.conf` and
    /// speaks Redis' replication.
    #[serde(default)]
    pub kind: StoreKind,
    /// The image with `redis-server`, such as Valkey's or Redis' own.
    #[serde(default = "default_store_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// CPU and memory of the store's container. The memory limit decides how
    /// much data fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How much of the memory limit the data may fill, percent. The rest is for
    /// copies that are made while a replica or a snapshot is served.
    #[serde(default = "default_memory_percent")]
    #[schemars(range(min = 10, max = 90))]
    pub memory_percent: u32,
    /// What survives the loss of all replicas: `none`, `rdb` (a snapshot now
    /// and then) or `aof` (every write, synced each second). `aof` when absent
    /// and there is a volume, else `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Further lines of the store's configuration, as text. Those that the
    /// store can change while it runs take effect at once; the others restart
    /// the nodes one by one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub settings: BTreeMap<String, String>,
}

/// What else the pods get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Further labels of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Their priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Their affinity. When absent, nodes of a ring keep to different
    /// Kubernetes nodes where they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Secrets with which images are pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// How they spread over the topology.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// How long a node may take to leave, seconds: open requests are finished
    /// and the store writes what it has to.
    #[serde(default = "default_grace_seconds")]
    #[schemars(range(min = 5, max = 3600))]
    pub termination_grace_period_seconds: i64,
    /// CPU and memory of the sidecar's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_resources: Option<ResourceRequirements>,
    /// The user and group id all containers run as and the volume belongs to.
    /// Absent: 65532. `0` leaves the choice to the platform, as OpenShift wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub run_as_user: Option<i64>,
}

/// How health is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthSpec {
    /// Between two checks within the pod, milliseconds.
    #[serde(default = "default_interval_ms")]
    #[schemars(range(min = 100, max = 60_000))]
    pub interval_milliseconds: u32,
    /// How long one PING may take, milliseconds.
    #[serde(default = "default_check_timeout_ms")]
    #[schemars(range(min = 50, max = 60_000))]
    pub timeout_milliseconds: u32,
    /// How many failed checks in a row make a node unhealthy. A process that
    /// ended counts at once.
    #[serde(default = "default_failure_threshold")]
    #[schemars(range(min = 1, max = 20))]
    pub failure_threshold: u32,
    /// How often Kubernetes asks whether the node is ready, seconds.
    #[serde(default = "default_probe_period")]
    #[schemars(range(min = 1, max = 60))]
    pub probe_period_seconds: i32,
}

/// How nodes copy the data of their replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmUpSpec {
    /// How many nodes of the datacenter may copy at once; the others wait for
    /// their turn.
    #[serde(default = "default_max_parallel")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 128").message("warmUp.maxParallel must be from 1 to 128: nodes without proven data serve nobody until they have copied it, so at least one must be allowed to"))]
    pub max_parallel: u32,
}

/// How the replicas of a token are compared, key by key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompareSpec {
    /// Whether they are compared at all. It is new, and to be switched on.
    #[serde(default)]
    pub enabled: bool,
    /// How long after a comparison of a token the next one begins, seconds. A
    /// token is also compared soon after one of its nodes was restarted or
    /// made equal to another.
    #[serde(default = "default_compare_interval")]
    #[schemars(range(min = 10, max = 2_592_000))]
    pub interval_seconds: u32,
    /// Whether keys that differ are repaired: what most replicas have replaces
    /// the rest, or else the value of the first rack that has one.
    #[serde(default = "yes")]
    pub repair: bool,
}

impl Default for CompareSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            interval_seconds: default_compare_interval(),
            repair: true,
        }
    }
}

fn yes() -> bool {
    true
}

fn default_compare_interval() -> u32 {
    3600
}

fn default_max_parallel() -> u32 {
    4
}

impl Default for WarmUpSpec {
    fn default() -> Self {
        Self {
            max_parallel: default_max_parallel(),
        }
    }
}

fn default_datacenter() -> String {
    "dc1".into()
}

fn default_cluster_domain() -> String {
    "cluster.local".into()
}

fn default_timeout_ms() -> u32 {
    5000
}

fn default_store_image() -> String {
    "docker.io/valkey/valkey:8".into()
}

fn default_memory_percent() -> u32 {
    65
}

fn default_grace_seconds() -> i64 {
    60
}

fn default_interval_ms() -> u32 {
    500
}

fn default_check_timeout_ms() -> u32 {
    1000
}

fn default_failure_threshold() -> u32 {
    2
}

fn default_probe_period() -> i32 {
    1
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self {
            image: None,
            resources: None,
            timeout_milliseconds: default_timeout_ms(),
            settings: BTreeMap::new(),
        }
    }
}

impl Default for StoreSpec {
    fn default() -> Self {
        Self {
            kind: StoreKind::default(),
            image: default_store_image(),
            resources: None,
            memory_percent: default_memory_percent(),
            persistence: None,
            settings: BTreeMap::new(),
        }
    }
}

impl Default for PodSpec {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            priority_class_name: None,
            affinity: None,
            image_pull_secrets: Vec::new(),
            topology_spread_constraints: Vec::new(),
            termination_grace_period_seconds: default_grace_seconds(),
            sidecar_resources: None,
            run_as_user: None,
        }
    }
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            interval_milliseconds: default_interval_ms(),
            timeout_milliseconds: default_check_timeout_ms(),
            failure_threshold: default_failure_threshold(),
            probe_period_seconds: default_probe_period(),
        }
    }
}
