//! The peer protocol: one header line in front of each RESP message.
//!
//! ```text
//!    $2014$ <id> <type> <flags> <version> <same_dc> *<n> <data: n bytes> *<payload length>\r\n<RESP>
//! ```
//!
//! The payload ends where its RESP ends. Netflix's engine writes a wrong payload length when it
//! passes on what came from another datacenter, so the number is written here and never believed.
//!
//! In clear messages Netflix's engine writes one letter as `data` and ignores what it reads there.
//! Our engines say in it which of a coordinator's writes this is (see [`crate::received`]):
//!
//! ```text
//!   connects                                         accepts
//!      │ PING, data n: "I number my writes" ───────────▶│   Netflix's engine only answers the PING
//!      │◀───────────── Numbers, data n: "so do I" ──────│
//!      │ Numbers, data i<token>:<given>:<incarnation> ─▶│   who counts, for whom, how far it is
//!      │ writes, data w<number> ───────────────────────▶│
//!      │ Numbers, data g<given> ───────────────────────▶│   when one could not be sent
//! ```

use bytes::{Buf, BufMut, BytesMut};

use crate::limits::{MAX_INCARNATION, MAX_PEER_DATA, MAX_PEER_GARBAGE, MAX_PEER_HEADER};
use crate::token::Token;

const MAGIC: &[u8] = b"$2014$";

/// The type of [`Kind::Numbers`]: the first that Netflix's engine has no use for.
const NUMBERS: u8 = 14;

/// Bytes of the longest header that is written.
const LONGEST_LINE: usize = 128 + MAX_INCARNATION;

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
    /// A word about the numbers of writes, without payload: only between our engines.
    Numbers,
    /// Gossip and everything else that has no RESP payload and is not acted on.
    Other(u8),
}

impl Kind {
    fn from_number(number: u8) -> Self {
        match number {
            3 => Self::Request,
            4 => Self::Forward,
            5 => Self::Response,
            NUMBERS => Self::Numbers,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Request => 3,
            Self::Forward => 4,
            Self::Response => 5,
            Self::Numbers => NUMBERS,
            Self::Other(other) => other,
        }
    }

    /// Whether a RESP message follows the header.
    pub fn has_payload(self) -> bool {
        !matches!(self, Self::Numbers | Self::Other(_))
    }
}

/// What our engines say in the `data` of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tag {
    /// Nothing; all that Netflix's engine ever says.
    #[default]
    None,
    /// "I number my writes": the first word of each side.
    Offer,
    /// Who counts; before the first number.
    Introduction(Box<Introduction>),
    /// The number of this write.
    Number(u64),
    /// Numbers up to this one have been given; what did not arrive of them will not.
    Given(u64),
}

/// Whose numbers come over a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The token whose writes are meant.
    pub token: Token,
    /// The highest number given so far; 0 before the first.
    pub given: u64,
    /// The coordinator, by its incarnation: letters, digits, `-` and `_`.
    pub incarnation: String,
}

impl Tag {
    /// Reads a `data` field; what is not ours says nothing.
    fn read(data: &[u8]) -> Self {
        let tag = match data.first() {
            Some(b'n') if data.len() == 1 => Some(Self::Offer),
            Some(b'w') => number(&data[1..]).map(Self::Number),
            Some(b'g') => number(&data[1..]).map(Self::Given),
            Some(b'i') => Introduction::read(&data[1..]).map(|who| Self::Introduction(who.into())),
            _ => None,
        };
        tag.unwrap_or_default()
    }
}

/// A number that is all there is.
fn number(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    digits
        .iter()
        .try_fold(0, add)
        .filter(|_| !digits.is_empty())
}

impl Introduction {
    fn read(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.splitn(3, ':');
        let token = Token(words.next()?.parse().ok()?);
        let given = words.next()?.parse().ok()?;
        let incarnation = words.next()?;
        let fits = (1..=MAX_INCARNATION).contains(&incarnation.len());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (fits && incarnation.bytes().all(is_plain)).then(|| Self {
            token,
            given,
            incarnation: incarnation.to_owned(),
        })
    }
}

/// The header of a peer message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Unique per sending process; a response echoes it.
    pub id: u64,
    /// What is asked for.
    pub kind: Kind,
    /// Whether the payload is encrypted.
    pub encrypted: bool,
    /// Whether sender and receiver are in one datacenter.
    pub same_dc: bool,
    /// What our engines say beside it.
    pub tag: Tag,
}

/// Bytes that are not the peer protocol; the connection cannot be used any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerProtocolError {
    /// More than [`MAX_PEER_GARBAGE`] bytes without a message.
    #[error("no message in {MAX_PEER_GARBAGE} bytes")]
    Garbage,
}

/// A header being put together. There is one for every message, which is why it is done by hand:
/// formatting would cost more than all else that is done about a small message.
///
/// [`LONGEST_LINE`] holds four numbers of twenty digits, an incarnation and what stands between.
struct Line {
    bytes: [u8; LONGEST_LINE],
    len: usize,
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    /// Length and text of a `data` field: a letter and a number.
    fn counted(&mut self, letter: u8, number: u64) {
        let digits = number.checked_ilog10().map_or(1, |log| log + 1);
        self.number(u64::from(1 + digits));
        self.put(&[b' ', letter]);
        self.number(number);
    }

