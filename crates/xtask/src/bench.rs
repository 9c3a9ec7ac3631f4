//! `cargo xtask bench`: measures side by side, and writes what came of it into the documentation.

mod snapshot;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde::Deserialize;

use crate::{cluster, suite, workspace};

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Warm-ups against a bare `REPLICAOF`, and how soon a dead node leaves the endpoints.
    Operator {
        /// Data of one token, MiB.
        #[arg(long, default_value_t = 1024)]
        mebibytes: u64,
        /// Rounds; medians are told.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        #[command(flatten)]
        cluster: cluster::Options,
    },
    /// Snapshots and their loading against `redis-cli --rdb`, a plain upload, and a start from a file.
    Snapshot {
        /// Data of the store, MiB.
        #[arg(long, default_value_t = 1024)]
        mebibytes: u64,
        /// Rounds; medians are told.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// The sidecar's own tests, built for release already; else they are built.
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
    },
}

/// One round of `dynomite-bench`; times in seconds, memory in MiB.
#[derive(Clone, Copy, Deserialize)]
struct Round {
    withdrawn: f64,
    copied: f64,
    back: f64,
    bare: f64,
    resident: f64,
}

/// Measures, prints, and writes the page.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Operator {
            mebibytes,
            rounds,
            cluster,
        } => operator(*mebibytes, *rounds, cluster),
        Command::Snapshot {
            mebibytes,
            rounds,
            program,
        } => snapshot::run(*mebibytes, *rounds, program.as_deref()),
    }
}

fn operator(mebibytes: u64, rounds: usize, cluster: &cluster::Options) -> Result<()> {
    let args = [
        "--mebibytes".to_owned(),
        mebibytes.to_string(),
        "--rounds".to_owned(),
        rounds.to_string(),
    ];
    let printed = suite::program(cluster, "dynomite-bench", &args)?;
    let line = printed.lines().rfind(|line| line.starts_with('['));
    let line = line.unwrap_or_default();
    let rounds: Vec<Round> = serde_json::from_str(line).context("dynomite-bench prints rounds")?;
    ensure!(!rounds.is_empty(), "nothing was measured");
    let table = table(mebibytes, &rounds);
    println!("\n{table}");
    let picture = bars(&[
        ("bare REPLICAOF", median(&rounds, |round| round.bare)),
        ("the node's own copy", median(&rounds, |round| round.copied)),
        ("dead to serving again", median(&rounds, |round| round.back)),
    ]);
    let root = workspace::root();
    fs::write(root.join("docs/images/warm-up.svg"), picture)?;
    let section =
        format!("{table}\n![Seconds of a warm-up and of a bare copy](images/warm-up.svg)\n");
    replace_section(&root.join("docs/performance.md"), "warm-up", &section)
}

fn median<R>(rounds: &[R], of: impl Fn(&R) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(mebibytes: u64, rounds: &[Round]) -> String {
    let of = |f: fn(&Round) -> f64| median(rounds, f);
    let (bare, copied, back) = (of(|r| r.bare), of(|r| r.copied), of(|r| r.back));
    let rows = [
        (
            format!("bare `REPLICAOF` of {mebibytes} MiB"),
            format!("{bare:.1} s"),
            String::new(),
        ),
        (
            "copy of the same data by a node that warms up".to_owned(),
            format!("{copied:.1} s"),
            format!("{:.2} of the bare rate; goal 0.9", bare / copied),
        ),
        (
            "everything else: noticed, started again, cut over, back in the endpoints".to_owned(),
            format!("{:.1} s", back - copied),
            "goal 3 s".to_owned(),
        ),
        (
            "dead store to out of the endpoints".to_owned(),
            format!("{:.1} s", of(|r| r.withdrawn)),
            "goal 2 s".to_owned(),
        ),
        (
            "the sidecar's resident memory during the copy".to_owned(),
            format!("{:.1} MiB", of(|r| r.resident)),
            "goal 12 MiB".to_owned(),
        ),
    ];
    rows_of(rounds.len(), &rows)
}

/// A table of what was measured: what, how much, and a remark.
fn rows_of(rounds: usize, rows: &[(String, String, String)]) -> String {
    let mut text = format!("Medians of {rounds} rounds.\n\n| | measured | |\n|---|---|---|\n");
    for (what, value, remark) in rows {
        // Writing to memory does not fail.
        let _ = writeln!(text, "| {what} | {value} | {remark} |");
    }
    text
}

/// Horizontal bars of seconds.
fn bars(values: &[(&str, f64)]) -> String {
    const WIDTH: f64 = 640.0;
    const LABELS: f64 = 190.0;
    const ROW: f64 = 34.0;
    let longest = values.iter().map(|(_, value)| *value).fold(0.1, f64::max);
    let mut text = String::new();
    let mut y = 10.0;
    for (name, seconds) in values {
        let length = seconds / longest * (WIDTH - LABELS - 70.0);
        // Writing to memory does not fail.
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.0}\" height=\"20\" rx=\"3\" fill=\"#3b7dd8\"/>\
             <text x=\"{:.0}\" y=\"{}\">{seconds:.1} s</text>",
            LABELS - 10.0,
            y + 15.0,
            LABELS + length + 8.0,
            y + 15.0,
        );
        y += ROW;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"14\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{text}</svg>\n"
    )
}

/// Puts text between the two comments that mark a section.
fn replace_section(page: &std::path::Path, name: &str, content: &str) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let from = text.find(&begin).map(|at| at + begin.len());
    let to = text.find(&end);
    let (Some(from), Some(to)) = (from, to) else {
        anyhow::bail!("{} has no section {name}", page.display());
    };
    fs::write(page, format!("{}{content}{}", &text[..from], &text[to..]))?;
    Ok(())
}
