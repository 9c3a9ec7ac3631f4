//! Rings of several engines in memory, with stores that know a few commands.

mod chaos;
mod cut;
mod failover;
mod numbers;
mod quorum;
mod replication;
mod sessions;
mod states;
mod store;
mod topology;
mod world;
