//! The protections of numbers and cut, by name: tests take one out at a time and see what breaks.

use crate::engine::Engine;

/// One protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// A number that had been given up is refused when its write comes after all.
    LateNumbers,
    /// Held writes that the copy has already are dropped.
    CopiedNumbers,
    /// What is held must follow the copy without a gap.
    Coverage,
    /// A peer is told the numbers it was not sent.
    Given,
    /// A write that the store did not execute counts as missing.
    LostWrites,
    /// The same, when a cut waits for the store's answer.
    LossesInCuts,
}

impl Engine {
    /// Whether a protection is there: always, but in tests.
    #[cfg_attr(
        not(test),
        allow(clippy::unused_self, reason = "tests look into the engine")
    )]
    pub(crate) fn protects_by(&self, protection: Protection) -> bool {
        #[cfg(test)]
        return self.without != Some(protection);
        #[cfg(not(test))]
        {
            let _ = protection;
            true
        }
    }
}
