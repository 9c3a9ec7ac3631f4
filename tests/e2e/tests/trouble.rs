//! An operator that is killed after each of its writes, and one whose requests fail: the ring ends as it should.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::cluster::variable;
use dynomite_e2e::load::sibling;
use dynomite_e2e::trouble::Trouble;
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, wait_for};
use serde_json::{Value, json};

/// Within what time a ring is Ready, or rolled, in spite of the trouble.
const DONE_WITHIN: Duration = Duration::from_mins(5);

/// A small ring with every kind of child.
const RING: &str = r"
apiVersion: dynomite.io/v1alpha1
kind: DynomiteCluster
metadata: {name: troubled}
spec:
  nodesPerRack: 1
  racks: [{name: dc1-a, zone: zone-a}, {name: dc1-b, zone: zone-b}, {name: dc1-c, zone: zone-c}]
  storage: {size: 1Gi}
";

/// An operator of this build with trouble in its way, for one namespace.
fn troubled_operator(cluster: &Cluster, namespace: &str, kind: &str) -> Result<Load> {
    let endpoints = cluster.json(&["get", "endpointslices", "kubernetes", "-n", "default"])?;
    let address = endpoints["endpoints"][0]["addresses"][0].as_str();
    let port = endpoints["ports"][0]["port"].as_u64();
    let server = format!(
        "https://{}:{}",
        address.context("the API server has an address")?,
        port.context("the API server has a port")?
    );
    let operator = sibling("dynomite-operator")?;
    let kubeconfig = cluster.kubeconfig().display().to_string();
    Load::start_program(
        "troubled-operator",
        &[
            "--trouble",
            kind,
            "--server",
            &server,
            "--kubectl",
            &variable("DYNOMITE_E2E_KUBECTL")?,
            "--kubeconfig",
            &kubeconfig,
            "--operator",
            &operator.display().to_string(),
            "--image",
            &variable("DYNOMITE_E2E_OPERATOR_IMAGE")?,
            "--namespace",
            namespace,
        ],
    )
}

/// What a ring's objects say, without what differs from one ring to the next.
fn objects(ring: &Ring, cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    const KINDS: &str =
        "statefulsets,services,poddisruptionbudgets,configmaps,secrets,persistentvolumeclaims";
    let list = cluster.json(&["get", KINDS, "-n", ring.namespace()])?;
    let mut found = BTreeMap::new();
    for object in list["items"].as_array().cloned().unwrap_or_default() {
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name == "kube-root-ca.crt" {
            continue;
        }
        let what = match kind {
            "StatefulSet" | "PodDisruptionBudget" => object["spec"].clone(),
            "Service" => json!({
                "selector": object["spec"]["selector"],
                "ports": object["spec"]["ports"],
                "distribution": object["spec"]["trafficDistribution"],
            }),
            "ConfigMap" => object["data"].clone(),
            // Keys and volumes are each ring's own.
            _ => object["metadata"]["labels"].clone(),
        };
        found.insert(format!("{kind} {name}"), what);
    }
    Ok(found)
}

/// Makes a ring, rolls a change through it, and says what it ended as.
fn life(cluster: &Cluster, namespace: &Namespace) -> Result<BTreeMap<String, Value>> {
    let ring = Ring::manifest(cluster, namespace, RING)?;
    wait_for("the ring to be Ready", DONE_WITHIN, || {
        let (status, _, message) = ring.condition("Ready")?;
        Ok(if status == "True" {
            Ok(())
        } else {
            Err(message)
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    let before = ring.pod_uids()?;
    ring.patch(&json!({"spec": {"dynomite": {"settings": {"mbuf_size": "32768"}}}}))?;
    wait_for("the change to be rolled through", DONE_WITHIN, || {
        let now = ring.pod_uids()?;
        let old = now
            .iter()
            .filter(|(name, uid)| before.get(*name) == Some(*uid));
        let old = old.count();
        let (ready, _, message) = ring.condition("Ready")?;
        let (reconciling, _, _) = ring.condition("Reconciling")?;
        let done = old == 0 && now.len() == 3 && ready == "True" && reconciling == "False";
        Ok(if done {
            Ok(())
        } else {
            Err(format!("{old} old pods; {message}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    let rolled = ring.pod_uids()?;
    let objects = objects(&ring, cluster)?;
    ensure!(ring.pod_uids()? == rolled, "pods went on being replaced");
    Ok(objects)
}

#[test]
fn trouble_with_the_api_server_changes_nothing_in_the_end() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    operator.scale(0)?;
    let outcome = compare(&cluster);
    operator.scale(1)?;
    outcome
}

fn compare(cluster: &Cluster) -> Result<()> {
    // Each in a namespace of its own, at the same time.
    let [calm, killed, stormed] = thread::scope(|scope| {
        ["calm", "kill", "storm"]
            .map(|kind| scope.spawn(move || troubled_life(cluster, kind)))
            .map(|life| life.join().expect("a life does not panic"))
    });
    let (expected, calm) = calm?;
    ensure!(calm.troubled == 0 && calm.lives == 0, "{calm:?}");
    for (kind, life) in [("kill", killed), ("storm", stormed)] {
        let (ended, trouble) = life?;
        for (name, value) in &expected {
            ensure!(
                ended.get(name) == Some(value),
                "{kind}: {name} is {:?}, without trouble {value}",
                ended.get(name)
            );
        }
        ensure!(ended.len() == expected.len(), "{kind}: {:?}", ended.keys());
        ensure!(
            trouble.troubled > 10,
            "there was hardly any trouble: {trouble:?}"
        );
    }
    Ok(())
}

fn troubled_life(cluster: &Cluster, kind: &str) -> Result<(BTreeMap<String, Value>, Trouble)> {
    let namespace = Namespace::create(cluster, &format!("e2e-{kind}"))?;
    let operator = troubled_operator(cluster, &namespace.name, kind)?;
    let ended = life(cluster, &namespace);
    let trouble: Trouble = serde_json::from_slice(&operator.end()?)?;
    println!("{kind}: {trouble:?}");
    let ended = ended.with_context(|| format!("{kind}: {trouble:?}"))?;
    namespace.delete(Duration::from_mins(2))?;
    Ok((ended, trouble))
}
