//! A namespace of a test's own, in which the restricted Pod Security level is enforced.

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
    /// Makes the namespace.
    pub fn create(cluster: &Cluster, name: &str) -> Result<Self> {
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

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("namespace {} is left as it is, to be looked at", self.name);
            return;
        }
        let gone = self
            .cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        if let Err(error) = gone {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}
