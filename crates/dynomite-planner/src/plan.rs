//! A plan: what the operator does now, and what it waits for, each with its reason.

use dynomite_api::contract::{BucketRequest, CallAnswer, NodeDesired};
use dynomite_api::crd::{
    DynomiteBackup, DynomiteBackupStatus, DynomiteRestore, DynomiteRestoreStatus,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ResourceRequirements, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::compare;
use crate::wait::Wait;

/// What the operator does now and what it waits for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do, in this order. Every action stands for itself: when one
    /// fails, the others are still right, and the next pass decides anew.
    pub actions: Vec<Planned>,
    /// What is waited for.
    pub waits: Vec<Waiting>,
    /// When to plan again although nothing is seen to change.
    pub wake_at: Option<Timestamp>,
}

/// An action and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The step that decided it.
    pub step: StepName,
    /// What to do.
    pub action: Action,
    /// Why, for people.
    pub why: String,
}

/// A wait and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The step that waits.
    pub step: StepName,
    /// For what.
    pub wait: Wait,
}

/// The steps of a plan, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepName {
    /// The cluster is being deleted.
    Delete,
    /// Certificates, token record, Services, disruption budget, `StatefulSet`s.
    Provision,
    /// Tokens onto the volumes.
    AssignTokens,
    /// Desired documents to the nodes.
    Configure,
    /// Permissions, the serve gate, nodes that copy.
    WarmUp,
    /// Nodes that have missed writes.
    Renew,
    /// Nodes whose volume or Kubernetes node is gone for good.
    Replace,
    /// Racks that left the spec.
    Retire,
    /// Pods that need other resources only.
    Resize,
    /// Pods of an older revision.
    Roll,
    /// Calls of people by the old REST.
    Answer,
    /// Restores.
    Restore,
    /// Backups.
    Snapshot,
    /// Comparisons of replicas.
    Compare,
}

