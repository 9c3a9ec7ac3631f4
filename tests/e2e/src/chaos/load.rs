//! The writers of a recorded load, and the reading of what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use redis::{Connection, FromRedisValue as _, RedisResult};

use super::history::{History, Operation, Outcome, State, Value, What};
use super::random::Random;
use crate::client::connect;

/// Keys that all writers share, of each kind.
const SHARED_KEYS: u64 = 16;
/// Elements that one list, or writes that one register, takes before its writer begins another.
const OWN_KEY_WRITES: u64 = 200;
/// How many keys one pipeline asks for.
const BATCH: usize = 200;

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Writers at a time.
    pub writers: u64,
    /// The pause of a writer between two operations.
    pub pause: Duration,
}

/// Writes until `ended` rises; every operation and its outcome is recorded.
pub fn write(targets: &[String], seed: u64, rate: Rate, ended: &AtomicBool) -> History {
    let begin = Begin::now();
    let elements = AtomicU64::new(1);
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..rate.writers {
            let (all, elements) = (&all, &elements);
            scope.spawn(move || {
                let mut writer = Writer::new(targets, number, seed, begin, elements);
                while !ended.load(Ordering::Relaxed) {
                    writer.step();
                    thread::sleep(rate.pause);
                }
                if let Ok(mut all) = all.lock() {
                    all.append(&mut writer.done);
                }
            });
        }
    });
    History {
        operations: all.into_inner().unwrap_or_default(),
    }
}

/// When the load began, by both clocks: one is known elsewhere too, the other never jumps.
#[derive(Clone, Copy)]
struct Begin {
    since_1970: Duration,
    steady: Instant,
}

impl Begin {
    fn now() -> Self {
        Self {
            since_1970: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            steady: Instant::now(),
        }
    }

    fn since_1970(self, at: Instant) -> Duration {
        self.since_1970 + at.duration_since(self.steady)
    }
}

struct Writer<'a> {
    targets: &'a [String],
    number: u64,
    at: usize,
    connection: Option<Connection>,
    random: Random,
    begin: Begin,
    /// The next element that no operation has named.
    elements: &'a AtomicU64,
    list: OwnKey,
    register: OwnKey,
    done: Vec<Operation>,
}

/// A key with one writer. After an unknown outcome it is left alone: the
/// operation may happen later, through another coordinator, and two that race
/// for one key are outside the promise.
#[derive(Default)]
struct OwnKey {
    number: u64,
    writes: u64,
}

impl OwnKey {
    fn written(&mut self, outcome: Outcome) {
        self.writes += 1;
        if outcome == Outcome::Unknown || self.writes >= OWN_KEY_WRITES {
            self.number += 1;
            self.writes = 0;
        }
    }
}

impl<'a> Writer<'a> {
    fn new(
        targets: &'a [String],
        number: u64,
        seed: u64,
        begin: Begin,
        elements: &'a AtomicU64,
    ) -> Self {
        Self {
            targets,
            number,
            at: usize::try_from(number).unwrap_or_default(),
            connection: None,
            random: Random::new(seed.wrapping_add(number)),
            begin,
            elements,
            list: OwnKey::default(),
            register: OwnKey::default(),
            done: Vec::new(),
        }
    }

    fn step(&mut self) {
        let shared = self.random.below(SHARED_KEYS);
        match self.random.below(10) {
            0..3 => {
                let amount = 1 + self.random.below(3);
                self.operate(format!("counter:{shared}"), What::Add(amount));
            }
            3..6 => {
                let element = self.element();
                self.operate(format!("set:{shared}"), What::Insert(element));
            }
            6..8 => {
                let key = format!("list:{}:{}", self.number, self.list.number);
                let element = self.element();
                if let Some(outcome) = self.operate(key, What::Append(element)) {
                    self.list.written(outcome);
                }
            }
            choice => {
                let key = format!("register:{}:{}", self.number, self.register.number);
                let what = if choice == 9 && self.random.below(2) == 0 {
                    What::Delete
                } else {
                    What::Set(self.element())
                };
                if let Some(outcome) = self.operate(key, what) {
                    self.register.written(outcome);
                }
            }
        }
    }

