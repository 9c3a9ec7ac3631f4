//! `/info`, `/cluster_describe` and `/peers`.

use std::time::{SystemTime, UNIX_EPOCH};

use dynomite_engine::{LinkId, LinkReport, Now, Report};
use dynomite_protocol::received::Received;
use serde_json::{Map, Value, json};

use crate::admin::routes::pretty;

/// What `-D` prints.
pub(crate) const DESCRIPTIONS: &str = "\
client_connections            clients connected now
client_eof                    clients that closed their connection
client_err                    clients whose connection broke, or that sent no RESP
client_read_requests          reads that clients sent
client_write_requests         writes that clients sent
client_dropped_requests       requests refused because too many were in flight
client_in_flight              requests of clients without an answer now
client_non_quorum_r_responses reads that found no quorum
client_non_quorum_w_responses writes that found no quorum
dnode_client_connections      peers connected to this node now
dnode_client_eof              peers that closed their connection
dnode_client_err              peers whose connection broke, or that made no sense
peer_connections              peers this node is connected to now
peer_requests                 messages sent to peers
peer_responses                answers that came from peers
peer_timedout_requests        messages to peers that were not answered in time
peer_mismatch_requests        answers of peers in the wrong order
remote_peer_dropped_requests  writes for other datacenters that found no peer
remote_peer_failover_requests writes for other datacenters sent to another rack than the usual one
forward_error                 messages to peers that were not connected
fragments                     parts into which requests with many keys were cut
read_failover_requests        reads asked of another rack than the own one
missed_writes                 per link: writes of which nobody knows that the node executed them
held_writes                   writes held back by WRITES_ONLY now
held_writes_expired           held writes that were refused in the end
received                      by coordinator: the last number of its writes, and those that are missing here
missing_writes                numbered writes that did not reach this node
late_writes                   numbered writes refused because they had been given up before
";

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Resident memory in kilobytes, 0 where the system does not say.
pub(super) fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// Links of one kind, added up.
#[derive(Default)]
struct Sum {
    connected: u64,
    disconnects: u64,
    requests: u64,
    request_bytes: u64,
    responses: u64,
    response_bytes: u64,
    timeouts: u64,
    mismatches: u64,
    in_flight: usize,
    unsent: usize,
}

fn sum<'a>(links: impl Iterator<Item = &'a LinkReport>) -> Sum {
    links.fold(Sum::default(), |mut sum, link| {
        sum.connected += u64::from(link.connected);
        sum.disconnects += link.counters.disconnects;
        sum.requests += link.counters.requests;
        sum.request_bytes += link.counters.request_bytes;
        sum.responses += link.counters.responses;
        sum.response_bytes += link.counters.response_bytes;
        sum.timeouts += link.counters.timeouts;
        sum.mismatches += link.counters.mismatches;
        sum.in_flight += link.in_flight;
        sum.unsent += link.unsent_bytes;
        sum
    })
}

/// The JSON of `/info`: every name of the original, those of things that do not exist here as 0,
/// and below them our own.
pub(super) fn render(
    report: &Report<'_>,
    received: Option<&Received>,
    now: Now,
    pool: &str,
) -> String {
    let mut top = Map::new();
    let mut put = |name: &str, value: Value| {
        top.insert(name.to_owned(), value);
    };
    put("service", json!("dynomite"));
    put("source", json!(host_name()));
    put("version", json!(env!("CARGO_PKG_VERSION")));
    put("uptime", json!(now.since_start.as_secs()));
    put("timestamp", json!(unix_seconds()));
    put("rack", json!(report.settings.rack));
    put("dc", json!(report.settings.datacenter));
    for (name, histogram) in [
        ("latency", report.latency),
        ("payload_size", report.payload),
    ] {
        put(&format!("{name}_max"), json!(histogram.max()));
        put(&format!("{name}_999th"), json!(histogram.quantile(999)));
        put(&format!("{name}_99th"), json!(histogram.quantile(990)));
        put(&format!("{name}_95th"), json!(histogram.quantile(950)));
        put(&format!("{name}_mean"), json!(histogram.mean()));
    }
    for name in NOT_MEASURED {
        put(name, json!(0));
    }
    put("dyn_memory", json!(resident_kilobytes()));
    put("incarnation", json!(report.settings.incarnation));
    put("received", json!(received));
    put("missing_writes", json!(report.missing_writes));
    put("state", json!(report.state.name()));
    put("topology_known", json!(report.topology_known));
    put("client_in_flight", json!(report.client_in_flight));
    put("in_flight", json!(report.in_flight));
    put("in_flight_bytes", json!(report.in_flight_bytes));
    put("held_writes", json!(report.held_writes));
    put(
        "held_writes_expired",
        json!(report.counters.held_writes_expired),
    );
    put("seeds_applied", json!(report.counters.seeds_applied));
    put("token", json!(report.settings.token.0));
    let peers = report
        .links
        .iter()
        .filter(|link| link.peer.is_some() && link.connected);
    put("peers_connected", json!(peers.count()));
    put("peers", peers_value(report));
    put(pool, pool_value(report));
    pretty(&Value::Object(top))
}

