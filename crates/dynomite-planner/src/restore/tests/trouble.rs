//! Restores in which something goes wrong at the worst moment.

use dynomite_api::annotations::{ANNOTATION_ACCEPT_LOSS, ANNOTATION_LOAD_AGAIN};
use dynomite_api::contract::HoldStore;

use super::*;

/// Passes until it has ended and the ring has settled: every node has one data,
/// by how it ended.
pub(super) fn ends(world: &mut World, what: &str) -> RestorePhase {
    for _ in 0..150 {
        let plan = world.pass();
        check(world, &plan);
        if phase(world).is_final() {
            break;
        }
    }
    assert!(phase(world).is_final(), "{what}: {}", message(world));
    world.settle();
    let expected = if phase(world) == RestorePhase::Completed {
        "new"
    } else {
        "old"
    };
    assert_eq!(data(world), only(expected), "{what}: {}", message(world));
    phase(world)
}

fn pass(world: &mut World) {
    let plan = world.pass();
    check(world, &plan);
}

fn pod_of(world: &World, name: &str) -> String {
    world.pod_uid(name)
}

/// Does what the message says about loading the backup again.
pub(super) fn load_again(world: &mut World) {
    let message = message(world);
    let words: Vec<&str> = message.split("load-again=").skip(1).collect();
    let words: Vec<&str> = words.iter().filter_map(|w| w.split(')').next()).collect();
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    let annotations = restore.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_LOAD_AGAIN.to_owned(), words.join(","));
}

fn accept(world: &mut World, name: &str) {
    let uid = pod_of(world, name);
    let pod = world.observed.pods.get_mut(name).expect("it is there");
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_ACCEPT_LOSS.to_owned(), uid);
}

#[test]
fn a_lone_rack_whose_pod_is_replaced_while_it_loads_has_its_data_again() {
    for fails in [false, true] {
        for passes in 0..5 {
            let mut world = asked(1, 2);
            if fails {
                world.storage.failing_loads.insert("ring-a-1".to_owned());
            }
            until(&mut world, RestorePhase::Loading);
            for _ in 0..passes {
                pass(&mut world);
            }
            world.kill("ring-a-0");
            ends(&mut world, &format!("after {passes}, fails: {fails}"));
        }
    }
}

#[test]
fn a_lone_rack_that_loses_all_of_its_pods_has_its_data_again() {
    for passes in 0..5 {
        let mut world = asked(1, 2);
        until(&mut world, RestorePhase::Loading);
        for _ in 0..passes {
            pass(&mut world);
        }
        world.kill("ring-a-0");
        world.kill("ring-a-1");
        ends(&mut world, &format!("after {passes}"));
    }
}

#[test]
fn a_store_that_ends_while_its_data_is_saved_loses_nothing() {
    for fails in [false, true] {
        let mut world = asked(1, 1);
        let saves = |world: &World| {
            let report = world.lives["ring-a-0"].restore.as_ref();
            report.is_some_and(|report| report.state == RestoreState::Saving)
        };
        for _ in 0..60 {
            if saves(&world) {
                break;
            }
            pass(&mut world);
        }
        assert!(saves(&world), "{}", message(&world));
        world.crash_store("ring-a-0");
        if fails {
            world.storage.failing_loads.insert("ring-a-0".to_owned());
        }
        let end = ends(&mut world, &format!("fails: {fails}"));
        let expected = if fails {
            RestorePhase::RolledBack
        } else {
            RestorePhase::Completed
        };
        assert_eq!(end, expected, "{}", message(&world));
    }
}

#[test]
fn what_was_saved_and_is_gone_is_said_and_holds_the_ring_no_longer() {
    let mut world = asked(1, 2);
    world.storage.failing_loads.insert("ring-a-1".to_owned());
    until(&mut world, RestorePhase::RollingBack);
    let life = world.lives.get_mut("ring-a-1").expect("it lives");
    life.previous = None;
    until(&mut world, RestorePhase::RolledBack);
    let message = message(&world);
    assert!(message.starts_with("DataLost"), "{message}");
    assert!(message.contains("ring-a-1"), "{message}");
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(world.lives["ring-a-0"].data, "old");
    let held = |life: &Life| life.desired.as_ref().is_some_and(|d| d.hold.is_some());
    assert!(!world.lives.values().any(held));
    assert!(
        world.lives["ring-a-1"].proof.is_none(),
        "a half serves nobody"
    );
}

