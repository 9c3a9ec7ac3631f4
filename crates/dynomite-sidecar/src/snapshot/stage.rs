//! Lays the data of a backup beside the store's own: downloaded, verified, and only then named.
//!
//! ```text
//! objects ─▶ unpack, verify ─┬─ all of one ring's part ──────────▶ ID.part ─sync, rename─▶ ID.rdb
//!                            └─ the keys of this node, merged ──▶
//! ```
//!
//! A file that has its name is whole; `ID.json` beside it says of which order it is, so that a
//! sidecar that is restarted has nothing to do again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dynomite_api::contract::{
    RestoreOrder, RestorePart, RestoreReport, RestoreState, Settings, TokenRange,
};
use dynomite_bucket::{Bucket, Pace};
use dynomite_protocol::hash::{HashTag, Placement};
use dynomite_protocol::token::Token;
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::envelope::Key;
use dynomite_snapshot::filter::Filter;
use dynomite_snapshot::manifest::Snapshot;
use dynomite_snapshot::ownership::Ownership;
use dynomite_snapshot::rdb::{Counts, Summary, Verifier};
use dynomite_snapshot::transfer::{self, Download};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::fs::{self, File};
use tokio::sync::oneshot;

use super::Desk;
use super::broken::Broken;
use super::sink::Sink;
use super::twice::Marks;

/// How often is looked whether what is missing has come.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// Bytes of the volume that the store may need meanwhile.
const SPARE: u64 = 64 << 20;

/// More than one key of so many that lie elsewhere than their file's token says are
/// no rest of an earlier life.
const STRAYS_PART: u64 = 4;

/// Bytes of an object that are unpacked at once.
const PIECE: usize = 256 << 10;

/// A work that was ordered.
pub(super) struct Staging {
    pub(super) desk: Arc<Desk>,
    pub(super) order: RestoreOrder,
    /// How the ring places keys.
    pub(super) placement: Placement,
}

/// What lies beside a staged file.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    /// Of what was ordered.
    digest: String,
    /// Of the file.
    bytes: u64,
    keys: u64,
    expiring: u64,
    #[serde(default)]
    elsewhere: u64,
}

/// What a part turned out to be, or will be.
struct Part<'a> {
    ordered: &'a RestorePart,
    entry: Option<Snapshot>,
    key: Option<Key>,
}

/// All that is needed to begin.
pub(super) struct Ready<'a> {
    bucket: Bucket,
    parts: Vec<Part<'a>>,
}

/// A digest of what decides what is staged; another attempt to load stages nothing anew.
pub(super) fn digest(order: &RestoreOrder) -> String {
    // Another way to the same store leads to the same objects.
    let content = (&order.place.store, &order.parts, &order.keep);
    // Structs and strings always serialise.
    let bytes = serde_json::to_vec(&content).unwrap_or_default();
    Sha256::of(&bytes).to_string()
}

/// Removes what lies there of other restores than this one; an empty name is none's.
pub(super) fn tidy(directory: &Path, restore: &str) {
    let Ok(files) = std::fs::read_dir(directory) else {
        return;
    };
    for file in files.flatten() {
        let name = file.file_name();
        let of = name.to_str().and_then(|name| name.split('.').next());
        if !restore.is_empty() && of == Some(restore) {
            continue;
        }
        match std::fs::remove_file(file.path()) {
            Ok(()) => tracing::info!(file = %file.path().display(), "a restore's file is removed"),
            Err(error) => {
                tracing::warn!(file = %file.path().display(), %error, "cannot be removed");
            }
        }
    }
}

impl Staging {
    /// Does it, unless the order is `gone`, and leaves the result in the report.
    pub(super) async fn run(self, mut gone: oneshot::Receiver<()>) {
        let outcome = tokio::select! {
            outcome = self.stage() => outcome,
            _ = &mut gone => return,
        };
        let state = match outcome {
            Ok(note) => RestoreState::Staged {
                keys: note.keys,
                expiring: note.expiring,
                elsewhere: note.elsewhere,
            },
            Err(broken) => {
                let _ = fs::remove_file(self.part_file()).await;
                broken.into_restore()
            }
        };
        tracing::info!(restore = self.order.restore, ?state, "the staging ended");
        self.say(state);
    }

