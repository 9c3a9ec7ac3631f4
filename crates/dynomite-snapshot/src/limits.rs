//! What this crate holds in memory at most, whatever it reads.

/// Bytes of a key's name that are kept. Longer keys pass, but nobody can tell whose they are.
pub const MAX_KEY: usize = 1 << 20;

/// Bytes of an auxiliary field's name or value that are kept; the rest passes unseen.
pub const MAX_AUX: usize = 1 << 10;

/// Auxiliary fields that are remembered. Stores write fewer than twenty.
pub const MAX_AUX_FIELDS: usize = 64;

/// Databases of one store that are counted apart.
pub const MAX_DATABASES: usize = 1 << 14;

/// Bytes of a record that are held until it is clear whether it is copied: a key of any length up
/// to [`MAX_KEY`], however badly it compresses.
pub const MAX_HELD: usize = 2 * MAX_KEY;

/// Bytes of a manifest: a ring of a thousand nodes takes less than one.
pub const MAX_MANIFEST: usize = 4 << 20;
