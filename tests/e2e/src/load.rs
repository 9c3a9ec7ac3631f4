//! Clients inside the cluster's network: programs of this package, run where Services have addresses.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::variable;

/// What a load has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Requests that failed, with every retry.
    pub failed: u64,
    /// Requests that succeeded only on another target than the first.
    pub retried: u64,
    /// Acknowledged writes of which a target knew nothing afterwards.
    pub lost: u64,
    /// Answers that were right.
    pub right: u64,
    /// Answers that were wrong: another value, or none where there must be one.
    pub wrong: u64,
    /// The first few things that went wrong, in words.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// A load that runs until it is ended.
#[derive(Debug)]
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
}

fn program(name: &str, args: &[String]) -> Result<Command> {
    let load = sibling(name)?;
    let mut command = Command::new(variable("DYNOMITE_E2E_XTASK")?);
    command.args(["cluster", "exec", "--"]).arg(load).args(args);
    Ok(command)
}

/// Another program of this build. Cargo puts test programs into `deps/` beside
/// the package's own programs.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    let mut found = folders.map(|folder| folder.join(name));
    found
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: run this by `cargo xtask`"))
}

impl Load {
    /// Runs a load to its end.
    pub fn run(args: &[&str]) -> Result<Tally> {
        Self::start(args)?.result()
    }

    /// Starts a load; returns once it says that it is under way.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::start_program("dynomite-load", args)
    }

    /// Starts a load that writes through targets, separated by commas, and tries each write
    /// twice more; its keys begin with `prefix`.
    pub fn hammer(targets: &str, prefix: &str) -> Result<Self> {
        Self::start(&[
            "hammer",
            "--targets",
            targets,
            "--prefix",
            prefix,
            "--retries",
            "2",
        ])
    }

    /// Starts another program of this package in the same way; returns once it says that it is
    /// under way.
    pub fn start_program(name: &str, args: &[&str]) -> Result<Self> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut child = program(name, &args)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdin = child.stdin.take();
        let out = child.stdout.as_mut().context("the load has an output")?;
        let mut line = Vec::new();
        // Byte by byte: what follows the line stays for `result`.
        let mut out = BufReader::with_capacity(1, out);
        out.read_until(b'\n', &mut line)?;
        ensure!(line == b"started\n", "the load did not start: {args:?}");
        Ok(Self { child, stdin })
    }

    /// Ends the load and reads what it has counted.
    pub fn stop(self) -> Result<Tally> {
        serde_json::from_slice(&self.end()?).context("the load prints its tally")
    }

    /// Ends the program and gives back what it has printed.
    pub fn end(mut self) -> Result<Vec<u8>> {
        drop(self.stdin.take());
        self.output()
    }

    /// Waits for the program's own end and gives back what it has printed.
    pub fn output(self) -> Result<Vec<u8>> {
        let _held_open_until_the_end = self.stdin;
        let output = self.child.wait_with_output()?;
        ensure!(output.status.success(), "the load failed");
        Ok(output.stdout)
    }

    /// Waits until the load's time is up and reads what it has counted.
    pub fn end_of_itself(self) -> Result<Tally> {
        self.result()
    }

    fn result(self) -> Result<Tally> {
        serde_json::from_slice(&self.output()?).context("the load prints its tally")
    }
}
