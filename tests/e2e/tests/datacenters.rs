//! Two datacenters that replicate both ways, one of them cut off and back, followed by its describing URL, and never a copy from afar.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dynomite_e2e::cluster::variable;
use dynomite_e2e::harm::{self, CutOff, STORE};
use dynomite_e2e::ring::{READY_WITHIN, said};
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, wait_for};
use serde_json::json;

const NAMESPACE: &str = "e2e-datacenters";
/// Within what time a write, or a node, is known everywhere.
const REPLICATED_WITHIN: Duration = Duration::from_mins(1);
const FAR: &str = "far-dc2-a-0";

/// The keys a node's own store has, of those that begin with a word; either ring
/// knows the pods of both.
fn keys(ring: &Ring, pod: &str, word: &str) -> Result<BTreeSet<String>> {
    let text = ring.redis_cli(pod, &["keys", &format!("{word}:*")])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Writes through a ring for a moment.
fn write(ring: &Ring, word: &str) -> Result<u64> {
    let targets = ring.rack_targets()?.join(",");
    let args = ["hammer", "--targets", &targets, "--prefix", word];
    let load = Load::start(&[&args[..], &["--seconds", "2"]].concat())?;
    let tally = load.end_of_itself()?;
    assert_eq!((tally.failed, tally.lost), (0, 0), "{:?}", tally.examples);
    Ok(tally.acknowledged)
}

fn wait_level(ring: &Ring, from: &str, to: &str, word: &str) -> Result<usize> {
    wait_for(
        &format!("{to} to have what {from} has of {word}"),
        REPLICATED_WITHIN,
        || {
            let (there, here) = (keys(ring, from, word)?, keys(ring, to, word)?);
            Ok(if !there.is_empty() && there == here {
                Ok(there.len())
            } else {
                Err(format!("{} keys there, {} here", there.len(), here.len()))
            })
        },
    )
}

#[test]
fn two_datacenters_replicate_and_never_copy_from_afar() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let _operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, NAMESPACE)?;
    let path = format!(
        "{}/deploy/examples/two-datacenters.yaml",
        variable("DYNOMITE_E2E_ROOT")?
    );
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let text = text.replace(".default.svc", &format!(".{NAMESPACE}.svc"));
    let (near, far) = text.split_once("---\n").context("two documents")?;
    let near = Ring::manifest(&cluster, &namespace, near)?;
    let far = Ring::manifest(&cluster, &namespace, far)?;
    near.wait_ready()?;
    far.wait_ready()?;

    // Until each has found the other, a write reaches its own datacenter only.
    wait_for(
        "the datacenters to find each other",
        REPLICATED_WITHIN,
        || {
            write(&near, "hello")?;
            Ok(if keys(&near, FAR, "hello")?.is_empty() {
                Err("nothing has come over")
            } else {
                Ok(())
            }
            .map_err(str::to_owned))
        },
    )?;
    write(&near, "out")?;
    wait_level(&near, "near-dc1-a-0", FAR, "out")?;
    write(&far, "back")?;
    for node in ["near-dc1-a-0", "near-dc1-b-0"] {
        wait_level(&near, FAR, node, "back")?;
    }

    {
        let _cut = CutOff::node("node3")?;
        far.wait_endpoint(FAR, false, Duration::from_mins(1))?;
        write(&near, "alone")?;
        near.wait_ready()?;
    }
    far.wait_ready()?;
    wait_for("writes to come over again", REPLICATED_WITHIN, || {
        write(&near, "again")?;
        let (there, here) = (
            keys(&near, "near-dc1-a-0", "again")?,
            keys(&near, FAR, "again")?,
        );
        Ok(if there == here {
            Ok(())
        } else {
            Err(format!("{} of {}", here.len(), there.len()))
        })
    })?;

    // A store that restarts takes what its own datacenter has, which is its own
    // volume: what it missed while it was cut off must not appear.
    let before = keys(&near, FAR, "alone")?;
    let uid = far.pod_uids()?[FAR].clone();
    harm::kill_and_see_others(&uid, STORE, REPLICATED_WITHIN)?;
    far.wait_ready()?;
    far.wait_endpoint(FAR, true, Duration::from_mins(1))?;
    assert_eq!(keys(&near, FAR, "alone")?, before, "it copied from afar");
    assert!(!keys(&near, FAR, "out")?.is_empty(), "its volume was read");
    follow(&cluster, &near, &far)?;
    namespace.delete(Duration::from_mins(2))
}

