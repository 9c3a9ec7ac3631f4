//! What the sidecar's hands and its driver share: where the node lives, what the hands say, what the driver shows.
//!
//! The driver (`run`) owns the node's life and calls the hands:
//!
//! - `launch::Client::spawn(name, socket, inputs)` keeps a connection to one
//!   launcher and reports what it says; `start()` and `stop(grace)` only queue
//!   an order, never wait, and can be repeated: starting what runs answers
//!   `Started` again.
//! - `secure::serve(site: Arc<Site>, view: watch::Receiver<View>, inputs: Sender<Input>)`,
//!   `tunnel::serve(..)` and `plain::serve(..)` take the same three, bind their
//!   own ports and run until the sidecar ends; an `anyhow::Error` is fatal.
//! - `render::engine_conf` and `render::store_conf` are pure.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use dynomite_api::Token;
use dynomite_api::contract::{self, Donor, NodeDesired, NodeReport, Peer};
pub(crate) use dynomite_lifecycle::{ProcessEvent, ProcessName};
use dynomite_lifecycle::{Refusal, Word};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How many messages of the hands may wait for the driver; a hand that finds
/// the queue full waits.
pub(crate) const INPUT_QUEUE: usize = 256;

/// Where the node lives on its machine: directories, addresses, ports.
///
/// In a pod all of it is fixed by the contract; several nodes on one machine
/// differ in their directories and in one address each.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The volume shared by the pod's containers.
    pub(crate) run_dir: PathBuf,
    /// The node's data.
    pub(crate) data_dir: PathBuf,
    /// `tls.crt`, `tls.key`, `ca.crt`.
    pub(crate) tls_dir: PathBuf,
    /// Where clients, peers and the sidecar's two ports listen; unspecified
    /// means every address of the machine.
    pub(crate) listen: IpAddr,
    /// Where only this node's own processes listen: the engine's REST port and
    /// the replication tunnel.
    pub(crate) local: IpAddr,
    /// At which address the other nodes find this one, where that changes.
    pub(crate) address: Option<IpAddr>,
    /// The ports.
    pub(crate) ports: Ports,
    /// The node's name, for reports made before a desired document is known.
    pub(crate) node: String,
    /// The pod's UID; empty outside Kubernetes.
    pub(crate) pod_uid: String,
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Redis clients.
    pub(crate) client: u16,
    /// Peers.
    pub(crate) peer: u16,
    /// The engine's REST.
    pub(crate) admin: u16,
    /// The sidecar's plain port.
    pub(crate) plain: u16,
    /// The sidecar's mutual-TLS port.
    pub(crate) secure: u16,
    /// The replication tunnel.
    pub(crate) replication: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            client: contract::PORT_CLIENT,
            peer: contract::PORT_PEER,
            admin: contract::PORT_ENGINE_ADMIN,
            plain: contract::PORT_PLAIN,
            secure: contract::PORT_SECURE,
            replication: contract::PORT_REPLICATION,
        }
    }
}

impl Site {
    /// The store's socket while its data is unproven.
    pub(crate) fn store_private_socket(&self) -> PathBuf {
        self.run_dir.join("private/store.sock")
    }

    /// The store's socket while its data is proven: the path in `dynomite.yml`.
    pub(crate) fn store_socket(&self) -> PathBuf {
        self.run_dir.join("store.sock")
    }

    /// What was staged for a restore, by its UID.
    pub(crate) fn staged(&self, restore: &str) -> PathBuf {
        self.restore_dir().join(format!("{restore}.rdb"))
    }

    /// What the store had before a restore, by its UID.
    pub(crate) fn previous(&self, restore: &str) -> PathBuf {
        self.restore_dir().join(format!("{restore}.previous.rdb"))
    }

    /// Where the files of restores lie; their names begin with the restores' UIDs.
    pub(crate) fn restore_dir(&self) -> PathBuf {
        self.data_dir.join(".dynomite/restore")
    }

    /// The socket of a process' launcher.
    pub(crate) fn launcher_socket(&self, process: ProcessName) -> PathBuf {
        self.run_dir
            .join("launch")
            .join(format!("{}.sock", process.name()))
    }

    /// The store's rendered configuration.
    pub(crate) fn store_conf(&self) -> PathBuf {
        self.run_dir.join("conf/store.conf")
    }

    /// The engine's rendered configuration.
    pub(crate) fn engine_conf(&self) -> PathBuf {
        self.run_dir.join("conf/dynomite.yml")
    }

    /// The engine's REST interface.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.ports.admin)
    }

    /// The replication tunnel.
    pub(crate) fn replication(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.ports.replication)
    }

    /// The engine's client port, as this node's own processes reach it.
    pub(crate) fn client(&self) -> SocketAddr {
        let host = if self.listen.is_unspecified() {
            self.local
        } else {
            self.listen
        };
        SocketAddr::new(host, self.ports.client)
    }
}

/// What a hand tells the driver.
#[derive(Debug)]
pub(crate) enum Input {
    /// Somebody hands over a desired document. The answer is the report after
    /// the document was taken, or why it was not.
    Desired(
        Box<NodeDesired>,
        oneshot::Sender<Result<NodeReport, Refused>>,
    ),
    /// The operator asked for the report: it is there.
    OperatorHeard,
    /// A launcher spoke.
    Process(ProcessName, ProcessEvent),
    /// A peer wants to copy this node's store; `Err` says why it may not.
    Replication(ReplicationAsk, oneshot::Sender<Result<(), String>>),
    /// This node's tunnel could not reach its donor, or was refused by it.
    DonorRefused {
        /// The donor's node name.
        donor: String,
        /// Why, in words, the donor's own where it gave some.
        why: String,
    },
    /// Somebody stops or starts a process by one of the old REST calls; by whom,
    /// and the answer once it is on disk.
    Told(Word, String, oneshot::Sender<Result<(), String>>),
    /// A readiness probe was answered with "not ready".
    NotReadySeen,
    /// The sidecar was told to end.
    Terminate,
}

/// Why a desired document was not taken, and what the node holds instead.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) why: Refusal,
    /// The node's report, for the answer 409.
    pub(crate) report: NodeReport,
}

/// A peer's wish to copy the store.
#[derive(Clone, Debug)]
pub(crate) struct ReplicationAsk {
    /// The peer's node name.
    pub(crate) node: String,
    /// UID of the peer's cluster.
    pub(crate) cluster_uid: String,
    /// The peer's token, which must be this node's own.
    pub(crate) token: Token,
}

/// What the driver shows the hands, through a `watch`.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is the answer to a question of its own"
)]
pub(crate) struct View {
    /// The node's report.
    pub(crate) report: NodeReport,
    /// The desired document it holds.
    pub(crate) desired: Option<Arc<NodeDesired>>,
    /// `/startupz`: the other containers may start.
    pub(crate) started: bool,
    /// `/readyz`.
    pub(crate) ready: bool,
    /// `/livez`.
    pub(crate) live: bool,
    /// Whom this node copies; the tunnel connects to nobody else, and drops
    /// its streams when this changes.
    pub(crate) donor: Option<Donor>,
    /// Whether streams to peers that copy this node may go on. A stream ends
    /// at once when this turns false, because what follows is not proven.
    pub(crate) donates: bool,
    /// Where this node's store can be reached now.
    pub(crate) store_socket: PathBuf,
    /// When the operator last spoke.
    pub(crate) operator_heard_at: Option<Instant>,
    /// The other nodes of the ring, as the held document names them.
    pub(crate) seeds: Arc<[Peer]>,
}
