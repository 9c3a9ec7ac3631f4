//! Runs one scenario with one seed and prints its transcript.

use std::process::ExitCode;

use clap::Parser;
use dynomite_sim::node::Without;
use dynomite_sim::scenario::{SCENARIOS, Scenario, run};

/// Runs a scenario of the simulated world and prints what happened.
#[derive(Parser)]
struct Options {
    /// Which scenario; without it, their names are printed.
    #[arg(long)]
    scenario: Option<String>,
    /// The seed the world follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, counted from the first.
    #[arg(long, default_value_t = 1)]
    count: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(scenario) = options.scenario.as_deref().and_then(Scenario::by_name) else {
        for (name, _) in SCENARIOS {
            println!("{name}");
        }
        return ExitCode::from(2);
    };
    let mut broken = 0;
    for seed in options.seed..options.seed + options.count {
        match run(scenario, seed, Without::Nothing) {
            Ok(told) => {
                if options.count == 1 {
                    for line in &told.log {
                        println!("{line}");
                    }
                }
                let (writes, given_up, gap) = told.writes;
                println!(
                    "seed {seed}: settled after {} ms and {} actions; {writes} writes, {given_up} given up by a person, {gap} not promised",
                    told.took_ms, told.actions
                );
            }
            Err(found) => {
                println!("{found}");
                broken += 1;
            }
        }
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
