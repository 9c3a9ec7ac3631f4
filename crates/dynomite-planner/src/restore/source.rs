//! What a restore reads: the backup it means, whether that fits the ring, and what each token loads of it.

use std::collections::BTreeSet;

use dynomite_api::Token;
use dynomite_api::contract::{
    BackupPlace, BucketAction, BucketAnswer, ObjectFacts, RestorePart, TokenRange,
};
use dynomite_api::crd::{BackupPhase, DynomiteRestore};
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::fit::{Load, Room, Wish, fits};
use dynomite_snapshot::layout::{Directory, Found, Object, find};
use dynomite_snapshot::manifest::{Manifest, Ring as RingShape};
use dynomite_snapshot::rdb::Version;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::View;
use crate::bucket::{NoPlace, Reply, ask, place};
use crate::quantity;
use crate::steps::Step;

/// Backups of one ring that are looked through for one that fits; with as many
/// newer ones, the wanted one is named.
const CANDIDATES: usize = 200;

/// What is restored, and what each token loads of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) place: BackupPlace,
    /// Name of the backup's directory.
    pub(crate) id: String,
    /// What its keys begin with.
    pub(crate) directory: String,
    /// Nothing written later is in it.
    pub(crate) as_of: Timestamp,
    pub(crate) loads: Vec<TokenLoad>,
    /// Keys outside of database 0.
    pub(crate) unreachable: u64,
}

/// What the nodes of one token load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenLoad {
    pub(crate) token: Token,
    pub(crate) parts: Vec<RestorePart>,
    pub(crate) keep: Option<TokenRange>,
}

/// What the nodes of a token are told to load, as the status keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pinned {
    /// Where from; another way to the same store may be known by now.
    pub(crate) place: BackupPlace,
    pub(crate) parts: Vec<RestorePart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<TokenRange>,
}

impl Source {
    /// What a token loads, in writing: from then on nobody has to ask the store.
    pub(crate) fn pin(&self, load: &TokenLoad) -> String {
        let pinned = Pinned {
            place: self.place.clone(),
            parts: load.parts.clone(),
            keep: load.keep.clone(),
        };
        // Structs and strings always serialise.
        serde_json::to_string(&pinned).unwrap_or_default()
    }
}

/// Why there is no source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSource {
    /// It is being asked for; what is in the way, if anything.
    Pending(String),
    /// There will be none: one word, and the same for people.
    Never(&'static str, String),
}

/// Finds what a restore means and compares it with the ring.
pub(crate) fn source(
    view: &View<'_>,
    restore: &DynomiteRestore,
    step: &mut Step,
) -> Result<Source, NoSource> {
    let store = store_of(view, restore)?;
    let place = place(view.cluster, view.observed, &store).map_err(|why| match why {
        NoPlace::Credentials(_) => NoSource::Pending(why.message()),
        _ => NoSource::Never(why.reason(), why.message()),
    })?;
    let (directory, manifest) = find_manifest(view, restore, &place, step)?;
    let wish = wish(view, restore)?;
    let plan = fits(&manifest, &wish).map_err(|misfits| {
        let all: Vec<String> = misfits.iter().map(ToString::to_string).collect();
        NoSource::Never("DoesNotFit", all.join("; "))
    })?;
    let ring = &manifest.ring;
    let context = format!("{}/{}", ring.uid, manifest.backup.id);
    let loads = plan.nodes.iter();
    let loads = loads
        .map(|load| token_load(load, &manifest, &wish, &directory, &context))
        .collect();
    Ok(Source {
        place,
        id: manifest.backup.id.clone(),
        directory,
        as_of: manifest.backup.finished_at,
        loads,
        unreachable: plan.unreachable,
    })
}

