//! The peer protocol: one header line in front of each RESP message.
//!
//! ```text
//!    $2014$ <id> <type> <flags> <version> <same_dc> *<n> <data: n bytes> *<payload length>\r\n<RESP>
//! ```
//!
//! The payload ends where its RESP ends. Netflix's engine writes a wrong payload length when it
//! passes on what came from another datacenter, so the number is written here and never believed.

use bytes::{Buf, BufMut, BytesMut};

use crate::limits::{MAX_PEER_DATA, MAX_PEER_GARBAGE, MAX_PEER_HEADER};

const MAGIC: &[u8] = b"$2014$";

/// What a peer message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Execute in the local store, whoever owns the key.
    Request,
    /// Distribute to the racks of the receiver's datacenter and answer with the reply of the
    /// owner in the receiver's own rack.
    Forward,
    /// The answer to one of the two; it carries their id.
    Response,
    /// Gossip and everything else that has no RESP payload and is not acted on.
    Other(u8),
}

impl Kind {
    fn from_number(number: u8) -> Self {
        match number {
            3 => Self::Request,
            4 => Self::Forward,
            5 => Self::Response,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Request => 3,
            Self::Forward => 4,
            Self::Response => 5,
            Self::Other(other) => other,
        }
    }

    /// Whether a RESP message follows the header.
    pub fn has_payload(self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

/// The header of a peer message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Unique per sending process; a response echoes it.
    pub id: u64,
    /// What is asked for.
    pub kind: Kind,
    /// Whether the payload is encrypted.
    pub encrypted: bool,
    /// Whether sender and receiver are in one datacenter.
    pub same_dc: bool,
}

/// Bytes that are not the peer protocol; the connection cannot be used any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerProtocolError {
    /// More than [`MAX_PEER_GARBAGE`] bytes without a message.
    #[error("no message in {MAX_PEER_GARBAGE} bytes")]
    Garbage,
}

/// Appends a header for a payload of `payload` bytes in clear text.
pub fn write_header(out: &mut BytesMut, header: &Header, payload: usize) {
    use std::fmt::Write as _;
    out.put_slice(b"   $2014$ ");
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "{} {} 0 1 {} *1 d *{payload}\r\n",
        header.id,
        header.kind.number(),
        u8::from(header.same_dc)
    );
}

/// Finds headers in a stream; whatever stands before the magic is skipped.
#[derive(Debug, Default)]
pub struct HeaderParser {
    garbage: usize,
}

impl HeaderParser {
    /// Takes the next header from the front of `buffer`; the payload, if its kind has one, begins
    /// the buffer then. `None` when the header has not fully arrived.
    pub fn parse(&mut self, buffer: &mut BytesMut) -> Result<Option<Header>, PeerProtocolError> {
        loop {
            let Some(at) = find(buffer, MAGIC) else {
                // The beginning of a magic may stand at the end.
                let keep = buffer.len().min(MAGIC.len() - 1);
                self.skip(buffer, buffer.len() - keep)?;
                return Ok(None);
            };
            if at > 0 {
                self.skip(buffer, at)?;
            }
            match header(buffer) {
                Scan::Found(header, length) => {
                    buffer.advance(length);
                    self.garbage = 0;
                    return Ok(Some(header));
                }
                Scan::Incomplete => return Ok(None),
                Scan::Malformed => self.skip(buffer, MAGIC.len())?,
            }
        }
    }

