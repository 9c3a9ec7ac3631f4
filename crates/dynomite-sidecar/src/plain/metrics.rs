//! The node's facts for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use dynomite_api::contract::{EngineState, NodePhase, ProofKind};
use dynomite_api::exposition;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::shared::View;
use crate::tunnel::Traffic;

type Labels = Vec<(&'static str, String)>;

const PHASES: [NodePhase; 8] = [
    NodePhase::Starting,
    NodePhase::Restoring,
    NodePhase::WarmingUp,
    NodePhase::CatchingUp,
    NodePhase::Serving,
    NodePhase::Held,
    NodePhase::Draining,
    NodePhase::Failed,
];

const STATES: [EngineState; 5] = [
    EngineState::Standby,
    EngineState::WritesOnly,
    EngineState::Resuming,
    EngineState::Normal,
    EngineState::Other,
];

/// The metrics of this moment. A fact that is unknown has no sample: zero would
/// be a lie.
pub(super) fn text(view: &View, traffic: &Traffic, now: Instant) -> String {
    let mut page = Page(Registry::with_prefix("dynomite"));
    page.node(view, now);
    page.processes(view);
    page.store(view);
    page.engine(view);
    page.copies(view, traffic);
    page.comparison(view);
    let mut text = String::new();
    if encode(&mut text, &page.0).is_err() {
        // Writing to a string cannot fail; a comment says so if it does.
        let _ = writeln!(text, "# incomplete");
    }
    exposition::classic(&text)
}

/// Builds the page; what it says lasts for one answer.
struct Page(Registry);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register_with_unit(name, help, Unit::Bytes, gauge);
    }

    fn seconds(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register_with_unit(name, help, Unit::Seconds, gauge);
    }

    fn family(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn node(&mut self, view: &View, now: Instant) {
        let report = &view.report;
        if let Some(desired) = &view.desired {
            let node = &desired.node;
            let labels = vec![
                ("cluster", desired.cluster.name.clone()),
                ("node", report.node.clone()),
                ("datacenter", node.datacenter.clone()),
                ("rack", node.rack.clone()),
                ("token", node.token.to_string()),
                ("version", report.version.clone()),
            ];
            self.family("node_info", "Who the node is", [(labels, 1)]);
            let help = "Number of the desired document the node holds";
            self.gauge("node_desired_generation", help, desired.generation);
        }
        let help = "Whether the node may get client traffic";
        self.gauge("node_ready", help, view.ready.into());
        let help = "Whether the node's data is known to be whole";
        let proven = report.proof.kind != ProofKind::Unproven;
        self.gauge("node_proven", help, proven.into());
        let phases = PHASES.map(|phase| {
            let labels = vec![("phase", format!("{phase:?}"))];
            (labels, u64::from(report.phase == phase))
        });
        self.family("node_phase", "Where the node is in its life", phases);
        let help = "Settings that wait for a restart of their process";
        let waiting = report.restart_required.len() as u64;
        self.gauge("node_restart_required_settings", help, waiting);
        let help = "What is wrong with the node, and how often it has tried its remedy";
        let findings = report.findings.iter().map(|finding| {
            let labels = vec![("reason", finding.reason.clone())];
            (labels, u64::from(finding.remedies))
        });
        self.family("node_finding_remedies", help, findings);
        if let Some(heard) = view.operator_heard_at {
            let help = "Time since the operator last spoke";
            let silence = now.saturating_duration_since(heard).as_secs();
            self.seconds("operator_silence", help, silence);
        }
    }

    fn comparison(&mut self, view: &View) {
        let Some(compare) = &view.report.compare else {
            return;
        };
        let repaired = Counter::<u64>::default();
        repaired.inc_by(compare.repaired_here);
        let help =
            "Keys of the own store that were replaced because most replicas had another value";
        self.0.register("compare_keys_repaired", help, repaired);
        let Some(last) = &compare.last else {
            return;
        };
        let found = &last.found;
        let keys = [
            ("compared", found.compared),
            ("skipped", found.skipped),
            ("different", found.different),
            ("left", found.left),
        ];
        let keys = keys.map(|(what, count)| (vec![("found", what.to_owned())], count));
        let help = "Keys of the comparison that this node led last";
        self.family("compare_last_keys", help, keys);
        if let (Some(at), None) = (last.finished_at, &last.broken) {
            let at = u64::try_from(at.as_second()).unwrap_or_default();
            let help = "When it was finished, Unix time";
            self.seconds("compare_last_finished", help, at);
        }
    }

    fn processes(&mut self, view: &View) {
        let report = &view.report;
        let processes = [
            ("store", &report.store_process),
            ("engine", &report.engine_process),
        ];
        let labelled = |name: &str| vec![("process", name.to_owned())];
        let running = processes.map(|(name, facts)| (labelled(name), facts.running.into()));
        self.family("process_running", "Whether the process runs", running);
        let starts = Family::<Labels, Counter>::default();
        for (name, facts) in processes {
            starts.get_or_create(&labelled(name)).inc_by(facts.starts);
        }
        let help = "How often the process was started in this pod";
        self.0.register("process_starts", help, starts);
    }

    fn store(&mut self, view: &View) {
        let Some(store) = &view.report.store else {
            return;
        };
        self.gauge("store_keys", "Keys of database 0", store.keys);
        let help = "Whether the store still loads its files";
        self.gauge("store_loading", help, store.loading.into());
        let help = "Memory the store uses";
        self.bytes("store_memory_used", help, store.used_memory_bytes);
        let help = "Memory the store may use; 0 is unlimited";
        self.bytes("store_memory_limit", help, store.max_memory_bytes);
        let help = "How far the store's replication stream has come";
        self.bytes("store_replication_offset", help, store.replication_offset);
        let help = "Whether the store complained when it was last asked";
        let complains = store.complaint.is_some();
        self.gauge("store_complaining", help, complains.into());
    }

    fn engine(&mut self, view: &View) {
        let Some(engine) = &view.report.engine else {
            return;
        };
        let states = STATES.map(|state| {
            let labels = vec![("state", format!("{state:?}"))];
            (labels, u64::from(engine.state == state))
        });
        self.family("engine_state", "The engine's state", states);
        let help = "Time since the engine started";
        self.seconds("engine_uptime", help, engine.uptime_seconds);
        if let Some(peers) = engine.peers_connected {
            let help = "Peers the engine is connected to";
            self.gauge("engine_peers_connected", help, peers.into());
        }
    }

    fn copies(&mut self, view: &View, traffic: &Traffic) {
        if let Some(progress) = &view.report.warm_up {
            let help = "Which attempt to warm up this is";
            self.gauge("warm_up_attempt", help, progress.attempt.into());
            let help = "How much of the first copy has arrived";
            self.bytes("warm_up_copied", help, progress.bytes_done);
            if let Some(lag) = progress.lag_bytes {
                let help = "Replication stream still to apply";
                self.bytes("warm_up_lag", help, lag);
            }
        }
        let ways = [
            (
                "replication_received",
                "Copied from donors",
                &traffic.received,
            ),
            ("replication_sent", "Copied to peers", &traffic.sent),
        ];
        for (name, help, count) in ways {
            let counter = Counter::<u64>::default();
            counter.inc_by(count.load(Ordering::Relaxed));
            self.0.register_with_unit(name, help, Unit::Bytes, counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynomite_api::contract::{Finding, WarmUpProgress, WarmUpStage};
    use jiff::Timestamp;

    use super::*;
    use crate::fixture;

    fn samples(view: &View, now: Instant) -> Vec<String> {
        let text = text(view, &Traffic::default(), now);
        assert!(text.ends_with('\n') && !text.contains("# EOF"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn facts_have_names_and_units() {
        let mut view = fixture::view();
        let now = Instant::now();
        view.operator_heard_at = Some(now);
        view.report.findings = vec![Finding {
            reason: "StoreHangs".to_owned(),
            message: String::new(),
            since: Timestamp::UNIX_EPOCH,
            remedies: 2,
        }];
        view.report.warm_up = Some(WarmUpProgress {
            donor: "ring-dc1-b-0".to_owned(),
            stage: WarmUpStage::Following,
            started_at: Timestamp::UNIX_EPOCH,
            attempt: 2,
            bytes_done: 5,
            bytes_total: None,
            bytes_total_estimated: false,
            bytes_per_second: None,
            seconds_left: None,
            lag_bytes: Some(9),
        });
        let samples = samples(&view, now + Duration::from_secs(4));
        for want in [
            "dynomite_node_ready 1",
            "dynomite_node_proven 1",
            "dynomite_node_phase{phase=\"Serving\"} 1",
            "dynomite_node_phase{phase=\"Failed\"} 0",
            "dynomite_node_desired_generation 1",
            "dynomite_operator_silence_seconds 4",
            "dynomite_process_running{process=\"store\"} 1",
            "dynomite_process_starts_total{process=\"engine\"} 1",
            "dynomite_store_keys 42",
            "dynomite_store_memory_used_bytes 1048576",
            "dynomite_engine_state{state=\"Normal\"} 1",
            "dynomite_engine_uptime_seconds 7",
            "dynomite_node_finding_remedies{reason=\"StoreHangs\"} 2",
            "dynomite_warm_up_attempt 2",
            "dynomite_warm_up_lag_bytes 9",
            "dynomite_replication_sent_bytes_total 0",
        ] {
            assert!(
                samples.iter().any(|line| line == want),
                "{want}: {samples:#?}"
            );
        }
        let info = samples.iter().find(|line| line.contains("node_info"));
        assert!(info.unwrap().contains("token=\"1383429731\""), "{info:?}");
    }

    #[test]
    fn what_is_unknown_is_not_zero() {
        let mut view = fixture::view();
        view.report.store = None;
        view.report.engine = None;
        view.desired = None;
        let samples = samples(&view, Instant::now());
        for absent in [
            "store_keys",
            "engine_state",
            "warm_up",
            "silence",
            "node_info",
        ] {
            assert!(
                !samples.iter().any(|line| line.contains(absent)),
                "{absent}"
            );
        }
    }
}
