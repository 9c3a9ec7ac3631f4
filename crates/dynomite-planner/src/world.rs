//! A small made-up world for tests: it takes actions as Kubernetes and the sidecars would, and moves on a tick.

use std::collections::BTreeMap;

use dynomite_api::contract::{
    Awaiting, Call, CallOutcome, CompareReport, DesiredMark, EngineState, Grant, NodeDesired,
    NodePhase, NodeReport, ProofKind, Received, RestoreReport, SnapshotReport, StoreFacts, Wish,
};
use dynomite_api::crd::DynomiteCluster;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::json;

use crate::backup::tests::storage;
use crate::cluster::{Cluster, Defaults};
use crate::compare;
use crate::observed::{Observed, SecretFacts, Seen};
use crate::plan::{Action, Kind, Object, Outcome, Plan, Resources, StepName};
use crate::restore::tests::Goes;
use crate::status::status;
use crate::steps::plan;
use crate::wait::Wait;

/// Where people read what a finding means and what they can do.
const PAGE: &str = include_str!("../../../docs/operations.md");
/// How many passes a world may take to settle.
const PATIENCE: usize = 60;

pub(crate) struct World {
    pub(crate) resource: DynomiteCluster,
    pub(crate) defaults: Defaults,
    pub(crate) observed: Observed,
    pub(crate) now: Timestamp,
    /// Nodes that do not answer.
    pub(crate) mute: Vec<String>,
    /// Nodes that answer and whose store does not come up.
    pub(crate) slow: Vec<String>,
    /// Nodes whose sidecar has just started: it has yet to find its proof again.
    pub(crate) starting: Vec<String>,
    /// Nodes that no document reaches.
    pub(crate) deaf: Vec<String>,
    /// Nodes whose image cannot be pulled.
    pub(crate) blocked: Vec<String>,
    /// Whether answers to calls are lost on their way.
    pub(crate) unheard: bool,
    /// What lives in each pod, by pod name.
    pub(crate) lives: BTreeMap<String, Life>,
    /// The object storage.
    pub(crate) storage: storage::Storage,
    /// How many volumes were deleted.
    pub(crate) wiped: u32,
    count: u64,
}

/// What a sidecar holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) desired: Option<NodeDesired>,
    pub(crate) proof: Option<ProofKind>,
    pub(crate) warming: bool,
    pub(crate) keys: u64,
    pub(crate) spent: bool,
    /// Whether its volume has held proven data.
    pub(crate) before: bool,
    /// Since when its data is proven.
    pub(crate) since: Timestamp,
    /// From whom it copies.
    pub(crate) donor: String,
    /// How far it is with the restore it was told of.
    pub(crate) restore: Option<RestoreReport>,
    /// What data its store has, by a name, and what it has saved of it.
    pub(crate) data: String,
    pub(crate) previous: Option<String>,
    /// The snapshot it was asked for.
    pub(crate) snapshot: Option<SnapshotReport>,
    /// The ids of the credentials it holds.
    pub(crate) credentials: Vec<String>,
    /// What it says of comparisons; one that knows none says nothing.
    pub(crate) compare: Option<CompareReport>,
    /// The calls of people that wait at it.
    pub(crate) calls: Vec<Call>,
    /// What the operator has answered to calls.
    pub(crate) answered: Vec<CallOutcome>,
    /// What its engine has received; an engine that does not number says nothing.
    pub(crate) received: Option<Received>,
}

pub(crate) fn defaults() -> Defaults {
    Defaults {
        sidecar_image: "operator:1".to_owned(),
        engine_image: "operator:1".to_owned(),
        image_pull_policy: None,
    }
}

