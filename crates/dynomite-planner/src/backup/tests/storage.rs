//! A made-up object storage, and nodes that take snapshots into it at once.

use std::collections::BTreeMap;

use dynomite_api::annotations::BACKUP_FINALIZER;
use dynomite_api::contract::{
    BucketAction, BucketAnswer, ObjectFacts, SnapshotOrder, SnapshotReport, SnapshotState,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::bucket::{Asked, question};
use crate::observed::{Scratch, Seen};
use crate::plan::{Action, AsSeen};
use crate::restore::tests::next_version;
use crate::world::World;

/// Objects, and who fails.
#[derive(Default)]
pub(crate) struct Storage {
    pub(crate) objects: BTreeMap<String, String>,
    /// What storage answers instead of doing anything: reason, and whether to try again.
    pub(crate) refuses: Option<(&'static str, bool)>,
    /// Nodes whose snapshots fail, and whether to try again.
    pub(crate) failing: BTreeMap<String, bool>,
    /// Nodes that find what they are to load damaged.
    pub(crate) damaged_objects: std::collections::BTreeSet<String>,
    /// Nodes whose loads fail.
    pub(crate) failing_loads: std::collections::BTreeSet<String>,
    /// Nodes whose loads go on for ever.
    pub(crate) slow_loads: std::collections::BTreeSet<String>,
    /// Nodes whose snapshots go on for ever.
    pub(crate) endless: Vec<String>,
    /// How many scratch pods were made, and whether none ever starts.
    pub(crate) scratches: usize,
    pub(crate) no_scratch: bool,
    /// What a store answers instead of having loaded an object.
    pub(crate) damaged: Option<&'static str>,
    /// What was asked, in words.
    pub(crate) asked: Vec<String>,
}

/// Does what the hand does.
pub(crate) fn act(world: &mut World, action: &Action) {
    match action {
        Action::HandCredentials { node, .. } => {
            if let Some(scratch) = world.observed.scratch.as_mut()
                && scratch.pod.metadata.name.as_ref() == Some(node)
            {
                let ids = world.observed.store_credentials.values();
                let ids = ids.filter_map(|id| id.known().cloned());
                if let Seen::Known(report) = &mut scratch.report {
                    report.credentials = ids.collect();
                }
                return;
            }
            let ids = world.observed.store_credentials.values();
            let ids: Vec<String> = ids.filter_map(|id| id.known().cloned()).collect();
            world.lives.entry(node.clone()).or_default().credentials = ids;
        }
        Action::AskBucket { request, .. } => {
            let answer = answer(&mut world.storage, &request.action);
            let answers = &mut world.observed.answers;
            let key = question(request);
            let failures = answers.get(&key).map_or(0, |asked| asked.failures);
            let mut asked = Asked {
                at: world.now,
                failures: 0,
                answer: Some(Ok(answer)),
            };
            asked.failures = asked.trouble().map_or(0, |_| failures + 1);
            answers.insert(key, asked);
        }
        Action::WriteBackup { seen, status } => {
            if let Some(backup) = world.observed.backups.get_mut(&seen.name)
                && AsSeen::of(&backup.metadata) == *seen
            {
                backup.metadata.resource_version = Some(next_version(seen));
                backup.status = Some(*status.clone());
            }
        }
        Action::MakeScratch(pod) => {
            let mut pod = *pod.clone();
            world.storage.scratches += 1;
            pod.metadata.uid = Some(format!("scratch-{}", world.storage.scratches));
            let address = Some("10.9.9.9".to_owned());
            let status = k8s_openapi::api::core::v1::PodStatus {
                pod_ip: address.filter(|_| !world.storage.no_scratch),
                ..Default::default()
            };
            pod.status = Some(status);
            let report = match world.observed.reports.values().find_map(Seen::known) {
                Some(report) if !world.storage.no_scratch => Seen::Known(report.clone()),
                _ => Seen::Unknown("it has no address yet".to_owned()),
            };
            assert!(world.observed.scratch.is_none(), "one at a time");
            world.observed.scratch = Some(Scratch { pod, report });
        }
        Action::EndScratch { uid, .. } => {
            let scratch = world.observed.scratch.take().expect("there is one");
            assert_eq!(scratch.pod.metadata.uid.as_ref(), Some(uid));
        }
        Action::MakeBackup(made) => {
            let name = made.metadata.name.clone().expect("it has one");
            let mut made = made.clone();
            made.metadata.uid = Some(format!("uid-{name}"));
            made.metadata.creation_timestamp = Some(Time(world.now));
            world.observed.backups.entry(name).or_insert(*made);
        }
        Action::TakeAnnotation { annotation, .. } => {
            let annotations = world.resource.metadata.annotations.as_mut();
            annotations.expect("there are some").remove(*annotation);
        }
        Action::SetBackupFinalizer { name, present, .. } => {
            let Some(backup) = world.observed.backups.get_mut(name) else {
                return;
            };
            backup.metadata.finalizers = present.then(|| vec![BACKUP_FINALIZER.to_owned()]);
            if !present && backup.metadata.deletion_timestamp.is_some() {
                world.observed.backups.remove(name);
            }
        }
        _ => {}
    }
}

fn answer(storage: &mut Storage, action: &BucketAction) -> BucketAnswer {
    let words = match action {
        BucketAction::List { under, .. } => format!("list {under}"),
        BucketAction::Put { key, .. } => format!("put {key}"),
        BucketAction::Delete { keys } => format!("delete {}", keys.join(" ")),
        other => format!("{other:?}"),
    };
    storage.asked.push(words);
    if let Some((reason, retry)) = storage.refuses {
        return BucketAnswer::Failed {
            reason: reason.to_owned(),
            message: "the storage says no".to_owned(),
            retry,
        };
    }
    match action {
        BucketAction::List { under, .. } => {
            let keys = storage.objects.keys().filter(|key| key.starts_with(under));
            let objects = keys.map(|key| ObjectFacts {
                key: key.clone(),
                bytes: 400,
                modified: jiff::Timestamp::UNIX_EPOCH,
            });
            BucketAnswer::Listed {
                objects: objects.collect(),
                more: false,
            }
        }
        BucketAction::Put { key, text } => {
            storage.objects.insert(key.clone(), text.clone());
            BucketAnswer::Done
        }
        BucketAction::Get { key } => match storage.objects.get(key) {
            Some(text) => BucketAnswer::Text { text: text.clone() },
            None => BucketAnswer::Missing,
        },
        BucketAction::Delete { keys } => {
            for key in keys {
                storage.objects.remove(key);
            }
            BucketAnswer::Done
        }
        BucketAction::Load { part, .. } => match storage.damaged {
            None => BucketAnswer::Loaded { keys: 9 },
            Some(reason) => BucketAnswer::Failed {
                reason: reason.to_owned(),
                message: format!("{} was changed", part.key),
                retry: false,
            },
        },
        BucketAction::Inspect { key } => match storage.objects.get(key) {
            // The made-up file is its header.
            Some(text) if text.starts_with("REDIS") => BucketAnswer::Inspected {
                bytes: 400,
                rdb: text.clone(),
                saved_at: Some(jiff::Timestamp::UNIX_EPOCH),
                memory_bytes: Some(1000),
            },
            Some(_) => BucketAnswer::Failed {
                reason: "NotRdb".to_owned(),
                message: format!("{key} is no RDB file"),
                retry: false,
            },
            None => BucketAnswer::Missing,
        },
        other @ BucketAction::Head { .. } => panic!("nobody asks {other:?}"),
    }
}

/// A node obeys its order: it runs for a tick, and is done or fails with the next.
pub(crate) fn live(world: &mut World, name: &str) {
    let now = world.now;
    let uid = world.pod_uid(name);
    let life = world.lives.entry(name.to_owned()).or_default();
    let order = life.desired.as_ref().and_then(|d| d.snapshot.clone());
    let Some(order) = order.filter(|order| order.pod_uid == uid) else {
        return;
    };
    let held = life.snapshot.as_ref();
    let begun = held.is_some_and(|held| {
        held.backup == order.backup
            && held.attempt == order.attempt
            && matches!(held.state, SnapshotState::Running)
    });
    let known = held
        .is_some_and(|held| held.backup == order.backup && held.attempt == order.attempt && !begun);
    if known || (begun && world.storage.endless.iter().any(|node| node == name)) {
        return;
    }
    let failing = world.storage.failing.get(name).copied();
    let state = match failing {
        _ if !begun => SnapshotState::Running,
        Some(retry) => SnapshotState::Failed {
            reason: "UploadFailed".to_owned(),
            message: "the upload broke".to_owned(),
            retry,
        },
        None => SnapshotState::Done {
            entry: entry(
                &order,
                life.desired.as_ref().expect("it has one").node.token.0,
                name,
            ),
        },
    };
    if begun && failing.is_none() {
        let directory = directory(&world.cluster().id.uid, &order);
        let token = world.lives[name]
            .desired
            .as_ref()
            .expect("it has one")
            .node
            .token;
        let key = format!("{directory}{token}-{}.rdb.zst", order.attempt);
        world.storage.objects.insert(key, "data".to_owned());
    }
    let report = SnapshotReport {
        backup: order.backup.clone(),
        attempt: order.attempt,
        started_at: now,
        bytes: 1000,
        stored_bytes: 400,
        state,
    };
    world.lives.entry(name.to_owned()).or_default().snapshot = Some(report);
}

fn directory(uid: &str, order: &SnapshotOrder) -> String {
    let prefix = &order.place.prefix;
    let prefix = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    };
    format!("{prefix}data/ring/{uid}/{}/", order.backup)
}

fn entry(order: &SnapshotOrder, token: u32, node: &str) -> Value {
    let digest = "ab".repeat(32);
    json!({
        "token": token, "object": format!("{token}-{}.rdb.zst", order.attempt),
        "stored": {"bytes": 400, "sha256": digest}, "raw": {"bytes": 1000, "sha256": digest},
        "checksum": "right", "rdb": "REDIS0010",
        "keys": {"0": {"keys": {"string": 9}, "expiring": 0, "expired": 0}}, "functions": 0,
        "source": {"node": node, "rack": "a", "replicationId": "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb",
                   "offset": 1, "storeVersion": "7.0.15"},
        "compression": "zstd",
        "startedAt": "2026-01-01T00:10:01Z", "finishedAt": "2026-01-01T00:10:40Z",
    })
}
