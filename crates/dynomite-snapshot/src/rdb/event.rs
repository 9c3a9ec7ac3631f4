//! What a reader says about the bytes it was given.

use super::{Checksum, Kind, Version};

/// What a stretch of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A field about the file.
    Aux,
    /// A library of functions.
    Function,
    /// What a module keeps beside the keys.
    ModuleAux,
    /// The database of the keys that follow.
    Select,
    /// How many keys follow, as a hint.
    Resize,
    /// The same for a slot of Redis Cluster.
    Slot,
    /// A key with its expiry and value.
    Entry,
    /// The end, and the checksum.
    End,
}

/// A key and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its database.
    pub database: u32,
    /// What it holds.
    pub kind: Kind,
    /// How the value is written: the type byte.
    pub encoding: u8,
    /// The name, unpacked.
    pub name: Vec<u8>,
    /// Whether `name` is all of it: see [`MAX_KEY`](crate::limits::MAX_KEY).
    pub whole: bool,
    /// When it expires, in milliseconds since 1970.
    pub expiry: Option<i64>,
    /// Offset of the first byte that belongs to it, be it an expiry.
    pub begin: u64,
    /// Offset of the value.
    pub value: u64,
}

/// What the bytes read so far ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The version is known.
    Header(Version),
    /// The first byte of a record was read.
    Began(Record),
    /// An auxiliary field ended.
    Aux {
        /// Name, cut at its limit.
        name: &'a [u8],
        /// Value, cut at its limit.
        value: &'a [u8],
    },
    /// The keys that follow are in this database.
    Database(u32),
    /// About as many keys follow.
    Resize {
        /// All.
        keys: u64,
        /// Those that expire.
        expiring: u64,
    },
    /// All of a key but its value was read.
    Key(&'a Key),
    /// A value ended, and with it a key.
    KeyEnded(&'a Key),
    /// Another record ended.
    Ended(Record),
    /// The RDB ended. No byte may follow.
    Finished(Checksum),
}
