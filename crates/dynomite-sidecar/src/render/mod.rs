//! The files the node's two processes read, made from the desired document.
//!
//! Text from a resource reaches a file only as a value: `dynomite.yml` is
//! written by a YAML library, every argument of the store's configuration is
//! quoted. Settings that decide where a process listens, what it replicates or
//! where it keeps its files belong to the operator and are refused.

mod engine;
mod store;

pub(crate) use engine::engine_conf;
pub(crate) use store::{scratch_conf, store_conf};

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
