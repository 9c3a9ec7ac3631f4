//! What is known of a node's data while it is exchanged: old, new, none, or neither for sure.
//!
//! Before the first node loads, the status writes down the proof of every node, and
//! nobody copies anybody from then on. From what is written, the node's own word
//! decides:
//!
//! | the node                    | its proof                  | data                  |
//! |-----------------------------|----------------------------|-----------------------|
//! | is gone, or goes silently   |                            | none                  |
//! | cannot be asked             |                            | unknown               |
//! | answers                     | none, and remembers none   | none                  |
//! | answers                     | is written down            | old                   |
//! | answers                     | only remembered            | unknown               |
//! | answers                     | by a load                  | new                   |
//! | answers                     | by a copy or a permission  | of those that count:  |
//! |                             |                            | old, from the commit on new |
//!
//! A sidecar that starts anew remembers a proof until it has compared it with what
//! runs; a proof that is written down is of old data even then. At the commit those
//! that have not loaded are written down once more, and so is a node that has gone
//! back to what it had: what is written is of old data whatever it came by.

use dynomite_api::contract::{NodeReport, ProofKind};
use dynomite_api::crd::{DynomiteRestoreStatus, RestoreNodeStatus};
use jiff::Timestamp;

use crate::ring::Node;

/// What is known of a node's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// What the ring had before the restore.
    Old,
    /// What the restore brought.
    New,
    /// None that counts; what it gets will be told by its proof.
    None,
    /// It may have either: nobody copies it, and nobody takes it for lost.
    Unknown,
}

/// What is known of a node's data.
pub(super) fn data(status: &DynomiteRestoreStatus, node: &Node<'_>) -> Data {
    let is_written = proof_now(node).is_some_and(|proof| status.nodes.contains(&proof));
    let report = node.report.as_ref().ok().copied();
    let committed = status.committed_at.is_some();
    judge(report, node.may_be_proven(), is_written, committed)
}

/// The table; `runs` says whether a node that cannot be asked may have data at all.
pub(super) fn judge(
    report: Option<&NodeReport>,
    runs: bool,
    is_written: bool,
    committed: bool,
) -> Data {
    let Some(report) = report else {
        return if runs { Data::Unknown } else { Data::None };
    };
    if since(report).is_none() {
        return Data::None;
    }
    match report.proof.kind {
        _ if is_written => Data::Old,
        ProofKind::Unproven => Data::Unknown,
        ProofKind::Restored => Data::New,
        _ if committed => Data::New,
        _ => Data::Old,
    }
}

/// Since when a node's data is proven, by a proof that it has or remembers.
pub(super) fn since(report: &NodeReport) -> Option<Timestamp> {
    report.proof.since.or(report.proof.remembered)
}

/// The proof of a node's data that it has or remembers.
pub(super) fn proof_now(node: &Node<'_>) -> Option<RestoreNodeStatus> {
    let since = since(node.report.as_ref().ok()?)?;
    Some(RestoreNodeStatus {
        node: node.name.clone(),
        pod_uid: node.pod_uid().to_owned(),
        proof_since: since.to_string(),
    })
}

/// Writes down that the proof a node has now is of old data.
pub(super) fn write_down(status: &mut DynomiteRestoreStatus, node: &Node<'_>) {
    if let Some(proof) = proof_now(node) {
        status.nodes.retain(|known| known.node != proof.node);
        status.nodes.push(proof);
    }
}

/// Since when the old data of a node's pod is proven, by what is written down.
pub(super) fn written(status: &DynomiteRestoreStatus, node: &Node<'_>) -> Option<Timestamp> {
    let of_pod =
        |known: &&RestoreNodeStatus| known.node == node.name && known.pod_uid == node.pod_uid();
    status.nodes.iter().find(of_pod)?.proof_since.parse().ok()
}
