//! What the end-to-end tests share: the cluster they run on, namespaces, waiting for conditions.

pub mod chaos;
pub mod client;
pub mod cluster;
pub mod data;
pub mod ended;
pub mod endpoints;
pub mod harm;
pub mod load;
pub mod namespace;
pub mod operator;
pub mod ring;
pub mod shared;
pub mod storage;
pub mod trouble;
pub mod wait;

pub use cluster::{Cluster, Output};
pub use endpoints::EndpointWatch;
pub use load::{Load, Tally};
pub use namespace::Namespace;
pub use operator::Operator;
pub use ring::Ring;
pub use shared::SharedRing;
pub use storage::ObjectStorage;
pub use wait::wait_for;
