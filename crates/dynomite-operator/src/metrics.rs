//! What `/metrics` shows: the operator's own work, and one line per fact of each cluster.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dynomite_api::crd::{ConditionType, DynomiteClusterStatus, NodeStatus, condition};
use dynomite_api::exposition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::index::ClusterKey;

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    api_errors: Family<ApiError, Counter>,
    watch_errors: Family<Watch, Counter>,
    writes: Family<Write, Counter>,
    leader: Gauge,
    waiting: Gauge,
    ready: Family<ClusterLabels, Gauge>,
    available: Family<ClusterLabels, Gauge>,
    nodes: Family<ClusterLabels, Gauge>,
    nodes_ready: Family<ClusterLabels, Gauge>,
    headroom: Family<ClusterLabels, Gauge>,
    warming_up: Family<ClusterLabels, Gauge>,
    behind: Family<ClusterLabels, Gauge>,
    remotes_known: Family<ClusterLabels, Gauge>,
    backup_healthy: Family<ClusterLabels, Gauge>,
    backup_completed: Family<ClusterLabels, Gauge>,
    backup_verified: Family<ClusterLabels, Gauge>,
    findings: Family<FindingLabels, Gauge>,
    copied: Family<NodeLabels, Gauge<f64, AtomicU64>>,
    lag: Family<NodeLabels, Gauge>,
    /// The lines of each cluster that come and go.
    passing: Mutex<BTreeMap<ClusterKey, Passing>>,
    spent: Family<Spent, Counter<f64, AtomicU64>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiError {
    step: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Watch {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    step: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClusterLabels {
    namespace: String,
    cluster: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FindingLabels {
    namespace: String,
    cluster: String,
    reason: String,
}

/// Of a node, while it copies.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    namespace: String,
    cluster: String,
    node: String,
}

/// What is shown of a cluster only while it holds.
#[derive(Default)]
struct Passing {
    findings: Vec<FindingLabels>,
    copies: Vec<NodeLabels>,
}

/// How many kinds of findings of a cluster are shown at most: the words come
/// from sidecars, whichever these are.
const FINDINGS_MAX: usize = 32;
/// The finding of a node that has missed writes.
const BEHIND: &str = "NodeBehind";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Spent {
    namespace: String,
    cluster: String,
    part: &'static str,
}

/// What a pass spent on its own work and calls.
const PART_OWN: &str = "own";
/// What a pass spent waiting for the nodes' reports.
const PART_NODES: &str = "nodes";

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("dynomite"),
            reconciles: Family::default(),
            // From 1 ms to 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            api_errors: Family::default(),
            watch_errors: Family::default(),
            writes: Family::default(),
            leader: Gauge::default(),
            waiting: Gauge::default(),
            ready: Family::default(),
            available: Family::default(),
            nodes: Family::default(),
            nodes_ready: Family::default(),
            headroom: Family::default(),
            warming_up: Family::default(),
            behind: Family::default(),
            remotes_known: Family::default(),
            backup_healthy: Family::default(),
            backup_completed: Family::default(),
            backup_verified: Family::default(),
            findings: Family::default(),
            copied: Family::default(),
            lag: Family::default(),
            passing: Mutex::default(),
            spent: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let of_operator = self.registry.sub_registry_with_prefix("operator");
        of_operator.register(
            "reconciles",
            "Reconciles by outcome",
            self.reconciles.clone(),
        );
        of_operator.register_with_unit(
            "reconcile_duration",
            "How long one reconcile took",
            Unit::Seconds,
            self.duration.clone(),
        );
        of_operator.register(
            "errors",
            "Calls that failed, by step of the reconcile and reason",
            self.api_errors.clone(),
        );
        of_operator.register(
            "watch_errors",
            "Watches that had to be tried again, by kind",
            self.watch_errors.clone(),
        );
        of_operator.register(
            "actions",
            "Actions carried out, by step of the plan",
            self.writes.clone(),
        );
        of_operator.register("leader", "1 while this operator leads", self.leader.clone());
        of_operator.register(
            "queue",
            "Clusters that wait to be looked at",
            self.waiting.clone(),
        );
        let of_cluster = self.registry.sub_registry_with_prefix("cluster");
        of_cluster.register("ready", "1 while every node is ready", self.ready.clone());
        of_cluster.register(
            "available",
            "1 while every token can be served at the configured consistency",
            self.available.clone(),
        );
        of_cluster.register("nodes", "Nodes the ring should have", self.nodes.clone());
        of_cluster.register("nodes_ready", "Nodes that serve", self.nodes_ready.clone());
        of_cluster.register(
            "token_headroom",
            "Replicas that the scarcest token may still lose; negative when too many are lost",
            self.headroom.clone(),
        );
        of_cluster.register(
            "nodes_warming_up",
            "Nodes that copy the data of a replica",
            self.warming_up.clone(),
        );
        of_cluster.register(
            "nodes_behind",
            "Nodes that have missed writes which a replica has",
            self.behind.clone(),
        );
        of_cluster.register(
            "remotes_known",
            "Whether every datacenter elsewhere that has a describing URL answers there",
            self.remotes_known.clone(),
        );
        of_cluster.register(
            "backup_healthy",
            "Whether the backup that ended last is good",
            self.backup_healthy.clone(),
        );
        of_cluster.register(
            "backup_last_completed_seconds",
            "When the last backup was completed, Unix time; 0 before the first",
            self.backup_completed.clone(),
        );
        of_cluster.register(
            "backup_last_verified_seconds",
            "When a backup was last loaded into a store and right, Unix time; 0 before the first",
            self.backup_verified.clone(),
        );
        of_cluster.register(
            "findings",
            "Nodes with which something is wrong, by its reason",
            self.findings.clone(),
        );
        of_cluster.register(
            "warm_up_progress_ratio",
            "How much of its first copy a node has, while it copies",
            self.copied.clone(),
        );
        of_cluster.register_with_unit(
            "warm_up_lag",
            "What a node that copies has still to apply of the writes since its copy began",
            Unit::Bytes,
            self.lag.clone(),
        );
        of_cluster.register_with_unit(
            "reconcile",
            "Time spent in passes over the cluster, by part: waiting for the reports of its nodes, and all else",
            Unit::Seconds,
            self.spent.clone(),
        );
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Adds what a pass over a cluster took, and how much of it was waiting for
    /// the reports of its nodes.
    pub fn spent(&self, key: &ClusterKey, took: Duration, asking: Duration) {
        for (part, time) in [
            (PART_OWN, took.saturating_sub(asking)),
            (PART_NODES, asking),
        ] {
            self.spent
                .get_or_create(&Spent::of(key, part))
                .inc_by(time.as_secs_f64());
        }
    }

    /// Counts a call that failed.
    pub fn call_failed(&self, step: &'static str, reason: &str) {
        let reason = reason.to_owned();
        self.api_errors
            .get_or_create(&ApiError { step, reason })
            .inc();
    }

    /// Counts a watch that failed.
    pub fn watch_failed(&self, kind: String) {
        self.watch_errors.get_or_create(&Watch { kind }).inc();
    }

    /// Counts an action that was carried out.
    pub fn acted(&self, step: &'static str) {
        self.writes.get_or_create(&Write { step }).inc();
    }

    /// Says whether this operator leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Says how many clusters wait to be looked at.
    pub fn queued(&self, waiting: usize) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Takes over what the status of a cluster says.
    pub fn cluster(&self, key: &ClusterKey, status: &DynomiteClusterStatus) {
        let labels = ClusterLabels::of(key);
        let is = |of| condition(&status.conditions, of).is_some_and(|c| c.status == "True");
        let set = |family: &Family<ClusterLabels, Gauge>, value: i64| {
            family.get_or_create(&labels).set(value);
        };
        set(&self.ready, i64::from(is(ConditionType::Ready)));
        set(&self.available, i64::from(is(ConditionType::Available)));
        let nodes = || status.racks.iter().flat_map(|rack| &rack.nodes);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        set(&self.nodes, count(nodes().count()));
        set(
            &self.nodes_ready,
            count(nodes().filter(|node| node.ready).count()),
        );
        if let Some(least) = status.tokens.iter().map(|token| token.headroom).min() {
            set(&self.headroom, i64::from(least));
        }
        let copies = nodes().filter(|node| node.warm_up.is_some()).count();
        set(&self.warming_up, count(copies));
        let is_behind = |node: &&NodeStatus| node.findings.iter().any(|f| f.reason == BEHIND);
        set(&self.behind, count(nodes().filter(is_behind).count()));
        if condition(&status.conditions, ConditionType::RemotesKnown).is_some() {
            set(
                &self.remotes_known,
                i64::from(is(ConditionType::RemotesKnown)),
            );
        } else {
            self.remotes_known.remove(&labels);
        }
        if let Some(backup) = &status.backup {
            let last = backup.last_completed_at.as_ref();
            set(
                &self.backup_healthy,
                i64::from(is(ConditionType::BackupHealthy)),
            );
            set(
                &self.backup_completed,
                last.map_or(0, |at| at.0.as_second()),
            );
            let proven = backup.last_verified_at.as_ref();
            set(
                &self.backup_verified,
                proven.map_or(0, |at| at.0.as_second()),
            );
        } else {
            self.backup_healthy.remove(&labels);
            self.backup_completed.remove(&labels);
            self.backup_verified.remove(&labels);
        }
        self.show_passing(key, status);
    }

    /// Shows what holds now of a cluster, and no more what held before.
    fn show_passing(&self, key: &ClusterKey, status: &DynomiteClusterStatus) {
        let mut passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = passing.remove(key).unwrap_or_default();
        let mut now = Passing::default();
        let mut reasons: BTreeMap<&str, i64> = BTreeMap::new();
        for node in status.racks.iter().flat_map(|rack| &rack.nodes) {
            for finding in &node.findings {
                *reasons.entry(&finding.reason).or_default() += 1;
            }
            let Some(copy) = &node.warm_up else { continue };
            let labels = NodeLabels {
                namespace: key.namespace.clone(),
                cluster: key.name.clone(),
                node: node.name.clone(),
            };
            let share = f64::from(copy.percent.unwrap_or(0)) / 100.0;
            self.copied.get_or_create(&labels).set(share);
            let lag = copy.lag_bytes.and_then(|lag| i64::try_from(lag).ok());
            self.lag.get_or_create(&labels).set(lag.unwrap_or(0));
            now.copies.push(labels);
        }
        for (reason, nodes) in reasons.into_iter().take(FINDINGS_MAX) {
            let labels = FindingLabels {
                namespace: key.namespace.clone(),
                cluster: key.name.clone(),
                reason: reason.to_owned(),
            };
            self.findings.get_or_create(&labels).set(nodes);
            now.findings.push(labels);
        }
        self.hide(&before, &now);
        if !(now.copies.is_empty() && now.findings.is_empty()) {
            passing.insert(key.clone(), now);
        }
    }

    fn hide(&self, before: &Passing, now: &Passing) {
        for labels in before.findings.iter().filter(|l| !now.findings.contains(l)) {
            self.findings.remove(labels);
        }
        for labels in before.copies.iter().filter(|l| !now.copies.contains(l)) {
            self.copied.remove(labels);
            self.lag.remove(labels);
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &ClusterKey) {
        let labels = ClusterLabels::of(key);
        for family in [
            &self.ready,
            &self.available,
            &self.nodes,
            &self.nodes_ready,
            &self.headroom,
            &self.warming_up,
            &self.behind,
            &self.remotes_known,
            &self.backup_healthy,
            &self.backup_completed,
            &self.backup_verified,
        ] {
            family.remove(&labels);
        }
        self.show_passing(key, &DynomiteClusterStatus::default());
        for part in [PART_OWN, PART_NODES] {
            self.spent.remove(&Spent::of(key, part));
        }
    }

    /// All metrics in the text format of Prometheus.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(exposition::classic(&text))
    }
}

impl ClusterLabels {
    fn of(key: &ClusterKey) -> Self {
        Self {
            namespace: key.namespace.clone(),
            cluster: key.name.clone(),
        }
    }
}

impl Spent {
    fn of(key: &ClusterKey, part: &'static str) -> Self {
        Self {
            namespace: key.namespace.clone(),
            cluster: key.name.clone(),
            part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_gone_leaves_no_line_behind() {
        let metrics = Metrics::default();
        let key = ClusterKey {
            namespace: "db".into(),
            name: "ring".into(),
        };
        metrics.cluster(&key, &DynomiteClusterStatus::default());
        metrics.reconciled("ok", Duration::from_millis(3));
        metrics.spent(&key, Duration::from_millis(750), Duration::from_millis(250));
        let text = metrics.text().expect("text");
        assert!(text.contains(r#"dynomite_cluster_ready{namespace="db",cluster="ring"} 0"#));
        assert!(text.contains(r#"dynomite_operator_reconciles_total{outcome="ok"} 1"#));
        let of_ring = r#"namespace="db",cluster="ring""#;
        for (part, seconds) in [("own", "0.5"), ("nodes", "0.25")] {
            let line = format!(
                r#"dynomite_cluster_reconcile_seconds_total{{{of_ring},part="{part}"}} {seconds}"#
            );
            assert!(text.contains(&line), "{text}");
        }
        metrics.forget(&key);
        assert!(!metrics.text().expect("text").contains("ring"));
    }

    #[test]
    fn what_passes_is_shown_while_it_holds() {
        let metrics = Metrics::default();
        let key = ClusterKey {
            namespace: "db".into(),
            name: "ring".into(),
        };
        let status: DynomiteClusterStatus = serde_json::from_value(serde_json::json!({
            "racks": [{"name": "a", "nodes": [{
                "name": "ring-a-0", "token": 1, "ready": false,
                "warmUp": {"donor": "ring-b-0", "stage": "Copying", "attempt": 1,
                    "percent": 25, "lagBytes": 7},
                "findings": [{"reason": "NodeBehind", "message": "m"}],
            }]}],
        }))
        .expect("a status");
        metrics.cluster(&key, &status);
        let text = metrics.text().expect("text");
        let of_node = r#"{namespace="db",cluster="ring",node="ring-a-0"}"#;
        for line in [
            format!("dynomite_cluster_warm_up_progress_ratio{of_node} 0.25"),
            format!("dynomite_cluster_warm_up_lag_bytes{of_node} 7"),
            r#"dynomite_cluster_findings{namespace="db",cluster="ring",reason="NodeBehind"} 1"#
                .to_owned(),
            r#"dynomite_cluster_nodes_behind{namespace="db",cluster="ring"} 1"#.to_owned(),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
        metrics.cluster(&key, &DynomiteClusterStatus::default());
        let text = metrics.text().expect("text");
        assert!(!text.contains("ring-a-0") && !text.contains("reason=\"NodeBehind\""));
    }
}
