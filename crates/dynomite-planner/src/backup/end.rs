//! The end of a backup: its manifest, the rests of attempts, and its deletion.

use dynomite_api::annotations::BACKUP_FINALIZER;
use dynomite_api::contract::{BackupPlace, BucketAction, BucketAnswer};
use dynomite_api::crd::{BackupDeletionPolicy, BackupPhase, DynomiteBackup, DynomiteBackupStatus};
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::layout::Object;
use dynomite_snapshot::manifest::{Backup, FORMAT_VERSION, Manifest, Ring, Snapshot};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{View, fail, say, status_of};
use crate::bucket::{Reply, ask, place};
use crate::plan::{Action, EventKind};
use crate::steps::Step;

/// How long the manifest may fail to be written before the backup does.
const MANIFEST_PATIENCE: SignedDuration = SignedDuration::from_mins(30);
/// How long the rests of attempts are tried to be removed; retention finds them later.
const CLEANING_PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// How long a deletion may be held up by its storage: a namespace must be able to go.
const DELETION_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Writes the manifest of a backup whose tokens are all done, and says what came of it.
pub(crate) fn finish(view: &View<'_>, status: &mut DynomiteBackupStatus, step: &mut Step) {
    let now = view.now;
    let manifest = match manifest(view, status) {
        Ok(manifest) => manifest,
        Err(why) => return fail(status, "ManifestUnwritable", &why, now),
    };
    let text = match manifest.write().map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return,
        Err(why) => return fail(status, "ManifestUnwritable", &why.to_string(), now),
    };
    let place = match place(view.cluster, view.observed, &status.store) {
        Ok(place) => place,
        Err(why) => return hold_on(status, manifest.backup.finished_at, &why.message(), now),
    };
    let digest = Sha256::of(text.as_bytes());
    let key = format!("{}{}", status.directory, Object::Manifest);
    let put = BucketAction::Put { key, text };
    // It has the same bytes each time, so one that was written before counts.
    let since = Timestamp::UNIX_EPOCH;
    match ask((view.observed, view.ring), step, &place, put, since, now) {
        Reply::Answer(BucketAnswer::Done, at) => {
            status.manifest_digest = digest.to_string();
            status.completed_at = Some(Time(at));
            status.keys = Some(manifest.counts().total());
            status.cleaning = status.tokens.iter().any(|token| token.attempt > 0);
            let message = format!("{} tokens, {} stored", status.tokens.len(), status.size);
            say(status, BackupPhase::Completed, "Completed", &message, now);
        }
        Reply::Answer(answer, _) => {
            let (reason, message) = refused(answer);
            let message = format!("the manifest could not be written: {message}");
            fail(status, &reason, &message, now);
        }
        Reply::Pending(why) => hold_on(status, manifest.backup.finished_at, &why, now),
    }
}

/// Why a question was not done.
fn refused(answer: &BucketAnswer) -> (String, String) {
    match answer {
        BucketAnswer::Failed {
            reason, message, ..
        } => (reason.clone(), message.clone()),
        other => (
            "UnexpectedAnswer".to_owned(),
            format!("the node answered something else: {other:?}"),
        ),
    }
}

fn hold_on(status: &mut DynomiteBackupStatus, since: Timestamp, why: &str, now: Timestamp) {
    if now.duration_since(since) > MANIFEST_PATIENCE {
        let message = format!("the manifest could not be written: {why}");
        return fail(status, "ManifestUnwritten", &message, now);
    }
    let reason = if why.is_empty() { "" } else { "ManifestWaits" };
    say(status, BackupPhase::Writing, reason, why, now);
}

/// The manifest by the entries of the tokens.
fn manifest(view: &View<'_>, status: &DynomiteBackupStatus) -> Result<Manifest, String> {
    let cluster = view.cluster;
    let mut snapshots = Vec::new();
    for token in &status.tokens {
        let entry = token.entry.clone().unwrap_or_default();
        let entry: Snapshot = serde_json::from_value(entry)
            .map_err(|error| format!("the entry of token {}: {error}", token.token))?;
        snapshots.push(entry);
    }
    snapshots.sort_by_key(|snapshot| snapshot.token);
    let ends = snapshots.iter().map(|snapshot| snapshot.finished_at);
    let begins = snapshots.iter().map(|snapshot| snapshot.started_at);
    let started = status.started_at.as_ref().map(|at| at.0);
    let first = begins.chain(started).min();
    let setting = |name: &str| cluster.engine.settings.get(name).cloned();
    let tokens: Vec<_> = snapshots.iter().map(|snapshot| snapshot.token).collect();
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        backup: Backup {
            id: status.id.clone(),
            // A node's clock may be behind the operator's.
            started_at: started.or(first).unwrap_or(view.now),
            finished_at: ends.chain(started).max().unwrap_or(view.now),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        ring: Ring {
            cluster: cluster.id.name.clone(),
            namespace: cluster.id.namespace.clone(),
            uid: cluster.id.uid.clone(),
            datacenter: cluster.spec.datacenter.clone(),
            racks: cluster.racks.iter().map(|rack| rack.name.clone()).collect(),
            nodes_per_rack: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
            tokens,
            hash: setting("hash").unwrap_or_else(|| "murmur".to_owned()),
            hash_tag: setting("hash_tag"),
        },
        snapshots,
    })
}

