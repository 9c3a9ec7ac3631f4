//! Backups in the made-up world: tables of what goes well and what does not.

use dynomite_api::crd::{
    BackupPhase, CONDITION_COMPLETED, CONDITION_FAILED, DynomiteBackup, DynomiteBackupStatus,
    DynomiteRestore,
};
use dynomite_snapshot::manifest::Manifest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::plan::{Action, Plan};
use crate::world::World;

mod called;
mod found;
pub(crate) mod storage;
mod verify;

fn with_backups(racks: usize, nodes: u32) -> World {
    let mut world = World::settled(racks, nodes);
    world.edit(|spec| {
        spec.backup = serde_json::from_value(json!({
            "stores": [{"name": "s3", "prefix": "team", "s3": {"bucket": "backups"}}],
            "preferredRack": "b",
        }))
        .expect("a spec");
    });
    world.settle();
    world
}

fn ask_for(world: &mut World, name: &str) {
    let mut backup: DynomiteBackup = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteBackup",
        "metadata": {"name": name, "namespace": "data", "uid": format!("uid-{name}")},
        "spec": {"cluster": "ring"},
    }))
    .expect("a backup");
    backup.metadata.creation_timestamp = Some(Time(world.now));
    world.observed.backups.insert(name.to_owned(), backup);
}

fn said(world: &World, name: &str) -> DynomiteBackupStatus {
    status_of(&world.observed.backups[name])
}

/// Passes until the backup has ended.
fn until_ended(world: &mut World, name: &str) -> DynomiteBackupStatus {
    for _ in 0..300 {
        world.pass();
        let status = said(world, name);
        if status.phase.is_some_and(BackupPhase::is_final) && !status.cleaning {
            return status;
        }
    }
    panic!("it does not end: {:#?}", said(world, name));
}

fn orders(plan: &Plan) -> Vec<String> {
    let orders = plan
        .actions
        .iter()
        .filter_map(|planned| match &planned.action {
            Action::Assign { node, desired, .. } => {
                let order = desired.snapshot.as_ref()?;
                Some(format!("{node} {}", order.attempt))
            }
            _ => None,
        });
    orders.collect()
}

#[test]
fn a_backup_takes_one_node_of_each_token_and_ends_with_its_manifest() {
    let mut world = with_backups(3, 2);
    ask_for(&mut world, "nightly");
    let status = until_ended(&mut world, "nightly");
    assert_eq!(status.phase, Some(BackupPhase::Completed), "{status:#?}");
    let nodes: Vec<&str> = status
        .tokens
        .iter()
        .map(|token| token.node.as_str())
        .collect();
    assert_eq!(nodes, ["ring-b-0", "ring-b-1"]);
    assert_eq!((status.bytes, status.keys), (Some(2000), Some(18)));
    assert_eq!(status.progress, "2/2");
    assert!(
        status
            .location
            .starts_with("s3://backups/team/data/ring/cluster-uid/")
    );
    let key = format!("{}manifest.json", status.directory);
    let manifest = world.storage.objects[&key].as_bytes();
    let manifest = Manifest::read(manifest).expect("it can be read");
    assert_eq!(manifest.backup.id, status.id);
    assert_eq!(manifest.snapshots.len(), 2);
    let is = |of: &str| {
        status
            .conditions
            .iter()
            .any(|c| c.type_ == of && c.status == "True")
    };
    assert!(is(CONDITION_COMPLETED) && !is(CONDITION_FAILED));
    // Nobody holds an order any more, and nothing is left to do.
    world.settle();
    assert!(world.plan().actions.is_empty());
    let held = world
        .lives
        .values()
        .filter_map(|life| life.desired.as_ref());
    assert_eq!(held.filter(|desired| desired.snapshot.is_some()).count(), 0);
}

#[test]
fn no_order_goes_out_before_it_stands_in_the_status() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "b");
    for _ in 0..20 {
        let plan = world.plan();
        let running = |token: &BackupTokenStatus| token.phase == BackupTokenPhase::Running;
        let stands = said(&world, "b").tokens.iter().any(running);
        assert!(orders(&plan).is_empty() || stands, "{:?}", orders(&plan));
        world.pass();
    }
    assert_eq!(said(&world, "b").phase, Some(BackupPhase::Completed));
}

