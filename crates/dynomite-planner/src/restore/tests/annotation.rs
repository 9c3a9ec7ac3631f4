//! Restores asked for by annotation: what a value means, and that each wish is done once.

use dynomite_api::annotations::ANNOTATION_RESTORE;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::*;

const ID: &str = "20260101T000500Z-00000000000000aa-monday";

/// A ring with the backup `monday`, and nothing restored yet.
fn ring() -> World {
    let mut world = asked(3, 1);
    world.observed.restores.clear();
    world
}

fn annotate(world: &mut World, value: &str) {
    let annotations = world.resource.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_RESTORE.to_owned(), value.to_owned());
}

fn stands(world: &World) -> bool {
    let annotations = world.resource.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(ANNOTATION_RESTORE))
}

/// Passes until the wish is taken off, and what people are told with that.
fn answered(world: &mut World) -> (String, String) {
    for _ in 0..5 {
        let plan = world.pass();
        if stands(world) {
            continue;
        }
        let told = plan
            .actions
            .iter()
            .find_map(|planned| match &planned.action {
                Action::Event {
                    reason, message, ..
                } if matches!(*reason, "RestoreRequested" | "RestoreRefused") => {
                    Some(((*reason).to_owned(), message.clone()))
                }
                _ => None,
            });
        return told.expect("people are told");
    }
    panic!("it is never taken off");
}

fn names(world: &World) -> Vec<&str> {
    world.observed.restores.keys().map(String::as_str).collect()
}

fn phase_of(world: &World, name: &str) -> RestorePhase {
    super::super::phase(&world.observed.restores[name])
}

fn until_phase(world: &mut World, name: &str, wanted: RestorePhase) {
    for _ in 0..120 {
        if phase_of(world, name) == wanted {
            return;
        }
        world.pass();
    }
    panic!("{name} is never {wanted:?}: {:?}", phase_of(world, name));
}

/// A restore as somebody has made it.
fn put(world: &mut World, name: &str, from: &Value, status: &Value) {
    let restore: DynomiteRestore = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteRestore",
        "metadata": {"name": name, "namespace": "data", "uid": format!("uid-{name}")},
        "spec": {"cluster": "ring", "from": from}, "status": status,
    }))
    .expect("a restore");
    world.observed.restores.insert(name.to_owned(), restore);
}

#[test]
fn a_value_is_a_backup_a_directory_the_newest_or_a_time() {
    for (value, name, from) in [
        ("monday", "ring.monday-0", json!({"backup": "monday"})),
        ("latest", "ring.latest-0", json!({"latest": true})),
        (
            ID,
            "ring.20260101t000500z-00000000000000aa-monday-0",
            json!({"id": ID}),
        ),
        (
            "2026-01-01T00:06:00Z",
            "ring.20260101t000600z-0",
            json!({"asOf": "2026-01-01T00:06:00Z"}),
        ),
        // The same moment, elsewhere, and less of it than an object keeps.
        (
            "2026-01-01T02:06:00.750+02:00",
            "ring.20260101t000600z-0",
            json!({"asOf": "2026-01-01T00:06:00Z"}),
        ),
    ] {
        let mut world = ring();
        annotate(&mut world, value);
        let (reason, message) = answered(&mut world);
        assert_eq!(reason, "RestoreRequested", "{value}: {message}");
        assert!(message.contains(name), "{message}");
        assert_eq!(names(&world), [name], "{value}");
        let made = &world.observed.restores[name];
        let spec = serde_json::to_value(&made.spec).expect("serialises");
        assert_eq!(spec["from"], from, "{value}");
        let owners = made.metadata.owner_references.iter().flatten();
        assert_eq!(owners.count(), 1, "it goes with its ring");
        until_phase(&mut world, name, RestorePhase::Completed);
        assert_eq!(data(&world), only("new"), "{value}");
    }
}

#[test]
fn a_backup_may_be_named_like_a_time() {
    let mut world = ring();
    let name = "20260101t000600z";
    let backup = world.observed.backups["monday"].clone();
    world.observed.backups.insert(name.to_owned(), backup);
    annotate(&mut world, name);
    answered(&mut world);
    let made = &world.observed.restores["ring.20260101t000600z-0"];
    assert_eq!(made.spec.from.backup.as_deref(), Some(name));
    // A moment of that text is another wish.
    annotate(&mut world, "2026-01-01T00:06:00Z");
    answered(&mut world);
    let made = &world.observed.restores["ring.20260101t000600z-1"];
    assert!(made.spec.from.as_of.is_some());
}

#[test]
fn what_cannot_be_read_is_refused_and_taken_off() {
    let long = "x".repeat(10_000);
    for value in [
        "",
        "tuesday",
        "Latest",
        "2026-01-01",
        "20260101t000600z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T00:06:00",
        "20260101T000500Z-aa-monday",
        "../monday",
        &long,
    ] {
        let mut world = ring();
        annotate(&mut world, value);
        let (reason, message) = answered(&mut world);
        assert_eq!(reason, "RestoreRefused", "{value}: {message}");
        assert!(
            message.contains("such as 2026-11-20T00:00:00Z"),
            "{message}"
        );
        assert!(message.len() < 400, "an Event holds it");
        assert!(names(&world).is_empty(), "{value}");
    }
}

