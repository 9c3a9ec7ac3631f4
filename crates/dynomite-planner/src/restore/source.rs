//! What a restore reads: the backup it means, whether that fits the ring, and what each token loads of it.

use std::collections::BTreeSet;

use dynomite_api::Token;
use dynomite_api::contract::{
    BackupPlace, BucketAction, BucketAnswer, ObjectFacts, RestorePart, TokenRange,
};
use dynomite_api::crd::{BackupPhase, DynomiteRestore, RestoreFileStatus};
use dynomite_protocol::token::Token as FitToken;
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::fit::{Load, Misfit, Part, Room, Wish, fits};
use dynomite_snapshot::layout::{Directory, Found, Object, find};
use dynomite_snapshot::manifest::{Manifest, Ring as RingShape};
use dynomite_snapshot::rdb::Version;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{View, files};
use crate::bucket::{NoPlace, Reply, ask, place};
use crate::quantity;
use crate::steps::Step;

/// Backups of one ring that are looked through for one that fits; with as many
/// newer ones, the wanted one is named.
const CANDIDATES: usize = 200;

/// Pages of a listing that are looked through, of a thousand objects each.
const PAGES: usize = 100;

/// What is restored, and what each token loads of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    pub(crate) place: BackupPlace,
    /// Name of the backup's directory, or what people call the files.
    pub(crate) id: String,
    /// What its keys begin with; empty where no manifest speaks of the data.
    pub(crate) directory: String,
    /// The files, where no manifest speaks of them.
    pub(crate) files: Vec<RestoreFileStatus>,
    /// Nothing written later is in it, if that is known.
    pub(crate) as_of: Option<Timestamp>,
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
    if let Some(meant) = files::Meant::of(&restore.spec.from) {
        return files::source(view, restore, place, &meant, step);
    }
    let (directory, manifest) = find_manifest(view, restore, &place, step)?;
    let wish = wish(view, restore)?;
    let plan = fits(&manifest, &wish).map_err(|misfits| does_not_fit(&misfits))?;
    let context = format!("{}/{}", manifest.ring.uid, manifest.backup.id);
    let part = |part: &Part| {
        let of = |snapshot: &&dynomite_snapshot::manifest::Snapshot| snapshot.object == part.object;
        let entry = manifest.snapshots.iter().find(of);
        RestorePart {
            key: format!("{directory}{}", part.object),
            entry: entry.and_then(|entry| serde_json::to_value(entry).ok()),
            context: context.clone(),
            owned: entry.map(|entry| range(entry.token, &manifest.ring.tokens)),
        }
    };
    let loads = plan.nodes.iter();
    Ok(Source {
        place,
        id: manifest.backup.id.clone(),
        as_of: Some(manifest.backup.finished_at),
        loads: loads.map(|load| token_load(load, &wish, part)).collect(),
        directory,
        files: Vec::new(),
        unreachable: plan.unreachable,
    })
}

/// Everything that is against it.
pub(super) fn does_not_fit(misfits: &[Misfit]) -> NoSource {
    let all: Vec<String> = misfits.iter().map(ToString::to_string).collect();
    NoSource::Never("DoesNotFit", all.join("; "))
}

/// What one token owns in a ring.
pub(super) fn range(own: FitToken, ring: &[FitToken]) -> TokenRange {
    let mut tokens: Vec<Token> = ring.iter().map(|token| Token(token.0)).collect();
    tokens.sort_unstable();
    TokenRange {
        tokens,
        own: Token(own.0),
    }
}

pub(super) fn token_load(
    load: &Load,
    wish: &Wish,
    part: impl Fn(&Part) -> RestorePart,
) -> TokenLoad {
    TokenLoad {
        token: Token(load.token.0),
        parts: load.parts.iter().map(part).collect(),
        keep: load.keep.is_some().then(|| range(load.token, &wish.tokens)),
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
    let with_manifest = |object: &ObjectFacts| match find(&place.prefix, &object.key) {
        Found::Ours(directory, Object::Manifest) => Some(directory),
        _ => None,
    };
    let objects = list_all(view, restore, place, &under, step)?;
    Ok(objects.into_iter().filter_map(with_manifest).collect())
}

/// Everything under a prefix, page by page.
pub(super) fn list_all<'a>(
    view: &View<'a>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    under: &str,
    step: &mut Step,
) -> Result<Vec<&'a ObjectFacts>, NoSource> {
    let mut all: Vec<&ObjectFacts> = Vec::new();
    for _ in 0..PAGES {
        let action = BucketAction::List {
            under: under.to_owned(),
            after: all.last().map(|object| object.key.clone()),
        };
        match answer(view, restore, place, action, step)? {
            BucketAnswer::Listed { objects, more } => {
                all.extend(objects);
                if !more || objects.is_empty() {
                    return Ok(all);
                }
            }
            BucketAnswer::Missing => return Ok(all),
            other => return Err(refused(other)),
        }
    }
    let why = format!(
        "more than {} objects lie under {under}: name fewer of them",
        all.len()
    );
    Err(NoSource::Never("TooMany", why))
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
            let digest = Sha256::of(text.as_bytes()).to_string();
            Manifest::read(text.as_bytes())
                .map(|manifest| Some((manifest, digest)))
                .map_err(|why| NoSource::Never("ManifestUnreadable", why.to_string()))
        }
        BucketAnswer::Missing => Ok(None),
        other => Err(refused(other)),
    }
}

pub(super) fn answer<'a>(
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

pub(super) fn refused(answer: &BucketAnswer) -> NoSource {
    match answer {
        BucketAnswer::Failed { message, .. } => NoSource::Never("StoreRefuses", message.clone()),
        other => NoSource::Never(
            "UnexpectedAnswer",
            format!("the node answered something else: {other:?}"),
        ),
    }
}

/// The ring, as far as data must fit it.
pub(super) fn wish(view: &View<'_>, restore: &DynomiteRestore) -> Result<Wish, NoSource> {
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
    let only = scope(view, restore)?;
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
    let tokens = &view.ring.tokens.by_ordinal;
    Ok(Wish {
        tokens: tokens.iter().map(|token| FitToken(token.0)).collect(),
        placement,
        reads,
        only: only.iter().map(|token| FitToken(token.0)).collect(),
        memory,
        disk,
        key_ids: view.observed.encryption_keys.clone(),
    })
}

/// The tokens whose data alone is meant; of all when empty.
fn scope(view: &View<'_>, restore: &DynomiteRestore) -> Result<BTreeSet<Token>, NoSource> {
    let spec = &restore.spec;
    let mut tokens: BTreeSet<Token> = spec.tokens.iter().copied().collect();
    for name in &spec.nodes {
        let mut nodes = view.ring.nodes.iter();
        let Some(node) = nodes.find(|node| node.name == *name) else {
            let why = format!(
                "spec.nodes names {name:?}, which is no node of the ring: name pods of it, as \
                 status.racks of the DynomiteCluster has them"
            );
            return Err(NoSource::Never("NoSuchNode", why));
        };
        tokens.insert(node.token);
    }
    if !tokens.is_empty() && view.ring.served_since.is_none() {
        let why = "spec.tokens and spec.nodes take back a part of a ring that has data, and this \
                   ring has never served: leave them out";
        return Err(NoSource::Never("NeverServed", why.to_owned()));
    }
    Ok(tokens)
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
