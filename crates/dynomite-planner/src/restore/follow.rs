//! The tokens of a restore: which node loads each, what is heard of it, and when it has to be given up.

use dynomite_api::contract::{ProofKind, RestoreReport, RestoreState};
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RestorePhase, RestoreTokenStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{View, chosen, count, end, is_new, is_old, proof_now, restless, say, uid};
use crate::ring::Node;

/// How often a token may fail to be staged before the restore is given up.
const STAGE_FAILURES: u32 = 5;
/// How often it may fail to be loaded.
const LOAD_FAILURES: u32 = 3;
/// Before another attempt.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// How long a node that loads may be silent.
const SILENCE: SignedDuration = SignedDuration::from_mins(2);
/// How often progress is written down: each time costs a write.
const PROGRESS_STEP: u64 = 20;

/// Nodes download and verify; the ring is held when all have.
pub(super) fn stage(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
) {
    let id = uid(restore).to_owned();
    for token in &mut status.tokens {
        if token.not_before.as_ref().is_some_and(|at| at.0 > view.now) {
            continue;
        }
        token.not_before = None;
        if keep_or_choose(view, token) {
            let report = said(view, &id, token);
            staged(token, report, view.now);
        }
    }
    let hopeless = |token: &&RestoreTokenStatus| token.failures >= STAGE_FAILURES;
    if let Some(token) = status.tokens.iter().find(hopeless) {
        let message = format!(
            "token {} on node {}: {}",
            token.token, token.node, token.message
        );
        return end(
            status,
            RestorePhase::Failed,
            "NotStaged",
            &message,
            view.now,
        );
    }
    if status.tokens.iter().all(|token| token.state == "Staged") {
        status.held_at = Some(Time(view.now));
        return say(status, RestorePhase::Holding, "", "", view.now);
    }
    let message = status.message.clone();
    say(status, RestorePhase::Staging, "", &message, view.now);
}

/// Whether a token has a node that is to load it and can be asked; another node is
/// chosen where there is none any more.
fn keep_or_choose(view: &View<'_>, token: &mut RestoreTokenStatus) -> bool {
    let nodes = || {
        let all = view.ring.nodes.iter();
        all.filter(|node| node.token == token.token && !node.terminating() && suits(view, node))
    };
    if let Some(node) = nodes().find(|node| chosen_is(token, node)) {
        return node.report.is_ok();
    }
    let next = nodes().find(|node| node.report.is_ok());
    let next = next.map(|node| (node.name.clone(), node.pod_uid().to_owned()));
    if let Some((name, pod_uid)) = next {
        (token.node, token.pod_uid) = (name, pod_uid);
        "Waiting".clone_into(&mut token.state);
        token.message.clear();
    } else {
        let why = "no node of this token can load it: it needs one whose data is proven";
        why.clone_into(&mut token.message);
    }
    false
}

/// What the node of a token says of this restore and attempt.
fn said<'a>(
    view: &'a View<'_>,
    restore: &str,
    token: &RestoreTokenStatus,
) -> Option<&'a RestoreReport> {
    let mut nodes = view.ring.nodes.iter();
    let node = nodes.find(|node| chosen_is(token, node))?;
    let report = node.report.as_ref().ok()?.restore.as_ref();
    report.filter(|report| report.restore == restore && report.attempt == token.attempt)
}

/// Whether a node may load: its own data is whole, so that there is a way back,
/// or there is no data yet. One that cannot be asked now was suitable when it was
/// chosen.
fn suits(view: &View<'_>, node: &Node<'_>) -> bool {
    view.ring.served_since.is_none() || node.may_be_proven()
}

fn staged(token: &mut RestoreTokenStatus, report: Option<&RestoreReport>, now: Timestamp) {
    let Some(report) = report else {
        "Waiting".clone_into(&mut token.state);
        return;
    };
    match &report.state {
        RestoreState::Waiting { message, .. } => {
            "Waiting".clone_into(&mut token.state);
            token.message.clone_from(message);
        }
        RestoreState::Downloading => {
            "Downloading".clone_into(&mut token.state);
            token.message.clear();
            progress(token, report);
        }
        RestoreState::Staged { keys, .. } => {
            "Staged".clone_into(&mut token.state);
            token.keys = Some(*keys);
            token.message.clear();
        }
        RestoreState::Failed { message, retry, .. } => {
            token.failures += if *retry { 1 } else { STAGE_FAILURES };
            again(token, message, now);
        }
        // It is told to stage and no more.
        RestoreState::Saving
        | RestoreState::Loading
        | RestoreState::Loaded { .. }
        | RestoreState::Reverted => {}
    }
}

