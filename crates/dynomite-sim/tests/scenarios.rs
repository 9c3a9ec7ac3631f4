//! Every scenario with many seeds: 200 in all, and 200 of each with `DYNOMITE_TEST_LONG=1`.
//!
//! `DYNOMITE_SIM_SEED=7` runs that seed alone.

use std::env;

use dynomite_sim::node::Without;
use dynomite_sim::scenario::{Scenario, run};

/// Seeds of each scenario in a long run.
const LONG: u64 = 200;

fn seeds(scenario: Scenario, count: u64) {
    let one = env::var("DYNOMITE_SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let count = if env::var_os("DYNOMITE_TEST_LONG").is_some() {
        count.max(LONG)
    } else {
        count
    };
    let seeds = one.map_or(1..count + 1, |seed: u64| seed..seed + 1);
    for seed in seeds {
        if let Err(broken) = run(scenario, seed, Without::Nothing) {
            panic!("{broken}");
        }
    }
}

#[test]
fn provision() {
    seeds(Scenario::Provision, 50);
}

#[test]
fn kill_things() {
    seeds(Scenario::KillThings, 30);
}

#[test]
fn mute_node() {
    seeds(Scenario::MuteNode, 14);
}

#[test]
fn dropped_event() {
    seeds(Scenario::DroppedEvent, 8);
}

#[test]
fn stale_observation() {
    seeds(Scenario::StaleObservation, 8);
}

#[test]
fn roll() {
    seeds(Scenario::Roll, 8);
}

#[test]
fn calm_roll() {
    seeds(Scenario::CalmRoll, 4);
}

#[test]
fn all_replicas_lost() {
    seeds(Scenario::AllReplicasLost, 27);
}

#[test]
fn partition() {
    seeds(Scenario::Partition, 20);
}

#[test]
fn lost_for_good() {
    seeds(Scenario::LostForGood, 12);
}

#[test]
fn failing_calls() {
    seeds(Scenario::FailingCalls, 8);
}

#[test]
fn two_leaders() {
    seeds(Scenario::TwoLeaders, 8);
}

#[test]
fn operator_away() {
    seeds(Scenario::OperatorAway, 1);
}

#[test]
fn held_ring() {
    seeds(Scenario::HeldRing, 8);
}

#[test]
fn stopped_by_hand() {
    seeds(Scenario::StoppedByHand, 8);
}

#[test]
fn lossy_links() {
    seeds(Scenario::LossyLinks, 12);
}

#[test]
fn clock_jumps() {
    seeds(Scenario::ClockJumps, 12);
}

#[test]
fn a_seed_gives_the_same_history_again() {
    let first = run(Scenario::KillThings, 7, Without::Nothing).expect("it holds");
    let again = run(Scenario::KillThings, 7, Without::Nothing).expect("it holds");
    assert!(first.log.len() > 20);
    assert_eq!(first.log, again.log);
    assert_eq!(first.end, again.end);
}
