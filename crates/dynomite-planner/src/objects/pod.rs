//! The pod of a node: sidecar, store and engine, under the restricted Pod Security level.

use std::collections::BTreeMap;

use dynomite_api::annotations::{
    ANNOTATION_PERSISTENCE, ANNOTATION_RESTARTED_AT, ANNOTATION_SETTINGS_HASH, ANNOTATION_SHAPE,
    COMPONENT_NODE, FIELD_MANAGER, LABEL_COMPONENT, LABEL_DATACENTER, LABEL_MANAGED_BY,
};
use dynomite_api::contract::{
    DIR_DATA, DIR_RUN, DIR_TLS, FILE_ENGINE_CONF, FILE_LAUNCHER, FILE_STORE_CONF, PATH_LIVE,
    PATH_READY, PATH_STARTUP, PORT_CLIENT, PORT_PEER, PORT_PLAIN, PORT_SECURE, env,
};
use dynomite_api::crd::{BackupStore, RackSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Images, Pairs, selector};
use crate::bucket::DIR_BACKUPS;
use crate::cluster::{CLAIM, Cluster, Rack};
use crate::compare;
use crate::settings;

/// The user and group of our image, and the default for all containers.
const USER: i64 = 65_532;
/// The shared volume holds sockets, rendered files and the launcher's binary.
const RUN_SIZE: &str = "64Mi";
/// Seconds between a launcher's last wait and the end of the pod's grace.
const LAUNCHER_MARGIN: i64 = 5;
/// The sidecar waits for the operator as long as it takes: a killed sidecar
/// would not get its desired document sooner.
const STARTUP_FAILURES: i32 = 1_000_000;

const RUN: &str = "run";
const TLS: &str = "tls";
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The template of a rack's pods.
pub(crate) fn template(cluster: &Cluster, rack: &Rack, images: &Images) -> PodTemplateSpec {
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(cluster, rack)),
            annotations: Some(annotations(cluster)),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(cluster, rack, images)),
    };
    let shape = shape(&template);
    let metadata = template.metadata.get_or_insert_default();
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_SHAPE.to_owned(), shape);
    template
}

/// A digest of everything a running pod cannot be given.
fn shape(template: &PodTemplateSpec) -> String {
    let mut template = template.clone();
    if let Some(spec) = &mut template.spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            container.resources = None;
        }
    }
    compare::digest(&template)
}

fn labels(cluster: &Cluster, rack: &Rack) -> Pairs {
    let mut labels = cluster.spec.pod.labels.clone();
    labels.extend(selector(cluster, Some(&rack.name)));
    let ours = [
        (LABEL_MANAGED_BY, FIELD_MANAGER),
        (LABEL_COMPONENT, COMPONENT_NODE),
        (LABEL_DATACENTER, &cluster.spec.datacenter),
    ];
    labels.extend(super::pairs(ours));
    labels
}

fn annotations(cluster: &Cluster) -> Pairs {
    let mut annotations = cluster.spec.pod.annotations.clone();
    let hash = settings::restart_digest(cluster);
    annotations.insert(ANNOTATION_SETTINGS_HASH.to_owned(), hash);
    annotations.insert(
        ANNOTATION_PERSISTENCE.to_owned(),
        cluster.store.persistence.name().to_owned(),
    );
    annotations.insert(
        "kubectl.kubernetes.io/default-container".to_owned(),
        "dynomite".to_owned(),
    );
    if let Some(at) = &cluster.restarted_at {
        annotations.insert(ANNOTATION_RESTARTED_AT.to_owned(), at.clone());
    }
    annotations
}

