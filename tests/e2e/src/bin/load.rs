//! A Redis client that counts: fills, verifies, writes on and on, watches one node.
//!
//! It prints `started`, then at its end a tally as JSON. Loads without an end
//! of their own end with their standard input, and after `--seconds` at the
//! latest.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use dynomite_e2e::Tally;
use dynomite_e2e::client::{PATIENCE, connect};
use dynomite_e2e::ended::until_input_ends;
use redis::{Connection, RedisResult};

/// How many keys one pipeline carries.
const BATCH: u64 = 500;
/// How many examples of failures are kept.
const EXAMPLES: usize = 5;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes keys through one target.
    Fill {
        #[arg(long)]
        target: String,
        #[arg(long)]
        keys: u64,
        /// Bytes of each value, at least; `verify` knows the shortest only.
        #[arg(long, default_value_t = 0)]
        bytes: usize,
    },
    /// Reads the keys of `fill` through one target.
    Verify {
        #[arg(long)]
        target: String,
        #[arg(long)]
        keys: u64,
    },
    /// Writes keys of its own, one writer per key, until its input ends; each
    /// write that fails is tried once more on the next target. Then reads all
    /// of them through every target.
    Hammer {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String>,
        #[arg(long, default_value_t = 4)]
        writers: u64,
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        /// A word that keeps the keys of two loads apart.
        #[arg(long, default_value = "hammer")]
        prefix: String,
        /// How often a failed write is tried again.
        #[arg(long, default_value_t = 1)]
        retries: usize,
    },
    /// Asks for a path over HTTP until the answer is 200; fails when the time is up.
    Probe {
        #[arg(long)]
        target: String,
        #[arg(long)]
        path: String,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Reads the keys of `fill` from one node, again and again, until its input
    /// ends. A refusal is well; a wrong answer is counted.
    Watch {
        #[arg(long)]
        target: String,
        #[arg(long)]
        keys: u64,
        #[arg(long, default_value_t = 300)]
        seconds: u64,
    },
}

/// How long `probe` waits between two looks.
const PROBE_PERIOD: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("started");
    let tally = match arguments.command {
        Command::Fill {
            target,
            keys,
            bytes,
        } => fill(&target, keys, bytes)?,
        Command::Verify { target, keys } => verify(&target, keys)?,
        Command::Hammer {
            targets,
            writers,
            seconds,
            prefix,
            retries,
        } => hammer(
            &targets,
            writers,
            &until_input_ends(seconds),
            &prefix,
            retries,
        )?,
        Command::Probe {
            target,
            path,
            seconds,
        } => probe(&target, &path, Duration::from_secs(seconds))?,
        Command::Watch {
            target,
            keys,
            seconds,
        } => watch(&target, keys, &until_input_ends(seconds)),
    };
    println!("{}", serde_json::to_string(&tally)?);
    Ok(())
}

fn key(index: u64) -> String {
    format!("key:{index}")
}

fn value(index: u64) -> String {
    format!("value:{index}")
}

fn batches(keys: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..keys.div_ceil(BATCH)).map(move |batch| batch * BATCH..((batch + 1) * BATCH).min(keys))
}

fn fill(target: &str, keys: u64, bytes: usize) -> Result<Tally> {
    let mut connection = connect(target)?;
    let mut tally = Tally::default();
    for batch in batches(keys) {
        let mut pipe = redis::pipe();
        for index in batch {
            pipe.cmd("SET")
                .arg(key(index))
                .arg(format!("{:bytes$}", value(index)));
        }
        let answers: Vec<String> = pipe.query(&mut connection)?;
        tally.acknowledged += answers.iter().filter(|answer| *answer == "OK").count() as u64;
    }
    Ok(tally)
}

fn verify(target: &str, keys: u64) -> Result<Tally> {
    let mut connection = connect(target)?;
    let mut tally = Tally::default();
    for batch in batches(keys) {
        let mut pipe = redis::pipe();
        for index in batch.clone() {
            pipe.cmd("GET").arg(key(index));
        }
        let answers: Vec<Option<String>> = pipe.query(&mut connection)?;
        for (index, answer) in batch.zip(answers) {
            judge(&mut tally, index, answer.as_deref());
        }
    }
    Ok(tally)
}

fn judge(tally: &mut Tally, index: u64, answer: Option<&str>) {
    if answer == Some(&value(index)) {
        tally.right += 1;
    } else {
        tally.wrong += 1;
        note(tally, || format!("{} is {answer:?}", key(index)));
    }
}

fn note(tally: &mut Tally, example: impl FnOnce() -> String) {
    if tally.examples.len() < EXAMPLES {
        tally.examples.push(example());
    }
}

