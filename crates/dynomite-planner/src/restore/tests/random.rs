//! Restores while everything happens at once: all of the ring has one data in the end.

use proptest::prelude::*;

use super::trouble::load_again;
use super::*;

/// Something that happens to a ring while it is restored.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// The operator works.
    Pass,
    /// It plans, acts only so far, and begins anew with nothing in mind.
    Crash(usize),
    /// A sidecar does not answer.
    Mute(usize),
    /// No document reaches a node.
    Deafen(usize),
    /// A sidecar has just started.
    Restart(usize),
    /// All of that is over.
    Clear,
    /// A pod is replaced.
    Kill(usize),
    /// A store ends.
    End(usize),
    /// A node cannot load.
    FailLoads(usize),
    /// A person gives the restore up.
    Abort,
    /// The bucket goes away, or is there again.
    Bucket(bool),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        12 => Just(Happens::Pass),
        3 => (0..8_usize).prop_map(Happens::Crash),
        2 => (0..6_usize).prop_map(Happens::Mute),
        2 => (0..6_usize).prop_map(Happens::Deafen),
        2 => (0..6_usize).prop_map(Happens::Restart),
        3 => Just(Happens::Clear),
        2 => (0..6_usize).prop_map(Happens::Kill),
        2 => (0..6_usize).prop_map(Happens::End),
        1 => (0..6_usize).prop_map(Happens::FailLoads),
        1 => Just(Happens::Abort),
        1 => any::<bool>().prop_map(Happens::Bucket),
    ]
}

fn node(world: &World, index: usize) -> String {
    let names: Vec<&String> = world.lives.keys().collect();
    names[index % names.len()].clone()
}

/// Whether a token can spare this node's proof: of several racks each token loses
/// one in all, since what all of them lose is lost without a restore too.
fn is_spared(spent: &mut BTreeSet<String>, racks: usize, name: &str) -> bool {
    let ordinal = name.rsplit('-').next().unwrap_or_default().to_owned();
    racks == 1 || spent.insert(ordinal)
}

fn let_happen(world: &mut World, event: Happens, spent: &mut BTreeSet<String>) {
    let racks = world.resource.spec.racks.len();
    match event {
        Happens::Pass => {
            let plan = world.pass();
            check(world, &plan);
        }
        Happens::Crash(after) => {
            let plan = world.plan();
            for planned in plan.actions.iter().take(after) {
                world.act(&planned.action);
            }
            world.observed.answers.clear();
            world.tick();
            check(world, &plan);
        }
        Happens::Mute(index) => world.mute.push(node(world, index)),
        Happens::Deafen(index) => world.deaf.push(node(world, index)),
        Happens::Restart(index) => world.starting.push(node(world, index)),
        Happens::Clear => {
            world.mute.clear();
            world.deaf.clear();
            world.starting.clear();
        }
        Happens::Kill(index) => {
            let name = node(world, index);
            if is_spared(spent, racks, &name) {
                world.kill(&name);
            }
        }
        Happens::End(index) => {
            let name = node(world, index);
            if is_spared(spent, racks, &name) {
                world.crash_store(&name);
            }
        }
        Happens::FailLoads(index) => {
            let name = node(world, index);
            world.storage.failing_loads.insert(name);
        }
        Happens::Abort => {
            let restore = world.observed.restores.get_mut(NAME);
            restore.expect("it is there").spec.abort = true;
        }
        Happens::Bucket(away) => {
            world.storage.refuses = away.then_some(("Unreachable", true));
        }
    }
}

/// Everything is well again, and a person answers what is asked.
fn heal(world: &mut World) {
    world.mute.clear();
    world.deaf.clear();
    world.starting.clear();
    world.storage.refuses = None;
    world.storage.failing_loads.clear();
    world.tick();
    for _ in 0..200 {
        let plan = world.pass();
        check(world, &plan);
        if phase(world).is_final() && plan.actions.is_empty() {
            return;
        }
        if message(world).starts_with("DataLost") {
            load_again(world);
        }
    }
    panic!("it does not end: {:?} {}", phase(world), message(world));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_data_is_all_new_or_all_old(
        racks in prop_oneof![Just(1_usize), Just(3)],
        nodes in 1..3_u32,
        begins in 0..12_usize,
        events in prop::collection::vec(happens(), 0..30),
    ) {
        let mut world = asked(racks, nodes);
        for _ in 0..begins {
            world.pass();
        }
        let mut spent = BTreeSet::new();
        for event in events {
            let_happen(&mut world, event, &mut spent);
        }
        heal(&mut world);
        for _ in 0..20 {
            world.pass();
        }
        let completed = phase(&world) == RestorePhase::Completed;
        let expected = if completed { "new" } else { "old" };
        prop_assert_eq!(data(&world), only(expected), "{}", message(&world));
        let unproven = world.lives.iter().filter(|(_, life)| life.proof.is_none());
        let unproven: Vec<&String> = unproven.map(|(name, _)| name).collect();
        prop_assert!(unproven.is_empty(), "{unproven:?} have nothing: {}", message(&world));
    }
}
