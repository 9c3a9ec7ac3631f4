//! The mutual-TLS port: the desired document, the report, and copies of the store.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `PUT /v1/desired` | operator | 200 with the report; 409 with the report and why |
//! | `GET /v1/report` | operator, node | 200 with the report |
//! | `GET /v1/cut` | node | 200 with a moment of the store; 409 and why; 501 when the engine does not number |
//! | `GET /v1/ring` | operator, node | 200 with the addresses in the engine's ring map |
//! | `PUT /v1/credentials` | operator | 200 with the report: what opens object storage is held in memory |
//! | `POST /v1/compare` | node | 200 with what the replica has of some keys, or one value; 409 and why |
//! | `POST /v1/bucket` | operator | 200 with what came of a small work in object storage |
//! | `GET /v1/replication`, `Upgrade: dynomite-replication` | node | 101, then the store's own bytes; 409 and why |
//!
//! Whoever has no certificate of the cluster's authority ends at the handshake;
//! whoever has one with another common name gets 403. A request for a copy
//! names in its headers who asks ([`HEADER_NODE`], [`HEADER_TOKEN`],
//! [`HEADER_CLUSTER`]) and whom it means ([`HEADER_DONOR`]): addresses are
//! reused, and all nodes of a cluster carry one certificate.

mod calls;
mod client;
mod credentials;
mod guard;
mod identity;
mod server;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::compare::Comparer;
use crate::http;
use crate::shared::{Input, Site, View};
use crate::snapshot::Desk;
use crate::tunnel::Traffic;

pub(crate) use client::{Client, Link};
pub(crate) use credentials::Credentials;
use server::Server;

/// The node name of whoever asks for a copy.
pub(crate) const HEADER_NODE: &str = "dynomite-node";
/// Its token.
pub(crate) const HEADER_TOKEN: &str = "dynomite-token";
/// The UID of its cluster.
pub(crate) const HEADER_CLUSTER: &str = "dynomite-cluster-uid";
/// The node name of the donor: in the request whom it means, in the answer who it is.
pub(crate) const HEADER_DONOR: &str = "dynomite-donor";

/// Who answers what is neither the driver's nor the engine's.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Object storage.
    pub(crate) desk: Arc<Desk>,
    /// Comparisons with the other replicas.
    pub(crate) comparer: Arc<Comparer>,
}

/// Serves the mutual-TLS port for as long as the task lives.
///
/// # Errors
/// When the port cannot be listened at.
pub(crate) async fn serve(
    site: &Site,
    credentials: Credentials,
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    traffic: Arc<Traffic>,
    asked: Asked,
) -> anyhow::Result<()> {
    let listener = http::listen(site.listen, site.ports.secure)?;
    let server = Server::new(credentials, inputs, view, traffic, site.admin(), asked);
    server.run(listener).await;
    Ok(())
}
