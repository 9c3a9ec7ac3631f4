//! Retention: after a completed backup, those that no rule wants any more go, and what failed uploads left behind.
//!
//! Manifests decide, read again from the store: a backup goes only when it was
//! seen that a newer good one is there.

use std::collections::BTreeSet;

use dynomite_api::contract::{BackupPlace, BucketAction, BucketAnswer, ObjectFacts};
use dynomite_api::crd::{BackupPhase, BackupRetention, DynomiteBackup, DynomiteBackupStatus};
use dynomite_snapshot::catalog::{Asked, Catalog, Entry, Facts, Listed, Policy, Retention};
use dynomite_snapshot::layout::{BackupId, Directory, Found, Object, Place, find};
use dynomite_snapshot::manifest::Manifest;
use jiff::{SignedDuration, Timestamp};

use super::health::last_verified;
use super::verify::is_verified_now;
use super::{View, is_active, status_of};
use crate::bucket::{Reply, ask, place};
use crate::plan::{Action, EventKind, Kind};
use crate::restore;
use crate::steps::Step;

/// How old what belongs to no backup must be: an upload may go on that nobody
/// here knows of.
const ORPHAN_GRACE: SignedDuration = SignedDuration::from_hours(24);
/// How many manifests are looked at, the newest and the oldest: those between
/// them have their turn when the oldest are gone.
const NEWEST: usize = 50;
const OLDEST: usize = 100;
/// How many questions wait for an answer at the same time.
const PENDING_MAX: usize = 8;
/// How long retention tries after a backup; the next one begins anew.
const PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// Why a pass of retention is not at its end.
struct NotYet;

/// The newest completed backup of each store for which retention has not run.
pub(crate) fn wanted<'a>(
    retention: Option<&BackupRetention>,
    backups: &[&'a DynomiteBackup],
) -> Vec<&'a DynomiteBackup> {
    let Some(_) = retention else {
        return Vec::new();
    };
    let mut stores = BTreeSet::new();
    let newest_first = backups.iter().rev().filter_map(|backup| {
        let status = backup.status.as_ref()?;
        // What was found is nothing that this ring has just taken.
        let taken = backup.spec.directory.is_none();
        let done = taken && status.phase == Some(BackupPhase::Completed);
        let first = done && stores.insert(status.store.clone());
        (first && !status.retention_done).then_some(*backup)
    });
    newest_first.collect()
}

/// Runs retention for a completed backup; the status says when it is done.
pub(crate) fn retain(
    view: &View<'_>,
    backup: &DynomiteBackup,
    backups: &[&DynomiteBackup],
    step: &mut Step,
) -> DynomiteBackupStatus {
    let mut status = status_of(backup);
    let Some(since) = status.completed_at.as_ref().map(|at| at.0) else {
        return status;
    };
    let spec = view.cluster.spec.backup.as_ref();
    let Some(rules) = spec.and_then(|spec| spec.retention.as_ref()) else {
        return status;
    };
    let late = view.now.duration_since(since) > PATIENCE;
    let policy = Policy {
        count: rules.count,
        age: rules.age.as_deref().and_then(age),
    };
    let done = match place(view.cluster, view.observed, &status.store) {
        // What is being read must stay; which backup that is may not be decided yet.
        _ if restore::active(view.cluster, view.observed).is_some() => Err(NotYet),
        Ok(place) => go(view, backups, &place, policy, since, step),
        Err(_) => Err(NotYet),
    };
    status.retention_done = done.is_ok() || late;
    status
}

/// An age as in `30d`.
pub(super) fn age(text: &str) -> Option<SignedDuration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 168,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    Some(SignedDuration::from_hours(number.checked_mul(hours)?))
}

fn go(
    view: &View<'_>,
    backups: &[&DynomiteBackup],
    place: &BackupPlace,
    policy: Policy,
    since: Timestamp,
    step: &mut Step,
) -> Result<(), NotYet> {
    let id = &view.cluster.id;
    let Ok(ring) = Place::new(&place.prefix, &id.namespace, &id.name, &id.uid) else {
        return Ok(());
    };
    let facts = facts(view, backups, place, &ring, since, step)?;
    let catalog = Catalog::new(&place.prefix, &facts);
    match catalog.retention(&id.uid, policy, view.now) {
        Retention::Delete(expired) => {
            for directory in expired.iter().take(PENDING_MAX) {
                let entry = catalog.entries().iter().find(|e| e.directory == *directory);
                let keys = entry.map(Entry::deletion).unwrap_or_default();
                delete(view, place, keys, since, step)?;
                forget(backups, directory, step);
            }
            if expired.len() > PENDING_MAX {
                return Err(NotYet);
            }
        }
        Retention::Wait { newest, why } => {
            let event = Action::Event {
                kind: EventKind::Warning,
                reason: "RetentionWaits",
                message: format!(
                    "no old backups are deleted while the newest, {}, is not a good one: {why}",
                    newest.id
                ),
            };
            step.act(event, "retention waits");
        }
    }
    let orphans = catalog.orphans(ORPHAN_GRACE, view.now);
    let first: Vec<String> = orphans.into_iter().take(500).collect();
    if first.is_empty() {
        return Ok(());
    }
    remove(view, place, first, since, step)
}

