//! What outside the ring keeps a pod from running, and what a person can do about it.

use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};

use crate::cluster::{Cluster, Rack};
use crate::observed::{Observed, Seen};

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// One word, `CamelCase`.
    pub reason: &'static str,
    /// What is the matter and what to do.
    pub message: String,
}

fn blocker(reason: &'static str, message: String) -> Blocker {
    Blocker { reason, message }
}

/// What keeps a pod from running, if anything outside the ring does.
pub fn of_pod(
    cluster: &Cluster,
    rack: &Rack,
    pod: &Pod,
    claim: Option<&PersistentVolumeClaim>,
    observed: &Observed,
) -> Option<Blocker> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    unschedulable(cluster, rack, pod, claim, observed).or_else(|| container(pod))
}

/// Why a rack's pods are not even created, if an event said so.
pub fn of_set(set: &str, observed: &Observed) -> Option<Blocker> {
    let warning = observed.warnings.get(set)?;
    Some(blocker(
        "PodNotCreated",
        format!("StatefulSet {set} cannot create its pods: {warning}"),
    ))
}

/// Why the scheduler finds no place.
fn unschedulable(
    cluster: &Cluster,
    rack: &Rack,
    pod: &Pod,
    claim: Option<&PersistentVolumeClaim>,
    observed: &Observed,
) -> Option<Blocker> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let said = scheduled.message.as_deref().unwrap_or("it did not say why");
    if let Some(zone) = &rack.zone
        && zone_is_empty(zone, &observed.kubernetes_nodes)
    {
        return Some(blocker(
            "ZoneWithoutNodes",
            format!(
                "zone {zone} has no nodes: add a Kubernetes node there, or change the zone of rack {} in the spec",
                rack.name
            ),
        ));
    }
    if let Some(claim) = claim
        && pending(claim)
        && is_about_volumes(said)
    {
        let class = cluster.storage.class_name.as_deref();
        let class = class.map_or("the default StorageClass".to_owned(), |c| {
            format!("StorageClass {c}")
        });
        return Some(blocker(
            "VolumeNotBound",
            format!(
                "volume claim {} is not bound: see that {class} exists and can make volumes for this zone",
                claim.metadata.name.as_deref().unwrap_or_default()
            ),
        ));
    }
    (scheduled.reason.as_deref() == Some("Unschedulable")).then(|| {
        blocker(
            "Unschedulable",
            format!("no Kubernetes node takes the pod: {said}"),
        )
    })
}

/// Whether the scheduler speaks of volumes; its words differ from version to version.
fn is_about_volumes(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("volume") || said.contains("storageclass")
}

fn pending(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    phase != Some("Bound")
}

/// Whether it is known that a zone has no node at all.
fn zone_is_empty(
    zone: &str,
    nodes: &Seen<std::collections::BTreeMap<String, crate::observed::KubernetesNode>>,
) -> bool {
    nodes.known().is_some_and(|nodes| {
        !nodes
            .values()
            .any(|node| node.zone.as_deref() == Some(zone))
    })
}

/// Why a container does not start.
fn container(pod: &Pod) -> Option<Blocker> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    init.chain(main).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let said = waiting.message.as_deref().unwrap_or_default();
        container_blocker(container, waiting.reason.as_deref()?, said)
    })
}

fn container_blocker(container: &ContainerStatus, reason: &str, said: &str) -> Option<Blocker> {
    let name = &container.name;
    let found = match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => blocker(
            "ImageNotPulled",
            // What the runtime says alternates between two texts; the status must not.
            format!(
                "image {} of container {name} cannot be pulled: correct the image, or give a secret in pod.imagePullSecrets",
                container.image
            ),
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => blocker(
            "ContainerNotCreated",
            format!("container {name} cannot be created: {said}"),
        ),
        "CrashLoopBackOff" => blocker(
            "CrashLoop",
            format!("container {name} ends again and again: see its log"),
        ),
        _ => return None,
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observed::KubernetesNode;
    use crate::world::World;

    fn found(status: Value, bound: bool, zones: &[&str]) -> Option<Blocker> {
        let mut world = World::settled(3, 1);
        let mut pod = world.observed.pods["ring-a-0"].clone();
        pod.status = serde_json::from_value(status).expect("a status");
        let mut claim = world.observed.claims["data-ring-a-0"].clone();
        if !bound {
            claim.status = None;
        }
        let nodes = zones.iter().map(|zone| {
            let node = KubernetesNode {
                zone: Some((*zone).to_owned()),
                schedulable: true,
                ..KubernetesNode::default()
            };
            (format!("node-{zone}"), node)
        });
        world.observed.kubernetes_nodes = Seen::Known(nodes.collect());
        let cluster = world.cluster();
        of_pod(
            &cluster,
            &cluster.racks[0],
            &pod,
            Some(&claim),
            &world.observed,
        )
    }

    fn unschedulable(message: &str) -> Value {
        json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": message}]})
    }

    fn waiting(reason: &str) -> Value {
        json!({"containerStatuses": [{"name": "store", "image": "nowhere:1", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]})
    }

    #[test]
    fn each_trouble_has_its_word_and_its_remedy() {
        let none = "0/3 nodes are available: insufficient memory";
        let volumes = "pod has unbound immediate PersistentVolumeClaims";
        let class = "storageclass.storage.k8s.io \"fast\" not found";
        let here = &["zone-a"][..];
        for (status, bound, zones, reason, remedy) in [
            (
                unschedulable(none),
                true,
                &["zone-b"][..],
                "ZoneWithoutNodes",
                "add a Kubernetes node",
            ),
            (
                unschedulable(none),
                true,
                here,
                "Unschedulable",
                "insufficient memory",
            ),
            (
                unschedulable(volumes),
                false,
                here,
                "VolumeNotBound",
                "StorageClass exists",
            ),
            (
                unschedulable(class),
                false,
                here,
                "VolumeNotBound",
                "StorageClass exists",
            ),
            (
                unschedulable(volumes),
                true,
                here,
                "Unschedulable",
                "unbound",
            ),
            (
                waiting("ImagePullBackOff"),
                true,
                here,
                "ImageNotPulled",
                "nowhere:1",
            ),
            (
                waiting("ErrImagePull"),
                true,
                here,
                "ImageNotPulled",
                "correct the image",
            ),
            (
                waiting("CreateContainerConfigError"),
                true,
                here,
                "ContainerNotCreated",
                "store",
            ),
            (waiting("CrashLoopBackOff"), true, here, "CrashLoop", "log"),
        ] {
            let found = found(status, bound, zones).expect(reason);
            assert_eq!(found.reason, reason);
            assert!(found.message.contains(remedy), "{}", found.message);
        }
        assert_eq!(found(waiting("PodInitializing"), true, here), None);
        assert_eq!(found(json!({}), true, here), None);
    }

    #[test]
    fn zones_that_cannot_be_read_are_not_called_empty() {
        let mut world = World::settled(3, 1);
        world.observed.kubernetes_nodes = Seen::Unknown("forbidden".to_owned());
        let mut pod = world.observed.pods["ring-a-0"].clone();
        pod.status = serde_json::from_value(unschedulable("no place")).expect("a status");
        let cluster = world.cluster();
        let found = of_pod(&cluster, &cluster.racks[0], &pod, None, &world.observed);
        assert_eq!(found.map(|b| b.reason), Some("Unschedulable"));
    }
}
