//! What a restore means for the document of each node: held or not, what to load, whose data counts no longer.

use dynomite_api::contract::{Distrust, Hold, HoldStore, NodeReport, RestoreGoal, RestoreOrder};
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RestorePhase, RestoreTokenStatus};

use super::follow::restored;
use super::source::{NoSource, source};
use super::{View, active, chosen, is_old, phase, uid};
use crate::quantity;
use crate::ring::{Node, Ring};
use crate::steps::Step;

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
    terms.hold = holds(view, status, phase, node).then(|| Hold {
        why: format!(
            "DynomiteRestore {} exchanges the ring's data",
            restore.metadata.name.as_deref().unwrap_or_default()
        ),
        store: HoldStore::Running,
        ring: true,
    });
    let counts = match phase {
        // Nobody copies what is about to be replaced.
        RestorePhase::Holding | RestorePhase::Loading => {
            terms.donors = Some(Vec::new());
            return Some(terms);
        }
        RestorePhase::Leveling => {
            |status: &DynomiteRestoreStatus, node: &Node<'_>| !is_old(status, node)
        }
        _ => |status: &DynomiteRestoreStatus, node: &Node<'_>| !restored(status, node),
    };
    let whole = view.ring.holders(node.token);
    // Of one that cannot be asked nobody knows which data it has.
    let known = |other: &Node<'_>| other.report.is_ok() && other.may_be_proven();
    let whole = whole.filter(|other| known(other) && counts(status, other));
    terms.donors = Some(whole.map(|other| other.name.clone()).collect());
    let goes_back = goal == Some(RestoreGoal::Revert);
    // By what is written down, not by what it says now: a sidecar that starts
    // anew says nothing of its proof until it has found it again.
    let mut written = status.nodes.iter();
    let known = written.find(|known| known.node == node.name && known.pod_uid == node.pod_uid());
    let since = if phase == RestorePhase::Leveling {
        known.and_then(|known| known.proof_since.parse().ok())
    } else {
        report.proof.since.filter(|_| !counts(status, node))
    };
    if !goes_back {
        terms.distrust = since.map(|since| Distrust {
            pod_uid: node.pod_uid().to_owned(),
            proof_since: since,
            why: if phase == RestorePhase::Leveling {
                "another node has loaded the backup that replaces it".to_owned()
            } else {
                "the restore that brought it was given up".to_owned()
            },
        });
    }
    if phase == RestorePhase::RollingBack && terms.hold.is_none() && terms.distrust.is_none() {
        terms.distrust = left_held(view.ring, node, report);
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
        RestorePhase::Leveling => (token.state != "Loaded").then_some(RestoreGoal::Load),
        RestorePhase::RollingBack => {
            let back = reverts(ring, status, token) && !is_old(status, node);
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
    let others = ring
        .holders(token.token)
        .filter(|node| node.name != token.node);
    let names: Vec<&str> = others.map(|node| node.name.as_str()).collect();
    let had = |node: &str| status.nodes.iter().any(|known| known.node == node);
    !names.iter().any(|name| had(name)) && had(&token.node)
}

fn holds(
    view: &View<'_>,
    status: &DynomiteRestoreStatus,
    phase: RestorePhase,
    node: &Node<'_>,
) -> bool {
    match phase {
        RestorePhase::Holding | RestorePhase::Loading => true,
        // A ring that has never served has no donors that serve: it is copied
        // while it is held. One whose only new data was lost waits for it.
        RestorePhase::Leveling => {
            let mut tokens = status.tokens.iter();
            let token = tokens.find(|token| token.token == node.token);
            view.ring.served_since.is_none() || token.is_some_and(|t| t.state != "Loaded")
        }
        RestorePhase::RollingBack => {
            let mut tokens = status.tokens.iter();
            let token = tokens.find(|token| token.token == node.token);
            token.is_some_and(|token| {
                let back = reverts(view.ring, status, token) && token.state != "Reverted";
                back && !is_old(status, node)
            })
        }
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
    let source = match source(view, restore, &mut Step::default()) {
        Ok(source) => source,
        Err(NoSource::Pending(_) | NoSource::Never(..)) => return None,
    };
    let load = source.loads.iter().find(|load| load.token == token.token)?;
    let others = view
        .ring
        .holders(token.token)
        .filter(|other| other.name != node.name);
    let kept_elsewhere = if status.nodes.is_empty() {
        others.into_iter().any(Node::may_be_proven)
    } else {
        !reverts(view.ring, status, token)
    };
    let limit = view.cluster.spec.backup.as_ref();
    let limit = limit.and_then(|backup| backup.bandwidth_limit.as_ref());
    let limit = limit.and_then(|limit| quantity::parse(&limit.0));
    Some(RestoreOrder {
        pod_uid: node.pod_uid().to_owned(),
        restore: uid(restore).to_owned(),
        attempt: token.attempt,
        goal,
        place: source.place.clone(),
        parts: load.parts.clone(),
        keep: load.keep.clone(),
        bytes_per_second: limit.and_then(|limit| u64::try_from(limit).ok()),
        save_previous: !kept_elsewhere && view.ring.served_since.is_some(),
    })
}
