//! The old REST calls that ask for a backup or a restore: what becomes of each, by what is there.
//!
//! ```text
//!  report: call ──▶ no object of it ──▶ make one ──▶ next pass: it is there ──▶ answer the node
//!                ├▶ one under way that does the same ───────────────────────▶ answer the node
//!                └▶ it cannot be done ──────────────────────────────────────▶ answer the node
//! ```
//!
//! An object carries the id of its call, so a call that is seen again, by this
//! operator or another, is the same object. A node takes a call back when its
//! caller has gone or was answered.

use dynomite_api::annotations::ANNOTATION_CALL;
use dynomite_api::contract::{Call, CallAnswer, CallOutcome, Wish};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::backup;
use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::plan::{Action, EventKind};
use crate::restore;
use crate::ring::{Node, Ring};
use crate::steps::Step;

/// What is to be done about a call.
pub(crate) enum Reply {
    /// To make its object, and to look again.
    Make(Action),
    /// To say that this object does it.
    There {
        /// Its kind.
        object: &'static str,
        /// Its name.
        name: String,
    },
    /// To say why it is not done.
    Refused(String),
}

/// Answers the calls that wait at the nodes, oldest first.
pub(crate) fn answer(cluster: &Cluster, observed: &Observed, ring: &Ring<'_>, step: &mut Step) {
    let mut made = false;
    for (node, call) in waiting(ring) {
        let reply = match &call.wish {
            _ if cluster.deleting => Reply::Refused("the cluster is being deleted".to_owned()),
            _ if cluster.spec.backup.is_none() => Reply::Refused(
                "the cluster has no spec.backup, which says where backups lie".to_owned(),
            ),
            Wish::Backup { name } => backup::called(cluster, observed, ring, call, name.as_deref()),
            Wish::Restore { from } => restore::called(cluster, observed, call, from),
        };
        match reply {
            // One in a pass: the next call may be answered by the same object.
            Reply::Make(_) if made => {}
            Reply::Make(action) => {
                step.act(action, "a person asks for it by REST");
                made = true;
            }
            Reply::There { object, name } => {
                let (by, at) = (&call.by, &node.name);
                let message = format!("{object} {name} is there, as {by} asks by REST at {at}");
                let namespace = cluster.id.namespace.clone();
                let reason = match call.wish {
                    Wish::Backup { .. } => "BackupRequested",
                    Wish::Restore { .. } => "RestoreRequested",
                };
                let outcome = CallOutcome::Made {
                    object: object.to_owned(),
                    namespace,
                    name,
                };
                say(node, call, outcome, step);
                let event = Action::Event {
                    kind: EventKind::Normal,
                    reason,
                    message,
                };
                step.act(event, "a person asked by REST");
            }
            Reply::Refused(why) => say(node, call, CallOutcome::Refused { why }, step),
        }
    }
}

/// Whether somebody waits for an answer about a restore: what could end while the
/// wish for it still stands would be done again.
pub(crate) fn asks_for_restore(ring: &Ring<'_>) -> bool {
    waiting(ring).any(|(_, call)| matches!(call.wish, Wish::Restore { .. }))
}

/// Whether an object was made for this call.
pub(crate) fn is_of(metadata: &ObjectMeta, call: &Call) -> bool {
    let of = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(ANNOTATION_CALL));
    of == Some(&call.id)
}

/// Marks an object as made for this call.
pub(crate) fn mark(metadata: &mut ObjectMeta, call: &Call) {
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_CALL.to_owned(), call.id.clone());
}

fn waiting<'r>(ring: &'r Ring<'_>) -> impl Iterator<Item = (&'r Node<'r>, &'r Call)> {
    let mut all: Vec<(&Node<'_>, &Call)> = Vec::new();
    for node in ring.nodes.iter().chain(&ring.leaving) {
        if let Ok(report) = &node.report {
            all.extend(report.calls.iter().map(|call| (node, call)));
        }
    }
    all.sort_by(|(_, a), (_, b)| (a.at, &a.id).cmp(&(b.at, &b.id)));
    all.into_iter()
}

fn say(node: &Node<'_>, call: &Call, outcome: CallOutcome, step: &mut Step) {
    let Some(address) = node.address() else {
        return;
    };
    let answer = Action::AnswerCall {
        node: node.name.clone(),
        pod_uid: node.pod_uid().to_owned(),
        address: address.to_owned(),
        answer: Box::new(CallAnswer {
            id: call.id.clone(),
            outcome,
        }),
    };
    step.act(answer, "a person waits for it");
}
