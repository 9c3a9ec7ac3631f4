//! The run states, as a warm-up uses them.

use std::time::Duration;

use super::world::{TIMEOUT, World, ring};
use crate::RunState::{Normal, Resuming, Standby, WritesOnly};

const STATE_ERROR: &str = "-ERR Dynomite: Dynomite's current state does not allow this request\r\n";

fn writes_of(world: &World, node: usize) -> Vec<&str> {
    let log = world.nodes[node].store.log.iter();
    log.map(String::as_str)
        .filter(|line| *line != "PING")
        .collect()
}

#[test]
fn a_state_opens_or_closes_the_way_to_the_own_store() {
    for (state, read, write) in [
        (Normal, "$-1\r\n", "+OK\r\n"),
        (Standby, STATE_ERROR, STATE_ERROR),
        (Resuming, STATE_ERROR, "+OK\r\n"),
    ] {
        let mut world = ring(1, 1);
        world.set_state(0, state);
        assert_eq!(world.once(0, "GET k"), read, "{state}");
        assert_eq!(world.once(0, "SET k v"), write, "{state}");
        assert_eq!(
            world.once(0, "PING"),
            if state == Normal {
                "+PONG\r\n"
            } else {
                STATE_ERROR
            }
        );
    }
}

#[test]
fn a_node_that_does_not_serve_still_passes_on_what_concerns_others() {
    let mut world = ring(2, 2);
    world.set_state(0, Standby);
    for number in 0..20 {
        assert_eq!(world.once(0, &format!("SET k{number} v")), "+OK\r\n");
        assert_eq!(world.once(0, &format!("GET k{number}")), "$1\r\nv\r\n");
    }
    assert!(world.nodes[0].store.data.is_empty());
}

#[test]
fn held_writes_leave_in_order_and_before_later_ones() {
    let mut world = ring(2, 1);
    world.set_state(0, WritesOnly);
    for number in 0..5 {
        assert_eq!(
            world.once(1, &format!("APPEND k {number}")),
            format!(":{}\r\n", number + 1)
        );
    }
    let waiting = world.connect(0);
    world.send(waiting, b"APPEND k x\r\n");
    world.run();
    assert_eq!(writes_of(&world, 0), Vec::<&str>::new());
    assert_eq!(world.received(waiting), ":6\r\n", "the other rack has it");
    world.set_state(0, Resuming);
    assert_eq!(world.once(1, "APPEND k y"), ":7\r\n");
    world.set_state(0, Normal);
    assert_eq!(world.nodes[0].store.data, world.nodes[1].store.data);
    assert_eq!(world.nodes[0].store.data[&b"k"[..]], b"01234xy");
    assert_eq!(
        world.nodes[1].engine.report().links[1]
            .counters
            .missed_writes,
        0
    );
}

#[test]
fn held_writes_wait_for_the_store_when_the_state_changes_first() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    world.stop_store(0);
    world.set_state(0, WritesOnly);
    assert_eq!(world.once(1, "SET k v"), "+OK\r\n");
    world.set_state(0, Resuming);
    assert_eq!(world.once(1, "SET k w"), "+OK\r\n");
    world.start_store(0);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.nodes[0].store.data[&b"k"[..]], b"w");
    assert_eq!(
        world.nodes[1].engine.report().links[1]
            .counters
            .missed_writes,
        0
    );
}

#[test]
fn a_held_write_that_expires_is_answered_and_counted_and_costs_no_connection() {
    let mut world = ring(2, 1);
    world.set_state(0, WritesOnly);
    assert_eq!(world.once(1, "SET k v"), "+OK\r\n");
    world.pass(TIMEOUT + Duration::from_millis(200));
    world.set_state(0, Normal);
    assert!(world.nodes[0].store.data.is_empty());
    let report = world.nodes[0].engine.report();
    assert_eq!(
        (report.counters.held_writes_expired, report.held_writes),
        (1, 0)
    );
    let report = world.nodes[1].engine.report();
    assert_eq!(report.links[1].counters.missed_writes, 1);
    assert_eq!(report.links[1].counters.disconnects, 0);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.once(1, "SET k w"), "+OK\r\n");
    assert_eq!(world.holders("k"), [0, 1]);
}

#[test]
fn a_held_write_in_a_ring_of_one_is_refused_with_the_state_error() {
    let mut world = ring(1, 1);
    world.set_state(0, WritesOnly);
    let client = world.connect(0);
    world.send(client, b"SET k v\r\n");
    world.pass(TIMEOUT + Duration::from_millis(200));
    assert_eq!(world.received(client), STATE_ERROR);
}

#[test]
fn going_back_to_standby_refuses_what_is_held() {
    let mut world = ring(1, 1);
    world.set_state(0, WritesOnly);
    let client = world.connect(0);
    world.send(client, b"SET k v\r\n");
    world.run();
    world.set_state(0, Standby);
    assert_eq!(world.received(client), STATE_ERROR);
    world.set_state(0, Normal);
    assert!(world.nodes[0].store.data.is_empty());
}

#[test]
fn reads_come_back_to_a_node_that_serves_again() {
    let mut world = ring(2, 2);
    world.set_state(1, Standby);
    world.pass(Duration::from_secs(2));
    assert!(!world.nodes[0].engine.report().links[1].serving);
    world.set_state(1, Normal);
    world.pass(Duration::from_secs(2));
    assert!(world.nodes[0].engine.report().links[1].serving);
}

#[test]
fn a_node_can_begin_in_standby() {
    let seeds = [super::world::ring(1, 1).nodes[0].seed.clone()];
    let mut world = World::with_seeds(&seeds, |settings| settings.start_state = Standby);
    assert_eq!(world.once(0, "GET k"), STATE_ERROR);
}
