//! Counts what test programs report.

use std::fmt;

/// How many tests passed and failed, and what failed ones said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Adds what was counted elsewhere.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Adds what one program reported; a program that ended badly without a report failed once.
    pub(crate) fn add(&mut self, output: &str, success: bool) {
        let mut reported = 0;
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                self.passed += count(counts, "passed");
                let failed = count(counts, "failed");
                self.failed += failed;
                reported += failed;
            }
        }
        if !success && reported == 0 {
            self.failed += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The number before `word` in a line like `ok. 3 passed; 0 failed; 0 ignored; …`.
fn count(counts: &str, word: &str) -> u64 {
    counts
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str, success: bool) -> (u64, u64) {
        let mut tally = Tally::default();
        tally.add(output, success);
        (tally.passed, tally.failed)
    }

    #[test]
    fn all_reports_of_a_program_are_summed() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.03s\n\
                      test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(tally(output, false), (3, 3));
    }

    #[test]
    fn crash_without_a_report_is_a_failure() {
        assert_eq!(tally("thread panicked\n", false), (0, 1));
        let cut = "test result: ok. 2 passed; 0 failed; 0 ignored\nthread panicked at exit\n";
        assert_eq!(tally(cut, false), (2, 1));
    }
}