#[test]
fn the_ring_stays_ready_while_a_backup_is_taken() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "b");
    while said(&world, "b").phase != Some(BackupPhase::Completed) {
        world.pass();
        let status = world.resource.status.clone().expect("it has one");
        let phase = status.phase.expect("it has one");
        assert_eq!(format!("{phase:?}"), "Ready");
    }
}

#[test]
fn each_failed_attempt_goes_to_another_node_and_leaves_nothing_behind() {
    let mut world = with_backups(3, 1);
    world.storage.failing.insert("ring-b-0".to_owned(), true);
    world.storage.failing.insert("ring-c-0".to_owned(), true);
    ask_for(&mut world, "b");
    let status = until_ended(&mut world, "b");
    assert_eq!(status.phase, Some(BackupPhase::Completed), "{status:#?}");
    let token = &status.tokens[0];
    // First b, which is preferred, then c, then a.
    assert_eq!((token.failures, token.attempt), (2, 2));
    assert_eq!(token.node, "ring-a-0");
    let names: Vec<&String> = world.storage.objects.keys().collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_token_that_cannot_be_had_fails_the_backup_and_the_previous_one_stays() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "first");
    until_ended(&mut world, "first");
    let before = world.storage.objects.clone();
    for rack in ["a", "b", "c"] {
        world.storage.failing.insert(format!("ring-{rack}-0"), true);
    }
    ask_for(&mut world, "second");
    let status = until_ended(&mut world, "second");
    assert_eq!(status.phase, Some(BackupPhase::Failed));
    assert_eq!(status.reason, "UploadFailed");
    assert!(
        status.message.contains("attempts failed"),
        "{}",
        status.message
    );
    assert_eq!(world.storage.objects, before);
}

#[test]
fn what_another_try_cannot_help_is_not_tried_again() {
    let mut world = with_backups(3, 1);
    world.storage.failing.insert("ring-b-0".to_owned(), false);
    ask_for(&mut world, "b");
    let status = until_ended(&mut world, "b");
    assert_eq!(status.phase, Some(BackupPhase::Failed));
    assert_eq!(status.tokens[0].attempt, 0);
}

#[test]
fn a_node_that_is_lost_is_followed_by_the_next_one() {
    let mut world = with_backups(3, 1);
    world.storage.endless.push("ring-b-0".to_owned());
    ask_for(&mut world, "b");
    while orders(&world.pass()).is_empty() {}
    world.pass();
    world.kill("ring-b-0");
    let status = until_ended(&mut world, "b");
    assert_eq!(status.phase, Some(BackupPhase::Completed), "{status:#?}");
    assert_eq!(
        (status.tokens[0].attempt, status.tokens[0].failures),
        (1, 1)
    );
}

#[test]
fn a_manifest_that_cannot_be_written_is_no_backup() {
    for (refuses, phase) in [
        (Some(("Forbidden", false)), BackupPhase::Failed),
        (Some(("Unavailable", true)), BackupPhase::Failed),
        (None, BackupPhase::Completed),
    ] {
        let mut world = with_backups(3, 1);
        world.storage.refuses = refuses;
        ask_for(&mut world, "b");
        let mut status = said(&world, "b");
        for _ in 0..1000 {
            world.pass();
            status = said(&world, "b");
            if status.phase.is_some_and(BackupPhase::is_final) {
                break;
            }
        }
        assert_eq!(status.phase, Some(phase), "{status:#?}");
        if phase == BackupPhase::Failed {
            assert!(status.message.contains("manifest"), "{}", status.message);
            world.storage.refuses = None;
            until_ended(&mut world, "b");
            assert!(
                world.storage.objects.is_empty(),
                "{:?}",
                world.storage.objects
            );
        }
    }
}

/// It may have been written all the same, and the answer lost.
#[test]
fn a_failed_backup_loses_its_manifest_before_what_that_names() {
    let mut world = with_backups(3, 1);
    world.storage.refuses = Some(("Forbidden", false));
    ask_for(&mut world, "b");
    for _ in 0..1000 {
        world.pass();
        if said(&world, "b").phase == Some(BackupPhase::Failed) {
            break;
        }
    }
    let key = format!("{}manifest.json", said(&world, "b").directory);
    world.storage.objects.insert(key.clone(), "{}".to_owned());
    world.storage.refuses = None;
    world.storage.asked.clear();
    until_ended(&mut world, "b");
    let asked = &world.storage.asked;
    assert_eq!(asked.first(), Some(&format!("delete {key}")), "{asked:?}");
    assert!(world.storage.objects.is_empty());
}

