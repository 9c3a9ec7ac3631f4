//! Every decision of the operator as pure functions: what is wanted and what is seen go in, a plan and a status come out.
//!
//! ```text
//! DynomiteCluster --Cluster::new--> Cluster --+
//!                                             +--plan--> Plan { actions, waits }
//! lists, node reports ----> Observed ---------+             |
//!                                                           | the operator acts
//!                                             status <--- Outcome
//! ```
//!
//! No client, no clock, no randomness: the time is an argument. The operator
//! remembers no progress, so each function works from the first moment of a
//! cluster as from any later one.

mod backup;
mod blocker;
mod bucket;
mod calls;
#[cfg(test)]
mod chains;
mod cluster;
mod compare;
mod comparison;
mod levels;
mod objects;
mod observed;
mod ownership;
mod plan;
#[cfg(test)]
mod properties;
mod quantity;
mod remotes;
mod restore;
mod ring;
pub mod safety;
mod settings;
mod status;
mod steps;
mod tokens;
mod wait;
#[cfg(test)]
mod world;

pub use backup::{Due, backups_need_stores, due};
pub use bucket::{Answers, Asked, DIR_BACKUPS, question};
pub use cluster::{Cluster, Defaults, Rack, Violation, Violations};
pub use levels::{Behind, Levels};
pub use observed::{
    Claims, HOST_LABELS, KubernetesNode, Observed, ResizeRefused, Scratch, SecretFacts, Seen,
    VolumeFacts,
};
pub use ownership::{is_ours, other_ring};
pub use plan::{
    Action, AsSeen, ByContainer, Certificates, EventKind, Failure, Kind, Object, Outcome, Plan,
    Planned, Resources, StepName, Waiting,
};
pub use remotes::{
    DescribeUrl, Described, REMOTE_NODES_MAX, Remote, is_unreachable, read_description,
};
pub use ring::{Node, Ring};
pub use settings::Fault;
pub use status::{invalid_status, status};
pub use steps::plan;
pub use tokens::{RECORD_KEY, Tokens};
pub use wait::Wait;
