//! What the operator is started with: flags, each also an environment variable.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs Dynomite rings on Kubernetes.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Options {
    /// What to do; `run` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: RunOptions,
}

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run,
    /// Print the custom resource definitions as YAML.
    Crds,
}

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// The namespaces to serve, separated by commas; all when absent. With
    /// namespaces given, Roles suffice and no Kubernetes node is read.
    #[arg(
        long,
        global = true,
        env = "OPERATOR_NAMESPACES",
        value_delimiter = ','
    )]
    pub namespaces: Vec<String>,
    /// Whether Kubernetes nodes may be read; only asked when all namespaces are served.
    #[arg(long, global = true, env = "OPERATOR_WATCH_NODES", default_value_t = true, action = clap::ArgAction::Set)]
    pub watch_nodes: bool,
    /// The image of the sidecar: the operator's own.
    #[arg(long, global = true, env = "OPERATOR_IMAGE", default_value = "")]
    pub image: String,
    /// The image of the engine where a cluster names none; the operator's own when absent.
    #[arg(long, global = true, env = "OPERATOR_ENGINE_IMAGE")]
    pub engine_image: Option<String>,
    /// `imagePullPolicy` of both.
    #[arg(long, global = true, env = "OPERATOR_IMAGE_PULL_POLICY")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    #[arg(
        long,
        global = true,
        env = "OPERATOR_METRICS_ADDR",
        default_value = "[::]:8080"
    )]
    pub metrics_addr: SocketAddr,
    /// Whether only the holder of a Lease acts. Needed for more than one replica.
    #[arg(long, global = true, env = "OPERATOR_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// The namespace of the Lease; the operator's own when absent.
    #[arg(long, global = true, env = "OPERATOR_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// This process' name in the Lease and in Events; the host name when absent.
    #[arg(long, global = true, env = "POD_NAME")]
    pub identity: Option<String>,
    /// The form of the log.
    #[arg(
        long,
        global = true,
        env = "OPERATOR_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,dynomite_operator=debug`.
    #[arg(
        long,
        global = true,
        env = "OPERATOR_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `imagePullPolicy` as Kubernetes writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// Pulled at each start.
    Always,
    /// Pulled when the node lacks it.
    IfNotPresent,
    /// Never pulled.
    Never,
}

impl PullPolicy {
    /// The value of `imagePullPolicy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Options::command().debug_assert();
        let options = Options::parse_from([
            "dynomite-operator",
            "run",
            "--namespaces",
            "a,b",
            "--image-pull-policy",
            "IfNotPresent",
        ]);
        assert_eq!(options.run.namespaces, ["a", "b"]);
        assert_eq!(
            options.run.image_pull_policy,
            Some(PullPolicy::IfNotPresent)
        );
        assert!(matches!(options.command, Some(Command::Run)));
    }
}
