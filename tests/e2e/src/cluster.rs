//! The cluster under test, reached as its users reach it: with kubectl and helm.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The cluster, as `cargo xtask test` describes it in the environment.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

/// What a command has printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Cluster {
    /// Reads the environment.
    ///
    /// # Errors
    /// When a variable is missing: the tests are run by `cargo xtask test`.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            kubeconfig: variable("DYNOMITE_E2E_KUBECONFIG")?.into(),
            kubectl: variable("DYNOMITE_E2E_KUBECTL")?.into(),
        })
    }

    /// The kubeconfig's path.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command
    }

    /// Runs kubectl and gives back what it said, whether it succeeded or not.
    pub fn try_kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<Output> {
        run(self.command(args), stdin).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Runs kubectl, which must succeed, and gives back its standard output.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.try_kubectl(args, None)?;
        ensure!(
            output.success,
            "kubectl {}: {}",
            args.join(" "),
            output.stderr.trim()
        );
        Ok(output.stdout)
    }

    /// Runs kubectl with `-o json` and reads what it prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.kubectl(&args)?)?)
    }

    /// Applies a manifest, which must be accepted.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<()> {
        let output = self.try_kubectl(&["apply", "-n", namespace, "-f", "-"], Some(manifest))?;
        ensure!(output.success, "kubectl apply: {}", output.stderr.trim());
        Ok(())
    }
}

/// A variable that `cargo xtask test` sets.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set: run these tests by `cargo xtask test`"))
}

/// Runs a command to its end.
pub fn run(mut command: Command, stdin: Option<&str>) -> Result<Output> {
    command
        .stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(text) = stdin {
        let Some(mut pipe) = child.stdin.take() else {
            bail!("the command has no standard input");
        };
        pipe.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok(Output {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
