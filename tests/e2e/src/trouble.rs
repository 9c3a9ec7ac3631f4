//! What the troubled operator's proxy does, and what it has counted.

use serde::{Deserialize, Serialize};

/// What goes wrong between operator and API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Nothing: what the others are compared with.
    Calm,
    /// The operator is killed after every single write, before it hears of it.
    Kill,
    /// One request in ten fails: conflicts, too many requests, errors, no
    /// answer, an answer that is lost after the deed, watches that expire.
    Storm,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Requests of the operator.
    pub requests: u64,
    /// Those that write.
    pub writes: u64,
    /// Requests that were not simply passed on.
    pub troubled: u64,
    /// How often the operator was started again.
    pub lives: u64,
}
