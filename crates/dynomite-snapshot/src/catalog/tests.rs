use proptest::prelude::*;

use super::*;
use crate::layout::Place;
use crate::manifest::tests::{at, manifest};

const HOUR: i64 = 3600;
const BEGIN: i64 = 1_795_132_800;

fn directory(uid: &str, started: i64, name: &str) -> Directory {
    Directory {
        place: Place::new("p", "shop", "ring", uid).expect("fine"),
        id: BackupId::new(at(started), 7, name).expect("fine"),
    }
}

/// Puts a backup into the bucket.
fn add(facts: &mut Facts, directory: &Directory) {
    let mut manifest = manifest(&[1, 2]);
    manifest.backup.id = directory.id.to_string();
    manifest.backup.started_at = directory.id.started();
    manifest.backup.finished_at = directory.id.started() + SignedDuration::from_mins(1);
    manifest.ring.uid = directory.place.uid().to_owned();
    let modified = manifest.backup.finished_at;
    for snapshot in &manifest.snapshots {
        facts.listing.push(Listed {
            key: format!("{directory}{}", snapshot.object),
            bytes: snapshot.stored.bytes,
            modified,
        });
    }
    facts.listing.push(Listed {
        key: directory.key(Object::Manifest),
        bytes: 1,
        modified,
    });
    let asked = Asked::Read(Box::new(manifest));
    facts.manifests.insert(directory.clone(), asked);
}

/// Puts an upload that ended before its manifest.
fn add_failed(facts: &mut Facts, directory: &Directory) {
    facts.listing.push(Listed {
        key: format!("{directory}1-0.rdb"),
        bytes: 5,
        modified: directory.id.started(),
    });
    facts.manifests.insert(directory.clone(), Asked::Absent);
}

fn keep(count: u32) -> Policy {
    Policy {
        count: Some(count),
        age: None,
    }
}

fn state<'a>(catalog: &'a Catalog, directory: &Directory) -> &'a State {
    let mut entries = catalog.entries().iter();
    let found = entries.find(|entry| entry.directory == *directory);
    &found.expect("known").state
}

#[test]
fn backups_are_chosen_by_name_time_or_newest() {
    let mut facts = Facts::default();
    let [old, named, new] = [(0, "a"), (1, "b"), (2, "a")]
        .map(|(hour, name)| directory("u", BEGIN + hour * HOUR, name));
    for directory in [&new, &old, &named] {
        add(&mut facts, directory);
    }
    add_failed(&mut facts, &directory("u", BEGIN + 3 * HOUR, "b"));
    add(
        &mut facts,
        &directory("v", BEGIN - HOUR, "of-a-ring-before"),
    );
    let catalog = Catalog::new("p", &facts);
    let choose = |choice| {
        let found = catalog.choose("shop", "ring", &choice);
        found.map(|entry| &entry.directory)
    };
    assert_eq!(choose(Choice::Latest), Some(&new));
    assert_eq!(choose(Choice::Named("a".to_owned())), Some(&new));
    assert_eq!(choose(Choice::Named(old.id.to_string())), Some(&old));
    assert_eq!(choose(Choice::Named("b".to_owned())), Some(&named));
    assert_eq!(choose(Choice::Named("c".to_owned())), None);
    let as_of = |second| choose(Choice::AsOf(at(second)));
    assert_eq!(as_of(BEGIN + 2 * HOUR + 60), Some(&new));
    // It had begun, but what is in it was written later.
    assert_eq!(as_of(BEGIN + 2 * HOUR + 59), Some(&named));
    assert_eq!(as_of(BEGIN - 2 * HOUR), None);
    assert!(catalog.choose("shop", "other", &Choice::Latest).is_none());
}

