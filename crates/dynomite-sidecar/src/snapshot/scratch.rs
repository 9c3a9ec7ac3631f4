//! Loads objects of backups into a scratch store, and compares what the store has then with the manifest.
//!
//! ```text
//!  object ─stage─▶ file ─▶ primary ══copy══▶ store, begun anew ══copy══▶ verify ─▶ counts = manifest?
//! ```
//!
//! The store takes the copy as a node does that is restored, and is then copied itself: what it
//! gives out is what it has understood. While its link is up it removes no key that expires, so
//! the counts are those of the manifest, exactly.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynomite_api::contract::{BackupPlace, BucketAnswer, RestoreGoal, RestoreOrder, RestorePart};
use dynomite_protocol::hash::Placement;
use dynomite_snapshot::manifest::Snapshot as Entry;
use dynomite_snapshot::rdb::{Counts, Summary, Verifier};
use jiff::Timestamp;
use redis::ConnectionAddr;
use tokio::sync::{Mutex, watch};

use super::Desk;
use super::broken::Broken;
use super::psync;
use super::stage::{self, Staging};
use crate::launch;
use crate::render;
use crate::run::info::Info;
use crate::run::store::connect;
use crate::shared::Site;
use crate::tunnel::{File, Gate, Opened, Play, Source, fresh_history};

/// What is staged is named so; a pod loads one object at a time.
const NAME: &str = "scratch";

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a store without data may take to start, or to end.
const STORE_PATIENCE: Duration = Duration::from_mins(1);

/// How long a store that is told to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// How often a store may ask for the copy: one that cannot load it asks for ever.
const COPIES: usize = 3;

/// Databases that a store has by default.
const DATABASES: u32 = 16;

/// The store's process, as its launcher tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// Whether its launcher is there: one that is not yet takes no order.
    pub(crate) launcher: bool,
    /// Whether it runs.
    pub(crate) running: bool,
    /// How it ended last.
    pub(crate) last_exit: String,
}

/// A store that is there to be loaded into.
#[derive(Debug)]
pub(crate) struct Scratch {
    site: Arc<Site>,
    gate: Arc<Gate>,
    launcher: launch::Client,
    process: watch::Receiver<Process>,
    /// What came of what was asked: who lost the answer asks again. Held while one loads.
    done: Mutex<BTreeMap<String, BucketAnswer>>,
}

/// What is to be loaded.
pub(super) struct Load {
    pub(super) place: BackupPlace,
    pub(super) part: RestorePart,
    pub(super) bytes_per_second: Option<u64>,
}

/// The staged file, and how often it was asked for.
#[derive(Debug)]
struct Counted {
    file: File,
    opened: Arc<AtomicUsize>,
}

impl Source for Counted {
    fn open(&self) -> Pin<Box<dyn Future<Output = io::Result<Opened>> + Send + '_>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.file.open()
    }
}

impl Scratch {
    /// The store behind `launcher`, which finds its copy at the tunnel of `gate`.
    pub(crate) fn new(
        site: Arc<Site>,
        gate: Arc<Gate>,
        launcher: launch::Client,
        process: watch::Receiver<Process>,
    ) -> Self {
        Self {
            site,
            gate,
            launcher,
            process,
            done: Mutex::default(),
        }
    }

    /// Loads an object and compares, unless that was done before.
    pub(super) async fn load(&self, desk: &Arc<Desk>, load: Load) -> BucketAnswer {
        let order = RestoreOrder {
            pod_uid: self.site.pod_uid.clone(),
            restore: NAME.to_owned(),
            attempt: 0,
            goal: RestoreGoal::Stage,
            place: load.place,
            parts: vec![load.part],
            keep: None,
            bytes_per_second: load.bytes_per_second,
            save_previous: false,
        };
        let question = stage::digest(&order);
        let mut done = self.done.lock().await;
        if let Some(answer) = done.get(&question) {
            return answer.clone();
        }
        let loaded = self.try_load(desk, order).await;
        self.gate.plays(None);
        self.launcher.stop(GRACE);
        stage::tidy(&self.site.restore_dir(), "");
        let answer = match loaded {
            Ok(keys) => BucketAnswer::Loaded { keys },
            Err(broken) => broken.into_answer(),
        };
        tracing::info!(?answer, "an object of a backup was loaded");
        if !matches!(answer, BucketAnswer::Failed { retry: true, .. }) {
            done.insert(question, answer.clone());
        }
        answer
    }

    async fn try_load(&self, desk: &Arc<Desk>, order: RestoreOrder) -> Result<u64, Broken> {
        let entry = order.parts.first().and_then(|part| part.entry.as_ref());
        let Some(entry) = entry else {
            let message = "without its entry of a manifest nobody says what it should hold";
            return Err(Broken::lasting("Invalid", message));
        };
        let expected = stage::read_entry(entry)?;
        stage::tidy(&self.site.restore_dir(), "");
        let staging = Staging {
            desk: Arc::clone(desk),
            order,
            placement: Placement::default(),
        };
        // The staging would wait for what is missing; here the operator does.
        staging.look()?;
        staging.stage().await?;
        self.begin_store(&expected).await?;
        self.copy(staging.file()).await?;
        compare(&expected, &self.read_back().await?)
    }

