//! Values packed into one string (listpack, ziplist, intset, zipmap), checked while they pass.
//!
//! A store that loads them trusts them, so one that is broken may take the store down on the first
//! command that touches it, long after the restore.
//!
//! ```text
//! listpack   size:4 count:2  ( encoding payload  length-of-both )*            ff
//! ziplist    size:4 tail:4 count:2  ( length-of-previous encoding payload )*  ff
//! intset     width:4 count:4  integers
//! ```

use super::Fault;

/// How a value is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Since Redis 7.
    Listpack,
    /// Before Redis 7.
    Ziplist,
    /// Sets of integers.
    Intset,
    /// Hashes before Redis 2.6. Only its end mark is looked at.
    Zipmap,
}

/// What the count in a header is when there are more than it can say.
const UNCOUNTED: u64 = 0xffff;

/// The mark behind the last element.
const END: u8 = 0xff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Where an element begins, up to its payload.
    Head,
    Payload {
        left: u64,
    },
    /// Behind an element of a listpack: its length.
    Length,
    Ended,
}

/// A packed value of which a part has passed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    form: Form,
    /// The elements must be a multiple of this.
    multiple: u64,
    /// Length of the whole string.
    size: u64,
    at: u64,
    state: State,
    held: [u8; 16],
    filled: usize,
    count: u64,
    announced: u64,
    /// Begin and length of the element at hand, or of the last one.
    begin: u64,
    length: u64,
    tail: u64,
}

impl Packed {
    pub(super) fn new(form: Form, multiple: u64, size: u64) -> Self {
        Self {
            form,
            multiple,
            size,
            at: 0,
            state: State::Header,
            held: [0; 16],
            filled: 0,
            count: 0,
            announced: UNCOUNTED,
            begin: 0,
            length: 0,
            tail: 0,
        }
    }