/// A resource `ring` in namespace `data` of racks `a`, `b`, ... in zones `zone-a`, ...
pub(crate) fn resource(racks: usize, nodes: u32) -> DynomiteCluster {
    let racks: Vec<_> = (0..racks)
        .map(|i| {
            let letter = char::from(b'a' + u8::try_from(i).expect("few racks"));
            json!({"name": letter.to_string(), "zone": format!("zone-{letter}")})
        })
        .collect();
    let level = if racks.len() >= 3 {
        "DC_QUORUM"
    } else {
        "DC_ONE"
    };
    serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteCluster",
        "metadata": {
            "name": "ring", "namespace": "data", "uid": "cluster-uid", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "datacenter": "dc1", "racks": racks, "nodesPerRack": nodes,
            "consistency": {"read": level, "write": level},
        },
    }))
    .expect("a resource")
}

impl World {
    pub(crate) fn new(resource: DynomiteCluster) -> Self {
        Self {
            resource,
            defaults: defaults(),
            observed: Observed::default(),
            now: "2026-01-01T00:01:00Z".parse().expect("a time"),
            mute: Vec::new(),
            slow: Vec::new(),
            starting: Vec::new(),
            deaf: Vec::new(),
            blocked: Vec::new(),
            unheard: false,
            lives: BTreeMap::new(),
            storage: storage::Storage::default(),
            wiped: 0,
            count: 0,
        }
    }

