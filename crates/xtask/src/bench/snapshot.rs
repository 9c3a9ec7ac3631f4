//! Snapshots: the sidecar's own code, a real store and a real S3 server, on loopback.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{bars, median, replace_section, rows_of};
use crate::services::{self, Service};
use crate::stage::{Stage, Stages};
use crate::{image, process, suite, workspace};

/// The program with the measurement, and its name there.
const PACKAGE: &str = "dynomite-sidecar";
const TEST: &str = "a_large_snapshot_is_measured";
/// Where the snapshots go.
const BUCKET: &str = "backups";

/// What something took.
#[derive(Clone, Copy, Deserialize)]
struct Cost {
    seconds: f64,
    /// Seconds of a processor.
    processor: f64,
    /// MiB.
    resident: f64,
    /// Bytes.
    written: u64,
}

/// One round; seconds where nothing else is said.
#[derive(Clone, Copy, Deserialize)]
struct Round {
    dump: f64,
    upload: f64,
    backup: Cost,
    sealed: Cost,
    cold: f64,
    warm: f64,
    staged: Cost,
    loaded: Cost,
}

/// Measures, prints, and writes the page.
pub(super) fn run(mebibytes: u64, rounds: usize, program: Option<&Path>) -> Result<()> {
    ensure!(
        process::find("redis-cli").is_some(),
        "redis-server and redis-cli are needed: install them with your package manager"
    );
    let mut stages = Stages::new();
    let program = match program {
        Some(program) => program.canonicalize()?,
        None => stages.run("build", |stage| suite::release_test(PACKAGE, stage))?,
    };
    let rclone = stages.run("rclone", |stage| {
        // Without it the comparison is with an upload by our own code, and the page says so.
        let program = image::debian_program("rclone", stage);
        Ok(program
            .inspect_err(|error| stage.note(&format!("{error:#}")))
            .ok())
    })?;
    let service = stages.run("start SeaweedFS", services::seaweedfs)?;
    make_bucket(&service)?;
    let before = load();
    let rounds = stages.run("measure", |stage| {
        measure(
            &program,
            &service,
            rclone.as_deref(),
            (mebibytes, rounds),
            stage,
        )
    })?;
    let table = format!(
        "{}\n{}",
        circumstances(&before, &load()),
        table(mebibytes, &rounds, rclone.is_some())
    );
    println!("\n{table}");
    let of = |of: fn(&Round) -> f64| median(&rounds, of);
    let picture = bars(&[
        ("redis-cli --rdb", of(|r| r.dump)),
        ("plain upload", of(|r| r.upload)),
        ("snapshot", of(|r| r.backup.seconds)),
        ("compressed, encrypted", of(|r| r.sealed.seconds)),
        ("start from a disk", of(|r| r.cold)),
        ("start from memory", of(|r| r.warm)),
        ("restore: staged", of(|r| r.staged.seconds)),
        ("restore: loaded", of(|r| r.loaded.seconds)),
    ]);
    let root = workspace::root();
    fs::write(root.join("docs/images/snapshot.svg"), picture)?;
    let section =
        format!("{table}\n![Seconds of a snapshot and of its loading](images/snapshot.svg)\n");
    replace_section(&root.join("docs/performance.md"), "snapshot", &section)
}

/// A directory of the server's files below this one is a bucket.
fn make_bucket(service: &Service) -> Result<()> {
    let name = "DYNOMITE_SERVICE_SEAWEEDFS_FILER";
    let filer = service.told(name).context("the server has a filer")?;
    let address = filer.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /buckets/{BUCKET}/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 201 "), "no bucket was made: {answer}");
    Ok(())
}

