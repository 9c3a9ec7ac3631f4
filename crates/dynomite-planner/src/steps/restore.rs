//! Restores: the active one goes on; the others wait for it, or are let go.
//!
//! What nodes are told stands in the restore's status and goes out with all
//! documents, in `configure`; this step moves the status on.

use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RESTORE_FINALIZER, RestorePhase};
use jiff::SignedDuration;

use super::{Pass, Step, configure};
use crate::calls;
use crate::plan::{Action, AsSeen, EventKind};
use crate::restore::{self, View};
use crate::ring::Node;
use crate::wait::Wait;

/// How often a restore that is under way is looked at.
const LOOK: SignedDuration = SignedDuration::from_secs(1);

/// Moves the ring's restore on.
pub(super) fn restore(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for settled in pass.observed.restores.values() {
        let settled_now = restore::phase(settled).is_final()
            || (settled.metadata.deletion_timestamp.is_some()
                && restore::phase(settled) == RestorePhase::Pending);
        if settled_now && has_finalizer(settled) {
            let let_go = Action::SetRestoreFinalizer {
                name: settled.metadata.name.clone().unwrap_or_default(),
                uid: restore::uid(settled).to_owned(),
                present: false,
            };
            step.act(let_go, "nothing hangs on it any more");
        }
    }
    if let Some(first) = restore::first(pass.cluster, pass.observed, pass.ring) {
        let why = "the ring begins with the data of a backup";
        step.act(Action::MakeRestore(Box::new(first)), why);
    }
    restore::asked(pass.cluster, pass.observed, &mut step);
    restore::refresh(pass.cluster, pass.observed, pass.ring, pass.now, &mut step);
    let Some(active) = restore::active(pass.cluster, pass.observed) else {
        return step;
    };
    // What could end while the wish for it still stands would be done again.
    let asked = pass.cluster.restore_asked.is_some() || calls::asks_for_restore(pass.ring);
    if asked && restore::phase(active) == RestorePhase::Pending {
        return step;
    }
    let name = active.metadata.name.clone().unwrap_or_default();
    if let Ok(look) = pass.now.checked_add(LOOK) {
        step.wake(look);
    }
    let is_told = |node: &Node<'_>| configure::is_told(pass, node);
    let view = View {
        cluster: pass.cluster,
        observed: pass.observed,
        ring: pass.ring,
        now: pass.now,
        is_told: &is_told,
    };
    let before = active.status.clone().unwrap_or_default();
    let status = restore::advance(&view, active, &mut step);
    step.wait(Wait::Restoring {
        restore: name.clone(),
        message: status.message.clone(),
    });
    if status != before {
        let told = tell(&name, &before, &status);
        let write = Action::WriteRestore {
            seen: AsSeen::of(&active.metadata),
            status: Box::new(status),
        };
        step.act(write, "the restore went on");
        if let Some(event) = told {
            step.act(event, "a restore began, ended or went a decisive step");
        }
    }
    step
}

fn has_finalizer(restore: &DynomiteRestore) -> bool {
    let mut finalizers = restore.metadata.finalizers.iter().flatten();
    finalizers.any(|name| name == RESTORE_FINALIZER)
}

/// What people are told of a restore that went on.
fn tell(
    name: &str,
    before: &DynomiteRestoreStatus,
    status: &DynomiteRestoreStatus,
) -> Option<Action> {
    let phase = status.phase.filter(|phase| before.phase != Some(*phase))?;
    let said = &status.message;
    let (kind, reason, message) = match phase {
        RestorePhase::Staging => (
            EventKind::Normal,
            "RestoreStarted",
            format!("restore {name} stages backup {}", status.backup),
        ),
        RestorePhase::Holding => (
            EventKind::Warning,
            "RingHeld",
            format!("restore {name}: clients are not served while the data is exchanged"),
        ),
        RestorePhase::Leveling => (
            EventKind::Normal,
            "RestoreCommitted",
            format!("restore {name}: the new data is in place, the other racks copy it"),
        ),
        RestorePhase::RollingBack => (
            EventKind::Warning,
            "RestoreRollsBack",
            format!("restore {name}: {said}"),
        ),
        RestorePhase::Completed => (
            EventKind::Normal,
            "RestoreCompleted",
            format!("restore {name}: {said}"),
        ),
        RestorePhase::Failed | RestorePhase::Aborted | RestorePhase::RolledBack => (
            EventKind::Warning,
            "RestoreFailed",
            format!("restore {name} is {phase:?}: {said}"),
        ),
        RestorePhase::Pending | RestorePhase::Checking | RestorePhase::Loading => return None,
    };
    Some(Action::Event {
        kind,
        reason,
        message,
    })
}