    /// A ring that has settled.
    pub(crate) fn settled(racks: usize, nodes: u32) -> Self {
        let mut world = Self::new(resource(racks, nodes));
        world.settle();
        world
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.resource, &self.defaults).expect("a valid resource")
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.cluster(), &self.observed, self.now)
    }

    /// Plans, acts, publishes and lets everything move; what was planned is returned.
    pub(crate) fn pass(&mut self) -> Plan {
        let plan = self.plan();
        self.check(&plan);
        for planned in &plan.actions {
            self.act(&planned.action);
        }
        self.publish(&plan);
        self.tick();
        plan
    }

    pub(crate) fn publish(&mut self, plan: &Plan) {
        let cluster = self.cluster();
        let previous = self.resource.status.take();
        let outcome = Outcome::default();
        let made = status(
            &cluster,
            &self.observed,
            plan,
            previous.as_ref(),
            &outcome,
            self.now,
        );
        let nodes = made.racks.iter().flat_map(|rack| &rack.nodes);
        for finding in nodes.flat_map(|node| &node.findings) {
            let row = format!("`{}`", finding.reason);
            assert!(PAGE.contains(&row), "{row} is not explained to people");
            assert!(!finding.message.is_empty(), "{row} says nothing");
        }
        self.resource.status = Some(made);
    }

    /// Passes until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..PATIENCE {
            let plan = self.pass();
            if plan.actions.is_empty() && plan.waits.iter().all(|w| w.wait.informs()) {
                return;
            }
        }
        panic!("does not settle: {:#?}", summary(&self.plan()));
    }

    /// What must hold of every plan.
    pub(crate) fn check(&self, plan: &Plan) {
        let disruptive = plan.actions.iter().filter(|p| p.action.disrupts()).count();
        let restored = crate::restore::in_the_way(&self.cluster(), &self.observed).is_some();
        if !self.cluster().deleting && !restored {
            assert!(disruptive <= 1, "two disruptions: {:?}", summary(plan));
        }
        for planned in &plan.actions {
            if let Action::Delete {
                uid, name, kind, ..
            } = &planned.action
            {
                assert!(!uid.is_empty(), "{name} is deleted without a UID");
                if *kind == Kind::Pod {
                    self.check_loss(name);
                }
            }
        }
    }

    /// A pod that holds proven data leaves only if enough others really hold it too.
    fn check_loss(&self, pod: &str) {
        let proven = |name: &String| {
            let life = self.lives.get(name).filter(|life| life.proof.is_some());
            life.filter(|_| self.observed.pods.contains_key(name))
        };
        let cluster = self.cluster();
        // A ring that never served has nothing to lose, and a lone rack has nobody to keep it.
        let served = crate::tokens::served_since(&cluster, &self.observed).is_some();
        let matters = served && cluster.racks.len() > 1;
        let Some(life) = proven(&pod.to_owned()).filter(|_| matters) else {
            return;
        };
        let token = life.desired.as_ref().map(|d| d.node.token);
        let same = |other: &Life| other.desired.as_ref().map(|d| d.node.token) == token;
        let names = self.lives.keys().filter(|name| *name != pod);
        let stay = names.filter_map(proven).filter(|other| same(other)).count();
        assert!(stay >= cluster.required(), "{pod} leaves and {stay} stay");
    }

    /// Does what the operator proposes when no proven node of a token is left.
    pub(crate) fn accept_proposals(&mut self, plan: &Plan) {
        for waiting in &plan.waits {
            if let Wait::NoProvenReplica {
                proposal: Some((pod, uid)),
                ..
            } = &waiting.wait
            {
                let mark = (
                    dynomite_api::annotations::ANNOTATION_ACCEPT_LOSS.to_owned(),
                    uid.clone(),
                );
                let pod = self.observed.pods.get_mut(pod).expect("it is there");
                pod.metadata
                    .annotations
                    .get_or_insert_default()
                    .extend([mark]);
            }
        }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}-{}", self.count)
    }

    pub(crate) fn act(&mut self, action: &Action) {
        match action {
            Action::Apply(object) => self.apply(object),
            Action::Delete {
                kind,
                name,
                uid,
                resource_version,
            } => self.delete(*kind, name, uid, resource_version.as_deref()),
            Action::DeleteAtOnce { name, uid } => {
                if self.observed.pods.contains_key(name) && self.pod_uid(name) == *uid {
                    self.kill(name);
                }
            }
            Action::Assign { node, desired, .. } => self.assign(node, desired),
            Action::IssueCertificates(what) => {
                let facts = SecretFacts {
                    uid: self.fresh("secret"),
                    owner_uid: Some("cluster-uid".to_owned()),
                    complete: true,
                    not_before: Some(self.now),
                    not_after: self
                        .now
                        .checked_add(SignedDuration::from_hours(24 * 365))
                        .ok(),
                    ca_digest: "ca".to_owned(),
                    dns_names: Vec::new(),
                };
                self.observed.ca_secret = Seen::Known(Some(facts.clone()));
                self.observed.admin_secret = Seen::Known(Some(facts.clone()));
                self.observed.node_secret = Seen::Known(Some(SecretFacts {
                    dns_names: what.dns_names.clone(),
                    ..facts
                }));
            }
            Action::SetFinalizer { present } => {
                let finalizer = dynomite_api::annotations::FINALIZER.to_owned();
                self.resource.metadata.finalizers = present.then(|| vec![finalizer]);
            }
            Action::Orphan { name, uid } => self.orphan(name, uid),
            Action::Resize {
                pod,
                uid,
                resources,
            } => self.resize(pod, uid, resources),
            Action::AnswerCall { .. } if self.unheard => {}
            Action::AnswerCall { node, answer, .. } => {
                let life = self.lives.entry(node.clone()).or_default();
                let before = life.calls.len();
                life.calls.retain(|call| call.id != answer.id);
                if life.calls.len() < before {
                    life.answered.push(answer.outcome.clone());
                }
            }
            Action::HandCredentials { .. }
            | Action::AskBucket { .. }
            | Action::WriteBackup { .. }
            | Action::MakeBackup(_)
            | Action::TakeAnnotation { .. }
            | Action::MakeScratch(_)
            | Action::EndScratch { .. }
            | Action::SetBackupFinalizer { .. } => storage::act(self, action),
            Action::MakeRestore(_)
            | Action::WriteRestore { .. }
            | Action::SetRestoreFinalizer { .. } => {
                crate::restore::tests::act(self, action);
            }
            Action::Event { .. } => {}
        }
    }

    fn apply(&mut self, object: &Object) {
        let fresh = self.fresh("uid");
        let o = &mut self.observed;
        let name = object.name().to_owned();
        match object.clone() {
            Object::Service(mut new) => {
                keep(
                    &mut new.metadata,
                    o.services.get(&name).map(|s| &s.metadata),
                    fresh,
                );
                o.services.insert(name, new);
            }
            Object::ConfigMap(mut new) => {
                keep(
                    &mut new.metadata,
                    o.config_maps.get(&name).map(|s| &s.metadata),
                    fresh,
                );
                o.config_maps.insert(name, new);
            }
            Object::PodDisruptionBudget(mut new) => {
                let old = o.pod_disruption_budgets.get(&name).map(|s| &s.metadata);
                keep(&mut new.metadata, old, fresh);
                o.pod_disruption_budgets.insert(name, new);
            }
            Object::PersistentVolumeClaim(new) => {
                if let Some(claim) = o.claims.get_mut(&name)
                    && claim.metadata.uid == new.metadata.uid
                {
                    claim.metadata.annotations = new.metadata.annotations;
                    claim.spec = new.spec;
                }
            }
            Object::StatefulSet(mut new) => {
                let old = o.stateful_sets.get(&name);
                let generation = match old {
                    None => 1,
                    Some(old) if old.spec == new.spec => old.metadata.generation.unwrap_or(1),
                    Some(old) => old.metadata.generation.unwrap_or(1) + 1,
                };
                keep(&mut new.metadata, old.map(|s| &s.metadata), fresh);
                new.metadata.generation = Some(generation);
                new.status = old.and_then(|s| s.status.clone());
                o.stateful_sets.insert(name, new);
            }
        }
    }

    /// A `StatefulSet` goes and its pods stay, owned by nobody.
    fn orphan(&mut self, name: &str, uid: &str) {
        let set = self.observed.stateful_sets.get(name);
        if set.is_none_or(|set| set.metadata.uid.as_deref() != Some(uid)) {
            return;
        }
        self.observed.stateful_sets.remove(name);
        for pod in self.observed.pods.values_mut() {
            if crate::ring::owned_by(&pod.metadata, uid) {
                pod.metadata.owner_references = None;
            }
        }
    }

    /// The API server takes other resources for a pod; the kubelet follows at once.
    fn resize(&mut self, name: &str, uid: &str, resources: &Resources) {
        let Some(pod) = self.observed.pods.get_mut(name) else {
            return;
        };
        if pod.metadata.uid.as_deref() != Some(uid) {
            return;
        }
        let generation = pod.metadata.generation.get_or_insert(1);
        *generation += 1;
        let containers = pod.spec.as_mut().map(|spec| &mut spec.containers);
        for container in containers.into_iter().flatten() {
            let given = resources
                .main
                .iter()
                .find(|(name, _)| *name == container.name);
            if let Some((_, given)) = given {
                container.resources = Some(given.clone());
            }
        }
    }

    fn delete(&mut self, kind: Kind, name: &str, uid: &str, version: Option<&str>) {
        let o = &mut self.observed;
        let same = |meta: &ObjectMeta| meta.uid.as_deref() == Some(uid);
        match kind {
            Kind::Pod => {
                let pod = o.pods.get(name).filter(|pod| same(&pod.metadata));
                if pod.is_some_and(|pod| pod.metadata.resource_version.as_deref() == version) {
                    self.kill(name);
                }
            }
            Kind::StatefulSet => {
                if o.stateful_sets
                    .get(name)
                    .is_some_and(|set| same(&set.metadata))
                {
                    o.stateful_sets.remove(name);
                    let owned = |pod: &Pod| crate::ring::owned_by(&pod.metadata, uid);
                    let gone: Vec<String> = o
                        .pods
                        .iter()
                        .filter(|(_, pod)| owned(pod))
                        .map(|(n, _)| n.clone())
                        .collect();
                    for pod in gone {
                        self.kill(&pod);
                    }
                }
            }
            Kind::Service => drop(o.services.remove(name)),
            Kind::ConfigMap => drop(o.config_maps.remove(name)),
            Kind::PersistentVolumeClaim => {
                // Its pod holds it until it is gone; here that is in the same moment.
                if o.claims
                    .get(name)
                    .is_some_and(|claim| same(&claim.metadata))
                {
                    o.claims.remove(name);
                    self.wiped += 1;
                    let node = name.strip_prefix("data-").unwrap_or(name);
                    if let Some(life) = self.lives.get_mut(node) {
                        (life.before, life.keys) = (false, 0);
                    }
                }
            }
            Kind::PodDisruptionBudget => drop(o.pod_disruption_budgets.remove(name)),
            Kind::DynomiteBackup => {
                self.observed.backups.remove(name);
            }
            Kind::DynomiteRestore => {
                self.observed.restores.remove(name);
            }
            Kind::Secret => {}
        }
    }

    /// A pod is gone, and what lived in it; its volume keeps the last document.
    pub(crate) fn kill(&mut self, pod: &str) {
        self.observed.pods.remove(pod);
        self.observed.reports.remove(pod);
        if let Some(life) = self.lives.get_mut(pod) {
            *life = Life {
                desired: life.desired.take(),
                keys: life.keys,
                before: life.before,
                data: std::mem::take(&mut life.data),
                previous: life.previous.take(),
                received: life.received.as_ref().map(|_| Received::default()),
                ..Life::default()
            };
        }
    }

    /// A store ends; what a load has not touched is still in its files.
    pub(crate) fn crash_store(&mut self, name: &str) {
        if let Some(life) = self.lives.get_mut(name) {
            (life.proof, life.warming) = (None, false);
            crate::restore::tests::store_ended(life);
        }
    }

    /// A document arrives: taken only if it follows the one that is held.
    fn assign(&mut self, node: &str, desired: &NodeDesired) {
        let Some(pod) = self.observed.pods.get(node) else {
            return;
        };
        if self.deaf.iter().any(|deaf| deaf == node) {
            return;
        }
        assert_eq!(
            pod.metadata.uid.as_deref(),
            Some(desired.node.pod_uid.as_str())
        );
        let life = self.lives.entry(node.to_owned()).or_default();
        let held = life.desired.as_ref();
        assert_eq!(
            held.map_or(0, |d| d.generation) + 1,
            desired.generation,
            "{node}"
        );
        if let Some(held) = held
            && held.cluster.uid == desired.cluster.uid
        {
            assert_eq!(held.node.token, desired.node.token, "{node} lost its token");
        }
        life.desired = Some(desired.clone());
    }

    /// Kubernetes makes pods and volumes, the nodes live on, and reports come in.
    pub(crate) fn tick(&mut self) {
        self.now = self
            .now
            .checked_add(SignedDuration::from_secs(5))
            .expect("in range");
        let sets: Vec<StatefulSet> = self.observed.stateful_sets.values().cloned().collect();
        for set in sets {
            self.controller(set);
        }
        let before = self.lives.clone();
        let names: Vec<String> = self.observed.pods.keys().cloned().collect();
        for name in &names {
            self.live(name, &before);
        }
        for name in &names {
            storage::live(self, name);
            self.report(name);
        }
    }

    /// The `StatefulSet` controller and the kubelet.
    fn controller(&mut self, mut set: StatefulSet) {
        let name = set.metadata.name.clone().unwrap_or_default();
        let spec = set.spec.clone().unwrap_or_default();
        let revision = compare::digest(&spec.template);
        set.status = Some(StatefulSetStatus {
            observed_generation: set.metadata.generation,
            update_revision: Some(revision.clone()),
            ..StatefulSetStatus::default()
        });
        for ordinal in 0..spec.replicas.unwrap_or(0) {
            let pod = format!("{name}-{ordinal}");
            for template in spec.volume_claim_templates.iter().flatten() {
                self.claim(&pod, template);
            }
            if let Some(orphan) = self.observed.pods.get_mut(&pod) {
                orphan
                    .metadata
                    .owner_references
                    .get_or_insert_with(|| vec![controller_of(&set)]);
            } else {
                let made = self.pod(&pod, &set, &revision);
                self.observed.pods.insert(pod, made);
            }
        }
        self.observed.stateful_sets.insert(name, set);
    }

    fn claim(&mut self, pod: &str, template: &PersistentVolumeClaim) {
        let name = Cluster::claim_name(pod);
        if self.observed.claims.contains_key(&name) {
            return;
        }
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some("data".to_owned()),
                uid: Some(self.fresh("claim")),
                labels: template.metadata.labels.clone(),
                creation_timestamp: Some(Time(self.now)),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: Some(PersistentVolumeClaimStatus {
                phase: Some("Bound".to_owned()),
                ..PersistentVolumeClaimStatus::default()
            }),
        };
        self.observed.claims.insert(name, claim);
    }

    fn pod(&mut self, name: &str, set: &StatefulSet, revision: &str) -> Pod {
        let template = set.spec.clone().unwrap_or_default().template;
        let mut metadata = template.metadata.unwrap_or_default();
        metadata.name = Some(name.to_owned());
        metadata.uid = Some(self.fresh("pod"));
        metadata.resource_version = Some("1".to_owned());
        metadata.owner_references = Some(vec![controller_of(set)]);
        let label = ("controller-revision-hash".to_owned(), revision.to_owned());
        metadata.labels.get_or_insert_default().extend([label]);
        let mut status = PodStatus {
            pod_ip: Some(format!("10.0.0.{}", self.count)),
            ..PodStatus::default()
        };
        if self.blocked.iter().any(|blocked| blocked == name) {
            status.pod_ip = None;
            let waiting = json!([{"name": "store", "image": "nowhere", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
            status.container_statuses = serde_json::from_value(waiting).expect("statuses");
        }
        Pod {
            metadata,
            spec: template.spec,
            status: Some(status),
        }
    }

    /// One step of a node's life, by what everyone was before.
    fn live(&mut self, name: &str, before: &BTreeMap<String, Life>) {
        let uid = self.observed.pods[name]
            .metadata
            .uid
            .clone()
            .unwrap_or_default();
        let life = self.lives.entry(name.to_owned()).or_default();
        let Some(desired) = life.desired.clone().filter(|d| d.node.pod_uid == uid) else {
            return;
        };
        let doubted = desired.distrust.as_ref().map(|d| d.proof_since);
        if life.proof.is_some() && doubted == Some(life.since) {
            life.proof = None;
        }
        let goes = if self.storage.damaged_objects.contains(name) {
            Goes::Unstaged
        } else if self.storage.failing_loads.contains(name) {
            Goes::Unloaded
        } else if self.storage.slow_loads.contains(name) {
            Goes::Slowly
        } else {
            Goes::Well
        };
        if crate::restore::tests::live(life, &desired, goes, self.now) {
            return;
        }
        if life.proof.is_some() || self.slow.iter().any(|slow| slow == name) {
            return;
        }
        let proven = |name: &str| {
            let donor = before.get(name).filter(|donor| donor.proof.is_some());
            let held = |d: &NodeDesired| d.hold.as_ref().is_some_and(|hold| hold.ring);
            let gives = |d: &NodeDesired| (d.serve && d.hold.is_none()) || held(d);
            donor.is_some_and(|donor| donor.desired.as_ref().is_some_and(gives))
        };
        let waits = desired.copy_not_before.is_some_and(|turn| self.now < turn);
        let mut donors = desired.donors.iter().filter(|_| !waits || life.warming);
        let donor = donors.find(|donor| proven(&donor.name));
        let had = life.proof;
        match desired.grant {
            Some(Grant::AcceptLocal { pod_uid }) if pod_uid == uid => {
                life.proof = Some(ProofKind::AcceptedLocal);
                life.before = true;
            }
            Some(Grant::Bootstrap { pod_uid }) if pod_uid == uid && !life.spent => {
                life.spent = true;
                life.proof = Some(ProofKind::Bootstrap);
                life.before = true;
            }
            _ if life.warming && donor.is_some() => {
                life.warming = false;
                life.proof = Some(ProofKind::WarmUp);
                life.before = true;
                let of = donor.and_then(|donor| before.get(&donor.name));
                life.received = of.and_then(|donor| donor.received.clone());
                life.keys = of.map_or(0, |donor| donor.keys);
                life.data = of.map_or(String::new(), |donor| donor.data.clone());
            }
            _ => {
                life.warming = donor.is_some();
                life.donor = donor.map(|donor| donor.name.clone()).unwrap_or_default();
            }
        }
        if life.proof != had {
            life.since = self.now;
        }
    }

    /// The sidecar's report and the kubelet's view of it.
    fn report(&mut self, name: &str) {
        let pod = self.observed.pods.get_mut(name).expect("it is there");
        let life = self.lives.entry(name.to_owned()).or_default();
        let status = pod.status.get_or_insert_default();
        if status.pod_ip.is_none() {
            let why = "no address".to_owned();
            self.observed
                .reports
                .insert(name.to_owned(), Seen::Unknown(why));
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let ours = life.desired.as_ref().filter(|d| d.node.pod_uid == uid);
        let ready = life.proof.is_some() && ours.is_some_and(|d| d.serve && d.hold.is_none());
        let kubelet = PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            ..PodCondition::default()
        };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "Ready");
        conditions.push(kubelet);
        let seen = if self.mute.iter().any(|mute| mute == name) {
            Seen::Unknown("it does not answer".to_owned())
        } else {
            let mut said = says(name, &uid, life, ready);
            if self.starting.iter().any(|starting| starting == name) {
                said.proof.kind = ProofKind::Unproven;
                said.proof.remembered = said.proof.since.take();
                (said.phase, said.engine) = (NodePhase::Starting, None);
            }
            Seen::Known(said)
        };
        self.observed.reports.insert(name.to_owned(), seen);
    }

    /// The waits of the next plan.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        self.plan().waits.into_iter().map(|w| w.wait).collect()
    }

    /// The reasons of the next plan's waits.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        self.waits().iter().map(Wait::reason).collect()
    }

    /// A person calls a node by REST.
    pub(crate) fn call(&mut self, node: &str, wish: Wish) {
        let call = Call {
            id: self.fresh("call"),
            wish,
            by: "dynomite-admin".to_owned(),
            at: self.now,
        };
        self.lives
            .entry(node.to_owned())
            .or_default()
            .calls
            .push(call);
    }

    /// Passes until nobody waits for an answer, and the objects that were named to
    /// callers; an error is why one was refused.
    pub(crate) fn answers(&mut self) -> Vec<Result<String, String>> {
        for _ in 0..10 {
            if self.lives.values().all(|life| life.calls.is_empty()) {
                break;
            }
            self.pass();
        }
        let lives = self.lives.values_mut();
        let said = lives.flat_map(|life| {
            assert!(life.calls.is_empty(), "nobody answers {:?}", life.calls);
            std::mem::take(&mut life.answered)
        });
        said.map(|outcome| match outcome {
            CallOutcome::Made { name, .. } => Ok(name),
            CallOutcome::Refused { why } => Err(why),
        })
        .collect()
    }

    /// A change of the spec.
    pub(crate) fn edit(
        &mut self,
        change: impl FnOnce(&mut dynomite_api::crd::DynomiteClusterSpec),
    ) {
        change(&mut self.resource.spec);
        let generation = self.resource.metadata.generation.get_or_insert(1);
        *generation += 1;
    }

    /// The UIDs of all pods.
    pub(crate) fn uids(&self) -> Vec<String> {
        let pods = self.observed.pods.values();
        pods.filter_map(|pod| pod.metadata.uid.clone()).collect()
    }

    pub(crate) fn pod_uid(&self, name: &str) -> String {
        self.observed.pods[name]
            .metadata
            .uid
            .clone()
            .unwrap_or_default()
    }
}

