//! RDB: the file a store saves and the stream it sends to a replica, read in pieces.
//!
//! ```text
//! REDIS0010  aux*  function*  ( select resize? ( expiry? idle? freq? type key value )* )*  EOF crc64
//! ```
//!
//! [`Reader`] follows the format and says where each record begins and ends; [`Verifier`] counts
//! and digests what passes. Neither holds a value, and no memory is taken on the word of a length.

mod error;
mod event;
mod grammar;
mod lzf;
mod packed;
mod reader;
mod text;
mod verify;

pub use error::{Error, Fault};
pub use event::{Event, Key, Record};
pub use grammar::Kind;
pub(crate) use lzf::unpack;
pub use reader::Reader;
pub use verify::{Counts, Summary, Verifier};

use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Begins the checksum at the end of a file (the "Jones" polynomial).
pub(crate) fn crc64() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Redis)
}

/// The same of bytes that are all there.
pub(crate) fn crc64_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Redis, bytes)
}

/// The newest format of Redis that is read here.
pub const NEWEST_REDIS: u16 = 12;

/// The first and the newest format of Valkey since it counts by itself.
pub const VALKEY: std::ops::RangeInclusive<u16> = 80..=80;

/// The first nine bytes: who wrote it, in which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `REDIS` and four digits; Valkey wrote these too before its version 9.
    Redis(u16),
    /// `VALKEY` and three digits.
    Valkey(u16),
}

impl Version {
    /// How long the text is.
    pub(crate) const LENGTH: usize = 9;

    /// Reads the text; `None` when it is none or of a format that is not known here.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let number = |digits: &[u8]| -> Option<u16> {
            if !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            std::str::from_utf8(digits).ok()?.parse().ok()
        };
        if text.len() != Self::LENGTH {
            return None;
        }
        if let Some(digits) = text.strip_prefix(b"VALKEY") {
            let version = number(digits)?;
            return VALKEY.contains(&version).then_some(Self::Valkey(version));
        }
        let version = number(text.strip_prefix(b"REDIS")?)?;
        (1..=NEWEST_REDIS)
            .contains(&version)
            .then_some(Self::Redis(version))
    }

    /// Whether a store that writes this format also reads the other one. Beyond version 11 Redis
    /// and Valkey use the same bytes for different types.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Redis(own), Self::Redis(other)) | (Self::Valkey(own), Self::Valkey(other)) => {
                other <= own
            }
            (Self::Valkey(_), Self::Redis(other)) => other <= 11,
            (Self::Redis(_), Self::Valkey(_)) => false,
        }
    }

    /// Whether eight bytes of checksum follow the end.
    pub(crate) fn has_checksum(self) -> bool {
        self >= Self::Redis(5)
    }
}

impl std::fmt::Display for Version {
    /// As it stands in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redis(number) => write!(f, "REDIS{number:04}"),
            Self::Valkey(number) => write!(f, "VALKEY{number:03}"),
        }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text.as_bytes()).ok_or_else(|| {
            de::Error::custom(format!("`{text}` is no RDB version that is known here"))
        })
    }
}

/// What the end of a file says about its bytes. A wrong checksum is an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Checksum {
    /// It was written and fits.
    Right,
    /// The store does not write it (`rdbchecksum no`), or the format is older than it.
    NotWritten,
}

#[cfg(test)]
mod tests;
