//! The launcher of the store and of the engine: [`Machine`] with a socket, signals and a child.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::machine::{Effect, Event, Machine};
use super::memory;
use super::process;
use super::protocol::{Command, Lines, Message, encode};
use super::voice::Voice;

/// How many sidecars may be connected: the one that runs, the one that just
/// crashed, and a person who looks.
const CONNECTIONS: usize = 8;

/// How often the container's memory limit is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// How many commands may wait; more block their sender.
const COMMAND_QUEUE: usize = 16;

/// What survives the end of a launcher, so that counts go on in the next container.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    starts: u64,
    last_exit: String,
}

/// What a connection tells the loop.
enum Received {
    Command(Command),
    Gone,
}

struct Connection {
    id: u64,
    stream: Arc<UnixStream>,
}

impl Connection {
    /// A sidecar that does not read its few lines is as good as gone.
    fn send(&self, message: &Message) -> bool {
        let line = encode(message);
        matches!(self.stream.try_write(&line), Ok(sent) if sent == line.len())
    }
}

/// Which program to launch, and where its socket goes.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The launcher's name, which names its socket.
    pub(crate) name: String,
    /// The directory of launcher sockets.
    pub(crate) sockets: PathBuf,
    /// The program, found by `PATH` when it holds no slash.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// How long a terminating launcher waits for the sidecar's order.
    pub(crate) grace: Duration,
}

struct Launcher {
    options: Options,
    machine: Machine,
    boot: String,
    begun: Instant,
    connections: Vec<Connection>,
    /// Whether the signal that ends the child came from here.
    ordered: bool,
    /// What the program says.
    voice: Option<Voice>,
    exit: bool,
}

/// Runs a launcher until it is terminated and its program has ended.
///
/// # Errors
/// When the socket cannot be made or signals cannot be received.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    // Before anything else, as the sidecar's launcher does.
    let mut children = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    process::adopt_orphans();
    let listener = listen(&options)?;
    let (sender, mut received) = mpsc::channel(COMMAND_QUEUE);
    let record = read_record(&record_path(&options));
    let mut launcher = Launcher {
        machine: Machine::new(
            Duration::ZERO,
            options.grace,
            record.starts,
            record.last_exit,
        ),
        boot: boot_name(),
        begun: Instant::now(),
        connections: Vec::new(),
        ordered: false,
        voice: None,
        exit: false,
        options,
    };
    let mut next_id = 0;
    let mut looks = tokio::time::interval(MEMORY_INTERVAL);
    tracing::info!(launcher = %launcher.options.name, "holding until the sidecar says start");
    while !launcher.exit {
        let deadline = launcher.machine.deadline();
        let due = launcher.begun + deadline.unwrap_or_default();
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                next_id += 1;
                launcher.connected(next_id, stream, &sender);
            },
            Some((id, what)) = received.recv() => match what {
                Received::Command(command) => launcher.handle(Event::Command(command), Some(id)),
                Received::Gone => launcher.disconnected(id),
            },
            _ = looks.tick() => memory::publish(&launcher.options.sockets, &launcher.options.name),
            _ = children.recv() => launcher.reap(),
            _ = terminate.recv() => launcher.handle(Event::Terminate, None),
            _ = interrupt.recv() => launcher.handle(Event::Terminate, None),
            () = tokio::time::sleep_until(due), if deadline.is_some() => {
                launcher.handle(Event::Tick, None);
            }
        }
    }
    tracing::info!(launcher = %launcher.options.name, "ended");
    Ok(())
}

impl Launcher {
    fn handle(&mut self, event: Event, asker: Option<u64>) {
        let effects = self.machine.handle(self.begun.elapsed(), event);
        for effect in effects {
            self.perform(effect, asker);
        }
    }

    fn perform(&mut self, effect: Effect, asker: Option<u64>) {
        match effect {
            Effect::Spawn => self.spawn(),
            Effect::Term { pid } => {
                self.ordered = true;
                process::terminate(pid);
            }
            Effect::Kill { pid } => process::kill(pid),
            Effect::Push(message) => {
                tracing::info!(launcher = %self.options.name, ?message, "told");
                self.send(&message, None);
            }
            Effect::Reply(message) => self.send(&message, asker),
            Effect::Exit => self.exit = true,
        }
    }

