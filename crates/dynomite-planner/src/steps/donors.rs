//! Donors: from whom a node copies, best first, so that copies spread and none takes over what another missed.

use std::collections::BTreeMap;

use dynomite_api::contract::{Donor, NodePhase, PORT_SECURE};
use jiff::Timestamp;

use super::Pass;
use crate::ring::{Node, Ring};

/// For how long at least a node keeps to its turn without a word, seconds; up to
/// twice as long, since all nodes are told the same moment for one such while.
const TURN_SECONDS: i64 = 600;

/// The nodes of the same token in other racks, best first: those that serve
/// with proven data, then the others that were heard, then the unknown.
///
/// A node that lives by this list alone may find that the first are gone and
/// the last have become whole, so nobody is left out whose own sidecar would
/// refuse while it is not; only one that is known to have missed writes is,
/// while another has them: it does not know that itself. Among equals those
/// come first that give to fewest others; then each rack begins with the next
/// one.
pub(super) fn donors(ring: &Ring<'_>, node: &Node<'_>) -> Vec<Donor> {
    let mut giving: BTreeMap<&str, usize> = BTreeMap::new();
    let mut replicas: Vec<&Node<'_>> = ring.holders(node.token).collect();
    replicas.sort_by_key(|replica| &replica.rack.name);
    if !holds_data(node) {
        // What those before this node copy, or are about to; those after it look at this one.
        for earlier in &replicas {
            if earlier.name == node.name {
                break;
            }
            if holds_data(earlier) || earlier.pod.is_none() {
                continue;
            }
            let copied = earlier
                .report
                .as_ref()
                .ok()
                .and_then(|r| r.warm_up.as_ref());
            let chosen = match copied {
                Some(copy) => replicas.iter().find(|replica| replica.name == copy.donor),
                None => None,
            };
            let chosen = chosen
                .copied()
                .or_else(|| ranked(&replicas, ring, earlier, &giving).first().copied());
            if let Some(chosen) = chosen {
                *giving.entry(&chosen.name).or_default() += 1;
            }
        }
    }
    let ranked = ranked(&replicas, ring, node, &giving);
    ranked.into_iter().map(donor).collect()
}

/// When a node may copy that has to leave it to others now: as many copy as may
/// at once. The moment lies ahead, and is moved on while others copy.
pub(super) fn turn(pass: &Pass<'_>, node: &Node<'_>) -> Option<Timestamp> {
    if !waits_for_turn(pass, node) {
        return None;
    }
    let window = pass.now.as_second().div_euclid(TURN_SECONDS) + 2;
    Timestamp::from_second(window * TURN_SECONDS).ok()
}

/// Whether it is not a node's turn: nodes that copy already go on, then those
/// come whose token has fewest ready nodes, then those that have not failed, in
/// the order of racks and numbers. Nodes that nobody can ask count for nothing:
/// they would block the others for as long as they are away.
pub(super) fn waits_for_turn(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let ring = pass.ring;
    if ring.served_since.is_none() || !is_to_copy(ring, node) {
        return false;
    }
    let rank = |node: &Node<'_>| {
        let report = node.report.as_ref();
        let failed = report.is_ok_and(|r| r.phase == NodePhase::Failed);
        let ready = ring.replicas(node.token).filter(|r| r.ready()).count();
        (failed, ready, node.rack.name.clone(), node.ordinal)
    };
    let own = rank(node);
    let running = ring.nodes.iter().filter(|other| other.warming_up()).count();
    let earlier = ring
        .nodes
        .iter()
        .filter(|other| is_to_copy(ring, other) && rank(other) < own)
        .count();
    running + earlier >= pass.cluster.max_parallel
}

/// Whether a node could begin to copy: it runs, has no proven data, and there is a donor.
fn is_to_copy(ring: &Ring<'_>, node: &Node<'_>) -> bool {
    let unproven = node.report.is_ok() && !node.may_be_proven();
    let starts = unproven && !node.warming_up() && !node.terminating() && !node.held();
    starts && ring.holders(node.token).any(Node::proven)
}

/// Whether a node needs no donor, for all that is known.
fn holds_data(node: &Node<'_>) -> bool {
    node.may_be_proven()
}

fn ranked<'r, 'a>(
    replicas: &[&'r Node<'a>],
    ring: &Ring<'_>,
    node: &Node<'_>,
    giving: &BTreeMap<&str, usize>,
) -> Vec<&'r Node<'a>> {
    let others = replicas.iter().filter(|other| other.name != node.name);
    let proven = |other: &Node<'_>| other.proven() && !other.terminating();
    let behind = |other: &Node<'_>| ring.levels.behind(&other.name).is_some();
    let whole = others.clone().any(|other| proven(other) && !behind(other));
    let mut donors: Vec<&'r Node<'a>> = others
        .filter(|other| !(whole && behind(other)))
        .copied()
        .collect();
    let mut racks: Vec<&str> = ring.nodes.iter().map(|n| n.rack.name.as_str()).collect();
    racks.sort_unstable();
    racks.dedup();
    let place = |name: &str| racks.iter().position(|rack| *rack == name).unwrap_or(0);
    let own = place(&node.rack.name);
    donors.sort_by_key(|other| {
        let class = match &other.report {
            Ok(_) if proven(other) => 0,
            Ok(_) => 1,
            Err(_) => 2,
        };
        let load = giving.get(other.name.as_str()).copied().unwrap_or(0);
        let distance = (place(&other.rack.name) + racks.len() - own) % racks.len();
        (class, load, distance)
    });
    donors
}

