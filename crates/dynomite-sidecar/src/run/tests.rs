//! The driver against a made-up pod that speaks the real protocols.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{FINDING_SETTING_REFUSED, Grant, NodeDesired, NodePhase, ProofKind};
use dynomite_lifecycle::{Refusal, Word};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::donor::Reach;
use super::driver::{Beside, Driver};
use super::fakes::Fakes;
use crate::compare::Comparer;
use crate::fixture;
use crate::secure::{Client, Credentials};
use crate::shared::{INPUT_QUEUE, Input, ReplicationAsk, Site, View};
use crate::snapshot::Desk;

/// Longer than anything takes here, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A node whose files all lie in `directory`.
pub(crate) fn site_in(directory: &Path) -> Site {
    let site = Site {
        run_dir: directory.join("run"),
        data_dir: directory.join("data"),
        tls_dir: directory.join("tls"),
        ..fixture::site()
    };
    super::disk::prepare(&site).expect("directories can be made");
    site
}

/// A node under a running driver.
struct Node {
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    driver: JoinHandle<()>,
}

impl Node {
    fn start(site: &Site) -> Self {
        let (inputs, heard) = mpsc::channel(INPUT_QUEUE);
        let client = Client::new(Credentials::watch(site.tls_dir.clone()));
        let reach = Reach {
            client: client.clone(),
            gate: Arc::default(),
        };
        let site = Arc::new(site.clone());
        let desk = Arc::new(Desk::new(Arc::clone(&site)).expect("a thread can be had"));
        let comparer = Arc::new(Comparer::new(Arc::clone(&site), client));
        let beside = Beside { desk, comparer };
        let driver = Driver::new(site, heard, &inputs, reach, beside);
        Self {
            view: driver.view(),
            inputs,
            driver: tokio::spawn(driver.run()),
        }
    }

    async fn desire(&self, desired: &NodeDesired) -> Result<NodePhase, Refusal> {
        let (answer, answered) = oneshot::channel();
        let input = Input::Desired(Box::new(desired.clone()), answer);
        self.inputs.send(input).await.expect("the driver listens");
        match answered.await.expect("the driver answers") {
            Ok(report) => Ok(report.phase),
            Err(refused) => Err(refused.why),
        }
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&View) -> bool) -> View {
        let wait = async {
            let view = self.view.wait_for(holds).await;
            view.expect("the driver lives").clone()
        };
        if let Ok(view) = tokio::time::timeout(PATIENCE, wait).await {
            return view;
        }
        panic!("never: {what}; now {:#?}", self.view.borrow().report)
    }

    /// The sidecar crashes.
    async fn crash(self) {
        self.driver.abort();
        let _ = self.driver.await;
    }
}

fn bootstrap() -> NodeDesired {
    NodeDesired {
        grant: Some(Grant::Bootstrap {
            pod_uid: "uid".to_owned(),
        }),
        ..fixture::desired()
    }
}

#[tokio::test]
async fn a_node_lives() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut site = site_in(directory.path());
    let fakes = Fakes::start(&mut site).await;
    let mut node = Node::start(&site);
    let view = node.until("shown", |_| true).await;
    assert!(!view.started && !view.ready);

    let desired = bootstrap();
    assert_eq!(node.desire(&desired).await, Ok(NodePhase::Starting));
    assert!(site.store_conf().exists() && site.engine_conf().exists());
    let again = node.desire(&desired).await;
    assert!(
        matches!(again, Err(Refusal::Generation { .. })),
        "{again:?}"
    );
    let view = node.until("ready", |view| view.ready).await;
    assert!(view.started && view.donates);
    assert_eq!(view.report.proof.kind, ProofKind::Bootstrap);
    assert_eq!(view.store_socket, site.store_socket());

    // Live settings reach the store.
    let mut desired = desired;
    desired.generation = 2;
    desired.store.max_memory_bytes = 1 << 20;
    node.desire(&desired).await.expect("follows");
    node.until("set", |_| {
        fakes.pod().settings.get("maxmemory").map(String::as_str) == Some("1048576")
    })
    .await;

    // A new sidecar finds the node as it was.
    node.crash().await;
    let mut node = Node::start(&site);
    let view = node.until("ready again", |view| view.ready).await;
    assert_eq!(view.report.proof.kind, ProofKind::Bootstrap);
    assert!(fakes.pod().engine_told.is_empty(), "nobody was disturbed");

    // The store dies: out at once, and back only as a copy of the donor.
    fakes.kill_store();
    let view = node.until("out", |view| !view.ready).await;
    assert!(!view.donates);
    node.inputs
        .send(Input::NotReadySeen)
        .await
        .expect("the driver listens");
    let view = node.until("warm", |view| view.ready).await;
    assert_eq!(view.report.proof.kind, ProofKind::WarmUp);
    assert_eq!(view.report.store.map(|store| store.keys), Some(3));
    assert_eq!(
        fakes.pod().engine_told,
        ["STANDBY", "WRITES_ONLY", "RESUMING", "NORMAL"]
    );

    // It leaves, and both processes with it.
    node.inputs
        .send(Input::Terminate)
        .await
        .expect("the driver listens");
    tokio::time::timeout(PATIENCE, node.driver)
        .await
        .expect("it ends")
        .expect("in good order");
    assert!(!fakes.pod().store_runs && !fakes.pod().engine_runs);
}

