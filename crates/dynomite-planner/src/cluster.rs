//! A `DynomiteCluster` after validation: every field that is decided by is resolved, names and tokens included.

use std::collections::BTreeMap;
use std::fmt;

use dynomite_api::Token;
use dynomite_api::annotations::{
    ANNOTATION_BACKUP, ANNOTATION_CATALOG, ANNOTATION_RESTARTED_AT, ANNOTATION_RESTORE,
    ANNOTATION_UPDATE_IMAGES, FINALIZER,
};
use dynomite_api::contract::{
    ClusterRef, Consistency, EngineSettings, HealthSettings, Peer, Persistence, StoreSettings,
};
use dynomite_api::crd::{
    DynomiteCluster, DynomiteClusterSpec, MAX_STATEFULSET_NAME, RackSpec, RefreshStatus,
    StorageMedium, StorageSpec,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::quantity;
use crate::remotes::{self, Remote};
use crate::settings::{self, Fault};

/// What the operator's installation decides and the resource may leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The operator's own image, which is also the sidecar's.
    pub sidecar_image: String,
    /// The engine's image where `spec.dynomite.image` is absent.
    pub engine_image: String,
    /// `imagePullPolicy` of both; the API server's default when absent.
    pub image_pull_policy: Option<String>,
}

/// A validated `DynomiteCluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its namespace, name and UID.
    pub id: ClusterRef,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it carries our finalizer.
    pub has_finalizer: bool,
    /// The value of `kubectl.kubernetes.io/restartedAt`, if set.
    pub restarted_at: Option<String>,
    /// The image a person approved for running rings, by annotation.
    pub approved_image: Option<String>,
    /// The name of a backup that a person asked for, by annotation.
    pub backup_asked: Option<String>,
    /// What a person wants to have restored, by annotation.
    pub restore_asked: Option<String>,
    /// Whose backups a person wants to have objects for, by annotation.
    pub catalog_asked: Option<String>,
    /// The last time of each schedule that was heeded, by the status.
    pub schedules_heeded: BTreeMap<String, Timestamp>,
    /// What the status says of its refresh.
    pub refreshed: Option<RefreshStatus>,
    /// Since when the status says that the ring has served.
    pub served_since: Option<Timestamp>,
    /// The tokens the status holds, by node name.
    pub status_tokens: BTreeMap<String, Token>,
    /// The first address each node last had by the status: a node that is away
    /// keeps its place on the ring.
    pub status_addresses: BTreeMap<String, String>,
    /// Its racks, in the order of the spec.
    pub racks: Vec<Rack>,
    /// The tokens of each rack by ordinal, by the spec or by the formula.
    pub tokens: Vec<Token>,
    /// Whether the spec names the tokens.
    pub tokens_given: bool,
    /// The nodes of rings elsewhere that the spec names.
    pub remote_peers: Vec<Peer>,
    /// The rings elsewhere that describe themselves.
    pub remotes: Vec<Remote>,
    /// How many replicas must agree.
    pub consistency: Consistency,
    /// How the engine runs.
    pub engine: EngineSettings,
    /// How the store runs.
    pub store: StoreSettings,
    /// Settings of the spec that are left out of both, because no process would
    /// start with them.
    pub faults: Vec<Fault>,
    /// How health is checked.
    pub health: HealthSettings,
    /// How many nodes may copy at once.
    pub max_parallel: usize,
    /// Where the data lies.
    pub storage: StorageSpec,
    /// What the installation decides.
    pub defaults: Defaults,
    /// The rest of the spec, for what goes into objects unchanged.
    pub spec: DynomiteClusterSpec,
}

/// A rack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rack {
    /// Its name.
    pub name: String,
    /// The zone it lies in, if it is bound to one.
    pub zone: Option<String>,
}

/// One thing in a resource that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, such as `spec.racks[1].name`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything that is wrong with a resource, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}", violation.field, violation.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

