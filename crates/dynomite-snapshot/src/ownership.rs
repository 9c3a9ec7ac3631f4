//! Which keys a node of a ring owns, as ranges of tokens.

use dynomite_protocol::token::Token;

/// The tokens of one node: in a rack, a key belongs to the node with the smallest token that is
/// not below the key's; above the largest token the ring begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// First and last token of each range. The owner of the smallest token has two.
    ranges: Vec<(u32, u32)>,
}

impl Ownership {
    /// What `own` owns among the tokens of its rack, itself included or not.
    pub fn new(tokens: &[Token], own: Token) -> Self {
        let others = || tokens.iter().map(|token| token.0).filter(|t| *t != own.0);
        let below = others().filter(|token| *token < own.0).max();
        let ranges = match (below, others().max()) {
            (_, None) => vec![(0, u32::MAX)],
            (Some(below), _) => vec![(below + 1, own.0)],
            // The smallest token: what lies above the largest one is its too.
            (None, Some(u32::MAX)) => vec![(0, own.0)],
            (None, Some(largest)) => vec![(0, own.0), (largest + 1, u32::MAX)],
        };
        Self { ranges }
    }

    /// Whether keys of this token are its.
    pub fn owns(&self, token: Token) -> bool {
        let within = |(first, last): &(u32, u32)| (*first..=*last).contains(&token.0);
        self.ranges.iter().any(within)
    }

    /// How many tokens both own.
    pub fn shared(&self, other: &Self) -> u64 {
        let mut shared = 0;
        for (first, last) in &self.ranges {
            for (others_first, others_last) in &other.ranges {
                let (first, last) = (*first.max(others_first), *last.min(others_last));
                if first <= last {
                    shared += u64::from(last - first) + 1;
                }
            }
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use dynomite_protocol::topology::Rack;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn owners_are_those_that_the_engine_asks(
            tokens in prop::collection::btree_set(prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)], 1..6),
            keys in prop::collection::vec(any::<u32>(), 1..20),
        ) {
            let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
            let nodes = tokens.iter().map(|token| (*token, *token)).collect();
            let rack = Rack { name: "r".to_owned(), nodes };
            let own = |own| Ownership::new(&tokens, own);
            for key in keys.into_iter().map(Token).chain(tokens.iter().copied()) {
                for node in &tokens {
                    prop_assert_eq!(own(*node).owns(key), rack.owner(key) == *node);
                }
            }
            let whole = Ownership::new(&[], Token(0));
            let all: u64 = tokens.iter().map(|token| own(*token).shared(&whole)).sum();
            prop_assert_eq!(all, 1 << 32);
        }
    }
}
