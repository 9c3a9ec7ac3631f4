//! The proof of numbered writes and of the exact cut: real engines, model stores, a scripted
//! newcomer, random schedules.
//!
//! Judged in the end, when all is mended and at rest:
//!
//! * two nodes of one token of which neither lacks what the other has hold the same data;
//! * where the data is the same, nothing is said to be lacking (unless a store was in doubt);
//! * nothing was added twice to any list or text;
//! * after a commit, nothing lies between the copy and what was held.
//!
//! That each protection is needed is a test of its own: it takes them out one at a time.

mod load;
mod newcomer;
mod random;
mod store;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use load::{Client, Troubles, heal};
use newcomer::Newcomer;
use store::Value;
use world::{NODES, PER_RACK, World, is_counted};

use crate::RunState;
use crate::link::Purpose;
use crate::protection::Protection;

/// The step of clients, script and trouble.
const STEP: Duration = Duration::from_millis(5);
/// How long clients write, and things may go wrong.
const TROUBLE: Duration = Duration::from_millis(700);
/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run is about.
#[derive(Debug, Clone, Copy, Default)]
struct Setup {
    /// Who has to be warmed up.
    newcomer: Option<usize>,
    /// Who is warmed up a second time, after it has served.
    again: Option<usize>,
    /// What goes wrong; anything may when this is nothing.
    troubles: Option<Troubles>,
    /// Which protection is taken out of the engines.
    without: Option<Protection>,
    /// The stream to the newcomer is not stopped at the cut.
    overshoots: bool,
}

/// What one run showed.
#[derive(Debug, Default)]
struct Run {
    wrong: Vec<String>,
    applied: usize,
    dropped: usize,
    attempts: u32,
    lacking: u64,
}

/// One life of a ring.
struct Life {
    world: World,
    /// Those that were warmed up, the one at work last.
    newcomers: Vec<Newcomer>,
    clients: Vec<Client>,
    troubles: Troubles,
    overwrites: bool,
}

impl Life {
    fn new(seed: u64, setup: &Setup) -> Self {
        let mut world = World::new(seed, setup.newcomer, setup.without);
        let now = world.now;
        let any = Troubles::any(&mut world.random, setup.newcomer);
        let troubles = setup.troubles.unwrap_or(any);
        let clients = (0..NODES)
            .map(|node| {
                let at = now + Duration::from_millis(60);
                let until = match world.random.below(3) {
                    0 => now + world.random.millis(700),
                    _ => now + PATIENCE,
                };
                Client::new(node, node, at, until)
            })
            .collect();
        let overwrites = world.random.one_in(2);
        let mut life = Self {
            world,
            newcomers: Vec::new(),
            clients,
            troubles,
            overwrites,
        };
        if let Some(node) = setup.newcomer {
            life.warm_up(node, setup.overshoots);
        }
        life
    }

    fn warm_up(&mut self, node: usize, overshoots: bool) {
        let at = self.world.now + self.world.random.millis(300);
        let pace = self.world.random.pick(&[2, 10, 40]);
        let mut newcomer = Newcomer::new(node, at, pace);
        newcomer.overshoots = overshoots;
        self.newcomers.push(newcomer);
    }

    fn is_warm(&self) -> bool {
        self.newcomers.last().is_none_or(Newcomer::is_done)
    }

    fn step(&mut self, writes: bool, strikes: bool) {
        let world = &mut self.world;
        if writes {
            for client in &mut self.clients {
                client.poll(world, 25, self.overwrites);
            }
            if world.random.one_in(40) {
                for node in &mut world.nodes {
                    node.store.ping_replicas(world.now);
                }
            }
        }
        let spared = self.newcomers.last().map(|newcomer| newcomer.node);
        if strikes && world.random.one_in(6) {
            self.troubles.strike(world, spared);
        }
        if let Some(newcomer) = self.newcomers.last_mut() {
            newcomer.poll(world);
        }
        world.run_until(world.now + STEP);
    }

