//! The hand in every pod: `launch` holds one process, `run` lives the node's life.

mod compare;
mod engine_rest;
mod export;
#[cfg(test)]
mod fixture;
mod http;
mod launch;
mod plain;
mod pulse;
mod render;
mod run;
mod secure;
mod shared;
mod snapshot;
mod tunnel;
mod verify;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(name = "dynomite-sidecar", version, about)]
struct Arguments {
    /// How to write the log.
    #[arg(
        long,
        global = true,
        env = "DYNOMITE_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// What to log: a level, or directives as in `info,dynomite_sidecar::tunnel=debug`.
    #[arg(long, global = true, env = "DYNOMITE_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold one process of the node and obey the sidecar.
    Launch(launch::Arguments),
    /// Live the node's life: health, warm-up, seeds, reports.
    Run(run::Arguments),
    /// Load backups into a scratch store and compare, as the operator asks.
    Verify(verify::Arguments),
    /// Write a backup as the commands that make it again, to standard output.
    Export(export::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_log(&arguments) {
        eprintln!("dynomite-sidecar: {error:#}");
        return ExitCode::from(2);
    }
    let outcome = match arguments.command {
        Command::Launch(arguments) => launch::main(arguments),
        Command::Run(arguments) => run::main(arguments),
        Command::Verify(arguments) => verify::main(&arguments),
        Command::Export(arguments) => export::main(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
