//! What a ring survives: killed processes and pods, a zone cut off, no operator and no API server.
//!
//! All tests share one ring, which must be Ready again after each of them.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::harm::{self, CutOff, ENGINE, NoApiServer, STORE};
use dynomite_e2e::{Cluster, EndpointWatch, Load, Output, Ring, SharedRing, Tally, long, wait_for};

const NAMESPACE: &str = "e2e-faults";
const KEYS: &str = "2000";
/// Within what time a node that cannot serve leaves the endpoints.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(3);
/// Within what time a node that lost a process, or its pod, serves again.
const BACK_WITHIN: Duration = Duration::from_mins(1);

/// Within what time a node has a fresh pod and volume, and all data.
const REPLACED_WITHIN: Duration = Duration::from_mins(3);

/// The ring all tests share, filled with keys.
fn fixture() -> Result<&'static SharedRing> {
    static RING: OnceLock<SharedRing> = OnceLock::new();
    SharedRing::get(&RING, NAMESPACE, KEYS)
}

/// A writer through every rack, and a reader at the node that is harmed.
struct Witnesses {
    writer: Load,
    reader: Load,
}

impl Witnesses {
    fn of(ring: &Ring, victim: &str, name: &str) -> Result<Self> {
        let targets = ring.rack_targets()?.join(",");
        let node = format!(
            "{victim}.{}-nodes.{}.svc.cluster.local:8102",
            ring.name,
            ring.namespace()
        );
        Ok(Self {
            writer: Load::hammer(&targets, name)?,
            reader: Load::start(&["watch", "--target", &node, "--keys", KEYS])?,
        })
    }

    /// No acknowledged write is lost, and the node never gave a wrong answer.
    fn judge(self) -> Result<Tally> {
        let read = self.reader.stop()?;
        assert_eq!(
            read.wrong, 0,
            "the node answered wrongly: {:?}",
            read.examples
        );
        assert!(read.right > 0, "the node was never read");
        let wrote = self.writer.stop()?;
        assert_eq!(
            wrote.lost, 0,
            "acknowledged writes are lost: {:?}",
            wrote.examples
        );
        assert!(
            wrote.acknowledged > 100,
            "hardly anything was written: {wrote:?}"
        );
        Ok(wrote)
    }
}

/// Harms a node under load; gives the time until it left the endpoints.
fn harmed(victim: &str, name: &str, harm: impl FnOnce(&Ring) -> Result<()>) -> Result<Duration> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let token = ring.tokens()?.get(victim).copied();
    let witnesses = Witnesses::of(&ring, victim, name)?;
    let mut endpoints = EndpointWatch::start(
        &fixture.cluster,
        ring.namespace(),
        &ring.name,
        victim,
        BACK_WITHIN,
    )?;
    harm(&ring)?;
    let begin = Instant::now();
    let seen = |at: Instant| at.saturating_duration_since(begin);
    let withdrawn = seen(endpoints.wait(victim, false, WITHDRAWN_WITHIN)?);
    let back = seen(endpoints.wait(victim, true, BACK_WITHIN)?);
    ring.wait_ready()?;
    let wrote = witnesses.judge()?;
    assert_eq!(
        wrote.failed, 0,
        "writes failed on every rack: {:?}",
        wrote.examples
    );
    assert_eq!(
        ring.tokens()?.get(victim).copied(),
        token,
        "the node keeps its token"
    );
    same_keys(&ring, victim)?;
    println!(
        "{name}: out of the endpoints after {:.1} s, back after {:.1} s, {} writes, {} of them by a second try",
        withdrawn.as_secs_f64(),
        back.as_secs_f64(),
        wrote.acknowledged,
        wrote.retried
    );
    Ok(withdrawn)
}

/// Same-token nodes hold the same number of keys.
fn same_keys(ring: &Ring, victim: &str) -> Result<()> {
    let ordinal = victim.rsplit('-').next().unwrap_or_default();
    wait_for(
        "same-token nodes to hold the same keys",
        Duration::from_secs(10),
        || {
            let mut counts = Vec::new();
            for rack in ["dc1-a", "dc1-b", "dc1-c"] {
                let pod = format!("ring-{rack}-{ordinal}");
                counts.push(ring.redis_cli(&pod, &["dbsize"])?);
            }
            let same = counts.iter().all(|count| count == &counts[0]);
            Ok(if same {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            })
        },
    )
}

#[test]
fn killed_store_leaves_the_endpoints_and_returns_warm() -> Result<()> {
    harmed("ring-dc1-a-0", "store", |ring| {
        harm::kill(&ring.pod_uids()?["ring-dc1-a-0"], STORE)
    })
    .map(drop)
}