const NOT_MEASURED: &[&str] = &[
    "average_cross_region_rtt",
    "99_cross_region_rtt",
    "average_cross_zone_latency",
    "99_cross_zone_latency",
    "average_server_latency",
    "99_server_latency",
    "average_cross_region_queue_wait",
    "99_cross_region_queue_wait",
    "average_cross_zone_queue_wait",
    "99_cross_zone_queue_wait",
    "average_server_queue_wait",
    "99_server_queue_wait",
    "client_out_queue_99",
    "server_in_queue_99",
    "server_out_queue_99",
    "dnode_client_out_queue_99",
    "peer_in_queue_99",
    "peer_out_queue_99",
    "remote_peer_out_queue_99",
    "remote_peer_in_queue_99",
    "alloc_msgs",
    "free_msgs",
    "alloc_mbufs",
    "free_mbufs",
];

fn pool_value(report: &Report<'_>) -> Value {
    let is_local = |link: &&LinkReport| {
        let peer = link.peer.as_ref();
        peer.is_some_and(|peer| peer.datacenter == report.settings.datacenter)
    };
    let is_remote = |link: &&LinkReport| link.peer.is_some() && !is_local(link);
    let local = sum(report.links.iter().filter(is_local));
    let remote = sum(report.links.iter().filter(is_remote));
    let counters = report.counters;
    let counted: &[(&str, u64)] = &[
        ("client_eof", counters.client_eof),
        ("client_err", counters.client_err),
        ("client_connections", report.clients as u64),
        ("client_read_requests", counters.client_read_requests),
        ("client_write_requests", counters.client_write_requests),
        ("client_dropped_requests", counters.client_dropped_requests),
        (
            "client_non_quorum_w_responses",
            counters.client_non_quorum_w_responses,
        ),
        (
            "client_non_quorum_r_responses",
            counters.client_non_quorum_r_responses,
        ),
        ("server_ejects", 0),
        ("dnode_client_eof", counters.dnode_client_eof),
        ("dnode_client_err", counters.dnode_client_err),
        ("dnode_client_connections", report.peer_sessions as u64),
        ("dnode_client_in_queue", 0),
        ("dnode_client_in_queue_bytes", 0),
        ("dnode_client_out_queue", 0),
        ("dnode_client_out_queue_bytes", 0),
        ("peer_dropped_requests", counters.forward_error),
        ("peer_timedout_requests", local.timeouts),
        (
            "remote_peer_dropped_requests",
            counters.remote_peer_dropped_requests,
        ),
        ("remote_peer_timedout_requests", remote.timeouts),
        (
            "remote_peer_failover_requests",
            counters.remote_peer_failover_requests,
        ),
        ("peer_eof", local.disconnects + remote.disconnects),
        ("peer_err", 0),
        ("peer_timedout", local.timeouts),
        ("remote_peer_timedout", remote.timeouts),
        ("peer_connections", local.connected + remote.connected),
        ("peer_forward_error", counters.forward_error),
        ("peer_requests", local.requests + remote.requests),
        (
            "peer_request_bytes",
            local.request_bytes + remote.request_bytes,
        ),
        ("peer_responses", local.responses + remote.responses),
        (
            "peer_response_bytes",
            local.response_bytes + remote.response_bytes,
        ),
        ("peer_ejected_at", 0),
        ("peer_ejects", 0),
        ("peer_in_queue", 0),
        ("remote_peer_in_queue", 0),
        ("peer_in_queue_bytes", local.unsent as u64),
        ("remote_peer_in_queue_bytes", remote.unsent as u64),
        ("peer_out_queue", local.in_flight as u64),
        ("remote_peer_out_queue", remote.in_flight as u64),
        ("peer_out_queue_bytes", 0),
        ("remote_peer_out_queue_bytes", 0),
        (
            "peer_mismatch_requests",
            local.mismatches + remote.mismatches,
        ),
        ("forward_error", counters.forward_error),
        ("fragments", counters.fragments),
        ("stats_count", 0),
        ("read_failover_requests", counters.read_failover_requests),
        ("late_writes", counters.late_writes),
    ];
    let mut pool: Map<String, Value> = counted
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    if let Some(store) = store(report) {
        pool.insert(store.endpoint.to_string(), store_value(report, store));
    }
    Value::Object(pool)
}

