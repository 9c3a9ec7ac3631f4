//! `dynomite-sidecar verify`: the sidecar of a pod that is no node, whose store loads backups to prove them.
//!
//! It serves the mutual-TLS port with what opens object storage and with work in it, as a node's
//! sidecar does; nobody can give it a desired document.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use dynomite_api::contract::{DIR_DATA, DIR_RUN, DIR_TLS, NodeReport, env};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::compare::Comparer;
use crate::launch;
use crate::run::{disk, everywhere, own_address};
use crate::secure;
use crate::shared::{INPUT_QUEUE, Input, Ports, ProcessEvent, ProcessName, Site, View};
use crate::snapshot::{Desk, Process, Scratch};
use crate::tunnel;

/// How often the report is made anew.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// `dynomite-sidecar verify`
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The pod's name
    #[arg(long, env = env::POD_NAME, default_value = "")]
    node: String,
    /// The pod's UID; what is asked names it
    #[arg(long, env = env::POD_UID, default_value = "")]
    pod_uid: String,
    /// What the pod's processes share: sockets, their files
    #[arg(long, default_value = DIR_RUN)]
    run_dir: PathBuf,
    /// Where a backup is staged
    #[arg(long, default_value = DIR_DATA)]
    data_dir: PathBuf,
    /// `tls.crt`, `tls.key` and `ca.crt`
    #[arg(long, default_value = DIR_TLS)]
    tls_dir: PathBuf,
}

impl Arguments {
    fn site(&self) -> Site {
        Site {
            run_dir: self.run_dir.clone(),
            data_dir: self.data_dir.clone(),
            tls_dir: self.tls_dir.clone(),
            listen: everywhere(),
            local: std::net::Ipv4Addr::LOCALHOST.into(),
            address: own_address(),
            ports: Ports::default(),
            node: self.node.clone(),
            pod_uid: self.pod_uid.clone(),
        }
    }
}

/// Runs until the pod is told to end.
///
/// # Errors
/// When a directory, a port or the certificates cannot be used.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments.site()))
}

async fn run(site: Site) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    launch::prepare(&site.run_dir, &binary)?;
    disk::prepare(&site).context("cannot prepare the directories")?;
    let site = Arc::new(site);
    let credentials = secure::Credentials::watch(site.tls_dir.clone());
    let (inputs, heard) = mpsc::channel(INPUT_QUEUE);
    let gate = Arc::<tunnel::Gate>::default();
    let desk = Arc::new(Desk::new(Arc::clone(&site))?);
    let view = watch::Sender::new(view(&site));
    let seen = view.subscribe();
    scratch(&site, &gate, &desk, &inputs, heard);
    // Without a desired document it answers nobody.
    let client = secure::Client::new(credentials.clone());
    let comparer = Arc::new(Comparer::new(Arc::clone(&site), client));
    let asked = secure::Asked {
        desk: Arc::clone(&desk),
        comparer,
    };
    let secure = secure::serve(
        &site,
        credentials.clone(),
        seen.clone(),
        inputs.clone(),
        Arc::default(),
        asked,
    );
    let traffic = Arc::default();
    let tunnel = tunnel::serve(&site, credentials, seen, inputs, traffic, gate);
    tokio::select! {
        ended = secure => ended?,
        ended = tunnel => ended?,
        () = report(&desk, &view) => {}
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    }
    anyhow::bail!("a server ended")
}

/// Has the desk load into the store of this pod.
pub(crate) fn scratch(
    site: &Arc<Site>,
    gate: &Arc<tunnel::Gate>,
    desk: &Desk,
    inputs: &mpsc::Sender<Input>,
    heard: mpsc::Receiver<Input>,
) {
    let socket = site.launcher_socket(ProcessName::Store);
    let launcher = launch::Client::spawn(ProcessName::Store, socket, inputs.clone());
    let process = watch::Sender::default();
    let of_process = process.subscribe();
    tokio::spawn(follow(heard, launcher.clone(), process));
    desk.loads_into(Scratch::new(
        Arc::clone(site),
        Arc::clone(gate),
        launcher,
        of_process,
    ));
}

/// Notes what the store's launcher says. Whoever wants anything else of a node gets no answer.
async fn follow(
    mut heard: mpsc::Receiver<Input>,
    launcher: launch::Client,
    process: watch::Sender<Process>,
) {
    while let Some(input) = heard.recv().await {
        let Input::Process(_, event) = input else {
            continue;
        };
        match event {
            ProcessEvent::LauncherUp { running } => {
                process.send_modify(|process| {
                    process.launcher = true;
                    process.running = running;
                });
            }
            ProcessEvent::Started { .. } => process.send_modify(|process| process.running = true),
            ProcessEvent::Exited { how } => ended(&process, true, how),
            ProcessEvent::LauncherGone => ended(&process, false, "its container ended".to_owned()),
            // Nothing of it is kept.
            ProcessEvent::Terminating => launcher.stop(Duration::ZERO),
        }
    }
}

fn ended(process: &watch::Sender<Process>, launcher: bool, how: String) {
    process.send_replace(Process {
        launcher,
        running: false,
        last_exit: how,
    });
}

/// Shows the operator which credentials are held.
async fn report(desk: &Desk, view: &watch::Sender<View>) {
    let mut look = tokio::time::interval(REPORT_EVERY);
    loop {
        look.tick().await;
        view.send_modify(|view| {
            view.report.at = Timestamp::now();
            desk.add_to(&mut view.report);
        });
    }
}

/// What is told of a pod that has no data of a ring and serves nobody.
fn view(site: &Site) -> View {
    View {
        report: NodeReport {
            reason: "ScratchStore".to_owned(),
            message: "it loads backups to prove them, and is no node of the ring".to_owned(),
            ..NodeReport::new(
                &site.node,
                &site.pod_uid,
                env!("CARGO_PKG_VERSION"),
                Timestamp::now(),
            )
        },
        desired: None,
        started: true,
        ready: false,
        live: true,
        donor: None,
        donates: false,
        store_socket: site.store_private_socket(),
        operator_heard_at: None,
        seeds: Arc::default(),
    }
}
