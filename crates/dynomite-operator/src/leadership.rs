//! The right to write: valid for a while after each renewal of the lease, and checked before every write.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// No write is allowed now: another operator may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this operator does not lead now")]
pub struct NotLeader;

/// A handle on the right to write; all handles share it.
#[derive(Clone)]
pub struct Leadership {
    until: Arc<Mutex<Term>>,
    changed: Arc<watch::Sender<bool>>,
}

#[derive(Clone, Copy)]
enum Term {
    None,
    Until(Instant),
    /// Leader election is off: this is the only operator.
    Unlimited,
}

impl Leadership {
    /// Nobody leads until [`extend`](Self::extend) is called.
    pub fn absent() -> Self {
        Self::with(Term::None)
    }

    /// For an operator that runs without election.
    pub fn unlimited() -> Self {
        Self::with(Term::Unlimited)
    }

    fn with(term: Term) -> Self {
        let leads = !matches!(term, Term::None);
        Self {
            until: Arc::new(Mutex::new(term)),
            changed: Arc::new(watch::Sender::new(leads)),
        }
    }

    /// Leads until `validity` after `asked_at`, the moment the renewal was sent.
    ///
    /// The lease itself runs longer: the difference is what a write may take
    /// that was checked at the last moment.
    pub fn extend(&self, asked_at: Instant, validity: Duration) {
        let lapsed = self.check().is_err();
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) =
            Term::Until(asked_at + validity);
        // Whoever was refused while the term had run out waits to be told.
        if lapsed {
            self.changed.send_replace(true);
        }
    }

    /// Leads no longer.
    pub fn end(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Term::None;
        self.changed
            .send_if_modified(|leads| std::mem::replace(leads, false));
    }

    /// Whether a write may be sent now.
    pub fn check(&self) -> Result<(), NotLeader> {
        match *self.until.lock().unwrap_or_else(PoisonError::into_inner) {
            Term::Unlimited => Ok(()),
            Term::Until(until) if Instant::now() < until => Ok(()),
            Term::Until(_) | Term::None => Err(NotLeader),
        }
    }

    /// Follows whether the lease is held. A term that ran out and was renewed
    /// is told too, although it reads `true` before and after.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_right_to_write_ends_by_itself() {
        let leadership = Leadership::absent();
        assert_eq!(leadership.check(), Err(NotLeader));
        leadership.extend(Instant::now(), Duration::from_secs(10));
        assert_eq!(leadership.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(leadership.check(), Err(NotLeader));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_asked_for() {
        let leadership = Leadership::absent();
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(9)).await;
        leadership.extend(asked, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(leadership.check(), Err(NotLeader));
        leadership.end();
        assert!(!*leadership.follow().borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_that_ran_out_and_was_renewed_is_told() {
        let leadership = Leadership::absent();
        let mut follower = leadership.follow();
        let validity = Duration::from_secs(10);
        leadership.extend(Instant::now(), validity);
        assert!(*follower.borrow_and_update());
        tokio::time::advance(validity / 2).await;
        leadership.extend(Instant::now(), validity);
        assert!(!follower.has_changed().expect("the sender lives"));
        tokio::time::advance(validity).await;
        leadership.extend(Instant::now(), validity);
        assert!(follower.has_changed().expect("the sender lives"));
    }
}
