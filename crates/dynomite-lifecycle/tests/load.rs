//! Loading a backup while the ring is held: loaded once, never half, and never twice by itself.

mod world;

use std::collections::BTreeSet;

use dynomite_api::contract::{
    BackupPlace, EngineState, Hold, HoldStore, NodeDesired, NodePhase, ProofKind, Provider,
    RestoreGoal, RestoreOrder, RestoreState,
};
use dynomite_lifecycle::{DataSight, Event, LoadStage, ProcessName, WhichData, reason};
use world::{POD, World, desired, one_rack};

const RESTORE: &str = "r1";

fn backup() -> BTreeSet<u64> {
    [1_000_001, 1_000_002, 1_000_003].into()
}

fn order(goal: RestoreGoal) -> RestoreOrder {
    RestoreOrder {
        pod_uid: POD.to_owned(),
        restore: RESTORE.to_owned(),
        attempt: 0,
        goal,
        place: BackupPlace {
            store: "main".to_owned(),
            provider: Provider::Local {
                path: "/backups".to_owned(),
            },
            prefix: String::new(),
            credentials: String::new(),
        },
        parts: Vec::new(),
        keep: None,
        bytes_per_second: None,
        save_previous: false,
    }
}

fn hold() -> Hold {
    Hold {
        why: "restore r1".to_owned(),
        store: HoldStore::Running,
        ring: true,
    }
}

fn stage(world: &mut World) {
    world.staged = Some(backup());
    let sight = DataSight::Ready {
        restore: RESTORE.to_owned(),
        keys: 3,
        expiring: 1,
    };
    world.send(Event::Data(WhichData::Staged, sight));
}

/// What was there before is in a file of its own.
fn saved(world: &mut World, keys: usize) {
    let sight = DataSight::Ready {
        restore: RESTORE.to_owned(),
        keys: keys as u64,
        expiring: 0,
    };
    world.send(Event::Data(WhichData::Previous, sight));
}

/// What the node says of the load.
fn state(world: &World) -> Option<RestoreState> {
    world.outline().restore.map(|report| report.state)
}

fn is_failed(world: &World) -> bool {
    matches!(state(world), Some(RestoreState::Failed { .. }))
}

fn loaded(world: &World) -> bool {
    state(world) == Some(RestoreState::Loaded { keys: 3 })
}

fn has(world: &World) -> BTreeSet<u64> {
    let store = world.store.as_ref().expect("it runs");
    store.has.clone()
}

fn loads(world: &World) -> usize {
    let of = |line: &&String| line.contains("Provide {");
    world.log.iter().filter(of).count()
}

/// A node that serves, held with its ring, with the backup staged.
fn held(of: NodeDesired) -> World {
    hold_it(World::new(of))
}

fn hold_it(mut world: World) -> World {
    world.numbered = true;
    world.until_ready();
    // Nobody writes while the ring is held.
    world.ring.writes = false;
    world.desire(|desired| {
        desired.hold = Some(hold());
        desired.restore = Some(order(RestoreGoal::Stage));
    });
    stage(&mut world);
    world.until("held", |world| {
        let engine = world.engine.as_ref().map(|engine| engine.state);
        world.phase() == NodePhase::Held && engine == Some(EngineState::Standby)
    });
    world.steps(20);
    assert_eq!(loads(&world), 0, "it was told to stage, no more");
    world
}

fn tell(world: &mut World, goal: RestoreGoal, attempt: u32) {
    world.desire(|desired| {
        // Nobody copies what is about to be replaced.
        desired.donors.clear();
        desired.restore = Some(RestoreOrder {
            attempt,
            ..order(goal)
        });
    });
}

/// One rack: its own data is all there is.
fn alone() -> World {
    let mut of = one_rack();
    of.grant = Some(world::accept_local());
    let mut world = World::unborn(of);
    world.steps(2);
    let own: BTreeSet<u64> = [1, 2, 3, 4].into();
    world.ring.applied_is(&own);
    if let Some(store) = &mut world.store {
        store.has = own;
    }
    let mut world = hold_it(world);
    world.desire(|desired| desired.grant = None);
    world
}

fn tell_alone(world: &mut World, goal: RestoreGoal, attempt: u32) {
    world.desire(|desired| {
        desired.restore = Some(RestoreOrder {
            attempt,
            save_previous: true,
            ..order(goal)
        });
    });
}