impl Cluster {
    /// Validates a resource, and finds everything that is wrong at once.
    ///
    /// The schema refuses most of this at admission; a resource may still have
    /// come by an older schema.
    pub fn new(resource: &DynomiteCluster, defaults: &Defaults) -> Result<Self, Violations> {
        let mut found = Vec::new();
        let cluster = Self::resolve(resource, defaults, &mut found);
        if found.is_empty() {
            Ok(cluster)
        } else {
            Err(Violations(found))
        }
    }

    /// A resource that is being deleted, whatever its spec says: only what the
    /// deletion needs of it may be relied on. `None` when it is not being deleted.
    pub fn leaving(resource: &DynomiteCluster, defaults: &Defaults) -> Option<Self> {
        resource.metadata.deletion_timestamp.as_ref()?;
        Some(Self::resolve(resource, defaults, &mut Vec::new()))
    }

    fn resolve(
        resource: &DynomiteCluster,
        defaults: &Defaults,
        found: &mut Vec<Violation>,
    ) -> Self {
        let spec = &resource.spec;
        let meta = &resource.metadata;
        let id = identity(resource, found);
        check_racks(&id.name, spec, found);
        let (tokens, tokens_given) = tokens(spec, found);
        check_consistency(spec, found);
        check_refresh(&id, spec, found);
        let faults = settings::faults(spec, defaults);
        let mut store = store(spec, found);
        store.settings = settings::without(&faults, "store.settings", &store.settings);
        let engine = &spec.dynomite.settings;
        let remote_peers = remote_peers(spec, found);
        if quantity::parse(&spec.storage.size.0).is_none_or(|size| size <= 0) {
            push(
                found,
                "spec.storage.size",
                "must be a quantity above zero, such as 10Gi",
            );
        }
        let status = resource.status.as_ref();
        let remotes = remotes::remotes(spec, status, |i, why| {
            push(
                found,
                format!("spec.remoteDatacenters[{i}].describe"),
                format!("is no URL of a description: {why}"),
            );
        });
        let nodes = || status.iter().flat_map(|s| &s.racks).flat_map(|r| &r.nodes);
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        Self {
            id,
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            deleting: meta.deletion_timestamp.is_some(),
            has_finalizer: meta.finalizers.iter().flatten().any(|f| f == FINALIZER),
            restarted_at: annotation(ANNOTATION_RESTARTED_AT),
            approved_image: annotation(ANNOTATION_UPDATE_IMAGES),
            backup_asked: annotation(ANNOTATION_BACKUP),
            restore_asked: annotation(ANNOTATION_RESTORE),
            catalog_asked: annotation(ANNOTATION_CATALOG),
            schedules_heeded: status
                .and_then(|s| s.backup.as_ref())
                .into_iter()
                .flat_map(|backup| &backup.schedules)
                .map(|schedule| (schedule.name.clone(), schedule.last.0))
                .collect(),
            refreshed: status.and_then(|s| s.refresh.clone()),
            served_since: status.and_then(|s| s.served_since.as_ref()).map(|t| t.0),
            status_tokens: nodes().map(|n| (n.name.clone(), n.token)).collect(),
            status_addresses: nodes()
                .filter_map(|n| Some((n.name.clone(), n.addresses.first()?.clone())))
                .collect(),
            racks: spec.racks.iter().map(Rack::from).collect(),
            tokens,
            tokens_given,
            remote_peers,
            remotes,
            consistency: Consistency {
                read: spec.consistency.read,
                write: spec.consistency.write,
            },
            engine: EngineSettings {
                timeout_ms: spec.dynomite.timeout_milliseconds,
                settings: settings::without(&faults, "dynomite.settings", engine),
            },
            store,
            faults,
            max_parallel: usize::try_from(spec.warm_up.max_parallel).unwrap_or(usize::MAX),
            health: HealthSettings {
                interval_ms: spec.health.interval_milliseconds,
                timeout_ms: spec.health.timeout_milliseconds,
                failure_threshold: spec.health.failure_threshold,
            },
            storage: spec.storage.clone(),
            defaults: defaults.clone(),
            spec: spec.clone(),
        }
    }

