//! The snapshot of one token: which node takes it, what is heard of it, and when another try begins.

use dynomite_api::Token;
use dynomite_api::contract::{SnapshotReport, SnapshotState};
use dynomite_api::crd::{BackupTokenPhase, BackupTokenStatus};
use dynomite_snapshot::layout::Object;
use dynomite_snapshot::manifest::Snapshot;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use crate::ring::Node;

/// How many attempts of a token may fail before the backup does.
const FAILURES_MAX: u32 = 6;
/// The pause after the first attempt that failed; it doubles with each.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// The longest pause.
const PAUSE_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How long nothing may be heard of a snapshot before another attempt begins.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// How long a node may wait before it begins; then another one is asked.
const BEGIN: SignedDuration = SignedDuration::from_mins(10);
/// How long a token may be without a node that can be asked.
const NOBODY: SignedDuration = SignedDuration::from_hours(1);
/// How often progress is written down: each time costs a write.
const NEWS: SignedDuration = SignedDuration::from_secs(5);

/// A token of which nothing was begun.
pub(super) fn waiting(token: Token) -> BackupTokenStatus {
    BackupTokenStatus {
        token,
        phase: BackupTokenPhase::Waiting,
        reason: String::new(),
        message: String::new(),
        node: String::new(),
        pod_uid: String::new(),
        attempt: 0,
        failures: 0,
        not_before: None,
        started_at: None,
        finished_at: None,
        updated_at: None,
        unheard_since: None,
        bytes: 0,
        stored_bytes: 0,
        bytes_per_second: None,
        entry: None,
    }
}

/// Says why a token waits.
pub(super) fn wait(token: &mut BackupTokenStatus, reason: &str, message: &str) {
    reason.clone_into(&mut token.reason);
    message.clone_into(&mut token.message);
}

/// Why the whole backup is given up with this token.
pub(super) fn given_up(token: &BackupTokenStatus) -> String {
    let node = if token.node.is_empty() {
        String::new()
    } else {
        format!(" on node {}", token.node)
    };
    format!("token {}{node}: {}", token.token, token.message)
}

/// Takes in what is heard of a snapshot that a node was asked for.
pub(super) fn follow(view: &View<'_>, backup: &str, token: &mut BackupTokenStatus) {
    if token.phase != BackupTokenPhase::Running {
        return;
    }
    let node = view.ring.nodes.iter().find(|node| node.name == token.node);
    let Some(node) = node.filter(|n| n.pod_uid() == token.pod_uid && !n.terminating()) else {
        let message = format!("node {} went away while it took the snapshot", token.node);
        return again(token, "NodeLost", &message, SignedDuration::ZERO, view.now);
    };
    let of_this =
        |report: &&SnapshotReport| report.backup == backup && report.attempt == token.attempt;
    let report = match &node.report {
        Ok(report) => report.snapshot.as_ref().filter(of_this),
        Err(_) => None,
    };
    let Some(report) = report else {
        return unheard(node, token, view.now);
    };
    token.unheard_since = None;
    heard(token, report, view.now);
}

fn heard(token: &mut BackupTokenStatus, report: &SnapshotReport, now: Timestamp) {
    match &report.state {
        SnapshotState::Running => {
            wait(token, "", "");
            progress(token, report, now);
        }
        SnapshotState::Waiting { reason, message } => {
            wait(token, reason, message);
            let asked = token.started_at.as_ref().map_or(now, |at| at.0);
            if now.duration_since(asked) > BEGIN {
                again(token, reason, message, SignedDuration::ZERO, now);
            }
        }
        SnapshotState::Done { entry } => match understood(token, entry) {
            Ok(entry) => done(token, entry),
            Err(why) => again(token, "EntryUnreadable", &why, pause(token), now),
        },
        SnapshotState::Failed {
            reason,
            message,
            retry: true,
        } => again(token, reason, message, pause(token), now),
        SnapshotState::Failed {
            reason, message, ..
        } => {
            token.phase = BackupTokenPhase::Failed;
            wait(token, reason, message);
        }
    }
}

/// The entry of the manifest, if it is of this token and attempt.
fn understood(token: &BackupTokenStatus, entry: &serde_json::Value) -> Result<Snapshot, String> {
    let entry: Snapshot = serde_json::from_value(entry.clone())
        .map_err(|error| format!("the node's entry for the manifest cannot be read: {error}"))?;
    let is_ours = |object: Object| {
        matches!(object, Object::Snapshot { token: of, attempt, .. }
            if of.0 == token.token.0 && attempt == token.attempt)
    };
    let object = Object::parse(&entry.object);
    if entry.token.0 == token.token.0 && object.is_some_and(is_ours) {
        return Ok(entry);
    }
    Err(format!(
        "the node's entry for the manifest is of another snapshot, {}",
        entry.object
    ))
}