#[test]
fn killed_engine_leaves_the_endpoints_and_returns_warm() -> Result<()> {
    harmed("ring-dc1-b-1", "engine", |ring| {
        harm::kill(&ring.pod_uids()?["ring-dc1-b-1"], ENGINE)
    })
    .map(drop)
}

#[test]
fn killed_pod_leaves_the_endpoints_and_returns_warm() -> Result<()> {
    let fixture = fixture()?;
    let victim = "ring-dc1-c-0";
    let before = fixture.ring()?.pod_uids()?[victim].clone();
    harmed(victim, "pod", |ring| {
        let args = [
            "delete",
            "pod",
            victim,
            "-n",
            ring.namespace(),
            "--grace-period=0",
            "--force",
            "--wait=false",
        ];
        fixture.cluster.kubectl(&args).map(drop)
    })?;
    assert_ne!(
        fixture.ring()?.pod_uids()?[victim],
        before,
        "the pod is another one"
    );
    Ok(())
}

#[test]
fn killed_sidecar_does_not_take_its_node_out() -> Result<()> {
    harmed_sidecar("KILL")
}

#[test]
fn hung_sidecar_does_not_take_its_node_out() -> Result<()> {
    harmed_sidecar("STOP")
}

/// A sidecar gets a signal; another takes its place, and Kubernetes sees nothing of it.
fn harmed_sidecar(signal: &str) -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let victim = "ring-dc1-a-1";
    let uid = ring.pod_uids()?[victim].clone();
    let resident = harm::resident_kib(harm::sidecar(&uid)?)?;
    println!("the sidecar has {resident} KiB resident");
    assert!(
        resident < 12 * 1024,
        "the sidecar has {resident} KiB resident"
    );
    let restarts = restarts(&ring, victim)?;
    let transitions = |ring: &Ring| -> Result<serde_json::Value> {
        let pods = ring.pods()?;
        let pod = pods.iter().find(|p| p["metadata"]["name"] == victim);
        let conditions = pod.and_then(|pod| pod["status"]["conditions"].as_array());
        let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
        Ok(ready.context("the pod has the condition")?["lastTransitionTime"].clone())
    };
    let before = transitions(&ring)?;
    harm::replace_sidecar(&uid, signal)?;
    let target = format!("{}:8080", ring.address(victim)?);
    Load::run(&[
        "probe",
        "--target",
        &target,
        "--path",
        "/readyz",
        "--seconds",
        "10",
    ])?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?[victim], uid);
    // A crash takes the probe along that it was answering; a hang takes none.
    if signal == "STOP" {
        assert_eq!(
            transitions(&ring)?,
            before,
            "its pod was ready all the time"
        );
    }
    assert_eq!(
        self::restarts(&ring, victim)?,
        restarts,
        "no container was restarted"
    );
    Ok(())
}

fn restarts(ring: &Ring, pod: &str) -> Result<u64> {
    let pods = ring.pods()?;
    let pod = pods
        .iter()
        .find(|p| p["metadata"]["name"] == pod)
        .context("the pod is there")?;
    let of = |list: &str| {
        let all = pod["status"][list].as_array().cloned().unwrap_or_default();
        all.iter()
            .filter_map(|c| c["restartCount"].as_u64())
            .sum::<u64>()
    };
    Ok(of("containerStatuses") + of("initContainerStatuses"))
}

#[test]
fn zone_cut_off_leaves_two_that_serve_and_comes_back() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let uids = ring.pod_uids()?;
    let targets = ring.rack_targets()?[..2].join(",");
    let writer = Load::hammer(&targets, "zone")?;
    {
        let _cut = CutOff::node("node3")?;
        for victim in ["ring-dc1-c-0", "ring-dc1-c-1"] {
            // Kubernetes takes them out, when it has noticed: its controllers begin to count anew
            // when they have started again after an outage of the API server, as another test's.
            ring.wait_endpoint(victim, false, Duration::from_mins(2))?;
        }
        for target in &ring.rack_targets()?[..2] {
            let read = Load::run(&["verify", "--target", target, "--keys", KEYS])?;
            assert_eq!(read.wrong, 0, "through {target}: {:?}", read.examples);
        }
        let (available, reason, _) = ring.condition("Available")?;
        assert_eq!(available, "True", "two racks are a quorum: {reason}");
    }
    ring.wait_ready()?;
    let wrote = writer.stop()?;
    assert_eq!((wrote.lost, wrote.failed), (0, 0), "{:?}", wrote.examples);
    assert_eq!(ring.pod_uids()?, uids, "no pod was restarted");
    Ok(())
}

