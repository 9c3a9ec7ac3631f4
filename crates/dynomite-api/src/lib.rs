//! The languages of this project: the custom resources people write and the contract operator and sidecar speak.
//!
//! Nothing in here does IO. The [`contract`] is plain data for everyone; the
//! custom resources are behind the feature `crd`, so that the sidecar carries
//! no Kubernetes types.

pub mod annotations;
pub mod contract;
#[cfg(feature = "crd")]
pub mod crd;
pub mod exposition;
mod token;

pub use token::{Token, TokenError};
