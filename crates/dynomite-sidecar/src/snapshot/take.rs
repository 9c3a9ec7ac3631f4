//! Takes a snapshot and uploads it.
//!
//! ```text
//! Waiting ──all at hand──▶ Running ──RDB whole, object complete──▶ Done
//!                             └──anything else──▶ parts and object removed ──▶ Failed
//! ```

use std::sync::Arc;

use dynomite_api::contract::{
    NodeDesired, SnapshotOrder, SnapshotReport, SnapshotSource, SnapshotState,
};
use dynomite_bucket::{Bucket, Pace};
use dynomite_lifecycle::room_for_copy;
use dynomite_protocol::token::Token;
use dynomite_snapshot::envelope::{Key, SALT, Secret};
use dynomite_snapshot::layout::{BackupId, Directory, Object, Place};
use dynomite_snapshot::manifest::{Cipher, Compression, Encryption, Extent, Snapshot, Source};
use dynomite_snapshot::rdb::Summary;
use dynomite_snapshot::transfer::{self, Upload};
use jiff::Timestamp;
use rustls::crypto::ring::default_provider;
use tokio::sync::{oneshot, watch};

use super::broken::Broken;
use super::left::is_left;
use super::{Desk, is_proven, psync, saved};
use crate::launch;
use crate::run::info::Info;
use crate::shared::{ProcessName, View};

/// How often is looked whether what is missing has come.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// How long the search for such uploads may keep a snapshot waiting.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(10);

/// A work that was ordered.
pub(super) struct Work {
    pub(super) desk: Arc<Desk>,
    pub(super) order: SnapshotOrder,
    pub(super) desired: Arc<NodeDesired>,
    pub(super) view: watch::Receiver<View>,
}

/// All that is needed to begin.
struct Ready {
    bucket: Bucket,
    key: Option<Key>,
    store: StoreSaid,
}

/// What the store says before its snapshot is taken.
struct StoreSaid {
    version: String,
    memory: u64,
    /// Replication id and offset.
    history: (String, u64),
}

/// Where the object lies and how it is bound to its place.
struct Target {
    /// Of the backup.
    directory: Directory,
    key: String,
    name: String,
    context: Vec<u8>,
}

impl Work {
    /// Does it, unless the order is `gone`, and leaves the result in the report.
    pub(super) async fn run(self, mut gone: oneshot::Receiver<()>) {
        let target = match self.target() {
            Ok(target) => target,
            Err(broken) => return self.say(broken.into_snapshot()),
        };
        let ready = tokio::select! {
            ready = self.ready() => ready,
            _ = &mut gone => return,
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(broken) => return self.say(broken.into_snapshot()),
        };
        self.say(SnapshotState::Running);
        let started = Timestamp::now();
        tracing::info!(key = target.key, "takes a snapshot");
        let outcome = tokio::select! {
            outcome = self.upload(&ready, &target, started) => outcome,
            broken = self.proof_lost() => Err(broken),
            _ = &mut gone => Err(Broken::passing("Cancelled", "the order is gone")),
        };
        let state = match outcome {
            Ok(entry) => match serde_json::to_value(&entry) {
                Ok(entry) => SnapshotState::Done { entry },
                Err(error) => Broken::lasting("Internal", error.to_string()).into_snapshot(),
            },
            Err(broken) => {
                remove(&ready.bucket, &target.key).await;
                broken.into_snapshot()
            }
        };
        tracing::info!(key = target.key, ?state, "the snapshot ended");
        self.say(state);
    }

    fn say(&self, state: SnapshotState) {
        let mut results = self.desk.results();
        // The order may be another one by now.
        if let Some(report) = results
            .snapshot
            .as_mut()
            .filter(|report| self.is_of(report))
        {
            report.state = state;
        }
    }

    fn progress(&self, bytes: u64, stored_bytes: u64) {
        let mut results = self.desk.results();
        if let Some(report) = results
            .snapshot
            .as_mut()
            .filter(|report| self.is_of(report))
        {
            (report.bytes, report.stored_bytes) = (bytes, stored_bytes);
        }
    }

    fn is_of(&self, report: &SnapshotReport) -> bool {
        (&report.backup, report.attempt) == (&self.order.backup, self.order.attempt)
    }

    fn target(&self) -> Result<Target, Broken> {
        let invalid = |why: String| Broken::lasting("Invalid", why);
        let cluster = &self.desired.cluster;
        let prefix = &self.order.place.prefix;
        let place = Place::new(prefix, &cluster.namespace, &cluster.name, &cluster.uid);
        let place = place.map_err(|error| invalid(error.to_string()))?;
        let id = BackupId::parse(&self.order.backup).ok_or_else(|| {
            invalid(format!(
                "`{}` is no name of a backup's directory",
                self.order.backup
            ))
        })?;
        let token = token_of(&self.desired);
        let object = Object::Snapshot {
            token,
            attempt: self.order.attempt,
            compressed: self.order.compress,
            encrypted: self.order.encryption_key.is_some(),
        };
        let directory = Directory { place, id };
        Ok(Target {
            key: directory.key(object),
            directory,
            name: object.to_string(),
            context: transfer::context(&cluster.uid, &self.order.backup, token),
        })
    }

