//! The point at which a node that warms up takes over from its donor.

use dynomite_protocol::received::Received;
use serde::{Deserialize, Serialize};

/// A moment of the donor's store, between two writes: the writes in `received`
/// have been executed, and no others. The node that copies applies the stream
/// up to exactly `offset`, and then what it has captured and `received` does
/// not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The donor's replication id; the copy must follow this one.
    pub replication_id: String,
    /// The donor's replication offset, bytes.
    pub offset: u64,
    /// Keys in database 0 at that moment.
    pub keys: u64,
    /// What the donor's engine had handed to the store.
    pub received: Received,
}

/// Where a node's engine looks for the others. A pod that has replaced another
/// has a new address, and engines that do not number their writes do not notice
/// what they send to the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingView {
    /// The addresses in the engine's ring map, its own included.
    pub addresses: Vec<String>,
}
