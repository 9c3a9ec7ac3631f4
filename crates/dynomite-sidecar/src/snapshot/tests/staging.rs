//! Backups of a real store, staged beside its data.

use bytes::Bytes;
use dynomite_api::Token;
use dynomite_api::contract::{
    BucketAction, BucketAnswer, BucketRequest, RestoreGoal, RestoreOrder, RestorePart,
    RestoreState, TokenRange,
};
use dynomite_snapshot::manifest::Snapshot;
use dynomite_snapshot::rdb::{Summary, Verifier};
use jiff::Timestamp;

use super::bench::{self, Bench, KEYS, fake};
use super::entry;
use fake::{Act, Fault};

/// Takes a backup of the store, and says how to stage it.
async fn backup(bench: &mut Bench) -> (Snapshot, RestoreOrder) {
    bench.order(|order| {
        order.compress = true;
        order.encryption_key = Some("2026".to_owned());
    });
    let entry = entry(bench.ended().await);
    let part = bench::part(&entry);
    let order = RestoreOrder {
        pod_uid: "uid".to_owned(),
        restore: "r1".to_owned(),
        attempt: 0,
        goal: RestoreGoal::Stage,
        place: bench.server.place(),
        parts: vec![part],
        keep: None,
        bytes_per_second: None,
        save_previous: false,
    };
    (entry, order)
}

fn read(rdb: &[u8]) -> Summary {
    let mut verifier = Verifier::new(Timestamp::now());
    verifier.update(rdb).expect("is an RDB");
    verifier.finish().expect("is whole")
}

fn failure(state: &RestoreState) -> (&str, bool) {
    match state {
        RestoreState::Failed {
            reason,
            retry,
            touched: false,
            ..
        } => (reason, *retry),
        other => panic!("{other:?} is no failure that leaves all as it was"),
    }
}

#[tokio::test]
async fn a_backup_is_staged_as_it_was_and_removed_with_its_order() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.fill(6);
    let (entry, order) = backup(&mut bench).await;
    let keys = KEYS + 6;
    // The connection is cut again and again.
    bench.server.fails(Act::Get, Fault::Cut, 4);
    bench.order_restore(order.clone());
    let staged = RestoreState::Staged {
        keys,
        expiring: 0,
        elsewhere: 0,
    };
    assert_eq!(bench.staged().await, staged);
    let cuts = bench.server.inside().faults[&Act::Get].1;
    assert_eq!(cuts, 0, "it was cut");
    let rdb = std::fs::read(bench.site().staged("r1")).expect("is there");
    assert_eq!(read(&rdb).sha256, entry.raw.sha256.0);
    // A sidecar that starts anew finds it, and another attempt to load stages nothing anew.
    bench.server.fails(Act::Get, Fault::Mute, usize::MAX);
    bench.restart();
    assert_eq!(bench.staged().await, staged);
    bench.order_restore(RestoreOrder {
        attempt: 1,
        goal: RestoreGoal::Load,
        ..order.clone()
    });
    assert_eq!(bench.staged().await, staged);
    assert_eq!(bench.restore_files(), ["r1.json", "r1.rdb"]);
    // What is ordered now is something else, so the file counts no longer.
    bench.server.inside().faults.clear();
    let mut other = order.clone();
    other.parts[0].key.push('x');
    bench.hand_over_credentials(true);
    bench.order_restore(other);
    let state = bench.staged().await;
    assert_eq!(failure(&state), ("NoSuchObject", false));
    bench.order_restore(RestoreOrder {
        restore: "r2".to_owned(),
        ..order
    });
    assert_eq!(bench.staged().await, staged);
    assert_eq!(bench.restore_files(), ["r2.json", "r2.rdb"]);
    bench.orders_nothing();
    bench.until(|report| report.restore.is_none()).await;
    let wait = async {
        while !bench.restore_files().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(super::PATIENCE, wait).await;
    waited.expect("they are removed");
}

#[tokio::test]
async fn what_was_changed_or_does_not_fit_is_refused_and_never_named() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    let (entry, order) = backup(&mut bench).await;
    let key = order.parts[0].key.clone();
    let whole = bench.server.inside().objects[&key].clone();
    let mut attempt = 0;
    let mut with = |change: &dyn Fn(&mut RestoreOrder)| {
        let mut order = order.clone();
        attempt += 1;
        order.attempt = attempt;
        change(&mut order);
        order
    };
    let put = |bench: &Bench, content: &[u8]| {
        let content = Bytes::copy_from_slice(content);
        bench.server.inside().objects.insert(key.clone(), content);
    };
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1;
        put(&bench, &flipped);
        bench.order_restore(with(&|_| {}));
        let state = bench.staged().await;
        assert_eq!(failure(&state), ("Damaged", false), "{at}");
    }
    put(&bench, &whole[1..]);
    bench.order_restore(with(&|_| {}));
    assert_eq!(failure(&bench.staged().await), ("DigestDiffers", false));
    put(&bench, &whole);
    bench.order_restore(with(&|order| "x/y".clone_into(&mut order.parts[0].context)));
    assert_eq!(failure(&bench.staged().await), ("Damaged", false));
    bench.order_restore(with(&|order| {
        order.place = bench::other_bucket(&order.place);
    }));
    assert_eq!(failure(&bench.staged().await), ("NoSuchObject", false));
    bench.order_restore(with(&|order| order.parts.clear()));
    assert_eq!(failure(&bench.staged().await), ("Invalid", false));
    let none: Vec<String> = Vec::new();
    assert_eq!(bench.restore_files(), none, "nothing is left of it");
    // A volume that is full.
    let part = bench.site().staged("r1").with_extension("part");
    std::os::unix::fs::symlink("/dev/full", &part).expect("can be linked");
    bench.order_restore(with(&|_| {}));
    assert_eq!(failure(&bench.staged().await), ("DiskFull", true));
    // One that has no room to begin with.
    let large = with(&|order| {
        let mut entry = entry.clone();
        entry.raw.bytes = u64::MAX / 2;
        order.parts[0].entry = Some(serde_json::to_value(entry).expect("serialises"));
    });
    bench.order_restore(large);
    assert_eq!(failure(&bench.staged().await), ("NoRoom", true));
    bench.order_restore(with(&|_| {}));
    let staged = RestoreState::Staged {
        keys: KEYS,
        expiring: 0,
        elsewhere: 0,
    };
    assert_eq!(bench.staged().await, staged, "and then it succeeds");
}

