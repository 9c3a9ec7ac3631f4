//! The life of a `DynomiteBackup`: what its status says next, from what it said and what nodes report.
//!
//! ```text
//!  Pending --id, directory, tokens--> Running --every token Done--> Writing --manifest--> Completed
//!     |                                  |                             |
//!     |                                  +------- Failed(why) <--------+
//!     | waits: no store, no credentials, ring never served
//!
//!  a token:  Waiting --node, attempt--> Running --entry--> Done
//!               ^                          |
//!               +-- next attempt: lost, silent or failed; too often: Failed
//! ```
//!
//! Progress lives in the status and in the nodes' reports only. An order goes
//! out when its attempt stands in the status, so an operator that starts anew
//! orders the same, and two operators cannot order different things.

mod end;
mod found;
mod health;
mod retention;
mod schedule;
mod token;
mod trigger;
mod verify;

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::Token;
use dynomite_api::annotations::BACKUP_FINALIZER;
use dynomite_api::contract::{BackupPlace, SnapshotOrder};
use dynomite_api::crd::{
    BackupCompression, BackupPhase, BackupSpec, BackupTokenPhase, BackupTokenStatus,
    DynomiteBackup, DynomiteBackupStatus, set_outcome,
};
use dynomite_snapshot::layout::{BackupId, Directory, Place};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

use crate::bucket::{NoPlace, place, place_with, url};
use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::quantity;
use crate::ring::{Node, Ring};
use crate::steps::Step;

use end::finish;
pub(crate) use end::{clean, deletion};
pub(crate) use found::{rebuild, show};
pub(crate) use health::{cluster_status, health};
pub(crate) use retention::{retain, wanted};
pub(crate) use trigger::{called, triggers};
pub(crate) use verify::{end as end_scratch, verify};

pub use schedule::{Due, due};

/// What backups are decided from.
pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) observed: &'a Observed,
    pub(crate) ring: &'a Ring<'a>,
    pub(crate) now: Timestamp,
    /// Whether another step takes nodes out: then no snapshot begins.
    pub(crate) moving: bool,
}

/// What is taken by backups that began earlier.
#[derive(Default)]
pub(crate) struct Busy {
    /// How many nodes take snapshots.
    nodes: usize,
    /// Of which tokens.
    tokens: BTreeSet<Token>,
}

/// The backups of a ring, oldest first.
pub(crate) fn in_order(observed: &Observed) -> Vec<&DynomiteBackup> {
    sorted(&observed.backups)
}

fn sorted(backups: &BTreeMap<String, DynomiteBackup>) -> Vec<&DynomiteBackup> {
    let mut backups: Vec<&DynomiteBackup> = backups.values().collect();
    backups.sort_by_key(|backup| {
        let meta = &backup.metadata;
        let made = meta.creation_timestamp.as_ref().map(|time| time.0);
        (made, meta.name.clone())
    });
    backups
}

/// The status of a backup, empty when it has none.
pub(crate) fn status_of(backup: &DynomiteBackup) -> DynomiteBackupStatus {
    backup.status.clone().unwrap_or_default()
}

/// Whether a backup is being taken or waits to be.
pub(crate) fn is_active(backup: &DynomiteBackup) -> bool {
    let phase = backup.status.as_ref().and_then(|status| status.phase);
    backup.metadata.deletion_timestamp.is_none() && !phase.is_some_and(BackupPhase::is_final)
}

/// Whether a backup is one that the ring takes, and does not have yet.
pub(crate) fn is_taken(backup: &DynomiteBackup) -> bool {
    backup.spec.directory.is_none() && is_active(backup)
}

/// Whether anything is left to do for a backup.
pub(crate) fn is_unsettled(backup: &DynomiteBackup) -> bool {
    let ours = |finalizers: &Vec<String>| finalizers.iter().any(|name| name == BACKUP_FINALIZER);
    let leaving = backup.metadata.deletion_timestamp.is_some()
        && backup.metadata.finalizers.as_ref().is_some_and(ours);
    let littered = backup.status.as_ref().is_some_and(|status| status.cleaning);
    leaving || littered || is_active(backup)
}

/// Whether anything is left to do for one of a cluster's backups, so that the
/// Secrets of its stores are needed.
pub fn backups_need_stores(cluster: &Cluster, backups: &BTreeMap<String, DynomiteBackup>) -> bool {
    let spec = cluster.spec.backup.as_ref();
    let retention = spec.and_then(|spec| spec.retention.as_ref());
    let verified = verify::is_verified_now;
    cluster.catalog_asked.is_some()
        || backups
            .values()
            .any(|backup| is_unsettled(backup) || verified(backup))
        || !wanted(retention, &sorted(backups)).is_empty()
}