    fn element(&self) -> u64 {
        self.elements.fetch_add(1, Ordering::Relaxed)
    }

    /// Does one operation and records it; nothing when no rack takes a connection.
    fn operate(&mut self, key: String, what: What) -> Option<Outcome> {
        let mut connection = self.connection.take().or_else(|| self.connect())?;
        let begun = Instant::now();
        let answer = execute(&mut connection, &key, what);
        let outcome = match &answer {
            Ok(()) => Outcome::Acknowledged,
            Err(_) => Outcome::Unknown,
        };
        match answer {
            Ok(()) => self.connection = Some(connection),
            Err(_) => self.at += 1,
        }
        self.done.push(Operation {
            key,
            what,
            outcome,
            begun: milliseconds(self.begin.since_1970(begun)),
            took: milliseconds(begun.elapsed()),
        });
        Some(outcome)
    }

    fn connect(&mut self) -> Option<Connection> {
        let target = &self.targets[self.at % self.targets.len()];
        let connection = connect(target).ok();
        if connection.is_none() {
            self.at += 1;
        }
        connection
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn execute(connection: &mut Connection, key: &str, what: What) -> RedisResult<()> {
    let command = |name: &str| {
        let mut command = redis::cmd(name);
        command.arg(key);
        command
    };
    match what {
        What::Add(amount) => command("INCRBY")
            .arg(amount)
            .query::<u64>(connection)
            .map(drop),
        What::Insert(element) => command("SADD")
            .arg(element)
            .query::<u64>(connection)
            .map(drop),
        What::Append(element) => command("RPUSH")
            .arg(element)
            .query::<u64>(connection)
            .map(drop),
        What::Set(value) => command("SET")
            .arg(value)
            .query::<String>(connection)
            .map(drop),
        What::Delete => command("DEL").query::<u64>(connection).map(drop),
    }
}

/// Reads the keys of a history as one rack has them. The rack must serve, and
/// reads must be answered by the rack they come to.
pub fn read_state(target: &str, history: &History) -> Result<State> {
    let mut connection = connect(target)?;
    let mut kinds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in &history.operations {
        let command = match operation.what {
            What::Add(_) | What::Set(_) | What::Delete => "GET",
            What::Insert(_) => "SMEMBERS",
            What::Append(_) => "LRANGE",
        };
        kinds.entry(command).or_default().insert(&operation.key);
    }
    let mut state = State::new();
    for (command, keys) in kinds {
        let keys: Vec<&str> = keys.into_iter().collect();
        for batch in keys.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for key in batch {
                let asked = pipe.cmd(command).arg(*key);
                if command == "LRANGE" {
                    asked.arg(0).arg(-1);
                }
            }
            let answers: Vec<redis::Value> = pipe
                .query(&mut connection)
                .with_context(|| format!("{command} through {target}"))?;
            for (key, answer) in batch.iter().zip(answers) {
                state.insert((*key).to_owned(), value(command, &answer));
            }
        }
    }
    Ok(state)
}

fn value(command: &str, answer: &redis::Value) -> Value {
    let foreign = || Value::Foreign(format!("{answer:?}"));
    if command == "GET" {
        return match Option::<u64>::from_redis_value_ref(answer) {
            Ok(Some(number)) => Value::Number(number),
            Ok(None) => Value::Absent,
            Err(_) => foreign(),
        };
    }
    match Vec::<u64>::from_redis_value_ref(answer) {
        Ok(elements) if elements.is_empty() => Value::Absent,
        Ok(elements) if command == "LRANGE" => Value::List(elements),
        Ok(mut elements) => {
            elements.sort_unstable();
            Value::Set(elements)
        }
        Err(_) => foreign(),
    }
}