impl StepName {
    /// The name in `status.plan[].step`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Provision => "provision",
            Self::AssignTokens => "assign_tokens",
            Self::Configure => "configure",
            Self::WarmUp => "warm_up",
            Self::Renew => "renew",
            Self::Replace => "replace",
            Self::Retire => "retire",
            Self::Resize => "resize",
            Self::Roll => "roll",
            Self::Answer => "answer",
            Self::Restore => "restore",
            Self::Snapshot => "snapshot",
            Self::Compare => "compare",
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Server-side apply, with [`FIELD_MANAGER`](dynomite_api::annotations::FIELD_MANAGER),
    /// and with force onto what is ours ([`is_ours`](crate::is_ours)). An object
    /// with `metadata.uid` must exist with that UID.
    Apply(Box<Object>),
    /// Delete, with preconditions on the UID and, if given, the resource version.
    Delete {
        /// Kind of the object.
        kind: Kind,
        /// Its name, in the cluster's namespace.
        name: String,
        /// The UID it was seen with.
        uid: String,
        /// The resource version it was seen with; a pod is deleted only as it was seen.
        resource_version: Option<String>,
    },
    /// Delete a pod without waiting for its end: the Kubernetes node that would
    /// tell of it is gone. With preconditions as for other deletions.
    DeleteAtOnce {
        /// Its name, in the cluster's namespace.
        name: String,
        /// The UID it was seen with.
        uid: String,
    },
    /// Delete a `StatefulSet` and leave its pods running without an owner: what of
    /// it cannot be changed is made anew, and the pods are adopted.
    Orphan {
        /// Its name.
        name: String,
        /// The UID it was seen with.
        uid: String,
    },
    /// `PUT` a desired document to a node's sidecar.
    Assign {
        /// The node, which is its pod.
        node: String,
        /// The pod's address.
        address: String,
        /// The document.
        desired: Box<NodeDesired>,
    },
    /// Give the containers of a running pod other resources, by its subresource
    /// `resize`, exactly this pod.
    Resize {
        /// The pod.
        pod: String,
        /// The UID it was seen with.
        uid: String,
        /// What its containers get.
        resources: Resources,
    },
    /// Make certificates and write their Secrets.
    IssueCertificates(Certificates),
    /// Set or remove the finalizer on the `DynomiteCluster`.
    SetFinalizer {
        /// Whether it should be there.
        present: bool,
    },
    /// Hand a node what opens the stores of backups, all of them, as the
    /// operator reads it from Secrets.
    HandCredentials {
        /// The node, which is its pod.
        node: String,
        /// The pod's UID.
        pod_uid: String,
        /// The pod's address.
        address: String,
    },
    /// Ask object storage something through a node. What comes of it is seen in
    /// [`Observed::answers`](crate::Observed::answers) by the next pass.
    AskBucket {
        /// The node, which is its pod.
        node: String,
        /// The pod's UID.
        pod_uid: String,
        /// The pod's address.
        address: String,
        /// The question.
        request: Box<BucketRequest>,
    },
    /// Tell a node what became of a call that a person waits at.
    AnswerCall {
        /// The node, which is its pod.
        node: String,
        /// The pod's UID.
        pod_uid: String,
        /// The pod's address.
        address: String,
        /// The answer.
        answer: Box<CallAnswer>,
    },
    /// Write the status of a `DynomiteBackup`, exactly of this one.
    WriteBackup {
        /// Which one, and in which version.
        seen: AsSeen,
        /// What it says now.
        status: Box<DynomiteBackupStatus>,
    },
    /// Make a `DynomiteBackup`; one of this name that is there already is as good.
    MakeBackup(Box<DynomiteBackup>),
    /// Take an annotation off the `DynomiteCluster`, if it still has this value.
    TakeAnnotation {
        /// The annotation.
        annotation: &'static str,
        /// The value it was seen with.
        value: String,
    },
    /// Make a `DynomiteRestore`; one of this name that is there already is as good.
    MakeRestore(Box<DynomiteRestore>),
    /// Write the status of a `DynomiteRestore`, exactly of this one.
    WriteRestore {
        /// Which one, and in which version.
        seen: AsSeen,
        /// What it says now.
        status: Box<DynomiteRestoreStatus>,
    },
    /// Set or remove the finalizer on a `DynomiteRestore`.
    SetRestoreFinalizer {
        /// Its name, in the cluster's namespace.
        name: String,
        /// The UID it was seen with.
        uid: String,
        /// Whether it should be there.
        present: bool,
    },
    /// Set or remove the finalizer on a `DynomiteBackup`.
    SetBackupFinalizer {
        /// Its name, in the cluster's namespace.
        name: String,
        /// The UID it was seen with.
        uid: String,
        /// Whether it should be there.
        present: bool,
    },
    /// Make the pod that loads backups to prove them.
    MakeScratch(Box<Pod>),
    /// Delete it, exactly this one. It is no node: nothing of the ring goes with it.
    EndScratch {
        /// Its name, in the cluster's namespace.
        name: String,
        /// The UID it was seen with.
        uid: String,
    },
    /// Tell people by an Event on the `DynomiteCluster`.
    Event {
        /// Normal or warning.
        kind: EventKind,
        /// `CamelCase`, documented.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// An object as it was seen: what is decided from it is written only while it is
/// still so. A late word of an operator that leads no more changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsSeen {
    /// Its name, in the cluster's namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
}

impl AsSeen {
    /// The object with these metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}

impl Action {
    /// What the action touches, such as `Service ring` or `node ring-dc1-a-0`.
    pub fn target(&self) -> String {
        match self {
            Self::Apply(object) => format!("{} {}", object.kind().name(), object.name()),
            Self::Delete { kind, name, .. } => format!("{} {name}", kind.name()),
            Self::DeleteAtOnce { name, .. } | Self::EndScratch { name, .. } => {
                format!("{} {name}", Kind::Pod.name())
            }
            Self::Assign { node, .. } => format!("node {node}"),
            Self::Orphan { name, .. } => format!("{} {name}", Kind::StatefulSet.name()),
            Self::Resize { pod, .. } => format!("Pod {pod}"),
            Self::IssueCertificates(what) if what.new_node => {
                format!("Secret {}", what.node_secret)
            }
            Self::IssueCertificates(what) => format!("Secret {}", what.admin_secret),
            Self::HandCredentials { node, .. } => format!("credentials of node {node}"),
            Self::AskBucket { request, .. } => format!("store {}", request.place.store),
            Self::AnswerCall { node, .. } => format!("call at node {node}"),
            Self::WriteBackup {
                seen: AsSeen { name, .. },
                ..
            }
            | Self::SetBackupFinalizer { name, .. } => format!("DynomiteBackup {name}"),
            Self::MakeBackup(backup) => {
                let name = backup.metadata.name.as_deref().unwrap_or_default();
                format!("DynomiteBackup {name}")
            }
            Self::TakeAnnotation { annotation, .. } => format!("annotation {annotation}"),
            Self::MakeRestore(restore) => {
                let name = restore.metadata.name.as_deref().unwrap_or_default();
                format!("DynomiteRestore {name}")
            }
            Self::WriteRestore {
                seen: AsSeen { name, .. },
                ..
            }
            | Self::SetRestoreFinalizer { name, .. } => format!("DynomiteRestore {name}"),
            Self::MakeScratch(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                format!("{} {name}", Kind::Pod.name())
            }
            Self::SetFinalizer { .. } => "DynomiteCluster".to_owned(),
            Self::Event { reason, .. } => format!("Event {reason}"),
        }
    }

