//! Volumes that cannot be had, and disks that are full: told, survived, and healed without anybody's hand on a pod.

use std::time::Duration;

use anyhow::{Result, ensure};
use dynomite_e2e::disk::{self, SmallDisks};
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, long, wait_for};
use serde_json::{Value, json};

const KEYS: &str = "500";
/// Within what time trouble is told, or over.
const TOLD_WITHIN: Duration = Duration::from_mins(1);
/// Within what time a ring is whole again.
const WHOLE_WITHIN: Duration = Duration::from_mins(2);

/// A ring of racks with one node each, and volumes of a class.
fn manifest(name: &str, racks: usize, class: &str) -> String {
    let racks: Vec<Value> = ["a", "b", "c"][..racks]
        .iter()
        .map(|zone| json!({"name": format!("dc1-{zone}"), "zone": format!("zone-{zone}")}))
        .collect();
    json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteCluster",
        "metadata": {"name": name},
        "spec": {
            "nodesPerRack": 1, "racks": racks,
            "consistency": {"write": if racks.len() > 2 { "DC_QUORUM" } else { "DC_ONE" }},
            "store": {"resources": {"limits": {"memory": "256Mi"}, "requests": {"memory": "64Mi"}}},
            "storage": {"size": "1Gi", "className": class},
        },
    })
    .to_string()
}

/// A `StorageClass` like the cluster's own, by another name.
fn make_class(cluster: &Cluster, name: &str) -> Result<()> {
    let mut class = cluster.json(&["get", "storageclass", "local"])?;
    class["metadata"] = json!({"name": name});
    cluster.apply("default", &class.to_string())
}

fn delete_class(cluster: &Cluster, name: &str) -> Result<()> {
    let args = ["delete", "storageclass", name, "--ignore-not-found"];
    cluster.kubectl(&args).map(drop)
}

#[test]
fn volume_that_cannot_be_bound_is_told_and_heals_when_it_can() -> Result<()> {
    const CLASS: &str = "e2e-late";
    let cluster = Cluster::from_env()?;
    Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, "e2e-unbound")?;
    delete_class(&cluster, CLASS)?;
    let ring = Ring::manifest(&cluster, &namespace, &manifest("late", 2, CLASS))?;
    ring.wait_unready("VolumeNotBound", CLASS, TOLD_WITHIN)?;
    make_class(&cluster, CLASS)?;
    ring.wait_settled(2, WHOLE_WITHIN)?;
    let targets = ring.rack_targets()?;
    let filled = Load::run(&["fill", "--target", &targets[0], "--keys", KEYS])?;
    assert_eq!(filled.acknowledged.to_string(), KEYS);

    // One rack's volume goes, and cannot be had again for a while: the other rack serves.
    delete_class(&cluster, CLASS)?;
    let claim = "data-late-dc1-b-0";
    let gone = [
        "delete",
        "pvc",
        claim,
        "-n",
        &namespace.name,
        "--wait=false",
    ];
    cluster.kubectl(&gone)?;
    ring.wait_unready("VolumeNotBound", claim, TOLD_WITHIN)?;
    assert_eq!(ring.condition("Available")?.0, "True");
    let read = Load::run(&["verify", "--target", &targets[0], "--keys", KEYS])?;
    assert_eq!(read.wrong, 0, "{:?}", read.examples);
    make_class(&cluster, CLASS)?;
    ring.wait_settled(2, WHOLE_WITHIN)?;
    for target in &targets {
        let read = Load::run(&["verify", "--target", target, "--keys", KEYS])?;
        assert_eq!(read.wrong, 0, "through {target}: {:?}", read.examples);
    }
    namespace.delete(WHOLE_WITHIN)?;
    delete_class(&cluster, CLASS)
}

/// The reasons of what is wrong with a node, as the ring's status has it.
fn findings(ring: &Ring, node: &str) -> Result<Vec<String>> {
    let ring = ring.get()?;
    let racks = ring["status"]["racks"].as_array().into_iter().flatten();
    let mut nodes = racks.flat_map(|rack| rack["nodes"].as_array().into_iter().flatten());
    let found = nodes.find(|found| found["name"] == node);
    let list = found.and_then(|found| found["findings"].as_array());
    Ok(list
        .into_iter()
        .flatten()
        .filter_map(|finding| finding["reason"].as_str().map(str::to_owned))
        .collect())
}

#[test]
fn full_disk_is_told_costs_no_write_and_heals_with_room() -> Result<()> {
    const CLASS: &str = "e2e-small";
    // In short runs chaos fills disks.
    if !long() {
        return Ok(());
    }
    let cluster = Cluster::from_env()?;
    Operator::ensure(&cluster)?;
    let disks = SmallDisks::make(&cluster, CLASS, 1, 48)?;
    let namespace = Namespace::create(&cluster, "e2e-full")?;
    let ring = Ring::manifest(&cluster, &namespace, &manifest("full", 3, CLASS))?;
    ring.wait_settled(3, WHOLE_WITHIN)?;
    let targets = ring.rack_targets()?;
    Load::run(&["fill", "--target", &targets[0], "--keys", KEYS])?;
    let all = targets.join(",");
    let writer = Load::hammer(&all, "full")?;
    let victim = "full-dc1-b-0";
    let uids = ring.pod_uids()?;
    disk::fill(&uids[victim])?;
    wait_for("the full disk to be told", TOLD_WITHIN, || {
        let found = findings(&ring, victim)?;
        let told = found.iter().any(|reason| reason == "StoreCannotSave");
        Ok(if told {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    disk::free(&uids[victim])?;
    ring.wait_settled(3, WHOLE_WITHIN)?;
    let wrote = writer.stop()?;
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    wait_for("the replicas to be level", WHOLE_WITHIN, || {
        let mut counts = Vec::new();
        for pod in uids.keys() {
            counts.push(ring.redis_cli(pod, &["dbsize"])?);
        }
        let level = ring.condition("ReplicasLevel")?;
        // Netflix's engine does not number writes: nobody can say more than the stores.
        let told = level.0 == "True" || level.1 == "NotNumbered";
        let same = counts.iter().all(|count| count == &counts[0]);
        Ok(if same && told {
            Ok(())
        } else {
            Err(format!("{counts:?}, {level:?}"))
        })
    })?;
    for target in &targets {
        let read = Load::run(&["verify", "--target", target, "--keys", KEYS])?;
        ensure!(read.wrong == 0, "through {target}: {:?}", read.examples);
    }
    namespace.delete(WHOLE_WITHIN)?;
    drop(disks);
    Ok(())
}
