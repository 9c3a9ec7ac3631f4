//! The comparison of a token's replicas, key by key: which value counts, and which differences are real.
//!
//! ```text
//!  first look, all differ or not ──▶ suspect ──SETTLE later, second look──▶ the same votes: different ──▶ repaired, or left
//!                                       │                                └▶ other votes: written meanwhile, next round
//!                                       └ too many: the second look comes before more keys are looked at
//! ```
//!
//! A write that is on its way reaches the replicas within the engine's timeout, so
//! what differs in the same way before and after that is not on its way. A key is
//! then repaired only while every replica still has what it had at the second look:
//! so a write that comes meanwhile is neither lost nor applied twice.

use std::collections::BTreeMap;
use std::time::Duration;

use dynomite_api::contract::{CompareTally, Key, KeyVote};

/// How far apart two expiries may be and count as the same: engines that pass on
/// relative times let replicas count from different moments.
const EXPIRY_SLACK_MS: u64 = 5_000;

/// Keys that wait for their second look; more wait until these had theirs.
const SUSPECTS_MAX: usize = 1024;

/// Bytes of those keys.
const SUSPECT_BYTES_MAX: usize = 256 << 10;

/// Differences that one round repairs; then it ends, and another one follows.
const DIFFERENT_MAX: usize = 1024;

/// Bytes of those keys.
const DIFFERENT_BYTES_MAX: usize = 256 << 10;

/// Which value of a key counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All replicas have the same.
    Same,
    /// It cannot be told now.
    Unclear,
    /// The replica at `winner` has the value that counts, those at `losers` have
    /// another one.
    Differ {
        /// Its place among the votes.
        winner: usize,
        /// Their places.
        losers: Vec<usize>,
    },
}

/// Decides by the votes of all replicas, in the order in which they count.
///
/// What more than half of the replicas have counts, absence included. Without
/// such a majority the first value counts: of two replicas nobody knows whether
/// a write or a deletion came last, and a value that is kept can be deleted again.
/// A replica that may have evicted the key has no say and is left as it is.
pub fn verdict(votes: &[KeyVote]) -> Verdict {
    if votes.contains(&KeyVote::Unknown) {
        return Verdict::Unclear;
    }
    let counting = |at: &usize| votes[*at] != KeyVote::Abstains;
    let having: Vec<usize> = (0..votes.len()).filter(counting).collect();
    let agreeing = |with: usize| {
        let agree = having.iter().filter(|at| same(&votes[**at], &votes[with]));
        agree.count()
    };
    // Expiries are near each other or not, so it matters with which one all agree.
    if having.is_empty() || having.iter().any(|at| agreeing(*at) == having.len()) {
        return Verdict::Same;
    }
    let majority = having.iter().find(|at| agreeing(**at) * 2 > votes.len());
    let valued = |at: &&usize| matches!(votes[**at], KeyVote::Value { .. });
    let winner = majority.or_else(|| having.iter().find(valued));
    let Some(&winner) = winner else {
        return Verdict::Unclear;
    };
    let differs = |at: &usize| !same(&votes[*at], &votes[winner]);
    Verdict::Differ {
        winner,
        losers: having.iter().copied().filter(differs).collect(),
    }
}

/// Whether two replicas have the same of a key.
fn same(left: &KeyVote, right: &KeyVote) -> bool {
    match (left, right) {
        (
            KeyVote::Value { digest, expires_at },
            KeyVote::Value {
                digest: other,
                expires_at: at,
            },
        ) => {
            let near = match (expires_at, at) {
                (Some(left), Some(right)) => left.abs_diff(*right) <= EXPIRY_SLACK_MS,
                (left, right) => left == right,
            };
            digest == other && near
        }
        (left, right) => left == right,
    }
}

