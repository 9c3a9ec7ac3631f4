//! What clients and peers may send, in order and out of it.

use std::fmt::Write as _;
use std::time::Duration;

use dynomite_protocol::resp::Request;
use proptest::prelude::*;

use super::world::{World, ring};
use crate::limits::{MAX_OUTPUT_BYTES, MAX_SESSION_IN_FLIGHT, PAUSE_OUTPUT_BYTES};
use crate::{Now, SessionKind};

#[test]
fn pipelined_answers_come_in_order_whoever_gives_them() {
    let mut world = ring(2, 3);
    let client = world.connect(4);
    let mut expected = String::new();
    for number in 0..300 {
        let words = [
            format!("SET k{number} v{number}"),
            format!("GET k{number}"),
            "NOSUCH".into(),
        ];
        for words in &words {
            let words: Vec<&str> = words.split(' ').collect();
            world.send(client, Request::from_args(&words).raw());
        }
        let value = format!("v{number}");
        write!(expected, "+OK\r\n${}\r\n{value}\r\n-ERR unknown command 'NOSUCH', with args beginning with: \r\n", value.len()).unwrap();
    }
    world.run();
    assert_eq!(world.received(client), expected);
}

#[test]
fn a_flood_of_requests_is_taken_in_portions() {
    let mut world = ring(1, 2);
    let client = world.connect(0);
    let count = MAX_SESSION_IN_FLIGHT * 3;
    let mut flood = String::new();
    for number in 0..count {
        write!(flood, "SET k{number} v\r\n").unwrap();
    }
    let (node, id) = world.session_of(client).unwrap();
    let now = world.now();
    world.nodes[node]
        .engine
        .handle_session_bytes(now, id, flood.as_bytes().into());
    assert!(world.nodes[node].engine.report().in_flight <= MAX_SESSION_IN_FLIGHT);
    world.run();
    assert_eq!(world.received(client), "+OK\r\n".repeat(count));
}

#[test]
fn a_client_that_takes_nothing_is_not_read_from_and_does_not_fill_the_memory() {
    let mut world = ring(1, 1);
    let big = "x".repeat(512 * 1024);
    world.once(0, &format!("SET k {big}"));
    let client = world.connect(0);
    world.set_reading(client, false);
    for _ in 0..MAX_SESSION_IN_FLIGHT {
        world.send(client, b"GET k\r\n");
        world.run();
    }
    let taken = world.nodes[0]
        .store
        .log
        .iter()
        .filter(|line| *line == "GET k")
        .count();
    assert!(
        taken * big.len() <= PAUSE_OUTPUT_BYTES + 2 * big.len(),
        "{taken} replies"
    );
    assert!(taken * big.len() < MAX_OUTPUT_BYTES);
    assert_eq!(world.once(0, "PING"), "+PONG\r\n");
}

#[test]
fn malformed_requests_get_the_error_after_the_answers_before_them() {
    for (bytes, error) in [
        (&b"*1\r\n+x\r\n"[..], "expected '$', got '+'"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*1\r\n$1\r\nxyz", "expected CRLF"),
    ] {
        let mut world = ring(1, 2);
        let client = world.connect(0);
        world.send(client, b"PING\r\nSET key:1 v\r\n");
        world.send(client, bytes);
        world.send(client, b"PING\r\n");
        world.run();
        let expected = format!("+PONG\r\n+OK\r\n-ERR Protocol error: {error}\r\n");
        assert_eq!(world.received(client), expected);
        assert!(world.is_closed(client));
        assert_eq!(world.once(0, "PING"), "+PONG\r\n");
    }
}

#[test]
fn a_browser_gets_no_further_than_its_headers() {
    let mut world = ring(1, 1);
    for head in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let client = world.connect(0);
        world.send(client, head.as_bytes());
        world.send(client, b"SET k v\r\n");
        world.run();
        assert!(world.is_closed(client));
        assert!(
            world
                .received(client)
                .ends_with("-ERR HTTP is not spoken here\r\n")
        );
    }
    assert!(world.nodes[0].store.data.is_empty());
}

