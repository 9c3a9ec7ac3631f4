//! How long a ring takes to come up, beside bare pods of the same images.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dynomite_e2e::cluster::variable;
use dynomite_e2e::{Cluster, Namespace, Operator, Ring, wait_for};

/// In a long run each is measured so often, in turn, and the medians are
/// compared; a short run measures once, which is too little to judge a ratio.
const ROUNDS: usize = 3;
/// How much longer than bare pods a ring may take.
const RATIO: f64 = 1.5;
/// What a ring may cost the operator until it is Ready, seconds: all its passes
/// with their calls to the API server, but for the time the nodes take to answer.
const OWN_SHARE: f64 = 2.0;
/// Within what time either is up.
const LIMIT: Duration = Duration::from_mins(1);

/// Six pods with the containers, volumes and probes of a ring's pods, and
/// nobody who tells them anything.
fn bare(image: &str, store: &str) -> String {
    let security = "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}";
    format!(
        r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: bare}}
spec:
  serviceName: bare
  replicas: 6
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: bare}}}}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
  template:
    metadata: {{labels: {{app: bare}}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: bare}}}}}}
      initContainers:
      - name: sidecar
        image: {image}
        restartPolicy: Always
        command: [dynomite-sidecar, launch, sidecar]
        startupProbe: {{httpGet: {{path: /livez, port: 8080}}, periodSeconds: 1, failureThreshold: 60}}
        securityContext: {security}
        volumeMounts: [{{name: run, mountPath: /run/dynomite}}, {{name: data, mountPath: /data}}]
      containers:
      - name: store
        image: {store}
        command: [redis-server, --dir, /data]
        readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}
        securityContext: {security}
        volumeMounts: [{{name: data, mountPath: /data}}]
      - name: dynomite
        image: {image}
        command: [dynomite-sidecar, launch, dynomite, --, dynomite]
        securityContext: {security}
        volumeMounts: [{{name: run, mountPath: /run/dynomite}}]
      volumes: [{{name: run, emptyDir: {{}}}}]
"
    )
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What the operator has spent on the ring so far, seconds.
fn share(operator: &Operator, namespace: &Namespace) -> Result<f64> {
    let labels = [("namespace", namespace.name.as_str()), ("part", "own")];
    let share = operator.metric("dynomite_cluster_reconcile_seconds_total", &labels)?;
    anyhow::ensure!(share > 0.0, "the operator has not counted its time");
    Ok(share)
}

#[test]
fn ring_comes_up_about_as_fast_as_bare_pods() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let image = variable("DYNOMITE_E2E_OPERATOR_IMAGE")?;
    let (mut rings, mut bares, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let long = dynomite_e2e::long();
    for round in 0..if long { ROUNDS } else { 1 } {
        let namespace = Namespace::create(&cluster, &format!("e2e-bare-{round}"))?;
        let begin = Instant::now();
        cluster.apply(&namespace.name, &bare(&image, "docker.io/valkey/valkey:8"))?;
        wait_for("the bare pods", LIMIT, || {
            let path = "jsonpath={.status.readyReplicas}";
            let args = [
                "get",
                "statefulset",
                "bare",
                "-n",
                &namespace.name,
                "-o",
                path,
            ];
            let ready = cluster.kubectl(&args)?;
            Ok(if ready == "6" { Ok(()) } else { Err(ready) })
        })?;
        bares.push(begin.elapsed().as_secs_f64());
        namespace.delete(LIMIT)?;

        let namespace = Namespace::create(&cluster, &format!("e2e-startup-{round}"))?;
        let begin = Instant::now();
        let ring = Ring::example(&cluster, &namespace, "three-zones.yaml")?;
        ring.wait_ready()?;
        rings.push(begin.elapsed().as_secs_f64());
        shares.push(share(&operator, &namespace)?);
        namespace.delete(LIMIT * 2)?;
    }
    let (ring, bare) = (median(rings.clone()), median(bares.clone()));
    println!(
        "ring {rings:.1?} s, bare pods {bares:.1?} s, ratio {:.2}; the operator's own share {shares:.2?} s",
        ring / bare
    );
    let share = median(shares);
    // Once, on a machine that builds something beside it, is too little to judge.
    assert!(
        !long || share <= OWN_SHARE,
        "the operator took {share:.2} s for itself"
    );
    assert!(ring < LIMIT.as_secs_f64(), "{ring} s");
    assert!(
        !long || ring <= bare * RATIO,
        "a ring took {ring:.1} s, bare pods {bare:.1} s"
    );
    operator.log().map(drop).context("the operator lives")
}