fn facts(
    view: &View<'_>,
    backups: &[&DynomiteBackup],
    place: &BackupPlace,
    ring: &Place,
    since: Timestamp,
    step: &mut Step,
) -> Result<Facts, NotYet> {
    let listed = list(view, place, &ring.to_string(), since, step)?;
    let listing: Vec<Listed> = listed
        .into_iter()
        .map(|object| Listed {
            key: object.key,
            bytes: object.bytes,
            modified: object.modified,
        })
        .collect();
    let mut facts = Facts::default();
    let proven = last_verified(backups).map(|backup| &backup.metadata.uid);
    for backup in backups {
        let id = backup.status.as_ref().and_then(|s| BackupId::parse(&s.id));
        let Some(id) = id else { continue };
        let directory = Directory {
            place: ring.clone(),
            id,
        };
        if proven == Some(&backup.metadata.uid) || is_verified_now(backup) {
            facts.in_use.insert(directory.clone());
        }
        if is_active(backup) {
            facts.running.insert(directory.clone());
        }
        if backup.spec.keep {
            facts.in_use.insert(directory);
        }
    }
    let mut directories: BTreeSet<Directory> = BTreeSet::new();
    for object in &listing {
        if let Found::Ours(directory, _) = find(&place.prefix, &object.key) {
            directories.insert(directory);
        }
    }
    let mut ordered: Vec<Directory> = directories.into_iter().collect();
    ordered.sort_by_key(|directory| directory.id.started());
    let between = OLDEST..ordered.len().saturating_sub(NEWEST).max(OLDEST);
    let mut pending = 0;
    for (number, directory) in ordered.into_iter().enumerate() {
        if between.contains(&number) || pending >= PENDING_MAX {
            continue;
        }
        match manifest(view, place, &directory, since, step) {
            Some(asked) => drop(facts.manifests.insert(directory, asked)),
            None => pending += 1,
        }
    }
    if pending > 0 {
        return Err(NotYet);
    }
    facts.listing = listing;
    Ok(facts)
}

fn manifest(
    view: &View<'_>,
    place: &BackupPlace,
    directory: &Directory,
    since: Timestamp,
    step: &mut Step,
) -> Option<Asked> {
    let get = BucketAction::Get {
        key: directory.key(Object::Manifest),
    };
    match ask(
        (view.observed, view.ring),
        step,
        place,
        get,
        since,
        view.now,
    ) {
        Reply::Answer(BucketAnswer::Text { text }, _) => {
            Some(match Manifest::read(text.as_bytes()) {
                Ok(manifest) => Asked::Read(Box::new(manifest)),
                Err(why) => Asked::Unreadable(why.to_string()),
            })
        }
        Reply::Answer(BucketAnswer::Missing, _) => Some(Asked::Absent),
        Reply::Answer(BucketAnswer::Failed { message, .. }, _) => {
            Some(Asked::Unknown(message.clone()))
        }
        Reply::Answer(other, _) => Some(Asked::Unknown(format!("{other:?}"))),
        Reply::Pending(_) => None,
    }
}

/// Everything under a prefix, page by page.
fn list(
    view: &View<'_>,
    place: &BackupPlace,
    under: &str,
    since: Timestamp,
    step: &mut Step,
) -> Result<Vec<ObjectFacts>, NotYet> {
    let mut all: Vec<ObjectFacts> = Vec::new();
    loop {
        let page = BucketAction::List {
            under: under.to_owned(),
            after: all.last().map(|object| object.key.clone()),
        };
        match ask(
            (view.observed, view.ring),
            step,
            place,
            page,
            since,
            view.now,
        ) {
            Reply::Answer(BucketAnswer::Listed { objects, more }, _) => {
                all.extend(objects.iter().cloned());
                if !more || objects.is_empty() {
                    return Ok(all);
                }
            }
            _ => return Err(NotYet),
        }
    }
}

/// Deletes a backup: its manifest first, so that none is deleted half and taken for whole.
fn delete(
    view: &View<'_>,
    place: &BackupPlace,
    keys: Vec<String>,
    since: Timestamp,
    step: &mut Step,
) -> Result<(), NotYet> {
    let mut keys = keys;
    let others = keys.split_off(keys.len().min(1));
    remove(view, place, keys, since, step)?;
    if others.is_empty() {
        return Ok(());
    }
    remove(view, place, others, since, step)
}

fn remove(
    view: &View<'_>,
    place: &BackupPlace,
    keys: Vec<String>,
    since: Timestamp,
    step: &mut Step,
) -> Result<(), NotYet> {
    let delete = BucketAction::Delete { keys };
    match ask(
        (view.observed, view.ring),
        step,
        place,
        delete,
        since,
        view.now,
    ) {
        Reply::Answer(BucketAnswer::Done | BucketAnswer::Missing, _) => Ok(()),
        _ => Err(NotYet),
    }
}

/// Deletes the object of a backup that is not in the store any more.
fn forget(backups: &[&DynomiteBackup], directory: &Directory, step: &mut Step) {
    let text = directory.to_string();
    let is = |backup: &&&DynomiteBackup| {
        let status = backup.status.as_ref();
        let leaving = backup.metadata.deletion_timestamp.is_some();
        !leaving && status.is_some_and(|status| status.directory == text)
    };
    if let Some(backup) = backups.iter().find(is) {
        let meta = &backup.metadata;
        step.act(
            Action::Delete {
                kind: Kind::DynomiteBackup,
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
                resource_version: None,
            },
            "retention removed what it stored",
        );
    }
}
