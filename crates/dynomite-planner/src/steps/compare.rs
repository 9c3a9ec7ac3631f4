//! Comparisons of replicas, key by key: ordered one token at a time, withdrawn when they have ended, told when keys differ.
//!
//! The order is no part of a document's digest: it changes nothing of how a node
//! lives, so it comes and goes beside everything else.

use super::{Pass, Step, configure};
use crate::comparison;
use crate::plan::{Action, EventKind};
use crate::ring::Node;
use crate::wait::Wait;

/// Hands out and takes back orders, and tells what was found.
pub(super) fn compare(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    let next = pass.compared;
    if let Some(due) = next.due {
        step.wake(due);
    }
    for node in &pass.ring.nodes {
        let Some(said) = comparison::said(node) else {
            continue;
        };
        let ordered = said.ordered;
        let order = comparison::order(pass.cluster, pass.ring, next, node);
        let wanted = order.map(|order| order.round);
        let begins = wanted.is_some() && pass.is_moving();
        if ordered != wanted && !begins {
            assign(pass, node, &mut step);
            if wanted.is_none() {
                tell(node, ordered, &mut step);
            }
        }
        found(pass, node, &mut step);
    }
    step
}

/// Hands a node its document, if nothing else in it is to change: else it goes
/// out with that.
fn assign(pass: &Pass<'_>, node: &Node<'_>, step: &mut Step) {
    let Some((desired, address)) = configure::known(pass, node) else {
        return;
    };
    let assign = Action::Assign {
        node: node.name.clone(),
        address: address.to_owned(),
        desired: Box::new(desired),
    };
    step.act(assign, "its replicas are to be compared, or have been");
}

/// What was repaired in the round that has just ended.
fn tell(node: &Node<'_>, ordered: Option<u64>, step: &mut Step) {
    let last = comparison::ended(node).filter(|last| Some(last.round) == ordered);
    let Some(found) = last
        .map(|last| last.found)
        .filter(|found| found.repaired > 0)
    else {
        return;
    };
    let event = Action::Event {
        kind: EventKind::Warning,
        reason: "KeysRepaired",
        message: format!(
            "{} of {} keys of token {} differed between its replicas, as when two writers race: {} values were replaced by the one that most replicas had, or the first",
            found.different, found.compared, node.token, found.repaired
        ),
    };
    step.act(event, "replicas differed");
}

