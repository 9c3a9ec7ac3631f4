//! Verification: a completed backup is loaded into a scratch store, one token after the other, and compared with its manifest.
//!
//! ```text
//!  wanted --> Running --pod--> manifest --> token --> token .. --> Verified
//!                |  no pod for long, or not what the manifest says
//!                +--------------------------------------------> Failed(why)
//! ```
//!
//! A cluster has one scratch pod, by its name, so one backup is verified at a time. What stands
//! in no status deletes the pod: an operator that died in between leaves none behind.

use std::collections::BTreeMap;

use dynomite_api::contract::{BucketAction, BucketAnswer, RestorePart, TokenRange};
use dynomite_api::crd::{
    BackupPhase, BackupVerification, CONDITION_VERIFIED, DynomiteBackup, DynomiteBackupStatus,
    VerificationPhase, set_verified,
};
use dynomite_snapshot::digest::Sha256;
use dynomite_snapshot::layout::Object;
use dynomite_snapshot::manifest::{Manifest, Snapshot};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::retention::age;
use super::{View, order_limit, status_of};
use crate::blocker;
use crate::bucket::{NoPlace, Reply, Respondent, ask_one, hand_to, place};
use crate::cluster::Cluster;
use crate::objects::{Images, scratch};
use crate::observed::{Scratch, Seen};
use crate::plan::{Action, AsSeen, EventKind};
use crate::steps::Step;

/// How often a verification that goes on is looked at.
const LOOK: SignedDuration = SignedDuration::from_secs(1);
/// How long the scratch store may be missing.
const MISSING: SignedDuration = SignedDuration::from_mins(30);
/// How long one token may take: some hundred gigabytes.
const LOADING: SignedDuration = SignedDuration::from_hours(8);

/// Why a verification ends badly.
struct Bad(String, String);

/// Whether a backup is being verified now.
pub(super) fn is_verified_now(backup: &DynomiteBackup) -> bool {
    let verification = of(backup);
    backup.metadata.deletion_timestamp.is_none()
        && backup.spec.verify != Some(false)
        && verification.is_some_and(|it| it.phase == VerificationPhase::Running)
}

fn of(backup: &DynomiteBackup) -> Option<&BackupVerification> {
    backup.status.as_ref()?.verification.as_ref()
}

/// When it was found out last what a backup is worth.
pub(super) fn verified(backup: &DynomiteBackup) -> Option<(Timestamp, &BackupVerification)> {
    let verification = of(backup)?;
    let at = verification.finished_at.as_ref()?;
    Some((at.0, verification))
}

fn is_completed(backup: &DynomiteBackup) -> bool {
    let phase = backup.status.as_ref().and_then(|status| status.phase);
    backup.metadata.deletion_timestamp.is_none() && phase == Some(BackupPhase::Completed)
}

/// The backup that is to be verified next, of all that there are, oldest first.
fn wanted<'a>(
    cluster: &Cluster,
    all: &[&'a DynomiteBackup],
    now: Timestamp,
) -> Option<&'a DynomiteBackup> {
    let open = |backup: &DynomiteBackup| {
        let status = backup.status.as_ref();
        is_completed(backup)
            && of(backup).is_none()
            && status.is_some_and(|status| status.cluster_uid == cluster.id.uid)
    };
    let asked = |backup: &&DynomiteBackup| open(backup) && backup.spec.verify == Some(true);
    if let Some(asked) = all.iter().copied().find(asked) {
        return Some(asked);
    }
    let rule = cluster.spec.backup.as_ref()?.verify.as_ref()?;
    let interval = rule.interval.as_deref().and_then(age);
    // The newest of each store, and when one of that store was verified last.
    let mut newest: BTreeMap<&str, &'a DynomiteBackup> = BTreeMap::new();
    let mut last: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for backup in all.iter().copied().filter(|backup| is_completed(backup)) {
        let store = backup.status.as_ref().map_or("", |status| &status.store);
        newest.insert(store, backup);
        if let Some((at, _)) = verified(backup) {
            let slot = last.entry(store).or_insert(at);
            *slot = at.max(*slot);
        }
    }
    let due = |store: &str| {
        let (Some(interval), Some(last)) = (interval, last.get(store)) else {
            return true;
        };
        now.duration_since(*last) >= interval
    };
    newest.into_iter().find_map(|(store, backup)| {
        let fine = open(backup) && backup.spec.verify.is_none() && due(store);
        fine.then_some(backup)
    })
}

