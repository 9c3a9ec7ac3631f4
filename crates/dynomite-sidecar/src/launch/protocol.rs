//! The lines that a launcher and the sidecar exchange: one JSON object each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest line either side accepts, in bytes; a longer one ends the connection.
pub(crate) const LINE_LIMIT: usize = 4096;

/// What the sidecar asks of a launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Command {
    /// Start the program, unless it runs.
    Start,
    /// SIGTERM, and SIGKILL when it has not ended after the grace.
    Stop {
        /// Milliseconds between the two signals.
        grace_ms: u64,
    },
    /// Say how things are; answered by [`Message::Status`].
    Status,
}

impl Command {
    /// A stop with this grace; fractions of a millisecond are dropped.
    pub(crate) fn stop(grace: Duration) -> Self {
        Self::Stop {
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What a launcher tells the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Message {
    /// How things are: the first line of every connection, and the answer to
    /// [`Command::Status`].
    Status(Status),
    /// The program runs.
    Started {
        /// Its process id in the launcher's container.
        pid: i32,
        /// Another one is another run of the program; never used twice in a pod.
        incarnation: String,
        /// How often it has been started in this pod, this time included.
        starts: u64,
    },
    /// The program has ended, or could not be started.
    Exited {
        /// How, in words.
        how: String,
    },
    /// The container is to end; the launcher holds its program until told to stop it.
    Terminating,
    /// A command that was not obeyed.
    Refused {
        /// Why, and what to do instead.
        why: String,
    },
}

/// How a launcher's program is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The process id and the incarnation, while it runs.
    pub(crate) running: Option<Running>,
    /// How often it has been started in this pod.
    pub(crate) starts: u64,
    /// How it last ended, in words; empty when it never did.
    pub(crate) last_exit: String,
    /// Whether the container is to end.
    pub(crate) terminating: bool,
}

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its process id in the launcher's container.
    pub(crate) pid: i32,
    /// Another one is another run of the program.
    pub(crate) incarnation: String,
}

/// One line, newline included.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // These types hold nothing that JSON cannot say.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Collects bytes and hands out whole lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
}

/// The other side sent a line above [`LINE_LIMIT`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {LINE_LIMIT} bytes")]
pub(crate) struct LineTooLong;

impl Lines {
    /// Takes in what was received.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its newline, if one has arrived.
    ///
    /// # Errors
    /// [`LineTooLong`] when more than [`LINE_LIMIT`] bytes hold no newline.
    pub(crate) fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        match self.buffer.iter().position(|&byte| byte == b'\n') {
            Some(end) if end <= LINE_LIMIT => {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                Ok(Some(line))
            }
            None if self.buffer.len() <= LINE_LIMIT => Ok(None),
            _ => Err(LineTooLong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_are_cut() {
        let sent = [
            encode(&Command::Start),
            encode(&Command::stop(Duration::from_millis(1500))),
            encode(&Command::Status),
        ]
        .concat();
        for cut in 0..=sent.len() {
            let mut lines = Lines::default();
            let mut got: Vec<Command> = Vec::new();
            for part in [&sent[..cut], &sent[cut..]] {
                lines.extend(part);
                while let Some(line) = lines.next_line().unwrap() {
                    got.push(serde_json::from_slice(&line).unwrap());
                }
            }
            let want = [
                Command::Start,
                Command::Stop { grace_ms: 1500 },
                Command::Status,
            ];
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        lines.extend(&[b'x'; LINE_LIMIT]);
        assert_eq!(lines.next_line(), Ok(None));
        lines.extend(b"xx\n");
        assert_eq!(lines.next_line(), Err(LineTooLong));
    }

    #[test]
    fn messages_survive_the_wire() {
        let messages = [
            Message::Status(Status {
                running: Some(Running {
                    pid: 7,
                    incarnation: "a-1".into(),
                }),
                starts: 1,
                last_exit: "exit \"status\"\n1".into(),
                terminating: true,
            }),
            Message::Exited { how: "x".into() },
            Message::Terminating,
        ];
        for message in messages {
            let line = encode(&message);
            assert_eq!(
                line.iter().position(|&byte| byte == b'\n'),
                Some(line.len() - 1)
            );
            assert_eq!(serde_json::from_slice::<Message>(&line).unwrap(), message);
        }
    }
}