fn store<'a>(report: &'a Report<'_>) -> Option<&'a LinkReport> {
    report.links.iter().find(|link| link.id == LinkId::STORE)
}

fn store_value(report: &Report<'_>, store: &LinkReport) -> Value {
    json!({
        "server_eof": store.counters.disconnects,
        "server_err": 0,
        "server_timedout": report.counters.server_timedout_requests,
        "server_ejected_at": 0,
        "server_dropped_requests": report.counters.server_dropped_requests,
        "server_timedout_requests": report.counters.server_timedout_requests,
        "read_requests": report.store_requests.read_requests,
        "read_request_bytes": 0,
        "write_requests": report.store_requests.write_requests,
        "write_request_bytes": store.counters.request_bytes,
        "read_responses": store.counters.responses,
        "read_response_bytes": store.counters.response_bytes,
        "write_responses": 0,
        "write_response_bytes": 0,
        "in_queue": 0,
        "in_queue_bytes": store.unsent_bytes,
        "out_queue": store.in_flight,
        "out_queue_bytes": 0,
        "connected": store.connected,
        "missed_writes": store.counters.missed_writes,
    })
}

fn peers_value(report: &Report<'_>) -> Value {
    let peers = report.links.iter().filter_map(|link| {
        let peer = link.peer.as_ref()?;
        Some(json!({
            "host": peer.host,
            "port": peer.port,
            "rack": peer.rack,
            "dc": peer.datacenter,
            "token": peer.token.0,
            "connected": link.connected,
            "serving": link.serving,
            "in_flight": link.in_flight,
            "missed_writes": link.counters.missed_writes,
            "requests": link.counters.requests,
            "responses": link.counters.responses,
            "timeouts": link.counters.timeouts,
            "disconnects": link.counters.disconnects,
        }))
    });
    Value::Array(peers.collect())
}

/// The JSON of `/peers`.
pub(super) fn peers(report: &Report<'_>) -> String {
    let store = store(report);
    pretty(&json!({
        "incarnation": report.settings.incarnation,
        "state": report.state.name(),
        "topology_known": report.topology_known,
        "store": {
            "endpoint": store.map(|store| store.endpoint.to_string()),
            "connected": store.is_some_and(|store| store.connected),
            "missed_writes": store.map_or(0, |store| store.counters.missed_writes),
        },
        "peers": peers_value(report),
    }))
}

/// The JSON of `/cluster_describe`, in the shape of the original.
pub(super) fn describe(report: &Report<'_>) -> String {
    let server = |token: u32, id: LinkId| {
        let peer = report.links.iter().find(|link| link.id == id);
        let peer = peer.and_then(|link| link.peer.as_ref());
        let (host, port) = match peer {
            Some(peer) => (peer.host.as_str(), peer.port),
            None => (report.settings.host.as_str(), report.settings.port),
        };
        json!({"name": host, "host": host, "port": port, "token": token})
    };
    let datacenters: Vec<Value> = report
        .datacenters
        .iter()
        .map(|datacenter| {
            let racks: Vec<Value> = datacenter
                .racks
                .iter()
                .map(|rack| {
                    let servers: Vec<Value> = rack
                        .nodes
                        .iter()
                        .map(|(token, id)| server(token.0, *id))
                        .collect();
                    json!({"name": rack.name, "servers": servers})
                })
                .collect();
            json!({"name": datacenter.name, "racks": racks})
        })
        .collect();
    pretty(&json!({"dcs": datacenters}))
}