    /// Whether it takes a node out of the ring.
    pub fn disrupts(&self) -> bool {
        match self {
            Self::Delete { kind, .. } => matches!(kind, Kind::Pod | Kind::StatefulSet),
            Self::DeleteAtOnce { .. } => true,
            Self::Assign { desired, .. } => desired.distrust.is_some(),
            _ => false,
        }
    }
}

/// Names of containers and their resources, in the order of the pod: the API
/// server refuses a patch that seems to reorder containers.
pub type ByContainer = Vec<(String, ResourceRequirements)>;

/// What the containers of a pod are given, of what a running pod can be given:
/// CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Resources {
    /// The init containers, native sidecars among them.
    pub init: ByContainer,
    /// The others.
    pub main: ByContainer,
}

impl Resources {
    /// A digest, by which a refusal is told to be of the same resources.
    pub fn digest(&self) -> String {
        compare::digest(self)
    }
}

/// Which certificates to make. The Secrets are owned by the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// The Secret of the CA, the operator's client certificate in it.
    pub ca_secret: String,
    /// Whether to make a new CA; else the one in the Secret signs.
    pub new_ca: bool,
    /// The Secret of the nodes' certificate.
    pub node_secret: String,
    /// Whether to make the nodes' certificate anew.
    pub new_node: bool,
    /// The DNS names in the nodes' certificate.
    pub dns_names: Vec<String>,
    /// The Secret of the certificate with which people speak to nodes.
    pub admin_secret: String,
    /// Whether to make that anew.
    pub new_admin: bool,
}

/// How an Event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Something was done.
    Normal,
    /// Something needs attention.
    Warning,
}

/// An object to apply: only the fields the operator owns.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an action holds it in a box, and nothing holds many"
)]
pub enum Object {
    /// A rack.
    StatefulSet(StatefulSet),
    /// A way to reach nodes.
    Service(Service),
    /// The token record.
    ConfigMap(ConfigMap),
    /// How many nodes may be evicted.
    PodDisruptionBudget(PodDisruptionBudget),
    /// Marks and size of a volume claim that exists.
    PersistentVolumeClaim(PersistentVolumeClaim),
}

/// The kinds of objects that are applied or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `apps/v1`.
    StatefulSet,
    /// `v1`.
    Service,
    /// `v1`.
    ConfigMap,
    /// `policy/v1`.
    PodDisruptionBudget,
    /// `v1`.
    PersistentVolumeClaim,
    /// `v1`.
    Pod,
    /// `v1`.
    Secret,
    /// `dynomite.io/v1alpha1`.
    DynomiteBackup,
    /// `dynomite.io/v1alpha1`.
    DynomiteRestore,
}

impl Kind {
    /// The kind as Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StatefulSet => "StatefulSet",
            Self::Service => "Service",
            Self::ConfigMap => "ConfigMap",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::DynomiteBackup => "DynomiteBackup",
            Self::DynomiteRestore => "DynomiteRestore",
        }
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::StatefulSet(_) => Kind::StatefulSet,
            Self::Service(_) => Kind::Service,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Self::PersistentVolumeClaim(_) => Kind::PersistentVolumeClaim,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::StatefulSet(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::PodDisruptionBudget(o) => &o.metadata,
            Self::PersistentVolumeClaim(o) => &o.metadata,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
}

/// What became of a plan's actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The actions that failed.
    pub failures: Vec<Failure>,
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step it belongs to.
    pub step: StepName,
    /// What it touched: [`Action::target`].
    pub target: String,
    /// One word, `CamelCase`, such as `Forbidden` or `QuotaExceeded`.
    pub reason: String,
    /// The error in words, without anything that changes from try to try.
    pub message: String,
}
