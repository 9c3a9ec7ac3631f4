//! Refresh: the latest backup of another ring, restored into this one on a schedule.
//!
//! Each time has a name of its own, so it is done once; the status remembers the
//! last one, also when its restore is gone. None is made while another restore is
//! open: a person's restore of the test ring is not overtaken.

use dynomite_api::annotations::{ANNOTATION_SCHEDULED_FOR, LABEL_SCHEDULE};
use dynomite_api::crd::{
    BackupSchedule, DynomiteRestore, DynomiteRestoreSpec, RefreshSpec, RefreshStatus, RestoreFrom,
    RestorePhase,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{is_open, phase};
use crate::backup::{Due, due};
use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::plan::{Action, Kind};
use crate::ring::Ring;
use crate::steps::Step;

/// The value of the label on restores of the refresh.
const REFRESH: &str = "refresh";

/// Makes the restore that is due, and removes old ones.
pub(crate) fn refresh(
    cluster: &Cluster,
    observed: &Observed,
    ring: &Ring<'_>,
    now: Timestamp,
    step: &mut Step,
) {
    let Some(spec) = cluster.spec.refresh.as_ref().filter(|_| !cluster.deleting) else {
        return;
    };
    prune(cluster, observed, spec, step);
    // What the status does not tell yet was never promised.
    let Some(last) = heeded(cluster, observed) else {
        return;
    };
    match due(&schedule(spec), last, now) {
        Ok(Due::Now(at)) => {
            let busy = observed.restores.values().any(|r| is_open(cluster, r));
            // A ring that never served begins by spec.bootstrap.
            if ring.served_since.is_some() && !busy && cluster.restore_asked.is_none() {
                let made = scheduled(cluster, spec, at);
                step.act(Action::MakeRestore(Box::new(made)), "a refresh is due");
            }
        }
        Ok(Due::Later(at)) => step.wake(at),
        Ok(Due::Never) | Err(_) => {}
    }
}

/// `status.refresh`; `None` where the spec has none.
pub(crate) fn refresh_status(
    cluster: &Cluster,
    observed: &Observed,
    now: Timestamp,
) -> Option<RefreshStatus> {
    let spec = cluster.spec.refresh.as_ref()?;
    let last = heeded(cluster, observed).unwrap_or(now);
    let (next, message) = match due(&schedule(spec), last, now) {
        Ok(Due::Now(at) | Due::Later(at)) => (Some(Time(at)), String::new()),
        Ok(Due::Never) => (None, String::new()),
        Err(why) => (None, why),
    };
    let completed = of_refresh(cluster, observed)
        .into_iter()
        .filter(|restore| phase(restore) == RestorePhase::Completed)
        .filter_map(|restore| Some((restore.status.as_ref()?.completed_at.as_ref()?.0, restore)))
        .max_by_key(|(at, _)| *at);
    let before = cluster.refreshed.as_ref();
    let (name, at) = match completed {
        Some((at, restore)) => (restore.metadata.name.clone(), Some(Time(at))),
        // Its restore may have been removed meanwhile.
        None => (
            before.map(|before| before.last_completed.clone()),
            before.and_then(|before| before.last_completed_at.clone()),
        ),
    };
    Some(RefreshStatus {
        last: Time(last),
        next,
        last_completed: name.unwrap_or_default(),
        last_completed_at: at,
        message,
    })
}

/// The refresh in the form that backups are scheduled by.
fn schedule(spec: &RefreshSpec) -> BackupSchedule {
    BackupSchedule {
        name: REFRESH.to_owned(),
        cron: spec.cron.clone(),
        time_zone: spec.time_zone.clone(),
        starting_deadline_seconds: spec.starting_deadline_seconds,
        suspend: spec.suspend,
        store: None,
    }
}

fn scheduled(cluster: &Cluster, spec: &RefreshSpec, at: Timestamp) -> DynomiteRestore {
    let minute = at.strftime("%Y%m%d-%H%M");
    // No name of a cluster has a dot.
    let name = format!("{}.{REFRESH}-{minute}", cluster.id.name);
    let wish = DynomiteRestoreSpec {
        cluster: cluster.id.name.clone(),
        store: spec.store.clone(),
        from: RestoreFrom {
            latest: Some(true),
            ..RestoreFrom::default()
        },
        source_cluster: Some(spec.source_cluster.clone()),
        ..DynomiteRestoreSpec::default()
    };
    let mut restore = DynomiteRestore::new(&name, wish);
    restore.metadata = crate::objects::owned(cluster, name, None);
    let labels = restore.metadata.labels.get_or_insert_default();
    labels.insert(LABEL_SCHEDULE.to_owned(), REFRESH.to_owned());
    let annotations = restore.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_SCHEDULED_FOR.to_owned(), at.to_string());
    restore
}

/// Restores of the refresh of this very cluster, by the time they are for.
fn of_refresh<'a>(cluster: &Cluster, observed: &'a Observed) -> Vec<&'a DynomiteRestore> {
    let ours = |restore: &&DynomiteRestore| {
        let meta = &restore.metadata;
        let label = meta.labels.as_ref().and_then(|all| all.get(LABEL_SCHEDULE));
        let mut owners = meta.owner_references.iter().flatten();
        label.is_some_and(|of| of == REFRESH) && owners.any(|o| o.uid == cluster.id.uid)
    };
    let mut all: Vec<&DynomiteRestore> = observed.restores.values().filter(ours).collect();
    all.sort_by_key(|restore| time_of(restore));
    all
}

/// The time that a restore is for.
fn time_of(restore: &DynomiteRestore) -> Option<Timestamp> {
    let annotations = restore.metadata.annotations.as_ref()?;
    annotations.get(ANNOTATION_SCHEDULED_FOR)?.parse().ok()
}

/// The last time that was heeded.
fn heeded(cluster: &Cluster, observed: &Observed) -> Option<Timestamp> {
    let known = cluster.refreshed.as_ref().map(|status| status.last.0);
    let made = of_refresh(cluster, observed)
        .into_iter()
        .filter_map(time_of);
    made.chain(known).max()
}

/// Removes the oldest that have ended, down to those that are kept.
fn prune(cluster: &Cluster, observed: &Observed, spec: &RefreshSpec, step: &mut Step) {
    let mut ended = of_refresh(cluster, observed);
    ended.retain(|restore| phase(restore).is_final());
    let keep = usize::try_from(spec.keep).unwrap_or(usize::MAX);
    let surplus = ended.len().saturating_sub(keep);
    for restore in &ended[..surplus] {
        let meta = &restore.metadata;
        if meta.deletion_timestamp.is_some() {
            continue;
        }
        let delete = Action::Delete {
            kind: Kind::DynomiteRestore,
            name: meta.name.clone().unwrap_or_default(),
            uid: super::uid(restore).to_owned(),
            resource_version: None,
        };
        step.act(delete, "newer refreshes have ended since");
    }
}
