//! Backups that lie in a store already, and the objects that show them.

use super::*;

/// A ring whose objects of backups are lost, and three backups in its store: two of
/// its own, and one of an earlier ring of its name.
fn lost() -> (World, String) {
    let mut world = with_backups(3, 2);
    for name in ["monday", "tuesday"] {
        ask_for(&mut world, name);
        until_ended(&mut world, name);
    }
    // No two backups have the same suffix, whatever ring they are of.
    let id = said(&world, "monday").id;
    let suffix = id.split('-').nth(1).expect("it has one").to_owned();
    let text = |text: &str| {
        let text = text.replace("cluster-uid", "earlier-uid");
        text.replace(&suffix, "00000000000000aa")
    };
    let status = said(&world, "monday");
    let manifest = format!("{}manifest.json", status.directory);
    let content = text(&world.storage.objects[&manifest]);
    world.storage.objects.insert(text(&manifest), content);
    // The made-up stores say no version, and read the oldest format only.
    for object in world.storage.objects.values_mut() {
        *object = object.replace("REDIS0010", "REDIS0009");
    }
    world.observed.backups.clear();
    world.settle();
    (world, text(&status.directory))
}

fn annotate(world: &mut World, value: &str) {
    let annotation = dynomite_api::annotations::ANNOTATION_CATALOG.to_owned();
    let annotations = world.resource.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation, value.to_owned());
}

/// Passes until the annotation is off; the event that answered it.
fn answered(world: &mut World) -> (String, String) {
    for _ in 0..60 {
        let plan = world.pass();
        let event = plan
            .actions
            .iter()
            .find_map(|planned| match &planned.action {
                Action::Event {
                    reason, message, ..
                } if reason.starts_with("Catalog") => Some(((*reason).to_owned(), message.clone())),
                _ => None,
            });
        if let Some(event) = event {
            let annotations = world.resource.metadata.annotations.as_ref();
            assert!(
                annotations.is_none_or(std::collections::BTreeMap::is_empty),
                "it is off"
            );
            return event;
        }
    }
    panic!("nobody answers");
}

#[test]
fn objects_are_made_for_what_lies_in_the_store_and_take_nothing() {
    let (mut world, earlier) = lost();
    let before = world.storage.objects.clone();
    annotate(&mut world, "rebuild");
    let (reason, message) = answered(&mut world);
    assert_eq!(reason, "CatalogRebuilt");
    assert!(message.starts_with("3 backups"), "{message}");
    world.settle();
    assert_eq!(world.observed.backups.len(), 3);
    for (name, backup) in &world.observed.backups {
        let status = status_of(backup);
        assert_eq!(
            status.phase,
            Some(BackupPhase::Completed),
            "{name}: {}",
            status.message
        );
        assert_eq!((status.keys, status.progress.as_str()), (Some(18), "2/2"));
        let labels = backup.metadata.labels.as_ref().expect("some");
        assert_eq!(labels["dynomite.io/found"], "true");
        assert!(
            name.ends_with("day") && *name == name.to_lowercase(),
            "{name}"
        );
    }
    let of_earlier = world.observed.backups.values().filter(|backup| {
        let status = status_of(backup);
        status.directory == earlier && status.cluster_uid == "earlier-uid"
    });
    assert_eq!(of_earlier.count(), 1);
    // Asked twice, done once, also where one has an object of another name.
    annotate(&mut world, "rebuild");
    assert_eq!(answered(&mut world).0, "CatalogRebuilt");
    assert_eq!(world.observed.backups.len(), 3);
    // Whatever becomes of the objects, nothing in the store does.
    for backup in world.observed.backups.values_mut() {
        backup.spec.deletion_policy = dynomite_api::crd::BackupDeletionPolicy::Delete;
        backup.metadata.deletion_timestamp = Some(Time(world.now));
    }
    world.settle();
    assert!(world.observed.backups.is_empty());
    assert_eq!(world.storage.objects, before);
}

#[test]
fn a_restore_takes_one_that_was_found_by_its_object() {
    let (mut world, _) = lost();
    annotate(&mut world, "data/ring");
    assert_eq!(answered(&mut world).0, "CatalogRebuilt");
    world.settle();
    let name = world.observed.backups.keys().next().expect("one").clone();
    let restore: DynomiteRestore = serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteRestore",
        "metadata": {"name": "back", "namespace": "data", "uid": "restore-uid"},
        "spec": {"cluster": "ring", "from": {"backup": name}},
    }))
    .expect("a restore");
    world.observed.restores.insert("back".to_owned(), restore);
    for _ in 0..20 {
        world.pass();
    }
    let status = world.observed.restores["back"]
        .status
        .clone()
        .expect("it has one");
    assert!(status.backup.contains("day"), "{status:?}");
}

#[test]
fn a_wish_that_cannot_be_is_refused_with_the_reason() {
    for (value, words) in [("all", "NAMESPACE/CLUSTER"), ("a/b/c", "NAMESPACE/CLUSTER")] {
        let (mut world, _) = lost();
        annotate(&mut world, value);
        let (reason, message) = answered(&mut world);
        assert_eq!(reason, "CatalogRefused");
        assert!(message.contains(words), "{message}");
    }
    let (mut world, _) = lost();
    world.edit(|spec| spec.backup = None);
    annotate(&mut world, "rebuild");
    assert!(answered(&mut world).1.contains("spec.backup.stores"));
}

#[test]
fn an_object_of_what_is_not_there_fails_and_removes_nothing() {
    for (directory, reason) in [
        (
            "team/data/ring/cluster-uid/20260101T000500Z-00000000000000aa-gone/",
            "NoSuchBackup",
        ),
        ("somewhere/else", "NoSuchDirectory"),
    ] {
        let (mut world, _) = lost();
        let before = world.storage.objects.clone();
        ask_for(&mut world, "shown");
        let backup = world
            .observed
            .backups
            .get_mut("shown")
            .expect("it is there");
        backup.spec.directory = Some(directory.to_owned());
        let status = until_ended(&mut world, "shown");
        assert_eq!(
            (status.phase, &*status.reason),
            (Some(BackupPhase::Failed), reason)
        );
        world.settle();
        assert_eq!(world.storage.objects, before);
        // It says nothing of the backups that the ring takes.
        let health = health(&world.cluster(), &world.observed, world.now).expect("stores");
        assert_ne!(health.0, Some(false), "{health:?}");
    }
}
