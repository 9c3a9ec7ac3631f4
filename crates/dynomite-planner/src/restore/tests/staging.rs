//! Restores that are decided before any node is held.

use super::*;

/// One byte of one of several objects was flipped.
#[test]
fn one_damaged_object_of_several_is_refused_before_any_node_is_held() {
    let mut world = asked(3, 2);
    world.storage.damaged_objects.insert("ring-a-1".to_owned());
    let mut staged = false;
    for _ in 0..40 {
        if phase(&world).is_final() {
            break;
        }
        let plan = world.pass();
        check(&world, &plan);
        staged |= phase(&world) == RestorePhase::Staging;
        for (name, life) in &world.lives {
            let desired = life.desired.as_ref().expect("it has one");
            let serves = life.proof.is_some() && desired.serve && desired.hold.is_none();
            assert!(serves, "{name} serves on, whatever is staged: {desired:?}");
        }
    }
    assert!(staged);
    assert_eq!(phase(&world), RestorePhase::Failed);
    let told = message(&world);
    assert!(told.starts_with("NotStaged"), "{told}");
    assert!(
        told.contains("ring-a-1") && told.contains("was changed"),
        "{told}"
    );
    world.settle();
    assert_eq!(data(&world), only("old"));
}

/// Another ring keeps its backups in the same bucket, and has a newer one.
#[test]
fn the_newest_is_the_newest_of_the_ring_that_is_meant() {
    let mut world = asked(3, 1);
    let objects = &mut world.storage.objects;
    let text = objects[&format!("{DIRECTORY}manifest.json")].clone();
    let id = "20260101T000500Z-00000000000000aa-monday";
    let newer = id.replace("0500Z", "0600Z");
    for place in ["data/ring-2/other-uid", "test/ring/other-uid"] {
        let text = text.replace("cluster-uid", "other-uid").replace(id, &newer);
        let text = text.replace("T00:05:", "T00:06:");
        objects.insert(format!("{place}/{newer}/manifest.json"), text);
    }
    ask(&mut world, &json!({"latest": true}));
    until(&mut world, RestorePhase::Completed);
    let status = world.observed.restores[NAME].status.clone();
    assert_eq!(status.expect("it has one").directory, DIRECTORY);
    // Named, it is restored: it could be.
    let other = json!({"name": "ring-2", "namespace": "data"});
    ask(&mut world, &json!({"latest": true}));
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    restore.spec.source_cluster = serde_json::from_value(other).expect("a ring");
    until(&mut world, RestorePhase::Staging);
    let status = world.observed.restores[NAME].status.clone();
    let directory = status.expect("it has one").directory;
    assert_eq!(directory, format!("data/ring-2/other-uid/{newer}/"));
}
