//! A ring that the tests of one file share, because making one takes most of their time.

use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::{Cluster, Load, Namespace, Operator, Ring};

/// A ring by `deploy/examples/three-zones.yaml`, filled with keys.
#[derive(Debug)]
pub struct SharedRing {
    /// The cluster it is in.
    pub cluster: Cluster,
    /// The operator that sees to it.
    pub operator: Operator,
    /// The namespace it is in.
    pub namespace: Namespace,
}

impl SharedRing {
    /// The ring in `cell`, made in a namespace of its own and filled with
    /// `keys` keys when it is asked for first.
    pub fn get<'a>(cell: &'a OnceLock<Self>, namespace: &str, keys: &str) -> Result<&'a Self> {
        if cell.get().is_none() {
            let cluster = Cluster::from_env()?;
            let operator = Operator::ensure(&cluster)?;
            let namespace = Namespace::create(&cluster, namespace)?;
            let shared = cell.get_or_init(|| Self {
                cluster,
                operator,
                namespace,
            });
            let targets = shared.ring()?.rack_targets()?;
            Load::run(&["fill", "--target", &targets[0], "--keys", keys])?;
        }
        cell.get().context("the ring could not be made")
    }

    /// The ring as the example has it, once it is Ready.
    pub fn ring(&self) -> Result<Ring<'_>> {
        let ring = Ring::example(&self.cluster, &self.namespace, "three-zones.yaml")?;
        ring.wait_ready()?;
        Ok(ring)
    }

    /// kubectl in the ring's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.namespace.name.as_str()];
        all.extend(args);
        self.cluster.kubectl(&all)
    }
}
