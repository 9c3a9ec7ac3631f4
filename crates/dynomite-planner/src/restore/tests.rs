//! Restores of a made-up ring: who is told what, in which order, and what every node has in the end.

use std::collections::BTreeSet;

use dynomite_api::contract::{NodeDesired, ProofKind, RestoreGoal, RestoreReport, RestoreState};
use dynomite_api::crd::{BackupPhase, DynomiteBackup, DynomiteRestore, RestorePhase};
use jiff::Timestamp;
use serde_json::json;

use crate::plan::{Action, AsSeen, Plan};
use crate::world::{Life, World, resource};

mod annotation;
mod called;
mod every_step;
mod files;
mod known;
mod random;
mod refresh;
mod scope;
mod staging;
mod trouble;
mod turns;

const NAME: &str = "back-to-monday";
const DIRECTORY: &str = "data/ring/cluster-uid/20260101T000500Z-00000000000000aa-monday/";

/// Writes statuses and finalizers, as the hand does.
pub(crate) fn act(world: &mut World, action: &Action) {
    match action {
        Action::WriteRestore { seen, status } => {
            if let Some(restore) = world.observed.restores.get_mut(&seen.name)
                && AsSeen::of(&restore.metadata) == *seen
            {
                restore.metadata.resource_version = Some(next_version(seen));
                // As the API server keeps it: times lose what is below a second.
                let kept = serde_json::to_value(status).expect("serialises");
                restore.status = serde_json::from_value(kept).expect("reads");
            }
        }
        Action::MakeRestore(made) => {
            let mut made = (**made).clone();
            let name = made.metadata.name.clone().expect("it has one");
            made.metadata.uid = Some(format!("uid-{name}"));
            // As the API server keeps it: times lose what is below a second.
            let kept = serde_json::to_value(&made.spec).expect("serialises");
            made.spec = serde_json::from_value(kept).expect("reads");
            world.observed.restores.entry(name).or_insert(made);
        }
        Action::SetRestoreFinalizer { name, present, .. } => {
            let Some(restore) = world.observed.restores.get_mut(name) else {
                return;
            };
            let finalizer = dynomite_api::crd::RESTORE_FINALIZER.to_owned();
            restore.metadata.finalizers = present.then(|| vec![finalizer]);
            if !present && restore.metadata.deletion_timestamp.is_some() {
                world.observed.restores.remove(name);
            }
        }
        _ => {}
    }
}

/// The version of an object after a write.
pub(crate) fn next_version(seen: &AsSeen) -> String {
    let before: u64 = seen.version.parse().unwrap_or(0);
    (before + 1).to_string()
}

/// What a load that was under way says when its store has ended.
pub(crate) fn store_ended(life: &mut Life) {
    let Some(report) = &mut life.restore else {
        return;
    };
    let touched = match report.state {
        RestoreState::Saving => false,
        RestoreState::Loading | RestoreState::Loaded { .. } | RestoreState::Reverted => true,
        _ => return,
    };
    report.state = failed("StoreEnded", "the store ended", true, touched);
}

fn failed(reason: &str, message: &str, retry: bool, touched: bool) -> RestoreState {
    RestoreState::Failed {
        reason: reason.to_owned(),
        message: message.to_owned(),
        retry,
        touched,
    }
}

/// How far a node gets with what it is told to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    Well,
    /// What it downloads is damaged.
    Unstaged,
    /// It cannot load it.
    Unloaded,
    /// It loads it for ever.
    Slowly,
}

