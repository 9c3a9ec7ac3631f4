//! Placeholder until the crate gets its first content.
fn main() {}