    /// Whether `spec.paused` is set.
    pub fn paused(&self) -> bool {
        self.spec.paused
    }

    /// How much of a store's memory limit the data may fill, bytes.
    pub(crate) fn share_of(&self, limit: u64) -> u64 {
        share(&self.spec, limit)
    }

    /// Whether a person has approved that pods are made anew by this operator.
    pub(crate) fn approves_upgrade(&self) -> bool {
        self.approved_image.as_deref() == Some(self.defaults.sidecar_image.as_str())
    }

    /// How many same-token nodes the consistency levels need in this datacenter.
    pub fn required(&self) -> usize {
        let racks = self.racks.len();
        let Consistency { read, write } = self.consistency;
        read.required(racks).max(write.required(racks))
    }

    /// Whether the data survives the restart of a store.
    pub fn persistent(&self) -> bool {
        self.store.persistence != Persistence::None
    }

    /// Whether each node has a volume claim.
    pub fn has_volumes(&self) -> bool {
        self.storage.medium == StorageMedium::Volume
    }

    /// The name of a rack's `StatefulSet` and of its Service.
    pub fn rack_name(&self, rack: &str) -> String {
        format!("{}-{rack}", self.id.name)
    }

    /// The name of a node, which is its pod's name.
    pub fn node_name(&self, rack: &str, ordinal: usize) -> String {
        format!("{}-{rack}-{ordinal}", self.id.name)
    }

    /// The name of a node's volume claim.
    pub fn claim_name(node: &str) -> String {
        format!("{CLAIM}-{node}")
    }

    /// The headless Service of the peers.
    pub fn nodes_service(&self) -> String {
        format!("{}-nodes", self.id.name)
    }

    /// The `ConfigMap` that records the tokens beyond the cluster's life.
    pub fn token_record(&self) -> String {
        format!("{}-tokens", self.id.name)
    }

    /// The Secret of the CA.
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.id.name)
    }

    /// The Secret of the nodes' certificate.
    pub fn node_secret(&self) -> String {
        format!("{}-node-tls", self.id.name)
    }

    /// The Secret of the certificate with which people speak to nodes.
    pub fn admin_secret(&self) -> String {
        format!("{}-admin-tls", self.id.name)
    }

    /// The pod that loads backups to prove them. There is one at a time.
    pub fn scratch_pod(&self) -> String {
        format!("{}-scratch", self.id.name)
    }

    /// The domain in which the nodes' host names lie.
    pub fn nodes_domain(&self) -> String {
        format!(
            "{}.{}.svc.{}",
            self.nodes_service(),
            self.id.namespace,
            self.spec.cluster_domain
        )
    }

    /// The host name of a node.
    pub fn host(&self, node: &str) -> String {
        format!("{node}.{}", self.nodes_domain())
    }

    /// Every name the operator would use for an object of this cluster, pods
    /// and claims aside: whatever lies there must be observed, whoever owns it.
    pub fn object_names(&self) -> Vec<String> {
        let mut names = vec![
            self.id.name.clone(),
            self.nodes_service(),
            self.token_record(),
        ];
        names.extend(self.racks.iter().map(|rack| self.rack_name(&rack.name)));
        names
    }

    /// The spec of a rack.
    pub(crate) fn rack_spec(&self, rack: &str) -> Option<&RackSpec> {
        self.spec.racks.iter().find(|r| r.name == rack)
    }
}

/// The name of the volume claim template.
pub(crate) const CLAIM: &str = "data";

impl From<&RackSpec> for Rack {
    fn from(spec: &RackSpec) -> Self {
        Self {
            name: spec.name.clone(),
            zone: spec.zone.clone(),
        }
    }
}

fn push(found: &mut Vec<Violation>, field: impl Into<String>, message: impl Into<String>) {
    found.push(Violation {
        field: field.into(),
        message: message.into(),
    });
}

