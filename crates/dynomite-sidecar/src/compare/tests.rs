//! Real stores behind real sidecars' mutual-TLS ports, whose data differs.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Instant;

use dynomite_api::contract::{CN_NODE, Donor};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::fixture::store::Store;
use crate::fixture::{self, DOMAIN};
use crate::secure::tests::Authority;
use crate::secure::{self, Credentials};
use crate::shared::Ports;
use crate::snapshot::Desk;

const PATIENCE: Duration = Duration::from_mins(2);
const SETTLE: Duration = Duration::from_millis(400);

/// Encodings that no store chooses by itself for small values.
const OTHER_ENCODINGS: [&str; 8] = [
    "--hash-max-ziplist-entries",
    "1",
    "--zset-max-ziplist-entries",
    "1",
    "--set-max-intset-entries",
    "1",
    "--list-max-ziplist-size",
    "1",
];

/// One replica: a store and what of its sidecar the comparison needs.
struct Replica {
    store: Store,
    comparer: Arc<Comparer>,
    view: watch::Sender<View>,
    node: Donor,
    _directory: TempDir,
}

/// The replicas of a token, in the order in which their values count.
struct Replicas(Vec<Replica>);

impl Replicas {
    fn new(stores: Vec<Store>) -> Self {
        let authority = Authority::new();
        let replica = |(at, store)| Replica::new(&authority, at, store);
        Self(stores.into_iter().enumerate().map(replica).collect())
    }

    /// The same data in each, in different encodings.
    fn filled(server: &Path, count: usize) -> Self {
        let more = |at: usize| if at == 1 { &OTHER_ENCODINGS[..] } else { &[] };
        let stores: Vec<Store> = (0..count)
            .map(|at| Store::start(server, more(at)))
            .collect();
        stores.iter().for_each(Store::fill);
        Self::new(stores)
    }

    /// Orders one more comparison of all, led by the first.
    fn order(&self, round: u64, repair: bool) {
        let order = CompareOrder {
            pod_uid: "uid".to_owned(),
            round,
            basis: "basis".to_owned(),
            leader: self.0[0].node.name.clone(),
            replicas: self.0.iter().map(|replica| replica.node.clone()).collect(),
            repair,
        };
        for replica in &self.0 {
            replica.view.send_modify(|view| {
                let desired = view.desired.as_deref().expect("it has one");
                view.desired = Some(Arc::new(NodeDesired {
                    compare: Some(order.clone()),
                    ..desired.clone()
                }));
            });
        }
    }

    async fn ended(&self, round: u64) -> CompareRound {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.0[0].comparer.state().last.clone();
            if let Some(last) = last.filter(|last| last.round == round)
                && last.finished_at.is_some()
            {
                return last;
            }
            assert!(Instant::now() < deadline, "round {round} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn compare(&self, round: u64, repair: bool) -> CompareTally {
        self.order(round, repair);
        let last = self.ended(round).await;
        assert_eq!(last.broken, None);
        last.found
    }

    /// Writes into one store, past engine and numbers.
    fn at(&self, place: usize, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let _: redis::Value = self.0[place].store.ask(&words);
    }

    fn get(&self, place: usize, key: &str) -> Option<String> {
        self.0[place].store.ask(&[b"GET", key.as_bytes()])
    }

    fn assert_equal(&self) {
        let digest = |replica: &Replica| -> String { replica.store.ask(&[b"DEBUG", b"DIGEST"]) };
        let first = self.0[0].store.contents();
        for other in &self.0[1..] {
            assert!(other.store.contents() == first, "they differ");
            assert_eq!(digest(other), digest(&self.0[0]));
        }
    }
}

impl Replica {
    fn new(authority: &Authority, at: usize, store: Store) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        authority.files(path, CN_NODE);
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("is bound").port();
        drop(free);
        let name = format!("ring-dc1-{at}-0");
        let site = Arc::new(Site {
            run_dir: path.to_owned(),
            data_dir: path.to_owned(),
            tls_dir: path.to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports {
                secure: port,
                ..Ports::default()
            },
            node: name.clone(),
            ..fixture::site()
        });
        let socket = store.directory().join("socket");
        std::os::unix::fs::symlink(socket, site.store_socket()).expect("can be linked");
        let mut desired = fixture::desired();
        desired.node.name.clone_from(&name);
        desired.engine.timeout_ms = 1;
        let mut view = fixture::view();
        view.report.node.clone_from(&name);
        view.desired = Some(Arc::new(desired));
        let (view, shown) = watch::channel(view);
        let credentials = Credentials::watch(path.to_owned());
        let client = Client::new(credentials.clone());
        let comparer = Arc::new(Comparer {
            settle: SETTLE,
            ..Comparer::new(Arc::clone(&site), client)
        });
        tokio::spawn(Arc::clone(&comparer).attend(shown.clone()));
        let (inputs, _) = mpsc::channel(1);
        let asked = secure::Asked {
            desk: Arc::new(Desk::new(Arc::clone(&site)).expect("a thread can be had")),
            comparer: Arc::clone(&comparer),
        };
        tokio::spawn(async move {
            secure::serve(&site, credentials, shown, inputs, Arc::default(), asked).await
        });
        let node = Donor {
            host: format!("{name}.{DOMAIN}"),
            name,
            address: Some("127.0.0.1".to_owned()),
            port,
        };
        Self {
            store,
            comparer,
            view,
            node,
            _directory: directory,
        }
    }
}