    fn tell(&self, change: impl FnOnce(&mut RestoreReport)) {
        let mut results = self.desk.results();
        let report = results.restore.as_mut();
        // The order may be another one by now.
        if let Some(report) = report.filter(|report| report.restore == self.order.restore) {
            change(report);
        }
    }

    fn say(&self, state: RestoreState) {
        self.tell(|report| report.state = state);
    }

    /// What it is staged as.
    pub(super) fn file(&self) -> PathBuf {
        self.desk.site.staged(&self.order.restore)
    }

    fn part_file(&self) -> PathBuf {
        self.file().with_extension("part")
    }

    fn note_file(&self) -> PathBuf {
        self.file().with_extension("json")
    }

    /// Lays it there; waits for what is missing.
    pub(super) async fn stage(&self) -> Result<Note, Broken> {
        if let Some(note) = self.staged_before().await {
            return Ok(note);
        }
        let ready = self.ready().await?;
        let directory = self.file().parent().map(Path::to_owned).unwrap_or_default();
        fs::create_dir_all(&directory).await.map_err(unwritable)?;
        let needed = self.total(&ready).await?;
        room(&directory, needed)?;
        self.say(RestoreState::Downloading);
        let part = self.part_file();
        let mut out = Sink::create(&part).await.map_err(unwritable)?;
        let (counts, elsewhere) = self.write(&ready, &mut out).await?;
        let bytes = out.close().await.map_err(unwritable)?;
        let note = Note {
            digest: digest(&self.order),
            bytes,
            keys: counts.total(),
            expiring: counts.expiring,
            elsewhere,
        };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        fs::write(self.note_file(), text)
            .await
            .map_err(unwritable)?;
        fs::rename(self.part_file(), self.file())
            .await
            .map_err(unwritable)?;
        // The new name is on disk only once its directory is.
        let directory = File::open(&directory).await.map_err(unwritable)?;
        directory.sync_all().await.map_err(unwritable)?;
        Ok(note)
    }

    async fn staged_before(&self) -> Option<Note> {
        let note = fs::read(self.note_file()).await.ok()?;
        let note: Note = serde_json::from_slice(&note).ok()?;
        let facts = fs::metadata(self.file()).await.ok()?;
        (note.digest == digest(&self.order) && facts.len() == note.bytes).then_some(note)
    }

    /// Waits until all is at hand; what never will be is an error.
    async fn ready(&self) -> Result<Ready<'_>, Broken> {
        loop {
            let waits = match self.look() {
                Ok(ready) => return Ok(ready),
                Err(broken) if broken.retry => broken,
                Err(broken) => return Err(broken),
            };
            self.say(RestoreState::Waiting {
                reason: waits.reason.to_owned(),
                message: waits.message,
            });
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is at hand; a failure that passes says what is missing.
    pub(super) fn look(&self) -> Result<Ready<'_>, Broken> {
        let order = &self.order;
        if order.parts.is_empty() || (order.keep.is_none() && order.parts.len() > 1) {
            let message = "one object can be loaded as it is; of several, or of none, nobody says \
                           which keys are this node's";
            return Err(Broken::lasting("Invalid", message));
        }
        let mut parts = Vec::new();
        for ordered in &order.parts {
            let entry = match &ordered.entry {
                None => None,
                Some(entry) => Some(read_entry(entry)?),
            };
            let encryption = entry.as_ref().and_then(|entry| entry.encryption.as_ref());
            let key = encryption
                .map(|encryption| self.desk.key(&encryption.key_id))
                .transpose()?;
            parts.push(Part {
                ordered,
                entry,
                key,
            });
        }
        // The copy is written as its first source is, and later ones must be readable so.
        parts.sort_by_key(|part| std::cmp::Reverse(part.entry.as_ref().map(|entry| entry.rdb)));
        let bucket = self.desk.open(&order.place)?;
        Ok(Ready { bucket, parts })
    }

