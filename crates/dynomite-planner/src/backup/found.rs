//! Backups that lie in a store already: an object shows one, an annotation makes objects for all.
//!
//! ```text
//!  dynomite.io/catalog ──listing──▶ DynomiteBackup with spec.directory ──manifest──▶ Completed
//!                                                                          └─ none, or unreadable ──▶ Failed
//! ```
//!
//! The manifests are the truth, and nothing here writes to a store or deletes from it.

use std::collections::BTreeSet;

use dynomite_api::annotations::{ANNOTATION_CATALOG, LABEL_FOUND};
use dynomite_api::contract::{BackupPlace, BucketAction, BucketAnswer, ObjectFacts};
use dynomite_api::crd::{BackupPhase, DynomiteBackup, DynomiteBackupStatus};
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::layout::{Directory, Found, Object, find};
use dynomite_snapshot::manifest::Manifest;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::trigger::made;
use super::{View, is_active, say, size, status_of};
use crate::bucket::{NoPlace, Reply, ask, place, url};
use crate::plan::{Action, EventKind};
use crate::steps::Step;

/// The value of the annotation that means this ring's own backups.
const OWN: &str = "rebuild";
/// Objects that are made for one wish; of more backups the newest get one.
const OBJECTS: usize = 500;
/// Objects that are made in one pass.
const AT_ONCE: usize = 50;
/// Pages of a listing that are looked through, of a thousand objects each.
const PAGES: usize = 100;
/// How old a listing may be by which objects are made.
const FRESH: SignedDuration = SignedDuration::from_mins(1);
/// The longest name of an object.
const NAME_MAX: usize = 253;

/// The status of an object that shows a backup which lies in its store.
pub(crate) fn show(
    view: &View<'_>,
    backup: &DynomiteBackup,
    step: &mut Step,
) -> DynomiteBackupStatus {
    let mut status = status_of(backup);
    if !is_active(backup) {
        return status;
    }
    let (phase, reason, message) = match look(view, backup, &mut status, step) {
        Ok(message) => (BackupPhase::Completed, "Found", message),
        Err(NotShown::Yet(reason, why)) => (BackupPhase::Pending, reason, why),
        Err(NotShown::Never(reason, why)) => (BackupPhase::Failed, reason, why),
    };
    say(&mut status, phase, reason, &message, view.now);
    status
}