/// Somebody says nothing for one look, at any moment from the commit, or from the
/// turn, to the end.
#[test]
fn one_silent_report_changes_nothing() {
    for (racks, fails) in [(3, false), (3, true), (1, false), (1, true)] {
        for victim in ["ring-a-0", "ring-b-0"] {
            if racks == 1 && victim != "ring-a-0" {
                continue;
            }
            for passes in 0..4 {
                let mut world = asked(racks, 1);
                if fails {
                    world.storage.failing_loads.insert("ring-a-0".to_owned());
                }
                until(&mut world, RestorePhase::Loading);
                // The commit, or the turn, comes next.
                while phase(&world) == RestorePhase::Loading {
                    pass(&mut world);
                }
                let expected = if fails {
                    RestorePhase::RolledBack
                } else {
                    RestorePhase::Completed
                };
                for _ in 0..passes {
                    pass(&mut world);
                }
                world.mute.push(victim.to_owned());
                world.tick();
                pass(&mut world);
                world.mute.clear();
                let what = format!("{racks} racks, {victim} after {passes}");
                assert_eq!(ends(&mut world, &what), expected, "{what}");
            }
        }
    }
}

#[test]
fn a_node_that_is_silent_when_the_ring_commits_keeps_it_from_that() {
    let mut world = asked(3, 1);
    until(&mut world, RestorePhase::Loading);
    world.mute.push("ring-b-0".to_owned());
    world.tick();
    for _ in 0..20 {
        pass(&mut world);
    }
    assert_eq!(phase(&world), RestorePhase::Loading);
    assert!(message(&world).contains("ring-b-0"), "{}", message(&world));
    world.mute.clear();
    assert_eq!(ends(&mut world, "heard again"), RestorePhase::Completed);
}

/// Its proof is found again later: it must not look like one that came since.
#[test]
fn a_sidecar_that_starts_anew_brings_no_old_data_back() {
    for victim in ["ring-a-0", "ring-b-0"] {
        for passes in 0..6 {
            let mut world = asked(3, 1);
            until(&mut world, RestorePhase::Holding);
            for _ in 0..passes {
                pass(&mut world);
            }
            world.starting.push(victim.to_owned());
            world.tick();
            pass(&mut world);
            pass(&mut world);
            world.starting.clear();
            let what = format!("{victim} after {passes}");
            assert_eq!(ends(&mut world, &what), RestorePhase::Completed, "{what}");
        }
    }
}

#[test]
fn a_sidecar_that_starts_while_the_ring_comes_to_rest_is_waited_for() {
    let mut world = asked(3, 1);
    world.starting.push("ring-b-0".to_owned());
    until(&mut world, RestorePhase::Holding);
    for _ in 0..10 {
        pass(&mut world);
    }
    assert_eq!(phase(&world), RestorePhase::Holding);
    let told = message(&world);
    assert!(told.contains("ring-b-0 (it has just started"), "{told}");
    world.starting.clear();
    assert_eq!(ends(&mut world, "found again"), RestorePhase::Completed);
}

#[test]
fn a_rack_that_leaves_meanwhile_serves_no_old_data_beside_the_new() {
    for at in [RestorePhase::Staging, RestorePhase::Loading] {
        for fails in [false, true] {
            let mut world = asked(3, 1);
            if fails {
                world.storage.failing_loads.insert("ring-a-0".to_owned());
            }
            until(&mut world, at);
            world.edit(|spec| {
                spec.racks.pop();
                spec.consistency = dynomite_api::crd::ConsistencySpec::default();
            });
            // Its data is given up with the others', while it still has its pod.
            while !phase(&world).is_final() {
                pass(&mut world);
                if phase(&world) == RestorePhase::Loading {
                    let left = world.lives["ring-c-0"].desired.as_ref();
                    let hold = left.and_then(|d| d.hold.as_ref());
                    assert_eq!(hold.map(|hold| hold.store), Some(HoldStore::Running));
                }
            }
            let what = format!("at {at:?}, fails: {fails}");
            for _ in 0..40 {
                world.pass();
            }
            let expected = if fails { "old" } else { "new" };
            for name in ["ring-a-0", "ring-b-0"] {
                assert_eq!(world.lives[name].data, expected, "{what}");
            }
        }
    }
}