/// Moves the verification on, or begins one.
pub(crate) fn verify(view: &View<'_>, all: &[&DynomiteBackup], step: &mut Step) {
    let current = all.iter().copied().find(|backup| is_verified_now(backup));
    end_scratch(view, current, step);
    for backup in all.iter().copied() {
        if backup.spec.verify == Some(false) && of(backup).is_some() {
            let mut status = status_of(backup);
            status.verification = None;
            status.conditions.retain(|c| c.type_ != CONDITION_VERIFIED);
            write(backup, status, step);
        }
    }
    if let Some(backup) = current {
        if let Ok(look) = view.now.checked_add(LOOK) {
            step.wake(look);
        }
        let mut status = status_of(backup);
        let Some(mut verification) = status.verification.take() else {
            return;
        };
        let before = verification.clone();
        let name = backup.metadata.name.as_deref().unwrap_or_default();
        let told = match go_on(view, backup, &status, &mut verification, step) {
            Ok(()) => progress(&mut status, &mut verification, name, view.now),
            Err(Bad(reason, message)) => Some(fail(
                &mut status,
                &mut verification,
                name,
                (reason, message),
                view.now,
            )),
        };
        if verification != before {
            status.verification = Some(verification);
            if write(backup, status, step)
                && let Some(event) = told
            {
                step.act(event, "a backup was loaded to prove it");
            }
        }
    } else if let Some(backup) = wanted(view.cluster, all, view.now) {
        let mut status = status_of(backup);
        begin(&mut status, view.now);
        write(backup, status, step);
    }
}

fn begin(status: &mut DynomiteBackupStatus, now: Timestamp) {
    status.verification = Some(BackupVerification {
        phase: VerificationPhase::Running,
        reason: String::new(),
        message: String::new(),
        started_at: Time(now),
        updated_at: Time(now),
        missing_since: None,
        finished_at: None,
        tokens: Vec::new(),
        keys: 0,
    });
    let message = "a scratch store loads it";
    set_verified(&mut status.conditions, None, ("", message), now);
}

/// Another write of this pass would be made from what was seen before it; then the next pass does it.
fn write(backup: &DynomiteBackup, status: DynomiteBackupStatus, step: &mut Step) -> bool {
    let name = backup.metadata.name.as_deref().unwrap_or_default();
    if step.writes_backup(name) {
        return false;
    }
    let write = Action::WriteBackup {
        seen: AsSeen::of(&backup.metadata),
        status: Box::new(status),
    };
    step.act(write, "the verification of the backup went on");
    true
}

/// Deletes the scratch pod unless it is the one of the backup that is being verified.
fn end_scratch(view: &View<'_>, current: Option<&DynomiteBackup>, step: &mut Step) {
    let Some(Scratch { pod, .. }) = &view.observed.scratch else {
        return;
    };
    let is_of = |backup: &DynomiteBackup| {
        let owners = pod.metadata.owner_references.iter().flatten();
        let uid = backup.metadata.uid.as_deref();
        owners
            .into_iter()
            .any(|owner| Some(owner.uid.as_str()) == uid)
    };
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let ended = matches!(ended, Some("Succeeded" | "Failed"));
    if current.is_some_and(is_of) && !ended {
        return;
    }
    end(pod, step);
}

/// Deletes the scratch pod.
pub(crate) fn end(pod: &k8s_openapi::api::core::v1::Pod, step: &mut Step) {
    if pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let end = Action::EndScratch {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    };
    step.act(end, "no backup is verified by it");
}

