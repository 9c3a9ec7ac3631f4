//! Writes by clients that have keys of their own, and the trouble meanwhile.

use std::time::Duration;

use dynomite_protocol::hash::Placement;

use super::random::Random;
use super::world::{NODES, PER_RACK, World};
use crate::tests::world::token;

/// Keys of one kind that a client writes.
const KEYS: u64 = 2;

/// One writer per key: what it writes has one order, wherever it goes through.
pub(super) struct Client {
    number: usize,
    pub(super) node: usize,
    next: Duration,
    /// It writes no more from then on.
    until: Duration,
    sequence: u64,
    keys: Vec<String>,
}

/// A name whose key belongs to the token with this number.
fn key(name: &str, wanted: usize) -> String {
    let owner = |key: &str| {
        let at = Placement::default().token(key.as_bytes());
        let found = (0..PER_RACK).find(|index| at <= token(*index, PER_RACK));
        found.unwrap_or(0)
    };
    (0..1000)
        .map(|number| format!("{name}{number}"))
        .find(|key| owner(key) == wanted)
        .expect("there is one")
}

impl Client {
    pub(super) fn new(number: usize, node: usize, at: Duration, until: Duration) -> Self {
        let kinds = ["counter", "text", "list", "value"];
        let keys = kinds
            .iter()
            .flat_map(|kind| (0..KEYS).map(move |index| format!("{kind}.{number}.{index}.")))
            .map(|name| key(&name, 0))
            .collect();
        Self {
            number,
            node,
            next: at,
            until,
            sequence: 0,
            keys,
        }
    }

    pub(super) fn poll(&mut self, world: &mut World, pause: u64, overwrites: bool) {
        if world.now < self.next || world.now >= self.until {
            return;
        }
        self.next = world.now + world.random.millis(pause);
        self.sequence += 1;
        let item = format!("{}-{};", self.number, self.sequence);
        let kind = world.random.below(if overwrites { 6 } else { 4 });
        let index = kind.min(3) * KEYS + world.random.below(KEYS);
        let name = self.keys[usize::try_from(index).unwrap()].clone();
        let pair = [0, 1].map(|token| key(&format!("pair.{item}"), token));
        let words: &[&str] = match kind {
            0 => &["INCR", &name],
            1 => &["APPEND", &name, &item],
            2 => &["LPUSH", &name, &item],
            // Cut in two, since the keys belong to two nodes.
            3 => &["MSET", &pair[0], &item, &pair[1], &item],
            4 => &["SET", &name, &item],
            _ => &["DEL", &name],
        };
        world.write(self.number, self.node, words);
    }
}

/// What may go wrong besides delays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Troubles {
    /// Connections between nodes break, and pairs of nodes cannot connect for a while.
    pub(super) network: bool,
    /// Links take no more for a while.
    pub(super) congestion: bool,
    /// Connections to stores break, and stores refuse writes.
    pub(super) stores: bool,
    /// A coordinator's process ends, and another begins in its place.
    pub(super) crash: Option<usize>,
    /// A donor ends.
    pub(super) donor: Option<usize>,
}

impl Troubles {
    pub(super) const NONE: Self = Self {
        network: false,
        congestion: false,
        stores: false,
        crash: None,
        donor: None,
    };

    pub(super) fn any(random: &mut Random, newcomer: Option<usize>) -> Self {
        let mut troubles = Self {
            network: random.one_in(2),
            congestion: random.one_in(3),
            stores: random.one_in(5),
            ..Self::NONE
        };
        if random.one_in(3) {
            troubles.crash = Some(random.pick(&[1, 3, 5]));
        }
        if newcomer.is_some() && random.one_in(4) {
            troubles.donor = Some(random.pick(&[0, 4]));
        }
        troubles
    }

    /// Something goes wrong, or is mended. `spared` has no trouble with its store.
    pub(super) fn strike(&mut self, world: &mut World, spared: Option<usize>) {
        let any = |random: &mut Random| usize::try_from(random.below(NODES as u64)).unwrap();
        let (a, b) = (any(&mut world.random), any(&mut world.random));
        if self.network && a != b {
            match world.random.below(4) {
                0 | 1 => {
                    let both = world.random.one_in(2);
                    world.break_between(a, b, both);
                }
                2 => {
                    world.apart.insert((a.min(b), a.max(b)));
                    world.break_between(a, b, true);
                }
                _ => world.apart.clear(),
            }
        }
        if self.congestion && a != b {
            let congested = world.random.one_in(2);
            world.set_congested(a, b, congested);
        }
        if self.stores && Some(a) != spared {
            if world.random.one_in(2) {
                world.break_store(a);
            } else {
                world.nodes[a].store.is_full = world.random.one_in(2);
            }
        }
        if let Some(node) = self.crash.filter(|_| world.random.one_in(4)) {
            world.kill(node);
            self.crash = None;
            if world.random.one_in(2) {
                world.start(node);
            }
        }
        if let Some(node) = self.donor.filter(|_| world.random.one_in(4)) {
            world.kill(node);
            self.donor = None;
        }
    }
}

/// Everything works again.
pub(super) fn heal(world: &mut World) {
    world.apart.clear();
    for node in 0..NODES {
        world.nodes[node].store.is_full = false;
        for other in 0..NODES {
            world.set_congested(node, other, false);
        }
    }
}
