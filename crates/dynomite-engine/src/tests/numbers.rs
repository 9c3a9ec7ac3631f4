//! Numbers of writes: who gets them, what a replica makes of them, what ends a capture.

use std::time::Duration;

use bytes::BytesMut;
use dynomite_protocol::received::{Received, Source};
use dynomite_protocol::resp::Request;

use super::world::{TIMEOUT, World, ring, settings};
use crate::RunState::{Normal, Resuming, Standby, WritesOnly};
use crate::limits::MAX_LINK_UNSENT_BYTES;
use crate::protection::Protection;
use crate::{
    Conn, Cut, CutRefused, Engine, LinkId, NotCaptured, Now, Output, SessionId, SessionKind,
};

fn received(world: &World, node: usize) -> Received {
    world.nodes[node].engine.received(world.now()).unwrap()
}

/// What a node has of another one's writes.
fn of(world: &World, node: usize, coordinator: usize) -> Source {
    let name = world.nodes[coordinator].seed.host.clone();
    received(world, node).source_mut(&name).clone()
}

fn last_and_missing(source: &Source) -> (u64, &[(u64, u64)]) {
    (source.last, &source.missing)
}

#[test]
fn every_replica_gets_the_same_number_for_the_same_write() {
    let mut world = ring(3, 2);
    for number in 0..40 {
        world.once(0, &format!("SET k{number} v"));
        world.once(3, &format!("MSET a{number} v b{number} v c{number} v"));
        world.once(3, "GET k1");
    }
    for (index, node) in world.nodes.iter().enumerate() {
        let writes = node.store.log.iter();
        let writes = writes
            .filter(|line| line.to_lowercase().contains("set"))
            .count();
        let counted: u64 = (0..6).map(|other| of(&world, index, other).last).sum();
        assert_eq!(counted, writes as u64, "what is executed is counted");
        // Node, and the node of the same number in another rack.
        for coordinator in [0, 3] {
            let other = (index + 2) % 6;
            assert_eq!(
                of(&world, index, coordinator),
                of(&world, other, coordinator)
            );
        }
    }
}

#[test]
fn what_goes_to_every_node_is_numbered_for_each_token() {
    let mut world = World::new(&[("dc1", 2), ("dc2", 1)], 2);
    world.once(0, "SCRIPT LOAD x");
    for node in 0..4 {
        assert_eq!(of(&world, node, 0).last, 1, "node {node}");
    }
}

#[test]
fn a_write_from_another_datacenter_is_numbered_by_who_distributes_it() {
    let mut world = World::new(&[("dc1", 1), ("dc2", 3)], 1);
    world.once(0, "SET k v");
    let distributor = (1..4).find(|node| of(&world, 1, *node).last == 1).unwrap();
    for node in 1..4 {
        let source = of(&world, node, distributor);
        assert_eq!(last_and_missing(&source), (1, &[][..]));
        assert_eq!(of(&world, node, 0).last, 0);
    }
}

#[test]
fn a_number_that_nobody_took_is_used_again() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    world.kill(1);
    assert!(world.once(0, "SET k v").starts_with('-'));
    world.set_state(0, Normal);
    world.once(0, "SET k v");
    assert_eq!(last_and_missing(&of(&world, 0, 0)), (1, &[][..]));
}

#[test]
fn a_node_that_stands_in_for_a_missing_one_gets_its_writes_without_number() {
    let all: Vec<_> = ring(2, 2).nodes.into_iter().map(|node| node.seed).collect();
    let mut world = World::with_seeds(&all[..3], |_| {});
    for number in 0..40 {
        world.once(0, &format!("SET k{number} v"));
    }
    let executed = |node: usize| world.nodes[node].store.data.len();
    assert_eq!((executed(0) + executed(1), executed(2)), (40, 40));
    assert_eq!(of(&world, 0, 0), of(&world, 2, 0));
    assert_eq!(of(&world, 2, 0).last, executed(0) as u64);
    assert_eq!(of(&world, 1, 0).last, executed(1) as u64);
}

#[test]
fn a_refused_write_is_missing_where_it_was_refused() {
    let mut world = ring(2, 1);
    world.set_state(1, Standby);
    world.once(0, "SET k v");
    world.once(1, "SET k w");
    assert_eq!(last_and_missing(&of(&world, 1, 0)), (1, &[(1, 1)][..]));
    assert_eq!(
        last_and_missing(&of(&world, 1, 1)),
        (1, &[(1, 1)][..]),
        "its own one too"
    );
    assert_eq!(received(&world, 1).lacks(&received(&world, 0)), 2);
}

