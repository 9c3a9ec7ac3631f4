//! The files the node's two processes read, made from the desired document.
//!
//! Text from a resource reaches a file only as a value: `dynomite.yml` is
//! written by a YAML library, every argument of the store's configuration is
//! quoted. Settings that decide where a process listens, what it replicates or
//! where it keeps its files belong to the operator and are refused.

mod engine;
mod store;

pub(crate) use engine::engine_conf;
pub(crate) use store::{Directive, store_conf, store_directives};

use thiserror::Error;

/// Why a file cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum RenderError {
    /// A setting that the operator decides.
    #[error("{file} setting {key:?} belongs to the operator: remove it ({instead})")]
    Owned {
        /// The part of the spec it stands in: `dynomite` or `store`.
        file: &'static str,
        /// The setting.
        key: String,
        /// What decides it, or why it is not to be had.
        instead: &'static str,
    },
    /// A setting that the program would not start with.
    #[error("{file} setting {key:?} is unknown: remove it or correct its name")]
    Unknown {
        /// The part of the spec it stands in.
        file: &'static str,
        /// The setting.
        key: String,
    },
    /// A value of the wrong kind.
    #[error("{file} setting {key:?} cannot be {value:?}: give {want}")]
    Value {
        /// The part of the spec it stands in.
        file: &'static str,
        /// The setting.
        key: String,
        /// What was given.
        value: String,
        /// What would be right.
        want: &'static str,
    },
}

#[cfg(test)]
mod fixture {
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::PathBuf;

    use dynomite_api::Token;
    use dynomite_api::contract::{
        ClusterRef, Consistency, DIR_DATA, DIR_RUN, DIR_TLS, EngineSettings, HealthSettings,
        NodeDesired, NodeIdentity, StoreSettings,
    };

    use crate::shared::{Ports, Site};

    pub(super) fn site() -> Site {
        Site {
            run_dir: PathBuf::from(DIR_RUN),
            data_dir: PathBuf::from(DIR_DATA),
            tls_dir: PathBuf::from(DIR_TLS),
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            local: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            node: "ring-dc1-a-0".to_owned(),
            pod_uid: "uid".to_owned(),
        }
    }

    pub(super) fn desired() -> NodeDesired {
        NodeDesired {
            cluster: ClusterRef {
                namespace: "default".to_owned(),
                name: "ring".to_owned(),
                uid: "cluster".to_owned(),
            },
            cluster_generation: 1,
            generation: 1,
            node: NodeIdentity {
                name: "ring-dc1-a-0".to_owned(),
                pod_uid: "uid".to_owned(),
                datacenter: "dc1".to_owned(),
                rack: "dc1-a".to_owned(),
                token: Token(1_383_429_731),
                host: "ring-dc1-a-0.ring-nodes.default.svc.cluster.local".to_owned(),
            },
            peers: Vec::new(),
            donors: Vec::new(),
            grant: None,
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
}
