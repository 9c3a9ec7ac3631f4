//! Backups of a ring under a recorded load: each must hold a state that existed while it was taken.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::BytesMut;
use dynomite_api::contract::{BackupPlace, StoreCredentials};
use dynomite_bucket::Bucket;
use dynomite_snapshot::commands::Commands;
use dynomite_snapshot::limits::MAX_MANIFEST;
use dynomite_snapshot::manifest::{Manifest, Snapshot};
use dynomite_snapshot::ownership::Ownership;
use dynomite_snapshot::transfer::Download;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::check::check;
use super::history::{History, Outcome, State, Value};

/// How far a write that is acknowledged may be on its way yet to the replica that takes the
/// snapshot: two of three replicas make a quorum, and the third has it within this.
const ON_ITS_WAY_MS: u64 = 1000;
/// How far the clock of a node and that of the load may differ.
const CLOCK_MS: u64 = 50;
/// Bytes of one value of the load at most.
const LARGEST_VALUE: usize = 16 << 20;

/// What is said of one backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judged {
    /// Its directory in the store.
    pub directory: String,
    /// Keys of the load in it.
    pub keys: usize,
    /// Operations that must be in it.
    pub required: usize,
    /// How many things in it cannot be, and the first of them in words.
    pub complained: usize,
    /// In words, with the first complaints.
    pub verdict: String,
}

