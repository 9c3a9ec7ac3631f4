//! What a restore means for the document of each node: held or not, what to load, whose data counts no longer.

use dynomite_api::contract::{Distrust, Hold, HoldStore, NodeReport, RestoreGoal, RestoreOrder};
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RestorePhase, RestoreTokenStatus};

use super::known::{Data, data, since, written};
use super::source::Pinned;
use super::{View, active, chosen, concerns, phase, uid};
use crate::backup::order_limit;
use crate::ring::{Node, Ring};

/// What a restore adds to a node's document, and keeps out of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// Whether a restore decides of the node's data now: then nothing else does,
    /// no permission, no comparison with other nodes.
    pub(crate) decides: bool,
    /// That the node stays out of service.
    pub(crate) hold: Option<Hold>,
    /// What it loads.
    pub(crate) order: Option<RestoreOrder>,
    /// The proof that counts no longer.
    pub(crate) distrust: Option<Distrust>,
    /// From whom it may copy, by name; anybody when absent.
    pub(crate) donors: Option<Vec<String>>,
    /// Whether what its volume has may be accepted all the same: by a person, or
    /// where it is all there is.
    pub(crate) may_accept: bool,
}

/// What the active restore means for a node. `None` when that cannot be known
/// now: then its document stays as it is.
pub(crate) fn terms(view: &View<'_>, node: &Node<'_>, report: &NodeReport) -> Option<Terms> {
    let Some(restore) = active(view.cluster, view.observed) else {
        return Some(Terms::default());
    };
    let phase = phase(restore);
    let Some(status) = &restore.status else {
        return Some(Terms::default());
    };
    if !concerns(restore, status, node) {
        return Some(Terms::default());
    }
    let mut terms = Terms {
        decides: (RestorePhase::Holding..=RestorePhase::RollingBack).contains(&phase),
        ..Terms::default()
    };
    let goal = goal(view.ring, status, phase, node);
    if let Some(goal) = goal {
        terms.order = Some(order(view, restore, status, node, goal)?);
    }
    if !terms.decides {
        return Some(terms);
    }
    terms.hold = stays_out(view, status, phase, node).then(|| Hold {
        why: format!(
            "DynomiteRestore {} exchanges the ring's data",
            restore.metadata.name.as_deref().unwrap_or_default()
        ),
        store: HoldStore::Running,
        ring: true,
    });
    let is_lost = |token: &RestoreTokenStatus| token.state == "Lost" && token.node == node.name;
    terms.may_accept = phase == RestorePhase::Leveling && status.tokens.iter().any(is_lost);
    let counts = match phase {
        RestorePhase::Leveling => Some(Data::New),
        RestorePhase::RollingBack => Some(Data::Old),
        // Nobody copies what is about to be replaced.
        _ => None,
    };
    let whole = view.ring.holders(node.token);
    let whole = whole.filter(|other| Some(data(status, other)) == counts && other.may_be_proven());
    terms.donors = Some(whole.map(|other| other.name.clone()).collect());
    let distrust = |proof_since, why: &str| Distrust {
        pod_uid: node.pod_uid().to_owned(),
        proof_since,
        why: why.to_owned(),
    };
    match phase {
        // By what is written down, not by what it says now: a sidecar that starts
        // anew may find again the proof of which it says nothing yet.
        RestorePhase::Leveling => {
            let why = "another node has loaded the backup that replaces it";
            terms.distrust = written(status, node).map(|since| distrust(since, why));
        }
        RestorePhase::RollingBack if data(status, node) == Data::Old => {
            let left = left_held(view.ring, node, report);
            terms.distrust = left.filter(|_| terms.hold.is_none());
        }
        RestorePhase::RollingBack if goal.is_none() => {
            let why = "the restore that brought it was given up";
            terms.distrust = since(report).map(|since| distrust(since, why));
        }
        _ => {}
    }
    Some(terms)
}

/// A node that is still held with its ring while a replica serves lacks what that has taken.
pub(crate) fn left_held(ring: &Ring<'_>, node: &Node<'_>, report: &NodeReport) -> Option<Distrust> {
    let mut others = ring
        .holders(node.token)
        .filter(|other| other.name != node.name);
    let lacks = node.held() && report.reason == "Held" && others.any(Node::ready);
    Some(Distrust {
        pod_uid: node.pod_uid().to_owned(),
        proof_since: report.proof.since.filter(|_| lacks)?,
        why: "it was held while a replica served".to_owned(),
    })
}

/// How far a node goes with the restore.
fn goal(
    ring: &Ring<'_>,
    status: &DynomiteRestoreStatus,
    phase: RestorePhase,
    node: &Node<'_>,
) -> Option<RestoreGoal> {
    let token = chosen(status, node)?;
    match phase {
        RestorePhase::Staging | RestorePhase::Holding => Some(RestoreGoal::Stage),
        RestorePhase::Loading => Some(RestoreGoal::Load),
        // One that serves its new data needs no word and no bucket any more.
        RestorePhase::Leveling => {
            let done = matches!(token.state.as_str(), "Loaded" | "Lost");
            (!done).then_some(RestoreGoal::Load)
        }
        RestorePhase::RollingBack => {
            let back = reverts(ring, status, token) && data(status, node) != Data::Old;
            back.then_some(RestoreGoal::Revert)
        }
        _ => None,
    }
}

/// Whether the node of a token goes back to what it has saved, because no other
/// had its data when the restore began.
pub(super) fn reverts(
    ring: &Ring<'_>,
    status: &DynomiteRestoreStatus,
    token: &RestoreTokenStatus,
) -> bool {
    let had = |name: &str| status.nodes.iter().any(|known| known.node == name);
    let others = ring.holders(token.token);
    let kept_elsewhere = others
        .filter(|node| node.name != token.node)
        .any(|node| had(&node.name));
    had(&token.node) && !kept_elsewhere
}

/// Whether a node stays out of service.
fn stays_out(
    view: &View<'_>,
    status: &DynomiteRestoreStatus,
    phase: RestorePhase,
    node: &Node<'_>,
) -> bool {
    let mut tokens = status.tokens.iter();
    let token = tokens.find(|token| token.token == node.token);
    match phase {
        RestorePhase::Holding | RestorePhase::Loading => true,
        // A ring that has never served has no donors that serve: it is copied
        // while it is held. One whose only new data was lost waits for it.
        RestorePhase::Leveling => {
            view.ring.served_since.is_none() || token.is_some_and(|t| t.state != "Loaded")
        }
        RestorePhase::RollingBack => token.is_some_and(|token| {
            let back = reverts(view.ring, status, token) && token.state != "Reverted";
            back && data(status, node) != Data::Old
        }),
        _ => false,
    }
}

fn order(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &DynomiteRestoreStatus,
    node: &Node<'_>,
    goal: RestoreGoal,
) -> Option<RestoreOrder> {
    let token = chosen(status, node)?;
    let pinned: Pinned = serde_json::from_str(&token.load).ok()?;
    let place = crate::bucket::place(view.cluster, view.observed, &status.store);
    Some(RestoreOrder {
        pod_uid: node.pod_uid().to_owned(),
        restore: uid(restore).to_owned(),
        attempt: token.attempt,
        goal,
        place: place.unwrap_or(pinned.place),
        parts: pinned.parts,
        keep: pinned.keep,
        bytes_per_second: order_limit(view.cluster),
        save_previous: view.ring.served_since.is_some() && reverts(view.ring, status, token),
    })
}