/// A node obeys its order, one step in a tick; whether that is all it does.
pub(crate) fn live(life: &mut Life, desired: &NodeDesired, goes: Goes, now: Timestamp) -> bool {
    let Some(order) = &desired.restore else {
        life.restore = None;
        return false;
    };
    let report = |state| {
        Some(RestoreReport {
            restore: order.restore.clone(),
            attempt: order.attempt,
            started_at: now,
            bytes: 1,
            bytes_total: Some(1),
            state,
        })
    };
    let held = life.restore.clone();
    let same = held.filter(|held| held.attempt == order.attempt && held.restore == order.restore);
    let state = same.map(|held| held.state);
    let rests = desired.hold.as_ref().is_some_and(|hold| hold.ring) || !desired.serve;
    match (order.goal, state) {
        (_, None) => {
            life.restore = report(RestoreState::Downloading);
            false
        }
        (_, Some(RestoreState::Downloading)) if goes == Goes::Unstaged => {
            let state = failed("DigestDiffers", "the object was changed", false, false);
            life.restore = report(state);
            false
        }
        (_, Some(RestoreState::Downloading)) => {
            let (keys, expiring) = (9, 0);
            let elsewhere = 0;
            life.restore = report(RestoreState::Staged {
                keys,
                expiring,
                elsewhere,
            });
            false
        }
        (RestoreGoal::Load, Some(RestoreState::Staged { .. })) if rests => {
            if order.save_previous && life.previous.is_none() {
                life.restore = report(RestoreState::Saving);
                return life.proof.is_none();
            }
            begin(life);
            life.restore = report(RestoreState::Loading);
            true
        }
        (RestoreGoal::Load, Some(RestoreState::Saving)) if rests => {
            life.previous = Some(life.data.clone());
            begin(life);
            life.restore = report(RestoreState::Loading);
            true
        }
        (RestoreGoal::Load, Some(RestoreState::Loading)) if goes == Goes::Unloaded => {
            let state = failed("LoadFailed", "the store ended", true, true);
            life.restore = report(state);
            true
        }
        (RestoreGoal::Load, Some(RestoreState::Loading)) if goes == Goes::Slowly => true,
        (RestoreGoal::Load, Some(RestoreState::Loading)) => {
            life.proof = Some(ProofKind::Restored);
            (life.since, life.data, life.keys) = (now, "new".to_owned(), 9);
            life.before = true;
            life.restore = report(RestoreState::Loaded { keys: 9 });
            true
        }
        (RestoreGoal::Revert, Some(state)) if state != RestoreState::Reverted && rests => {
            let Some(previous) = life.previous.clone() else {
                let touched = life.data != "old";
                let state = failed("NothingSaved", "nothing was saved", false, touched);
                life.restore = report(state);
                return true;
            };
            (life.data, life.before) = (previous, true);
            life.proof = Some(ProofKind::Restored);
            life.since = now;
            life.restore = report(RestoreState::Reverted);
            true
        }
        // What has not begun, or failed, is unproven until it is told otherwise.
        (RestoreGoal::Load, Some(RestoreState::Failed { .. })) => true,
        _ => false,
    }
}

/// From here on the data is neither what it was nor the backup's.
fn begin(life: &mut Life) {
    life.proof = None;
    life.before = false;
    life.data = "half".to_owned();
}

fn manifest(world: &World) -> String {
    let tokens: Vec<u32> = {
        let life = world.lives.values();
        let tokens = life.filter_map(|life| Some(life.desired.as_ref()?.node.token.0));
        tokens.collect::<BTreeSet<u32>>().into_iter().collect()
    };
    let digest = "ab".repeat(32);
    let entry = |token: &u32| {
        json!({
            "token": token, "object": format!("{token}-0.rdb"),
            "stored": {"bytes": 400, "sha256": digest}, "raw": {"bytes": 400, "sha256": digest},
            "checksum": "right", "rdb": "REDIS0009",
            "keys": {"0": {"keys": {"string": 9}, "expiring": 0, "expired": 0}}, "functions": 0,
            "source": {"node": "ring-a-0", "rack": "a", "offset": 1, "storeVersion": "7.0.15",
                       "replicationId": "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb"},
            "compression": "none",
            "startedAt": "2026-01-01T00:05:01Z", "finishedAt": "2026-01-01T00:05:40Z",
        })
    };
    let manifest = json!({
        "formatVersion": 1,
        "backup": {"id": "20260101T000500Z-00000000000000aa-monday",
                   "startedAt": "2026-01-01T00:05:00Z", "finishedAt": "2026-01-01T00:05:40Z",
                   "operatorVersion": "1"},
        "ring": {"cluster": "ring", "namespace": "data", "uid": "cluster-uid", "datacenter": "dc1",
                 "racks": ["a"], "nodesPerRack": tokens.len(), "tokens": tokens, "hash": "murmur"},
        "snapshots": tokens.iter().map(entry).collect::<Vec<_>>(),
    });
    manifest.to_string()
}

