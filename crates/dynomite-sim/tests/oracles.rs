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
    let without = Without {
        proof: true,
        ..Without::default()
    };
    let what = complaint(Scenario::KillThings, without);
    assert!(what.contains("answers reads and lacks"), "{what}");
}

#[test]
fn nodes_that_serve_before_the_others_can_take_writes() {
    let without = Without {
        serve_gate: true,
        ..Without::default()
    };
    let what = complaint(Scenario::Provision, without);
    assert!(what.contains("the record does not say"), "{what}");
}

#[test]
fn a_second_pod_that_goes_with_the_first() {
    let without = Without {
        headroom: true,
        ..Without::default()
    };
    let what = complaint(Scenario::CalmRoll, without);
    assert!(what.contains("is taken out while"), "{what}");
}

#[test]
fn a_node_that_keeps_what_it_has_without_a_word() {
    let without = Without {
        grants: true,
        ..Without::default()
    };
    let what = complaint(Scenario::KillThings, without);
    assert!(what.contains("nobody has accepted"), "{what}");
}

#[test]
fn a_document_that_is_older_than_the_one_held() {
    let without = Without {
        order_of_documents: true,
        ..Without::default()
    };
    let what = complaint(Scenario::StaleObservation, without);
    assert!(what.contains("is moved back"), "{what}");
}

#[test]
fn waits_that_the_status_does_not_tell() {
    let without = Without {
        reasons: true,
        ..Without::default()
    };
    let what = complaint(Scenario::Provision, without);
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
