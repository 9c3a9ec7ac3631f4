//! The table of faults names tests: each of them must exist, and each fault must have one or say that it has none.

use std::collections::BTreeSet;

use super::Findings;
use super::source::Source;

/// Where the table is.
pub(crate) const PAGE: &str = "docs/faults.md";
/// What a row says whose fault no test shows.
const NOT_SHOWN: &str = "not shown";

/// Every row of the page that names a test that is not there, or none at all.
pub(crate) fn check(page: &str, sources: &[Source]) -> Findings {
    let tests: BTreeSet<String> = sources.iter().flat_map(tests_of).collect();
    let mut findings = Vec::new();
    for (number, row) in page.lines().enumerate() {
        let place = format!("{PAGE}:{}", number + 1);
        let Some(fault) = fault(row) else { continue };
        let named: Vec<&str> = named(row).collect();
        if named.is_empty() && !row.contains(NOT_SHOWN) {
            findings.push(format!("{place}: {fault} names no test"));
        }
        let missing = named.into_iter().filter(|name| !tests.contains(*name));
        findings.extend(missing.map(|name| format!("{place}: there is no test `{name}`")));
    }
    findings
}

/// The fault a row of the table is about, such as `F07`.
fn fault(row: &str) -> Option<&str> {
    let first = row.strip_prefix("| ")?.split(' ').next()?;
    let (letter, number) = first.split_at_checked(1)?;
    let numbered = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (matches!(letter, "A" | "F") && numbered).then_some(first)
}

/// The tests a row names, as `crate::function` in backticks.
fn named(row: &str) -> impl Iterator<Item = &str> {
    let inside = row.split('`').skip(1).step_by(2);
    inside.filter(|text| text.starts_with("dynomite-") && text.contains("::"))
}

/// The tests of a file, each as `crate::function`.
fn tests_of(source: &Source) -> Vec<String> {
    let package = match source.package() {
        Some(package) => package.to_owned(),
        None if source.path.starts_with("tests/e2e") => "dynomite-e2e".to_owned(),
        None => return Vec::new(),
    };
    let mut found = Vec::new();
    let mut marked = false;
    for line in source.code.lines().map(str::trim) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = function.strip_prefix("fn ")
            && std::mem::take(&mut marked)
        {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            found.push(format!("{package}::{name}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const CODE: &str = "#[test]\nfn here() {}\nfn no_test() {}\n#[tokio::test(start_paused = true)]\n/// Words.\nasync fn waits() {}\n";

    fn findings(rows: &str) -> Findings {
        let paths = ["crates/dynomite-sim/tests/a.rs", "tests/e2e/tests/b.rs"];
        let sources = paths.map(|path| Source::new(PathBuf::from(path), CODE));
        check(rows, &sources)
    }

    #[test]
    fn tests_that_are_there_are_found_by_their_crate() {
        let rows = "| F01 a | b | `dynomite-sim::here`, `dynomite-sim::waits` |\n\
                    | A2 a | b | `dynomite-e2e::waits` |\n\
                    | F03 a | b | not shown: it is slow |\n\
                    | fault | what | `dynomite-sim::nothing` |\n";
        assert!(findings(rows).is_empty(), "{:?}", findings(rows));
    }

    #[test]
    fn what_is_missing_is_told_with_its_line() {
        let rows = "| fault |\n| F01 a | b | `dynomite-sim::gone`, `dynomite-sim::no_test` |\n\
                    | F02 a | b | by hand |\n| F04 a | b | `dynomite-planner::here` |\n";
        let found = findings(rows);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains(":2: there is no test `dynomite-sim::gone`"));
        assert!(found[2].contains(":3: F02 names no test"));
    }
}
