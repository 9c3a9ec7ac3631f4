//! The command line, with the flags of Netflix's `dynomite`.

use std::path::PathBuf;

use clap::Parser;

/// A Dynamo-style layer in front of Redis: replicates it over racks and datacenters.
#[derive(Debug, Parser)]
#[command(name = "dynomite", version, disable_version_flag = true)]
pub(crate) struct Flags {
    /// Configuration file
    #[arg(short = 'c', long, default_value = "/usr/local/etc/dynomite.yml")]
    pub(crate) conf_file: PathBuf,
    /// Check the configuration file and exit
    #[arg(short = 't', long)]
    pub(crate) test_conf: bool,
    /// Print the names of all statistics and what they count, and exit
    #[arg(short = 'D', long)]
    pub(crate) describe_stats: bool,
    /// Verbosity of the log, 0 (errors) to 11 (everything)
    #[arg(short = 'v', long, default_value_t = 5)]
    pub(crate) verbosity: u8,
    /// Log to this file instead of standard error
    #[arg(short = 'o', long)]
    pub(crate) output: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(short = 'p', long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Not built: the process stays in the foreground
    #[arg(short = 'd', long)]
    pub(crate) daemonize: bool,
    /// Accepted for compatibility, without effect
    #[arg(short = 'm', long)]
    pub(crate) mbuf_size: Option<u64>,
    /// Accepted for compatibility, without effect
    #[arg(short = 'M', long)]
    pub(crate) max_msgs: Option<u64>,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    pub(crate) version: Option<bool>,
}
