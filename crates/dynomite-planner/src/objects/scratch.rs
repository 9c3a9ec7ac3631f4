//! The pod that loads backups to prove them: a sidecar and a store, which belong to no ring.
//!
//! It has what a node has but its data, its engine and its labels: no Service and no disruption
//! budget selects it. Kubernetes removes it with the backup that it was made for.

use dynomite_api::annotations::{
    APP_SCRATCH, FIELD_MANAGER, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME,
};
use dynomite_api::contract::PORT_SECURE;
use dynomite_api::crd::{DynomiteBackup, GROUP};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, Pod, PodSpec, Probe, TCPSocketAction, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{identity_of, pod_security, some, store, volumes, words};
use super::{Images, pairs, pod};
use crate::cluster::{CLAIM, Cluster};

/// The longest life of such a pod, seconds: the operator deletes it long before, unless it is
/// away for good.
const LIFE: i64 = 24 * 3600;
/// Seconds that its processes get to end: nothing of it is kept.
const GRACE: i64 = 5;
/// Bytes of the volume beside the staged object.
const SPARE: u64 = 128 << 20;

/// The pod for a backup whose largest object is unpacked so large.
pub(crate) fn scratch(
    cluster: &Cluster,
    images: &Images,
    backup: &DynomiteBackup,
    bytes: u64,
) -> Pod {
    let labels = pairs([
        (LABEL_NAME, APP_SCRATCH),
        (LABEL_INSTANCE, &cluster.id.name),
        (LABEL_MANAGED_BY, FIELD_MANAGER),
        (LABEL_COMPONENT, "scratch"),
    ]);
    Pod {
        metadata: ObjectMeta {
            name: Some(cluster.scratch_pod()),
            namespace: Some(cluster.id.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{GROUP}/v1alpha1"),
                kind: "DynomiteBackup".to_owned(),
                name: backup.metadata.name.clone().unwrap_or_default(),
                uid: backup.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(cluster, images, bytes)),
        ..Pod::default()
    }
}

fn spec(cluster: &Cluster, images: &Images, bytes: u64) -> PodSpec {
    let wanted = &cluster.spec.pod;
    // Where the ring's nodes may run, so may this one, whatever its zone.
    let declared = cluster.racks.last();
    let declared = declared.and_then(|rack| cluster.rack_spec(&rack.name));
    let node_selector = declared.map(|rack| rack.node_selector.clone());
    let tolerations = declared.map(|rack| rack.tolerations.clone());
    PodSpec {
        init_containers: Some(vec![sidecar(cluster, images)]),
        containers: vec![store(cluster)],
        volumes: Some(with_scratch(volumes(cluster), bytes)),
        security_context: Some(pod_security(cluster)),
        automount_service_account_token: Some(false),
        service_account_name: identity_of(cluster),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE),
        active_deadline_seconds: Some(LIFE),
        node_selector: node_selector.filter(|selector| !selector.is_empty()),
        tolerations: tolerations.filter(|tolerations| !tolerations.is_empty()),
        priority_class_name: wanted.priority_class_name.clone(),
        image_pull_secrets: some(&wanted.image_pull_secrets),
        ..PodSpec::default()
    }
}

/// The volumes of a node, but an empty one for the data, which holds one object at a time.
fn with_scratch(mut list: Vec<Volume>, bytes: u64) -> Vec<Volume> {
    list.retain(|volume| volume.name != CLAIM);
    list.push(Volume {
        name: CLAIM.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(bytes.saturating_add(SPARE).to_string())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    });
    list
}

/// A node's sidecar that waits for backups instead: nobody asks for its health.
fn sidecar(cluster: &Cluster, images: &Images) -> Container {
    Container {
        command: Some(words(&["dynomite-sidecar", "verify"])),
        ports: None,
        // It listens when what the store's container begins with is there.
        startup_probe: Some(Probe {
            tcp_socket: Some(TCPSocketAction {
                port: IntOrString::Int(i32::from(PORT_SECURE)),
                ..TCPSocketAction::default()
            }),
            period_seconds: Some(1),
            failure_threshold: Some(300),
            ..Probe::default()
        }),
        readiness_probe: None,
        liveness_probe: None,
        ..pod::sidecar(cluster, images)
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::{DIR_DATA, DIR_RUN};

    use super::*;
    use crate::world::World;

    #[test]
    fn nothing_that_selects_nodes_selects_it_and_it_goes_with_its_backup() {
        let cluster = World::settled(3, 1).cluster();
        let images = Images::of_installation(&cluster);
        let mut backup = DynomiteBackup::default();
        backup.metadata.name = Some("nightly".to_owned());
        backup.metadata.uid = Some("uid".to_owned());
        let pod = scratch(&cluster, &images, &backup, 1000);
        let labels = pod.metadata.labels.expect("it has some");
        for (key, value) in super::super::selector(&cluster, None) {
            if key == LABEL_NAME {
                assert_ne!(labels[&key], value);
            }
        }
        let owners = pod.metadata.owner_references.expect("it has one");
        assert_eq!(
            (owners[0].kind.as_str(), owners[0].uid.as_str()),
            ("DynomiteBackup", "uid")
        );
        let spec = pod.spec.expect("it has one");
        // The restricted level of Pod Security, for each container.
        let security = spec.security_context.expect("it has one");
        assert_eq!(security.run_as_non_root, Some(true));
        let init = spec.init_containers.expect("the sidecar");
        for container in init.iter().chain(&spec.containers) {
            let security = container.security_context.as_ref().expect("it has one");
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.read_only_root_filesystem, Some(true));
        }
        // The store's container sees no key, and nobody gets a token for the API.
        let mounts = spec.containers[0].volume_mounts.iter().flatten();
        let mut paths: Vec<&str> = mounts.map(|mount| mount.mount_path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, [DIR_DATA, DIR_RUN]);
        assert_eq!(spec.automount_service_account_token, Some(false));
        let volumes = spec.volumes.expect("it has some");
        let data = volumes.iter().find(|volume| volume.name == CLAIM);
        let limit = data.and_then(|v| v.empty_dir.as_ref()?.size_limit.clone());
        assert_eq!(limit, Some(Quantity((1000 + SPARE).to_string())));
    }
}
