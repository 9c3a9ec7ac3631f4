//! Verifications in the made-up world.

use dynomite_api::crd::{CONDITION_VERIFIED, ConditionType, VerificationPhase, condition};

use jiff::SignedDuration;

use super::*;
use crate::observed::Seen;

fn verifying(rule: serde_json::Value) -> World {
    let mut world = with_backups(3, 2);
    world.edit(|spec| {
        let backup = spec.backup.as_mut().expect("it has one");
        backup.verify = serde_json::from_value(rule).expect("a rule");
    });
    world.settle();
    world
}

fn verification(world: &World, name: &str) -> Option<(VerificationPhase, String)> {
    let verification = said(world, name).verification?;
    Some((verification.phase, verification.reason))
}

/// Passes until the verification has ended and its pod is gone.
fn until_verified(world: &mut World, name: &str) -> DynomiteBackupStatus {
    for _ in 0..300 {
        world.pass();
        let ended = verification(world, name);
        let ended = ended.is_some_and(|(phase, _)| phase != VerificationPhase::Running);
        if ended && world.observed.scratch.is_none() {
            return said(world, name);
        }
    }
    panic!("it does not end: {:#?}", said(world, name));
}

fn condition_of(status: &DynomiteBackupStatus) -> (&str, &str) {
    let found = status
        .conditions
        .iter()
        .find(|c| c.type_ == CONDITION_VERIFIED);
    let found = found.expect("it has one");
    (&found.status, &found.reason)
}

fn healthy(world: &World) -> (String, String) {
    let status = world.resource.status.clone().expect("it has one");
    let found = condition(&status.conditions, ConditionType::BackupHealthy);
    let found = found.expect("it has one");
    (found.status.clone(), found.reason.clone())
}

#[test]
fn each_token_of_a_completed_backup_is_loaded_and_the_pod_is_gone() {
    let mut world = verifying(json!({}));
    ask_for(&mut world, "nightly");
    let status = until_verified(&mut world, "nightly");
    let verification = status.verification.clone().expect("it has one");
    assert_eq!(verification.phase, VerificationPhase::Verified);
    assert_eq!((verification.tokens.len(), verification.keys), (2, 18));
    assert_eq!(condition_of(&status), ("True", "Loaded"));
    assert!(status.verified_at.is_some());
    world.settle();
    assert!(world.plan().actions.is_empty());
    let backup = world
        .resource
        .status
        .clone()
        .and_then(|status| status.backup);
    assert_eq!(backup.expect("it has one").last_verified, "nightly");
    assert_eq!(
        healthy(&world),
        ("True".to_owned(), "LastCompleted".to_owned())
    );
    assert_eq!(world.storage.scratches, 1);
}

#[test]
fn without_a_rule_only_those_that_ask_for_it_are_loaded() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "a");
    until_ended(&mut world, "a");
    world.settle();
    assert_eq!(verification(&world, "a"), None);
    let ask = |world: &mut World, verify| {
        let backup = world.observed.backups.get_mut("a").expect("it is there");
        backup.spec.verify = verify;
    };
    ask(&mut world, Some(true));
    until_verified(&mut world, "a");
    // false forgets what came of it, and true asks for it once more.
    ask(&mut world, Some(false));
    world.settle();
    assert_eq!(verification(&world, "a"), None);
    ask(&mut world, Some(true));
    until_verified(&mut world, "a");
    assert_eq!(world.storage.scratches, 2);
}

#[test]
fn what_is_not_as_the_manifest_says_is_told_and_stays_so() {
    let mut world = verifying(json!({}));
    world.storage.damaged = Some("DigestDiffers");
    ask_for(&mut world, "bad");
    let status = until_verified(&mut world, "bad");
    assert_eq!(status.phase, Some(BackupPhase::Completed));
    assert_eq!(condition_of(&status), ("False", "DigestDiffers"));
    assert_eq!(status.verified_at, None);
    world.settle();
    let expected = ("False".to_owned(), "VerificationFailed".to_owned());
    assert_eq!(healthy(&world), expected);
    // The next good one heals it.
    world.storage.damaged = None;
    ask_for(&mut world, "good");
    until_verified(&mut world, "good");
    world.settle();
    assert_eq!(healthy(&world).0, "True");
}

#[test]
fn a_manifest_that_was_changed_is_found() {
    let mut world = with_backups(3, 1);
    ask_for(&mut world, "a");
    let status = until_ended(&mut world, "a");
    let key = format!("{}manifest.json", status.directory);
    world
        .storage
        .objects
        .get_mut(&key)
        .expect("it is there")
        .push(' ');
    world
        .observed
        .backups
        .get_mut("a")
        .expect("it is there")
        .spec
        .verify = Some(true);
    let status = until_verified(&mut world, "a");
    assert_eq!(condition_of(&status), ("False", "ManifestChanged"));
}

#[test]
fn a_scratch_store_that_never_starts_is_given_up_and_said() {
    let mut world = verifying(json!({}));
    world.storage.no_scratch = true;
    ask_for(&mut world, "a");
    until_ended(&mut world, "a");
    for _ in 0..5 {
        world.pass();
    }
    assert_eq!(condition_of(&said(&world, "a")), ("Unknown", "Going"));
    world.now = world
        .now
        .checked_add(SignedDuration::from_hours(1))
        .expect("in range");
    let status = until_verified(&mut world, "a");
    assert_eq!(condition_of(&status), ("False", "ScratchStarts"));
}

#[test]
fn a_pod_that_no_backup_needs_is_deleted_and_a_lost_one_is_made_anew() {
    let mut world = verifying(json!({}));
    ask_for(&mut world, "a");
    while world.observed.scratch.is_none() {
        world.pass();
    }
    // Its Kubernetes node is gone.
    world.observed.scratch = None;
    while world.observed.scratch.is_none() {
        world.pass();
    }
    // The backup is deleted while it is loaded.
    world.observed.backups.clear();
    world.pass();
    assert!(world.observed.scratch.is_none());
    assert_eq!(world.storage.scratches, 2);
}

#[test]
fn within_the_interval_none_is_loaded() {
    let mut world = verifying(json!({"interval": "1d"}));
    ask_for(&mut world, "first");
    until_verified(&mut world, "first");
    ask_for(&mut world, "second");
    until_ended(&mut world, "second");
    world.settle();
    assert_eq!(verification(&world, "second"), None);
    world.now = world
        .now
        .checked_add(SignedDuration::from_hours(25))
        .expect("in range");
    until_verified(&mut world, "second");
}

#[test]
fn a_report_that_is_missed_once_ends_nothing() {
    let mut world = verifying(json!({}));
    ask_for(&mut world, "a");
    while world.observed.scratch.is_none() {
        world.pass();
    }
    let scratch = world.observed.scratch.as_mut().expect("it is there");
    let report = std::mem::replace(&mut scratch.report, Seen::Unknown("mute".to_owned()));
    world.pass();
    assert!(
        said(&world, "a")
            .verification
            .expect("it goes on")
            .missing_since
            .is_some()
    );
    world.observed.scratch.as_mut().expect("it stays").report = report;
    let status = until_verified(&mut world, "a");
    assert_eq!(condition_of(&status).0, "True");
}