/// Whether every replica has what it had. An expiry that comes by the
/// remaining time is told differently by a millisecond now and then.
fn unchanged(now: &[KeyVote], before: &[KeyVote]) -> bool {
    let mut pairs = now.iter().zip(before);
    now.len() == before.len() && pairs.all(|(now, before)| same(now, before))
}

/// Whether a key may be repaired: every replica has what it had, or has got the
/// value that counted since. Replicas are repaired one after the other, and what
/// one has been given must not keep the next from the same.
pub fn repairable(now: &[KeyVote], before: &[KeyVote]) -> bool {
    let Verdict::Differ { winner, losers } = verdict(before) else {
        return false;
    };
    let given = |at: usize| losers.contains(&at) && same(&now[at], &before[winner]);
    now.len() == before.len() && (0..now.len()).all(|at| same(&now[at], &before[at]) || given(at))
}

/// A key that differs for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Key,
    /// What the replicas have.
    pub votes: Vec<KeyVote>,
    /// Which of them have another value than the one that counts.
    pub losers: Vec<usize>,
}

/// One comparison, as far as it remembers anything: what it suspects, what it has
/// found. Its memory is bounded, however many keys differ.
#[derive(Debug, Default)]
pub struct Comparison {
    suspects: BTreeMap<Key, Vec<KeyVote>>,
    suspect_bytes: usize,
    /// When the youngest of them was seen.
    seen: Duration,
    differences: Vec<Difference>,
    different_bytes: usize,
    tally: CompareTally,
}

impl Comparison {
    /// Takes in the first look at a key; `now` since any fixed moment.
    pub fn first(&mut self, key: Key, votes: Vec<KeyVote>, now: Duration) {
        self.tally.compared += 1;
        match verdict(&votes) {
            Verdict::Same => {}
            Verdict::Unclear => self.tally.skipped += 1,
            Verdict::Differ { .. } => {
                self.seen = now;
                let bytes = key.0.len();
                if self.suspects.insert(key, votes).is_none() {
                    self.suspect_bytes += bytes;
                }
            }
        }
    }

    /// Whether suspects have to have their second look before more keys are looked at.
    pub fn is_full(&self) -> bool {
        self.suspects.len() >= SUSPECTS_MAX || self.suspect_bytes >= SUSPECT_BYTES_MAX
    }

    /// Whether so much differs that the round ends here.
    pub fn is_over(&self) -> bool {
        self.differences.len() >= DIFFERENT_MAX || self.different_bytes >= DIFFERENT_BYTES_MAX
    }

    /// Says that keys were not looked at because so much differs.
    pub fn ends_early(&mut self) {
        self.tally.more = true;
    }

    /// When all suspects may have their second look, `settle` after the youngest
    /// had its first; `None` when there is none.
    pub fn ripe_at(&self, settle: Duration) -> Option<Duration> {
        (!self.suspects.is_empty()).then(|| self.seen.saturating_add(settle))
    }

    /// Some of the keys that wait for their second look.
    pub fn next(&self, most: usize) -> Vec<Key> {
        self.suspects.keys().take(most).cloned().collect()
    }

    /// Takes in the second look at a suspect.
    pub fn second(&mut self, key: &Key, votes: Vec<KeyVote>) {
        let Some(before) = self.suspects.remove(key) else {
            return;
        };
        self.suspect_bytes -= key.0.len();
        let Verdict::Differ { losers, .. } = verdict(&votes) else {
            return;
        };
        if !unchanged(&votes, &before) {
            // A write came between the two looks; the next round looks again.
            return;
        }
        self.tally.different += 1;
        self.different_bytes += key.0.len();
        self.differences.push(Difference {
            key: key.clone(),
            votes,
            losers,
        });
    }

    /// What differs for good.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Takes in what became of keys that differ.
    pub fn leveled(&mut self, repaired: u64, left: u64) {
        self.tally.repaired += repaired;
        self.tally.left += left;
    }

    /// What was found so far.
    pub fn tally(&self) -> CompareTally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(6);

