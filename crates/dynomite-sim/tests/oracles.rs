//! Every oracle can fail: with a protection left out of the world, some seed shows it.

use dynomite_sim::node::Without;
use dynomite_sim::scenario::{Scenario, run};
use dynomite_sim::world::{Config, World};

/// The first complaint among some seeds.
fn complaint(scenario: Scenario, without: Without) -> String {
    let broken = (1..60).find_map(|seed| run(scenario, seed, without).err());
    broken.expect("some seed shows it").what
}

#[test]
fn a_store_that_is_open_before_its_data_is_proven() {
    let what = complaint(Scenario::KillThings, Without::Proof);
    assert!(what.contains("answers reads and lacks"), "{what}");
}

#[test]
fn nodes_that_serve_before_the_others_can_take_writes() {
    let what = complaint(Scenario::Provision, Without::ServeGate);
    assert!(what.contains("the record does not say"), "{what}");
}

#[test]
fn a_second_pod_that_goes_with_the_first() {
    let what = complaint(Scenario::CalmRoll, Without::Headroom);
    assert!(what.contains("is taken out while"), "{what}");
}

#[test]
fn a_node_that_keeps_what_it_has_without_a_word() {
    let what = complaint(Scenario::KillThings, Without::Grants);
    assert!(what.contains("nobody has accepted"), "{what}");
}

#[test]
fn a_document_that_is_older_than_the_one_held() {
    let what = complaint(Scenario::StaleObservation, Without::OrderOfDocuments);
    assert!(what.contains("is moved back"), "{what}");
}

#[test]
fn an_operator_that_goes_on_late_where_any_document_is_taken() {
    let what = complaint(Scenario::TwoLeaders, Without::OrderOfDocuments);
    assert!(what.contains("is moved back"), "{what}");
}

/// Without what the nodes say that they have received.
fn replicas_differ(scenario: Scenario) {
    let what = complaint(scenario, Without::Numbers);
    assert!(
        what.contains("different writes") || what.contains("lacks"),
        "{what}"
    );
}

#[test]
fn replicas_that_differ_when_nobody_hears_what_they_missed() {
    replicas_differ(Scenario::Partition);
}

#[test]
fn replicas_that_differ_after_links_broke_when_nobody_hears_what_they_missed() {
    replicas_differ(Scenario::LossyLinks);
}

#[test]
fn sidecars_that_go_by_a_clock_that_jumps() {
    let what = complaint(Scenario::ClockJumps, Without::SteadyClock);
    let told = what.contains("does not settle") || what.contains("a clock alone");
    assert!(told, "{what}");
}

#[test]
fn nodes_that_are_gone_for_good_and_not_replaced() {
    let what = complaint(Scenario::LostForGood, Without::Replacement);
    let told = what.contains("does not settle") || what.contains("has its old volume");
    assert!(told, "{what}");
}

#[test]
fn a_ring_that_goes_on_while_it_is_held() {
    let what = complaint(Scenario::HeldRing, Without::Holds);
    assert!(what.contains("the ring is held"), "{what}");
}

#[test]
fn a_process_that_runs_although_a_person_stopped_it() {
    let what = complaint(Scenario::StoppedByHand, Without::Told);
    assert!(what.contains("what a person stopped"), "{what}");
}

#[test]
fn waits_that_the_status_does_not_tell() {
    let what = complaint(Scenario::Provision, Without::Reasons);
    assert!(what.contains("status does not tell"), "{what}");
}

#[test]
fn a_world_that_never_settles() {
    let mut world = World::new(1, Config::default());
    for name in world.declared() {
        world.operator.mute.insert(name, u64::MAX);
    }
    let what = world
        .until("settled", 20_000, |world| world.operator.quiet >= 2)
        .expect_err("nobody can be asked");
    assert!(what.contains("not within 20 s"), "{what}");
}
