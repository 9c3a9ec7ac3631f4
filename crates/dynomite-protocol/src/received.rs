//! Numbered writes: which writes of each coordinator a node has received, and what it lacks.
//!
//! A coordinator numbers its writes, per token, without gaps: 1, 2, 3 and so on for as long as its
//! process lives. Every replica gets the same number for the same write, over a connection that
//! keeps order, so a replica sees by itself what it missed:
//!
//! ```text
//!   coordinator 4f2a, token t:   1 2 3 4 5 6 7 8          received, as kept here
//!   arrives at a:                1 2 3 4 5 6 7 8          last 8
//!   arrives at b:                1 2 3 - - 6 7 8          last 8, missing 4 to 5
//!   arrives at c:                1 2 3 4 5 (connection broken)    last 5
//! ```
//!
//! Two replicas that have received the same are level. One that lacks what another has is behind
//! it; what nobody has is lost to all of them alike and separates nobody.

use std::collections::BTreeMap;
use std::time::Duration;

/// Gaps kept for one coordinator. One more joins its nearest neighbour: the node then counts some
/// writes as missing that it has, which costs a warm-up and no data.
pub const MAX_GAPS: usize = 32;

/// Coordinators remembered. One more, and the one that has been gone for longest is forgotten.
pub const MAX_SOURCES: usize = 4096;

/// How long a coordinator that is gone is remembered.
pub const SOURCE_KEPT: Duration = Duration::from_hours(24);

/// How long after its end a coordinator must be known to everybody who had a part in it. Nodes
/// see its end, and so forget it, at slightly different times: what one has forgotten and the
/// other has not yet must not look like a loss.
pub const SOURCE_COMPARED: Duration = Duration::from_hours(12);

/// What a node has received, by the incarnation of the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Received {
    sources: BTreeMap<String, Source>,
}

/// What a node has received of one coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
pub struct Source {
    /// The highest number that is known to have been given; 0 before the first write.
    pub last: u64,
    /// Numbers up to `last` that did not arrive: first and last of each gap, in order.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Vec::is_empty")
    )]
    pub missing: Vec<(u64, u64)>,
    /// For how many seconds the coordinator has had no connection to this node;
    /// absent while it has one.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Option::is_none")
    )]
    pub closed_seconds: Option<u64>,
}

impl Source {
    /// A write with this number arrived.
    pub fn arrived(&mut self, number: u64) {
        if number > self.last {
            self.given(number - 1);
            self.last = number;
        }
    }

    /// The coordinator says that numbers up to this one have been given. What of them did not
    /// arrive before this word, over the same connection, does not arrive any more.
    pub fn given(&mut self, number: u64) {
        if number > self.last {
            let first = self.last + 1;
            self.last = number;
            match self.missing.last_mut() {
                Some((_, end)) if *end + 1 == first => *end = number,
                _ => {
                    self.missing.push((first, number));
                    self.join_nearest();
                }
            }
        }
    }

    /// A write that had arrived is not in the store after all, or nobody knows.
    pub fn lost(&mut self, number: u64) {
        self.given(number);
        let at = self.missing.partition_point(|&(_, end)| end < number);
        if self.missing.get(at).is_some_and(|gap| gap.0 <= number) || number == 0 {
            return;
        }
        self.missing.insert(at, (number, number));
        if self
            .missing
            .get(at + 1)
            .is_some_and(|gap| gap.0 == number + 1)
        {
            self.missing[at].1 = self.missing.remove(at + 1).1;
        }
        if at > 0 && self.missing[at - 1].1 + 1 == number {
            self.missing[at - 1].1 = self.missing.remove(at).1;
        }
        self.join_nearest();
    }

    fn join_nearest(&mut self) {
        if self.missing.len() <= MAX_GAPS {
            return;
        }
        let distance = |at: &usize| self.missing[at + 1].0 - self.missing[*at].1;
        if let Some(at) = (0..self.missing.len() - 1).min_by_key(distance) {
            let (_, end) = self.missing.remove(at + 1);
            self.missing[at].1 = end;
        }
    }