fn identity(resource: &DynomiteCluster, found: &mut Vec<Violation>) -> ClusterRef {
    let meta = &resource.metadata;
    let mut part = |field: &str, value: &Option<String>| {
        if value.as_deref().unwrap_or_default().is_empty() {
            push(
                found,
                field,
                "is missing: read the resource from Kubernetes",
            );
        }
        value.clone().unwrap_or_default()
    };
    let id = ClusterRef {
        namespace: part("metadata.namespace", &meta.namespace),
        name: part("metadata.name", &meta.name),
        uid: part("metadata.uid", &meta.uid),
        created: meta.creation_timestamp.as_ref().map(|t| t.0),
    };
    if !id.name.is_empty() && !is_service_name(&id.name) {
        push(
            found,
            "metadata.name",
            "becomes the name of Services: use lower-case letters, digits and '-', and begin with a letter",
        );
    }
    id
}

/// Whether a text may name a Service: RFC 1035.
fn is_service_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.bytes().all(ok)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

fn check_racks(cluster: &str, spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) {
    if spec.racks.is_empty() {
        push(
            found,
            "spec.racks",
            "is empty: a ring needs at least one rack",
        );
    }
    if spec.nodes_per_rack == 0 {
        push(found, "spec.nodesPerRack", "must be at least 1");
    }
    for (i, rack) in spec.racks.iter().enumerate() {
        let field = format!("spec.racks[{i}].name");
        if rack.name == "nodes" {
            push(
                found,
                &field,
                "cannot be 'nodes': '<cluster>-nodes' is the Service of the peers; choose another name",
            );
        }
        if spec.racks[..i].iter().any(|other| other.name == rack.name) {
            let message = format!(
                "{:?} is there twice: give each rack its own name",
                rack.name
            );
            push(found, &field, message);
        }
        if cluster.len() + 1 + rack.name.len() > MAX_STATEFULSET_NAME {
            let message = format!(
                "makes the StatefulSet's name '{cluster}-{}' longer than {MAX_STATEFULSET_NAME} characters: shorten the rack's or the cluster's name",
                rack.name
            );
            push(found, &field, message);
        }
        if rack.name.is_empty() || !is_service_name(&format!("r{}", rack.name)) {
            push(
                found,
                &field,
                "must be lower-case letters, digits and '-', and must not end with '-'",
            );
        }
    }
}

/// The tokens of a rack by ordinal, and whether the spec names them.
fn tokens(spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) -> (Vec<Token>, bool) {
    let first = spec.racks.first().and_then(|r| r.tokens.as_ref());
    for (i, rack) in spec.racks.iter().enumerate() {
        let field = format!("spec.racks[{i}].tokens");
        if rack.tokens.as_ref() != first {
            push(
                found,
                &field,
                "must be the same list in every rack, or absent in all: nodes with the same token are each other's replicas",
            );
        }
        let Some(tokens) = &rack.tokens else { continue };
        if u32::try_from(tokens.len()).ok() != Some(spec.nodes_per_rack) {
            let message = format!(
                "must hold one token for each of the {} nodes",
                spec.nodes_per_rack
            );
            push(found, &field, message);
        }
        let mut sorted = tokens.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            push(
                found,
                &field,
                "holds a token twice: every node of a rack needs a token of its own",
            );
        }
    }
    let spread =
        (0..spec.nodes_per_rack).filter_map(|i| Token::evenly_spread(i, spec.nodes_per_rack));
    match first {
        Some(given) => (given.clone(), true),
        None => (spread.collect(), false),
    }
}

fn check_consistency(spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) {
    let levels = [
        ("spec.consistency.read", spec.consistency.read),
        ("spec.consistency.write", spec.consistency.write),
    ];
    for (field, level) in levels {
        if level.required(3) > 1 && spec.racks.len() < 3 {
            let message = format!(
                "{} needs at least three racks, because with fewer one lost node fails every request of its token: add racks or use DC_ONE",
                level.name()
            );
            push(found, field, message);
        }
    }
}

