//! The admin port: the paths of Netflix's engine, and a few of our own.

mod cut;
mod info;
mod metrics;
mod routes;
mod server;

pub(crate) use cut::{made, refused};
pub(crate) use info::DESCRIPTIONS;
pub(crate) use routes::{Answer, Asked, Reply, answer};
pub(crate) use server::serve;
