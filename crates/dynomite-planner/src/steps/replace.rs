//! Nodes that are gone for good: a fresh volume and a new pod for the same token, once nothing is lost by it.
//!
//! ```text
//! Kubernetes node gone or out of service -> the pod goes at once
//! volume lost, or bound to such a node   -> the claim goes, then the pod
//! a person's word: dynomite.io/replace   -> the same
//! ```
//!
//! The claim goes first: it carries the decision. Kubernetes keeps a claim whose
//! pod runs until that pod is gone, so an operator that dies between the two
//! finds a claim that leaves, and goes on. The `StatefulSet` makes both anew.

use dynomite_api::annotations::ANNOTATION_REPLACE;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::{Pass, Step, delete_seen};
use crate::observed::KubernetesNode;
use crate::plan::{Action, EventKind, Kind};
use crate::ring::Node;
use crate::safety::{self, Refusal};
use crate::wait::Wait;

/// How old a pod must be before its Kubernetes node counts as gone because it is
/// not seen: the watches of pods and of nodes may be apart.
const HOST_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// After how long without a word a person is asked whether a node comes back.
const SILENCE: SignedDuration = SignedDuration::from_mins(5);
/// Behind the pod's UID: whatever is lost.
const FORCE: &str = ",force";

/// Why a node is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// A person said so, and perhaps whatever is lost.
    Asked { forced: bool },
    /// Its pod was on a Kubernetes node that is gone; the volume may be anywhere.
    HostGone { host: String },
    /// Its volume is lost, and how.
    VolumeLost { how: String },
    /// Its claim leaves or is gone: with the pod, a new one comes.
    ClaimGone,
}

impl Cause {
    fn words(&self) -> String {
        match self {
            Self::Asked { .. } => format!("{ANNOTATION_REPLACE} asks for it"),
            Self::HostGone { host } => format!("Kubernetes node {host} is gone"),
            Self::VolumeLost { how } => how.clone(),
            Self::ClaimGone => "its volume claim was deleted".to_owned(),
        }
    }
}

/// Replaces at most one node in a pass.
pub(super) fn replace(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    let mut acted = pass.is_moving();
    for node in &pass.ring.nodes {
        let Some(cause) = cause(pass, node) else {
            ask_about_silence(pass, node, &mut step);
            continue;
        };
        match may_replace(pass, node, &cause) {
            Ok(()) if acted => {}
            Ok(()) => acted = act(pass, node, &cause, &mut step),
            Err(refusal) => step.wait(Wait::MayNotReplace {
                node: node.name.clone(),
                why: cause.words(),
                refusal,
                command: command(pass, node, true),
            }),
        }
    }
    step
}

/// Why a node is to be replaced, if it is.
fn cause(pass: &Pass<'_>, node: &Node<'_>) -> Option<Cause> {
    let pod = node.pod.filter(|_| !node.terminating());
    let word = pod.and_then(|pod| word(pod, node.pod_uid()));
    if word == Some(true) {
        return Some(Cause::Asked { forced: true });
    }
    if let Some(how) = volume_loss(pass, node) {
        return Some(Cause::VolumeLost { how });
    }
    if let Some(host) = lost_host(pass, node) {
        return Some(Cause::HostGone { host });
    }
    if word.is_some() {
        return Some(Cause::Asked { forced: false });
    }
    claim_is_gone(pass, node, pod?).then_some(Cause::ClaimGone)
}

/// A person's word for exactly this pod, and whether it is for any price.
fn word(pod: &Pod, uid: &str) -> Option<bool> {
    let text = pod.metadata.annotations.as_ref()?.get(ANNOTATION_REPLACE)?;
    let (named, forced) = match text.strip_suffix(FORCE) {
        Some(named) => (named, true),
        None => (text.as_str(), false),
    };
    (!uid.is_empty() && named == uid).then_some(forced)
}

/// The Kubernetes node a pod ran on, if that is gone for good and nobody hears the pod.
fn lost_host(pass: &Pass<'_>, node: &Node<'_>) -> Option<String> {
    let pod = node.pod?;
    let host = pod.spec.as_ref()?.node_name.as_ref()?;
    let nodes = pass.observed.kubernetes_nodes.known()?;
    if nodes.get(host).is_some_and(|seen| !seen.out_of_service) {
        return None;
    }
    let age = age(pod, pass.now).unwrap_or_default();
    let unheard = node.report.is_err() && !node.pod_ready();
    (unheard && age >= HOST_GRACE).then(|| host.clone())
}

