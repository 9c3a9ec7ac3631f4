//! The ring as it is: what is declared of each node joined with its pod and its report.

use std::borrow::Cow;

use dynomite_api::Token;
use dynomite_api::annotations::LABEL_RACK;
use dynomite_api::contract::{
    EngineState, FINDING_SETTING_REFUSED, NodePhase, NodeReport, ProofKind,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::blocker::{self, Blocker};
use crate::cluster::{Cluster, Rack};
use crate::levels::Levels;
use crate::observed::{Observed, Seen};
use crate::tokens::{self, Tokens};

/// A ring: all declared nodes, rack by rack, in order of their ordinals.
pub struct Ring<'a> {
    /// The nodes.
    pub nodes: Vec<Node<'a>>,
    /// Nodes of racks that the spec does not name any more, as long as they have
    /// pods: they serve, take writes and give copies until the others can do
    /// without them.
    pub leaving: Vec<Node<'a>>,
    /// Their tokens and what stands against them.
    pub tokens: Tokens,
    /// Since when the ring has served, if it has.
    pub served_since: Option<Timestamp>,
    /// Which nodes have missed writes that their replicas have.
    pub levels: Levels,
}

/// A declared node and what is seen of it.
pub struct Node<'a> {
    /// Its name, which is its pod's.
    pub name: String,
    /// Its rack.
    pub rack: Cow<'a, Rack>,
    /// Its number within the rack.
    pub ordinal: usize,
    /// Its token.
    pub token: Token,
    /// Its host name.
    pub host: String,
    /// Its rack's `StatefulSet`.
    pub set: Option<&'a StatefulSet>,
    /// Its pod.
    pub pod: Option<&'a Pod>,
    /// Its volume claim.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// What it says of itself; unknown also when another pod speaks under its name.
    pub report: Result<&'a NodeReport, String>,
    /// What keeps its pod from running.
    pub blocker: Option<Blocker>,
}

impl<'a> Ring<'a> {
    /// Joins what is declared with what is seen.
    pub fn new(cluster: &'a Cluster, observed: &'a Observed) -> Self {
        let tokens = tokens::resolve(cluster, observed);
        let mut nodes = Vec::new();
        for rack in &cluster.racks {
            for (ordinal, token) in tokens.by_ordinal.iter().enumerate() {
                let rack = Cow::Borrowed(rack);
                nodes.push(Node::new(cluster, observed, rack, ordinal, *token));
            }
        }
        let declared = nodes.len();
        nodes.extend(leaving(cluster, observed, &tokens));
        // A node that leaves may have what the others missed.
        let levels = Levels::new(&nodes, observed);
        let leaving = nodes.split_off(declared);
        Self {
            levels,
            nodes,
            leaving,
            served_since: tokens::served_since(cluster, observed),
            tokens,
        }
    }

    /// The nodes of a token.
    pub fn replicas(&self, token: Token) -> impl Iterator<Item = &Node<'a>> {
        self.nodes.iter().filter(move |node| node.token == token)
    }

    /// The nodes that may have a token's data: those of the token, and those that leave.
    pub fn holders(&self, token: Token) -> impl Iterator<Item = &Node<'a>> {
        let all = self.nodes.iter().chain(&self.leaving);
        all.filter(move |node| node.token == token)
    }

    /// Whether any node says that it serves clients. It says so now, whatever
    /// else was seen is older: such a ring has begun to serve.
    pub fn serves(&self) -> bool {
        let mut reports = self
            .nodes
            .iter()
            .chain(&self.leaving)
            .filter_map(|node| node.report.as_ref().ok());
        reports.any(|report| report.ready)
    }

    /// The nodes of a rack.
    pub fn of_rack<'r>(&'r self, rack: &'r str) -> impl Iterator<Item = &'r Node<'a>> {
        self.nodes.iter().filter(move |node| node.rack.name == rack)
    }
}

impl<'a> Node<'a> {
    fn new(
        cluster: &'a Cluster,
        observed: &'a Observed,
        rack: Cow<'a, Rack>,
        ordinal: usize,
        token: Token,
    ) -> Self {
        let name = cluster.node_name(&rack.name, ordinal);
        let set_name = cluster.rack_name(&rack.name);
        let set = observed
            .stateful_sets
            .get(&set_name)
            .filter(|set| owned_by(&set.metadata, &cluster.id.uid));
        let pod = observed.pods.get(&name).filter(|pod| of_set(pod, set));
        let claim = observed.claims.get(&Cluster::claim_name(&name));
        let report = report(observed, &name, pod);
        let blocker = pod
            .and_then(|pod| blocker::of_pod(cluster, &rack, pod, claim, observed))
            .or_else(|| {
                pod.is_none()
                    .then(|| blocker::of_set(&set_name, observed))?
            });
        Self {
            host: cluster.host(&name),
            name,
            rack,
            ordinal,
            token,
            set,
            pod,
            claim,
            report,
            blocker,
        }
    }

    /// The pod's UID; empty when there is no pod.
    pub fn pod_uid(&self) -> &str {
        let uid = self.pod.and_then(|pod| pod.metadata.uid.as_deref());
        uid.unwrap_or_default()
    }

    /// The pod's first address.
    pub fn address(&self) -> Option<&str> {
        let status = self.pod?.status.as_ref()?;
        status.pod_ip.as_deref().filter(|ip| !ip.is_empty())
    }

