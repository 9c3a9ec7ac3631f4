//! The mutual-TLS port: the desired document, the report, and copies of the store.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `PUT /v1/desired` | operator | 200 with the report; 409 with the report and why |
//! | `GET /v1/report` | operator, node | 200 with the report |
//! | `GET /v1/replication`, `Upgrade: dynomite-replication` | node | 101, then the store's own bytes; 409 and why |
//!
//! Whoever has no certificate of the cluster's authority ends at the handshake;
//! whoever has one with another common name gets 403. A request for a copy
//! names in its headers who asks ([`HEADER_NODE`], [`HEADER_TOKEN`],
//! [`HEADER_CLUSTER`]) and whom it means ([`HEADER_DONOR`]): addresses are
//! reused, and all nodes of a cluster carry one certificate.

mod client;
mod credentials;
mod identity;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::{Client, ReplicationStream};
pub(crate) use credentials::Credentials;
pub(crate) use server::Server;

/// The node name of whoever asks for a copy.
pub(crate) const HEADER_NODE: &str = "dynomite-node";
/// Its token.
pub(crate) const HEADER_TOKEN: &str = "dynomite-token";
/// The UID of its cluster.
pub(crate) const HEADER_CLUSTER: &str = "dynomite-cluster-uid";
/// The node name of the donor: in the request whom it means, in the answer who it is.
pub(crate) const HEADER_DONOR: &str = "dynomite-donor";