/// UID of a node's volume claim.
fn claim(fixture: &SharedRing, pod: &str) -> Result<String> {
    let claim = format!("data-{pod}");
    fixture.kubectl(&["get", "pvc", &claim, "-o", "jsonpath={.metadata.uid}"])
}

/// Does something after which nodes have to be replaced, under load: fresh pods and volumes, the same
/// tokens and keys, and no write that is lost.
fn replaced(victims: &[&str], name: &str, harm: impl FnOnce(&Ring) -> Result<()>) -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let (tokens, uids) = (ring.tokens()?, ring.pod_uids()?);
    let mut claims = Vec::new();
    for victim in victims {
        claims.push(claim(fixture, victim)?);
    }
    let targets = ring.rack_targets()?.join(",");
    let writer = Load::hammer(&targets, name)?;
    let begin = Instant::now();
    harm(&ring)?;
    wait_for("fresh pods and volumes", REPLACED_WITHIN, || {
        let now = ring.pod_uids()?;
        for (victim, old) in victims.iter().zip(&claims) {
            let same = now.get(*victim).is_none_or(|uid| *uid == uids[*victim]);
            if same || claim(fixture, victim)? == *old {
                return Ok(Err(format!("{victim} has its old pod or volume")));
            }
        }
        Ok(Ok(()))
    })
    .map_err(|error| error.context(ring.describe()))?;
    ring.wait_settled(6, REPLACED_WITHIN)?;
    println!(
        "{name}: replaced after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let wrote = writer.stop()?;
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    assert_eq!(ring.tokens()?, tokens, "every node keeps its token");
    for (pod, uid) in ring.pod_uids()? {
        let same = uids.get(&pod) == Some(&uid);
        assert_eq!(same, !victims.contains(&pod.as_str()), "{pod}");
    }
    victims
        .iter()
        .try_for_each(|victim| same_keys(&ring, victim))
}

#[test]
fn node_is_replaced_on_a_persons_word() -> Result<()> {
    let victim = "ring-dc1-b-0";
    replaced(&[victim], "replace", |ring| {
        let word = format!("dynomite.io/replace={}", ring.pod_uids()?[victim]);
        fixture()?
            .kubectl(&["annotate", "pod", victim, &word])
            .map(drop)
    })
}

#[test]
fn node_whose_volume_is_lost_is_replaced() -> Result<()> {
    if !long() {
        return Ok(());
    }
    let victim = "ring-dc1-a-1";
    replaced(&[victim], "lost", |_| {
        let fixture = fixture()?;
        let claim = format!("data-{victim}");
        let volume =
            fixture.kubectl(&["get", "pvc", &claim, "-o", "jsonpath={.spec.volumeName}"])?;
        fixture.kubectl(&["delete", "pv", &volume, "--wait=false"])?;
        // As when somebody has removed it behind the back of what protects it.
        let bare = r#"{"metadata":{"finalizers":null}}"#;
        fixture.kubectl(&["patch", "pv", &volume, "--type=merge", "-p", bare])?;
        Ok(())
    })
}

/// A Kubernetes node that is powered off, and tainted as out of service, until this is dropped.
struct Gone(&'static str);

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl Gone {
    fn node(cluster: &Cluster, name: &'static str) -> Result<Self> {
        harm::cluster(&["node", name, "stop"])?;
        let gone = Self(name);
        let taint = format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute");
        cluster.kubectl(&["taint", "node", name, &taint])?;
        Ok(gone)
    }

    fn back(self, cluster: &Cluster) -> Result<()> {
        let taint = format!("{OUT_OF_SERVICE}-");
        cluster
            .kubectl(&["taint", "node", self.0, &taint])
            .map(drop)
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Err(error) = harm::cluster(&["node", self.0, "start"]) {
            eprintln!("node {} could not be started again: {error:#}", self.0);
        }
    }
}

#[test]
fn nodes_of_a_machine_that_is_gone_are_replaced() -> Result<()> {
    // Kubernetes takes its time to give a machine up.
    if !long() {
        return Ok(());
    }
    let victims = ["ring-dc1-c-0", "ring-dc1-c-1"];
    replaced(&victims, "machine", |ring| {
        let cluster = &fixture()?.cluster;
        let gone = Gone::node(cluster, "node3")?;
        ring.wait_unready("Unschedulable", "dc1-c", REPLACED_WITHIN)?;
        assert_eq!(
            ring.condition("Available")?.0,
            "True",
            "two racks are a quorum"
        );
        gone.back(cluster)
    })
}

/// Asks for a pod's eviction, as a drain does.
fn evict(fixture: &SharedRing, pod: &str) -> Result<Output> {
    let namespace = &fixture.namespace.name;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let eviction = serde_json::json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    });
    let args = ["create", "--raw", &path, "-f", "-"];
    fixture
        .cluster
        .try_kubectl(&args, Some(&eviction.to_string()))
}

