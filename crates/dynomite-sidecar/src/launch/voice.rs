//! What a program says: passed on to the launcher's own output, and its last lines kept for when it ends.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dynomite_lifecycle::{shows_bad_line, spoils_files};

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
    /// spoilt files, else the last, after the line of its file that it could not read.
    pub(super) fn last_words(&self) -> Option<String> {
        let (said, changed) = &*self.said;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, _) = changed
            .wait_timeout_while(said, LAST_WORDS, |said| !said.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(telling) = said.lines.iter().find(|line| spoils_files(line)) {
            return Some(telling.clone());
        }
        let last = said.lines.back()?;
        let bad = said.lines.iter().find(|line| shows_bad_line(line));
        Some(match bad.filter(|bad| *bad != last) {
            Some(bad) => format!("{bad} {last}"),
            None => last.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn last_words_of(said: &str) -> Option<String> {
        let (voice, mut mouth) = Voice::listen().expect("a pipe");
        mouth.write_all(said.as_bytes()).expect("it is read");
        drop(mouth);
        voice.last_words()
    }

    #[test]
    fn the_line_that_a_store_cannot_read_is_among_its_last_words() {
        let said = "\n*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\n\
                    Reading the configuration file, at line 18\n\
                    >>> 'maxmemory-polcy allkeys-lru'\n\
                    Bad directive or wrong number of arguments\n";
        assert_eq!(
            last_words_of(said).as_deref(),
            Some(">>> 'maxmemory-polcy allkeys-lru' Bad directive or wrong number of arguments")
        );
        assert_eq!(last_words_of("one\ntwo\n").as_deref(), Some("two"));
        assert_eq!(last_words_of(">>> 'alone'").as_deref(), Some(">>> 'alone'"));
        assert_eq!(last_words_of(""), None);
    }
}