#[test]
fn asked_twice_it_is_done_once_and_again_when_it_has_ended() {
    let mut world = ring();
    for at in [
        RestorePhase::Pending,
        RestorePhase::Staging,
        RestorePhase::Leveling,
    ] {
        annotate(&mut world, "monday");
        assert_eq!(answered(&mut world).0, "RestoreRequested", "{at:?}");
        assert_eq!(names(&world), ["ring.monday-0"], "asked before {at:?}");
        until_phase(&mut world, "ring.monday-0", at);
        annotate(&mut world, "monday");
        assert_eq!(answered(&mut world).0, "RestoreRequested", "{at:?}");
        assert_eq!(names(&world), ["ring.monday-0"], "asked while {at:?}");
    }
    world.settle();
    assert_eq!(phase_of(&world, "ring.monday-0"), RestorePhase::Completed);
    assert_eq!(names(&world), ["ring.monday-0"]);
    for life in world.lives.values_mut() {
        life.data = "old".to_owned();
    }
    annotate(&mut world, "monday");
    answered(&mut world);
    until_phase(&mut world, "ring.monday-1", RestorePhase::Completed);
    world.settle();
    assert_eq!(names(&world), ["ring.monday-0", "ring.monday-1"]);
    assert_eq!(data(&world), only("new"));
}

#[test]
fn no_restore_begins_while_the_wish_for_it_stands() {
    let mut world = ring();
    for _ in 0..60 {
        // As if taking it off failed every time.
        annotate(&mut world, "monday");
        world.pass();
    }
    assert_eq!(names(&world), ["ring.monday-0"]);
    assert_eq!(phase_of(&world, "ring.monday-0"), RestorePhase::Pending);
    assert_eq!(data(&world), only("old"));
    world.settle();
    assert_eq!(names(&world), ["ring.monday-0"]);
    assert_eq!(phase_of(&world, "ring.monday-0"), RestorePhase::Completed);
}

#[test]
fn a_wish_for_what_is_being_given_up_is_refused_until_that_has_ended() {
    for (at, deleted, answer) in [
        (RestorePhase::Staging, false, "RestoreRefused"),
        (RestorePhase::Loading, false, "RestoreRefused"),
        (RestorePhase::Loading, true, "RestoreRefused"),
        (RestorePhase::RollingBack, false, "RestoreRefused"),
        // There is no way back any more: what is asked for comes.
        (RestorePhase::Leveling, false, "RestoreRequested"),
    ] {
        let mut world = ring();
        put(
            &mut world,
            "ring.monday-0",
            &json!({"backup": "monday"}),
            &json!({"phase": at, "clusterUid": "cluster-uid"}),
        );
        let now = world.now;
        let restore = world.observed.restores.get_mut("ring.monday-0");
        let restore = restore.expect("it is there");
        restore.spec.abort = !deleted;
        restore.metadata.deletion_timestamp = deleted.then_some(Time(now));
        annotate(&mut world, "monday");
        let (reason, message) = answered(&mut world);
        assert_eq!(reason, answer, "{at:?} {deleted}: {message}");
        assert!(message.contains("ring.monday-0"), "{message}");
        assert_eq!(names(&world).len(), 1, "{at:?} {deleted}");
    }
}

#[test]
fn the_name_is_new_and_what_is_under_way_is_not_asked_for_again() {
    let monday = json!({"backup": "monday"});
    let done = json!({"phase": "Completed", "clusterUid": "cluster-uid"});
    let stages = json!({"phase": "Staging", "clusterUid": "cluster-uid"});
    let foreign = json!({"phase": "Staging", "clusterUid": "an-earlier-ring"});
    let named = json!({"id": ID});
    for (why, there, expected) in [
        ("the first", vec![], "ring.monday-0"),
        (
            "one has ended",
            vec![("ring.monday-0", &monday, &done)],
            "ring.monday-1",
        ),
        (
            "an earlier one was deleted",
            vec![("ring.monday-1", &monday, &done)],
            "ring.monday-2",
        ),
        (
            "two have ended",
            vec![
                ("ring.monday-0", &monday, &done),
                ("ring.monday-1", &monday, &done),
            ],
            "ring.monday-2",
        ),
        (
            "one is under way, and an earlier one was deleted",
            vec![("ring.monday-1", &monday, &stages)],
            "ring.monday-1",
        ),
        (
            "a person has made it under another name",
            vec![("back", &monday, &stages)],
            "back",
        ),
        (
            "another backup is restored",
            vec![("ring.monday-0", &named, &stages)],
            "ring.monday-1",
        ),
        (
            "it was of a ring that is gone",
            vec![("ring.monday-0", &monday, &foreign)],
            "ring.monday-1",
        ),
        (
            "another value begins alike",
            vec![("ring.monday-night-0", &monday, &done)],
            "ring.monday-0",
        ),
    ] {
        let mut world = ring();
        for (name, from, status) in &there {
            put(&mut world, name, from, status);
        }
        annotate(&mut world, "monday");
        let (reason, message) = answered(&mut world);
        assert_eq!(reason, "RestoreRequested", "{why}");
        assert!(
            message.starts_with(&format!("DynomiteRestore {expected} is there")),
            "{why}: {message}"
        );
        let kept = there.iter().any(|(name, ..)| *name == expected);
        let count = there.len() + usize::from(!kept);
        assert_eq!(names(&world).len(), count, "{why}: {:?}", names(&world));
    }
}