/// The schema knows no namespace, so it cannot see every ring that names itself.
fn check_refresh(id: &ClusterRef, spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) {
    let Some(refresh) = &spec.refresh else {
        return;
    };
    let source = &refresh.source_cluster;
    let namespace = source.namespace.as_ref().unwrap_or(&id.namespace);
    if (namespace, &source.name) == (&id.namespace, &id.name) {
        push(
            found,
            "spec.refresh.sourceCluster",
            "is this cluster itself: what was written since its last backup would be lost each time; name the ring whose data this one is to get",
        );
    }
    let backup = spec.backup.as_ref();
    let store = backup.and_then(|backup| backup.store(refresh.store.as_deref()));
    if store.is_none() {
        push(
            found,
            "spec.refresh",
            "needs the store that the backups lie in: add it to spec.backup.stores",
        );
    }
    if backup.is_some_and(|backup| !backup.schedules.is_empty()) {
        push(
            found,
            "spec.refresh",
            "gives up what was written to this ring, and spec.backup.schedules keeps it: a ring has one or the other",
        );
    }
    if !spec.remote_datacenters.is_empty() {
        push(
            found,
            "spec.refresh",
            "excludes spec.remoteDatacenters: the other datacenters would keep, and send, what this one gives up",
        );
    }
}

fn store(spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) -> StoreSettings {
    let has_volume = spec.storage.medium == StorageMedium::Volume;
    let persistence = match spec.store.persistence {
        Some(given) => given,
        None if has_volume => Persistence::Aof,
        None => Persistence::None,
    };
    if persistence != Persistence::None && !has_volume {
        push(
            found,
            "spec.store.persistence",
            "needs a volume: set it to none, or storage.medium to Volume",
        );
    }
    let limit = spec
        .store
        .resources
        .as_ref()
        .and_then(|r| r.limits.as_ref())
        .and_then(|limits| limits.get("memory"));
    let max_memory_bytes = match limit.map(|q| quantity::bytes(&q.0)) {
        None => 0,
        Some(Some(bytes)) => share(spec, bytes),
        Some(None) => {
            push(
                found,
                "spec.store.resources.limits.memory",
                "is not a quantity: write it like 2Gi",
            );
            0
        }
    };
    StoreSettings {
        kind: spec.store.kind,
        persistence,
        max_memory_bytes,
        settings: spec.store.settings.clone(),
    }
}

/// How much of a memory limit the data may fill, bytes.
fn share(spec: &DynomiteClusterSpec, limit: u64) -> u64 {
    limit / 100 * u64::from(spec.store.memory_percent)
}

fn remote_peers(spec: &DynomiteClusterSpec, found: &mut Vec<Violation>) -> Vec<Peer> {
    let mut peers = Vec::new();
    for (i, remote) in spec.remote_datacenters.iter().enumerate() {
        if remote.name == spec.datacenter {
            push(
                found,
                format!("spec.remoteDatacenters[{i}].name"),
                "is this cluster's own datacenter: give each datacenter a name of its own",
            );
        }
        if remote.describe.is_none() == remote.seeds.is_empty() {
            push(
                found,
                format!("spec.remoteDatacenters[{i}]"),
                "needs seeds or describe, one of the two: its nodes, or the URL at which it describes itself",
            );
        }
        for (j, seed) in remote.seeds.iter().enumerate() {
            match parse_seed(seed).filter(|peer| peer.datacenter == remote.name) {
                Some(peer) => peers.push(peer),
                None => push(
                    found,
                    format!("spec.remoteDatacenters[{i}].seeds[{j}]"),
                    format!(
                        "{seed:?} is not host:port:rack:{}:token with a port and a token in range",
                        remote.name
                    ),
                ),
            }
        }
    }
    peers
}

