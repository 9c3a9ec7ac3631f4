//! Random trouble in one rack at a time: nobody waits for ever, nothing acknowledged is lost.

use std::time::Duration;

use dynomite_protocol::consistency::Consistency::{DcOne, DcQuorum};
use proptest::prelude::*;

use super::world::{TIMEOUT, World, ring};

const RACKS: usize = 3;
const NODES_PER_RACK: usize = 2;
/// The rack in which things go wrong.
const VICTIMS: [usize; 2] = [2, 3];

#[derive(Debug, Clone)]
enum Step {
    Write { node: usize, key: u8 },
    Read { node: usize, key: u8 },
    Freeze(usize, bool),
    Kill(usize),
    Start(usize),
    StopStore(usize),
    StartStore(usize),
    Cut(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..RACKS * NODES_PER_RACK;
    let victim = prop::sample::select(VICTIMS.to_vec());
    prop_oneof![
        6 => (node.clone(), 0..8_u8).prop_map(|(node, key)| Step::Write { node, key }),
        4 => (node, 0..8_u8).prop_map(|(node, key)| Step::Read { node, key }),
        1 => (victim.clone(), any::<bool>()).prop_map(|(node, on)| Step::Freeze(node, on)),
        1 => victim.clone().prop_map(Step::Kill),
        1 => victim.clone().prop_map(Step::Start),
        1 => victim.clone().prop_map(Step::StopStore),
        1 => victim.prop_map(Step::StartStore),
        1 => any::<bool>().prop_map(Step::Cut),
        2 => (0..4000_u64).prop_map(Step::Pass),
    ]
}

fn cut_off() -> Vec<(usize, usize)> {
    let others = (0..RACKS * NODES_PER_RACK).filter(|node| !VICTIMS.contains(node));
    others
        .flat_map(|other| VICTIMS.map(|victim| (victim, other)))
        .collect()
}

struct Run {
    world: World,
    sequence: u32,
    /// For each key the newest value a client was told is written.
    acknowledged: Vec<u32>,
    needed: usize,
}

impl Run {
    /// Sends a request through a healthy node and waits as long as it may take.
    fn ask(&mut self, node: usize, words: &str) -> Result<String, TestCaseError> {
        let client = self.world.connect(node);
        let mut answer = self.world.ask(client, words);
        let mut waited = Duration::ZERO;
        while answer.is_empty() && waited <= TIMEOUT + Duration::from_millis(100) {
            self.world.pass(Duration::from_millis(50));
            waited += Duration::from_millis(50);
            answer = self.world.received(client);
        }
        self.world.hang_up(client);
        prop_assert!(!answer.is_empty(), "no answer to {words} in time");
        Ok(answer)
    }

    fn stored(&self, node: usize, key: u8) -> u32 {
        let name = format!("k{key}");
        let value = self.world.nodes[node].store.data.get(name.as_bytes());
        value.map_or(0, |value| {
            std::str::from_utf8(value).unwrap().parse().unwrap()
        })
    }

    fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Write { node, key } if !VICTIMS.contains(&node) => {
                self.sequence += 1;
                let value = self.sequence;
                if self.ask(node, &format!("SET k{key} {value}"))? == "+OK\r\n" {
                    self.acknowledged[usize::from(key)] = value;
                }
                let newest = self.acknowledged[usize::from(key)];
                let nodes = 0..self.world.nodes.len();
                let copies = nodes
                    .filter(|&node| self.stored(node, key) >= newest)
                    .count();
                prop_assert!(
                    newest == 0 || copies >= self.needed,
                    "{copies} copies of k{key}"
                );
            }
            Step::Read { node, key } if !VICTIMS.contains(&node) => {
                let answer = self.ask(node, &format!("GET k{key}"))?;
                prop_assert!(!answer.starts_with('-'), "{answer}");
                let value = answer
                    .split("\r\n")
                    .nth(1)
                    .and_then(|value| value.parse().ok());
                prop_assert!(
                    value.unwrap_or(0) >= self.acknowledged[usize::from(key)],
                    "{answer}"
                );
            }
            Step::Freeze(node, frozen) => {
                self.world.nodes[node].frozen = frozen;
                self.world.run();
            }
            Step::Kill(node) => self.world.kill(node),
            Step::Start(node) if !self.world.nodes[node].is_up => self.world.start(node),
            Step::StopStore(node) => self.world.stop_store(node),
            Step::StartStore(node) => self.world.start_store(node),
            Step::Cut(cut) => self.world.cut = if cut { cut_off() } else { Vec::new() },
            Step::Pass(millis) => self.world.pass(Duration::from_millis(millis)),
            _ => {}
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.world.cut.clear();
        for node in VICTIMS {
            self.world.nodes[node].frozen = false;
            self.world.start_store(node);
            if !self.world.nodes[node].is_up {
                self.world.start(node);
            }
        }
        self.world.pass(TIMEOUT * 4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn trouble_in_one_rack_costs_no_acknowledged_write_and_heals(
        steps in prop::collection::vec(step(), 1..60),
        quorum: bool,
    ) {
        let mut world = ring(RACKS, NODES_PER_RACK);
        world.set_consistency(if quorum { DcQuorum } else { DcOne });
        let mut run = Run {
            world,
            sequence: 0,
            acknowledged: vec![0; 8],
            needed: if quorum { RACKS / 2 + 1 } else { 1 },
        };
        for step in &steps {
            run.act(step)?;
        }
        run.heal();
        for node in &run.world.nodes {
            let report = node.engine.report();
            prop_assert!(report.links.iter().all(|link| link.serving), "{:?}", report.links);
            prop_assert_eq!(report.in_flight, 0);
        }
        for node in [0, 1, 4, 5] {
            prop_assert_eq!(run.ask(node, "SET healed 1")?, "+OK\r\n");
        }
        prop_assert_eq!(run.world.holders("healed").len(), RACKS);
    }
}