/// A ring that serves old data, a backup of it, and the wish to have it back.
fn asked(racks: usize, nodes: u32) -> World {
    let mut resource = resource(racks, nodes);
    let stores = json!({"stores": [{"name": "main", "s3": {"bucket": "backups"}}]});
    resource.spec.backup = serde_json::from_value(stores).expect("stores");
    let mut world = World::new(resource);
    world.now += jiff::SignedDuration::from_millis(437);
    world.settle();
    for life in world.lives.values_mut() {
        life.data = "old".to_owned();
        life.keys = 5;
    }
    let text = manifest(&world);
    let objects = &mut world.storage.objects;
    objects.insert(format!("{DIRECTORY}manifest.json"), text);
    let backup: DynomiteBackup = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteBackup",
        "metadata": {"name": "monday", "namespace": "data", "uid": "backup-uid"},
        "spec": {"cluster": "ring"},
        "status": {"phase": BackupPhase::Completed, "store": "main", "directory": DIRECTORY,
                   "clusterUid": "cluster-uid"},
    }))
    .expect("a backup");
    world.observed.backups.insert("monday".to_owned(), backup);
    ask(&mut world, &json!({"backup": "monday"}));
    world
}

fn ask(world: &mut World, from: &serde_json::Value) {
    let restore: DynomiteRestore = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteRestore",
        "metadata": {"name": NAME, "namespace": "data", "uid": "restore-uid"},
        "spec": {"cluster": "ring", "from": from},
    }))
    .expect("a restore");
    world.observed.restores.insert(NAME.to_owned(), restore);
}

fn phase(world: &World) -> RestorePhase {
    super::phase(&world.observed.restores[NAME])
}

fn message(world: &World) -> String {
    let status = world.observed.restores[NAME].status.clone();
    // One that has not begun says nothing yet.
    let status = status.unwrap_or_default();
    format!("{}: {}", status.reason, status.message)
}

fn until(world: &mut World, wanted: RestorePhase) -> Vec<RestorePhase> {
    let mut seen = vec![phase(world)];
    for _ in 0..120 {
        if phase(world) == wanted {
            return seen;
        }
        let plan = world.pass();
        check(world, &plan);
        if seen.last() != Some(&phase(world)) {
            seen.push(phase(world));
        }
    }
    panic!("never {wanted:?}: {:?} {}", phase(world), message(world));
}

/// Nobody serves a half, and nobody serves old data when another serves the new.
fn check(world: &World, plan: &Plan) {
    let serves = |life: &&Life| {
        let desired = life.desired.as_ref();
        life.proof.is_some() && desired.is_some_and(|d| d.serve && d.hold.is_none())
    };
    let given: BTreeSet<&str> = world
        .lives
        .values()
        .filter(serves)
        .map(|l| l.data.as_str())
        .collect();
    assert!(!given.contains("half"), "a half is served");
    assert!(given.len() <= 1, "{given:?} are served at once: {plan:?}");
    let status = world.observed.restores[NAME].status.as_ref();
    let committed = status.is_some_and(|status| status.committed_at.is_some());
    let counts = if committed { "new" } else { "old" };
    for (name, life) in world.lives.iter().filter(|(_, life)| life.warming) {
        let given = &world.lives[&life.donor].data;
        assert_eq!(given, counts, "{name} copies {}", life.donor);
    }
    for life in world.lives.values() {
        let desired = life.desired.as_ref();
        let loads = desired
            .and_then(|d| d.restore.as_ref())
            .map(|order| order.goal);
        let settled = matches!(phase(world), RestorePhase::Loading | RestorePhase::Leveling);
        assert!(
            loads != Some(RestoreGoal::Load)
                || settled
                || phase(world).is_final()
                || phase(world) == RestorePhase::RollingBack
        );
    }
}

fn data(world: &World) -> BTreeSet<String> {
    world.lives.values().map(|life| life.data.clone()).collect()
}

