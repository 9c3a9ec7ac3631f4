//! The manifest: what a backup consists of. It is written last, so its presence makes the backup.
//!
//! It is JSON in one canonical form. Reading is strict, because a restore acts by it: an unknown
//! field, a token twice or a digest of the wrong length means that nobody knows what is meant.

mod check;

use std::collections::BTreeMap;

use dynomite_protocol::hash::{Hash, HashTag, Placement};
use dynomite_protocol::token::Token;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::limits::MAX_MANIFEST;
use crate::rdb::{Checksum, Counts, Summary, Version};

pub use check::Flaw;

/// The format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

/// A backup of a whole ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of whoever wrote it.
    pub format_version: u32,
    /// The backup as such.
    pub backup: Backup,
    /// The ring that it is of.
    pub ring: Ring,
    /// One for each token, by ascending token.
    pub snapshots: Vec<Snapshot>,
}

/// A backup as such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    /// The name of its directory: a [`BackupId`](crate::layout::BackupId).
    pub id: String,
    /// When it began: what came later may not be in it.
    pub started_at: Timestamp,
    /// When its last snapshot was complete.
    pub finished_at: Timestamp,
    /// Who wrote the manifest.
    pub operator_version: String,
}

/// The shape of a ring, as far as it decides where keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ring {
    /// Name of the `DynomiteCluster`.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Datacenter.
    pub datacenter: String,
    /// Racks; each holds all the data.
    pub racks: Vec<String>,
    /// Nodes of each rack, so also tokens.
    pub nodes_per_rack: u32,
    /// Tokens of each rack, ascending.
    #[serde(with = "as_numbers")]
    pub tokens: Vec<Token>,
    /// Hash function, as in `dynomite.yml`.
    pub hash: String,
    /// The two characters of the hash tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_tag: Option<String>,
}

/// The data of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// Whose data.
    #[serde(with = "as_number")]
    pub token: Token,
    /// Its object, beside the manifest.
    pub object: String,
    /// The object: after compression and encryption.
    pub stored: Extent,
    /// The RDB as the store wrote it.
    pub raw: Extent,
    /// Whether the store had written a checksum of its own.
    pub checksum: Checksum,
    /// Format of the RDB.
    pub rdb: Version,
    /// Keys by database.
    pub keys: BTreeMap<u32, Counts>,
    /// Libraries of functions.
    pub functions: u64,
    /// Bytes of memory that the store used for it, as it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whom it was taken from.
    pub source: Source,
    /// How it was compressed.
    pub compression: Compression,
    /// How it was encrypted after that, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// When it began.
    pub started_at: Timestamp,
    /// When its object was complete.
    pub finished_at: Timestamp,
}

/// Some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extent {
    /// How many.
    pub bytes: u64,
    /// Their digest.
    pub sha256: Sha256,
}

/// The node that gave a snapshot, and the state of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Name of the node.
    pub node: String,
    /// Its rack.
    pub rack: String,
    /// Replication id of its store.
    pub replication_id: String,
    /// Replication offset at which the snapshot was taken.
    pub offset: u64,
    /// Version of the store.
    pub store_version: String,
}

/// How an object is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Compression {
    /// Not.
    None,
    /// Zstandard.
    Zstd,
}

/// How an object is encrypted: see [`envelope`](crate::envelope).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// The construction.
    pub cipher: Cipher,
    /// Which key, as its owner calls it.
    pub key_id: String,
}

/// An authenticated encryption of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-256-GCM in frames of the STREAM construction, with a key derived for each object.
    #[serde(rename = "AES-256-GCM-STREAM")]
    Aes256GcmStream,
}

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Larger than any.
    #[error("it has {0} bytes, more than the {MAX_MANIFEST} that a manifest may have: {DAMAGED}")]
    TooLarge(usize),
    /// By somebody who knows more.
    #[error(
        "formatVersion is {0}, and this version reads up to {FORMAT_VERSION}: update the operator \
         to the version that wrote it, or a later one"
    )]
    Newer(u32),
    /// A field that is missing, unknown, or of the wrong type.
    #[error("{field}: {why}: {DAMAGED}")]
    Field {
        /// Where, as in `snapshots[0].raw.sha256`.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// Fields that contradict themselves or each other; all of them.
    #[error("{}: {DAMAGED}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Flaws(Vec<Flaw>),
}

