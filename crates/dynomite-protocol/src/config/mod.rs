//! `dynomite.yml`: every key of Netflix's engine, with its checks, and a few of our own.

mod parse;
mod value;

use std::time::Duration;

use crate::consistency::Consistency;
use crate::hash::Placement;
use crate::seeds::Seed;
use crate::token::Token;

pub use parse::{ConfigError, check_directive};

/// A place to listen at or to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Host (without brackets) and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => f.write_str(&crate::seeds::endpoint(host, *port)),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// Where the list of peers comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedProvider {
    /// `dyn_seeds` of the file, and nothing later.
    #[default]
    Simple,
    /// An HTTP server that answers with a seeds list.
    Florida,
}

/// The state a node begins in. Our own key `start_state`: the C engine always begins in NORMAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartState {
    /// Serve at once.
    #[default]
    Normal,
    /// Refuse what concerns the local store until somebody who knows the data says so.
    Standby,
}

/// A checked `dynomite.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The root key; `/info` shows the pool's counters under this name.
    pub pool_name: String,
    /// Where clients connect.
    pub listen: Endpoint,
    /// Where peers connect, and the name of this node for them.
    pub dyn_listen: Endpoint,
    /// Where the admin port listens.
    pub stats_listen: Endpoint,
    /// The local store. Of several entries the last counts, as in the C engine.
    pub server: Endpoint,
    /// The own token.
    pub token: Token,
    /// The own datacenter.
    pub datacenter: String,
    /// The own rack.
    pub rack: String,
    /// Peers named in the file.
    pub seeds: Vec<Seed>,
    /// Where later lists come from.
    pub seed_provider: SeedProvider,
    /// Hash and hash tag.
    pub placement: Placement,
    /// How long a request may take.
    pub timeout: Duration,
    /// How often the seeds provider is asked.
    pub gos_interval: Duration,
    /// Level of reads.
    pub read_consistency: Consistency,
    /// Level of writes.
    pub write_consistency: Consistency,
    /// Pending connections a listener keeps.
    pub backlog: u32,
    /// Own key: the state at start.
    pub start_state: StartState,
    /// Own key: writes are given absolute times and explicit stream ids before they fan out.
    pub deterministic_writes: bool,
    /// Own key: the ring has nodes of Netflix's engine.
    pub netflix_peers: bool,
    /// Own key: bytes of one request.
    pub max_request_bytes: usize,
    /// Own key: clients at a time.
    pub max_client_connections: usize,
    /// Things in the file that have no effect, each as a sentence for the log.
    pub remarks: Vec<String>,
}

#[cfg(test)]
mod tests;