    /// Takes the next bytes of the string.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Payload { left } = self.state {
                let skipped = left.min(bytes.len() as u64);
                self.at += skipped;
                bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                self.payload(left - skipped)?;
                continue;
            }
            self.at += 1;
            bytes = rest;
            if self.form == Form::Zipmap {
                let last = self.at == self.size && byte == END;
                self.state = if last { State::Ended } else { State::Head };
                continue;
            }
            if self.state == State::Ended {
                return Err(Fault::Packed("bytes behind its end"));
            }
            self.held[self.filled] = byte;
            self.filled += 1;
            self.step()?;
        }
        Ok(())
    }

    /// Says whether the whole string was a whole value.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.state != State::Ended {
            return Err(Fault::Packed("no end"));
        }
        if self.announced != UNCOUNTED && self.announced != self.count {
            return Err(Fault::Packed("another count than it says"));
        }
        if !self.count.is_multiple_of(self.multiple) {
            return Err(Fault::Packed("an element without its partner"));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Header => self.header(),
            State::Head => self.head(),
            State::Length => self.behind(),
            State::Payload { .. } | State::Ended => Ok(()),
        }
    }

    fn little(&self, from: usize, bytes: usize) -> u64 {
        let held = &self.held[from..from + bytes];
        held.iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn header(&mut self) -> Result<(), Fault> {
        let length = match self.form {
            Form::Listpack => 6,
            Form::Ziplist => 10,
            Form::Intset | Form::Zipmap => 8,
        };
        if self.filled < length {
            return Ok(());
        }
        self.filled = 0;
        self.begin = self.at;
        if self.form == Form::Intset {
            let (width, count) = (self.little(0, 4), self.little(4, 4));
            if !matches!(width, 2 | 4 | 8) || self.size != 8 + width * count {
                return Err(Fault::Packed("integers of a wrong width or count"));
            }
            self.count = count;
            return self.payload(width * count);
        }
        if self.little(0, 4) != self.size {
            return Err(Fault::Packed("another size than it says"));
        }
        self.tail = self.little(4, 4);
        self.announced = self.little(length - 2, 2);
        self.state = State::Head;
        Ok(())
    }

    fn head(&mut self) -> Result<(), Fault> {
        if self.filled == 1 && self.held[0] == END {
            return self.end();
        }
        let parsed = match self.form {
            Form::Ziplist => self.ziplist_head()?,
            _ => listpack_head(&self.held[..self.filled])?,
        };
        if let Some((head, payload)) = parsed {
            self.count += 1;
            self.filled = 0;
            self.length = head + payload;
            self.payload(payload)?;
        }
        Ok(())
    }

    /// Head and payload of the element at hand, once its head is here.
    fn ziplist_head(&mut self) -> Result<Option<(u64, u64)>, Fault> {
        let before = if self.held[0] < 254 { 1 } else { 5 };
        if self.filled <= before {
            return Ok(None);
        }
        if self.filled == before + 1 {
            let previous = match before {
                1 => u64::from(self.held[0]),
                _ => self.little(1, 4),
            };
            if previous != self.length {
                return Err(Fault::Packed("an element of another length than it says"));
            }
            self.begin = self.at - before as u64 - 1;
        }
        let encoded = ziplist_encoding(&self.held[before..self.filled])?;
        Ok(encoded.map(|(head, payload)| (before as u64 + head, payload)))
    }

    fn payload(&mut self, left: u64) -> Result<(), Fault> {
        if left > self.size.saturating_sub(self.at) {
            return Err(Fault::Packed("an element reaches over its end"));
        }
        self.state = match (left, self.form) {
            (1.., _) => State::Payload { left },
            (0, Form::Listpack) => State::Length,
            (0, Form::Intset) => State::Ended,
            (0, _) => State::Head,
        };
        Ok(())
    }

    fn behind(&mut self) -> Result<(), Fault> {
        let (bytes, length) = length_behind(self.length);
        if self.filled < length {
            return Ok(());
        }
        if self.held[..length] != bytes[..length] {
            return Err(Fault::Packed("an element of another length than it says"));
        }
        self.filled = 0;
        self.state = State::Head;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        if self.at != self.size {
            return Err(Fault::Packed("it ends before its end"));
        }
        if self.form == Form::Ziplist && self.tail != self.begin {
            return Err(Fault::Packed("its last element is elsewhere"));
        }
        self.state = State::Ended;
        Ok(())
    }
}

/// Head and payload of an element of a listpack, once its head is here.
fn listpack_head(held: &[u8]) -> Result<Option<(u64, u64)>, Fault> {
    let Some(&first) = held.first() else {
        return Ok(None);
    };
    let second = held.get(1).copied().map(u64::from);
    Ok(match first {
        0..0x80 => Some((1, 0)),
        0x80..0xc0 => Some((1, u64::from(first & 0x3f))),
        0xc0..0xe0 => Some((1, 1)),
        0xe0..0xf0 => second.map(|low| (2, u64::from(first & 0x0f) << 8 | low)),
        0xf0 => held.get(1..5).map(|size| {
            let size = size.iter().rev();
            (5, size.fold(0, |all, &byte| all << 8 | u64::from(byte)))
        }),
        0xf1 => Some((1, 2)),
        0xf2 => Some((1, 3)),
        0xf3 => Some((1, 4)),
        0xf4 => Some((1, 8)),
        _ => return Err(Fault::Packed("an element of unknown encoding")),
    })
}

/// As [`listpack_head`], of what follows the length of the previous element.
fn ziplist_encoding(held: &[u8]) -> Result<Option<(u64, u64)>, Fault> {
    let Some(&first) = held.first() else {
        return Ok(None);
    };
    let second = held.get(1).copied().map(u64::from);
    Ok(match first {
        0..0x40 => Some((1, u64::from(first))),
        0x40..0x80 => second.map(|low| (2, u64::from(first & 0x3f) << 8 | low)),
        0x80 => held.get(1..5).map(|size| {
            let size = size.iter();
            (5, size.fold(0, |all, &byte| all << 8 | u64::from(byte)))
        }),
        0xc0 => Some((1, 2)),
        0xd0 => Some((1, 4)),
        0xe0 => Some((1, 8)),
        0xf0 => Some((1, 3)),
        0xfe => Some((1, 1)),
        0xf1..=0xfd => Some((1, 0)),
        _ => return Err(Fault::Packed("an element of unknown encoding")),
    })
}