#[test]
fn what_cannot_be_restored_says_why() {
    let mut facts = Facts::default();
    let directories: Vec<Directory> = (0..7)
        .map(|hour| directory("u", BEGIN + hour * HOUR, "a"))
        .collect();
    for directory in &directories {
        add(&mut facts, directory);
    }
    let object = |number: usize| format!("{}1-0.rdb.zst.enc", directories[number]);
    facts.listing.retain(|listed| listed.key != object(0));
    for listed in &mut facts.listing {
        listed.bytes += u64::from(listed.key == object(1));
    }
    facts.refuted.insert(directories[2].clone());
    let other = facts.manifests[&directories[0]].clone();
    facts.manifests.insert(directories[3].clone(), other);
    let unreadable = Asked::Unreadable("it is not JSON".to_owned());
    facts.manifests.insert(directories[4].clone(), unreadable);
    facts.manifests.remove(&directories[5]);
    let catalog = Catalog::new("p", &facts);
    for (directory, why) in directories.iter().zip([
        "1-0.rdb.zst.enc is missing",
        "1-0.rdb.zst.enc has 400001 bytes, and 400000 were written",
        "it did not load when it was verified",
        "its manifest is of another backup",
        "it is not JSON",
    ]) {
        assert_eq!(*state(&catalog, directory), State::Bad(why.to_owned()));
    }
    assert!(matches!(
        state(&catalog, &directories[5]),
        State::Unknown(_)
    ));
    assert!(matches!(state(&catalog, &directories[6]), State::Good(_)));
}

#[test]
fn retention_keeps_what_any_rule_wants() {
    let mut facts = Facts::default();
    let directories: Vec<Directory> = (0..5)
        .map(|hour| directory("u", BEGIN + hour * HOUR, "a"))
        .collect();
    for directory in &directories {
        add(&mut facts, directory);
    }
    add(
        &mut facts,
        &directory("v", BEGIN - 99 * HOUR, "of-another-ring"),
    );
    let catalog = Catalog::new("p", &facts);
    let now = at(BEGIN + 5 * HOUR);
    let deleted = |count, hours: Option<i64>| {
        let age = hours.map(SignedDuration::from_hours);
        match catalog.retention("u", Policy { count, age }, now) {
            Retention::Delete(deleted) => deleted.len(),
            wait @ Retention::Wait { .. } => panic!("{wait:?}"),
        }
    };
    assert_eq!(deleted(None, None), 0);
    assert_eq!(deleted(Some(2), None), 3);
    assert_eq!(deleted(None, Some(3)), 2);
    assert_eq!(deleted(Some(1), Some(3)), 2);
    assert_eq!(deleted(Some(4), Some(3)), 1);
    // The last one stays whatever the rules say.
    assert_eq!(deleted(Some(0), Some(0)), 4);
    let oldest_first = catalog.retention("u", keep(3), now);
    assert_eq!(oldest_first, Retention::Delete(directories[..2].to_vec()));
    // Somebody may be at one yet whose manifest is there already.
    facts.running.insert(directories[0].clone());
    let waits = Catalog::new("p", &facts).retention("u", keep(3), now);
    assert_eq!(waits, Retention::Delete(directories[1..2].to_vec()));
}

#[test]
fn retention_waits_beside_a_newest_one_that_is_not_good() {
    let mut whole = Facts::default();
    for hour in 0..3 {
        add(&mut whole, &directory("u", BEGIN + hour * HOUR, "a"));
    }
    let newest = directory("u", BEGIN + 4 * HOUR, "a");
    let retention = |facts: &Facts| {
        let catalog = Catalog::new("p", facts);
        catalog.retention("u", keep(1), at(BEGIN + 9 * HOUR))
    };
    let mut failed = whole.clone();
    add_failed(&mut failed, &newest);
    let mut refuted = whole.clone();
    add(&mut refuted, &newest);
    refuted.refuted.insert(newest.clone());
    let mut unknown = refuted.clone();
    let asked = Asked::Unknown("503".to_owned());
    unknown.manifests.insert(newest.clone(), asked);
    for facts in [failed, refuted, unknown] {
        assert!(
            matches!(retention(&facts), Retention::Wait { newest: found, .. } if found == newest)
        );
    }
    let mut running = whole.clone();
    add_failed(&mut running, &newest);
    running.running.insert(newest);
    assert_eq!(retention(&running), retention(&whole));
    assert!(matches!(retention(&whole), Retention::Delete(deleted) if deleted.len() == 2));
}