/// Reads a backup as a restore would, all digests verified, and judges every snapshot by the
/// operations that may be in it and those that must.
pub async fn judge(
    place: &BackupPlace,
    credentials: &StoreCredentials,
    directory: &str,
    history: &History,
) -> Result<Judged> {
    let bucket = Bucket::open(place, Some(credentials))?;
    let directory = directory.trim_end_matches('/');
    let key = format!("{directory}/manifest.json");
    let found = bucket.get(&key, MAX_MANIFEST).await?;
    let manifest = Manifest::read(&found.with_context(|| format!("there is no {key}"))?)?;
    let placement = manifest.ring.placement();
    let placement = placement.map_err(|flaw| anyhow!("{flaw:?}"))?;
    let mut judged = Judged {
        directory: directory.to_owned(),
        keys: 0,
        required: 0,
        complained: 0,
        verdict: String::new(),
    };
    for snapshot in &manifest.snapshots {
        let owned = Ownership::new(&manifest.ring.tokens, snapshot.token);
        let (from, to) = (
            milliseconds(snapshot.started_at),
            milliseconds(snapshot.finished_at),
        );
        let possible = history.between(from.saturating_sub(ON_ITS_WAY_MS), to + CLOCK_MS, |key| {
            owned.owns(placement.token(key.as_bytes()))
        });
        let state = read(&bucket, &manifest, snapshot, directory).await?;
        let written = possible.keys();
        let strange = state.keys().find(|key| !written.contains(key.as_str()));
        let racks = BTreeMap::from([(snapshot.source.node.clone(), state.clone())]);
        let verdict = check(&possible, &racks);
        judged.keys += state.len();
        judged.required += verdict.acknowledged;
        judged.complained += verdict.complained + usize::from(strange.is_some());
        // Writing to memory does not fail.
        let _ = writeln!(
            judged.verdict,
            "token {} of {}: {verdict}",
            snapshot.token, snapshot.source.node
        );
        if let Some(key) = strange {
            let _ = writeln!(
                judged.verdict,
                "  {key} is there, and nobody had begun to write it"
            );
        }
    }
    Ok(judged)
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

async fn read(
    bucket: &Bucket,
    manifest: &Manifest,
    snapshot: &Snapshot,
    directory: &str,
) -> Result<State> {
    let mut object = bucket
        .download(&format!("{directory}/{}", snapshot.object))
        .await?;
    let mut download = Download::new(manifest, snapshot, None, snapshot.finished_at)?;
    let mut commands = Commands::new(LARGEST_VALUE);
    let (mut raw, mut out) = (Vec::new(), BytesMut::new());
    while let Some(piece) = object.next().await? {
        let mut rest: &[u8] = &piece;
        while !rest.is_empty() {
            download.push(&mut rest, &mut raw)?;
            commands.push(&raw, &mut out)?;
            raw.clear();
        }
    }
    loop {
        let ended = download.finish(&mut raw)?.is_some();
        commands.push(&raw, &mut out)?;
        raw.clear();
        if ended {
            break;
        }
    }
    commands.finish(&mut out)?;
    let state = apply(&out)?;
    let keys = usize::try_from(snapshot.counts().total())?;
    ensure!(
        state.len() == keys,
        "{} of {keys} keys were read",
        state.len()
    );
    Ok(state)
}

/// What a store holds after these commands.
fn apply(commands: &[u8]) -> Result<State> {
    let mut state = State::new();
    let mut rest = commands;
    while !rest.is_empty() {
        let words = command(&mut rest).context("commands come whole")?;
        let (verb, words) = words.split_first().context("a command has a name")?;
        if verb == "SELECT" {
            continue;
        }
        let (key, words) = words.split_first().context("a command has a key")?;
        let numbers = words.iter().map(|word| word.parse::<u64>());
        let numbers: Vec<u64> = numbers
            .collect::<Result<_, _>>()
            .with_context(|| key.clone())?;
        let held = state.entry(key.clone());
        match (verb.as_str(), numbers.as_slice()) {
            ("SET", &[number]) => {
                held.insert_entry(Value::Number(number));
            }
            ("RPUSH", _) => match held.or_insert(Value::List(Vec::new())) {
                Value::List(elements) => elements.extend(numbers),
                other => bail!("{key} is {other:?} and a list"),
            },
            ("SADD", _) => match held.or_insert(Value::Set(Vec::new())) {
                Value::Set(elements) => {
                    elements.extend(numbers);
                    elements.sort_unstable();
                }
                other => bail!("{key} is {other:?} and a set"),
            },
            _ => bail!("{verb} of {key} is nothing that the load does"),
        }
    }
    Ok(state)
}

/// Takes a command off; `None` where none is.
fn command(rest: &mut &[u8]) -> Option<Vec<String>> {
    let count = length(rest, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = length(rest, b'$')?;
        let (word, behind) = rest.split_at_checked(length)?;
        words.push(String::from_utf8(word.to_vec()).ok()?);
        *rest = behind.strip_prefix(b"\r\n")?;
    }
    Some(words)
}

fn length(rest: &mut &[u8], mark: u8) -> Option<usize> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let (line, behind) = rest.split_at(end);
    *rest = &behind[2..];
    let digits = line.strip_prefix(&[mark])?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl History {
    /// The same as it is known of an instant between two, milliseconds since 1970, and of some
    /// keys: what was begun only after it has not happened, and what was answered after `from` may
    /// have.
    fn between(&self, from: u64, to: u64, of: impl Fn(&str) -> bool) -> Self {
        let begun = self
            .operations
            .iter()
            .filter(|it| it.begun <= to && of(&it.key));
        let operations = begun.cloned().map(|mut operation| {
            if operation.begun + operation.took >= from {
                operation.outcome = Outcome::Unknown;
            }
            operation
        });
        Self {
            operations: operations.collect(),
        }
    }

    /// The keys of its operations.
    fn keys(&self) -> HashSet<&str> {
        let keys = self.operations.iter().map(|it| it.key.as_str());
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::{Operation, What};
    use super::*;

    fn operation(element: u64, begun: u64) -> Operation {
        Operation {
            key: "set:1".to_owned(),
            what: What::Insert(element),
            outcome: Outcome::Acknowledged,
            begun,
            took: 10,
        }
    }

    fn complaints(held: &[u64], from: u64, to: u64) -> usize {
        let history = History {
            operations: [(1, 100), (2, 200), (3, 300)]
                .map(|(element, begun)| operation(element, begun))
                .to_vec(),
        };
        let state = State::from([("set:1".to_owned(), Value::Set(held.to_vec()))]);
        let racks = BTreeMap::from([("node".to_owned(), state)]);
        check(&history.between(from, to, |_| true), &racks).complained
    }

    #[test]
    fn an_instant_has_what_was_answered_before_and_nothing_that_came_after() {
        for (held, from, to, expected) in [
            (vec![1, 2], 250, 260, 0),
            (vec![1], 205, 260, 0),
            (vec![1], 211, 260, 1),
            (vec![1, 2, 3], 250, 260, 1),
            (vec![1, 2, 3], 250, 300, 0),
            (vec![], 105, 400, 0),
        ] {
            assert_eq!(
                complaints(&held, from, to),
                expected,
                "{held:?} {from} {to}"
            );
        }
        let history = History {
            operations: vec![operation(1, 100)],
        };
        let others = history.between(0, 200, |key| key != "set:1");
        assert!(others.keys().is_empty());
        assert!(history.keys().contains("set:1"));
    }

    #[test]
    fn commands_make_the_state_of_their_store() {
        let mut text = String::new();
        for command in [
            "SELECT 0",
            "SET counter:1 7",
            "RPUSH list:0:0 3 9",
            "RPUSH list:0:0 4",
            "SADD set:1 8 2",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            write!(text, "*{}\r\n", words.len()).expect("memory takes it");
            for word in words {
                write!(text, "${}\r\n{word}\r\n", word.len()).expect("memory takes it");
            }
        }
        let state = apply(text.as_bytes()).expect("is read");
        assert_eq!(
            state,
            State::from([
                ("counter:1".to_owned(), Value::Number(7)),
                ("list:0:0".to_owned(), Value::List(vec![3, 9, 4])),
                ("set:1".to_owned(), Value::Set(vec![2, 8])),
            ])
        );
        assert!(apply(b"*2\r\n$4\r\nHSET\r\n$1\r\nh\r\n").is_err());
    }
}