    /// A store that has never had any data.
    async fn begin_store(&self, expected: &Entry) -> Result<(), Broken> {
        let mut process = self.process.clone();
        if process.borrow().running {
            self.launcher.stop(GRACE);
        }
        let ended = process.wait_for(|process| process.launcher && !process.running);
        if tokio::time::timeout(STORE_PATIENCE, ended).await.is_err() {
            let message = if self.process.borrow().launcher {
                "the scratch store does not end"
            } else {
                "the scratch store's container does not run"
            };
            return Err(Broken::passing("StoreAway", message));
        }
        let write = || -> io::Result<()> {
            let directory = self.site.data_dir.join("store");
            std::fs::remove_dir_all(&directory)?;
            std::fs::create_dir_all(&directory)?;
            let highest = expected.keys.keys().max().map_or(0, |last| last + 1);
            let text = render::scratch_conf(&self.site, highest.max(DATABASES));
            std::fs::write(self.site.store_conf(), text)
        };
        write().map_err(|error| {
            let message = format!("the scratch store's files cannot be written: {error}");
            Broken::passing("DiskFull", message)
        })?;
        self.launcher.start();
        let socket = self.site.store_private_socket();
        let answers = async {
            loop {
                let running = process.borrow().running;
                if running && connect(ConnectionAddr::Unix(socket.clone())).await.is_ok() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let began = tokio::time::timeout(STORE_PATIENCE, answers).await;
        began.map_err(|_| {
            let exit = process.borrow().last_exit.clone();
            let message = format!("the scratch store does not answer; it ended last: {exit:?}");
            Broken::passing("StoreAway", message)
        })
    }

    /// Has the store copy the file; returns when it says that it has all of it.
    async fn copy(&self, file: PathBuf) -> Result<(), Broken> {
        let once = format!("{} {}", self.site.pod_uid, Timestamp::now());
        let history = fresh_history(&once);
        let opened = Arc::<AtomicUsize>::default();
        let source = Counted {
            file: File(file),
            opened: Arc::clone(&opened),
        };
        self.gate.plays(Some(Arc::new(Play {
            history: history.clone(),
            source: Box::new(source),
        })));
        let tunnel = self.site.replication();
        let mut command = redis::cmd("REPLICAOF");
        command.arg(tunnel.ip().to_string()).arg(tunnel.port());
        self.ask(&command).await.map_err(|why| {
            let message = format!("the scratch store does not copy: {why}");
            Broken::passing("StoreAway", message)
        })?;
        loop {
            if !self.process.borrow().running {
                let exit = self.process.borrow().last_exit.clone();
                let message = format!(
                    "the store ended while it loaded: {exit}; its log says why, and where it was \
                     killed for its memory, raise spec.store.resources"
                );
                return Err(Broken::lasting("StoreEnded", message));
            }
            // A store that loads may not answer for a while.
            if let Ok(text) = self.ask(&redis::cmd("INFO")).await {
                let info = Info::parse(&text);
                if info.text("master_link_status") == "up" && info.text("master_replid") == history
                {
                    return Ok(());
                }
            }
            if opened.load(Ordering::Relaxed) > COPIES {
                let message = format!(
                    "the store has given up loading it {COPIES} times: its log says why; a store \
                     that is older than the one that wrote it cannot read it"
                );
                return Err(Broken::lasting("NotLoaded", message));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<String, redis::RedisError> {
        let socket = self.site.store_private_socket();
        let mut connection = connect(ConnectionAddr::Unix(socket)).await?;
        command.query_async(&mut connection).await
    }

    /// What the store has, as it gives it to a replica.
    async fn read_back(&self) -> Result<Summary, Broken> {
        let socket = self.site.store_private_socket();
        let sockets: [&Path; 1] = [&socket];
        let mut snapshot = psync::Snapshot::ask(&sockets).await?;
        let mut verifier = Verifier::new(Timestamp::now());
        let unreadable = |error: dynomite_snapshot::rdb::Error| {
            let message = format!("what the store gives out cannot be read: {error}");
            Broken::passing("StreamBroke", message)
        };
        while let Some(piece) = snapshot.next().await? {
            verifier.update(&piece).map_err(unreadable)?;
        }
        verifier.finish().map_err(unreadable)
    }
}

/// How many keys there are, if the store has what the manifest says.
fn compare(expected: &Entry, found: &Summary) -> Result<u64, Broken> {
    let databases = |all: &BTreeMap<u32, Counts>| -> BTreeMap<u32, Counts> {
        let held = all.iter().filter(|(_, counts)| counts.total() > 0);
        held.map(|(number, counts)| {
            let mut counts = counts.clone();
            // That depends on when one looks.
            counts.expired = 0;
            counts.keys.retain(|_, count| *count > 0);
            (*number, counts)
        })
        .collect()
    };
    let (said, has) = (databases(&expected.keys), databases(&found.databases));
    if said != has {
        let message = format!("the manifest says {said:?}, and the store has {has:?}");
        return Err(Broken::lasting("KeysDiffer", message));
    }
    if expected.functions != found.functions {
        let message = format!(
            "the manifest says {} libraries of functions, and the store has {}",
            expected.functions, found.functions
        );
        return Err(Broken::lasting("FunctionsDiffer", message));
    }
    Ok(found.counts().total())
}