fn token_load(
    load: &Load,
    manifest: &Manifest,
    wish: &Wish,
    directory: &str,
    context: &str,
) -> TokenLoad {
    let own = |token: u32, ring: &[dynomite_protocol::token::Token]| TokenRange {
        tokens: ring.iter().map(|token| Token(token.0)).collect(),
        own: Token(token),
    };
    let part = |part: &dynomite_snapshot::fit::Part| {
        let of = |snapshot: &&dynomite_snapshot::manifest::Snapshot| snapshot.object == part.object;
        let entry = manifest.snapshots.iter().find(of);
        RestorePart {
            key: format!("{directory}{}", part.object),
            entry: entry.and_then(|entry| serde_json::to_value(entry).ok()),
            context: context.to_owned(),
            owned: entry.map(|entry| own(entry.token.0, &manifest.ring.tokens)),
        }
    };
    let mut tokens = wish.tokens.clone();
    tokens.sort_unstable();
    TokenLoad {
        token: Token(load.token.0),
        parts: load.parts.iter().map(part).collect(),
        keep: load.keep.is_some().then(|| own(load.token.0, &tokens)),
    }
}

/// The store that the data lies in.
fn store_of(view: &View<'_>, restore: &DynomiteRestore) -> Result<String, NoSource> {
    let spec = &restore.spec;
    if let Some(store) = &spec.store {
        return Ok(store.clone());
    }
    let named = spec.from.backup.as_ref();
    let named = named.and_then(|name| view.observed.backups.get(name)?.status.as_ref());
    if let Some(status) = named.filter(|status| !status.store.is_empty()) {
        return Ok(status.store.clone());
    }
    let backup = view.cluster.spec.backup.as_ref();
    match backup.and_then(|backup| backup.store(None)) {
        Some(store) => Ok(store.name.clone()),
        None => Err(NoSource::Never(
            NoPlace::NoStores.reason(),
            NoPlace::NoStores.message(),
        )),
    }
}

/// The directory and the manifest of the backup that is meant.
fn find_manifest(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    step: &mut Step,
) -> Result<(String, Manifest), NoSource> {
    let from = &restore.spec.from;
    let chosen = restore.status.as_ref().map(|status| &status.directory);
    // What was chosen once stays chosen, whatever newer ones come.
    if let Some(directory) = chosen.filter(|directory| !directory.is_empty()) {
        let manifest = read_manifest(view, restore, place, directory, step)?;
        let why = format!("there is no manifest in {directory} any more");
        let (manifest, _) = manifest.ok_or(NoSource::Never("BackupGone", why))?;
        return Ok((directory.clone(), manifest));
    }
    if let Some(name) = &from.backup {
        return named(view, restore, place, name, step);
    }
    if from.file.is_some() || from.manager.is_some() {
        let why = "this version restores backups with a manifest only: load the file into any \
                   Redis, or copy it into a ring by its clients";
        return Err(NoSource::Never("NotSupported", why.to_owned()));
    }
    let wanted = |id: &dynomite_snapshot::layout::BackupId| match (&from.id, &from.as_of) {
        (Some(name), _) => id.name() == name || id.to_string() == *name,
        (None, Some(at)) => id.started() <= at.0,
        (None, None) => true,
    };
    let mut directories = list(view, restore, place, step)?;
    directories.retain(|directory| wanted(&directory.id));
    directories.sort_by_key(|directory| std::cmp::Reverse(directory.id.started()));
    for directory in directories.iter().take(CANDIDATES) {
        let directory = directory.to_string();
        match read_manifest(view, restore, place, &directory, step) {
            Ok(Some((manifest, _))) => {
                let at = from.as_of.as_ref().map(|at| at.0);
                if at.is_none_or(|at| manifest.backup.finished_at <= at) {
                    return Ok((directory, manifest));
                }
            }
            // One that is damaged is none: the one before it is restored, and the
            // status says which that is.
            Ok(None) | Err(NoSource::Never("ManifestUnreadable", _)) => {}
            Err(why) => return Err(why),
        }
    }
    let why = "the store holds no good backup of that ring that is meant: see its name, the time, \
               and sourceCluster";
    Err(NoSource::Never("NoSuchBackup", why.to_owned()))
}