fn again(token: &mut RestoreTokenStatus, message: &str, now: Timestamp) {
    token.attempt += 1;
    "Waiting".clone_into(&mut token.state);
    message.clone_into(&mut token.message);
    token.not_before = now.checked_add(PAUSE).ok().map(Time);
}

/// Notes progress, not more often than people need it.
fn progress(token: &mut RestoreTokenStatus, report: &RestoreReport) {
    let share = |bytes: u64, total: Option<u64>| {
        let total = total.filter(|total| *total > 0)?;
        Some(u128::from(bytes) * u128::from(PROGRESS_STEP) / u128::from(total))
    };
    let differs = share(token.bytes, token.bytes_total) != share(report.bytes, report.bytes_total);
    if differs || token.bytes_total != report.bytes_total {
        token.bytes = report.bytes;
        token.bytes_total = report.bytes_total;
    }
}

/// Whether every node that is to load still has what it has staged.
pub(super) fn still_staged(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
) -> bool {
    let id = uid(restore);
    let mut all = true;
    for token in &mut status.tokens {
        let mut nodes = view.ring.nodes.iter();
        let node = nodes.find(|n| n.name == token.node && n.pod_uid() == token.pod_uid);
        let Some(node) = node.filter(|node| !node.terminating()) else {
            "Waiting".clone_into(&mut token.state);
            all = false;
            continue;
        };
        // One that does not answer is waited for, like all that do not rest.
        let Ok(report) = &node.report else { continue };
        let report = report.restore.as_ref();
        let staged = report.is_some_and(|report| {
            report.restore == id && matches!(report.state, RestoreState::Staged { .. })
        });
        if !staged || !suits(view, node) {
            "Waiting".clone_into(&mut token.state);
            all = false;
        }
    }
    all
}

/// One node of each token loads; the ring is committed when all have.
pub(super) fn load(view: &View<'_>, restore: &DynomiteRestore, status: &mut DynomiteRestoreStatus) {
    let id = uid(restore).to_owned();
    for index in 0..status.tokens.len() {
        let mut token = status.tokens[index].clone();
        let outcome = follow(view, &id, &mut token, LOAD_FAILURES);
        status.tokens[index] = token;
        if let Err(why) = outcome {
            count(status);
            return say(
                status,
                RestorePhase::RollingBack,
                "NotLoaded",
                &why,
                view.now,
            );
        }
    }
    count(status);
    let restless = restless(view);
    let loaded = status.tokens.iter().all(|token| token.state == "Loaded");
    let new = status.tokens.iter().all(|token| {
        let mut nodes = view.ring.nodes.iter();
        nodes.any(|node| chosen_is(token, node) && is_new(status, node))
    });
    if loaded && new && restless.is_empty() {
        // Whoever has any proof but those that load has old data.
        let all = view.ring.nodes.iter().chain(&view.ring.leaving);
        let old = all.filter(|node| chosen(status, node).is_none());
        for proof in old.filter_map(proof_now).collect::<Vec<_>>() {
            status.nodes.retain(|known| known.node != proof.node);
            status.nodes.push(proof);
        }
        status.committed_at = Some(Time(view.now));
        return say(status, RestorePhase::Leveling, "", "", view.now);
    }
    let (reason, message) = if restless.is_empty() || !loaded {
        ("", String::new())
    } else {
        ("NotAtRest", format!("waits for {}", restless.join("; ")))
    };
    say(status, RestorePhase::Loading, reason, &message, view.now);
}

fn chosen_is(token: &RestoreTokenStatus, node: &Node<'_>) -> bool {
    token.node == node.name && token.pod_uid == node.pod_uid()
}

