//! The life of a `DynomiteRestore`: what its status says next, from what it said and what nodes report.
//!
//! ```text
//!  Pending -> Checking -> Staging -> Holding -> Loading ==> Leveling -> Completed
//!     |          |           |          |          |    commit
//!     |          |           |          |          +--> RollingBack -> RolledBack
//!     +----------+-----------+----------+--> Failed(why), or Aborted: nothing was touched
//! ```
//!
//! Nodes act by what stands in the status, so it is written first: an operator
//! that starts anew tells them the same. Whose data is old and whose is new is one
//! table (`known`). From the commit on old data counts no longer and those nodes copy
//! the restored ones; a roll-back is the same the other way round.

mod asked;
mod called;
mod files;
mod follow;
mod known;
mod refresh;
mod source;
mod terms;

use dynomite_api::contract::{EngineState, NodePhase, NodeReport, ProofKind};
use dynomite_api::crd::{
    BackupPhase, DynomiteBackup, DynomiteRestore, DynomiteRestoreSpec, DynomiteRestoreStatus,
    RESTORE_FINALIZER, RestorePhase, RestoreTokenStatus, set_outcome,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::plan::Action;
use crate::ring::{Node, Ring};
use crate::steps::Step;
use known::{Data, data, proof_now};
use source::{NoSource, Source, source};

pub(crate) use asked::asked;
pub(crate) use called::called;
pub(crate) use refresh::{refresh, refresh_status};
pub(crate) use terms::{Terms, left_held, terms};

/// How long the ring may take to come to rest before the restore is given up.
const HOLD_PATIENCE: SignedDuration = SignedDuration::from_mins(3);

/// What restores are decided from.
pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) observed: &'a Observed,
    pub(crate) ring: &'a Ring<'a>,
    pub(crate) now: Timestamp,
    /// Whether a node holds the document that it should have.
    pub(crate) is_told: &'a dyn Fn(&Node<'_>) -> bool,
}

/// The restore that is the ring's now: the one that has begun, else the oldest.
pub(crate) fn active<'a>(cluster: &Cluster, observed: &'a Observed) -> Option<&'a DynomiteRestore> {
    let mut restores: Vec<&DynomiteRestore> = observed.restores.values().collect();
    restores.retain(|restore| is_open(cluster, restore));
    restores.sort_by_key(|restore| {
        let meta = &restore.metadata;
        let made = meta.creation_timestamp.as_ref().map(|time| time.0);
        (
            phase(restore) == RestorePhase::Pending,
            made,
            meta.name.clone(),
        )
    });
    restores.first().copied()
}

/// Whether a restore is of this ring and has not ended.
fn is_open(cluster: &Cluster, restore: &DynomiteRestore) -> bool {
    let begun = phase(restore) > RestorePhase::Pending;
    let ours = restore
        .status
        .as_ref()
        .is_none_or(|status| status.cluster_uid.is_empty() || status.cluster_uid == cluster.id.uid);
    let open = !phase(restore).is_final() && ours;
    // One that goes before it has begun needs nothing.
    open && (begun || restore.metadata.deletion_timestamp.is_none())
}

/// The restore that a new ring begins with, when it is to be made. It belongs to
/// the ring; one that has failed is looked at by a person, and made anew when it is
/// deleted.
pub(crate) fn first(
    cluster: &Cluster,
    observed: &Observed,
    ring: &Ring<'_>,
) -> Option<DynomiteRestore> {
    let wish = cluster.spec.bootstrap.as_ref()?.restore_from.as_ref()?;
    let name = format!("{}-bootstrap", cluster.id.name);
    let wanted = ring.served_since.is_none() && !ring.serves() && !cluster.deleting;
    if !wanted || observed.restores.contains_key(&name) {
        return None;
    }
    let spec = DynomiteRestoreSpec {
        cluster: cluster.id.name.clone(),
        store: wish.store.clone(),
        from: wish.from.clone(),
        source_cluster: wish.source_cluster.clone(),
        ..DynomiteRestoreSpec::default()
    };
    let mut restore = DynomiteRestore::new(&name, spec);
    restore.metadata = crate::objects::owned(cluster, name, None);
    Some(restore)
}

