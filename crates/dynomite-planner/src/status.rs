//! The status of a cluster: what people, kubectl and other controllers read of what was seen, planned and done.

use std::collections::BTreeMap;

use dynomite_api::contract::{NodeReport, PORT_CLIENT, WarmUpProgress, WarmUpStage};
use dynomite_api::crd::{
    ClusterPhase, ConditionType, DynomiteCluster, DynomiteClusterStatus, FindingStatus, NodeStatus,
    PlanStatus, RackStatus, TokenStatus, WarmUpStatus, set_condition,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::cluster::{Cluster, Rack, Violations};
use crate::observed::Observed;
use crate::plan::{Action, Outcome, Plan, StepName};
use crate::remotes::Remote;
use crate::ring::{Node, Ring};
use crate::wait::Wait;

/// How many entries `status.plan` has at most; a ring of many nodes may wait for each.
const PLAN_LIMIT: usize = 32;
/// How many findings a node has in its status at most.
const FINDINGS_LIMIT: usize = 16;

/// Makes the status after a pass.
///
/// Pure, and quiet: with the same facts and its own result as `previous` it
/// returns an equal status, whatever `now` is.
pub fn status(
    cluster: &Cluster,
    observed: &Observed,
    plan: &Plan,
    previous: Option<&DynomiteClusterStatus>,
    outcome: &Outcome,
    now: Timestamp,
) -> DynomiteClusterStatus {
    let ring = Ring::new(cluster, observed);
    let view = View {
        cluster,
        observed,
        ring: &ring,
        plan,
        outcome,
        now,
    };
    let ready = ring.nodes.iter().filter(|node| node.ready()).count();
    let racks: Vec<RackStatus> = cluster.racks.iter().map(|rack| view.rack(rack)).collect();
    let complete = |rack: &&Rack| ring.of_rack(&rack.name).all(Node::ready);
    let racks_ready = cluster.racks.iter().filter(complete).count();
    let mut conditions = previous.map(|p| p.conditions.clone()).unwrap_or_default();
    if cluster.spec.backup.is_none() {
        conditions.retain(|c| c.type_ != ConditionType::BackupHealthy.name());
    }
    if cluster.remotes.is_empty() {
        conditions.retain(|c| c.type_ != ConditionType::RemotesKnown.name());
    }
    for verdict in view.verdicts() {
        verdict.set(&mut conditions, Some(cluster.generation), now);
    }
    DynomiteClusterStatus {
        observed_generation: Some(cluster.generation),
        phase: Some(view.phase()),
        nodes: format!("{ready}/{}", ring.nodes.len()),
        racks_ready: format!("{racks_ready}/{}", cluster.racks.len()),
        endpoint: Some(format!(
            "{}.{}.svc.{}:{PORT_CLIENT}",
            cluster.id.name, cluster.id.namespace, cluster.spec.cluster_domain
        )),
        served_since: ring.served_since.map(Time),
        conditions,
        racks,
        tokens: view.tokens(),
        remote_datacenters: crate::remotes::statuses(cluster, observed),
        backup: crate::backup::cluster_status(cluster, observed, now),
        refresh: crate::restore::refresh_status(cluster, observed, now),
        plan: view.plan_entries(),
    }
}

/// The status of a resource that cannot be carried out: its ring is left as it
/// is, and what was known of it stays.
pub fn invalid_status(
    resource: &DynomiteCluster,
    violations: &Violations,
    now: Timestamp,
) -> DynomiteClusterStatus {
    let mut status = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some(ClusterPhase::Stalled);
    let message = format!("the spec cannot be carried out: {violations}");
    for (of, value) in [
        (ConditionType::Ready, false),
        (ConditionType::Reconciling, false),
        (ConditionType::Stalled, true),
    ] {
        let verdict = Verdict::new(of, Some(value), "InvalidSpec", message.clone());
        verdict.set(&mut status.conditions, generation, now);
    }
    status.plan = vec![PlanStatus {
        step: StepName::Provision.name().to_owned(),
        reason: "InvalidSpec".to_owned(),
        message,
    }];
    status
}

/// What one condition says.
struct Verdict {
    of: ConditionType,
    status: Option<bool>,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(
        of: ConditionType,
        status: Option<bool>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            of,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn set(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Timestamp) {
        set_condition(
            conditions,
            self.of,
            self.status,
            &self.reason,
            &self.message,
            generation,
            now,
        );
    }
}

/// Everything a status is made from.
struct View<'a> {
    cluster: &'a Cluster,
    observed: &'a Observed,
    ring: &'a Ring<'a>,
    plan: &'a Plan,
    outcome: &'a Outcome,
    now: Timestamp,
}

impl View<'_> {
    /// The actions that change something.
    fn changes(&self) -> impl Iterator<Item = &crate::plan::Planned> {
        let actions = self.plan.actions.iter();
        actions.filter(|planned| {
            !is_beside(planned.step) && !matches!(planned.action, Action::Event { .. })
        })
    }

    /// What failed of them.
    fn failures(&self) -> impl Iterator<Item = &crate::plan::Failure> {
        let failures = self.outcome.failures.iter();
        failures.filter(|failure| !is_beside(failure.step))
    }

    /// The waits that keep the cluster from being as declared.
    fn obstacles(&self) -> impl Iterator<Item = &Wait> {
        self.plan
            .waits
            .iter()
            .map(|w| &w.wait)
            .filter(|w| !w.informs())
    }

    fn stalling(&self) -> Option<&Wait> {
        self.obstacles().find(|wait| wait.stalls())
    }

    /// What most explains why the cluster is not as declared: what a person must
    /// do, what cannot work, what failed, and only then what just takes time.
    fn explanation(&self) -> Option<(String, String)> {
        let said = |wait: &Wait| (wait.reason().to_owned(), wait.message());
        let rank = |wait: &&Wait| match wait {
            wait if wait.stalls() => 0,
            Wait::Blocked { .. } => 1,
            Wait::NodeFailed { .. }
            | Wait::DocumentRefused { .. }
            | Wait::PreviousOwner { .. }
            | Wait::SettingRefused { .. } => 2,
            Wait::MayNotLeave { .. } => 4,
            _ => 3,
        };
        let worst = self.obstacles().min_by_key(rank);
        if let Some(wait) = worst.filter(|wait| rank(wait) < 2) {
            return Some(said(wait));
        }
        if let Some(failure) = self.failures().next() {
            let message = format!("{}: {}", failure.target, failure.message);
            return Some((failure.reason.clone(), message));
        }
        if let Some(wait) = worst {
            return Some(said(wait));
        }
        let planned = self.changes().next()?;
        let message = format!("{}: {}", planned.action.target(), planned.why);
        Some(("Changing".to_owned(), message))
    }

    fn settled(&self) -> bool {
        self.changes().next().is_none()
            && self.obstacles().next().is_none()
            && self.failures().next().is_none()
    }

    /// The ready replicas of each token, in order of the tokens.
    fn tokens(&self) -> Vec<TokenStatus> {
        let required = u32::try_from(self.cluster.required()).unwrap_or(u32::MAX);
        let mut tokens = self.ring.tokens.by_ordinal.clone();
        tokens.sort_unstable();
        tokens
            .into_iter()
            .map(|token| {
                let ready = self
                    .ring
                    .replicas(token)
                    .filter(|node| node.ready())
                    .count();
                let ready = u32::try_from(ready).unwrap_or(u32::MAX);
                TokenStatus {
                    token,
                    ready,
                    required,
                    headroom: ready.cast_signed().saturating_sub_unsigned(required),
                }
            })
            .collect()
    }

    /// Whether every token can be served; `None` when too little is known.
    fn available(&self) -> Option<bool> {
        let required = self.cluster.required();
        let mut verdict = Some(true);
        for token in &self.ring.tokens.by_ordinal {
            let ready = self.ring.replicas(*token).filter(|n| n.ready()).count();
            // A pod that Kubernetes calls ready and whose sidecar we cannot ask may serve well.
            let perhaps = |n: &&Node<'_>| n.ready() || (n.pod_ready() && n.report.is_err());
            let at_best = self.ring.replicas(*token).filter(perhaps).count();
            if at_best < required {
                return Some(false);
            }
            if ready < required {
                verdict = None;
            }
        }
        verdict
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let backups = crate::backup::health(self.cluster, self.observed, self.now);
        let backups = backups.map(|(status, reason, message)| {
            Verdict::new(ConditionType::BackupHealthy, status, reason, message)
        });
        let mut verdicts = vec![
            self.ready(),
            self.reconciling(),
            self.stalled(),
            self.availability(),
            self.level(),
            self.tokens_assigned(),
            self.paused(),
        ];
        verdicts.extend(backups);
        verdicts.extend(self.remotes_known());
        verdicts
    }

    fn ready(&self) -> Verdict {
        let of = ConditionType::Ready;
        let nodes = self.ring.nodes.len();
        let all = self.ring.nodes.iter().all(Node::ready);
        if self.cluster.paused() && all {
            return Verdict::new(
                of,
                Some(true),
                "Paused",
                format!("all {nodes} nodes are ready, and spec.paused is true"),
            );
        }
        if all && self.settled() {
            return Verdict::new(
                of,
                Some(true),
                "AllNodesReady",
                format!("all {nodes} nodes are ready"),
            );
        }
        let down: Vec<&Node<'_>> = self.ring.nodes.iter().filter(|n| !n.ready()).collect();
        let unheard = |n: &&Node<'_>| n.pod_ready() && n.report.is_err();
        let only_unheard = !down.is_empty() && down.iter().all(unheard);
        let status = (!only_unheard).then_some(false);
        let (reason, message) = self.explanation().unwrap_or_else(|| {
            let message = down
                .first()
                .map_or_else(String::new, |n| format!("node {}: {}", n.name, n.lacks()));
            ("NodesNotReady".to_owned(), message)
        });
        Verdict::new(of, status, reason, message)
    }

    fn reconciling(&self) -> Verdict {
        let of = ConditionType::Reconciling;
        if self.cluster.paused() && !self.cluster.deleting {
            return Verdict::new(of, Some(false), "Paused", "spec.paused is true");
        }
        if let Some(wait) = self.stalling() {
            return Verdict::new(of, Some(false), "Stalled", wait.message());
        }
        match self.explanation() {
            Some((reason, message)) => Verdict::new(of, Some(true), reason, message),
            None => Verdict::new(of, Some(false), "Settled", "the cluster is as declared"),
        }
    }

    fn stalled(&self) -> Verdict {
        let of = ConditionType::Stalled;
        match self.stalling() {
            Some(wait) => Verdict::new(of, Some(true), wait.reason(), wait.message()),
            None => Verdict::new(of, Some(false), "NotStalled", "nothing waits for a person"),
        }
    }

    fn availability(&self) -> Verdict {
        let of = ConditionType::Available;
        if self.ring.served_since.is_none() {
            let message = "the ring has not begun to serve";
            return Verdict::new(of, Some(false), "NeverServed", message);
        }
        let poor = self.tokens().into_iter().find(|token| token.headroom < 0);
        let message = poor.map(|token| {
            format!(
                "token {}: {} replicas are ready, the consistency needs {}",
                token.token, token.ready, token.required
            )
        });
        match self.available() {
            Some(true) => Verdict::new(
                of,
                Some(true),
                "EveryTokenServed",
                "every token can be served at the configured consistency",
            ),
            Some(false) => Verdict::new(
                of,
                Some(false),
                "TooFewReplicas",
                message.unwrap_or_default(),
            ),
            None => Verdict::new(of, None, "NodeUnknown", message.unwrap_or_default()),
        }
    }

    fn level(&self) -> Verdict {
        let of = ConditionType::ReplicasLevel;
        let levels = &self.ring.levels;
        if let Some((node, behind)) = levels.all_behind().next() {
            let message = format!(
                "node {node} has missed writes that node {} has",
                behind.reference
            );
            return Verdict::new(of, Some(false), "NodeBehind", message);
        }
        if let Some((node, coordinator)) = levels.all_cut_off().next() {
            let message = format!("node {node} does not hear node {coordinator}");
            return Verdict::new(of, Some(false), "NodeCutOff", message);
        }
        let differ = |node: &&Node<'_>| crate::comparison::left(node) > 0;
        let compared = self.cluster.spec.compare.enabled;
        if let Some(node) = self.ring.nodes.iter().find(differ).filter(|_| compared) {
            let keys = crate::comparison::left(node);
            let message = format!("{keys} keys of node {} and its replicas differ", node.name);
            return Verdict::new(of, Some(false), "ReplicasDiffer", message);
        }
        if let Some(node) = levels.unnumbered() {
            let message = format!(
                "the engine of node {node} does not number its writes: nobody knows which it missed, and a copy may lose or repeat the writes of a moment"
            );
            return Verdict::new(of, None, "NotNumbered", message);
        }
        if self.ring.nodes.iter().any(|node| !node.proven()) {
            let message = "a node is not compared with its replicas before its data is proven";
            return Verdict::new(of, None, "NodesNotReady", message);
        }
        let message = "the nodes of each token have received the same writes";
        Verdict::new(of, Some(true), "Level", message)
    }

    /// Nothing is said before every one was asked: an operator that has just
    /// started takes back nothing.
    fn remotes_known(&self) -> Option<Verdict> {
        let of = ConditionType::RemotesKnown;
        let remotes = &self.cluster.remotes;
        let asked = |remote: &Remote| self.observed.described.contains_key(&remote.name);
        if remotes.is_empty() || !remotes.iter().all(asked) {
            return None;
        }
        let silent = crate::remotes::waits(self.cluster, self.observed).next();
        Some(match silent {
            Some(wait) => Verdict::new(of, Some(false), wait.reason(), wait.message()),
            None => Verdict::new(
                of,
                Some(true),
                "Described",
                "every datacenter elsewhere describes itself, and its nodes are followed",
            ),
        })
    }

    fn tokens_assigned(&self) -> Verdict {
        let of = ConditionType::TokensAssigned;
        if let Some(problem) = &self.ring.tokens.problem {
            return Verdict::new(of, Some(false), problem.reason(), problem.message());
        }
        let name = self.cluster.token_record();
        if self.observed.config_maps.contains_key(&name) {
            let message =
                format!("every node has its token; they are recorded in ConfigMap {name}");
            Verdict::new(of, Some(true), "TokensAssigned", message)
        } else {
            Verdict::new(
                of,
                Some(false),
                "NotRecorded",
                "the tokens are not recorded yet",
            )
        }
    }

    fn paused(&self) -> Verdict {
        let of = ConditionType::Paused;
        if self.cluster.paused() {
            Verdict::new(of, Some(true), "Paused", Wait::Paused.message())
        } else {
            Verdict::new(of, Some(false), "NotPaused", "spec.paused is false")
        }
    }

    fn phase(&self) -> ClusterPhase {
        let all_ready = self.ring.nodes.iter().all(Node::ready);
        let rolling = |wait: &Wait| {
            matches!(
                wait,
                Wait::MayNotLeave { .. } | Wait::RevisionPending { .. } | Wait::Resizing { .. }
            )
        };
        if self.cluster.deleting {
            ClusterPhase::Deleting
        } else if self.cluster.paused() {
            ClusterPhase::Paused
        } else if self.stalling().is_some() {
            ClusterPhase::Stalled
        } else if self.ring.served_since.is_none() {
            ClusterPhase::Provisioning
        } else if self.available() == Some(false) {
            ClusterPhase::Unavailable
        } else if all_ready && self.settled() {
            ClusterPhase::Ready
        } else if all_ready
            || self.obstacles().any(rolling)
            || self.changes().any(|p| p.action.disrupts())
        {
            ClusterPhase::Updating
        } else {
            ClusterPhase::Degraded
        }
    }

    fn rack(&self, rack: &Rack) -> RackStatus {
        let nodes: Vec<&Node<'_>> = self.ring.of_rack(&rack.name).collect();
        let ready = nodes.iter().filter(|node| node.ready()).count();
        let stuck = nodes
            .iter()
            .find_map(|node| Some((node, node.blocker.as_ref()?)));
        let down = || nodes.iter().find(|node| !node.ready());
        let message = match stuck {
            Some((node, blocker)) => format!("node {}: {}", node.name, blocker.message),
            None => down().map_or_else(String::new, |n| format!("node {}: {}", n.name, n.lacks())),
        };
        RackStatus {
            name: rack.name.clone(),
            ready: format!("{ready}/{}", nodes.len()),
            message,
            nodes: nodes.iter().map(|node| self.node(node)).collect(),
        }
    }

    fn node(&self, node: &Node<'_>) -> NodeStatus {
        let report = node.report.as_ref().ok();
        let spec = node.pod.and_then(|pod| pod.spec.as_ref());
        let host = spec.and_then(|spec| spec.node_name.clone());
        let zone = host.as_ref().and_then(|host| {
            let known = self.observed.kubernetes_nodes.known()?;
            known.get(host)?.zone.clone()
        });
        NodeStatus {
            name: node.name.clone(),
            token: node.token,
            pod_uid: node.pod.and_then(|pod| pod.metadata.uid.clone()),
            addresses: self.addresses(node),
            kubernetes_node: host,
            zone,
            phase: report.map(|report| report.phase),
            since: report.map(|report| Time(report.since)),
            ready: node.pod_ready(),
            message: node.lacks(),
            warm_up: report.and_then(|report| warm_up(report)),
            findings: self.findings(node),
        }
    }

    /// What is wrong with a node: by what the operator sees, and by its own
    /// word. Each reason once.
    fn findings(&self, node: &Node<'_>) -> Vec<FindingStatus> {
        let mut found: BTreeMap<String, FindingStatus> = BTreeMap::new();
        let mut add = |reason: &str, message: String, since| {
            let finding = FindingStatus {
                reason: reason.to_owned(),
                message,
                since,
            };
            found.entry(finding.reason.clone()).or_insert(finding);
        };
        for waiting in &self.plan.waits {
            if waiting.wait.wrong_with() == Some(&node.name) {
                add(waiting.wait.reason(), waiting.wait.message(), None);
            }
        }
        for finding in node.report.iter().flat_map(|report| &report.findings) {
            let since = Some(Time(finding.since));
            add(&finding.reason, finding.message.clone(), since);
        }
        found.into_values().take(FINDINGS_LIMIT).collect()
    }

    /// The pod's addresses; those it last had while it is away, for its peers
    /// keep its place on the ring by them.
    fn addresses(&self, node: &Node<'_>) -> Vec<String> {
        let status = node.pod.and_then(|pod| pod.status.as_ref());
        let listed = status
            .and_then(|s| s.pod_ips.as_ref())
            .into_iter()
            .flatten();
        let mut addresses: Vec<String> = listed.map(|ip| ip.ip.clone()).collect();
        if addresses.is_empty() {
            addresses.extend(node.address().map(str::to_owned));
        }
        if addresses.is_empty() {
            let last = &self.cluster.status_addresses;
            addresses.extend(last.get(&node.name).cloned());
        }
        addresses
    }

    /// What was done or is waited for. Documents handed to nodes are left out:
    /// they take no time worth telling.
    fn plan_entries(&self) -> Vec<PlanStatus> {
        let mut entries: BTreeMap<(StepName, u8, usize), PlanStatus> = BTreeMap::new();
        let mut add = |step: StepName, class, reason: &str, message: String| {
            let entry = PlanStatus {
                step: step.name().to_owned(),
                reason: reason.to_owned(),
                message,
            };
            let at = entries.len();
            entries.insert((step, class, at), entry);
        };
        for failure in &self.outcome.failures {
            let message = format!("{}: {}", failure.target, failure.message);
            add(failure.step, 0, &failure.reason, message);
        }
        for planned in self.changes() {
            if let Some(reason) = verb(&planned.action) {
                let message = format!("{}: {}", planned.action.target(), planned.why);
                add(planned.step, 1, reason, message);
            }
        }
        for waiting in &self.plan.waits {
            add(
                waiting.step,
                2,
                waiting.wait.reason(),
                waiting.wait.message(),
            );
        }
        entries.into_values().take(PLAN_LIMIT).collect()
    }
}

