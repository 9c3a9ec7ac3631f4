//! Values decoded from the bytes of a file. What cannot be decoded is `None`: it is restored as it is.

use crate::rdb::unpack;

/// A value in parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    String(Vec<u8>),
    /// Arguments of a command that adds elements: `width` of them make one.
    Elements {
        verb: &'static [u8],
        width: usize,
        all: Vec<Vec<u8>>,
    },
}

/// The string that `bytes` begin with.
pub(super) fn text(bytes: &[u8], limit: usize) -> Option<Vec<u8>> {
    Bytes { bytes, limit }.text()
}

/// Decodes a whole value of this type byte, of at most `limit` bytes.
pub(super) fn decode(encoding: u8, bytes: &[u8], limit: usize) -> Option<Value> {
    let mut bytes = Bytes { bytes, limit };
    let (verb, width): (&'static [u8], usize) = match encoding {
        0 => {
            let text = bytes.text()?;
            return bytes.at_end().then_some(Value::String(text));
        }
        1 | 10 | 14 | 18 => (b"RPUSH", 1),
        2 | 11 | 20 => (b"SADD", 1),
        3 | 5 | 12 | 17 => (b"ZADD", 2),
        4 | 13 | 16 => (b"HSET", 2),
        _ => return None,
    };
    let mut all = match encoding {
        1 | 2 => bytes.many(Bytes::push)?,
        4 => bytes.many(|bytes, all| {
            bytes.push(all)?;
            bytes.push(all)
        })?,
        3 => bytes.many(|bytes, all| {
            bytes.push(all)?;
            all.push(bytes.written_score()?);
            Some(())
        })?,
        5 => bytes.many(|bytes, all| {
            bytes.push(all)?;
            let score = f64::from_le_bytes(bytes.take(8)?.try_into().ok()?);
            all.push(score.to_string().into_bytes());
            Some(())
        })?,
        10 | 12 | 13 => ziplist(&bytes.text()?)?,
        11 => intset(&bytes.text()?)?,
        14 => bytes.many(|bytes, all| {
            all.extend(ziplist(&bytes.text()?)?);
            Some(())
        })?,
        18 => bytes.many(|bytes, all| {
            match bytes.length()? {
                1 => all.push(bytes.text()?),
                _ => all.extend(listpack(&bytes.text()?)?),
            }
            Some(())
        })?,
        _ => listpack(&bytes.text()?)?,
    };
    if verb == b"ZADD" {
        // A file has the member first, the command its score.
        all.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
    }
    // An empty value is none that commands could make.
    let fine = bytes.at_end() && !all.is_empty() && all.len().is_multiple_of(width);
    fine.then_some(Value::Elements { verb, width, all })
}

/// What is left of a value.
struct Bytes<'a> {
    bytes: &'a [u8],
    limit: usize,
}

impl<'a> Bytes<'a> {
    fn at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn big(&mut self, bytes: usize) -> Option<usize> {
        let bytes = self.take(bytes)?.iter();
        let number = bytes.fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).ok()
    }

    /// A length, where no special form may stand.
    fn length(&mut self) -> Option<usize> {
        match *self.bytes.first()? {
            0..0x40 => self.big(1),
            0x40..0x80 => Some(self.big(2)? & 0x3fff),
            0x80 => self.take(1).and_then(|_| self.big(4)),
            0x81 => self.take(1).and_then(|_| self.big(8)),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let number = |bytes: &[u8]| Some(little(bytes).to_string().into_bytes());
        match *self.bytes.first()? {
            form @ 0xc0..=0xc2 => {
                self.take(1)?;
                number(self.take(1 << (form & 3))?)
            }
            0xc3 => {
                self.take(1)?;
                let (compressed, length) = (self.length()?, self.length()?);
                let compressed = self.take(compressed)?;
                if length > self.limit {
                    return None;
                }
                unpack(compressed, length as u64)
            }
            _ => {
                let length = self.length()?;
                self.take(length).map(<[u8]>::to_vec)
            }
        }
    }

    fn push(&mut self, all: &mut Vec<Vec<u8>>) -> Option<()> {
        all.push(self.text()?);
        Some(())
    }

    fn written_score(&mut self) -> Option<Vec<u8>> {
        match self.big(1)? {
            255 => Some(b"-inf".to_vec()),
            254 => Some(b"inf".to_vec()),
            253 => None,
            length => self.take(length).map(<[u8]>::to_vec),
        }
    }

    /// A length, and that many times what `one` reads.
    fn many(
        &mut self,
        mut one: impl FnMut(&mut Self, &mut Vec<Vec<u8>>) -> Option<()>,
    ) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for _ in 0..self.length()? {
            one(self, &mut all)?;
        }
        Some(all)
    }
}

