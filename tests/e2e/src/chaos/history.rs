//! What writers did, what became of it, and what is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What an operation does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// `INCRBY`; any number of writers share the key.
    Add(u64),
    /// `SADD` of an element that no other operation names; any number of writers.
    Insert(u64),
    /// `RPUSH` of an element that no other operation names; one writer.
    Append(u64),
    /// `SET` to a value that no other operation names; one writer.
    Set(u64),
    /// `DEL`; one writer.
    Delete,
}

/// What is known of an operation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was answered with success.
    Acknowledged,
    /// It failed, or was not answered: it may have happened, or may yet.
    Unknown,
}

/// One operation. Those on one key with one writer stand in the order in which they were begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// What it does.
    pub what: What,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was begun, milliseconds since 1970.
    pub begun: u64,
    /// How long it took, milliseconds.
    pub took: u64,
}

/// All operations of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// By writer, each in its order.
    pub operations: Vec<Operation>,
}

impl History {
    /// Writes one operation per line.
    pub fn save(&self, out: &mut impl Write) -> Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut *out, operation)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(input: impl BufRead) -> Result<Self> {
        let mut operations = Vec::new();
        for (number, line) in input.lines().enumerate() {
            let operation = serde_json::from_str(&line?);
            operations.push(operation.with_context(|| format!("line {}", number + 1))?);
        }
        Ok(Self { operations })
    }
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// Nothing: there is no such key.
    Absent,
    /// A number: counters and single values.
    Number(u64),
    /// The elements of a set, sorted.
    Set(Vec<u64>),
    /// The elements of a list, in its order.
    List(Vec<u64>),
    /// Something no operation writes.
    Foreign(String),
}

/// The keys of a load as one rack has them.
pub type State = BTreeMap<String, Value>;
