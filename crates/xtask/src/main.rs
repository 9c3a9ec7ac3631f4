//! The command line of all automation: clusters, images, generated files, checks, tests, the demo.

mod bench;
mod cluster;
mod crds;
mod demo;
mod image;
mod manifests;
mod process;
mod services;
mod stage;
mod suite;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// All automation of the repository. Every command can be repeated.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A Kubernetes to run on: an existing one, kind, or the embedded one.
    Cluster(cluster::Command),
    /// Builds the container images, without Docker.
    Images(image::Arguments),
    /// Writes the custom resource definitions from their Rust types.
    Crds,
    /// Writes the plain manifests from the chart.
    Manifests,
    /// Checks what compiler and clippy cannot: dependencies, banned calls, generated files, links.
    Tidy,
    /// Runs every check and test suite that this machine can.
    Test(suite::Arguments),
    /// Measures, side by side with what it is compared to, and writes docs/performance.md.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Harms a ring at random under a recorded load, and judges what became of the data.
    Chaos(suite::Chaos),
    /// From nothing to a three-zone ring that serves, with a proof that it does.
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every error says what to do about it; a backtrace would only bury that.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Cluster(command) => cluster::run(command),
        Command::Images(arguments) => image::run(&arguments),
        Command::Crds => crds::run(),
        Command::Manifests => manifests::run(),
        Command::Tidy => tidy::run(),
        Command::Test(arguments) => suite::run(&arguments),
        Command::Bench(command) => bench::run(&command),
        Command::Chaos(arguments) => suite::chaos(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}
