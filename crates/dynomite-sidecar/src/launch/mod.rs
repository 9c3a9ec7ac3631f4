//! The launcher: PID 1 of every container, which starts and stops its program as the sidecar says.
//!
//! `dynomite-sidecar launch NAME -- PROGRAM ARGS...` boots holding: it starts
//! nothing until the sidecar, connected to `<run>/launch/NAME.sock`, says so. A
//! crash of the program is told, not repaired; SIGTERM is told and holds the
//! program until the sidecar orders the stop, so that a node leaves its ring in
//! order. The decisions and their diagram are in [`machine`].
//!
//! Both sides send lines of JSON ([`protocol`]):
//!
//! ```text
//! sidecar -> launcher   {"command":"start"}
//!                       {"command":"stop","grace_ms":5000}
//!                       {"command":"status"}
//! launcher -> sidecar   {"event":"status","running":{"pid":7,"incarnation":"18f3-1"},
//!                        "starts":1,"last_exit":"","terminating":false}
//!                       {"event":"started","pid":7,"incarnation":"18f3-1","starts":1}
//!                       {"event":"exited","how":"exit status 1"}
//!                       {"event":"terminating"}
//!                       {"event":"refused","why":"..."}
//! ```
//!
//! A connection begins with `status`. `dynomite-sidecar launch sidecar` is the
//! launcher of the sidecar itself: it lays out the shared volume, runs
//! `dynomite-sidecar run` and runs it again when it crashes, without a socket.

mod client;
pub(crate) mod machine;
pub(crate) mod memory;
mod process;
pub(crate) mod protocol;
mod server;
mod sidecar;
mod voice;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use dynomite_api::contract::DIR_RUN;

pub(crate) use client::Client;
pub(crate) use sidecar::prepare;

/// The launcher that needs no program: it runs the sidecar.
const SIDECAR: &str = "sidecar";

/// `dynomite-sidecar launch`
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The launcher's name: `sidecar`, or what the sidecar calls the program
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// The directory that all containers of the pod share
    #[arg(long, default_value = DIR_RUN)]
    pub(crate) run_dir: PathBuf,
    /// Seconds to wait, when the container is to end, for the sidecar to order
    /// the stop; keep it below the pod's termination grace period
    #[arg(long, default_value_t = 25)]
    pub(crate) grace: u64,
    /// The program and its arguments; for `sidecar`, further arguments of `run`
    #[arg(last = true)]
    pub(crate) program: Vec<OsString>,
}

/// A launcher's name becomes a file's name.
fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 32
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("give up to 32 lower-case letters, digits and dashes".to_owned())
    }
}

/// Where the launchers of a pod have their sockets.
pub(crate) fn sockets_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("launch")
}

/// Runs the launcher, in one thread: there is one for every container.
///
/// # Errors
/// When no program is given, or the shared volume or the socket cannot be made.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(launch(arguments))
}

async fn launch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.name == SIDECAR {
        return sidecar::run(&arguments.run_dir, &arguments.program).await;
    }
    let Some((program, args)) = arguments.program.split_first() else {
        anyhow::bail!("give the program to launch after `--`");
    };
    let options = server::Options {
        name: arguments.name,
        sockets: sockets_dir(&arguments.run_dir),
        program: PathBuf::from(program),
        args: args.to_vec(),
        grace: Duration::from_secs(arguments.grace),
    };
    server::run(options).await?;
    Ok(ExitCode::SUCCESS)
}
