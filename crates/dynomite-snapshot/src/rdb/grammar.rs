//! The format as data: of which items each type of value and each record consists.

use serde::{Deserialize, Serialize};

use super::Version;
use super::packed::Form;

/// What a key holds, as `TYPE` would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A string, `HyperLogLog` and bitmap included.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set, geographic ones included.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
    /// A value of a module.
    Module,
}

/// One thing that stands in the bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    /// A string, and what to do with it.
    Text(Use),
    /// A length or number that is of no interest.
    Length,
    /// A number that the record at hand wants.
    Number,
    /// Bytes of a fixed length.
    Bytes(usize),
    /// The time at which the key expires: bytes of milliseconds (8) or seconds (4).
    Expiry(usize),
    /// A score as text.
    Score,
    /// A length, and that many times the items.
    Many(&'static [Item]),
    /// A node of a list: one large element, or a listpack.
    Node,
    /// Parts of a module's value up to its end mark.
    Module,
}

/// What becomes of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It passes.
    Skip,
    /// It is the name of a key.
    Name,
    /// It is the name or value of an auxiliary field.
    Aux,
    /// It is 16 bytes: the first id of a part of a stream.
    StreamId,
    /// It is a packed value whose number of elements is a multiple of this.
    Packed(Form, u64),
}

use Item::{Bytes, Expiry, Length, Many, Module, Node, Number, Score, Text};

const SKIP: Item = Text(Use::Skip);

pub(super) const NOTHING: &[Item] = &[];
pub(super) const NAME: &[Item] = &[Text(Use::Name)];
pub(super) const AUX: &[Item] = &[Text(Use::Aux), Text(Use::Aux)];
pub(super) const FUNCTION: &[Item] = &[SKIP];
pub(super) const MODULE_AUX: &[Item] = &[Length, Length, Length, Module];
pub(super) const SELECT: &[Item] = &[Number];
pub(super) const RESIZE: &[Item] = &[Number, Number];
pub(super) const SLOT: &[Item] = &[Length, Length, Length];
pub(super) const EXPIRY_SECONDS: &[Item] = &[Expiry(4)];
pub(super) const EXPIRY: &[Item] = &[Expiry(8)];
pub(super) const IDLE: &[Item] = &[Length];
pub(super) const FREQUENCY: &[Item] = &[Bytes(1)];
pub(super) const PLAIN_NODE: &[Item] = &[SKIP];
pub(super) const PACKED_NODE: &[Item] = &[LISTPACK];
pub(super) const MODULE_INTEGER: &[Item] = &[Length];
pub(super) const MODULE_FLOAT: &[Item] = &[Bytes(4)];
pub(super) const MODULE_DOUBLE: &[Item] = &[Bytes(8)];
pub(super) const MODULE_STRING: &[Item] = &[SKIP];

const fn packed(form: Form, multiple: u64) -> Item {
    Text(Use::Packed(form, multiple))
}

const ZIPMAP: Item = packed(Form::Zipmap, 1);
const ZIPLIST: Item = packed(Form::Ziplist, 1);
const INTSET: Item = packed(Form::Intset, 1);
const ZIPLIST_OF_PAIRS: Item = packed(Form::Ziplist, 2);
const LISTPACK_OF_PAIRS: Item = packed(Form::Listpack, 2);
const LISTPACK: Item = packed(Form::Listpack, 1);
const LISTPACK_OF_THREES: Item = packed(Form::Listpack, 3);

/// Of a group or consumer: entries that were delivered and not acknowledged. A consumer's are
/// references to the group's.
const PENDING: Item = Many(&[Bytes(16), Bytes(8), Length]);
const OWN_PENDING: Item = Many(&[Bytes(16)]);
const PARTS: Item = Many(&[Text(Use::StreamId), LISTPACK]);
const CONSUMERS: Item = Many(&[SKIP, Bytes(8), OWN_PENDING]);
const ACTIVE_CONSUMERS: Item = Many(&[SKIP, Bytes(8), Bytes(8), OWN_PENDING]);

const STREAM_1: &[Item] = &[
    PARTS,
    Length,
    Length,
    Length,
    Many(&[SKIP, Length, Length, PENDING, CONSUMERS]),
];
/// Adds the first id, the greatest deleted one and the count of all that were ever added; to a
/// group the count of what it has read.
const STREAM_2: &[Item] = &[
    PARTS,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Many(&[SKIP, Length, Length, Length, PENDING, CONSUMERS]),
];
/// Adds to a consumer when it was last active.
const STREAM_3: &[Item] = &[
    PARTS,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Many(&[SKIP, Length, Length, Length, PENDING, ACTIVE_CONSUMERS]),
];

/// The kind and the items of a value by its type byte; `None` for types that are not known.
pub(super) fn value(version: Version, code: u8) -> Option<(Kind, &'static [Item])> {
    let valkey = matches!(version, Version::Valkey(_));
    let items: (Kind, &'static [Item]) = match code {
        0 => (Kind::String, &[SKIP]),
        1 => (Kind::List, &[Many(&[SKIP])]),
        2 => (Kind::Set, &[Many(&[SKIP])]),
        3 => (Kind::SortedSet, &[Many(&[SKIP, Score])]),
        4 => (Kind::Hash, &[Many(&[SKIP, SKIP])]),
        5 => (Kind::SortedSet, &[Many(&[SKIP, Bytes(8)])]),
        7 => (Kind::Module, &[Length, Module]),
        9 => (Kind::Hash, &[ZIPMAP]),
        10 => (Kind::List, &[ZIPLIST]),
        11 => (Kind::Set, &[INTSET]),
        12 => (Kind::SortedSet, &[ZIPLIST_OF_PAIRS]),
        13 => (Kind::Hash, &[ZIPLIST_OF_PAIRS]),
        14 => (Kind::List, &[Many(&[ZIPLIST])]),
        15 => (Kind::Stream, STREAM_1),
        16 => (Kind::Hash, &[LISTPACK_OF_PAIRS]),
        17 => (Kind::SortedSet, &[LISTPACK_OF_PAIRS]),
        18 => (Kind::List, &[Many(&[Node])]),
        19 => (Kind::Stream, STREAM_2),
        20 => (Kind::Set, &[LISTPACK]),
        21 => (Kind::Stream, STREAM_3),
        // Valkey: field, value, and the field's expiry or -1.
        22 if valkey => (Kind::Hash, &[Many(&[SKIP, SKIP, Bytes(8)])]),
        // Redis: each field begins with its expiry relative to the least one, which comes first;
        // release candidates had absolute ones instead.
        22 => (Kind::Hash, &[Many(&[Length, SKIP, SKIP])]),
        23 if !valkey => (Kind::Hash, &[LISTPACK_OF_THREES]),
        24 if !valkey => (Kind::Hash, &[Bytes(8), Many(&[Length, SKIP, SKIP])]),
        25 if !valkey => (Kind::Hash, &[Bytes(8), LISTPACK_OF_THREES]),
        _ => return None,
    };
    Some(items)
}
