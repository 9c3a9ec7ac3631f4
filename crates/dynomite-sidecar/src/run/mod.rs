//! `dynomite-sidecar run`: the driver that lives one node's life, and the hands it starts.

mod desired_file;
pub(crate) mod disk;
mod donor;
mod driver;
mod engine;
#[cfg(test)]
mod fakes;
pub(crate) mod info;
mod pace;
mod sockets;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser};
use dynomite_api::contract::{DIR_DATA, DIR_RUN, DIR_TLS, env};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::shared::{INPUT_QUEUE, Input, Ports, Site};
use crate::{compare, http, plain, pulse, secure, snapshot, tunnel};

pub(crate) use sockets::current as store_socket;

/// `dynomite-sidecar run`
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The node's name
    #[arg(long, env = env::POD_NAME, default_value = "")]
    node: String,
    /// The pod's UID; grants name it
    #[arg(long, env = env::POD_UID, default_value = "")]
    pod_uid: String,
    /// Take the desired document from this file (JSON or YAML) and follow its
    /// changes, for a node without an operator
    #[arg(long)]
    desired: Option<PathBuf>,
    /// What the node's processes share: sockets, their files
    #[arg(long, default_value = DIR_RUN)]
    run_dir: PathBuf,
    /// The node's data
    #[arg(long, default_value = DIR_DATA)]
    data_dir: PathBuf,
    /// `tls.crt`, `tls.key` and `ca.crt`
    #[arg(long, default_value = DIR_TLS)]
    tls_dir: PathBuf,
    /// Where clients, peers, the operator and probes come in; every address of
    /// the machine by default
    #[arg(long)]
    listen: Option<IpAddr>,
    /// The loopback address for what only this node's processes use
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    local: IpAddr,
    /// Redis clients
    #[arg(long, default_value_t = Ports::default().client)]
    client_port: u16,
    /// Peers
    #[arg(long, default_value_t = Ports::default().peer)]
    peer_port: u16,
    /// The engine's REST
    #[arg(long, default_value_t = Ports::default().admin)]
    admin_port: u16,
    /// Probes, and what only describes
    #[arg(long, default_value_t = Ports::default().plain)]
    plain_port: u16,
    /// Mutual TLS: desired document, report, replication
    #[arg(long, default_value_t = Ports::default().secure)]
    secure_port: u16,
    /// The loopback port at which the store finds its donor
    #[arg(long, default_value_t = Ports::default().replication)]
    replication_port: u16,
    /// Standard input is the plain port's listener, and standard output takes
    /// the pulse: how the launcher starts the sidecar
    #[arg(long, hide = true)]
    beneath_launcher: bool,
}

/// The arguments alone, as the launcher passes them on.
#[derive(Debug, Parser)]
struct Alone {
    #[command(flatten)]
    arguments: Arguments,
}

/// Where the sidecar that is started with these arguments has its plain port.
///
/// # Errors
/// When they are none of its arguments.
pub(crate) fn plain_port(args: &[OsString]) -> anyhow::Result<(IpAddr, u16)> {
    let words = std::iter::once(OsStr::new("run")).chain(args.iter().map(OsString::as_os_str));
    let site = Alone::try_parse_from(words)?.arguments.site();
    Ok((site.listen, site.ports.plain))
}

impl Arguments {
    fn site(&self) -> Site {
        Site {
            run_dir: absolute(&self.run_dir),
            data_dir: absolute(&self.data_dir),
            tls_dir: absolute(&self.tls_dir),
            listen: self.listen.unwrap_or_else(everywhere),
            local: self.local,
            address: own_address(),
            ports: Ports {
                client: self.client_port,
                peer: self.peer_port,
                admin: self.admin_port,
                plain: self.plain_port,
                secure: self.secure_port,
                replication: self.replication_port,
            },
            node: self.node.clone(),
            pod_uid: self.pod_uid.clone(),
        }
    }
}

/// The store goes to its data directory before it looks for anything else.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The pod's own address.
pub(crate) fn own_address() -> Option<IpAddr> {
    std::env::var(env::POD_IP).ok()?.parse().ok()
}

/// Every address of this machine: both families where there are both. The
/// pod's own address tells which family a pod without both has.
pub(crate) fn everywhere() -> IpAddr {
    match own_address() {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// Runs the sidecar in one thread.
///
/// # Errors
/// When a directory, a port or the certificates cannot be used.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let site = Arc::new(arguments.site());
    disk::prepare(&site).context("cannot prepare the node's directories")?;
    let (inputs, heard) = mpsc::channel(INPUT_QUEUE);
    let credentials = secure::Credentials::watch(site.tls_dir.clone());
    let gate = Arc::<tunnel::Gate>::default();
    let client = secure::Client::new(credentials.clone());
    let comparer = Arc::new(compare::Comparer::new(Arc::clone(&site), client.clone()));
    let reach = donor::Reach {
        client,
        gate: Arc::clone(&gate),
    };
    let desk = Arc::new(snapshot::Desk::new(Arc::clone(&site))?);
    let beside = driver::Beside {
        desk: Arc::clone(&desk),
        comparer: Arc::clone(&comparer),
    };
    let driver = driver::Driver::new(Arc::clone(&site), heard, &inputs, reach, beside);
    let view = driver.view();
    tokio::spawn(snapshot::attend(Arc::clone(&desk), view.clone()));
    tokio::spawn(Arc::clone(&comparer).attend(view.clone()));
    tokio::spawn(pass_on_signals(inputs.clone())?);
    if let Some(file) = arguments.desired {
        let follow = desired_file::follow(file, Arc::clone(&site), view.clone(), inputs.clone());
        tokio::spawn(follow);
    }
    let traffic = Arc::<tunnel::Traffic>::default();
    let listener = if arguments.beneath_launcher {
        tokio::spawn(pulse::beat(pulse::heart()?, view.clone()));
        pulse::listener().context("cannot take over the plain port")?
    } else {
        http::listen(site.listen, site.ports.plain)?
    };
    let plain = plain::serve(
        listener,
        &site,
        view.clone(),
        inputs.clone(),
        Arc::clone(&traffic),
    );
    let secure = secure::serve(
        &site,
        credentials.clone(),
        view.clone(),
        inputs.clone(),
        Arc::clone(&traffic),
        secure::Asked { desk, comparer },
    );
    let tunnel = tunnel::serve(&site, credentials, view, inputs, traffic, gate);
    tokio::select! {
        () = driver.run() => Ok(ExitCode::SUCCESS),
        ended = plain => ended_early("the plain port", ended),
        ended = secure => ended_early("the mutual-TLS port", ended),
        ended = tunnel => ended_early("the replication tunnel", ended),
    }
}

fn ended_early(what: &str, ended: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    ended.with_context(|| format!("{what} failed"))?;
    anyhow::bail!("{what} ended")
}

/// Tells the driver that the sidecar was told to end.
fn pass_on_signals(
    inputs: mpsc::Sender<Input>,
) -> anyhow::Result<impl Future<Output = ()> + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if inputs.send(Input::Terminate).await.is_err() {
                return;
            }
        }
    })
}