/// A value of each type that only one replica has, and what else may differ.
fn differ(replicas: &Replicas, at: usize) {
    let key = |name: &str| format!("{name}:{at}");
    replicas.at(at, &["SET", &key("raced"), &format!("by {at}")]);
    replicas.at(at, &["APPEND", "string:150", "x"]);
    for words in [
        ["LPUSH", "list:9", "raced"],
        ["SADD", "set:9", "raced"],
        ["SADD", "integers:9", "123456789"],
        ["PFADD", "hll:9", "raced"],
    ] {
        replicas.at(at, &words);
    }
    replicas.at(at, &["HSET", "hash:9", "f1", "raced"]);
    replicas.at(at, &["ZADD", "zset:9", "0.1", "raced"]);
    replicas.at(at, &["XADD", "stream:9", "99-1", "f", "raced"]);
    replicas.at(at, &["XGROUP", "CREATE", "stream:8", "raced", "0"]);
    replicas.at(at, &["DEL", "string:151"]);
    replicas.at(at, &["PERSIST", "string:152"]);
    replicas.at(at, &["PEXPIREAT", "string:153", "4102455900000"]);
    replicas.at(at, &["RENAME", "string:154", "string:moved"]);
}

/// How many keys [`differ`] leaves different.
const DIFFERENCES: u64 = 15;

#[tokio::test]
async fn a_majority_brings_the_third_level_whatever_its_values_and_encodings() {
    for server in fixture::stores() {
        let replicas = Replicas::filled(&server, 3);
        // A question keeps its answer in the value.
        replicas.at(1, &["PFCOUNT", "hll:7"]);
        let found = replicas.compare(20, true).await;
        assert_eq!(found.different, 0, "{server:?}");
        replicas.at(0, &["PFCOUNT", "hll:7"]);
        replicas.at(2, &["PFCOUNT", "hll:7"]);
        let expected = replicas.0[0].store.contents();
        let keys = expected.len() as u64;
        let found = replicas.compare(1, true).await;
        // One value is larger than what is compared.
        assert_eq!((found.compared, found.skipped), (keys, 1), "{server:?}");
        assert_eq!((found.different, found.left), (0, 0), "{server:?}");
        for at in 0..3 {
            differ(&replicas, at);
            let found = replicas.compare(2 + at as u64, true).await;
            let want = (DIFFERENCES, DIFFERENCES, 0);
            let is = (found.different, found.repaired, found.left);
            assert_eq!(is, want, "{server:?} {at}");
            replicas.assert_equal();
            assert!(
                replicas.0[0].store.contents() == expected,
                "{server:?} {at}"
            );
            assert_eq!(replicas.0[at].comparer.state().repaired_here, DIFFERENCES);
        }
        let found = replicas.compare(9, true).await;
        assert_eq!((found.different, found.more), (0, false), "{server:?}");
    }
}

