//! Refreshes: the latest backup of another ring on a schedule, and never the ring's own.

use jiff::SignedDuration;

use super::*;
use crate::cluster::Cluster;

const OTHER: &str = "production/ring/other-uid/20260101T000500Z-00000000000000aa-monday/";

/// A test ring that is refreshed every hour, and a backup of another ring.
fn ring(change: &serde_json::Value) -> World {
    let mut world = asked(3, 1);
    world.observed.restores.clear();
    let objects = std::mem::take(&mut world.storage.objects);
    for (key, text) in objects {
        let key = key.replace(DIRECTORY, OTHER);
        let text = text.replace("\"data\"", "\"production\"");
        world
            .storage
            .objects
            .insert(key, text.replace("cluster-uid", "other-uid"));
    }
    let mut refresh = json!({
        "cron": "0 * * * *", "sourceCluster": {"name": "ring", "namespace": "production"},
    });
    for (field, value) in change.as_object().into_iter().flatten() {
        refresh[field] = value.clone();
    }
    world.edit(|spec| spec.refresh = serde_json::from_value(refresh).expect("a refresh"));
    world.settle();
    world
}

fn names(world: &World) -> Vec<&str> {
    world.observed.restores.keys().map(String::as_str).collect()
}

/// Lets time pass and whatever is due then end.
fn after(world: &mut World, minutes: i64) {
    world.now += SignedDuration::from_mins(minutes);
    for _ in 0..120 {
        world.pass();
        let restores = world.observed.restores.values();
        let mut phases = restores.map(super::super::phase);
        if phases.all(RestorePhase::is_final) && world.plan().actions.is_empty() {
            return;
        }
    }
    panic!("it does not settle: {:?}", names(world));
}

fn status(world: &World) -> dynomite_api::crd::RefreshStatus {
    let status = world.resource.status.clone().expect("it has one");
    status.refresh.expect("it tells of the refresh")
}

#[test]
fn a_test_ring_gets_the_latest_backup_of_another_on_a_schedule() {
    let mut world = ring(&json!({}));
    assert_eq!(data(&world), only("old"), "nothing is due at first");
    assert!(names(&world).is_empty());
    assert_eq!(
        status(&world).next.map(|at| at.0.to_string()).as_deref(),
        Some("2026-01-01T01:00:00Z")
    );
    after(&mut world, 60);
    let name = "ring.refresh-20260101-0100";
    assert_eq!(names(&world), [name]);
    assert_eq!(data(&world), only("new"));
    let made = &world.observed.restores[name];
    assert_eq!(made.metadata.owner_references.iter().flatten().count(), 1);
    let spec = serde_json::to_value(&made.spec).expect("serialises");
    assert_eq!(spec["from"], json!({"latest": true}));
    assert_eq!(
        spec["sourceCluster"],
        json!({"name": "ring", "namespace": "production"})
    );
    assert_eq!(status(&world).last_completed, name);
    assert!(status(&world).next.is_some_and(|at| at.0 > world.now));
}

#[test]
fn however_many_were_missed_one_is_done_and_a_late_one_not() {
    let mut world = ring(&json!({}));
    after(&mut world, 60 * 24);
    assert_eq!(names(&world).len(), 1);
    let mut world = ring(&json!({"startingDeadlineSeconds": 60}));
    after(&mut world, 90);
    assert!(names(&world).is_empty(), "{:?}", names(&world));
    let mut world = ring(&json!({"suspend": true}));
    after(&mut world, 90);
    assert!(names(&world).is_empty());
    assert_eq!(status(&world).next, None);
}

#[test]
fn old_ones_are_kept_to_a_limit_and_a_time_is_not_done_again() {
    let mut world = ring(&json!({"keep": 2}));
    for _ in 0..5 {
        after(&mut world, 60);
    }
    assert_eq!(names(&world).len(), 2, "{:?}", names(&world));
    let newest = names(&world)[1].to_owned();
    assert!(newest.as_str() > "ring.refresh-20260101-0450", "{newest}");
    world.observed.restores.clear();
    after(&mut world, 0);
    assert!(names(&world).is_empty());
    assert_eq!(
        status(&world).last_completed,
        newest,
        "the status remembers it"
    );
}

#[test]
fn a_persons_restore_is_not_overtaken() {
    let mut world = ring(&json!({}));
    ask(&mut world, &json!({"latest": true}));
    let person = world.observed.restores.get_mut(NAME).expect("it is there");
    person.spec.source_cluster =
        serde_json::from_value(json!({"name": "ring", "namespace": "production"})).ok();
    until(&mut world, RestorePhase::Staging);
    world.now += SignedDuration::from_mins(60);
    for _ in 0..120 {
        if phase(&world) == RestorePhase::Completed {
            break;
        }
        assert_eq!(names(&world), [NAME]);
        world.pass();
    }
    after(&mut world, 0);
    assert_eq!(names(&world), [NAME, "ring.refresh-20260101-0100"]);
}

#[test]
fn no_ring_is_pointed_at_its_own_data() {
    let world = asked(3, 1);
    let own = [
        json!({"name": "ring"}),
        json!({"name": "ring", "namespace": "data"}),
        json!({"name": "ring", "namespace": "data", "uid": "another"}),
    ];
    let table = own
        .into_iter()
        .map(|source| (source, json!({}), "itself"))
        .chain([
            (json!({"name": "other"}), json!({"backup": null}), "stores"),
            (
                json!({"name": "other"}),
                json!({"backup": {"stores": [{"name": "s", "s3": {"bucket": "abc"}}],
                    "schedules": [{"name": "n", "cron": "0 0 * * *"}]}}),
                "schedules",
            ),
            (
                json!({"name": "other"}),
                json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["far:8101:r:dc2:5"]}]}),
                "remoteDatacenters",
            ),
        ]);
    for (source, change, word) in table {
        let mut resource = world.resource.clone();
        let mut spec = serde_json::to_value(&resource.spec).expect("serialises");
        spec["refresh"] = json!({"cron": "0 * * * *", "sourceCluster": source});
        for (field, value) in change.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        resource.spec = serde_json::from_value(spec).expect("a spec");
        let refused = Cluster::new(&resource, &world.defaults).expect_err("it is refused");
        assert!(refused.to_string().contains(word), "{source}: {refused}");
    }
    for fine in [
        json!({"name": "other"}),
        json!({"name": "ring", "namespace": "production"}),
    ] {
        let mut resource = world.resource.clone();
        resource.spec.refresh =
            serde_json::from_value(json!({"cron": "0 * * * *", "sourceCluster": fine})).ok();
        assert!(Cluster::new(&resource, &world.defaults).is_ok());
    }
}
