//! The operator as a release: with Roles only, uninstalled and installed again around a ring that lives on.

use std::time::Duration;

use anyhow::{Result, ensure};
use dynomite_e2e::cluster::run;
use dynomite_e2e::operator::{NAMESPACE, RELEASE};
use dynomite_e2e::{Cluster, Namespace, Operator, Ring, wait_for};
use serde_json::json;

/// The smallest ring with a replica: two racks of one node, in memory.
const SMALL: &str = r"
apiVersion: dynomite.io/v1alpha1
kind: DynomiteCluster
metadata: {name: small}
spec:
  nodesPerRack: 1
  racks: [{name: dc1-a, zone: zone-a}, {name: dc1-b, zone: zone-b}]
  storage: {medium: None}
";

#[test]
fn roles_only_run_the_rings_of_the_named_namespaces() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let watched = Namespace::create(&cluster, "e2e-watched")?;
    let other = Namespace::create(&cluster, "e2e-unwatched")?;
    operator.upgrade(&[&format!("watch.namespaces={{{}}}", watched.name)])?;
    let roles = cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"])?;
    assert!(
        !roles.contains("dynomite-operator"),
        "a release for namespaces has cluster-wide rights: {roles}"
    );
    let ring = Ring::manifest(&cluster, &watched, SMALL)?;
    let ignored = Ring::manifest(&cluster, &other, SMALL)?;
    ring.wait_ready()?;
    assert!(
        ignored.get()?["status"].is_null(),
        "a ring elsewhere is left alone"
    );
    // All namespaces again, for whoever comes next.
    operator.upgrade(&[])?;
    ignored.wait_ready()
}

#[test]
fn ring_lives_on_while_the_release_is_gone() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, "e2e-release")?;
    let ring = Ring::manifest(&cluster, &namespace, SMALL)?;
    ring.wait_ready()?;
    let pods = ring.pod_uids()?;
    let mut uninstall = operator.helm();
    uninstall.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]);
    let output = run(uninstall, None)?;
    ensure!(output.success, "helm uninstall: {}", output.stderr);
    // The definition has a keep policy: without it the rings would be deleted.
    assert_eq!(ring.pod_uids()?, pods);
    assert_eq!(ring.endpoints(&ring.name)?.len(), 2);
    let operator = Operator::ensure(&cluster)?;
    ring.patch(&json!({"spec": {"consistency": {"read": "DC_ONE"}, "pod": {"annotations": {}}}}))?;
    wait_for(
        "the new release to look after the ring",
        Duration::from_mins(1),
        || {
            let ring = ring.get()?;
            let seen = ring["status"]["observedGeneration"] == ring["metadata"]["generation"];
            Ok(if seen {
                Ok(())
            } else {
                Err(ring["status"].to_string())
            })
        },
    )
    .map_err(|error| error.context(operator.log().unwrap_or_default()))?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, pods, "no pod was restarted");
    Ok(())
}
