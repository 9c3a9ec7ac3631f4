//! Backups asked for by the old REST calls: each wish is done once, and the caller told.

use dynomite_api::contract::Wish;

use super::*;

fn named(name: &str) -> Wish {
    Wish::Backup {
        name: Some(name.to_owned()),
    }
}

fn names(world: &World) -> Vec<&str> {
    world.observed.backups.keys().map(String::as_str).collect()
}

const UNNAMED: Wish = Wish::Backup { name: None };

#[test]
fn a_call_makes_a_backup_and_hears_its_name() {
    let mut world = with_backups(3, 1);
    world.call("ring-b-0", named("before-upgrade"));
    assert_eq!(world.answers(), [Ok("before-upgrade".to_owned())]);
    let status = until_ended(&mut world, "before-upgrade");
    assert_eq!(status.phase, Some(BackupPhase::Completed));
    // Asked twice, done once.
    world.call("ring-a-0", named("before-upgrade"));
    assert_eq!(world.answers(), [Ok("before-upgrade".to_owned())]);
    assert_eq!(names(&world), ["before-upgrade"]);
    world.settle();
    assert!(world.plan().actions.is_empty());
}

#[test]
fn every_node_may_be_called_and_one_backup_is_taken() {
    let mut world = with_backups(3, 2);
    let nodes: Vec<String> = world.lives.keys().cloned().collect();
    for node in &nodes {
        world.call(node, UNNAMED);
    }
    let said = world.answers();
    assert_eq!(said.len(), 6);
    assert_eq!(names(&world).len(), 1, "{:?}", names(&world));
    let name = names(&world)[0].to_owned();
    assert!(name.starts_with("ring-rest-2026"), "{name}");
    assert!(
        said.iter().all(|said| *said == Ok(name.clone())),
        "{said:?}"
    );
    until_ended(&mut world, &name);
    // Later it is another wish.
    world.call(&nodes[0], UNNAMED);
    let again = world.answers();
    assert!(again[0].is_ok() && again[0] != Ok(name), "{again:?}");
}

#[test]
fn a_call_that_is_seen_again_is_the_same_backup() {
    let mut world = with_backups(3, 1);
    world.call("ring-a-0", UNNAMED);
    let call = world.lives["ring-a-0"].calls[0].clone();
    let name = world.answers()[0].clone().expect("it is made");
    until_ended(&mut world, &name);
    // The answer is lost on its way.
    world
        .lives
        .get_mut("ring-a-0")
        .expect("it is there")
        .calls
        .push(call);
    world.pass();
    assert_eq!(world.answers(), [Ok(name.clone())]);
    assert_eq!(names(&world), [name.as_str()]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut world = World::settled(3, 1);
    world.call("ring-a-0", UNNAMED);
    let said = world.answers();
    assert!(
        said[0]
            .as_ref()
            .is_err_and(|why| why.contains("spec.backup"))
    );
    let mut world = with_backups(3, 1);
    world.call("ring-a-0", named("Not a name"));
    let said = world.answers();
    assert!(said[0].as_ref().is_err_and(|why| why.contains("name")));
    assert!(names(&world).is_empty());
}
