//! Snapshots of a real store into an S3 server with faults. Without a `redis-server` or
//! `valkey-server` on the machine they say so and check nothing.

mod bench;
mod measure;
mod scratch;
mod staging;
mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use dynomite_api::contract::{SnapshotSource, SnapshotState};
use dynomite_snapshot::manifest::Snapshot;
use dynomite_snapshot::rdb::Checksum;

use bench::{Bench, KEYS, fake};
use fake::{Act, Fault, SECRET_KEY};

fn failure(state: &SnapshotState) -> (&str, bool) {
    match state {
        SnapshotState::Failed { reason, retry, .. } => (reason, *retry),
        other => panic!("{other:?} is no failure"),
    }
}

fn entry(state: SnapshotState) -> Snapshot {
    match state {
        SnapshotState::Done { entry } => serde_json::from_value(entry).expect("is an entry"),
        other => panic!("{other:?} is not done"),
    }
}

#[tokio::test]
async fn a_snapshot_goes_up_whole_and_is_described_as_it_is() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for (attempt, (compress, encrypt, source)) in [
        (false, false, SnapshotSource::Replication),
        (true, false, SnapshotSource::Replication),
        (true, true, SnapshotSource::Replication),
        (true, true, SnapshotSource::File),
    ]
    .into_iter()
    .enumerate()
    {
        bench.order(|order| {
            order.attempt = u32::try_from(attempt).expect("few");
            order.compress = compress;
            order.encryption_key = encrypt.then(|| "2026".to_owned());
            order.source = source;
        });
        let state = bench.ended().await;
        let entry = entry(state);
        assert_eq!(entry.counts().total(), KEYS);
        assert_eq!(entry.checksum, Checksum::Right);
        assert_eq!(entry.source.node, crate::fixture::NODE);
        assert_eq!(entry.source.replication_id.len(), 40);
        assert!(!entry.source.store_version.is_empty());
        assert!(entry.memory_bytes > Some(0));
        let key = bench::key_of(&entry.object);
        let object = bench.server.inside().objects[&key].clone();
        assert_eq!(object.len() as u64, entry.stored.bytes);
        let raw = bench::unpack(&entry, &object).expect("is what the entry says");
        assert!(raw.starts_with(b"REDIS") || raw.starts_with(b"VALKEY"));
        let mut flipped = object.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        assert!(
            bench::unpack(&entry, &flipped).is_err(),
            "a flipped byte is noticed"
        );
    }
    assert!(bench.server.inside().uploads.is_empty());
    let replicas = bench.info("connected_slaves").await;
    assert_eq!(replicas, "0", "the link was given up");
    bench.orders_nothing();
    bench.until(|report| report.snapshot.is_none()).await;
}

#[tokio::test]
async fn what_cannot_be_stored_fails_with_its_reason_and_leaves_nothing() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.fill(20);
    let cases = [
        (
            Act::Create,
            Fault::Refused("ExpiredToken"),
            ("Forbidden", false),
        ),
        (Act::Part(1), Fault::Busy, ("Unavailable", true)),
        (
            Act::Part(3),
            Fault::Refused("AccessDenied"),
            ("Forbidden", false),
        ),
        (Act::Complete, Fault::Busy, ("Unavailable", true)),
        // It is there, and nobody can say so: whoever counts on it later would be wrong.
        (Act::Complete, Fault::Unheard, ("Unavailable", true)),
    ];
    for (attempt, (act, fault, want)) in (0..).zip(cases) {
        bench.server.fails(act, fault, usize::MAX);
        if fault == Fault::Unheard {
            bench.server.fails(Act::Head, Fault::Busy, usize::MAX);
        }
        bench.order(|order| order.attempt = attempt);
        let state = bench.ended().await;
        assert_eq!(failure(&state), want, "{act:?} {state:?}");
        bench.server.inside().faults.clear();
        bench.nothing_is_left().await;
    }
    bench.order(|order| {
        order.attempt = 10;
        order.place = bench::other_bucket(&order.place);
    });
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("NoSuchBucket", false));
    let forks = bench.info("sync_full").await;
    assert_eq!(forks, "4", "a bucket that is not there costs no fork");
    // A storage that says yes and keeps nothing.
    bench.server.inside().forgetful = true;
    bench.order(|order| order.attempt = 11);
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("StoredDiffers", true));
    bench.nothing_is_left().await;
}

#[tokio::test]
async fn a_store_that_dies_in_the_middle_makes_no_backup() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.fill(40);
    bench.order(|order| order.bytes_per_second = Some(4 << 20));
    bench
        .until(|report| {
            report
                .snapshot
                .as_ref()
                .is_some_and(|it| it.bytes > 4 << 20)
        })
        .await;
    bench.kill_store();
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("StreamBroke", true));
    bench.nothing_is_left().await;
}