    /// Whether the pod is leaving.
    pub fn terminating(&self) -> bool {
        self.pod
            .is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// Whether Kubernetes counts the pod among the endpoints.
    pub fn pod_ready(&self) -> bool {
        let conditions = self
            .pod
            .and_then(|pod| pod.status.as_ref())
            .and_then(|status| status.conditions.as_ref());
        let ready =
            |c: &k8s_openapi::api::core::v1::PodCondition| c.type_ == "Ready" && c.status == "True";
        !self.terminating() && conditions.is_some_and(|list| list.iter().any(ready))
    }

    /// Whether the node itself says that it serves with proven data.
    pub fn proven(&self) -> bool {
        self.report.as_ref().is_ok_and(|report| {
            report.proof.kind != ProofKind::Unproven && report.phase == NodePhase::Serving
        })
    }

    /// Whether the node counts as ready: by Kubernetes, and by its own word.
    /// What nobody knows, what leaves and what is not yet warm does not count.
    pub fn ready(&self) -> bool {
        self.pod_ready() && self.proven() && self.report.as_ref().is_ok_and(|report| report.ready)
    }

    /// Whether nothing but the serve gate keeps the node from serving.
    pub fn poised(&self) -> bool {
        let normal = |report: &NodeReport| {
            report
                .engine
                .as_ref()
                .is_some_and(|e| e.state == EngineState::Normal)
        };
        !self.terminating()
            && self
                .report
                .as_ref()
                .is_ok_and(|report| report.proof.kind != ProofKind::Unproven && normal(report))
    }

    /// What it says of settings that it leaves out, if there are any.
    pub fn refused_setting(&self) -> Option<&str> {
        let findings = &self.report.as_ref().ok()?.findings;
        let found = findings
            .iter()
            .find(|finding| finding.reason == FINDING_SETTING_REFUSED)?;
        Some(&found.message)
    }

    /// Whether the node copies a donor's data now.
    pub fn warming_up(&self) -> bool {
        self.report.as_ref().is_ok_and(|report| {
            matches!(report.phase, NodePhase::WarmingUp | NodePhase::CatchingUp)
        })
    }

    /// Whether its store may hold proven data, for all that is known: an
    /// incarnation that runs and has not been heard of might. A pod that leaves
    /// takes its data's proof with it.
    pub fn may_be_proven(&self) -> bool {
        match &self.report {
            Ok(report) => report.proof.kind != ProofKind::Unproven,
            Err(_) => self.address().is_some() && !self.terminating(),
        }
    }

    /// Whether the node was told to stay out of service, and is not only waiting
    /// for the ring to begin. Its pod stays as it is until it is let go: a new
    /// one would have forgotten.
    pub fn held(&self) -> bool {
        self.report
            .as_ref()
            .is_ok_and(|report| report.phase == NodePhase::Held && report.awaiting.is_none())
    }

    /// What the node lacks to be ready, in words; empty when it is ready.
    pub fn lacks(&self) -> String {
        if self.ready() {
            return String::new();
        }
        if let Some(blocker) = &self.blocker {
            return blocker.message.clone();
        }
        if self.pod.is_none() {
            return "its pod does not exist yet".to_owned();
        }
        if self.terminating() {
            return "its pod is terminating".to_owned();
        }
        match &self.report {
            Err(why) => format!("its sidecar has not been heard: {why}"),
            Ok(report) if !report.message.is_empty() => report.message.clone(),
            Ok(report) if report.ready => "its pod is not ready yet".to_owned(),
            Ok(report) => format!("it is {:?}", report.phase),
        }
    }
}

/// The nodes that still run of racks that the spec does not name.
fn leaving<'a>(cluster: &'a Cluster, observed: &'a Observed, tokens: &Tokens) -> Vec<Node<'a>> {
    let mut nodes = Vec::new();
    for set in observed.stateful_sets.values() {
        let labels = set.metadata.labels.as_ref();
        let Some(rack) = labels.and_then(|labels| labels.get(LABEL_RACK)) else {
            continue;
        };
        let declared = cluster.racks.iter().any(|known| known.name == *rack);
        if declared || !owned_by(&set.metadata, &cluster.id.uid) {
            continue;
        }
        for name in observed.pods.keys() {
            let prefix = format!("{}-", cluster.rack_name(rack));
            let ordinal = name
                .strip_prefix(&prefix)
                .and_then(|rest| rest.parse().ok());
            let (Some(ordinal), Some(token)) = (ordinal, tokens.record.get(name)) else {
                continue;
            };
            let rack = Cow::Owned(Rack {
                name: rack.clone(),
                zone: None,
            });
            let node = Node::new(cluster, observed, rack, ordinal, *token);
            nodes.extend(node.pod.is_some().then_some(node));
        }
    }
    nodes
}

/// The report of a node, if it can be taken for this pod's.
fn report<'a>(
    observed: &'a Observed,
    name: &str,
    pod: Option<&Pod>,
) -> Result<&'a NodeReport, String> {
    let Some(pod) = pod else {
        return Err("there is no pod".to_owned());
    };
    match observed.reports.get(name) {
        None => Err("it was not asked".to_owned()),
        Some(Seen::Unknown(why)) => Err(why.clone()),
        Some(Seen::Known(report)) => {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            if report.node == name && report.pod_uid == uid {
                Ok(report)
            } else {
                Err("another pod answered at its address".to_owned())
            }
        }
    }
}

/// Whether the controlling owner has this UID.
pub(crate) fn owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_uid(metadata) == Some(uid)
}

/// The UID of the controlling owner.
pub(crate) fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    let mut owners = metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    Some(&owner.uid)
}

/// Whether a pod is the `StatefulSet`'s own: a pod of a deleted one of the same
/// name is somebody else's, and one without a controller will be adopted.
fn of_set(pod: &Pod, set: Option<&StatefulSet>) -> bool {
    let set_uid = set.and_then(|set| set.metadata.uid.as_deref());
    match (controller_uid(&pod.metadata), set_uid) {
        (None, _) => true,
        (Some(owner), Some(set)) => owner == set,
        (Some(_), None) => false,
    }
}
