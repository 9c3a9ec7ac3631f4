//! A recorded load: writes and remembers every operation, or reads what became of it.
//!
//! It prints `started`. `write` ends with its standard input, and after
//! `--seconds` at the latest, and leaves the history in a file; `read` prints
//! what each rack holds of it, and `backups` what is to be said of backups taken
//! meanwhile, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dynomite_e2e::chaos::{self, History, Judged, Rate, State};
use dynomite_e2e::ended::until_input_ends;
use dynomite_e2e::storage;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes counters, sets, lists and single values through all targets.
    Write {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String>,
        #[arg(long)]
        history: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 8)]
        writers: u64,
        /// Milliseconds between two operations of a writer.
        #[arg(long, default_value_t = 10)]
        pause: u64,
        #[arg(long, default_value_t = 7200)]
        seconds: u64,
    },
    /// Prints the keys of a history as each target has them.
    Read {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String>,
        #[arg(long)]
        history: PathBuf,
    },
    /// Prints what is to be said of backups.
    Backups {
        /// Where the tests' object storage listens, as `http://10.0.0.1:8333`.
        #[arg(long)]
        endpoint: String,
        /// Directories of backups in its bucket.
        #[arg(long, value_delimiter = ',')]
        directories: Vec<String>,
        #[arg(long)]
        history: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("started");
    match arguments.command {
        Command::Write {
            targets,
            history,
            seed,
            writers,
            pause,
            seconds,
        } => {
            let rate = Rate {
                writers,
                pause: Duration::from_millis(pause),
            };
            let written = chaos::write(&targets, seed, rate, &until_input_ends(seconds));
            let mut out = BufWriter::new(create(&history)?);
            written.save(&mut out)?;
            out.flush()?;
        }
        Command::Read { targets, history } => {
            let history = load(&history)?;
            let states: BTreeMap<&String, State> = targets
                .iter()
                .map(|target| Ok((target, chaos::read_state(target, &history)?)))
                .collect::<Result<_>>()?;
            println!("{}", serde_json::to_string(&states)?);
        }
        Command::Backups {
            endpoint,
            directories,
            history,
        } => {
            let history = load(&history)?;
            let (place, credentials) = storage::place(&endpoint);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let judged: Vec<Judged> = runtime.block_on(async {
                let mut judged = Vec::new();
                for directory in &directories {
                    let of = chaos::judge(&place, &credentials, directory, &history).await;
                    judged.push(of.with_context(|| directory.clone())?);
                }
                anyhow::Ok(judged)
            })?;
            println!("{}", serde_json::to_string(&judged)?);
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<History> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    History::load(BufReader::new(file))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}
