//! The tokens of a restore: which node loads each, what is heard of it, and when it has to be given up.

use dynomite_api::annotations::{ANNOTATION_ACCEPT_LOSS, ANNOTATION_LOAD_AGAIN};
use dynomite_api::contract::{RestoreReport, RestoreState};
use dynomite_api::crd::{DynomiteRestore, DynomiteRestoreStatus, RestorePhase, RestoreTokenStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::known::{Data, data, write_down};
use super::{View, chosen, concerns, count, end, restless, say, uid};
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
        RestoreState::Staged {
            keys, elsewhere, ..
        } => {
            "Staged".clone_into(&mut token.state);
            token.keys = Some(*keys);
            token.message.clear();
            if *elsewhere > 0 {
                token.message = format!(
                    "{elsewhere} keys lie outside of database 0, where no client finds them"
                );
            }
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
            return give_up(status, "NotLoaded", &why, view.now);
        }
    }
    count(status);
    let restless = restless(view, restore, status);
    let loaded = status.tokens.iter().all(|token| token.state == "Loaded");
    let new = status.tokens.iter().all(|token| {
        let mut nodes = view.ring.nodes.iter();
        nodes.any(|node| chosen_is(token, node) && data(status, node) == Data::New)
    });
    if loaded && new && restless.is_empty() {
        // Whoever has any proof but those that load has old data.
        let all = view.ring.nodes.iter().chain(&view.ring.leaving);
        for node in all {
            if concerns(restore, status, node) && chosen(status, node).is_none() {
                write_down(status, node);
            }
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

/// The way back begins.
pub(super) fn give_up(status: &mut DynomiteRestoreStatus, reason: &str, why: &str, now: Timestamp) {
    for token in &mut status.tokens {
        // What is reported of the load speaks of the same attempt.
        token.attempt += 1;
        token.not_before = None;
        "Waiting".clone_into(&mut token.state);
    }
    count(status);
    say(status, RestorePhase::RollingBack, reason, why, now);
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
    for index in 0..status.tokens.len() {
        let mut token = status.tokens[index].clone();
        let is = |wanted| {
            let mut nodes = view.ring.nodes.iter();
            nodes.any(|node| node.token == token.token && data(status, node) == wanted)
        };
        if is(Data::New) {
            if token.state != "Loaded" {
                "Loaded".clone_into(&mut token.state);
                token.message.clear();
            }
        } else if token.state != "Loaded" || !is(Data::Unknown) {
            // Of whom nothing is known has not lost it, for all that is known.
            bring_back(view, restore, &mut token);
        }
        status.tokens[index] = token;
    }
    count(status);
    let lost = status.tokens.iter().filter(|token| token.state == "Lost");
    let lost: Vec<&str> = lost.map(|token| token.message.as_str()).collect();
    if !lost.is_empty() {
        let message = lost.join("; ");
        return say(
            status,
            RestorePhase::Leveling,
            "DataLost",
            &message,
            view.now,
        );
    }
    let behind = unlevel(view, restore, status);
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

/// A token whose new data no node has: it is loaded again, unless it has served.
/// Then clients may have written to it, and the backup would undo that without a
/// word: a person says what is to be.
fn bring_back(view: &View<'_>, restore: &DynomiteRestore, token: &mut RestoreTokenStatus) {
    let word = format!("{}-{}", token.token, token.attempt + 1);
    match token.state.as_str() {
        "Loaded" if view.ring.served_since.is_none() => load_again(view, token),
        "Loaded" | "Lost" if !told(restore, &word) => lost(view, restore, token, &word),
        "Loaded" | "Lost" => load_again(view, token),
        _ => {
            if follow(view, uid(restore), token, u32::MAX).is_err() {
                load_again(view, token);
            }
        }
    }
}

/// Whether a person has said this word.
fn told(restore: &DynomiteRestore, word: &str) -> bool {
    let annotations = restore.metadata.annotations.as_ref();
    let value = annotations.and_then(|all| all.get(ANNOTATION_LOAD_AGAIN));
    value.is_some_and(|value| value.split(',').any(|one| one.trim() == word))
}

fn lost(view: &View<'_>, restore: &DynomiteRestore, token: &mut RestoreTokenStatus, word: &str) {
    "Lost".clone_into(&mut token.state);
    let mut nodes = view.ring.nodes.iter();
    let heir = nodes.find(|node| node.name == token.node && !node.pod_uid().is_empty());
    if let Some(heir) = heir {
        heir.pod_uid().clone_into(&mut token.pod_uid);
    }
    let namespace = &view.cluster.id.namespace;
    token.message = format!(
        "token {} has served the new data and lost it before another node had copied it: accept \
         what the volume of its node has (kubectl annotate pod {} --namespace {namespace} \
         --overwrite {ANNOTATION_ACCEPT_LOSS}={}), or load the backup again, without what was \
         written since (kubectl annotate dynr {} --namespace {namespace} --overwrite \
         {ANNOTATION_LOAD_AGAIN}={word})",
        token.token,
        token.node,
        token.pod_uid,
        restore.metadata.name.as_deref().unwrap_or_default(),
    );
}

/// Its node, or the next one that answers, loads it anew.
fn load_again(view: &View<'_>, token: &mut RestoreTokenStatus) {
    let answers =
        |node: &&Node<'_>| node.token == token.token && node.report.is_ok() && !node.terminating();
    let nodes = || view.ring.nodes.iter().filter(answers);
    let kept = nodes().find(|node| node.name == token.node);
    let Some(node) = kept.or_else(|| nodes().next()) else {
        return;
    };
    let (name, pod_uid) = (node.name.clone(), node.pod_uid().to_owned());
    (token.node, token.pod_uid) = (name, pod_uid);
    token.attempt += 1;
    token.not_before = None;
    "Waiting".clone_into(&mut token.state);
    "its data was lost before others had copied it".clone_into(&mut token.message);
}

/// The nodes that have old data, may have it, or have none yet.
fn unlevel(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &DynomiteRestoreStatus,
) -> Vec<String> {
    let served = view.ring.served_since.is_some();
    let behind = |node: &Node<'_>| {
        let why = match (data(status, node), &node.report) {
            (Data::Old, _) => "it has the data of before".to_owned(),
            (Data::Unknown, Err(why)) => format!("it does not answer: {why}"),
            (Data::Unknown, Ok(_)) => "it has just started".to_owned(),
            // What comes up later has another pod, and no proof.
            (Data::None, Err(_)) => return None,
            (Data::New, _) if !served || node.proven() => return None,
            (Data::New | Data::None, _) => node.lacks(),
        };
        Some(format!("node {} ({why})", node.name))
    };
    // Of those that leave only what they may still serve counts.
    let leaving = view.ring.leaving.iter();
    let leaving = leaving.filter(|node| matches!(data(status, node), Data::Old | Data::Unknown));
    let all = view.ring.nodes.iter().chain(leaving);
    let all = all.filter(|node| concerns(restore, status, node));
    all.filter_map(behind).collect()
}

/// Nodes with new data go back to the old: by a copy of those that were not
/// touched, or, where there are none, by what they have saved.
pub(super) fn roll_back(
    view: &View<'_>,
    restore: &DynomiteRestore,
    status: &mut DynomiteRestoreStatus,
) {
    let id = uid(restore).to_owned();
    let (mut open, mut lost) = (Vec::new(), Vec::new());
    for index in 0..status.tokens.len() {
        let mut token = status.tokens[index].clone();
        if super::terms::reverts(view.ring, status, &token) {
            go_back(view, &id, status, &mut token);
            if token.state == "Failed" {
                lost.push(token.message.clone());
            } else if token.state != "Reverted" {
                open.push(format!(
                    "token {} goes back on node {}",
                    token.token, token.node
                ));
            }
        } else {
            // One that cannot be asked, or was not told to stop, may load it all the same.
            let may_be_new = |node: &&Node<'_>| match data(status, node) {
                Data::New => node.token == token.token,
                Data::Unknown => chosen_is(&token, node),
                Data::Old | Data::None => {
                    chosen_is(&token, node) && node.report.is_ok() && !(view.is_told)(node)
                }
            };
            if let Some(node) = view.ring.nodes.iter().find(may_be_new) {
                open.push(format!(
                    "node {} has the new data, or may get it",
                    node.name
                ));
            }
            let holders = || {
                view.ring
                    .holders(token.token)
                    .map(|node| data(status, node))
            };
            if !holders().any(|data| matches!(data, Data::Old | Data::Unknown)) {
                lost.push(format!(
                    "no node of token {} has kept its data",
                    token.token
                ));
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
    if open.is_empty() && !lost.is_empty() {
        let message = format!(
            "{why}; what could not be taken back: {}; accept what a node's volume has, then \
             restore it by another DynomiteRestore",
            lost.join("; ")
        );
        return end(
            status,
            RestorePhase::RolledBack,
            "DataLost",
            &message,
            view.now,
        );
    }
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

/// The node of a token goes back to what it has saved of itself, unless it was not
/// touched.
fn go_back(
    view: &View<'_>,
    restore: &str,
    status: &mut DynomiteRestoreStatus,
    token: &mut RestoreTokenStatus,
) {
    inherit(view, token);
    let nodes = || view.ring.nodes.iter();
    let Some(node) = nodes().find(|node| chosen_is(token, node)) else {
        return;
    };
    if data(status, node) == Data::Old {
        "Reverted".clone_into(&mut token.state);
        return;
    }
    if matches!(token.state.as_str(), "Reverted" | "Failed") {
        return;
    }
    let said = said(view, restore, token).map(|report| &report.state);
    if let Some(RestoreState::Failed {
        touched: false,
        retry: false,
        ..
    }) = said
    {
        // It has nothing to go back to, and nothing to go back from: what its
        // volume has is what it had.
        "Reverted".clone_into(&mut token.state);
        return;
    }
    if let Err(why) = follow(view, restore, token, u32::MAX) {
        token.message = why;
    }
    if token.state == "Reverted" {
        write_down(status, node);
    }
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
