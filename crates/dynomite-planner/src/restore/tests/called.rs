//! Restores asked for by the old REST call: each wish is done once, and before its restore begins the caller is told.

use dynomite_api::contract::Wish;

use super::*;

fn ring() -> World {
    let mut world = asked(3, 1);
    world.observed.restores.clear();
    world
}

fn of(from: &str) -> Wish {
    Wish::Restore {
        from: from.to_owned(),
    }
}

fn names(world: &World) -> Vec<&str> {
    world.observed.restores.keys().map(String::as_str).collect()
}

fn until_completed(world: &mut World, name: &str) {
    for _ in 0..120 {
        if super::super::phase(&world.observed.restores[name]) == RestorePhase::Completed {
            return;
        }
        world.pass();
    }
    panic!("{name} does not end");
}

#[test]
fn a_call_restores_the_ring_once() {
    for (from, name) in [("latest", "ring.latest-0"), ("monday", "ring.monday-0")] {
        let mut world = ring();
        world.call("ring-a-0", of(from));
        // A script calls every node.
        world.call("ring-b-0", of(from));
        let both = [Ok(name.to_owned()), Ok(name.to_owned())];
        assert_eq!(world.answers(), both);
        until_completed(&mut world, name);
        assert_eq!(names(&world), [name]);
        assert_eq!(data(&world), only("new"));
        // Asked again when it has ended it is another wish.
        world.call("ring-c-0", of(from));
        assert_eq!(world.answers(), [Ok(name.replace("-0", "-1"))]);
    }
}

#[test]
fn a_restore_begins_when_its_caller_is_told_and_not_again_for_the_same_call() {
    let mut world = ring();
    world.call("ring-a-0", of("latest"));
    let call = world.lives["ring-a-0"].calls[0].clone();
    let is_at = |world: &World| super::super::phase(&world.observed.restores["ring.latest-0"]);
    world.unheard = true;
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(is_at(&world), RestorePhase::Pending);
    world.unheard = false;
    assert_eq!(world.answers(), [Ok("ring.latest-0".to_owned())]);
    until_completed(&mut world, "ring.latest-0");
    // The node has not heard that it was answered.
    let life = world.lives.get_mut("ring-a-0").expect("it is there");
    life.calls.push(call);
    world.pass();
    assert_eq!(
        world.answers().last(),
        Some(&Ok("ring.latest-0".to_owned()))
    );
    assert_eq!(names(&world), ["ring.latest-0"]);
}

#[test]
fn what_cannot_be_restored_is_said_and_a_backup_waits_for_the_restore() {
    let mut world = ring();
    world.call("ring-a-0", of("tuesday"));
    assert!(world.answers()[0].is_err());
    assert!(names(&world).is_empty());
    world.call("ring-a-0", of("monday"));
    assert!(world.answers()[0].is_ok());
    for _ in 0..120 {
        let phase = super::super::phase(&world.observed.restores["ring.monday-0"]);
        if phase == RestorePhase::Staging {
            break;
        }
        world.pass();
    }
    world.call("ring-a-0", Wish::Backup { name: None });
    let said = world.answers();
    assert!(
        said[0]
            .as_ref()
            .is_err_and(|why| why.contains("ring.monday-0")),
        "{said:?}"
    );
}
