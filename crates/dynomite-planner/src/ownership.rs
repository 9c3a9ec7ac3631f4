//! Whose is an object? By the UID of its controller; names and labels only count where there is none.

use dynomite_api::annotations::{FIELD_MANAGER, LABEL_INSTANCE, LABEL_MANAGED_BY};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::cluster::Cluster;
use crate::plan::Kind;
use crate::wait::Wait;

/// Whether the operator may write an object that has one of this cluster's names.
pub fn is_ours(cluster: &Cluster, kind: Kind, metadata: &ObjectMeta) -> bool {
    obstacle(cluster, kind, metadata).is_none()
}

/// The ring whose instance label an object carries, if it is another than this one.
pub fn other_ring<'a>(cluster: &Cluster, metadata: &'a ObjectMeta) -> Option<&'a str> {
    let ring = metadata.labels.as_ref()?.get(LABEL_INSTANCE)?;
    (*ring != cluster.id.name).then_some(ring.as_str())
}

/// Why an object that has one of our names must not be touched; `None` when it is ours.
pub(crate) fn obstacle(cluster: &Cluster, kind: Kind, metadata: &ObjectMeta) -> Option<Wait> {
    let name = metadata.name.clone().unwrap_or_default();
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) if owner.uid == cluster.id.uid => None,
        Some(owner) if is_predecessor(cluster, owner) => Some(Wait::PreviousOwner { kind, name }),
        Some(owner) => Some(Wait::NameTaken {
            kind,
            name,
            owner: format!("it belongs to {} {}", owner.kind, owner.name),
        }),
        None if is_labelled(cluster, metadata) => None,
        None => Some(Wait::NameTaken {
            kind,
            name,
            owner: other_ring(cluster, metadata).map_or_else(
                || "somebody else made it".to_owned(),
                |ring| format!("it belongs to ring {ring}"),
            ),
        }),
    }
}

/// Whether the owner was a cluster of the same name: Kubernetes collects what
/// it left behind.
fn is_predecessor(cluster: &Cluster, owner: &OwnerReference) -> bool {
    owner.kind == "DynomiteCluster" && owner.name == cluster.id.name
}

/// Whether an object without a controller carries our labels: its owner was
/// removed by hand, or it never had one.
fn is_labelled(cluster: &Cluster, metadata: &ObjectMeta) -> bool {
    let label = |key: &str| metadata.labels.as_ref().and_then(|l| l.get(key));
    label(LABEL_INSTANCE) == Some(&cluster.id.name)
        && label(LABEL_MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER)
}
