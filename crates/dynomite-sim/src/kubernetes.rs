//! What Kubernetes does by itself: makes pods and claims of `StatefulSet`s, finds them a place, asks them whether they are ready.

use dynomite_lifecycle::{Event, ProcessEvent, ProcessName};
use dynomite_planner::{Cluster, KubernetesNode, Seen, VolumeFacts};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, PersistentVolumeClaim,
    PersistentVolumeClaimStatus, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::node::{Node, moment};
use crate::random::Random;
use crate::world::World;

/// Between two looks of the controller at its objects, milliseconds.
const CONTROLLER_MS: u64 = 100;
/// Between two readiness probes, milliseconds.
const PROBE_MS: u64 = 1000;
/// A pod that has not ended by then is killed, milliseconds.
const GRACE_MS: u64 = 120_000;

/// What Kubernetes keeps of a pod besides the object.
#[derive(Clone, Debug, Default)]
pub struct Seat {
    /// When its containers start, once a place is found, milliseconds.
    pub starts_at: u64,
    /// When it is probed next, milliseconds.
    probe_at: u64,
    /// Whether its Kubernetes node is gone: nobody starts or ends it there.
    dead: bool,
}

impl World {
    /// Kubernetes' share of one step.
    pub(crate) fn kubernetes(&mut self) {
        if self.now >= self.controller_at {
            self.controller_at = self.now + CONTROLLER_MS + self.random.below(CONTROLLER_MS);
            self.run_controller();
        }
        let names: Vec<String> = self.server.objects.pods.keys().cloned().collect();
        for name in names {
            self.attend(&name);
        }
    }

    fn run_controller(&mut self) {
        let sets: Vec<StatefulSet> = self
            .server
            .objects
            .stateful_sets
            .values()
            .cloned()
            .collect();
        let uids: Vec<String> = sets
            .iter()
            .filter_map(|set| set.metadata.uid.clone())
            .collect();
        for set in sets {
            self.run_set(&set);
        }
        // Pods of a set that is gone are collected.
        let orphans: Vec<String> = self
            .server
            .objects
            .pods
            .iter()
            .filter(|(_, pod)| {
                let owners = pod.metadata.owner_references.iter().flatten();
                owners.clone().count() > 0
                    && !owners.clone().any(|owner| uids.contains(&owner.uid))
                    && pod.metadata.deletion_timestamp.is_none()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in orphans {
            self.begin_deletion(&name);
        }
    }

    /// Somebody deletes a pod, gracefully.
    pub(crate) fn begin_deletion(&mut self, name: &str) {
        let version = self.server.bump();
        let now = moment(self.now);
        if let Some(pod) = self.server.objects.pods.get_mut(name)
            && pod.metadata.deletion_timestamp.is_none()
        {
            pod.metadata.deletion_timestamp = Some(Time(now));
            pod.metadata.resource_version = Some(version);
            self.say(format!("pod {name} is deleted"));
        }
    }

    fn run_set(&mut self, set: &StatefulSet) {
        let name = set.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &set.spec else { return };
        let replicas = spec.replicas.unwrap_or(0);
        let observed = set.status.as_ref().and_then(|s| s.observed_generation);
        let revision = if observed == set.metadata.generation {
            let status = set.status.as_ref();
            status
                .and_then(|s| s.update_revision.clone())
                .unwrap_or_default()
        } else {
            let revision = revision_of(set);
            let version = self.server.bump();
            if let Some(live) = self.server.objects.stateful_sets.get_mut(&name) {
                live.metadata.resource_version = Some(version);
                live.status = Some(StatefulSetStatus {
                    observed_generation: set.metadata.generation,
                    update_revision: Some(revision.clone()),
                    replicas,
                    ..StatefulSetStatus::default()
                });
            }
            revision
        };
        for ordinal in 0..replicas {
            let pod = format!("{name}-{ordinal}");
            let has_claim = spec.volume_claim_templates.is_some();
            self.collect_claim(&pod);
            if self.server.objects.pods.contains_key(&pod) {
                if has_claim && !self.server.is_placed(&pod) {
                    self.make_claim(&pod);
                }
                continue;
            }
            if has_claim {
                self.make_claim(&pod);
            }
            if self.claim_leaves(&pod) {
                continue;
            }
            self.make_pod(&pod, set, &revision);
        }
    }

    /// A claim that was deleted goes once no pod uses it.
    fn collect_claim(&mut self, pod: &str) {
        if self.claim_leaves(pod) && !self.server.is_placed(pod) {
            self.server.bump();
            let name = Cluster::claim_name(pod);
            self.server.objects.claims.remove(&name);
        }
    }

    fn claim_leaves(&self, pod: &str) -> bool {
        let claim = self.server.objects.claims.get(&Cluster::claim_name(pod));
        claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    }

    fn make_claim(&mut self, pod: &str) {
        let name = Cluster::claim_name(pod);
        if self.server.objects.claims.contains_key(&name) {
            return;
        }
        // A fresh claim, a fresh volume.
        self.disks.remove(pod);
        self.homes.remove(pod);
        self.server.objects.volumes.remove(&name);
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some("data".to_owned()),
                uid: Some(self.server.fresh("claim")),
                resource_version: Some(self.server.bump()),
                creation_timestamp: Some(Time(moment(self.now))),
                ..ObjectMeta::default()
            },
            status: Some(PersistentVolumeClaimStatus {
                phase: Some("Bound".to_owned()),
                ..PersistentVolumeClaimStatus::default()
            }),
            ..PersistentVolumeClaim::default()
        };
        self.server.objects.claims.insert(name, claim);
    }