    /// Bytes that may have to be written; says in the report how many are to be read.
    async fn total(&self, ready: &Ready<'_>) -> Result<u64, Broken> {
        let (mut read, mut written) = (0_u64, 0_u64);
        for part in &ready.parts {
            let found = ready.bucket.head(&part.ordered.key).await?;
            let Some(found) = found else {
                let message = format!("there is no object {}", part.ordered.key);
                return Err(Broken::lasting("NoSuchObject", message));
            };
            let (stored, raw) = match &part.entry {
                Some(entry) => (entry.stored.bytes, entry.raw.bytes),
                None => (found.bytes, found.bytes),
            };
            if stored != found.bytes {
                let message = format!(
                    "{} has {} bytes, and the manifest says {stored}: it was changed",
                    part.ordered.key, found.bytes
                );
                return Err(Broken::lasting("DigestDiffers", message));
            }
            read = read.saturating_add(stored);
            written = written.saturating_add(self.kept_of(part.ordered, raw));
        }
        self.tell(|report| report.bytes_total = Some(read));
        Ok(written)
    }

    /// Of so many bytes of a part about so many are this node's, and some more: keys
    /// do not lie quite evenly on the ring.
    fn kept_of(&self, part: &RestorePart, bytes: u64) -> u64 {
        let Some(keep) = &self.order.keep else {
            return bytes;
        };
        let everything = || Ownership::new(&[], Token(0));
        let owned = part.owned.as_ref().map_or_else(everything, ownership);
        let (shared, all) = (owned.shared(&ownership(keep)), owned.shared(&owned).max(1));
        let kept = u128::from(bytes) * u128::from(shared) / u128::from(all) * 5 / 4;
        u64::try_from(kept).unwrap_or(bytes).min(bytes)
    }

    /// Writes what is kept of all parts: its keys, and how many of them no client
    /// can ask for.
    async fn write(&self, ready: &Ready<'_>, out: &mut Sink) -> Result<(Counts, u64), Broken> {
        let now = Timestamp::now();
        let mut throttle = Pace::new(self.order.bytes_per_second);
        let mut done = 0;
        let mut keep = self.order.keep.as_ref().map(|keep| Keep {
            placement: self.placement,
            target: ownership(keep),
            filter: None,
        });
        // Only a ring's own files cannot share keys.
        let foreign = ready.parts.iter().filter(|part| part.is_foreign()).count();
        let mut marks = match keep {
            Some(_) if foreign > 1 => {
                let path = self.file().with_extension("marks");
                Some(Marks::create(path).await.map_err(unwritable)?)
            }
            _ => None,
        };
        let (mut counts, mut elsewhere) = (Counts::default(), 0);
        let mut copied = Vec::new();
        for part in &ready.parts {
            if let Some(keep) = &mut keep {
                keep.begin(part, now, marks.is_some(), &mut copied)?;
            }
            let before = keep.as_ref().and_then(Keep::so_far);
            let mut source = Source::new(part, now)?;
            let mut object = ready.bucket.download(&part.ordered.key).await?;
            let mut raw = Vec::new();
            loop {
                let piece = object.next().await?;
                let ended = piece.is_none();
                for slice in slices(piece) {
                    throttle.pass(slice.len()).await;
                    done += slice.len() as u64;
                    let mut rest: &[u8] = &slice;
                    while !rest.is_empty() {
                        source.push(&mut rest, &mut raw)?;
                        give(&mut keep, &mut raw, &mut copied, out).await?;
                        note(&mut keep, &mut marks).await?;
                    }
                    self.tell(|report| report.bytes = done);
                }
                if ended {
                    break;
                }
            }
            let summary = loop {
                let ended = source.finish(&mut raw)?;
                give(&mut keep, &mut raw, &mut copied, out).await?;
                note(&mut keep, &mut marks).await?;
                if let Some(summary) = ended {
                    break summary;
                }
            };
            counts.extend(&summary.counts());
            let outside = summary.databases.iter().filter(|(number, _)| **number != 0);
            elsewhere += outside.map(|(_, counts)| counts.total()).sum::<u64>();
            judge(part, before, keep.as_ref().and_then(Keep::so_far))?;
        }
        if let Some(marks) = marks
            && marks.any_twice().await.map_err(unwritable)?
        {
            let message = "two of the files have the same key, and nobody says which of them is \
                           right: name in from.files only files of stores that share no key";
            return Err(Broken::lasting("SameKeyTwice", message));
        }
        if let Some(filter) = keep.and_then(|keep| keep.filter) {
            let filtered = filter.finish(&mut copied).map_err(unfiltered)?;
            out.push(&mut copied).await.map_err(unwritable)?;
            (counts, elsewhere) = (filtered.kept, filtered.elsewhere);
        }
        Ok((counts, elsewhere))
    }
}