#[test]
fn a_write_that_only_this_store_did_not_execute_is_missing() {
    for (error, missing) in [
        ("OOM no", &[(1, 1)][..]),
        ("MISCONF no", &[(1, 1)]),
        ("READONLY no", &[(1, 1)]),
        ("NOSCRIPT no", &[(1, 1)]),
        ("WRONGTYPE every rack says so", &[]),
    ] {
        let mut world = ring(2, 1);
        world.nodes[1].store.refuses_with = Some(error);
        world.once(0, "SET k v");
        world.nodes[1].store.refuses_with = None;
        world.once(0, "SET k v");
        let source = of(&world, 1, 0);
        assert_eq!(last_and_missing(&source), (2, missing), "{error}");
    }
}

#[test]
fn a_peer_is_told_what_it_was_not_sent_before_the_next_write() {
    let mut world = ring(2, 1);
    world.once(0, "SET k v");
    let link = |world: &mut World, unsent| {
        world.nodes[0].engine.links[1].as_mut().unwrap().out.unsent = unsent;
    };
    link(&mut world, MAX_LINK_UNSENT_BYTES);
    world.once(0, "SET k w");
    world.once(0, "SET k x");
    assert_eq!(last_and_missing(&of(&world, 1, 0)), (1, &[][..]));
    link(&mut world, 0);
    world.pass(Duration::from_millis(50));
    assert_eq!(last_and_missing(&of(&world, 1, 0)), (3, &[(2, 3)][..]));
}

#[test]
fn a_coordinator_that_is_gone_is_closed_and_its_successor_another() {
    let mut world = ring(2, 1);
    world.once(0, "SET k v");
    world.kill(0);
    world.pass(Duration::from_secs(3));
    assert_eq!(of(&world, 1, 0).closed_seconds, Some(3));
    world.start(0);
    world.pass(Duration::from_secs(3));
    world.once(0, "SET k w");
    let received = received(&world, 1);
    assert_eq!(received.sources()["dc1-r0-0"].closed_seconds, Some(6));
    let again = &received.sources()["dc1-r0-0-again"];
    assert_eq!((again.last, again.closed_seconds), (1, None));
}

/// A peer that a test plays itself, at the first node.
struct Peer(SessionId);

impl Peer {
    fn connect(world: &mut World) -> Self {
        let engine = &mut world.nodes[0].engine;
        Self(engine.handle_accept(SessionKind::Peer).unwrap())
    }

    /// Says something, and returns what it is told and whether it is thrown out.
    fn say(&self, world: &mut World, bytes: &str) -> (String, bool) {
        let now = world.now();
        let engine = &mut world.nodes[0].engine;
        engine.handle_session_bytes(now, self.0, BytesMut::from(bytes.as_bytes()));
        let (mut said, mut aborted) = (String::new(), false);
        for _ in 0..3 {
            while let Some(output) = world.nodes[0].engine.poll_output() {
                match output {
                    Output::Send {
                        to: Conn::Session(to),
                        bytes,
                    } if to == self.0 => said += &String::from_utf8_lossy(&bytes),
                    Output::Abort(to) if to == self.0 => aborted = true,
                    other => world.perform_for_test(0, other),
                }
            }
            world.deliver_for_test();
        }
        (said, aborted)
    }

    /// Introduces itself as `c`.
    fn introduced(world: &mut World, given: u64) -> Self {
        let peer = Self::connect(world);
        let (said, _) = peer.say(world, &message("n", "PING"));
        assert!(
            said.starts_with("   $2014$ 0 14 0 1 1 *1 n *0\r\n"),
            "{said}"
        );
        let who = format!("i1000:{given}:c");
        let (_, aborted) = peer.say(world, &word(&who));
        assert!(!aborted);
        peer
    }
}

fn message(data: &str, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let payload = String::from_utf8(Request::from_args(&words).raw().to_vec()).unwrap();
    format!(
        "$2014$ 1 3 0 1 1 *{} {data} *{}\r\n{payload}",
        data.len(),
        payload.len()
    )
}

fn word(data: &str) -> String {
    format!("$2014$ 1 14 0 1 1 *{} {data} *0\r\n", data.len())
}

