//! A node that is told that it has missed writes: out at once, warm again, and once for each word.

mod world;

use dynomite_api::contract::{Distrust, EngineState, ProofKind};
use world::{POD, World, desired};

fn doubt(world: &mut World, pod: &str) {
    let since = world.outline().proof.since.expect("it is proven");
    let word = Distrust {
        pod_uid: pod.to_owned(),
        proof_since: since,
        why: "node b has writes that this node missed".to_owned(),
    };
    world.desire(|desired| desired.distrust = Some(word));
}

#[test]
fn a_proof_that_is_doubted_ends_at_once_and_the_next_one_holds() {
    let mut world = World::new(desired());
    world.until_ready();
    doubt(&mut world, POD);
    assert!(!world.life.is_ready());
    assert!(!world.life.donates());
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    world.until_ready();
    assert_eq!(world.outline().proof.kind, ProofKind::WarmUp);
    assert!(world.is_whole());
    // The word is still in the document, and means another proof.
    world.steps(200);
    assert!(world.life.is_ready());
    let state = world.engine.as_ref().map(|engine| engine.state);
    assert_eq!(state, Some(EngineState::Normal));
}

#[test]
fn a_word_about_another_pod_says_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    doubt(&mut world, "another");
    world.steps(100);
    assert!(world.life.is_ready());
}

#[test]
fn a_sidecar_that_crashed_before_it_obeyed_obeys_when_it_is_back() {
    let mut world = World::new(desired());
    world.until_ready();
    let since = world.outline().proof.since.expect("it is proven");
    world.desired.distrust = Some(Distrust {
        pod_uid: POD.to_owned(),
        proof_since: since,
        why: "node b has writes that this node missed".to_owned(),
    });
    // The document is on disk; nobody has acted on it.
    world.sidecar_restarts();
    world.until("doubt", |world| {
        world.outline().proof.kind == ProofKind::Unproven
    });
    world.until_ready();
    assert!(world.outline().proof.since.is_some_and(|now| now > since));
}
