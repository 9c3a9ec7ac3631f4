//! `cargo xtask demo`: from nothing to a ring that serves, with a proof that it does.

mod keys;
mod ring;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::{self, Cluster};
use crate::image::{self, Name};
use crate::stage::{Stage, Stages};
use crate::{process, workspace};
use keys::Client;
use ring::Ring;

/// Where the operator is installed, and the name of its release.
const OPERATOR_NAMESPACE: &str = "dynomite-system";
const RELEASE: &str = "dynomite-operator";

/// Where the ring is made.
const NAMESPACE: &str = "demo";

/// The ring, and its name there.
const EXAMPLE: &str = "deploy/examples/three-zones.yaml";
const RING: &str = "ring";

/// How long operator and ring may take: the ring is promised in a minute once images are there.
const OPERATOR_READY_WITHIN: &str = "120s";
const RING_READY_WITHIN: Duration = Duration::from_mins(5);

/// How often the ring's status is read while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `cargo xtask demo` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many keys are written and read back.
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// Uses this image from a registry instead of building and loading one; needed with
    /// --context and --kubeconfig.
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// Brings everything up, writes and reads, prints the ring.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut stages = Stages::new();
    let result = show(arguments, &mut stages);
    println!();
    stages.summary();
    let (cluster, ring) = result?;
    println!("\n{}", ring.table());
    println!("{}", farewell(&cluster, &arguments.cluster.name));
    Ok(())
}

fn show(arguments: &Arguments, stages: &mut Stages) -> Result<(Cluster, Ring)> {
    if arguments.image.is_none() {
        let images = image::Arguments {
            names: vec![Name::Ours, Name::Redis, Name::Valkey],
            ..image::Arguments::default()
        };
        image::build(&images, stages)?;
    }
    let cluster = cluster::ensure_up(&arguments.cluster, stages)?;
    if arguments.image.is_none() {
        cluster::load(&cluster, &image::built(), stages)?;
    }
    let helm = cluster::helm(stages)
        .inspect_err(|error| println!("    no helm ({error:#}): plain manifests instead"))
        .ok();
    stages.run("operator", |stage| {
        for namespace in [OPERATOR_NAMESPACE, NAMESPACE] {
            ensure_namespace(&cluster, namespace, stage)?;
        }
        match helm {
            Some(helm) => by_helm(&cluster, &helm, arguments.image.as_deref(), stage),
            None => by_manifests(&cluster, stage),
        }
    })?;
    let ring = stages.run("ring", |stage| {
        apply_example(&cluster, stage)?;
        wait_until_ready(&cluster, stage)
    })?;
    exercise(&cluster, &ring, arguments.keys, stages)?;
    Ok((cluster, ring))
}

/// Makes a namespace in which only pods of the restricted level may run.
fn ensure_namespace(cluster: &Cluster, name: &str, stage: &Stage) -> Result<()> {
    let mut get = cluster.kubectl();
    if !process::capture(get.args(["get", "namespace", name]), stage)?.success {
        let mut create = cluster.kubectl();
        process::run(create.args(["create", "namespace", name]), stage)?;
    }
    let mut label = cluster.kubectl();
    label.args(["label", "--overwrite", "namespace", name]);
    label.arg("pod-security.kubernetes.io/enforce=restricted");
    process::run(&mut label, stage).map(drop)
}

fn by_helm(cluster: &Cluster, helm: &PathBuf, image: Option<&str>, stage: &Stage) -> Result<()> {
    stage.note("helm upgrade --install");
    let mut command = Command::new(helm);
    command
        .env("KUBECONFIG", &cluster.kubeconfig)
        .args(["upgrade", "--install", RELEASE])
        .arg(workspace::root().join("charts/dynomite-operator"))
        .args(["--namespace", OPERATOR_NAMESPACE])
        .args(["--wait", "--timeout", OPERATOR_READY_WITHIN]);
    let (repository, tag) = image
        .unwrap_or(image::OURS)
        .rsplit_once(':')
        .context("--image needs a tag")?;
    command.args([
        "--set",
        &format!("image.repository={repository},image.tag={tag}"),
    ]);
    if let (None, Some(digest)) = (image, image::digest("dynomite-operator")) {
        // The tag of a local image stays when its content changes; only another annotation makes
        // the pod template differ then, so that an operator that already runs is replaced.
        command.args([
            "--set-string",
            &format!("podAnnotations.dynomite\\.io/image={digest}"),
        ]);
    }
    process::run(&mut command, stage).map(drop)
}

