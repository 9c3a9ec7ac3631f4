//! The operator dies after each of its actions in turn, and every time the end is the same.

use std::env;

use dynomite_sim::node::Without;
use dynomite_sim::scenario::{Scenario, run};

#[test]
fn crash_after_every_action() {
    let one = env::var("DYNOMITE_SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let long = env::var_os("DYNOMITE_TEST_LONG").is_some();
    let seeds = one.map_or(1..if long { 21 } else { 2 }, |seed: u64| seed..seed + 1);
    for seed in seeds {
        match run(Scenario::CrashAfterEveryAction, seed, Without::Nothing) {
            Ok(told) => assert!(told.actions > 20, "too little happened"),
            Err(broken) => panic!("{broken}"),
        }
    }
}
