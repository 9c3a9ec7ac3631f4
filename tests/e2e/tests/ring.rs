//! The main path: a manifest becomes a ring that serves, and says what a person needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynomite_api::Token;
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, wait_for};
use serde_json::json;

const KEYS: u64 = 10_000;

#[test]
fn three_zones_serve_what_one_rack_has_written() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, "e2e-ring")?;
    let begin = Instant::now();
    let ring = Ring::example(&cluster, &namespace, "three-zones.yaml")?;
    ring.wait_ready()?;
    let took = begin.elapsed();
    println!("from apply to Ready: {:.1} s", took.as_secs_f64());
    ensure!(took < Duration::from_mins(1), "took {} s", took.as_secs());

    check_tokens(&ring)?;
    check_data(&ring)?;
    check_words(&cluster, &ring)?;
    check_differences(&cluster, &ring)?;
    check_tokens_survive(&cluster, &operator, &ring)?;
    check_data(&ring)
}

/// What only one store has, as when two writers raced, is told, and repaired when allowed.
fn check_differences(cluster: &Cluster, ring: &Ring) -> Result<()> {
    let uids = ring.pod_uids()?;
    let compare = |repair: bool| {
        let spec = json!({"enabled": true, "intervalSeconds": 10, "repair": repair});
        ring.patch(&json!({"spec": {"compare": spec}}))
    };
    compare(false)?;
    let racks = ["dc1-a", "dc1-b", "dc1-c"];
    for (rack, value) in racks.iter().zip(["first", "most", "most"]) {
        ring.redis_cli(&format!("ring-{rack}-0"), &["SET", "raced", value])?;
    }
    ring.redis_cli("ring-dc1-c-0", &["HSET", "lone", "field", "value"])?;
    let limit = Duration::from_mins(3);
    wait_for("the ring to say that keys differ", limit, || {
        let level = ring.condition("ReplicasLevel")?;
        let told = level.1 == "ReplicasDiffer" && level.2.starts_with("2 keys");
        Ok(if told {
            Ok(())
        } else {
            Err(format!("{level:?}"))
        })
    })?;
    let still = ring.redis_cli("ring-dc1-a-0", &["GET", "raced"])?;
    ensure!(still == "first", "it is only told: {still}");
    compare(true)?;
    wait_for("the replicas to be level", limit, || {
        let level = ring.condition("ReplicasLevel")?;
        Ok(if level.0 == "True" {
            Ok(())
        } else {
            Err(format!("{level:?}"))
        })
    })?;
    for rack in racks {
        let pod = format!("ring-{rack}-0");
        let raced = ring.redis_cli(&pod, &["GET", "raced"])?;
        let lone = ring.redis_cli(&pod, &["EXISTS", "lone"])?;
        ensure!(
            (&*raced, &*lone) == ("most", "0"),
            "{pod} has {raced:?}, {lone}"
        );
    }
    let path = format!(
        "/api/v1/namespaces/{}/pods/ring-dc1-a-0:8080/proxy/metrics",
        ring.namespace()
    );
    let metrics = cluster.kubectl(&["get", "--raw", &path])?;
    let repaired = "dynomite_compare_keys_repaired_total 1";
    ensure!(metrics.lines().any(|line| line == repaired), "{metrics}");
    let told = [
        "get",
        "events",
        "-n",
        ring.namespace(),
        "--field-selector",
        "reason=KeysRepaired",
    ];
    let events = cluster.kubectl(&told)?;
    ensure!(events.contains("2 of "), "no Event tells of it: {events}");
    ring.patch(&json!({"spec": {"compare": null}}))?;
    ensure!(ring.pod_uids()? == uids, "a pod was replaced");
    Ok(())
}

