//! A real store, a desk, and an S3 server with faults.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dynomite_api::contract::{
    BackupPlace, Credentials, NodeDesired, NodeReport, Provider, RestoreOrder, RestorePart,
    RestoreState, SnapshotOrder, SnapshotSource, SnapshotState,
};
use dynomite_bucket::Patience;
use dynomite_snapshot::envelope::Key;
use dynomite_snapshot::manifest::Snapshot;
use dynomite_snapshot::transfer::{self, Download};
use jiff::Timestamp;
use tokio::sync::watch;

use super::PATIENCE;
use crate::fixture;
use crate::shared::{Site, View};
use crate::snapshot::{Desk, attend};

#[path = "../../../../dynomite-bucket/tests/fake/mod.rs"]
pub(super) mod fake;

/// Keys in the store before a test adds any.
pub(super) const KEYS: u64 = 1000;
/// Base64 of 32 bytes.
pub(super) const ENCRYPTION_KEY: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LTAwMDA=";

pub(super) const BACKUP: &str = "20261120T000000Z-00c0ffee00c0ffee-before-upgrade";

const IMPATIENT: Patience = Patience {
    retries: 2,
    pause: Duration::from_millis(5),
    whole: Duration::from_secs(20),
    silence: Duration::from_secs(20),
};

pub(super) struct Bench {
    pub(super) server: fake::S3,
    pub(super) desk: Arc<Desk>,
    view: watch::Sender<View>,
    store: Child,
    site: Arc<Site>,
    /// What follows the orders, while a sidecar runs.
    following: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kill_store();
    }
}