#[test]
fn a_number_that_was_given_up_is_refused_and_costs_no_missed_write() {
    let mut world = ring(1, 1);
    let peer = Peer::introduced(&mut world, 2);
    for (data, words, refused) in [
        ("w3", "APPEND k 3", false),
        ("w3", "APPEND k 3", true),
        ("w1", "APPEND k 1", true),
        ("w6", "APPEND k 6", false),
        ("w5", "APPEND k 5", true),
        ("d", "APPEND k d", false),
    ] {
        let (answer, _) = peer.say(&mut world, &message(data, words));
        assert_eq!(
            answer.contains("has this write already"),
            refused,
            "{data}: {answer}"
        );
    }
    assert_eq!(world.nodes[0].store.data[&b"k"[..]], b"36d");
    peer.say(&mut world, &word("g8"));
    let source = received(&world, 0).source_mut("c").clone();
    assert_eq!(
        last_and_missing(&source),
        (8, &[(1, 2), (4, 5), (7, 8)][..])
    );
    assert_eq!(world.nodes[0].engine.report().counters.late_writes, 3);
    assert!(!crate::error_text::is_missed_write(crate::error_text::PAST));
    assert!(crate::error_text::is_refusal(crate::error_text::PAST));
}

#[test]
fn a_new_connection_ends_the_old_one_of_the_same_coordinator() {
    let mut world = ring(1, 1);
    let old = Peer::introduced(&mut world, 0);
    old.say(&mut world, &message("w1", "APPEND k 1"));
    let new = Peer::introduced(&mut world, 2);
    new.say(&mut world, &message("w3", "APPEND k 3"));
    // It was sent before the new connection was made, and is read after.
    old.say(&mut world, &message("w2", "APPEND k 2"));
    assert_eq!(world.nodes[0].store.data[&b"k"[..]], b"13");
    let now = world.now();
    world.nodes[0].engine.handle_session_closed(now, old.0);
    let source = received(&world, 0).source_mut("c").clone();
    assert_eq!(
        (source.closed_seconds, &source.missing[..]),
        (None, &[(2, 2)][..])
    );
    world.nodes[0].engine.handle_session_eof(now, new.0);
    let source = received(&world, 0).source_mut("c").clone();
    assert_eq!(source.closed_seconds, Some(0), "nothing more can come");
}

#[test]
fn a_coordinator_that_means_another_node_is_thrown_out() {
    let mut world = ring(1, 1);
    for who in ["i1001:0:c", "i1000:0:dc1-r0-0"] {
        let peer = Peer::connect(&mut world);
        peer.say(&mut world, &message("n", "PING"));
        let (_, aborted) = peer.say(&mut world, &word(who));
        assert!(aborted, "{who}");
    }
}

#[test]
fn a_peer_without_numbers_makes_the_account_worthless_while_it_is_there() {
    let mut world = ring(1, 1);
    let other_datacenter = Peer::connect(&mut world);
    other_datacenter.say(
        &mut world,
        &message("d", "PING").replace(" 0 1 1 ", " 0 1 0 "),
    );
    assert!(world.nodes[0].engine.received(world.now()).is_ok());
    let peer = Peer::connect(&mut world);
    peer.say(&mut world, &message("d", "SET k v"));
    let now = world.now();
    let engine = &mut world.nodes[0].engine;
    assert!(engine.received(now).is_err());
    assert!(matches!(
        engine.handle_cut(now),
        Err(CutRefused::NotCounted(_))
    ));
    engine.handle_session_closed(now, peer.0);
    assert!(engine.received(now).is_ok());
}

/// An engine of two racks, the other one played by the test.
struct Alone {
    engine: Engine,
}

impl Alone {
    fn new() -> Self {
        let seeds: Vec<_> = ring(2, 1).nodes.into_iter().map(|node| node.seed).collect();
        let mut engine = Engine::new(settings(&seeds[0], &seeds));
        engine.handle_tick(Now::default());
        let outputs: Vec<Output> = std::iter::from_fn(|| engine.poll_output()).collect();
        for output in outputs {
            if let Output::Connect { link, attempt, .. } = output {
                assert!(engine.handle_link_up(Now::default(), link, attempt));
            }
        }
        let mut alone = Self { engine };
        let probe = "   $2014$ 1 3 0 1 1 *1 n *14\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(alone.told(), probe);
        alone
    }

    /// The peer says something.
    fn heard(&mut self, bytes: &str) {
        self.heard_of(LinkId(1), bytes);
    }

    fn heard_of(&mut self, link: LinkId, bytes: &str) {
        let attempt = self.engine.link(link).unwrap().attempt;
        let bytes = BytesMut::from(bytes.as_bytes());
        self.engine
            .handle_link_bytes(Now::default(), link, attempt, bytes);
    }

    fn write(&mut self) {
        let kind = SessionKind::Client("test".to_owned());
        let client = self.engine.handle_accept(kind).unwrap();
        let request = Request::from_args(&["SET", "k", "v"]);
        let bytes = BytesMut::from(&request.raw()[..]);
        self.engine
            .handle_session_bytes(Now::default(), client, bytes);
    }