/// Removes what lies in the directory of a backup beside what its manifest names.
pub(crate) fn clean(view: &View<'_>, status: &mut DynomiteBackupStatus, step: &mut Step) {
    let ended = status.conditions.iter().filter(|c| c.status == "True");
    let Some(since) = ended.map(|c| c.last_transition_time.0).max() else {
        status.cleaning = false;
        return;
    };
    let late = view.now.duration_since(since) > CLEANING_PATIENCE;
    let Ok(place) = place(view.cluster, view.observed, &status.store) else {
        status.cleaning = !late;
        return;
    };
    let completed = status.phase == Some(BackupPhase::Completed);
    let manifest = Object::Manifest.to_string();
    let ours: Vec<String> = status
        .tokens
        .iter()
        .filter_map(|token| token.entry.as_ref()?["object"].as_str())
        .chain([&*manifest])
        .map(|object| format!("{}{object}", status.directory))
        .collect();
    let keep = |key: &String| ours.contains(key);
    let done = if completed {
        remove(view, step, &place, &status.directory, since, keep)
    } else {
        // A manifest that was written all the same must not outlive what it names.
        delete(view, step, &place, &status.directory, since)
    };
    match done {
        Ok(()) => status.cleaning = false,
        Err(_) if late => status.cleaning = false,
        Err(_) => {}
    }
}

/// Removes a directory but for what is to be kept; an error says why not yet.
fn remove(
    view: &View<'_>,
    step: &mut Step,
    place: &BackupPlace,
    directory: &str,
    since: Timestamp,
    keep: impl Fn(&String) -> bool,
) -> Result<(), String> {
    let seen = (view.observed, view.ring);
    let list = BucketAction::List {
        under: directory.to_owned(),
        after: None,
    };
    let (objects, at) = match ask(seen, step, place, list, since, view.now) {
        Reply::Answer(BucketAnswer::Listed { objects, .. }, at) => (objects, at),
        Reply::Answer(other, _) => return Err(refused(other).1),
        Reply::Pending(why) => return Err(why),
    };
    let keys = objects.iter().map(|object| object.key.clone());
    let keys: Vec<String> = keys.filter(|key| !keep(key)).collect();
    if keys.is_empty() {
        return Ok(());
    }
    match ask(
        seen,
        step,
        place,
        BucketAction::Delete { keys },
        at,
        view.now,
    ) {
        Reply::Answer(BucketAnswer::Done | BucketAnswer::Missing, _) => Ok(()),
        Reply::Answer(other, _) => Err(refused(other).1),
        Reply::Pending(why) => Err(why),
    }
}

/// Sees to a backup that is being deleted: its objects, where its policy wants
/// it or it never was one, and then the finalizer.
pub(crate) fn deletion(view: &View<'_>, backup: &DynomiteBackup, step: &mut Step) {
    let meta = &backup.metadata;
    let finalizers = meta.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|name| name == BACKUP_FINALIZER) {
        return;
    }
    let status = status_of(backup);
    let begun = meta.deletion_timestamp.as_ref().map_or(view.now, |at| at.0);
    let whole = status.phase == Some(BackupPhase::Completed);
    let wanted = backup.spec.deletion_policy == BackupDeletionPolicy::Delete || !whole;
    let mut problem = None;
    // What was found is not this object's to delete.
    if wanted && !status.directory.is_empty() && backup.spec.directory.is_none() {
        problem = match place(view.cluster, view.observed, &status.store) {
            Ok(place) => delete(view, step, &place, &status.directory, begun).err(),
            Err(why) => Some(why.message()),
        };
    }
    let late = view.now.duration_since(begun) > DELETION_PATIENCE;
    if problem.is_some() && !late {
        return;
    }
    let name = meta.name.clone().unwrap_or_default();
    if let Some(why) = problem {
        step.act(
            Action::Event {
                kind: EventKind::Warning,
                reason: "BackupObjectsLeft",
                message: format!(
                    "backup {name} is deleted and its objects are not, at {}: {why}",
                    status.location
                ),
            },
            "the objects of a backup could not be deleted",
        );
    }
    step.act(
        Action::SetBackupFinalizer {
            name,
            uid: meta.uid.clone().unwrap_or_default(),
            present: false,
        },
        "nothing is left to do for the backup",
    );
}

/// The manifest goes first: what is deleted half is no backup.
fn delete(
    view: &View<'_>,
    step: &mut Step,
    place: &BackupPlace,
    directory: &str,
    begun: Timestamp,
) -> Result<(), String> {
    let first = BucketAction::Delete {
        keys: vec![format!("{directory}{}", Object::Manifest)],
    };
    let seen = (view.observed, view.ring);
    match ask(seen, step, place, first, begun, view.now) {
        Reply::Answer(BucketAnswer::Done | BucketAnswer::Missing, at) => {
            remove(view, step, place, directory, at, |_| false)
        }
        Reply::Answer(other, _) => Err(refused(other).1),
        Reply::Pending(why) => Err(why),
    }
}
