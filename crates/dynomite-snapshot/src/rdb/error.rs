//! Why bytes are no whole RDB.

/// A fault and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("RDB is broken at byte {at}: {fault}")]
pub struct Error {
    /// How many bytes before it were in order.
    pub at: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with an RDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin as one.
    #[error(
        "it does not begin with a version that is known here (REDIS0001 to REDIS0012, VALKEY080): \
         it is no RDB, or of a newer store"
    )]
    Version,
    /// It ends before its end.
    #[error("the bytes end here, in the middle")]
    Truncated,
    /// Bytes follow the end.
    #[error("bytes follow the end")]
    Trailing,
    /// The checksum is of other bytes.
    #[error("the checksum {stored:016x} does not fit, the bytes have {computed:016x}")]
    Checksum {
        /// As written at the end.
        stored: u64,
        /// Of the bytes before it.
        computed: u64,
    },
    /// Neither a type nor an opcode.
    #[error("{0} is no type or opcode that is known here")]
    Opcode(u8),
    /// Expiry, idle time or frequency, but no key behind it.
    #[error("an expiry without a key")]
    NoKey,
    /// A length in a form that does not exist.
    #[error("a length cannot begin with byte {0}")]
    Length(u8),
    /// A string in a form that does not exist, or that is not allowed here.
    #[error("string encoding {0} is not allowed here")]
    Encoding(u8),
    /// A number larger than it can be.
    #[error("{0} is too large a number here")]
    Number(u64),
    /// The text of a score.
    #[error("a score is not a number")]
    Score,
    /// Compressed bytes that do not give what they promise.
    #[error("compressed string: {0}")]
    Compressed(&'static str),
    /// A listpack, ziplist or intset against its own rules.
    #[error("packed value: {0}")]
    Packed(&'static str),
    /// A part of a module's value.
    #[error("module value has an unknown part {0}")]
    Module(u64),
    /// A node of a list that is neither plain nor packed.
    #[error("list node of unknown form {0}")]
    Node(u64),
    /// More databases than are counted.
    #[error("more databases than {0}")]
    Databases(usize),
}
