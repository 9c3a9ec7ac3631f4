//! The log: for people or as JSON, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::options::LogFormat;

/// Begins to log. A filter that cannot be read is an error, so that a typing
/// mistake does not silence the operator.
pub fn start(format: LogFormat, filter: &str) -> Result<(), String> {
    // The queue opens a span around every reconcile, which would repeat on each
    // line what the line itself says.
    // The client logs each error that it also returns.
    let directives =
        format!("{filter},kube_runtime::controller=warn,kube_client::client::builder=off");
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| format!("--log-level {filter:?} cannot be read: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}