/// The snapshot that a node is to take, by what the statuses of backups say.
pub(crate) fn order(
    cluster: &Cluster,
    observed: &Observed,
    node: &Node<'_>,
) -> Option<SnapshotOrder> {
    let spec = cluster.spec.backup.as_ref()?;
    for backup in in_order(observed).into_iter().filter(|b| is_active(b)) {
        let Some(status) = &backup.status else {
            continue;
        };
        let ordered = |token: &&BackupTokenStatus| {
            token.phase == BackupTokenPhase::Running
                && token.node == node.name
                && token.pod_uid == node.pod_uid()
        };
        let Some(token) = status.tokens.iter().find(ordered) else {
            continue;
        };
        if status.cluster_uid == cluster.id.uid {
            return order_of(cluster, spec, status, (&token.pod_uid, token.attempt));
        }
    }
    None
}

/// The orders that a node may hold from before: of snapshots that have ended.
pub(crate) fn earlier_orders(
    cluster: &Cluster,
    observed: &Observed,
    node: &Node<'_>,
) -> Vec<SnapshotOrder> {
    let Some(spec) = cluster.spec.backup.as_ref() else {
        return Vec::new();
    };
    let Some(report) = node.report.as_ref().ok().and_then(|r| r.snapshot.as_ref()) else {
        return Vec::new();
    };
    let statuses = observed.backups.values().filter_map(|b| b.status.as_ref());
    let of_report = statuses.filter(|status| status.id == report.backup);
    let work = (node.pod_uid(), report.attempt);
    of_report
        .filter_map(|status| order_of(cluster, spec, status, work))
        .collect()
}

fn order_of(
    cluster: &Cluster,
    spec: &BackupSpec,
    status: &DynomiteBackupStatus,
    (pod_uid, attempt): (&str, u32),
) -> Option<SnapshotOrder> {
    Some(SnapshotOrder {
        pod_uid: pod_uid.to_owned(),
        backup: status.id.clone(),
        attempt,
        // Of the status, so that a Secret that cannot be read stops no snapshot.
        place: place_with(cluster, &status.store, status.credentials.clone()).ok()?,
        source: spec.source,
        compress: spec.compression == BackupCompression::Zstd,
        encryption_key: spec.encryption.as_ref().map(|with| with.key_id.clone()),
        bytes_per_second: order_limit(cluster),
    })
}

/// At how many bytes per second a node may work.
pub(crate) fn order_limit(cluster: &Cluster) -> Option<u64> {
    let limit = cluster.spec.backup.as_ref()?.bandwidth_limit.as_ref()?;
    u64::try_from(quantity::parse(&limit.0)?).ok()
}

/// The status of a backup after this pass.
pub(crate) fn advance(
    view: &View<'_>,
    backup: &DynomiteBackup,
    busy: &mut Busy,
    step: &mut Step,
) -> DynomiteBackupStatus {
    let mut status = status_of(backup);
    if status
        .phase
        .is_none_or(|phase| phase == BackupPhase::Pending)
    {
        if let Err((reason, message)) = begin(view, backup, &mut status) {
            say(
                &mut status,
                BackupPhase::Pending,
                reason,
                &message,
                view.now,
            );
            return status;
        }
        // What was chosen is written down before anybody acts by it.
        return status;
    }
    if status.phase == Some(BackupPhase::Running) {
        run(view, &mut status, busy, step);
    }
    if status.phase == Some(BackupPhase::Writing) {
        finish(view, &mut status, step);
    }
    status
}

/// Sets phase, reason, message and the conditions.
pub(crate) fn say(
    status: &mut DynomiteBackupStatus,
    phase: BackupPhase,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    status.phase = Some(phase);
    reason.clone_into(&mut status.reason);
    message.clone_into(&mut status.message);
    let (completed, failed) = (
        phase == BackupPhase::Completed,
        phase == BackupPhase::Failed,
    );
    let conditions = &mut status.conditions;
    set_outcome(conditions, completed, failed, (reason, message), now);
}

/// Gives a backup up; what was stored of it is removed.
pub(crate) fn fail(status: &mut DynomiteBackupStatus, reason: &str, message: &str, now: Timestamp) {
    say(status, BackupPhase::Failed, reason, message, now);
    status.cleaning = !status.directory.is_empty();
    for token in &mut status.tokens {
        if token.phase != BackupTokenPhase::Done {
            token.phase = BackupTokenPhase::Failed;
        }
    }
}

/// Chooses the place of a backup and names its tokens.
fn begin(
    view: &View<'_>,
    backup: &DynomiteBackup,
    status: &mut DynomiteBackupStatus,
) -> Result<(), (&'static str, String)> {
    let cluster = view.cluster;
    let no_place = |why: NoPlace| (why.reason(), why.message());
    let spec = cluster.spec.backup.as_ref();
    let spec = spec.ok_or_else(|| no_place(NoPlace::NoStores))?;
    let wanted = backup.spec.store.as_deref();
    let store = spec
        .store(wanted)
        .ok_or_else(|| no_place(NoPlace::NoSuchStore(wanted.unwrap_or_default().to_owned())))?;
    let place = place(cluster, view.observed, &store.name).map_err(no_place)?;
    if view.ring.served_since.is_none() {
        let message = "the ring has not served yet: there is nothing to back up";
        return Err(("NeverServed", message.to_owned()));
    }
    let meta = &backup.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let unnameable = |why: dynomite_snapshot::layout::Error| ("Unnameable", why.to_string());
    let id = &cluster.id;
    let directory = Directory {
        place: Place::new(&place.prefix, &id.namespace, &id.name, &id.uid).map_err(unnameable)?,
        // Its UID was made at random, and it is another one for each backup.
        id: BackupId::new(view.now, suffix(uid), name).map_err(unnameable)?,
    };
    status.cluster_uid.clone_from(&id.uid);
    status.store.clone_from(&store.name);
    status.credentials.clone_from(&place.credentials);
    status.id = directory.id.to_string();
    status.directory = directory.to_string();
    status.location = url(&place, &status.directory);
    status.started_at = Some(Time(view.now));
    let mut tokens = view.ring.tokens.by_ordinal.clone();
    tokens.sort_unstable();
    status.tokens = tokens.into_iter().map(token::waiting).collect();
    count(status);
    say(status, BackupPhase::Running, "", "", view.now);
    Ok(())
}

