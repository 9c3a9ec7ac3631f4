//! A node that is told to stay out: with its ring, by itself, by a person.

mod world;

use dynomite_api::Token;
use dynomite_api::contract::{Distrust, EngineState, NodePhase, ProofKind, StoreRole};
use dynomite_lifecycle::{Word, reason};
use world::{POD, World, desired, one_rack};

fn copies(world: &World) -> usize {
    let of = |line: &&String| line.contains("CopyDonor");
    world.log.iter().filter(of).count()
}

fn engine_state(world: &World) -> Option<EngineState> {
    world.engine.as_ref().map(|engine| engine.state)
}

fn stands_by(world: &World) -> bool {
    engine_state(world) == Some(EngineState::Standby)
}

fn may_be_copied(world: &World) -> Result<(), String> {
    world.life.may_be_copied(world.now(), "cluster-1", Token(7))
}

/// A node that serves, held and standing by.
fn held(ring: bool) -> World {
    let mut world = World::new(desired());
    world.numbered = true;
    world.until_ready();
    world.hold(ring, true);
    assert!(!world.life.is_ready(), "out of the endpoints at once");
    assert_eq!(engine_state(&world), Some(EngineState::Normal));
    world.until("standby", stands_by);
    world.steps(20);
    world
}

#[test]
fn held_with_its_ring_it_keeps_its_proof_and_serves_again_without_a_copy() {
    let mut world = held(true);
    let outline = world.outline();
    assert_eq!(outline.phase, NodePhase::Held);
    assert_eq!(outline.reason, reason::HELD);
    assert!(
        outline.message.contains("restore r1"),
        "{}",
        outline.message
    );
    assert_eq!(outline.proof.kind, ProofKind::WarmUp);
    assert_eq!(may_be_copied(&world), Ok(()));
    assert!(world.life.donates());
    let before = copies(&world);
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before);
    assert!(world.record.held.is_none());
}

#[test]
fn open_requests_finish_before_the_engine_stands_by() {
    let mut world = World::new(desired());
    world.until_ready();
    world.hold(false, true);
    let until = world.step + 40;
    // Clients that keep their connections are heard while they ask.
    while world.step < until {
        assert_eq!(engine_state(&world), Some(EngineState::Normal));
        world.steps(1);
    }
    world.until("standby", stands_by);
}

#[test]
fn held_by_itself_it_has_missed_what_the_others_took() {
    let mut world = held(false);
    assert_eq!(world.phase(), NodePhase::Held);
    assert!(!world.life.donates());
    let why = may_be_copied(&world).expect_err("not whole");
    assert!(why.contains("held by itself"), "{why}");
    let before = copies(&world);
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
    assert!(world.twice.is_empty());
}

#[test]
fn a_ring_that_went_on_before_the_node_was_let_go_costs_the_proof() {
    let mut world = held(true);
    let before = copies(&world);
    world.hold(false, true);
    world.ring.writes = true;
    world.steps(5);
    world.sidecar_restarts();
    world.steps(5);
    world.hold(true, true);
    world.steps(5);
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
}

#[test]
fn let_go_while_its_clients_are_still_there_it_has_missed_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    let before = copies(&world);
    world.hold(false, true);
    world.steps(3);
    assert_eq!(engine_state(&world), Some(EngineState::Normal));
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before);
}

#[test]
fn a_new_sidecar_finds_it_held_as_it_was() {
    for (ring, more) in [(true, 0), (false, 1)] {
        let mut world = held(ring);
        let before = copies(&world);
        let log = world.log.len();
        world.sidecar_restarts();
        world.steps(20);
        assert_eq!(world.phase(), NodePhase::Held);
        assert!(stands_by(&world));
        assert_eq!(world.outline().proof.kind, ProofKind::WarmUp);
        let felt = world.log[log..].iter().any(|line| line.contains("Normal"));
        assert!(!felt, "{:#?}", &world.log[log..]);
        world.desire(|desired| desired.hold = None);
        world.until_ready();
        assert_eq!(copies(&world), before + more, "ring {ring}");
    }
}

#[test]
fn a_store_that_is_stopped_stays_stopped_until_the_node_is_let_go() {
    let mut world = World::new(desired());
    world.until_ready();
    world.hold(true, false);
    world.until("stopped", |world| world.store.is_none());
    assert!(!world.exposed);
    world.steps(200);
    assert!(world.store.is_none());
    assert_eq!(world.phase(), NodePhase::Held);
    let before = copies(&world);
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
}