/// Whether a step changes nothing of the ring: backups have a status of their own,
/// and who calls by REST is answered there.
fn is_beside(step: StepName) -> bool {
    matches!(
        step,
        StepName::Snapshot | StepName::Answer | StepName::Compare
    )
}

/// One word for an action that is worth telling.
fn verb(action: &Action) -> Option<&'static str> {
    match action {
        Action::Apply(_) => Some("Apply"),
        Action::Delete { .. } | Action::DeleteAtOnce { .. } => Some("Delete"),
        Action::Orphan { .. } => Some("Recreate"),
        Action::Resize { .. } => Some("Resize"),
        Action::IssueCertificates(_) => Some("IssueCertificates"),
        Action::SetFinalizer { .. } => Some("SetFinalizer"),
        Action::Assign { .. }
        | Action::Event { .. }
        | Action::HandCredentials { .. }
        | Action::AskBucket { .. }
        | Action::AnswerCall { .. }
        | Action::WriteBackup { .. }
        | Action::MakeBackup(_)
        | Action::TakeAnnotation { .. }
        | Action::MakeRestore(_)
        | Action::WriteRestore { .. }
        | Action::SetRestoreFinalizer { .. }
        | Action::MakeScratch(_)
        | Action::EndScratch { .. }
        | Action::SetBackupFinalizer { .. } => None,
    }
}