/// The backup of a `DynomiteBackup`.
fn named(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    name: &str,
    step: &mut Step,
) -> Result<(String, Manifest), NoSource> {
    let Some(backup) = view.observed.backups.get(name) else {
        let why = format!("there is no DynomiteBackup {name} of this cluster: name one, or use id");
        return Err(NoSource::Never("NoSuchBackup", why));
    };
    let status = backup.status.clone().unwrap_or_default();
    if status.phase != Some(BackupPhase::Completed) {
        let why = format!("DynomiteBackup {name} is not Completed: it cannot be restored");
        return Err(NoSource::Never("BackupIncomplete", why));
    }
    let manifest = read_manifest(view, restore, place, &status.directory, step)?;
    let why = format!("the manifest of DynomiteBackup {name} is gone from the store");
    let (manifest, digest) = manifest.ok_or(NoSource::Never("BackupGone", why))?;
    let known = &status.manifest_digest;
    if !known.is_empty() && *known != digest {
        let why = format!(
            "the manifest of DynomiteBackup {name} is another one than was written: its SHA-256 \
             is {digest}, and {known} is recorded; name its directory by id to restore it all the \
             same"
        );
        return Err(NoSource::Never("ManifestDiffers", why));
    }
    Ok((status.directory, manifest))
}

/// The directories of the ring's backups that have a manifest.
fn list(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    step: &mut Step,
) -> Result<Vec<Directory>, NoSource> {
    let id = &view.cluster.id;
    let source = restore.spec.source_cluster.as_ref();
    let namespace = source.and_then(|source| source.namespace.as_ref());
    let namespace = namespace.unwrap_or(&id.namespace);
    let name = source.map_or(&id.name, |source| &source.name);
    let prefix = match place.prefix.as_str() {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let mut under = format!("{prefix}{namespace}/{name}/");
    if let Some(uid) = source.and_then(|source| source.uid.as_ref()) {
        under = format!("{under}{uid}/");
    }
    let mut directories = Vec::new();
    let mut after = None;
    loop {
        let action = BucketAction::List {
            under: under.clone(),
            after: after.clone(),
        };
        match answer(view, restore, place, action, step)? {
            BucketAnswer::Listed { objects, more } => {
                let with_manifest = |object: &ObjectFacts| match find(&place.prefix, &object.key) {
                    Found::Ours(directory, Object::Manifest) => Some(directory),
                    _ => None,
                };
                directories.extend(objects.iter().filter_map(with_manifest));
                match objects.last().filter(|_| *more) {
                    Some(last) => after = Some(last.key.clone()),
                    None => return Ok(directories),
                }
            }
            BucketAnswer::Missing => return Ok(directories),
            other => return Err(refused(other)),
        }
    }
}

/// The manifest in a directory, if there is one, and its SHA-256.
fn read_manifest(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    directory: &str,
    step: &mut Step,
) -> Result<Option<(Manifest, String)>, NoSource> {
    let key = format!("{directory}{}", Object::Manifest);
    let answer = answer(view, restore, place, BucketAction::Get { key }, step)?;
    match answer {
        BucketAnswer::Text { text } => {
            let digest = Sha256(sha2::Sha256::digest(text.as_bytes()).into()).to_string();
            Manifest::read(text.as_bytes())
                .map(|manifest| Some((manifest, digest)))
                .map_err(|why| NoSource::Never("ManifestUnreadable", why.to_string()))
        }
        BucketAnswer::Missing => Ok(None),
        other => Err(refused(other)),
    }
}

fn answer<'a>(
    view: &View<'a>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    action: BucketAction,
    step: &mut Step,
) -> Result<&'a BucketAnswer, NoSource> {
    let status = restore.status.as_ref();
    let since = status.and_then(|status| status.started_at.as_ref());
    let since = since.map_or(Timestamp::UNIX_EPOCH, |at| at.0);
    let seen = (view.observed, view.ring);
    match ask(seen, step, place, action, since, view.now) {
        Reply::Answer(answer, _) => Ok(answer),
        Reply::Pending(why) => Err(NoSource::Pending(why)),
    }
}

