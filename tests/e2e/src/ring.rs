//! A ring under test: its manifest, its pods, its endpoints, what its status says.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cluster::{Cluster, variable};
use crate::{Namespace, wait_for};

/// Where a node's store listens for its engine.
const STORE_SOCKET: &str = "/run/dynomite/store.sock";

/// How long a ring may take to become Ready.
pub const READY_WITHIN: Duration = Duration::from_mins(2);

/// A `DynomiteCluster` in a namespace of a test.
#[derive(Debug)]
pub struct Ring<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace,
    /// Its name.
    pub name: String,
}

impl<'a> Ring<'a> {
    /// Applies one of `deploy/examples`, word for word.
    pub fn example(cluster: &'a Cluster, namespace: &'a Namespace, file: &str) -> Result<Self> {
        let path = PathBuf::from(variable("DYNOMITE_E2E_ROOT")?)
            .join("deploy/examples")
            .join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::manifest(cluster, namespace, &text)
    }

    /// Applies a manifest.
    pub fn manifest(cluster: &'a Cluster, namespace: &'a Namespace, text: &str) -> Result<Self> {
        let document: Value = serde_yaml::from_str(text)?;
        let name = document["metadata"]["name"]
            .as_str()
            .context("the manifest has a name")?;
        cluster.apply(&namespace.name, text)?;
        Ok(Self {
            cluster,
            namespace,
            name: name.to_owned(),
        })
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace.name
    }

    /// The resource as it is.
    pub fn get(&self) -> Result<Value> {
        self.cluster
            .json(&["get", "dyn", &self.name, "-n", self.namespace()])
    }

    /// Lays a merge patch over the resource.
    pub fn patch(&self, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let args = [
            "patch",
            "dyn",
            &self.name,
            "-n",
            self.namespace(),
            "--type=merge",
            "-p",
            &patch,
        ];
        self.cluster.kubectl(&args).map(drop)
    }

    /// Waits as a user would, with `kubectl wait`; tells what the ring says when it is not Ready in time.
    pub fn wait_ready(&self) -> Result<()> {
        let limit = format!("--timeout={}s", READY_WITHIN.as_secs());
        let ring = format!("dyn/{}", self.name);
        let args = [
            "wait",
            "--for=condition=Ready",
            &limit,
            &ring,
            "-n",
            self.namespace(),
        ];
        let output = self.cluster.try_kubectl(&args, None)?;
        if output.success {
            return Ok(());
        }
        bail!("{}\n{}", output.stderr.trim(), self.describe())
    }