#[tokio::test]
async fn a_process_that_a_person_stopped_stays_stopped_through_a_crash_of_the_sidecar() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut site = site_in(directory.path());
    let fakes = Fakes::start(&mut site).await;
    let mut node = Node::start(&site);
    node.desire(&bootstrap()).await.expect("the first");
    node.until("ready", |view| view.ready).await;
    let tell = async |node: &Node, word| {
        let (answer, answered) = oneshot::channel();
        let input = Input::Told(word, "dynomite-admin".to_owned(), answer);
        node.inputs.send(input).await.expect("the driver listens");
        answered.await.expect("the driver answers")
    };
    assert_eq!(tell(&node, Word::StopEngine).await, Ok(()));
    // What was answered is on disk: it may crash at once.
    node.crash().await;
    let mut node = Node::start(&site);
    let view = node
        .until("stopped", |view| {
            view.report.phase == NodePhase::Held && !fakes.pod().engine_runs
        })
        .await;
    assert!(fakes.pod().store_runs);
    let message = &view.report.message;
    assert!(message.contains("stop of dynomite-admin"), "{message}");
    assert_eq!(tell(&node, Word::StartEngine).await, Ok(()));
    let view = node.until("ready", |view| view.ready).await;
    // Others may have written meanwhile.
    assert_eq!(view.report.proof.kind, ProofKind::WarmUp);
}

#[tokio::test]
async fn settings_that_the_store_refuses_are_told_apart_and_left_out_of_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut site = site_in(directory.path());
    let fakes = Fakes::start(&mut site).await;
    let mut node = Node::start(&site);
    let mut desired = bootstrap();
    node.desire(&desired).await.expect("is taken");
    node.until("ready", |view| view.ready).await;
    desired.generation = 2;
    let settings = [
        ("maxmemory-polcy", "allkeys-lru"),
        ("hz", "often"),
        ("databases", "2"),
        ("maxclients", "100"),
    ];
    desired.store.settings = settings.map(|(k, v)| (k.into(), v.into())).into();
    node.desire(&desired).await.expect("is taken");
    let told = |view: &View| {
        let found = view.report.findings.iter();
        let mut found = found.filter(|finding| finding.reason == FINDING_SETTING_REFUSED);
        found.next().map(|finding| finding.message.clone())
    };
    let all = |view: &View| told(view).is_some_and(|t| t.contains("polcy") && t.contains("hz"));
    let view = node.until("told", all).await;
    let message = told(&view).unwrap_or_default();
    assert!(message.contains("does not know it"), "{message}");
    assert!(message.contains("into an integer"), "{message}");
    assert!(!message.contains("databases"), "{message}");
    let view = node
        .until("the rest", |view| {
            view.report.restart_required == ["store.databases"]
        })
        .await;
    assert!(view.ready);
    assert!(fakes.pod().settings.contains_key("maxclients"));
    let file = std::fs::read_to_string(site.store_conf()).expect("there is a file");
    assert!(!file.contains("polcy") && !file.contains("often"), "{file}");
    assert!(file.contains("databases 2"), "{file}");
    node.driver.abort();
}

#[tokio::test]
async fn a_store_without_room_for_a_fork_is_not_copied() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut site = site_in(directory.path());
    let fakes = Fakes::start(&mut site).await;
    fakes.pod().used_memory = 100;
    let limit = site.run_dir.join("launch/store.memory");
    std::fs::write(&limit, "120").expect("can be written");
    let mut node = Node::start(&site);
    node.desire(&bootstrap()).await.expect("is taken");
    node.until("ready", |view| view.ready).await;
    let asks = async |peer: &str| {
        let (answer, answered) = oneshot::channel();
        let ask = ReplicationAsk {
            node: peer.to_owned(),
            cluster_uid: "cluster".to_owned(),
            token: fixture::desired().node.token,
        };
        let input = Input::Replication(ask, answer);
        node.inputs.send(input).await.expect("the driver listens");
        answered.await.expect("the driver answers")
    };
    let why = asks("b").await.expect_err("there is no room");
    assert!(why.contains("100 of 120 bytes"), "{why}");
    std::fs::write(&limit, "125").expect("can be written");
    assert_eq!(asks("b").await, Ok(()));
    std::fs::write(&limit, "120").expect("can be written");
    assert_eq!(asks("b").await, Ok(()), "its copy has forked already");
    assert!(asks("c").await.is_err());
    node.driver.abort();
}