#[test]
fn what_cannot_be_done_is_said_and_the_connection_stays() {
    let mut world = ring(2, 2);
    let client = world.connect(0);
    for (words, error) in [
        (
            "NOSUCH a",
            "-ERR unknown command 'NOSUCH', with args beginning with: 'a' \r\n",
        ),
        (
            "GET",
            "-ERR wrong number of arguments for 'get' command\r\n",
        ),
        (
            "GET a b",
            "-ERR wrong number of arguments for 'get' command\r\n",
        ),
        (
            "MSET a 1 b",
            "-ERR wrong number of arguments for 'mset' command\r\n",
        ),
        (
            "MSETNX a 1 b",
            "-ERR wrong number of arguments for 'msetnx' command\r\n",
        ),
        ("GET ", "-ERR Dynomite: Empty keys are not supported\r\n"),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("ZUNIONSTORE d x a", "-ERR syntax error\r\n"),
    ] {
        assert_eq!(world.ask(client, words), error, "{words}");
    }
    for words in [
        "SLAVEOF a 1",
        "REPLICAOF a 1",
        "CONFIG SET a b",
        "DEBUG SEGFAULT",
        "FLUSHALL",
        "FLUSHDB",
        "SHUTDOWN",
        "MODULE LOAD x",
        "SAVE",
        "BGSAVE",
        "ACL LIST",
        "MULTI",
        "SUBSCRIBE a",
        "BLPOP a 0",
        "EVAL x 0",
        "XREAD BLOCK 0 STREAMS a 0",
        "SWAPDB 0 1",
        "MONITOR",
        "SYNC",
        "PSYNC a 0",
        "MIGRATE a",
    ] {
        let answer = world.ask(client, words);
        assert!(answer.starts_with("-ERR Dynomite: "), "{words}: {answer}");
    }
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.store.log.iter().all(|line| line == "PING"))
    );
    assert_eq!(world.ask(client, "PING"), "+PONG\r\n");
}

