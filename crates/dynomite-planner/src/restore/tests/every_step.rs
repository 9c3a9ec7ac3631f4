//! Restores in which something ends at each step: the operator after each of its actions, a node after each pass.

use super::trouble::load_again;
use super::*;

/// More passes than a restore takes, whatever ends meanwhile.
const PASSES: usize = 150;

/// A ring whose other rack copies what was loaded, and one that has to go back by what it saved.
const RINGS: [(usize, bool); 2] = [(2, false), (1, true)];

fn ring(racks: usize, fails: bool) -> World {
    let mut world = asked(racks, 1);
    if fails {
        world.storage.failing_loads.insert("ring-a-0".to_owned());
    }
    world
}

/// Goes on to the end, in which all of the ring has one data; a person answers what is asked.
fn to_the_end(world: &mut World, what: &str) -> RestorePhase {
    for _ in 0..PASSES {
        let plan = world.pass();
        check(world, &plan);
        if phase(world).is_final() {
            break;
        }
        if message(world).starts_with("DataLost") {
            load_again(world);
        }
    }
    let end = phase(world);
    assert!(end.is_final(), "{what}: {end:?} {}", message(world));
    world.settle();
    let completed = end == RestorePhase::Completed;
    let expected = if completed { "new" } else { "old" };
    assert_eq!(data(world), only(expected), "{what}: {}", message(world));
    let proven = |life: &Life| life.proof.is_some();
    assert!(world.lives.values().all(proven), "{what}");
    end
}

/// Passes until so many actions were done, and no more of the plan that has the next; whether
/// there was a next one.
fn up_to(world: &mut World, actions: usize) -> bool {
    let mut left = actions;
    while !phase(world).is_final() {
        let plan = world.plan();
        for planned in plan.actions.iter().take(left) {
            world.act(&planned.action);
        }
        if plan.actions.len() > left {
            return true;
        }
        left -= plan.actions.len();
        world.publish(&plan);
        world.tick();
        check(world, &plan);
    }
    false
}

#[test]
fn an_operator_that_ends_after_any_action_of_a_restore_is_followed_by_one_that_ends_it_the_same() {
    for (racks, fails) in RINGS {
        let mut actions = 0;
        loop {
            let mut world = ring(racks, fails);
            if !up_to(&mut world, actions) {
                break;
            }
            // All that it knew beside the objects.
            world.observed.answers.clear();
            world.tick();
            let what = format!("{racks} racks, fails: {fails}, after {actions} actions");
            let expected = if fails {
                RestorePhase::RolledBack
            } else {
                RestorePhase::Completed
            };
            assert_eq!(to_the_end(&mut world, &what), expected, "{what}");
            actions += 1;
        }
        assert!(actions > 10, "{actions} actions are no restore");
    }
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    Pod,
    Store,
    Sidecar,
}

#[test]
fn a_node_that_ends_at_any_step_of_a_restore_leaves_one_data() {
    for (racks, fails) in RINGS {
        // The node that loads: others are killed at random elsewhere.
        let victim = "ring-a-0";
        for ends in [Ends::Pod, Ends::Store, Ends::Sidecar] {
            for passes in 0..PASSES {
                let mut world = ring(racks, fails);
                for _ in 0..passes {
                    world.pass();
                }
                if phase(&world).is_final() {
                    break;
                }
                match ends {
                    Ends::Pod => world.kill(victim),
                    Ends::Store => world.crash_store(victim),
                    Ends::Sidecar => {
                        world.starting.push(victim.to_owned());
                        world.tick();
                        let plan = world.pass();
                        check(&world, &plan);
                        world.starting.clear();
                    }
                }
                let what = format!("{racks} racks, its {ends:?} after {passes}");
                to_the_end(&mut world, &what);
            }
        }
    }
}
