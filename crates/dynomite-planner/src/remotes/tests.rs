use dynomite_api::crd::{ConditionType, RemoteDatacenter, condition};
use serde_json::json;

use super::*;
use crate::plan::Action;
use crate::world::{World, resource};

const URL: &str = "http://far.example:8080/REST/v1/admin/cluster_describe";

fn entry(rack: &str, token: &str, ip: &str) -> Value {
    json!({
        "token": token, "hostname": format!("{rack}.far.example"), "port": "8102",
        "secure_port": "8102", "secure_storage_port": "8102", "peer_port": "8101",
        "rack": rack, "ip": ip, "zone": rack, "dc": "dc2",
    })
}

fn read(entries: &[Value]) -> Result<Vec<Peer>, String> {
    read_description(json!(entries).to_string().as_bytes(), "dc2")
}

/// A settled ring that follows `dc2`, which has not been asked yet.
fn following() -> World {
    let mut world = World::settled(3, 1);
    world.edit(|spec| {
        spec.remote_datacenters = vec![RemoteDatacenter {
            name: "dc2".to_owned(),
            describe: Some(URL.to_owned()),
            seeds: Vec::new(),
        }];
    });
    world
}

fn answers(world: &mut World, entries: &[Value]) {
    let described = Described {
        nodes: Some(read(entries).expect("it can be read")),
        trouble: None,
    };
    world.observed.described.insert("dc2".to_owned(), described);
}

/// The addresses of dc2 that each node of the ring was told, all the same.
fn told(world: &World) -> Vec<String> {
    let mut all = world.lives.values().map(|life| {
        let desired = life.desired.as_ref().expect("it was told");
        let far = desired.peers.iter().filter(|peer| peer.datacenter == "dc2");
        far.filter_map(|peer| peer.address.clone())
            .collect::<Vec<_>>()
    });
    let first = all.next().expect("there are nodes");
    assert!(all.all(|other| other == first));
    first
}