#[test]
fn two_backups_of_one_second_lie_apart_and_one_waits_for_the_other() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "a");
    ask_for(&mut world, "b");
    for _ in 0..40 {
        world.pass();
        let running = |name: &str| {
            let tokens = said(&world, name).tokens;
            tokens
                .iter()
                .any(|token| token.phase == BackupTokenPhase::Running)
        };
        assert!(
            !(running("a") && running("b")),
            "one fork of a token at a time"
        );
    }
    let (a, b) = (said(&world, "a"), said(&world, "b"));
    assert_eq!(
        (a.phase, b.phase),
        (Some(BackupPhase::Completed), Some(BackupPhase::Completed))
    );
    assert_ne!(a.directory, b.directory);
}

/// Deleted, and made again with its name within a second: what the first has stored is deleted
/// after the second has begun.
#[test]
fn a_backup_that_is_made_again_within_a_second_lies_apart() {
    let mut world = with_backups(3, 1);
    let begun = |world: &mut World, uid: &str| {
        ask_for(world, "b");
        let backup = world.observed.backups.get_mut("b").expect("it is there");
        backup.metadata.uid = Some(uid.to_owned());
        let now = world.now;
        while said(world, "b").directory.is_empty() {
            world.pass();
            world.now = now;
        }
        said(world, "b").directory
    };
    let first = begun(&mut world, "one");
    world.observed.backups.remove("b");
    let second = begun(&mut world, "two");
    assert_ne!(first, second);
}

#[test]
fn parallelism_is_a_limit() {
    let mut world = with_backups(3, 4);
    world.edit(|spec| {
        if let Some(backup) = &mut spec.backup {
            backup.parallelism = 2;
        }
    });
    world.settle();
    ask_for(&mut world, "b");
    for _ in 0..60 {
        world.pass();
        let tokens = said(&world, "b").tokens;
        let running = tokens
            .iter()
            .filter(|t| t.phase == BackupTokenPhase::Running);
        assert!(running.count() <= 2);
        // The manifest is written when it can name all of them, and not before.
        let done = tokens.iter().all(|t| t.phase == BackupTokenPhase::Done);
        let written = |key: &String| key.ends_with("manifest.json");
        assert!(done || !world.storage.objects.keys().any(written));
    }
    assert_eq!(said(&world, "b").phase, Some(BackupPhase::Completed));
}

#[test]
fn what_is_missing_is_said_and_waited_for() {
    let mut world = World::settled(3, 1);
    ask_for(&mut world, "b");
    for _ in 0..3 {
        world.pass();
    }
    assert_eq!(said(&world, "b").reason, "NoStores");
    world.edit(|spec| {
        spec.backup = serde_json::from_value(json!({
            "stores": [{"name": "s3", "s3": {"bucket": "backups"}, "credentialsSecret": "keys"}],
        }))
        .expect("a spec");
    });
    let unknown = crate::observed::Seen::Unknown("Secret keys does not exist".to_owned());
    world
        .observed
        .store_credentials
        .insert("s3".to_owned(), unknown);
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(said(&world, "b").reason, "CredentialsUnknown");
    assert!(said(&world, "b").message.contains("Secret keys"));
    let known = crate::observed::Seen::Known("version-1".to_owned());
    world
        .observed
        .store_credentials
        .insert("s3".to_owned(), known);
    let status = until_ended(&mut world, "b");
    assert_eq!(status.phase, Some(BackupPhase::Completed), "{status:#?}");
    let handed = world
        .lives
        .values()
        .filter(|life| !life.credentials.is_empty());
    assert!(
        handed.count() >= 1,
        "nodes were handed what opens the store"
    );
}

