//! Error replies, word for word those of Netflix's engine where it has one.

use bytes::Bytes;

/// The node's run state keeps the request from its store.
pub const STATE: &[u8] = b"-ERR Dynomite: Dynomite's current state does not allow this request\r\n";
/// A numbered write that is in the node's copy already, or was given up before it came. Whoever
/// sent it has nothing to count; only our engines are told this.
pub const PAST: &[u8] =
    b"-ERR Dynomite: Dynomite's current state has this write already, or has given it up\r\n";
/// Too few racks answered, or their answers differ.
pub const NO_QUORUM: &[u8] = b"-ERR Dynomite: Failed to achieve Quorum\r\n";
/// There is no connection to the peer.
pub const PEER_NOT_CONNECTED: &[u8] = b"-ERR Peer: Peer Node is not connected\r\n";
/// The connection to the peer broke, or it did not answer in time.
pub const PEER_REFUSED: &[u8] = b"-ERR Peer: Peer Node refused connection\r\n";
/// The store is away, or it did not answer in time.
pub const STORE_REFUSED: &[u8] = b"-ERR Storage: Datastore refused connection\r\n";
/// A script names keys of several nodes.
pub const SCRIPT_SPANS: &[u8] = b"-ERR Dynomite: Keys in the script cannot span multiple nodes\r\n";
/// The keys of one command live on several nodes; the code is that of Redis Cluster, so that
/// clients understand it.
pub const CROSS_SLOT: &[u8] =
    b"-CROSSSLOT Dynomite: Keys of this command are on several nodes; give them a common hash tag\r\n";
/// The node has reached one of its limits.
pub const OVERLOADED: &[u8] = b"-ERR Dynomite: Too many requests in flight\r\n";
/// Keys without a byte: Netflix's engine closes the connection it sees one on.
pub const EMPTY_KEY: &[u8] = b"-ERR Dynomite: Empty keys are not supported\r\n";

/// Beginnings of error replies that say: this node did not execute the request, another one may.
const ELSEWHERE: &[&[u8]] = &[
    b"-ERR Dynomite: Dynomite's current state",
    b"-ERR Dynomite: Too many requests in flight",
    b"-ERR Peer: ",
    b"-ERR Storage: ",
    b"-LOADING",
    b"-MASTERDOWN",
    b"-NOAUTH",
    b"-NOPERM",
    b"-READONLY",
    b"-BUSY ",
    b"-TRYAGAIN",
];

/// Beginnings of error replies by which a store refuses writes for want of room or disk. They are
/// shown to the client, but the write is not on that node.
const NOT_WRITTEN: &[&[u8]] = &[b"-OOM", b"-MISCONF", b"-NOREPLICAS"];

/// Whether a reply says that the node did not execute the request and another one may.
pub fn is_refusal(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-') && ELSEWHERE.iter().any(|text| reply.starts_with(text))
}

/// Whether a reply to a write says that the write is not on that node though it should be.
pub fn is_missed_write(reply: &[u8]) -> bool {
    (is_refusal(reply) && reply != PAST)
        || (reply.first() == Some(&b'-') && NOT_WRITTEN.iter().any(|text| reply.starts_with(text)))
}

/// Whether a reply of the store to a write says that this store did not execute it, while that of
/// another rack may have. A script that is not loaded here is no reason to warm the node up when
/// it is loaded nowhere, so it counts by its number only.
pub fn is_lost_write(reply: &[u8]) -> bool {
    is_missed_write(reply) || reply.starts_with(b"-NOSCRIPT")
}

/// An unchanging text as a reply.
pub fn reply(text: &'static [u8]) -> Bytes {
    Bytes::from_static(text)
}