const DAMAGED: &str = "the manifest was changed or damaged after it was written, so use another \
                       backup or another copy of this one";

/// Only what every format has.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "formatVersion")]
    format_version: u32,
}

impl Manifest {
    /// Reads a manifest.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_MANIFEST {
            return Err(Unreadable::TooLarge(bytes.len()));
        }
        let head: Head = strict(bytes)?;
        if head.format_version > FORMAT_VERSION {
            return Err(Unreadable::Newer(head.format_version));
        }
        let manifest: Self = strict(bytes)?;
        let flaws = check::flaws(&manifest);
        if flaws.is_empty() {
            Ok(manifest)
        } else {
            Err(Unreadable::Flaws(flaws))
        }
    }

    /// Writes it in its canonical form: equal manifests have equal bytes. Refuses what
    /// [`read`](Self::read) would refuse, so that no backup says Completed that nobody can read.
    pub fn write(&self) -> Result<Vec<u8>, Unreadable> {
        let flaws = check::flaws(self);
        if !flaws.is_empty() {
            return Err(Unreadable::Flaws(flaws));
        }
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Unreadable::Field {
            field: ".".to_owned(),
            why: error.to_string(),
        })?;
        bytes.push(b'\n');
        if bytes.len() > MAX_MANIFEST {
            return Err(Unreadable::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Keys of all tokens and databases.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        let counts = self
            .snapshots
            .iter()
            .flat_map(|snapshot| snapshot.keys.values());
        counts.for_each(|counts| all.extend(counts));
        all
    }

    /// Bytes of all objects but the manifest.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.snapshots.iter().map(|snapshot| snapshot.stored.bytes);
        stored.fold(0, u64::saturating_add)
    }
}

fn strict<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Unreadable> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| Unreadable::Field {
        field: error.path().to_string(),
        why: error.into_inner().to_string(),
    })?;
    json.end().map_err(|error| Unreadable::Field {
        field: ".".to_owned(),
        why: error.to_string(),
    })?;
    Ok(value)
}

impl Ring {
    /// How it places keys.
    pub fn placement(&self) -> Result<Placement, Flaw> {
        let hash: Hash = self
            .hash
            .parse()
            .map_err(|error| Flaw::new("ring.hash", format!("{error}")))?;
        let hash_tag = match self.hash_tag.as_deref().map(str::as_bytes) {
            None => None,
            Some(&[open, close]) if open.is_ascii() && close.is_ascii() => {
                Some(HashTag { open, close })
            }
            Some(_) => {
                let why = "must be two ASCII characters, such as `{}`";
                return Err(Flaw::new("ring.hashTag", why));
            }
        };
        Ok(Placement { hash, hash_tag })
    }
}

impl Snapshot {
    /// Keys of all databases.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        self.keys.values().for_each(|counts| all.extend(counts));
        all
    }
}

impl From<&Summary> for Extent {
    fn from(summary: &Summary) -> Self {
        Self {
            bytes: summary.bytes,
            sha256: Sha256(summary.sha256),
        }
    }
}

/// A token as the number it is.
mod as_number {
    use super::{Deserialize, Token};
    use serde::{Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(token: &Token, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(token.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Token, D::Error> {
        u32::deserialize(from).map(Token)
    }
}

/// Tokens as the numbers they are.
mod as_numbers {
    use super::{Deserialize, Token};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(tokens: &[Token], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(tokens.iter().map(|token| token.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Token>, D::Error> {
        let numbers = Vec::<u32>::deserialize(from)?;
        Ok(numbers.into_iter().map(Token).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests;