#[test]
fn what_clients_ask_first_is_answered() {
    let mut world = ring(2, 1);
    let client = world.connect(0);
    for (words, answer) in [
        ("PING hello", "-ERR"),
        ("ECHO hello", "$5\r\nhello\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT SETINFO LIB-NAME x", "+OK\r\n"),
        ("CLIENT ID", ":1\r\n"),
        ("HELLO", "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
        ("HELLO 2 SETNAME you", "*14\r\n"),
        ("HELLO 3", "%7\r\n$6\r\nserver"),
        ("GET nosuch", "_\r\n"),
        ("CONFIG GET save", "%1\r\n"),
        ("HELLO 2", "*14\r\n"),
        ("GET nosuch", "$-1\r\n"),
        ("COMMAND", "*"),
        ("COMMAND COUNT", ":"),
        ("COMMAND DOCS", "*0\r\n"),
        (
            "COMMAND INFO get nosuch",
            "*2\r\n*6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*-1\r\n",
        ),
        (
            "COMMAND GETKEYS MSET a 1 b 2",
            "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        ),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CONFIG GET nosuch", "*0\r\n"),
        ("RESET", "+RESET\r\n"),
    ] {
        let got = world.ask(client, words);
        let expected = if words == "PING hello" {
            "+PONG"
        } else {
            answer
        };
        assert!(got.starts_with(expected), "{words}: {got}");
    }
    assert_eq!(world.ask(client, "QUIT"), "+OK\r\n");
    assert!(world.is_closed(client));
}

#[test]
fn a_client_that_only_closes_its_sending_side_gets_its_answers() {
    let mut world = ring(1, 2);
    let client = world.connect(0);
    world.send(client, b"SET key:1 v\r\nGET key:1\r\n");
    world.run();
    let (node, id) = world.session_of(client).unwrap();
    let now = world.now();
    world.nodes[node].engine.handle_session_eof(now, id);
    world.run();
    assert_eq!(world.received(client), "+OK\r\n$1\r\nv\r\n");
    assert!(world.is_closed(client));
}

#[test]
fn a_client_that_leaves_disturbs_nobody() {
    let mut world = ring(2, 2);
    let client = world.connect(0);
    for number in 0..50 {
        world.send(
            client,
            format!("SET k{number} v\r\nGET k{number}\r\n").as_bytes(),
        );
    }
    world.hang_up(client);
    world.run();
    world.pass(Duration::from_millis(200));
    let report = world.nodes[0].engine.report();
    assert_eq!(
        (report.clients, report.in_flight, report.client_in_flight),
        (0, 0, 0)
    );
    assert_eq!(world.once(0, "SET k v"), "+OK\r\n");
}

#[test]
fn clients_above_the_limit_are_refused() {
    let mut world = ring(1, 1);
    let clients: Vec<usize> = (0..100).map(|_| world.connect(0)).collect();
    let kind = SessionKind::Client("one more".to_owned());
    assert!(world.nodes[0].engine.handle_accept(kind.clone()).is_err());
    world.hang_up(clients[0]);
    assert!(world.nodes[0].engine.handle_accept(kind).is_ok());
}

#[test]
fn a_drain_finishes_what_is_open_and_takes_nothing_new() {
    let mut world = ring(1, 2);
    let client = world.connect(0);
    world.nodes[1].frozen = true;
    for number in 0..10 {
        world.send(client, format!("SET k{number} v\r\n").as_bytes());
    }
    world.run();
    world.nodes[1].frozen = false;
    let now = world.now();
    world.nodes[0].engine.handle_drain(now);
    assert!(
        world.nodes[0]
            .engine
            .handle_accept(SessionKind::Peer)
            .is_err()
    );
    world.run();
    assert_eq!(world.received(client), "+OK\r\n".repeat(10));
    assert!(world.is_closed(client));
    assert!(world.nodes[0].engine.is_drained());
}

fn peer_says(world: &mut World, bytes: &[u8]) -> (String, bool) {
    let id = world.nodes[0]
        .engine
        .handle_accept(SessionKind::Peer)
        .unwrap();
    world.nodes[0]
        .engine
        .handle_session_bytes(Now::default(), id, bytes.into());
    let mut said = String::new();
    let mut aborted = false;
    for _ in 0..3 {
        while let Some(output) = world.nodes[0].engine.poll_output() {
            match output {
                crate::Output::Send {
                    to: crate::Conn::Session(to),
                    bytes,
                } if to == id => {
                    said += &String::from_utf8_lossy(&bytes);
                }
                crate::Output::Abort(to) if to == id => aborted = true,
                other => world.perform_for_test(0, other),
            }
        }
        world.deliver_for_test();
    }
    (said, aborted)
}

#[test]
fn peers_are_answered_in_the_form_of_netflix() {
    let mut world = ring(1, 1);
    let set = b"   $2014$ 7 3 0 1 1 *1 d *60\r\n*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$1\r\nv\r\n";
    assert_eq!(
        peer_says(&mut world, set).0,
        "   $2014$ 7 5 0 1 1 *1 d *5\r\n+OK\r\n"
    );
    let forward = b"   $2014$ 9 4 0 1 0 *1 d *22\r\n*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n";
    assert_eq!(
        peer_says(&mut world, forward).0,
        "   $2014$ 9 5 0 1 0 *1 d *7\r\n$1\r\nv\r\n"
    );
    let unknown = b"   $2014$ 8 3 0 1 1 *1 d *1\r\n*1\r\n$6\r\nNOSUCH\r\n";
    let (answer, aborted) = peer_says(&mut world, unknown);
    assert!(answer.starts_with("   $2014$ 8 5 0 1 1 *1 d *"), "{answer}");
    assert!(answer.contains("-ERR unknown command 'NOSUCH'") && !aborted);
    let dangerous = b"   $2014$ 8 3 0 1 1 *1 d *1\r\n*1\r\n$8\r\nFLUSHALL\r\n";
    assert!(
        peer_says(&mut world, dangerous)
            .0
            .contains("FLUSHALL is refused")
    );
}

#[test]
fn peers_that_make_no_sense_are_closed_or_overheard() {
    let mut world = ring(1, 1);
    for (bytes, closes) in [
        (&b"   $2014$ 1 3 1 1 1 *3 abc *5\r\n"[..], true),
        (b"   $2014$ 1 3 0 1 1 *1 d *5\r\n*x\r\n", true),
        (b"garbage", false),
        (b"   $2014$ 1 7 0 1 1 *1 a *45\r\n", false),
        (b"   $2014$ 1 5 0 1 1 *1 d *5\r\n+OK\r\n", false),
        (b"   $2014$ 99999999999999999999 3 0 1 1 *1 d *5\r\n", false),
    ] {
        let (said, aborted) = peer_says(&mut world, bytes);
        assert_eq!(
            (said.as_str(), aborted),
            ("", closes),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
    let after_gossip =
        b"$2014$ 1 7 0 1 1 *1 a *45\r\n   $2014$ 2 3 0 1 1 *1 d *14\r\n*1\r\n$4\r\nPING\r\n";
    assert_eq!(
        peer_says(&mut world, after_gossip).0,
        "   $2014$ 2 5 0 1 1 *1 d *7\r\n+PONG\r\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_pipeline_is_answered_as_one_store_would_answer_it(
        commands in prop::collection::vec((0..5_u8, 0..6_u8), 1..60),
        piece in 0..9_usize,
        node in 0..6_usize,
    ) {
        let mut world = ring(3, 2);
        world.piece = piece;
        let mut single = ring(1, 1);
        let client = world.connect(node);
        let reference = single.connect(0);
        for (command, key) in commands {
            let words = match command {
                0 => format!("GET {key}"),
                1 => format!("SET {key} {command}"),
                2 => format!("APPEND {key} x"),
                3 => format!("DEL {key} {}", key + 1),
                _ => format!("MGET {key} {} {key}", key + 3),
            };
            let words: Vec<&str> = words.split(' ').collect();
            let request = Request::from_args(&words);
            world.send(client, request.raw());
            single.send(reference, request.raw());
        }
        world.run();
        single.run();
        prop_assert_eq!(world.received(client), single.received(reference));
    }

    #[test]
    fn no_bytes_from_clients_or_peers_bring_an_engine_down(
        bytes in prop::collection::vec(
            prop::sample::select(b"*$:+-\r\n0123456789GETSPIN 2014".to_vec()), 0..120),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut world = ring(1, 2);
        let client = world.connect(0);
        world.send(client, &bytes);
        world.send(client, &tail);
        world.run();
        let _ = peer_says(&mut world, &bytes);
        prop_assert_eq!(world.once(0, "PING"), "+PONG\r\n");
    }
}
