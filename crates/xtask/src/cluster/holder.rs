//! Brings the embedded cluster up and down from outside: one process holds its namespaces, and
//! ending that process ends everything in them.
//!
//! ```text
//!  down -> clean -> spawn holder -> follow its progress -> up
//!            ^                          |                   |
//!            '---- crash, kill, fail ---'----- kill --------'
//! ```

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::cgroups::Hierarchies;
use super::control::{self, Request};
use super::layout::{self, Layout};
use super::programs::Programs;
use super::{images, packages, supervisor};
use crate::stage::Stages;
use crate::workspace;

/// Between two looks at the start's progress.
const LOOK: Duration = Duration::from_millis(50);
/// The whole start may not take longer, whatever its stages do.
const START_LIMIT: Duration = Duration::from_mins(6);
/// How long the kernel may take to end a killed process.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Brings the cluster up, unless it is up; what an earlier try left behind is removed first.
/// Returns whether anything was done.
pub(super) fn up(layout: &Layout, stages: &mut Stages) -> Result<bool> {
    ensure!(
        cfg!(target_os = "linux") && rustix::process::geteuid().is_root(),
        "the embedded cluster needs Linux and root, for its namespaces and mounts; run this as \
         root, or install Docker and kind, or name an existing cluster with --context"
    );
    let _lock = lock(layout)?;
    if is_up(layout) {
        return Ok(false);
    }
    packages::ensure(stages)?;
    let programs = Programs::ensure(stages)?;
    images::ensure(&programs, stages)?;
    if has_leftovers(layout)? {
        stages.run("removing what an earlier cluster left", |_| clean(layout))?;
    }
    let mut holder = spawn(layout)?;
    let result = follow(layout, &mut holder, stages);
    if result.is_err() {
        // The logs stay for whoever asks why; the next start removes them.
        holder.kill()?;
        holder.wait()?;
        Hierarchies::find()?.kill(&layout.cgroup())?;
    }
    result.map(|()| true)
}

/// Ends the cluster and removes every trace of it. Returns whether there was any.
pub(super) fn down(layout: &Layout) -> Result<bool> {
    let _lock = lock(layout)?;
    let found = has_leftovers(layout)?;
    clean(layout)?;
    Ok(found)
}

/// Whether the cluster has started and takes orders.
pub(super) fn is_up(layout: &Layout) -> bool {
    holder(layout).is_some() && control::ask(layout, &Request::Status).is_ok()
}

/// Whether a start is under way or was left half-done.
pub(super) fn is_half_up(layout: &Layout) -> bool {
    holder(layout).is_some() && !is_up(layout)
}

/// A process inside the cluster whose namespaces can be entered.
pub(super) fn inside(layout: &Layout) -> Result<u32> {
    let holder = holder(layout).with_context(|| {
        format!(
            "the cluster {} is not up: run `cargo xtask cluster up`",
            layout.name()
        )
    })?;
    child_of(holder).context("the cluster is just starting or ending")
}

/// Two commands that change the same cluster wait for each other.
fn lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("another command is changing this cluster; waiting for it to end");
        file.lock()?;
    }
    Ok(file)
}

/// Starts the holder, detached from the terminal and from this process.
fn spawn(layout: &Layout) -> Result<Child> {
    fs::create_dir_all(layout.logs())?;
    // Made here, on the host's loopback; the cluster accepts on it from within.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let log = File::create(layout.logs().join("holder.log"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new("setsid");
    command
        .args(["unshare", "--mount", "--pid", "--net", "--uts"])
        .args(["--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .args(["cluster", "--name", layout.name(), "inner"])
        .env_clear()
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", path.to_string_lossy()),
        )
        .env("HOME", "/root")
        .env("DYNOMITE_CACHE", layout::cache()?)
        .env("CARGO_MANIFEST_DIR", workspace::root())
        .current_dir("/")
        .stdin(OwnedFd::from(listener))
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn().context("starting setsid and unshare")?;
    let identity = format!("{} {}", child.id(), began(child.id()).unwrap_or_default());
    fs::write(layout.holder(), identity)?;
    Ok(child)
}

/// Shows the start's stages as they come, until the cluster is up.
fn follow(layout: &Layout, holder: &mut Child, stages: &mut Stages) -> Result<()> {
    let begun = Instant::now();
    let mut seen = 0;
    let mut next = || -> Result<(String, String)> {
        loop {
            let text = fs::read_to_string(layout.progress()).unwrap_or_default();
            // A line without its end is still being written.
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = complete.lines().nth(seen) {
                seen += 1;
                let (event, text) = line.split_once('\t').context("an event has a text")?;
                return Ok((event.to_owned(), serde_json::from_str(text)?));
            }
            if let Some(status) = holder.try_wait()? {
                let log = layout.logs().join("holder.log");
                bail!(
                    "the cluster's process ended ({status}); the end of {}:\n{}",
                    log.display(),
                    supervisor::tail(&log)
                );
            }
            ensure!(
                begun.elapsed() < START_LIMIT,
                "the cluster did not start within {} s; logs are in {}",
                START_LIMIT.as_secs(),
                layout.logs().display()
            );
            thread::sleep(LOOK);
        }
    };
    let (mut event, mut text) = next()?;
    while event == "stage" {
        (event, text) = stages.run(&text, |_| {
            let (event, text) = next()?;
            ensure!(event != "error", "{text}");
            Ok((event, text))
        })?;
    }
    ensure!(event == "done", "{text}");
    Ok(())
}

/// Ends what runs and removes what is left; does nothing where nothing is.
fn clean(layout: &Layout) -> Result<()> {
    if let Some(pid) = holder(layout) {
        end(pid)?;
    }
    // A holder that was killed takes its namespaces along a moment later; a start that was
    // interrupted may have left processes that no file names. Both are in the control group.
    let hierarchies = Hierarchies::find()?;
    hierarchies.kill(&layout.cgroup())?;
    hierarchies.remove(&layout.cgroup())?;
    let state = layout.state();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(
        !mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .any(|mounted| Path::new(mounted).starts_with(&state)),
        "something is mounted below {}: unmount it first",
        state.display()
    );
    if state.exists() {
        fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?;
    }
    Ok(())
}

fn has_leftovers(layout: &Layout) -> Result<bool> {
    Ok(layout.state().exists() || Hierarchies::find()?.exists(&layout.cgroup()))
}

/// Kills the holder and waits until its namespaces' first process is gone too.
fn end(pid: u32) -> Result<()> {
    let first = child_of(pid);
    for pid in std::iter::once(pid).chain(first) {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let begun = Instant::now();
    for pid in std::iter::once(pid).chain(first) {
        while is_alive(pid) {
            ensure!(
                begun.elapsed() < END_LIMIT,
                "process {pid} was killed but does not end"
            );
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// The holder's process id, when it is alive and still the one that was started.
fn holder(layout: &Layout) -> Option<u32> {
    let text = fs::read_to_string(layout.holder()).ok()?;
    let (pid, when) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    // Process ids are used again; the time of the start is not.
    (is_alive(pid) && began(pid)?.to_string() == when).then_some(pid)
}

/// The fields of `/proc/PID/stat` after the program's name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// When a process began, in the kernel's ticks since the machine started.
fn began(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// A zombie has ended; whoever started it has just not asked yet.
fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// The one child of the holder: process 1 of the cluster.
fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| stat(*pid).and_then(|fields| fields.get(1)?.parse().ok()) == Some(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = std::process::id();
        assert!(is_alive(me));
        assert!(began(me).is_some());
        assert!(!is_alive(u32::MAX));
    }
}