fn rolled_out(cluster: &Cluster, stage: &Stage) -> Result<()> {
    let mut command = cluster.kubectl();
    command
        .args(["--namespace", OPERATOR_NAMESPACE, "rollout", "status"])
        .arg(format!("deployment/{RELEASE}"))
        .arg(format!("--timeout={OPERATOR_READY_WITHIN}"));
    process::run(&mut command, stage).map(drop)
}

fn by_manifests(cluster: &Cluster, stage: &Stage) -> Result<()> {
    stage.note("kubectl apply");
    let root = workspace::root();
    let mut command = cluster.kubectl();
    command.args(["apply", "--server-side", "--force-conflicts"]);
    for part in ["crds", "deploy/operator.yaml"] {
        command.arg("--filename").arg(root.join(part));
    }
    process::run(&mut command, stage)?;
    rolled_out(cluster, stage)
}

fn apply_example(cluster: &Cluster, stage: &Stage) -> Result<()> {
    stage.note(&format!("kubectl apply -f {EXAMPLE}"));
    let mut command = cluster.kubectl();
    command
        .args(["--namespace", NAMESPACE, "apply", "--filename"])
        .arg(workspace::root().join(EXAMPLE));
    process::run(&mut command, stage).map(drop)
}

/// Follows the ring until the operator calls it Ready, and tells of each node that gets there.
fn wait_until_ready(cluster: &Cluster, stage: &Stage) -> Result<Ring> {
    let begun = Instant::now();
    let mut known = Vec::new();
    loop {
        let ring = Ring::read(cluster, NAMESPACE, RING)?;
        for node in ring.nodes.iter().filter(|node| node.ready) {
            if !known.contains(&node.name) {
                stage.note(&format!(
                    "{} is ready after {:.1} s",
                    node.name,
                    begun.elapsed().as_secs_f64()
                ));
                known.push(node.name.clone());
            }
        }
        stage.progress(known.len() as u64, ring.size as u64);
        if ring.ready {
            return Ok(ring);
        }
        stage.live(&ring.message);
        if begun.elapsed() > RING_READY_WITHIN {
            bail!(
                "the ring is not Ready after {} s: {}\n{}",
                RING_READY_WITHIN.as_secs(),
                ring.message,
                ring.table()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Writes through the first rack and reads everything through each of the others.
fn exercise(cluster: &Cluster, ring: &Ring, keys: u32, stages: &mut Stages) -> Result<()> {
    let client = |rack: &str| -> Result<Client<'_>> {
        let node = ring
            .nodes
            .iter()
            .find(|node| node.rack == rack)
            .with_context(|| format!("the rack {rack} has no node"))?;
        Ok(Client {
            cluster,
            namespace: NAMESPACE,
            pod: node.name.clone(),
            host: format!("{RING}-{rack}"),
        })
    };
    let racks = ring.racks();
    let (first, others) = racks.split_first().context("the ring has no rack")?;
    stages.run(&format!("write {keys} keys through {first}"), |stage| {
        client(first)?.write(keys, stage)
    })?;
    for rack in others {
        stages.run(&format!("read {keys} keys through {rack}"), |stage| {
            client(rack)?.read(keys, stage)
        })?;
    }
    Ok(())
}

/// How to go on from here.
fn farewell(cluster: &Cluster, name: &str) -> String {
    let kubectl = cluster.kubectl.display();
    let option = if name == cluster::Options::default().name {
        String::new()
    } else {
        format!(" --name {name}")
    };
    format!(
        "Use it:
  export KUBECONFIG={kubeconfig}
  {kubectl} --namespace {NAMESPACE} get dyn
  {kubectl} --namespace {NAMESPACE} describe dyn {RING}
  {kubectl} --namespace {NAMESPACE} exec -it {RING}-dc1-a-0 -c store -- redis-cli -h {RING} -p {port}
From this machine, with any Redis client on port {port}:
  {kubectl} --namespace {NAMESPACE} port-forward service/{RING} {port}:{port}
Remove everything:
  cargo xtask cluster{option} down",
        kubeconfig = cluster.kubeconfig.display(),
        port = keys::PORT,
    )
}