fn refused(answer: &BucketAnswer) -> NoSource {
    match answer {
        BucketAnswer::Failed { message, .. } => NoSource::Never("StoreRefuses", message.clone()),
        other => NoSource::Never(
            "UnexpectedAnswer",
            format!("the node answered something else: {other:?}"),
        ),
    }
}

/// The ring, as far as data must fit it.
fn wish(view: &View<'_>, restore: &DynomiteRestore) -> Result<Wish, NoSource> {
    let cluster = view.cluster;
    let setting = |name: &str| cluster.engine.settings.get(name).cloned();
    let shape = RingShape {
        cluster: String::new(),
        namespace: String::new(),
        uid: String::new(),
        datacenter: String::new(),
        racks: Vec::new(),
        nodes_per_rack: 0,
        tokens: Vec::new(),
        hash: setting("hash").unwrap_or_else(|| "murmur".to_owned()),
        hash_tag: setting("hash_tag"),
    };
    let placement = shape
        .placement()
        .map_err(|flaw| NoSource::Never("PlacementUnknown", flaw.to_string()))?;
    let spec = &restore.spec;
    if spec.tokens.len() + spec.nodes.len() > 0 {
        let why = "this version restores whole rings only: leave tokens and nodes out";
        return Err(NoSource::Never("NotSupported", why.to_owned()));
    }
    let reports = || {
        view.ring
            .nodes
            .iter()
            .filter_map(|node| node.report.as_ref().ok())
    };
    let stores = || reports().filter_map(|report| report.store.as_ref());
    let Some(reads) = stores().map(|store| reads(&store.version)).min() else {
        let why = "no store of the ring has said its version yet";
        return Err(NoSource::Pending(why.to_owned()));
    };
    let limits = stores().map(|store| store.max_memory_bytes);
    let memory = match limits.filter(|limit| *limit > 0).min() {
        Some(limit) => Room::Bytes(limit),
        None => Room::Unlimited,
    };
    let storage = &cluster.spec.storage;
    let size = quantity::parse(&storage.size.0).and_then(|size| u64::try_from(size).ok());
    let disk = match size.filter(|_| cluster.persistent()) {
        Some(bytes) => Room::Bytes(bytes),
        None => Room::Unlimited,
    };
    let encryption = cluster
        .spec
        .backup
        .as_ref()
        .and_then(|b| b.encryption.as_ref());
    let tokens = &view.ring.tokens.by_ordinal;
    Ok(Wish {
        tokens: tokens
            .iter()
            .map(|token| dynomite_protocol::token::Token(token.0))
            .collect(),
        placement,
        reads,
        only: None,
        memory,
        disk,
        key_ids: encryption
            .map(|with| with.key_id.clone())
            .into_iter()
            .collect::<BTreeSet<String>>(),
    })
}

/// The newest format that a store of this version reads. A store that turns out
/// to read less refuses the data, and the ring goes back to what it had.
fn reads(version: &str) -> Version {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u16>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match (major, minor) {
        (9.., _) => Version::Valkey(80),
        (8, _) | (7, 4..) => Version::Redis(12),
        (7, 2..) => Version::Redis(11),
        (7, _) => Version::Redis(10),
        _ => Version::Redis(9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_stores_read_newer_formats() {
        let table = [
            ("6.2.14", Version::Redis(9)),
            ("7.0.15", Version::Redis(10)),
            ("7.2.4", Version::Redis(11)),
            ("7.4.1", Version::Redis(12)),
            ("8.0.1", Version::Redis(12)),
            ("9.1.0", Version::Valkey(80)),
            ("", Version::Redis(9)),
        ];
        for (version, expected) in table {
            assert_eq!(reads(version), expected, "{version}");
        }
    }
}
