//! Harm at random under a recorded load: nothing acknowledged is lost, nothing happens twice, the racks end equal.
//!
//! `cargo xtask chaos --minutes N --seed S` runs it for longer, or again. One harm
//! at a time: what two at once may lose is not promised, because two racks of
//! three are a quorum. A backup is taken every minute meanwhile: each that says
//! Completed must hold a state that existed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::chaos::{History, Judged, Random, State, check};
use dynomite_e2e::cluster::variable;
use dynomite_e2e::disk::{self, SmallDisks};
use dynomite_e2e::harm::{self, CutOff, ENGINE, LAUNCHERS, NoApiServer, OneWay, STORE, Way};
use dynomite_e2e::ring::said;
use dynomite_e2e::storage::{BUCKET, ENDPOINT, SECRET};
use dynomite_e2e::{Cluster, Load, Namespace, ObjectStorage, Operator, Ring, wait_for};
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-chaos";
/// Within what time a ring is whole again after a harm.
const SETTLED_WITHIN: Duration = Duration::from_mins(3);
/// Within what time a harm shows in the readiness of the pod: kubelets that have lost the API server
/// for a while take their time.
const NOTICED_WITHIN: Duration = Duration::from_mins(1);
/// Within what time after a cut the ring says that replicas differ.
const DIFFERS_WITHIN: Duration = Duration::from_secs(20);
/// Within what time a change has gone through all six nodes.
const ROLLED_WITHIN: Duration = Duration::from_mins(6);

/// The `StorageClass` of the ring.
const CLASS: &str = "e2e-chaos";
/// The size of its volumes.
const DISK_MIB: usize = 96;

/// What is done to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    KillStore,
    KillEngine,
    KillSidecar,
    HangSidecar,
    /// All containers of a pod end at once, and are started again.
    KillContainers,
    /// The store stands still for some seconds.
    HangStore,
    /// The pod is gone at once, with its memory.
    KillPod,
    /// The pod leaves in order.
    DeletePod,
    /// A zone is cut off the network, its clients with it.
    CutZone,
    /// What a zone's pods send, or what is sent to them, is lost.
    CutOneWay,
    /// The disk of a node is full.
    FillDisk,
    RestartOperator,
    StopApiServer,
    LiveSetting,
    RollingChange,
}

const HARMS: [Harm; 15] = [
    Harm::KillStore,
    Harm::KillEngine,
    Harm::KillSidecar,
    Harm::HangSidecar,
    Harm::KillContainers,
    Harm::HangStore,
    Harm::KillPod,
    Harm::DeletePod,
    Harm::CutZone,
    Harm::CutOneWay,
    Harm::FillDisk,
    Harm::RestartOperator,
    Harm::StopApiServer,
    Harm::LiveSetting,
    Harm::RollingChange,
];

struct World<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
    ring: &'a Ring<'a>,
    random: Random,
    /// How often a setting was changed: each change gives another value.
    changes: u64,
}

fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(otherwise),
    }
}

#[test]
fn ring_survives_chaos() -> Result<()> {
    let minutes = number("DYNOMITE_CHAOS_MINUTES", 5)?;
    let seed = number("DYNOMITE_CHAOS_SEED", 1)?;
    println!("{minutes} minutes of harm, seed {seed}");
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, NAMESPACE)?;
    // Two nodes in each zone, with disks that can be filled.
    let disks = SmallDisks::make(&cluster, CLASS, 2, DISK_MIB)?;
    let ring = Ring::manifest(&cluster, &namespace, &manifest()?)?;
    let storage = ObjectStorage::start(&cluster, &namespace)?;
    ring.wait_ready()?;
    let mut world = World {
        cluster: &cluster,
        operator: &operator,
        ring: &ring,
        random: Random::new(seed),
        changes: 0,
    };
    let file = std::env::temp_dir().join(format!("dynomite-chaos-{}.jsonl", std::process::id()));
    let load = start_load(&ring, &file, seed, minutes)?;
    let harmed = world.harm_for(Duration::from_mins(minutes));
    load.end()?;
    harmed?;
    world.settled(SETTLED_WITHIN)?;
    world.judge(&file)?;
    world.judge_backups(&storage, &file, minutes)?;
    std::fs::remove_file(&file)?;
    namespace.delete(Duration::from_mins(2))?;
    drop(disks);
    Ok(())
}

