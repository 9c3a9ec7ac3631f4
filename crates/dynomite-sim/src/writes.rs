//! The clients' writes: which there are, who has acknowledged them, and which of them a store holds.

use std::collections::BTreeMap;

use dynomite_api::Token;

/// A set of writes by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds a write.
    pub fn insert(&mut self, write: usize) {
        let (word, bit) = (write / 64, write % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    /// Takes a write out.
    pub fn remove(&mut self, write: usize) {
        if let Some(word) = self.0.get_mut(write / 64) {
            *word &= !(1 << (write % 64));
        }
    }

    /// Whether a write is in it.
    pub fn contains(&self, write: usize) -> bool {
        self.0
            .get(write / 64)
            .is_some_and(|word| word & (1 << (write % 64)) != 0)
    }

    /// How many writes are in it.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The writes that are in this set and not in the other.
    pub fn missing_in(&self, other: &Self) -> Vec<usize> {
        let mut missing = Vec::new();
        for (index, word) in self.0.iter().enumerate() {
            let mut rest = word & !other.0.get(index).copied().unwrap_or(0);
            while rest != 0 {
                let bit = rest.trailing_zeros() as usize;
                missing.push(index * 64 + bit);
                rest &= rest - 1;
            }
        }
        missing
    }
}

/// One write of a client.
#[derive(Clone, Debug)]
pub struct Write {
    /// The token of its key.
    pub token: Token,
    /// The node that passes it on, and the incarnation of its engine: with
    /// another one nobody answers the client any more.
    pub coordinator: (String, String),
    /// Replicas that have applied it.
    pub acks: usize,
    /// How many must have, before the client is answered.
    pub needed: usize,
    /// The only replica whose word counts, when one is enough: the coordinator's own rack's.
    pub counts: Option<String>,
    /// Whether the client was told that it is done.
    pub acknowledged: bool,
    /// Whether a replica could not be reached: with one replica's word it is
    /// acknowledged all the same, and may be given up when the network is whole.
    pub cut: bool,
    /// Its number among the writes of this coordinator and token.
    pub number: u64,
    /// Whether it was passed on while a replica that takes writes was not known
    /// to its coordinator by its present address. Warm-up as it is does not
    /// promise such a write to that replica.
    pub unaddressed: bool,
}

/// What a coordinator says to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A write.
    Write(usize),
    /// How many numbers it has given for the replica's token.
    Word(u64),
}

/// Something on its way to a replica.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// When it arrives, milliseconds.
    pub due: u64,
    /// What is said.
    pub what: What,
    /// Who says it, and which incarnation of its engine.
    pub from: (String, String),
    /// The node it is for.
    pub node: String,
    /// The address it was sent to.
    pub address: String,
}

/// Everything that clients have written.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// All writes, by number.
    pub all: Vec<Write>,
    /// Those under way.
    pub coming: Vec<Delivery>,
    /// When the last arrives that was sent on each connection, milliseconds.
    pub links: BTreeMap<(String, String), u64>,
    /// What a node of a token must have to answer reads.
    pub owed: BTreeMap<Token, Bits>,
    /// Acknowledged writes that are not owed, because a replica was not known
    /// to their coordinator.
    pub gap: u64,
    /// Acknowledged writes that a person, or a single rack, has given up.
    pub given_up: u64,
}

impl Writes {
    /// A replica has applied a write, at `now` while `alive` says that its
    /// coordinator's engine is still the one that was asked.
    pub fn applied(&mut self, write: usize, node: &str, alive: bool) {
        let Some(entry) = self.all.get_mut(write) else {
            return;
        };
        if entry.counts.as_deref().is_none_or(|one| one == node) {
            entry.acks += 1;
        }
        if entry.acknowledged || !alive || entry.acks < entry.needed {
            return;
        }
        entry.acknowledged = true;
        if entry.cut && entry.needed == 1 {
            self.given_up += 1;
        } else if entry.unaddressed {
            self.gap += 1;
        } else {
            self.owed.entry(entry.token).or_default().insert(write);
        }
    }

    /// A write did not reach a replica, for the connection broke.
    pub fn cut(&mut self, write: usize) {
        let Some(entry) = self.all.get_mut(write) else {
            return;
        };
        entry.cut = true;
        if entry.needed == 1
            && let Some(owed) = self.owed.get_mut(&entry.token)
        {
            owed.remove(write);
        }
    }

    /// A token's data is what this store has from now on.
    pub fn give_up(&mut self, token: Token, has: &Bits) {
        let Some(owed) = self.owed.get_mut(&token) else {
            return;
        };
        for write in owed.missing_in(has) {
            owed.remove(write);
            self.given_up += 1;
        }
    }
}
