//! Which settings a running node can take, which need its processes to start again, and which nobody could run with.

use dynomite_api::contract::{Settings, check_directive};
use dynomite_api::crd::DynomiteClusterSpec;
use serde::Serialize;

use crate::cluster::{Cluster, Defaults};
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

/// What the lines look like that a store reads only when it starts: nobody could
/// ask a running one whether it would take them.
const STORE_RESTART_VALUES: &[(&str, Shape)] = &[
    ("always-show-logo", Shape::Switch),
    ("databases", Shape::Number),
    ("disable-thp", Shape::Switch),
    ("io-threads", Shape::Number),
    ("io-threads-do-reads", Shape::Switch),
    ("set-proc-title", Shape::Switch),
    ("socket-mark-id", Shape::Number),
    ("tcp-backlog", Shape::Number),
];

#[derive(Clone, Copy)]
enum Shape {
    Number,
    Switch,
}

/// A setting of a resource with which no process would start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `dynomite.settings` or `store.settings`.
    pub of: &'static str,
    /// The setting's name.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// The settings that are known to be wrong without asking anybody. Whether the
/// engine would take a key is known of ours only; a store is asked by its sidecar.
pub(crate) fn faults(spec: &DynomiteClusterSpec, defaults: &Defaults) -> Vec<Fault> {
    let ours = spec.dynomite.image.is_none() && defaults.engine_image == defaults.sidecar_image;
    let engine = spec.dynomite.settings.iter().filter(|_| ours);
    let engine = engine.filter_map(|(name, value)| {
        let why = check_directive(name, value).err()?.to_string();
        Some(("dynomite.settings", name, why))
    });
    let store = spec.store.settings.iter().filter_map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        let (_, shape) = STORE_RESTART_VALUES.iter().find(|(key, _)| *key == lower)?;
        let (right, wanted) = match shape {
            Shape::Number => (value.parse::<u32>().is_ok(), "a whole number"),
            Shape::Switch => (["yes", "no"].contains(&value.as_str()), "yes or no"),
        };
        let why = format!("its value must be {wanted}, not {value:?}");
        (!right).then_some(("store.settings", name, why))
    });
    let fault = |(of, name, why): (_, &String, _)| Fault {
        of,
        name: name.clone(),
        why,
    };
    engine.chain(store).map(fault).collect()
}

/// Settings without those that are known to be wrong.
pub(crate) fn without(faults: &[Fault], of: &str, settings: &Settings) -> Settings {
    let wrong = |name: &String| faults.iter().any(|f| f.of == of && f.name == *name);
    let right = settings.iter().filter(|(name, _)| !wrong(name));
    right.map(|(k, v)| (k.clone(), v.clone())).collect()
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
