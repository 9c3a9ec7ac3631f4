//! Runs the cluster's components as children: a log for each, a new start for what ends unasked.
//!
//! ```text
//!            start            ends unasked, cluster up
//! (unknown) ------> Running ---------------------------> Waiting --RESTART_AFTER--> Running
//!                     |  ends unasked, cluster starting
//!                     |------------------------------> Failed (the start is given up)
//!                     | stop              start
//!                     '------> Stopped ----------> Running
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cgroups::Hierarchies;

/// Between two looks at the children.
const LOOK: Duration = Duration::from_millis(100);
/// Before a component that ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How much of a log's end is looked at, and how many of its lines are shown.
const TAIL_BYTES: u64 = 8 * 1024;
const TAIL_LINES: usize = 12;

/// How a component is started.
#[derive(Clone, Debug)]
pub(super) struct Component {
    /// Its name, and its log's.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// The program's arguments.
    pub(super) arguments: Vec<String>,
    /// The network namespace it runs in, when not the cluster's own.
    pub(super) network: Option<PathBuf>,
    /// A directory that the program has hard-wired and that it must not share with its like: it
    /// sees an empty one of its own. Its other mounts are everyone's.
    pub(super) own_directory: Option<&'static str>,
    /// The control group it belongs to.
    pub(super) group: String,
}

/// What a component is doing.
enum Phase {
    Running(Child),
    Waiting { since: Instant },
    Stopped,
    Failed(ExitStatus),
}

struct Entry {
    component: Component,
    phase: Phase,
}

struct Inner {
    entries: Vec<Entry>,
    /// While the cluster starts, a component that ends is an error, not something to heal.
    starting: bool,
}

/// The components of one cluster.
#[derive(Clone)]
pub(super) struct Supervisor {
    logs: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

impl Supervisor {
    /// Watches over components whose logs go to `logs`.
    pub(super) fn new(logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs)?;
        let supervisor = Self {
            logs: logs.to_owned(),
            inner: Arc::new(Mutex::new(Inner {
                entries: Vec::new(),
                starting: true,
            })),
        };
        let watcher = supervisor.clone();
        thread::spawn(move || {
            loop {
                watcher.look();
                thread::sleep(LOOK);
            }
        });
        Ok(supervisor)
    }

    /// From now on components that end are started again.
    pub(super) fn started(&self) {
        self.lock().starting = false;
    }

    /// Starts a component; one of the same name must have been stopped.
    pub(super) fn start(&self, component: Component) -> Result<()> {
        let mut inner = self.lock();
        let name = component.name.clone();
        let known = inner
            .entries
            .iter()
            .position(|entry| entry.component.name == name);
        if let Some(position) = known {
            if matches!(inner.entries[position].phase, Phase::Running(_)) {
                return Ok(());
            }
            inner.entries.remove(position);
        }
        let child = self.spawn(&component)?;
        inner.entries.push(Entry {
            component,
            phase: Phase::Running(child),
        });
        Ok(())
    }

    /// Starts a stopped component as it was started before.
    pub(super) fn start_again(&self, name: &str) -> Result<()> {
        let component = self.component(name)?;
        self.start(component)
    }

    /// Kills a component and leaves it so.
    pub(super) fn stop(&self, name: &str) -> Result<()> {
        self.component(name)?;
        self.stop_where(|entry| entry == name)
    }

    /// Kills all components whose names match and leaves them so.
    pub(super) fn stop_where(&self, matches: impl Fn(&str) -> bool) -> Result<()> {
        let mut inner = self.lock();
        for entry in &mut inner.entries {
            if !matches(&entry.component.name) {
                continue;
            }
            if let Phase::Running(child) = &mut entry.phase {
                child.kill()?;
                child.wait()?;
            }
            entry.phase = Phase::Stopped;
        }
        Ok(())
    }

    /// Fails when a component ended while the cluster starts, with the end of its log.
    pub(super) fn check(&self) -> Result<()> {
        let inner = self.lock();
        for entry in &inner.entries {
            if let Phase::Failed(status) = entry.phase {
                let log = self.log(&entry.component.name);
                bail!(
                    "{} ended ({status}); the end of {}:\n{}",
                    entry.component.name,
                    log.display(),
                    tail(&log)
                );
            }
        }
        Ok(())
    }

    /// One line per component: its name and what it is doing.
    pub(super) fn report(&self) -> String {
        let inner = self.lock();
        let mut lines: Vec<_> = inner
            .entries
            .iter()
            .map(|entry| {
                let phase = match &entry.phase {
                    Phase::Running(_) => "running".to_owned(),
                    Phase::Waiting { .. } => "ended, starting again".to_owned(),
                    Phase::Stopped => "stopped".to_owned(),
                    Phase::Failed(status) => format!("failed ({status})"),
                };
                format!("{}\t{phase}", entry.component.name)
            })
            .collect();
        lines.sort();
        lines.join("\n")
    }

    fn component(&self, name: &str) -> Result<Component> {
        let inner = self.lock();
        inner
            .entries
            .iter()
            .find(|entry| entry.component.name == name)
            .map(|entry| entry.component.clone())
            .with_context(|| {
                let names: Vec<_> = inner
                    .entries
                    .iter()
                    .map(|entry| entry.component.name.as_str())
                    .collect();
                format!(
                    "there is no component {name}; there are {}",
                    names.join(", ")
                )
            })
    }

    fn look(&self) {
        let mut inner = self.lock();
        let starting = inner.starting;
        for entry in &mut inner.entries {
            match &mut entry.phase {
                Phase::Running(child) => {
                    if let Ok(Some(status)) = child.try_wait() {
                        eprintln!("{} ended: {status}", entry.component.name);
                        entry.phase = if starting {
                            Phase::Failed(status)
                        } else {
                            Phase::Waiting {
                                since: Instant::now(),
                            }
                        };
                    }
                }
                Phase::Waiting { since } if since.elapsed() > RESTART_AFTER => {
                    match self.spawn(&entry.component) {
                        Ok(child) => entry.phase = Phase::Running(child),
                        Err(error) => {
                            eprintln!("{error:#}");
                            *since = Instant::now();
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn spawn(&self, component: &Component) -> Result<Child> {
        let path = self.log(&component.name);
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut words: Vec<OsString> = Vec::new();
        if let Some(network) = &component.network {
            words.push("nsenter".into());
            words.push(format!("--net={}", network.display()).into());
        }
        if let Some(directory) = component.own_directory {
            // Private first: a mount on a shared one would appear everywhere.
            let script = format!(
                "mount --make-private {directory} && mount -t tmpfs tmpfs {directory} && exec \"$0\" \"$@\""
            );
            let unshare = [
                "unshare",
                "--mount",
                "--propagation",
                "unchanged",
                "sh",
                "-c",
            ];
            words.extend(unshare.map(OsString::from));
            words.push(script.into());
        }
        words.push(component.program.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let child = command
            .args(&component.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", component.name))?;
        Hierarchies::find()?.enter(&component.group, child.id())?;
        Ok(child)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last lines of a log.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
