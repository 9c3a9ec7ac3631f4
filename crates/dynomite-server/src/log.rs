//! Where log lines go, and which.

use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::filter::LevelFilter;

use crate::flags::Flags;

/// The levels of the original run from 0 to 11; 5 is "notice".
fn level(verbosity: u8) -> LevelFilter {
    match verbosity {
        0..=3 => LevelFilter::ERROR,
        4 => LevelFilter::WARN,
        5 | 6 => LevelFilter::INFO,
        7..=10 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

pub(crate) fn init(flags: &Flags) -> anyhow::Result<()> {
    let format = tracing_subscriber::fmt()
        .with_max_level(level(flags.verbosity))
        .with_target(false);
    match &flags.output {
        None => format.with_writer(std::io::stderr).with_ansi(false).init(),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("cannot open log file '{}'", path.display()))?;
            format.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
    }
    Ok(())
}
