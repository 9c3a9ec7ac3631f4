//! A recorded load: writes and remembers every operation, or reads what became of it.
//!
//! It prints `started`. `write` ends with its standard input, and after
//! `--seconds` at the latest, and leaves the history in a file; `read` prints
//! what each rack holds of it, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dynomite_e2e::chaos::{self, History, Rate, State};
use dynomite_e2e::ended::until_input_ends;

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
            let file = File::open(&history).with_context(|| history.display().to_string())?;
            let history = History::load(BufReader::new(file))?;
            let states: BTreeMap<&String, State> = targets
                .iter()
                .map(|target| Ok((target, chaos::read_state(target, &history)?)))
                .collect::<Result<_>>()?;
            println!("{}", serde_json::to_string(&states)?);
        }
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}
