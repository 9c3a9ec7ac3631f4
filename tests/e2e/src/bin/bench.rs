//! Measures what an operator's users wait for, side by side with what they would have without it.
//!
//! It prints a table as Markdown; `cargo xtask bench operator` puts it into
//! `docs/performance.md`. Figures of one machine mean little: the ratios of one
//! run do.

use std::time::{Duration, Instant};

use std::fmt::Write as _;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use dynomite_e2e::cluster::variable;
use dynomite_e2e::harm::{self, STORE};
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, wait_for};
use serde::Serialize;

const NAMESPACE: &str = "bench-operator";
/// The store whose warm-ups are measured.
const NODE: &str = "bench-dc1-a-0";
/// How long filling and copying may take.
const COPY_WITHIN: Duration = Duration::from_mins(5);

#[derive(Parser)]
struct Arguments {
    /// Data of one token, MiB.
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// Rounds; medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Bytes of one value.
const VALUE_BYTES: u64 = 10 * 1024;

/// What one round gave, seconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    /// From the end of the store to its node's leaving the endpoints.
    withdrawn: f64,
    /// The copy itself: while the node said that it was copying.
    copied: f64,
    /// From the end of the store to its node's being back in the endpoints.
    back: f64,
    /// `REPLICAOF` between two bare stores until both have the same offset.
    bare: f64,
    /// The sidecar's largest resident memory, MiB.
    resident: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let keys = (arguments.mebibytes << 20) / VALUE_BYTES;
    let cluster = Cluster::from_env()?;
    let _operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, NAMESPACE)?;
    let bench = Bench {
        cluster: &cluster,
        ring: Ring::manifest(&cluster, &namespace, &ring(arguments.mebibytes))?,
    };
    bench.ring.wait_ready()?;
    cluster.apply(&namespace.name, &bare(arguments.mebibytes)?)?;
    for pod in ["bare-0", "bare-1"] {
        cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            &format!("pod/{pod}"),
            "-n",
            NAMESPACE,
        ])?;
    }
    bench.fill(keys)?;
    let mut rounds = Vec::new();
    for number in 0..arguments.rounds {
        let round = bench.round(keys)?;
        eprintln!("round {}: {round:?}", number + 1);
        rounds.push(round);
    }
    println!("{}", serde_json::to_string(&rounds)?);
    namespace.delete(Duration::from_mins(2))
}

/// Two racks of one node in memory, with the room that the data needs.
fn ring(mebibytes: u64) -> String {
    format!(
        "apiVersion: dynomite.io/v1alpha1
kind: DynomiteCluster
metadata: {{name: bench}}
spec:
  nodesPerRack: 1
  racks: [{{name: dc1-a, zone: zone-a}}, {{name: dc1-b, zone: zone-b}}]
  storage: {{medium: None}}
  store: {{resources: {{limits: {{memory: {}Mi}}}}}}
",
        mebibytes * 3
    )
}

/// Two stores of the ring's image with the settings that warm-ups use.
fn bare(mebibytes: u64) -> Result<String> {
    let image = variable("DYNOMITE_E2E_STORE_IMAGE")?;
    let mut text = String::new();
    for (number, zone) in [(0, "zone-a"), (1, "zone-b")] {
        write!(
            text,
            "apiVersion: v1
kind: Pod
metadata: {{name: bare-{number}}}
spec:
  nodeSelector: {{topology.kubernetes.io/zone: {zone}}}
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: store
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [redis-server, --port, '6379', --protected-mode, 'no', --save, '', --dir, /tmp,
        --repl-diskless-sync, 'yes', --repl-diskless-sync-delay, '0', --repl-diskless-load, on-empty-db]
      resources: {{limits: {{memory: {}Mi}}, requests: {{memory: 64Mi}}}}
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
      readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}
---
",
            mebibytes * 3
        )?;
    }
    Ok(text)
}

struct Bench<'a> {
    cluster: &'a Cluster,
    ring: Ring<'a>,
}

