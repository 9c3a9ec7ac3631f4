//! The operator as its users install it: by helm.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, run, variable};
use crate::wait_for;

/// The namespace of the release.
pub const NAMESPACE: &str = "dynomite-system";
/// The name of the release.
pub const RELEASE: &str = "dynomite";
/// How long an operator may take to come up.
const READY_WITHIN: Duration = Duration::from_mins(3);

/// The installed operator. It stays: the next test finds it.
#[derive(Clone, Debug)]
pub struct Operator {
    cluster: Cluster,
    helm: PathBuf,
    chart: PathBuf,
}

impl Operator {
    /// Installs the operator from the chart of this repository, or finds it installed.
    pub fn ensure(cluster: &Cluster) -> Result<Self> {
        let operator = Self {
            cluster: cluster.clone(),
            helm: variable("DYNOMITE_E2E_HELM")?.into(),
            chart: PathBuf::from(variable("DYNOMITE_E2E_ROOT")?).join("charts/dynomite-operator"),
        };
        let namespace = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
        );
        cluster.apply("default", &namespace)?;
        operator.upgrade(&[])?;
        Ok(operator)
    }

    /// `helm upgrade --install`, with further values as `name=value`.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        let image = variable("DYNOMITE_E2E_OPERATOR_IMAGE")?;
        let engine = variable("DYNOMITE_E2E_ENGINE_IMAGE")?;
        let (repository, tag) = image.rsplit_once(':').context("the image has a tag")?;
        let mut command = self.helm();
        command
            .args(["upgrade", "--install", RELEASE])
            .arg(&self.chart);
        command.args(["--namespace", NAMESPACE]);
        // The API tests apply the definition by itself, as some users do.
        command.args(["--take-ownership", "--force-conflicts"]);
        for value in [
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
            format!("engineImage={engine}"),
        ] {
            command.arg("--set").arg(value);
        }
        for value in values {
            command.args(["--set", value]);
        }
        let output = run(command, None)?;
        ensure!(output.success, "helm upgrade: {}", output.stderr);
        self.wait_available()
    }

    /// Waits until the Deployment has rolled out.
    pub fn wait_available(&self) -> Result<()> {
        let limit = format!("--timeout={}s", READY_WITHIN.as_secs());
        let name = self.deployment()?;
        self.cluster
            .kubectl(&["rollout", "status", "-n", NAMESPACE, &name, &limit])
            .map(drop)
    }

    /// The operator's Deployment, as `deployment/<name>`.
    pub fn deployment(&self) -> Result<String> {
        let list = self.cluster.json(&["get", "deployment", "-n", NAMESPACE])?;
        let name = list["items"][0]["metadata"]["name"].as_str();
        Ok(format!(
            "deployment/{}",
            name.context("there is no Deployment")?
        ))
    }

    /// Sets the number of operators, and waits until they are there or gone.
    pub fn scale(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.cluster
            .kubectl(&["scale", "-n", NAMESPACE, &self.deployment()?, &count])?;
        wait_for("the operators to be there or gone", READY_WITHIN, || {
            let pods = self.cluster.json(&["get", "pods", "-n", NAMESPACE])?;
            let running = pods["items"].as_array().map_or(0, Vec::len);
            Ok(if running == replicas as usize {
                Ok(())
            } else {
                Err(format!("{running} pods"))
            })
        })?;
        if replicas > 0 {
            self.wait_available()
        } else {
            Ok(())
        }
    }

    /// The operator's log.
    pub fn log(&self) -> Result<String> {
        self.cluster
            .kubectl(&["logs", "-n", NAMESPACE, &self.deployment()?, "--tail=200"])
    }

    /// The operator's pods.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let pods = self.cluster.json(&["get", "pods", "-n", NAMESPACE])?;
        Ok(pods["items"].as_array().cloned().unwrap_or_default())
    }

    /// The sum of an operator's metric over its samples with all of these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let mut sum = 0.0;
        for pod in self.pods()? {
            let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics");
            let text = self.cluster.kubectl(&["get", "--raw", &path])?;
            let samples = text.lines().filter(|line| {
                let of_metric = line.strip_prefix(name).is_some_and(|l| l.starts_with('{'));
                of_metric && wanted.iter().all(|label| line.contains(label))
            });
            for sample in samples {
                let value = sample.rsplit(' ').next().unwrap_or_default();
                sum += value.parse::<f64>().with_context(|| sample.to_owned())?;
            }
        }
        Ok(sum)
    }

    /// helm, set to this cluster.
    pub fn helm(&self) -> Command {
        let mut command = Command::new(&self.helm);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command
    }
}