/// A large piece in slices, so that the work with each is short.
fn slices(piece: Option<Bytes>) -> impl Iterator<Item = Bytes> {
    let mut rest = piece.unwrap_or_default();
    std::iter::from_fn(move || {
        let length = rest.len().min(PIECE);
        (length > 0).then(|| rest.split_to(length))
    })
}

/// Writes what was unpacked, or what of it is kept.
async fn give(
    keep: &mut Option<Keep>,
    raw: &mut Vec<u8>,
    copied: &mut Vec<u8>,
    out: &mut Sink,
) -> Result<(), Broken> {
    if let Some(filter) = keep.as_mut().and_then(|keep| keep.filter.as_mut()) {
        filter.push(raw, copied).map_err(unfiltered)?;
        raw.clear();
        return out.push(copied).await.map_err(unwritable);
    }
    out.push(raw).await.map_err(unwritable)
}

/// Notes which keys were kept, where files may share some.
async fn note(keep: &mut Option<Keep>, marks: &mut Option<Marks>) -> Result<(), Broken> {
    let filter = keep.as_mut().and_then(|keep| keep.filter.as_mut());
    match (filter, marks) {
        (Some(filter), Some(marks)) => marks.add(&filter.take_marks()).await.map_err(unwritable),
        _ => Ok(()),
    }
}

/// Whether the keys of a file without a manifest lie where its token says: else the
/// old ring has placed them in another way than this one looks for them. A few may
/// be left from when the old ring had other tokens.
fn judge(
    part: &Part<'_>,
    before: Option<(u64, u64)>,
    after: Option<(u64, u64)>,
) -> Result<(), Broken> {
    let (Some((kept, strays)), Some((kept_now, strays_now))) = (before, after) else {
        return Ok(());
    };
    let (kept, strays) = (kept_now - kept, strays_now - strays);
    if part.entry.is_some() || strays <= (kept + strays) / STRAYS_PART {
        return Ok(());
    }
    let message = format!(
        "{strays} keys of {}, against {kept}, do not belong to its token: the old ring had another \
         hash or hash_tag (set them in spec.dynomite.settings of a new ring), or other tokens \
         (name them in from.manager.tokens)",
        part.ordered.key
    );
    Err(Broken::lasting("PlacedOtherwise", message))
}

/// Which keys stay.
struct Keep {
    placement: Placement,
    target: Ownership,
    filter: Option<Filter>,
}

impl Keep {
    /// Keys that were kept so far, and keys that their source did not own.
    fn so_far(&self) -> Option<(u64, u64)> {
        let filtered = self.filter.as_ref()?.so_far();
        Some((filtered.kept.total(), filtered.strays))
    }