fn age(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    Some(now.duration_since(created))
}

/// How a node's volume was lost, if it was.
fn volume_loss(pass: &Pass<'_>, node: &Node<'_>) -> Option<String> {
    let claim = node.claim?;
    if claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase == Some("Lost") {
        return Some("its persistent volume is gone".to_owned());
    }
    let name = claim.metadata.name.as_ref()?;
    let volume = pass.observed.volumes.get(name)?.known()?;
    let nodes = pass.observed.kubernetes_nodes.known()?;
    let reaches = |seen: &KubernetesNode| {
        let mut hosts = volume.hosts.iter();
        !seen.out_of_service
            && hosts.any(|(label, value)| seen.host_labels.get(label) == Some(value))
    };
    let (_, host) = volume.hosts.first()?;
    let lost = !nodes.is_empty() && !nodes.values().any(reaches);
    lost.then(|| format!("its volume is on Kubernetes node {host}, which is gone"))
}

/// Whether a pod that is not scheduled waits for a claim that nobody makes, or
/// runs on one that is being deleted.
fn claim_is_gone(pass: &Pass<'_>, node: &Node<'_>, pod: &Pod) -> bool {
    if !pass.cluster.has_volumes() {
        return false;
    }
    if let Some(claim) = node.claim {
        return claim.metadata.deletion_timestamp.is_some();
    }
    let spec = pod.spec.as_ref();
    let placed = spec.is_some_and(|spec| spec.node_name.is_some());
    !placed && age(pod, pass.now).is_some_and(|age| age >= HOST_GRACE)
}

/// Whether a node may be replaced now.
///
/// A node that serves leaves only as any other does. One that does not takes
/// nothing from the ring, but what it has may be missed later: so every replica
/// must be there, with the data, except those that are lost for good themselves.
fn may_replace(pass: &Pass<'_>, node: &Node<'_>, cause: &Cause) -> Result<(), Refusal> {
    let ring = pass.ring;
    let forced = matches!(cause, Cause::Asked { forced: true });
    let keeps_volume = matches!(cause, Cause::HostGone { .. }) && pass.cluster.has_volumes();
    if forced || keeps_volume || ring.served_since.is_none() {
        return Ok(());
    }
    let peers = || ring.replicas(node.token).filter(|o| o.name != node.name);
    let whole = |peer: &Node<'_>| peer.ready() && ring.levels.behind(&peer.name).is_none();
    if let Some(peer) = peers().find(|peer| peer.warming_up()) {
        return Err(Refusal::PeerWarmingUp {
            peer: peer.name.clone(),
        });
    }
    if !peers().any(whole) {
        return Err(Refusal::OnlyCopy);
    }
    let is_lost = |peer: &Node<'_>| match self::cause(pass, peer) {
        Some(Cause::VolumeLost { .. }) => true,
        Some(Cause::HostGone { .. }) => !pass.cluster.has_volumes(),
        _ => false,
    };
    if let Some(peer) = peers().find(|peer| !peer.ready() && !is_lost(peer)) {
        return Err(Refusal::OtherNodeDown {
            other: peer.name.clone(),
            message: peer.lacks(),
        });
    }
    if node.ready() {
        return safety::may_leave(pass.cluster, ring, node);
    }
    Ok(())
}

/// Deletes what is to be made anew; whether there was anything to delete.
fn act(pass: &Pass<'_>, node: &Node<'_>, cause: &Cause, step: &mut Step) -> bool {
    let why = cause.words();
    let mut acted = false;
    let fresh = matches!(cause, Cause::Asked { .. } | Cause::VolumeLost { .. });
    if let Some(claim) = node.claim.filter(|_| fresh && pass.cluster.has_volumes())
        && claim.metadata.deletion_timestamp.is_none()
        && let Some(action) = delete_seen(Kind::PersistentVolumeClaim, &claim.metadata, false)
    {
        step.act(action, why.clone());
        acted = true;
    }
    if let Some(action) = pod_goes(pass, node) {
        step.act(action, why.clone());
        acted = true;
    }
    if acted {
        let told = Action::Event {
            kind: EventKind::Warning,
            reason: "NodeReplaced",
            message: format!(
                "node {} gets a new pod{}: {why}",
                node.name,
                if fresh { " and a fresh volume" } else { "" }
            ),
        };
        step.act(told, why);
    }
    acted
}

