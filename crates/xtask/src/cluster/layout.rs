//! Where the embedded cluster keeps its things, what they are called, and the addresses it uses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Holds every embedded cluster's state. On disk rather than in memory: what a pod writes to a
/// volume in memory would count against that pod's memory limit.
const STATE: &str = "/var/lib/dynomite-cluster";

/// Longest name of a cluster: it is part of socket paths, which end at 108 bytes.
const NAME_LIMIT: usize = 20;

/// The nodes, one per zone.
pub(super) const NODES: [Node; 3] = [
    Node {
        index: 1,
        name: "node1",
        zone: "zone-a",
    },
    Node {
        index: 2,
        name: "node2",
        zone: "zone-b",
    },
    Node {
        index: 3,
        name: "node3",
        zone: "zone-c",
    },
];

// All ranges lie in 198.18.0.0/15, which is reserved for tests: nothing real is shadowed.

/// The control plane's address in the nodes' network.
pub(super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The range of Services.
pub(super) const SERVICES: &str = "198.18.64.0/18";
/// The first Service address, which Kubernetes gives to its own API.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 18, 64, 1);
/// The name server's Service address.
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 18, 64, 10);
/// The range of pods; each node has a part of it.
pub(super) const PODS: &str = "198.19.0.0/16";
/// The API server's port.
pub(super) const API_PORT: u16 = 6443;

/// One machine of the cluster, played by a network namespace and a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// From 1; part of its addresses.
    pub(super) index: u8,
    /// Its name in Kubernetes.
    pub(super) name: &'static str,
    /// Its `topology.kubernetes.io/zone`.
    pub(super) zone: &'static str,
}

impl Node {
    /// Finds a node by its name.
    pub(super) fn named(name: &str) -> Result<Self> {
        NODES
            .into_iter()
            .find(|node| node.name == name)
            .with_context(|| {
                let names = NODES.map(|node| node.name).join(", ");
                format!("there is no node {name}; the nodes are {names}")
            })
    }

    /// Its address in the nodes' network.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, 10 + self.index)
    }

    /// The range of its pods.
    pub(super) fn pods(self) -> String {
        format!("198.19.{}.0/24", self.index)
    }

    /// The end of its cable at the bridge.
    pub(super) fn cable(self) -> String {
        format!("ve{}", self.index)
    }

    /// Its network namespace, as seen inside the cluster.
    pub(super) fn namespace(self) -> PathBuf {
        Path::new("/run/netns").join(self.name)
    }
}

/// The files of one embedded cluster.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    name: String,
}

impl Layout {
    /// The files of the cluster `name`.
    pub(super) fn new(name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty()
                && name.len() <= NAME_LIMIT
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "a cluster's name has 1 to {NAME_LIMIT} lower-case letters, digits and dashes, not {name:?}"
        );
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// The cluster's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Everything that lives and dies with the cluster.
    pub(super) fn state(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// Held while the cluster is brought up or down; outside the state, which is deleted meanwhile.
    pub(super) fn lock(&self) -> PathBuf {
        Path::new(STATE).join(format!("{}.lock", self.name))
    }

    /// Who holds the cluster: a process id and when that process began.
    pub(super) fn holder(&self) -> PathBuf {
        self.state().join("holder")
    }

    /// How far the start has come, one event a line.
    pub(super) fn progress(&self) -> PathBuf {
        self.state().join("progress")
    }

    /// The socket on which the cluster takes orders.
    pub(super) fn control(&self) -> PathBuf {
        self.state().join("control.sock")
    }

    /// How people reach the cluster.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// Certificates, keys, and the components' kubeconfigs.
    pub(super) fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// One log per component.
    pub(super) fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// Who asked the API server what, one JSON object a line.
    pub(super) fn audit(&self) -> PathBuf {
        self.logs().join("audit.log")
    }

    /// One directory per node.
    pub(super) fn nodes(&self) -> PathBuf {
        self.state().join("nodes")
    }

    /// What belongs to one node.
    pub(super) fn node(&self, node: Node) -> PathBuf {
        self.nodes().join(node.name)
    }

    /// The socket of a node's containerd.
    pub(super) fn containerd(&self, node: Node) -> PathBuf {
        self.node(node).join("containerd.sock")
    }

    /// A `resolv.conf` that names the cluster's name server.
    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.state().join("resolv.conf")
    }

    /// The control group of the whole cluster, relative to each hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("dynomite-{}", self.name)
    }
}

/// Where built programs are kept across checkouts: `DYNOMITE_CACHE`, else
/// `dynomite-operator` in the user's cache directory.
pub(super) fn cache() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("DYNOMITE_CACHE") {
        return Ok(PathBuf::from(directory));
    }
    let caches = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither DYNOMITE_CACHE nor HOME says where built programs are to be kept")?;
    Ok(caches.join("dynomite-operator"))
}

/// Fills `{{name}}` in a template; a name without a value is a mistake of ours.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let filled = values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{{{name}}}}}"), value)
        });
    match filled.split_once("{{") {
        Some((_, rest)) => anyhow::bail!(
            "a template's {{{{{}}}}} has no value",
            rest.split("}}").next().unwrap_or_default()
        ),
        None => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_paths_are_refused() {
        for name in ["", "../x", "Upper", "a b", "a-name-that-is-far-too-long"] {
            assert!(Layout::new(name).is_err(), "{name:?}");
        }
        assert!(Layout::new("dynomite-2").is_ok());
    }

    #[test]
    fn socket_paths_fit_the_kernel_s_limit() {
        let layout = Layout::new(&"x".repeat(NAME_LIMIT)).unwrap();
        for node in NODES {
            let ttrpc = format!("{}.ttrpc", layout.containerd(node).display());
            assert!(ttrpc.len() < 108, "{ttrpc}");
        }
    }

    #[test]
    fn a_template_with_a_forgotten_value_is_an_error() {
        assert_eq!(fill("a {{b}} c", &[("b", "x")]).unwrap(), "a x c");
        let error = fill("{{b}} {{c}}", &[("b", "x")]).unwrap_err();
        assert!(error.to_string().contains("{{c}}"), "{error}");
    }
}