/// What is logged by anybody in this process.
fn log() -> &'static Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        // Another test may want its own; then nothing is found here and the test says so.
        let _ = tracing::subscriber::set_global_default(subscriber);
        log
    })
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().expect("nobody panics while it is held");
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Bench {
    pub(super) async fn start() -> Option<Self> {
        log();
        Self::start_as(false).await
    }

    /// Nothing is logged, as a log in memory is none of a sidecar's costs.
    pub(super) async fn start_unlogged() -> Option<Self> {
        Self::start_as(false).await
    }

    /// A sidecar that finds an order when it starts.
    pub(super) async fn start_with_order() -> Option<Self> {
        log();
        Self::start_as(true).await
    }

    async fn start_as(ordered: bool) -> Option<Self> {
        let binary = fixture::stores().into_iter().next()?;
        let directory = tempfile::tempdir().expect("a directory");
        let site = crate::run::tests::site_in(directory.path());
        let server = fake::S3::start().await;
        let store = Command::new(binary)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(site.store_private_socket())
            .args(["--repl-diskless-sync", "yes"])
            .args(["--repl-diskless-sync-delay", "0", "--dir"])
            .arg(site.data_dir.join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the store starts");
        let site = Arc::new(site);
        let desk = Desk::with_patience(Arc::clone(&site), IMPATIENT).expect("a thread");
        let desk = Arc::new(desk);
        let mut desired = fixture::desired();
        desired.snapshot = ordered.then(|| order(&server));
        let view = watch::Sender::new(View {
            store_socket: site.store_private_socket(),
            desired: Some(Arc::new(desired)),
            ..fixture::view()
        });
        let mut bench = Self {
            server,
            desk,
            view,
            store,
            site,
            following: None,
            _directory: directory,
        };
        bench.store_answers().await;
        bench.hand_over_credentials(true);
        bench.ask("EVAL \"for i=1,1000 do redis.call('SET', i, string.rep(i, 50)) end\" 0");
        bench.follow();
        Some(bench)
    }

    async fn store_answers(&self) {
        let socket = self.site.store_private_socket();
        let wait = async {
            while UnixStream::connect(&socket).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("the store listens");
    }

    /// Sends one command and reads its answer, up to the end of what comes at once.
    pub(super) fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.site.store_private_socket()).expect("listens");
        write!(stream, "{command}\r\nQUIT\r\n").expect("takes it");
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut answer).expect("answers");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }

    /// Sets many keys at once.
    pub(super) fn pour(&self, all: impl Iterator<Item = (String, Vec<u8>)>) {
        let socket = UnixStream::connect(self.site.store_private_socket()).expect("listens");
        let mut out = std::io::BufWriter::new(&socket);
        for (key, value) in all {
            let (key_length, length) = (key.len(), value.len());
            let head = format!("*3\r\n$3\r\nSET\r\n${key_length}\r\n{key}\r\n${length}\r\n");
            for bytes in [head.as_bytes(), &value, b"\r\n"] {
                out.write_all(bytes).expect("takes it");
            }
        }
        out.write_all(b"QUIT\r\n").expect("takes it");
        out.flush().expect("takes it");
        let mut answers = Vec::new();
        std::io::Read::read_to_end(&mut &socket, &mut answers).expect("answers");
        assert!(!answers.contains(&b'-'), "every key was set");
    }

    /// So many megabytes that cannot be compressed, as one key.
    pub(super) fn fill(&self, megabytes: usize) {
        let script = format!(
            "EVAL \"math.randomseed(7) local t={{}} for i=1,1048576 do \
             t[i]=string.char(math.random(0,255)) end local s=table.concat(t) \
             for i=1,{megabytes} do redis.call('SET','large:'..i,s) end\" 0"
        );
        self.ask(&script);
    }

    pub(super) async fn info(&self, name: &str) -> String {
        let wait = async {
            loop {
                let text = self.ask("INFO everything");
                let busy = text.contains("connected_slaves:1");
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("{name}:")));
                match line {
                    Some(value) if !busy => return value.to_owned(),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("is there")
    }

    pub(super) fn kill_store(&mut self) {
        // It may be dead already.
        let _ = self.store.kill();
        let _ = self.store.wait();
    }

    fn desire(&self, change: impl FnOnce(&mut NodeDesired)) {
        self.view.send_modify(|view| {
            let mut desired = fixture::desired();
            change(&mut desired);
            view.desired = Some(Arc::new(desired));
        });
    }

    pub(super) fn order(&mut self, change: impl FnOnce(&mut SnapshotOrder)) {
        let mut order = order(&self.server);
        change(&mut order);
        self.desire(|desired| desired.snapshot = Some(order));
    }

    pub(super) fn orders_nothing(&self) {
        self.desire(|_| {});
    }

    pub(super) fn order_restore(&self, restore: RestoreOrder) {
        self.desire(|desired| desired.restore = Some(restore));
    }

    /// The end of the staging that is ordered now.
    pub(super) async fn staged(&self) -> RestoreState {
        self.staged_within(PATIENCE).await
    }

    pub(super) async fn staged_within(&self, limit: Duration) -> RestoreState {
        let ordered = self.view.borrow().desired.clone();
        let ordered = ordered.and_then(|desired| desired.restore.clone());
        let ordered = ordered.expect("something is ordered");
        let report = self
            .until_within(limit, |report| {
                report.restore.as_ref().is_some_and(|it| {
                    (&it.restore, it.attempt) == (&ordered.restore, ordered.attempt)
                        && matches!(
                            it.state,
                            RestoreState::Staged { .. } | RestoreState::Failed { .. }
                        )
                })
            })
            .await;
        report.restore.expect("was looked at").state
    }

    /// Names of the files of restores.
    pub(super) fn restore_files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.site.restore_dir());
        let names = files.into_iter().flatten().flatten();
        let mut names: Vec<String> = names
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn follow(&mut self) {
        let following = attend(Arc::clone(&self.desk), self.view.subscribe());
        self.following = Some(tokio::spawn(following));
    }

    /// The sidecar is killed: what it has begun is not removed, although the process of the test,
    /// which goes on, tries to.
    pub(super) async fn kill_sidecar(&mut self) {
        let tries = IMPATIENT.retries + 1;
        self.server
            .fails(fake::Act::Abort, fake::Fault::Busy, tries);
        if let Some(following) = self.following.take() {
            following.abort();
        }
        let wait = async {
            while self.server.inside().faults[&fake::Act::Abort].1 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("it tries in vain");
    }

    /// Another sidecar takes the place of this one.
    pub(super) fn restart(&mut self) {
        // Two that live at once would write one file.
        if let Some(following) = self.following.take() {
            following.abort();
        }
        let desk = Desk::with_patience(Arc::clone(&self.site), IMPATIENT).expect("a thread");
        self.desk = Arc::new(desk);
        self.follow();
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    pub(super) fn proves(&self, proven: bool) {
        self.view.send_modify(|view| view.donates = proven);
    }

    pub(super) fn hand_over_credentials(&self, with_key: bool) {
        self.desk.take_credentials(credentials(with_key));
    }

    pub(super) fn forget_credentials(&self) {
        self.desk.take_credentials(Credentials::default());
    }

    pub(super) fn report(&self) -> NodeReport {
        let mut report = fixture::report();
        self.desk.add_to(&mut report);
        report
    }

    /// Orders a snapshot that takes its time; returns when some of it is stored.
    pub(super) async fn is_uploading(&mut self) {
        self.order(|order| order.bytes_per_second = Some(4 << 20));
        let begun = |report: &NodeReport| {
            let snapshot = report.snapshot.as_ref();
            snapshot.is_some_and(|it| it.stored_bytes > 0)
        };
        self.until(begun).await;
    }

    pub(super) async fn until(&self, holds: impl Fn(&NodeReport) -> bool) -> NodeReport {
        self.until_within(PATIENCE, holds).await
    }

    async fn until_within(
        &self,
        limit: Duration,
        holds: impl Fn(&NodeReport) -> bool,
    ) -> NodeReport {
        let wait = async {
            loop {
                let report = self.report();
                if holds(&report) {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(limit, wait).await;
        waited.unwrap_or_else(|_| panic!("never; now {:?}", self.report().snapshot))
    }

    /// The end of the snapshot that is ordered now.
    pub(super) async fn ended(&self) -> SnapshotState {
        self.ended_within(PATIENCE).await
    }

    pub(super) async fn ended_within(&self, limit: Duration) -> SnapshotState {
        let ordered = self.view.borrow().desired.clone();
        let ordered = ordered.and_then(|desired| desired.snapshot.clone());
        let attempt = ordered.expect("something is ordered").attempt;
        let report = self
            .until_within(limit, |report| {
                report.snapshot.as_ref().is_some_and(|it| {
                    it.attempt == attempt
                        && matches!(
                            it.state,
                            SnapshotState::Done { .. } | SnapshotState::Failed { .. }
                        )
                })
            })
            .await;
        report.snapshot.expect("was looked at").state
    }

    pub(super) async fn waits_for(&self, what: &str) {
        self.until(|report| {
            report.snapshot.as_ref().is_some_and(
                |it| matches!(&it.state, SnapshotState::Waiting { reason, .. } if reason == what),
            )
        })
        .await;
    }

    /// Neither objects nor parts.
    pub(super) async fn nothing_is_left(&self) {
        let wait = async {
            loop {
                let (objects, uploads) = {
                    let inside = self.server.inside();
                    (inside.objects.len(), inside.uploads.len())
                };
                if (objects, uploads) == (0, 0) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("what was stored is removed");
    }
}

/// What opens the server, and the key of encryption if asked for.
pub(super) fn credentials(with_key: bool) -> Credentials {
    let key = with_key.then(|| ("2026".to_owned(), ENCRYPTION_KEY.to_owned()));
    Credentials {
        stores: [("main".to_owned(), fake::credentials())].into(),
        encryption_keys: key.into_iter().collect(),
    }
}

pub(super) fn key_of(object: &str) -> String {
    format!("team/default/ring/cluster/{BACKUP}/{object}")
}

/// How a restore names what was stored.
pub(super) fn part(entry: &Snapshot) -> RestorePart {
    RestorePart {
        key: key_of(&entry.object),
        entry: Some(serde_json::to_value(entry).expect("serialises")),
        context: format!("cluster/{BACKUP}"),
        owned: None,
    }
}

pub(super) fn unpack(entry: &Snapshot, object: &[u8]) -> Result<Vec<u8>, transfer::Error> {
    let key = Key::new(*b"canary-canary-canary-canary-0000");
    let context = transfer::context("cluster", BACKUP, entry.token);
    let now = Timestamp::now();
    let mut download = Download::of(entry, &context, Some(&key), now)?;
    let (mut raw, mut rest) = (Vec::new(), object);
    while !rest.is_empty() {
        download.push(&mut rest, &mut raw)?;
    }
    while download.finish(&mut raw)?.is_none() {}
    Ok(raw)
}

pub(super) fn logged() -> String {
    let log = log().lock().expect("nobody panics while it is held");
    String::from_utf8_lossy(&log).into_owned()
}

fn order(server: &fake::S3) -> SnapshotOrder {
    SnapshotOrder {
        pod_uid: "uid".to_owned(),
        backup: BACKUP.to_owned(),
        attempt: 0,
        place: server.place(),
        source: SnapshotSource::Replication,
        compress: false,
        encryption_key: None,
        bytes_per_second: None,
    }
}

pub(super) fn other_bucket(place: &BackupPlace) -> BackupPlace {
    let mut place = place.clone();
    if let Provider::S3 { bucket, .. } = &mut place.provider {
        "other".clone_into(bucket);
    }
    place
}
