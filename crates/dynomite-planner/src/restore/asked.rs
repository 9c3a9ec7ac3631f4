//! What asks for restores beside people who create them: an annotation on the cluster.
//!
//! A restore that is done once more than it was asked for takes away what was
//! written since. So the wish is taken off before its restore begins (the step
//! sees to that), and what stands on the cluster has never been done.

use dynomite_api::annotations::ANNOTATION_RESTORE;
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreSpec, RestoreFrom, RestorePhase};
use dynomite_snapshot::layout::BackupId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{is_open, phase};
use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::plan::{Action, EventKind};
use crate::steps::Step;

/// How much of a value a name takes: with those of the cluster and a number it
/// stays a name.
const VALUE_MAX: usize = 150;

/// How much of a value that cannot be read is repeated to people: an Event has
/// room for little more.
const TOLD_MAX: usize = 100;

/// Makes the restore that the annotation asks for, and takes the annotation off
/// when it is there.
pub(crate) fn asked(cluster: &Cluster, observed: &Observed, step: &mut Step) {
    let Some(value) = &cluster.restore_asked else {
        return;
    };
    let said = match answer(cluster, observed, value) {
        Ok(Answer::Make(restore)) => {
            step.act(Action::MakeRestore(restore), "the annotation asks for it");
            return;
        }
        Ok(Answer::There(name)) => (
            EventKind::Normal,
            "RestoreRequested",
            format!("DynomiteRestore {name} is there, as the annotation asks"),
        ),
        Err(why) => {
            let told: String = value.chars().take(TOLD_MAX).collect();
            let message = format!("annotation {ANNOTATION_RESTORE} is {told:?}: {why}");
            (EventKind::Warning, "RestoreRefused", message)
        }
    };
    step.answer(
        (ANNOTATION_RESTORE, value),
        said,
        "a person asked for a restore",
    );
}

/// What becomes of a wish.
pub(super) enum Answer {
    Make(Box<DynomiteRestore>),
    /// Its name.
    There(String),
}

/// What becomes of a wish for what `value` names; an error says why nothing does.
pub(super) fn answer(
    cluster: &Cluster,
    observed: &Observed,
    value: &str,
) -> Result<Answer, String> {
    let (from, text) = read(observed, value)?;
    let spec = DynomiteRestoreSpec {
        cluster: cluster.id.name.clone(),
        from,
        ..DynomiteRestoreSpec::default()
    };
    let same: Vec<&DynomiteRestore> = observed
        .restores
        .values()
        .filter(|restore| is_open(cluster, restore) && wants(restore, &spec))
        .collect();
    let name_of = |restore: &DynomiteRestore| restore.metadata.name.clone().unwrap_or_default();
    if let Some(there) = same.iter().find(|restore| !goes_back(restore)) {
        return Ok(Answer::There(name_of(there)));
    }
    // Another one now could be against the word that gave this one up.
    if let Some(given_up) = same.first() {
        let name = name_of(given_up);
        return Err(format!(
            "DynomiteRestore {name} of it is being given up; annotate again when that has ended"
        ));
    }
    let name = free_name(cluster, observed, &text);
    let mut restore = DynomiteRestore::new(&name, spec);
    restore.metadata = crate::objects::owned(cluster, name, None);
    Ok(Answer::Make(Box::new(restore)))
}

/// What a value means, and what a name says of it.
fn read(observed: &Observed, value: &str) -> Result<(RestoreFrom, String), String> {
    let mut from = RestoreFrom::default();
    let mut text = value.to_owned();
    if value == "latest" {
        from.latest = Some(true);
    } else if observed.backups.contains_key(value) {
        from.backup = Some(value.to_owned());
    } else if BackupId::parse(value).is_some() {
        from.id = Some(value.to_owned());
    } else if let Some(at) = time(value) {
        from.as_of = Some(Time(at));
        text = at.strftime("%Y%m%dt%H%M%Sz").to_string();
    } else {
        return Err(
            "it is no DynomiteBackup of this cluster, no directory of a backup, not latest and \
                    no time such as 2026-11-20T00:00:00Z"
                .to_owned(),
        );
    }
    Ok((from, text))
}

/// A time in RFC 3339, in whole seconds, as objects keep it. A day alone is none:
/// whether its first or its last hour is meant makes a day's writes.
fn time(value: &str) -> Option<Timestamp> {
    let fine = |byte: u8| byte.is_ascii_digit() || b"TtZz+-:.".contains(&byte);
    let plain = value.contains(':') && value.bytes().all(fine);
    let at: Timestamp = plain.then(|| value.parse().ok())??;
    Timestamp::from_second(at.as_second()).ok()
}

/// Whether it restores the same, whoever asked for it.
fn wants(restore: &DynomiteRestore, spec: &DynomiteRestoreSpec) -> bool {
    let wanted = DynomiteRestoreSpec {
        abort: false,
        ..restore.spec.clone()
    };
    wanted == *spec
}

/// Whether an open restore will end without the new data, for all that is known.
fn goes_back(restore: &DynomiteRestore) -> bool {
    let given_up = restore.spec.abort || restore.metadata.deletion_timestamp.is_some();
    match phase(restore) {
        RestorePhase::RollingBack => true,
        // From the commit on there is no way back.
        RestorePhase::Leveling => false,
        _ => given_up,
    }
}

/// The name of a new restore. It counts the earlier ones of the value, so that the
/// same wish has the same name until its restore has ended. No name of a cluster
/// has a dot, so clusters beside each other do not take each other's.
fn free_name(cluster: &Cluster, observed: &Observed, text: &str) -> String {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let lower = text.chars().map(|c| c.to_ascii_lowercase());
    let text: String = lower
        .map(|c| if fine(c) { c } else { '-' })
        .take(VALUE_MAX)
        .collect();
    let base = format!("{}.{text}", cluster.id.name);
    let taken = |number: usize| observed.restores.contains_key(&format!("{base}-{number}"));
    let is_earlier = |name: &str| {
        let number = name.strip_prefix(&base).and_then(|n| n.strip_prefix('-'));
        number.is_some_and(|n| n.parse::<usize>().is_ok())
    };
    let mut number = observed.restores.keys().filter(|n| is_earlier(n)).count();
    while taken(number) {
        number += 1;
    }
    format!("{base}-{number}")
}
