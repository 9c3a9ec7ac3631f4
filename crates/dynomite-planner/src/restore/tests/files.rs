//! Restores of files that no manifest speaks of: of any Redis, and of Dynomite-manager.

use dynomite_api::contract::RestoreOrder;

use super::*;

/// A ring of two tokens, and files in its bucket, each told by its header.
fn with(files: &[(&str, &str)], from: &serde_json::Value) -> World {
    let mut world = asked(3, 2);
    for (key, header) in files {
        world
            .storage
            .objects
            .insert((*key).to_owned(), (*header).to_owned());
    }
    ask(&mut world, from);
    world
}

fn tokens(world: &World) -> Vec<u32> {
    let lives = world.lives.values();
    let all = lives.map(|life| life.desired.as_ref().expect("it has one").node.token.0);
    all.collect::<BTreeSet<u32>>().into_iter().collect()
}

/// What the nodes that stage were told.
fn orders(world: &World) -> Vec<RestoreOrder> {
    let desired = world
        .lives
        .values()
        .filter_map(|life| life.desired.as_ref());
    desired
        .filter_map(|desired| desired.restore.clone())
        .collect()
}

fn refused(world: &mut World, reason: &str, words: &[&str]) {
    until(world, RestorePhase::Failed);
    let message = message(world);
    assert!(message.starts_with(reason), "{message}");
    for words in words {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert!(
        world.lives.values().all(|life| life.restore.is_none()),
        "nobody was told anything"
    );
    assert_eq!(data(world), only("old"));
}

#[test]
fn files_of_any_redis_are_shared_out_by_token() {
    let files = [
        ("in/a.rdb", "REDIS0009"),
        ("in/b.rdb", "REDIS0007"),
        ("in/c.rdb", "REDIS0009"),
    ];
    for (from, keys) in [
        (json!({"file": "in/a.rdb"}), vec!["in/a.rdb"]),
        // The newest format first, because the copy has its header.
        (
            json!({"files": ["in/b.rdb", "in/a.rdb"]}),
            vec!["in/a.rdb", "in/b.rdb"],
        ),
    ] {
        let mut world = with(&files, &from);
        until(&mut world, RestorePhase::Holding);
        let ring = tokens(&world);
        let orders = orders(&world);
        assert_eq!(orders.len(), 2, "one node of each token");
        for order in &orders {
            let parts: Vec<&str> = order.parts.iter().map(|part| part.key.as_str()).collect();
            assert_eq!(parts, keys);
            assert!(
                order
                    .parts
                    .iter()
                    .all(|p| p.entry.is_none() && p.owned.is_none())
            );
            let keep = order.keep.as_ref().expect("only its own keys");
            assert_eq!(keep.tokens.iter().map(|t| t.0).collect::<Vec<_>>(), ring);
        }
        until(&mut world, RestorePhase::Completed);
        world.settle();
        assert_eq!(data(&world), only("new"));
        let status = world.observed.restores[NAME]
            .status
            .clone()
            .expect("it has one");
        assert_eq!(status.files.len(), keys.len());
        assert!(
            status.as_of.is_some() && status.backup.starts_with("in/"),
            "{status:?}"
        );
    }
}

#[test]
fn files_of_the_old_manager_go_to_those_that_own_their_keys() {
    let key = |rack: &str, token: u32, day: i64| {
        format!(
            "backup/dc1/{rack}/{token}/{}",
            1_448_150_400_000 + day * 86_400_000
        )
    };
    // An old ring of three tokens and two racks, whose last day one node has missed.
    let keys = [
        key("x", 1, 0),
        key("x", 1 << 30, 0),
        key("y", 3 << 30, 0),
        key("x", 3 << 30, -1),
        key("x", 1, 1),
    ];
    let mut files: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "REDIS0006")).collect();
    files.push(("backup/dc1/readme.txt", "hello"));
    let from = json!({"manager": {"base": "backup", "date": "2015-11-22"}});
    let mut world = with(&files, &from);
    until(&mut world, RestorePhase::Holding);
    for order in orders(&world) {
        assert!(order.keep.is_some());
        for part in &order.parts {
            let owned = part.owned.as_ref().expect("it is of a token");
            assert_eq!(owned.tokens.len(), 3);
            assert!(part.key.ends_with("/1448150400000"), "{}", part.key);
            assert!(
                part.key.contains(&format!("/{}/", owned.own)),
                "{}",
                part.key
            );
        }
    }
    // A newer one changes nothing of what was chosen, and the listing may be forgotten.
    world
        .storage
        .objects
        .insert(key("a", 1, 0), "REDIS0006".to_owned());
    world.observed.answers.clear();
    until(&mut world, RestorePhase::Completed);
    world.settle();
    assert_eq!(data(&world), only("new"));
    // Without a day: the newest are of different days, and one of them would be old.
    let mut world = with(&files[..4], &json!({"manager": {"base": "backup"}}));
    world
        .storage
        .objects
        .insert(key("x", 1, 5), "REDIS0006".to_owned());
    refused(
        &mut world,
        "NoSuchBackup",
        &["2015-11-27", "from.manager.date", "from.manager.tokens"],
    );
    let named = json!({"manager": {"base": "backup", "tokens": [1, 1 << 30, 3_221_225_472_u32]}});
    let mut world = with(&files, &named);
    until(&mut world, RestorePhase::Completed);
}

#[test]
fn bad_files_are_refused_with_the_field_and_the_remedy() {
    let files = [("a.rdb", "REDIS0012"), ("b.txt", "hello")];
    for (from, reason, words) in [
        (
            json!({"file": "none.rdb"}),
            "NoSuchObject",
            vec!["none.rdb", "spec.from", "prefix"],
        ),
        (json!({"files": ["b.txt"]}), "FileUnreadable", vec!["b.txt"]),
        (
            json!({"file": "a.rdb"}),
            "DoesNotFit",
            vec!["REDIS0012", "reads up to"],
        ),
        (
            json!({"manager": {"base": "old"}}),
            "NoSuchBackup",
            vec!["old/dc1/", "from.manager"],
        ),
        (
            json!({"manager": {"base": "old", "date": "2015-13-41"}}),
            "Invalid",
            vec!["from.manager.date"],
        ),
    ] {
        let mut world = with(&files, &from);
        refused(&mut world, reason, &words);
    }
}

#[test]
fn a_backup_that_was_sealed_with_an_older_key_needs_that_key() {
    let sealed = |world: &mut World| {
        let key = format!("{DIRECTORY}manifest.json");
        let text = world.storage.objects[&key].clone();
        let cipher =
            r#""compression":"none","encryption":{"cipher":"AES-256-GCM-STREAM","keyId":"2024"}"#;
        let text = text
            .replace(r#""compression":"none""#, cipher)
            .replace("-0.rdb", "-0.rdb.enc");
        world.storage.objects.insert(key, text);
    };
    let mut world = asked(3, 1);
    sealed(&mut world);
    world.observed.encryption_keys = ["2026".to_owned()].into();
    refused(
        &mut world,
        "DoesNotFit",
        &["`2024` is missing", "spec.backup.encryption"],
    );
    let mut world = asked(3, 1);
    sealed(&mut world);
    world.observed.encryption_keys = ["2024".to_owned(), "2026".to_owned()].into();
    until(&mut world, RestorePhase::Completed);
}
