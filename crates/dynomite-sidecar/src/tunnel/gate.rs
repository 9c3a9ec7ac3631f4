//! How far the donor's stream is let through: everything, or up to one byte and no further.
//!
//! What a store has been given cannot be taken back, so a limit holds for every
//! connection from the moment it is set, and the next connection finds it too: a
//! store whose link breaks during a cut connects again by itself.

use std::sync::Arc;

use tokio::sync::watch;

use super::primary::Play;

/// A place in a replication history.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    history: String,
    offset: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The connection that carries the stream now, and how much of the stream
    /// it has been allowed to pass on.
    stream: Option<(u64, Place)>,
    limit: Option<Place>,
    connections: u64,
    copied: Copied,
}

/// How much of the first copy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes.
    pub(crate) done: u64,
    /// Bytes in all, where the donor knows it beforehand.
    pub(crate) total: Option<u64>,
}

/// The gate through which donors' streams come; there is one in each sidecar.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: watch::Sender<State>,
    play: watch::Sender<Option<Arc<Play>>>,
}

impl Gate {
    /// From now on the store is given this instead of a donor's stream; or a
    /// donor's again. What it was being given ends.
    pub(crate) fn plays(&self, play: Option<Arc<Play>>) {
        self.play.send_if_modified(|now| {
            let differs = play.is_some() || now.is_some();
            *now = play;
            differs
        });
    }

    /// What the store is given instead of a donor's stream, and changes of that.
    pub(super) fn playing(&self) -> watch::Receiver<Option<Arc<Play>>> {
        self.play.subscribe()
    }

    /// Lets nothing more through, from where the stream is now.
    ///
    /// # Errors
    /// When there is no stream.
    pub(crate) fn pause(&self) -> Result<(), String> {
        let mut outcome = Err("no stream comes from the donor".to_owned());
        self.state.send_modify(|state| {
            if let Some((_, place)) = &state.stream {
                state.limit = Some(place.clone());
                outcome = Ok(());
            }
        });
        outcome
    }

    /// Lets everything through again.
    pub(crate) fn open(&self) {
        self.state.send_modify(|state| state.limit = None);
    }

    /// Lets the paused stream through up to an offset; returns when the last
    /// byte before it goes to the store.
    ///
    /// # Errors
    /// In words: when the stream is not paused, is of another history, is past
    /// that offset already, or breaks off.
    pub(crate) async fn let_through(&self, history: &str, offset: u64) -> Result<(), String> {
        let mut seen = self.state.subscribe();
        let mut outcome = Ok(());
        self.state.send_modify(|state| {
            outcome = state.extend(history, offset);
        });
        outcome?;
        let reached = |state: &State| {
            let place = state.stream.as_ref().map(|(_, place)| place.offset);
            state.limit.is_none() || place.is_none_or(|at| at >= offset)
        };
        let state = seen.wait_for(reached).await;
        match state.as_ref().map(|state| (&state.stream, &state.limit)) {
            Ok((Some(_), Some(_))) => Ok(()),
            _ => Err("the stream broke off before it reached the cut".to_owned()),
        }
    }

    /// How much of the first copy has come over the newest connection.
    pub(crate) fn copied(&self) -> Copied {
        self.state.borrow().copied
    }

    /// A connection that may carry a stream.
    pub(super) fn connect(&self) -> Passage<'_> {
        let mut id = 0;
        self.state.send_modify(|state| {
            state.connections += 1;
            id = state.connections;
        });
        Passage { gate: self, id }
    }
}

impl State {
    fn extend(&mut self, history: &str, offset: u64) -> Result<(), String> {
        let Some((_, place)) = &self.stream else {
            return Err("no stream comes from the donor".to_owned());
        };
        if self.limit.is_none() {
            return Err("the stream is not paused".to_owned());
        }
        if place.history != history {
            let (is, want) = (&place.history, history);
            return Err(format!(
                "the stream is of the history {is}, the cut of {want}"
            ));
        }
        if place.offset > offset {
            let at = place.offset;
            return Err(format!(
                "the stream is at {at} already, past the cut at {offset}"
            ));
        }
        self.limit = Some(Place {
            history: history.to_owned(),
            offset,
        });
        Ok(())
    }
}

/// One connection through the gate.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    gate: &'a Gate,
    id: u64,
}

impl Passage<'_> {
    /// A whole copy begins.
    ///
    /// # Errors
    /// When the stream is held: the store would be given what lies beyond.
    pub(super) fn begins(&self, history: &str, offset: u64) -> Result<(), &'static str> {
        let mut outcome = Ok(());
        self.gate.state.send_modify(|state| {
            if state.limit.is_some() {
                outcome = Err("a whole copy would begin in the middle of the cut");
                return;
            }
            state.copied = Copied::default();
            state.stream = Some((self.id, place(history, offset)));
        });
        outcome
    }

    /// An earlier copy goes on.
    ///
    /// # Errors
    /// When it goes on from beyond where it is held.
    pub(super) fn goes_on(&self, history: &str, offset: u64) -> Result<(), &'static str> {
        let mut outcome = Ok(());
        self.gate.state.send_modify(|state| {
            let limit = state.limit.as_ref();
            if limit.is_some_and(|limit| limit.history != history || limit.offset < offset) {
                outcome = Err("the stream would go on from beyond the cut");
                return;
            }
            state.stream = Some((self.id, place(history, offset)));
        });
        outcome
    }

    /// The length of the copy, where the donor says it.
    pub(super) fn copy_has(&self, total: Option<u64>) {
        self.gate
            .state
            .send_modify(|state| state.copied.total = total);
    }

    /// Some of the copy goes to the store.
    pub(super) fn copied(&self, bytes: u64) {
        self.gate.state.send_if_modified(|state| {
            state.copied.done += bytes;
            // Nobody waits for this.
            false
        });
    }

    /// How many of the `length` bytes of the stream that come next may go to
    /// the store: those count as gone. Waits until it is at least one.
    ///
    /// # Errors
    /// When another connection carries the stream now.
    pub(super) async fn claim(&self, length: usize) -> Result<usize, &'static str> {
        let mut seen = self.gate.state.subscribe();
        loop {
            seen.mark_unchanged();
            let mut claimed = Ok(0);
            self.gate.state.send_if_modified(|state| {
                claimed = state.claim(self.id, length);
                state.limit.is_some() && claimed.is_ok_and(|count| count > 0)
            });
            match claimed {
                Ok(0) => {}
                outcome => return outcome,
            }
            if seen.changed().await.is_err() {
                return Err("the gate is gone");
            }
        }
    }
}

impl State {
    fn claim(&mut self, id: u64, length: usize) -> Result<usize, &'static str> {
        let Some((_, place)) = self.stream.as_mut().filter(|(carrier, _)| *carrier == id) else {
            return Err("another connection carries the stream now");
        };
        let free = match &self.limit {
            None => u64::MAX,
            Some(limit) => limit.offset.saturating_sub(place.offset),
        };
        let count = usize::try_from(free).map_or(length, |free| free.min(length));
        place.offset += count as u64;
        Ok(count)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.gate.state.send_if_modified(|state| {
            let ends = state.stream.as_ref().is_some_and(|(id, _)| *id == self.id);
            if ends {
                state.stream = None;
            }
            ends
        });
    }
}

fn place(history: &str, offset: u64) -> Place {
    Place {
        history: history.to_owned(),
        offset,
    }
}
