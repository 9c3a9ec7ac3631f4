//! A Service's endpoints, watched: what is gone for a moment only is seen too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::Cluster;

/// What the API server says of a Service's endpoints, as it changes.
#[derive(Debug)]
pub struct EndpointWatch {
    child: Child,
    changes: Receiver<(Instant, Value)>,
    /// Ready pods by slice: a Service may have several.
    ready: BTreeMap<String, BTreeSet<String>>,
}

impl EndpointWatch {
    /// Watches a Service; returns once `pod` was seen among its ready endpoints.
    pub fn start(
        cluster: &Cluster,
        namespace: &str,
        service: &str,
        pod: &str,
        limit: Duration,
    ) -> Result<Self> {
        let selector = format!("kubernetes.io/service-name={service}");
        let args = ["get", "endpointslices", "-n", namespace, "-l", &selector];
        let mut child = cluster
            .command(&args)
            .args(["--watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("kubectl has an output")?;
        let (seen, changes) = channel();
        thread::spawn(move || {
            let slices = serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter();
            for slice in slices.map_while(Result::ok) {
                if seen.send((Instant::now(), slice)).is_err() {
                    break;
                }
            }
        });
        let mut watch = Self {
            child,
            changes,
            ready: BTreeMap::new(),
        };
        watch.wait(pod, true, limit)?;
        Ok(watch)
    }

    /// Waits until the pod is, or is not, a ready endpoint; gives the moment at which that was told.
    pub fn wait(&mut self, pod: &str, there: bool, limit: Duration) -> Result<Instant> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((at, slice)) = self.changes.recv_timeout(left) else {
                bail!(
                    "waited {} s for {pod} to be {} the endpoints, which are {:?}",
                    limit.as_secs(),
                    if there { "among" } else { "gone from" },
                    self.ready
                );
            };
            self.take(&slice);
            if self.ready.values().any(|names| names.contains(pod)) == there {
                return Ok(at);
            }
        }
    }

    fn take(&mut self, slice: &Value) {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
        let ready = endpoints
            .iter()
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned))
            .collect();
        self.ready.insert(name.to_owned(), ready);
    }
}

impl Drop for EndpointWatch {
    fn drop(&mut self) {
        // It may have ended by itself with the API server; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
