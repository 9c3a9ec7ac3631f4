//! The `dynomite` binary: sockets and a clock around `dynomite-engine`.

mod admin;
mod clock;
mod driver;
mod event;
mod flags;
mod limits;
mod listen;
mod log;
mod seeds_provider;
mod socket;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use dynomite_protocol::config::Config;

use crate::flags::Flags;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.describe_stats {
        print!("{}", admin::DESCRIPTIONS);
        return ExitCode::SUCCESS;
    }
    if flags.test_conf {
        return test_config(&flags);
    }
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynomite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_config(flags: &Flags) -> anyhow::Result<Config> {
    let path = flags.conf_file.display();
    let text = std::fs::read_to_string(&flags.conf_file)
        .with_context(|| format!("cannot read configuration file '{path}'"))?;
    text.parse()
        .with_context(|| format!("configuration file '{path}'"))
}

fn test_config(flags: &Flags) -> ExitCode {
    let path = flags.conf_file.display();
    match read_config(flags) {
        Ok(_) => {
            eprintln!("dynomite: configuration file '{path}' syntax is valid");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dynomite: {error:#}");
            eprintln!("dynomite: configuration file '{path}' syntax is invalid");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    anyhow::ensure!(
        !flags.daemonize,
        "-d (daemonize) is not built: let systemd or the container run dynomite in the foreground"
    );
    let config = read_config(flags)?;
    log::init(flags)?;
    for remark in &config.remarks {
        tracing::warn!("{remark}");
    }
    if let Some(path) = &flags.pid_file {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("cannot write pid file '{}'", path.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let ended = local.block_on(&runtime, driver::run(&config));
    if let Some(path) = &flags.pid_file {
        // The process ends whether or not the file can be removed.
        let _ = std::fs::remove_file(path);
    }
    ended
}