#[tokio::test]
async fn a_file_of_yesterday_is_no_snapshot_of_today() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    let directory = bench.site().data_dir.join("store");
    let file = directory.join("dump.rdb");
    // The store says that it has saved, and did so in a directory that has another name by now.
    let elsewhere = directory.with_file_name("elsewhere");
    std::fs::rename(&directory, &elsewhere).expect("can be renamed");
    std::fs::create_dir(&directory).expect("can be made");
    std::fs::write(&file, b"of yesterday").expect("can be written");
    bench.order(|order| order.source = SnapshotSource::File);
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("SaveFailed", true), "{state:?}");
    assert!(format!("{state:?}").contains("the one from before"));
    assert!(elsewhere.join("dump.rdb").exists(), "it has saved");
    // Its directory is gone, so that it cannot save at all.
    std::fs::remove_dir_all(&elsewhere).expect("can be removed");
    for (attempt, of_yesterday) in [(1, true), (2, false)] {
        if !of_yesterday {
            std::fs::remove_file(&file).expect("is there");
        }
        bench.order(|order| {
            order.source = SnapshotSource::File;
            order.attempt = attempt;
        });
        let state = bench.ended().await;
        assert_eq!(failure(&state), ("SaveFailed", true), "{state:?}");
        assert!(format!("{state:?}").contains("could not fork"), "{state:?}");
    }
    bench.nothing_is_left().await;
}

#[tokio::test]
async fn an_order_that_is_gone_removes_what_it_has_stored() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.fill(40);
    bench.is_uploading().await;
    assert!(!bench.server.inside().uploads.is_empty());
    bench.orders_nothing();
    bench.until(|report| report.snapshot.is_none()).await;
    bench.nothing_is_left().await;
    // Nor does the loss of the proof make a backup.
    bench.order(|order| {
        order.attempt = 1;
        order.bytes_per_second = Some(4 << 20);
    });
    bench
        .until(|report| {
            report
                .snapshot
                .as_ref()
                .is_some_and(|it| it.bytes > 4 << 20)
        })
        .await;
    bench.proves(false);
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("ProofLost", true));
    bench.nothing_is_left().await;
}

#[tokio::test]
async fn what_is_missing_is_waited_for_and_named() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.forget_credentials();
    bench.proves(false);
    bench.order(|order| order.encryption_key = Some("2026".to_owned()));
    bench.waits_for("Unproven").await;
    bench.proves(true);
    bench.waits_for("CredentialsMissing").await;
    bench.hand_over_credentials(false);
    bench.waits_for("EncryptionKeyMissing").await;
    bench.hand_over_credentials(true);
    let state = bench.ended().await;
    assert_eq!(entry(state).counts().total(), KEYS);
}

#[tokio::test]
async fn an_order_that_stood_before_the_sidecar_was_interrupted() {
    let Some(mut bench) = Bench::start_with_order().await else {
        return;
    };
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("Interrupted", true));
    bench.order(|order| order.attempt = 1);
    let state = bench.ended().await;
    assert_eq!(entry(state).counts().total(), KEYS);
}

/// It takes with it all that it knew of its upload.
#[tokio::test]
async fn a_sidecar_that_is_killed_while_it_uploads_leaves_no_backup_and_its_rests_are_ended() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.fill(30);
    bench.is_uploading().await;
    bench.kill_sidecar().await;
    let uploads = |bench: &Bench| -> Vec<String> {
        let inside = bench.server.inside();
        assert!(inside.objects.is_empty(), "half an object is none");
        inside.uploads.keys().cloned().collect()
    };
    assert_eq!(uploads(&bench).len(), 1, "nobody has removed it");
    let others = [
        // Of another token's node, which may be at it, and of another ring.
        bench::key_of("9-0.rdb"),
        bench::key_of("9-0.rdb").replace("/cluster/", "/another/"),
    ];
    let mut others = others.map(|key| format!("0-{key}"));
    others.sort();
    for id in &others {
        let mut inside = bench.server.inside();
        inside.uploads.insert(id.clone(), BTreeMap::new());
    }
    bench.restart();
    bench.hand_over_credentials(false);
    let state = bench.ended().await;
    assert_eq!(failure(&state), ("Interrupted", true));
    assert_eq!(uploads(&bench).len(), 3);
    // The operator orders another attempt.
    bench.order(|order| order.attempt = 1);
    let entry = entry(bench.ended().await);
    assert_eq!(entry.counts().total(), KEYS + 30);
    assert!(entry.object.contains("-1."), "{}", entry.object);
    let inside = bench.server.inside();
    let stored: Vec<&String> = inside.objects.keys().collect();
    assert_eq!(stored, [&bench::key_of(&entry.object)]);
    let left: Vec<&String> = inside.uploads.keys().collect();
    let kept: Vec<&String> = others.iter().collect();
    assert_eq!(left, kept, "its own are ended, and no others");
}

#[tokio::test]
async fn no_secret_is_ever_written() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench
        .server
        .fails(Act::Create, Fault::Refused("SignatureDoesNotMatch"), 1);
    bench.order(|order| order.encryption_key = Some("2026".to_owned()));
    let state = bench.ended().await;
    assert_eq!(failure(&state).0, "Forbidden");
    bench.order(|order| order.attempt = 1);
    bench.ended().await;
    let report = serde_json::to_string(&bench.report()).expect("serialises");
    let seen = format!("{report} {:?} {}", bench.desk, bench::logged());
    assert!(
        bench::logged().contains("takes a snapshot"),
        "the log is looked at"
    );
    for secret in [SECRET_KEY, "canary", bench::ENCRYPTION_KEY] {
        assert!(!seen.contains(secret), "{secret} is seen");
    }
}

/// Longer than anything takes here, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
