//! The replication of Redis and Valkey, as it looks to somebody between a donor and its replica.
//!
//! ```text
//!   replica                         donor
//!     PING, REPLCONF ...   ------->
//!                          <-------   +PONG, +OK ...                        Reply
//!     PSYNC <id> <offset>  ------->
//!                          <-------   newlines while it prepares            KeepAlive
//!                          <-------   +FULLRESYNC <id> <offset>             FullResync
//!                          <-------   $<length> or $EOF:<40 bytes>          SnapshotHead
//!                          <-------   the snapshot                          Snapshot
//!                          <-------   (the 40 bytes again)                  SnapshotEnd
//!                          <-------   writes, counted from <offset>         Stream
//!     or, for a replica that was there before:
//!                          <-------   +CONTINUE [<id>]                      Continue
//!                          <-------   writes, counted from what it has      Stream
//! ```
//!
//! [`Replies`] cuts what the donor sends into [`Piece`]s that, one after the other, are exactly
//! the bytes that came, so a tunnel passes them on as it understands them. Where `+CONTINUE` goes
//! on, only the replica's own request says, which [`Requests`] reads.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};

use crate::limits::Limits;
use crate::resp::{ProtocolError, Request, RequestParser};

/// Bytes of one line of the handshake, its end included.
pub const MAX_HANDSHAKE_LINE: usize = 4096;

/// Bytes of a donor's replication id; Redis' have 40.
pub const MAX_REPLICATION_ID: usize = 64;

/// Bytes of the mark behind a snapshot whose length was not known when it began.
pub const EOF_MARK: usize = 40;

/// What a replica may ask: its requests are short.
const REQUESTS: Limits = Limits {
    max_bytes: 4096,
    max_args: 32,
};

/// Why the bytes of a connection are not understood; where the stream begins is then unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    /// A line without end.
    #[error("a line of the handshake is longer than {MAX_HANDSHAKE_LINE} bytes")]
    LineTooLong,
    /// A line that says something else than it should.
    #[error("the donor answered {0:?}")]
    Unexpected(String),
    /// `+CONTINUE` to somebody who did not ask to go on.
    #[error("the donor goes on where the replica did not ask it to")]
    NothingToContinue,
    /// The replica's requests are none.
    #[error("the replica's request: {0}")]
    Request(#[from] ProtocolError),
}

/// A replica's wish to be sent what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Psync {
    /// The history it follows, and how far it has applied it, bytes; absent when it has nothing
    /// that could be continued.
    pub follows: Option<(String, u64)>,
}

/// Finds `PSYNC` in what a replica sends.
#[derive(Debug, Default)]
pub struct Requests {
    parser: RequestParser,
    buffer: BytesMut,
}

impl Requests {
    /// Takes in what the replica sent; the last `PSYNC` that is complete with it.
    ///
    /// # Errors
    /// When these are no requests.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Psync>, ReplicationError> {
        self.buffer.extend_from_slice(bytes);
        let mut found = None;
        while let Some(request) = self.parser.parse(&mut self.buffer, &REQUESTS)? {
            if request.arg(0).eq_ignore_ascii_case(b"psync") {
                found = Some(psync(&request));
            }
        }
        Ok(found)
    }
}

/// The offset of a request is that of the first byte it lacks.
fn psync(request: &Request) -> Psync {
    let id = String::from_utf8_lossy(request.arg(1)).into_owned();
    let next = request.number(2).and_then(|next| u64::try_from(next).ok());
    let follows = next
        .and_then(|next| next.checked_sub(1))
        .filter(|_| id != "?");
    Psync {
        follows: follows.map(|applied| (id, applied)),
    }
}

/// Some of the donor's bytes, and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes, exactly as they came.
    pub raw: Bytes,
    /// What they are.
    pub what: What,
}