#[test]
fn a_held_node_loads_what_is_staged_and_stays_held_with_a_proof() {
    let mut world = held(desired());
    tell(&mut world, RestoreGoal::Load, 0);
    world.until("restoring", |world| world.phase() == NodePhase::Restoring);
    world.until("marked", |world| world.record.load.is_some());
    world.steps(1);
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    assert_eq!(world.outline().reason, reason::LOADING);
    assert!(!world.exposed, "the engine finds no store meanwhile");
    world.until("loaded", loaded);
    world.until("held", |world| world.phase() == NodePhase::Held);
    assert_eq!(world.outline().proof.kind, ProofKind::Restored);
    assert_eq!(has(&world), backup());
    assert!(world.life.donates(), "its peers copy it while it is held");
    world.steps(100);
    assert_eq!(loads(&world), 1);
    // Let go, it serves what it has loaded.
    world.ring.applied_is(&backup());
    world.desire(|desired| {
        desired.hold = None;
        desired.restore = None;
    });
    world.until_ready();
    assert_eq!(has(&world).intersection(&backup()).count(), 3);
}

#[test]
fn a_node_that_serves_loads_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    stage(&mut world);
    tell(&mut world, RestoreGoal::Load, 0);
    world.steps(100);
    assert!(world.life.is_ready());
    assert_eq!(loads(&world), 0);
    // Held by itself the others go on: that is no rest either.
    world.hold(false, true);
    world.steps(200);
    assert_eq!(loads(&world), 0);
}

#[test]
fn an_order_for_another_pod_or_another_restore_loads_nothing() {
    let mut world = held(desired());
    world.desire(|desired| {
        let mut other = order(RestoreGoal::Load);
        "pod-0".clone_into(&mut other.pod_uid);
        desired.restore = Some(other);
    });
    world.steps(100);
    world.desire(|desired| {
        let mut other = order(RestoreGoal::Load);
        "r2".clone_into(&mut other.restore);
        desired.restore = Some(other);
    });
    world.steps(100);
    assert_eq!(loads(&world), 0);
    assert_eq!(world.phase(), NodePhase::Held);
}

#[test]
fn a_store_that_dies_in_the_middle_leaves_nothing_proven_and_only_another_attempt_loads_again() {
    let mut world = held(desired());
    tell(&mut world, RestoreGoal::Load, 0);
    world.until("loading", |world| loads(world) == 1);
    world.steps(1);
    world.kill(ProcessName::Store);
    world.steps(200);
    let Some(RestoreState::Failed { touched, retry, .. }) = state(&world) else {
        panic!("{:?}", state(&world));
    };
    assert!(touched && retry);
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    assert!(!world.exposed);
    assert_eq!(loads(&world), 1, "not by itself");
    tell(&mut world, RestoreGoal::Load, 1);
    world.until("loaded", loaded);
    assert_eq!((loads(&world), has(&world)), (2, backup()));
}

#[test]
fn a_sidecar_that_starts_again_believes_no_half_and_does_not_load_twice() {
    // After each count of steps of a load.
    for steps in 0..40 {
        let mut world = held(desired());
        tell(&mut world, RestoreGoal::Load, 0);
        world.steps(steps);
        world.sidecar_restarts();
        stage(&mut world);
        world.until("an end", |world| loaded(world) || is_failed(world));
        if is_failed(&world) {
            let kind = world.outline().proof.kind;
            assert_eq!(kind, ProofKind::Unproven, "after {steps}");
            tell(&mut world, RestoreGoal::Load, 1);
            world.until("loaded", loaded);
        }
        assert_eq!(has(&world), backup(), "after {steps}");
        assert_eq!(world.outline().proof.kind, ProofKind::Restored);
        assert!(loads(&world) <= 2, "after {steps}");
    }
}

#[test]
fn a_loaded_store_that_dies_says_that_its_proof_is_lost() {
    let mut world = held(desired());
    tell(&mut world, RestoreGoal::Load, 0);
    world.until("loaded", loaded);
    world.desire(|desired| desired.donors.clear());
    world.kill(ProcessName::Store);
    world.steps(100);
    let Some(RestoreState::Failed {
        reason, touched, ..
    }) = state(&world)
    else {
        panic!("{:?}", state(&world));
    };
    assert_eq!((reason.as_str(), touched), (reason::PROOF_LOST, true));
    assert_eq!(loads(&world), 1);
}

