//! How fast a large snapshot is taken and loaded, beside what it is compared to in the same run.
//!
//! `cargo xtask bench snapshot` starts the object storage, says by a variable
//! what is wanted, and reads the line that this prints. It is one program of a
//! sidecar's own code and nothing else, so that its memory is the sidecar's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dynomite_api::contract::{
    BackupPlace, Credentials, Provider, RestoreGoal, RestoreOrder, RestoreState, SnapshotOrder,
    StoreCredentials,
};
use dynomite_bucket::Bucket;
use dynomite_snapshot::manifest::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::bench::{self, Bench};
use super::entry;
use crate::fixture;
use crate::tunnel::{File, Gate, Play, fresh_history, play_to};

/// What is wanted.
const WANTED: &str = "DYNOMITE_BENCH_SNAPSHOT";
/// Longer than any step takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);
/// Bytes of a value.
const VALUE: u64 = 10 << 10;
/// The same, in words of eight bytes.
const VALUE_WORDS: usize = (10 << 10) / 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    endpoint: String,
    bucket: String,
    access_key: String,
    secret_key: String,
    mebibytes: u64,
    rounds: usize,
    /// Uploads the same bytes; without it, this program's own plain upload.
    rclone: Option<PathBuf>,
}

/// What something took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    /// Seconds on the clock.
    seconds: f64,
    /// Seconds of a processor that this program used.
    processor: f64,
    /// Largest resident memory of this program, MiB.
    resident: f64,
    /// Bytes that it has had written to disks.
    written: u64,
}

/// One round; seconds where nothing else is said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    /// `redis-cli --rdb` to nowhere.
    dump: f64,
    /// The same bytes from a file to the bucket.
    upload: f64,
    /// A snapshot as it is.
    backup: Cost,
    /// A snapshot, compressed and encrypted.
    sealed: Cost,
    /// A store that loads the same file when it starts, from its disk.
    cold: f64,
    /// The same while the system has the file in memory.
    warm: f64,
    /// The snapshot downloaded and verified beside the data.
    staged: Cost,
    /// The staged file loaded by a store that runs.
    loaded: Cost,
}

// Of several threads: the clients of stores are waited for on one, while another plays a donor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_snapshot_is_measured() {
    let Ok(wanted) = std::env::var(WANTED) else {
        println!("{WANTED} is not set: `cargo xtask bench snapshot` measures");
        return;
    };
    let wanted: Wanted = serde_json::from_str(&wanted).expect("says what is wanted");
    let bench = Bench::start_unlogged()
        .await
        .expect("a store is on this machine");
    let mut measure = Measure::new(bench, wanted);
    measure.fill();
    let mut rounds = Vec::new();
    for number in 0..measure.wanted.rounds {
        rounds.push(measure.round(number).await);
        eprintln!("round {number}: {:?}", rounds.last());
    }
    let rounds = serde_json::to_string(&rounds).expect("serialises");
    println!("\nmeasured {rounds}");
}

struct Measure {
    bench: Bench,
    wanted: Wanted,
    place: BackupPlace,
    credentials: StoreCredentials,
    attempt: u32,
    server: PathBuf,
    scratch: tempfile::TempDir,
}

impl Measure {
    fn new(bench: Bench, wanted: Wanted) -> Self {
        let credentials = StoreCredentials {
            id: "1".to_owned(),
            entries: [
                ("AWS_ACCESS_KEY_ID".to_owned(), wanted.access_key.clone()),
                (
                    "AWS_SECRET_ACCESS_KEY".to_owned(),
                    wanted.secret_key.clone(),
                ),
            ]
            .into(),
        };
        let place = BackupPlace {
            store: "main".to_owned(),
            provider: Provider::S3 {
                bucket: wanted.bucket.clone(),
                region: None,
                endpoint: Some(wanted.endpoint.clone()),
                path_style: true,
            },
            prefix: "team".to_owned(),
            credentials: "1".to_owned(),
        };
        bench.desk.take_credentials(Credentials {
            stores: [("main".to_owned(), credentials.clone())].into(),
            encryption_keys: [("2026".to_owned(), bench::ENCRYPTION_KEY.to_owned())].into(),
        });
        Self {
            bench,
            wanted,
            place,
            credentials,
            attempt: 0,
            server: fixture::stores().remove(0),
            scratch: tempfile::tempdir().expect("a directory"),
        }
    }

