//! What asks for backups beside people who create them: an annotation on the cluster, calls by REST, and schedules.

use dynomite_api::annotations::{
    ANNOTATION_BACKUP, ANNOTATION_CALL, ANNOTATION_SCHEDULED_FOR, APP_NAME, LABEL_INSTANCE,
    LABEL_NAME, LABEL_SCHEDULE,
};
use dynomite_api::contract::Call;
use dynomite_api::crd::{BackupSchedule, DynomiteBackup, DynomiteBackupSpec};
use jiff::Timestamp;

use super::{Due, View, due, is_active};
use crate::calls::{self, Reply};
use crate::cluster::Cluster;
use crate::objects::pairs;
use crate::observed::Observed;
use crate::plan::{Action, EventKind};
use crate::ring::Ring;
use crate::steps::Step;

/// The longest name that an annotation may give: a directory contains it.
const NAME_MAX: usize = 200;

/// Makes the backups that the annotation and the schedules ask for.
pub(crate) fn triggers(view: &View<'_>, step: &mut Step) {
    if let Some(name) = &view.cluster.backup_asked {
        asked(view, name, step);
    }
    let spec = view.cluster.spec.backup.iter();
    for schedule in spec.flat_map(|spec| &spec.schedules) {
        // A ring that never served has nothing to keep.
        let Some(last) = heeded(view.cluster, view.observed, schedule) else {
            continue;
        };
        match due(schedule, last, view.now) {
            Ok(Due::Now(at)) if view.ring.served_since.is_some() => {
                let why = format!("schedule {} wants it", schedule.name);
                step.act(
                    Action::MakeBackup(Box::new(scheduled(view.cluster, schedule, at))),
                    why,
                );
            }
            Ok(Due::Later(at)) => step.wake(at),
            _ => {}
        }
    }
}

/// Asked twice, done once: the annotation names the object.
fn asked(view: &View<'_>, name: &str, step: &mut Step) {
    let there = view.observed.backups.contains_key(name);
    let said = if !is_name(name) {
        let message = format!(
            "annotation {ANNOTATION_BACKUP} is {name:?}: give the new backup a name of lower-case letters, digits, '-' and '.'"
        );
        (EventKind::Warning, "BackupRefused", message)
    } else if there {
        let message = format!("DynomiteBackup {name} is there, as the annotation asks");
        (EventKind::Normal, "BackupRequested", message)
    } else {
        let backup = made(view.cluster, name);
        step.act(
            Action::MakeBackup(Box::new(backup)),
            "the annotation asks for it",
        );
        return;
    };
    step.answer(
        (ANNOTATION_BACKUP, name),
        said,
        "a person asked for a backup",
    );
}

/// What becomes of a call for a backup. One without a name is answered by a
/// backup that is under way for an earlier call: people and their scripts call
/// every node of a ring, one after the other, as they called the manager's.
pub(crate) fn called(
    cluster: &Cluster,
    observed: &Observed,
    ring: &Ring<'_>,
    call: &Call,
    name: Option<&str>,
) -> Reply {
    let there = |name: &str| Reply::There {
        object: "DynomiteBackup",
        name: name.to_owned(),
    };
    let by_call = |(_, backup): &(&String, &DynomiteBackup)| calls::is_of(&backup.metadata, call);
    if let Some((name, _)) = observed.backups.iter().find(by_call) {
        return there(name);
    }
    if let Some(restore) = crate::restore::in_the_way(cluster, observed) {
        return Reply::Refused(format!(
            "DynomiteRestore {restore} is under way: call again when it has ended"
        ));
    }
    if ring.served_since.is_none() {
        let why = "the ring has not served yet: there is nothing to back up";
        return Reply::Refused(why.to_owned());
    }
    let chosen = match name {
        Some(name) if !is_name(name) => {
            return Reply::Refused(format!(
                "{name:?} cannot be a name: take lower-case letters, digits, '-' and '.'"
            ));
        }
        Some(name) if observed.backups.contains_key(name) => return there(name),
        Some(name) => name.to_owned(),
        None => {
            let of_call = |backup: &DynomiteBackup| {
                let annotations = backup.metadata.annotations.as_ref();
                annotations.is_some_and(|all| all.contains_key(ANNOTATION_CALL))
            };
            let mut all = observed.backups.iter();
            if let Some((name, _)) = all.find(|(_, b)| is_active(b) && of_call(b)) {
                return there(name);
            }
            let at = call.at.strftime("%Y%m%d-%H%M%S");
            format!("{}-rest-{at}", cluster.id.name)
        }
    };
    let mut backup = made(cluster, &chosen);
    calls::mark(&mut backup.metadata, call);
    Reply::Make(Action::MakeBackup(Box::new(backup)))
}

fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(fine) && text.bytes().last().is_some_and(fine);
    ends && text.len() <= NAME_MAX && text.bytes().all(|b| fine(b) || b == b'-' || b == b'.')
}

pub(super) fn made(cluster: &Cluster, name: &str) -> DynomiteBackup {
    let spec = DynomiteBackupSpec {
        cluster: cluster.id.name.clone(),
        ..DynomiteBackupSpec::default()
    };
    let mut backup = DynomiteBackup::new(name, spec);
    backup.metadata.namespace = Some(cluster.id.namespace.clone());
    let labels = pairs([(LABEL_NAME, APP_NAME), (LABEL_INSTANCE, &cluster.id.name)]);
    backup.metadata.labels = Some(labels);
    backup
}

/// The backup of a schedule for a time. Its name says both, so it is made once.
fn scheduled(cluster: &Cluster, schedule: &BackupSchedule, at: Timestamp) -> DynomiteBackup {
    let name = format!(
        "{}-{}-{}",
        cluster.id.name,
        schedule.name,
        at.strftime("%Y%m%d-%H%M")
    );
    let mut backup = made(cluster, &name);
    backup.spec.store.clone_from(&schedule.store);
    let labels = backup.metadata.labels.get_or_insert_default();
    labels.insert(LABEL_SCHEDULE.to_owned(), schedule.name.clone());
    let at = at.to_string();
    backup.metadata.annotations = Some(pairs([(ANNOTATION_SCHEDULED_FOR, &at)]));
    backup
}

/// The last time of a schedule that was heeded: by the status, which remembers
/// those whose backups are gone, or by a backup that the status does not know yet.
pub(crate) fn heeded(
    cluster: &Cluster,
    observed: &Observed,
    schedule: &BackupSchedule,
) -> Option<Timestamp> {
    let known = cluster.schedules_heeded.get(&schedule.name).copied();
    let of_schedule = observed.backups.values().filter_map(|backup| {
        let meta = &backup.metadata;
        let of = meta.labels.as_ref()?.get(LABEL_SCHEDULE)?;
        let at = meta.annotations.as_ref()?.get(ANNOTATION_SCHEDULED_FOR)?;
        (*of == schedule.name).then(|| at.parse().ok())?
    });
    of_schedule.chain(known).max()
}