/// What a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An answer that says nothing of the data; lines, or a part of a longer answer.
    Reply,
    /// The donor lives and is not ready yet.
    KeepAlive,
    /// A snapshot follows, and then the stream of this history from this offset on.
    FullResync {
        /// The history's id.
        id: String,
        /// How far in it the snapshot is, bytes.
        offset: u64,
    },
    /// The stream follows at once.
    Continue {
        /// The history's id; it may be another than the replica named.
        id: String,
        /// How far in it the replica is, bytes.
        offset: u64,
    },
    /// The snapshot begins.
    SnapshotHead {
        /// Its length, bytes; a donor that makes it while it sends does not know.
        length: Option<u64>,
    },
    /// A part of the snapshot: an RDB file.
    Snapshot,
    /// The snapshot is complete: the mark behind it, or nothing when its length was known.
    SnapshotEnd,
    /// A part of the stream: the donor's writes.
    Stream {
        /// The replica's offset before it applies this, bytes.
        from: u64,
    },
}

#[derive(Debug)]
enum Phase {
    Handshake,
    /// Bytes of an answer that is longer than a line, its end included.
    Bulk(u64),
    /// `+FULLRESYNC` came.
    Head,
    Sized(u64),
    Marked([u8; EOF_MARK]),
    Stream,
}

/// Cuts what a donor sends into pieces, however it arrives.
#[derive(Debug)]
pub struct Replies {
    phase: Phase,
    asked: Option<Psync>,
    /// The history that is followed, and the replica's offset once it has applied every piece.
    at: Option<(String, u64)>,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            phase: Phase::Handshake,
            asked: None,
            at: None,
        }
    }
}

impl Replies {
    /// The replica has asked; to be said before its request is passed on.
    pub fn asked(&mut self, psync: Psync) {
        self.asked = Some(psync);
    }

    /// The history that is followed and the offset of a replica that has applied every piece,
    /// bytes; `None` before the donor has said where the stream begins.
    pub fn position(&self) -> Option<(&str, u64)> {
        self.at.as_ref().map(|(id, offset)| (id.as_str(), *offset))
    }

    /// Whether what comes next belongs to the stream.
    pub fn is_in_stream(&self) -> bool {
        matches!(self.phase, Phase::Stream)
    }