/// One pass of a verification; afterwards all is done when no token is missing.
fn go_on(
    view: &View<'_>,
    backup: &DynomiteBackup,
    status: &DynomiteBackupStatus,
    verification: &mut BackupVerification,
    step: &mut Step,
) -> Result<(), Bad> {
    let place = match place(view.cluster, view.observed, &status.store) {
        Ok(place) => place,
        Err(why @ NoPlace::Credentials(_)) => {
            waits(verification, why.reason(), why.message());
            return missing(verification, view.now);
        }
        Err(why) => return Err(Bad(why.reason().to_owned(), why.message())),
    };
    let Some(asked) = standing(view, backup, status, verification, step) else {
        return missing(verification, view.now);
    };
    verification.missing_since = None;
    if view.now.duration_since(verification.updated_at.0) > LOADING {
        let hours = LOADING.as_hours();
        let message = format!(
            "a token was not loaded within {hours} h: {}",
            verification.message
        );
        return Err(Bad("TookTooLong".to_owned(), message));
    }
    hand_to(step, &asked, &place);
    let seen = (view.observed, view.now);
    let since = verification.started_at.0;
    let get = BucketAction::Get {
        key: format!("{}{}", status.directory, Object::Manifest),
    };
    let manifest = match ask_one(seen, step, &place, get, since, &asked) {
        Reply::Answer(BucketAnswer::Text { text }, _) => read(text, &status.manifest_digest)?,
        Reply::Answer(answer, _) => return Err(refused(answer, "its manifest")),
        Reply::Pending(why) => {
            waits(verification, "Reading", why);
            return Ok(());
        }
    };
    let left = |snapshot: &&Snapshot| !verification.tokens.iter().any(|t| t.0 == snapshot.token.0);
    let Some(next) = manifest.snapshots.iter().find(left) else {
        verification.phase = VerificationPhase::Verified;
        return Ok(());
    };
    let load = load(view, &asked, status, &manifest, next);
    match ask_one(seen, step, &place, load, since, &asked) {
        Reply::Answer(BucketAnswer::Loaded { keys }, _) => {
            verification.tokens.push(dynomite_api::Token(next.token.0));
            verification.tokens.sort_unstable();
            verification.keys = verification.keys.saturating_add(*keys);
            verification.updated_at = Time(view.now);
            waits(verification, "", String::new());
            Ok(())
        }
        Reply::Answer(answer, _) => Err(refused(answer, &format!("token {}", next.token))),
        Reply::Pending(why) => {
            waits(verification, "Loading", why);
            Ok(())
        }
    }
}

fn load(
    view: &View<'_>,
    asked: &Respondent<'_>,
    status: &DynomiteBackupStatus,
    manifest: &Manifest,
    snapshot: &Snapshot,
) -> BucketAction {
    let tokens = manifest.ring.tokens.iter();
    BucketAction::Load {
        pod_uid: asked.pod_uid.to_owned(),
        part: Box::new(RestorePart {
            key: format!("{}{}", status.directory, snapshot.object),
            // It was read as one, so it can be written.
            entry: serde_json::to_value(snapshot).ok(),
            context: format!("{}/{}", manifest.ring.uid, manifest.backup.id),
            owned: Some(TokenRange {
                tokens: tokens.map(|token| dynomite_api::Token(token.0)).collect(),
                own: dynomite_api::Token(snapshot.token.0),
            }),
        }),
        bytes_per_second: order_limit(view.cluster),
    }
}

fn read(text: &str, digest: &str) -> Result<Manifest, Bad> {
    let found = Sha256::of(text.as_bytes()).to_string();
    if found != digest {
        let message = format!("the manifest has the SHA-256 {found}, and was written as {digest}");
        return Err(Bad("ManifestChanged".to_owned(), message));
    }
    let read = Manifest::read(text.as_bytes());
    read.map_err(|why| Bad("ManifestUnreadable".to_owned(), why.to_string()))
}

fn refused(answer: &BucketAnswer, what: &str) -> Bad {
    match answer {
        BucketAnswer::Failed {
            reason, message, ..
        } => Bad(reason.clone(), format!("{what}: {message}")),
        BucketAnswer::Missing => Bad("NoSuchObject".to_owned(), format!("{what} is not there")),
        other => Bad("UnexpectedAnswer".to_owned(), format!("{what}: {other:?}")),
    }
}

/// Says what is waited for. What was the matter with it stands until something else is.
fn waits(verification: &mut BackupVerification, reason: &str, message: String) {
    if verification.reason != reason || !message.is_empty() {
        reason.clone_into(&mut verification.reason);
        verification.message = message;
    }
}

