//! What runs inside the cluster's namespaces: process 1, and beneath it the one that starts and
//! watches all components.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::WaitOptions;

use super::cgroups::Hierarchies;
use super::control::{self, NodeAction};
use super::layout::{API_PORT, DNS_SERVICE, Layout, NODES, Node, fill};
use super::node::{self, Host};
use super::programs::Programs;
use super::supervisor::Supervisor;
use super::{control_plane, images};

const ADDONS: &str = include_str!("../../../../tests/cluster/config/addons.yaml");

/// How long each stage of the start may take, on a machine that is busy with other things.
const STAGE_LIMIT: Duration = Duration::from_mins(3);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(200);
/// The magic number of a file system that cannot carry another one like it.
const OVERLAYFS: i64 = 0x794c_7630;

/// A cluster that takes orders.
pub(super) struct Running {
    /// Runs nodes and components.
    pub(super) host: Host,
    nodes: Mutex<BTreeMap<&'static str, Power>>,
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    Cut,
    Off,
}

/// Runs as process 1 or, beneath it, as the cluster.
pub(super) fn run(layout: &Layout) -> Result<()> {
    if std::process::id() == 1 {
        reap(layout)
    } else {
        let result = start(layout);
        if let Err(error) = &result {
            report(layout, "error", &format!("{error:#}"))?;
        }
        result
    }
}

/// Orphans become children of process 1, so it does nothing but wait for children; it ends, and
/// with it everything in the namespaces, when the cluster's process does.
fn reap(layout: &Layout) -> Result<()> {
    let cluster = Command::new("/proc/self/exe")
        .args(["cluster", "--name", layout.name(), "inner"])
        .spawn()
        .context("starting the cluster's process")?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status)))
                if pid.as_raw_nonzero().get().cast_unsigned() == cluster.id() =>
            {
                bail!("the cluster's process ended: {status:?}");
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for children"),
        }
    }
}

fn start(layout: &Layout) -> Result<()> {
    report(layout, "stage", "control plane")?;
    let outside = host_listener()?;
    let port = outside.local_addr()?.port();
    isolate(layout)?;
    let hierarchies = Hierarchies::find()?;
    let group = control_plane::group(layout);
    hierarchies.create(&group)?;
    hierarchies.enter(&group, std::process::id())?;

    let programs = Programs::built()?;
    let archives = images::packed(&programs)?;
    let host = Host {
        layout: layout.clone(),
        supervisor: Supervisor::new(&layout.logs())?,
        programs,
    };
    node::create_network()?;
    control_plane::write_credentials(layout, port)?;
    fs::write(layout.state().join("resolv-none.conf"), "")?;
    for component in control_plane::api(layout, &host.programs)? {
        host.supervisor.start(component)?;
    }
    forward(outside);
    // The same port inside, so that one kubeconfig serves on both sides.
    forward(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?);

    // The nodes' first steps need no API server, and the API server takes its time.
    thread::scope(|scope| -> Result<()> {
        let nodes = NODES.map(|node| {
            let (host, archives) = (&host, &archives);
            scope.spawn(move || host.power_on(node, archives))
        });
        wait_until("the API server to be ready", &host, || api_ready(&host))?;
        report(layout, "stage", "containerd on three nodes")?;
        for node in nodes {
            node.join()
                .map_err(|_| anyhow::anyhow!("a node's start panicked"))??;
        }
        Ok(())
    })?;

    report(layout, "stage", "three nodes Ready")?;
    for component in control_plane::controllers(layout, &host.programs) {
        host.supervisor.start(component)?;
    }
    for node in NODES {
        host.join(node)?;
    }
    node::route_services(NODES[0])?;
    create_addons(&host)?;
    wait_until("three nodes to be Ready", &host, || nodes_ready(&host))?;
    report(layout, "stage", "cluster DNS")?;
    wait_until("CoreDNS to be available", &host, || dns_ready(&host))?;

    let listener = control::listen(layout)?;
    host.supervisor.started();
    report(layout, "done", "")?;
    let running = Running {
        host,
        nodes: Mutex::new(NODES.map(|node| (node.name, Power::On)).into()),
    };
    control::serve(&listener, &running);
    Ok(())
}

impl Running {
    /// What runs, for people: nodes first.
    pub(super) fn report(&self) -> String {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<_> = nodes
            .iter()
            .map(|(name, power)| {
                let word = match power {
                    Power::On => "on",
                    Power::Cut => "cut off the network",
                    Power::Off => "switched off",
                };
                format!("{name}\t{word}")
            })
            .collect();
        format!("{}\n{}\n", lines.join("\n"), self.host.supervisor.report())
    }

    /// Does something to a node; what is already so is no error.
    pub(super) fn node(&self, node: Node, action: NodeAction) -> Result<()> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = nodes.get(node.name).copied().unwrap_or(Power::On);
        let next = match (action, now) {
            (NodeAction::Cut | NodeAction::Join, Power::Off) => {
                bail!("{} is switched off: start it first", node.name)
            }
            (NodeAction::Cut, _) => {
                node::set_cable(node, false)?;
                Power::Cut
            }
            (NodeAction::Join, _) => {
                node::set_cable(node, true)?;
                Power::On
            }
            (NodeAction::Stop, Power::Off) => Power::Off,
            (NodeAction::Stop, _) => {
                // Said first: half switched off is off, and starting it cleans up.
                nodes.insert(node.name, Power::Off);
                self.host.power_off(node)?;
                Power::Off
            }
            (NodeAction::Start, Power::Off) => {
                self.host.power_on(node, &[])?;
                self.host.join(node)?;
                Power::On
            }
            (NodeAction::Start, other) => other,
        };
        nodes.insert(node.name, next);
        // Tests reach Services from outside the nodes by way of one that is connected.
        let connected = NODES
            .into_iter()
            .find(|node| nodes.get(node.name) == Some(&Power::On));
        match connected {
            Some(node) => node::route_services(node),
            None => Ok(()),
        }
    }
}

