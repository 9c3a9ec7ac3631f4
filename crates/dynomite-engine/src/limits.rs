//! Named limits of the engine: every queue, every retry, every wait.

use std::time::Duration;

/// Requests of one connection that wait for their answer; beyond, reading pauses.
pub const MAX_SESSION_IN_FLIGHT: usize = 2048;

/// Requests a new client may have in flight; each small answer adds one.
pub const FIRST_WINDOW: usize = 32;

/// Bytes of an answer from which on a client may have fewer requests in flight.
pub const LARGE_ANSWER: usize = 64 * 1024;

/// Requests in flight over all connections; beyond, new ones are refused.
pub const MAX_IN_FLIGHT: usize = 200_000;

/// Bytes of all requests in flight; beyond, new ones are refused.
pub const MAX_IN_FLIGHT_BYTES: usize = 1024 * 1024 * 1024;

/// Bytes of requests that have not fully arrived, over all connections.
pub const MAX_PARTIAL_BYTES: usize = 512 * 1024 * 1024;

/// Bytes a client has not taken yet at which reading from it pauses.
pub const PAUSE_OUTPUT_BYTES: usize = 1024 * 1024;

/// Bytes a client has not taken yet at which it is given up. Reading has paused long before, so
/// only answers to requests already in flight can add up to this.
pub const MAX_OUTPUT_BYTES: usize = 256 * 1024 * 1024;

/// Bytes that wait to be sent to one peer or to the store; beyond, it counts as unreachable.
pub const MAX_LINK_UNSENT_BYTES: usize = 64 * 1024 * 1024;

/// Requests on one link without an answer; beyond, it counts as unreachable.
pub const MAX_LINK_IN_FLIGHT: usize = 100_000;

/// Writes held back while the state is `WRITES_ONLY`.
pub const MAX_HELD_WRITES: usize = 100_000;

/// Bytes of the writes held back.
pub const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;

/// First wait before a peer is tried again.
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(100);

/// Longest wait before a peer is tried again.
pub const PEER_RETRY_MAX: Duration = Duration::from_secs(2);

/// Wait before the store is tried again: its socket appears and goes by design, so this is short.
pub const STORE_RETRY: Duration = Duration::from_millis(50);

/// How often a peer is asked how it is.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest silence of a link with unanswered requests before reads go elsewhere.
pub const SUSPECT_AFTER_MAX: Duration = Duration::from_secs(1);

/// Shortest such silence.
pub const SUSPECT_AFTER_MIN: Duration = Duration::from_millis(50);

/// Shortest silence of a link with unanswered requests before it is connected anew.
pub const SILENCE_MIN: Duration = Duration::from_secs(2);

/// How often [`crate::Engine::handle_tick`] wants to be called.
pub const TICK: Duration = Duration::from_millis(50);

/// Bytes of a connection's name (`CLIENT SETNAME`).
pub const MAX_CLIENT_NAME: usize = 256;

/// Peers that may be connected to this node.
pub const MAX_PEER_SESSIONS: usize = 8192;

/// Cuts whose answer is on its way; a donor serves a few newcomers at a time.
pub const MAX_CUTS: usize = 8;
