//! One string while it passes: plain, compressed or written as a number.

use super::Fault;
use super::grammar::Use;
use super::lzf::{Lzf, PIECE};
use super::packed::Packed;
use crate::limits::{MAX_AUX, MAX_KEY};

/// Where the bytes of a string go.
#[derive(Debug)]
enum Sink {
    Nowhere,
    /// Into memory, up to a limit.
    Kept {
        limit: usize,
        whole: bool,
    },
    Packed(Packed),
}

/// How the bytes of a string come.
#[derive(Debug)]
enum Source {
    Plain { left: u64 },
    Compressed { left: u64, lzf: Lzf },
}

/// A string in progress.
#[derive(Debug)]
pub(super) struct Text {
    source: Source,
    sink: Sink,
}

impl Text {
    /// A string that stands there as it is.
    pub(super) fn plain(length: u64, purpose: Use) -> Result<Self, Fault> {
        Ok(Self {
            source: Source::Plain { left: length },
            sink: Sink::new(purpose, length)?,
        })
    }

    /// A string of `compressed` bytes that unpack to `length`.
    pub(super) fn compressed(compressed: u64, length: u64, purpose: Use) -> Result<Self, Fault> {
        let sink = Sink::new(purpose, length)?;
        let lzf = Lzf::new(length, !matches!(sink, Sink::Nowhere));
        Ok(Self {
            source: Source::Compressed {
                left: compressed,
                lzf,
            },
            sink,
        })
    }

    /// Takes what belongs to the string off `input`; kept bytes go to `kept`. Says whether that
    /// was all of it.
    pub(super) fn push(&mut self, input: &mut &[u8], kept: &mut Vec<u8>) -> Result<bool, Fault> {
        match &mut self.source {
            Source::Plain { left } => {
                let piece = split(input, left);
                self.sink.push(piece, kept)?;
                Ok(*left == 0)
            }
            Source::Compressed { left, lzf } => {
                for piece in split(input, left).chunks(PIECE) {
                    lzf.push(piece)?;
                    self.sink.push(lzf.take(), kept)?;
                }
                Ok(*left == 0)
            }
        }
    }

    /// After the last byte: whether the kept bytes are the whole string.
    pub(super) fn finish(self) -> Result<bool, Fault> {
        if let Source::Compressed { lzf, .. } = &self.source {
            lzf.finish()?;
        }
        match self.sink {
            Sink::Nowhere => Ok(false),
            Sink::Kept { whole, .. } => Ok(whole),
            Sink::Packed(packed) => packed.finish().map(|()| false),
        }
    }
}

impl Sink {
    fn new(purpose: Use, length: u64) -> Result<Self, Fault> {
        let kept = |limit| Self::Kept { limit, whole: true };
        Ok(match purpose {
            Use::Skip => Self::Nowhere,
            Use::Name => kept(MAX_KEY),
            Use::Aux => kept(MAX_AUX),
            Use::StreamId if length == 16 => Self::Nowhere,
            Use::StreamId => return Err(Fault::Number(length)),
            Use::Packed(form, multiple) => Self::Packed(Packed::new(form, multiple, length)),
        })
    }

    fn push(&mut self, bytes: &[u8], into: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Kept { limit, whole } => {
                let room = limit.saturating_sub(into.len());
                *whole &= bytes.len() <= room;
                into.extend_from_slice(&bytes[..bytes.len().min(room)]);
                Ok(())
            }
            Self::Packed(packed) => packed.push(bytes),
        }
    }
}

/// Takes up to `left` bytes off `input` and counts them.
fn split<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let length = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    let (piece, rest) = input.split_at(length);
    *input = rest;
    *left -= length as u64;
    piece
}