fn controller_of(set: &StatefulSet) -> OwnerReference {
    OwnerReference {
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }
}

/// An applied object keeps what the API server gave it.
fn keep(new: &mut ObjectMeta, old: Option<&ObjectMeta>, fresh: String) {
    new.uid = old.and_then(|m| m.uid.clone()).or(Some(fresh));
}

fn says(name: &str, uid: &str, life: &Life, ready: bool) -> NodeReport {
    let held = life.desired.as_ref().is_some_and(|d| d.hold.is_some());
    let phase = match (life.proof.is_some(), life.warming) {
        (true, _) if held => NodePhase::Held,
        (true, _) => NodePhase::Serving,
        (_, true) => NodePhase::WarmingUp,
        _ => NodePhase::Starting,
    };
    let awaiting = match (&life.desired, life.proof) {
        (None, _) => Some(Awaiting::Desired),
        (_, None) if !life.warming => Some(Awaiting::DonorOrGrant),
        (_, Some(_)) if !ready => Some(Awaiting::Serve),
        _ => None,
    };
    let state = if life.proof.is_some() && !held {
        EngineState::Normal
    } else {
        EngineState::Standby
    };
    // By its JSON form: a report may have more fields than matter here.
    let report = json!({
        "node": name, "podUid": uid, "version": "1",
        "at": life.since + SignedDuration::from_hours(1),
        "desired": life.desired.as_ref().map(|d| DesiredMark {
            cluster_uid: d.cluster.uid.clone(),
            pod_uid: d.node.pod_uid.clone(),
            cluster_generation: d.cluster_generation,
            generation: d.generation,
            digest: d.digest(),
        }),
        "phase": phase, "since": "2026-01-01T00:02:00Z", "ready": ready,
        "proof": {
            "kind": life.proof.unwrap_or(ProofKind::Unproven),
            "since": life.proof.map(|_| life.since),
            "before": life.before,
        },
        "awaiting": awaiting,
        "store": StoreFacts { keys: life.keys, ..StoreFacts::default() },
        "engine": {
            "state": state, "incarnation": format!("{uid}-engine"), "uptimeSeconds": 3600,
            "received": life.received,
        },
        "compare": life.compare.as_ref().map(|said| CompareReport {
            ordered: life.desired.as_ref().and_then(|d| Some(d.compare.as_ref()?.round)),
            ..said.clone()
        }),
        "restore": life.restore, "snapshot": life.snapshot, "credentials": life.credentials,
        "calls": life.calls,
        "warmUp": life.warming.then(|| json!({
            "donor": life.donor, "stage": "Copying", "startedAt": "2026-01-01T00:02:00Z",
            "attempt": 1, "bytesDone": 0,
        })),
    });
    serde_json::from_value(report).expect("a report")
}

/// A plan in few words.
pub(crate) fn summary(plan: &Plan) -> Vec<String> {
    let actions = plan
        .actions
        .iter()
        .map(|p| format!("{:?} {}", p.step, p.action.target()));
    let waits = plan
        .waits
        .iter()
        .map(|w| format!("{:?} {}", w.step, w.wait.message()));
    actions.chain(waits).collect()
}

/// The targets of the actions of one step.
pub(crate) fn targets(plan: &Plan, step: StepName) -> Vec<String> {
    let actions = plan.actions.iter().filter(|p| p.step == step);
    actions.map(|p| p.action.target()).collect()
}
