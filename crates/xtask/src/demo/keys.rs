//! Writes and reads keys with redis-cli inside the cluster, and checks every single answer.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::stage::Stage;

/// The port on which the ring speaks Redis.
pub(crate) const PORT: u16 = 8102;

/// How long a key may take to reach a rack whose answer the write did not wait for.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// How many wrong answers are told in full.
const EXAMPLES: usize = 3;

/// After how many answers the bar moves.
const PROGRESS_EVERY: u32 = 250;

/// How every value begins.
const VALUE: &str = "value-";

/// redis-cli in a pod of the ring, connected to the Service of one rack.
pub(crate) struct Client<'cluster> {
    pub(crate) cluster: &'cluster Cluster,
    pub(crate) namespace: &'cluster str,
    /// The pod whose store's image brings redis-cli.
    pub(crate) pod: String,
    /// The Service.
    pub(crate) host: String,
}

impl Client<'_> {
    /// Sets all keys; every one must be acknowledged.
    pub(crate) fn write(&self, count: u32, stage: &Stage) -> Result<()> {
        let keys: Vec<u32> = (0..count).collect();
        let answers = self.ask(
            &keys,
            |key| format!("SET {} {}", name(key), value(key)),
            stage,
        )?;
        let wrong = wrong(&keys, &answers, |_| "OK".to_owned());
        if wrong.is_empty() {
            return Ok(());
        }
        bail!("{}", complaint("not acknowledged", &wrong, &answers, count))
    }

    /// Reads all keys; every one must have its own value.
    pub(crate) fn read(&self, count: u32, stage: &Stage) -> Result<()> {
        let begun = Instant::now();
        let mut keys: Vec<u32> = (0..count).collect();
        loop {
            let answers = self.ask(&keys, |key| format!("GET {}", name(key)), stage)?;
            let late = wrong(&keys, &answers, value);
            if late.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > ARRIVES_WITHIN {
                bail!("{}", complaint("missing or wrong", &late, &answers, count));
            }
            stage.note(&format!(
                "{} keys have not arrived yet, reading them again",
                late.len()
            ));
            keys = late.into_iter().map(|(key, _)| key).collect();
        }
    }

    /// Sends one command for each key and gives one line of answer for each.
    fn ask(
        &self,
        keys: &[u32],
        command: impl Fn(u32) -> String,
        stage: &Stage,
    ) -> Result<Vec<String>> {
        let mut script = String::new();
        for &key in keys {
            writeln!(script, "{}", command(key))?;
        }
        let mut child = self.start()?;
        let mut input = child.stdin.take().context("redis-cli takes no input")?;
        let output = child.stdout.take().context("redis-cli gives no output")?;
        // Both ways at once: pipes hold little, and either side would wait for the other.
        let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
        let mut answers = Vec::with_capacity(keys.len());
        for line in BufReader::new(output).lines() {
            answers.push(line?);
            let done = u32::try_from(answers.len())?;
            if done.is_multiple_of(PROGRESS_EVERY) {
                stage.progress(u64::from(done), keys.len() as u64);
            }
        }
        let sent = writer.join();
        let end = child.wait_with_output()?;
        if !end.status.success() || answers.len() != keys.len() {
            bail!(
                "redis-cli to {} gave {} answers for {} commands: {} {}",
                self.host,
                answers.len(),
                keys.len(),
                answers
                    .iter()
                    .find(|answer| is_complaint(answer))
                    .map_or("", String::as_str),
                String::from_utf8_lossy(&end.stderr).trim()
            );
        }
        sent.map_err(|_| anyhow::anyhow!("sending to redis-cli panicked"))??;
        Ok(answers)
    }

    fn start(&self) -> Result<Child> {
        let mut command = self.cluster.kubectl();
        command
            .args(["--namespace", self.namespace, "exec", "--stdin", &self.pod])
            .args(["--container", "store", "--", "redis-cli"])
            .args(["-h", &self.host, "-p", &PORT.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().context("starting kubectl")
    }
}

/// Whether redis-cli's line is neither an acknowledgement nor one of our values.
fn is_complaint(answer: &str) -> bool {
    !(answer.is_empty() || answer == "OK" || answer.starts_with(VALUE))
}

fn name(key: u32) -> String {
    format!("demo:{key}")
}

/// Different for every key, so that a mixed-up answer is seen.
fn value(key: u32) -> String {
    format!("{VALUE}{}", u64::from(key) * 2_654_435_761 % 4_294_967_291)
}

/// The keys whose answer is not the expected one, with their position.
fn wrong(keys: &[u32], answers: &[String], expected: impl Fn(u32) -> String) -> Vec<(u32, usize)> {
    keys.iter()
        .zip(answers)
        .enumerate()
        .filter(|(_, (key, answer))| **answer != expected(**key))
        .map(|(position, (key, _))| (*key, position))
        .collect()
}

fn complaint(what: &str, wrong: &[(u32, usize)], answers: &[String], count: u32) -> String {
    let examples: Vec<_> = wrong
        .iter()
        .take(EXAMPLES)
        .map(|(key, position)| format!("{} answered {:?}", name(*key), answers[*position]))
        .collect();
    format!(
        "{} of {count} keys are {what}: {}",
        wrong.len(),
        examples.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_a_wrong_one_is_told() {
        let keys: Vec<u32> = (0..1_000).collect();
        let mut answers: Vec<_> = keys.iter().map(|&key| value(key)).collect();
        let distinct: std::collections::BTreeSet<_> = answers.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert!(wrong(&keys, &answers, value).is_empty());
        answers.swap(3, 4);
        let found = wrong(&keys, &answers, value);
        assert_eq!(found, [(3, 3), (4, 4)]);
        let told = complaint("wrong", &found, &answers, 1_000);
        assert!(
            told.contains("2 of 1000") && told.contains("demo:3"),
            "{told}"
        );
    }
}