#[test]
fn a_url_is_plain_http_to_one_path_and_nothing_else() {
    let read = |text: &str| text.parse::<DescribeUrl>();
    let url = read(URL).expect("a URL");
    assert_eq!((url.host.as_str(), url.port), ("far.example", 8080));
    assert_eq!(url.path, "/REST/v1/admin/cluster_describe");
    let url = read("http://[2001:db8::1]/v1/admin/cluster_describe").expect("a URL");
    assert_eq!((url.host.as_str(), url.port), ("2001:db8::1", 80));
    for bad in [
        "https://far.example:8080/REST/v1/admin/cluster_describe",
        "file:///REST/v1/admin/cluster_describe",
        "http://far.example:8080",
        "http://far.example:8080/",
        "http://far.example:8080/latest/meta-data",
        "http://far.example:8080/x?y=/admin/cluster_describe",
        "http://far.example:8080/x#/admin/cluster_describe",
        "http://me@far.example/v1/admin/cluster_describe",
        "http://far.example:0/v1/admin/cluster_describe",
        "http://far.example:70000/v1/admin/cluster_describe",
        "http://:8080/v1/admin/cluster_describe",
        "http://[far]:8080/v1/admin/cluster_describe",
        "http://[::1]8080/v1/admin/cluster_describe",
        "http://far example/v1/admin/cluster_describe",
        "http://far/\r\nHost: x/admin/cluster_describe",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_answer_is_read_for_its_own_datacenter_only() {
    let mut own = entry("dc1-a", "1", "10.0.0.1");
    own["dc"] = json!("dc1");
    let peers = read(&[
        entry("dc2-b", "7", "10.1.0.2"),
        own,
        entry("dc2-a", "7", "fd00::1"),
    ]);
    let peers = peers.expect("it can be read");
    let seen: Vec<_> = peers
        .iter()
        .map(|peer| (peer.host.as_str(), peer.address.as_deref(), peer.token.0))
        .collect();
    assert_eq!(
        seen,
        [
            ("dc2-a.far.example", Some("fd00::1"), 7),
            ("dc2-b.far.example", Some("10.1.0.2"), 7),
        ]
    );
}

#[test]
fn an_answer_may_lack_what_can_be_known_without_it() {
    let mut bare = entry("dc2-a", "7", "10.1.0.2");
    bare["token"] = json!(7);
    for field in ["hostname", "peer_port", "zone", "port"] {
        bare.as_object_mut().expect("an object").remove(field);
    }
    let peer = read(&[bare]).expect("it can be read").remove(0);
    assert_eq!((peer.host.as_str(), peer.port), ("10.1.0.2", PORT_PEER));
    // A name alone is looked up by the nodes.
    let peer = read(&[entry("dc2-a", "7", "")]).expect("it can be read");
    assert_eq!(
        (peer[0].host.as_str(), peer[0].address.as_deref()),
        ("dc2-a.far.example", None)
    );
}

#[test]
fn an_answer_that_cannot_be_used_as_a_whole_is_none() {
    let good = || entry("dc2-a", "7", "10.1.0.2");
    let with = |field: &str, value: Value| {
        let mut entry = good();
        entry[field] = value;
        vec![entry, self::entry("dc2-b", "7", "10.1.0.3")]
    };
    for (entries, words) in [
        (vec![], "no node of datacenter dc2"),
        (vec![good(), good()], "twice"),
        (with("token", json!("4294967296")), "token"),
        (with("token", json!("-1")), "token"),
        (with("token", Value::Null), "token"),
        (with("peer_port", json!("0")), "peer_port"),
        (with("peer_port", json!("65536")), "peer_port"),
        (with("rack", json!("")), "rack"),
        (with("rack", json!("dc2-a:dc2|x")), "rack"),
        (with("rack", json!("dc2 a\n")), "rack"),
        (with("ip", json!("127.0.0.1")), "address"),
        (with("ip", json!("::ffff:169.254.169.254")), "address"),
        (with("ip", json!("0.0.0.0")), "address"),
        (with("ip", json!("224.0.0.1")), "address"),
    ] {
        let why = read(&entries).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }
    let mut nowhere = good();
    nowhere["ip"] = json!("not an address|x");
    nowhere["hostname"] = json!("neither this:8101");
    let why = read(&[nowhere]).expect_err("it has no address");
    assert!(why.contains("address") && !why.contains("neither"), "{why}");
    for body in ["", "{}", "<html>", "[[]", "null"] {
        let why = read_description(body.as_bytes(), "dc2").expect_err("no list");
        assert!(why.contains("not a JSON list"), "{body}: {why}");
    }
    let many: Vec<Value> = (0..=REMOTE_NODES_MAX)
        .map(|i| entry("dc2-a", &i.to_string(), "10.1.0.2"))
        .collect();
    assert!(read(&many[1..]).is_ok());
    assert!(read(&many).expect_err("too many").contains("more than 512"));
}

#[test]
fn every_node_is_told_what_the_other_datacenter_says_of_itself_now() {
    let mut world = following();
    answers(&mut world, &[entry("dc2-a", "7", "10.1.0.2")]);
    world.settle();
    assert_eq!(told(&world), ["10.1.0.2"]);
    // A node was added there, and a pod replaced.
    let now = [
        entry("dc2-a", "7", "10.1.0.9"),
        entry("dc2-b", "7", "10.1.0.3"),
    ];
    answers(&mut world, &now);
    world.settle();
    assert_eq!(told(&world), ["10.1.0.9", "10.1.0.3"]);
    // And removed again.
    answers(&mut world, &now[1..]);
    world.settle();
    assert_eq!(told(&world), ["10.1.0.3"]);
}

#[test]
fn what_was_last_known_stays_while_there_is_no_answer_and_the_operator_is_another() {
    let mut world = following();
    answers(&mut world, &[entry("dc2-a", "7", "10.1.0.2")]);
    world.settle();
    let trouble = Some("no answer within 5 s".to_owned());
    // A new operator knows the status only.
    for described in [
        None,
        Some(Described {
            nodes: None,
            trouble: trouble.clone(),
        }),
    ] {
        world.observed.described.clear();
        if let Some(described) = described {
            world.observed.described.insert("dc2".to_owned(), described);
        }
        assert!(
            world.plan().actions.is_empty(),
            "nobody is told anything new"
        );
        world.settle();
        assert_eq!(told(&world), ["10.1.0.2"]);
    }
    let status = world.resource.status.clone().expect("it was published");
    let remote = &status.remote_datacenters[0];
    assert_eq!(
        remote.nodes[0].address.as_deref(),
        Some("10.1.0.2"),
        "it is kept"
    );
    assert_eq!(Some(remote.message.clone()), trouble);
    let known = condition(&status.conditions, ConditionType::RemotesKnown).expect("it is set");
    assert_eq!(
        (known.status.as_str(), known.reason.as_str()),
        ("False", "RemoteUnanswered")
    );
    assert!(known.message.contains("no answer within 5 s"), "{known:?}");
    assert_eq!(world.reasons(), ["RemoteUnanswered"]);
    let ready = condition(&status.conditions, ConditionType::Ready).expect("it is set");
    assert_eq!(ready.status, "True", "the ring itself is as declared");

    answers(&mut world, &[entry("dc2-a", "7", "10.1.0.2")]);
    world.settle();
    let status = world.resource.status.clone().expect("it was published");
    let known = condition(&status.conditions, ConditionType::RemotesKnown).expect("it is set");
    assert_eq!(known.status, "True");
    assert!(world.reasons().is_empty());
    // Without a URL nobody is asked, and nothing is said.
    world.edit(|spec| spec.remote_datacenters.clear());
    world.settle();
    let status = world.resource.status.clone().expect("it was published");
    assert!(status.remote_datacenters.is_empty());
    assert!(condition(&status.conditions, ConditionType::RemotesKnown).is_none());
}

#[test]
fn nobody_is_told_to_forget_a_datacenter_that_was_not_asked_yet() {
    let mut world = following();
    answers(&mut world, &[entry("dc2-a", "7", "10.1.0.2")]);
    world.settle();
    // A restored resource has no status, and the operator is a new one.
    world.observed.described.clear();
    let status = world.resource.status.as_mut().expect("it was published");
    status.remote_datacenters.clear();
    let plan = world.plan();
    let assigns = |plan: &crate::plan::Plan| {
        let actions = plan.actions.iter();
        actions
            .filter(|planned| matches!(planned.action, Action::Assign { .. }))
            .count()
    };
    assert_eq!(assigns(&plan), 0);
    assert_eq!(world.reasons(), ["RemoteUnanswered"]);
    // Asked in vain, the ring goes on alone: it may be the first of the two.
    let trouble = Some("cannot connect".to_owned());
    let described = Described {
        nodes: None,
        trouble,
    };
    world.observed.described.insert("dc2".to_owned(), described);
    assert_eq!(assigns(&world.plan()), 3);
}

#[test]
fn a_new_ring_begins_to_serve_while_the_other_one_is_not_there() {
    let mut made = resource(3, 1);
    made.spec.remote_datacenters = vec![RemoteDatacenter {
        name: "dc2".to_owned(),
        describe: Some(URL.to_owned()),
        seeds: Vec::new(),
    }];
    let mut world = World::new(made);
    let described = Described {
        nodes: None,
        trouble: Some("far.example has no address".to_owned()),
    };
    world.observed.described.insert("dc2".to_owned(), described);
    world.settle();
    let status = world.resource.status.as_ref().expect("it was published");
    assert!(status.served_since.is_some());
}

#[test]
fn nobody_copies_from_afar_whatever_the_other_datacenter_says() {
    let mut world = following();
    let token = world.cluster().tokens[0].0.to_string();
    answers(&mut world, &[entry("dc2-a", &token, "10.1.0.2")]);
    world.settle();
    for name in ["ring-a-0", "ring-b-0"] {
        world.kill(name);
    }
    for _ in 0..5 {
        world.pass();
    }
    for life in world.lives.values() {
        let desired = life.desired.as_ref().expect("it was told");
        let names: Vec<&str> = desired.donors.iter().map(|d| d.name.as_str()).collect();
        assert!(
            names.iter().all(|name| name.starts_with("ring-")),
            "{names:?}"
        );
    }
}

#[test]
fn a_spec_names_seeds_or_a_url_and_the_url_must_be_one() {
    let mut world = World::settled(3, 1);
    for (describe, seeds, field) in [
        (None, vec![], "spec.remoteDatacenters[0]"),
        (
            Some(URL),
            vec!["h:8101:r:dc2:1".to_owned()],
            "spec.remoteDatacenters[0]",
        ),
        (
            Some("http://h/x"),
            vec![],
            "spec.remoteDatacenters[0].describe",
        ),
    ] {
        world.resource.spec.remote_datacenters = vec![RemoteDatacenter {
            name: "dc2".to_owned(),
            describe: describe.map(str::to_owned),
            seeds,
        }];
        let found = Cluster::new(&world.resource, &world.defaults).expect_err(field);
        assert_eq!(found.0[0].field, field);
    }
}