/// Takes in what the node of a token says of its load; an error says why the
/// token is given up.
fn follow(
    view: &View<'_>,
    restore: &str,
    token: &mut RestoreTokenStatus,
    failures: u32,
) -> Result<(), String> {
    let node = view.ring.nodes.iter().find(|node| chosen_is(token, node));
    let Some(node) = node.filter(|node| !node.terminating()) else {
        return Err(format!("node {} went away while it loaded", token.node));
    };
    let report = match &node.report {
        Ok(report) => report,
        Err(why) => {
            let limit = view.now.checked_add(SILENCE).unwrap_or(Timestamp::MAX);
            let limit = token.not_before.get_or_insert(Time(limit)).0;
            token.message = format!("it does not answer: {why}");
            if limit <= view.now {
                return Err(format!("node {} was not heard while it loaded", token.node));
            }
            return Ok(());
        }
    };
    token.not_before = None;
    let of_this =
        |report: &&RestoreReport| report.restore == restore && report.attempt == token.attempt;
    let Some(report) = report.restore.as_ref().filter(of_this) else {
        return Ok(());
    };
    match &report.state {
        RestoreState::Failed { message, retry, .. } => {
            token.failures += 1;
            let message = format!("token {} on node {}: {message}", token.token, token.node);
            if !retry || token.failures >= failures {
                "Failed".clone_into(&mut token.state);
                token.message.clone_from(&message);
                return Err(message);
            }
            token.attempt += 1;
            "Waiting".clone_into(&mut token.state);
            token.message = message;
        }
        RestoreState::Loaded { keys } => {
            "Loaded".clone_into(&mut token.state);
            token.keys = Some(*keys);
            token.message.clear();
        }
        RestoreState::Reverted => {
            "Reverted".clone_into(&mut token.state);
            token.message.clear();
        }
        state @ (RestoreState::Saving | RestoreState::Loading) => {
            let word = match state {
                RestoreState::Saving => "Saving",
                _ => "Loading",
            };
            word.clone_into(&mut token.state);
            progress(token, report);
        }
        RestoreState::Waiting { message, .. } => token.message.clone_from(message),
        RestoreState::Downloading | RestoreState::Staged { .. } => {}
    }
    Ok(())
}

/// The others copy the nodes that have loaded; it is done when nobody has old
/// data any more.
pub(super) fn level(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
) {
    let id = uid(restore).to_owned();
    for index in 0..status.tokens.len() {
        let mut token = status.tokens[index].clone();
        let mut nodes = view.ring.nodes.iter();
        let there = nodes.any(|node| node.token == token.token && is_new(status, node));
        // Who cannot be asked has not lost it, for all that is known.
        let silent = |node: &Node<'_>| {
            node.token == token.token && node.report.is_err() && node.may_be_proven()
        };
        if !there && token.state == "Loaded" && view.ring.nodes.iter().any(silent) {
            continue;
        }
        // When the only node with the new data has lost it, it loads it again.
        if !there {
            reload(view, &id, &mut token);
            status.tokens[index] = token;
        } else if token.state != "Loaded" {
            "Loaded".clone_into(&mut status.tokens[index].state);
        }
    }
    count(status);
    let behind = unlevel(view, status);
    if behind.is_empty() {
        let message = format!("every node has the data of {}", status.backup);
        return end(
            status,
            RestorePhase::Completed,
            "Completed",
            &message,
            view.now,
        );
    }
    let message = format!("these have yet to copy it: {}", behind.join("; "));
    say(status, RestorePhase::Leveling, "", &message, view.now);
}

fn reload(view: &View<'_>, restore: &str, token: &mut RestoreTokenStatus) {
    let before = token.clone();
    if follow(view, restore, token, u32::MAX).is_ok() && token.state != "Loaded" {
        return;
    }
    // Its node is gone, or its proof: the next one that answers loads it anew.
    let nodes = || {
        view.ring
            .nodes
            .iter()
            .filter(|node| node.token == token.token)
    };
    let kept = nodes().find(|node| chosen_is(&before, node) && node.report.is_ok());
    let any = nodes().find(|node| node.report.is_ok() && !node.terminating());
    if let Some(node) = kept.filter(|node| !node.terminating()).or(any) {
        let (name, pod_uid) = (node.name.clone(), node.pod_uid().to_owned());
        *token = before;
        token.node = name;
        token.pod_uid = pod_uid;
        token.attempt += 1;
        token.not_before = None;
        "Waiting".clone_into(&mut token.state);
        "its data was lost before others had copied it".clone_into(&mut token.message);
    }
}