    /// How many writes did not arrive.
    pub fn missed(&self) -> u64 {
        self.missing
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }

    /// Whether nodes may have forgotten it.
    fn is_old(&self) -> bool {
        self.closed_seconds
            .is_some_and(|seconds| seconds >= SOURCE_COMPARED.as_secs())
    }

    /// How many numbers of a range, first and last included, arrived here.
    fn has_of(&self, first: u64, last: u64) -> u64 {
        let last = last.min(self.last);
        if first > last {
            return 0;
        }
        let gone = self.missing.iter().map(|&(from, to)| {
            let (from, to) = (from.max(first), to.min(last));
            if from > to { 0 } else { to - from + 1 }
        });
        last - first + 1 - gone.sum::<u64>()
    }
}

impl Received {
    /// By incarnation.
    pub fn sources(&self) -> &BTreeMap<String, Source> {
        &self.sources
    }

    /// What is known of one coordinator, to be added to.
    pub fn source_mut(&mut self, incarnation: &str) -> &mut Source {
        if !self.sources.contains_key(incarnation) {
            self.sources
                .insert(incarnation.to_owned(), Source::default());
        }
        // It is there now; the entry API would copy the name each time.
        self.sources.entry(incarnation.to_owned()).or_default()
    }

    /// Forgets coordinators for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Source) -> bool) {
        self.sources.retain(|name, source| keep(name, source));
    }

    /// How many writes `other` has that did not arrive here, of one coordinator. While that
    /// coordinator is connected only gaps count: what is behind the last number is on its way.
    pub fn lacks_of(&self, incarnation: &str, other: &Source) -> u64 {
        let nothing = Source {
            closed_seconds: Some(0),
            ..Source::default()
        };
        let own = match self.sources.get(incarnation) {
            Some(own) => own,
            None if other.is_old() => return 0,
            None => &nothing,
        };
        let gaps = own.missing.iter();
        let in_gaps: u64 = gaps.map(|&(first, last)| other.has_of(first, last)).sum();
        let behind = match own.closed_seconds {
            Some(_) => other.has_of(own.last + 1, other.last),
            None => 0,
        };
        in_gaps + behind
    }

    /// How many writes `other` has that did not arrive here. See [`lacks_of`](Self::lacks_of).
    pub fn lacks(&self, other: &Self) -> u64 {
        let sources = other.sources.iter();
        sources
            .map(|(incarnation, source)| self.lacks_of(incarnation, source))
            .sum()
    }

    /// Whether a write was received by whoever this was taken from, or never will be.
    pub fn is_past(&self, incarnation: &str, number: u64) -> bool {
        let source = self.sources.get(incarnation);
        source.is_some_and(|source| number <= source.last)
    }

    /// Whether somebody who has captured every write from `first` on, by incarnation, has all that
    /// follows this; the coordinator it lacks something of, if not. Coordinators that are gone
    /// send nothing any more.
    pub fn is_followed_by(&self, first: &BTreeMap<String, u64>) -> Result<(), String> {
        for (incarnation, source) in &self.sources {
            let covered = first
                .get(incarnation)
                .is_some_and(|first| *first <= source.last + 1);
            if source.closed_seconds.is_none() && !covered {
                return Err(incarnation.clone());
            }
        }
        Ok(())
    }
}

