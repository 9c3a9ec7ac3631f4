//! What a cluster says of its backups: the last good one, its schedules, and whether all is well.

use dynomite_api::crd::{BackupPhase, ClusterBackupStatus, DynomiteBackup, ScheduleStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::trigger::heeded;
use super::{Due, due, in_order};
use crate::cluster::Cluster;
use crate::observed::Observed;

/// `status.backup`; `None` where the spec has no stores.
pub(crate) fn cluster_status(
    cluster: &Cluster,
    observed: &Observed,
    now: Timestamp,
) -> Option<ClusterBackupStatus> {
    let spec = cluster.spec.backup.as_ref()?;
    let last = in_order(observed)
        .into_iter()
        .filter_map(|backup| Some((completed(backup)?, backup)))
        .max_by_key(|(at, _)| *at);
    let schedules = spec.schedules.iter().map(|schedule| {
        // Times before it was first seen were never promised.
        let last = heeded(cluster, observed, schedule).unwrap_or(now);
        let (next, message) = match due(schedule, last, now) {
            Ok(Due::Now(at) | Due::Later(at)) => (Some(Time(at)), String::new()),
            Ok(Due::Never) => (None, String::new()),
            Err(why) => (None, why),
        };
        ScheduleStatus {
            name: schedule.name.clone(),
            last: Time(last),
            next,
            message,
        }
    });
    Some(ClusterBackupStatus {
        last_completed: last
            .and_then(|(_, backup)| backup.metadata.name.clone())
            .unwrap_or_default(),
        last_completed_at: last.map(|(at, _)| Time(at)),
        schedules: schedules.collect(),
    })
}

fn completed(backup: &DynomiteBackup) -> Option<Timestamp> {
    let status = backup.status.as_ref()?;
    let done = status.phase == Some(BackupPhase::Completed);
    done.then(|| status.completed_at.as_ref().map(|at| at.0))?
}

/// The condition `BackupHealthy`: its status, reason and message; `None` where
/// the spec has no stores.
pub(crate) fn health(
    cluster: &Cluster,
    observed: &Observed,
    now: Timestamp,
) -> Option<(Option<bool>, &'static str, String)> {
    let status = cluster_status(cluster, observed, now)?;
    let bad = status.schedules.into_iter().find(|s| !s.message.is_empty());
    if let Some(schedule) = bad {
        return Some((Some(false), "ScheduleInvalid", schedule.message));
    }
    let phase = |backup: &&DynomiteBackup| backup.status.as_ref().and_then(|status| status.phase);
    let mut ended = in_order(observed)
        .into_iter()
        .filter(|backup| phase(backup).is_some_and(BackupPhase::is_final));
    if let Some(newest) = ended.next_back()
        && phase(&newest) == Some(BackupPhase::Failed)
    {
        let name = newest.metadata.name.as_deref().unwrap_or_default();
        let why = newest.status.as_ref().map_or("", |status| &status.message);
        return Some((Some(false), "LastFailed", format!("backup {name}: {why}")));
    }
    let Some(at) = status.last_completed_at else {
        let message = "no backup is completed yet".to_owned();
        return Some((None, "NoBackupYet", message));
    };
    let message = format!("backup {} of {}", status.last_completed, at.0);
    Some((Some(true), "LastCompleted", message))
}
