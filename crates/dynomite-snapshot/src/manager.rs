//! Files of Dynomite-manager: which of those in a bucket make up one state of the old ring.
//!
//! ```text
//! BASE/DATACENTER/RACK/TOKEN/MILLISECONDS     one a day for each node, of the midnight before
//!
//! wanted: a day, or the newest ──▶ for each token of the old ring one file, of any of its racks
//! ```
//!
//! Nothing in the bucket says which tokens the old ring had. So every token that has any file
//! counts, unless the wish names them: a token that is left out is data that is lost, and a token
//! that the ring gave up long ago brings data that nobody has any more.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_protocol::token::Token;
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::layout::{Found, ManagerFile, find};

/// How far apart the newest files of different tokens may be: one day, and what an hour of
/// daylight saving adds.
const APART: SignedDuration = SignedDuration::from_hours(25);

/// How many tokens a message names.
const NAMED: usize = 5;

/// Which files are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The datacenter that they are of.
    pub datacenter: String,
    /// The rack that they are of; of any when absent.
    pub rack: Option<String>,
    /// The day; the newest of each token when absent.
    pub day: Option<Date>,
    /// The tokens of the old ring; those that have files when empty.
    pub tokens: BTreeSet<Token>,
}

/// A file that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its key.
    pub key: String,
    /// What it is of.
    pub file: ManagerFile,
}

/// Why there is no such state. The fields are those of a restore's `from.manager`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFiles {
    /// There is not one.
    #[error(
        "nothing under {under} is a file of Dynomite-manager: see base, datacenter and rack of \
         from.manager; keys are BASE/DATACENTER/RACK/TOKEN/MILLISECONDS"
    )]
    None {
        /// Where they were looked for.
        under: String,
    },
    /// Tokens of which there is no file.
    #[error(
        "there is no file of {tokens} {when}: name another day in from.manager.date, or in \
         from.manager.tokens the tokens that the old ring had"
    )]
    Missing {
        /// The tokens.
        tokens: String,
        /// Of which day.
        when: String,
    },
    /// The newest files are of different times.
    #[error(
        "the newest file of {old} is of {from}, and that of others of {to}: name a day in \
         from.manager.date, or in from.manager.tokens the tokens that the old ring had"
    )]
    Apart {
        /// Tokens.
        old: String,
        /// The day of the oldest.
        from: Date,
        /// The newest day.
        to: Date,
    },
}

/// The day whose midnight a file is named after. The machines wrote their own local time, of zones
/// from eleven hours behind to twelve ahead of UTC: their midnight is nearest to that of UTC.
pub fn day(file: &ManagerFile) -> Date {
    let noon = file.day.saturating_add(SignedDuration::from_hours(12));
    let noon = noon.unwrap_or(file.day);
    // Twelve hours ahead it is noon of the day before.
    noon.to_zoned(TimeZone::UTC).date()
}

/// One file of each token, by ascending token. Of equal ones that of the first rack is taken: every
/// rack holds all the data.
///
/// # Errors
/// When the files that are there cannot be one state of a ring.
pub fn choose<'k>(
    base: &str,
    keys: impl IntoIterator<Item = &'k str>,
    wanted: &Wanted,
) -> Result<Vec<Chosen>, NoFiles> {
    let files = keys.into_iter().filter_map(|key| match find(base, key) {
        Found::Manager(file) => Some(Chosen {
            key: key.to_owned(),
            file,
        }),
        _ => None,
    });
    let of_rack = |file: &ManagerFile| wanted.rack.as_ref().is_none_or(|rack| *rack == file.rack);
    let mut files: Vec<Chosen> = files
        .filter(|chosen| chosen.file.datacenter == wanted.datacenter && of_rack(&chosen.file))
        .collect();
    if files.is_empty() {
        let rack = wanted.rack.as_ref();
        let rack = rack.map_or_else(String::new, |rack| format!("{rack}/"));
        return Err(NoFiles::None {
            under: format!("{base}/{}/{rack}", wanted.datacenter),
        });
    }
    let tokens: BTreeSet<Token> = if wanted.tokens.is_empty() {
        files.iter().map(|chosen| chosen.file.token).collect()
    } else {
        wanted.tokens.clone()
    };
    files.retain(|chosen| wanted.day.is_none_or(|wanted| day(&chosen.file) == wanted));
    files.sort_by_key(|chosen| {
        let rack = chosen.file.rack.clone();
        (std::cmp::Reverse(chosen.file.day), rack)
    });
    let mut by_token: BTreeMap<Token, Chosen> = BTreeMap::new();
    for chosen in files {
        if tokens.contains(&chosen.file.token) {
            by_token.entry(chosen.file.token).or_insert(chosen);
        }
    }
    let missing = tokens.iter().filter(|token| !by_token.contains_key(token));
    let missing: Vec<Token> = missing.copied().collect();
    if !missing.is_empty() {
        let day = wanted.day.map(|day| format!("of {day}"));
        return Err(NoFiles::Missing {
            tokens: names(&missing),
            when: day.unwrap_or_else(|| "of any day".to_owned()),
        });
    }
    let chosen: Vec<Chosen> = by_token.into_values().collect();
    if wanted.tokens.is_empty() {
        level(&chosen)?;
    }
    Ok(chosen)
}

