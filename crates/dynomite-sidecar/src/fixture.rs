//! A node that serves, for tests to change as they need.

pub(crate) mod store;

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use dynomite_api::Token;
use dynomite_api::contract::{
    ClusterRef, Consistency, DIR_DATA, DIR_RUN, DIR_TLS, Donor, EngineFacts, EngineSettings,
    EngineState, HealthSettings, NodeDesired, NodeIdentity, NodePhase, NodeReport, PORT_PEER,
    PORT_SECURE, Peer, ProcessFacts, Proof, ProofKind, StoreFacts, StoreSettings,
};
use jiff::Timestamp;

use crate::shared::{Ports, Site, View};

/// The node's name.
pub(crate) const NODE: &str = "ring-dc1-a-0";

/// The domain of the ring's nodes.
pub(crate) const DOMAIN: &str = "ring-nodes.default.svc.cluster.local";

pub(crate) fn site() -> Site {
    Site {
        run_dir: PathBuf::from(DIR_RUN),
        data_dir: PathBuf::from(DIR_DATA),
        tls_dir: PathBuf::from(DIR_TLS),
        listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        address: None,
        ports: Ports::default(),
        node: NODE.to_owned(),
        pod_uid: "uid".to_owned(),
    }
}

pub(crate) fn desired() -> NodeDesired {
    NodeDesired {
        cluster: ClusterRef {
            namespace: "default".to_owned(),
            name: "ring".to_owned(),
            uid: "cluster".to_owned(),
            created: None,
        },
        cluster_generation: 1,
        generation: 1,
        node: NodeIdentity {
            name: NODE.to_owned(),
            pod_uid: "uid".to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "dc1-a".to_owned(),
            token: Token(1_383_429_731),
            host: format!("{NODE}.{DOMAIN}"),
        },
        peers: vec![
            peer("dc1-a", 1, 3_530_913_378),
            peer("dc1-b", 0, 1_383_429_731),
        ],
        donors: vec![donor("ring-dc1-b-0")],
        grant: None,
        copy_not_before: None,
        snapshot: None,
        restore: None,
        compare: None,
        distrust: None,
        hold: None,
        serve: true,
        consistency: Consistency::default(),
        engine: EngineSettings {
            timeout_ms: 5000,
            ..EngineSettings::default()
        },
        store: StoreSettings::default(),
        health: HealthSettings::default(),
    }
}

/// Node `index` of a rack, at 10.0.0.`index`.
pub(crate) fn peer(rack: &str, index: u8, token: u32) -> Peer {
    Peer {
        host: format!("ring-{rack}-{index}.{DOMAIN}"),
        address: Some(format!("10.0.0.{index}")),
        port: PORT_PEER,
        datacenter: "dc1".to_owned(),
        rack: rack.to_owned(),
        token: Token(token),
    }
}

pub(crate) fn donor(name: &str) -> Donor {
    Donor {
        name: name.to_owned(),
        host: format!("{name}.{DOMAIN}"),
        address: None,
        port: PORT_SECURE,
    }
}

pub(crate) fn report() -> NodeReport {
    let process = ProcessFacts {
        running: true,
        starts: 1,
        last_exit: String::new(),
    };
    NodeReport {
        phase: NodePhase::Serving,
        ready: true,
        proof: Proof {
            kind: ProofKind::Bootstrap,
            since: None,
            exact: None,
            before: true,
            remembered: None,
        },
        store: Some(StoreFacts {
            keys: 42,
            used_memory_bytes: 1 << 20,
            ..StoreFacts::default()
        }),
        engine: Some(EngineFacts {
            state: EngineState::Normal,
            incarnation: String::new(),
            version: "0.1.0".to_owned(),
            uptime_seconds: 7,
            peers_connected: None,
            received: None,
        }),
        store_process: process.clone(),
        engine_process: process,
        ..NodeReport::new(NODE, "uid", "0.1.0", Timestamp::UNIX_EPOCH)
    }
}

pub(crate) fn view() -> View {
    let desired = desired();
    View {
        report: report(),
        seeds: desired.peers.clone().into(),
        desired: Some(Arc::new(desired)),
        started: true,
        ready: true,
        live: true,
        donor: None,
        donates: true,
        store_socket: site().store_socket(),
        operator_heard_at: None,
    }
}

/// The stores that `DYNOMITE_STORES` names, or else those of this machine.
pub(crate) fn stores() -> Vec<PathBuf> {
    if let Some(named) = env::var_os("DYNOMITE_STORES") {
        return env::split_paths(&named).collect();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |name: &&str| {
        let mut all = env::split_paths(&path).map(|directory| directory.join(name));
        all.find(|server| server.is_file())
    };
    let servers: Vec<PathBuf> = ["redis-server", "valkey-server"]
        .iter()
        .filter_map(found)
        .collect();
    if servers.is_empty() {
        println!("no store on this machine: set DYNOMITE_STORES");
    }
    servers
}