fn spec(cluster: &Cluster, rack: &Rack, images: &Images) -> PodSpec {
    let pod = &cluster.spec.pod;
    let declared = cluster.rack_spec(&rack.name);
    PodSpec {
        init_containers: Some(vec![sidecar(cluster, images)]),
        containers: vec![store(cluster), engine(cluster, images)],
        volumes: Some(volumes(cluster)),
        security_context: Some(pod_security(cluster)),
        automount_service_account_token: Some(false),
        service_account_name: identity_of(cluster),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(pod.termination_grace_period_seconds),
        node_selector: Some(node_selector(rack, declared)).filter(|s| !s.is_empty()),
        tolerations: Some(tolerations(cluster, declared)).filter(|t| !t.is_empty()),
        affinity: Some(pod.affinity.clone().unwrap_or_else(|| spread(cluster))),
        priority_class_name: pod.priority_class_name.clone(),
        image_pull_secrets: some(&pod.image_pull_secrets),
        topology_spread_constraints: some(&pod.topology_spread_constraints),
        ..PodSpec::default()
    }
}

/// The account by which a cloud knows the pods, if they need one for backups.
pub(super) fn identity_of(cluster: &Cluster) -> Option<String> {
    let backup = cluster.spec.backup.as_ref()?;
    backup.service_account_name.clone()
}

pub(super) fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn node_selector(rack: &Rack, declared: Option<&RackSpec>) -> Pairs {
    let mut labels = declared
        .map(|r| r.node_selector.clone())
        .unwrap_or_default();
    if let Some(zone) = &rack.zone {
        labels.insert(ZONE.to_owned(), zone.clone());
    }
    labels
}

/// A ring in memory only stays where it is when a Kubernetes node is not heard
/// of for a while: evicting its pods would wipe them.
fn tolerations(cluster: &Cluster, declared: Option<&RackSpec>) -> Vec<Toleration> {
    let mut list = declared.map(|r| r.tolerations.clone()).unwrap_or_default();
    if !cluster.has_volumes() {
        for taint in ["not-ready", "unreachable"] {
            list.push(Toleration {
                key: Some(format!("node.kubernetes.io/{taint}")),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                ..Toleration::default()
            });
        }
    }
    list
}

/// Nodes of a ring keep to different Kubernetes nodes where they can.
fn spread(cluster: &Cluster) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        topology_key: HOSTNAME.to_owned(),
                        label_selector: Some(LabelSelector {
                            match_labels: Some(selector(cluster, None)),
                            ..LabelSelector::default()
                        }),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

pub(super) fn pod_security(cluster: &Cluster) -> PodSecurityContext {
    // 0 leaves the choice to the platform, which gives each namespace its own range.
    let user = Some(cluster.spec.pod.run_as_user.unwrap_or(USER)).filter(|id| *id != 0);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

pub(super) fn sidecar(cluster: &Cluster, images: &Images) -> Container {
    Container {
        name: "sidecar".to_owned(),
        image: Some(images.sidecar.clone()),
        image_pull_policy: images.pull_policy.clone(),
        restart_policy: Some("Always".to_owned()),
        command: Some(words(&["dynomite-sidecar", "launch", "sidecar"])),
        env: Some(identity()),
        ports: Some(vec![port("rest", PORT_PLAIN), port("sidecar", PORT_SECURE)]),
        startup_probe: Some(probe(PATH_STARTUP, 1, STARTUP_FAILURES)),
        // One failed answer is enough: the sidecar has already been patient.
        readiness_probe: Some(probe(
            PATH_READY,
            cluster.spec.health.probe_period_seconds,
            1,
        )),
        liveness_probe: Some(Probe {
            timeout_seconds: Some(5),
            ..probe(PATH_LIVE, 5, 6)
        }),
        resources: Some(resources(
            cluster.spec.pod.sidecar_resources.as_ref(),
            "10m",
            "32Mi",
        )),
        security_context: Some(security()),
        volume_mounts: Some(sidecar_mounts(cluster)),
        ..Container::default()
    }
}

fn sidecar_mounts(cluster: &Cluster) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount(RUN, DIR_RUN),
        mount(CLAIM, DIR_DATA),
        VolumeMount {
            read_only: Some(true),
            ..mount(TLS, DIR_TLS)
        },
    ];
    let local = local_stores(cluster);
    mounts.extend(local.map(|(store, _)| {
        mount(
            &backup_volume(store),
            &format!("{DIR_BACKUPS}/{}", store.name),
        )
    }));
    mounts
}

