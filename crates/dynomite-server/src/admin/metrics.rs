//! `/metrics`: the same numbers for Prometheus.

use std::fmt::Write as _;

use dynomite_engine::{Now, Report};

use crate::admin::info::resident_kilobytes;

fn family(out: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
    // Writing to memory does not fail.
    let _ = writeln!(
        out,
        "# HELP dynomite_{name} {help}\n# TYPE dynomite_{name} {kind}"
    );
    for (labels, value) in samples {
        let _ = writeln!(out, "dynomite_{name}{labels} {value}");
    }
}

fn one(value: u64) -> [(String, u64); 1] {
    [(String::new(), value)]
}

fn size(value: usize) -> [(String, u64); 1] {
    one(value as u64)
}

/// The text of `/metrics`.
pub(super) fn render(report: &Report<'_>, now: Now) -> String {
    let mut out = String::new();
    let out = &mut out;
    let counters = report.counters;
    family(
        out,
        "uptime_seconds",
        "gauge",
        "Time since the start.",
        &one(now.since_start.as_secs()),
    );
    family(
        out,
        "resident_memory_bytes",
        "gauge",
        "Resident memory.",
        &one(resident_kilobytes() * 1024),
    );
    family(
        out,
        "clients",
        "gauge",
        "Connected clients.",
        &size(report.clients),
    );
    family(
        out,
        "client_in_flight",
        "gauge",
        "Requests of clients without an answer.",
        &size(report.client_in_flight),
    );
    family(
        out,
        "held_writes",
        "gauge",
        "Writes held back by WRITES_ONLY.",
        &size(report.held_writes),
    );
    numbers(out, report);
    let requests = [
        (
            "{access=\"read\"}".to_owned(),
            counters.client_read_requests,
        ),
        (
            "{access=\"write\"}".to_owned(),
            counters.client_write_requests,
        ),
    ];
    family(
        out,
        "client_requests_total",
        "counter",
        "Requests of clients.",
        &requests,
    );
    let no_quorum = [
        (
            "{access=\"read\"}".to_owned(),
            counters.client_non_quorum_r_responses,
        ),
        (
            "{access=\"write\"}".to_owned(),
            counters.client_non_quorum_w_responses,
        ),
    ];
    family(
        out,
        "no_quorum_total",
        "counter",
        "Requests that found no quorum.",
        &no_quorum,
    );
    family(
        out,
        "read_failovers_total",
        "counter",
        "Reads asked of another rack.",
        &one(counters.read_failover_requests),
    );
    family(
        out,
        "fragments_total",
        "counter",
        "Parts of requests with many keys.",
        &one(counters.fragments),
    );
    let states: Vec<(String, u64)> = ["STANDBY", "WRITES_ONLY", "RESUMING", "NORMAL"]
        .iter()
        .map(|name| {
            (
                format!("{{state=\"{name}\"}}"),
                u64::from(report.state.name() == *name),
            )
        })
        .collect();
    family(
        out,
        "state",
        "gauge",
        "1 for the state the node is in.",
        &states,
    );
    let latency: Vec<(String, u64)> = [(500, "0.5"), (950, "0.95"), (990, "0.99"), (999, "0.999")]
        .iter()
        .map(|(per_mille, name)| {
            (
                format!("{{quantile=\"{name}\"}}"),
                report.latency.quantile(*per_mille),
            )
        })
        .chain([
            ("_sum".to_owned(), report.latency.sum()),
            ("_count".to_owned(), report.latency.count()),
        ])
        .collect();
    family(
        out,
        "latency_microseconds",
        "summary",
        "Time from request to answer.",
        &latency,
    );
    links(out, report);
    std::mem::take(out)
}

/// What the numbers of writes tell. By coordinator there would be no end of labels.
fn numbers(out: &mut String, report: &Report<'_>) {
    family(
        out,
        "missing_writes",
        "gauge",
        "Numbered writes that did not reach this node.",
        &one(report.missing_writes),
    );
    family(
        out,
        "late_writes_total",
        "counter",
        "Numbered writes refused because they had been given up before.",
        &one(report.counters.late_writes),
    );
    family(
        out,
        "coordinators",
        "gauge",
        "Coordinators whose writes are counted here, those gone for less than a day included.",
        &size(report.sources),
    );
}

fn links(out: &mut String, report: &Report<'_>) {
    let labels: Vec<String> = report
        .links
        .iter()
        .map(|link| match &link.peer {
            None => "{link=\"store\"}".to_owned(),
            Some(peer) => format!(
                "{{link=\"peer\",dc=\"{}\",rack=\"{}\",token=\"{}\",host=\"{}\"}}",
                peer.datacenter, peer.rack, peer.token, peer.host
            ),
        })
        .collect();
    let mut per_link =
        |name: &str, kind: &str, help: &str, value: fn(&dynomite_engine::LinkReport) -> u64| {
            let samples: Vec<_> = labels
                .iter()
                .cloned()
                .zip(report.links.iter().map(value))
                .collect();
            family(out, name, kind, help, &samples);
        };
    per_link(
        "link_connected",
        "gauge",
        "Whether the link is connected.",
        |link| u64::from(link.connected),
    );
    per_link(
        "link_serving",
        "gauge",
        "Whether the other side serves.",
        |link| u64::from(link.serving),
    );
    per_link(
        "link_in_flight",
        "gauge",
        "Messages without an answer.",
        |link| link.in_flight as u64,
    );
    per_link("link_requests_total", "counter", "Messages sent.", |link| {
        link.counters.requests
    });
    per_link(
        "link_missed_writes_total",
        "counter",
        "Writes not known to be executed.",
        |link| link.counters.missed_writes,
    );
    per_link(
        "link_timeouts_total",
        "counter",
        "Messages not answered in time.",
        |link| link.counters.timeouts,
    );
}