fn only(data: &str) -> BTreeSet<String> {
    [data.to_owned()].into()
}

#[test]
fn a_ring_gets_the_data_of_a_backup_and_goes_through_every_phase() {
    for (racks, nodes) in [(3, 2), (2, 1), (1, 2)] {
        let mut world = asked(racks, nodes);
        let seen = until(&mut world, RestorePhase::Completed);
        let expected = [
            RestorePhase::Pending,
            RestorePhase::Checking,
            RestorePhase::Staging,
            RestorePhase::Holding,
            RestorePhase::Loading,
            RestorePhase::Leveling,
            RestorePhase::Completed,
        ];
        assert_eq!(seen, expected, "{racks} racks");
        assert_eq!(data(&world), only("new"), "{racks} racks");
        world.settle();
        assert_eq!(data(&world), only("new"), "{racks} racks");
        let restore = &world.observed.restores[NAME];
        assert_eq!(restore.metadata.finalizers, None, "it may be deleted");
        for life in world.lives.values() {
            let desired = life.desired.as_ref().expect("it has one");
            assert!(desired.hold.is_none() && desired.restore.is_none());
            assert!(desired.distrust.is_none());
        }
    }
}

#[test]
fn an_operator_that_forgets_everything_goes_on_where_it_was() {
    let mut world = asked(3, 2);
    for _ in 0..120 {
        // All it knows beside the objects.
        world.observed.answers.clear();
        world.observed.documents_refused.clear();
        let plan = world.pass();
        check(&world, &plan);
        world.pass();
        if phase(&world).is_final() {
            break;
        }
    }
    assert_eq!(
        phase(&world),
        RestorePhase::Completed,
        "{}",
        message(&world)
    );
    assert_eq!(data(&world), only("new"));
}

#[test]
fn a_load_that_fails_takes_the_ring_back() {
    for racks in [3, 1] {
        let mut world = asked(racks, 2);
        world.storage.failing_loads.insert("ring-a-1".to_owned());
        let seen = until(&mut world, RestorePhase::RolledBack);
        assert!(seen.contains(&RestorePhase::RollingBack), "{seen:?}");
        assert!(!seen.contains(&RestorePhase::Leveling), "{seen:?}");
        world.settle();
        assert_eq!(
            data(&world),
            only("old"),
            "{racks} racks: {}",
            message(&world)
        );
        assert!(
            message(&world).contains("the store ended"),
            "{}",
            message(&world)
        );
    }
}

#[test]
fn a_word_ends_it_before_and_takes_it_back_after_the_load_has_begun() {
    for (at, end) in [
        (RestorePhase::Staging, RestorePhase::Aborted),
        (RestorePhase::Holding, RestorePhase::Aborted),
        (RestorePhase::Loading, RestorePhase::RolledBack),
        (RestorePhase::Leveling, RestorePhase::Completed),
    ] {
        let mut world = asked(3, 1);
        until(&mut world, at);
        let restore = world.observed.restores.get_mut(NAME).expect("it is there");
        restore.spec.abort = true;
        until(&mut world, end);
        world.settle();
        let expected = if end == RestorePhase::Completed {
            "new"
        } else {
            "old"
        };
        assert_eq!(data(&world), only(expected), "given up while {at:?}");
    }
}

#[test]
fn a_node_that_cannot_be_asked_keeps_the_ring_from_being_held_for_long() {
    let mut world = asked(3, 1);
    until(&mut world, RestorePhase::Holding);
    world.mute.push("ring-c-0".to_owned());
    until(&mut world, RestorePhase::Failed);
    assert!(message(&world).contains("ring-c-0"), "{}", message(&world));
    world.mute.clear();
    world.settle();
    assert_eq!(data(&world), only("old"));
}