/// The deletion of a node's pod: at once where nobody is left to end it.
fn pod_goes(pass: &Pass<'_>, node: &Node<'_>) -> Option<Action> {
    let pod = node.pod?;
    if lost_host(pass, node).is_some() {
        return Some(Action::DeleteAtOnce {
            name: node.name.clone(),
            uid: node.pod_uid().to_owned(),
        });
    }
    if node.terminating() {
        return None;
    }
    delete_seen(Kind::Pod, &pod.metadata, true)
}

/// Asks a person about a node that has been silent for long.
fn ask_about_silence(pass: &Pass<'_>, node: &Node<'_>, step: &mut Step) {
    let Some(pod) = node.pod.filter(|_| node.report.is_err()) else {
        return;
    };
    let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let (Some(host), Some(since)) = (host, not_ready_since(pod)) else {
        return;
    };
    match since.checked_add(SILENCE) {
        Ok(at) if at <= pass.now => step.wait(Wait::Silent {
            node: node.name.clone(),
            host,
            command: command(pass, node, false),
        }),
        Ok(at) => step.wake(at),
        Err(_) => {}
    }
}

fn not_ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let of = |c: &&PodCondition| c.type_ == "Ready" && c.status != "True";
    let ready = conditions.iter().find(of)?;
    Some(ready.last_transition_time.as_ref()?.0)
}

