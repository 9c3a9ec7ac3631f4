//! Ports, paths and certificate names of a node's pod.

/// The port Redis clients use (`listen`).
pub const PORT_CLIENT: u16 = 8102;
/// The port peers use (`dyn_listen`).
pub const PORT_PEER: u16 = 8101;
/// The engine's own REST port (`stats_listen`), on loopback only.
pub const PORT_ENGINE_ADMIN: u16 = 22222;
/// The sidecar's plain port: probes and what only describes.
pub const PORT_PLAIN: u16 = 8080;
/// The sidecar's mutual-TLS port: desired document, report, replication.
pub const PORT_SECURE: u16 = 8443;
/// The loopback port at which the store finds its donor during a warm-up.
pub const PORT_REPLICATION: u16 = 22122;

/// `PUT`: hands the node its [`NodeDesired`](super::NodeDesired).
pub const PATH_DESIRED: &str = "/v1/desired";
/// `GET`: the node's [`NodeReport`](super::NodeReport).
pub const PATH_REPORT: &str = "/v1/report";
/// `GET` with `Upgrade: dynomite-replication`: a stream to this node's store for a same-token peer.
pub const PATH_REPLICATION: &str = "/v1/replication";
/// `GET`, by a same-token peer that copies this node: a [`Cut`](super::Cut).
pub const PATH_CUT: &str = "/v1/cut";
/// `GET`, by any node of the cluster: a [`RingView`](super::RingView).
pub const PATH_RING: &str = "/v1/ring";
/// `PUT`, by the operator: [`Credentials`](super::Credentials) of object storage.
pub const PATH_CREDENTIALS: &str = "/v1/credentials";
/// `POST`, by the operator: a [`BucketRequest`](super::BucketRequest).
pub const PATH_BUCKET: &str = "/v1/bucket";
/// `POST`, by a same-token peer: a [`CompareQuestion`](super::CompareQuestion).
pub const PATH_COMPARE: &str = "/v1/compare";
/// `PUT`, by the operator: a [`CallAnswer`](super::CallAnswer).
pub const PATH_CALLS: &str = "/v1/calls";
/// `GET` or `POST`, by a person or the operator: where the old REST calls that
/// change something begin, in any case: `start`, `stop`, `startstorageprocess`,
/// `stopstorageprocess`, `backup`, `takesnapshot`, `restore`.
pub const PREFIX_ADMIN: &str = "/REST/v1/admin/";
/// The protocol named in the `Upgrade` header of [`PATH_REPLICATION`].
pub const UPGRADE_REPLICATION: &str = "dynomite-replication";

/// `GET`, plain: 200 once the containers that depend on the sidecar may start.
pub const PATH_STARTUP: &str = "/startupz";
/// `GET`, plain: 200 while the node may get client traffic.
pub const PATH_READY: &str = "/readyz";
/// `GET`, plain: 200 while the sidecar itself works.
pub const PATH_LIVE: &str = "/livez";

/// Common name of the certificate with which the operator speaks.
pub const CN_OPERATOR: &str = "dynomite-operator";
/// Common name of the certificate with which a person speaks to a node.
pub const CN_ADMIN: &str = "dynomite-admin";
/// Common name of the certificate that every node of a cluster carries.
pub const CN_NODE: &str = "dynomite-node";

/// The volume all containers of a pod share.
pub const DIR_RUN: &str = "/run/dynomite";
/// The node's data: the store's files and the last desired document.
pub const DIR_DATA: &str = "/data";
/// Where the sidecar finds `tls.crt`, `tls.key` and `ca.crt`.
pub const DIR_TLS: &str = "/etc/dynomite/tls";
/// The sidecar's binary, copied here so that the other containers can launch with it.
pub const FILE_LAUNCHER: &str = "/run/dynomite/bin/dynomite-sidecar";
/// The store's rendered configuration.
pub const FILE_STORE_CONF: &str = "/run/dynomite/conf/store.conf";
/// The engine's rendered configuration.
pub const FILE_ENGINE_CONF: &str = "/run/dynomite/conf/dynomite.yml";
/// The socket on which the store listens before its data is proven.
pub const SOCKET_STORE_PRIVATE: &str = "/run/dynomite/private/store.sock";
/// The socket at which the engine finds the store once its data is proven.
pub const SOCKET_STORE: &str = "/run/dynomite/store.sock";

/// The environment variables through which a pod learns who it is.
pub mod env {
    /// The pod's name, which is the node's name.
    pub const POD_NAME: &str = "POD_NAME";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
    /// The pod's UID.
    pub const POD_UID: &str = "POD_UID";
    /// The pod's primary address.
    pub const POD_IP: &str = "POD_IP";
    /// The Kubernetes node the pod runs on.
    pub const NODE_NAME: &str = "NODE_NAME";
}