    fn is_at_rest(&self) -> bool {
        let engines = self
            .world
            .nodes
            .iter()
            .filter_map(|node| node.engine.as_ref());
        let alive = engines.clone().count();
        engines.clone().all(|engine| {
            let report = engine.report();
            let connected = report.links.iter().filter(|link| link.connected).count();
            let links = engine.links.iter().flatten();
            let mut open = links.flat_map(|link| &link.in_flight);
            let answered = open.all(|message| message.purpose == Purpose::Probe);
            report.in_flight == 0 && report.held_writes == 0 && connected == alive && answered
        })
    }

    fn run(&mut self, again: Option<usize>) {
        self.suffer();
        // A node that served has a past: its coordinators know it, and its account is not empty.
        let lives = |node: &usize| self.world.nodes[*node].engine.is_some();
        if let Some(node) = again.filter(lives) {
            // Its own end would be another story than its donor's.
            self.troubles.donor = self.troubles.donor.filter(|donor| *donor != node);
            self.warm_up(node, false);
            self.suffer();
        }
        self.rest();
    }

    /// Clients write while things go wrong, until the newcomer serves.
    fn suffer(&mut self) {
        let begin = self.world.now;
        while self.world.now < begin + TROUBLE {
            // Trouble after the cut is another test's.
            let strikes = self.newcomers.is_empty() || !self.is_warm();
            self.step(true, strikes);
        }
        heal(&mut self.world);
        while !self.is_warm() && self.world.now < begin + PATIENCE {
            self.step(true, false);
        }
        for _ in 0..10 {
            self.step(true, false);
        }
    }

    fn rest(&mut self) {
        let begin = self.world.now;
        while self.world.now < begin + PATIENCE {
            for _ in 0..40 {
                self.step(false, false);
            }
            if self.is_at_rest() {
                return;
            }
        }
    }

    fn judge(&self) -> Run {
        let mut run = Run::default();
        let world = &self.world;
        if !self.is_at_rest() {
            run.wrong.push("the ring does not come to rest".to_owned());
        }
        for newcomer in &self.newcomers {
            run.applied += newcomer.applied;
            run.dropped += newcomer.dropped;
            run.attempts += newcomer.attempts;
            run.wrong.extend(newcomer.gaps.iter().cloned());
            if !newcomer.is_done() {
                run.wrong.push("the newcomer never serves".to_owned());
            }
        }
        let serves = |node: &usize| {
            let engine = world.nodes[*node].engine.as_ref();
            is_counted(*node) && engine.is_some_and(|engine| engine.state() == RunState::Normal)
        };
        let nodes: Vec<usize> = (0..NODES).filter(serves).collect();
        for &a in &nodes {
            for doubled in &world.nodes[a].store.doubled {
                run.wrong.push(format!("node {a} has {doubled} twice"));
            }
            for &b in nodes.iter().filter(|&&b| b > a) {
                self.compare(a, b, &mut run);
            }
        }
        run
    }

    fn compare(&self, a: usize, b: usize, run: &mut Run) {
        let received = |node: usize| {
            let engine = self.world.nodes[node].engine.as_ref().expect("it serves");
            engine.received(self.world.clock()).expect("all are ours")
        };
        let data = |node: usize| &self.world.nodes[node].store.data;
        let (of_a, of_b) = (received(a), received(b));
        let lacks = of_a.lacks(&of_b) + of_b.lacks(&of_a);
        run.lacking += lacks;
        let same = data(a) == data(b);
        if lacks == 0 && !same {
            run.wrong.push(format!(
                "{a} and {b} differ, and nobody knows:\n{of_a:?}\n{of_b:?}\n{:?}",
                difference(data(a), data(b))
            ));
        }
        // A write that a store did not answer, or that another write hides, leaves no trace.
        let traces = !self.troubles.stores && !self.overwrites;
        if lacks > 0 && same && traces {
            run.wrong.push(format!(
                "{a} and {b} are the same, and {lacks} are said to be lacking:\n{of_a:?}\n{of_b:?}"
            ));
        }
    }
}

