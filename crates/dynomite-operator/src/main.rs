//! The operator's program.

use std::process::ExitCode;

use clap::Parser;
use dynomite_api::crd::DynomiteCluster;
use dynomite_operator::options::{Command, Options, RunOptions};
use dynomite_operator::{run, telemetry};
use kube::CustomResourceExt;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.command.unwrap_or(Command::Run) {
        Command::Run => start(options.run),
        Command::Crds => print_crds(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynomite-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: RunOptions) -> Result<(), String> {
    telemetry::start(options.log_format, &options.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime
        .block_on(run::run(options))
        .map_err(|error| error.to_string())
}

fn print_crds() -> Result<(), String> {
    let text = serde_yaml::to_string(&DynomiteCluster::crd()).map_err(|error| error.to_string())?;
    print!("{text}");
    Ok(())
}