#[tokio::test]
async fn a_ring_of_another_size_keeps_what_each_node_owns() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    let (_, order) = backup(&mut bench).await;
    let tokens = vec![Token(1 << 30), Token(3 << 30)];
    let mut sum = 0;
    for (attempt, own) in (1..).zip(tokens.clone()) {
        let mut order = order.clone();
        order.attempt = attempt;
        order.keep = Some(TokenRange {
            tokens: tokens.clone(),
            own,
        });
        bench.order_restore(order);
        let RestoreState::Staged { keys, .. } = bench.staged().await else {
            panic!("it is staged");
        };
        let rdb = std::fs::read(bench.site().staged("r1")).expect("is there");
        assert_eq!(read(&rdb).counts().total(), keys);
        assert!(keys > KEYS / 10, "{keys}");
        sum += keys;
    }
    assert_eq!(sum, KEYS);
}

#[tokio::test]
async fn a_file_that_no_manifest_speaks_of_is_inspected_and_staged() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.order(|_| {});
    let entry = entry(bench.ended().await);
    let (old, key) = (bench::key_of(&entry.object), "old/dump.rdb".to_owned());
    let content = bench.server.inside().objects[&old].clone();
    bench.server.inside().objects.insert(key.clone(), content);
    let inspect = |key: &str| {
        let request = BucketRequest {
            place: bench.server.place(),
            action: BucketAction::Inspect {
                key: key.to_owned(),
            },
        };
        std::sync::Arc::clone(&bench.desk).small(request)
    };
    let BucketAnswer::Inspected {
        bytes,
        rdb,
        saved_at,
        memory_bytes,
    } = inspect(&key).await
    else {
        panic!("it is an RDB");
    };
    assert_eq!((bytes, rdb), (entry.raw.bytes, entry.rdb.to_string()));
    assert!(saved_at.is_some() && memory_bytes > Some(100_000));
    assert_eq!(inspect("old/none").await, BucketAnswer::Missing);
    for (text, expected) in [
        ("no RDB, by any means", "NotRdb"),
        ("REDIS", "NotRdb"),
        ("REDIS0099", "NotRdb"),
        ("*2\r\n$6\r\nSELECT\r\n", "AppendOnlyFile"),
    ] {
        let text = Bytes::from_static(text.as_bytes());
        // Nobody may hold the server's memory while it answers.
        {
            let mut inside = bench.server.inside();
            inside.objects.insert("old/text".to_owned(), text);
        }
        let BucketAnswer::Failed { reason, retry, .. } = inspect("old/text").await else {
            panic!("it is none");
        };
        assert_eq!((&*reason, retry), (expected, false));
    }
    let part = |key: &str, owned: Option<(&[u32], u32)>| RestorePart {
        key: key.to_owned(),
        entry: None,
        context: String::new(),
        owned: owned.map(|(tokens, own)| range(tokens, own)),
    };
    let place = bench.server.place();
    let order = |attempt, parts, keep: Option<(&[u32], u32)>| RestoreOrder {
        pod_uid: "uid".to_owned(),
        restore: "r1".to_owned(),
        attempt,
        goal: RestoreGoal::Stage,
        place: place.clone(),
        parts,
        keep: keep.map(|(tokens, own)| range(tokens, own)),
        bytes_per_second: None,
        save_previous: false,
    };
    let all = RestoreState::Staged {
        keys: KEYS,
        expiring: 0,
        elsewhere: 0,
    };
    bench.order_restore(order(0, vec![part(&key, None)], None));
    assert_eq!(bench.staged().await, all);
    // The same file under two names has every key twice, whoever it is of.
    let content = bench.server.inside().objects[&key].clone();
    bench
        .server
        .inside()
        .objects
        .insert("old/again.rdb".to_owned(), content);
    let twice = vec![part(&key, None), part("old/again.rdb", None)];
    bench.order_restore(order(1, twice, Some((&[5], 5))));
    assert_eq!(failure(&bench.staged().await), ("SameKeyTwice", false));
    let marks = bench.site().staged("r1").with_extension("marks");
    assert!(!marks.exists(), "nothing is left of it");
    // A file of the only token of an old ring, onto one of two.
    let halves: &[u32] = &[1 << 30, 3 << 30];
    bench.order_restore(order(
        2,
        vec![part(&key, Some((&[7], 7)))],
        Some((halves, 3 << 30)),
    ));
    let RestoreState::Staged { keys, .. } = bench.staged().await else {
        panic!("it is staged");
    };
    assert!(keys > KEYS / 10 && keys < KEYS, "{keys}");
    // One that is said to be of the other half has hardly any key that it should.
    let wrong = vec![part(&key, Some((&[1 << 20, 1 << 31, 3 << 30], 1 << 20)))];
    bench.order_restore(order(3, wrong, Some((&[9], 9))));
    assert_eq!(failure(&bench.staged().await), ("PlacedOtherwise", false));
}

fn range(tokens: &[u32], own: u32) -> TokenRange {
    TokenRange {
        tokens: tokens.iter().copied().map(Token).collect(),
        own: Token(own),
    }
}
