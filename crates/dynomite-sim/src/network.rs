//! The network between nodes: which of them hear each other, and what coordinators say while they do.

use std::collections::BTreeSet;

use crate::world::World;
use crate::writes::{Delivery, What};

/// Between two words of a coordinator to its peers, milliseconds.
const WORD_MS: u64 = 1000;
/// How long a word is under way at least, milliseconds.
const WORD_LATENCY_MS: u64 = 10;
/// After how long a lost packet comes at last, at least and at most, milliseconds.
const SENT_AGAIN_MS: (u64, u64) = (200, 5000);

impl World {
    /// Whether two nodes do not hear each other.
    pub fn is_cut(&self, one: &str, other: &str) -> bool {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        self.cuts.contains(&pair(one, other)) || self.cuts.contains(&pair(other, one))
    }

    /// Cuts a rack off from all other nodes; the operator and clients reach it.
    pub fn cut_rack(&mut self, letter: &str) {
        let names = self.declared();
        let inside = |name: &String| name.contains(&format!("dc1-{letter}-"));
        for one in names.iter().filter(|name| inside(name)) {
            for other in names.iter().filter(|name| !inside(name)) {
                self.cuts.insert((one.clone(), other.clone()));
            }
        }
        self.say(format!("rack dc1-{letter} is cut off"));
    }

    /// Whether a packet that is sent now is lost.
    pub(crate) fn is_lost(&mut self) -> bool {
        let percent = self.config.loss_percent;
        percent > 0 && self.random.below(100) < percent
    }

    /// By how much later comes what is sent on a connection now, milliseconds:
    /// what is lost is sent again.
    pub(crate) fn late_by(&mut self) -> u64 {
        if self.is_lost() {
            self.random.between(SENT_AGAIN_MS.0, SENT_AGAIN_MS.1)
        } else {
            0
        }
    }

    /// All nodes hear each other again.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.say("the network is whole");
    }

    /// What a connection carries arrives in its order.
    pub(crate) fn in_order(&mut self, incarnation: &str, node: &str, due: u64) -> u64 {
        let link = (incarnation.to_owned(), node.to_owned());
        let last = self.writes.links.entry(link).or_default();
        *last = due.max(*last);
        *last
    }

    /// Coordinators tell their peers how many numbers they have given, and
    /// every engine takes note of whom it hears.
    pub(crate) fn tell_numbers(&mut self) {
        if !self.config.numbers {
            return;
        }
        if self.now.is_multiple_of(WORD_MS) {
            self.send_words();
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            let connected = self.heard_by(name);
            let now = self.now;
            let node = self.nodes.get_mut(name);
            if let Some(engine) = node.and_then(|node| node.engine.as_mut()) {
                engine.numbers.hears(&connected, now);
            }
        }
    }

    fn send_words(&mut self) {
        let mut words = Vec::new();
        for node in self.nodes.values() {
            let (Some(engine), Some(desired)) = (&node.engine, &node.disk.desired) else {
                continue;
            };
            for other in self.nodes.values().filter(|other| other.name != node.name) {
                let Some(theirs) = &other.disk.desired else {
                    continue;
                };
                let known = node.peers.get(&other.name) == Some(&other.address);
                if !known || theirs.node.datacenter != desired.node.datacenter {
                    continue;
                }
                let given = engine.numbers.given(theirs.node.token);
                words.push((node.name.clone(), engine.incarnation.clone(), other, given));
            }
        }
        let words: Vec<_> = words
            .into_iter()
            .map(|(from, incarnation, to, given)| {
                (
                    from,
                    incarnation,
                    to.name.clone(),
                    to.address.clone(),
                    given,
                )
            })
            .collect();
        for (from, incarnation, node, address, given) in words {
            let due = self.now + WORD_LATENCY_MS + self.late_by();
            let due = self.in_order(&incarnation, &node, due);
            self.writes.coming.push(Delivery {
                due,
                what: What::Word(given),
                from: (from, incarnation),
                node,
                address,
            });
        }
    }

    /// The incarnations that have a connection to a node, its own included.
    fn heard_by(&self, name: &str) -> BTreeSet<String> {
        let Some(own) = self.nodes.get(name) else {
            return BTreeSet::new();
        };
        let others = self.nodes.values().filter(|other| {
            let known = other.peers.get(name) == Some(&own.address);
            other.name == name || (known && !self.is_cut(&other.name, name))
        });
        others
            .filter_map(|other| Some(other.engine.as_ref()?.incarnation.clone()))
            .collect()
    }

    /// The moment of a cut: the copy has what its donor's store has, its engine
    /// has received what the donor's has, and of what it holds only the later
    /// numbers are to be applied. How engines and stores come to this has a
    /// world of its own.
    pub(crate) fn cut_exactly(&mut self, name: &str) {
        if !self.config.numbers {
            return;
        }
        let Some(donor) = self.nodes.get(name).and_then(|node| {
            let donor = node.life.as_ref()?.donor()?;
            self.nodes.get(&donor.name)
        }) else {
            return;
        };
        let (Some(theirs), Some(source)) = (&donor.store, &donor.engine) else {
            return;
        };
        let (has, numbers) = (theirs.has.clone(), source.numbers.clone());
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let (Some(store), Some(engine)) = (&mut node.store, &mut node.engine) else {
            return;
        };
        store.has = has;
        let writes = &self.writes.all;
        let late = |write: usize| {
            let entry = writes.get(write).filter(|entry| entry.number > 0)?;
            let of = (entry.coordinator.1.clone(), entry.number);
            (!numbers.is_past(&of.0, of.1)).then_some(of)
        };
        engine.held.retain(|(_, write)| late(*write).is_some());
        let held: Vec<(String, u64)> = engine.held.iter().filter_map(|h| late(h.1)).collect();
        engine.numbers.adopt(&numbers, &held);
    }
}
