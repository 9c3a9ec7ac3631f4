//! Named limits of the parsers.

/// Bytes of one request or reply, all its arguments together, when nothing else is configured.
///
/// Redis allows 512 MB for a single value; a proxy holds a request once per concerned link, so
/// its default is lower. The configuration key `max_request_bytes` changes it.
pub const DEFAULT_MAX_REQUEST: usize = 64 * 1024 * 1024;

/// Bytes of one reply of the local store or of a peer (Redis' own limit for one value).
pub const DEFAULT_MAX_REPLY: usize = 512 * 1024 * 1024;

/// Arguments of one request, and elements of one reply level.
pub const MAX_ARGS: usize = 1024 * 1024;

/// Bytes of an inline command or of a status or error line.
pub const MAX_LINE: usize = 64 * 1024;

/// Bytes of a length line such as `*3` or `$11`, its end included.
pub const MAX_LENGTH_LINE: usize = 32;

/// Depth of nested arrays in a reply.
pub const MAX_NESTING: usize = 8;

/// Bytes of the `data` field in a peer message: an RSA block of a 4096-bit key has 512.
pub const MAX_PEER_DATA: usize = 1024;

/// Bytes of an incarnation, the name of one run of an engine.
pub const MAX_INCARNATION: usize = 64;

/// Bytes of one peer header without its `data`.
pub const MAX_PEER_HEADER: usize = 256;

/// Bytes of garbage in a row that a peer may send before its connection is given up.
pub const MAX_PEER_GARBAGE: usize = 1024 * 1024;

/// Bytes of a seeds list: 64 KiB hold about a thousand nodes.
pub const MAX_SEEDS_LIST: usize = 64 * 1024;

/// Nodes in one seeds list.
pub const MAX_SEEDS: usize = 4096;

/// Bytes of a configuration file.
pub const MAX_CONFIG_FILE: usize = 4 * 1024 * 1024;

/// What a parser of requests or replies accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one whole message; also the largest bulk string.
    pub max_bytes: usize,
    /// Arguments of a request, elements of an array.
    pub max_args: usize,
}

impl Limits {
    /// Limits for what clients send.
    pub const REQUEST: Self = Self {
        max_bytes: DEFAULT_MAX_REQUEST,
        max_args: MAX_ARGS,
    };

    /// Limits for what stores and peers answer.
    pub const REPLY: Self = Self {
        max_bytes: DEFAULT_MAX_REPLY,
        max_args: MAX_ARGS,
    };
}
