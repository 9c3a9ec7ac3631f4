//! Backups into a real S3 server, and what comes back out of them.
//!
//! All tests share one ring and one server.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::data::Held;
use dynomite_e2e::operator::NAMESPACE as OPERATOR;
use dynomite_e2e::storage::{BUCKET, ENDPOINT, SECRET};
use dynomite_e2e::{
    Cluster, EndpointWatch, Namespace, ObjectStorage, Operator, Person, Ring, data, long, wait_for,
};
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-snapshots";
/// How long a backup or a restore of little data may take.
const DONE_WITHIN: Duration = Duration::from_mins(2);
/// Keys of one kind that each filling writes, besides those of every type.
const KEYS: usize = 500;

struct Fixture {
    cluster: Cluster,
    namespace: Namespace,
}

impl Fixture {
    /// Server and ring, made when they are asked for first.
    fn get() -> Result<&'static Self> {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        if let Some(fixture) = FIXTURE.get() {
            return Ok(fixture);
        }
        let cluster = Cluster::from_env()?;
        Operator::ensure(&cluster)?;
        let namespace = Namespace::create(&cluster, NAMESPACE)?;
        let fixture = FIXTURE.get_or_init(|| Self { cluster, namespace });
        ObjectStorage::start(&fixture.cluster, &fixture.namespace)?;
        Ok(fixture)
    }

    fn storage(&self) -> ObjectStorage<'_> {
        ObjectStorage::of(&self.cluster, &self.namespace)
    }

    /// A ring that may be backed up, Ready. It differs from the example in `changes`.
    fn ring(&self, name: &str, changes: &Value) -> Result<Ring<'_>> {
        let ring = Ring::manifest(&self.cluster, &self.namespace, &manifest(name, changes)?)?;
        ring.wait_ready()?;
        Ok(ring)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", NAMESPACE];
        all.extend(args);
        self.cluster.kubectl(&all)
    }

    /// Waits as a user would for the end of a backup or a restore.
    fn completed(&self, kind: &str, name: &str) -> Result<Value> {
        let what = format!("{kind}/{name}");
        let limit = format!("--timeout={}s", DONE_WITHIN.as_secs());
        let args = [
            "-n",
            NAMESPACE,
            "wait",
            "--for=condition=Completed",
            &limit,
            &what,
        ];
        let said = self.cluster.try_kubectl(&args, None)?;
        let told = || self.kubectl(&["describe", kind, name]).unwrap_or_default();
        ensure!(said.success, "{}\n{}", said.stderr, told());
        self.cluster.json(&["-n", NAMESPACE, "get", kind, name])
    }

    fn backup(&self, name: &str) -> Result<Value> {
        let object = json!({
            "apiVersion": "dynomite.io/v1alpha1",
            "kind": "DynomiteBackup",
            "metadata": {"name": name},
            "spec": {"cluster": "ring"},
        });
        self.cluster.apply(NAMESPACE, &object.to_string())?;
        self.completed("dynb", name)
    }

    /// Asks for a backup to be loaded, and waits until it is found out what it is worth.
    fn verified(&self, name: &str, expected: &str) -> Result<Value> {
        let what = format!("dynb/{name}");
        let wish = r#"{"spec":{"verify":true}}"#;
        self.kubectl(&["patch", &what, "--type", "merge", "-p", wish])?;
        let limit = format!("--timeout={}s", DONE_WITHIN.as_secs());
        let condition = format!("--for=condition=Verified={expected}");
        let args = ["-n", NAMESPACE, "wait", &condition, &limit, &what];
        let said = self.cluster.try_kubectl(&args, None)?;
        let told = || {
            self.kubectl(&["describe", "dynb", name])
                .unwrap_or_default()
        };
        ensure!(said.success, "{}\n{}", said.stderr, told());
        wait_for("the pod to be gone", Duration::from_secs(30), || {
            let pods = self.kubectl(&["get", "pods", "-o", "name"])?;
            Ok(if pods.contains("scratch") {
                Err(pods)
            } else {
                Ok(())
            })
        })?;
        self.cluster.json(&["-n", NAMESPACE, "get", "dynb", name])
    }

    /// A restore of some of the ring, or of all of it: `of` is added to its spec.
    fn restore_some(&self, name: &str, from: &Value, of: &Value) -> Result<Value> {
        let mut object = json!({
            "apiVersion": "dynomite.io/v1alpha1",
            "kind": "DynomiteRestore",
            "metadata": {"name": name},
            "spec": {"cluster": "ring", "from": from},
        });
        for (field, value) in of.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        self.cluster.apply(NAMESPACE, &object.to_string())?;
        self.completed("dynr", name)
    }

    fn restore(&self, name: &str, from: &Value) -> Result<Value> {
        self.restore_some(name, from, &json!({}))
    }

    /// Fills a ring through one of its nodes with what `seed` names.
    fn fill(&self, ring: &Ring<'_>, seed: &str) -> Result<()> {
        let pods = ring.pod_uids()?;
        let pod = pods.keys().next().context("the ring has pods")?;
        data::fill(&self.cluster, ring, pod, seed, KEYS)
    }
}