#[test]
fn a_copy_that_stands_still_or_is_not_what_was_staged_is_given_up() {
    let mut world = held(desired());
    world.given_cut = true;
    tell(&mut world, RestoreGoal::Load, 0);
    world.steps(1000);
    world.until("given up", is_failed);
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    // A key too few, as if the stream had ended early and nobody had noticed.
    let mut world = held(desired());
    world.staged = Some([1_000_001].into());
    tell(&mut world, RestoreGoal::Load, 0);
    world.until("given up", is_failed);
    let Some(RestoreState::Failed { reason, .. }) = state(&world) else {
        panic!("it failed");
    };
    assert_eq!(reason, reason::LOAD_DIFFERS);
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    // What expires may be gone.
    let mut world = held(desired());
    world.staged = Some([1_000_001, 1_000_002].into());
    tell(&mut world, RestoreGoal::Load, 0);
    world.until("loaded", |world| {
        state(world) == Some(RestoreState::Loaded { keys: 2 })
    });
}

#[test]
fn a_node_that_never_had_data_loads_before_it_serves() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.donors.clear();
        desired.serve = false;
        desired.restore = Some(order(RestoreGoal::Load));
        desired
    });
    world.until("waits", |world| world.phase() == NodePhase::Restoring);
    assert_eq!(world.outline().reason, reason::STAGING);
    stage(&mut world);
    world.ring.applied_is(&backup());
    world.until("loaded", loaded);
    assert_eq!(world.outline().proof.kind, ProofKind::Restored);
    world.desire(|desired| {
        desired.restore = None;
        desired.serve = true;
    });
    world.until_ready();
}

#[test]
fn a_lone_node_saves_its_data_first_and_goes_back_to_it() {
    let mut world = alone();
    world.files = Some(has(&world));
    let before = has(&world);
    tell_alone(&mut world, RestoreGoal::Load, 0);
    world.until("it saves", |world| {
        state(world) == Some(RestoreState::Saving)
    });
    assert_ne!(world.outline().proof.kind, ProofKind::Unproven);
    world.until("it has begun", |world| world.previous.is_some());
    world.steps(3);
    saved(&mut world, before.len());
    world.until("loaded", loaded);
    assert_eq!(has(&world), backup());
    assert_eq!(
        world.files.as_ref(),
        Some(&backup()),
        "proven only when its files hold it"
    );
    tell_alone(&mut world, RestoreGoal::Revert, 0);
    world.until("back", |world| state(world) == Some(RestoreState::Reverted));
    assert_eq!(has(&world), before);
    assert_eq!(world.outline().proof.kind, ProofKind::Restored);
}

#[test]
fn what_cannot_be_saved_is_not_touched() {
    let mut world = alone();
    let before = has(&world);
    let kind = world.outline().proof.kind;
    tell_alone(&mut world, RestoreGoal::Load, 0);
    world.until("it has begun", |world| world.previous.is_some());
    world.steps(3);
    let sight = DataSight::Failed {
        restore: RESTORE.to_owned(),
        why: "no space".to_owned(),
    };
    world.send(Event::Data(WhichData::Previous, sight));
    world.until("held", |world| world.phase() == NodePhase::Held);
    let Some(RestoreState::Failed { touched, .. }) = state(&world) else {
        panic!("{:?}", state(&world));
    };
    assert!(!touched);
    assert_eq!((has(&world), world.outline().proof.kind), (before, kind));
    world.steps(100);
    assert_eq!(loads(&world), 0);
    let stage = world.record.load.as_ref().map(|load| &load.stage);
    assert_ne!(stage, Some(&LoadStage::Begun));
}

#[test]
fn a_word_that_is_taken_back_before_the_mark_changes_nothing() {
    let mut world = alone();
    let before = has(&world);
    tell_alone(&mut world, RestoreGoal::Load, 0);
    world.until("it has begun", |world| world.previous.is_some());
    world.desire(|desired| {
        desired.restore = None;
        desired.hold = None;
    });
    world.until_ready();
    assert_eq!(has(&world).intersection(&before).count(), before.len());
    assert_eq!(loads(&world), 0);
}

