//! What must hold whatever happens: properties over made-up worlds.

use proptest::prelude::*;

use crate::plan::{Action, Plan};
use crate::ring::Ring;
use crate::world::{World, resource, summary};

/// Something that happens to a ring.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// A pod is gone.
    Kill(usize),
    /// A sidecar stops answering.
    Mute(usize),
    /// All sidecars answer again.
    Unmute,
    /// A setting that needs a restart is changed.
    Change(u8),
    /// The operator works.
    Pass,
    /// The operator plans, acts only so far, and is killed.
    Crash(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => (0..6_usize).prop_map(Happens::Kill),
        1 => (0..6_usize).prop_map(Happens::Mute),
        1 => Just(Happens::Unmute),
        1 => (0..3_u8).prop_map(Happens::Change),
        6 => Just(Happens::Pass),
        2 => (0..12_usize).prop_map(Happens::Crash),
    ]
}

fn node(world: &World, index: usize) -> Option<String> {
    let names: Vec<&String> = world.observed.pods.keys().collect();
    let len = names.len();
    (len > 0).then(|| names[index % len].clone())
}

fn let_happen(world: &mut World, event: Happens) {
    match event {
        Happens::Kill(index) => {
            if let Some(name) = node(world, index) {
                world.kill(&name);
            }
        }
        Happens::Mute(index) => world.mute.extend(node(world, index)),
        Happens::Unmute => world.mute.clear(),
        Happens::Change(value) => world.edit(|spec| {
            let setting = (
                "max_msgs".to_owned(),
                (100_000 + u32::from(value)).to_string(),
            );
            spec.dynomite.settings.extend([setting]);
        }),
        Happens::Pass => drop(world.pass()),
        Happens::Crash(after) => {
            let plan = world.plan();
            world.check(&plan);
            for planned in plan.actions.iter().take(after) {
                world.act(&planned.action);
            }
            world.tick();
        }
    }
}

/// What must hold at every moment.
fn invariants(world: &World) -> Plan {
    let cluster = world.cluster();
    let ring = Ring::new(&cluster, &world.observed);
    let muted = ring
        .nodes
        .iter()
        .filter(|node| world.mute.contains(&node.name));
    for node in muted.filter(|node| node.report.is_err()) {
        assert!(
            !node.ready(),
            "{} is unknown and counts as ready",
            node.name
        );
    }
    let plan = world.plan();
    world.check(&plan);
    assert_eq!(plan, world.plan(), "the same input gives the same plan");
    plan
}

/// Everything is well again; the operator has as many passes as it may need.
fn heal(world: &mut World) -> Plan {
    world.mute.clear();
    world.tick();
    for _ in 0..80 {
        world.pass();
        let plan = invariants(world);
        world.accept_proposals(&plan);
        if plan.actions.is_empty() && plan.waits.is_empty() {
            return plan;
        }
    }
    panic!("does not settle: {:#?}", summary(&world.plan()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_ring_settles_and_stays(
        racks in 1..4_usize,
        nodes in 1..3_u32,
        events in prop::collection::vec(happens(), 0..20),
    ) {
        let mut world = World::new(resource(racks, nodes));
        for event in events {
            let_happen(&mut world, event);
            invariants(&world);
        }
        heal(&mut world);
        let next = world.pass();
        prop_assert!(next.actions.is_empty(), "{:?}", summary(&next));
        // A pass without a change writes no status either, however late it is.
        let settled = world.resource.status.clone();
        world.pass();
        prop_assert_eq!(&settled, &world.resource.status);
    }

    #[test]
    fn the_order_of_lists_does_not_matter(events in prop::collection::vec(happens(), 0..12)) {
        let mut world = World::new(resource(3, 2));
        for event in events {
            let_happen(&mut world, event);
        }
        let mut other = World::new(world.resource.clone());
        other.observed = world.observed.clone();
        other.now = world.now;
        other.resource.spec.racks.reverse();
        for pod in other.observed.pods.values_mut() {
            for conditions in pod.status.iter_mut().filter_map(|s| s.conditions.as_mut()) {
                conditions.reverse();
            }
        }
        let documents = |plan: &Plan| {
            let mut list: Vec<_> = plan.actions.iter().filter_map(|planned| match &planned.action {
                Action::Assign { node, desired, .. } => Some((node.clone(), desired.digest())),
                _ => None,
            }).collect();
            list.sort();
            list
        };
        prop_assert_eq!(documents(&world.plan()), documents(&other.plan()));
        let count = |plan: &Plan| plan.actions.len();
        prop_assert_eq!(count(&world.plan()), count(&other.plan()));
    }
}