#[test]
fn deleting_cancels_a_backup_and_removes_a_completed_one_only_by_its_policy() {
    for (policy, complete, left) in [
        ("Retain", true, 2),
        ("Delete", true, 0),
        ("Retain", false, 0),
    ] {
        let mut world = with_backups(3, 1);
        if !complete {
            world.storage.endless.push("ring-b-0".to_owned());
            world.storage.objects.clear();
        }
        ask_for(&mut world, "b");
        if complete {
            until_ended(&mut world, "b");
        } else {
            while orders(&world.pass()).is_empty() {}
        }
        let backup = world.observed.backups.get_mut("b").expect("it is there");
        backup.spec.deletion_policy = serde_json::from_value(json!(policy)).expect("a policy");
        backup.metadata.deletion_timestamp = Some(Time(world.now));
        world.settle();
        assert!(world.observed.backups.is_empty(), "its finalizer is gone");
        assert_eq!(world.storage.objects.len(), left, "{policy} {complete}");
        if left == 0 && complete {
            let deletes = world
                .storage
                .asked
                .iter()
                .filter(|asked| asked.starts_with("delete"));
            let first = deletes.min_by_key(|asked| !asked.ends_with("/manifest.json"));
            assert!(first.is_some_and(|first| first.ends_with("/manifest.json")));
        }
        let held = world
            .lives
            .values()
            .filter_map(|life| life.desired.as_ref());
        assert_eq!(held.filter(|desired| desired.snapshot.is_some()).count(), 0);
    }
}

#[test]
fn a_deletion_gives_up_a_storage_that_is_away() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "b");
    until_ended(&mut world, "b");
    world.storage.refuses = Some(("Unavailable", true));
    let backup = world.observed.backups.get_mut("b").expect("it is there");
    backup.spec.deletion_policy = dynomite_api::crd::BackupDeletionPolicy::Delete;
    backup.metadata.deletion_timestamp = Some(Time(world.now));
    let mut told = false;
    for _ in 0..200 {
        let plan = world.pass();
        let left = |p: &crate::plan::Planned| p.action.target() == "Event BackupObjectsLeft";
        told |= plan.actions.iter().any(left);
        if world.observed.backups.is_empty() {
            break;
        }
    }
    assert!(told && world.observed.backups.is_empty());
}

#[test]
fn an_operator_that_begins_anew_orders_the_same() {
    let mut world = with_backups(3, 2);
    ask_for(&mut world, "b");
    let mut seen = Vec::new();
    for _ in 0..40 {
        // All that it remembers is gone with each pass.
        world.observed.answers.clear();
        seen.extend(orders(&world.pass()));
    }
    // Without memory no answer is ever read: only the manifest stays unwritten.
    seen.dedup();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(said(&world, "b").phase, Some(BackupPhase::Writing));
    let status = until_ended(&mut world, "b");
    assert_eq!(status.phase, Some(BackupPhase::Completed));
}

fn annotate(world: &mut World, value: &str) {
    let annotations = world.resource.metadata.annotations.get_or_insert_default();
    annotations.insert("dynomite.io/backup".to_owned(), value.to_owned());
}

fn told(world: &mut World) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..20 {
        let plan = world.pass();
        let events = plan.actions.iter().map(|planned| planned.action.target());
        told.extend(events.filter(|target| target.starts_with("Event ")));
    }
    told
}

#[test]
fn an_annotation_asked_twice_makes_one_backup_and_is_taken_off() {
    let mut world = with_backups(3, 1);
    for _ in 0..2 {
        annotate(&mut world, "before-upgrade");
        assert!(told(&mut world).contains(&"Event BackupRequested".to_owned()));
        let left = world.resource.metadata.annotations.clone();
        assert!(left.unwrap_or_default().is_empty());
        assert_eq!(world.observed.backups.len(), 1);
    }
    assert_eq!(
        said(&world, "before-upgrade").phase,
        Some(BackupPhase::Completed)
    );
    annotate(&mut world, "Before Upgrade");
    assert_eq!(told(&mut world), ["Event BackupRefused"]);
    assert_eq!(world.observed.backups.len(), 1);
}