    /// Values that a store does not compress and zstd does, by a quarter.
    fn fill(&self) {
        let keys = (self.wanted.mebibytes << 20) / VALUE;
        let mut state = 7_u64;
        let mut words = std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & 0x3f3f_3f3f_3f3f_3f3f) + 0x3030_3030_3030_3030
        });
        self.bench.pour((0..keys).map(|number| {
            let value = words.by_ref().take(VALUE_WORDS).flat_map(u64::to_le_bytes);
            (format!("value:{number}"), value.collect())
        }));
    }

    async fn round(&mut self, number: usize) -> Round {
        let file = self.scratch.path().join("dump.rdb");
        let dump = self.dump(Path::new("/dev/null"));
        if number == 0 {
            self.dump(&file);
        }
        let upload = self.upload(&file).await;
        let (entry, backup) = self.snapshot(|_| {}).await;
        let (_, sealed) = self
            .snapshot(|order| {
                order.compress = true;
                order.encryption_key = Some("2026".to_owned());
            })
            .await;
        forget(&file);
        let cold = self.start(&file);
        let warm = self.start(&file);
        let staged = self.stage(&entry, number).await;
        let loaded = self.load(number).await;
        // To remove what was staged is none of the next round's costs.
        self.bench.orders_nothing();
        while !self.bench.restore_files().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Round {
            dump,
            upload,
            backup,
            sealed,
            cold,
            warm,
            staged,
            loaded,
        }
    }

    fn dump(&self, to: &Path) -> f64 {
        let begin = Instant::now();
        let done = Command::new(self.server.with_file_name("redis-cli"))
            .arg("-s")
            .arg(self.bench.site().store_private_socket())
            .arg("--rdb")
            .arg(to)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // It complains that nowhere cannot be synchronised, once all has gone there.
        let nowhere = to == Path::new("/dev/null");
        assert!(done.expect("redis-cli is there").success() || nowhere);
        begin.elapsed().as_secs_f64()
    }

    async fn upload(&self, file: &Path) -> f64 {
        let begin = Instant::now();
        if let Some(rclone) = &self.wanted.rclone {
            let done = Command::new(rclone)
                .args(["copyto", "--s3-provider", "Other", "--s3-no-check-bucket"])
                // What was uploaded in an earlier round is uploaded again.
                .arg("--ignore-times")
                .args([
                    "--config",
                    "/dev/null",
                    "--s3-endpoint",
                    &self.wanted.endpoint,
                ])
                // It ends when it finds this, whatever the endpoint.
                .env_remove("AWS_CA_BUNDLE")
                .env("RCLONE_S3_ACCESS_KEY_ID", &self.wanted.access_key)
                .env("RCLONE_S3_SECRET_ACCESS_KEY", &self.wanted.secret_key)
                .arg(file)
                .arg(format!(":s3:{}/plain.rdb", self.wanted.bucket))
                .status();
            assert!(done.expect("rclone is there").success());
            return begin.elapsed().as_secs_f64();
        }
        let bucket = Bucket::open(&self.place, Some(&self.credentials)).expect("opens");
        let mut input = tokio::fs::File::open(file).await.expect("is there");
        let length = input.metadata().await.expect("is there").len();
        let mut upload = bucket.upload("plain.rdb", length).await.expect("begins");
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = input.read(&mut piece).await.expect("is read");
            if length == 0 {
                break;
            }
            upload.push(&piece[..length]).await.expect("goes up");
        }
        upload.complete().await.expect("is whole");
        begin.elapsed().as_secs_f64()
    }

    async fn snapshot(&mut self, change: impl FnOnce(&mut SnapshotOrder)) -> (Snapshot, Cost) {
        self.attempt += 1;
        let (attempt, place) = (self.attempt, self.place.clone());
        // Whoever copied it last may not have left yet, and then a snapshot waits.
        self.bench.info("used_memory").await;
        let meter = Meter::start();
        self.bench.order(|order| {
            order.attempt = attempt;
            order.place = place;
            change(order);
        });
        let state = self.bench.ended_within(PATIENCE).await;
        (entry(state), meter.stop())
    }

    /// From the start of the program to its first answer.
    fn start(&self, file: &Path) -> f64 {
        let begin = Instant::now();
        let store = Other::start(&self.server, file.parent().expect("a directory"), &[]);
        let wanted = (self.wanted.mebibytes << 20) / VALUE;
        assert!(store.keys() >= wanted, "it has loaded the file");
        begin.elapsed().as_secs_f64()
    }

    async fn stage(&self, entry: &Snapshot, number: usize) -> Cost {
        let meter = Meter::start();
        self.bench.order_restore(RestoreOrder {
            pod_uid: "uid".to_owned(),
            restore: format!("r{number}"),
            attempt: 0,
            goal: RestoreGoal::Stage,
            place: self.place.clone(),
            parts: vec![bench::part(entry)],
            keep: None,
            bytes_per_second: None,
            save_previous: false,
        });
        let state = self.bench.staged_within(PATIENCE).await;
        let cost = meter.stop();
        assert!(matches!(state, RestoreState::Staged { .. }), "{state:?}");
        cost
    }

    /// The sidecar plays the donor of a store that runs and is empty.
    async fn load(&self, number: usize) -> Cost {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Other::start(
            &self.server,
            directory.path(),
            &["--repl-diskless-load", "on-empty-db"],
        );
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let file = self.bench.site().staged(&format!("r{number}"));
        let play = Play {
            history: fresh_history(&number.to_string()),
            source: Box::new(File(file)),
        };
        let playing = tokio::spawn(async move {
            let gate = Gate::default();
            let (stream, _) = listener.accept().await.expect("it comes");
            let _ = play_to(stream, &play, &gate).await;
        });
        let (begin, meter) = (Instant::now(), Meter::start());
        store.ask(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        while !store
            .ask(&["INFO", "replication"])
            .contains("master_link_status:up")
        {
            assert!(begin.elapsed() < PATIENCE, "it loads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let cost = meter.stop();
        let wanted = (self.wanted.mebibytes << 20) / VALUE;
        assert!(store.keys() >= wanted, "it has what was staged");
        playing.abort();
        cost
    }
}

/// A store beside the one that is backed up.
struct Other {
    child: Child,
    socket: PathBuf,
    client: PathBuf,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Other {
    /// Returns once it answers, so when it has loaded what lies there.
    fn start(server: &Path, directory: &Path, more: &[&str]) -> Self {
        let socket = directory.join("socket");
        let child = Command::new(server)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(directory)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let store = Self {
            child,
            socket,
            client: server.with_file_name("redis-cli"),
        };
        let begin = Instant::now();
        while store.ask(&["PING"]).trim() != "PONG" {
            assert!(begin.elapsed() < PATIENCE, "it loads");
            std::thread::sleep(Duration::from_millis(10));
        }
        store
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.client);
        let said = command.arg("-s").arg(&self.socket).args(words).output();
        let said = said.expect("redis-cli is there");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    fn keys(&self) -> u64 {
        self.ask(&["DBSIZE"]).trim().parse().unwrap_or_default()
    }
}

/// Measures what something takes.
struct Meter {
    begin: Instant,
    processor: f64,
    written: u64,
}

impl Meter {
    fn start() -> Self {
        std::fs::write("/proc/self/clear_refs", "5").expect("Linux forgets the peak");
        Self {
            begin: Instant::now(),
            processor: processor(),
            written: written(),
        }
    }

    fn stop(self) -> Cost {
        Cost {
            seconds: self.begin.elapsed().as_secs_f64(),
            processor: processor() - self.processor,
            resident: peak(),
            written: written() - self.written,
        }
    }
}

/// Largest resident memory since it was forgotten, MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("Linux says it") / 1024.0
}

/// Seconds of a processor that this program has used, in hundredths.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name before it may hold anything.
    let after = stat.rsplit(')').next().expect("there is a last");
    let used = after.split_whitespace().skip(11).take(2);
    let ticks: f64 = used
        .map(|ticks| ticks.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}

/// The system keeps nothing of a file in memory.
fn forget(file: &Path) {
    let file = std::fs::File::open(file).expect("is there");
    file.sync_all().expect("is on the disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("Linux takes it");
}

/// Bytes that this program has had written to disks.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|line| line.trim().parse().ok())
        .expect("Linux says it")
}