/// Six nodes; the formula's tokens, the same in every rack.
fn check_tokens(ring: &Ring) -> Result<()> {
    let tokens = ring.tokens()?;
    let mut wanted = BTreeMap::new();
    for rack in ["dc1-a", "dc1-b", "dc1-c"] {
        for index in 0..2 {
            let token = Token::evenly_spread(index, 2).context("two nodes")?;
            wanted.insert(format!("ring-{rack}-{index}"), u64::from(token.0));
        }
    }
    assert_eq!(tokens, wanted);
    let pods = ring.pods()?;
    assert_eq!(pods.len(), 6);
    let nodes: BTreeSet<_> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    assert_eq!(nodes.len(), 3, "each rack in a zone of its own: {nodes:?}");
    Ok(())
}

/// What is written through one rack is read through each.
fn check_data(ring: &Ring) -> Result<()> {
    let targets = ring.rack_targets()?;
    let keys = KEYS.to_string();
    let written = Load::run(&["fill", "--target", &targets[0], "--keys", &keys])?;
    assert_eq!(written.acknowledged, KEYS);
    for target in &targets {
        let read = Load::run(&["verify", "--target", target, "--keys", &keys])?;
        assert_eq!(
            (read.right, read.wrong),
            (KEYS, 0),
            "through {target}: {read:?}"
        );
    }
    Ok(())
}

/// `kubectl get` and `kubectl describe` answer what a person asks first.
fn check_words(cluster: &Cluster, ring: &Ring) -> Result<()> {
    let listed = cluster.kubectl(&["get", "dyn", &ring.name, "-n", ring.namespace()])?;
    for word in ["True", "6/6", "3/3", "Ready"] {
        assert!(listed.contains(word), "{word} is not in: {listed}");
    }
    let described = cluster.kubectl(&["describe", "dyn", &ring.name, "-n", ring.namespace()])?;
    for word in [
        "ring-dc1-a-0",
        "1383429731",
        "zone-a",
        "Available",
        "Headroom",
    ] {
        assert!(described.contains(word), "{word} is not in: {described}");
    }
    let endpoints = ring.endpoints(&ring.name)?;
    assert_eq!(endpoints.len(), 6, "{endpoints:?}");
    assert_eq!(
        ring.endpoints("ring-dc1-b")?,
        ["ring-dc1-b-0", "ring-dc1-b-1"]
    );
    Ok(())
}

/// Tokens outlive the pods, the operator and the status they are written in.
fn check_tokens_survive(cluster: &Cluster, operator: &Operator, ring: &Ring) -> Result<()> {
    let before = ring.tokens()?;
    let pods = ring.pod_uids()?;
    let namespace = ["-n", ring.namespace()];
    let kubectl = |args: &[&str]| cluster.kubectl(&[args, &namespace].concat());
    let wipe = [
        "patch",
        "dyn",
        &ring.name,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":null}"#,
    ];
    // The operator that comes next finds no word of the tokens in the status, and new pods.
    operator.scale(0)?;
    kubectl(&wipe)?;
    let gone = ["ring-dc1-a-0", "ring-dc1-a-1"];
    for pod in gone {
        kubectl(&["delete", "pod", pod, "--wait=false"])?;
    }
    assert!(ring.tokens()?.is_empty(), "the status is wiped");
    operator.scale(1)?;
    ring.wait_settled(6, Duration::from_mins(1))?;
    assert_eq!(ring.tokens()?, before);
    for (name, uid) in ring.pod_uids()? {
        let same = pods.get(&name) == Some(&uid);
        assert_eq!(same, !gone.contains(&name.as_str()), "{name}");
    }
    // By the status alone, while the operator runs.
    let pods = ring.pod_uids()?;
    kubectl(&wipe)?;
    wait_for(
        "the status to be written again",
        Duration::from_secs(30),
        || {
            let now = ring.tokens()?;
            Ok(if now == before {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            })
        },
    )?;
    ring.wait_settled(6, Duration::from_mins(1))?;
    assert_eq!(ring.pod_uids()?, pods, "no pod was restarted");
    Ok(())
}
