//! The sidecar's end of a launcher's socket: connects, connects again, passes on what it hears.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynomite_lifecycle::{ProcessEvent, ProcessName};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::protocol::{Command, Lines, Message, encode};
use crate::shared::Input;

/// Between two attempts to reach a launcher that is not there.
const RETRY: Duration = Duration::from_millis(100);

/// How many orders may wait for a launcher that does not read.
const COMMAND_QUEUE: usize = 16;

/// Speaks to one launcher for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    process: ProcessName,
    commands: mpsc::Sender<Command>,
}

impl Client {
    /// Connects in the background, whenever the launcher is there, and sends
    /// what it says into `inputs`; ends with the receiver of `inputs` or with
    /// the last clone of the client.
    pub(crate) fn spawn(
        process: ProcessName,
        socket: PathBuf,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let (commands, orders) = mpsc::channel(COMMAND_QUEUE);
        let link = Link { process, inputs };
        tokio::spawn(link.run(socket, orders));
        Self { process, commands }
    }

    /// Orders the start. An order that finds no launcher is dropped: the
    /// launcher's next `LauncherUp` is the moment to give it again.
    pub(crate) fn start(&self) {
        self.order(Command::Start);
    }

    /// Orders the stop: SIGTERM now, SIGKILL after `grace`.
    pub(crate) fn stop(&self, grace: Duration) {
        self.order(Command::stop(grace));
    }

    fn order(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::warn!(process = self.process.name(), %error, "the launcher got no order");
        }
    }
}

/// Why a connection to a launcher is over.
enum Over {
    /// The launcher is gone; another may come.
    Lost,
    /// The driver or the client is gone.
    Done,
}

struct Link {
    process: ProcessName,
    inputs: mpsc::Sender<Input>,
}

impl Link {
    async fn run(self, socket: PathBuf, mut orders: mpsc::Receiver<Command>) {
        loop {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                // These were meant for a launcher that is gone.
                while orders.try_recv().is_ok() {}
                match self.converse(stream, &mut orders).await {
                    Ok(Over::Done) => return,
                    Ok(Over::Lost) => {}
                    Err(error) => self.warn(&socket, &error),
                }
                if !self.tell(ProcessEvent::LauncherGone).await {
                    return;
                }
            }
            if self.inputs.is_closed() || (orders.is_closed() && orders.is_empty()) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn warn(&self, socket: &Path, error: &io::Error) {
        let process = self.process.name();
        tracing::warn!(process, socket = %socket.display(), %error, "lost the launcher");
    }

    async fn converse(
        &self,
        mut stream: UnixStream,
        orders: &mut mpsc::Receiver<Command>,
    ) -> io::Result<Over> {
        let mut lines = Lines::default();
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                readable = stream.readable() => {
                    readable?;
                    match stream.try_read(&mut buffer) {
                        Ok(0) => return Ok(Over::Lost),
                        Ok(count) => lines.extend(&buffer[..count]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    }
                    while let Some(line) = lines.next_line().map_err(io::Error::other)? {
                        let message = serde_json::from_slice(&line)?;
                        if !self.pass_on(message).await {
                            return Ok(Over::Done);
                        }
                    }
                }
                order = orders.recv() => match order {
                    Some(order) => stream.write_all(&encode(&order)).await?,
                    None => return Ok(Over::Done),
                },
            }
        }
    }

    async fn pass_on(&self, message: Message) -> bool {
        let events = match message {
            Message::Status(status) => {
                let running = status.running.is_some();
                let started = status.running.map(|running| ProcessEvent::Started {
                    pid: running.pid.unsigned_abs(),
                    incarnation: running.incarnation,
                    starts: status.starts,
                });
                let terminating = status.terminating.then_some(ProcessEvent::Terminating);
                [
                    Some(ProcessEvent::LauncherUp { running }),
                    started,
                    terminating,
                ]
            }
            Message::Started {
                pid,
                incarnation,
                starts,
            } => {
                let pid = pid.unsigned_abs();
                let started = ProcessEvent::Started {
                    pid,
                    incarnation,
                    starts,
                };
                [Some(started), None, None]
            }
            Message::Exited { how } => [Some(ProcessEvent::Exited { how }), None, None],
            Message::Terminating => [Some(ProcessEvent::Terminating), None, None],
            Message::Refused { why } => {
                tracing::warn!(process = self.process.name(), why, "the launcher refused");
                [None, None, None]
            }
        };
        for event in events.into_iter().flatten() {
            if !self.tell(event).await {
                return false;
            }
        }
        true
    }

    /// False when the driver is gone.
    async fn tell(&self, event: ProcessEvent) -> bool {
        self.inputs
            .send(Input::Process(self.process, event))
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    use super::*;
    use crate::launch::protocol::{Running, Status};

    async fn next(inputs: &mut mpsc::Receiver<Input>) -> ProcessEvent {
        match inputs.recv().await {
            Some(Input::Process(ProcessName::Store, event)) => event,
            other => panic!("unexpected {other:?}"),
        }
    }

    fn started(incarnation: &str) -> ProcessEvent {
        ProcessEvent::Started {
            pid: 7,
            incarnation: incarnation.to_owned(),
            starts: 1,
        }
    }

    fn status(incarnation: Option<&str>) -> Vec<u8> {
        let running = incarnation.map(|incarnation| Running {
            pid: 7,
            incarnation: incarnation.to_owned(),
        });
        encode(&Message::Status(Status {
            running,
            starts: 1,
            ..Status::default()
        }))
    }

    #[tokio::test]
    async fn it_finds_a_launcher_that_comes_late_and_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("store.sock");
        let (sender, mut inputs) = mpsc::channel(16);
        let client = Client::spawn(ProcessName::Store, socket.clone(), sender);
        // Given to nobody, so it must not reach the launcher that comes.
        client.stop(Duration::ZERO);

        let listener = UnixListener::bind(&socket).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut launcher = BufReader::new(stream);
        launcher.write_all(&status(None)).await.unwrap();
        let up = ProcessEvent::LauncherUp { running: false };
        assert_eq!(next(&mut inputs).await, up);
        client.start();
        let mut line = String::new();
        launcher.read_line(&mut line).await.unwrap();
        assert_eq!(line, "{\"command\":\"start\"}\n");
        drop(launcher);
        assert_eq!(next(&mut inputs).await, ProcessEvent::LauncherGone);

        let (mut launcher, _) = listener.accept().await.unwrap();
        let line = status(Some("a-1"));
        for byte in line {
            launcher.write_all(&[byte]).await.unwrap();
        }
        let up = ProcessEvent::LauncherUp { running: true };
        assert_eq!(next(&mut inputs).await, up);
        assert_eq!(next(&mut inputs).await, started("a-1"));
        launcher
            .write_all(&encode(&Message::Terminating))
            .await
            .unwrap();
        assert_eq!(next(&mut inputs).await, ProcessEvent::Terminating);
        // Not a message: whoever speaks so is no launcher.
        launcher.write_all(b"nonsense\n").await.unwrap();
        assert_eq!(next(&mut inputs).await, ProcessEvent::LauncherGone);
    }
}
