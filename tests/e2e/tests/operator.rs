//! The operator as a release: with Roles only, uninstalled and installed again around a ring that lives on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::cluster::{run, variable};
use dynomite_e2e::harm;
use dynomite_e2e::operator::{NAMESPACE, RELEASE};
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring, wait_for};
use serde_json::json;

/// The smallest ring with a replica: two racks of one node, in memory.
const SMALL: &str = r"
apiVersion: dynomite.io/v1alpha1
kind: DynomiteCluster
metadata: {name: small}
spec:
  nodesPerRack: 1
  racks: [{name: dc1-a, zone: zone-a, tokens: [4000000000]}, {name: dc1-b, zone: zone-b, tokens: [4000000000]}]
  storage: {medium: None}
";
/// The token that it names.
const TOKEN: u64 = 4_000_000_000;
/// The Deployment of `deploy/operator.yaml`.
const PLAIN: &str = "deployment/dynomite-operator";

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
    let tokens: Vec<u64> = ring.tokens()?.into_values().collect();
    assert_eq!(tokens, [TOKEN, TOKEN], "the spec's tokens");
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
    with_the_plain_manifest(&cluster, &namespace)?;
    ring.wait_settled(2, Duration::from_mins(1))?;
    assert_eq!(ring.pod_uids()?, pods, "no pod was restarted");
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

/// `deploy/operator.yaml`, without Helm, makes the smallest example serve; and leaves.
fn with_the_plain_manifest(cluster: &Cluster, namespace: &Namespace) -> Result<()> {
    let path = Path::new(&variable("DYNOMITE_E2E_ROOT")?).join("deploy/operator.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let image = variable("DYNOMITE_E2E_OPERATOR_IMAGE")?;
    let text = text.replace("localhost/dynomite-operator:dev", &image);
    ensure!(text.contains(&image), "the manifest runs another image");
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let applied = cluster.try_kubectl(&apply, Some(&text))?;
    ensure!(applied.success, "kubectl apply: {}", applied.stderr);
    let served = serve_the_smallest_example(cluster, namespace);
    // The namespace stays: the next release is installed into it.
    let rest: Vec<&str> = text
        .split("---\n")
        .filter(|document| !document.contains("\nkind: Namespace\n"))
        .collect();
    let delete = ["delete", "--timeout=60s", "-f", "-"];
    let deleted = cluster.try_kubectl(&delete, Some(&rest.join("---\n")))?;
    ensure!(deleted.success, "kubectl delete: {}", deleted.stderr);
    served
}

fn serve_the_smallest_example(cluster: &Cluster, namespace: &Namespace) -> Result<()> {
    let rollout = ["rollout", "status", "-n", NAMESPACE, PLAIN, "--timeout=60s"];
    cluster.kubectl(&rollout)?;
    let single = Ring::example(cluster, namespace, "one-rack.yaml")?;
    single.wait_ready()?;
    let target = single.rack_targets()?.swap_remove(0);
    let filled = Load::run(&["fill", "--target", &target, "--keys", "500"])?;
    assert_eq!(filled.acknowledged, 500);
    // A volume is all that it has: nobody can be copied.
    let pod = "single-dc1-a-1";
    let uid = single.pod_uids()?[pod].clone();
    let keys = single.redis_cli(pod, &["dbsize"])?;
    let synced = single.redis_cli(pod, &["waitaof", "1", "0", "5000"])?;
    ensure!(
        synced.starts_with('1') || synced.contains("ERR"),
        "{synced}"
    );
    harm::kill_and_see_others(&uid, harm::STORE, Duration::from_secs(30))?;
    single.wait_endpoint(pod, true, Duration::from_mins(1))?;
    assert_eq!(single.redis_cli(pod, &["dbsize"])?, keys);
    cluster.kubectl(&[
        "delete",
        "dyn",
        "single",
        "-n",
        &namespace.name,
        "--timeout=60s",
    ])?;
    Ok(())
}