    /// What the peer is told.
    fn told(&mut self) -> String {
        let mut told = String::new();
        while let Some(output) = self.engine.poll_output() {
            if let Output::Send {
                to: to @ Conn::Link(LinkId(1), _),
                bytes,
            } = output
            {
                self.engine.handle_sent(Now::default(), to, bytes.len());
                told += &String::from_utf8_lossy(&bytes);
            }
        }
        told
    }
}

#[test]
fn netflix_engine_gets_no_number() {
    let mut alone = Alone::new();
    alone.write();
    assert_eq!(
        alone.told(),
        "",
        "before it is known whether it counts, it gets no write"
    );
    alone.heard("$2014$ 1 5 0 1 1 *1 d *7\r\n+PONG\r\n");
    alone.write();
    let told = alone.told();
    assert!(
        told.starts_with("   $2014$ ") && told.contains(" 3 0 1 1 *1 d *27\r\n"),
        "{told}"
    );
    let why = alone
        .engine
        .received(Now::default())
        .unwrap_err()
        .to_string();
    assert!(
        why.starts_with("dc1-r1-0:8101 of rack r1 does not number"),
        "{why}"
    );
}

#[test]
fn our_engine_is_introduced_before_the_first_number() {
    let mut alone = Alone::new();
    alone.write();
    alone.heard("$2014$ 0 14 0 1 1 *1 n *0\r\n");
    alone.write();
    let told = alone.told();
    let introduction = told.find(" 14 0 1 1 *16 i1000:1:dc1-r0-0 *0\r\n");
    let number = told.find(" 3 0 1 1 *2 w2 *27\r\n");
    assert!(introduction.is_some() && introduction < number, "{told}");
    alone.heard("$2014$ 1 5 0 1 1 *1 d *7\r\n+PONG\r\n");
    assert!(alone.engine.received(Now::default()).is_ok());
}

const INFO: &str = "role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:77\r\n\
    db0:keys=3,expires=1,avg_ttl=0\r\n";

fn cut(alone: &mut Alone, answer: &str) -> Result<Box<Cut>, CutRefused> {
    let wanted = alone.engine.handle_cut(Now::default()).unwrap();
    alone.heard_of(LinkId::STORE, answer);
    let outputs = std::iter::from_fn(|| alone.engine.poll_output());
    let mut cuts = outputs.filter_map(|output| match output {
        Output::Cut { id, outcome } => Some((id, outcome)),
        _ => None,
    });
    let (id, outcome) = cuts.next().unwrap();
    assert_eq!(id, wanted);
    outcome
}

#[test]
fn a_cut_has_what_was_sent_before_it_and_no_write_that_the_store_refused() {
    let info = format!("${}\r\n{INFO}\r\n", INFO.len());
    for (without, missing) in [
        (None, &[(2, 2)][..]),
        (Some(Protection::LossesInCuts), &[][..]),
    ] {
        let mut alone = Alone::new();
        alone.heard("$2014$ 0 14 0 1 1 *1 n *0\r\n");
        alone.engine.without = without;
        for _ in 0..3 {
            alone.write();
        }
        // The answers come after the cut was asked for.
        let answers = format!("+OK\r\n-OOM no\r\n+OK\r\n{info}");
        let cut = cut(&mut alone, &answers).unwrap();
        let place = (cut.replication_id.as_str(), cut.offset, cut.keys);
        assert_eq!(place, ("abc", 77, 3));
        let source = &cut.received.sources()["dc1-r0-0"];
        assert_eq!(last_and_missing(source), (3, missing));
    }
}

#[test]
fn a_cut_needs_a_primary_that_says_where_it_is() {
    for (from, to) in [
        ("role:master", "role:slave"),
        ("master_replid", "x"),
        ("offset:77", "offset:x"),
        ("keys=3", "x"),
    ] {
        let text = INFO.replace(from, to);
        let answer = format!("${}\r\n{text}\r\n", text.len());
        let outcome = cut(&mut Alone::new(), &answer);
        assert!(
            matches!(outcome, Err(CutRefused::Answer(_))),
            "{to}: {outcome:?}"
        );
    }
    let error = cut(&mut Alone::new(), "-NOPERM no\r\n").unwrap_err();
    assert!(error.to_string().contains("NOPERM"), "{error}");
    let empty = INFO.replace("db0:keys=3,expires=1,avg_ttl=0", "");
    let answer = format!("${}\r\n{empty}\r\n", empty.len());
    assert_eq!(cut(&mut Alone::new(), &answer).unwrap().keys, 0);
}

