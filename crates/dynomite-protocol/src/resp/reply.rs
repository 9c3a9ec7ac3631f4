//! Replies: where one ends, and a look into it.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{ProtocolError, line};
use crate::limits::{Limits, MAX_LENGTH_LINE, MAX_LINE, MAX_NESTING};

/// Finds the end of replies in a stream. Nothing is parsed twice.
#[derive(Debug, Default)]
pub struct ReplyParser {
    position: usize,
    /// Elements still to come, for each array that is open.
    open: SmallVec<[usize; MAX_NESTING]>,
}

impl ReplyParser {
    /// Takes the bytes of one reply from the front of `buffer`, or `None` when it has not fully
    /// arrived.
    pub fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Bytes>, ProtocolError> {
        loop {
            let Some(element) = element_at(buffer, self.position, limits)? else {
                return Ok(None);
            };
            self.position = element.next;
            if self.position > limits.max_bytes {
                return Err(ProtocolError::TooLarge(limits.max_bytes));
            }
            if element.children > 0 {
                if self.open.len() == MAX_NESTING {
                    return Err(ProtocolError::Nesting);
                }
                self.open.push(element.children);
                continue;
            }
            while let Some(left) = self.open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
            if self.open.is_empty() {
                let frame = buffer.split_to(self.position).freeze();
                *self = Self::default();
                return Ok(Some(frame));
            }
        }
    }
}

struct Element {
    next: usize,
    children: usize,
}

fn element_at(
    bytes: &[u8],
    start: usize,
    limits: &Limits,
) -> Result<Option<Element>, ProtocolError> {
    let Some(&kind) = bytes.get(start) else {
        return Ok(None);
    };
    let max = match kind {
        b'+' | b'-' => MAX_LINE,
        b':' | b'$' | b'*' => MAX_LENGTH_LINE,
        other => return Err(ProtocolError::ReplyType(char::from(other))),
    };
    let Some(found) = line::find(bytes, start + 1, max, &ProtocolError::LineTooLong)? else {
        return Ok(None);
    };
    let leaf = |next| Ok(Some(Element { next, children: 0 }));
    if matches!(kind, b'+' | b'-') {
        return leaf(found.next);
    }
    let wrong = if kind == b'*' {
        ProtocolError::ArrayLength
    } else {
        ProtocolError::BulkLength
    };
    let number = line::number(&bytes[start + 1..found.end]).ok_or(wrong.clone())?;
    if kind == b':' || number == -1 {
        return leaf(found.next);
    }
    let length = usize::try_from(number).map_err(|_| wrong.clone())?;
    if kind == b'*' {
        if length > limits.max_args {
            return Err(wrong);
        }
        return Ok(Some(Element {
            next: found.next,
            children: length,
        }));
    }
    if length > limits.max_bytes {
        return Err(wrong);
    }
    let end = found.next + length;
    match bytes.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => leaf(end + 2),
        Some(_) => Err(ProtocolError::MissingEnd),
    }
}

/// Whether a reply is an error.
pub fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

/// The number of an integer reply.
pub fn integer(reply: &[u8]) -> Option<i64> {
    line::number(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?)
}

/// The elements of an array reply, each as its own bytes; `None` when it is no array. The reply
/// must be one that [`ReplyParser`] has found.
pub fn elements(reply: &Bytes) -> Option<Vec<Bytes>> {
    if reply.first() != Some(&b'*') {
        return None;
    }
    let head = line::find(reply, 1, MAX_LENGTH_LINE, &ProtocolError::LineTooLong).ok()??;
    let count = usize::try_from(line::number(&reply[1..head.end])?).ok()?;
    let mut rest = BytesMut::from(&reply[head.next..]);
    let mut found = Vec::new();
    let mut start = head.next;
    for _ in 0..count {
        let element = ReplyParser::default()
            .parse(&mut rest, &Limits::REPLY)
            .ok()??;
        let end = start + element.len();
        found.push(reply.slice(start..end));
        start = end;
    }
    Some(found)
}
