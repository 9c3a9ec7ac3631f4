//! Dynomite-manager's REST, as far as it describes: what scripts and Dyno clients read.

use std::net::IpAddr;

use dynomite_api::contract::{
    NodeDesired, NodePhase, NodeReport, PORT_SECURE, PREFIX_ADMIN, ProofKind,
};
use dynomite_protocol::seeds::Seed;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{self, Answer, failure};
use crate::shared::View;

/// A path of the old REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admin {
    Seeds,
    ClusterDescribe,
    Status,
    Version,
    Consistency,
    Hashtag,
    Info,
}

/// The old paths that change something, in lower case: not at this port.
pub(super) const MUTATING: [&str; 9] = [
    "start",
    "stop",
    "startstorageprocess",
    "stopstorageprocess",
    "backup",
    "restore",
    "takesnapshot",
    "repair",
    "drain",
];

/// The old paths that describe, in lower case.
pub(super) const PATHS: [(&str, Admin); 7] = [
    ("get_seeds", Admin::Seeds),
    ("cluster_describe", Admin::ClusterDescribe),
    ("status", Admin::Status),
    ("version", Admin::Version),
    ("consistency", Admin::Consistency),
    ("hashtag", Admin::Hashtag),
    ("info", Admin::Info),
];

/// What the answers are made of.
pub(super) struct Ring<'a> {
    /// The desired document.
    pub(super) desired: &'a NodeDesired,
    /// The node's report.
    pub(super) report: &'a NodeReport,
    /// The other nodes, with their addresses as they are known now.
    pub(super) seeds: Vec<Seed>,
    /// This node's own address, if it knows it.
    pub(super) address: Option<IpAddr>,
    /// Where clients connect, on every node.
    pub(super) client_port: u16,
}

/// One node in `cluster_describe`; the manager wrote every field as text.
#[derive(Serialize)]
struct Described {
    token: String,
    hostname: String,
    port: String,
    secure_port: String,
    secure_storage_port: String,
    peer_port: String,
    rack: String,
    ip: String,
    zone: String,
    dc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashtag: Option<String>,
}

impl Admin {
    pub(super) fn of(name: &str) -> Option<Self> {
        let found = PATHS.iter().find(|(path, _)| *path == name);
        found.map(|&(_, admin)| admin)
    }

    /// Answers whoever asks, from this machine (`loopback`) or another.
    pub(super) fn answer(self, ring: &Ring<'_>, loopback: bool) -> Answer {
        let value = match self {
            Self::Seeds if loopback => return seeds(ring),
            Self::Seeds => {
                let remedy = "ask the node's own sidecar over loopback, or read cluster_describe";
                let error = "seeds are told to this node's engine only";
                return failure(StatusCode::FORBIDDEN, error, remedy);
            }
            Self::ClusterDescribe => json!(cluster_describe(ring)),
            Self::Status => status(ring),
            Self::Version => json!([ring.report.version]),
            Self::Consistency => json!({
                "read_consistency": ring.desired.consistency.read.name(),
                "write_consistency": ring.desired.consistency.write.name(),
            }),
            Self::Hashtag => json!({"hashtag": hashtag(ring).unwrap_or("none")}),
            Self::Info => json!(ring.report),
        };
        http::json(StatusCode::OK, &value)
    }
}

/// Where and how the paths that change something are called.
pub(super) fn refuse_mutating(view: &View) -> Answer {
    let desired = view.desired.as_deref();
    let (host, cluster) = desired.map_or(("the pod", "CLUSTER"), |desired| {
        (desired.node.host.as_str(), desired.cluster.name.as_str())
    });
    let remedy = format!(
        "call start, stop, startstorageprocess, stopstorageprocess, backup, takesnapshot and \
         restore at https://{host}:{PORT_SECURE}{PREFIX_ADMIN} with the client certificate of \
         Secret {cluster}-admin-tls; nothing is left for repair and drain to do"
    );
    let error = "this path needs credentials, and this port takes none";
    failure(StatusCode::FORBIDDEN, error, &remedy)
}

fn hashtag<'a>(ring: &'a Ring<'_>) -> Option<&'a str> {
    let tag = ring.desired.engine.settings.get("hash_tag");
    tag.map(String::as_str)
}

/// One line without an end, because Netflix's engine reads it up to the end of
/// the answer.
fn seeds(ring: &Ring<'_>) -> Answer {
    let seeds: Vec<String> = ring.seeds.iter().map(ToString::to_string).collect();
    http::text(StatusCode::OK, "text/plain; charset=utf-8", seeds.join("|"))
}

fn cluster_describe(ring: &Ring<'_>) -> Vec<Described> {
    let node = &ring.desired.node;
    let own = Seed {
        host: ring
            .address
            .map_or_else(|| node.host.clone(), |address| address.to_string()),
        port: dynomite_api::contract::PORT_PEER,
        rack: node.rack.clone(),
        datacenter: node.datacenter.clone(),
        token: dynomite_protocol::token::Token(node.token.0),
    };
    let peers = ring.desired.peers.iter().map(|peer| peer.host.clone());
    let others = peers.zip(&ring.seeds);
    std::iter::once((node.host.clone(), &own))
        .chain(others)
        .map(|(hostname, seed)| Described {
            token: seed.token.to_string(),
            hostname,
            port: ring.client_port.to_string(),
            // There is no other client port: a client that prefers it arrives.
            secure_port: ring.client_port.to_string(),
            secure_storage_port: ring.client_port.to_string(),
            peer_port: seed.port.to_string(),
            rack: seed.rack.clone(),
            ip: seed.host.clone(),
            // A rack is a zone, as it was for the manager.
            zone: seed.rack.clone(),
            dc: seed.datacenter.clone(),
            hashtag: hashtag(ring).map(str::to_owned),
        })
        .collect()
}

fn status(ring: &Ring<'_>) -> Value {
    let report = ring.report;
    let alive = |running: bool, answers: bool| running && answers;
    let dynomite = alive(report.engine_process.running, report.engine.is_some());
    let storage = alive(report.store_process.running, report.store.is_some());
    let never = json!({"status": "not started", "time": ""});
    let mut status = json!({
        "warmup": {"status": warm_up(report), "time": report.since.to_string()},
        "backup": never.clone(),
        "restore": never,
        "consistency": {
            "read": ring.desired.consistency.read.name(),
            "write": ring.desired.consistency.write.name(),
        },
        "health": {
            "dynomiteAlive": dynomite,
            "storageAlive": storage,
            "Overall": report.ready,
        },
        "tokens": ring.desired.node.token.to_string(),
        "storage engine": "Redis",
    });
    if let Some(tag) = hashtag(ring) {
        status["hashtag"] = json!(tag);
    }
    status
}

/// In the manager's words.
fn warm_up(report: &NodeReport) -> &'static str {
    if report.warm_up.is_some() {
        "pending"
    } else if report.proof.kind == ProofKind::WarmUp {
        "completed"
    } else if report.phase == NodePhase::Failed {
        "failed: error in warmup"
    } else {
        "not started"
    }
}
