//! Nodes about which little is known at the turn: when a restore commits, and when it begins to go back.

use super::trouble::ends;
use super::*;

fn give_up(world: &mut World) {
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    restore.spec.abort = true;
}

/// It is in the middle of its load when the word is taken back, and hears nothing of that, or
/// says nothing: what it has in the end nobody knows before.
#[test]
fn a_loader_that_may_not_know_that_it_is_to_stop_keeps_the_way_back_open() {
    for silent in [false, true] {
        let mut world = asked(3, 1);
        world.storage.slow_loads.insert("ring-a-0".to_owned());
        until(&mut world, RestorePhase::Loading);
        while world.lives["ring-a-0"].data != "half" {
            world.pass();
        }
        let names = if silent {
            &mut world.mute
        } else {
            &mut world.deaf
        };
        names.push("ring-a-0".to_owned());
        world.tick();
        give_up(&mut world);
        for passes in 0..20 {
            if passes == 10 {
                world.storage.slow_loads.clear();
            }
            world.pass();
            let what = format!("silent: {silent}, after {passes}");
            assert_eq!(phase(&world), RestorePhase::RollingBack, "{what}");
        }
        assert_eq!(world.lives["ring-a-0"].data, "new");
        (world.mute, world.deaf) = (Vec::new(), Vec::new());
        world.tick();
        assert_eq!(ends(&mut world, "told"), RestorePhase::RolledBack);
    }
}

/// A lone node that was told to load, and has not begun: it has its data, and saved none of it.
#[test]
fn a_lone_node_that_was_not_touched_goes_back_to_what_it_never_left() {
    for crashes in [false, true] {
        let mut world = asked(1, 1);
        until(&mut world, RestorePhase::Loading);
        let saves = |world: &World| {
            let report = world.lives["ring-a-0"].restore.as_ref();
            report.is_some_and(|report| report.state == RestoreState::Saving)
        };
        while !saves(&world) {
            world.pass();
        }
        if crashes {
            world.crash_store("ring-a-0");
        }
        give_up(&mut world);
        assert_eq!(ends(&mut world, "given up"), RestorePhase::RolledBack);
        assert!(!message(&world).contains("DataLost"), "{}", message(&world));
    }
}

/// It proves its old data anew while the others load, by whatever: from the commit on that is no
/// proof of the new.
#[test]
fn old_data_that_is_proven_anew_while_others_load_is_still_old() {
    for leaves in [false, true] {
        let mut world = asked(3, 1);
        world.storage.slow_loads.insert("ring-a-0".to_owned());
        until(&mut world, RestorePhase::Loading);
        if leaves {
            world.edit(|spec| {
                spec.racks.pop();
                spec.consistency = dynomite_api::crd::ConsistencySpec::default();
            });
        }
        for _ in 0..5 {
            let plan = world.pass();
            check(&world, &plan);
        }
        assert_eq!(phase(&world), RestorePhase::Loading);
        let now = world.now;
        let life = world.lives.get_mut("ring-c-0").expect("it lives");
        assert!(life.proof.is_some() && life.data == "old");
        life.since = now;
        world.storage.slow_loads.clear();
        // Neither serves nor is copied what it has.
        for _ in 0..60 {
            let plan = world.pass();
            check(&world, &plan);
        }
        assert_eq!(phase(&world), RestorePhase::Completed);
        for name in ["ring-a-0", "ring-b-0"] {
            assert_eq!(world.lives[name].data, "new", "leaves: {leaves}");
        }
        let left = world
            .lives
            .get("ring-c-0")
            .filter(|life| life.proof.is_some());
        assert!(
            left.is_none_or(|life| life.data == "new"),
            "leaves: {leaves}"
        );
    }
}