#[test]
fn a_schedule_makes_one_backup_for_each_time_also_when_it_was_deleted() {
    let mut world = with_backups(3, 1);
    world.edit(|spec| {
        let schedules = json!([{"name": "often", "cron": "*/30 * * * *", "timeZone": "UTC"}]);
        let backup = spec.backup.as_mut().expect("there is one");
        backup.schedules = serde_json::from_value(schedules).expect("schedules");
    });
    world.settle();
    assert!(
        world.observed.backups.is_empty(),
        "only times after it was made count"
    );
    let healthy = |world: &World| {
        let status = world.resource.status.clone().expect("it has one");
        let found = status
            .conditions
            .into_iter()
            .find(|c| c.type_ == "BackupHealthy");
        found.expect("there are stores").status
    };
    assert_eq!(healthy(&world), "Unknown");
    let half_an_hour = jiff::SignedDuration::from_mins(30);
    for count in 1..=2 {
        world.now = world.now.checked_add(half_an_hour).expect("in range");
        told(&mut world);
        assert_eq!(world.observed.backups.len(), count);
    }
    assert_eq!(healthy(&world), "True");
    let name = world
        .observed
        .backups
        .keys()
        .next_back()
        .expect("two")
        .clone();
    assert!(name.starts_with("ring-often-2026"), "{name}");
    world.observed.backups.clear();
    told(&mut world);
    assert!(world.observed.backups.is_empty(), "it is not taken again");
}

#[test]
fn retention_deletes_the_oldest_with_their_objects_and_never_the_last_or_a_kept_one() {
    let mut world = with_backups(3, 1);
    world.edit(|spec| {
        let backup = spec.backup.as_mut().expect("there is one");
        backup.retention = serde_json::from_value(json!({"count": 2})).expect("rules");
    });
    world.settle();
    for name in ["b0", "b1", "b2", "b3", "b4"] {
        ask_for(&mut world, name);
        let backup = world.observed.backups.get_mut(name).expect("it is there");
        backup.spec.keep = name == "b1";
        told(&mut world);
    }
    let names: Vec<&String> = world.observed.backups.keys().collect();
    assert_eq!(names, ["b1", "b3", "b4"]);
    let manifests = world
        .storage
        .objects
        .keys()
        .filter(|key| key.ends_with("manifest.json"));
    assert_eq!(manifests.count(), 3);
    assert_eq!(world.storage.objects.len(), 6);
    world.settle();
    assert!(world.plan().actions.is_empty());
}

#[test]
fn retention_deletes_nothing_while_the_newest_backup_is_bad() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "good");
    until_ended(&mut world, "good");
    world.edit(|spec| {
        let backup = spec.backup.as_mut().expect("there is one");
        backup.retention = serde_json::from_value(json!({"count": 1})).expect("rules");
    });
    // The newest one by its time: of another operator, and its objects are gone.
    let directory = said(&world, "good").directory;
    let id = said(&world, "good").id;
    let manifest = world.storage.objects[&format!("{directory}manifest.json")].clone();
    let newer = id.replace("2026", "2027");
    let key = format!("{}manifest.json", directory.replace(&id, &newer));
    world
        .storage
        .objects
        .insert(key, manifest.replace(&id, &newer));
    ask_for(&mut world, "next");
    let told = told(&mut world);
    assert!(
        told.contains(&"Event RetentionWaits".to_owned()),
        "{told:?}"
    );
    assert_eq!(world.observed.backups.len(), 2);
}

#[test]
fn retention_waits_while_a_backup_is_restored() {
    let mut world = with_backups(3, 1);
    world.edit(|spec| {
        let backup = spec.backup.as_mut().expect("there is one");
        backup.retention = serde_json::from_value(json!({"count": 1})).expect("rules");
    });
    ask_for(&mut world, "old");
    told(&mut world);
    ask_for(&mut world, "new");
    until_ended(&mut world, "new");
    let restore = json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteRestore",
        "metadata": {"name": "back", "uid": "restore-uid"},
        "spec": {"cluster": "ring", "from": {"backup": "nothing-of-that-name"}},
    });
    let restore: DynomiteRestore = serde_json::from_value(restore).expect("a restore");
    for _ in 0..20 {
        let again = restore.clone();
        world.observed.restores.insert("back".to_owned(), again);
        world.pass();
    }
    assert_eq!(world.observed.backups.len(), 2);
    world.observed.restores.clear();
    told(&mut world);
    let left: Vec<&String> = world.observed.backups.keys().collect();
    assert_eq!(left, ["new"]);
}

#[test]
fn sizes_are_for_people() {
    for (bytes, text) in [
        (0, "0"),
        (999, "999"),
        (1536, "1.5Ki"),
        (5 << 30, "5.0Gi"),
        (200 << 20, "200Mi"),
    ] {
        assert_eq!(size(bytes), text);
    }
}
