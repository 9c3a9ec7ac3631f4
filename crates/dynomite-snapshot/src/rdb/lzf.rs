//! LZF, unpacked in pieces: literals and references at most 8 KiB back.

use super::Fault;

/// How far back a reference reaches at most.
const REACH: usize = 1 << 13;

/// When the kept output is cut back to what references can reach.
const CUT: usize = 8 * REACH;

/// Compressed bytes that are unpacked in one go. Three of them give at most 264.
pub(super) const PIECE: usize = 512;

#[derive(Debug, Clone, Copy)]
enum State {
    Control,
    Literal {
        left: usize,
    },
    /// The length goes on in the next byte.
    LongLength {
        high: usize,
    },
    Distance {
        length: usize,
        high: usize,
    },
}

/// An unpacking in progress.
#[derive(Debug, Clone)]
pub(super) struct Lzf {
    state: State,
    produced: u64,
    expected: u64,
    /// The last output, if anybody looks at it; checks of lengths and references need none.
    output: Option<Vec<u8>>,
    /// How much of `output` was handed out.
    taken: usize,
}

impl Lzf {
    /// Unpacks to `expected` bytes; `content` asks for the bytes themselves.
    pub(super) fn new(expected: u64, content: bool) -> Self {
        Self {
            state: State::Control,
            produced: 0,
            expected,
            output: content.then(Vec::new),
            taken: 0,
        }
    }

    /// Takes at most [`PIECE`] compressed bytes; what they give is in [`take`](Self::take).
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some((&first, rest)) = bytes.split_first() {
            let byte = usize::from(first);
            match self.state {
                State::Control if byte < 32 => self.state = State::Literal { left: byte + 1 },
                State::Control => {
                    let (length, high) = (byte >> 5, (byte & 31) << 8);
                    self.state = if length == 7 {
                        State::LongLength { high }
                    } else {
                        State::Distance { length, high }
                    };
                }
                State::LongLength { high } => {
                    let length = 7 + byte;
                    self.state = State::Distance { length, high };
                }
                State::Distance { length, high } => {
                    self.refer(high + byte + 1, length + 2)?;
                    self.state = State::Control;
                }
                State::Literal { left } => {
                    let (literal, rest) = bytes.split_at(left.min(bytes.len()));
                    self.grow(literal.len())?;
                    if let Some(output) = &mut self.output {
                        output.extend_from_slice(literal);
                    }
                    self.state = match left - literal.len() {
                        0 => State::Control,
                        left => State::Literal { left },
                    };
                    bytes = rest;
                    continue;
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// What came out since the last call.
    pub(super) fn take(&mut self) -> &[u8] {
        let Some(output) = &mut self.output else {
            return &[];
        };
        if self.taken > CUT {
            output.drain(..self.taken - REACH);
            self.taken = REACH;
        }
        let from = std::mem::replace(&mut self.taken, output.len());
        &output[from..]
    }

    /// Says whether all came out and nothing is missing.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if !matches!(self.state, State::Control) {
            return Err(Fault::Compressed("it ends in the middle"));
        }
        if self.produced != self.expected {
            return Err(Fault::Compressed("it gives fewer bytes than it says"));
        }
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), Fault> {
        self.produced += by as u64;
        if self.produced > self.expected {
            return Err(Fault::Compressed("it gives more bytes than it says"));
        }
        Ok(())
    }

    fn refer(&mut self, distance: usize, length: usize) -> Result<(), Fault> {
        if distance as u64 > self.produced {
            return Err(Fault::Compressed("it refers to before its begin"));
        }
        self.grow(length)?;
        if let Some(output) = &mut self.output {
            // A reference may reach into what it writes itself, so it is copied byte by byte.
            let from = output.len() - distance;
            for at in from..from + length {
                output.push(output[at]);
            }
        }
        Ok(())
    }
}

/// Unpacks what is here as a whole.
pub(crate) fn unpack(compressed: &[u8], length: u64) -> Option<Vec<u8>> {
    let mut lzf = Lzf::new(length, true);
    let mut output = Vec::new();
    for piece in compressed.chunks(PIECE) {
        lzf.push(piece).ok()?;
        output.extend_from_slice(lzf.take());
    }
    lzf.finish().ok()?;
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(compressed: &[u8], expected: u64, piece: usize) -> Result<Vec<u8>, Fault> {
        let mut lzf = Lzf::new(expected, true);
        let mut sizes = Lzf::new(expected, false);
        let mut output = Vec::new();
        for piece in compressed.chunks(piece) {
            let same = sizes.push(piece);
            let pushed = lzf.push(piece);
            assert_eq!(pushed, same, "lengths are checked without content as well");
            pushed?;
            output.extend_from_slice(lzf.take());
        }
        lzf.finish()?;
        Ok(output)
    }

    #[test]
    fn literals_and_references_unpack_in_any_pieces() {
        // "abc", then 9 bytes from 3 back, then 300 (7 + 255 + 2 = 264 and 36) from 1 back.
        let compressed = [
            2,
            b'a',
            b'b',
            b'c',
            7 << 5,
            0,
            2,
            7 << 5,
            255,
            0,
            7 << 5,
            27,
            0,
        ];
        let whole = [b"abcabcabcabc".to_vec(), vec![b'c'; 300]].concat();
        for piece in 1..=compressed.len() {
            assert_eq!(unpack(&compressed, 312, piece), Ok(whole.clone()));
        }
    }

    #[test]
    fn far_references_outlive_the_cut_of_the_window() {
        let mut compressed = vec![0, b'x'];
        let mut length = 1;
        while length < 200_000 {
            compressed.extend([7 << 5, 255, 0]);
            length += 264;
        }
        compressed.extend([(1 << 5) | 31, 255]);
        let whole = unpack(&compressed, length + 3, 100).expect("in order");
        assert!(whole.iter().all(|&byte| byte == b'x'));
    }

    #[test]
    fn wrong_lengths_and_references_are_refused() {
        assert!(unpack(&[0, b'a'], 2, 9).is_err());
        assert!(unpack(&[1, b'a', b'b'], 1, 9).is_err());
        assert!(unpack(&[3, b'a', b'b'], 4, 9).is_err());
        assert!(unpack(&[0, b'a', 1 << 5, 1], 4, 9).is_err());
        assert_eq!(unpack(&[0, b'a', 1 << 5, 0], 4, 9), Ok(b"aaaa".to_vec()));
    }
}