    fn make_pod(&mut self, name: &str, set: &StatefulSet, revision: &str) {
        let Some(spec) = &set.spec else { return };
        let mut metadata = spec.template.metadata.clone().unwrap_or_default();
        metadata.name = Some(name.to_owned());
        metadata.namespace = Some("data".to_owned());
        metadata.uid = Some(self.server.fresh("pod"));
        metadata.resource_version = Some(self.server.bump());
        metadata.creation_timestamp = Some(Time(moment(self.now)));
        metadata.owner_references = Some(vec![OwnerReference {
            uid: set.metadata.uid.clone().unwrap_or_default(),
            kind: "StatefulSet".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        let label = ("controller-revision-hash".to_owned(), revision.to_owned());
        metadata.labels.get_or_insert_default().extend([label]);
        let pod = Pod {
            metadata,
            spec: spec.template.spec.clone(),
            status: Some(PodStatus {
                phase: Some("Pending".to_owned()),
                ..PodStatus::default()
            }),
        };
        self.say(format!("pod {name} is created"));
        self.server.objects.pods.insert(name.to_owned(), pod);
        let place = Seat {
            starts_at: self.now + self.random.between(200, 1200),
            ..Seat::default()
        };
        self.seats.insert(name.to_owned(), place);
    }

    /// Scheduler and kubelet for one pod.
    fn attend(&mut self, name: &str) {
        let Some(seat) = self.seats.get(name) else {
            return;
        };
        if seat.dead {
            return;
        }
        let (starts_at, probe_at) = (seat.starts_at, seat.probe_at);
        let leaving = self
            .server
            .objects
            .pods
            .get(name)
            .is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
        if !self.nodes.contains_key(name) {
            if leaving {
                self.remove_pod(name);
            } else if self.now >= starts_at {
                self.start_pod(name);
            }
            return;
        }
        if leaving && self.end_gracefully(name) {
            return;
        }
        if self.now >= probe_at {
            if let Some(seat) = self.seats.get_mut(name) {
                seat.probe_at = self.now + PROBE_MS;
            }
            self.probe(name);
        }
    }

    fn start_pod(&mut self, name: &str) {
        let Some(host) = self.find_host(name) else {
            self.unschedulable(name);
            return;
        };
        if self.config.local {
            self.homes.insert(name.to_owned(), host.clone());
        }
        let uid = {
            let pod = &self.server.objects.pods[name];
            pod.metadata.uid.clone().unwrap_or_default()
        };
        self.addresses += 1;
        let address = format!("10.0.{}.{}", self.addresses / 250, self.addresses % 250 + 1);
        let persistent = self
            .server
            .objects
            .claims
            .contains_key(&Cluster::claim_name(name));
        let disk = if persistent {
            self.disks.get(name).cloned().unwrap_or_default()
        } else {
            crate::node::Disk::default()
        };
        let mut node = Node::new(name, &uid, address.clone(), disk, self.now);
        node.starts_normal = self.config.starts_normal;
        node.without = self.config.without;
        node.numbers = self.config.numbers;
        node.loading_ms = self.random.below(300);
        node.sidecar_at = self.now + self.random.between(300, 1500);
        node.launchers_at = [
            node.sidecar_at + self.random.between(50, 500),
            node.sidecar_at + self.random.between(50, 500),
        ];
        self.nodes.insert(name.to_owned(), node);
        if let Some(seat) = self.seats.get_mut(name) {
            seat.probe_at = self.now + self.random.below(PROBE_MS);
        }
        let version = self.server.bump();
        if let Some(pod) = self.server.objects.pods.get_mut(name) {
            pod.metadata.resource_version = Some(version);
            pod.spec.get_or_insert_default().node_name = Some(host);
            pod.status = Some(PodStatus {
                phase: Some("Running".to_owned()),
                pod_ip: Some(address),
                conditions: Some(vec![
                    condition("PodScheduled", true),
                    condition("Ready", false),
                ]),
                ..PodStatus::default()
            });
        }
    }

    /// A node in the rack's zone that takes pods.
    fn find_host(&self, name: &str) -> Option<String> {
        let set = name.rsplit_once('-')?.0;
        let rack = set.split_once('-')?.1;
        let racks = &self.server.resource.spec.racks;
        let zone = racks.iter().find(|r| r.name == rack)?.zone.clone()?;
        let Seen::Known(nodes) = &self.server.objects.kubernetes_nodes else {
            return Some(format!("host-{zone}"));
        };
        let claim = self.server.objects.claims.get(&Cluster::claim_name(name));
        let status = claim.and_then(|claim| claim.status.as_ref());
        if status.and_then(|status| status.phase.as_deref()) == Some("Lost") {
            return None;
        }
        let home = self.homes.get(name);
        let fits = |node: &KubernetesNode| node.zone.as_ref() == Some(&zone) && node.schedulable;
        let mut nodes = nodes
            .iter()
            .filter(|(host, node)| fits(node) && home.is_none_or(|home| home == *host));
        nodes.next().map(|(name, _)| name.clone())
    }

    fn unschedulable(&mut self, name: &str) {
        let said = PodCondition {
            reason: Some("Unschedulable".to_owned()),
            message: Some("no nodes match".to_owned()),
            ..condition("PodScheduled", false)
        };
        self.write_conditions(name, vec![said]);
        if let Some(home) = self.homes.get(name) {
            // The operator looks where the volume of a pod without a place lies.
            let facts = VolumeFacts {
                hosts: vec![("kubernetes.io/hostname".to_owned(), home.clone())],
            };
            let volumes = &mut self.server.objects.volumes;
            volumes.insert(Cluster::claim_name(name), Seen::Known(facts));
        }
        if let Some(seat) = self.seats.get_mut(name) {
            seat.starts_at = self.now + 1000;
        }
    }

    /// Writes a pod's conditions, and which containers run, if they differ.
    fn write_conditions(&mut self, name: &str, conditions: Vec<PodCondition>) {
        let containers = self.nodes.get(name).map(|node| {
            let both = ["store", "dynomite"].iter().zip(node.launchers);
            both.map(|(name, runs)| container(name, runs)).collect()
        });
        let seen = self.server.objects.pods.get(name);
        let Some(status) = seen.and_then(|pod| pod.status.as_ref()) else {
            return;
        };
        if status.conditions.as_ref() == Some(&conditions)
            && status.container_statuses == containers
        {
            return;
        }
        let version = self.server.bump();
        if let Some(pod) = self.server.objects.pods.get_mut(name) {
            pod.metadata.resource_version = Some(version);
            let status = pod.status.get_or_insert_default();
            status.conditions = Some(conditions);
            status.container_statuses = containers;
        }
    }

    fn probe(&mut self, name: &str) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let ready = node.is_ready() && node.launchers == [true, true];
        if !ready && node.life.is_some() {
            node.send(now, Event::NotReadySeen);
        }
        self.write_conditions(
            name,
            vec![condition("PodScheduled", true), condition("Ready", ready)],
        );
    }

    /// Ends a pod's containers; whether the pod is gone.
    fn end_gracefully(&mut self, name: &str) -> bool {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if node.terminating.is_none() {
            for process in [ProcessName::Store, ProcessName::Engine] {
                node.send(now, Event::Process(process, ProcessEvent::Terminating));
            }
        }
        let since = *node.terminating.get_or_insert(now);
        let stopped = node.store.is_none() && node.engine.is_none();
        if stopped && node.launchers != [false, false] {
            node.container_goes(now, ProcessName::Store, u64::MAX);
            node.container_goes(now, ProcessName::Engine, u64::MAX);
            node.send(now, Event::Terminate);
        }
        let over = node.exited || now - since >= GRACE_MS || (stopped && node.life.is_none());
        if over {
            self.remove_pod(name);
        }
        over
    }

    /// A Kubernetes node dies for good: its object is removed, or a person says
    /// so by a taint. Its pods stay listed, and its local volumes are gone.
    pub(crate) fn host_dies(&mut self, host: &str, removed: bool) {
        self.say(format!("Kubernetes node {host} dies for good"));
        if let Seen::Known(nodes) = &mut self.server.objects.kubernetes_nodes {
            if removed {
                nodes.remove(host);
            } else if let Some(node) = nodes.get_mut(host) {
                node.schedulable = false;
                node.out_of_service = true;
            }
        }
        let on_host = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            spec.and_then(|spec| spec.node_name.as_deref()) == Some(host)
        };
        let pods = self.server.objects.pods.iter();
        let names: Vec<String> = pods
            .filter(|(_, pod)| on_host(pod))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.power_off(&name);
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.dead = true;
            }
            self.write_conditions(
                &name,
                vec![condition("PodScheduled", true), condition("Ready", false)],
            );
        }
    }

    fn power_off(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name) else {
            return;
        };
        if self.config.local {
            self.disks.remove(name);
        } else {
            self.disks.insert(name.to_owned(), node.into_disk());
        }
    }

    /// A volume is lost, and the pod that used it goes down.
    pub(crate) fn volume_is_lost(&mut self, name: &str) {
        self.say(format!("the volume of {name} is lost"));
        self.server.bump();
        let claim = self
            .server
            .objects
            .claims
            .get_mut(&Cluster::claim_name(name));
        if let Some(claim) = claim {
            claim.status.get_or_insert_default().phase = Some("Lost".to_owned());
        }
        self.remove_pod(name);
        self.disks.remove(name);
    }

    /// The pod is gone at once, with everything that ran in it.
    pub(crate) fn remove_pod(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.disks.insert(name.to_owned(), node.into_disk());
        }
        self.seats.remove(name);
        self.server.bump();
        if self.server.objects.pods.remove(name).is_some() {
            self.say(format!("pod {name} is gone"));
        }
    }
}

fn condition(kind: &str, holds: bool) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    }
}

fn container(name: &str, runs: bool) -> ContainerStatus {
    ContainerStatus {
        name: name.to_owned(),
        ready: runs,
        state: Some(ContainerState {
            running: runs.then(ContainerStateRunning::default),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

/// A name for what a `StatefulSet`'s pods are made from.
fn revision_of(set: &StatefulSet) -> String {
    let text = set
        .spec
        .as_ref()
        .and_then(|spec| serde_json::to_string(&spec.template).ok());
    // A sum of the text by which the seeds of other things are spread too.
    let sum = text.unwrap_or_default().bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(1_099_511_628_211)
            .wrapping_add(u64::from(byte))
    });
    format!("{:x}", Random::new(sum).between(0, u64::MAX - 1))
}