/// Why an object does not show its backup, and in one word.
enum NotShown {
    Yet(&'static str, String),
    Never(&'static str, String),
}

fn look(
    view: &View<'_>,
    backup: &DynomiteBackup,
    status: &mut DynomiteBackupStatus,
    step: &mut Step,
) -> Result<String, NotShown> {
    let no_place = |why: NoPlace| NotShown::Yet(why.reason(), why.message());
    let spec = view.cluster.spec.backup.as_ref();
    let spec = spec.ok_or_else(|| no_place(NoPlace::NoStores))?;
    let wanted = backup.spec.store.as_deref();
    let store = spec
        .store(wanted)
        .ok_or_else(|| no_place(NoPlace::NoSuchStore(wanted.unwrap_or_default().to_owned())))?;
    let place = place(view.cluster, view.observed, &store.name).map_err(no_place)?;
    let given = backup.spec.directory.as_deref().unwrap_or_default();
    let key = format!("{}/{}", given.trim_matches('/'), Object::Manifest);
    let Found::Ours(directory, Object::Manifest) = find(&place.prefix, &key) else {
        let why = format!(
            "spec.directory {given:?} is no directory of a backup in store {}: those are \
             {}/NAMESPACE/CLUSTER/UID/START-SUFFIX-NAME/",
            store.name, place.prefix
        );
        return Err(NotShown::Never("NoSuchDirectory", why));
    };
    let get = BucketAction::Get { key: key.clone() };
    let made = backup.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let since = made.unwrap_or(Timestamp::UNIX_EPOCH);
    let seen = (view.observed, view.ring);
    let text = match ask(seen, step, &place, get, since, view.now) {
        Reply::Answer(BucketAnswer::Text { text }, _) => text,
        Reply::Answer(BucketAnswer::Missing, _) => {
            let why = format!("there is no manifest {key} in store {}", store.name);
            return Err(NotShown::Never("NoSuchBackup", why));
        }
        Reply::Answer(BucketAnswer::Failed { message, .. }, _) => {
            return Err(NotShown::Yet("StoreRefuses", message.clone()));
        }
        Reply::Answer(other, _) => {
            let why = format!("the node answered something else: {other:?}");
            return Err(NotShown::Yet("UnexpectedAnswer", why));
        }
        Reply::Pending(why) => return Err(NotShown::Yet("StoreUnavailable", why)),
    };
    let unreadable = |why: String| NotShown::Never("ManifestUnreadable", why);
    let manifest = Manifest::read(text.as_bytes()).map_err(|why| unreadable(why.to_string()))?;
    if manifest.backup.id != directory.id.to_string() || manifest.ring.uid != directory.place.uid()
    {
        return Err(unreadable("the manifest is of another backup".to_owned()));
    }
    status.store.clone_from(&store.name);
    fill(status, &place, &directory, &manifest);
    status.manifest_digest = Sha256::of(text.as_bytes()).to_string();
    Ok(format!(
        "{} tokens, {} stored; it was found in the store",
        manifest.snapshots.len(),
        status.size
    ))
}

/// What a manifest says of its backup.
fn fill(
    status: &mut DynomiteBackupStatus,
    place: &BackupPlace,
    directory: &Directory,
    manifest: &Manifest,
) {
    let snapshots = &manifest.snapshots;
    let raw = snapshots.iter().map(|snapshot| snapshot.raw.bytes);
    let stored = snapshots.iter().map(|snapshot| snapshot.stored.bytes);
    let stored = stored.fold(0, u64::saturating_add);
    status.cluster_uid.clone_from(&manifest.ring.uid);
    status.id.clone_from(&manifest.backup.id);
    status.directory = directory.to_string();
    status.location = url(place, &status.directory);
    status.started_at = Some(Time(manifest.backup.started_at));
    status.completed_at = Some(Time(manifest.backup.finished_at));
    status.progress = format!("{0}/{0}", snapshots.len());
    status.bytes = Some(raw.fold(0, u64::saturating_add));
    status.stored_bytes = Some(stored);
    status.size = size(stored);
    status.keys = Some(manifest.counts().total());
    // Retention follows what the ring takes.
    status.retention_done = true;
}

/// Makes an object for each backup that the annotation means and that has none,
/// and takes the annotation off when all have one.
pub(crate) fn rebuild(view: &View<'_>, step: &mut Step) {
    let Some(value) = &view.cluster.catalog_asked else {
        return;
    };
    let said = match missing(view, value, step) {
        Ok((_, objects)) if !objects.is_empty() => {
            for object in objects.into_iter().take(AT_ONCE) {
                let make = Action::MakeBackup(Box::new(object));
                step.act(make, "the annotation asks for what lies in the store");
            }
            return;
        }
        Ok((found, _)) => (
            EventKind::Normal,
            "CatalogRebuilt",
            format!("{found} backups lie in the stores, and each has a DynomiteBackup"),
        ),
        Err(Some(why)) => (
            EventKind::Warning,
            "CatalogRefused",
            format!("annotation {ANNOTATION_CATALOG} is {value:?}: {why}"),
        ),
        Err(None) => {
            if let Ok(look) = view.now.checked_add(SignedDuration::from_secs(1)) {
                step.wake(look);
            }
            return;
        }
    };
    step.answer(
        (ANNOTATION_CATALOG, value),
        said,
        "a person asked for what lies in the stores",
    );
}

/// How many backups there are, and the objects of those that have none. An error
/// says why there will be no answer; without a word it is still being asked for.
fn missing(
    view: &View<'_>,
    value: &str,
    step: &mut Step,
) -> Result<(usize, Vec<DynomiteBackup>), Option<String>> {
    let id = &view.cluster.id;
    let (namespace, name) = match value.split_once('/') {
        _ if value == OWN => (id.namespace.as_str(), id.name.as_str()),
        Some((namespace, name)) if !name.contains('/') && !namespace.is_empty() => {
            (namespace, name)
        }
        _ => {
            let why = "it is rebuild for the backups of this ring, or NAMESPACE/CLUSTER for those \
                       of another";
            return Err(Some(why.to_owned()));
        }
    };
    let Some(spec) = &view.cluster.spec.backup else {
        return Err(Some(NoPlace::NoStores.message()));
    };
    let (mut found, mut objects) = (0, Vec::new());
    for store in &spec.stores {
        let place = place(view.cluster, view.observed, &store.name).map_err(|why| match why {
            NoPlace::Credentials(_) => None,
            other => Some(other.message()),
        })?;
        let prefix = match place.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let listed = list(view, &place, &format!("{prefix}{namespace}/{name}/"), step)?;
        let with_manifest = |object: &&ObjectFacts| match find(&place.prefix, &object.key) {
            Found::Ours(directory, Object::Manifest) => Some(directory),
            _ => None,
        };
        let directories = listed.iter().filter_map(with_manifest);
        let mut directories: Vec<Directory> = directories.collect();
        directories.sort_by_key(|directory| std::cmp::Reverse(directory.id.started()));
        directories.truncate(OBJECTS);
        found += directories.len();
        let known = known(view, spec.store(None).map(|first| &first.name), &store.name);
        let lacking = directories
            .iter()
            .filter(|directory| !known.contains(&directory.to_string()));
        objects.extend(lacking.map(|directory| object(view, &store.name, directory)));
    }
    // Two stores may hold copies of one backup.
    objects.sort_by(|a: &DynomiteBackup, b| a.metadata.name.cmp(&b.metadata.name));
    objects.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    objects.retain(|object| {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        !view.observed.backups.contains_key(name)
    });
    Ok((found, objects))
}

/// The directories in a store that have objects.
fn known(view: &View<'_>, first: Option<&String>, store: &str) -> BTreeSet<String> {
    let backups = view.observed.backups.values();
    let of_store = backups.filter(|backup| {
        let status = backup.status.as_ref().map(|status| &status.store);
        let named = status.filter(|name| !name.is_empty());
        named
            .or(backup.spec.store.as_ref())
            .or(first)
            .is_some_and(|name| name == store)
    });
    of_store
        .flat_map(|backup| {
            let status = backup.status.as_ref().map(|status| &status.directory);
            [status, backup.spec.directory.as_ref()]
        })
        .flatten()
        .map(|directory| format!("{}/", directory.trim_matches('/')))
        .collect()
}

/// The object of a backup. Its name is the whole of the directory's, so that it is
/// made once, and takes no name that another has.
fn object(view: &View<'_>, store: &str, directory: &Directory) -> DynomiteBackup {
    let name: String = directory.id.to_string().chars().take(NAME_MAX).collect();
    let name = name.to_ascii_lowercase().replace('_', "-");
    let name = name.trim_end_matches(['-', '.']);
    let mut backup = made(view.cluster, name);
    backup.spec.store = Some(store.to_owned());
    backup.spec.directory = Some(directory.to_string());
    let labels = backup.metadata.labels.get_or_insert_default();
    labels.insert(LABEL_FOUND.to_owned(), "true".to_owned());
    backup
}

/// Everything under a prefix, page by page.
fn list<'a>(
    view: &View<'a>,
    place: &BackupPlace,
    under: &str,
    step: &mut Step,
) -> Result<Vec<&'a ObjectFacts>, Option<String>> {
    let since = view
        .now
        .saturating_sub(FRESH)
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let mut all: Vec<&ObjectFacts> = Vec::new();
    for _ in 0..PAGES {
        let page = BucketAction::List {
            under: under.to_owned(),
            after: all.last().map(|object| object.key.clone()),
        };
        let seen = (view.observed, view.ring);
        match ask(seen, step, place, page, since, view.now) {
            Reply::Answer(BucketAnswer::Listed { objects, more }, _) => {
                all.extend(objects);
                if !more || objects.is_empty() {
                    return Ok(all);
                }
            }
            Reply::Answer(BucketAnswer::Missing, _) => return Ok(all),
            Reply::Answer(BucketAnswer::Failed { message, .. }, _) => {
                return Err(Some(message.clone()));
            }
            Reply::Answer(other, _) => return Err(Some(format!("unexpected answer: {other:?}"))),
            Reply::Pending(_) => return Err(None),
        }
    }
    let why = format!("more than {} objects lie under {under}", all.len());
    Err(Some(why))
}