#[test]
fn deletion_begins_with_the_manifest() {
    let mut facts = Facts::default();
    let directory = directory("u", BEGIN, "a");
    add(&mut facts, &directory);
    let catalog = Catalog::new("p", &facts);
    let keys = catalog.entries()[0].deletion();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0], directory.key(Object::Manifest));
}

#[test]
fn orphans_are_old_and_proven_to_be_nobodys() {
    let directory = directory("u", BEGIN, "a");
    let mut failed = Facts::default();
    add_failed(&mut failed, &directory);
    let orphans = |facts: &Facts, now: i64| {
        Catalog::new("p", facts).orphans(SignedDuration::from_hours(24), at(now))
    };
    let late = BEGIN + 25 * HOUR;
    assert_eq!(orphans(&failed, late).len(), 1);
    assert_eq!(orphans(&failed, BEGIN + 24 * HOUR).len(), 0);
    // A clock that went back.
    assert_eq!(orphans(&failed, BEGIN - HOUR).len(), 0);
    let mut running = failed.clone();
    running.running.insert(directory.clone());
    assert_eq!(orphans(&running, late).len(), 0);
    // The listing shows no manifest, and nobody asked for it.
    let mut stale = failed.clone();
    stale.manifests.clear();
    assert_eq!(orphans(&stale, late).len(), 0);
    let mut unknown = failed.clone();
    let asked = Asked::Unknown("503".to_owned());
    unknown.manifests.insert(directory.clone(), asked);
    assert_eq!(orphans(&unknown, late).len(), 0);
    // One young part: another operator may be at it.
    let mut young = failed.clone();
    young.listing.push(Listed {
        key: format!("{directory}2-0.rdb"),
        bytes: 1,
        modified: at(late - HOUR),
    });
    assert_eq!(orphans(&young, late).len(), 0);
    // An attempt that was given up, beside the one in the manifest.
    let mut attempts = Facts::default();
    add(&mut attempts, &directory);
    let given_up = format!("{directory}1-1.rdb.zst.enc");
    attempts.listing.push(Listed {
        key: given_up.clone(),
        bytes: 1,
        modified: at(BEGIN),
    });
    assert_eq!(orphans(&attempts, late), [given_up]);
    // Whoever is at it may not have seen its own manifest yet.
    attempts.running.insert(directory);
    assert_eq!(orphans(&attempts, late).len(), 0);
}

#[test]
fn days_of_the_old_manager_are_listed() {
    let mut facts = Facts::default();
    for (day, token) in [(1_u64, 7), (1, 8), (2, 7)] {
        facts.listing.push(Listed {
            key: format!("p/dc/r/{token}/{}", day * 86_400_000),
            bytes: 1,
            modified: at(0),
        });
    }
    let catalog = Catalog::new("p", &facts);
    let [newest, older] = catalog.manager_days() else {
        panic!("two days");
    };
    assert_eq!((newest.files.len(), older.files.len()), (1, 2));
    assert_eq!(newest.day, at(2 * 86_400));
    assert_eq!(older.files[&Token(8)], "p/dc/r/8/86400000");
    assert!(catalog.entries().is_empty());
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Good,
    Failed,
    Refuted,
    Unreadable,
    NotAsked,
    Running,
    InUse,
    Truncated,
}

/// A bucket with backups of two rings in all states, and the number of the ring, hour and state.
fn bucket(backups: &[(bool, i64, Kind)]) -> (Facts, Vec<(Directory, Kind)>) {
    let mut facts = Facts::default();
    let mut all = Vec::new();
    for (number, (other, hour, kind)) in backups.iter().enumerate() {
        let uid = if *other { "v" } else { "u" };
        let directory = directory(uid, BEGIN + hour * HOUR, &format!("b{number}"));
        match kind {
            Kind::Failed | Kind::Running => add_failed(&mut facts, &directory),
            _ => add(&mut facts, &directory),
        }
        match kind {
            Kind::Good | Kind::Failed => {}
            Kind::Refuted => drop(facts.refuted.insert(directory.clone())),
            Kind::Unreadable => {
                let asked = Asked::Unreadable("broken".to_owned());
                facts.manifests.insert(directory.clone(), asked);
            }
            Kind::NotAsked => drop(facts.manifests.remove(&directory)),
            Kind::Running => drop(facts.running.insert(directory.clone())),
            Kind::InUse => drop(facts.in_use.insert(directory.clone())),
            Kind::Truncated => {
                let at = facts.listing.len() - 2;
                facts.listing[at].bytes -= 1;
            }
        }
        all.push((directory, *kind));
    }
    (facts, all)
}