    /// Waits until all is at hand; what never will be is an error.
    async fn ready(&self) -> Result<Ready, Broken> {
        loop {
            match self.look().await {
                Ok(ready) => return Ok(ready),
                Err(broken) if broken.retry => self.say(broken.into_waiting()),
                Err(broken) => return Err(broken),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<Ready, Broken> {
        if !is_proven(&self.view.borrow()) {
            let message = "the node's data is not proven now";
            return Err(Broken::passing("Unproven", message));
        }
        let bucket = self.desk.open(&self.order.place)?;
        let key = self.order.encryption_key.as_deref();
        let key = key.map(|id| self.desk.key(id)).transpose()?;
        let store = self.ask_store().await?;
        Ok(Ready { bucket, key, store })
    }

    /// Asks the store whether it may fork now.
    async fn ask_store(&self) -> Result<StoreSaid, Broken> {
        let socket = self.view.borrow().store_socket.clone();
        let text = saved::ask(&socket, &["INFO"]).await?;
        let info = Info::parse(&text);
        if let Some(busy) = info.forks() {
            let message = format!("{busy}; a snapshot waits until the store has no other");
            return Err(Broken::passing("StoreBusy", message));
        }
        let memory = info.number("used_memory");
        let sockets = self.desk.site.run_dir.join("launch");
        if let Some(limit) = launch::memory::read(&sockets, ProcessName::Store.name()) {
            room_for_copy(memory, limit).map_err(|why| Broken::passing("NoMemory", why))?;
        }
        Ok(StoreSaid {
            version: info.version().to_owned(),
            memory,
            history: (
                info.text("master_replid").to_owned(),
                info.number("master_repl_offset"),
            ),
        })
    }

    async fn proof_lost(&self) -> Broken {
        let mut view = self.view.clone();
        // An error means that the sidecar ends.
        let _ = view.wait_for(|view| !is_proven(view)).await;
        Broken::passing("ProofLost", "the node's data was no longer proven")
    }

    async fn upload(
        &self,
        ready: &Ready,
        target: &Target,
        started: Timestamp,
    ) -> Result<Snapshot, Broken> {
        let salt = salt()?;
        let secret = ready.key.as_ref().map(|key| Secret {
            key,
            salt,
            context: &target.context,
        });
        let compression = compression(&self.order);
        let pack = Upload::new(compression, secret.as_ref(), started)?;
        self.sweep(ready, target).await;
        // An object that cannot be begun costs the store no fork.
        let object = ready.bucket.upload(&target.key, ready.store.memory).await?;
        let sent = match self.order.source {
            SnapshotSource::Replication => self.send_stream(pack, object).await?,
            SnapshotSource::File => self.send_file(ready, pack, object).await?,
        };
        let Sent {
            history,
            summary,
            stored,
        } = sent;
        self.check(ready, target, stored).await?;
        let source = self.source(ready, &summary, history);
        Ok(entry(Parts {
            work: self,
            target,
            summary,
            stored,
            source,
            memory: ready.store.memory,
            started,
        }))
    }

    /// Ends uploads of sidecars that were killed: no listing shows them, and they cost room. What
    /// hinders it hinders no snapshot.
    async fn sweep(&self, ready: &Ready, target: &Target) {
        let now = Timestamp::now();
        let place = target.directory.place.to_string();
        let attempt = (token_of(&self.desired), self.order.attempt);
        let left = |key: &str, begun| is_left(&target.directory, attempt, key, begun, now);
        let swept = ready.bucket.end_uploads(&place, left);
        match tokio::time::timeout(SWEEP, swept).await {
            Ok(Ok(0)) => {}
            Ok(Ok(uploads)) => tracing::info!(uploads, place, "ended uploads that were left"),
            Ok(Err(error)) => tracing::info!(%error, "uploads that were left cannot be ended"),
            Err(_) => tracing::info!(
                place,
                "the search for uploads that were left takes too long"
            ),
        }
    }

    async fn send_stream(
        &self,
        pack: Upload,
        object: dynomite_bucket::Upload,
    ) -> Result<Sent, Broken> {
        let site = &self.desk.site;
        let (private, open) = (site.store_private_socket(), site.store_socket());
        let mut stream = psync::Snapshot::ask(&[&private, &open]).await?;
        let mut way = self.way(pack, object);
        while let Some(raw) = stream.next().await? {
            way.push(&raw).await?;
        }
        let history = (stream.id.clone(), stream.offset);
        // The store need not keep the link while the last parts go up.
        drop(stream);
        way.finish(history).await
    }

    async fn send_file(
        &self,
        ready: &Ready,
        pack: Upload,
        object: dynomite_bucket::Upload,
    ) -> Result<Sent, Broken> {
        let socket = self.view.borrow().store_socket.clone();
        let persistence = self.desired.store.persistence;
        let mut file = saved::save(&self.desk.site, &socket, persistence).await?;
        let mut way = self.way(pack, object);
        while let Some(raw) = file.next().await? {
            way.push(&raw).await?;
        }
        way.finish(ready.store.history.clone()).await
    }

    fn way(&self, pack: Upload, object: dynomite_bucket::Upload) -> Way<'_> {
        Way {
            work: self,
            throttle: Pace::new(self.order.bytes_per_second),
            pack,
            object,
            packed: Vec::new(),
        }
    }

    /// A storage that says yes and keeps something else is found out before anybody relies on it.
    async fn check(&self, ready: &Ready, target: &Target, stored: Extent) -> Result<(), Broken> {
        let found = ready.bucket.head(&target.key).await?;
        let found = found.map(|object| object.bytes);
        if found == Some(stored.bytes) {
            return Ok(());
        }
        let message = format!(
            "the storage has {found:?} bytes of {} and was given {}",
            target.key, stored.bytes
        );
        Err(Broken::passing("StoredDiffers", message))
    }

    /// A file says itself of which history it is, if the store had one.
    fn source(&self, ready: &Ready, summary: &Summary, history: (String, u64)) -> Source {
        let aux = |name: &str| summary.aux.get(name);
        let in_file = aux("repl-id").cloned().zip(aux("repl-offset"));
        let in_file = in_file.and_then(|(id, offset)| Some((id, offset.parse().ok()?)));
        let (id, offset) = match self.order.source {
            SnapshotSource::File => in_file.unwrap_or(history),
            SnapshotSource::Replication => history,
        };
        let version = summary.store_version().unwrap_or(&ready.store.version);
        Source {
            node: self.desired.node.name.clone(),
            rack: self.desired.node.rack.clone(),
            replication_id: id,
            offset,
            store_version: version.to_owned(),
        }
    }
}

/// What was uploaded.
struct Sent {
    /// Replication id and offset.
    history: (String, u64),
    summary: Summary,
    stored: Extent,
}

/// From the store's bytes to the object.
struct Way<'a> {
    work: &'a Work,
    throttle: Pace,
    pack: Upload,
    object: dynomite_bucket::Upload,
    packed: Vec<u8>,
}

impl Way<'_> {
    async fn push(&mut self, raw: &[u8]) -> Result<(), Broken> {
        self.throttle.pass(raw.len()).await;
        let packed = self.pack.push(raw, &mut self.packed)?;
        self.object.push(packed).await?;
        self.work.progress(self.pack.bytes(), self.object.stored());
        Ok(())
    }

