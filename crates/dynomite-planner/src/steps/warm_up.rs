//! Permissions: when data counts as whole, and what every node waits for.
//!
//! ```text
//! never served: Bootstrap grants -> every node poised -> served-since in the record -> gate open
//! served:       donors; no proven node of a token left -> Stalled, a proposal -> a person -> AcceptLocal
//! ```

use dynomite_api::annotations::{ANNOTATION_ACCEPT_LOSS, ANNOTATION_SERVED_SINCE};
use dynomite_api::contract::{Awaiting, Grant, NodePhase};

use super::donors::waits_for_turn;
use super::{Pass, Step, gate};
use crate::ring::{Node, Ring};
use crate::wait::Wait;

/// Opens the gate when it is time, and says what every node waits for.
pub(super) fn warm_up(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for node in &pass.ring.nodes {
        progress(pass, node, &mut step);
    }
    if pass.ring.served_since.is_none() {
        gate::gate(pass, &mut step);
    }
    proposals(pass, &mut step);
    step
}

/// Whether the record says that the ring may serve. The record, not the status:
/// what is written first must be what is read, or a crash between the two could
/// let a ring serve that still counts as empty. Nodes that serve have been told
/// so: a view that is older than their word does not take it back.
pub(super) fn gate_is_open(pass: &Pass<'_>) -> bool {
    if pass.ring.serves() {
        return true;
    }
    let record = pass.observed.config_maps.get(&pass.cluster.token_record());
    record
        .and_then(|map| map.metadata.annotations.as_ref())
        .is_some_and(|annotations| annotations.contains_key(ANNOTATION_SERVED_SINCE))
}

/// The permission a node gets now.
pub(crate) fn grant(pass: &Pass<'_>, node: &Node<'_>) -> Option<Grant> {
    let pod_uid = node.pod_uid().to_owned();
    if pass
        .ring
        .leaving
        .iter()
        .any(|leaving| leaving.name == node.name)
    {
        return None;
    }
    if is_alone(pass, node) {
        return Some(Grant::AcceptLocal { pod_uid });
    }
    if accepted_by_person(node) && !has_proven_peer(pass.ring, node) {
        return Some(Grant::AcceptLocal { pod_uid });
    }
    let record_is_there = pass
        .observed
        .config_maps
        .contains_key(&pass.cluster.token_record());
    // What it begins with comes from a backup.
    let from_backup = pass.cluster.spec.bootstrap.as_ref();
    if from_backup.is_some_and(|bootstrap| bootstrap.restore_from.is_some()) {
        return None;
    }
    let never_served = pass.ring.served_since.is_none() && record_is_there && !pass.ring.serves();
    // It is taken back once it has been used, and before a ring begins without the node.
    let over = node.poised() || matches!(gate::readiness(pass), gate::Readiness::WithoutMissing);
    (never_served && !over).then_some(Grant::Bootstrap { pod_uid })
}

/// Whether there is nobody to copy from, and nothing but this volume was ever
/// written to. An empty volume in a ring that has served is a loss, which only
/// a person accepts.
fn is_alone(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let written_here = node.report.as_ref().is_ok_and(|report| report.proof.before);
    pass.cluster.racks.len() == 1
        && pass.cluster.persistent()
        && written_here
        && !pass
            .ring
            .leaving
            .iter()
            .any(|other| other.token == node.token)
}

/// Whether a person has accepted what this pod has, and no other of its name.
pub(super) fn accepted_by_person(node: &Node<'_>) -> bool {
    let annotations = node.pod.and_then(|pod| pod.metadata.annotations.as_ref());
    let word = annotations.and_then(|a| a.get(ANNOTATION_ACCEPT_LOSS));
    word.is_some_and(|uid| uid == node.pod_uid())
}