impl FromIterator<(String, Source)> for Received {
    fn from_iter<I: IntoIterator<Item = (String, Source)>>(sources: I) -> Self {
        Self {
            sources: sources.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(arrived: &[u64]) -> Source {
        let mut source = Source::default();
        for number in arrived {
            source.arrived(*number);
        }
        source
    }

    fn received(source: Source) -> Received {
        [("c".to_owned(), source)].into_iter().collect()
    }

    #[test]
    fn a_gap_shows_with_the_next_write_and_with_the_next_word() {
        let mut source = source(&[1, 2, 3, 6]);
        assert_eq!(source.missing, [(4, 5)]);
        source.given(8);
        assert_eq!((source.last, source.missed()), (8, 4));
        // What was given up does not come back to life.
        source.arrived(7);
        assert_eq!(source.missed(), 4);
    }

    #[test]
    fn a_write_that_is_lost_afterwards_joins_the_gaps_beside_it() {
        let mut source = source(&[1, 2, 3, 4, 5, 6]);
        for (number, missing) in [
            (4, vec![(4, 4)]),
            (4, vec![(4, 4)]),
            (2, vec![(2, 2), (4, 4)]),
            (3, vec![(2, 4)]),
            (5, vec![(2, 5)]),
            (9, vec![(2, 5), (7, 9)]),
            (1, vec![(1, 5), (7, 9)]),
            (6, vec![(1, 9)]),
        ] {
            source.lost(number);
            assert_eq!(source.missing, missing, "after {number}");
        }
        assert_eq!(source.last, 9);
    }

    #[test]
    fn what_is_on_its_way_is_not_lacking_until_the_connection_is_gone() {
        let other = received(source(&[1, 2, 3, 4]));
        let mut own = received(source(&[1, 2]));
        assert_eq!(own.lacks(&other), 0);
        own.source_mut("c").closed_seconds = Some(1);
        assert_eq!(own.lacks(&other), 2);
        assert_eq!(Received::default().lacks(&other), 4);
    }

    #[test]
    fn a_coordinator_that_one_node_has_forgotten_separates_nobody() {
        let mut other = received(source(&[1, 2]));
        for (closed, lacks) in [
            (None, 2),
            (Some(60), 2),
            (Some(SOURCE_COMPARED.as_secs()), 0),
        ] {
            other.source_mut("c").closed_seconds = closed;
            assert_eq!(Received::default().lacks(&other), lacks, "{closed:?}");
        }
        let mut own = received(source(&[1]));
        own.source_mut("c").closed_seconds = Some(0);
        assert_eq!(own.lacks(&other), 1, "what is known is compared for ever");
    }

    #[test]
    fn what_nobody_has_separates_nobody() {
        let both = received(source(&[1, 2, 5]));
        assert_eq!(both.lacks(&both.clone()), 0);
        let whole = received(source(&[1, 2, 3, 4, 5]));
        assert_eq!((both.lacks(&whole), whole.lacks(&both)), (2, 0));
    }

    #[test]
    fn a_capture_follows_when_it_began_in_time_at_every_connected_coordinator() {
        let at_donor = received(source(&[1, 2, 3]));
        let first = |number| BTreeMap::from([("c".to_owned(), number)]);
        assert_eq!(at_donor.is_followed_by(&first(4)), Ok(()));
        assert_eq!(at_donor.is_followed_by(&first(5)), Err("c".to_owned()));
        assert_eq!(
            at_donor.is_followed_by(&BTreeMap::new()),
            Err("c".to_owned())
        );
        let mut gone = at_donor;
        gone.source_mut("c").closed_seconds = Some(0);
        assert_eq!(gone.is_followed_by(&BTreeMap::new()), Ok(()));
    }

    proptest! {
        #[test]
        fn gaps_hold_what_did_not_arrive(arrived in prop::collection::btree_set(1_u64..200, 0..150)) {
            let arrived: Vec<u64> = arrived.into_iter().collect();
            let source = source(&arrived);
            let has = |number: u64| source.has_of(number, number) == 1;
            for number in 1..200 {
                // Joined gaps may cover what arrived, never the other way round.
                prop_assert!(!has(number) || arrived.contains(&number));
            }
            prop_assert!(source.missing.len() <= MAX_GAPS);
            if source.missing.len() < MAX_GAPS {
                prop_assert_eq!(source.last - source.missed(), arrived.len() as u64);
            }
        }
    }
}
