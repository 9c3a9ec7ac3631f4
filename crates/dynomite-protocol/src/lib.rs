//! Dynomite's own languages, without IO: hashes, tokens, rings, RESP, the peer protocol,
//! `dynomite.yml` and seeds lists.
//!
//! Everything here is a pure function or an incremental parser over bytes that somebody else
//! received. Nothing allocates by a size that a peer merely declared: buffers grow with the bytes
//! that arrived, and every parser takes its [`limits`] as an argument.

pub mod config;
pub mod consistency;
pub mod dnode;
pub mod hash;
pub mod limits;
pub mod received;
pub mod replication;
pub mod resp;
pub mod seeds;
pub mod token;
pub mod topology;