fn has_proven_peer(ring: &Ring<'_>, node: &Node<'_>) -> bool {
    ring.holders(node.token)
        .any(|holder| holder.name != node.name && holder.proven())
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
        // Nobody asks a pod that leaves for its report, and nobody waits for it elsewhere.
        if node.address().is_none() || node.terminating() {
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
        _ if node.held() => step.wait(Wait::NodeHeld {
            node: name,
            message: report.message.clone(),
        }),
        NodePhase::Failed => step.wait(Wait::NodeFailed {
            node: name,
            message: report.message.clone(),
        }),
        _ if pass.ring.served_since.is_none() && node.poised() => {}
        _ if waits_for_turn(pass, node) => step.wait(Wait::WarmUpQueued {
            node: name,
            limit: pass.cluster.max_parallel,
        }),
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

/// Proposes, for each token without a proven node, the one that has most.
///
/// Nothing is proposed while a node may still be found proven: one that cannot
/// be asked, one whose store reads its files, one that has a permission.
fn proposals(pass: &Pass<'_>, step: &mut Step) {
    for token in &pass.ring.tokens.by_ordinal {
        let replicas: Vec<&Node<'_>> = pass.ring.replicas(*token).collect();
        let mut loaded = Vec::new();
        let mut hopeless = true;
        for node in &replicas {
            hopeless &= !node.may_be_proven() && !may_use_grant(pass, node);
            if let Ok(report) = node.report {
                match report.store.as_ref().filter(|store| !store.loading) {
                    Some(store) => loaded.push((*node, store)),
                    None => hopeless = false,
                }
            }
        }
        let leaving = pass.ring.leaving.iter();
        hopeless &= !leaving
            .filter(|node| node.token == *token)
            .any(Node::may_be_proven);
        // Equal nodes: the first by name, whatever order they came in.
        let best = loaded.into_iter().max_by_key(|(node, store)| {
            let name = std::cmp::Reverse(node.name.clone());
            (store.keys, store.replication_offset, name)
        });
        if let Some((node, _)) = best.filter(|_| hopeless) {
            step.wait(Wait::NoProvenReplica {
                token: *token,
                proposal: Some((node.name.clone(), node.pod_uid().to_owned())),
                command: acceptance(pass, node),
            });
        }
    }
}

/// Whether a node has a permission that it may still make use of.
fn may_use_grant(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let Ok(report) = node.report else {
        return false;
    };
    match grant(pass, node) {
        None => false,
        // A bootstrap is for an empty store only.
        Some(Grant::Bootstrap { .. }) => report.store.as_ref().is_none_or(|s| s.keys == 0),
        Some(Grant::AcceptLocal { .. }) if is_alone(pass, node) => true,
        // A node takes a person's word once; it says so by asking again.
        Some(Grant::AcceptLocal { .. }) => report.awaiting != Some(Awaiting::DonorOrGrant),
    }
}

/// The command by which a person accepts what a node has. A mark that has been
/// used is taken off first, so that no old word answers a new question.
fn acceptance(pass: &Pass<'_>, node: &Node<'_>) -> String {
    let mark = if accepted_by_person(node) {
        format!("{ANNOTATION_ACCEPT_LOSS}-")
    } else {
        format!("--overwrite {ANNOTATION_ACCEPT_LOSS}={}", node.pod_uid())
    };
    format!(
        "kubectl annotate pod {} --namespace {} {mark}",
        node.name, pass.cluster.id.namespace
    )
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::ProofKind;

    use super::*;
    use crate::observed::Seen;
    use crate::plan::Action;
    use crate::world::{World, resource};

    fn grants(world: &World) -> Vec<Option<Grant>> {
        let cluster = world.cluster();
        let ring = Ring::new(&cluster, &world.observed);
        let pass = Pass {
            cluster: &cluster,
            observed: &world.observed,
            ring: &ring,
            now: world.now,
            earlier: &crate::plan::Plan::default(),
            compared: &crate::comparison::Next::default(),
        };
        ring.nodes.iter().map(|node| grant(&pass, node)).collect()
    }

    #[test]
    fn nothing_is_granted_once_the_ring_has_served() {
        let mut world = World::settled(3, 2);
        assert!(grants(&world).iter().all(Option::is_none));
        // The record is gone: the status still knows, and the volumes would.
        world.observed.config_maps.clear();
        assert!(grants(&world).iter().all(Option::is_none));
    }

    #[test]
    fn an_older_view_takes_no_word_back_from_a_ring_that_serves() {
        let mut world = World::settled(3, 2);
        let record = world.observed.config_maps.get_mut("ring-tokens");
        record.expect("it is there").metadata.annotations = None;
        world.resource.status = None;
        assert!(grants(&world).iter().all(Option::is_none));
        let plan = world.plan();
        let assigns = |action: &Action| matches!(action, Action::Assign { .. });
        assert!(!plan.actions.iter().any(|planned| assigns(&planned.action)));
    }

    #[test]
    fn a_store_that_restarts_copies_from_a_peer() {
        let mut world = World::settled(3, 2);
        world.kill("ring-a-1");
        world.settle();
        assert_eq!(world.lives["ring-a-1"].proof, Some(ProofKind::WarmUp));
    }

    #[test]
    fn when_all_proof_is_lost_a_person_decides() {
        let mut world = World::settled(3, 1);
        for (name, keys) in [("ring-a-0", 3), ("ring-b-0", 9), ("ring-c-0", 5)] {
            world.kill(name);
            world.lives.get_mut(name).expect("it lived").keys = keys;
        }
        for _ in 0..6 {
            world.pass();
        }
        let uid = world.pod_uid("ring-b-0");
        let stalled = world
            .waits()
            .into_iter()
            .find(Wait::stalls)
            .expect("it stalls");
        assert!(stalled.message().contains(&format!(
            "kubectl annotate pod ring-b-0 --namespace data --overwrite dynomite.io/accept-loss={uid}"
        )));
        // A mark for another pod is nobody's word.
        annotate(&mut world, "ring-b-0", "another");
        assert!(grants(&world).iter().all(Option::is_none));
        annotate(&mut world, "ring-b-0", &uid);
        world.settle();
        assert_eq!(
            world.lives["ring-b-0"].proof,
            Some(ProofKind::AcceptedLocal)
        );
        assert_eq!(world.lives["ring-a-0"].proof, Some(ProofKind::WarmUp));
        // The mark is still there and grants nothing while peers hold the data.
        assert!(grants(&world).iter().all(Option::is_none));
    }

    #[test]
    fn a_store_that_is_not_empty_is_not_bootstrapped_but_proposed() {
        let mut world = World::new(resource(3, 1));
        for node in ["ring-a-0", "ring-b-0", "ring-c-0"] {
            let life = world.lives.entry(node.to_owned()).or_default();
            (life.keys, life.spent) = (4, true);
        }
        for _ in 0..6 {
            world.pass();
        }
        let stalled = world
            .waits()
            .into_iter()
            .find(Wait::stalls)
            .expect("it stalls");
        assert_eq!(stalled.reason(), "NoProvenReplica");
        let plan = world.plan();
        world.accept_proposals(&plan);
        world.settle();
    }

    #[test]
    fn a_word_that_was_used_is_taken_off_before_the_next() {
        let mut world = World::settled(3, 1);
        for name in ["ring-a-0", "ring-b-0", "ring-c-0"] {
            world.kill(name);
        }
        for _ in 0..4 {
            world.pass();
        }
        let uid = world.pod_uid("ring-a-0");
        annotate(&mut world, "ring-a-0", &uid);
        let stalled = world
            .waits()
            .into_iter()
            .find(Wait::stalls)
            .expect("it stalls");
        assert!(
            stalled.message().ends_with("dynomite.io/accept-loss-"),
            "{}",
            stalled.message()
        );
    }

    fn annotate(world: &mut World, pod: &str, value: &str) {
        let pod = world.observed.pods.get_mut(pod).expect("it is there");
        let mark = (ANNOTATION_ACCEPT_LOSS.to_owned(), value.to_owned());
        pod.metadata
            .annotations
            .get_or_insert_default()
            .extend([mark]);
    }

    #[test]
    fn an_unknown_node_may_hold_the_data() {
        let mut world = World::settled(3, 1);
        world.kill("ring-a-0");
        world.kill("ring-b-0");
        world.mute.push("ring-c-0".to_owned());
        world.tick();
        let unknown = Seen::Unknown("it does not answer".to_owned());
        world
            .observed
            .reports
            .insert("ring-c-0".to_owned(), unknown);
        assert!(!world.waits().iter().any(Wait::stalls));
    }

    #[test]
    fn a_pod_that_leaves_and_cannot_be_asked_is_waited_for() {
        let mut world = World::settled(3, 1);
        let pod = world
            .observed
            .pods
            .get_mut("ring-a-0")
            .expect("it is there");
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now);
        pod.metadata.deletion_timestamp = Some(now);
        let unknown = Seen::Unknown("it does not answer".to_owned());
        world
            .observed
            .reports
            .insert("ring-a-0".to_owned(), unknown);
        assert_eq!(world.reasons(), ["NodeStarting"]);
    }

    #[test]
    fn one_rack_does_not_take_an_empty_volume_for_its_data() {
        let mut world = World::settled(1, 1);
        world.kill("ring-a-0");
        let life = world.lives.get_mut("ring-a-0").expect("it lived");
        (life.before, life.keys) = (false, 0);
        for _ in 0..6 {
            world.pass();
        }
        assert!(grants(&world).iter().all(Option::is_none));
        let stalled = world.waits().into_iter().find(Wait::stalls);
        assert!(stalled.is_some(), "{:?}", world.reasons());
        let uid = world.pod_uid("ring-a-0");
        annotate(&mut world, "ring-a-0", &uid);
        world.settle();
    }

    #[test]
    fn one_persistent_rack_takes_what_it_has() {
        let mut world = World::settled(1, 2);
        world.kill("ring-a-0");
        world.settle();
        assert_eq!(
            world.lives["ring-a-0"].proof,
            Some(ProofKind::AcceptedLocal)
        );
    }
}