/// A signed number of up to eight bytes, the lowest first.
fn little(bytes: &[u8]) -> i64 {
    let bytes_of = bytes.iter().rev();
    let number = bytes_of.fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    let unused = 64 - 8 * u32::try_from(bytes.len().min(8)).unwrap_or(8);
    number
        .wrapping_shl(unused)
        .cast_signed()
        .wrapping_shr(unused)
}

fn digits(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn intset(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let width = usize::try_from(little(bytes.get(..4)?)).ok()?;
    let integers = bytes.get(8..)?;
    if !matches!(width, 2 | 4 | 8) || !integers.len().is_multiple_of(width) {
        return None;
    }
    let integers = integers.chunks_exact(width);
    Some(integers.map(|integer| digits(little(integer))).collect())
}

fn listpack(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = bytes.get(6..)?;
    let mut all = Vec::new();
    loop {
        let first = *rest.first()?;
        let low = usize::from(*rest.get(1).unwrap_or(&0));
        let (head, length) = match first {
            0..0x80 => {
                all.push(digits(i64::from(first)));
                (1, 0)
            }
            0x80..0xc0 => (1, usize::from(first & 0x3f)),
            0xc0..0xe0 => {
                let number = i64::from(first & 0x1f) << 8 | i64::try_from(low).ok()?;
                all.push(digits(if number < 1 << 12 {
                    number
                } else {
                    number - (1 << 13)
                }));
                (2, 0)
            }
            0xe0..0xf0 => (2, usize::from(first & 0x0f) << 8 | low),
            0xf0 => (
                5,
                usize::try_from(little(rest.get(1..5)?).cast_unsigned() & 0xffff_ffff).ok()?,
            ),
            0xf1 => (1, 2),
            0xf2 => (1, 3),
            0xf3 => (1, 4),
            0xf4 => (1, 8),
            0xff => return Some(all),
            _ => return None,
        };
        let content = rest.get(head..head + length)?;
        match first {
            0x80..0xc0 | 0xe0..=0xf0 => all.push(content.to_vec()),
            0xf1..=0xf4 => all.push(digits(little(content))),
            _ => {}
        }
        let behind = match head + length {
            0..=127 => 1,
            128..=16_382 => 2,
            16_383..=2_097_150 => 3,
            2_097_151..=268_435_454 => 4,
            _ => 5,
        };
        rest = rest.get(head + length + behind..)?;
    }
}

fn ziplist(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = bytes.get(10..)?;
    let mut all = Vec::new();
    loop {
        rest = match *rest.first()? {
            0xff => return Some(all),
            0xfe => rest.get(5..)?,
            _ => rest.get(1..)?,
        };
        let first = *rest.first()?;
        let low = usize::from(*rest.get(1).unwrap_or(&0));
        let (head, length) = match first {
            0..0x40 => (1, usize::from(first)),
            0x40..0x80 => (2, usize::from(first & 0x3f) << 8 | low),
            0x80 => {
                let size: [u8; 4] = rest.get(1..5)?.try_into().ok()?;
                (5, usize::try_from(u32::from_be_bytes(size)).ok()?)
            }
            0xc0 => (1, 2),
            0xd0 => (1, 4),
            0xe0 => (1, 8),
            0xf0 => (1, 3),
            0xfe => (1, 1),
            0xf1..=0xfd => (1, 0),
            _ => return None,
        };
        let content = rest.get(head..head + length)?;
        all.push(match first {
            0..=0x80 => content.to_vec(),
            0xf1..=0xfd => digits(i64::from(first & 0x0f) - 1),
            _ => digits(little(content)),
        });
        rest = rest.get(head + length..)?;
    }
}