fn done(token: &mut BackupTokenStatus, entry: Snapshot) {
    token.phase = BackupTokenPhase::Done;
    wait(token, "", "");
    (token.bytes, token.stored_bytes) = (entry.raw.bytes, entry.stored.bytes);
    token.started_at = Some(Time(entry.started_at));
    token.finished_at = Some(Time(entry.finished_at));
    token.updated_at = None;
    token.not_before = None;
    let took = entry.finished_at.duration_since(entry.started_at);
    token.bytes_per_second = rate(entry.raw.bytes, took);
    // What was read as one is written as one.
    token.entry = serde_json::to_value(entry).ok();
}

fn rate(bytes: u64, took: SignedDuration) -> Option<u64> {
    let millis = u64::try_from(took.as_millis()).ok().filter(|ms| *ms > 0)?;
    Some(bytes.saturating_mul(1000) / millis)
}

/// Notes how far the node is, now and then.
fn progress(token: &mut BackupTokenStatus, report: &SnapshotReport, now: Timestamp) {
    let (before, at) = match &token.updated_at {
        Some(at) => (token.bytes, at.0),
        None => (0, report.started_at),
    };
    let since = now.duration_since(at);
    if token.updated_at.is_some() && since < NEWS || report.bytes == token.bytes {
        return;
    }
    token.bytes_per_second = rate(report.bytes.saturating_sub(before), since);
    token.bytes = report.bytes;
    token.stored_bytes = report.stored_bytes;
    token.updated_at = Some(Time(now));
}

fn unheard(node: &Node<'_>, token: &mut BackupTokenStatus, now: Timestamp) {
    let since = token.unheard_since.get_or_insert(Time(now)).0;
    if now.duration_since(since) > SILENCE {
        let why = match &node.report {
            Err(why) => why.clone(),
            Ok(_) => "it says nothing of the snapshot".to_owned(),
        };
        let message = format!("node {}: {why}", node.name);
        again(token, "NodeSilent", &message, SignedDuration::ZERO, now);
    }
}

/// The pause before the next attempt.
fn pause(token: &BackupTokenStatus) -> SignedDuration {
    let doubled = PAUSE.checked_mul(1 << token.failures.min(10));
    doubled.unwrap_or(PAUSE_MAX).min(PAUSE_MAX)
}

/// Ends an attempt; the next has an object of its own.
fn again(
    token: &mut BackupTokenStatus,
    reason: &str,
    message: &str,
    pause: SignedDuration,
    now: Timestamp,
) {
    wait(token, reason, message);
    token.failures = token.failures.saturating_add(1);
    token.unheard_since = None;
    if token.failures >= FAILURES_MAX {
        token.phase = BackupTokenPhase::Failed;
        token.message = format!("{message}; {FAILURES_MAX} attempts failed");
        return;
    }
    token.phase = BackupTokenPhase::Waiting;
    token.attempt = token.attempt.saturating_add(1);
    (token.bytes, token.stored_bytes) = (0, 0);
    (token.bytes_per_second, token.updated_at, token.started_at) = (None, None, None);
    token.not_before = now.checked_add(pause).ok().map(Time);
}

/// Chooses the node that is asked, if there is one; returns whether there is.
pub(super) fn choose(view: &View<'_>, token: &mut BackupTokenStatus) -> bool {
    let of_token = || view.ring.replicas(token.token);
    if view.moving {
        wait(
            token,
            "RingMoving",
            "a node of the ring is being taken out: the snapshot begins afterwards",
        );
        return false;
    }
    if let Some(copying) = of_token().find(|node| node.warming_up()) {
        let message = format!(
            "node {} copies the data of the token: it goes first",
            copying.name
        );
        wait(token, "WarmUpFirst", &message);
        return false;
    }
    let racks = &view.cluster.racks;
    let backup = view.cluster.spec.backup.as_ref();
    let preferred = backup.and_then(|backup| backup.preferred_rack.as_deref());
    let rank = |node: &&Node<'_>| {
        let rack = racks
            .iter()
            .rev()
            .position(|rack| rack.name == node.rack.name);
        (preferred != Some(node.rack.name.as_str()), rack)
    };
    let levels = &view.ring.levels;
    let whole = |node: &&Node<'_>| node.ready() && levels.behind(&node.name).is_none();
    let mut nodes: Vec<&Node<'_>> = of_token().filter(whole).collect();
    nodes.sort_by_key(rank);
    // Each attempt that failed leads to the next of them.
    let turn = token.failures as usize % nodes.len().max(1);
    let Some(node) = nodes.get(turn) else {
        let since = token.unheard_since.get_or_insert(Time(view.now)).0;
        let message = "no node of the token serves with proven data that lacks nothing";
        wait(token, "NoNode", message);
        if view.now.duration_since(since) > NOBODY {
            token.phase = BackupTokenPhase::Failed;
        }
        return false;
    };
    let (name, pod_uid) = (node.name.clone(), node.pod_uid().to_owned());
    wait(token, "", "");
    token.phase = BackupTokenPhase::Running;
    (token.node, token.pod_uid) = (name, pod_uid);
    token.started_at = Some(Time(view.now));
    (token.not_before, token.unheard_since, token.updated_at) = (None, None, None);
    true
}