/// The command by which a person has a node replaced.
fn command(pass: &Pass<'_>, node: &Node<'_>, forced: bool) -> String {
    format!(
        "kubectl annotate pod {} --namespace {} --overwrite {ANNOTATION_REPLACE}={}{}",
        node.name,
        pass.cluster.id.namespace,
        node.pod_uid(),
        if forced { FORCE } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::observed::{Seen, VolumeFacts};
    use crate::plan::StepName;
    use crate::world::{World, resource, targets};

    const FRESH: [&str; 3] = [
        "PersistentVolumeClaim data-ring-a-0",
        "Pod ring-a-0",
        "Event NodeReplaced",
    ];

    /// A settled ring whose pods run on Kubernetes nodes of their own.
    fn placed(racks: usize, memory: bool) -> World {
        let mut resource = resource(racks, 1);
        if memory {
            resource.spec.storage.medium = dynomite_api::crd::StorageMedium::None;
        }
        let mut world = World::new(resource);
        world.settle();
        let mut nodes = std::collections::BTreeMap::new();
        for (name, pod) in &mut world.observed.pods {
            let host = format!("host-of-{name}");
            pod.spec.get_or_insert_default().node_name = Some(host.clone());
            let long_ago = world.now - SignedDuration::from_hours(1);
            pod.metadata.creation_timestamp = Some(Time(long_ago));
            let label = ("kubernetes.io/hostname".to_owned(), host.clone());
            let node = KubernetesNode {
                schedulable: true,
                host_labels: [label].into(),
                ..KubernetesNode::default()
            };
            nodes.insert(host, node);
        }
        world.observed.kubernetes_nodes = Seen::Known(nodes);
        world
    }

    fn hosts(world: &mut World) -> &mut std::collections::BTreeMap<String, KubernetesNode> {
        match &mut world.observed.kubernetes_nodes {
            Seen::Known(nodes) => nodes,
            Seen::Unknown(why) => panic!("{why}"),
        }
    }

    /// A node's Kubernetes node is gone, and its pod is not heard any more.
    fn lose_host(world: &mut World, node: &str) {
        hosts(world).remove(&format!("host-of-{node}"));
        silence(world, node);
    }

    fn silence(world: &mut World, node: &str) {
        let unknown = Seen::Unknown("it does not answer".to_owned());
        world.observed.reports.insert(node.to_owned(), unknown);
        let pod = world.observed.pods.get_mut(node).expect("it is there");
        for condition in pod
            .status
            .iter_mut()
            .flat_map(|s| &mut s.conditions)
            .flatten()
        {
            condition.status = "Unknown".to_owned();
            condition.last_transition_time = Some(Time(world.now));
        }
    }

    fn say(world: &mut World, node: &str, value: &str) {
        let pod = world.observed.pods.get_mut(node).expect("it is there");
        let mark = (ANNOTATION_REPLACE.to_owned(), value.to_owned());
        pod.metadata
            .annotations
            .get_or_insert_default()
            .extend([mark]);
    }

    fn replaced(world: &World) -> Vec<String> {
        targets(&world.plan(), StepName::Replace)
    }

    fn lose_volume(world: &mut World, node: &str) {
        let claim = world.observed.claims.get_mut(&format!("data-{node}"));
        let status = &mut claim.expect("it is there").status;
        status.get_or_insert_default().phase = Some("Lost".to_owned());
    }

    #[test]
    fn a_pod_whose_kubernetes_node_is_gone_goes_at_once_and_only_when_nobody_hears_it() {
        let mut world = placed(3, false);
        hosts(&mut world).remove("host-of-ring-a-0");
        assert!(replaced(&world).is_empty(), "it answers: the watch is late");
        silence(&mut world, "ring-a-0");
        let plan = world.plan();
        assert_eq!(
            targets(&plan, StepName::Replace),
            ["Pod ring-a-0", "Event NodeReplaced"]
        );
        let at_once = |p: &crate::plan::Planned| matches!(p.action, Action::DeleteAtOnce { .. });
        assert!(plan.actions.iter().any(at_once));
        // A pod that was just made may be on a node that the watch does not show yet.
        let pod = world
            .observed
            .pods
            .get_mut("ring-a-0")
            .expect("it is there");
        pod.metadata.creation_timestamp = Some(Time(world.now));
        assert!(replaced(&world).is_empty());
    }

    #[test]
    fn a_taint_says_the_same_and_ignorance_says_nothing() {
        let mut world = placed(3, false);
        silence(&mut world, "ring-a-0");
        assert!(
            replaced(&world).is_empty(),
            "its node is there: it may come back"
        );
        let host = hosts(&mut world).get_mut("host-of-ring-a-0");
        host.expect("it is there").out_of_service = true;
        assert_eq!(replaced(&world), ["Pod ring-a-0", "Event NodeReplaced"]);
        world.observed.kubernetes_nodes = Seen::Unknown("forbidden".to_owned());
        assert!(replaced(&world).is_empty());
    }

    #[test]
    fn a_volume_bound_to_a_node_that_is_gone_is_made_anew_with_the_token() {
        let mut world = placed(3, false);
        lose_host(&mut world, "ring-a-0");
        let token = world.lives["ring-a-0"]
            .desired
            .as_ref()
            .map(|d| d.node.token);
        let facts = VolumeFacts {
            hosts: vec![(
                "kubernetes.io/hostname".to_owned(),
                "host-of-ring-a-0".to_owned(),
            )],
        };
        let volumes = &mut world.observed.volumes;
        volumes.insert("data-ring-a-0".to_owned(), Seen::Known(facts));
        assert_eq!(replaced(&world), FRESH);
        world.pass();
        world.observed.volumes.clear();
        world.settle();
        assert_eq!(world.wiped, 1);
        let life = &world.lives["ring-a-0"];
        assert_eq!(life.desired.as_ref().map(|d| d.node.token), token);
        let claim = &world.observed.claims["data-ring-a-0"];
        let marks = claim.metadata.annotations.as_ref().expect("its token");
        assert_eq!(
            marks.get("dynomite.io/token"),
            token.map(|t| t.to_string()).as_ref()
        );
    }

    #[test]
    fn a_volume_that_can_be_used_elsewhere_is_kept() {
        let mut world = placed(3, false);
        lose_host(&mut world, "ring-a-0");
        let volumes = &mut world.observed.volumes;
        volumes.insert(
            "data-ring-a-0".to_owned(),
            Seen::Known(VolumeFacts::default()),
        );
        assert_eq!(replaced(&world), ["Pod ring-a-0", "Event NodeReplaced"]);
    }

    #[test]
    fn a_lost_volume_is_replaced_once_every_replica_is_whole() {
        let mut world = placed(3, false);
        lose_volume(&mut world, "ring-a-0");
        assert_eq!(replaced(&world), FRESH);
        world.kill("ring-b-0");
        assert!(replaced(&world).is_empty());
        assert!(world.reasons().contains(&"OtherNodeDown"));
        world.tick();
        let waits = world.reasons();
        assert!(
            waits.contains(&"PeerWarmingUp") || waits.contains(&"OtherNodeDown"),
            "{waits:?}"
        );
    }

    #[test]
    fn two_that_are_lost_do_not_wait_for_each_other() {
        let mut world = placed(3, false);
        lose_host(&mut world, "ring-a-0");
        lose_host(&mut world, "ring-b-0");
        lose_volume(&mut world, "ring-a-0");
        lose_volume(&mut world, "ring-b-0");
        assert_eq!(replaced(&world), FRESH);
        world.pass();
        let again = replaced(&world);
        assert!(!again.iter().any(|t| t.contains("ring-b-0")), "{again:?}");
        for _ in 0..20 {
            world.pass();
        }
        assert_eq!(world.wiped, 2);
        world.settle();
    }

    #[test]
    fn the_last_copy_goes_only_by_a_word_that_says_so() {
        for racks in [1, 3] {
            let mut world = placed(racks, false);
            lose_volume(&mut world, "ring-a-0");
            for other in ["ring-b-0", "ring-c-0"] {
                if world.observed.pods.contains_key(other) {
                    silence(&mut world, other);
                }
            }
            assert!(replaced(&world).is_empty());
            let waits = world.waits();
            let stalled = waits.iter().find(|wait| wait.reason() == "OnlyCopy");
            let message = stalled
                .filter(|wait| wait.stalls())
                .expect("it stalls")
                .message();
            let uid = world.pod_uid("ring-a-0");
            assert!(
                message.ends_with(&format!("dynomite.io/replace={uid},force")),
                "{message}"
            );
            say(&mut world, "ring-a-0", &format!("{uid},force"));
            assert_eq!(replaced(&world), FRESH);
        }
    }

    #[test]
    fn a_persons_word_is_for_one_pod_and_waits_for_headroom() {
        let mut world = placed(3, false);
        let uid = world.pod_uid("ring-a-0");
        for (word, expected) in [
            ("another", 0),
            (uid.as_str(), 3),
            (&format!("{uid},FORCE"), 0),
        ] {
            say(&mut world, "ring-a-0", word);
            assert_eq!(replaced(&world).len(), expected, "{word}");
        }
        say(&mut world, "ring-a-0", &uid);
        silence(&mut world, "ring-b-0");
        assert!(replaced(&world).is_empty());
        assert!(world.reasons().contains(&"OtherNodeDown"));
    }

    #[test]
    fn a_claim_that_somebody_deleted_goes_with_its_pod() {
        let mut world = placed(3, false);
        let claim = world.observed.claims.get_mut("data-ring-a-0");
        claim.expect("it is there").metadata.deletion_timestamp = Some(Time(world.now));
        assert_eq!(replaced(&world), ["Pod ring-a-0", "Event NodeReplaced"]);
    }

    #[test]
    fn memory_that_is_gone_with_its_node_is_copied_again() {
        let mut world = placed(3, true);
        lose_host(&mut world, "ring-a-0");
        assert_eq!(replaced(&world), ["Pod ring-a-0", "Event NodeReplaced"]);
        silence(&mut world, "ring-b-0");
        assert!(replaced(&world).is_empty());
    }

    #[test]
    fn a_person_is_asked_about_a_node_that_stays_silent() {
        let mut world = placed(3, false);
        silence(&mut world, "ring-a-0");
        assert!(!world.reasons().contains(&"NodeSilent"));
        let at = world.plan().wake_at.expect("it looks again");
        assert_eq!(at, world.now + SILENCE);
        world.now = at;
        assert!(world.reasons().contains(&"NodeSilent"));
    }
}