    /// Takes one piece from the front of `buffer`, or `None` when more bytes are needed. It
    /// leaves at most [`MAX_HANDSHAKE_LINE`] bytes there.
    ///
    /// # Errors
    /// When the connection is not understood; it cannot be used any longer.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, ReplicationError> {
        match self.phase {
            Phase::Sized(0) => {
                self.phase = Phase::Stream;
                return Ok(piece(Bytes::new(), What::SnapshotEnd));
            }
            _ if buffer.is_empty() => return Ok(None),
            Phase::Handshake | Phase::Head => {}
            Phase::Bulk(left) => {
                let raw = take(buffer, left);
                let left = left - raw.len() as u64;
                self.phase = if left == 0 {
                    Phase::Handshake
                } else {
                    Phase::Bulk(left)
                };
                return Ok(piece(raw, What::Reply));
            }
            Phase::Sized(left) => {
                let raw = take(buffer, left);
                self.phase = Phase::Sized(left - raw.len() as u64);
                return Ok(piece(raw, What::Snapshot));
            }
            Phase::Marked(mark) => return Ok(self.marked(buffer, &mark)),
            Phase::Stream => return Ok(self.stream(buffer)),
        }
        if buffer[0] == b'\n' {
            return Ok(piece(buffer.split_to(1).freeze(), What::KeepAlive));
        }
        let window = &buffer[..buffer.len().min(MAX_HANDSHAKE_LINE)];
        let Some(end) = memchr(b'\n', window) else {
            if window.len() == MAX_HANDSHAKE_LINE {
                return Err(ReplicationError::LineTooLong);
            }
            return Ok(None);
        };
        let raw = buffer.split_to(end + 1).freeze();
        let what = match self.phase {
            Phase::Head => self.head(&raw)?,
            _ => self.line(&raw)?,
        };
        Ok(piece(raw, what))
    }

    fn line(&mut self, raw: &[u8]) -> Result<What, ReplicationError> {
        let text = text_of(raw);
        let unexpected = || ReplicationError::Unexpected(text.clone());
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["+FULLRESYNC", id, offset] => {
                let offset = offset.parse().map_err(|_| unexpected())?;
                let id = checked_id(id).ok_or_else(unexpected)?;
                self.at = Some((id.clone(), offset));
                self.phase = Phase::Head;
                Ok(What::FullResync { id, offset })
            }
            ["+CONTINUE", rest @ ..] => {
                let asked = self.asked.take().and_then(|asked| asked.follows);
                let (followed, offset) = asked.ok_or(ReplicationError::NothingToContinue)?;
                let id = match rest {
                    [] => followed,
                    [id, ..] => checked_id(id).ok_or_else(unexpected)?,
                };
                self.at = Some((id.clone(), offset));
                self.phase = Phase::Stream;
                Ok(What::Continue { id, offset })
            }
            [word] if word.starts_with('$') && self.asked.is_none() => {
                let length = word[1..].parse::<i64>().map_err(|_| unexpected())?;
                if let Ok(length) = u64::try_from(length) {
                    self.phase = Phase::Bulk(length.saturating_add(2));
                }
                Ok(What::Reply)
            }
            [word, ..] if word.starts_with(['+', '-', ':']) => Ok(What::Reply),
            _ => Err(unexpected()),
        }
    }

    fn head(&mut self, raw: &[u8]) -> Result<What, ReplicationError> {
        let text = text_of(raw);
        let unexpected = || ReplicationError::Unexpected(text.clone());
        if let Some(mark) = text.strip_prefix("$EOF:") {
            let mark = mark.as_bytes().try_into().map_err(|_| unexpected())?;
            self.phase = Phase::Marked(mark);
            return Ok(What::SnapshotHead { length: None });
        }
        if let Some(length) = text.strip_prefix('$') {
            let length = length.parse().map_err(|_| unexpected())?;
            self.phase = Phase::Sized(length);
            let length = Some(length);
            return Ok(What::SnapshotHead { length });
        }
        // A donor that fails to make the snapshot says so, and closes.
        if text.starts_with('-') {
            return Ok(What::Reply);
        }
        Err(unexpected())
    }

    fn marked(&mut self, buffer: &mut BytesMut, mark: &[u8; EOF_MARK]) -> Option<Piece> {
        let end = match memmem::find(buffer, mark) {
            Some(0) => {
                self.phase = Phase::Stream;
                return piece(buffer.split_to(EOF_MARK).freeze(), What::SnapshotEnd);
            }
            Some(at) => at,
            None => buffer.len() - begun(buffer, mark),
        };
        (end > 0)
            .then(|| piece(buffer.split_to(end).freeze(), What::Snapshot))
            .flatten()
    }

    fn stream(&mut self, buffer: &mut BytesMut) -> Option<Piece> {
        let raw = buffer.split().freeze();
        let (_, offset) = self.at.as_mut()?;
        let from = *offset;
        *offset = offset.saturating_add(raw.len() as u64);
        piece(raw, What::Stream { from })
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "every caller returns it as it comes"
)]
fn piece(raw: Bytes, what: What) -> Option<Piece> {
    Some(Piece { raw, what })
}

fn take(buffer: &mut BytesMut, most: u64) -> Bytes {
    let length = usize::try_from(most).map_or(buffer.len(), |most| most.min(buffer.len()));
    buffer.split_to(length).freeze()
}

fn text_of(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw.trim_ascii_end()).into_owned()
}

fn checked_id(id: &str) -> Option<String> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain && id.len() <= MAX_REPLICATION_ID).then(|| id.to_owned())
}

