//! Permissions and the serve gate: when data counts as whole, and when a ring begins to serve.
//!
//! ```text
//! never served: Bootstrap grants -> every node poised -> served-since in the record -> gate open
//! served:       donors; no proven node of a token left -> Stalled, a proposal -> a person -> AcceptLocal
//! ```

use dynomite_api::annotations::{ANNOTATION_ACCEPT_LOSS, ANNOTATION_SERVED_SINCE};
use dynomite_api::contract::{Awaiting, Grant, NodePhase, NodeReport};
use jiff::{SignedDuration, Timestamp};

use super::{Pass, Step};
use crate::objects;
use crate::plan::{Action, EventKind, Object};
use crate::ring::{Node, Ring};
use crate::wait::Wait;

/// How long complete racks wait for the others before the ring begins without them.
const GATE_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Opens the gate when it is time, and says what every node waits for.
pub(super) fn warm_up(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for node in &pass.ring.nodes {
        progress(pass, node, &mut step);
    }
    if pass.ring.served_since.is_none() {
        gate(pass, &mut step);
    } else {
        proposals(pass, &mut step);
    }
    step
}

/// Whether the record says that the ring may serve. The record, not the status:
/// what is written first must be what is read, or a crash between the two could
/// let a ring serve that still counts as empty.
pub(super) fn gate_is_open(pass: &Pass<'_>) -> bool {
    let record = pass.observed.config_maps.get(&pass.cluster.token_record());
    record
        .and_then(|map| map.metadata.annotations.as_ref())
        .is_some_and(|annotations| annotations.contains_key(ANNOTATION_SERVED_SINCE))
}

/// The permission a node gets now.
pub(crate) fn grant(pass: &Pass<'_>, node: &Node<'_>) -> Option<Grant> {
    let pod_uid = node.pod_uid().to_owned();
    if pass.cluster.racks.len() == 1 && pass.cluster.persistent() {
        // There is nobody to copy from, and nothing but this store was written to.
        return Some(Grant::AcceptLocal { pod_uid });
    }
    if accepted_by_person(node) && !has_proven_peer(pass.ring, node) {
        return Some(Grant::AcceptLocal { pod_uid });
    }
    let record_is_there = pass
        .observed
        .config_maps
        .contains_key(&pass.cluster.token_record());
    let never_served = pass.ring.served_since.is_none() && record_is_there;
    let somebody_serves = pass
        .ring
        .replicas(node.token)
        .any(|replica| replica.report.as_ref().is_ok_and(|report| report.ready));
    (never_served && !somebody_serves).then_some(Grant::Bootstrap { pod_uid })
}

/// Whether a person has accepted what this pod has, and no other of its name.
fn accepted_by_person(node: &Node<'_>) -> bool {
    let annotations = node.pod.and_then(|pod| pod.metadata.annotations.as_ref());
    let word = annotations.and_then(|a| a.get(ANNOTATION_ACCEPT_LOSS));
    word.is_some_and(|uid| uid == node.pod_uid())
}

fn has_proven_peer(ring: &Ring<'_>, node: &Node<'_>) -> bool {
    ring.replicas(node.token)
        .any(|replica| replica.name != node.name && replica.proven())
}

/// Says what a node lacks, if it is more than the gate.
fn progress(pass: &Pass<'_>, node: &Node<'_>, step: &mut Step) {
    if let Some(blocker) = &node.blocker {
        step.wait(Wait::Blocked {
            rack: node.rack.name.clone(),
            node: node.name.clone(),
            reason: blocker.reason,
            message: blocker.message.clone(),
        });
        return;
    }
    let name = node.name.clone();
    let Ok(report) = &node.report else {
        if node.address().is_none() {
            step.wait(Wait::Starting {
                node: name,
                message: node.lacks(),
            });
        }
        return;
    };
    match report.phase {
        _ if node.ready() => {}
        NodePhase::WarmingUp | NodePhase::CatchingUp => step.wait(Wait::WarmingUp {
            node: name,
            donor: report
                .warm_up
                .as_ref()
                .map(|w| w.donor.clone())
                .unwrap_or_default(),
        }),
        NodePhase::Failed => step.wait(Wait::NodeFailed {
            node: name,
            message: report.message.clone(),
        }),
        _ if pass.ring.served_since.is_none() && node.poised() => {}
        _ => step.wait(Wait::Starting {
            node: name,
            message: node.lacks(),
        }),
    }
    if !report.restart_required.is_empty() {
        step.wait(Wait::RestartRequired {
            node: node.name.clone(),
            settings: report.restart_required.clone(),
        });
    }
}