/// The stores of backups that are volumes, each with its claim.
fn local_stores(cluster: &Cluster) -> impl Iterator<Item = (&BackupStore, &str)> {
    let backup = cluster.spec.backup.iter();
    let stores = backup.flat_map(|backup| &backup.stores);
    stores.filter_map(|store| Some((store, store.local.as_ref()?.claim_name.as_str())))
}

fn backup_volume(store: &BackupStore) -> String {
    // Names of volumes end at 63 characters, those of stores too.
    let name: String = store.name.chars().take(48).collect();
    format!("backups-{}", name.trim_end_matches('-'))
}

pub(super) fn store(cluster: &Cluster) -> Container {
    let program = ["redis-server", FILE_STORE_CONF];
    Container {
        name: "store".to_owned(),
        image: Some(cluster.spec.store.image.clone()),
        command: Some(launch(cluster, "store", &program)),
        env: Some(identity()),
        resources: Some(resources(
            cluster.spec.store.resources.as_ref(),
            "50m",
            "128Mi",
        )),
        security_context: Some(security()),
        volume_mounts: Some(vec![mount(RUN, DIR_RUN), mount(CLAIM, DIR_DATA)]),
        ..Container::default()
    }
}

fn engine(cluster: &Cluster, images: &Images) -> Container {
    let program = ["dynomite", "-c", FILE_ENGINE_CONF];
    let own = cluster.spec.dynomite.image.clone();
    Container {
        name: "dynomite".to_owned(),
        image_pull_policy: own.is_none().then(|| images.pull_policy.clone()).flatten(),
        image: Some(own.unwrap_or_else(|| images.engine.clone())),
        command: Some(launch(cluster, "dynomite", &program)),
        env: Some(identity()),
        ports: Some(vec![port("redis", PORT_CLIENT), port("peer", PORT_PEER)]),
        resources: Some(resources(
            cluster.spec.dynomite.resources.as_ref(),
            "50m",
            "64Mi",
        )),
        security_context: Some(security()),
        volume_mounts: Some(vec![mount(RUN, DIR_RUN)]),
        ..Container::default()
    }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A program beneath the launcher, which gives up waiting for the sidecar just
/// before the pod's grace is used up.
fn launch(cluster: &Cluster, name: &str, program: &[&str]) -> Vec<String> {
    let pod = cluster.spec.pod.termination_grace_period_seconds;
    let grace = (pod - LAUNCHER_MARGIN).max(pod / 2).max(1).to_string();
    let mut command = words(&[FILE_LAUNCHER, "launch", name, "--grace", &grace, "--"]);
    command.extend(words(program));
    command
}

/// Who the pod is, by the downward API.
fn identity() -> Vec<EnvVar> {
    [
        (env::POD_NAME, "metadata.name"),
        (env::POD_NAMESPACE, "metadata.namespace"),
        (env::POD_UID, "metadata.uid"),
        (env::POD_IP, "status.podIP"),
        (env::NODE_NAME, "spec.nodeName"),
    ]
    .into_iter()
    .map(|(name, path)| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    })
    .collect()
}

/// What the spec gives, or requests that let a small ring run anywhere. There
/// are no default limits: who wants them knows the data.
fn resources(
    given: Option<&ResourceRequirements>,
    cpu: &str,
    memory: &str,
) -> ResourceRequirements {
    given.cloned().unwrap_or_else(|| ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ])),
        ..ResourceRequirements::default()
    })
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(PORT_PLAIN)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

pub(super) fn volumes(cluster: &Cluster) -> Vec<Volume> {
    let mut list = vec![
        Volume {
            name: RUN.to_owned(),
            // In memory: what it holds is about processes that a reboot ends too.
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity(RUN_SIZE.to_owned())),
            }),
            ..Volume::default()
        },
        Volume {
            name: TLS.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(cluster.node_secret()),
                // Readable by the group the volume belongs to, by nobody else.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if !cluster.has_volumes() {
        list.push(Volume {
            name: CLAIM.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    list.extend(local_stores(cluster).map(|(store, claim)| Volume {
        name: backup_volume(store),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    }));
    list
}