    async fn finish(mut self, history: (String, u64)) -> Result<Sent, Broken> {
        self.packed.clear();
        let (summary, stored) = self.pack.finish(&mut self.packed)?;
        self.object.push(&self.packed).await?;
        let bytes = self.object.complete().await?;
        self.work.progress(summary.bytes, bytes);
        Ok(Sent {
            history,
            summary,
            stored,
        })
    }
}

/// What an entry of the manifest is made of.
struct Parts<'a> {
    work: &'a Work,
    target: &'a Target,
    summary: Summary,
    stored: Extent,
    source: Source,
    memory: u64,
    started: Timestamp,
}

fn entry(parts: Parts<'_>) -> Snapshot {
    let order = &parts.work.order;
    let encryption = order.encryption_key.clone().map(|key_id| Encryption {
        cipher: Cipher::Aes256GcmStream,
        key_id,
    });
    Snapshot {
        token: token_of(&parts.work.desired),
        object: parts.target.name.clone(),
        stored: parts.stored,
        raw: Extent::from(&parts.summary),
        checksum: parts.summary.checksum,
        rdb: parts.summary.version,
        functions: parts.summary.functions,
        keys: parts.summary.databases,
        memory_bytes: Some(parts.memory),
        source: parts.source,
        compression: compression(order),
        encryption,
        started_at: parts.started,
        finished_at: Timestamp::now(),
    }
}

/// The number is the same; the type is that of the protocol.
fn token_of(desired: &NodeDesired) -> Token {
    Token(desired.node.token.0)
}

fn compression(order: &SnapshotOrder) -> Compression {
    if order.compress {
        Compression::Zstd
    } else {
        Compression::None
    }
}

fn salt() -> Result<[u8; SALT], Broken> {
    let mut salt = [0; SALT];
    let filled = default_provider().secure_random.fill(&mut salt);
    filled.map_err(|_| Broken::lasting("Internal", "the machine gives no random numbers"))?;
    Ok(salt)
}

/// The object may be there although the storage could not say so.
async fn remove(bucket: &Bucket, key: &str) {
    if let Err(error) = bucket.delete(key).await {
        tracing::warn!(key, %error, "what a failed snapshot has stored may be left");
    }
}
