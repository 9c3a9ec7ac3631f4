//! What the operator sees of a cluster: objects by name, and facts that may be unknown.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::contract::NodeReport;
use dynomite_api::crd::{DynomiteBackup, DynomiteRestore};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::bucket::Answers;
use crate::remotes::Described;

/// A fact that may not have been readable. Unknown is not absent and not zero:
/// whoever asks must decide for the unsafe case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// It was read.
    Known(T),
    /// It could not be read, and why.
    Unknown(String),
}

impl<T> Seen<T> {
    /// The fact, if it was read.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(fact) => Some(fact),
            Self::Unknown(_) => None,
        }
    }
}

/// `PersistentVolumeClaim`s by name.
pub type Claims = BTreeMap<String, PersistentVolumeClaim>;

/// Everything that was seen of one cluster, at about one moment.
///
/// The maps hold, by object name, what lies in the cluster's namespace and
/// either carries the cluster's instance label or has a name the operator
/// would use for this cluster ([`Cluster::object_names`](crate::Cluster::object_names)):
/// a foreign object on such a name must be seen to be left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// `StatefulSet`s.
    pub stateful_sets: BTreeMap<String, StatefulSet>,
    /// Services.
    pub services: BTreeMap<String, Service>,
    /// `ConfigMap`s, among them the token record.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// `PodDisruptionBudget`s.
    pub pod_disruption_budgets: BTreeMap<String, PodDisruptionBudget>,
    /// Volume claims; those of removed racks and of a deleted cluster of the
    /// same name too.
    pub claims: Claims,
    /// Claims of other rings that have the name a claim of this one would get:
    /// a `StatefulSet` would take over the data on them.
    pub foreign_claims: Claims,
    /// Pods.
    pub pods: BTreeMap<String, Pod>,
    /// The pod that loads backups to prove them, which is no node, if there is one.
    pub scratch: Option<Scratch>,
    /// The Secret `<cluster>-ca`.
    pub ca_secret: Seen<Option<SecretFacts>>,
    /// The Secret `<cluster>-node-tls`.
    pub node_secret: Seen<Option<SecretFacts>>,
    /// The Secret `<cluster>-admin-tls`.
    pub admin_secret: Seen<Option<SecretFacts>>,
    /// Metadata of those, by name, as far as they were read: who they belong to.
    pub secrets: BTreeMap<String, ObjectMeta>,
    /// The Kubernetes nodes by name; unknown when the operator may not read them.
    pub kubernetes_nodes: Seen<BTreeMap<String, KubernetesNode>>,
    /// What each pod's sidecar said, by pod name. A pod without an entry counts as unknown.
    pub reports: BTreeMap<String, Seen<NodeReport>>,
    /// What the volumes of claims are bound to, by the claim's name, where the
    /// operator looked: only a pod that finds no place makes that matter.
    pub volumes: BTreeMap<String, Seen<VolumeFacts>>,
    /// The newest warning event of a `StatefulSet` by its name, where the
    /// operator looked: pods that cannot be created leave no other trace.
    pub warnings: BTreeMap<String, String>,
    /// By pod name: why a node does not take its document, where it has refused
    /// several in a row.
    pub documents_refused: BTreeMap<String, String>,
    /// By pod name: what the API server would not give a pod in place. Nothing
    /// is lost when it is forgotten: then it is asked once more.
    pub resizes_refused: BTreeMap<String, ResizeRefused>,
    /// The restores of the cluster, by name.
    pub restores: BTreeMap<String, DynomiteRestore>,
    /// The backups of the cluster, by name.
    pub backups: BTreeMap<String, DynomiteBackup>,
    /// By store: the id of what opens it, as far as its Secret was read. Read
    /// only while a backup or a restore needs it.
    pub store_credentials: BTreeMap<String, Seen<String>>,
    /// The ids of the keys of encryption in the Secret of `spec.backup.encryption`,
    /// old ones too; read together with what opens the stores.
    pub encryption_keys: BTreeSet<String>,
    /// What came of questions to object storage. Nothing is lost when they are
    /// forgotten: they are asked once more.
    pub answers: Answers,
    /// By datacenter elsewhere: what came of asking it to describe itself. One
    /// without an entry was not asked yet.
    pub described: BTreeMap<String, Described>,
}

/// The pod that loads backups to prove them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scratch {
    /// It.
    pub pod: Pod,
    /// What its sidecar said.
    pub report: Seen<NodeReport>,
}

/// Resources that a pod could not be given in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeRefused {
    /// UID of the pod.
    pub pod_uid: String,
    /// [`Resources::digest`](crate::Resources::digest) of what was refused.
    pub resources: String,
    /// Why, in words.
    pub why: String,
}

impl Default for Observed {
    /// Nothing is there, and that is known.
    fn default() -> Self {
        Self {
            stateful_sets: BTreeMap::new(),
            services: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            pod_disruption_budgets: BTreeMap::new(),
            claims: BTreeMap::new(),
            foreign_claims: Claims::new(),
            pods: BTreeMap::new(),
            scratch: None,
            ca_secret: Seen::Known(None),
            node_secret: Seen::Known(None),
            admin_secret: Seen::Known(None),
            secrets: BTreeMap::new(),
            kubernetes_nodes: Seen::Unknown("not read".to_owned()),
            reports: BTreeMap::new(),
            volumes: BTreeMap::new(),
            warnings: BTreeMap::new(),
            documents_refused: BTreeMap::new(),
            resizes_refused: BTreeMap::new(),
            restores: BTreeMap::new(),
            backups: BTreeMap::new(),
            store_credentials: BTreeMap::new(),
            encryption_keys: BTreeSet::new(),
            answers: Answers::new(),
            described: BTreeMap::new(),
        }
    }
}

/// What is known of a Secret without holding its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFacts {
    /// Its UID.
    pub uid: String,
    /// UID of the controlling owner, if it has one.
    pub owner_uid: Option<String>,
    /// Whether all keys are there and can be read as what they should be.
    pub complete: bool,
    /// When the first of its certificates begins; `None` when none could be read.
    pub not_before: Option<Timestamp>,
    /// When the first of its certificates ends; `None` when none could be read.
    pub not_after: Option<Timestamp>,
    /// A digest of `ca.crt`: which CA the certificates belong to.
    pub ca_digest: String,
    /// The DNS names in the node certificate; empty in the CA's Secret.
    pub dns_names: Vec<String>,
}

/// What matters of a Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesNode {
    /// The value of `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Whether it takes new pods.
    pub schedulable: bool,
    /// Whether a person has said that it is down for good, by the taint
    /// `node.kubernetes.io/out-of-service`.
    pub out_of_service: bool,
    /// Its values of those [`HOST_LABELS`] that it carries.
    pub host_labels: BTreeMap<String, String>,
}

/// The labels of Kubernetes nodes whose value no two of them share, by which
/// volumes are bound to one of them.
pub const HOST_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.topolvm.io/node",
    "topology.hostpath.csi/node",
    "openebs.io/nodename",
];

/// What matters of a persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Label and value of each Kubernetes node it can be used on; empty when it
    /// is not bound to single ones.
    pub hosts: Vec<(String, String)>,
}
