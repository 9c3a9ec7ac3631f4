//! Follows the orders in the desired document: begins what is new, ends what is gone.

use std::sync::Arc;

use dynomite_api::contract::{NodeDesired, SnapshotOrder, SnapshotReport, SnapshotState};
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use super::Desk;
use super::broken::Broken;
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
    let mut taking = None;
    loop {
        let desired = view.borrow_and_update().desired.clone();
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
