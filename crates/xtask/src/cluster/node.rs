//! One node: its network, control groups, containerd, kubelet and kube-proxy; how it dies and comes back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::cgroups::Hierarchies;
use super::control_plane::arguments;
use super::layout::{CONTROL_PLANE, DNS_SERVICE, Layout, NODES, Node, PODS, SERVICES, fill};
use super::programs::Programs;
use super::supervisor::{Component, Supervisor};
use super::{images, packages};

const CNI: &str = include_str!("../../../../tests/cluster/config/cni.conflist");
const CONTAINERD: &str = include_str!("../../../../tests/cluster/config/containerd.toml");
const KUBELET: &str = include_str!("../../../../tests/cluster/config/kubelet.yaml");
const KUBE_PROXY: &str = include_str!("../../../../tests/cluster/config/kube-proxy.yaml");

/// Where every kubelet puts its socket for device plugins, whatever it is told.
pub(super) const KUBELET_DIRECTORY: &str = "/var/lib/kubelet";
/// The bridge that connects the nodes with the control plane.
const BRIDGE: &str = "nodes";
/// How long containerd may take to open its socket.
const CONTAINERD_START: Duration = Duration::from_secs(20);

/// What a node's life takes.
#[derive(Clone)]
pub(super) struct Host {
    /// The cluster's files.
    pub(super) layout: Layout,
    /// The built programs.
    pub(super) programs: Programs,
    /// Runs the node's components.
    pub(super) supervisor: Supervisor,
}

/// Lays the cable between the control plane and nodes to come.
pub(super) fn create_network() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    ip(&format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge\n\
         addr add {CONTROL_PLANE}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    ))
}

/// Makes Services reachable from the control plane's network, by way of a connected node.
pub(super) fn route_services(node: Node) -> Result<()> {
    ip(&format!(
        "route replace {SERVICES} via {}\n",
        node.address()
    ))
}

impl Host {
    /// Connects a node and starts its containerd with the images it cannot pull.
    pub(super) fn power_on(&self, node: Node, archives: &[PathBuf]) -> Result<()> {
        connect(node)?;
        self.write_configuration(node)?;
        let hierarchies = Hierarchies::find()?;
        hierarchies.create(&self.system_group(node))?;
        let directory = self.layout.node(node);
        self.supervisor.start(self.component(
            node,
            "containerd",
            packages::find("containerd").context("containerd is not installed")?,
            vec![
                "--config".to_owned(),
                directory.join("containerd.toml").display().to_string(),
            ],
        ))?;
        let socket = self.layout.containerd(node);
        wait_for_containerd(&socket, || self.supervisor.check())?;
        for archive in archives {
            import(&socket, archive)?;
        }
        Ok(())
    }

    /// Starts what makes the node part of the cluster.
    pub(super) fn join(&self, node: Node) -> Result<()> {
        let directory = self.layout.node(node).display().to_string();
        let pki = self.layout.pki().display().to_string();
        let labels = format!(
            "topology.kubernetes.io/zone={},topology.kubernetes.io/region=local",
            node.zone
        );
        let kubelet = arguments(&[
            ("config", &format!("{directory}/kubelet.yaml")),
            (
                "kubeconfig",
                &format!("{pki}/{}-kubelet.kubeconfig", node.name),
            ),
            ("hostname-override", node.name),
            ("node-ip", &node.address().to_string()),
            ("root-dir", &format!("{directory}/kubelet")),
            ("cert-dir", &format!("{directory}/kubelet/pki")),
            ("node-labels", &labels),
        ]);
        let proxy = arguments(&[("config", &format!("{directory}/kube-proxy.yaml"))]);
        for (name, arguments) in [("kubelet", kubelet), ("kube-proxy", proxy)] {
            let program = self.programs.kubernetes(name);
            self.supervisor
                .start(self.component(node, name, program, arguments))?;
        }
        Ok(())
    }

