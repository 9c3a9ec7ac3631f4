//! What a person asks of the ring by one of the old REST calls, on its way to the operator and back.
//!
//! A node makes no backup and no restore by itself. It shows the call in its
//! report for as long as the caller waits, and hands on what the operator answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Calls of one node that wait at a time; more are refused.
pub const MAX_CALLS: usize = 8;

/// A call that waits for the operator's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Tells it from every other call of any node.
    pub id: String,
    /// What is asked for.
    pub wish: Wish,
    /// The common name of the caller's certificate.
    pub by: String,
    /// When it came, by the node's clock.
    pub at: Timestamp,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Wish {
    /// A backup of the ring.
    Backup {
        /// The name of its `DynomiteBackup`; the operator's choice when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A restore of the ring.
    Restore {
        /// What to restore, in the words of
        /// [`ANNOTATION_RESTORE`](crate::annotations::ANNOTATION_RESTORE).
        from: String,
    },
}

/// The operator's answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallAnswer {
    /// [`Call::id`].
    pub id: String,
    /// What became of it.
    pub outcome: CallOutcome,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum CallOutcome {
    /// An object does what was asked for, by its status.
    Made {
        /// Its kind: `DynomiteBackup` or `DynomiteRestore`.
        object: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It is not done.
    Refused {
        /// Why, with what the caller can do.
        why: String,
    },
}