#[test]
fn a_newcomer_to_a_ring_that_is_held_copies_and_is_held() {
    for numbered in [true, false] {
        let mut world = World::new(desired());
        world.numbered = numbered;
        world.steps(10);
        world.hold(true, true);
        world.until("held", |world| world.phase() == NodePhase::Held);
        world.until("standby", stands_by);
        world.steps(20);
        assert_eq!(world.outline().proof.kind, ProofKind::WarmUp);
        assert_eq!(
            world.store.as_ref().map(|s| s.role),
            Some(StoreRole::Primary)
        );
        assert!(!world.life.is_ready());
        let normal = world
            .log
            .iter()
            .any(|line| line.contains("EngineState(Normal)"));
        assert!(!normal, "{:#?}", world.log);
        if numbered {
            let received = &world.engine.as_ref().expect("runs").received;
            assert!(
                !received.sources().is_empty(),
                "what the donor had received"
            );
        }
        let before = copies(&world);
        world.desire(|desired| desired.hold = None);
        world.until_ready();
        assert_eq!(copies(&world), before);
    }
}

#[test]
fn a_copy_that_would_be_outdated_at_once_is_not_made() {
    let mut world = World::new(desired());
    world.until("copying", |world| world.outline().warm_up.is_some());
    world.hold(false, true);
    world.steps(1);
    assert!(world.outline().warm_up.is_none());
    let before = copies(&world);
    world.steps(100);
    assert_eq!(copies(&world), before);
    assert_eq!(world.phase(), NodePhase::Held);
    assert!(stands_by(&world));
    world.desire(|desired| desired.hold = None);
    world.until_ready();
}

#[test]
fn a_proof_that_is_distrusted_is_given_up_while_the_ring_is_held() {
    let mut world = held(true);
    let since = world.outline().proof.since.expect("proven");
    let before = copies(&world);
    world.desire(|desired| {
        desired.distrust = Some(Distrust {
            pod_uid: POD.to_owned(),
            proof_since: since,
            why: "another was restored".to_owned(),
        });
    });
    world.until("copied", |world| {
        let proof = world.outline().proof;
        proof.since.is_some_and(|new| new > since) && world.phase() == NodePhase::Held
    });
    assert_eq!(copies(&world), before + 1);
    world.desire(|desired| desired.hold = None);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
}

#[test]
fn an_engine_stopped_by_a_person_stays_stopped_and_comes_back_by_a_copy() {
    let mut world = World::new(desired());
    world.until_ready();
    let before = copies(&world);
    world.tell(Word::StopEngine);
    assert!(!world.life.is_ready());
    world.until("stopped", |world| world.engine.is_none());
    world.steps(200);
    assert!(world.engine.is_none());
    assert!(world.store.is_some());
    let outline = world.outline();
    assert_eq!(outline.phase, NodePhase::Held);
    assert_eq!(outline.reason, reason::STOPPED_BY_REST);
    let words = "stopped by REST call stop of dynomite-admin at 20";
    assert!(outline.message.contains(words), "{}", outline.message);
    world.sidecar_restarts();
    world.steps(200);
    assert!(world.engine.is_none(), "a new sidecar has not forgotten");
    assert_eq!(world.outline().reason, reason::STOPPED_BY_REST);
    world.tell(Word::StartEngine);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
}

#[test]
fn a_store_stopped_by_a_person_stays_stopped_until_it_is_started() {
    let mut world = World::new(desired());
    world.until_ready();
    world.tell(Word::StopStore);
    world.until("stopped", |world| world.store.is_none());
    world.tell(Word::StopEngine);
    world.tell(Word::StartEngine);
    world.steps(200);
    assert!(
        world.store.is_none(),
        "starting the engine does not start it"
    );
    assert_eq!(world.phase(), NodePhase::Held);
    let before = copies(&world);
    world.tell(Word::StartStore);
    world.until_ready();
    assert_eq!(copies(&world), before + 1);
}

#[test]
fn the_pod_that_comes_after_a_stopped_one_starts_as_usual() {
    let mut world = World::new(desired());
    world.until_ready();
    world.tell(Word::StopEngine);
    world.tell(Word::StopStore);
    world.until("stopped", |world| {
        world.store.is_none() && world.engine.is_none()
    });
    world.pod_is_replaced();
    world.until_ready();
}

#[test]
fn in_one_rack_an_engine_that_was_stopped_has_missed_nothing() {
    let mut world = World::unborn(one_rack());
    world.desire(|desired| desired.grant = Some(world::accept_local()));
    world.until_ready();
    let since = world.outline().proof.since;
    world.tell(Word::StopEngine);
    // There is no clients' traffic but this node's own.
    world.ring.writes = false;
    world.until("stopped", |world| world.engine.is_none());
    assert_eq!(world.outline().proof.since, since);
    world.tell(Word::StartEngine);
    world.until_ready();
}
