//! RESP2: incremental parsers for requests and replies, and the few writers a proxy needs.

mod line;
pub mod reply;
pub mod request;
pub mod write;

pub use reply::ReplyParser;
pub use request::{Request, RequestParser};

/// Bytes that are not RESP. The connection they came from cannot be used any longer, because
/// nobody knows where the next message begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The count behind `*` is not a number or above the limit.
    #[error("invalid multibulk length")]
    ArrayLength,
    /// The length behind `$` is not a number or above the limit.
    #[error("invalid bulk length")]
    BulkLength,
    /// Something other than `$` begins an argument.
    #[error("expected '$', got '{0}'")]
    ExpectedBulk(char),
    /// A length line without end.
    #[error("too big mbulk count string")]
    LengthLine,
    /// An inline command or status line without end.
    #[error("too big inline request")]
    LineTooLong,
    /// A bulk string that is not followed by CR LF, or a line with a bare CR.
    #[error("expected CRLF")]
    MissingEnd,
    /// The whole message is larger than allowed.
    #[error("request is larger than {0} bytes")]
    TooLarge(usize),
    /// A reply of no known type.
    #[error("unknown reply type '{0}'")]
    ReplyType(char),
    /// A reply nested deeper than allowed.
    #[error("reply is nested too deeply")]
    Nesting,
}

#[cfg(test)]
mod tests;
