//! What the end-to-end tests share: the cluster they run on, namespaces, waiting for conditions.

pub mod cluster;
pub mod namespace;
pub mod wait;

pub use cluster::{Cluster, Output};
pub use namespace::Namespace;
pub use wait::wait_for;
