//! Backups: nodes are asked for snapshots, the manifest is written when all are there, and what is given up is removed.
//!
//! The orders themselves go out with all documents, in `configure`, by what the
//! statuses of backups say; this step moves those statuses on.

use dynomite_api::annotations::BACKUP_FINALIZER;
use dynomite_api::crd::{BackupPhase, DynomiteBackup, DynomiteBackupStatus};
use jiff::SignedDuration;

use super::{Pass, Step};
use crate::backup::{self, Busy, View};
use crate::plan::{Action, AsSeen, EventKind};
use crate::wait::Wait;

/// How often a backup that is being taken is looked at.
const LOOK: SignedDuration = SignedDuration::from_secs(1);

/// Moves the backups of the ring on.
pub(super) fn snapshot(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    let view = View {
        cluster: pass.cluster,
        observed: pass.observed,
        ring: pass.ring,
        now: pass.now,
        moving: pass.is_moving(),
    };
    backup::triggers(&view, &mut step);
    backup::rebuild(&view, &mut step);
    let mut busy = Busy::default();
    let all = backup::in_order(pass.observed);
    for backup in all.iter().copied() {
        if !backup::is_unsettled(backup) {
            continue;
        }
        if let Ok(look) = pass.now.checked_add(LOOK) {
            step.wake(look);
        }
        if backup.metadata.deletion_timestamp.is_some() {
            backup::deletion(&view, backup, &mut step);
            continue;
        }
        go_on(&view, backup, &mut busy, &mut step);
    }
    retain(&view, &all, &mut step);
    backup::verify(&view, &all, &mut step);
    super::configure::orders(pass, &mut step);
    step
}

/// Runs retention for the newest backup of each store, once.
fn retain(view: &View<'_>, all: &[&DynomiteBackup], step: &mut Step) {
    let spec = view.cluster.spec.backup.as_ref();
    let retention = spec.and_then(|spec| spec.retention.as_ref());
    for backup in backup::wanted(retention, all) {
        let status = backup::retain(view, backup, all, step);
        if status.retention_done {
            let write = Action::WriteBackup {
                seen: AsSeen::of(&backup.metadata),
                status: Box::new(status),
            };
            step.act(write, "retention is done for this backup");
        } else if let Ok(look) = view.now.checked_add(LOOK) {
            step.wake(look);
        }
    }
}

fn go_on(view: &View<'_>, backup: &DynomiteBackup, busy: &mut Busy, step: &mut Step) {
    let name = backup.metadata.name.clone().unwrap_or_default();
    let uid = backup.metadata.uid.clone().unwrap_or_default();
    let finalizers = backup.metadata.finalizers.iter().flatten();
    if finalizers.filter(|name| *name == BACKUP_FINALIZER).count() == 0 {
        let set = Action::SetBackupFinalizer {
            name,
            uid,
            present: true,
        };
        step.act(set, "what it stores must not be forgotten with it");
        return;
    }
    let before = backup::status_of(backup);
    let mut status = if backup.spec.directory.is_some() {
        backup::show(view, backup, step)
    } else if backup::is_active(backup) {
        step.wait(Wait::BackingUp {
            backup: name.clone(),
        });
        backup::advance(view, backup, busy, step)
    } else {
        before.clone()
    };
    if status.cleaning {
        backup::clean(view, &mut status, step);
    }
    if status != before {
        let told = tell(&name, &before, &status);
        let write = Action::WriteBackup {
            seen: AsSeen::of(&backup.metadata),
            status: Box::new(status),
        };
        step.act(write, "the backup went on");
        if let Some(event) = told {
            step.act(event, "a backup began or ended");
        }
    }
}

/// What people are told of a backup that went on.
fn tell(
    name: &str,
    before: &DynomiteBackupStatus,
    status: &DynomiteBackupStatus,
) -> Option<Action> {
    let phase = status.phase.filter(|phase| before.phase != Some(*phase))?;
    match phase {
        BackupPhase::Running => Some(Action::Event {
            kind: EventKind::Normal,
            reason: "BackupStarted",
            message: format!("backup {name} begins: {}", status.location),
        }),
        BackupPhase::Completed => Some(Action::Event {
            kind: EventKind::Normal,
            reason: "BackupCompleted",
            message: format!("backup {name}: {}", status.message),
        }),
        BackupPhase::Failed => Some(Action::Event {
            kind: EventKind::Warning,
            reason: "BackupFailed",
            message: format!("backup {name}: {}", status.message),
        }),
        BackupPhase::Pending | BackupPhase::Writing => None,
    }
}