impl Bench<'_> {
    fn fill(&self, keys: u64) -> Result<()> {
        let keys = keys.to_string();
        let bytes = VALUE_BYTES.to_string();
        let mut targets = self.ring.rack_targets()?;
        targets.truncate(1);
        targets.push(format!("{}:6379", self.ring.address("bare-0")?));
        for target in targets {
            let args = [
                "fill", "--target", &target, "--keys", &keys, "--bytes", &bytes,
            ];
            let tally = Load::run(&args)?;
            ensure!(
                tally.acknowledged.to_string() == keys,
                "{target}: {tally:?}"
            );
        }
        Ok(())
    }

    fn round(&self, keys: u64) -> Result<Round> {
        let uid = self.ring.pod_uids()?[NODE].clone();
        harm::kill(&uid, STORE)?;
        let killed = Instant::now();
        let (withdrawn, watched) = thread::scope(|scope| {
            let watching = scope.spawn(|| self.watch_copy(&uid));
            let left = self
                .ring
                .wait_endpoint(NODE, false, Duration::from_secs(10));
            (left.map(|()| killed.elapsed()), watching.join())
        });
        let withdrawn = withdrawn?;
        let (copied, resident) = watched.map_err(|_| anyhow!("watching the copy panicked"))??;
        self.ring.wait_endpoint(NODE, true, COPY_WITHIN)?;
        let back = killed.elapsed();
        self.ring.wait_ready()?;
        let bare = self.bare(keys)?;
        Ok(Round {
            withdrawn: withdrawn.as_secs_f64(),
            copied: copied.as_secs_f64(),
            back: back.as_secs_f64(),
            bare: bare.as_secs_f64(),
            resident,
        })
    }

    /// How long the node says that it copies, and the sidecar's memory meanwhile.
    fn watch_copy(&self, uid: &str) -> Result<(Duration, f64)> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{NODE}:8080/proxy/metrics");
        let mut since: Option<Instant> = None;
        let mut resident = 0;
        wait_for("the copy to end", COPY_WITHIN, || {
            let metrics = self.cluster.kubectl(&["get", "--raw", &path])?;
            let copies = in_phase(&metrics, "WarmingUp");
            resident = resident.max(harm::resident_kib(harm::sidecar(uid)?)?);
            Ok(match (since, copies) {
                (None, true) => {
                    since = Some(Instant::now());
                    Err("it copies".to_owned())
                }
                (Some(since), false) => Ok(since.elapsed()),
                (None, false) if in_phase(&metrics, "Serving") => {
                    Err("it serves, or has not begun".to_owned())
                }
                _ => Err("it copies".to_owned()),
            })
        })
        .map(|copied| {
            let kib = u32::try_from(resident).unwrap_or(u32::MAX);
            (copied, f64::from(kib) / 1024.0)
        })
    }

    /// A full copy between the bare stores.
    fn bare(&self, keys: u64) -> Result<Duration> {
        let donor = self.ring.address("bare-0")?;
        let copy = |args: &[&str]| -> Result<String> {
            let mut all = vec!["exec", "bare-1", "-n", NAMESPACE, "--", "redis-cli"];
            all.extend(args);
            self.cluster.kubectl(&all)
        };
        copy(&["replicaof", "no", "one"])?;
        copy(&["flushall"])?;
        let begin = Instant::now();
        copy(&["replicaof", &donor, "6379"])?;
        wait_for("the bare copy", COPY_WITHIN, || {
            let info = copy(&["info", "replication"])?;
            Ok(if info.contains("master_link_status:up") {
                Ok(())
            } else {
                Err("the link is down".to_owned())
            })
        })?;
        let took = begin.elapsed();
        let size = copy(&["dbsize"])?;
        ensure!(size.trim() == keys.to_string(), "the copy has {size} keys");
        Ok(took)
    }
}

fn in_phase(metrics: &str, phase: &str) -> bool {
    let wanted = format!("phase=\"{phase}\"");
    metrics.lines().any(|line| {
        line.starts_with("dynomite_node_phase") && line.contains(&wanted) && line.ends_with(" 1")
    })
}