fn warm_up(report: &NodeReport) -> Option<WarmUpStatus> {
    let copy = report.warm_up.as_ref()?;
    Some(WarmUpStatus {
        donor: copy.donor.clone(),
        stage: format!("{:?}", copy.stage),
        attempt: copy.attempt,
        percent: percent(copy),
        bytes_per_second: copy.bytes_per_second,
        seconds_left: copy.seconds_left,
        lag_bytes: copy.lag_bytes,
    })
}

/// How much of the first copy is there. An estimate may be too small; it is all
/// there only once the next stage has begun.
fn percent(copy: &WarmUpProgress) -> Option<u32> {
    match copy.stage {
        WarmUpStage::Connecting => None,
        WarmUpStage::Copying => {
            let total = copy.bytes_total.filter(|total| *total > 0)?;
            let share = copy.bytes_done.saturating_mul(100) / total;
            Some(u32::try_from(share).unwrap_or(99).min(99))
        }
        WarmUpStage::Following | WarmUpStage::Cutting => Some(100),
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::crd::condition;

    use super::*;
    use crate::observed::{KubernetesNode, Seen};
    use crate::world::{World, resource};

    fn published(world: &mut World) -> DynomiteClusterStatus {
        let plan = world.plan();
        world.publish(&plan);
        world.resource.status.clone().expect("it was published")
    }

    fn says(status: &DynomiteClusterStatus, of: ConditionType) -> (String, String) {
        let found = condition(&status.conditions, of).expect("it is set");
        (found.status.clone(), found.reason.clone())
    }

    fn pair(status: &str, reason: &str) -> (String, String) {
        (status.to_owned(), reason.to_owned())
    }

    #[test]
    fn a_settled_ring_is_ready_and_says_so_once() {
        let mut world = World::settled(3, 2);
        let first = published(&mut world);
        assert_eq!(first.phase, Some(ClusterPhase::Ready));
        assert_eq!(
            (first.nodes.as_str(), first.racks_ready.as_str()),
            ("6/6", "3/3")
        );
        for (of, expected) in [
            (ConditionType::Ready, pair("True", "AllNodesReady")),
            (ConditionType::Reconciling, pair("False", "Settled")),
            (ConditionType::Stalled, pair("False", "NotStalled")),
            (ConditionType::Available, pair("True", "EveryTokenServed")),
            (
                ConditionType::TokensAssigned,
                pair("True", "TokensAssigned"),
            ),
            (ConditionType::Paused, pair("False", "NotPaused")),
        ] {
            assert_eq!(says(&first, of), expected);
        }
        assert!(
            first
                .tokens
                .iter()
                .all(|t| (t.ready, t.required, t.headroom) == (3, 2, 1))
        );
        assert!(first.plan.is_empty());
        world.now = world
            .now
            .checked_add(jiff::SignedDuration::from_hours(1))
            .expect("in range");
        assert_eq!(published(&mut world), first);
    }

    #[test]
    fn a_new_ring_is_provisioning_and_not_yet_available() {
        let mut world = World::new(resource(3, 1));
        let status = published(&mut world);
        assert_eq!(status.phase, Some(ClusterPhase::Provisioning));
        assert_eq!(
            says(&status, ConditionType::Available),
            pair("False", "NeverServed")
        );
        assert_eq!(says(&status, ConditionType::Ready).0, "False");
        assert_eq!(
            says(&status, ConditionType::TokensAssigned),
            pair("False", "NotRecorded")
        );
    }

    #[test]
    fn a_lost_node_degrades_and_a_lost_quorum_is_said() {
        let mut world = World::settled(3, 1);
        world.kill("ring-a-0");
        let status = published(&mut world);
        assert_eq!(status.phase, Some(ClusterPhase::Degraded));
        assert_eq!(says(&status, ConditionType::Available).0, "True");
        assert_eq!(status.tokens[0].headroom, 0);
        // Its peers keep its place by the address it last had.
        assert!(!status.racks[0].nodes[0].addresses.is_empty());
        world.kill("ring-b-0");
        let status = published(&mut world);
        assert_eq!(status.phase, Some(ClusterPhase::Unavailable));
        assert_eq!(
            says(&status, ConditionType::Available),
            pair("False", "TooFewReplicas")
        );
        assert_eq!(status.tokens[0].headroom, -1);
    }

    #[test]
    fn what_nobody_knows_is_unknown() {
        let mut world = World::settled(3, 1);
        world.mute = vec!["ring-a-0".to_owned(), "ring-b-0".to_owned()];
        world.tick();
        let status = published(&mut world);
        assert_eq!(
            says(&status, ConditionType::Ready),
            pair("Unknown", "NodeUnknown")
        );
        assert_eq!(
            says(&status, ConditionType::Available),
            pair("Unknown", "NodeUnknown")
        );
    }

    #[test]
    fn a_blocked_rack_says_why_and_what_to_do() {
        let mut world = World::settled(3, 1);
        world.kill("ring-b-0");
        world.tick();
        let node = KubernetesNode {
            zone: Some("zone-a".to_owned()),
            schedulable: true,
            ..KubernetesNode::default()
        };
        world.observed.kubernetes_nodes = Seen::Known([("n1".to_owned(), node)].into());
        let pod = world
            .observed
            .pods
            .get_mut("ring-b-0")
            .expect("it is there");
        let status = pod.status.as_mut().expect("a status");
        status.pod_ip = None;
        status.conditions = Some(vec![k8s_openapi::api::core::v1::PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some("0/1 nodes are available".to_owned()),
            ..k8s_openapi::api::core::v1::PodCondition::default()
        }]);
        let status = published(&mut world);
        assert_eq!(
            says(&status, ConditionType::Ready),
            pair("False", "ZoneWithoutNodes")
        );
        assert!(status.racks[1].message.contains("zone zone-b has no nodes"));
        assert_eq!(status.racks[0].message, "");
        assert_eq!(says(&status, ConditionType::Available).0, "True");
    }

    #[test]
    fn paused_changes_nothing_and_is_seen() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.paused = true);
        world.observed.services.remove("ring");
        assert!(world.plan().actions.is_empty());
        let status = published(&mut world);
        assert_eq!(status.phase, Some(ClusterPhase::Paused));
        assert_eq!(says(&status, ConditionType::Paused), pair("True", "Paused"));
        assert_eq!(says(&status, ConditionType::Ready), pair("True", "Paused"));
    }

    #[test]
    fn a_failed_action_is_told() {
        let mut world = World::settled(3, 1);
        world.observed.services.remove("ring");
        let plan = world.plan();
        let outcome = Outcome {
            failures: vec![crate::plan::Failure {
                step: StepName::Provision,
                target: plan.actions[0].action.target(),
                reason: "Forbidden".to_owned(),
                message: "services is forbidden".to_owned(),
            }],
        };
        let cluster = world.cluster();
        let made = status(&cluster, &world.observed, &plan, None, &outcome, world.now);
        assert_eq!(
            says(&made, ConditionType::Reconciling),
            pair("True", "Forbidden")
        );
        assert_eq!(made.plan[0].message, "Service ring: services is forbidden");
    }

    #[test]
    fn an_invalid_spec_stalls_and_keeps_what_was_known() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.racks[1].name = "a".to_owned());
        let violations = Cluster::new(&world.resource, &world.defaults).expect_err("it is invalid");
        let status = invalid_status(&world.resource, &violations, world.now);
        assert_eq!(
            says(&status, ConditionType::Stalled),
            pair("True", "InvalidSpec")
        );
        assert_eq!(says(&status, ConditionType::Available).0, "True");
        assert_eq!(
            (status.observed_generation, status.nodes.as_str()),
            (Some(2), "3/3")
        );
    }

    #[test]
    fn a_warm_up_tells_how_far_it_is_and_how_long_it_takes() {
        let copy = |stage: &str, done: u64, total: Option<u64>| -> WarmUpProgress {
            serde_json::from_value(serde_json::json!({
                "donor": "ring-b-0", "stage": stage, "startedAt": "2026-01-01T00:00:00Z",
                "attempt": 1, "bytesDone": done, "bytesTotal": total,
            }))
            .expect("a progress")
        };
        for (stage, done, total, expected) in [
            ("Connecting", 0, None, None),
            ("Copying", 5, None, None),
            ("Copying", 5, Some(20), Some(25)),
            // The estimate was too small.
            ("Copying", 30, Some(20), Some(99)),
            ("Copying", 0, Some(0), None),
            ("Following", 30, Some(20), Some(100)),
        ] {
            assert_eq!(
                percent(&copy(stage, done, total)),
                expected,
                "{stage} {done}"
            );
        }
    }

    #[test]
    fn donor_percent_rate_and_time_of_a_copy_stand_with_the_node() {
        let mut world = World::settled(3, 1);
        let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-c-0") else {
            panic!("it was heard");
        };
        let copy = serde_json::json!({
            "donor": "ring-a-0", "stage": "Copying", "startedAt": "2026-01-01T00:00:00Z",
            "attempt": 2, "bytesDone": 250, "bytesTotal": 1000,
            "bytesPerSecond": 50, "secondsLeft": 15, "lagBytes": 7,
        });
        report.warm_up = Some(serde_json::from_value(copy).expect("a progress"));
        let made = published(&mut world);
        let told = serde_json::to_value(&made.racks[2].nodes[0].warm_up).expect("JSON");
        let expected = serde_json::json!({
            "donor": "ring-a-0", "stage": "Copying", "attempt": 2, "percent": 25,
            "bytesPerSecond": 50, "secondsLeft": 15, "lagBytes": 7,
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_wrong_with_a_node_stands_with_the_node() {
        let mut world = World::settled(3, 1);
        world.blocked.push("ring-a-0".to_owned());
        world.kill("ring-a-0");
        world.mute.push("ring-b-0".to_owned());
        world.tick();
        let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-c-0") else {
            panic!("it was heard");
        };
        let finding = serde_json::json!({
            "reason": "StoreLoadingLong", "message": "wait", "since": "2026-01-01T00:00:00Z"});
        report.findings = vec![serde_json::from_value(finding).expect("a finding")];
        let made = published(&mut world);
        let of = |rack: usize| {
            let findings = made.racks[rack].nodes[0].findings.iter();
            findings.map(|f| f.reason.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(of(0), ["ImageNotPulled"]);
        assert_eq!(of(1), ["NodeUnknown"]);
        assert_eq!(of(2), ["StoreLoadingLong"]);
    }
}
