//! A rack's StatefulSet: the operator decides when a pod goes, Kubernetes that it comes back.

use std::collections::BTreeMap;

use dynomite_api::annotations::{ANNOTATION_IMAGES, COMPONENT_NODE, LABEL_COMPONENT};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Images, owned, pod, seal, selector};
use crate::cluster::{CLAIM, Cluster, Rack};
use crate::observed::Observed;

/// Old revisions that are kept: enough to see what a roll came from.
const REVISIONS: i32 = 3;

/// The `StatefulSet` of a rack.
///
/// What cannot be changed and what must not change by itself is taken from the
/// one that exists: the size in the claim template, and the default images.
pub(crate) fn stateful_set(cluster: &Cluster, observed: &Observed, rack: &Rack) -> StatefulSet {
    let images = Images::of_rack(cluster, observed, &rack.name);
    let name = cluster.rack_name(&rack.name);
    let existing = observed.stateful_sets.get(&name);
    let mut metadata = owned(cluster, name, Some(&rack.name));
    // A struct of strings always serialises.
    let text = serde_json::to_string(&images).unwrap_or_default();
    metadata.annotations = Some(super::pairs([(ANNOTATION_IMAGES, &text)]));
    if let Some(labels) = &mut metadata.labels {
        labels.insert(LABEL_COMPONENT.to_owned(), COMPONENT_NODE.to_owned());
    }
    let set = StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: i32::try_from(cluster.tokens.len()).ok(),
            service_name: Some(cluster.nodes_service()),
            selector: LabelSelector {
                match_labels: Some(selector(cluster, Some(&rack.name))),
                ..LabelSelector::default()
            },
            // All nodes of a ring come up together and wait for each other.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Retain".to_owned()),
                    when_scaled: Some("Retain".to_owned()),
                },
            ),
            min_ready_seconds: Some(0),
            revision_history_limit: Some(REVISIONS),
            template: pod::template(cluster, rack, &images),
            volume_claim_templates: cluster
                .has_volumes()
                .then(|| vec![claim_template(cluster, &rack.name, existing)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    };
    seal(set, |o| &mut o.metadata)
}

fn claim_template(
    cluster: &Cluster,
    rack: &str,
    existing: Option<&StatefulSet>,
) -> PersistentVolumeClaim {
    let size = existing
        .and_then(template_size)
        .unwrap_or_else(|| cluster.storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CLAIM.to_owned()),
            labels: Some(selector(cluster, Some(rack))),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.storage.class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The size a `StatefulSet` asks for each new volume.
fn template_size(set: &StatefulSet) -> Option<Quantity> {
    let claim = set
        .spec
        .as_ref()?
        .volume_claim_templates
        .as_ref()?
        .first()?;
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").cloned()
}