    fn tag(&mut self, tag: &Tag) {
        match tag {
            Tag::None => self.put(b"1 d"),
            Tag::Offer => self.put(b"1 n"),
            Tag::Number(number) => self.counted(b'w', *number),
            Tag::Given(number) => self.counted(b'g', *number),
            Tag::Introduction(who) => {
                let name = who.incarnation.as_bytes();
                let name = &name[..name.len().min(MAX_INCARNATION)];
                let text = format!("i{}:{}:", who.token, who.given);
                self.number((text.len() + name.len()) as u64);
                self.put(b" ");
                self.put(text.as_bytes());
                self.put(name);
            }
        }
    }
}

/// Appends a header for a payload of `payload` bytes in clear text.
pub fn write_header(out: &mut BytesMut, header: &Header, payload: usize) {
    let mut line = Line {
        bytes: [0; LONGEST_LINE],
        len: 0,
    };
    line.put(b"   $2014$ ");
    line.number(header.id);
    line.put(b" ");
    line.number(u64::from(header.kind.number()));
    line.put(if header.same_dc {
        b" 0 1 1 *"
    } else {
        b" 0 1 0 *"
    });
    line.tag(&header.tag);
    line.put(b" *");
    line.number(payload as u64);
    line.put(b"\r\n");
    out.put_slice(&line.bytes[..line.len]);
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
    let data = cursor.at..cursor.at + data;
    cursor.at = data.end;
    cursor.expect(b' ')?;
    cursor.expect(b'*')?;
    cursor.number()?;
    cursor.expect(b'\r')?;
    cursor.expect(b'\n')?;
    let encrypted = flags & 1 == 1;
    let header = Header {
        id,
        kind: Kind::from_number(u8::try_from(kind).map_err(|_| Stop::Wrong)?),
        encrypted,
        same_dc: same_dc != 0,
        // An encrypted message has a key there.
        tag: bytes
            .get(data)
            .filter(|_| !encrypted)
            .map_or(Tag::None, Tag::read),
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
            tag: Tag::None,
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
                tag: Tag::None,
            },
            Header {
                id: u64::MAX,
                kind: Kind::Forward,
                encrypted: true,
                same_dc: false,
                tag: Tag::None,
            },
            Header {
                id: 9,
                kind: Kind::Other(7),
                encrypted: false,
                same_dc: true,
                tag: Tag::None,
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

    fn tag() -> impl Strategy<Value = Tag> {
        let introduction = (any::<u32>(), any::<u64>(), "[0-9a-zA-Z_-]{1,64}");
        prop_oneof![
            Just(Tag::None),
            Just(Tag::Offer),
            any::<u64>().prop_map(Tag::Number),
            any::<u64>().prop_map(Tag::Given),
            introduction.prop_map(|(token, given, incarnation)| {
                let token = Token(token);
                Tag::Introduction(Box::new(Introduction {
                    token,
                    given,
                    incarnation,
                }))
            }),
        ]
    }

    fn with_data(data: &str) -> Tag {
        let message = format!("$2014$ 1 3 0 1 1 *{} {data} *0\r\n", data.len());
        headers(&[message.as_bytes()])[0].tag.clone()
    }

    #[test]
    fn data_that_is_not_ours_says_nothing() {
        for data in [
            "d",
            "a",
            "",
            "n1",
            "w",
            "w-1",
            "wx",
            "w18446744073709551616",
            "g",
            "i",
            "i1:2",
            "i1:2:",
            "i1:2:a b",
            "i4294967296:2:a",
            "i1:x:a",
        ] {
            assert_eq!(with_data(data), Tag::None, "{data:?}");
        }
        assert_eq!(with_data(&format!("i1:2:{}", "a".repeat(65))), Tag::None);
        assert_eq!(with_data("n"), Tag::Offer);
        assert_eq!(with_data("w7"), Tag::Number(7));
    }

    #[test]
    fn the_data_of_an_encrypted_message_is_a_key() {
        let found = headers(&[b"$2014$ 1 3 1 1 1 *2 w7 *0\r\n"]);
        assert_eq!((found[0].encrypted, &found[0].tag), (true, &Tag::None));
    }

    proptest! {
        #[test]
        fn a_tag_is_read_again_wherever_the_stream_is_cut(tag in tag(), same_dc: bool) {
            let kind = if matches!(tag, Tag::Number(_)) { Kind::Request } else { Kind::Numbers };
            let header = Header { id: 3, kind, encrypted: false, same_dc, tag };
            let mut out = BytesMut::new();
            write_header(&mut out, &header, 0);
            for cut in 0..=out.len() {
                let (first, second) = out.split_at(cut);
                prop_assert_eq!(headers(&[first, second]), std::slice::from_ref(&header));
            }
        }

        #[test]
        fn what_is_written_is_read_again(id: u64, forward: bool, same_dc: bool, payload in 0..100_usize) {
            let kind = if forward { Kind::Forward } else { Kind::Response };
            let header = Header { id, kind, encrypted: false, same_dc, tag: Tag::None };
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