/// How another node reaches this one to copy it, or to compare with it.
pub(crate) fn donor(node: &Node<'_>) -> Donor {
    Donor {
        name: node.name.clone(),
        host: node.host.clone(),
        address: node.address().map(str::to_owned),
        port: PORT_SECURE,
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::{ProofKind, Source};

    use super::*;
    use crate::observed::Seen;
    use crate::world::{World, resource};

    fn donors_of(world: &World, name: &str) -> Vec<String> {
        let cluster = world.cluster();
        let ring = Ring::new(&cluster, &world.observed);
        let node = ring.nodes.iter().find(|node| node.name == name);
        let list = donors(&ring, node.expect("it is there"));
        list.into_iter().map(|donor| donor.name).collect()
    }

    #[test]
    fn donors_are_of_the_same_token_and_the_unknown_come_last() {
        let mut world = World::settled(3, 2);
        assert_eq!(donors_of(&world, "ring-a-1"), ["ring-b-1", "ring-c-1"]);
        // Each rack begins with the next one.
        assert_eq!(donors_of(&world, "ring-b-1"), ["ring-c-1", "ring-a-1"]);
        let unknown = Seen::Unknown("it does not answer".to_owned());
        world
            .observed
            .reports
            .insert("ring-b-1".to_owned(), unknown);
        assert_eq!(donors_of(&world, "ring-a-1"), ["ring-c-1", "ring-b-1"]);
        let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-c-1") else {
            panic!("it was heard");
        };
        report.proof.kind = ProofKind::Unproven;
        assert_eq!(donors_of(&world, "ring-a-1"), ["ring-c-1", "ring-b-1"]);
    }

    #[test]
    fn one_that_missed_writes_is_no_donor_while_another_has_them() {
        let mut world = World::settled(3, 1);
        for (name, life) in &mut world.lives {
            let missing = if name == "ring-b-0" {
                vec![(2, 3)]
            } else {
                vec![]
            };
            let source = Source {
                last: 9,
                missing,
                closed_seconds: None,
            };
            life.received = Some([("of-a-client".to_owned(), source)].into_iter().collect());
        }
        world.tick();
        assert_eq!(donors_of(&world, "ring-a-0"), ["ring-c-0"]);
        // When it is all there is, what it has is better than nothing.
        world.kill("ring-c-0");
        assert_eq!(donors_of(&world, "ring-a-0"), ["ring-b-0", "ring-c-0"]);
    }

    #[test]
    fn several_that_copy_at_once_take_several_donors() {
        let mut world = World::new(resource(5, 1));
        world.settle();
        for name in ["ring-a-0", "ring-b-0", "ring-c-0"] {
            world.kill(name);
            world.slow.push(name.to_owned());
        }
        world.pass();
        let firsts =
            ["ring-a-0", "ring-b-0", "ring-c-0"].map(|name| donors_of(&world, name)[0].clone());
        assert_eq!(firsts, ["ring-d-0", "ring-e-0", "ring-d-0"]);
        // Whoever has its data goes by its rack alone, so that its document stays as it is.
        assert_eq!(donors_of(&world, "ring-d-0")[0], "ring-e-0");
    }

    #[test]
    fn so_many_copy_at_once_and_the_others_wait_in_words() {
        let mut world = World::new(resource(3, 4));
        world.resource.spec.warm_up.max_parallel = 2;
        world.settle();
        for ordinal in 0..4 {
            world.kill(&format!("ring-b-{ordinal}"));
        }
        let mut most = 0;
        let mut queued = false;
        for _ in 0..20 {
            world.pass();
            most = most.max(world.lives.values().filter(|life| life.warming).count());
            queued |= world.reasons().contains(&"WarmUpQueued");
        }
        assert_eq!((most, queued), (2, true));
        world.settle();
        let held = |life: &crate::world::Life| {
            let desired = life.desired.as_ref();
            desired.is_some_and(|d| d.copy_not_before.is_some())
        };
        assert!(!world.lives.values().any(held));
    }

    #[test]
    fn a_turn_comes_without_the_operator() {
        let mut world = World::new(resource(3, 2));
        world.resource.spec.warm_up.max_parallel = 1;
        world.settle();
        for name in ["ring-b-0", "ring-b-1"] {
            world.kill(name);
        }
        world.pass();
        world.pass();
        let waits = &world.lives["ring-b-1"];
        let desired = waits.desired.as_ref().expect("it has one");
        let turn = desired.copy_not_before.expect("it waits");
        let ahead = turn.duration_since(world.now).as_secs();
        assert!(
            (TURN_SECONDS - 60..=2 * TURN_SECONDS).contains(&ahead),
            "{ahead}"
        );
        assert!(!desired.donors.is_empty());
        world.now = turn;
        world.tick();
        world.tick();
        assert!(world.lives["ring-b-1"].proof.is_some());
    }
}