/// What a store that ended has read again from its files is all there is.
#[test]
fn a_store_that_ends_while_it_is_saved_is_saved_before_the_next_attempt() {
    let mut world = alone();
    world.files = Some(has(&world));
    let before = has(&world);
    tell_alone(&mut world, RestoreGoal::Load, 0);
    world.until("it saves", |world| world.previous.is_some());
    world.kill(ProcessName::Store);
    world.until("it failed", is_failed);
    let Some(RestoreState::Failed { touched, retry, .. }) = state(&world) else {
        panic!("it failed");
    };
    assert_eq!((touched, retry), (false, true));
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    world.previous = None;
    tell_alone(&mut world, RestoreGoal::Load, 1);
    world.until("it saves again", |world| world.previous.is_some());
    assert_eq!(loads(&world), 0, "nothing is replaced before");
    world.steps(3);
    saved(&mut world, before.len());
    world.until("loaded", loaded);
    tell_alone(&mut world, RestoreGoal::Revert, 1);
    world.until("back", |world| state(world) == Some(RestoreState::Reverted));
    assert_eq!(has(&world), before);
}

/// Its volume has half a backup: that is no data that anybody ever had.
#[test]
fn a_pod_that_comes_after_a_load_that_was_cut_off_says_that_it_has_nothing() {
    let mut world = alone();
    world.files = Some(has(&world));
    let before = has(&world);
    tell_alone(&mut world, RestoreGoal::Load, 0);
    world.until("it saves", |world| world.previous.is_some());
    assert!(world.outline().proof.before);
    world.steps(3);
    saved(&mut world, before.len());
    world.until("marked", |world| world.record.load.is_some());
    world.pod_is_replaced();
    world.desire(|desired| desired.restore = None);
    world.steps(100);
    let proof = world.outline().proof;
    assert_eq!((proof.kind, proof.before), (ProofKind::Unproven, false));
    assert_eq!(proof.remembered, None);
    // What was saved is on the same volume.
    world.desire(|desired| {
        desired.restore = Some(RestoreOrder {
            pod_uid: "pod-2".to_owned(),
            ..order(RestoreGoal::Revert)
        });
    });
    world.until("back", |world| state(world) == Some(RestoreState::Reverted));
    assert_eq!(has(&world), before);
    assert!(world.outline().proof.before);
}

#[test]
fn a_node_that_was_never_touched_says_so_when_it_is_told_to_go_back() {
    let mut world = alone();
    let before = has(&world);
    world.files = Some(before.clone());
    // Without a proof, but with what it had: its store has read its files again.
    world.kill(ProcessName::Store);
    world.steps(50);
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    tell_alone(&mut world, RestoreGoal::Revert, 0);
    world.until("refused", is_failed);
    let Some(RestoreState::Failed { touched, retry, .. }) = state(&world) else {
        panic!("it is refused");
    };
    assert_eq!((touched, retry), (false, false));
    assert_eq!(has(&world), before);
}

#[test]
fn a_sidecar_that_starts_again_names_the_proof_that_it_may_find_again() {
    let mut world = World::new(desired());
    world.until_ready();
    let since = world.outline().proof.since;
    assert_eq!(world.outline().proof.remembered, None);
    world.sidecar_restarts();
    let proof = world.outline().proof;
    assert_eq!((proof.kind, proof.since), (ProofKind::Unproven, None));
    assert_eq!(proof.remembered, since);
    world.until_ready();
    let proof = world.outline().proof;
    assert_eq!((proof.since, proof.remembered), (since, None));
    // What a store had that has ended is not found again.
    world.kill(ProcessName::Store);
    world.sidecar_restarts();
    assert_eq!(world.outline().proof.remembered, None);
}

#[test]
fn nobody_copies_a_node_whose_data_is_being_exchanged() {
    let mut world = held(desired());
    let desired = desired();
    let asks = |world: &World| {
        let (uid, token) = (&desired.cluster.uid, desired.node.token);
        world.life.may_be_copied(world.now(), uid, token)
    };
    assert_eq!(asks(&world), Ok(()));
    tell(&mut world, RestoreGoal::Stage, 0);
    world.steps(5);
    let why = asks(&world).expect_err("it is refused");
    assert!(why.contains("exchanged"), "{why}");
}
