//! Snapshots: the sidecar's own code, a real store and a real S3 server, on loopback.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

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

/// One round; times in seconds, memory in MiB.
#[derive(Clone, Copy, Deserialize)]
struct Round {
    dump: f64,
    upload: f64,
    backup: f64,
    sealed: f64,
    resident: f64,
    written: u64,
    cold: f64,
    staged: f64,
    loaded: f64,
}

/// Measures, prints, and writes the page.
pub(super) fn run(mebibytes: u64, rounds: usize) -> Result<()> {
    ensure!(
        process::find("redis-cli").is_some(),
        "redis-server and redis-cli are needed: install them with your package manager"
    );
    let mut stages = Stages::new();
    let program = stages.run("build", |stage| suite::release_test(PACKAGE, stage))?;
    let rclone = stages.run("rclone", |stage| {
        // Without it the comparison is with an upload by our own code, and the page says so.
        Ok(image::debian_program("rclone", stage).ok())
    })?;
    let service = stages.run("start SeaweedFS", services::seaweedfs)?;
    make_bucket(&service)?;
    let rounds = stages.run("measure", |stage| {
        measure(
            &program,
            &service,
            rclone.as_deref(),
            (mebibytes, rounds),
            stage,
        )
    })?;
    let table = table(mebibytes, &rounds, rclone.is_some());
    println!("\n{table}");
    let of = |of: fn(&Round) -> f64| median(&rounds, of);
    let picture = bars(&[
        ("redis-cli --rdb", of(|r| r.dump)),
        ("plain upload", of(|r| r.upload)),
        ("snapshot", of(|r| r.backup)),
        ("start from a file", of(|r| r.cold)),
        ("staged", of(|r| r.staged)),
        ("loaded", of(|r| r.loaded)),
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

fn table(mebibytes: u64, rounds: &[Round], rclone: bool) -> String {
    let of = |f: fn(&Round) -> f64| median(rounds, f);
    let (dump, upload, backup) = (of(|r| r.dump), of(|r| r.upload), of(|r| r.backup));
    let (cold, staged, loaded) = (of(|r| r.cold), of(|r| r.staged), of(|r| r.loaded));
    let written = rounds.iter().map(|round| round.written).max().unwrap_or(0);
    let uploader = if rclone { "rclone" } else { "our own client" };
    let rows = [
        (
            format!("`redis-cli --rdb /dev/null` of {mebibytes} MiB"),
            format!("{dump:.1} s"),
            String::new(),
        ),
        (
            format!("upload of the same bytes from a file by {uploader}"),
            format!("{upload:.1} s"),
            String::new(),
        ),
        (
            "snapshot: taken, verified and uploaded".to_owned(),
            format!("{backup:.1} s"),
            format!(
                "{:.2} of the slower one's rate; goal 0.8",
                dump.max(upload) / backup
            ),
        ),
        (
            "the same, compressed and encrypted".to_owned(),
            format!("{:.1} s", of(|r| r.sealed)),
            String::new(),
        ),
        (
            "resident memory of the sidecar's code meanwhile".to_owned(),
            format!(
                "{:.1} MiB",
                rounds.iter().map(|r| r.resident).fold(0.0, f64::max)
            ),
            "goal 64 MiB".to_owned(),
        ),
        (
            "written to its disk meanwhile".to_owned(),
            format!("{written} bytes"),
            "goal 0".to_owned(),
        ),
        (
            "a store that starts from the same file".to_owned(),
            format!("{cold:.1} s"),
            String::new(),
        ),
        (
            "restore, while the ring serves: downloaded, verified, on disk".to_owned(),
            format!("{staged:.1} s"),
            String::new(),
        ),
        (
            "restore, while the ring is held: loaded".to_owned(),
            format!("{loaded:.1} s"),
            format!("{:.2} of the start's rate; goal 0.8", cold / loaded),
        ),
    ];
    rows_of(rounds.len(), &rows)
}
