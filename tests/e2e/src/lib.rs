//! What the end-to-end tests share: the cluster they run on, namespaces, waiting for conditions.

pub mod chaos;
pub mod client;
pub mod cluster;
pub mod data;
pub mod disk;
pub mod ended;
pub mod endpoints;
pub mod harm;
pub mod load;
pub mod namespace;
pub mod operator;
pub mod person;
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
pub use person::Person;
pub use ring::Ring;
pub use shared::SharedRing;
pub use storage::ObjectStorage;
pub use wait::wait_for;

/// Whether this is a run with `--long`. A test that is part of such a run only
/// says so and ends.
pub fn long() -> bool {
    let long = std::env::var_os("DYNOMITE_TEST_LONG").is_some();
    if !long {
        println!("the rest of it, or all of it, only with --long");
    }
    long
}
