//! May this node leave now? By token headroom, one disruption at a time in a datacenter.

/// Why a node may not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another node is not ready: one at a time.
    OtherNodeDown {
        /// That node.
        other: String,
        /// What it lacks.
        message: String,
    },
    /// A node of the same token is copying its data.
    PeerWarmingUp {
        /// That node.
        peer: String,
    },
    /// Too few replicas of its token would stay.
    NoHeadroom {
        /// Ready replicas without this one.
        ready: usize,
        /// How many the consistency levels need.
        required: usize,
    },
    /// Its data is in memory only and there is no replica.
    WouldLoseData,
}
