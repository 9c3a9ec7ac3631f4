//! Numbered writes: which number comes next for each token, and what arrived here of whom.
//!
//! ```text
//!  as coordinator   given[token]: 41 ──▶ the write gets 42; kept when at least one node took it
//!  as replica       source: last 41   ──▶ 42 arrives    41 or less: late, refused    44: 42-43 missing
//! ```
//!
//! A source belongs to the newest connection its coordinator has introduced itself on. While the
//! node captures (`WRITES_ONLY`), a source also says from which number on nothing is missing here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dynomite_protocol::received::{MAX_SOURCES, Received, SOURCE_KEPT, Source};
use dynomite_protocol::token::Token;
use slotmap::SlotMap;

use crate::output::SessionId;

slotmap::new_key_type! {
    /// A coordinator whose writes arrive here; the own engine is one too.
    pub(crate) struct SourceId;
}

/// A write's number, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) source: SourceId,
    pub(crate) number: u64,
}

/// Since when a coordinator has had no connection to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Closed {
    at: Duration,
    /// How long it had been closed before, as the donor of this knowledge said.
    before: Duration,
}

impl Closed {
    fn age(self, now: Duration) -> Duration {
        self.before + now.saturating_sub(self.at)
    }
}

/// What is known about one coordinator.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    source: Source,
    /// Where it introduced itself last; nothing for the own engine.
    session: Option<SessionId>,
    closed: Option<Closed>,
    /// From this number on, everything has been captured.
    captured_from: Option<u64>,
}

/// Whether what is held back can follow a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    /// The state is not `WRITES_ONLY`.
    Off,
    /// Every write is held since the state began.
    On,
    /// Some were refused meanwhile.
    Void,
}

/// The numbers given here, and those received.
#[derive(Debug)]
pub(crate) struct Numbers {
    given: BTreeMap<Token, u64>,
    sources: SlotMap<SourceId, Known>,
    by_name: HashMap<Arc<str>, SourceId>,
    own: SourceId,
    pub(crate) capture: Capture,
}

impl Numbers {
    pub(crate) fn new(incarnation: &str) -> Self {
        let mut numbers = Self {
            given: BTreeMap::new(),
            sources: SlotMap::with_key(),
            by_name: HashMap::new(),
            own: SourceId::default(),
            capture: Capture::Off,
        };
        numbers.own = numbers.insert(incarnation);
        numbers
    }

    fn insert(&mut self, name: &str) -> SourceId {
        let name: Arc<str> = name.into();
        let id = self.sources.insert(Known {
            name: Arc::clone(&name),
            source: Source::default(),
            session: None,
            closed: None,
            captured_from: None,
        });
        self.by_name.insert(name, id);
        id
    }

    /// The own engine as a source.
    pub(crate) fn own(&self) -> SourceId {
        self.own
    }

    /// The highest number given for a token.
    pub(crate) fn given(&self, token: Token) -> u64 {
        self.given.get(&token).copied().unwrap_or(0)
    }

    /// A number was used.
    pub(crate) fn give(&mut self, token: Token, number: u64) {
        self.given.insert(token, number);
    }

    /// A coordinator introduces itself on a connection. Returns the source, and the connection it
    /// had before: nothing that still arrives over that one counts.
    pub(crate) fn introduced(
        &mut self,
        name: &str,
        session: SessionId,
        given: u64,
    ) -> (SourceId, Option<SessionId>) {
        let found = self.by_name.get(name).copied();
        let id = found.unwrap_or_else(|| self.insert(name));
        let capturing = self.capture != Capture::Off;
        let mut former = None;
        if let Some(known) = self.sources.get_mut(id) {
            former = known.session.replace(session).filter(|old| *old != session);
            known.closed = None;
            known.source.given(given);
            known.captured_from = capturing.then_some(known.source.last + 1);
        }
        (id, former)
    }

    /// Nothing more arrives over a connection.
    pub(crate) fn session_ended(&mut self, now: Duration, source: SourceId, session: SessionId) {
        let known = self.sources.get_mut(source);
        if let Some(known) = known.filter(|known| known.session == Some(session)) {
            known.session = None;
            known.captured_from = None;
            known.closed = Some(Closed {
                at: now,
                before: Duration::ZERO,
            });
        }
    }