/// Opens the gate: all nodes, or the complete racks when what the others lack
/// is known to last, or has lasted.
fn gate(pass: &Pass<'_>, step: &mut Step) {
    let ring = pass.ring;
    let missing: Vec<&Node<'_>> = ring.nodes.iter().filter(|node| !node.poised()).collect();
    if !missing.is_empty() {
        let names = missing.iter().map(|node| node.name.clone()).collect();
        let complete = complete_racks(pass);
        let enough = complete.len() >= pass.cluster.required().max(1);
        let all_blocked = missing.iter().all(|node| node.blocker.is_some());
        let since = complete
            .iter()
            .flat_map(|rack| ring.of_rack(rack))
            .filter_map(poised_since)
            .max();
        let open_at = since.and_then(|since| since.checked_add(GATE_GRACE).ok());
        let waited = open_at.is_some_and(|at| at <= pass.now);
        if !enough || !(all_blocked || waited) {
            step.wait(Wait::ServeGate { missing: names });
            if let Some(at) = open_at.filter(|_| enough) {
                step.wake(at);
            }
            return;
        }
    }
    let record = objects::token_record(pass.cluster, &ring.tokens.record, Some(pass.now));
    step.apply(
        Object::ConfigMap(record),
        "the nodes are ready: from now on the ring counts as holding data",
    );
    step.act(
        Action::Event {
            kind: EventKind::Normal,
            reason: "RingServes",
            message: if missing.is_empty() {
                "every node is ready for the first time: the ring begins to serve".to_owned()
            } else {
                "enough racks are complete: the ring begins to serve, the other nodes will copy their data"
                    .to_owned()
            },
        },
        "the ring begins to serve",
    );
}

fn complete_racks<'r>(pass: &Pass<'r>) -> Vec<&'r str> {
    let racks = pass.cluster.racks.iter().map(|rack| rack.name.as_str());
    racks
        .filter(|rack| {
            pass.ring
                .nodes
                .iter()
                .filter(|n| n.rack.name == *rack)
                .all(Node::poised)
        })
        .collect()
}

fn poised_since(node: &Node<'_>) -> Option<Timestamp> {
    let report = node.report.as_ref().ok()?;
    Some(report.proof.since.unwrap_or(report.since))
}

/// Proposes, for each token without a proven node, the one that has most.
fn proposals(pass: &Pass<'_>, step: &mut Step) {
    for token in &pass.ring.tokens.by_ordinal {
        let replicas: Vec<&Node<'_>> = pass.ring.replicas(*token).collect();
        let may_be_proven = |node: &&&Node<'_>| node.may_be_proven() || grant(pass, node).is_some();
        if replicas.iter().any(|node| may_be_proven(&node)) {
            continue;
        }
        let reports = || {
            replicas
                .iter()
                .filter_map(|node| Some((*node, *node.report.as_ref().ok()?)))
        };
        // A store that still loads, or a node that is still trying, may know more soon.
        let idle = |report: &NodeReport| {
            report.awaiting == Some(Awaiting::DonorOrGrant)
                && report.store.as_ref().is_some_and(|store| !store.loading)
        };
        if reports().count() == 0 || !reports().all(|(_, report)| idle(report)) {
            continue;
        }
        let best = reports().max_by_key(|(node, report)| {
            let store = report.store.as_ref();
            let keys = store.map_or(0, |s| s.keys);
            let offset = store.map_or(0, |s| s.replication_offset);
            // Equal nodes: the first by name, whatever order they came in.
            (keys, offset, std::cmp::Reverse(node.name.clone()))
        });
        let Some((node, _)) = best else { continue };
        step.wait(Wait::NoProvenReplica {
            token: *token,
            proposal: Some((node.name.clone(), node.pod_uid().to_owned())),
            command: format!(
                "kubectl annotate pod {} --namespace {} --overwrite {ANNOTATION_ACCEPT_LOSS}={}",
                node.name,
                pass.cluster.id.namespace,
                node.pod_uid()
            ),
        });
    }
}