/// Reads `host:port:rack:datacenter:token`; the host may hold colons (IPv6).
fn parse_seed(seed: &str) -> Option<Peer> {
    let mut parts = seed.rsplitn(5, ':');
    let token = parts.next()?.parse().ok()?;
    let datacenter = parts.next()?.to_owned();
    let rack = parts.next()?.to_owned();
    let port: u16 = parts.next()?.parse().ok()?;
    let host = parts.next()?.trim_start_matches('[').trim_end_matches(']');
    let complete = ![host, &rack, &datacenter]
        .iter()
        .any(|part| part.is_empty());
    let address: Option<std::net::IpAddr> = host.parse().ok();
    (complete && port > 0).then(|| Peer {
        host: host.to_owned(),
        address: address.map(|a| a.to_string()),
        port,
        datacenter,
        rack,
        token,
    })
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::ConsistencyLevel;
    use dynomite_api::crd::RemoteDatacenter;
    use serde_json::json;

    use super::*;
    use crate::world::{defaults, resource};

    fn fields(resource: &DynomiteCluster) -> Vec<String> {
        match Cluster::new(resource, &defaults()) {
            Ok(_) => Vec::new(),
            Err(found) => found.0.into_iter().map(|v| v.field).collect(),
        }
    }

    #[test]
    fn all_violations_are_found_at_once() {
        let mut bad = resource(2, 2);
        bad.metadata.name = Some("9ring".to_owned());
        bad.spec.racks[0].name = "nodes".to_owned();
        bad.spec.racks[1].name = "x".repeat(60);
        bad.spec.racks[1].tokens = Some(vec![Token(5), Token(5), Token(6)]);
        bad.spec.consistency.write = ConsistencyLevel::DcQuorum;
        bad.spec.store.persistence = Some(Persistence::Aof);
        bad.spec.storage.medium = StorageMedium::None;
        bad.spec.remote_datacenters = vec![RemoteDatacenter {
            name: "dc1".to_owned(),
            describe: None,
            seeds: vec!["host:8101:r:dc2:1".to_owned()],
        }];
        let found = fields(&bad);
        for field in [
            "metadata.name",
            "spec.racks[0].name",
            "spec.racks[1].name",
            "spec.racks[1].tokens",
            "spec.consistency.write",
            "spec.store.persistence",
            "spec.remoteDatacenters[0].name",
            "spec.remoteDatacenters[0].seeds[0]",
        ] {
            assert!(found.iter().any(|f| f == field), "{field} in {found:?}");
        }
        assert_eq!(fields(&resource(3, 2)), Vec::<String>::new());
    }

    #[test]
    fn racks_must_differ() {
        let mut bad = resource(3, 2);
        bad.spec.racks[2].name = "a".to_owned();
        assert_eq!(fields(&bad), ["spec.racks[2].name"]);
    }

    #[test]
    fn memory_is_a_share_of_the_limit() {
        let mut given = resource(1, 1);
        given.spec.store.resources =
            serde_json::from_value(json!({"limits": {"memory": "1000Mi"}})).expect("resources");
        let cluster = Cluster::new(&given, &defaults()).expect("valid");
        assert_eq!(cluster.store.max_memory_bytes, 650 * 1024 * 1024);
        given.spec.store.resources = None;
        let cluster = Cluster::new(&given, &defaults()).expect("valid");
        assert_eq!(cluster.store.max_memory_bytes, 0);
    }

    #[test]
    fn seeds_are_read_from_the_right() {
        let peer = parse_seed("[2001:db8::1]:8101:dc2-a:dc2:17").expect("a seed");
        assert_eq!(
            (peer.host.as_str(), peer.address.as_deref(), peer.token),
            ("2001:db8::1", Some("2001:db8::1"), Token(17))
        );
        let named = parse_seed("node.example:8101:dc2-a:dc2:17").expect("a seed");
        assert_eq!((named.address, named.port), (None, 8101));
        for bad in [
            "host:0:r:d:1",
            "host:70000:r:d:1",
            "host:1:r:d:-1",
            ":1:r:d:1",
            "h:1:r:d",
        ] {
            assert_eq!(parse_seed(bad), None, "{bad}");
        }
    }
}
