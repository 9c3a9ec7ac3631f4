//! Calls of people by the old REST: a backup or a restore is made, and the node told.

use super::{Pass, Step};
use crate::calls;

/// Answers the calls that wait.
pub(super) fn answer(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    calls::answer(pass.cluster, pass.observed, pass.ring, &mut step);
    step
}