/// How many bytes at the end of `bytes` may be the beginning of the mark.
fn begun(bytes: &[u8], mark: &[u8; EOF_MARK]) -> usize {
    let most = bytes.len().min(EOF_MARK - 1);
    (1..=most)
        .rev()
        .find(|length| bytes.ends_with(&mark[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "8c0e2c7b2f9f5f0a6d3f2b1c4d5e6f708192a3b4";
    const MARK: &str = "0132f4a9c7700be18d5f6a2b3c4d9e8f7a6b5c4d";

    type Found = Vec<(What, Vec<u8>)>;

    /// Feeds the bytes as they are cut, and joins pieces of one kind that follow each other.
    fn pieces(
        asked: Option<Psync>,
        chunks: &[&[u8]],
    ) -> Result<(Found, Replies), ReplicationError> {
        let mut replies = Replies::default();
        if let Some(asked) = asked {
            replies.asked(asked);
        }
        let (mut buffer, mut found) = (BytesMut::new(), Found::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(piece) = replies.next(&mut buffer)? {
                match found.last_mut() {
                    Some((What::Snapshot, raw)) if piece.what == What::Snapshot => {
                        raw.extend_from_slice(&piece.raw);
                    }
                    Some((What::Stream { from }, raw))
                        if piece.what
                            == (What::Stream {
                                from: *from + raw.len() as u64,
                            }) =>
                    {
                        raw.extend_from_slice(&piece.raw);
                    }
                    Some((What::Reply, raw)) if piece.what == What::Reply => {
                        raw.extend_from_slice(&piece.raw);
                    }
                    _ => found.push((piece.what, piece.raw.to_vec())),
                }
            }
        }
        Ok((found, replies))
    }

    fn everywhere(asked: Option<&Psync>, bytes: &[u8]) -> Found {
        let (whole, _) = pieces(asked.cloned(), &[bytes]).expect("is understood");
        let joined: Vec<u8> = whole.iter().flat_map(|(_, raw)| raw.clone()).collect();
        assert_eq!(joined, bytes, "every byte is passed on, in order");
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let (cut_once, _) = pieces(asked.cloned(), &[first, second]).expect("is understood");
            assert_eq!(cut_once, whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let (by_byte, _) = pieces(asked.cloned(), &single).expect("is understood");
        assert_eq!(by_byte, whole, "byte by byte");
        whole
    }

    fn anew() -> Psync {
        Psync { follows: None }
    }

    #[test]
    fn a_copy_without_a_length_ends_at_its_mark() {
        let text = format!(
            "+PONG\r\n+OK\r\n\n\n+FULLRESYNC {ID} 100\r\n\n\n$EOF:{MARK}\r\n\
             REDIS0011 data {} more{MARK}*1\r\n$4\r\nPING\r\n",
            &MARK[..39]
        );
        let found = everywhere(Some(&anew()), text.as_bytes());
        let kinds: Vec<&What> = found.iter().map(|(what, _)| what).collect();
        let id = ID.to_owned();
        assert_eq!(
            kinds,
            [
                &What::Reply,
                &What::KeepAlive,
                &What::KeepAlive,
                &What::FullResync { id, offset: 100 },
                &What::KeepAlive,
                &What::KeepAlive,
                &What::SnapshotHead { length: None },
                &What::Snapshot,
                &What::SnapshotEnd,
                &What::Stream { from: 100 },
            ]
        );
        assert_eq!(found[9].1, b"*1\r\n$4\r\nPING\r\n");
    }

    #[test]
    fn a_copy_with_a_length_ends_there() {
        let text = format!("+FULLRESYNC {ID} 7\r\n$9\r\nREDIS0011*1\r\n");
        let found = everywhere(Some(&anew()), text.as_bytes());
        assert_eq!(found[1].0, What::SnapshotHead { length: Some(9) });
        assert_eq!(found[2], (What::Snapshot, b"REDIS0011".to_vec()));
        assert_eq!(found[3], (What::SnapshotEnd, Vec::new()));
        assert_eq!(found[4], (What::Stream { from: 7 }, b"*1\r\n".to_vec()));
    }

    #[test]
    fn who_goes_on_counts_from_what_it_asked_for() {
        let asked = Requests::default()
            .push(format!("*3\r\n$5\r\npsync\r\n$40\r\n{ID}\r\n$3\r\n501\r\n").as_bytes())
            .expect("is a request");
        let follows = Some((ID.to_owned(), 500));
        assert_eq!(asked, Some(Psync { follows }));
        let other = "f".repeat(40);
        for (answer, id) in [
            ("+CONTINUE\r\n".to_owned(), ID),
            (format!("+CONTINUE {other}\r\n"), &*other),
        ] {
            let found = everywhere(asked.as_ref(), format!("{answer}SET").as_bytes());
            let id = id.to_owned();
            assert_eq!(found[0].0, What::Continue { id, offset: 500 });
            assert_eq!(found[1], (What::Stream { from: 500 }, b"SET".to_vec()));
        }
        let unasked = pieces(Some(anew()), &[b"+CONTINUE\r\n"]);
        assert!(matches!(
            unasked.map(|_| ()),
            Err(ReplicationError::NothingToContinue)
        ));
    }

    #[test]
    fn the_position_is_that_of_a_replica_that_applied_every_piece() {
        let text = format!("+FULLRESYNC {ID} 7\r\n$1\r\nR12345");
        let (_, replies) = pieces(Some(anew()), &[text.as_bytes()]).expect("is understood");
        assert_eq!(replies.position(), Some((ID, 12)));
        assert!(replies.is_in_stream());
    }

    #[test]
    fn answers_to_questions_pass_by() {
        let text = b"$11\r\nrun_id:abc\n\r\n+OK\r\n$-1\r\n:5\r\n-ERR no\r\n";
        let found = everywhere(None, text);
        assert_eq!(found, [(What::Reply, text.to_vec())]);
    }

    #[test]
    fn what_is_no_replication_is_refused() {
        let long = "+".repeat(MAX_HANDSHAKE_LINE + 1);
        let too_long_id = format!("+FULLRESYNC {} 1\r\n", "a".repeat(65));
        for text in [
            "HTTP/1.1 200 OK\r\n",
            "+FULLRESYNC a x\r\n",
            "+FULLRESYNC a 1\r\nhello\r\n",
            "+FULLRESYNC a 1\r\n$x\r\n",
            "+FULLRESYNC a 1\r\n$EOF:short\r\n",
            "$5\r\n",
            &too_long_id,
            &long,
        ] {
            let outcome = pieces(Some(anew()), &[text.as_bytes()]);
            assert!(outcome.is_err(), "{text:?}");
        }
    }

    #[test]
    fn requests_are_read_however_they_are_cut() {
        let text = b"*1\r\n$4\r\nPING\r\nREPLCONF capa eof\r\nPSYNC ? -1\r\n\
            *3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n";
        for cut in 0..=text.len() {
            let mut requests = Requests::default();
            let (first, second) = text.split_at(cut);
            let one = requests.push(first).expect("are requests");
            let other = requests.push(second).expect("are requests");
            assert_eq!(one.or(other), Some(anew()), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_snapshot_arrives_whole_however_it_is_cut(
            snapshot in prop::collection::vec(prop_oneof![Just(b'0'), Just(b'1'), any::<u8>()], 0..300),
            beginnings in prop::collection::vec((0..300_usize, 1..EOF_MARK), 0..4),
            stream in prop::collection::vec(any::<u8>(), 0..60),
            marked in any::<bool>(),
            sizes in prop::collection::vec(1..50_usize, 1..40),
        ) {
            let mut snapshot = snapshot;
            for (at, length) in beginnings {
                let at = at.min(snapshot.len());
                snapshot.splice(at..at, MARK.as_bytes()[..length].iter().copied());
            }
            let whole = [&snapshot, MARK.as_bytes()].concat();
            prop_assume!(memmem::find(&whole, MARK.as_bytes()) == Some(snapshot.len()));
            let mut bytes = format!("+FULLRESYNC {ID} 9\r\n").into_bytes();
            if marked {
                bytes.extend_from_slice(format!("$EOF:{MARK}\r\n").as_bytes());
            } else {
                bytes.extend_from_slice(format!("${}\r\n", snapshot.len()).as_bytes());
            }
            bytes.extend_from_slice(&snapshot);
            if marked {
                bytes.extend_from_slice(MARK.as_bytes());
            }
            bytes.extend_from_slice(&stream);
            let (mut chunks, mut rest, mut sizes) = (Vec::new(), &bytes[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let (chunk, left) = rest.split_at(rest.len().min(*sizes.next().expect("cycles")));
                chunks.push(chunk);
                rest = left;
            }
            let (found, replies) = pieces(Some(anew()), &chunks).expect("is understood");
            let of = |kind: &dyn Fn(&What) -> bool| -> Vec<u8> {
                let of_kind = found.iter().filter(|(what, _)| kind(what));
                of_kind.flat_map(|(_, raw)| raw.clone()).collect()
            };
            prop_assert_eq!(of(&|_| true), bytes);
            prop_assert_eq!(of(&|what| *what == What::Snapshot), snapshot);
            prop_assert_eq!(of(&|what| matches!(what, What::Stream { .. })), stream.clone());
            prop_assert_eq!(replies.position(), Some((ID, 9 + stream.len() as u64)));
        }

        #[test]
        fn no_bytes_upset_it(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            asked in any::<bool>(),
        ) {
            let _ = pieces(asked.then(anew), &[&bytes]);
            let _ = Requests::default().push(&bytes);
        }
    }
}
