//! From key to token: the hash functions of `dynomite.yml` and the hash tag rule.

mod additive;
mod crc;
mod jenkins;
mod murmur;

use std::str::FromStr;

use md5::{Digest, Md5};

use crate::token::Token;

/// A hash function by its name in `dynomite.yml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hash {
    /// `one_at_a_time`
    OneAtATime,
    /// `md5`: the first four bytes of the digest
    Md5,
    /// `crc16`: a 32-bit accumulator over the 16-bit table
    Crc16,
    /// `crc32`: 15 bits of the checksum only
    Crc32,
    /// `crc32a`: the whole checksum
    Crc32a,
    /// `fnv1_64`, cut to 32 bits
    Fnv1_64,
    /// `fnv1a_64`, computed in 32 bits
    Fnv1a64,
    /// `fnv1_32`
    Fnv1_32,
    /// `fnv1a_32`
    Fnv1a32,
    /// `hsieh`
    Hsieh,
    /// `murmur`: the default
    #[default]
    Murmur,
    /// `jenkins`
    Jenkins,
}

/// Why a text names no usable hash function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownHash {
    /// The C engine accepts the name but leaves the token undefined, so there is nothing to be
    /// compatible with, and no ring can hold data placed by it.
    #[error(
        "hash `murmur3` places keys at random in Netflix's engine and is refused: use `murmur`"
    )]
    Murmur3,
    /// No such function.
    #[error(
        "hash `{0}` is unknown: use murmur, one_at_a_time, md5, crc16, crc32, crc32a, fnv1_64, \
         fnv1a_64, fnv1_32, fnv1a_32, hsieh or jenkins"
    )]
    Unknown(String),
}

impl FromStr for Hash {
    type Err = UnknownHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "one_at_a_time" => Self::OneAtATime,
            "md5" => Self::Md5,
            "crc16" => Self::Crc16,
            "crc32" => Self::Crc32,
            "crc32a" => Self::Crc32a,
            "fnv1_64" => Self::Fnv1_64,
            "fnv1a_64" => Self::Fnv1a64,
            "fnv1_32" => Self::Fnv1_32,
            "fnv1a_32" => Self::Fnv1a32,
            "hsieh" => Self::Hsieh,
            "murmur" => Self::Murmur,
            "jenkins" => Self::Jenkins,
            "murmur3" => return Err(UnknownHash::Murmur3),
            other => return Err(UnknownHash::Unknown(other.chars().take(40).collect())),
        })
    }
}

impl Hash {
    /// The token of these bytes.
    pub fn token(self, key: &[u8]) -> Token {
        Token(match self {
            Self::OneAtATime => additive::one_at_a_time(key),
            Self::Md5 => {
                let digest = Md5::digest(key);
                u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
            }
            Self::Crc16 => crc::crc16(key),
            Self::Crc32 => (crc::crc32(key) >> 16) & 0x7fff,
            Self::Crc32a => crc::crc32(key),
            Self::Fnv1_64 => additive::fnv1_64(key),
            Self::Fnv1a64 => additive::fnv1a_64(key),
            Self::Fnv1_32 => additive::fnv1_32(key),
            Self::Fnv1a32 => additive::fnv1a_32(key),
            Self::Hsieh => additive::hsieh(key),
            Self::Murmur => murmur::murmur(key),
            Self::Jenkins => jenkins::jenkins(key),
        })
    }
}

/// The two characters between which the hashed part of a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashTag {
    /// Opens the tag.
    pub open: u8,
    /// Closes it.
    pub close: u8,
}

impl HashTag {
    /// The part of `key` to hash: between the first opening character and the first closing one
    /// behind it, or the whole key.
    ///
    /// An empty tag means the whole key, as in Redis Cluster; the C engine sends such a key to
    /// whichever node was asked, and dies on a write.
    pub fn hashed_part(self, key: &[u8]) -> &[u8] {
        let Some(open) = key.iter().position(|&byte| byte == self.open) else {
            return key;
        };
        let rest = &key[open + 1..];
        match rest.iter().position(|&byte| byte == self.close) {
            Some(length) if length > 0 => &rest[..length],
            _ => key,
        }
    }
}

/// How a ring places keys: every node of it must agree on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placement {
    /// The hash function.
    pub hash: Hash,
    /// The hash tag, if the ring uses one.
    pub hash_tag: Option<HashTag>,
}

impl Placement {
    /// The token of a key, its hash tag considered.
    pub fn token(&self, key: &[u8]) -> Token {
        let part = self.hash_tag.map_or(key, |tag| tag.hashed_part(key));
        self.hash.token(part)
    }
}

#[cfg(test)]
mod tests;