fn found(pass: &Pass<'_>, node: &Node<'_>, step: &mut Step) {
    if !pass.cluster.spec.compare.enabled {
        return;
    }
    let keys = comparison::left(node);
    if keys > 0 {
        step.wait(Wait::ReplicasDiffer {
            node: node.name.clone(),
            keys,
            repairs: pass.cluster.spec.compare.repair,
        });
    }
    if let Some(why) = comparison::failed(node) {
        step.wait(Wait::NotCompared {
            node: node.name.clone(),
            why: why.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::{CompareReport, CompareRound, CompareTally};
    use jiff::SignedDuration;

    use super::*;
    use crate::plan::Plan;
    use crate::world::World;

    fn world(racks: usize, nodes: u32) -> World {
        let mut world = World::settled(racks, nodes);
        world.resource.spec.compare.enabled = true;
        for life in world.lives.values_mut() {
            life.compare = Some(CompareReport::default());
        }
        world.tick();
        world
    }

    fn later(world: &mut World, seconds: i64) {
        let passed = SignedDuration::from_secs(seconds);
        world.now = world.now.checked_add(passed).expect("in range");
        world.tick();
    }

    /// The nodes that a plan hands a document, with the round they are told of.
    fn told(plan: &Plan) -> Vec<(String, Option<u64>)> {
        let assigned = plan.actions.iter().filter_map(|p| match &p.action {
            Action::Assign { node, desired, .. } => Some((
                node.clone(),
                desired.compare.as_ref().map(|order| order.round),
            )),
            _ => None,
        });
        assigned.collect()
    }

    fn of(names: &[&str], round: Option<u64>) -> Vec<(String, Option<u64>)> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), round))
            .collect()
    }

    /// The leader says what it has found.
    fn finish(world: &mut World, leader: &str, found: CompareTally) {
        let now = world.now;
        let life = world.lives.get_mut(leader).expect("it lives");
        let order = life.desired.as_ref().and_then(|d| d.compare.clone());
        let order = order.expect("it was told");
        assert_eq!(order.leader, leader);
        let said = life.compare.as_mut().expect("it knows comparisons");
        said.left = found.left;
        said.last = Some(CompareRound {
            round: order.round,
            basis: order.basis,
            started_at: now,
            finished_at: Some(now),
            broken: None,
            found,
        });
        world.tick();
    }

    const FIRST: [&str; 3] = ["ring-a-0", "ring-b-0", "ring-c-0"];
    const SECOND: [&str; 3] = ["ring-a-1", "ring-b-1", "ring-c-1"];

    fn tally(different: u64, repaired: u64, left: u64) -> CompareTally {
        CompareTally {
            compared: 100,
            different,
            repaired,
            left,
            ..CompareTally::default()
        }
    }

    #[test]
    fn tokens_are_compared_one_after_the_other_and_then_again_and_again() {
        let mut world = world(3, 2);
        assert!(told(&world.plan()).is_empty(), "it has just begun");
        assert!(world.plan().wake_at.is_some());
        later(&mut world, 61);
        let (uids, before) = (world.uids(), world.plan());
        assert_eq!(told(&before), of(&FIRST, Some(1)));
        world.pass();
        assert!(world.plan().actions.is_empty(), "it is under way");
        assert!(world.reasons().is_empty(), "and nothing is amiss");
        finish(&mut world, "ring-a-0", tally(0, 0, 0));
        let mut both = of(&FIRST, None);
        both.extend(of(&SECOND, Some(1)));
        both.sort();
        let mut is = told(&world.pass());
        is.sort();
        assert_eq!(is, both);
        finish(&mut world, "ring-a-1", tally(0, 0, 0));
        assert_eq!(told(&world.pass()), of(&SECOND, None));
        let plan = world.pass();
        assert!(plan.actions.is_empty() && plan.waits.is_empty());
        later(&mut world, 3600);
        assert_eq!(told(&world.plan()), of(&FIRST, Some(2)));
        assert_eq!(world.uids(), uids, "no pod was touched");
        world.edit(|spec| spec.compare.enabled = false);
        assert!(told(&world.pass()).iter().all(|(_, round)| round.is_none()));
    }

    #[test]
    fn what_differs_is_told_once_and_what_stays_different_is_a_finding() {
        let mut world = world(3, 1);
        later(&mut world, 61);
        world.pass();
        finish(&mut world, "ring-a-0", tally(5, 3, 2));
        let plan = world.pass();
        let events = |plan: &Plan| -> Vec<String> {
            let all = plan.actions.iter().filter_map(|p| match &p.action {
                Action::Event {
                    reason, message, ..
                } => Some(format!("{reason} {message}")),
                _ => None,
            });
            all.collect()
        };
        assert_eq!(events(&plan).len(), 1);
        assert!(events(&plan)[0].starts_with("KeysRepaired 5 of 100"));
        assert_eq!(world.reasons(), ["ReplicasDiffer"]);
        assert!(events(&world.pass()).is_empty(), "once");
        let status = world.resource.status.clone().expect("it has one");
        let findings = &status.racks[0].nodes[0].findings;
        assert_eq!(findings[0].reason, "ReplicasDiffer");
        let level = status
            .conditions
            .iter()
            .find(|c| c.type_ == "ReplicasLevel");
        assert_eq!(
            level.map(|c| (c.status.as_str(), c.reason.as_str())),
            Some(("False", "ReplicasDiffer"))
        );
        // Some were repaired, so the others are tried soon.
        later(&mut world, 61);
        assert_eq!(told(&world.pass()), of(&FIRST, Some(2)));
        assert_eq!(world.reasons(), ["ReplicasDiffer"], "until it has ended");
        finish(&mut world, "ring-a-0", tally(0, 0, 0));
        world.settle();
        assert!(world.reasons().is_empty());
    }

    #[test]
    fn everything_else_goes_first() {
        let mut world = world(3, 1);
        later(&mut world, 61);
        world.pass();
        world.kill("ring-b-0");
        world.pass();
        world.pass();
        let ordered = world.lives.iter().filter(|(name, life)| {
            let desired = life.desired.as_ref().filter(|_| *name != "ring-b-0");
            desired.is_some_and(|desired| desired.compare.is_some())
        });
        assert_eq!(ordered.count(), 0, "it was withdrawn");
        world.settle();
        let life = world.lives.get_mut("ring-b-0").expect("it lives");
        life.compare = Some(CompareReport::default());
        world.tick();
        assert_eq!(
            told(&world.plan()),
            [],
            "the new incarnation is to be calm first"
        );
        later(&mut world, 61);
        assert_eq!(told(&world.plan()).len(), 3);
    }

    #[test]
    fn nodes_that_know_no_comparison_are_not_told_of_it() {
        let mut world = world(3, 1);
        world.lives.get_mut("ring-b-0").expect("it lives").compare = None;
        world.tick();
        later(&mut world, 7200);
        assert!(told(&world.plan()).is_empty());
    }

    #[test]
    fn an_operator_that_starts_anew_goes_on_with_the_round_that_is_under_way() {
        let mut world = world(2, 1);
        later(&mut world, 61);
        let plan = world.plan();
        // Only one of the two documents arrived.
        world.act(&plan.actions[0].action);
        world.tick();
        assert_eq!(told(&world.pass()), of(&["ring-b-0"], Some(1)));
        later(&mut world, 7200);
        assert!(world.plan().actions.is_empty());
    }
}
