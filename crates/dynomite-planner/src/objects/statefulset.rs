//! A rack's StatefulSet: the operator decides when a pod goes, Kubernetes that it comes back.

use std::collections::BTreeMap;

use dynomite_api::annotations::{
    ANNOTATION_IMAGES, ANNOTATION_TEMPLATE, ANNOTATION_TRY_AGAIN, COMPONENT_NODE, LABEL_COMPONENT,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::made::{self, Made};
use super::{Images, owned, pod, seal, selector};
use crate::cluster::{CLAIM, Cluster, Rack};
use crate::observed::Observed;

/// Old revisions that are kept: enough to see what a roll came from.
const REVISIONS: i32 = 3;

/// How often a `StatefulSet` that cannot make its pods is touched.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(20);

/// The `StatefulSet` of a rack.
///
/// What cannot be changed and what must not change by itself is taken from the
/// one that exists: the size in the claim template, the default images, and
/// the whole template where only the operator has changed.
pub(crate) fn stateful_set(
    cluster: &Cluster,
    observed: &Observed,
    rack: &Rack,
    now: Timestamp,
) -> StatefulSet {
    let (template, made, images) = template(cluster, observed, rack);
    let name = cluster.rack_name(&rack.name);
    let existing = observed.stateful_sets.get(&name);
    let try_again = try_again(observed, &name, now);
    let mut metadata = owned(cluster, name, Some(&rack.name));
    // A struct of strings always serialises.
    let text = serde_json::to_string(&images).unwrap_or_default();
    let mut annotations = super::pairs([
        (ANNOTATION_IMAGES, &text),
        (ANNOTATION_TEMPLATE, &made.text()),
    ]);
    annotations.extend(try_again.map(|at| (ANNOTATION_TRY_AGAIN.to_owned(), at)));
    metadata.annotations = Some(annotations);
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
            template,
            volume_claim_templates: cluster
                .has_volumes()
                .then(|| vec![claim_template(cluster, &rack.name, existing)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    };
    seal(set, |o| &mut o.metadata)
}

/// The template of a rack's pods, what it was made from, and the images in it.
fn template(
    cluster: &Cluster,
    observed: &Observed,
    rack: &Rack,
) -> (PodTemplateSpec, Made, Images) {
    let images = Images::of_rack(cluster, observed, &rack.name);
    let template = pod::template(cluster, rack, &images);
    let fresh = Made::of(cluster, rack, &images, &template);
    match made::held(cluster, observed, rack, &fresh) {
        Some((held, made)) => (held, made, images),
        None => (template, fresh, images),
    }
}

/// Whether a rack's pods are still made as an earlier operator made them; gives
/// the sidecar's image they run.
pub(crate) fn upgrade_awaits(
    cluster: &Cluster,
    observed: &Observed,
    rack: &Rack,
) -> Option<String> {
    let images = Images::of_rack(cluster, observed, &rack.name);
    let fresh = Images::of_installation(cluster);
    let engine = cluster.spec.dynomite.image.is_none() && images.engine != fresh.engine;
    let made = Made::of(
        cluster,
        rack,
        &images,
        &pod::template(cluster, rack, &images),
    );
    let awaits = engine
        || images.sidecar != fresh.sidecar
        || made::held(cluster, observed, rack, &made).is_some();
    awaits.then_some(images.sidecar)
}

/// When a `StatefulSet` that cannot make its pods was last touched. After each
/// failure its controller waits twice as long, up to a quarter of an hour, but
/// it looks at once at whatever is changed: so a quota that is raised is noticed.
fn try_again(observed: &Observed, name: &str, now: Timestamp) -> Option<String> {
    let existing = observed.stateful_sets.get(name)?;
    let annotations = existing.metadata.annotations.as_ref();
    let last = annotations.and_then(|a| a.get(ANNOTATION_TRY_AGAIN));
    let lacking = observed.warnings.contains_key(name);
    let at = last.and_then(|at| at.parse::<Timestamp>().ok());
    let recent = at.is_some_and(|at| now.duration_since(at) < TRY_AGAIN);
    if lacking && !recent {
        return Some(now.to_string());
    }
    last.cloned()
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
pub(crate) fn template_size(set: &StatefulSet) -> Option<Quantity> {
    let claim = set
        .spec
        .as_ref()?
        .volume_claim_templates
        .as_ref()?
        .first()?;
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").cloned()
}

#[cfg(test)]
mod tests {
    use dynomite_api::crd::StorageMedium;
    use serde_json::{Value, json};

    use super::*;
    use crate::world::{World, resource};

    fn rendered(world: &World) -> Value {
        let cluster = world.cluster();
        let set = stateful_set(&cluster, &world.observed, &cluster.racks[0], world.now);
        serde_json::to_value(set).expect("it serialises")
    }

    #[test]
    fn pods_mount_local_stores_and_get_the_account_of_backups() {
        let mut world = World::new(resource(3, 2));
        world.edit(|spec| {
            spec.backup = serde_json::from_value(json!({
                "stores": [
                    {"name": "nas", "local": {"claimName": "backups", "path": "dynomite"}},
                    {"name": "s3", "s3": {"bucket": "backups"}},
                ],
                "serviceAccountName": "ring-backups",
            }))
            .expect("a spec");
        });
        let pod = &rendered(&world)["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], "ring-backups");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let volumes = pod["volumes"].as_array().expect("volumes");
        let claims = volumes
            .iter()
            .filter(|v| v["persistentVolumeClaim"]["claimName"] == "backups");
        assert_eq!(claims.count(), 1);
        let mounts = &pod["initContainers"][0]["volumeMounts"];
        let mounts = mounts.as_array().expect("mounts");
        assert!(
            mounts
                .iter()
                .any(|mount| mount["mountPath"] == "/backups/nas")
        );
        assert_eq!(
            pod["containers"][0]["volumeMounts"]
                .as_array()
                .expect("mounts")
                .len(),
            2
        );
    }

    /// Whatever changes here restarts every node of every ring when the operator
    /// is upgraded. To accept it, run with `UPDATE_GOLDEN=1`, and say so in the notes.
    #[test]
    fn the_template_is_what_it_was() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/objects/statefulset.golden.json"
        );
        let mut seen = rendered(&World::new(resource(3, 2)));
        let annotations = &mut seen["metadata"]["annotations"];
        annotations["dynomite.io/applied-hash"] = Value::Null;
        let text = serde_json::to_string_pretty(&seen).expect("it serialises") + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).expect("the source folder can be written");
        }
        let golden = std::fs::read_to_string(path).expect("the golden file");
        assert!(
            golden == text,
            "the StatefulSet differs from {path}:\n{text}"
        );
    }

    #[test]
    fn pods_pass_the_restricted_level() {
        let seen = rendered(&World::new(resource(3, 2)));
        let pod = &seen["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(pod["automountServiceAccountToken"], false);
        let containers = ["initContainers", "containers"].map(|list| pod[list].as_array().cloned());
        let containers: Vec<Value> = containers.into_iter().flatten().flatten().collect();
        assert_eq!(containers.len(), 3);
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        }
    }

    #[test]
    fn a_ring_in_memory_has_no_volumes_and_stays_put() {
        let mut world = World::new(resource(3, 2));
        world.resource.spec.storage.medium = StorageMedium::None;
        let seen = rendered(&world);
        assert_eq!(seen["spec"]["volumeClaimTemplates"], Value::Null);
        let pod = &seen["spec"]["template"]["spec"];
        let tolerations = pod["tolerations"].as_array().expect("tolerations");
        assert!(
            tolerations
                .iter()
                .all(|t| t["tolerationSeconds"] == Value::Null)
        );
        assert_eq!(tolerations.len(), 2);
    }

    #[test]
    fn the_platform_may_choose_the_user() {
        let mut world = World::new(resource(3, 2));
        world.resource.spec.pod.run_as_user = Some(0);
        let security = rendered(&world)["spec"]["template"]["spec"]["securityContext"].clone();
        assert_eq!(
            (&security["runAsUser"], &security["fsGroup"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(security["runAsNonRoot"], true);
    }

    #[test]
    fn volumes_grow_and_the_claim_template_after_them_around_pods_that_stay() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.storage.size = Quantity("20Gi".to_owned()));
        let size = |world: &World| {
            let template = &rendered(world)["spec"]["volumeClaimTemplates"][0];
            template["spec"]["resources"]["requests"]["storage"].clone()
        };
        assert_eq!(size(&world), "10Gi");
        let pods = world.uids();
        world.settle();
        assert_eq!(size(&world), "20Gi");
        let claim = &world.observed.claims["data-ring-a-0"];
        let claim = serde_json::to_value(claim).expect("it serialises");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
        assert_eq!(world.uids(), pods);
    }
}
