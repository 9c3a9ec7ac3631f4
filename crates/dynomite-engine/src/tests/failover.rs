//! Nodes die, freeze, are cut off: somebody else answers, and nobody waits for ever.

use std::time::Duration;

use super::world::{TIMEOUT, World, ring};
use crate::limits::SUSPECT_AFTER_MAX;

const PASSING: Duration = Duration::from_millis(200);

fn written(world: &mut World) {
    for number in 0..20 {
        assert_eq!(world.once(0, &format!("SET k{number} v")), "+OK\r\n");
    }
}

fn all_readable(world: &mut World, node: usize) {
    for number in 0..20 {
        assert_eq!(
            world.once(node, &format!("GET k{number}")),
            "$1\r\nv\r\n",
            "k{number}"
        );
    }
}

#[test]
fn reads_go_to_another_rack_when_the_owner_is_dead() {
    let mut world = ring(3, 2);
    written(&mut world);
    world.kill(1);
    all_readable(&mut world, 0);
}

#[test]
fn reads_go_to_another_rack_when_the_own_store_is_gone() {
    let mut world = ring(2, 2);
    written(&mut world);
    world.stop_store(0);
    all_readable(&mut world, 0);
    all_readable(&mut world, 1);
}

#[test]
fn reads_go_to_another_rack_when_a_store_loads_or_wants_a_password() {
    for refusal in [
        "LOADING Redis is loading",
        "NOAUTH Authentication required.",
        "MASTERDOWN x",
    ] {
        let mut world = ring(2, 1);
        written(&mut world);
        world.nodes[0].store.refuses_with = Some(refusal);
        all_readable(&mut world, 0);
        all_readable(&mut world, 1);
    }
}

#[test]
fn a_write_that_a_store_has_no_room_for_is_not_a_success() {
    let mut world = ring(2, 1);
    world.nodes[0].store.refuses_with = Some("OOM command not allowed");
    assert_eq!(world.once(0, "SET k v"), "-OOM command not allowed\r\n");
    assert_eq!(
        world.nodes[0].engine.report().links[0]
            .counters
            .missed_writes,
        1
    );
}

#[test]
fn a_read_in_flight_to_a_node_that_dies_is_answered_by_another() {
    let mut world = ring(2, 2);
    written(&mut world);
    world.nodes[1].frozen = true;
    let client = world.connect(0);
    for number in 0..20 {
        world.send(client, format!("GET k{number}\r\n").as_bytes());
    }
    world.run();
    world.kill(1);
    assert_eq!(world.received(client), "$1\r\nv\r\n".repeat(20));
}

#[test]
fn a_frozen_node_delays_reads_once_and_then_no_more() {
    let mut world = ring(2, 2);
    written(&mut world);
    world.nodes[1].frozen = true;
    let client = world.connect(0);
    for number in 0..20 {
        world.send(client, format!("GET k{number}\r\n").as_bytes());
    }
    world.pass(SUSPECT_AFTER_MAX + PASSING);
    assert_eq!(world.received(client), "$1\r\nv\r\n".repeat(20));
    all_readable(&mut world, 0);
    world.nodes[1].frozen = false;
    world.pass(SUSPECT_AFTER_MAX * 2);
    assert!(
        world.nodes[0]
            .engine
            .report()
            .links
            .iter()
            .all(|link| link.serving)
    );
}

#[test]
fn a_write_is_acknowledged_by_another_rack_when_the_own_one_cannot() {
    let mut world = ring(2, 1);
    world.stop_store(0);
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    assert_eq!(world.holders("k"), [1]);
    assert_eq!(
        world.nodes[0].engine.report().links[0]
            .counters
            .missed_writes,
        1
    );
    world.stop_store(1);
    let answer = world.once(0, "SET k w");
    assert_eq!(answer, "-ERR Storage: Datastore refused connection\r\n");
}

#[test]
fn a_write_over_a_frozen_owner_is_acknowledged_by_another_rack_in_time() {
    let mut world = ring(2, 2);
    world.nodes[1].frozen = true;
    let client = world.connect(0);
    for number in 0..20 {
        world.send(client, format!("SET k{number} v\r\n").as_bytes());
    }
    world.pass(SUSPECT_AFTER_MAX + PASSING);
    assert_eq!(world.received(client), "+OK\r\n".repeat(20));
}

#[test]
fn with_nobody_left_the_error_is_that_of_the_own_rack_and_comes_in_time() {
    let mut world = ring(1, 2);
    world.nodes[1].frozen = true;
    let client = world.connect(0);
    for number in 0..20 {
        world.send(client, format!("GET k{number}\r\n").as_bytes());
    }
    world.pass(TIMEOUT + PASSING);
    let answers = world.received(client);
    let refused = answers
        .matches("-ERR Peer: Peer Node refused connection\r\n")
        .count();
    assert_eq!(
        refused + answers.matches("$-1\r\n").count(),
        20,
        "{answers}"
    );
    assert!(refused > 0);
    world.kill(1);
    let lost: Vec<String> = (0..20)
        .map(|number| world.once(0, &format!("GET k{number}")))
        .collect();
    assert!(lost.contains(&"-ERR Peer: Peer Node is not connected\r\n".to_owned()));
}

#[test]
fn a_request_that_times_out_does_not_disturb_those_behind_it() {
    let mut world = ring(1, 1);
    world.once(0, "SET k v");
    let client = world.connect(0);
    world.nodes[0].store_is_up = true;
    world.cut = vec![(0, 0)];
    world.send(client, b"GET k\r\n");
    world.pass(TIMEOUT + PASSING);
    assert_eq!(
        world.received(client),
        "-ERR Storage: Datastore refused connection\r\n"
    );
    world.cut.clear();
    assert_eq!(world.ask(client, "SET k w"), "+OK\r\n");
    assert_eq!(world.ask(client, "GET k"), "$1\r\nw\r\n");
}

#[test]
fn a_node_that_comes_back_is_used_again_and_its_missed_writes_are_known() {
    let mut world = ring(2, 1);
    world.kill(1);
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    let missed = |world: &World| {
        world.nodes[0].engine.report().links[1]
            .counters
            .missed_writes
    };
    assert_eq!(missed(&world), 1);
    world.start(1);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.once(0, "SET k2 v"), "+OK\r\n");
    assert_eq!(world.holders("k2"), [0, 1]);
    assert_eq!(missed(&world), 1);
}

#[test]
fn after_a_cut_of_the_network_all_links_are_made_anew() {
    let mut world = ring(3, 1);
    world.cut = vec![(0, 1), (0, 2)];
    world.pass(TIMEOUT * 4);
    assert_eq!(world.once(1, "SET k v"), "+OK\r\n");
    assert_eq!(world.holders("k"), [1, 2]);
    world.cut.clear();
    world.pass(TIMEOUT * 2);
    for node in &world.nodes {
        assert!(node.engine.report().links.iter().all(|link| link.serving));
    }
    assert_eq!(world.once(0, "SET k2 v"), "+OK\r\n");
    assert_eq!(world.holders("k2"), [0, 1, 2]);
}

#[test]
fn a_node_in_a_cut_off_zone_serves_from_its_own_rack() {
    let mut world = ring(3, 1);
    written(&mut world);
    world.cut = vec![(0, 1), (0, 2)];
    let client = world.connect(0);
    world.send(client, b"GET k1\r\nSET k1 w\r\nGET k1\r\n");
    world.run();
    assert_eq!(world.received(client), "$1\r\nv\r\n+OK\r\n$1\r\nw\r\n");
}
