//! Harm: processes killed, nodes cut off, the API server stopped.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{run, variable};
use crate::wait_for;

/// What a store's process may be called.
pub const STORE: &[&str] = &["redis-server", "valkey-server"];
/// What an engine's process is called.
pub const ENGINE: &[&str] = &["dynomite"];
/// What the launchers of a pod are called, and the sidecar: they are one program.
pub const LAUNCHERS: &[&str] = &["dynomite-sideca"];
/// Within what time another sidecar takes the place of one that ended or hangs.
const REPLACED_WITHIN: Duration = Duration::from_secs(30);

/// Kills, with SIGKILL, the processes of a pod that are called one of `names`.
pub fn kill(pod_uid: &str, names: &[&str]) -> Result<()> {
    signal(pod_uid, names, "KILL")
}

/// Sends a signal to the processes of a pod that are called one of `names`.
///
/// The embedded cluster's processes are this machine's: they are found by the
/// control group that carries the pod's UID.
pub fn signal(pod_uid: &str, names: &[&str], signal: &str) -> Result<()> {
    let pids = processes(pod_uid, names)?;
    ensure!(!pids.is_empty(), "pod {pod_uid} has no process {names:?}");
    for pid in pids {
        // A launcher takes its processes along: the next on the list may be gone.
        let is_there = || fs::exists(format!("/proc/{pid}"));
        if let Err(error) = send(pid, signal)
            && is_there()?
        {
            return Err(error);
        }
    }
    Ok(())
}

fn send(pid: u32, signal: &str) -> Result<()> {
    let mut command = Command::new("kill");
    command.args([&format!("-{signal}"), &pid.to_string()]);
    let output = run(command, None)?;
    ensure!(output.success, "kill -{signal} {pid}: {}", output.stderr);
    Ok(())
}

/// Kills them, and waits until others have taken their place: that may be so soon that
/// the endpoints never show it.
pub fn kill_and_see_others(pod_uid: &str, names: &[&str], limit: Duration) -> Result<()> {
    let old = processes(pod_uid, names)?;
    kill(pod_uid, names)?;
    wait_for(&format!("others in the place of {names:?}"), limit, || {
        let now = processes(pod_uid, names)?;
        let others = !now.is_empty() && now.iter().all(|pid| !old.contains(pid));
        Ok(if others {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        })
    })
}

/// Process ids, on this machine, of a pod's processes that are called one of `names`.
pub fn processes(pod_uid: &str, names: &[&str]) -> Result<Vec<u32>> {
    of_pod(pod_uid, |name| names.contains(&name))
}

/// Process ids, on this machine, of all processes of a pod.
pub fn all_processes(pod_uid: &str) -> Result<Vec<u32>> {
    of_pod(pod_uid, |_| true)
}

fn of_pod(pod_uid: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end while it is looked at: then it is not one of them.
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if groups.contains(pod_uid) && wanted(name.trim()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The process id, on this machine, of a pod's sidecar, without the launchers.
pub fn sidecar(pod_uid: &str) -> Result<u32> {
    let runs = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).nth(1) == Some(b"run".as_slice())
    };
    let found = processes(pod_uid, LAUNCHERS)?.into_iter().find(runs);
    found.with_context(|| format!("pod {pod_uid} has no sidecar"))
}

/// Sends a signal to a pod's sidecar, and waits until another has taken its place.
pub fn replace_sidecar(pod_uid: &str, signal: &str) -> Result<()> {
    let pid = sidecar(pod_uid)?;
    send(pid, signal)?;
    wait_for("another sidecar", REPLACED_WITHIN, || {
        Ok(match sidecar(pod_uid) {
            Ok(now) if now != pid => Ok(()),
            Ok(now) => Err(format!("still {now}")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
}

/// Resident memory of a process, KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.context("no VmRSS")?.parse().context("VmRSS")
}

/// `cargo xtask cluster ...` on the embedded cluster.
pub fn cluster(args: &[&str]) -> Result<String> {
    let mut command = Command::new(variable("DYNOMITE_E2E_XTASK")?);
    command.arg("cluster").args(args);
    let output = run(command, None)?;
    ensure!(
        output.success,
        "cluster {}: {}",
        args.join(" "),
        output.stderr
    );
    Ok(output.stdout)
}

/// A node that is cut off the network until this is dropped.
#[derive(Debug)]
pub struct CutOff(String);

impl CutOff {
    /// Cuts the node off.
    pub fn node(name: &str) -> Result<Self> {
        cluster(&["node", name, "cut"])?;
        Ok(Self(name.to_owned()))
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Err(error) = cluster(&["node", &self.0, "join"]) {
            eprintln!("node {} could not be joined again: {error:#}", self.0);
        }
    }
}

/// Which way nothing comes through any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the node's pods send to others is lost.
    Out,
    /// What others send to the node's pods is lost.
    In,
}

/// A node whose pods are cut off in one direction until this is dropped; the
/// node itself, and so Kubernetes, notices nothing.
#[derive(Debug)]
pub struct OneWay(String);

impl OneWay {
    /// Cuts the pods of a node off.
    pub fn node(name: &str, way: Way) -> Result<Self> {
        let which = match way {
            Way::Out => "oifname",
            Way::In => "iifname",
        };
        let rules = format!(
            "add table ip one-way; \
             add chain ip one-way pods {{ type filter hook forward priority -5; }}; \
             add rule ip one-way pods {which} eth0 drop"
        );
        nft(name, &rules)?;
        Ok(Self(name.to_owned()))
    }
}

impl Drop for OneWay {
    fn drop(&mut self) {
        if let Err(error) = nft(&self.0, "delete table ip one-way") {
            eprintln!("node {} is still cut off one way: {error:#}", self.0);
        }
    }
}

fn nft(node: &str, rules: &str) -> Result<()> {
    cluster(&["exec", "--node", node, "--", "nft", rules]).map(drop)
}

/// The API server, stopped until this is dropped.
#[derive(Debug)]
pub struct NoApiServer;

impl NoApiServer {
    /// Stops it.
    pub fn begin() -> Result<Self> {
        cluster(&["apiserver", "stop"])?;
        Ok(Self)
    }
}

impl Drop for NoApiServer {
    fn drop(&mut self) {
        if let Err(error) = cluster(&["apiserver", "start"]) {
            eprintln!("the API server could not be started again: {error:#}");
        }
    }
}
