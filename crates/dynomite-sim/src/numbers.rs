//! Numbered writes in the made-up engine: what it has given, what it has received, and of whom it hears.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::Token;
use dynomite_api::contract::Received;

/// What one incarnation of an engine knows of numbers.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    given: BTreeMap<Token, u64>,
    received: Received,
    /// Since when coordinators have no connection, milliseconds.
    closed_at: BTreeMap<String, u64>,
}

impl Numbers {
    /// The next number of a token.
    pub fn give(&mut self, token: Token) -> u64 {
        let last = self.given.entry(token).or_default();
        *last += 1;
        *last
    }

    /// How many numbers of a token have been given.
    pub fn given(&self, token: Token) -> u64 {
        self.given.get(&token).copied().unwrap_or(0)
    }

    /// A write that goes to the store; `false` when it had been given up before.
    pub fn arrives(&mut self, incarnation: &str, number: u64) -> bool {
        if self.received.is_past(incarnation, number) {
            return false;
        }
        self.received.source_mut(incarnation).arrived(number);
        true
    }

    /// A write that had arrived and never reaches the store.
    pub fn lost(&mut self, incarnation: &str, number: u64) {
        self.received.source_mut(incarnation).lost(number);
    }

    /// A coordinator's word on how many numbers it has given.
    pub fn word(&mut self, incarnation: &str, given: u64) {
        self.received.source_mut(incarnation).given(given);
    }

    /// Whether a write was received, or never will be.
    pub fn is_past(&self, incarnation: &str, number: u64) -> bool {
        self.received.is_past(incarnation, number)
    }

    /// Takes over what a donor had received; what the engine holds is on its
    /// way to the store.
    pub fn adopt(&mut self, donor: &Self, held: &[(String, u64)]) {
        self.received = donor.received.clone();
        for (incarnation, number) in held {
            self.received.source_mut(incarnation).arrived(*number);
        }
    }

    /// Which coordinators are connected now.
    pub fn hears(&mut self, connected: &BTreeSet<String>, now: u64) {
        for incarnation in self.received.sources().keys() {
            if connected.contains(incarnation) {
                self.closed_at.remove(incarnation);
            } else if !self.closed_at.contains_key(incarnation) {
                self.closed_at.insert(incarnation.clone(), now);
            }
        }
    }

    /// What the engine reports.
    pub fn report(&self, now: u64) -> Received {
        let mut received = self.received.clone();
        for (incarnation, since) in &self.closed_at {
            received.source_mut(incarnation).closed_seconds = Some((now - since) / 1000);
        }
        received
    }
}
