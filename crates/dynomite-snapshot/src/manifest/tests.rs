use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::rdb::Kind;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// A manifest of a ring with these tokens, begun at 2026-11-20T00:00:00Z.
pub(crate) fn manifest(tokens: &[u32]) -> Manifest {
    let begin = 1_795_132_800;
    Manifest {
        format_version: 1,
        backup: Backup {
            id: "20261120T000000Z-00c0ffee00c0ffee-before-upgrade".to_owned(),
            started_at: at(begin),
            finished_at: at(begin + 42),
            operator_version: "0.1.0".to_owned(),
        },
        ring: Ring {
            cluster: "ring".to_owned(),
            namespace: "shop".to_owned(),
            uid: "0d3f8a6e-1f0b-4c55-9d9e-0a5a3a1c2b3d".to_owned(),
            datacenter: "dc1".to_owned(),
            racks: ["dc1-a", "dc1-b", "dc1-c"].map(str::to_owned).to_vec(),
            nodes_per_rack: u32::try_from(tokens.len()).expect("few"),
            tokens: tokens.iter().copied().map(Token).collect(),
            hash: "murmur".to_owned(),
            hash_tag: None,
        },
        snapshots: tokens.iter().map(|token| snapshot(*token, begin)).collect(),
    }
}

fn snapshot(token: u32, begin: i64) -> Snapshot {
    Snapshot {
        token: Token(token),
        object: format!("{token}-0.rdb.zst.enc"),
        stored: Extent {
            bytes: 400_000,
            sha256: Sha256([0xab; 32]),
        },
        raw: Extent {
            bytes: 1_000_000,
            sha256: Sha256([0xcd; 32]),
        },
        checksum: Checksum::Right,
        rdb: Version::Redis(10),
        keys: BTreeMap::from([(
            0,
            Counts {
                keys: BTreeMap::from([(Kind::String, 9_000), (Kind::SortedSet, 1_000)]),
                expiring: 500,
                expired: 3,
            },
        )]),
        functions: 0,
        memory_bytes: Some(2_000_000),
        source: Source {
            node: "ring-dc1-a-0".to_owned(),
            rack: "dc1-a".to_owned(),
            replication_id: "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb".to_owned(),
            offset: 123_456,
            store_version: "7.0.15".to_owned(),
        },
        compression: Compression::Zstd,
        encryption: Some(Encryption {
            cipher: Cipher::Aes256GcmStream,
            key_id: "2026".to_owned(),
        }),
        started_at: at(begin + 1),
        finished_at: at(begin + 40),
    }
}

fn json(manifest: &Manifest) -> Value {
    serde_json::from_slice(&manifest.write().expect("fine")).expect("JSON")
}

fn read(json: &Value) -> Result<Manifest, Unreadable> {
    Manifest::read(json.to_string().as_bytes())
}

#[test]
fn what_is_written_is_read_and_written_alike() {
    let manifest = manifest(&[1_383_429_731, 3_530_913_378]);
    let bytes = manifest.write().expect("fine");
    let again = Manifest::read(&bytes).expect("fine");
    assert_eq!(again, manifest);
    assert_eq!(again.write(), Ok(bytes));
    assert_eq!(manifest.counts().total(), 20_000);
    assert_eq!(manifest.stored_bytes(), 800_000);
}