fn suffix(uid: &str) -> u64 {
    let hash = Sha256::digest(uid.as_bytes());
    hash.iter()
        .take(8)
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// One pass over the tokens of a backup that runs.
fn run(view: &View<'_>, status: &mut DynomiteBackupStatus, busy: &mut Busy, step: &mut Step) {
    if status.cluster_uid != view.cluster.id.uid {
        let message = "the cluster was deleted and made anew: create another DynomiteBackup";
        return fail(status, "ClusterReplaced", message, view.now);
    }
    let place = match place(view.cluster, view.observed, &status.store) {
        Ok(place) => Some(place),
        Err(why @ NoPlace::Credentials(_)) => {
            say(
                status,
                BackupPhase::Running,
                why.reason(),
                &why.message(),
                view.now,
            );
            None
        }
        Err(why) => return fail(status, why.reason(), &why.message(), view.now),
    };
    let id = status.id.clone();
    for token in &mut status.tokens {
        token::follow(view, &id, token);
    }
    if let Some(given_up) = status
        .tokens
        .iter()
        .find(|token| token.phase == BackupTokenPhase::Failed)
    {
        let (reason, message) = (given_up.reason.clone(), token::given_up(given_up));
        return fail(status, &reason, &message, view.now);
    }
    if let Some(place) = &place {
        status.credentials.clone_from(&place.credentials);
        assign(view, status, busy, step, place);
        if status.reason == "CredentialsUnknown" {
            say(status, BackupPhase::Running, "", "", view.now);
        }
    }
    count(status);
    if status
        .tokens
        .iter()
        .all(|token| token.phase == BackupTokenPhase::Done)
    {
        say(status, BackupPhase::Writing, "", "", view.now);
    }
}

/// Asks nodes for the tokens that wait, as far as the limits permit.
fn assign(
    view: &View<'_>,
    status: &mut DynomiteBackupStatus,
    busy: &mut Busy,
    step: &mut Step,
    place: &BackupPlace,
) {
    let spec = view.cluster.spec.backup.as_ref();
    let limit = spec.map_or(1, |spec| spec.parallelism as usize);
    let running = |token: &&BackupTokenStatus| token.phase == BackupTokenPhase::Running;
    for token in status.tokens.iter().filter(running) {
        busy.nodes += 1;
        busy.tokens.insert(token.token);
        let nodes = &view.ring.nodes;
        if let Some(node) = nodes.iter().find(|node| node.name == token.node) {
            crate::bucket::hand_credentials(step, node, place);
        }
    }
    for token in &mut status.tokens {
        if token.phase != BackupTokenPhase::Waiting {
            continue;
        }
        if let Some(at) = token.not_before.as_ref().map(|at| at.0)
            && at > view.now
        {
            step.wake(at);
            continue;
        }
        if busy.tokens.contains(&token.token) || busy.nodes >= limit {
            token::wait(token, "Queued", "it waits for its turn");
            continue;
        }
        if token::choose(view, token) {
            busy.nodes += 1;
            busy.tokens.insert(token.token);
        }
    }
}

/// Sums what the tokens say.
fn count(status: &mut DynomiteBackupStatus) {
    let tokens = &status.tokens;
    let done = tokens
        .iter()
        .filter(|token| token.phase == BackupTokenPhase::Done);
    status.progress = format!("{}/{}", done.count(), tokens.len());
    let sum = |of: fn(&BackupTokenStatus) -> u64| {
        let all = tokens.iter().map(of);
        all.fold(0_u64, u64::saturating_add)
    };
    status.bytes = Some(sum(|token| token.bytes));
    let stored = sum(|token| token.stored_bytes);
    status.stored_bytes = Some(stored);
    status.size = size(stored);
}

/// Bytes for people, such as `1.5Gi`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["Ki", "Mi", "Gi", "Ti", "Pi"];
    let (mut tenths, mut unit) = (u128::from(bytes) * 10, "");
    for next in UNITS {
        if tenths < 10 * 1024 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    if unit.is_empty() || tenths >= 1000 {
        format!("{}{unit}", tenths / 10)
    } else {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
pub(crate) mod tests;
