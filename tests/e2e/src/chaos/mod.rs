//! A recorded load, and the judgement of what a ring made of it.
//!
//! ```text
//!   writers --operations, with what became of each--> History --+
//!   after the faults: the keys as every rack has them -> State -+-> check -> Verdict
//!   backups meanwhile: the keys as their snapshots have them  --+
//! ```
//!
//! An operation that timed out, or was answered with an error, may have
//! happened: the judgement allows both. What it does not allow: an acknowledged
//! write that is gone, a write that happened twice, one that nobody made, and
//! racks that differ.

mod backup;
mod check;
mod history;
mod load;
mod random;

pub use backup::{Judged, judge};
pub use check::{Verdict, check};
pub use history::{History, Operation, Outcome, State, Value, What};
pub use load::{Rate, read_state, write};
pub use random::Random;
