//! More than half of the racks must answer, for any number of racks.

use std::time::Duration;

use dynomite_protocol::consistency::Consistency::{DcQuorum, DcSafeQuorum};

use super::world::{TIMEOUT, ring};
use crate::limits::SUSPECT_AFTER_MAX;

#[test]
fn a_minority_of_dead_racks_does_not_matter_and_a_majority_does() {
    for (racks, dead) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)] {
        for level in [DcQuorum, DcSafeQuorum] {
            let mut world = ring(racks, 1);
            world.set_consistency(level);
            assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
            for victim in 0..dead {
                world.kill(victim + 1);
            }
            assert_eq!(
                world.once(0, "SET k w"),
                "+OK\r\n",
                "{racks} racks, {dead} dead"
            );
            assert_eq!(world.once(0, "GET k"), "$1\r\nw\r\n");
            if racks > 1 {
                world.kill(dead + 1);
                let answer = world.once(0, "SET k x");
                assert_eq!(
                    answer, "-ERR Peer: Peer Node is not connected\r\n",
                    "{racks} racks"
                );
            }
        }
    }
}

#[test]
fn the_value_of_the_majority_wins() {
    let mut world = ring(3, 1);
    world.once(0, "SET k v");
    world.nodes[0]
        .store
        .data
        .insert(b"k".to_vec(), b"stale".to_vec());
    world.set_consistency(DcQuorum);
    for node in 0..3 {
        assert_eq!(world.once(node, "GET k"), "$1\r\nv\r\n");
    }
}

#[test]
fn without_a_majority_the_own_rack_answers_unless_safety_was_asked_for() {
    let mut world = ring(3, 1);
    for (node, value) in ["a", "b", "c"].iter().enumerate() {
        world.nodes[node]
            .store
            .data
            .insert(b"k".to_vec(), value.as_bytes().to_vec());
    }
    world.set_consistency(DcQuorum);
    assert_eq!(world.once(1, "GET k"), "$1\r\nb\r\n");
    world.set_consistency(DcSafeQuorum);
    assert_eq!(
        world.once(1, "GET k"),
        "-ERR Dynomite: Failed to achieve Quorum\r\n"
    );
    assert_eq!(
        world.nodes[1]
            .engine
            .report()
            .counters
            .client_non_quorum_r_responses,
        1
    );
}

#[test]
fn every_key_of_a_list_has_its_own_majority() {
    let mut world = ring(3, 1);
    world.once(0, "MSET a 1 b 2 c 3");
    for (node, key) in ["a", "b", "c"].iter().enumerate() {
        world.nodes[node]
            .store
            .data
            .insert(key.as_bytes().to_vec(), b"stale".to_vec());
    }
    for level in [DcQuorum, DcSafeQuorum] {
        world.set_consistency(level);
        assert_eq!(
            world.once(1, "MGET a b c"),
            "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"
        );
    }
    world.nodes[1]
        .store
        .data
        .insert(b"a".to_vec(), b"other".to_vec());
    let answer = world.once(1, "MGET a b c");
    assert_eq!(answer, "-ERR Dynomite: Failed to achieve Quorum\r\n");
    world.set_consistency(DcQuorum);
    let answer = world.once(1, "MGET a b c");
    assert_eq!(answer, "*3\r\n$5\r\nother\r\n$1\r\n2\r\n$1\r\n3\r\n");
}

#[test]
fn one_set_in_two_orders_is_one_set() {
    let mut world = ring(3, 1);
    for node in 0..3 {
        world.nodes[node]
            .store
            .data
            .insert(b"s".to_vec(), b"abc".to_vec());
    }
    world.nodes[1].store.reversed = true;
    world.nodes[2]
        .store
        .data
        .insert(b"s".to_vec(), b"abx".to_vec());
    world.set_consistency(DcSafeQuorum);
    assert_eq!(
        world.once(0, "SMEMBERS s"),
        "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"
    );
}

#[test]
fn an_error_of_the_stores_is_shown_as_it_is() {
    let mut world = ring(3, 1);
    world.once(0, "SET k text");
    world.set_consistency(DcQuorum);
    let answer = world.once(0, "INCR k");
    assert_eq!(answer, "-ERR value is not an integer or out of range\r\n");
}

#[test]
fn a_frozen_minority_is_not_waited_for_and_a_frozen_majority_only_until_the_timeout() {
    let mut world = ring(3, 1);
    world.set_consistency(DcQuorum);
    world.nodes[1].frozen = true;
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    world.nodes[2].frozen = true;
    let client = world.connect(0);
    world.send(client, b"GET k\r\n");
    world.pass(SUSPECT_AFTER_MAX);
    assert_eq!(world.received(client), "");
    world.pass(TIMEOUT);
    assert_eq!(
        world.received(client),
        "-ERR Peer: Peer Node refused connection\r\n"
    );
}

#[test]
fn a_client_can_choose_its_own_level() {
    let mut world = ring(2, 1);
    world.kill(1);
    let client = world.connect(0);
    let both = b"dyno_config:conn_consistency dc_quorum\r\nSET k v\r\n";
    world.send(client, both);
    world.pass(Duration::from_millis(100));
    assert_eq!(
        world.received(client),
        "+OK\r\n-ERR Peer: Peer Node is not connected\r\n"
    );
    assert_eq!(
        world.once(0, "SET k v"),
        "+OK\r\n",
        "other clients keep theirs"
    );
    let answer = world.ask(client, "dyno_config:conn_consistency most");
    assert!(
        answer.starts_with("-ERR Dynomite: unknown consistency"),
        "{answer}"
    );
}