#[test]
fn a_node_that_was_not_told_to_stop_keeps_the_way_back_open() {
    let mut world = asked(3, 1);
    let loads = |world: &World| {
        let desired = world.lives["ring-a-0"].desired.as_ref();
        let order = desired.and_then(|desired| desired.restore.as_ref());
        order.is_some_and(|order| order.goal == RestoreGoal::Load)
    };
    until(&mut world, RestorePhase::Loading);
    world.pass();
    assert!(loads(&world));
    // It has its order, and no word reaches it any more.
    world.deaf.push("ring-a-0".to_owned());
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    restore.spec.abort = true;
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(world.lives["ring-a-0"].data, "new");
    assert_eq!(phase(&world), RestorePhase::RollingBack);
    world.deaf.clear();
    assert_eq!(ends(&mut world, "told"), RestorePhase::RolledBack);
}

#[test]
fn a_backup_that_was_asked_for_before_is_taken_before() {
    let mut world = asked(3, 1);
    let backup: DynomiteBackup = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteBackup",
        "metadata": {"name": "before", "namespace": "data", "uid": "before-uid"},
        "spec": {"cluster": "ring"},
    }))
    .expect("a backup");
    world.observed.backups.insert("before".to_owned(), backup);
    until(&mut world, RestorePhase::Staging);
    let status = world.observed.backups["before"].status.clone();
    let phase = status.and_then(|status| status.phase);
    assert_eq!(phase, Some(BackupPhase::Completed));
    assert_eq!(ends(&mut world, "after it"), RestorePhase::Completed);
}

/// It cannot begin at once: what opens its store is not known yet.
#[test]
fn a_backup_that_was_asked_for_before_and_waits_is_waited_for() {
    let mut world = asked(3, 1);
    world.edit(|spec| {
        let stores = json!({"stores": [{"name": "main", "s3": {"bucket": "backups"}},
            {"name": "other", "s3": {"bucket": "others"}, "credentialsSecret": "keys"}]});
        spec.backup = serde_json::from_value(stores).expect("stores");
    });
    let secret = |world: &mut World, seen| {
        let known = &mut world.observed.store_credentials;
        known.insert("other".to_owned(), seen);
    };
    let unknown = crate::observed::Seen::Unknown("Secret keys does not exist".to_owned());
    secret(&mut world, unknown);
    let backup: DynomiteBackup = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteBackup",
        "metadata": {"name": "before", "namespace": "data", "uid": "before-uid"},
        "spec": {"cluster": "ring", "store": "other"},
    }))
    .expect("a backup");
    world.observed.backups.insert("before".to_owned(), backup);
    for _ in 0..30 {
        pass(&mut world);
    }
    assert_eq!(phase(&world), RestorePhase::Checking);
    let told = message(&world);
    assert!(
        told.starts_with("BackupRuns") && told.contains("before"),
        "{told}"
    );
    assert_eq!(data(&world), only("old"));
    secret(
        &mut world,
        crate::observed::Seen::Known("version-1".to_owned()),
    );
    until(&mut world, RestorePhase::Staging);
    let status = world.observed.backups["before"].status.clone();
    let taken = status.and_then(|status| status.phase);
    assert_eq!(taken, Some(BackupPhase::Completed));
    assert_eq!(ends(&mut world, "after it"), RestorePhase::Completed);
}