/// The phase of a restore.
pub(crate) fn phase(restore: &DynomiteRestore) -> RestorePhase {
    let status = restore.status.as_ref();
    status
        .and_then(|status| status.phase)
        .unwrap_or(RestorePhase::Pending)
}

/// The UID of a restore.
pub(crate) fn uid(restore: &DynomiteRestore) -> &str {
    restore.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether steps that take nodes out must wait for a restore.
pub(crate) fn in_the_way(cluster: &Cluster, observed: &Observed) -> Option<String> {
    let restore = active(cluster, observed)?;
    let begun = phase(restore) >= RestorePhase::Staging;
    begun.then(|| restore.metadata.name.clone().unwrap_or_default())
}

/// The status of the active restore after this pass.
pub(crate) fn advance(
    view: &View<'_>,
    restore: &DynomiteRestore,
    step: &mut Step,
) -> DynomiteRestoreStatus {
    let mut status = restore.status.clone().unwrap_or_default();
    let gives_up = restore.spec.abort || restore.metadata.deletion_timestamp.is_some();
    let phase = phase(restore);
    if gives_up && phase <= RestorePhase::Holding {
        let message = "it was given up; nothing was changed";
        end(
            &mut status,
            RestorePhase::Aborted,
            "Aborted",
            message,
            view.now,
        );
        return status;
    }
    match phase {
        RestorePhase::Pending => begin(view, restore, &mut status, step),
        RestorePhase::Checking => check(view, restore, &mut status, step),
        RestorePhase::Staging => follow::stage(view, restore, &mut status),
        RestorePhase::Holding => hold(view, restore, &mut status),
        RestorePhase::Loading if gives_up => {
            let why = "a person has given it up";
            follow::give_up(&mut status, "Aborted", why, view.now);
        }
        RestorePhase::Loading => follow::load(view, restore, &mut status),
        RestorePhase::Leveling => follow::level(view, restore, &mut status),
        RestorePhase::RollingBack => follow::roll_back(view, restore, &mut status),
        RestorePhase::Completed
        | RestorePhase::Failed
        | RestorePhase::Aborted
        | RestorePhase::RolledBack => {}
    }
    if (RestorePhase::Staging..=RestorePhase::RollingBack).contains(&phase) {
        hand_credentials(view, &status, step);
    }
    status
}

/// The source of a restore that is checked. What is in the way of it is said.
fn found(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
    step: &mut Step,
) -> Option<Source> {
    match source(view, restore, step) {
        Ok(source) => Some(source),
        Err(NoSource::Pending(why)) => {
            let message = if why.is_empty() {
                "the store of backups is being asked"
            } else {
                &why
            };
            let phase = RestorePhase::Checking;
            say(status, phase, "StoreUnavailable", message, view.now);
            None
        }
        Err(NoSource::Never(reason, message)) => {
            end(status, RestorePhase::Failed, reason, &message, view.now);
            None
        }
    }
}

/// Hands what opens the store to the nodes that load. What they have staged is
/// theirs: a store that cannot be opened any more stops nothing that has begun.
fn hand_credentials(view: &View<'_>, status: &DynomiteRestoreStatus, step: &mut Step) {
    let Ok(place) = crate::bucket::place(view.cluster, view.observed, &status.store) else {
        return;
    };
    for node in view.ring.nodes.iter().filter(|node| loads(status, node)) {
        crate::bucket::hand_credentials(step, node, &place);
    }
}

/// Whether a restore that has begun exchanges a node's data: that of all, or of
/// the tokens that it names.
fn concerns(restore: &DynomiteRestore, status: &DynomiteRestoreStatus, node: &Node<'_>) -> bool {
    let spec = &restore.spec;
    let whole = spec.tokens.is_empty() && spec.nodes.is_empty();
    whole || status.tokens.iter().any(|token| token.token == node.token)
}

/// Whether the status names this node, and no other of its name, to load.
fn loads(status: &DynomiteRestoreStatus, node: &Node<'_>) -> bool {
    chosen(status, node).is_some()
}

/// What the status says of the token that this node loads.
fn chosen<'s>(
    status: &'s DynomiteRestoreStatus,
    node: &Node<'_>,
) -> Option<&'s RestoreTokenStatus> {
    let named = |token: &&RestoreTokenStatus| {
        token.node == node.name && !token.pod_uid.is_empty() && token.pod_uid == node.pod_uid()
    };
    status.tokens.iter().find(named)
}