/// The keys that two nodes hold differently.
fn difference(a: &BTreeMap<Vec<u8>, Value>, b: &BTreeMap<Vec<u8>, Value>) -> Vec<String> {
    let keys: BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect()
}

fn live(seed: u64, setup: &Setup) -> Run {
    let mut life = Life::new(seed, setup);
    life.run(setup.again);
    life.judge()
}

/// Seeds of one test: more when there is time.
fn seeds(few: u64, many: u64) -> u64 {
    if std::env::var_os("DYNOMITE_TEST_LONG").is_some() {
        many
    } else {
        few
    }
}

const NEWCOMER: usize = PER_RACK;

#[test]
fn a_newcomer_ends_level_with_its_donor_or_says_what_it_lacks() {
    let (mut applied, mut dropped, mut attempts) = (0, 0, 0);
    let count = seeds(60, 5000);
    for seed in 0..count {
        let setup = Setup {
            newcomer: Some(NEWCOMER),
            again: [None, Some(NEWCOMER), Some(2 * PER_RACK)][usize::try_from(seed % 3).unwrap()],
            ..Setup::default()
        };
        let run = live(seed, &setup);
        assert!(
            run.wrong.is_empty(),
            "seed {seed}: {}",
            run.wrong.join("\n")
        );
        applied += run.applied;
        dropped += run.dropped;
        attempts += u64::from(run.attempts);
    }
    println!(
        "{count} warm-ups: {applied} held writes applied, {dropped} dropped, {attempts} copies"
    );
    assert!(applied > 0 && dropped > 0, "the schedules bring both");
}

#[test]
fn nodes_that_differ_after_a_partition_know_it() {
    let mut lacking = 0;
    let count = seeds(100, 5000);
    for seed in 0..count {
        let run = live(seed, &Setup::default());
        assert!(
            run.wrong.is_empty(),
            "seed {seed}: {}",
            run.wrong.join("\n")
        );
        lacking += u64::from(run.lacking > 0);
    }
    println!("{count} partitions: {lacking} left a node behind");
    assert!(lacking > count / 10, "the schedules do harm");
}

/// The first seed at which something goes wrong.
fn first_wrong(setup: &Setup) -> Option<(u64, String)> {
    (0..400).find_map(|seed| {
        let run = live(seed, setup);
        Some((seed, run.wrong.into_iter().next()?))
    })
}

#[test]
fn each_protection_is_needed() {
    use Protection::{CopiedNumbers, Coverage, Given, LateNumbers, LostWrites};
    let newcomer = Some(NEWCOMER);
    let quiet = Troubles::NONE;
    let network = Troubles {
        network: true,
        ..quiet
    };
    let congestion = Troubles {
        congestion: true,
        ..quiet
    };
    let stores = Troubles {
        stores: true,
        ..quiet
    };
    for (without, newcomer, troubles) in [
        // Without the stop at the cut.
        (None, newcomer, quiet),
        (Some(LateNumbers), newcomer, quiet),
        (Some(CopiedNumbers), newcomer, quiet),
        (Some(Coverage), newcomer, network),
        (Some(Given), None, congestion),
        (Some(LostWrites), None, stores),
    ] {
        let setup = Setup {
            newcomer,
            again: None,
            troubles: Some(troubles),
            without,
            overshoots: without.is_none(),
        };
        let found = first_wrong(&setup);
        let name = without.map_or("Stop".to_owned(), |without| format!("{without:?}"));
        let (seed, wrong) = found.unwrap_or_else(|| panic!("nothing breaks without {name}"));
        let wrong = wrong.lines().next().unwrap_or_default();
        println!("without {name}, seed {seed}: {wrong}");
    }
}