    /// `-` nothing, `e` maybe evicted, `?` unknown, a letter a value, with a `+` one that expires.
    fn votes(text: &str) -> Vec<KeyVote> {
        let vote = |word: &str| match word {
            "-" => KeyVote::Absent,
            "e" => KeyVote::Abstains,
            "?" => KeyVote::Unknown,
            value => {
                let (digest, expires) = value.split_once('+').unwrap_or((value, ""));
                KeyVote::Value {
                    digest: digest.to_owned(),
                    expires_at: expires.parse().ok(),
                }
            }
        };
        text.split(' ').map(vote).collect()
    }

    fn differ(winner: usize, losers: &[usize]) -> Verdict {
        Verdict::Differ {
            winner,
            losers: losers.to_vec(),
        }
    }

    #[test]
    fn the_value_that_counts() {
        for (text, want) in [
            ("a a a", Verdict::Same),
            ("- - -", Verdict::Same),
            ("a b a", differ(0, &[1])),
            ("b a a", differ(1, &[0])),
            // A majority without it: it was deleted.
            ("- a -", differ(0, &[1])),
            ("a - a", differ(0, &[1])),
            // No majority: the first value, never nothing.
            ("a b c", differ(0, &[1, 2])),
            ("- b c", differ(1, &[0, 2])),
            ("a b", differ(0, &[1])),
            ("- b", differ(1, &[0])),
            ("a -", differ(0, &[1])),
            // Half of four is no majority.
            ("a b b a", differ(0, &[1, 2])),
            ("c b b -", differ(0, &[1, 2, 3])),
            ("c b b b", differ(1, &[0])),
            // Who may have evicted it has no say, and is left alone.
            ("e a a", Verdict::Same),
            ("e e a", Verdict::Same),
            ("e a b", differ(1, &[2])),
            ("e e e", Verdict::Same),
            ("? a b", Verdict::Unclear),
            ("? a a", Verdict::Unclear),
            // Expiry counts, but for some seconds.
            ("a+100000 a+104000 a+100000", Verdict::Same),
            ("a+100000 a+109000 a+100000", differ(0, &[1])),
            ("a a+100000 a", differ(0, &[1])),
            ("a", Verdict::Same),
        ] {
            assert_eq!(verdict(&votes(text)), want, "{text}");
        }
    }

    #[test]
    fn a_repair_of_one_replica_does_not_stop_that_of_the_next() {
        for (before, now, want) in [
            ("a b c", "a b c", true),
            ("a b c", "a a c", true),
            ("- b c", "b b c", true),
            ("a - -", "- - -", true),
            // Written meanwhile, whoever has it.
            ("a b c", "d b c", false),
            ("a b c", "a d c", false),
            ("a b c", "b b c", false),
            ("e a b", "a a b", false),
            ("a b c", "a b", false),
            ("a a a", "a a a", false),
        ] {
            assert_eq!(repairable(&votes(now), &votes(before)), want, "{now}");
        }
    }

    proptest! {
        #[test]
        fn any_order_of_repairs_ends_with_the_value_that_counted(
            words in prop::collection::vec(prop::sample::select(vec!["-", "e", "a", "b", "c"]), 1..6),
            turns in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let before = votes(&words.join(" "));
            let Verdict::Differ { winner, losers } = verdict(&before) else {
                return Ok(());
            };
            let mut now = before.clone();
            for turn in turns.iter().map(|turn| losers[turn.index(losers.len())]).chain(losers.clone()) {
                prop_assert!(repairable(&now, &before));
                if let Verdict::Differ { winner: counts, losers } = verdict(&now)
                    && losers.contains(&turn)
                {
                    prop_assert_eq!(&now[counts], &before[winner]);
                    now[turn] = now[counts].clone();
                }
            }
            prop_assert_eq!(verdict(&now), Verdict::Same);
        }
    }

    fn key(text: &str) -> Key {
        Key(text.as_bytes().to_vec())
    }

