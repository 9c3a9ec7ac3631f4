//! What a cluster says of its backups: the last good one, its schedules, and whether all is well.

use dynomite_api::crd::{
    BackupPhase, ClusterBackupStatus, DynomiteBackup, ScheduleStatus, VerificationPhase,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::trigger::heeded;
use super::verify::verified;
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
        .filter(|backup| is_own(cluster, backup))
        .filter_map(|backup| Some((completed(backup)?, backup)))
        .max_by_key(|(at, _)| *at);
    let proven = last_verified(&in_order(observed));
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
        last_verified: proven
            .and_then(|backup| backup.metadata.name.clone())
            .unwrap_or_default(),
        last_verified_at: proven.and_then(|backup| backup.status.as_ref()?.verified_at.clone()),
        schedules: schedules.collect(),
    })
}

/// Whether a backup is of this ring: what was found may be of another.
fn is_own(cluster: &Cluster, backup: &DynomiteBackup) -> bool {
    let status = backup.status.as_ref();
    backup.spec.directory.is_none()
        || status.is_some_and(|status| status.cluster_uid == cluster.id.uid)
}

fn completed(backup: &DynomiteBackup) -> Option<Timestamp> {
    let status = backup.status.as_ref()?;
    let done = status.phase == Some(BackupPhase::Completed);
    done.then(|| status.completed_at.as_ref().map(|at| at.0))?
}

/// The backup that was verified last, of those that were right.
pub(super) fn last_verified<'a>(backups: &[&'a DynomiteBackup]) -> Option<&'a DynomiteBackup> {
    let right = backups.iter().filter_map(|backup| {
        let (at, verification) = verified(backup)?;
        (verification.phase == VerificationPhase::Verified).then_some((at, *backup))
    });
    let last = right.max_by_key(|(at, _)| *at);
    last.map(|(_, backup)| backup)
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
        .filter(|backup| backup.spec.directory.is_none())
        .filter(|backup| phase(backup).is_some_and(BackupPhase::is_final));
    if let Some(newest) = ended.next_back()
        && phase(&newest) == Some(BackupPhase::Failed)
    {
        let name = newest.metadata.name.as_deref().unwrap_or_default();
        let why = newest.status.as_ref().map_or("", |status| &status.message);
        return Some((Some(false), "LastFailed", format!("backup {name}: {why}")));
    }
    let found_out = in_order(observed).into_iter();
    let found_out = found_out.filter_map(|backup| Some((verified(backup)?, backup)));
    if let Some(((_, verification), backup)) = found_out.max_by_key(|((at, _), _)| *at)
        && verification.phase == VerificationPhase::Failed
    {
        let name = backup.metadata.name.as_deref().unwrap_or_default();
        let (reason, message) = (&verification.reason, &verification.message);
        let message = format!("backup {name} was not verified: {reason}: {message}");
        return Some((Some(false), "VerificationFailed", message));
    }
    let Some(at) = status.last_completed_at else {
        let message = "no backup is completed yet".to_owned();
        return Some((None, "NoBackupYet", message));
    };
    let message = format!("backup {} of {}", status.last_completed, at.0);
    Some((Some(true), "LastCompleted", message))
}
