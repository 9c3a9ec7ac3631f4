//! Encryption in pieces, of which none can be changed, left out, added or moved unnoticed.
//!
//! ```text
//! magic:8  salt:32  ( piece:65536 tag:16 )*  ( last piece:0 to 65536  tag:16 )
//! ```
//!
//! The STREAM construction with AES-256-GCM: the nonce of a piece is its number and whether it is
//! the last. The key is derived by HKDF-SHA256 from the caller's key, the salt and what the object
//! is, so no two objects share one, and nonces can begin at 0 in each.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::{Error, Secret};

/// Bytes of a salt.
pub const SALT: usize = 32;

/// "Encrypted snapshot, construction 1".
const MAGIC: [u8; 8] = *b"DYNSNAP\x01";

/// Bytes of a piece before it is sealed.
const PIECE: usize = 64 << 10;

/// Bytes by which a sealed piece is longer.
const TAG: usize = MAX_TAG_LEN;

/// Bytes before the first piece, and with each.
pub const OVERHEAD: (usize, usize) = (MAGIC.len() + SALT, TAG);

/// A secret key of 32 bytes.
pub struct Key([u8; 32]);

impl Key {
    /// A key; it should come from a source of randomness, not from a person.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key of one object, and the number of its next piece.
struct Pieces {
    key: LessSafeKey,
    number: u32,
}

impl Pieces {
    fn new(key: &Key, salt: &[u8], context: &[u8]) -> Option<Self> {
        let extracted = Salt::new(HKDF_SHA256, salt).extract(&key.0);
        let info = [MAGIC.as_slice(), context];
        let key = extracted.expand(&info, &AES_256_GCM).ok()?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::from(key)),
            number: 0,
        })
    }

    fn nonce(&self, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 5..NONCE_LEN - 1].copy_from_slice(&self.number.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }

    fn next(&mut self) -> Result<(), Error> {
        self.number = self.number.checked_add(1).ok_or(Error::TooLong)?;
        Ok(())
    }
}

/// Seals a stream.
pub(super) struct Seal {
    pieces: Option<Pieces>,
    /// What comes before the first piece, until it is written.
    head: Vec<u8>,
    /// The piece at hand. A full one waits until it is clear whether it is the last.
    piece: Vec<u8>,
}

impl Seal {
    pub(super) fn new(secret: &Secret<'_>) -> Self {
        Self {
            pieces: Pieces::new(secret.key, &secret.salt, secret.context),
            head: [MAGIC.as_slice(), &secret.salt].concat(),
            piece: Vec::with_capacity(PIECE + TAG),
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.piece.len() == PIECE {
                self.seal(false, out)?;
            }
            let (fitting, rest) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(fitting);
            bytes = rest;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.seal(true, out)
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        out.append(&mut self.head);
        let pieces = self.pieces.as_mut().ok_or(Error::TooLong)?;
        let nonce = pieces.nonce(last);
        let sealed = pieces
            .key
            .seal_in_place_append_tag(nonce, Aad::empty(), &mut self.piece);
        sealed.map_err(|_| Error::TooLong)?;
        out.append(&mut self.piece);
        if last { Ok(()) } else { pieces.next() }
    }
}

/// Opens a stream.
pub(super) struct Open {
    key: Key,
    context: Vec<u8>,
    /// Once the salt was read.
    pieces: Option<Pieces>,
    /// Bytes before the first piece, or the piece at hand.
    held: Vec<u8>,
}

impl Open {
    pub(super) fn new(key: &Key, context: &[u8]) -> Self {
        Self {
            key: Key(key.0),
            context: context.to_vec(),
            pieces: None,
            held: Vec::with_capacity(PIECE + TAG),
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let full = match &self.pieces {
                None => OVERHEAD.0,
                Some(_) => PIECE + TAG,
            };
            if self.held.len() == full {
                // More follows, so it is not the last.
                self.open(false, out)?;
            }
            let (fitting, rest) = bytes.split_at(bytes.len().min(full - self.held.len()));
            self.held.extend_from_slice(fitting);
            bytes = rest;
            if self.pieces.is_none() && self.held.len() == OVERHEAD.0 {
                self.begin()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.pieces.is_none() || self.held.len() < TAG {
            return Err(Error::Truncated);
        }
        self.open(true, out)
    }

    fn begin(&mut self) -> Result<(), Error> {
        let (magic, salt) = self.held.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Error::NotEncrypted);
        }
        self.pieces = Pieces::new(&self.key, salt, &self.context);
        self.held.clear();
        Ok(())
    }

    fn open(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let pieces = self.pieces.as_mut().ok_or(Error::NotEncrypted)?;
        let nonce = pieces.nonce(last);
        let opened = pieces
            .key
            .open_in_place(nonce, Aad::empty(), &mut self.held);
        let opened = opened.map_err(|_| Error::Forged(pieces.number))?;
        out.extend_from_slice(opened);
        self.held.clear();
        if last { Ok(()) } else { pieces.next() }
    }
}
