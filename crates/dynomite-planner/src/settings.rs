//! Which settings a running node can take, and which need its processes to start again.

use dynomite_api::contract::Settings;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::compare;

/// Lines of a store's configuration that Redis and Valkey read only when they
/// start. A line that is missing here is still not lost: the node reports it as
/// waiting for a restart.
const STORE_RESTART: &[&str] = &[
    "aclfile",
    "always-show-logo",
    "aof_rewrite_cpulist",
    "aof-rewrite-cpulist",
    "appenddirname",
    "appendfilename",
    "bgsave_cpulist",
    "bgsave-cpulist",
    "bio_cpulist",
    "bio-cpulist",
    "databases",
    "disable-thp",
    "enable-debug-command",
    "enable-module-command",
    "enable-protected-configs",
    "io-threads",
    "io-threads-do-reads",
    "server_cpulist",
    "server-cpulist",
    "set-proc-title",
    "socket-mark-id",
    "syslog-enabled",
    "syslog-facility",
    "syslog-ident",
    "tcp-backlog",
];

/// Whether a setting that a node reports as waiting for a restart is one whose
/// change makes a pod of another revision: the change was asked for with its
/// restart. Such a pod is new and came up with what its volume remembered.
pub(crate) fn restart_is_decided(reported: &str) -> bool {
    match reported.split_once('.') {
        Some(("dynomite", _)) => true,
        Some(("store", key)) => key == "persistence" || is_read_at_start(key),
        _ => false,
    }
}

fn is_read_at_start(key: &str) -> bool {
    STORE_RESTART.contains(&key.to_ascii_lowercase().as_str())
}

/// Everything whose change makes a pod of another revision.
#[derive(Serialize)]
struct NeedsRestart<'a> {
    engine_timeout_ms: u32,
    engine: &'a Settings,
    store: Settings,
}

/// A digest of the settings that need a restart: the engine's all, for it reads
/// its file once, and the store's that are known to.
pub(crate) fn restart_digest(cluster: &Cluster) -> String {
    let store = &cluster.store.settings;
    compare::digest(&NeedsRestart {
        engine_timeout_ms: cluster.engine.timeout_ms,
        engine: &cluster.engine.settings,
        store: store
            .iter()
            .filter(|(key, _)| is_read_at_start(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    })
}