/// Notes that nothing can be loaded; for too long is a failure.
fn missing(verification: &mut BackupVerification, now: Timestamp) -> Result<(), Bad> {
    let since = verification.missing_since.get_or_insert(Time(now)).0;
    if now.duration_since(since) <= MISSING {
        return Ok(());
    }
    let (reason, message) = (&verification.reason, &verification.message);
    let message = format!(
        "it could not be loaded for {} min: {message}",
        MISSING.as_mins()
    );
    Err(Bad(reason.clone(), message))
}

/// The scratch store, if it can be asked; makes its pod where there is none.
fn standing<'a>(
    view: &View<'a>,
    backup: &DynomiteBackup,
    status: &DynomiteBackupStatus,
    verification: &mut BackupVerification,
    step: &mut Step,
) -> Option<Respondent<'a>> {
    let Some(Scratch { pod, report }) = &view.observed.scratch else {
        let rack = view.cluster.racks.last().map_or("", |rack| &rack.name);
        let images = Images::of_rack(view.cluster, view.observed, rack);
        let pod = scratch(view.cluster, &images, backup, largest(status));
        step.act(
            Action::MakeScratch(Box::new(pod)),
            "a backup is to be verified",
        );
        waits(
            verification,
            "ScratchStarts",
            "its pod is being made".to_owned(),
        );
        return None;
    };
    let address = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref());
    let leaves = pod.metadata.deletion_timestamp.is_some();
    match (report, address, pod.metadata.uid.as_deref()) {
        (Seen::Known(report), Some(address), Some(pod_uid)) if !leaves => Some(Respondent {
            name: pod.metadata.name.as_deref().unwrap_or_default(),
            pod_uid,
            address,
            report,
        }),
        (report, ..) => {
            let rack = view.cluster.racks.last();
            let blocker =
                rack.and_then(|rack| blocker::of_pod(view.cluster, rack, pod, None, view.observed));
            let (reason, message) = match (blocker, report) {
                (Some(blocker), _) => (blocker.reason, blocker.message),
                (None, Seen::Unknown(why)) => ("ScratchStarts", format!("its pod: {why}")),
                (None, Seen::Known(_)) => ("ScratchStarts", "its pod starts or leaves".to_owned()),
            };
            waits(verification, reason, message);
            None
        }
    }
}

/// Bytes of the largest object of a backup, unpacked.
fn largest(status: &DynomiteBackupStatus) -> u64 {
    let entries = status
        .tokens
        .iter()
        .filter_map(|token| token.entry.as_ref());
    let bytes = entries.filter_map(|entry| entry["raw"]["bytes"].as_u64());
    bytes.max().unwrap_or_default()
}

/// What the status says after a pass without a failure, and what people are told.
fn progress(
    status: &mut DynomiteBackupStatus,
    verification: &mut BackupVerification,
    name: &str,
    now: Timestamp,
) -> Option<Action> {
    if verification.phase != VerificationPhase::Verified {
        return None;
    }
    waits(verification, "", String::new());
    verification.finished_at = Some(Time(now));
    status.verified_at = Some(Time(now));
    let (tokens, keys) = (verification.tokens.len(), verification.keys);
    let message =
        format!("a store has loaded {tokens} tokens with {keys} keys, as the manifest says");
    set_verified(
        &mut status.conditions,
        Some(true),
        ("Loaded", &message),
        now,
    );
    Some(Action::Event {
        kind: EventKind::Normal,
        reason: "BackupVerified",
        message: format!("backup {name}: {message}"),
    })
}

fn fail(
    status: &mut DynomiteBackupStatus,
    verification: &mut BackupVerification,
    name: &str,
    (reason, message): (String, String),
    now: Timestamp,
) -> Action {
    verification.phase = VerificationPhase::Failed;
    verification.finished_at = Some(Time(now));
    status.verified_at = None;
    set_verified(
        &mut status.conditions,
        Some(false),
        (&reason, &message),
        now,
    );
    let event = Action::Event {
        kind: EventKind::Warning,
        reason: "BackupNotVerified",
        message: format!("backup {name}: {reason}: {message}"),
    };
    waits(verification, &reason, message);
    event
}
