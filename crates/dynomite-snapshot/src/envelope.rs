//! Between the bytes of an RDB and those of its object: compression, then encryption, in pieces.
//!
//! ```text
//! RDB ──▶ zstd, one frame ──▶ magic, salt, sealed pieces ──▶ object
//! ```
//!
//! Both are optional. [`Pack`] goes to the object, [`Unpack`] comes back from it; they hold a few
//! pieces at most, and digest the object on its way.

mod seal;

use std::io;

use sha2::{Digest, Sha256};
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, Operation};

use crate::digest;
use crate::manifest::{Compression, Extent};
use seal::{Open, Seal};

pub use seal::{Key, OVERHEAD, SALT};

/// A snapshot waits for the network, not for the last percent; higher levels take several times as
/// long.
pub const LEVEL: i32 = 1;

/// Bytes that one call gives at most, roughly, so that a few compressed bytes fill no memory.
pub const OUTPUT: usize = 256 << 10;

/// How far back a compressed stream may refer, as a power of two: it decides how much memory
/// unpacking takes. Level 1 uses less.
const WINDOW: u32 = 23;

/// Bytes that are asked of the compressor at once.
const STEP: usize = 64 << 10;

/// Why an object cannot be made or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compressor's word.
    #[error("compression failed: {0}")]
    Compress(#[source] io::Error),
    /// Not zstd, or damaged.
    #[error("compressed data is damaged: {0}")]
    Damaged(#[source] io::Error),
    /// It does not begin as it should.
    #[error("the object is not encrypted as the manifest says")]
    NotEncrypted,
    /// Another key, another place, or bytes that were changed, moved or cut off.
    #[error(
        "piece {0} is not what was encrypted here with this key: the object was changed, cut or \
         exchanged, or the key is another one"
    )]
    Forged(u32),
    /// There is no number for another piece.
    #[error("no object can be larger than 256 TiB")]
    TooLong,
    /// It ends in the middle.
    #[error("the object ends in the middle")]
    Truncated,
    /// Bytes follow its end.
    #[error("bytes follow the end of the compressed data")]
    Trailing,
}

/// Makes an object of bytes.
pub struct Pack {
    zstd: Option<Encoder<'static>>,
    seal: Option<Seal>,
    step: Vec<u8>,
    /// What the compressor gave and is to be sealed.
    between: Vec<u8>,
    stored: Stored,
}

/// Makes bytes of an object.
pub struct Unpack {
    open: Option<Open>,
    zstd: Option<Decoder<'static>>,
    step: Vec<u8>,
    /// What was opened and is to be decompressed, from `taken` on.
    between: Vec<u8>,
    taken: usize,
    /// The decompressor may have more to give without more to take.
    full: bool,
    /// The compressed data is complete.
    ended: bool,
    /// The last piece was opened.
    opened: bool,
    stored: Stored,
}

/// Counts and digests an object.
struct Stored {
    bytes: u64,
    sha256: Sha256,
}

impl Stored {
    fn new() -> Self {
        Self {
            bytes: 0,
            sha256: Sha256::new(),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    fn extent(&self) -> Extent {
        Extent {
            bytes: self.bytes,
            sha256: digest::Sha256(self.sha256.clone().finalize().into()),
        }
    }
}

/// What encrypts an object.
pub struct Secret<'a> {
    /// The key; one for many objects.
    pub key: &'a Key,
    /// Random for each object, never used again with the key.
    pub salt: [u8; SALT],
    /// What the object is, such as its backup and token: it can be opened only as that.
    pub context: &'a [u8],
}

impl Pack {
    /// Begins an object.
    pub fn new(compression: Compression, secret: Option<&Secret<'_>>) -> Result<Self, Error> {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd => {
                let mut zstd = Encoder::new(LEVEL).map_err(Error::Compress)?;
                let checked = CParameter::ChecksumFlag(true);
                zstd.set_parameter(checked).map_err(Error::Compress)?;
                Some(zstd)
            }
        };
        Ok(Self {
            zstd,
            seal: secret.map(Seal::new),
            step: vec![0; STEP],
            between: Vec::new(),
            stored: Stored::new(),
        })
    }

    /// Takes bytes and appends to `out` what of the object is ready.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(zstd) = &mut self.zstd else {
            return store(&mut self.seal, &mut self.stored, bytes, out);
        };
        while !bytes.is_empty() {
            let run = zstd.run_on_buffers(bytes, &mut self.step);
            let run = run.map_err(Error::Compress)?;
            bytes = &bytes[run.bytes_read..];
            self.between
                .extend_from_slice(&self.step[..run.bytes_written]);
        }
        let result = store(&mut self.seal, &mut self.stored, &self.between, out);
        self.between.clear();
        result
    }

    /// Appends the rest, and says what the whole object is.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Extent, Error> {
        if let Some(zstd) = &mut self.zstd {
            loop {
                let mut step = zstd::zstd_safe::OutBuffer::around(self.step.as_mut_slice());
                let left = zstd.finish(&mut step, true).map_err(Error::Compress)?;
                store(&mut self.seal, &mut self.stored, step.as_slice(), out)?;
                if left == 0 {
                    break;
                }
            }
        }
        if let Some(seal) = self.seal {
            let from = out.len();
            seal.finish(out)?;
            self.stored.update(&out[from..]);
        }
        Ok(self.stored.extent())
    }
}