#[test]
fn a_capture_is_void_when_a_held_write_was_refused() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    let now = world.now();
    let nothing = Received::default();
    let outside = world.nodes[0].engine.handle_commit(now, &nothing);
    assert_eq!(outside, Err(NotCaptured::State(Standby)));
    world.set_state(0, WritesOnly);
    world.once(1, "SET k v");
    let donor = received(&world, 1);
    assert_eq!(world.nodes[0].engine.check_capture(&donor), Ok(()));
    world.pass(TIMEOUT + Duration::from_millis(200));
    assert_eq!(
        world.nodes[0].engine.check_capture(&donor),
        Err(NotCaptured::Void)
    );
    world.set_state(0, WritesOnly);
    assert_eq!(
        world.nodes[0].engine.check_capture(&donor),
        Err(NotCaptured::Void)
    );
    world.set_state(0, Standby);
    world.set_state(0, WritesOnly);
    assert_eq!(world.nodes[0].engine.check_capture(&donor), Ok(()));
}

#[test]
fn a_commit_drops_what_the_copy_has_and_keeps_the_rest_in_order() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    world.once(1, "APPEND k 1");
    world.set_state(0, WritesOnly);
    world.once(1, "APPEND k 2");
    let donor = received(&world, 1);
    world.nodes[0].store.data = world.nodes[1].store.data.clone();
    world.once(1, "APPEND k 3");
    world.once(0, "APPEND k 4");
    let now = world.now();
    let done = world.nodes[0].engine.handle_commit(now, &donor).unwrap();
    assert_eq!((done.applied, done.dropped), (2, 1));
    assert_eq!(world.nodes[0].engine.state(), Resuming);
    world.run();
    assert_eq!(world.nodes[0].store.data[&b"k"[..]], b"1234");
    assert_eq!(received(&world, 0).lacks(&received(&world, 1)), 0);
    let again = world.nodes[0].engine.handle_commit(now, &donor);
    assert_eq!(again, Err(NotCaptured::State(Resuming)));
}

#[test]
fn a_coordinator_that_reaches_only_the_donor_is_named() {
    let mut world = ring(3, 1);
    world.set_state(0, WritesOnly);
    world.cut = vec![(0, 2)];
    world.pass(Duration::from_secs(5));
    let donor = received(&world, 1);
    let why = world.nodes[0].engine.check_capture(&donor);
    assert_eq!(why, Err(NotCaptured::NotCovered("dc1-r2-0".to_owned())));
    world.cut.clear();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.nodes[0].engine.check_capture(&donor), Ok(()));
}

#[test]
fn a_copy_without_a_cut_is_taken_to_be_whole() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    world.once(1, "SET k v");
    world.set_state(0, WritesOnly);
    world.set_state(0, Resuming);
    world.set_state(0, Normal);
    assert_eq!(received(&world, 0).lacks(&received(&world, 1)), 0);
}

#[test]
fn what_was_refused_while_the_node_was_held_stays_missing() {
    let mut world = ring(2, 1);
    world.set_state(0, Standby);
    world.once(1, "SET k v");
    world.set_state(0, Resuming);
    world.set_state(0, Normal);
    assert_eq!(received(&world, 0).lacks(&received(&world, 1)), 1);
}

#[test]
fn a_cut_is_refused_with_what_to_do() {
    let mut world = ring(1, 1);
    let cut = |world: &mut World| {
        let now = world.now();
        world.nodes[0].engine.handle_cut(now)
    };
    world.set_state(0, WritesOnly);
    assert_eq!(cut(&mut world), Err(CutRefused::State(WritesOnly)));
    world.set_state(0, Standby);
    assert!(
        cut(&mut world).is_ok(),
        "held with its ring, it may be copied"
    );
    world.run();
    world.set_state(0, Normal);
    for _ in 0..crate::limits::MAX_CUTS {
        assert!(cut(&mut world).is_ok());
    }
    assert_eq!(cut(&mut world), Err(CutRefused::Busy));
    world.run();
    let id = cut(&mut world).unwrap();
    world.stop_store(0);
    assert_eq!(cut(&mut world), Err(CutRefused::Store));
    let outcomes = std::iter::from_fn(|| world.nodes[0].engine.poll_output());
    let mut outcomes = outcomes.filter(|output| matches!(output, Output::Cut { .. }));
    let outcome = Err(CutRefused::Store);
    assert_eq!(outcomes.next(), Some(Output::Cut { id, outcome }));
}
