//! Requests: an array of bulk strings, or an inline command.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{ProtocolError, line, write};
use crate::limits::{Limits, MAX_LENGTH_LINE, MAX_LINE};

/// Where an argument stands in the request's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// Requests are limited far below 4 GiB by [`RequestParser::parse`].
    fn new(start: usize, length: usize) -> Self {
        Self {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            length: u32::try_from(length).unwrap_or(0),
        }
    }
}

/// One whole request: its bytes as they came, and where each argument is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    raw: Bytes,
    args: SmallVec<[Span; 6]>,
}

impl Request {
    /// Builds a request from its arguments.
    pub fn from_args<A: AsRef<[u8]>>(args: &[A]) -> Self {
        let mut out = BytesMut::new();
        write::array(&mut out, args.len());
        let mut spans = SmallVec::with_capacity(args.len());
        for arg in args {
            let arg = arg.as_ref();
            write::bulk(&mut out, arg);
            spans.push(Span::new(out.len() - 2 - arg.len(), arg.len()));
        }
        Self {
            raw: out.freeze(),
            args: spans,
        }
    }

    /// The request as RESP.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Number of arguments, the command's name included. Never 0 for a parsed request.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there is not even a name.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// Argument `index`; 0 is the command's name. Empty when there is none.
    pub fn arg(&self, index: usize) -> &[u8] {
        match self.args.get(index) {
            Some(span) => &self.raw[span.start as usize..][..span.length as usize],
            None => &[],
        }
    }

    /// All arguments from `index` on.
    pub fn args_from(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        (index..self.args.len()).map(|index| self.arg(index))
    }

    /// Argument `index` as a whole number.
    pub fn number(&self, index: usize) -> Option<i64> {
        line::number(self.arg(index))
    }
}

/// What of a request has been understood so far. Nothing is parsed twice, so a request that
/// arrives byte by byte costs as much as one that arrives whole.
#[derive(Debug, Default)]
pub struct RequestParser {
    position: usize,
    expected: usize,
    args: SmallVec<[Span; 6]>,
}

impl RequestParser {
    /// Takes one request from the front of `buffer`, or `None` when it has not fully arrived.
    pub fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Request>, ProtocolError> {
        while self.expected == 0 {
            match buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    if !self.array_header(buffer, limits)? {
                        return Ok(None);
                    }
                }
                Some(_) => match inline(buffer)? {
                    Inline::Incomplete => return Ok(None),
                    Inline::Blank => {}
                    Inline::Request(request) => return Ok(Some(request)),
                },
            }
        }
        while self.args.len() < self.expected {
            if !self.argument(buffer, limits)? {
                return Ok(None);
            }
        }
        let raw = buffer.split_to(self.position).freeze();
        let args = std::mem::take(&mut self.args);
        *self = Self::default();
        Ok(Some(Request { raw, args }))
    }

    /// Whether a request has begun and is not complete.
    pub fn is_in_request(&self) -> bool {
        self.expected > 0
    }

    /// Reads `*count`; arrays without elements are skipped, as Redis does.
    fn array_header(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<bool, ProtocolError> {
        let Some(found) = line::find(buffer, 1, MAX_LENGTH_LINE, &ProtocolError::LengthLine)?
        else {
            return Ok(false);
        };
        let count = line::number(&buffer[1..found.end]).ok_or(ProtocolError::ArrayLength)?;
        if count <= 0 {
            buffer.advance(found.next);
            return Ok(true);
        }
        self.expected = usize::try_from(count)
            .ok()
            .filter(|&count| count <= limits.max_args)
            .ok_or(ProtocolError::ArrayLength)?;
        self.position = found.next;
        Ok(true)
    }

    fn argument(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, ProtocolError> {
        match buffer.get(self.position) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(char::from(other))),
        }
        let start = self.position + 1;
        let Some(found) = line::find(buffer, start, MAX_LENGTH_LINE, &ProtocolError::BulkLength)?
        else {
            return Ok(false);
        };
        let length = line::number(&buffer[start..found.end])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length <= limits.max_bytes)
            .ok_or(ProtocolError::BulkLength)?;
        let end = found.next + length;
        if end + 2 > limits.max_bytes.min(u32::MAX as usize) {
            return Err(ProtocolError::TooLarge(limits.max_bytes));
        }
        match buffer.get(end..end + 2) {
            None => Ok(false),
            Some(b"\r\n") => {
                self.args.push(Span::new(found.next, length));
                self.position = end + 2;
                Ok(true)
            }
            Some(_) => Err(ProtocolError::MissingEnd),
        }
    }
}

enum Inline {
    Incomplete,
    Blank,
    Request(Request),
}

/// An inline command: words on one line. Quoting is not understood; people who type by hand do
/// not need it, and no client library sends inline commands.
fn inline(buffer: &mut BytesMut) -> Result<Inline, ProtocolError> {
    let window = &buffer[..buffer.len().min(MAX_LINE)];
    let Some(length) = window.iter().position(|&byte| byte == b'\n') else {
        if window.len() == MAX_LINE {
            return Err(ProtocolError::LineTooLong);
        }
        return Ok(Inline::Incomplete);
    };
    let text = buffer.split_to(length + 1);
    let words: Vec<&[u8]> = text[..]
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return Ok(Inline::Blank);
    }
    Ok(Inline::Request(Request::from_args(&words)))
}
