//! Pods of an older revision: replaced one at a time, rack by rack, each only when its ring can spare it.

use dynomite_api::contract::{NodePhase, NodeReport, ProofKind};
use k8s_openapi::api::apps::v1::StatefulSet;

use super::{Pass, Step, delete_seen};
use crate::plan::{Action, EventKind, Kind};
use crate::ring::Node;
use crate::safety;
use crate::wait::Wait;

/// The label in which the `StatefulSet` controller writes a pod's revision.
const REVISION: &str = "controller-revision-hash";

/// Replaces at most one pod in a pass.
///
/// Broken pods of an older revision go first and without asking: a StatefulSet
/// never takes them back by itself, and they serve nobody.
pub(super) fn roll(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    if pass.is_moving() {
        return step;
    }
    let mut outdated = Vec::new();
    for node in &pass.ring.nodes {
        let Some(set) = node.set else { continue };
        match revision(set) {
            None => pending(&mut step, set),
            Some(revision) if is_outdated(node, revision) => outdated.push(node),
            Some(_) => {}
        }
    }
    if let Some(broken) = outdated.iter().find(|node| is_broken(pass, node)) {
        replace(
            &mut step,
            broken,
            "it is of an older revision and does not run",
        );
        return step;
    }
    // A pod that is down already costs nothing; then rack by rack.
    let next = outdated
        .iter()
        .find(|node| !node.ready())
        .or(outdated.first());
    let Some(node) = next else { return step };
    match safety::may_leave(pass.cluster, pass.ring, node) {
        Ok(()) => replace(&mut step, node, "it is of an older revision"),
        Err(refusal) => step.wait(Wait::MayNotLeave {
            node: node.name.clone(),
            refusal,
        }),
    }
    step
}

/// The revision that pods should have, once the controller has seen the newest spec.
fn revision(set: &StatefulSet) -> Option<&str> {
    let status = set.status.as_ref()?;
    let current = status.observed_generation >= set.metadata.generation;
    status.update_revision.as_deref().filter(|_| current)
}

fn pending(step: &mut Step, set: &StatefulSet) {
    let name = set.metadata.name.clone().unwrap_or_default();
    let wait = Wait::RevisionPending { name };
    if !step.waits.contains(&wait) {
        step.wait(wait);
    }
}

fn is_outdated(node: &Node<'_>, revision: &str) -> bool {
    let Some(pod) = node.pod.filter(|_| !node.terminating()) else {
        return false;
    };
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION));
    label.is_some_and(|label| label != revision)
}

/// Whether a pod can be replaced without a loss to anyone: it is not ready, and
/// either something keeps it from running, or it has given up, or the ring has
/// never served. A node that says its data is proven is never broken.
fn is_broken(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let holds_proof = |report: &NodeReport| report.proof.kind != ProofKind::Unproven;
    if node.pod_ready() || node.report.as_ref().is_ok_and(|report| holds_proof(report)) {
        return false;
    }
    let failed = |phase| phase == NodePhase::Failed;
    node.blocker.is_some()
        || pass.ring.served_since.is_none()
        || node
            .report
            .as_ref()
            .is_ok_and(|report| failed(report.phase))
}

fn replace(step: &mut Step, node: &Node<'_>, why: &str) {
    let action = node
        .pod
        .and_then(|pod| delete_seen(Kind::Pod, &pod.metadata, true));
    let Some(action) = action else { return };
    step.act(action, why);
    let told = Action::Event {
        kind: EventKind::Normal,
        reason: "PodReplaced",
        message: format!("pod {} is replaced: {why}", node.name),
    };
    step.act(told, why);
}
