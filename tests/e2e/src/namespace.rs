//! A namespace of a test's own, in which the restricted Pod Security level is enforced.

use std::time::Duration;

use anyhow::Result;

use crate::Cluster;

/// A namespace that goes away with the test, unless the test fails: then it
/// stays to be looked at.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Makes the namespace; what an earlier run left of it goes first.
    pub fn create(cluster: &Cluster, name: &str) -> Result<Self> {
        cluster.kubectl(&[
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout=120s",
        ])?;
        let manifest = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
        );
        cluster.apply("default", &manifest)?;
        Ok(Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
        })
    }
}

impl Namespace {
    /// Deletes the namespace and all that is in it, and waits until it is gone.
    pub fn delete(&self, limit: Duration) -> Result<()> {
        let limit = format!("--timeout={}s", limit.as_secs());
        let args = [
            "delete",
            "namespace",
            &self.name,
            "--ignore-not-found",
            &limit,
        ];
        self.cluster.kubectl(&args).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("namespace {} is left as it is, to be looked at", self.name);
            return;
        }
        let gone = self.cluster.kubectl(&[
            "delete",
            "namespace",
            &self.name,
            "--wait=false",
            "--ignore-not-found",
        ]);
        if let Err(error) = gone {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}