    /// What a power cut does: every process of the node is gone at once, and with them what a
    /// machine keeps only in memory; its disk stays.
    pub(super) fn power_off(&self, node: Node) -> Result<()> {
        let prefix = format!("{}-", node.name);
        // The cable first: a machine without power says no farewell to its peers.
        if has_cable(node)? {
            set_cable(node, false)?;
        }
        self.supervisor
            .stop_where(|name| name.starts_with(&prefix))?;
        Hierarchies::find()?.kill(&self.group(node))?;
        let directory = self.layout.node(node);
        unmount_below(&directory)?;
        for volatile in ["containerd/state", "ipam"] {
            let path = directory.join(volatile);
            if path.exists() {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("clearing {}", path.display()))?;
            }
        }
        disconnect(node)
    }

    fn component(
        &self,
        node: Node,
        name: &str,
        program: PathBuf,
        arguments: Vec<String>,
    ) -> Component {
        Component {
            name: format!("{}-{name}", node.name),
            program,
            arguments,
            network: Some(node.namespace()),
            own_directory: (name == "kubelet").then_some(KUBELET_DIRECTORY),
            group: self.system_group(node),
        }
    }

    fn group(&self, node: Node) -> String {
        format!("{}/{}", self.layout.cgroup(), node.name)
    }

    /// Beside the pods' groups: containerd, its shims and the kubelet are no part of any pod.
    fn system_group(&self, node: Node) -> String {
        format!("{}/system", self.group(node))
    }

    fn write_configuration(&self, node: Node) -> Result<()> {
        let directory = self.layout.node(node);
        fs::create_dir_all(directory.join("cni"))?;
        // The scheduler's choice of this node must find it in place.
        fs::create_dir_all(directory.join("volumes"))?;
        let plugins = packages::plugin_directory().context("the network plugins are missing")?;
        let values = [
            ("cgroup", format!("/{}", self.group(node))),
            ("cni", plugins.display().to_string()),
            ("dir", directory.display().to_string()),
            ("dns", DNS_SERVICE.to_string()),
            ("node", node.name.to_owned()),
            ("pause", images::PAUSE.to_owned()),
            ("pki", self.layout.pki().display().to_string()),
            ("state", self.layout.state().display().to_string()),
        ];
        let with = |pods: &str, template: &str| -> Result<String> {
            let mut values: Vec<_> = values
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            values.push(("pods", pods));
            fill(template, &values)
        };
        fs::write(
            directory.join("cni/10-pods.conflist"),
            with(&node.pods(), CNI)?,
        )?;
        fs::write(directory.join("containerd.toml"), with("", CONTAINERD)?)?;
        fs::write(directory.join("kubelet.yaml"), with("", KUBELET)?)?;
        fs::write(directory.join("kube-proxy.yaml"), with(PODS, KUBE_PROXY)?)?;
        Ok(())
    }
}

/// Takes a node off the network, or puts it back: its processes notice nothing but silence.
pub(super) fn set_cable(node: Node, connected: bool) -> Result<()> {
    let state = if connected { "up" } else { "down" };
    ip(&format!("link set {} {state}\n", node.cable()))
}

/// Removes the node's network, as much of it as there is. The cable is named too: with its
/// namespace it would go only when the kernel gets round to it.
fn disconnect(node: Node) -> Result<()> {
    if has_cable(node)? {
        ip(&format!("link delete {}\n", node.cable()))?;
    }
    if node.namespace().exists() {
        ip(&format!("netns delete {}\n", node.name))?;
    }
    Ok(())
}

fn has_cable(node: Node) -> Result<bool> {
    Ok(Command::new("ip")
        .args(["link", "show", &node.cable()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("starting ip")?
        .success())
}

/// Makes the node's network: a namespace, a cable to the bridge, routes to everyone's pods.
fn connect(node: Node) -> Result<()> {
    let (name, cable) = (node.name, node.cable());
    disconnect(node)?;
    ip(&format!(
        "netns add {name}\n\
         link add {cable} type veth peer name eth0 netns {name}\n\
         link set {cable} master {BRIDGE} up\n\
         route replace {} via {}\n",
        node.pods(),
        node.address(),
    ))?;
    let others: Vec<_> = NODES
        .into_iter()
        .filter(|other| *other != node)
        .map(|other| format!("route add {} via {}", other.pods(), other.address()))
        .collect();
    let inside = format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {CONTROL_PLANE}\n\
         {}\n",
        node.address(),
        others.join("\n"),
    );
    batch(Command::new("ip").args(["-n", name]), &inside)?;
    let status = Command::new("nsenter")
        .arg(format!("--net={}", node.namespace().display()))
        .args(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        .status()?;
    ensure!(status.success(), "{name} cannot forward packets");
    Ok(())
}

fn ip(commands: &str) -> Result<()> {
    batch(&mut Command::new("ip"), commands)
}

fn batch(ip: &mut Command, commands: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    child
        .stdin
        .take()
        .context("ip's input")?
        .write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip: {}; it was told:\n{commands}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The socket appears before containerd answers on it, so it is asked for its version.
fn wait_for_containerd(socket: &Path, check: impl Fn() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let answers = socket.exists()
            && Command::new("ctr")
                .arg("--address")
                .arg(socket)
                .arg("version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?
                .success();
        if answers {
            return Ok(());
        }
        check()?;
        if begun.elapsed() > CONTAINERD_START {
            bail!("containerd does not answer on {}", socket.display());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Gives a node the images of an archive.
pub(super) fn import(socket: &Path, archive: &Path) -> Result<()> {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .stdin(Stdio::null())
        .output()
        .context("starting ctr")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "importing {}: {}",
        archive.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // Images of another platform are left out without a word of it.
    ensure!(
        !printed.trim().is_empty(),
        "{} holds no image for this machine",
        archive.display()
    );
    Ok(())
}

/// Unmounts everything below a directory, the deepest and latest first.
fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let inside: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        // The table writes blanks in paths as octal numbers; ours have none.
        .filter(|path| Path::new(path) != directory && Path::new(path).starts_with(directory))
        .collect();
    for path in inside.into_iter().rev() {
        match unmount(path, UnmountFlags::DETACH) {
            // What is mounted twice at one place may go with its twin.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {path}")),
        }
    }
    Ok(())
}