/// One writer's connection to whichever target answers.
struct Roaming<'a> {
    targets: &'a [String],
    at: usize,
    connection: Option<Connection>,
}

impl<'a> Roaming<'a> {
    fn new(targets: &'a [String], at: usize) -> Self {
        Self {
            targets,
            at,
            connection: None,
        }
    }

    fn set(&mut self, key: &str, value: u64) -> Result<()> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.targets[self.at % self.targets.len()])?);
        }
        let Some(connection) = &mut self.connection else {
            bail!("there is no connection");
        };
        let answer: RedisResult<String> = redis::cmd("SET").arg(key).arg(value).query(connection);
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                let target = &self.targets[self.at % self.targets.len()];
                Err(error).with_context(|| format!("{key} through {target}"))
            }
        }
    }

    fn next(&mut self) {
        self.connection = None;
        self.at += 1;
    }
}

fn hammer(
    targets: &[String],
    writers: u64,
    ended: &Arc<AtomicBool>,
    prefix: &str,
    retries: usize,
) -> Result<Tally> {
    let written: Vec<(Tally, Vec<(String, u64)>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write_on(targets, writer, ended, prefix, retries)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_default())
            .collect()
    });
    let mut tally = Tally::default();
    for (part, _) in &written {
        tally.acknowledged += part.acknowledged;
        tally.failed += part.failed;
        tally.retried += part.retried;
        tally
            .examples
            .extend(part.examples.iter().take(EXAMPLES).cloned());
    }
    let keys: Vec<_> = written.into_iter().flat_map(|(_, keys)| keys).collect();
    for target in targets {
        read_back(target, &keys, &mut tally)?;
    }
    Ok(tally)
}

/// Writes growing numbers to keys of its own; gives back the last acknowledged number of each.
fn write_on(
    targets: &[String],
    writer: u64,
    ended: &AtomicBool,
    prefix: &str,
    retries: usize,
) -> (Tally, Vec<(String, u64)>) {
    let mut roaming = Roaming::new(targets, usize::try_from(writer).unwrap_or_default());
    let mut tally = Tally::default();
    let mut last = std::collections::BTreeMap::new();
    for round in 1_u64.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}:{writer}:{}", round % 200);
        let mut tries = 0;
        loop {
            let begin = Instant::now();
            match roaming.set(&key, round) {
                Ok(()) => {
                    tally.acknowledged += 1;
                    tally.retried += u64::from(tries > 0);
                    last.insert(key.clone(), round);
                    break;
                }
                Err(error) => {
                    let took = begin.elapsed().as_millis();
                    roaming.next();
                    if tries == retries {
                        tally.failed += 1;
                        // Nobody knows whether it was written: the key has no value to expect.
                        last.remove(&key);
                        note(&mut tally, || format!("{error:#} after {took} ms"));
                        break;
                    }
                    tries += 1;
                }
            }
        }
    }
    (tally, last.into_iter().collect())
}

fn read_back(target: &str, keys: &[(String, u64)], tally: &mut Tally) -> Result<()> {
    let mut connection = connect(target)?;
    for (key, written) in keys {
        let found: Option<u64> = redis::cmd("GET").arg(key).query(&mut connection)?;
        if found.is_some_and(|found| found >= *written) {
            tally.right += 1;
        } else {
            tally.lost += 1;
            note(tally, || {
                format!("{key} is {found:?} through {target}, {written} was acknowledged")
            });
        }
    }
    Ok(())
}

fn watch(target: &str, keys: u64, ended: &Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    for round in 0_u64.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let index = round.wrapping_mul(7919) % keys;
        if connection.is_none() {
            connection = connect(target).ok();
        }
        let Some(open) = &mut connection else {
            tally.failed += 1;
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let answer: RedisResult<Option<String>> = redis::cmd("GET").arg(key(index)).query(open);
        match answer {
            Ok(answer) => judge(&mut tally, index, answer.as_deref()),
            Err(error) => {
                tally.failed += 1;
                if error.is_io_error() || error.is_connection_dropped() {
                    connection = None;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    tally
}

fn probe(target: &str, path: &str, limit: Duration) -> Result<Tally> {
    let begin = Instant::now();
    let mut tally = Tally::default();
    loop {
        match ask(target, path) {
            Ok(status) if status.contains(" 200 ") => {
                tally.right = 1;
                return Ok(tally);
            }
            Ok(_) | Err(_) if begin.elapsed() < limit => tally.failed += 1,
            Ok(status) => bail!("{target}{path}: {status}"),
            Err(error) => return Err(error).with_context(|| format!("{target}{path}")),
        }
        thread::sleep(PROBE_PERIOD);
    }
}

/// The status line of an answer.
fn ask(target: &str, path: &str) -> Result<String> {
    let address = target.to_socket_addrs()?.next().context("no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
