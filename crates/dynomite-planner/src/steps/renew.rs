//! Nodes that have missed writes: one at a time gives up its proof and copies a replica that has them.
//!
//! ```text
//! behind, and may be spared -> distrust in its document -> out of the endpoints -> copies -> level
//! ```
//!
//! The document itself goes out with all others, in `configure`; this step says
//! why, and what is waited for.

use dynomite_api::contract::{Distrust, NodeReport};

use super::{Pass, Step};
use crate::cluster::Cluster;
use crate::levels::Behind;
use crate::plan::{Action, EventKind};
use crate::ring::{Node, Ring};
use crate::safety::{self, Refusal};
use crate::wait::Wait;

/// Tells of nodes that are behind or cut off.
pub(super) fn renew(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for node in &pass.ring.nodes {
        if let Some(behind) = pass.ring.levels.behind(&node.name) {
            let refusal = verdict(pass.cluster, pass.ring, node).err();
            if refusal.is_none() && node.ready() && is_told_now(pass, node) {
                tell(&mut step, node, behind);
            }
            step.wait(Wait::Behind {
                node: node.name.clone(),
                reference: behind.reference.clone(),
                refusal,
            });
        } else if let Some(coordinator) = pass.ring.levels.cut_off_from(&node.name) {
            step.wait(Wait::CutOff {
                node: node.name.clone(),
                coordinator: coordinator.to_owned(),
            });
        }
    }
    step
}

/// The word that ends a node's proof, if it is the node's turn.
pub(super) fn distrust(pass: &Pass<'_>, node: &Node<'_>, report: &NodeReport) -> Option<Distrust> {
    let behind = pass.ring.levels.behind(&node.name)?;
    verdict(pass.cluster, pass.ring, node).ok()?;
    Some(Distrust {
        pod_uid: node.pod_uid().to_owned(),
        proof_since: report.proof.since?,
        why: format!("node {} has writes that this node missed", behind.reference),
    })
}

/// Whether it is the turn of a node that is behind: the first of those that can
/// be spared, by rack and number, whatever order they are declared in.
fn verdict(cluster: &Cluster, ring: &Ring<'_>, node: &Node<'_>) -> Result<(), Refusal> {
    safety::may_renew(cluster, ring, node)?;
    let place = |node: &Node<'_>| (node.rack.name.clone(), node.ordinal);
    let earlier = ring.nodes.iter().find(|other| {
        place(other) < place(node)
            && ring.levels.behind(&other.name).is_some()
            && safety::may_renew(cluster, ring, other).is_ok()
    });
    earlier.map_or(Ok(()), |other| {
        Err(Refusal::OtherBehind {
            other: other.name.clone(),
        })
    })
}

/// Whether this pass hands the word to the node.
fn is_told_now(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    pass.earlier.actions.iter().any(|planned| {
        matches!(&planned.action, Action::Assign { node: name, .. }
            if *name == node.name && planned.action.disrupts())
    })
}

