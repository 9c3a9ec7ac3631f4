//! A Kubernetes to run on.

use clap::Subcommand;

/// What can be done with the cluster.
#[derive(Subcommand)]
pub(crate) enum Command {}

/// Runs one cluster command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {}
}