/// What each token's nodes hold, by ordinal, once all racks hold the same.
fn level(ring: &Ring<'_>) -> Result<Vec<Held>> {
    wait_for(
        "all racks to hold the same",
        Duration::from_secs(20),
        || {
            let all = data::held(ring)?;
            let mut tokens = std::collections::BTreeMap::new();
            for (pod, held) in &all {
                let ordinal = pod.rsplit('-').next().unwrap_or_default();
                tokens.entry(ordinal).or_insert_with(Vec::new).push(*held);
            }
            let same = tokens.values().all(|of| of.iter().all(|one| *one == of[0]));
            Ok(if same {
                Ok(tokens.values().map(|of| of[0]).collect())
            } else {
                Err(format!("{all:?}"))
            })
        },
    )
}

/// What the ring holds, once all racks hold the same, whatever its tokens.
fn whole(ring: &Ring<'_>) -> Result<Held> {
    Ok(level(ring)?.into_iter().sum())
}

/// The time, as a person would write it.
fn now() -> Result<String> {
    let date = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output()?;
    Ok(String::from_utf8(date.stdout)?.trim().to_owned())
}

fn manifest(name: &str, changes: &Value) -> Result<String> {
    let root = dynomite_e2e::cluster::variable("DYNOMITE_E2E_ROOT")?;
    let path = format!("{root}/deploy/examples/three-zones.yaml");
    let text = std::fs::read_to_string(&path).context(path)?;
    let mut ring: Value = serde_yaml::from_str(&text)?;
    ring["metadata"]["name"] = name.into();
    ring["spec"]["storage"]["retention"] = "Delete".into();
    ring["spec"]["backup"] = json!({
        "stores": [{
            "name": "main",
            "prefix": "team/backups",
            "s3": {"bucket": BUCKET, "endpoint": ENDPOINT, "pathStyle": true},
            "credentialsSecret": SECRET,
        }],
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        ring["spec"][field] = value.clone();
    }
    Ok(ring.to_string())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Each example is one that users can apply as it is.
#[test]
fn every_example_is_accepted() -> Result<()> {
    let fixture = Fixture::get()?;
    let root = dynomite_e2e::cluster::variable("DYNOMITE_E2E_ROOT")?;
    let path = format!("{root}/deploy/examples");
    // Where no ring of that name is, whose fixed fields the examples would change.
    let args = ["apply", "-n", "default", "--dry-run=server", "-f", &path];
    fixture.cluster.kubectl(&args)?;
    Ok(())
}

/// Backups by object and by annotation are there, with a manifest that counts every key.
#[test]
fn a_backup_that_is_completed_lies_in_the_bucket() -> Result<()> {
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    fixture.fill(&ring, "first")?;
    let keys = whole(&ring)?.keys;
    let backup = fixture.backup("first")?;
    ensure!(
        backup.pointer("/status/keys") == Some(&json!(keys)),
        "{keys} keys: {backup}"
    );
    let directory = text(&backup, "/status/directory");
    ensure!(
        directory.starts_with("team/backups/e2e-snapshots/ring/"),
        "{directory}"
    );
    let prefix = format!("{}/", directory.trim_end_matches('/'));
    let objects = fixture.storage().keys(&prefix)?;
    ensure!(
        objects.len() == 3,
        "a manifest and two snapshots: {objects:?}"
    );
    let manifest: Value =
        serde_json::from_str(&fixture.storage().read(&format!("{prefix}manifest.json"))?)?;
    ensure!(
        manifest["snapshots"].as_array().map(Vec::len) == Some(2),
        "{manifest}"
    );

    fixture.kubectl(&[
        "annotate",
        "dyn",
        "ring",
        "dynomite.io/backup=before-upgrade",
    ])?;
    wait_for(
        "the annotation to be taken off",
        Duration::from_secs(20),
        || {
            let ring = ring.get()?;
            let there = ring["metadata"]["annotations"]["dynomite.io/backup"].is_string();
            Ok(if there {
                Err("still there".to_owned())
            } else {
                Ok(())
            })
        },
    )?;
    let made: Value = fixture.cluster.json(&["-n", NAMESPACE, "get", "dynb"])?;
    let names: Vec<&str> = made["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|backup| text(backup, "/metadata/name"))
        .filter(|name| name.contains("before-upgrade"))
        .collect();
    ensure!(names.len() == 1, "one backup was asked for: {names:?}");
    fixture.completed("dynb", names[0])?;
    fixture.storage().check_canary(OPERATOR)
}

/// A store loads what was backed up, and one bit that is another one in the bucket is found.
#[test]
fn a_backup_is_proven_and_a_changed_one_is_found() -> Result<()> {
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    fixture.fill(&ring, "proven")?;
    fixture.backup("proven")?;
    let proven = fixture.verified("proven", "True")?;
    let status = &proven["status"];
    ensure!(
        status["verification"]["keys"] == status["keys"] && status["verifiedAt"].is_string(),
        "{status}"
    );
    let harmed = fixture.backup("harmed")?;
    let directory = text(&harmed, "/status/directory");
    let objects = fixture.storage().keys(directory)?;
    let object = objects.iter().find(|key| !key.ends_with("manifest.json"));
    fixture
        .storage()
        .flip(object.context("there is an object")?)?;
    let found = fixture.verified("harmed", "False")?;
    let reason = text(&found, "/status/verification/reason");
    ensure!(["Damaged", "DigestDiffers"].contains(&reason), "{found}");
    wait_for("the ring to say so", Duration::from_secs(20), || {
        let ring = ring.get()?;
        let all = ring["status"]["conditions"].as_array().cloned();
        let all = all.unwrap_or_default();
        let found = all.iter().find(|c| c["type"] == "BackupHealthy");
        let reason = found.map(|found| text(found, "/reason"));
        Ok(if reason == Some("VerificationFailed") {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })?;
    fixture.kubectl(&["delete", "dynb", "harmed"])?;
    fixture.storage().check_canary(OPERATOR)
}

/// What a node answers to the old REST call `status`.
fn rest_status(fixture: &Fixture, pod: &str) -> Result<Value> {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let path = format!("{pods}/{pod}:8080/proxy/REST/v1/admin/status");
    let text = fixture.cluster.kubectl(&["get", "--raw", &path])?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until a node says that a process of it runs, or does not.
fn wait_alive(fixture: &Fixture, pod: &str, process: &str, alive: bool) -> Result<()> {
    let what = format!("{process} of {pod} to be {alive}");
    wait_for(&what, Duration::from_secs(30), || {
        let status = rest_status(fixture, pod)?;
        Ok(if status["health"][process] == json!(alive) {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
}

/// The old REST calls: a person stops and starts a node's processes, and has the ring backed up.
#[test]
fn people_stop_start_and_back_up_by_rest() -> Result<()> {
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    fixture.fill(&ring, "rest")?;
    // Not the one that is written through.
    let pod = "ring-dc1-b-0";
    let back = Duration::from_mins(1);
    let admin = Person::with(&fixture.cluster, &ring, "admin-tls")?;
    let ok = |what: &str| -> Result<Vec<String>> {
        let (status, text) = admin.call(pod, what, true)?;
        ensure!(status == 200, "{what}: {status} {text}");
        let words: Vec<String> = serde_json::from_str(&text)?;
        ensure!(words.first().is_some_and(|word| word == "ok"), "{words:?}");
        Ok(words)
    };

    let node = Person::with(&fixture.cluster, &ring, "node-tls")?;
    for what in ["stop", "stopstorageprocess", "backup", "restore"] {
        let (status, text) = node.call(pod, what, true)?;
        ensure!(status == 403, "a node may not {what}: {status} {text}");
    }
    let nobody = admin.call(pod, "stop", false);
    ensure!(nobody.is_err(), "without a certificate: {nobody:?}");
    wait_alive(fixture, pod, "Overall", true)?;

    for _ in 0..2 {
        let words = ok("backup?name=by-rest")?;
        ensure!(words[1] == "DynomiteBackup by-rest", "{words:?}");
    }
    let backup = fixture.completed("dynb", "by-rest")?;
    let keys = whole(&ring)?.keys;
    ensure!(backup["status"]["keys"] == json!(keys), "{keys}: {backup}");
    let (status, text) = admin.call(pod, "restore?from=no-such-backup", true)?;
    ensure!(status == 409 && text.contains("DynomiteBackup"), "{text}");

    ok("stopstorageprocess")?;
    ring.wait_endpoint(pod, false, back)?;
    wait_alive(fixture, pod, "storageAlive", false)?;
    fixture.fill(&ring, "missed")?;
    let status = rest_status(fixture, pod)?;
    ensure!(
        status["health"]["storageAlive"] == json!(false),
        "it came back: {status}"
    );
    ok("startstorageprocess")?;
    ring.wait_endpoint(pod, true, back)?;
    let status = rest_status(fixture, pod)?;
    ensure!(status["warmup"]["status"] == "completed", "{status}");
    level(&ring)?;

    ok("stop")?;
    ring.wait_endpoint(pod, false, back)?;
    wait_alive(fixture, pod, "dynomiteAlive", false)?;
    ok("start")?;
    ring.wait_endpoint(pod, true, back)?;
    wait_alive(fixture, pod, "dynomiteAlive", true)?;
    ring.wait_ready()
}

/// A wrong deploy is taken back: what was written later is gone, what was deleted is there.
#[test]
fn a_ring_is_restored_in_place() -> Result<()> {
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    fixture.fill(&ring, "good")?;
    let before = level(&ring)?;
    fixture.backup("in-place")?;
    fixture.fill(&ring, "wrong")?;
    ensure!(level(&ring)? != before, "the ring has changed");
    fixture.restore("take-back", &json!({"backup": "in-place"}))?;
    ring.wait_ready()?;
    ensure!(level(&ring)? == before, "the ring holds what it held then");
    fixture.fill(&ring, "after")?;
    ensure!(level(&ring)? != before, "the ring takes writes again");
    Ok(())
}

/// What is written to a test ring is gone when it is refreshed.
fn refreshed(fixture: &Fixture, ring: &Ring<'_>, of_backup: Held) -> Result<()> {
    fixture.fill(ring, "only for a test")?;
    ensure!(whole(ring)?.keys > of_backup.keys, "the ring has more");
    let refresh = json!({"cron": "* * * * *", "sourceCluster": {"name": "ring"}, "keep": 1});
    ring.patch(&json!({"spec": {"refresh": refresh}}))?;
    let last = wait_for("a refresh", Duration::from_mins(3), || {
        let status = ring.get()?;
        Ok(match text(&status, "/status/refresh/lastCompleted") {
            "" => Err("none yet".to_owned()),
            name => Ok(name.to_owned()),
        })
    })?;
    ring.patch(&json!({"spec": {"refresh": {"suspend": true}}}))?;
    ensure!(
        last.starts_with(&format!("{}.refresh-", ring.name)),
        "{last}"
    );
    ring.wait_settled(9, DONE_WITHIN)?;
    let after = whole(ring)?;
    ensure!(after == of_backup, "{after:?}, not {of_backup:?}");
    Ok(())
}

/// All is lost, volumes included; a ring of another name and size begins with the backup.
#[test]
fn a_lost_ring_comes_back_under_another_name_and_size() -> Result<()> {
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    fixture.fill(&ring, "lost")?;
    let before = whole(&ring)?;
    fixture.backup("everything")?;
    fixture.kubectl(&["delete", "dyn", "ring", "--timeout=120s"])?;
    let bootstrap = json!({
        "restoreFrom": {"from": {"id": "everything"}, "sourceCluster": {"name": "ring"}},
    });
    let again = fixture.ring("again", &json!({"nodesPerRack": 3, "bootstrap": bootstrap}))?;
    let after = whole(&again)?;
    ensure!(before == after, "{before:?} was there, {after:?} came back");
    if long() {
        refreshed(fixture, &again, before)?;
    }
    fixture.kubectl(&["delete", "dyn", "again", "--timeout=120s"])?;
    Ok(())
}

/// Data of a Redis outside of any ring comes in, a token of it is taken back by a backup whose
/// object was lost while the other token's nodes serve on, and files lie as Dynomite-manager
/// stored them: each time every key, type and end is what it was.
#[test]
fn files_of_others_and_single_tokens_are_restored() -> Result<()> {
    if !long() {
        return Ok(());
    }
    let fixture = Fixture::get()?;
    let ring = fixture.ring("ring", &json!({}))?;
    let file = data::foreign(&fixture.cluster, &ring, "moved", KEYS)?;
    let storage = fixture.storage();
    storage.write("moved/dump.rdb", &file)?;
    storage.write("backup/us-east-1/us-east-1c/7/1795132800000", &file)?;
    fixture.restore("move-in", &json!({"file": "moved/dump.rdb"}))?;
    let moved = level(&ring)?;
    let keys: u64 = moved.iter().map(|held| held.keys).sum();
    ensure!(keys > KEYS as u64, "{moved:?}");
    fixture.backup("moved")?;
    fixture.kubectl(&["delete", "dynb", "moved"])?;
    fixture.kubectl(&["annotate", "dyn", "ring", "dynomite.io/catalog=rebuild"])?;
    let found = wait_for("the lost object to be made anew", DONE_WITHIN, || {
        let made = [
            "-n",
            NAMESPACE,
            "get",
            "dynb",
            "-l",
            "dynomite.io/found=true",
        ];
        let made = fixture.cluster.json(&made)?;
        let of_ours = |backup: &&Value| {
            let is = text(backup, "/metadata/name").ends_with("-moved");
            is && text(backup, "/status/phase") == "Completed"
        };
        let mut items = made["items"].as_array().into_iter().flatten();
        let found = items
            .find(of_ours)
            .map(|b| text(b, "/metadata/name").to_owned());
        Ok(found.ok_or_else(|| made.to_string()))
    })?;
    let then = now()?;
    fixture.fill(&ring, "wrong")?;
    fixture.backup("wrong")?;
    let wrong = level(&ring)?;
    ensure!(
        wrong[0] != moved[0] && wrong[1] != moved[1],
        "both tokens have changed"
    );
    let pods = ring.pod_uids()?;
    let of = |ordinal: &str| pods.keys().find(|pod| pod.ends_with(ordinal)).cloned();
    let (other, node) = (of("-0").context("a pod")?, of("-1").context("a pod")?);
    let limit = Duration::from_secs(20);
    let mut watch = EndpointWatch::start(&fixture.cluster, NAMESPACE, "ring", &other, limit)?;
    fixture.restore_some(
        "one-node",
        &json!({"backup": found}),
        &json!({"nodes": [node]}),
    )?;
    ensure!(
        watch.wait(&other, false, Duration::from_secs(1)).is_err(),
        "{other} has served all the time"
    );
    ring.wait_ready()?;
    ensure!(
        level(&ring)? == [wrong[0], moved[1]],
        "only that token went back"
    );
    let tokens = ring.tokens()?;
    let token = tokens.get(&other).context("it has a token")?;
    fixture.restore_some(
        "one-token",
        &json!({"asOf": then}),
        &json!({"tokens": [token]}),
    )?;
    ring.wait_ready()?;
    ensure!(level(&ring)? == moved, "the other token went back too");

    fixture.fill(&ring, "wrong")?;
    let manager = json!({"manager": {"datacenter": "us-east-1", "date": "2026-11-20"}});
    fixture.restore("old-manager", &manager)?;
    ring.wait_ready()?;
    ensure!(
        level(&ring)? == moved,
        "the old ring's only file is on both tokens"
    );
    Ok(())
}