fn tell(step: &mut Step, node: &Node<'_>, behind: &Behind) {
    let (name, reference) = (&node.name, &behind.reference);
    let lacks = behind.lacks;
    step.act(
        Action::Event {
            kind: EventKind::Warning,
            reason: "NodeRenewed",
            message: format!(
                "node {name} missed at least {lacks} writes that its replicas have: it copies node {reference} before it serves again"
            ),
        },
        "it has missed writes",
    );
    if behind.drops > 0 {
        step.act(
            Action::Event {
                kind: EventKind::Warning,
                reason: "WritesDropped",
                message: format!(
                    "no replica of the token of node {name} has all writes: it is made equal to node {reference}, and {} writes that {reference} lacks are given up",
                    behind.drops
                ),
            },
            "its replicas contradict each other",
        );
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::{ProofKind, Source};
    use proptest::prelude::*;

    use super::*;
    use crate::observed::Seen;
    use crate::plan::{Plan, StepName};
    use crate::world::{World, targets};

    /// A settled ring in which each node has all writes of one coordinator but these.
    fn world(racks: usize, nodes: u32, missing: &[(&str, (u64, u64))]) -> World {
        let mut world = World::settled(racks, nodes);
        for (name, life) in &mut world.lives {
            let gap = missing.iter().find(|(node, _)| node == name);
            let source = Source {
                last: 20,
                missing: gap.map(|(_, gap)| *gap).into_iter().collect(),
                closed_seconds: None,
            };
            life.received = Some([("of-a-client".to_owned(), source)].into_iter().collect());
        }
        world.tick();
        world
    }

    /// The nodes whose proof a plan ends.
    fn distrusted(plan: &Plan) -> Vec<String> {
        let assigned = plan.actions.iter().filter_map(|p| match &p.action {
            Action::Assign { node, desired, .. } => desired.distrust.as_ref().map(|_| node.clone()),
            _ => None,
        });
        assigned.collect()
    }

    #[test]
    fn a_node_that_is_behind_copies_and_is_level() {
        let mut world = world(3, 2, &[("ring-b-0", (4, 7))]);
        let before = world.uids();
        let plan = world.plan();
        assert_eq!(distrusted(&plan), ["ring-b-0"]);
        assert_eq!(targets(&plan, StepName::Renew), ["Event NodeRenewed"]);
        world.settle();
        let life = &world.lives["ring-b-0"];
        assert_eq!(life.proof, Some(ProofKind::WarmUp));
        assert_eq!(life.received, world.lives["ring-a-0"].received);
        assert_eq!(world.uids(), before, "no pod is replaced");
        assert!(life.desired.as_ref().is_some_and(|d| d.distrust.is_none()));
    }

    #[test]
    fn one_at_a_time_in_the_datacenter() {
        let behind = [
            ("ring-a-1", (1, 2)),
            ("ring-b-0", (3, 4)),
            ("ring-c-1", (5, 6)),
        ];
        let mut world = world(3, 2, &behind);
        let mut order = Vec::new();
        for _ in 0..40 {
            let plan = world.pass();
            order.extend(distrusted(&plan));
            let out = world.lives.values().filter(|life| life.proof.is_none());
            assert!(out.count() <= 1);
        }
        assert_eq!(order, ["ring-a-1", "ring-b-0", "ring-c-1"]);
        assert!(world.plan().actions.is_empty() && world.plan().waits.is_empty());
    }

    #[test]
    fn nobody_is_renewed_that_cannot_be_spared() {
        let mut world = world(3, 1, &[("ring-b-0", (4, 7))]);
        let unknown = Seen::Unknown("it does not answer".to_owned());
        world
            .observed
            .reports
            .insert("ring-c-0".to_owned(), unknown);
        assert!(distrusted(&world.plan()).is_empty());
        let waits = world.waits();
        let held = waits.iter().find(|wait| wait.reason() == "NodeBehind");
        let message = held.expect("it is told").message();
        assert!(message.contains("not yet"), "{message}");
    }

    #[test]
    fn a_stranger_that_does_not_run_keeps_nobody_from_being_renewed() {
        let mut world = world(3, 2, &[("ring-b-0", (4, 7))]);
        world.kill("ring-c-1");
        world.slow.push("ring-c-1".to_owned());
        assert_eq!(distrusted(&world.plan()), ["ring-b-0"]);
    }

    #[test]
    fn nobody_leaves_while_a_partition_lasts() {
        let mut world = world(3, 1, &[("ring-b-0", (4, 7))]);
        assert_eq!(distrusted(&world.plan()), ["ring-b-0"]);
        // What the node of rack a coordinates reaches b and not c.
        let incarnation = format!("{}-engine", world.pod_uid("ring-a-0"));
        for (name, last, closed_seconds) in [("ring-b-0", 9, None), ("ring-c-0", 2, Some(8))] {
            let life = world.lives.get_mut(name).expect("it lives");
            let received = life.received.as_mut().expect("it numbers");
            let source = received.source_mut(&incarnation);
            (source.last, source.closed_seconds) = (last, closed_seconds);
        }
        world.tick();
        world.edit(|spec| {
            let setting = ("max_msgs".to_owned(), "300000".to_owned());
            spec.dynomite.settings.extend([setting]);
        });
        for _ in 0..3 {
            let plan = world.pass();
            assert!(!plan.actions.iter().any(|p| p.action.disrupts()));
        }
        let reasons = world.reasons();
        assert!(reasons.contains(&"NodeCutOff"), "{reasons:?}");
        assert!(reasons.contains(&"NodeBehind"), "{reasons:?}");
    }

    #[test]
    fn nothing_is_rolled_while_a_node_is_behind() {
        let mut world = world(3, 1, &[("ring-b-0", (4, 7))]);
        world.edit(|spec| {
            let setting = ("max_msgs".to_owned(), "300000".to_owned());
            spec.dynomite.settings.extend([setting]);
        });
        let plan = world.pass();
        assert_eq!(distrusted(&plan), ["ring-b-0"]);
        let disruptions = plan.actions.iter().filter(|p| p.action.disrupts());
        assert_eq!(disruptions.count(), 1);
    }

    #[test]
    fn what_only_one_has_is_given_up_in_words() {
        let mut world = world(
            3,
            1,
            &[
                ("ring-a-0", (1, 1)),
                ("ring-b-0", (2, 2)),
                ("ring-c-0", (2, 2)),
            ],
        );
        let told = targets(&world.plan(), StepName::Renew);
        assert_eq!(told, ["Event NodeRenewed", "Event WritesDropped"]);
        world.settle();
        let level = world.lives.values().map(|life| life.received.clone());
        let level: Vec<_> = level.collect();
        assert!(level.windows(2).all(|pair| pair[0] == pair[1]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        #[test]
        fn every_ring_ends_level_and_no_token_loses_two(
            missing in prop::collection::vec((0..6_usize, 1_u64..18, 0_u64..3), 0..6),
            muted in prop::option::of(0..6_usize),
        ) {
            let names = ["ring-a-0", "ring-b-0", "ring-c-0", "ring-a-1", "ring-b-1", "ring-c-1"];
            let gaps: Vec<_> = missing
                .iter()
                .map(|(node, first, more)| (names[*node], (*first, first + more)))
                .collect();
            let mut world = world(3, 2, &gaps);
            world.mute.extend(muted.map(|node| names[node].to_owned()));
            for round in 0..60 {
                if round == 8 {
                    world.mute.clear();
                }
                let plan = world.pass();
                if round > 8 && plan.waits.is_empty() && plan.actions.is_empty() {
                    break;
                }
                for token in ["-0", "-1"] {
                    let of_token = world.lives.iter().filter(|(name, _)| name.ends_with(token));
                    let out = of_token.filter(|(_, life)| life.proof.is_none()).count();
                    prop_assert!(out <= 1);
                }
            }
            prop_assert!(world.plan().waits.is_empty(), "{:?}", world.reasons());
            for token in ["-0", "-1"] {
                let of_token = world.lives.iter().filter(|(name, _)| name.ends_with(token));
                let received: Vec<_> = of_token.map(|(_, life)| life.received.clone()).collect();
                prop_assert!(received.windows(2).all(|pair| pair[0] == pair[1]));
            }
        }
    }
}
