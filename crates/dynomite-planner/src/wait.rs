//! What the operator waits for: a typed reason, a word for conditions, a sentence for people.

use dynomite_api::Token;
use dynomite_api::annotations::ANNOTATION_UPDATE_IMAGES;
use dynomite_api::contract::FINDING_SETTING_REFUSED;

use crate::plan::Kind;
use crate::safety::Refusal;

/// Why the operator does not go on by itself right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `spec.paused`.
    Paused,
    /// A backup is being taken.
    BackingUp {
        /// Its name.
        backup: String,
    },
    /// A restore exchanges the ring's data.
    Restoring {
        /// Its name.
        restore: String,
        /// How far it is.
        message: String,
    },
    /// An object of ours has a name that someone else's object holds.
    NameTaken {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// Whose it is, in words.
        owner: String,
    },
    /// An object of a deleted cluster of the same name is still being collected.
    PreviousOwner {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The certificates could not be read.
    CertificatesUnknown {
        /// Why.
        why: String,
    },
    /// What is recorded of the tokens cannot be read.
    TokenRecordUnreadable {
        /// Name of the `ConfigMap`.
        name: String,
        /// Why.
        why: String,
    },
    /// Recorded tokens contradict the spec or each other.
    TokenMismatch {
        /// The node.
        node: String,
        /// What is recorded, and where.
        recorded: String,
        /// What the spec asks for.
        wanted: String,
    },
    /// A node could not be asked.
    ReportUnknown {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// A node holds a document that was decided from a newer resource than this one.
    NewerDocument {
        /// The node.
        node: String,
    },
    /// A node refuses the document that it should have.
    DocumentRefused {
        /// The node.
        node: String,
        /// The node's own words.
        why: String,
        /// The command that makes its pod anew.
        command: String,
    },
    /// Something outside the ring keeps a pod from running.
    Blocked {
        /// The rack.
        rack: String,
        /// The node.
        node: String,
        /// One word, `CamelCase`.
        reason: &'static str,
        /// What to do.
        message: String,
    },
    /// A pod is coming up.
    Starting {
        /// The node.
        node: String,
        /// What it lacks.
        message: String,
    },
    /// The ring has never served and its nodes are not all there yet.
    ServeGate {
        /// The nodes that are not.
        missing: Vec<String>,
    },
    /// A node copies its data.
    WarmingUp {
        /// The node.
        node: String,
        /// From whom; empty when no donor has been found yet.
        donor: String,
    },
    /// A node is to copy its data when fewer others do.
    WarmUpQueued {
        /// The node.
        node: String,
        /// How many may copy at once.
        limit: usize,
    },
    /// A node was told to stay out of service.
    NodeHeld {
        /// The node.
        node: String,
        /// By whom, and how it is taken back.
        message: String,
    },
    /// A node could not do what it should and tries again.
    NodeFailed {
        /// The node.
        node: String,
        /// The node's own words.
        message: String,
    },
    /// No replica of a token has proven data: a person must accept the loss.
    NoProvenReplica {
        /// The token.
        token: Token,
        /// The node that has most of the data, and its pod's UID.
        proposal: Option<(String, String)>,
        /// The command that accepts it.
        command: String,
    },
    /// A node may not leave, and why.
    MayNotLeave {
        /// The node.
        node: String,
        /// Why not.
        refusal: Refusal,
    },
    /// A node is to get a fresh volume and a new pod, and may not yet.
    MayNotReplace {
        /// The node.
        node: String,
        /// Why it is to be replaced.
        why: String,
        /// Why not yet.
        refusal: Refusal,
        /// The command that replaces it all the same.
        command: String,
    },
    /// A node has not been heard for long: only a person knows whether it comes back.
    Silent {
        /// The node.
        node: String,
        /// The Kubernetes node it ran on.
        host: String,
        /// The command that replaces it.
        command: String,
    },
    /// A node has missed writes that a replica has, and is to copy them.
    Behind {
        /// The node.
        node: String,
        /// The replica it is made equal to.
        reference: String,
        /// Why not yet; `None` when it has been told to.
        refusal: Option<Refusal>,
    },
    /// Keys of a node's token are not the same on all its replicas.
    ReplicasDiffer {
        /// The node that compared them.
        node: String,
        /// How many.
        keys: u64,
        /// Whether such keys are repaired.
        repairs: bool,
    },
    /// A node could not be compared with its replicas.
    NotCompared {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// A node does not hear a coordinator whose writes reach its replicas.
    CutOff {
        /// The node.
        node: String,
        /// The coordinator.
        coordinator: String,
    },
    /// A datacenter elsewhere does not describe itself.
    RemoteUnanswered {
        /// Its name.
        datacenter: String,
        /// Why.
        why: String,
        /// How many of its nodes are known from before.
        known: usize,
    },
    /// The `StatefulSet` controller has not yet seen the newest spec.
    RevisionPending {
        /// The `StatefulSet`.
        name: String,
    },
    /// Settings are held that take effect only at a restart nobody asked for.
    RestartRequired {
        /// The node.
        node: String,
        /// Their names.
        settings: Vec<String>,
    },
    /// Settings of the spec are left out, because processes would not start
    /// with them.
    SettingRefused {
        /// Which, why, and what to do.
        message: String,
    },
    /// A pod is being given other resources.
    Resizing {
        /// The node.
        node: String,
        /// How far it is.
        message: String,
    },
    /// A volume was told to grow and has not yet.
    VolumeGrowing {
        /// Its claim.
        claim: String,
        /// The size it has.
        from: String,
        /// The size it is to have.
        to: String,
        /// What Kubernetes says of it; empty when nothing.
        message: String,
    },
    /// Pods are made as an earlier operator made them, until a person approves.
    UpgradeAwaitsApproval {
        /// The cluster's namespace.
        namespace: String,
        /// Its name.
        cluster: String,
        /// The sidecar's image that runs.
        runs: String,
        /// The image that is to be approved.
        image: String,
    },
    /// Pods of a deleted cluster, or of a removed rack, are still leaving.
    PodsLeaving {
        /// The pods.
        pods: Vec<String>,
    },
}

impl Wait {
    /// One word for conditions, `CamelCase`; documented with the conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::BackingUp { .. } => "BackingUp",
            Self::Restoring { .. } => "Restoring",
            Self::NameTaken { .. } => "NameTaken",
            Self::PreviousOwner { .. } => "PreviousOwner",
            Self::CertificatesUnknown { .. } => "CertificatesUnknown",
            Self::TokenRecordUnreadable { .. } => "TokenRecordUnreadable",
            Self::TokenMismatch { .. } => "TokenMismatch",
            Self::ReportUnknown { .. } => "NodeUnknown",
            Self::NewerDocument { .. } => "NewerDocument",
            Self::DocumentRefused { .. } => "DocumentRefused",
            Self::Blocked { reason, .. } => reason,
            Self::Starting { .. } => "NodeStarting",
            Self::ServeGate { .. } => "ServeGate",
            Self::WarmingUp { .. } => "WarmingUp",
            Self::WarmUpQueued { .. } => "WarmUpQueued",
            Self::NodeHeld { .. } => "NodeHeld",
            Self::NodeFailed { .. } => "NodeFailed",
            Self::NoProvenReplica { .. } => "NoProvenReplica",
            Self::MayNotLeave { refusal, .. } | Self::MayNotReplace { refusal, .. } => {
                refused(refusal)
            }
            Self::Silent { .. } => "NodeSilent",
            Self::Behind { .. } => "NodeBehind",
            Self::CutOff { .. } => "NodeCutOff",
            Self::RemoteUnanswered { .. } => "RemoteUnanswered",
            Self::ReplicasDiffer { .. } => "ReplicasDiffer",
            Self::NotCompared { .. } => "NotCompared",
            Self::RevisionPending { .. } => "RevisionPending",
            Self::RestartRequired { .. } => "RestartRequired",
            Self::SettingRefused { .. } => FINDING_SETTING_REFUSED,
            Self::Resizing { .. } => "Resizing",
            Self::VolumeGrowing { .. } => "VolumeGrowing",
            Self::UpgradeAwaitsApproval { .. } => "UpgradeAwaitsApproval",
            Self::PodsLeaving { .. } => "PodsLeaving",
        }
    }

    /// The same for people, with what they can do. It names nothing that
    /// changes while the wait stays the same.
    pub fn message(&self) -> String {
        match self {
            Self::Paused => "spec.paused is true: set it to false to go on".to_owned(),
            Self::BackingUp { backup } => format!("DynomiteBackup {backup} is under way"),
            Self::Restoring { restore, message } if message.is_empty() => {
                format!("DynomiteRestore {restore} is under way")
            }
            Self::Restoring { restore, message } => {
                format!("DynomiteRestore {restore} is under way: {message}")
            }
            Self::NameTaken { kind, name, owner } => format!(
                "{} {name} is needed and {owner}: remove or rename it, or give this cluster another name",
                kind.name()
            ),
            Self::PreviousOwner { kind, name } => format!(
                "{} {name} of an earlier owner is still being removed; if it stays, delete it",
                kind.name()
            ),
            Self::CertificatesUnknown { why } => format!("the certificates cannot be read: {why}"),
            Self::TokenRecordUnreadable { name, why } => format!(
                "the tokens recorded in ConfigMap {name} cannot be read ({why}): repair it, or delete it if the volumes carry their tokens"
            ),
            Self::TokenMismatch {
                node,
                recorded,
                wanted,
            } => format!(
                "node {node} has token {recorded}, but it should be {wanted}: a node keeps its token for life; declare the racks and tokens as they were"
            ),
            Self::ReportUnknown { node, why } => format!("node {node} cannot be asked: {why}"),
            Self::NewerDocument { node } => {
                format!("node {node} was told something newer than this operator has seen")
            }
            Self::DocumentRefused { node, why, command } => format!(
                "node {node} does not take what it is told and lives by what it holds: {why}. A new pod takes it; once the node's replicas are ready: {command}"
            ),
            Self::Blocked { node, message, .. } => format!("node {node}: {message}"),
            Self::Starting { node, message } => format!("node {node} is coming up: {message}"),
            Self::ServeGate { missing } => format!(
                "the ring begins to serve when all nodes are ready for it; missing: {}",
                missing.join(", ")
            ),
            Self::WarmingUp { node, donor } if donor.is_empty() => {
                format!("node {node} looks for a donor")
            }
            Self::WarmingUp { node, donor } => format!("node {node} copies its data from {donor}"),
            Self::WarmUpQueued { node, limit } => format!(
                "node {node} waits for its turn to copy its data: {limit} may at once (spec.warmUp.maxParallel)"
            ),
            Self::NodeHeld { node, message } => format!("node {node} stays out: {message}"),
            Self::NodeFailed { node, message } => format!("node {node} tries again: {message}"),
            Self::NoProvenReplica {
                token,
                proposal,
                command,
            } => no_proven_replica(*token, proposal.as_ref(), command),
            Self::MayNotLeave { node, refusal } => {
                format!("node {node} is to be replaced and may not leave yet: {refusal}")
            }
            Self::MayNotReplace {
                node,
                why,
                refusal,
                command,
            } => format!(
                "node {node} is to be replaced ({why}) and may not yet: {refusal}. To replace it all the same, and lose what only it has: {command}"
            ),
            Self::Silent {
                node,
                host,
                command,
            } => format!(
                "node {node} has not been heard for some minutes, and only you know whether Kubernetes node {host} comes back. If it does not: delete it or taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or replace this node alone: {command}"
            ),
            Self::Behind {
                node,
                reference,
                refusal,
            } => {
                let when = refusal.as_ref().map_or_else(
                    || "it leaves the endpoints and copies them".to_owned(),
                    |refusal| format!("it will copy them, and not yet: {refusal}"),
                );
                format!("node {node} has missed writes that node {reference} has: {when}")
            }
            Self::CutOff { node, coordinator } => format!(
                "node {node} does not hear node {coordinator}, whose writes reach its replicas: see to the network between the two; the node is made equal when it hears it again"
            ),
            Self::RemoteUnanswered {
                datacenter,
                why,
                known: 0,
            } => format!(
                "datacenter {datacenter} does not describe itself ({why}) and none of its nodes is known, so nothing is sent there: see to spec.remoteDatacenters[].describe"
            ),
            Self::RemoteUnanswered {
                datacenter,
                why,
                known,
            } => format!(
                "datacenter {datacenter} does not describe itself ({why}): its {known} nodes stay as they were last known; see to spec.remoteDatacenters[].describe"
            ),
            Self::ReplicasDiffer {
                node,
                keys,
                repairs: true,
            } => format!(
                "{keys} keys of node {node} or its replicas still differ, because they were being written or a store refused the value: the next comparison tries again, and the node's log says why"
            ),
            Self::ReplicasDiffer { node, keys, .. } => format!(
                "{keys} keys of node {node} and its replicas differ: set spec.compare.repair to true, and the value that most of them have replaces the others"
            ),
            Self::NotCompared { node, why } => {
                format!(
                    "node {node} could not be compared with its replicas: {why}; it is tried again"
                )
            }
            Self::RevisionPending { name } => {
                format!("StatefulSet {name} has not taken over its newest spec yet")
            }
            Self::RestartRequired { node, settings } => format!(
                "node {node} will take {} only when it restarts: annotate the cluster with kubectl.kubernetes.io/restartedAt",
                settings.join(", ")
            ),
            Self::SettingRefused { message } | Self::Resizing { message, .. } => message.clone(),
            Self::VolumeGrowing {
                claim,
                from,
                to,
                message,
            } => {
                let said = if message.is_empty() {
                    "Kubernetes has not said how far it is"
                } else {
                    message
                };
                format!("volume claim {claim} grows from {from} to {to}: {said}")
            }
            Self::UpgradeAwaitsApproval {
                namespace,
                cluster,
                runs,
                image,
            } => format!(
                "nodes run as an earlier operator made them, with image {runs}. To let them restart one at a time as this one makes them: kubectl annotate dyn {cluster} --namespace {namespace} --overwrite {ANNOTATION_UPDATE_IMAGES}={image}"
            ),
            Self::PodsLeaving { pods } => format!("still leaving: {}", pods.join(", ")),
        }
    }

    /// The node that something is wrong with, if it is about one. What only
    /// takes its time is not wrong.
    pub fn wrong_with(&self) -> Option<&str> {
        match self {
            Self::ReportUnknown { node, .. }
            | Self::Blocked { node, .. }
            | Self::NodeHeld { node, .. }
            | Self::NodeFailed { node, .. }
            | Self::DocumentRefused { node, .. }
            | Self::RestartRequired { node, .. }
            | Self::MayNotReplace { node, .. }
            | Self::Silent { node, .. }
            | Self::Behind { node, .. }
            | Self::CutOff { node, .. }
            | Self::ReplicasDiffer { node, .. }
            | Self::NotCompared { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Whether nothing goes on without a person.
    pub fn stalls(&self) -> bool {
        matches!(
            self,
            Self::NameTaken { .. }
                | Self::TokenRecordUnreadable { .. }
                | Self::TokenMismatch { .. }
                | Self::NoProvenReplica { .. }
                | Self::MayNotLeave {
                    refusal: Refusal::WouldLoseData,
                    ..
                }
                | Self::MayNotReplace {
                    refusal: Refusal::OnlyCopy,
                    ..
                }
        )
    }

    /// Whether it is only told, and keeps nothing from being as declared.
    pub fn informs(&self) -> bool {
        matches!(
            self,
            Self::RestartRequired { .. }
                | Self::UpgradeAwaitsApproval { .. }
                | Self::VolumeGrowing { .. }
                | Self::CutOff { .. }
                | Self::RemoteUnanswered { .. }
                | Self::ReplicasDiffer { .. }
                | Self::NotCompared { .. }
                | Self::BackingUp { .. }
        )
    }
}

fn refused(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::OtherNodeDown { .. } => "OtherNodeDown",
        Refusal::PeerWarmingUp { .. } => "PeerWarmingUp",
        Refusal::OtherBehind { .. } => "OtherNodeBehind",
        Refusal::OtherCutOff { .. } => "OtherNodeCutOff",
        Refusal::NoHeadroom { .. } => "NoHeadroom",
        Refusal::WouldLoseData => "WouldLoseData",
        Refusal::SettingRefused => FINDING_SETTING_REFUSED,
        Refusal::OnlyCopy => "OnlyCopy",
    }
}

fn no_proven_replica(token: Token, proposal: Option<&(String, String)>, command: &str) -> String {
    match proposal {
        Some((node, _)) => format!(
            "no node of token {token} has proven data; node {node} has the most. To serve what it has, and lose what it lacks: {command}"
        ),
        None => format!("no node of token {token} has proven data"),
    }
}