    fn begin(
        &mut self,
        part: &Part<'_>,
        now: Timestamp,
        marked: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let source = part.ordered.owned.as_ref().map(ownership);
        if let Some(filter) = &mut self.filter {
            return filter.next(source, out).map_err(unfiltered);
        }
        let target = self.target.clone();
        let mut filter = Filter::new(self.placement, target, source, now);
        if marked {
            filter.mark_keys();
        }
        self.filter = Some(filter);
        Ok(())
    }
}

impl Part<'_> {
    /// Whether it is of a store outside of any ring.
    fn is_foreign(&self) -> bool {
        self.entry.is_none() && self.ordered.owned.is_none()
    }
}

/// Unpacks and verifies one object.
enum Source {
    Ours(Box<Download>),
    /// A file that no manifest speaks of: it proves itself.
    Foreign(Option<Box<Verifier>>),
}

impl Source {
    fn new(part: &Part<'_>, now: Timestamp) -> Result<Self, Broken> {
        let Some(entry) = &part.entry else {
            return Ok(Self::Foreign(Some(Box::new(Verifier::new(now)))));
        };
        let context = format!("{}/{}", part.ordered.context, entry.token).into_bytes();
        let download = Download::of(entry, &context, part.key.as_ref(), now);
        Ok(Self::Ours(Box::new(download.map_err(damaged)?)))
    }

    fn push(&mut self, object: &mut &[u8], raw: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::Ours(download) => download.push(object, raw).map_err(damaged),
            Self::Foreign(verifier) => {
                if let Some(verifier) = verifier {
                    verifier
                        .update(object)
                        .map_err(|error| damaged(error.into()))?;
                }
                raw.extend_from_slice(object);
                *object = &[];
                Ok(())
            }
        }
    }

    fn finish(&mut self, raw: &mut Vec<u8>) -> Result<Option<Summary>, Broken> {
        match self {
            Self::Ours(download) => download.finish(raw).map_err(damaged),
            Self::Foreign(verifier) => {
                let finished = verifier.take().map(|verifier| verifier.finish());
                finished.transpose().map_err(|error| damaged(error.into()))
            }
        }
    }
}

pub(super) fn read_entry(entry: &serde_json::Value) -> Result<Snapshot, Broken> {
    serde_json::from_value(entry.clone()).map_err(|error| {
        Broken::lasting(
            "Invalid",
            format!("the manifest's entry cannot be read: {error}"),
        )
    })
}

fn ownership(range: &TokenRange) -> Ownership {
    let tokens: Vec<Token> = range.tokens.iter().map(|token| Token(token.0)).collect();
    Ownership::new(&tokens, Token(range.own.0))
}

/// How the ring places keys, by the settings of its engine.
pub(super) fn placement(settings: &Settings) -> Placement {
    let mut placement = Placement::default();
    if let Some(hash) = settings.get("hash").and_then(|text| text.parse().ok()) {
        placement.hash = hash;
    }
    if let Some(&[open, close]) = settings.get("hash_tag").map(String::as_bytes) {
        placement.hash_tag = Some(HashTag { open, close });
    }
    placement
}

/// Whether the volume takes so many bytes more.
fn room(directory: &Path, needed: u64) -> Result<(), Broken> {
    let facts = rustix::fs::statvfs(directory).map_err(|error| unwritable(error.into()))?;
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    if needed.saturating_add(SPARE) <= free {
        return Ok(());
    }
    let message = format!(
        "{needed} bytes are to be staged beside the data, and the volume has {free} free: make it \
         larger"
    );
    Err(Broken::passing("NoRoom", message))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn unwritable(error: io::Error) -> Broken {
    let message = format!("it cannot be written to the data volume: {error}; give it more room");
    Broken::passing("DiskFull", message)
}

fn damaged(error: transfer::Error) -> Broken {
    Broken {
        retry: false,
        ..Broken::from(error)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn unfiltered(error: dynomite_snapshot::filter::Error) -> Broken {
    Broken::lasting("NotWhole", error.to_string())
}