fn measure(
    program: &Path,
    service: &Service,
    rclone: Option<&Path>,
    (mebibytes, rounds): (u64, usize),
    stage: &Stage,
) -> Result<Vec<Round>> {
    let wanted = serde_json::json!({
        "endpoint": service.told("DYNOMITE_SERVICE_SEAWEEDFS"),
        "bucket": BUCKET,
        "accessKey": services::ACCESS_KEY,
        "secretKey": services::SECRET_KEY,
        "mebibytes": mebibytes,
        "rounds": rounds,
        "rclone": rclone,
    });
    let mut command = std::process::Command::new(program);
    command
        .args([TEST, "--nocapture", "--test-threads", "1"])
        .env("DYNOMITE_BENCH_SNAPSHOT", wanted.to_string());
    let printed = process::run(&mut command, stage)?;
    let line = printed
        .lines()
        .find_map(|line| line.strip_prefix("measured "));
    let line = line.with_context(|| format!("nothing was measured: {printed}"))?;
    let rounds: Vec<Round> = serde_json::from_str(line)?;
    ensure!(!rounds.is_empty(), "nothing was measured");
    Ok(rounds)
}

/// How many programs wanted a processor in the last minute, on average.
fn load() -> String {
    let said = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    said.split_whitespace().next().unwrap_or("?").to_owned()
}

/// What the figures are to be read with.
fn circumstances(before: &str, after: &str) -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{processors} processors for all that runs here, object storage included; programs that \
         ran or waited in the minute before: {before}, in the last minute, these included: {after}."
    )
}

fn table(mebibytes: u64, rounds: &[Round], rclone: bool) -> String {
    let of = |f: fn(&Round) -> f64| median(rounds, f);
    let most = |f: fn(&Round) -> f64| rounds.iter().map(f).fold(0.0, f64::max);
    let row = |what: &str, value: String, remark: String| (what.to_owned(), value, remark);
    let seconds = |seconds: f64| format!("{seconds:.1} s");
    let used = |processor: f64| format!("{processor:.1} s of a processor");
    let (dump, upload, backup) = (of(|r| r.dump), of(|r| r.upload), of(|r| r.backup.seconds));
    let (cold, warm) = (of(|r| r.cold), of(|r| r.warm));
    let (staged, loaded) = (of(|r| r.staged.seconds), of(|r| r.loaded.seconds));
    let written = rounds
        .iter()
        .map(|r| r.backup.written.max(r.sealed.written));
    let uploader = if rclone { "rclone" } else { "our own client" };
    let rows = [
        (
            format!("`redis-cli --rdb /dev/null` of {mebibytes} MiB"),
            seconds(dump),
            String::new(),
        ),
        (
            format!("upload of the same bytes from a file by {uploader}"),
            seconds(upload),
            String::new(),
        ),
        row(
            "snapshot: taken, verified and uploaded",
            seconds(backup),
            format!(
                "{:.2} of the slower one's rate; goal 0.8",
                dump.max(upload) / backup
            ),
        ),
        row(
            "what the sidecar's code does of it",
            used(of(|r| r.backup.processor)),
            String::new(),
        ),
        row(
            "snapshot, compressed and encrypted",
            seconds(of(|r| r.sealed.seconds)),
            used(of(|r| r.sealed.processor)),
        ),
        row(
            "resident memory of the sidecar's code, snapshots",
            format!(
                "{:.1} MiB",
                most(|r| r.backup.resident.max(r.sealed.resident))
            ),
            "goal 64 MiB".to_owned(),
        ),
        row(
            "written to its disk meanwhile",
            format!("{} bytes", written.max().unwrap_or(0)),
            "goal 0".to_owned(),
        ),
        row(
            "a store that starts from the same file on its disk",
            seconds(cold),
            String::new(),
        ),
        row(
            "the same while the system has the file in memory",
            seconds(warm),
            String::new(),
        ),
        row(
            "restore, while the ring serves: downloaded, verified, on disk",
            seconds(staged),
            used(of(|r| r.staged.processor)),
        ),
        row(
            "restore, while the ring is held: loaded",
            seconds(loaded),
            format!(
                "{:.2} of the rate of a start from memory; goal 0.8",
                warm / loaded
            ),
        ),
        row(
            "restore, both, download included",
            seconds(staged + loaded),
            format!(
                "{:.2} of the rate of a start from disk; goal 0.8",
                cold / (staged + loaded)
            ),
        ),
        row(
            "resident memory of the sidecar's code, restore",
            format!(
                "{:.1} MiB",
                most(|r| r.staged.resident.max(r.loaded.resident))
            ),
            "goal 64 MiB".to_owned(),
        ),
    ];
    rows_of(rounds.len(), &rows)
}