    /// Whether a write comes after its place has been given up, or a second time.
    pub(crate) fn is_late(&self, tag: Tag) -> bool {
        let known = self.sources.get(tag.source);
        known.is_none_or(|known| tag.number <= known.source.last)
    }

    /// A write was taken: it is in the store's queue, or held back.
    pub(crate) fn arrived(&mut self, tag: Tag) {
        if let Some(known) = self.sources.get_mut(tag.source) {
            let expected = known.source.last + 1;
            known.source.arrived(tag.number);
            if tag.number > expected && known.captured_from.is_some() {
                known.captured_from = Some(tag.number);
            }
        }
    }

    /// Numbers up to this one were given, and what is not here of them will not come.
    pub(crate) fn passed(&mut self, tag: Tag) {
        if let Some(known) = self.sources.get_mut(tag.source)
            && tag.number > known.source.last
        {
            known.source.given(tag.number);
            if known.captured_from.is_some() {
                known.captured_from = Some(tag.number + 1);
            }
        }
    }

    /// A write that was taken did not get into the store, or nobody knows.
    pub(crate) fn lost(&mut self, tag: Tag) {
        if let Some(known) = self.sources.get_mut(tag.source) {
            known.source.lost(tag.number);
        }
    }

    pub(crate) fn name(&self, source: SourceId) -> &str {
        self.sources
            .get(source)
            .map_or("", |known| known.name.as_ref())
    }

    /// What has arrived here.
    pub(crate) fn received(&self, now: Duration) -> Received {
        let sources = self.sources.values().map(|known| {
            let mut source = known.source.clone();
            source.closed_seconds = known.closed.map(|closed| closed.age(now).as_secs());
            (known.name.to_string(), source)
        });
        sources.collect()
    }

    /// Numbers given by others that did not arrive.
    pub(crate) fn missing(&self) -> u64 {
        let sources = self.sources.values();
        sources.map(|known| known.source.missed()).sum()
    }

    /// Coordinators known.
    pub(crate) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// From now on, everything is held back. What a connection has brought so far is behind us,
    /// so the next number of each is the first that is captured.
    pub(crate) fn begin_capture(&mut self) {
        self.capture = Capture::On;
        for (id, known) in &mut self.sources {
            let connected = known.session.is_some() || id == self.own;
            known.captured_from = connected.then_some(known.source.last + 1);
        }
    }

    pub(crate) fn end_capture(&mut self) {
        self.capture = Capture::Off;
        for known in self.sources.values_mut() {
            known.captured_from = None;
        }
    }

    /// From which number on everything has been captured, by incarnation.
    pub(crate) fn captured_from(&self) -> BTreeMap<String, u64> {
        let sources = self.sources.values();
        sources
            .filter_map(|known| Some((known.name.to_string(), known.captured_from?)))
            .collect()
    }

    /// The store is a copy that has exactly the writes of `donor`. What had been given besides is
    /// returned: it is missing unless it turns out to be held back.
    pub(crate) fn adopt(&mut self, now: Duration, donor: &Received) -> Vec<Tag> {
        let ids: Vec<SourceId> = self.sources.keys().collect();
        let seen: Vec<Tag> = ids
            .into_iter()
            .filter_map(|source| {
                let number = self.sources.get(source)?.source.last;
                Some(Tag { source, number })
            })
            .collect();
        for known in self.sources.values_mut() {
            known.source = Source::default();
        }
        for (name, theirs) in donor.sources() {
            let id = match self.by_name.get(name.as_str()) {
                Some(id) => *id,
                None => self.insert(name),
            };
            let own = id == self.own;
            if let Some(known) = self.sources.get_mut(id) {
                known.source = Source {
                    closed_seconds: None,
                    ..theirs.clone()
                };
                if known.session.is_none() && !own {
                    let before = Duration::from_secs(theirs.closed_seconds.unwrap_or(0));
                    known.closed = Some(Closed { at: now, before });
                }
            }
        }
        seen
    }

    /// The store was copied without a cut: it is taken to have all that had been given by then.
    pub(crate) fn trust(&mut self) {
        for known in self.sources.values_mut() {
            known.source.missing.clear();
        }
    }

