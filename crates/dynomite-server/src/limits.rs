//! Named limits of the driver.

use std::time::Duration;

/// Events that wait for the loop; beyond, readers and listeners wait.
pub(crate) const MAX_EVENTS: usize = 1024;

/// Events handled before what came of them is sent: more makes larger writes, and later ones.
pub(crate) const EVENTS_PER_TURN: usize = 128;

/// Bytes read from a socket at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Pieces handed to the system in one write.
pub(crate) const PIECES_PER_WRITE: usize = 64;

/// How long connecting to a peer or the store may take, its name included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client whose connection is closed may take to notice.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// How long open requests may take after SIGTERM.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Wait after a listener could not accept, which happens when file descriptors run out.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Idle time before the system asks whether the other side is still there.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often the seeds provider is asked at most.
pub(crate) const SEEDS_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// How long the seeds provider may take.
pub(crate) const SEEDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Empty lists in a row before they are believed: a provider that has just started may not know
/// its peers yet, and a ring that forgets its peers acknowledges writes that no other rack gets.
pub(crate) const EMPTY_SEEDS: u32 = 3;

/// Bytes of a seeds provider's answer before its body.
pub(crate) const MAX_HTTP_HEAD: usize = 16 * 1024;

/// Bytes of a body sent to the admin port: what a node has received of its coordinators.
pub(crate) const MAX_ADMIN_BODY: usize = 4 * 1024 * 1024;

/// How long one admin request may take.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