/// Whether files are of about one time.
fn level(chosen: &[Chosen]) -> Result<(), NoFiles> {
    let Some(newest) = chosen.iter().max_by_key(|chosen| chosen.file.day) else {
        return Ok(());
    };
    let is_old = |chosen: &&Chosen| newest.file.day.duration_since(chosen.file.day) > APART;
    let old: Vec<&Chosen> = chosen.iter().filter(is_old).collect();
    let Some(oldest) = old.iter().min_by_key(|chosen| chosen.file.day) else {
        return Ok(());
    };
    let tokens: Vec<Token> = old.iter().map(|chosen| chosen.file.token).collect();
    Err(NoFiles::Apart {
        old: names(&tokens),
        from: day(&oldest.file),
        to: day(&newest.file),
    })
}

/// Tokens for people.
fn names(tokens: &[Token]) -> String {
    let named: Vec<String> = tokens.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match tokens.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let word = if tokens.len() == 1 { "token" } else { "tokens" };
    format!("{word} {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    /// 2015-11-22, midnight of UTC.
    const SUNDAY: i64 = 1_448_150_400_000;

    fn key(rack: &str, token: u32, millis: i64) -> String {
        format!("backup/us-east-1/{rack}/{token}/{millis}")
    }

    fn wanted(day: Option<&str>) -> Wanted {
        Wanted {
            datacenter: "us-east-1".to_owned(),
            day: day.map(|day| day.parse().expect("a day")),
            ..Wanted::default()
        }
    }

    fn chosen(keys: &[String], wanted: &Wanted) -> Result<Vec<String>, String> {
        let chosen = choose("backup", keys.iter().map(String::as_str), wanted);
        let chosen = chosen.map_err(|why| why.to_string())?;
        Ok(chosen.into_iter().map(|chosen| chosen.key).collect())
    }

    #[test]
    fn a_file_of_each_token_is_of_the_day_and_of_any_rack() {
        let keys = [
            key("c", 1, SUNDAY),
            key("d", 1, SUNDAY),
            key("d", 2, SUNDAY),
            key("c", 1, SUNDAY - DAY),
            key("c", 2, SUNDAY - DAY),
            "backup/us-west-2/a/1/1448150400000".to_owned(),
            "backup/us-east-1/notes.txt".to_owned(),
        ];
        let sunday = vec![key("c", 1, SUNDAY), key("d", 2, SUNDAY)];
        assert_eq!(
            chosen(&keys, &wanted(Some("2015-11-22"))),
            Ok(sunday.clone())
        );
        assert_eq!(chosen(&keys, &wanted(None)), Ok(sunday));
        let saturday = vec![key("c", 1, SUNDAY - DAY), key("c", 2, SUNDAY - DAY)];
        assert_eq!(chosen(&keys, &wanted(Some("2015-11-21"))), Ok(saturday));
        let mut of_rack = wanted(Some("2015-11-22"));
        of_rack.rack = Some("d".to_owned());
        let d = vec![key("d", 1, SUNDAY), key("d", 2, SUNDAY)];
        assert_eq!(chosen(&keys, &of_rack), Ok(d));
        // Rack c lacks one: that would be lost, so it is said.
        of_rack.rack = Some("c".to_owned());
        let why = chosen(&keys, &of_rack).expect_err("one is missing");
        assert!(
            why.contains("token 2 of 2015-11-22") && why.contains("from.manager.date"),
            "{why}"
        );
        of_rack.tokens = [Token(1)].into();
        assert_eq!(chosen(&keys, &of_rack), Ok(vec![key("c", 1, SUNDAY)]));
    }

    #[test]
    fn the_newest_files_are_of_one_time_unless_somebody_names_the_tokens() {
        let keys = [
            key("a", 1, SUNDAY),
            key("a", 2, SUNDAY - 9 * DAY),
            key("a", 3, SUNDAY),
        ];
        let why = chosen(&keys, &wanted(None)).expect_err("2 is old");
        assert!(
            why.contains("token 2 is of 2015-11-13") && why.contains("2015-11-22"),
            "{why}"
        );
        let mut named = wanted(None);
        named.tokens = [Token(1), Token(3)].into();
        assert_eq!(
            chosen(&keys, &named),
            Ok(vec![keys[0].clone(), keys[2].clone()])
        );
        named.tokens = [Token(1), Token(2), Token(3)].into();
        assert_eq!(chosen(&keys, &named).map(|keys| keys.len()), Ok(3));
        named.tokens = [Token(4)].into();
        let why = chosen(&keys, &named).expect_err("there is none");
        assert!(why.contains("token 4 of any day"), "{why}");
        let why = chosen(&[], &wanted(None)).expect_err("nothing is there");
        assert!(
            why.contains("backup/us-east-1/") && why.contains("from.manager"),
            "{why}"
        );
    }

    #[test]
    fn a_day_is_that_of_the_machines_zone() {
        for (hours, expected) in [
            (0, "2015-11-22"),
            (8, "2015-11-22"),
            (11, "2015-11-22"),
            (-1, "2015-11-22"),
            (-12, "2015-11-22"),
            (24, "2015-11-23"),
        ] {
            let key = key("a", 1, SUNDAY + hours * 3_600_000);
            let Found::Manager(file) = find("backup", &key) else {
                panic!("{key} is one");
            };
            assert_eq!(day(&file).to_string(), expected, "{hours}");
        }
    }

    #[test]
    fn many_missing_tokens_are_named_in_part() {
        let mut wanted = wanted(None);
        wanted.tokens = (1..=8).map(Token).collect();
        let why = chosen(&[key("a", 9, SUNDAY)], &wanted).expect_err("they are missing");
        assert!(why.contains("tokens 1, 2, 3, 4, 5 and 3 more"), "{why}");
    }
}