#[test]
fn documented_example_is_a_manifest() {
    let page = include_str!("../../../../docs/snapshots-format.md");
    let (_, rest) = page.split_once("```json\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let read = Manifest::read(example.as_bytes()).expect("a manifest");
    assert_eq!(read, manifest(&[1_383_429_731]));
    assert_eq!(read.write().as_deref(), Ok(example.as_bytes()));
}

#[test]
fn newer_formats_are_refused_whatever_else_they_hold() {
    let newer = br#"{"formatVersion": 2, "something": "new"}"#;
    let error = Manifest::read(newer).expect_err("newer");
    assert_eq!(error, Unreadable::Newer(2));
    assert!(error.to_string().contains("update the operator"));
    assert!(matches!(
        Manifest::read(br#"{"formatVersion": 0}"#),
        Err(Unreadable::Field { .. })
    ));
}

#[test]
fn errors_name_the_field() {
    let whole = json(&manifest(&[7, 9]));
    for (pointer, value, field) in [
        (
            "/snapshots/1/raw/sha256",
            "xyz".into(),
            "snapshots[1].raw.sha256: a digest has 64",
        ),
        (
            "/snapshots/0/token",
            (-1).into(),
            "snapshots[0].token: invalid value",
        ),
        (
            "/snapshots/0/rdb",
            "REDIS0099".into(),
            "snapshots[0].rdb: `REDIS0099` is no RDB",
        ),
        (
            "/snapshots/0/object",
            "../secret".into(),
            "snapshots[0].object: is not an object",
        ),
        (
            "/snapshots/0/encryption",
            Value::Null,
            "snapshots[0].object: is not an object",
        ),
        (
            "/backup/startedAt",
            "yesterday".into(),
            "backup.startedAt: ",
        ),
        ("/ring/hash", "murmur3".into(), "ring.hash: hash `murmur3`"),
        ("/ring/hashTag", "{".into(), "ring.hashTag: must be two"),
        (
            "/ring/nodesPerRack",
            3.into(),
            "ring.nodesPerRack: must be the number",
        ),
        (
            "/ring/tokens",
            vec![9, 7].into(),
            "ring.tokens: must be different tokens",
        ),
        (
            "/ring/racks",
            vec!["a", "a"].into(),
            "ring.racks: must be different",
        ),
        (
            "/snapshots",
            Value::Array(Vec::new()),
            "snapshots: must be one for each token",
        ),
    ] {
        let mut json = whole.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a parent");
        json.pointer_mut(parent).expect(pointer)[name] = value;
        let error = read(&json).expect_err(pointer).to_string();
        assert!(error.contains(field), "{error}");
        assert!(error.contains("another copy"), "{error}");
    }
}

#[test]
fn all_flaws_come_at_once() {
    let mut manifest = manifest(&[7, 9]);
    manifest.ring.hash = "none".to_owned();
    manifest.snapshots[0].finished_at = at(0);
    manifest.snapshots[1].raw.bytes = 0;
    let Err(Unreadable::Flaws(flaws)) = manifest.write() else {
        panic!("nobody could read it");
    };
    let fields: Vec<&str> = flaws.iter().map(|flaw| flaw.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "ring.hash",
            "snapshots[0].finishedAt",
            "snapshots[1].raw.bytes"
        ]
    );
}

#[test]
fn every_missing_and_every_unknown_field_is_refused() {
    fn walk(whole: &Value, at: &Value, path: &str) {
        let Value::Object(fields) = at else {
            if let Value::Array(items) = at {
                for (number, item) in items.iter().enumerate() {
                    walk(whole, item, &format!("{path}/{number}"));
                }
            }
            return;
        };
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            let optional = ["memoryBytes", "hashTag", "encryption"].contains(&name.as_str());
            // Maps of counts have no field that must be there.
            let counted = path.contains("/keys/");
            let mut without = whole.clone();
            let (parent, _) = path.rsplit_once('/').expect("a parent");
            let object = without.pointer_mut(parent).and_then(Value::as_object_mut);
            let object = object.expect("an object");
            object.remove(name);
            assert!(
                optional || counted || read(&without).is_err(),
                "without {path}"
            );
            let mut with = whole.clone();
            let object = with.pointer_mut(parent).and_then(Value::as_object_mut);
            object
                .expect("an object")
                .insert("surprise".to_owned(), 1.into());
            assert!(read(&with).is_err(), "more beside {path}");
            walk(whole, value, &path);
        }
    }
    let whole = json(&manifest(&[7]));
    walk(&whole, &whole, "");
}

proptest! {
    #[test]
    fn changed_manifests_never_break_the_reading(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = manifest(&[7, 9]).write().expect("fine");
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(manifest) = Manifest::read(&bytes) {
            prop_assert!(manifest.write().is_ok());
        }
    }
}