/// What a ring holds of the datacenter it follows: addresses, and whether it answers.
fn followed(ring: &Ring) -> Result<(BTreeSet<String>, String)> {
    let ring = ring.get()?;
    let nodes = ring["status"]["remoteDatacenters"][0]["nodes"].as_array();
    let addresses = nodes.into_iter().flatten();
    let addresses = addresses.filter_map(|node| node["address"].as_str().map(str::to_owned));
    Ok((addresses.collect(), said(&ring, "RemotesKnown").0))
}

fn wait_followed(near: &Ring, wanted: &BTreeSet<String>, answers: &str) -> Result<()> {
    wait_for("the other side to be followed", REPLICATED_WITHIN, || {
        let found = followed(near)?;
        Ok(if (&found.0, found.1.as_str()) == (wanted, answers) {
            Ok(())
        } else {
            Err(format!("{found:?}, and not {wanted:?}"))
        })
    })
    .map_err(|error| error.context(near.describe()))
}

/// The near ring knows the far one by its describing URL alone: a rack that is
/// added there and a pod that is replaced are found, and nothing is forgotten
/// when nobody answers.
fn follow(cluster: &Cluster, near: &Ring, far: &Ring) -> Result<()> {
    let url = |name: &str| {
        let host = format!("{name}.{NAMESPACE}.svc.cluster.local:8080");
        let describe = format!("http://{host}/REST/v1/admin/cluster_describe");
        json!({"spec": {"remoteDatacenters": [{"name": "dc2", "describe": describe}]}})
    };
    near.patch(&url("far"))?;
    wait_followed(near, &[far.address(FAR)?].into(), "True")?;

    let racks = [("dc2-a", "zone-c"), ("dc2-b", "zone-b")];
    let racks = racks.map(|(name, zone)| json!({"name": name, "zone": zone}));
    far.patch(&json!({"spec": {"racks": racks}}))?;
    far.wait_settled(2, READY_WITHIN)?;
    let other = far.address("far-dc2-b-0")?;
    let before = far.address(FAR)?;
    wait_followed(near, &[before.clone(), other.clone()].into(), "True")?;

    cluster.kubectl(&["delete", "pod", FAR, "-n", NAMESPACE])?;
    far.wait_settled(2, READY_WITHIN)?;
    let after = far.address(FAR)?;
    assert_ne!(before, after, "a new pod has a new address");
    let both = BTreeSet::from([after, other]);
    wait_followed(near, &both, "True")?;
    wait_for(
        "writes to reach both racks there",
        REPLICATED_WITHIN,
        || {
            write(near, "followed")?;
            let there = keys(near, "near-dc1-a-0", "followed")?;
            let here = [
                keys(near, FAR, "followed")?,
                keys(near, "far-dc2-b-0", "followed")?,
            ];
            Ok(if here.iter().all(|keys| *keys == there) {
                Ok(())
            } else {
                Err(format!(
                    "{} keys, there {:?}",
                    there.len(),
                    here.map(|h| h.len())
                ))
            })
        },
    )?;

    near.patch(&url("nobody"))?;
    wait_followed(near, &both, "False")?;
    assert_eq!(near.condition("Ready")?.0, "True");
    write(near, "unanswered")?;
    wait_level(near, "near-dc1-a-0", FAR, "unanswered").map(drop)
}