/// The nodes that have old data, may have it, or have none yet.
fn unlevel(view: &View<'_>, status: &DynomiteRestoreStatus) -> Vec<String> {
    let served = view.ring.served_since.is_some();
    let all = view.ring.nodes.iter().filter(|node| node.pod.is_some());
    // Of those that leave only what they may still serve counts.
    let leaving = view
        .ring
        .leaving
        .iter()
        .filter(|node| is_old(status, node) || (node.report.is_err() && node.may_be_proven()));
    all.chain(leaving)
        .filter_map(|node| {
            let why = match &node.report {
                Err(_) if node.address().is_none() || node.terminating() => return None,
                Err(why) => format!("it does not answer: {why}"),
                Ok(_) if is_old(status, node) => "it has the data of before".to_owned(),
                Ok(report) if report.proof.kind == ProofKind::Unproven => node.lacks(),
                Ok(_) if served && !node.proven() => node.lacks(),
                Ok(_) => return None,
            };
            Some(format!("node {} ({why})", node.name))
        })
        .collect()
}

/// Nodes with new data go back to the old: by a copy of those that were not
/// touched, or, where there are none, by what they have saved.
pub(super) fn roll_back(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
) {
    let id = uid(restore).to_owned();
    let mut open = Vec::new();
    for index in 0..status.tokens.len() {
        let mut token = status.tokens[index].clone();
        if super::terms::reverts(view.ring, status, &token) {
            inherit(view, &mut token);
            let node = view.ring.nodes.iter().find(|node| chosen_is(&token, node));
            let untouched = node.is_some_and(|node| is_old(status, node));
            if !untouched && token.state != "Reverted" {
                // The report of the failed load speaks of the same attempt.
                if token.state == "Failed" || token.state == "Loaded" {
                    token.attempt += 1;
                    "Waiting".clone_into(&mut token.state);
                }
                if let Err(why) = follow(view, &id, &mut token, u32::MAX) {
                    token.message = format!("{why}; restore {} by another restore", token.token);
                }
                open.push(format!(
                    "token {} goes back on node {}",
                    token.token, token.node
                ));
            }
        } else {
            let mut nodes = view.ring.nodes.iter();
            // One that cannot be asked may have loaded it all the same.
            let new = nodes.find(|node| {
                let silent = node.report.is_err() && node.may_be_proven();
                let loaded = restored(status, node) || (silent && chosen_is(&token, node));
                node.token == token.token && loaded
            });
            if let Some(node) = new {
                open.push(format!("node {} has the new data", node.name));
            }
        }
        status.tokens[index] = token;
    }
    count(status);
    let reason = status.reason.clone();
    let why = status
        .message
        .split("; goes back: ")
        .next()
        .unwrap_or_default();
    let why = why.to_owned();
    if open.is_empty() {
        let message = format!("the ring has the data that it had before: {why}");
        return end(
            status,
            RestorePhase::RolledBack,
            &reason,
            &message,
            view.now,
        );
    }
    let message = format!("{why}; goes back: {}", open.join(", "));
    say(
        status,
        RestorePhase::RollingBack,
        &reason,
        &message,
        view.now,
    );
}

/// A pod that came after the one that was to load has its volume, and what was saved there.
fn inherit(view: &View<'_>, token: &mut RestoreTokenStatus) {
    let mut heirs = view.ring.nodes.iter();
    let heir =
        heirs.find(|node| node.name == token.node && node.report.is_ok() && !node.terminating());
    if let Some(heir) = heir.filter(|node| node.pod_uid() != token.pod_uid) {
        heir.pod_uid().clone_into(&mut token.pod_uid);
        token.attempt += 1;
        token.not_before = None;
        "Waiting".clone_into(&mut token.state);
    }
}

/// Whether a node's data is of this restore.
pub(super) fn restored(status: &DynomiteRestoreStatus, node: &Node<'_>) -> bool {
    let kind = node.report.as_ref().map(|report| report.proof.kind);
    kind == Ok(ProofKind::Restored) && is_new(status, node)
}