    fn spawn(&mut self) {
        self.ordered = false;
        self.voice = None;
        let event = match process::spawn_heard(&self.options.program, &self.options.args) {
            Ok((pid, voice)) => {
                self.voice = Some(voice);
                Event::Spawned {
                    pid,
                    incarnation: format!("{}-{}", self.boot, self.machine.status().starts + 1),
                }
            }
            Err(error) => Event::SpawnFailed {
                why: format!("cannot start {}: {error}", self.options.program.display()),
            },
        };
        self.handle(event, None);
        self.save();
    }

    fn reap(&mut self) {
        let pid = self.machine.status().running.map(|running| running.pid);
        if let Some(exit) = process::reap(pid) {
            // What the program left behind must not touch the data any more.
            pid.into_iter().for_each(process::kill);
            let mut how = exit.words(self.ordered);
            let words = self.voice.take().and_then(|voice| voice.last_words());
            if let Some(words) = words.filter(|_| !self.ordered) {
                how = format!("{how}: {words}");
            }
            self.handle(Event::Exited { how }, None);
            self.save();
        }
    }

    fn connected(&mut self, id: u64, stream: UnixStream, sender: &mpsc::Sender<(u64, Received)>) {
        if self.connections.len() >= CONNECTIONS {
            return;
        }
        let stream = Arc::new(stream);
        self.connections.push(Connection {
            id,
            stream: stream.clone(),
        });
        tokio::spawn(receive(id, stream, sender.clone()));
        self.handle(Event::Connected, Some(id));
    }

    fn disconnected(&mut self, id: u64) {
        let before = self.connections.len();
        self.connections.retain(|connection| connection.id != id);
        for _ in self.connections.len()..before {
            self.handle(Event::Disconnected, None);
        }
    }

    fn send(&mut self, message: &Message, only: Option<u64>) {
        let lost: Vec<u64> = self
            .connections
            .iter()
            .filter(|connection| only.is_none_or(|id| id == connection.id))
            .filter(|connection| !connection.send(message))
            .map(|connection| connection.id)
            .collect();
        for id in lost {
            self.disconnected(id);
        }
    }

    fn save(&self) {
        let status = self.machine.status();
        let record = Record {
            starts: status.starts,
            last_exit: status.last_exit,
        };
        // Only the counts are at stake: a launcher never fails for their sake.
        if let Err(error) = fs::write(record_path(&self.options), encode(&record)) {
            tracing::warn!(%error, "the launcher's counts were not saved");
        }
    }
}

async fn receive(id: u64, stream: Arc<UnixStream>, sender: mpsc::Sender<(u64, Received)>) {
    let mut lines = Lines::default();
    let mut buffer = [0; 1024];
    'connection: while stream.readable().await.is_ok() {
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => lines.extend(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(_) => break 'connection,
            };
            let Ok(command) = serde_json::from_slice(&line) else {
                break 'connection;
            };
            if sender.send((id, Received::Command(command))).await.is_err() {
                break 'connection;
            }
        }
    }
    let _ = sender.send((id, Received::Gone)).await;
}

/// The socket of the launcher `name`.
pub(super) fn socket_path(sockets: &Path, name: &str) -> PathBuf {
    sockets.join(format!("{name}.sock"))
}

fn record_path(options: &Options) -> PathBuf {
    options.sockets.join(format!("{}.json", options.name))
}

fn read_record(path: &Path) -> Record {
    fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Binds beside the final name and renames, so that the socket of an earlier
/// launcher is replaced at once and is never missing.
fn listen(options: &Options) -> anyhow::Result<UnixListener> {
    let path = socket_path(&options.sockets, &options.name);
    make_private_dir(&options.sockets)?;
    let fresh = options
        .sockets
        .join(format!(".{}.{}.sock", options.name, std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)
        .with_context(|| format!("cannot listen on {}", fresh.display()))?;
    fs::rename(&fresh, &path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(listener)
}

/// Makes a directory that only this user can enter.
pub(super) fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot close {} to other users", path.display()))
}

/// A name no other launcher of this pod has had: when it began, in nanoseconds.
fn boot_name() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}", since.as_nanos())
}
