//! Follows the orders in the desired document: begins what is new, ends what is gone.

use std::sync::Arc;

use dynomite_api::contract::{
    BackupPlace, NodeDesired, RestoreOrder, RestoreReport, RestoreState, SnapshotOrder,
    SnapshotReport, SnapshotState,
};
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use super::Desk;
use super::broken::Broken;
use super::stage::{self, Staging};
use super::take::Work;
use crate::shared::View;

/// A work under way; when this is dropped, it removes what it has stored and ends.
struct Job(#[expect(dead_code, reason = "its end is what tells")] oneshot::Sender<()>);

/// Follows the orders for as long as the task lives.
///
/// An order that stands already when this is called was begun by a sidecar that is gone: nobody
/// knows how far it came, so it has failed, and another attempt has another object.
pub(crate) fn attend(
    desk: Arc<Desk>,
    mut view: watch::Receiver<View>,
) -> impl Future<Output = ()> + Send + 'static {
    let found = snapshot_order(&desk, view.borrow_and_update().desired.as_deref());
    if let Some(order) = found {
        let message = "the sidecar was restarted while it took the snapshot";
        let state = Broken::passing("Interrupted", message).into_snapshot();
        desk.results().snapshot = Some(report(&order, state));
    }
    follow(desk, view)
}

async fn follow(desk: Arc<Desk>, mut view: watch::Receiver<View>) {
    let (mut taking, mut staging) = (None, Staged::default());
    loop {
        let desired = view.borrow_and_update().desired.clone();
        follow_restore(&desk, desired.as_ref(), &mut staging);
        follow_snapshot(&desk, desired.as_ref(), &view, &mut taking);
        if view.changed().await.is_err() {
            return;
        }
    }
}

fn snapshot_order(desk: &Desk, desired: Option<&NodeDesired>) -> Option<SnapshotOrder> {
    let order = desired?.snapshot.clone()?;
    (order.pod_uid == desk.site.pod_uid).then_some(order)
}

fn report(order: &SnapshotOrder, state: SnapshotState) -> SnapshotReport {
    SnapshotReport {
        backup: order.backup.clone(),
        attempt: order.attempt,
        started_at: Timestamp::now(),
        bytes: 0,
        stored_bytes: 0,
        state,
    }
}

fn follow_snapshot(
    desk: &Arc<Desk>,
    desired: Option<&Arc<NodeDesired>>,
    view: &watch::Receiver<View>,
    taking: &mut Option<Job>,
) {
    let Some((desired, order)) =
        desired.and_then(|desired| Some((desired, snapshot_order(desk, Some(desired))?)))
    else {
        *taking = None;
        desk.results().snapshot = None;
        return;
    };
    let same =
        desk.results().snapshot.as_ref().is_some_and(|report| {
            (&report.backup, report.attempt) == (&order.backup, order.attempt)
        });
    if same {
        return;
    }
    *taking = None;
    let state = Broken::passing("Beginning", "the order was taken").into_waiting();
    desk.results().snapshot = Some(report(&order, state));
    let work = Work {
        desk: Arc::clone(desk),
        order,
        desired: Arc::clone(desired),
        view: view.clone(),
    };
    let (job, gone) = oneshot::channel();
    desk.worker.spawn(work.run(gone));
    *taking = Some(Job(job));
}

/// What is staged, or being staged.
#[derive(Default)]
struct Staged {
    /// The restore, what was ordered of it, the attempt at which it was begun, and
    /// from where.
    of: Option<(String, String, u32, BackupPlace)>,
    job: Option<Job>,
    /// The restore for which the files of others were removed last; empty for none.
    tidied: Option<String>,
}

fn follow_restore(desk: &Arc<Desk>, desired: Option<&Arc<NodeDesired>>, staged: &mut Staged) {
    // Nothing is known yet, so nothing is gone either.
    let Some(desired) = desired else {
        return;
    };
    let order = desired.restore.as_ref();
    let of = order.map(|order| {
        let (restore, place) = (order.restore.clone(), order.place.clone());
        (restore, stage::digest(order), order.attempt, place)
    });
    if staged.of == of && of.is_some() {
        return;
    }
    let known = staged.of.as_ref().zip(of.as_ref());
    let same = known.is_some_and(|(held, of)| (&held.0, &held.1) == (&of.0, &of.1));
    if let (true, Some(report), Some(order)) = (same, &mut desk.results().restore, order) {
        let moved = known.is_some_and(|(held, of)| held.3 != of.3);
        // Staged data stays, and what is under way goes on; what has failed, or comes
        // by another way now, is begun anew.
        let goes_on = match report.state {
            RestoreState::Failed { .. } => false,
            RestoreState::Staged { .. } => true,
            _ => !moved,
        };
        if goes_on {
            report.attempt = order.attempt;
            staged.of = of;
            return;
        }
    }
    if staged.of.is_some() || of.is_none() {
        staged.job = None;
        desk.results().restore = None;
    }
    staged.of = None;
    let only = order.map(|order| order.restore.clone()).unwrap_or_default();
    // A node that is held may yet have to go back to what it has saved.
    let kept = order.is_none() && desired.hold.is_some();
    if !kept && staged.tidied.as_ref() != Some(&only) {
        stage::tidy(&desk.site.restore_dir(), &only);
        staged.tidied = Some(only);
    }
    let Some(order) = order.filter(|order| order.pod_uid == desk.site.pod_uid) else {
        return;
    };
    staged.of = of;
    desk.results().restore = Some(begun(order));
    let staging = Staging {
        desk: Arc::clone(desk),
        order: order.clone(),
        placement: stage::placement(&desired.engine.settings),
    };
    let (job, gone) = oneshot::channel();
    desk.worker.spawn(staging.run(gone));
    staged.job = Some(Job(job));
}

fn begun(order: &RestoreOrder) -> RestoreReport {
    RestoreReport {
        restore: order.restore.clone(),
        attempt: order.attempt,
        started_at: Timestamp::now(),
        bytes: 0,
        bytes_total: None,
        state: RestoreState::Waiting {
            reason: "Beginning".to_owned(),
            message: "the order was taken".to_owned(),
        },
    }
}