fn store(
    seal: &mut Option<Seal>,
    stored: &mut Stored,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let from = out.len();
    match seal {
        Some(seal) => seal.push(bytes, out)?,
        None => out.extend_from_slice(bytes),
    }
    stored.update(&out[from..]);
    Ok(())
}

impl Unpack {
    /// Begins to unpack an object; the salt comes with it. What comes out is not proven to be all
    /// of it until [`finish`](Self::finish).
    pub fn new(compression: Compression, secret: Option<(&Key, &[u8])>) -> Result<Self, Error> {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd => {
                let mut zstd = Decoder::new().map_err(Error::Damaged)?;
                let window = DParameter::WindowLogMax(WINDOW);
                zstd.set_parameter(window).map_err(Error::Damaged)?;
                Some(zstd)
            }
        };
        Ok(Self {
            open: secret.map(|(key, context)| Open::new(key, context)),
            zstd,
            step: vec![0; STEP],
            between: Vec::new(),
            taken: 0,
            full: false,
            ended: false,
            opened: false,
            stored: Stored::new(),
        })
    }

    /// Takes bytes of the object off `input` and appends to `out` what comes out, about
    /// [`OUTPUT`] bytes at most. To be called again until the input is empty.
    pub fn push(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let limit = out.len() + OUTPUT;
        loop {
            self.decompress(out, limit)?;
            if out.len() >= limit || input.is_empty() {
                return Ok(());
            }
            let (piece, rest) = input.split_at(input.len().min(STEP));
            *input = rest;
            self.stored.update(piece);
            match &mut self.open {
                Some(open) => open.push(piece, &mut self.between)?,
                None => self.between.extend_from_slice(piece),
            }
        }
    }

    /// After the last byte: appends what is left, again about [`OUTPUT`] bytes at most, and says
    /// what the object was once all is out. To be called until it does.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Option<Extent>, Error> {
        if !self.opened {
            if let Some(open) = &mut self.open {
                open.finish(&mut self.between)?;
            }
            self.opened = true;
        }
        let limit = out.len() + OUTPUT;
        self.decompress(out, limit)?;
        if self.full || self.taken < self.between.len() {
            return Ok(None);
        }
        if self.zstd.is_some() && !self.ended {
            return Err(Error::Truncated);
        }
        Ok(Some(self.stored.extent()))
    }

    /// Moves what was opened to `out`.
    fn decompress(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<(), Error> {
        let Some(zstd) = &mut self.zstd else {
            out.append(&mut self.between);
            return Ok(());
        };
        while out.len() < limit && (self.full || self.taken < self.between.len()) {
            if self.ended {
                return Err(Error::Trailing);
            }
            let run = zstd.run_on_buffers(&self.between[self.taken..], &mut self.step);
            let run = run.map_err(Error::Damaged)?;
            self.taken += run.bytes_read;
            out.extend_from_slice(&self.step[..run.bytes_written]);
            self.ended = run.remaining == 0;
            self.full = !self.ended && run.bytes_written == self.step.len();
        }
        if self.taken == self.between.len() {
            self.between.clear();
            self.taken = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