#[test]
fn a_bucket_that_is_away_keeps_no_held_ring_held() {
    for fails in [false, true] {
        let mut world = asked(3, 1);
        if fails {
            world.storage.failing_loads.insert("ring-a-0".to_owned());
        }
        until(&mut world, RestorePhase::Holding);
        world.storage.refuses = Some(("Unreachable", true));
        for _ in 0..60 {
            // And the operator starts anew all the time.
            world.observed.answers.clear();
            pass(&mut world);
        }
        let expected = if fails {
            RestorePhase::RolledBack
        } else {
            RestorePhase::Completed
        };
        assert_eq!(phase(&world), expected, "{}", message(&world));
        world.storage.refuses = None;
        world.settle();
    }
}

#[test]
fn a_manifest_that_is_not_the_one_that_was_written_is_refused() {
    let spoil = |world: &mut World| {
        let backup = world.observed.backups.get_mut("monday").expect("a backup");
        let status = backup.status.as_mut().expect("it has one");
        status.manifest_digest = "00".repeat(32);
    };
    let mut world = asked(3, 1);
    spoil(&mut world);
    until(&mut world, RestorePhase::Failed);
    let told = message(&world);
    assert!(told.starts_with("ManifestDiffers"), "{told}");
    assert_eq!(data(&world), only("old"));
    // A person may mean it all the same.
    let mut world = asked(3, 1);
    spoil(&mut world);
    ask(&mut world, &json!({"id": "monday"}));
    until(&mut world, RestorePhase::Completed);
}

#[test]
fn the_late_word_of_an_operator_that_leads_no_more_takes_no_commit_back() {
    let mut world = asked(3, 1);
    until(&mut world, RestorePhase::Loading);
    let mut late = Vec::new();
    while phase(&world) == RestorePhase::Loading {
        let plan = world.pass();
        let writes = plan.actions.into_iter().map(|planned| planned.action);
        late.extend(writes.filter(|action| matches!(action, Action::WriteRestore { .. })));
    }
    assert_eq!(phase(&world), RestorePhase::Leveling);
    assert!(!late.is_empty());
    let before = world.observed.restores[NAME].clone();
    for action in &late {
        world.act(action);
        assert_eq!(world.observed.restores[NAME], before);
    }
}

#[test]
fn new_data_that_was_served_and_lost_is_not_loaded_again_without_a_word() {
    let lose = || {
        let mut world = asked(3, 1);
        until(&mut world, RestorePhase::Leveling);
        world.kill("ring-a-0");
        for _ in 0..20 {
            pass(&mut world);
        }
        assert_eq!(phase(&world), RestorePhase::Leveling);
        let told = message(&world);
        assert!(told.starts_with("DataLost"), "{told}");
        assert!(told.contains(&pod_of(&world, "ring-a-0")), "{told}");
        let life = &world.lives["ring-a-0"];
        assert!(life.restore.is_none(), "nothing is loaded");
        assert!(world.lives.values().all(|life| life.proof.is_none()));
        world
    };
    let mut world = lose();
    load_again(&mut world);
    assert_eq!(ends(&mut world, "loaded again"), RestorePhase::Completed);
    let mut world = lose();
    accept(&mut world, "ring-a-0");
    assert_eq!(ends(&mut world, "accepted"), RestorePhase::Completed);
    // Neither the word for another loss nor what another volume has.
    let mut world = lose();
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    let annotations = restore.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_LOAD_AGAIN.to_owned(), "1383429731-0".to_owned());
    accept(&mut world, "ring-b-0");
    for _ in 0..20 {
        pass(&mut world);
    }
    assert!(
        message(&world).starts_with("DataLost"),
        "{}",
        message(&world)
    );
}

#[test]
fn a_lone_rack_that_starts_again_after_the_commit_keeps_what_was_written_since() {
    let mut world = asked(1, 1);
    until(&mut world, RestorePhase::Leveling);
    world.kill("ring-a-0");
    world.lives.get_mut("ring-a-0").expect("it lives").data = "newer".to_owned();
    for _ in 0..40 {
        world.pass();
    }
    assert_eq!(
        phase(&world),
        RestorePhase::Completed,
        "{}",
        message(&world)
    );
    assert_eq!(data(&world), only("newer"));
}