#[test]
fn eviction_takes_one_replica_at_a_time() -> Result<()> {
    let fixture = fixture()?;
    let (victim, replica) = ("ring-dc1-c-1", "ring-dc1-a-1");
    harmed(victim, "evict", |_| {
        let evicted = evict(fixture, victim)?;
        ensure!(evicted.success, "{}", evicted.stderr);
        let refused = evict(fixture, replica)?;
        ensure!(
            !refused.success && refused.stderr.contains("disruption budget"),
            "a second replica may go: {}{}",
            refused.stdout,
            refused.stderr
        );
        Ok(())
    })
    .map(drop)
}

/// A Kubernetes node that takes no pods until this is dropped.
struct Cordoned<'a>(&'a SharedRing, &'static str);

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.kubectl(&["uncordon", self.1]) {
            eprintln!("{} is still cordoned: {error:#}", self.1);
        }
    }
}

#[test]
fn drained_zone_leaves_the_others_serving_and_returns_warm() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    let targets = ring.rack_targets()?[..2].join(",");
    let writer = Load::hammer(&targets, "drain")?;
    {
        let _cordoned = Cordoned(fixture, "node3");
        // Our own pods only: the rest of the zone serves other tests.
        let drain = [
            "drain",
            "node3",
            "--pod-selector=app.kubernetes.io/instance=ring",
            "--delete-emptydir-data",
            "--timeout=60s",
        ];
        // Its two nodes are of different tokens: the budgets let them go together.
        fixture.cluster.kubectl(&drain)?;
        let names = ring.endpoints(&ring.name)?;
        let left = names.iter().any(|name| name.contains("dc1-c"));
        assert!(!left && names.len() == 4, "{}", ring.describe());
        assert_eq!(ring.condition("Available")?.0, "True");
        for target in &ring.rack_targets()?[..2] {
            let read = Load::run(&["verify", "--target", target, "--keys", KEYS])?;
            assert_eq!(read.wrong, 0, "through {target}: {:?}", read.examples);
        }
    }
    ring.wait_settled(6, Duration::from_mins(2))?;
    let wrote = writer.stop()?;
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    for (pod, uid) in ring.pod_uids()? {
        let moved = before.get(&pod) != Some(&uid);
        assert!(!moved || pod.contains("dc1-c"), "{pod} was restarted");
    }
    same_keys(&ring, "ring-dc1-c-0")?;
    same_keys(&ring, "ring-dc1-c-1")
}

#[test]
fn ring_lives_without_operator_and_api_server() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let uids = ring.pod_uids()?;
    let victim = "ring-dc1-b-0";
    let address = ring.address(victim)?;
    let long = dynomite_e2e::long();
    let away = Duration::from_secs(if long { 120 } else { 20 });
    fixture.operator.scale(0)?;
    let witnesses = Witnesses::of(&ring, victim, "away")?;
    let begin = Instant::now();
    {
        let _stopped = NoApiServer::begin()?;
        harm::kill(&uids[victim], STORE)?;
        let target = format!("{address}:8080");
        Load::run(&[
            "probe",
            "--target",
            &target,
            "--path",
            "/readyz",
            "--seconds",
            "60",
        ])?;
        println!(
            "the node was back after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        // The API server stays away for the whole time, with the load going on.
        wait_for("the time without an API server to pass", away * 2, || {
            Ok(if begin.elapsed() >= away {
                Ok(())
            } else {
                Err("not yet".to_owned())
            })
        })?;
    }
    let wrote = witnesses.judge()?;
    assert_eq!(wrote.failed, 0, "{:?}", wrote.examples);
    wait_for("the API server", Duration::from_mins(1), || {
        ring.pods().map(|_| Ok(()))
    })?;
    fixture.operator.scale(1)?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, uids, "no pod was restarted");
    Ok(())
}

#[test]
fn zz_the_namespace_goes_away() -> Result<()> {
    let fixture = fixture()?;
    fixture.namespace.delete(Duration::from_mins(2))
}