/// The example of three zones on small disks, whose stores write their files anew before those
/// are as large as the disks; and a backup every minute.
fn manifest() -> Result<String> {
    let path = Path::new(&variable("DYNOMITE_E2E_ROOT")?).join("deploy/examples/three-zones.yaml");
    let mut ring: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
    ring["spec"]["storage"]["className"] = json!(CLASS);
    ring["spec"]["store"]["settings"] = json!({"auto-aof-rewrite-min-size": "4mb"});
    ring["spec"]["backup"] = json!({
        "stores": [{
            "name": "main",
            "s3": {"bucket": BUCKET, "endpoint": ENDPOINT, "pathStyle": true},
            "credentialsSecret": SECRET,
        }],
        "schedules": [{"name": "minute", "cron": "* * * * *"}],
    });
    Ok(ring.to_string())
}

fn start_load(ring: &Ring, file: &Path, seed: u64, minutes: u64) -> Result<Load> {
    let targets = ring.rack_targets()?.join(",");
    let file = file.to_str().context("a path in UTF-8")?;
    // It is ended from here; the bound is for the case that this process dies.
    let seconds = (minutes * 60 * 3 + 600).to_string();
    let seed = seed.to_string();
    let args = [
        "write",
        "--targets",
        &targets,
        "--history",
        file,
        "--seed",
        &seed,
        "--seconds",
        &seconds,
    ];
    Load::start_program("dynomite-history", &args)
}

