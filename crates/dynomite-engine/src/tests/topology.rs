//! Nodes come, move and go while the ring runs.

use std::time::Duration;

use super::world::{World, ring};

fn seeds(world: &World) -> Vec<dynomite_protocol::seeds::Seed> {
    world.nodes.iter().map(|node| node.seed.clone()).collect()
}

const A_WHILE: Duration = Duration::from_secs(3);

#[test]
fn a_node_that_knows_no_peers_yet_acknowledges_nothing() {
    let all = seeds(&ring(2, 1));
    let mut world = World::with_seeds(&all, |settings| settings.seeds = None);
    let answer = world.once(0, "SET k v");
    assert!(
        answer.starts_with("-ERR Dynomite: Dynomite's current state"),
        "{answer}"
    );
    assert_eq!(world.once(0, "PING"), "+PONG\r\n");
    world.set_seeds(0, all);
    world.pass(A_WHILE);
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    assert_eq!(world.holders("k"), [0, 1]);
}

#[test]
fn a_rack_is_added_and_removed_again() {
    let all = seeds(&ring(3, 1));
    let mut world = World::with_seeds(&all, |settings| {
        let known = settings.seeds.take().unwrap_or_default();
        settings.seeds = Some(known.into_iter().filter(|seed| seed.rack != "r2").collect());
    });
    world.once(0, "SET a v");
    assert_eq!(world.holders("a"), [0, 1]);
    for node in 0..2 {
        world.set_seeds(node, all.clone());
    }
    world.pass(A_WHILE);
    world.once(0, "SET b v");
    assert_eq!(world.holders("b"), [0, 1, 2]);
    for node in 0..2 {
        world.set_seeds(node, all[..2].to_vec());
    }
    world.once(0, "SET c v");
    assert_eq!(world.holders("c"), [0, 1]);
    let report = world.nodes[0].engine.report();
    assert_eq!(report.links.len(), 2, "the store and one peer");
    assert_eq!(report.datacenters[0].racks.len(), 2);
}

#[test]
fn a_node_that_moved_is_found_at_its_new_address_and_others_keep_their_connections() {
    let mut world = ring(3, 1);
    let mut all = seeds(&world);
    world.kill(2);
    all[2].host = "elsewhere".to_owned();
    world.nodes[2].seed.host = "elsewhere".to_owned();
    world.start(2);
    for node in 0..2 {
        world.set_seeds(node, all.clone());
    }
    world.pass(A_WHILE);
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    assert_eq!(world.holders("k"), [0, 1, 2]);
    assert_eq!(
        world.nodes[0].engine.report().links[1].counters.disconnects,
        0
    );
}

#[test]
fn the_same_list_again_changes_nothing() {
    let mut world = ring(2, 2);
    let all = seeds(&world);
    let before = world.nodes[0].engine.report().counters.seeds_applied;
    let client = world.connect(0);
    world.set_seeds(0, all.iter().rev().cloned().collect());
    assert_eq!(
        world.nodes[0].engine.report().counters.seeds_applied,
        before
    );
    assert_eq!(world.ask(client, "SET k v"), "+OK\r\n");
}

#[test]
fn requests_to_a_node_that_is_removed_are_answered() {
    let mut world = ring(1, 2);
    let all = seeds(&world);
    world.nodes[1].frozen = true;
    let client = world.connect(0);
    for number in 0..10 {
        world.send(client, format!("SET k{number} v\r\n").as_bytes());
    }
    world.run();
    world.set_seeds(0, all[..1].to_vec());
    let answers = world.received(client);
    assert_eq!(answers.matches("\r\n").count(), 10, "{answers}");
    assert!(answers.contains("-ERR Peer: Peer Node refused connection"));
    assert_eq!(world.ask(client, "SET k1 v"), "+OK\r\n");
}