fn some_backups() -> impl Strategy<Value = Vec<(bool, i64, Kind)>> {
    let kind = prop_oneof![
        6 => Just(Kind::Good),
        1 => Just(Kind::Failed),
        1 => Just(Kind::Refuted),
        1 => Just(Kind::Unreadable),
        1 => Just(Kind::NotAsked),
        1 => Just(Kind::Running),
        1 => Just(Kind::InUse),
        1 => Just(Kind::Truncated),
    ];
    prop::collection::vec((prop::bool::weighted(0.2), 0_i64..100, kind), 0..12)
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let age = (0_i64..120).prop_map(SignedDuration::from_hours);
    let rules = (prop::option::of(0_u32..6), prop::option::of(age));
    rules.prop_map(|(count, age)| Policy { count, age })
}

proptest! {
    #[test]
    fn order_of_the_listing_does_not_matter(
        (backups, seed) in (some_backups(), any::<u64>()),
    ) {
        let (facts, _) = bucket(&backups);
        let mut shuffled = facts.clone();
        shuffled.listing.sort_by_key(|listed| {
            listed.key.bytes().fold(seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
        });
        prop_assert_eq!(Catalog::new("p", &facts), Catalog::new("p", &shuffled));
    }

    #[test]
    fn retention_takes_only_good_backups_that_nobody_needs(
        backups in some_backups(),
        policy in some_policy(),
        later in 0_i64..50,
    ) {
        let (facts, all) = bucket(&backups);
        let now = at(BEGIN + (100 + later) * HOUR);
        let catalog = Catalog::new("p", &facts);
        let latest = catalog.choose("shop", "ring", &Choice::Latest).cloned();
        let newest = catalog.of("u").find(|entry| entry.manifest().is_some()).cloned();
        match catalog.retention("u", policy, now) {
            Retention::Wait { newest, .. } => {
                let kind = all.iter().find(|(directory, _)| *directory == newest);
                prop_assert!(!matches!(kind, Some((_, Kind::Good | Kind::InUse | Kind::Running))));
            }
            Retention::Delete(deleted) => {
                for directory in &deleted {
                    let kind = all.iter().find(|(one, _)| one == directory);
                    prop_assert!(matches!(kind, Some((_, Kind::Good))));
                    prop_assert_eq!(directory.place.uid(), "u");
                }
                // Deleted, the same question finds nothing more to delete, and the same newest.
                let mut after = facts.clone();
                for entry in catalog.entries() {
                    if deleted.contains(&entry.directory) {
                        let keys = entry.deletion();
                        after.listing.retain(|listed| !keys.contains(&listed.key));
                        after.manifests.insert(entry.directory.clone(), Asked::Absent);
                    }
                }
                let catalog = Catalog::new("p", &after);
                prop_assert_eq!(catalog.choose("shop", "ring", &Choice::Latest), latest.as_ref());
                let still = catalog.of("u").find(|entry| entry.manifest().is_some());
                prop_assert_eq!(still, newest.as_ref());
                prop_assert_eq!(catalog.retention("u", policy, now), Retention::Delete(Vec::new()));
            }
        }
    }

    #[test]
    fn orphans_are_of_failed_uploads_only(backups in some_backups(), hours in 0_i64..200) {
        let (facts, all) = bucket(&backups);
        let catalog = Catalog::new("p", &facts);
        let now = at(BEGIN + hours * HOUR);
        let orphans = catalog.orphans(SignedDuration::from_hours(24), now);
        for (directory, kind) in all {
            let begin = directory.to_string();
            let found = orphans.iter().any(|key| key.starts_with(&begin));
            let old = now.duration_since(directory.id.started()) > SignedDuration::from_hours(24);
            prop_assert_eq!(found, old && matches!(kind, Kind::Failed));
        }
    }
}