impl World<'_> {
    /// Harms the ring until the time is up, every kind before any comes again.
    fn harm_for(&mut self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut bag: Vec<Harm> = Vec::new();
        while begin.elapsed() < time {
            if bag.is_empty() {
                bag = HARMS.to_vec();
            }
            let index = self.random.below(bag.len() as u64);
            let harm = bag.swap_remove(usize::try_from(index)?);
            let at = begin.elapsed().as_secs();
            let struck = Instant::now();
            let uids = self.ring.pod_uids()?;
            let pods: Vec<&String> = uids.keys().collect();
            let pod = (*self.random.pick(&pods)).clone();
            let what = self.strike(harm, &pod, &uids).with_context(|| {
                let (ring, logs) = (self.ring.describe(), self.ring.logs(&pod));
                format!("{harm:?} {pod} after {at} s\n{ring}\n{logs}")
            })?;
            let limit = if harm == Harm::RollingChange {
                ROLLED_WITHIN
            } else {
                SETTLED_WITHIN
            };
            self.settled(limit)
                .with_context(|| format!("{what} after {at} s\n{}", self.ring.describe()))?;
            println!(
                "{at:4} s: {what}: whole again after {:.1} s",
                struck.elapsed().as_secs_f64()
            );
        }
        Ok(())
    }

    /// Does one harm, to this pod where it is done to one; says what it was.
    fn strike(&mut self, harm: Harm, pod: &str, uids: &BTreeMap<String, String>) -> Result<String> {
        let uid = &uids[pod];
        let seconds = 3 + self.random.below(12);
        match harm {
            Harm::KillStore | Harm::KillEngine | Harm::KillContainers => {
                let before = self.life(pod)?;
                let names = match harm {
                    Harm::KillStore => STORE,
                    Harm::KillEngine => ENGINE,
                    _ => LAUNCHERS,
                };
                harm::kill(uid, names)?;
                self.left(pod, &before)?;
            }
            Harm::KillSidecar => harm::replace_sidecar(uid, "KILL")?,
            Harm::HangSidecar => harm::replace_sidecar(uid, "STOP")?,
            Harm::HangStore => {
                harm::signal(uid, STORE, "STOP")?;
                thread::sleep(Duration::from_secs(seconds));
                // It may have been ended meanwhile: then it needs no waking.
                let _ = harm::signal(uid, STORE, "CONT");
                return Ok(format!("the store of {pod} stood still for {seconds} s"));
            }
            Harm::KillPod | Harm::DeletePod => {
                let before = self.life(pod)?;
                let at_once = ["--grace-period=0", "--force"];
                let how: &[&str] = if harm == Harm::KillPod { &at_once } else { &[] };
                self.delete(pod, how)?;
                self.left(pod, &before)?;
            }
            Harm::CutZone => {
                let node = format!("node{}", 1 + self.random.below(3));
                let cut = CutOff::node(&node)?;
                thread::sleep(Duration::from_secs(seconds));
                drop(cut);
                self.missed_writes_are_noticed();
                return Ok(format!("{node} was cut off for {seconds} s"));
            }
            Harm::CutOneWay => {
                let node = format!("node{}", 1 + self.random.below(3));
                let way = *self.random.pick(&[Way::Out, Way::In]);
                let cut = OneWay::node(&node, way)?;
                thread::sleep(Duration::from_secs(seconds));
                drop(cut);
                self.missed_writes_are_noticed();
                return Ok(format!("{node} was cut off {way:?} for {seconds} s"));
            }
            Harm::FillDisk => {
                disk::fill(uid)?;
                let told = self.full_disk_is_told(pod);
                disk::free(uid)?;
                told?;
            }
            Harm::RestartOperator => {
                for pod in self.operator.pods()? {
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    let namespace = dynomite_e2e::operator::NAMESPACE;
                    let args = ["delete", "pod", name, "-n", namespace, "--wait=false"];
                    self.cluster.kubectl(&args)?;
                }
                self.operator.wait_available()?;
                return Ok("the operator was restarted".to_owned());
            }
            Harm::StopApiServer => {
                let _stopped = NoApiServer::begin()?;
                thread::sleep(Duration::from_secs(seconds));
                return Ok(format!("the API server was away for {seconds} s"));
            }
            Harm::LiveSetting => {
                self.changes += 1;
                let hz = (10 + self.changes % 10).to_string();
                self.ring
                    .patch(&json!({"spec": {"store": {"settings": {"hz": hz}}}}))?;
                return Ok(format!("hz was set to {hz}"));
            }
            Harm::RollingChange => {
                self.changes += 1;
                let size = (16384 + 512 * (self.changes % 16)).to_string();
                self.ring
                    .patch(&json!({"spec": {"dynomite": {"settings": {"mbuf_size": size}}}}))?;
                self.rolled(uids)?;
                return Ok(format!("mbuf_size {size} was rolled through"));
            }
        }
        Ok(format!("{harm:?} {pod}"))
    }

    fn delete(&self, pod: &str, how: &[&str]) -> Result<()> {
        let namespace = self.ring.namespace();
        let mut args = vec!["delete", "pod", pod, "-n", namespace, "--wait=false"];
        args.extend(how);
        self.cluster.kubectl(&args).map(drop)
    }

    /// What the ring says of a node.
    fn node(&self, pod: &str) -> Result<Value> {
        let ring = self.ring.get()?;
        let racks = ring["status"]["racks"].as_array().into_iter().flatten();
        let mut nodes = racks.flat_map(|rack| rack["nodes"].as_array().into_iter().flatten());
        Ok(nodes
            .find(|node| node["name"] == pod)
            .cloned()
            .unwrap_or_default())
    }

    /// Which pod a node is, and since when it does what it does.
    fn life(&self, pod: &str) -> Result<(Value, Value)> {
        let node = self.node(pod)?;
        Ok((node["podUid"].clone(), node["since"].clone()))
    }

    /// Waits until the ring has noticed that a node was harmed: one that only looks
    /// whole would be harmed a second time. Kubernetes' word would not do: it takes
    /// all pods of a machine for not ready when it has not heard of that for a while.
    fn left(&self, pod: &str, before: &(Value, Value)) -> Result<()> {
        wait_for(&format!("{pod} to leave"), NOTICED_WITHIN, || {
            let now = self.life(pod)?;
            Ok(if now == *before {
                Err(format!("since {}", before.1))
            } else {
                Ok(())
            })
        })
    }

    /// Waits until the node says that its store cannot save.
    fn full_disk_is_told(&self, pod: &str) -> Result<()> {
        wait_for("the full disk to be told", NOTICED_WITHIN, || {
            let findings = self.node(pod)?["findings"].to_string();
            Ok(if findings.contains("StoreCannotSave") {
                Ok(())
            } else {
                Err(findings)
            })
        })
    }

    /// Waits until the ring says that replicas differ, as they do after a cut under load: before
    /// that it only looks whole. A cut in which no write was missed leaves nothing to notice.
    fn missed_writes_are_noticed(&self) {
        let noticed = wait_for("missed writes to be noticed", DIFFERS_WITHIN, || {
            let level = self.ring.condition("ReplicasLevel")?;
            Ok(if level.0 == "False" {
                Ok(())
            } else {
                Err(level.2)
            })
        });
        if noticed.is_err() {
            println!("no replica has missed a write");
        }
    }

    fn rolled(&self, before: &BTreeMap<String, String>) -> Result<()> {
        wait_for("every pod to be another one", ROLLED_WITHIN, || {
            let now = self.ring.pod_uids()?;
            let old = now
                .values()
                .filter(|uid| before.values().any(|b| b == *uid));
            let old = old.count();
            Ok(if old == 0 && now.len() == before.len() {
                Ok(())
            } else {
                Err(format!("{old} old pods"))
            })
        })
    }

    /// Waits until the ring is Ready, all nodes are endpoints, and nothing is left to do.
    fn settled(&self, limit: Duration) -> Result<()> {
        wait_for("the ring to be whole", limit, || {
            // Looked at first: what the resource says is younger than what they are.
            let endpoints = self.ring.endpoints(&self.ring.name)?.len();
            let pods = self.ring.pods()?;
            let ring = self.ring.get()?;
            let ready = said(&ring, "Ready");
            let reconciling = said(&ring, "Reconciling");
            let level = said(&ring, "ReplicasLevel");
            // Netflix's engine does not number writes: nobody can say whether its replicas are level.
            let level = level.0 == "True" || level.1 == "NotNumbered";
            let leaving = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
            let staying = pods.len() == 6 && !pods.iter().any(|pod| leaving(&pod));
            let told = ready.0 == "True" && reconciling.0 == "False" && level;
            let whole = told && endpoints == 6 && staying;
            Ok(if whole {
                Ok(())
            } else {
                Err(format!(
                    "{endpoints} endpoints, Ready {}: {}; Reconciling {}: {}",
                    ready.0, ready.2, reconciling.0, reconciling.2
                ))
            })
        })
    }

    /// Judges the history by what every rack holds, and the stores by their number of keys.
    fn judge(&self, file: &Path) -> Result<()> {
        let path = file.to_str().context("a path in UTF-8")?;
        let targets = self.ring.rack_targets()?.join(",");
        let args = ["read", "--targets", &targets, "--history", path];
        let printed = Load::start_program("dynomite-history", &args)?.output()?;
        let racks: BTreeMap<String, State> = serde_json::from_slice(&printed)?;
        let history = History::load(BufReader::new(File::open(file)?))?;
        let verdict = check(&history, &racks);
        println!("{verdict}");
        ensure!(racks.len() == 3, "not every rack was read");
        ensure!(
            verdict.acknowledged > 1000,
            "hardly anything was written: the judgement would say nothing"
        );
        ensure!(
            verdict.complained == 0,
            "the history is left in {path}: {verdict}"
        );
        Ok(())
    }

    /// Reads every backup that says Completed as a restore would, and judges it by what was
    /// written before and while it was taken.
    fn judge_backups(&self, storage: &ObjectStorage, file: &Path, minutes: u64) -> Result<()> {
        let made = self
            .cluster
            .json(&["get", "dynb", "-n", self.ring.namespace()])?;
        let mut directories = Vec::new();
        for backup in made["items"].as_array().into_iter().flatten() {
            let status = &backup["status"];
            if status["phase"] == "Completed" {
                directories.extend(status["directory"].as_str());
            } else {
                println!(
                    "backup {} is {}: {}",
                    backup["metadata"]["name"], status["phase"], status["message"]
                );
            }
        }
        ensure!(
            directories.len() as u64 > minutes / 2,
            "of {minutes} minutes only {directories:?} were backed up"
        );
        let path = file.to_str().context("a path in UTF-8")?;
        let args = [
            "backups",
            "--endpoint",
            &storage.endpoint()?,
            "--directories",
            &directories.join(","),
            "--history",
            path,
        ];
        let printed = Load::start_program("dynomite-history", &args)?.output()?;
        let judged: Vec<Judged> = serde_json::from_slice(&printed)?;
        ensure!(judged.len() == directories.len(), "not every one was read");
        for backup in &judged {
            println!(
                "{}: {} keys\n{}",
                backup.directory, backup.keys, backup.verdict
            );
        }
        let required: usize = judged.iter().map(|backup| backup.required).sum();
        ensure!(required > 1000, "only {required} writes had to be in them");
        let wrong = judged.iter().filter(|backup| backup.complained > 0).count();
        ensure!(
            wrong == 0,
            "{wrong} backups hold what never was; the history is left in {path}"
        );
        Ok(())
    }
}
