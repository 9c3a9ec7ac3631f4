//! What a snapshot is, without IO: reading and re-sharding RDB streams, manifest, object layout,
//! catalog and retention, compression and encryption.
//!
//! Everything takes bytes in whatever pieces they come and holds a bounded part of them. Times,
//! random suffixes, keys and salts are arguments.

pub mod catalog;
pub mod commands;
pub mod digest;
pub mod envelope;
pub mod filter;
pub mod fit;
pub mod layout;
pub mod limits;
pub mod manager;
pub mod manifest;
pub mod ownership;
pub mod rdb;
pub mod transfer;
