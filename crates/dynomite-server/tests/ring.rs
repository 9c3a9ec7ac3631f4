//! The binary over real sockets, with stores that know a handful of commands.

mod rig;

use std::io::Write as _;
use std::time::Duration;

use rig::{Node, Provider, REPLICATION_ID, Store, eventually, http, socket_dir};

const TOKEN: u32 = 1_383_429_731;

#[test]
fn two_racks_replicate_over_sockets_and_follow_their_seeds() {
    let dir = socket_dir("replicate");
    let stores = [
        Store::start(&dir.join("a.sock")),
        Store::start(&dir.join("b.sock")),
    ];
    let provider = Provider::start();
    let extra = "  dyn_seed_provider: florida_provider\n  gos_interval: 250\n";
    let a = Node::start(&dir, "a", "r1", TOKEN, extra, Some(&provider));
    let b = Node::start(&dir, "b", "r2", TOKEN, "", None);
    b.wait_until_it_serves();

    let mut client = a.client();
    let refused = client.ask(&["SET", "k", "v"]);
    assert!(
        refused.starts_with("-ERR Dynomite: Dynomite's current state"),
        "{refused}"
    );

    provider.set(&b.seed());
    eventually("the peer is connected", || {
        a.info()["peers"][0]["connected"] == true
    });
    assert_eq!(client.ask(&["SET", "k", "v"]), "+OK\r\n");
    eventually("both stores have it", || {
        stores
            .iter()
            .all(|store| store.get("k") == Some("v".into()))
    });
    assert_eq!(b.client().ask(&["GET", "k"]), "$1\r\nv\r\n");

    drop(b);
    provider.set("");
    eventually("the peer is forgotten", || {
        a.info()["peers"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(client.ask(&["SET", "k", "w"]), "+OK\r\n");
}

#[test]
fn a_store_that_is_replaced_behind_its_path_is_found_at_once() {
    let dir = socket_dir("replaced");
    let path = dir.join("a.sock");
    let first = Store::start(&path);
    let node = Node::start(&dir, "a", "r1", TOKEN, "", None);
    node.wait_until_it_serves();
    let mut client = node.client();
    assert_eq!(client.ask(&["SET", "k", "old"]), "+OK\r\n");

    drop(first);
    eventually("the loss is seen", || {
        client.ask(&["GET", "k"]) == "-ERR Storage: Datastore refused connection\r\n"
    });
    let hidden = dir.join("hidden.sock");
    let second = Store::start(&hidden);
    assert_eq!(
        client.ask(&["GET", "k"]),
        "-ERR Storage: Datastore refused connection\r\n"
    );
    std::fs::rename(&hidden, &path).unwrap();
    eventually("the new store answers", || {
        client.ask(&["GET", "k"]) == "$-1\r\n"
    });
    assert_eq!(client.ask(&["SET", "k", "new"]), "+OK\r\n");
    assert_eq!(second.get("k"), Some("new".into()));
}

#[test]
fn the_admin_port_speaks_as_the_original_does() {
    let dir = socket_dir("admin");
    let _store = Store::start(&dir.join("a.sock"));
    let node = Node::start(&dir, "a", "r1", TOKEN, "  start_state: standby\n", None);
    eventually("the port answers", || {
        node.get("/state/get_state").is_some()
    });
    let get = |path: &str| node.get(path).unwrap_or_default();
    assert_eq!(get("/state/get_state"), "State: STANDBY\n");
    assert_eq!(get("/state/joining"), "OK\r\n");
    assert_eq!(get("/state/normal"), "OK\r\n");
    assert_eq!(get("/state/get_state"), "State: NORMAL\n");
    assert_eq!(get("/set_consistency/write/dc_quorum"), "OK\r\n");
    assert_eq!(get("/set_consistency/write/dc_each_safe_quorum"), "OK\r\n");
    assert_eq!(
        get("/get_consistency"),
        "Read Consistency: DC_ONE\r\nWrite Consistency: DC_QUORUM\r\n"
    );
    assert_eq!(get("/set_timeout_factor/99"), "OK\r\n");
    assert_eq!(get("/get_timeout_factor"), "Timeout factor: 10\n");
    for path in [
        "/ping",
        "/nosuch",
        "/",
        "/peer/reset/nobody",
        "/state/",
        "//x//",
    ] {
        assert_eq!(get(path), "OK\r\n", "{path}");
    }
    assert!(get("/help").contains("/cluster_describe"));
    assert!(get("/metrics").contains("dynomite_state{state=\"NORMAL\"} 1"));
    let ring: serde_json::Value = serde_json::from_str(&get("/cluster_describe")).unwrap();
    assert_eq!(ring["dcs"][0]["racks"][0]["servers"][0]["token"], TOKEN);
    let posted = http(&node.admin, "POST /state/standby HTTP/1.0\r\n\r\n").unwrap();
    assert!(posted.ends_with("OK\r\n"));
    assert_eq!(get("/state/get_state"), "State: NORMAL\n");
}

#[test]
fn a_newcomer_takes_over_at_the_cut_of_its_donor() {
    let dir = socket_dir("cut");
    let stores = ["a", "b"].map(|name| Store::start(&dir.join(format!("{name}.sock"))));
    let provider = Provider::start();
    let extra = "  dyn_seed_provider: florida_provider\n  gos_interval: 250\n";
    let [newcomer, donor] = [("a", "r1"), ("b", "r2")]
        .map(|(name, rack)| Node::start(&dir, name, rack, TOKEN, extra, Some(&provider)));
    provider.set(&format!("{}|{}", newcomer.seed(), donor.seed()));
    for node in [&newcomer, &donor] {
        eventually("the peer is connected", || {
            node.info()["peers"][0]["connected"] == true
        });
    }
    let (status, words) = newcomer.post("/capture/check", "{}");
    assert_eq!(status, 409, "{words}");
    assert!(words.contains("only in WRITES_ONLY"), "{words}");
    for state in ["standby", "writes_only"] {
        newcomer.get(&format!("/state/{state}"));
    }
    let (status, words) = newcomer.try_get("/cut");
    assert_eq!(status, 409);
    assert!(words.contains("WRITES_ONLY, not NORMAL"), "{words}");

    let mut client = donor.client();
    assert_eq!(client.ask(&["SET", "k", "v"]), "+OK\r\n");
    let (status, body) = donor.try_get("/cut");
    assert_eq!(status, 200, "{body}");
    let cut: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(cut["replicationId"], REPLICATION_ID);
    assert_eq!((&cut["offset"], &cut["keys"]), (&1234.into(), &1.into()));
    let coordinator = donor.info()["incarnation"].as_str().unwrap().to_owned();
    assert_eq!(cut["received"][&coordinator]["last"], 1);
    assert_eq!(client.ask(&["SET", "l", "v"]), "+OK\r\n");
    eventually("both are held", || newcomer.info()["held_writes"] == 2);

    let received = cut["received"].to_string();
    let check = newcomer.post("/capture/check", &received);
    assert_eq!(check, (200, "{\n  \"covered\": true\n}\n".to_owned()));
    let unknown = r#"{"nobody": {"last": 3}}"#;
    let (status, words) = newcomer.post("/capture/commit", unknown);
    assert!(
        status == 409 && words.contains("coordinator nobody"),
        "{words}"
    );
    assert_eq!(newcomer.post("/capture/commit", "x").0, 400);
    assert_eq!(newcomer.try_get("/capture/commit").0, 405);

    let (status, done) = newcomer.post("/capture/commit", &received);
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!(
        (status, &done["applied"], &done["dropped"]),
        (200, &1.into(), &1.into())
    );
    eventually("the later write is executed", || {
        stores[0].get("l").is_some()
    });
    assert_eq!(stores[0].get("k"), None, "the copy would have brought it");
    assert_eq!(
        newcomer.get("/state/get_state").unwrap(),
        "State: RESUMING\n"
    );
    assert_eq!(newcomer.info()["received"], donor.info()["received"]);
    let metrics = newcomer.get("/metrics").unwrap();
    assert!(
        metrics.contains("\ndynomite_missing_writes 0\n"),
        "{metrics}"
    );
}

#[test]
fn info_has_every_name_the_original_has() {
    let dir = socket_dir("info");
    let _store = Store::start(&dir.join("a.sock"));
    let node = Node::start(&dir, "a", "r1", TOKEN, "", None);
    node.wait_until_it_serves();
    node.client().ask(&["SET", "k", "v"]);
    let info = node.info();
    for name in [
        "service",
        "source",
        "version",
        "uptime",
        "timestamp",
        "rack",
        "dc",
        "latency_max",
        "latency_999th",
        "payload_size_99th",
        "99_cross_region_rtt",
        "average_server_latency",
        "client_out_queue_99",
        "alloc_msgs",
        "free_mbufs",
        "dyn_memory",
        "incarnation",
        "state",
        "client_in_flight",
    ] {
        assert!(!info[name].is_null(), "{name}");
    }
    let pool = &info["dyn_o_mite"];
    for name in [
        "client_eof",
        "client_connections",
        "client_write_requests",
        "server_ejects",
        "dnode_client_connections",
        "peer_requests",
        "remote_peer_failover_requests",
        "peer_in_queue_bytes",
        "forward_error",
        "fragments",
        "stats_count",
    ] {
        assert!(pool[name].is_u64(), "{name}");
    }
    assert_eq!(pool["client_write_requests"], 1);
    assert!(pool[dir.join("a.sock").to_str().unwrap()]["write_requests"].is_u64());
}

#[test]
fn bytes_that_are_no_resp_get_an_error_and_others_do_not_notice() {
    let dir = socket_dir("malformed");
    let _store = Store::start(&dir.join("a.sock"));
    let node = Node::start(&dir, "a", "r1", TOKEN, "", None);
    node.wait_until_it_serves();
    let mut good = node.client();
    for bytes in [
        &b"*1\r\n+x\r\n"[..],
        b"*x\r\n",
        b"*1\r\n$-5\r\n",
        b"*2000000\r\n",
    ] {
        let mut bad = node.client();
        bad.stream.write_all(bytes).unwrap();
        let said = bad.read_to_end();
        assert!(said.starts_with("-ERR Protocol error: "), "{said}");
        assert_eq!(good.ask(&["PING"]), "+PONG\r\n");
    }
    for _ in 0..50 {
        let mut leaver = node.client();
        leaver
            .stream
            .write_all(b"*2\r\n$3\r\nGET\r\n$100000\r\nxxx")
            .unwrap();
    }
    eventually("they are gone", || {
        node.info()["dyn_o_mite"]["client_connections"] == 1
    });
    assert_eq!(good.ask(&["PING"]), "+PONG\r\n");
}

#[test]
fn sigterm_finishes_open_requests_and_ends_well() {
    let dir = socket_dir("sigterm");
    let store = Store::start(&dir.join("a.sock"));
    let mut node = Node::start(&dir, "a", "r1", TOKEN, "", None);
    node.wait_until_it_serves();
    let mut client = node.client();
    let mut idle = node.client();
    assert_eq!(idle.ask(&["PING"]), "+PONG\r\n");
    store.delay(Duration::from_millis(300));
    client.send(&["SET", "k", "v"]);
    eventually("the request is open", || {
        node.info()["client_in_flight"] == 1
    });
    node.terminate();
    assert_eq!(client.read_to_end(), "+OK\r\n");
    assert_eq!(idle.read_to_end(), "");
    assert!(node.wait().success());
    assert_eq!(store.get("k"), Some("v".into()));
}

#[test]
fn a_configuration_is_checked_before_anything_is_opened() {
    let dir = socket_dir("config");
    let path = dir.join("dynomite.yml");
    std::fs::write(&path, "dyn_o_mite:\n  listen: 127.0.0.1:1\n  nonsense: 1\n").unwrap();
    let (code, said) = rig::test_config(&path);
    assert_eq!(code, Some(1));
    assert!(said.contains("directive \"nonsense\" is unknown"), "{said}");
    assert!(said.contains("syntax is invalid"), "{said}");
    let good = rig::config(&dir, "a", "r1", TOKEN, "", &rig::ports());
    std::fs::write(&path, good).unwrap();
    let (code, said) = rig::test_config(&path);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("syntax is valid"), "{said}");
}