/// The listening socket of the host's loopback, which came as standard input: sockets keep the
/// network they were made in, so this one leads in without a process outside.
fn host_listener() -> Result<TcpListener> {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr().context(
        "standard input is no listening socket: `cluster inner` is started by `cluster up`",
    )?;
    Ok(listener)
}

/// Hands every connection to the API server, for as long as this process lives.
fn forward(listener: TcpListener) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, API_PORT);
                // A refused connection closes the client's: the API server is away.
                if let Ok(server) = TcpStream::connect(address) {
                    let _ = relay(&client, &server);
                }
            });
        }
    });
}

/// Copies both ways until both sides have said all they have to say.
fn relay(client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| pump(client, server));
        pump(server, client);
    });
    Ok(())
}

/// An error on one side ends the other too, so that nothing waits for ever.
fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let how = match std::io::copy(&mut from, &mut to) {
        Ok(_) => std::net::Shutdown::Write,
        Err(_) => std::net::Shutdown::Both,
    };
    let _ = to.shutdown(how);
}

/// Makes the mounts the cluster's own: nothing it mounts is seen outside, and what it writes to
/// the places that programs have hard-wired reaches no host.
fn isolate(layout: &Layout) -> Result<()> {
    let everything = MountPropagationFlags::REC;
    mount_change("/", everything | MountPropagationFlags::PRIVATE)?;
    // The kubelet asks for mounts that spread into containers; they spread no further than here.
    mount_change("/", everything | MountPropagationFlags::SHARED)?;
    for directory in ["/run", "/var/log", "/var/lib/cni", node::KUBELET_DIRECTORY] {
        fs::create_dir_all(directory)?;
        mount_memory(directory.as_ref())?;
    }
    fs::create_dir_all("/run/netns")?;
    let nodes = layout.nodes();
    fs::create_dir_all(&nodes)?;
    if rustix::fs::statfs(&nodes)?.f_type == OVERLAYFS {
        mount_memory(&nodes)?;
    }
    rustix::system::sethostname(layout.cgroup().as_bytes())?;
    Ok(())
}

fn mount_memory(directory: &Path) -> Result<()> {
    mount(
        "tmpfs",
        directory,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=755"),
    )
    .with_context(|| format!("mounting memory on {}", directory.display()))
}

/// Adds an event to the file that `cluster up` follows; a line each, whatever is in it.
fn report(layout: &Layout, event: &str, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.progress())?;
    let line = format!("{event}\t{}\n", serde_json::to_string(text)?);
    Ok(file.write_all(line.as_bytes())?)
}

fn wait_until(what: &str, host: &Host, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !condition()? {
        host.supervisor.check()?;
        if begun.elapsed() > STAGE_LIMIT {
            bail!(
                "waited {} s for {what}; logs are in {}",
                STAGE_LIMIT.as_secs(),
                host.layout.logs().display()
            );
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn kubectl(host: &Host) -> Command {
    let mut command = Command::new(host.programs.kubernetes("kubectl"));
    command
        .env("KUBECONFIG", host.layout.pki().join("admin.kubeconfig"))
        .env("KUBECACHEDIR", host.layout.state().join("kubectl-cache"))
        .stdin(Stdio::null());
    command
}

/// What kubectl prints; nothing while it fails, which is what waiting is for.
fn printed(host: &Host, arguments: &[&str]) -> Result<String> {
    let output = kubectl(host).args(arguments).output()?;
    if !output.status.success() {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn api_ready(host: &Host) -> Result<bool> {
    // Much cheaper than kubectl, and the server needs the processor now.
    if TcpStream::connect((Ipv4Addr::LOCALHOST, API_PORT)).is_err() {
        return Ok(false);
    }
    Ok(printed(host, &["get", "--raw", "/readyz"])? == "ok")
}

fn nodes_ready(host: &Host) -> Result<bool> {
    let template = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let ready = printed(host, &["get", "nodes", "--output", template])?;
    Ok(ready
        .split_whitespace()
        .filter(|status| *status == "True")
        .count()
        == NODES.len())
}

fn dns_ready(host: &Host) -> Result<bool> {
    let template = "jsonpath={.status.availableReplicas}/{.spec.replicas}";
    let replicas = printed(
        host,
        &[
            "--namespace=kube-system",
            "get",
            "deployment",
            "coredns",
            "--output",
            template,
        ],
    )?;
    Ok(replicas
        .split_once('/')
        .is_some_and(|(available, wanted)| available == wanted))
}

fn create_addons(host: &Host) -> Result<()> {
    let manifest = fill(
        ADDONS,
        &[
            ("coredns", images::COREDNS),
            ("dns", &DNS_SERVICE.to_string()),
        ],
    )?;
    let path: PathBuf = host.layout.state().join("addons.yaml");
    fs::write(&path, manifest)?;
    let output = kubectl(host)
        .args(["create", "--validate=false", "--filename"])
        .arg(&path)
        .output()?;
    ensure!(
        output.status.success(),
        "creating the addons: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
