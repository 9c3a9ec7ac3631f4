//! Calls that a brain must not make, and leftovers that nobody may leave.

use super::source::{Source, line, words};
use super::{Findings, dependencies};

/// Words that read a clock, sleep, roll dice or touch the world, and what to do instead.
const IMPURE: [(&str, &str); 24] = [
    ("Instant::now", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("Timestamp::now", "take the time as an argument"),
    ("Zoned::now", "take the time as an argument"),
    ("Utc::now", "take the time as an argument"),
    ("sleep", "return the time of the next call"),
    ("rand", "take the seed or the number as an argument"),
    ("getrandom", "take the seed or the number as an argument"),
    ("std::fs", "take the content as an argument"),
    ("std::env", "take the setting as an argument"),
    ("std::process", "return an effect"),
    ("std::thread", "return an effect"),
    ("std::os", "return an effect"),
    ("File::open", "take the content as an argument"),
    ("TcpStream", "return an effect"),
    ("TcpListener", "return an effect"),
    ("UdpSocket", "return an effect"),
    ("UnixStream", "return an effect"),
    ("UnixListener", "return an effect"),
    ("ToSocketAddrs", "take the addresses as an argument"),
    ("println!", "return what is to be said"),
    ("eprintln!", "return what is to be said"),
    ("tokio", "leave the runtime to the hand"),
    ("async", "leave the runtime to the hand"),
];

/// Modules of `std` that a grouped import could bring past the list above.
const IMPURE_MODULES: [&str; 5] = ["fs", "env", "process", "thread", "os"];

/// Macros that mark unfinished work.
const LEFTOVERS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Words in comments that mark unfinished work.
const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Everything banned that `sources` contain.
pub(crate) fn check(sources: &[Source]) -> Findings {
    sources
        .iter()
        .flat_map(|source| {
            let mut found = leftovers(source);
            if source.package().is_some_and(dependencies::is_pure) && !source.is_test() {
                found.extend(impure(source));
            }
            found
        })
        .collect()
}

fn impure(source: &Source) -> Findings {
    let path = source.path.display();
    // Programs beside a library, such as an example that prints, are hands.
    if source.path.iter().nth(2).is_some_and(|part| part != "src") {
        return Vec::new();
    }
    let code = source.shipped();
    let mut found = Vec::new();
    for (word, remedy) in IMPURE {
        for offset in words(&code, word) {
            let line = line(&code, offset);
            found.push(format!(
                "{path}:{line}: `{word}` in a brain or language: {remedy}"
            ));
        }
    }
    for offset in words(&code, "std::{") {
        let group = &code[offset..];
        let group = &group[..group.find(';').unwrap_or(group.len())];
        for module in IMPURE_MODULES {
            if words(group, module).next().is_some() {
                let line = line(&code, offset);
                found.push(format!(
                    "{path}:{line}: `std::{module}` in a brain or language"
                ));
            }
        }
    }
    found
}

fn leftovers(source: &Source) -> Findings {
    let find = |text: &str, needles: &[&str]| {
        needles
            .iter()
            .flat_map(|needle| {
                words(text, needle)
                    .map(|offset| {
                        let path = source.path.display();
                        format!("{path}:{}: `{needle}` is left over", line(text, offset))
                    })
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let mut found = find(&source.code, &LEFTOVERS);
    found.extend(find(&source.comments, &MARKS));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn found(path: &str, text: &str) -> Findings {
        check(&[Source::new(PathBuf::from(path), text)])
    }

    const BRAIN: &str = "crates/dynomite-planner/src/lib.rs";

    #[test]
    fn brain_that_reads_the_clock_is_found_with_its_line() {
        let findings = found(BRAIN, "fn f() {\n    let now = Instant::now();\n}");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("crates/dynomite-planner/src/lib.rs:2:"));
    }

    #[test]
    fn every_banned_word_is_found() {
        for (word, _) in IMPURE {
            assert_eq!(found(BRAIN, &format!("use x::{word};")).len(), 1, "{word}");
        }
    }

    #[test]
    fn grouped_import_is_found() {
        assert_eq!(
            found(BRAIN, "use std::{collections::BTreeMap, fs};").len(),
            1
        );
        assert_eq!(
            found(BRAIN, "use std::{collections::BTreeMap, fmt};").len(),
            0
        );
    }

    #[test]
    fn hands_tests_and_comments_may() {
        assert!(found("crates/dynomite-operator/src/main.rs", "Instant::now()").is_empty());
        assert!(found("crates/dynomite-planner/tests/a.rs", "Instant::now()").is_empty());
        assert!(
            found(
                BRAIN,
                "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }"
            )
            .is_empty()
        );
        assert!(found(BRAIN, "// never sleep, never rand\nfn f(operand: u8) {}").is_empty());
        assert!(found(BRAIN, "use std::net::IpAddr;").is_empty());
    }

    #[test]
    fn leftovers_are_found_everywhere() {
        let path = "crates/dynomite-operator/src/main.rs";
        for leftover in LEFTOVERS {
            assert_eq!(found(path, &format!("{leftover}()")).len(), 1, "{leftover}");
        }
        for mark in MARKS {
            assert_eq!(found(path, &format!("// {mark}: later")).len(), 1, "{mark}");
        }
    }
}