fn begin(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
    step: &mut Step,
) {
    let finalizers = restore.metadata.finalizers.iter().flatten();
    if finalizers.filter(|name| *name == RESTORE_FINALIZER).count() == 0 {
        let set = Action::SetRestoreFinalizer {
            name: restore.metadata.name.clone().unwrap_or_default(),
            uid: uid(restore).to_owned(),
            present: true,
        };
        step.act(set, "a ring must not lose its restore half-way");
        return;
    }
    if view.cluster.deleting {
        let message = "the cluster is being deleted";
        return end(
            status,
            RestorePhase::Failed,
            "ClusterDeleted",
            message,
            view.now,
        );
    }
    status.cluster_uid.clone_from(&view.cluster.id.uid);
    status.started_at = Some(Time(view.now));
    say(status, RestorePhase::Checking, "", "", view.now);
}

fn check(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
    step: &mut Step,
) {
    let Some(source) = found(view, restore, status, step) else {
        return;
    };
    let runs = |phase: &BackupPhase| matches!(phase, BackupPhase::Running | BackupPhase::Writing);
    let phase_of = |backup: &&DynomiteBackup| backup.status.as_ref().and_then(|s| s.phase);
    let mut backups = view.observed.backups.values();
    // One that was asked for, and has not begun, is to have the data of before.
    let served = view.ring.served_since.is_some();
    let goes_first = |backup: &&DynomiteBackup| {
        phase_of(backup).as_ref().is_some_and(runs) || (served && crate::backup::is_taken(backup))
    };
    if let Some(backup) = backups.find(goes_first) {
        let name = backup.metadata.name.as_deref().unwrap_or_default();
        let message = format!("waits until DynomiteBackup {name} is done, or deleted");
        return say(
            status,
            RestorePhase::Checking,
            "BackupRuns",
            &message,
            view.now,
        );
    }
    let token = |load: &source::TokenLoad| RestoreTokenStatus {
        token: load.token,
        state: "Waiting".to_owned(),
        node: String::new(),
        pod_uid: String::new(),
        attempt: 0,
        failures: 0,
        not_before: None,
        bytes: 0,
        bytes_total: None,
        keys: None,
        message: String::new(),
        load: source.pin(load),
    };
    status.tokens = source.loads.iter().map(token).collect();
    status.store.clone_from(&source.place.store);
    status.backup.clone_from(&source.id);
    status.directory.clone_from(&source.directory);
    status.files.clone_from(&source.files);
    status.as_of = source.as_of.map(Time);
    let message = match source.unreachable {
        0 => String::new(),
        keys => format!("{keys} keys lie outside of database 0, where no client finds them"),
    };
    count(status);
    say(status, RestorePhase::Staging, "", &message, view.now);
}

