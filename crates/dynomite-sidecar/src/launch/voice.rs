//! What a program says: passed on to the launcher's own output, and its last lines kept for when it ends.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dynomite_lifecycle::spoils_files;

/// How many of the last lines are kept.
const LINES: usize = 64;

/// How much of a line is kept, bytes.
const LINE_LENGTH: usize = 300;

/// How long a program that has ended may leave its last words in the pipe;
/// something that it started may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    ended: bool,
}

/// The output of one run of a program.
#[derive(Clone, Debug, Default)]
pub(super) struct Voice {
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Voice {
    /// Listens to a program that writes into the pipe that is returned; its
    /// lines go on to this process' output.
    ///
    /// # Errors
    /// When there can be no pipe or no thread.
    pub(super) fn listen() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let voice = Self::default();
        let listener = voice.clone();
        std::thread::Builder::new()
            .name("voice".to_owned())
            .spawn(move || listener.pass_on(reader))?;
        Ok((voice, writer))
    }

    fn pass_on(&self, reader: PipeReader) {
        let (said, changed) = &*self.said;
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            // Nobody reading the container's log is no reason to stop the program.
            let _ = io::stdout().write_all(&line);
            let _ = io::stdout().flush();
            let text = String::from_utf8_lossy(&line[..line.len().min(LINE_LENGTH)]);
            if text.trim().is_empty() {
                continue;
            }
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.lines.len() == LINES {
                said.lines.pop_front();
            }
            said.lines.push_back(text.trim().to_owned());
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.ended = true;
        changed.notify_all();
    }

    /// The line that tells why the program ended, once it has: one that names
    /// spoilt files, else the last.
    pub(super) fn last_words(&self) -> Option<String> {
        let (said, changed) = &*self.said;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, _) = changed
            .wait_timeout_while(said, LAST_WORDS, |said| !said.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let telling = said.lines.iter().find(|line| spoils_files(line));
        telling.or(said.lines.back()).cloned()
    }
}
