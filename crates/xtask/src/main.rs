//! The command line of all automation: clusters, images, generated files, checks, tests, the demo.

mod cluster;
mod crds;
mod image;
mod process;
mod stage;
mod tidy;
mod workspace;

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
    /// Checks what compiler and clippy cannot: dependencies, banned calls, generated files, links.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Cluster(command) => cluster::run(command),
        Command::Images(arguments) => image::run(&arguments),
        Command::Crds => crds::run(),
        Command::Tidy => tidy::run(),
    }
}