    #[test]
    fn only_what_stays_different_is_a_difference() {
        let mut round = Comparison::default();
        let at = Duration::from_secs(1);
        for (name, first) in [
            ("stays", "a b a"),
            ("heals", "a b a"),
            ("moves", "a b a"),
            ("equal", "a a a"),
            ("large", "? a a"),
        ] {
            round.first(key(name), votes(first), at);
        }
        assert_eq!(round.ripe_at(SETTLE), Some(at + SETTLE));
        for (name, second) in [("stays", "a b a"), ("heals", "a a a"), ("moves", "c b a")] {
            round.second(&key(name), votes(second));
        }
        assert_eq!(round.ripe_at(SETTLE), None);
        let found: Vec<_> = round.differences().iter().map(|d| &d.key).collect();
        assert_eq!(found, [&key("stays")]);
        assert_eq!(round.differences()[0].losers, [1]);
        round.leveled(1, 0);
        let tally = CompareTally {
            compared: 5,
            skipped: 1,
            different: 1,
            repaired: 1,
            left: 0,
            more: false,
        };
        assert_eq!(round.tally(), tally);
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut round = Comparison::default();
        let mut looked = 0;
        while !round.is_over() {
            while !round.is_full() {
                round.first(key(&looked.to_string()), votes("a b"), SETTLE);
                looked += 1;
            }
            assert!(round.suspects.len() <= SUSPECTS_MAX);
            loop {
                let keys = round.next(100);
                if keys.is_empty() {
                    break;
                }
                for key in keys {
                    round.second(&key, votes("a b"));
                }
            }
        }
        assert!(round.differences().len() < DIFFERENT_MAX + SUSPECTS_MAX);
        let mut long = Comparison::default();
        long.first(Key(vec![0; SUSPECT_BYTES_MAX]), votes("a b"), SETTLE);
        assert!(long.is_full());
    }

    fn any_vote() -> impl Strategy<Value = KeyVote> {
        prop_oneof![
            Just(KeyVote::Absent),
            Just(KeyVote::Abstains),
            ("[ab]", prop::option::of(0_i64..20_000))
                .prop_map(|(digest, expires_at)| KeyVote::Value { digest, expires_at }),
        ]
    }

    proptest! {
        /// Whatever the replicas have: after the repair they have the same, and a
        /// value that a majority has is never lost.
        #[test]
        fn a_repair_brings_the_replicas_level(votes in prop::collection::vec(any_vote(), 1..6)) {
            let mut after = votes.clone();
            if let Verdict::Differ { winner, losers } = verdict(&votes) {
                prop_assert!(!losers.is_empty() && !losers.contains(&winner));
                for loser in losers {
                    prop_assert!(after[loser] != KeyVote::Abstains);
                    after[loser] = after[winner].clone();
                }
                for vote in &votes {
                    let agree = votes.iter().filter(|other| *other == vote).count();
                    if agree * 2 > votes.len() && *vote != KeyVote::Abstains {
                        prop_assert!(same(vote, &votes[winner]));
                    }
                }
            }
            prop_assert_eq!(verdict(&after), Verdict::Same);
        }

        /// The rule does not depend on who compares.
        #[test]
        fn a_majority_counts_wherever_it_stands(mut votes in prop::collection::vec(any_vote(), 3)) {
            let majority = (0..3).find(|at| {
                votes[*at] != KeyVote::Abstains
                    && votes.iter().filter(|vote| **vote == votes[*at]).count() == 2
            });
            if let (Some(at), Verdict::Differ { winner, .. }) = (majority, verdict(&votes)) {
                prop_assert!(same(&votes[winner], &votes[at]));
                let counts = votes[winner].clone();
                votes.rotate_left(1);
                if let Verdict::Differ { winner, .. } = verdict(&votes) {
                    prop_assert!(same(&votes[winner], &counts));
                }
            }
        }
    }
}