/// The length of an element as a listpack writes it behind, to be read backwards: seven bits in
/// each byte, and all but the first in order say that another one lies before them.
fn length_behind(length: u64) -> ([u8; 5], usize) {
    let count = match length {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    for (at, byte) in bytes[..count].iter_mut().enumerate() {
        let bits = (length >> (7 * (count - 1 - at))) & 0x7f;
        let more = if at == 0 { 0 } else { 0x80 };
        *byte = u8::try_from(bits).unwrap_or(0) | more;
    }
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: Form, multiple: u64, bytes: &[u8]) -> Result<(), Fault> {
        let whole = {
            let mut packed = Packed::new(form, multiple, bytes.len() as u64);
            packed.push(bytes).and_then(|()| packed.finish())
        };
        let mut packed = Packed::new(form, multiple, bytes.len() as u64);
        let split = bytes.chunks(1).try_for_each(|byte| packed.push(byte));
        assert_eq!(split.and_then(|()| packed.finish()), whole);
        whole
    }

    /// "ab", 5, and a string of 200 bytes.
    fn listpack() -> Vec<u8> {
        let mut bytes = vec![0; 6];
        bytes.extend([0x82, b'a', b'b', 3]);
        bytes.extend([5, 1]);
        bytes.extend([0xe0, 200]);
        bytes.extend([b'x'; 200]);
        bytes.extend([1, 0xca, END]);
        let size = u32::try_from(bytes.len()).expect("small");
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        bytes[4] = 3;
        bytes
    }

    /// "ab", the integer 3, "c".
    fn ziplist() -> Vec<u8> {
        let mut bytes = vec![0; 10];
        bytes.extend([0, 2, b'a', b'b']);
        bytes.extend([4, 0xf4]);
        bytes.extend([2, 1, b'c', END]);
        bytes[0] = u8::try_from(bytes.len()).expect("small");
        bytes[4] = 16;
        bytes[8] = 3;
        bytes
    }

    #[test]
    fn whole_values_pass() {
        assert_eq!(check(Form::Listpack, 1, &listpack()), Ok(()));
        assert_eq!(check(Form::Listpack, 3, &listpack()), Ok(()));
        assert_eq!(check(Form::Ziplist, 1, &ziplist()), Ok(()));
        let intset = [4, 0, 0, 0, 2, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2];
        assert_eq!(check(Form::Intset, 1, &intset), Ok(()));
        assert_eq!(check(Form::Zipmap, 1, &[0, END]), Ok(()));
    }

    #[test]
    fn partnerless_element_is_refused() {
        assert!(check(Form::Listpack, 2, &listpack()).is_err());
        assert!(check(Form::Ziplist, 2, &ziplist()).is_err());
    }

    #[test]
    fn every_cut_and_every_changed_structure_byte_is_refused() {
        for (form, whole) in [(Form::Listpack, listpack()), (Form::Ziplist, ziplist())] {
            for cut in 0..whole.len() {
                assert!(check(form, 1, &whole[..cut]).is_err(), "{form:?} {cut}");
            }
            for at in 0..whole.len() {
                let payload = matches!(whole[at], b'a' | b'b' | b'c' | b'x' | 5 | 0xf4);
                let mut changed = whole.clone();
                changed[at] ^= 0x41;
                assert!(
                    payload || check(form, 1, &changed).is_err(),
                    "{form:?} {at}"
                );
            }
        }
    }

    #[test]
    fn length_behind_an_element_is_read_backwards() {
        assert_eq!(length_behind(127), ([127, 0, 0, 0, 0], 1));
        assert_eq!(length_behind(202), ([1, 0xca, 0, 0, 0], 2));
        assert_eq!(length_behind(16_383).1, 3);
    }
}