#[test]
fn what_does_not_fit_is_refused_with_everything_that_is_against_it() {
    let mut world = asked(3, 1);
    let text = world.storage.objects.values().next().expect("one").clone();
    let text = text
        .replace("REDIS0009", "REDIS0012")
        .replace("murmur", "fnv1a_64");
    let key = format!("{DIRECTORY}manifest.json");
    world.storage.objects.insert(key, text);
    until(&mut world, RestorePhase::Failed);
    let message = message(&world);
    assert!(message.starts_with("DoesNotFit"), "{message}");
    assert!(
        message.contains("REDIS0012") && message.contains("hash"),
        "{message}"
    );
    assert!(
        world.lives.values().all(|life| life.restore.is_none()),
        "nobody was told anything"
    );
    for (from, reason) in [
        (json!({"backup": "tuesday"}), "NoSuchBackup"),
        (json!({"file": "dump.rdb"}), "NoSuchObject"),
        (json!({"id": "nothing"}), "NoSuchBackup"),
    ] {
        let mut world = asked(3, 1);
        ask(&mut world, &from);
        until(&mut world, RestorePhase::Failed);
        let message = self::message(&world);
        assert!(message.starts_with(reason), "{message}");
    }
}

#[test]
fn a_backup_is_found_by_its_name_by_the_time_and_as_the_newest() {
    for (from, end) in [
        (json!({"id": "monday"}), RestorePhase::Completed),
        (json!({"latest": true}), RestorePhase::Completed),
        (
            json!({"asOf": "2026-01-01T00:06:00Z"}),
            RestorePhase::Completed,
        ),
        // It was still being taken then.
        (
            json!({"asOf": "2026-01-01T00:05:20Z"}),
            RestorePhase::Failed,
        ),
    ] {
        let mut world = asked(3, 1);
        ask(&mut world, &from);
        until(&mut world, end);
        let expected = if end == RestorePhase::Completed {
            "new"
        } else {
            "old"
        };
        assert_eq!(data(&world), only(expected), "{from}");
    }
}

#[test]
fn a_node_that_loses_its_data_on_the_way_never_serves_the_old_again() {
    for at in [RestorePhase::Loading, RestorePhase::Leveling] {
        for victim in ["ring-a-0", "ring-b-0"] {
            let mut world = asked(3, 1);
            until(&mut world, at);
            world.kill(victim);
            for _ in 0..120 {
                let plan = world.pass();
                check(&world, &plan);
                if message(&world).starts_with("DataLost") {
                    trouble::load_again(&mut world);
                }
            }
            assert!(
                phase(&world).is_final(),
                "{at:?} {victim}: {}",
                message(&world)
            );
            world.settle();
            let expected = match phase(&world) {
                RestorePhase::Completed => "new",
                _ => "old",
            };
            assert_eq!(data(&world), only(expected), "{at:?} {victim}");
        }
    }
}

#[test]
fn one_at_a_time() {
    let mut world = asked(3, 1);
    let mut second = world.observed.restores[NAME].clone();
    second.metadata.name = Some("zzz".to_owned());
    second.metadata.uid = Some("second-uid".to_owned());
    world.observed.restores.insert("zzz".to_owned(), second);
    until(&mut world, RestorePhase::Loading);
    assert_eq!(
        super::phase(&world.observed.restores["zzz"]),
        RestorePhase::Pending
    );
}

#[test]
fn a_new_ring_begins_with_the_data_of_a_backup_of_another() {
    let text = {
        let world = asked(3, 2);
        world.storage.objects[&format!("{DIRECTORY}manifest.json")].clone()
    };
    let mut resource = resource(3, 2);
    let stores = json!({"stores": [{"name": "main", "s3": {"bucket": "backups"}}]});
    resource.spec.backup = serde_json::from_value(stores).expect("stores");
    let from = json!({"restoreFrom": {"from": {"latest": true},
        "sourceCluster": {"name": "ring", "namespace": "data"}}});
    resource.spec.bootstrap = serde_json::from_value(from).expect("a source");
    let mut world = World::new(resource);
    let key = format!("{DIRECTORY}manifest.json");
    world.storage.objects.insert(key, text);
    world.settle();
    assert_eq!(data(&world), only("new"));
    let made = &world.observed.restores["ring-bootstrap"];
    assert_eq!(super::phase(made), RestorePhase::Completed);
    let kinds: BTreeSet<String> = world
        .lives
        .values()
        .map(|life| format!("{:?}", life.proof))
        .collect();
    assert!(!kinds.contains("Some(Bootstrap)"), "{kinds:?}");
}