    /// Everything a person would look at first.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for args in [
            &["describe", "dyn", &self.name, "-n", self.namespace()][..],
            &["get", "pods", "-o", "wide", "-n", self.namespace()][..],
            &[
                "get",
                "events",
                "-n",
                self.namespace(),
                "--sort-by=.lastTimestamp",
            ][..],
        ] {
            let said = self.cluster.kubectl(args);
            text += &said.unwrap_or_else(|error| format!("{error:#}"));
            text.push('\n');
        }
        text
    }

    /// The newest lines that a pod's containers have said.
    pub fn logs(&self, pod: &str) -> String {
        let namespace = self.namespace();
        let what = ["--all-containers", "--prefix", "--timestamps", "--tail=100"];
        let mut args = vec!["logs", pod, "-n", namespace];
        args.extend(what);
        let said = self.cluster.kubectl(&args);
        said.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The status of a condition (True, False, Unknown, or empty when it is not
    /// there), its reason and its message.
    pub fn condition(&self, kind: &str) -> Result<(String, String, String)> {
        Ok(said(&self.get()?, kind))
    }

    /// Waits until the ring is not Ready for a reason, in a message that has a word.
    pub fn wait_unready(&self, reason: &str, word: &str, limit: Duration) -> Result<()> {
        wait_for(&format!("the ring to say {reason}"), limit, || {
            let ready = self.condition("Ready")?;
            let told = ready.0 != "True" && ready.1 == reason && ready.2.contains(word);
            Ok(if told {
                Ok(())
            } else {
                Err(format!("{ready:?}"))
            })
        })
        .map_err(|error| error.context(self.describe()))
    }

    /// Waits until the ring is Ready with so many pods, all of them endpoints, and does nothing more.
    pub fn wait_settled(&self, pods: usize, limit: Duration) -> Result<()> {
        wait_for("the ring to be as declared", limit, || {
            let endpoints = self.endpoints(&self.name)?.len();
            let now = self.pods()?.len();
            let ring = self.get()?;
            let (ready, reconciling) = (said(&ring, "Ready"), said(&ring, "Reconciling"));
            let seen = ring["status"]["observedGeneration"] == ring["metadata"]["generation"];
            let settled = ready.0 == "True" && reconciling.0 == "False" && seen;
            Ok(if settled && endpoints == pods && now == pods {
                Ok(())
            } else {
                Err(format!(
                    "{now} pods, {endpoints} endpoints, {ready:?}, {reconciling:?}"
                ))
            })
        })
        .map_err(|error| error.context(self.describe()))
    }

    /// Runs redis-cli in a node's store, past its engine, and gives back what it prints.
    pub fn redis_cli(&self, pod: &str, args: &[&str]) -> Result<String> {
        let exec = ["exec", pod, "-n", self.namespace(), "-c", "store", "--"];
        let all = [&exec[..], &["redis-cli", "-s", STORE_SOCKET], args].concat();
        Ok(self.cluster.kubectl(&all)?.trim().to_owned())
    }

    /// Token by node name, as status has it.
    pub fn tokens(&self) -> Result<BTreeMap<String, u64>> {
        let ring = self.get()?;
        let racks = ring["status"]["racks"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let nodes = racks
            .iter()
            .flat_map(|rack| rack["nodes"].as_array().cloned().unwrap_or_default());
        Ok(nodes
            .filter_map(|node| Some((node["name"].as_str()?.to_owned(), node["token"].as_u64()?)))
            .collect())
    }

    /// The ring's pods.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let pods = self
            .cluster
            .json(&["get", "pods", "-n", self.namespace(), "-l", &selector])?;
        Ok(pods["items"].as_array().cloned().unwrap_or_default())
    }

    /// UID by pod name.
    pub fn pod_uids(&self) -> Result<BTreeMap<String, String>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(self
            .pods()?
            .iter()
            .map(|pod| {
                (
                    text(&pod["metadata"]["name"]),
                    text(&pod["metadata"]["uid"]),
                )
            })
            .collect())
    }

    /// A pod's address.
    pub fn address(&self, pod: &str) -> Result<String> {
        let pod = self
            .cluster
            .json(&["get", "pod", pod, "-n", self.namespace()])?;
        let address = pod["status"]["podIP"].as_str();
        Ok(address.context("the pod has no address")?.to_owned())
    }

    /// Names of the pods that are ready endpoints of a Service.
    pub fn endpoints(&self, service: &str) -> Result<Vec<String>> {
        let selector = format!("kubernetes.io/service-name={service}");
        let slices = self.cluster.json(&[
            "get",
            "endpointslices",
            "-n",
            self.namespace(),
            "-l",
            &selector,
        ])?;
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Waits until a pod is, or is not, a ready endpoint of the ring's Service.
    pub fn wait_endpoint(&self, pod: &str, there: bool, limit: Duration) -> Result<()> {
        let what = format!(
            "{pod} to be {} the endpoints",
            if there { "among" } else { "gone from" }
        );
        wait_for(&what, limit, || {
            let names = self.endpoints(&self.name)?;
            let found = names.iter().any(|name| name == pod);
            Ok(if found == there {
                Ok(())
            } else {
                Err(format!("endpoints: {}", names.join(" ")))
            })
        })
        .map_err(|error| error.context(self.describe()))
    }

    /// The addresses of the racks' Services, with the client port. Addresses
    /// and not names: the name server may be in the zone that is cut off.
    pub fn rack_targets(&self) -> Result<Vec<String>> {
        let ring = self.get()?;
        let racks = ring["spec"]["racks"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut targets = Vec::new();
        for rack in racks.iter().filter_map(|rack| rack["name"].as_str()) {
            let service = format!("{}-{rack}", self.name);
            let path = "jsonpath={.spec.clusterIP}";
            let args = [
                "get",
                "service",
                &service,
                "-n",
                self.namespace(),
                "-o",
                path,
            ];
            targets.push(format!("{}:8102", self.cluster.kubectl(&args)?));
        }
        Ok(targets)
    }
}

/// What a resource that was read says of a condition: status, reason and message.
pub fn said(ring: &Value, kind: &str) -> (String, String, String) {
    let found = ring["status"]["conditions"]
        .as_array()
        .and_then(|list| list.iter().find(|c| c["type"] == kind));
    let text = |field: &str| {
        let value = found.and_then(|c| c[field].as_str());
        value.unwrap_or_default().to_owned()
    };
    (text("status"), text("reason"), text("message"))
}
