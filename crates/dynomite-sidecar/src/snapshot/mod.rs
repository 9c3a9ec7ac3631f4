//! Snapshots of this node's store: what the operator orders of them, done beside the driver's thread.
//!
//! ```text
//!  desired document ──orders──▶ attend ──▶ take    store ─▶ verify, compress, seal ─▶ bucket
//!  PUT /v1/credentials ──────▶ Desk ────▶ stage   bucket ─▶ open, verify, filter ─▶ file
//!  POST /v1/bucket ──────────▶          └▶ small   list, get, put, delete, inspect
//!                                          └▶ scratch   stage, load, compare
//!  report ◀──────── results ──┘
//! ```
//!
//! The [`Desk`] has threads of its own: to digest and to compress takes the processor for
//! milliseconds at a time, and health is looked at every few. There are two, so that what is
//! verified does not wait for what is signed and sent. Results live as long as their order stands;
//! credentials live in memory only.

mod attend;
mod broken;
mod inspect;
mod left;
mod previous;
mod psync;
mod saved;
mod scratch;
mod sink;
mod small;
mod stage;
mod take;
#[cfg(test)]
mod tests;
mod twice;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynomite_api::contract::{
    BackupPlace, BucketAction, BucketAnswer, BucketRequest, Credentials, NodeReport, RestoreReport,
    RestoreState, SnapshotReport,
};
use dynomite_bucket::{Bucket, Patience};
use dynomite_lifecycle::DataSight;
use dynomite_snapshot::envelope::Key;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::shared::{Site, View};
use broken::Broken;

pub(crate) use attend::attend;
pub(crate) use scratch::{Process, Scratch};

/// Threads of a desk: one that verifies, and one that speaks with object storage.
const WORKERS: usize = 2;
/// Small requests to places at a time; more wait.
const SMALL_REQUESTS: usize = 4;

/// Where the work with object storage is done, and its results lie.
#[derive(Debug)]
pub(crate) struct Desk {
    site: Arc<Site>,
    worker: Handle,
    /// The worker's threads end when this is dropped.
    _ends: oneshot::Sender<()>,
    credentials: watch::Sender<Arc<Credentials>>,
    results: Mutex<Results>,
    small: Semaphore,
    /// In pods that are made to load backups and nothing else.
    scratch: OnceLock<Scratch>,
    patience: Patience,
}

/// What the report tells.
#[derive(Debug, Default)]
struct Results {
    snapshot: Option<SnapshotReport>,
    restore: Option<RestoreReport>,
    /// What the store had before a restore.
    previous: Option<DataSight>,
}

impl Desk {
    /// A desk with threads of its own.
    ///
    /// # Errors
    /// When the machine gives none.
    pub(crate) fn new(site: Arc<Site>) -> io::Result<Self> {
        Self::with_patience(site, Patience::default())
    }

    fn with_patience(site: Arc<Site>, patience: Patience) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("snapshots")
            .enable_all()
            .build()?;
        let worker = runtime.handle().clone();
        let (ends, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("desk".to_owned())
            .spawn(move || runtime.block_on(ended))?;
        Ok(Self {
            site,
            worker,
            _ends: ends,
            credentials: watch::Sender::default(),
            results: Mutex::default(),
            small: Semaphore::new(SMALL_REQUESTS),
            scratch: OnceLock::new(),
            patience,
        })
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on objects of backups are loaded into this store when the operator asks.
    pub(crate) fn loads_into(&self, scratch: Scratch) {
        // It is given once, when the process begins.
        let _ = self.scratch.set(scratch);
    }

    /// Takes what opens the stores, in place of what was held.
    pub(crate) fn take_credentials(&self, credentials: Credentials) {
        tracing::info!(?credentials, "credentials of object storage");
        self.credentials.send_replace(Arc::new(credentials));
    }

    /// Adds to a report what this desk knows.
    pub(crate) fn add_to(&self, report: &mut NodeReport) {
        let results = self.results();
        report.snapshot.clone_from(&results.snapshot);
        // Once it loads, the node's life tells more of it.
        if report.restore.is_none() {
            report.restore.clone_from(&results.restore);
        }
        drop(results);
        let held = self.credentials.borrow();
        let stores = held.stores.values().map(|store| store.id.clone());
        report.credentials = stores.collect();
        report.credentials.sort();
        report.credentials.dedup();
    }

    /// How far the data of a restore is that the operator has ordered.
    pub(crate) fn staged(&self) -> DataSight {
        let results = self.results();
        let Some(report) = &results.restore else {
            return DataSight::Missing;
        };
        let restore = report.restore.clone();
        match &report.state {
            RestoreState::Staged { keys, expiring, .. } => DataSight::Ready {
                restore,
                keys: *keys,
                expiring: *expiring,
            },
            RestoreState::Failed { message, .. } => DataSight::Failed {
                restore,
                why: message.clone(),
            },
            _ => DataSight::Missing,
        }
    }

    /// How far the store's own data is saved that a restore replaces.
    pub(crate) fn previous(&self) -> DataSight {
        let results = self.results();
        results.previous.clone().unwrap_or(DataSight::Missing)
    }

    /// Begins to save it.
    pub(crate) fn save_previous(self: &Arc<Self>, restore: String) {
        previous::begin(self, restore);
    }

    /// Opens a place with what was handed over for it.
    fn open(&self, place: &BackupPlace) -> Result<Bucket, Broken> {
        let held = self.credentials.borrow().clone();
        let store = held.stores.get(&place.store);
        Ok(Bucket::open_with(place, store, self.patience)?)
    }

    /// A key of encryption.
    fn key(&self, id: &str) -> Result<Key, Broken> {
        let held = self.credentials.borrow().clone();
        let Some(text) = held.encryption_keys.get(id) else {
            let what = format!("the key of encryption `{id}` is not at hand");
            return Err(Broken::passing("EncryptionKeyMissing", what));
        };
        let bytes = STANDARD.decode(text.trim()).ok();
        let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Key::new).ok_or_else(|| {
            let what = format!("the key of encryption `{id}` is not 32 bytes in Base64");
            Broken::lasting("EncryptionKeyInvalid", what)
        })
    }

    /// Does a small work in a place.
    pub(crate) async fn small(self: Arc<Self>, request: BucketRequest) -> BucketAnswer {
        let desk = Arc::clone(&self);
        let done = self.worker.spawn(async move {
            // Never closed. A load takes its time, and its turn elsewhere.
            let _turn = match request.action {
                BucketAction::Load { .. } => None,
                _ => desk.small.acquire().await.ok(),
            };
            small::answer(&desk, request).await
        });
        done.await
            .unwrap_or_else(|error| Broken::passing("Interrupted", error.to_string()).into_answer())
    }
}

/// Whether this node's data may be copied now.
fn is_proven(view: &View) -> bool {
    view.donates
}