    /// Forgets coordinators that have long been gone.
    pub(crate) fn prune(&mut self, now: Duration) {
        let age = |known: &Known| known.closed.map(|closed| closed.age(now));
        let surplus = self.sources.len().saturating_sub(MAX_SOURCES);
        let mut gone: Vec<(Duration, SourceId)> = self
            .sources
            .iter()
            .filter_map(|(id, known)| Some((age(known)?, id)))
            .filter(|(age, _)| surplus > 0 || *age >= SOURCE_KEPT)
            .collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for (index, (age, id)) in gone.into_iter().enumerate() {
            if index >= surplus && age < SOURCE_KEPT {
                return;
            }
            if let Some(known) = self.sources.remove(id) {
                self.by_name.remove(&known.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(numbers: &Numbers) -> Vec<String> {
        let received = numbers.received(Duration::ZERO);
        received.sources().keys().cloned().collect()
    }

    #[test]
    fn who_is_gone_is_forgotten_after_its_time_and_who_is_connected_never() {
        let mut numbers = Numbers::new("own");
        let (gone, _) = numbers.introduced("gone", SessionId::default(), 3);
        numbers.introduced("here", SessionId::default(), 3);
        numbers.session_ended(SECOND, gone, SessionId::default());
        numbers.prune(SOURCE_KEPT);
        assert_eq!(names(&numbers), ["gone", "here", "own"]);
        numbers.prune(SOURCE_KEPT + SECOND);
        assert_eq!(names(&numbers), ["here", "own"]);
        numbers.introduced("gone", SessionId::default(), 4);
        let again = numbers.received(Duration::ZERO);
        assert_eq!(again.sources()["gone"].missing, [(1, 4)]);
    }

    #[test]
    fn the_longest_gone_are_forgotten_when_there_are_too_many() {
        let mut numbers = Numbers::new("own");
        for number in 0..u64::try_from(MAX_SOURCES).unwrap() + 9 {
            let name = format!("c{number:05}");
            let (source, _) = numbers.introduced(&name, SessionId::default(), 1);
            let at = Duration::from_millis(number);
            numbers.session_ended(at, source, SessionId::default());
        }
        numbers.prune(SECOND * 60);
        assert_eq!(numbers.sources(), MAX_SOURCES);
        assert_eq!(names(&numbers)[0], "c00010");
    }

    #[test]
    fn a_copy_brings_the_age_of_what_its_donor_knew() {
        let mut numbers = Numbers::new("own");
        numbers.introduced("connected", SessionId::default(), 2);
        let source = |last, closed_seconds| Source {
            last,
            closed_seconds,
            ..Source::default()
        };
        let donor: Received = [
            ("connected".to_owned(), source(5, None)),
            ("gone".to_owned(), source(7, Some(100))),
            ("own".to_owned(), source(9, None)),
        ]
        .into_iter()
        .collect();
        numbers.adopt(SECOND, &donor);
        let received = numbers.received(SECOND * 11);
        assert_eq!(received.sources()["connected"], source(5, None));
        assert_eq!(received.sources()["gone"], source(7, Some(110)));
        assert_eq!(received.sources()["own"], source(9, None));
    }

    #[test]
    fn a_gap_moves_the_beginning_of_a_capture() {
        let mut numbers = Numbers::new("own");
        let session = SessionId::default();
        let (source, _) = numbers.introduced("c", session, 2);
        numbers.begin_capture();
        let from = |numbers: &Numbers| numbers.captured_from().get("c").copied();
        let tag = |number| Tag { source, number };
        assert_eq!(from(&numbers), Some(3));
        numbers.arrived(tag(3));
        assert_eq!(from(&numbers), Some(3));
        numbers.arrived(tag(6));
        assert_eq!(from(&numbers), Some(6), "4 and 5 are missing");
        numbers.passed(tag(8));
        assert_eq!(from(&numbers), Some(9), "7 and 8 are missing");
        numbers.session_ended(SECOND, source, session);
        assert_eq!(from(&numbers), None);
        numbers.introduced("c", session, 10);
        assert_eq!(from(&numbers), Some(11));
    }
}
