//! Where a node's data lies.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the data of each node lies, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.medium == oldSelf.medium").message("storage.medium cannot be changed: create a second cluster and let it warm up as a rack, or restore a backup into it"),
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0").message("storage.size cannot shrink: Kubernetes volumes only grow; keep the size or choose a larger one"),
    validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)").message("storage.className cannot be changed for volumes that exist: keep it, or create a second cluster with the class you want")
)]
pub struct StorageSpec {
    /// `Volume` gives each node a PersistentVolumeClaim; `None` keeps the data
    /// in memory only.
    #[serde(default)]
    pub medium: StorageMedium,
    /// Size of each node's volume. It can grow later, never shrink.
    #[serde(default = "default_size")]
    #[x_kube(validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))").message("storage.size must be a quantity above zero, such as 10Gi"))]
    pub size: Quantity,
    /// The StorageClass of the volumes; the cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// What becomes of the volumes when the DynomiteCluster is deleted:
    /// `Retain` keeps them, and a cluster of the same name takes them up again;
    /// `Delete` deletes them with it.
    #[serde(default)]
    pub retention: Retention,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            medium: StorageMedium::default(),
            size: default_size(),
            class_name: None,
            retention: Retention::default(),
        }
    }
}

fn default_size() -> Quantity {
    Quantity("10Gi".into())
}

/// What the data lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageMedium {
    /// A PersistentVolumeClaim per node.
    #[default]
    Volume,
    /// Memory only: what all replicas of a token lose is lost.
    None,
}

/// What becomes of volumes when their cluster is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    /// They stay.
    #[default]
    Retain,
    /// They go with it.
    Delete,
}