#[tokio::test]
async fn without_a_majority_the_first_value_counts_and_none_never_does() {
    for server in fixture::stores() {
        let stores = || {
            (0..3)
                .map(|_| Store::start(&server, &[]))
                .collect::<Vec<_>>()
        };
        let three = Replicas::new(stores());
        let two = Replicas::new(stores().into_iter().take(2).collect());
        for replicas in [&three, &two] {
            for at in 0..replicas.0.len() {
                replicas.at(at, &["SET", "all\0\u{e9}", &at.to_string()]);
            }
            replicas.at(1, &["SET", "second", "b"]);
            replicas.at(0, &["SET", "first", "a"]);
        }
        three.at(2, &["SET", "second", "c"]);
        three.at(1, &["SET", "first", "b"]);
        for replicas in [&three, &two] {
            let found = replicas.compare(1, true).await;
            assert_eq!((found.different, found.left), (3, 0), "{server:?}");
            replicas.assert_equal();
            for (key, value) in [("all\0\u{e9}", "0"), ("second", "b"), ("first", "a")] {
                assert_eq!(replicas.get(1, key).as_deref(), Some(value), "{key:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_being_written_is_left_alone_and_found_when_it_rests() {
    for server in fixture::stores() {
        let stores = (0..3).map(|_| Store::start(&server, &[]));
        let replicas = Replicas::new(stores.collect());
        replicas.at(1, &["SET", "counter", "1000000"]);
        replicas.order(1, true);
        let written = async {
            loop {
                for at in 0..3 {
                    replicas.at(at, &["INCR", "counter"]);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let last = tokio::select! {
            last = replicas.ended(1) => last,
            _ = written => unreachable!("it is endless"),
        };
        assert_eq!((last.found.different, last.found.repaired), (0, 0));
        let value = |at: usize| -> i64 {
            replicas
                .get(at, "counter")
                .and_then(|text| text.parse().ok())
                .expect("a number")
        };
        assert_eq!(value(1), value(0) + 1_000_000);
        let found = replicas.compare(2, true).await;
        assert_eq!((found.different, found.repaired), (1, 1));
        assert_eq!(value(1), value(0));
    }
}

#[tokio::test]
async fn differences_are_only_told_where_repair_is_off() {
    for server in fixture::stores() {
        let replicas = Replicas::filled(&server, 2);
        differ(&replicas, 1);
        let before = replicas.0[1].store.contents();
        let found = replicas.compare(1, false).await;
        let is = (found.different, found.repaired, found.left);
        assert_eq!(is, (DIFFERENCES, 0, DIFFERENCES), "{server:?}");
        assert!(replicas.0[1].store.contents() == before, "{server:?}");
    }
}

#[tokio::test]
async fn keys_that_may_have_been_evicted_are_neither_restored_nor_deleted() {
    for server in fixture::stores() {
        let more = [
            "--maxmemory",
            "100mb",
            "--maxmemory-policy",
            "allkeys-random",
        ];
        let stores = (0..3).map(|_| Store::start(&server, &more));
        let replicas = Replicas::new(stores.collect());
        replicas.at(0, &["SET", "alone", "a"]);
        replicas.at(2, &["SET", "raced", "b"]);
        replicas.at(1, &["SET", "raced", "c"]);
        let found = replicas.compare(1, true).await;
        assert_eq!((found.different, found.repaired), (1, 1), "{server:?}");
        let held = |key: &str| [0, 1, 2].map(|at| replicas.get(at, key));
        assert_eq!(held("alone"), [Some("a".to_owned()), None, None]);
        let first = Some("c".to_owned());
        assert_eq!(held("raced"), [None, first.clone(), first]);
    }
}

#[tokio::test]
async fn nobody_is_answered_outside_a_comparison() {
    for server in fixture::stores() {
        let replicas = Replicas::filled(&server, 2);
        replicas.compare(7, false).await;
        let replica = &replicas.0[1];
        let desired = replica.view.borrow().desired.clone().expect("it has one");
        let from = |cluster: &str| ReplicationAsk {
            node: "ring-dc1-0-0".to_owned(),
            cluster_uid: cluster.to_owned(),
            token: desired.node.token,
        };
        let keys = || CompareAsk::Keys {
            cursor: "0".to_owned(),
        };
        let level = || CompareAsk::Level { keys: Vec::new() };
        let many = CompareAsk::Votes {
            keys: vec![Key(b"a".to_vec()); COMPARE_KEYS_MAX + 1],
        };
        for (cluster, round, ask, answered) in [
            ("cluster", 7, keys(), true),
            ("other", 7, keys(), false),
            ("cluster", 6, keys(), false),
            ("cluster", 7, many, false),
            // This order repairs nothing.
            ("cluster", 7, level(), false),
        ] {
            let view = replica.view.subscribe();
            let question = CompareQuestion { round, ask };
            let answer = replica
                .comparer
                .answer(&view, &from(cluster), question)
                .await;
            assert_eq!(answer.is_ok(), answered, "{cluster} {round}");
        }
        let mut view = replica.view.borrow().clone();
        view.donates = false;
        let (_, view) = watch::channel(view);
        let question = CompareQuestion {
            round: 7,
            ask: keys(),
        };
        let answer = replica
            .comparer
            .answer(&view, &from("cluster"), question)
            .await;
        assert!(answer.is_err(), "its data is not proven any more");
    }
}