    fn skip(&mut self, buffer: &mut BytesMut, count: usize) -> Result<(), PeerProtocolError> {
        self.garbage += buffer[..count].iter().filter(|&&byte| byte != b' ').count();
        buffer.advance(count);
        if self.garbage > MAX_PEER_GARBAGE {
            return Err(PeerProtocolError::Garbage);
        }
        Ok(())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

enum Scan {
    Found(Header, usize),
    Incomplete,
    Malformed,
}

/// Reads a header that begins with the magic.
fn header(bytes: &[u8]) -> Scan {
    match fields(bytes) {
        Ok((header, length)) => Scan::Found(header, length),
        Err(Stop::End) if bytes.len() < MAX_PEER_HEADER + MAX_PEER_DATA => Scan::Incomplete,
        Err(_) => Scan::Malformed,
    }
}

enum Stop {
    End,
    Wrong,
}

fn fields(bytes: &[u8]) -> Result<(Header, usize), Stop> {
    let mut cursor = Cursor {
        bytes,
        at: MAGIC.len(),
    };
    cursor.expect(b' ')?;
    let id = cursor.number()?;
    cursor.expect(b' ')?;
    let kind = cursor.number()?;
    cursor.expect(b' ')?;
    let flags = cursor.number()?;
    cursor.expect(b' ')?;
    cursor.number()?;
    cursor.expect(b' ')?;
    let same_dc = cursor.number()?;
    cursor.expect(b' ')?;
    cursor.expect(b'*')?;
    let data = usize::try_from(cursor.number()?).map_err(|_| Stop::Wrong)?;
    if data > MAX_PEER_DATA {
        return Err(Stop::Wrong);
    }
    cursor.expect(b' ')?;
    cursor.at += data;
    cursor.expect(b' ')?;
    cursor.expect(b'*')?;
    cursor.number()?;
    cursor.expect(b'\r')?;
    cursor.expect(b'\n')?;
    let header = Header {
        id,
        kind: Kind::from_number(u8::try_from(kind).map_err(|_| Stop::Wrong)?),
        encrypted: flags & 1 == 1,
        same_dc: same_dc != 0,
    };
    Ok((header, cursor.at))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        match self.bytes.get(self.at) {
            Some(&found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(Stop::Wrong),
            None => Err(Stop::End),
        }
    }

    /// A number of at least one digit, whose end has arrived.
    fn number(&mut self) -> Result<u64, Stop> {
        let start = self.at;
        let mut value = 0_u64;
        while let Some(byte) = self.bytes.get(self.at) {
            if !byte.is_ascii_digit() {
                return if self.at > start {
                    Ok(value)
                } else {
                    Err(Stop::Wrong)
                };
            }
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                .ok_or(Stop::Wrong)?;
            self.at += 1;
        }
        Err(Stop::End)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$1\r\nv\r\n";

    fn headers(chunks: &[&[u8]]) -> Vec<Header> {
        let mut parser = HeaderParser::default();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(header) = parser.parse(&mut buffer).unwrap() {
                found.push(header);
            }
        }
        found
    }

    #[test]
    fn a_message_is_written_as_captured_from_the_real_engine() {
        let mut out = BytesMut::new();
        let header = Header {
            id: 1,
            kind: Kind::Request,
            encrypted: false,
            same_dc: true,
        };
        write_header(&mut out, &header, SET.len());
        out.extend_from_slice(SET);
        assert_eq!(
            out.as_ref(),
            b"   $2014$ 1 3 0 1 1 *1 d *29\r\n*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$1\r\nv\r\n"
        );
        let mut out = BytesMut::new();
        let reply = Header {
            kind: Kind::Response,
            ..header
        };
        write_header(&mut out, &reply, 5);
        assert_eq!(out.as_ref(), b"   $2014$ 1 5 0 1 1 *1 d *5\r\n");
    }

    #[test]
    fn headers_are_found_however_the_stream_is_cut_and_whatever_stands_between() {
        let stream: &[u8] = b"garbage $2014 $2014$ x   $2014$ 7 3 0 1 1 *1 d *60\r\n+x\r\n\
            $2014$ 18446744073709551615 4 1 2 0 *3 a c *0\r\n$2014$ 9 7 0 1 1 *1 a *45\r\n";
        let expected = [
            Header {
                id: 7,
                kind: Kind::Request,
                encrypted: false,
                same_dc: true,
            },
            Header {
                id: u64::MAX,
                kind: Kind::Forward,
                encrypted: true,
                same_dc: false,
            },
            Header {
                id: 9,
                kind: Kind::Other(7),
                encrypted: false,
                same_dc: true,
            },
        ];
        for cut in 0..stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(headers(&[first, second]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(headers(&single), expected);
    }

    #[test]
    fn a_peer_that_never_sends_a_message_is_given_up_without_keeping_its_bytes() {
        let mut parser = HeaderParser::default();
        let mut buffer = BytesMut::new();
        let chunk = vec![b'x'; 64 * 1024];
        let mut fed = 0;
        loop {
            buffer.extend_from_slice(&chunk);
            fed += chunk.len();
            if parser.parse(&mut buffer).is_err() {
                break;
            }
            assert!(buffer.len() < MAGIC.len() && fed <= MAX_PEER_GARBAGE);
        }
    }

    #[test]
    fn an_endless_header_is_skipped() {
        let mut bytes = b"$2014$ 1 3 0 1 1 *1 d *".to_vec();
        bytes.extend(std::iter::repeat_n(b'0', MAX_PEER_HEADER + MAX_PEER_DATA));
        bytes.extend(b" $2014$ 2 5 0 1 1 *1 d *5\r\n");
        let found = headers(&[&bytes]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, 2);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(id: u64, forward: bool, same_dc: bool, payload in 0..100_usize) {
            let kind = if forward { Kind::Forward } else { Kind::Response };
            let header = Header { id, kind, encrypted: false, same_dc };
            let mut out = BytesMut::new();
            write_header(&mut out, &header, payload);
            prop_assert_eq!(headers(&[&out]), vec![header]);
        }

        #[test]
        fn no_bytes_make_the_parser_fail_to_return(
            bytes in prop::collection::vec(prop::sample::select(b"$2014 *d\r\n35".to_vec()), 0..120))
        {
            let _ = headers(&[&bytes]);
        }
    }
}
