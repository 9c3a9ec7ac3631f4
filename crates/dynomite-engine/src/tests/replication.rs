//! Every rack holds every key, wherever it was written.

use std::fmt::Write as _;

use dynomite_protocol::consistency::Consistency;

use super::world::{World, ring};

fn keys() -> impl Iterator<Item = String> {
    (0..40).map(|number| format!("key:{number}"))
}

#[test]
fn a_write_reaches_one_node_of_every_rack_and_is_read_through_every_node() {
    for (racks, nodes) in [(1, 1), (1, 3), (2, 2), (3, 2), (5, 2)] {
        for level in [
            Consistency::DcOne,
            Consistency::DcQuorum,
            Consistency::DcSafeQuorum,
        ] {
            let mut world = ring(racks, nodes);
            world.set_consistency(level);
            for (index, key) in keys().enumerate() {
                let writer = index % world.nodes.len();
                assert_eq!(world.once(writer, &format!("SET {key} v{key}")), "+OK\r\n");
                assert_eq!(world.holders(&key).len(), racks, "{key} at {level}");
            }
            for node in 0..world.nodes.len() {
                for key in keys() {
                    let expected = format!("${}\r\nv{key}\r\n", key.len() + 1);
                    assert_eq!(world.once(node, &format!("GET {key}")), expected);
                }
            }
        }
    }
}

#[test]
fn every_node_of_a_rack_gets_its_share() {
    let mut world = ring(2, 3);
    for key in keys() {
        world.once(0, &format!("SET {key} v"));
    }
    assert!(world.nodes.iter().all(|node| node.store.data.len() > 5));
}

#[test]
fn commands_with_keys_on_several_nodes_are_cut_and_put_together() {
    for piece in [0, 1, 7] {
        let mut world = ring(2, 3);
        world.piece = piece;
        let pairs: Vec<String> = keys().map(|key| format!("{key} v{key}")).collect();
        assert_eq!(
            world.once(0, &format!("MSET {}", pairs.join(" "))),
            "+OK\r\n"
        );
        let names: Vec<String> = keys().collect();
        let mut expected = format!("*{}\r\n", names.len() + 1);
        for key in &names {
            write!(expected, "${}\r\nv{key}\r\n", key.len() + 1).unwrap();
        }
        expected += "$-1\r\n";
        assert_eq!(
            world.once(5, &format!("MGET {} nosuch", names.join(" "))),
            expected
        );
        assert_eq!(
            world.once(3, &format!("EXISTS {} nosuch", names.join(" "))),
            ":40\r\n"
        );
        assert_eq!(
            world.once(4, &format!("DEL {}", names.join(" "))),
            ":40\r\n"
        );
        assert!(world.nodes.iter().all(|node| node.store.data.is_empty()));
    }
}

#[test]
fn an_error_in_one_part_is_the_answer() {
    let mut world = ring(1, 3);
    world.nodes[1].store.refuses_with = Some("WRONGTYPE no");
    let names: Vec<String> = keys().collect();
    assert_eq!(
        world.once(0, &format!("MGET {}", names.join(" "))),
        "-WRONGTYPE no\r\n"
    );
}

#[test]
fn keys_on_several_nodes_are_refused_where_they_cannot_be_cut() {
    let mut world = ring(2, 3);
    let names: Vec<String> = keys().collect();
    let answer = world.once(0, &format!("SUNIONSTORE {}", names.join(" ")));
    assert!(answer.starts_with("-CROSSSLOT"), "{answer}");
    let answer = world.once(0, &format!("EVAL x 40 {}", names.join(" ")));
    assert!(
        answer.starts_with("-ERR Dynomite: Keys in the script"),
        "{answer}"
    );
}

#[test]
fn results_that_are_stored_are_stored_in_every_rack() {
    let mut world = ring(3, 1);
    for words in [
        "SUNIONSTORE d a b",
        "SORT a STORE d",
        "ZUNIONSTORE d 1 a",
        "GEORADIUS a 1 2 3 km STORE d",
    ] {
        world.once(0, words);
        for node in &world.nodes {
            assert_eq!(node.store.log.last().map(String::as_str), Some(words));
        }
    }
}

#[test]
fn every_rack_gets_the_same_moment_of_expiry() {
    let mut world = ring(3, 1);
    world.once(0, "SETEX k 10 v");
    world.once(1, "EXPIRE k 100");
    for node in &world.nodes {
        let writes: Vec<_> = node
            .store
            .log
            .iter()
            .filter(|line| *line != "PING")
            .collect();
        assert_eq!(
            writes,
            ["SET k v PXAT 1700000010000", "PEXPIREAT k 1700000100000"]
        );
    }
}

#[test]
fn another_datacenter_gets_one_message_and_distributes_it() {
    let mut world = World::new(&[("dc1", 2), ("dc2", 3)], 2);
    for key in keys() {
        assert_eq!(world.once(0, &format!("SET {key} v")), "+OK\r\n");
        assert_eq!(world.holders(&key).len(), 5, "{key}");
    }
    for node in 4..10 {
        for key in keys() {
            assert_eq!(world.once(node, &format!("GET {key}")), "$1\r\nv\r\n");
        }
    }
    let pairs: Vec<String> = keys().map(|key| format!("{key} w")).collect();
    assert_eq!(
        world.once(3, &format!("MSET {}", pairs.join(" "))),
        "+OK\r\n"
    );
    for key in keys() {
        assert_eq!(world.once(9, &format!("GET {key}")), "$1\r\nw\r\n");
    }
    // dc1 has no part in what was written there beyond its own copies.
    let forwards: usize = world.nodes.iter().map(|node| node.store.log.len()).sum();
    assert!(forwards > 0);
}

#[test]
fn another_datacenter_is_reached_through_another_rack_when_the_usual_one_is_down() {
    let mut world = World::new(&[("dc1", 2), ("dc2", 2)], 1);
    world.kill(2);
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
    assert_eq!(world.holders("k"), [0, 1, 3]);
    assert_eq!(
        world.nodes[0]
            .engine
            .report()
            .counters
            .remote_peer_failover_requests,
        1
    );
    world.kill(3);
    assert_eq!(world.once(0, "SET k2 v"), "+OK\r\n");
    assert_eq!(
        world.nodes[0]
            .engine
            .report()
            .counters
            .remote_peer_dropped_requests,
        1
    );
}

#[test]
fn nodes_of_netflix_are_not_sent_what_they_do_not_understand() {
    let seeds: Vec<_> = ring(2, 1).nodes.into_iter().map(|node| node.seed).collect();
    let mut world = World::with_seeds(&seeds, |settings| settings.netflix_peers = true);
    let refused = world.once(0, "UNLINK k");
    assert!(
        refused.starts_with("-ERR Dynomite: UNLINK in this form"),
        "{refused}"
    );
    assert_eq!(world.once(0, "SETEX k 5 v"), "+OK\r\n");
    world.once(0, "RESTORE k 5 data");
    for node in &world.nodes {
        let last = node.store.log.last().map(String::as_str);
        assert_eq!(
            last,
            Some("RESTORE k 5 data"),
            "the form with ABSTTL is not understood"
        );
    }
}

#[test]
fn scripts_are_loaded_everywhere() {
    let mut world = World::new(&[("dc1", 2), ("dc2", 1)], 2);
    assert_eq!(world.once(1, "SCRIPT LOAD x"), "+OK\r\n");
    for node in &world.nodes {
        assert_eq!(
            node.store.log.last().map(String::as_str),
            Some("SCRIPT LOAD x")
        );
    }
}