/// Whether clients are not served any more and nobody changes anything, and what
/// every node had then.
fn hold(view: &View<'_>, restore: &DynomiteRestore, status: &mut DynomiteRestoreStatus) {
    if !follow::still_staged(view, restore, status) {
        return say(
            status,
            RestorePhase::Staging,
            "NodeLost",
            &lost(status),
            view.now,
        );
    }
    let restless = restless(view, restore, status);
    if restless.is_empty() {
        let nodes = view.ring.nodes.iter().chain(&view.ring.leaving);
        let nodes = nodes.filter(|node| concerns(restore, status, node));
        status.nodes = nodes.filter_map(proof_now).collect();
        return say(status, RestorePhase::Loading, "", "", view.now);
    }
    let since = status.held_at.get_or_insert(Time(view.now)).0;
    let message = format!("waits until these are at rest: {}", restless.join("; "));
    if view.now.duration_since(since) > HOLD_PATIENCE {
        return end(
            status,
            RestorePhase::Failed,
            "NotAtRest",
            &message,
            view.now,
        );
    }
    say(
        status,
        RestorePhase::Holding,
        "NotAtRest",
        &message,
        view.now,
    );
}

fn lost(status: &DynomiteRestoreStatus) -> String {
    let lost = status.tokens.iter().filter(|token| token.state != "Staged");
    let names: Vec<&str> = lost.map(|token| token.node.as_str()).collect();
    format!("what these had staged is lost: {}", names.join(", "))
}

/// Nodes that may serve, write or copy, for all that is known, and why.
fn restless(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &DynomiteRestoreStatus,
) -> Vec<String> {
    let all = view.ring.nodes.iter().chain(&view.ring.leaving);
    let all = all.filter(|node| concerns(restore, status, node));
    all.filter_map(|node| {
        let why = stirs(view, status, node)?;
        Some(format!("node {} ({why})", node.name))
    })
    .collect()
}

fn stirs(view: &View<'_>, status: &DynomiteRestoreStatus, node: &Node<'_>) -> Option<String> {
    if node.pod.is_none() || (node.address().is_none() && node.report.is_err()) {
        // What comes up later has another pod, and no proof.
        return None;
    }
    let report = match &node.report {
        Err(why) => return Some(format!("it does not answer: {why}")),
        Ok(_) if node.terminating() => return Some("it leaves".to_owned()),
        Ok(report) => *report,
    };
    if !(view.is_told)(node) {
        return Some("it was not told yet".to_owned());
    }
    let proven = report.proof.kind != ProofKind::Unproven;
    let copies = matches!(report.phase, NodePhase::WarmingUp | NodePhase::CatchingUp);
    if copies {
        return Some("it copies".to_owned());
    }
    if data(status, node) == Data::Unknown {
        return Some("it has just started, and has yet to find out what it has".to_owned());
    }
    // The engine of one without a proof finds no store, whatever state it is in.
    let rests = report.phase == NodePhase::Held && stands_by(report);
    (proven && !rests).then(|| format!("it is {:?}", report.phase))
}

fn stands_by(report: &NodeReport) -> bool {
    let engine = report.engine.as_ref();
    engine.is_none_or(|engine| engine.state == EngineState::Standby)
}

/// Sums what the tokens say.
fn count(status: &mut DynomiteRestoreStatus) {
    let loaded = status.tokens.iter().filter(|token| token.state == "Loaded");
    status.progress = format!("{}/{}", loaded.count(), status.tokens.len());
}

/// Sets phase, reason, message and the conditions.
fn say(
    status: &mut DynomiteRestoreStatus,
    phase: RestorePhase,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    status.phase = Some(phase);
    reason.clone_into(&mut status.reason);
    message.clone_into(&mut status.message);
    let completed = phase == RestorePhase::Completed;
    let failed = phase.is_final() && !completed;
    let conditions = &mut status.conditions;
    set_outcome(conditions, completed, failed, (reason, message), now);
}

/// The same, for good.
fn end(
    status: &mut DynomiteRestoreStatus,
    phase: RestorePhase,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    status.completed_at = Some(Time(now));
    say(status, phase, reason, message, now);
}

#[cfg(test)]
pub(crate) mod tests;
