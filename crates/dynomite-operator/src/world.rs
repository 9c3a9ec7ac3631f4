//! The watches: one for each kind, shared by all clusters, each change waking the cluster it belongs to.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use dynomite_api::annotations::{
    APP_NAME, APP_SCRATCH, FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_NAME,
};
use dynomite_api::crd::{DynomiteBackup, DynomiteCluster, DynomiteRestore};
use dynomite_planner::{HOST_LABELS, KubernetesNode};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use kube_runtime::WatchStreamExt;
use kube_runtime::reflector::Store;
use kube_runtime::reflector::store::Writer;
use kube_runtime::watcher::{Config, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::index::{Change, ClusterKey, Index, Scope};
use crate::metrics::Metrics;

/// How many objects one page of a list holds: a limit on memory at the start.
const PAGE_SIZE: u32 = 200;

/// The label of Kubernetes nodes that names their zone.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// The taint by which a person says that a Kubernetes node is down for good.
const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Everything the operator watches.
pub struct World {
    /// The resources people write.
    pub clusters: Index<DynomiteCluster>,
    /// Racks.
    pub stateful_sets: Index<StatefulSet>,
    /// Services.
    pub services: Index<Service>,
    /// Token records.
    pub config_maps: Index<ConfigMap>,
    /// Disruption budgets.
    pub budgets: Index<PodDisruptionBudget>,
    /// Volume claims.
    pub claims: Index<PersistentVolumeClaim>,
    /// Pods, and those that load backups to prove them.
    pub pods: Index<Pod>,
    /// Backups.
    pub backups: Index<DynomiteBackup>,
    /// Restores.
    pub restores: Index<DynomiteRestore>,
    /// Kubernetes nodes; `None` when the operator may not read them.
    pub nodes: Option<Index<Node>>,
    /// Clusters to look at.
    pub triggers: Triggers,
    /// The clusters once more, as the controller loop wants to have them.
    mirror: Mutex<Writer<DynomiteCluster>>,
    pending: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

impl World {
    /// An empty world; `nodes` says whether Kubernetes nodes may be read.
    pub fn new(nodes: bool, metrics: Arc<Metrics>) -> Self {
        Self {
            clusters: Index::new(ClusterKey::of_self),
            stateful_sets: Index::new(ClusterKey::of_child),
            services: Index::new(ClusterKey::of_child),
            config_maps: Index::new(ClusterKey::of_child),
            budgets: Index::new(ClusterKey::of_child),
            claims: Index::new(ClusterKey::of_child),
            pods: Index::new(ClusterKey::of_child),
            backups: Index::new(|backup: &DynomiteBackup| {
                ClusterKey::named_by(backup, &backup.spec.cluster)
            }),
            restores: Index::new(|restore: &DynomiteRestore| {
                ClusterKey::named_by(restore, &restore.spec.cluster)
            }),
            nodes: nodes.then(|| Index::new(ClusterKey::none)),
            triggers: Triggers::default(),
            mirror: Mutex::new(Writer::default()),
            pending: watch::Sender::new(0),
            metrics,
        }
    }

    /// The watches over the given scopes; they never end.
    ///
    /// Volume claims and pods are selected by a label of the frozen set, the
    /// others by who made them.
    pub fn watches(
        self: &Arc<Self>,
        client: &Client,
        scopes: &[Scope],
    ) -> Vec<BoxFuture<'static, ()>> {
        let ours = format!("{LABEL_MANAGED_BY}={FIELD_MANAGER}");
        let app = format!("{LABEL_NAME}={APP_NAME}");
        let pods = format!("{LABEL_NAME} in ({APP_NAME},{APP_SCRATCH})");
        let mut watches = Vec::new();
        for scope in scopes {
            watches.push(self.watch(client, scope, "", |world| &world.clusters));
            watches.push(self.watch(client, scope, "", |world| &world.backups));
            watches.push(self.watch(client, scope, "", |world| &world.restores));
            watches.push(self.watch(client, scope, &ours, |world| &world.stateful_sets));
            watches.push(self.watch(client, scope, &ours, |world| &world.services));
            watches.push(self.watch(client, scope, &ours, |world| &world.config_maps));
            watches.push(self.watch(client, scope, &ours, |world| &world.budgets));
            watches.push(self.watch(client, scope, &app, |world| &world.claims));
            watches.push(self.watch(client, scope, &pods, |world| &world.pods));
        }
        if self.nodes.is_some() {
            watches.push(self.watch_nodes(client));
        }
        watches
    }

    /// Waits until every watch has shown everything once, and hands over the
    /// store the controller loop reads from.
    pub async fn synced(&self) -> Store<DynomiteCluster> {
        let mut pending = self.pending.subscribe();
        // The sender lives as long as `self`.
        let _ = pending.wait_for(|count| *count == 0).await;
        let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        mirror.apply_watcher_event(&Event::Init);
        for cluster in self.clusters.all() {
            mirror.apply_watcher_event(&Event::InitApply(cluster.as_ref().clone()));
        }
        mirror.apply_watcher_event(&Event::InitDone);
        mirror.as_reader()
    }

    /// Whether every watch has shown everything once.
    pub fn is_synced(&self) -> bool {
        *self.pending.borrow() == 0
    }

    fn watch<K>(
        self: &Arc<Self>,
        client: &Client,
        scope: &Scope,
        labels: &str,
        index: fn(&World) -> &Index<K>,
    ) -> BoxFuture<'static, ()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let api = match scope {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let config = Config::default().labels(labels).page_size(PAGE_SIZE);
        let (world, scope) = (Arc::clone(self), scope.clone());
        self.pending.send_modify(|count| *count += 1);
        async move {
            let events = stream_of(api, config);
            let mut events = std::pin::pin!(events);
            let mut listed = false;
            while let Some(event) = events.next().await {
                let Some(event) = world.sort_out::<K>(event) else {
                    continue;
                };
                let complete = matches!(event, Event::InitDone);
                for change in index(&world).handle(&scope, event) {
                    world.wake(index(&world).cluster_of(change.object()));
                    world.mirror_change(&change);
                }
                world.note_listed(complete, &mut listed);
            }
        }
        .boxed()
    }

    fn watch_nodes(self: &Arc<Self>, client: &Client) -> BoxFuture<'static, ()> {
        let api: Api<Node> = Api::all(client.clone());
        let config = Config::default().page_size(PAGE_SIZE);
        let world = Arc::clone(self);
        self.pending.send_modify(|count| *count += 1);
        async move {
            let events = stream_of(api, config);
            let mut events = std::pin::pin!(events);
            let mut listed = false;
            while let Some(event) = events.next().await {
                let (Some(event), Some(nodes)) = (world.sort_out::<Node>(event), &world.nodes)
                else {
                    continue;
                };
                let before = world.kubernetes_nodes();
                let complete = matches!(event, Event::InitDone);
                nodes.handle(&None, event.modify(keep_what_matters));
                // Heartbeats change a node all the time; clusters are woken
                // only by what they are planned from.
                if before != world.kubernetes_nodes() {
                    for cluster in world.clusters.all() {
                        world.wake(world.clusters.cluster_of(&cluster));
                    }
                }
                world.note_listed(complete, &mut listed);
            }
        }
        .boxed()
    }

    /// What matters of the Kubernetes nodes; `None` when they may not be read.
    pub fn kubernetes_nodes(&self) -> Option<Vec<(String, KubernetesNode)>> {
        let nodes = self.nodes.as_ref()?.all();
        Some(
            nodes
                .iter()
                .map(|node| (node.name_any(), facts(node)))
                .collect(),
        )
    }

    fn sort_out<K: Resource<DynamicType = ()>>(
        &self,
        event: Result<Event<K>, kube_runtime::watcher::Error>,
    ) -> Option<Event<K>> {
        match event {
            Ok(event) => Some(event),
            Err(error) => {
                let kind = K::kind(&()).into_owned();
                tracing::warn!(%kind, %error, "a watch failed and is tried again");
                self.metrics.watch_failed(kind);
                None
            }
        }
    }

    fn note_listed(&self, complete: bool, listed: &mut bool) {
        if complete && !std::mem::replace(listed, true) {
            self.pending.send_modify(|count| *count -= 1);
        }
    }

    fn wake(&self, cluster: Option<ClusterKey>) {
        if let Some(cluster) = cluster {
            self.triggers.push(cluster);
        }
    }

    fn mirror_change<K: Send + Sync + 'static>(&self, change: &Change<K>) {
        let object: &Arc<K> = change.object();
        let Some(cluster) =
            (object.as_ref() as &dyn std::any::Any).downcast_ref::<DynomiteCluster>()
        else {
            return;
        };
        let event = match change {
            Change::Applied(_) => Event::Apply(cluster.clone()),
            Change::Deleted(_) => Event::Delete(cluster.clone()),
        };
        let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        mirror.apply_watcher_event(&event);
    }
}

/// The events of a watch that is tried again with back-off, without what nobody reads.
fn stream_of<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = Result<Event<K>, kube_runtime::watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).default_backoff().map(|event| {
        event.map(|event| event.modify(|object| object.meta_mut().managed_fields = None))
    })
}

/// A node's status lists every image it holds; none of that is needed here.
fn keep_what_matters(node: &mut Node) {
    node.status = None;
    node.metadata.annotations = None;
}

fn facts(node: &Node) -> KubernetesNode {
    let spec = node.spec.as_ref();
    let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let tainted = taints
        .iter()
        .copied()
        .flatten()
        .any(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    let mut taints = taints.into_iter().flatten();
    let hosts = HOST_LABELS.iter().filter_map(|label| {
        let value = node.labels().get(*label)?;
        Some(((*label).to_owned(), value.clone()))
    });
    KubernetesNode {
        zone: node.labels().get(LABEL_ZONE).cloned(),
        schedulable: !cordoned && !tainted,
        out_of_service: taints.any(|taint| taint.key == TAINT_OUT_OF_SERVICE),
        host_labels: hosts.collect(),
    }
}

/// The clusters that wait to be looked at, each once however often it was named.
#[derive(Default)]
pub struct Triggers {
    waiting: Mutex<BTreeSet<ClusterKey>>,
    woken: Notify,
}

impl Triggers {
    /// Names a cluster.
    pub fn push(&self, cluster: ClusterKey) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.insert(cluster) {
            self.woken.notify_one();
        }
    }

    /// How many clusters wait.
    pub fn len(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.len()
    }

    /// Whether no cluster waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn next(&self) -> ClusterKey {
        loop {
            let first = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.pop_first()
            };
            match first {
                Some(cluster) => return cluster,
                None => self.woken.notified().await,
            }
        }
    }

    /// The clusters as they are named; only one stream may be read at a time.
    pub fn stream(world: Arc<World>) -> impl Stream<Item = ClusterKey> {
        stream::unfold(world, |world| async move {
            let cluster = world.triggers.next().await;
            Some((cluster, world))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ClusterKey {
        ClusterKey {
            namespace: "db".into(),
            name: name.into(),
        }
    }

    #[tokio::test]
    async fn a_storm_of_events_wakes_a_cluster_once() {
        let world = Arc::new(World::new(false, Arc::new(Metrics::default())));
        for _ in 0..1000 {
            world.triggers.push(key("ring"));
        }
        world.triggers.push(key("other"));
        assert_eq!(world.triggers.len(), 2);
        let mut stream = std::pin::pin!(Triggers::stream(Arc::clone(&world)));
        assert_eq!(stream.next().await, Some(key("other")));
        assert_eq!(stream.next().await, Some(key("ring")));
        assert!(world.triggers.is_empty());
        assert!(stream.next().now_or_never().is_none());
        world.triggers.push(key("ring"));
        assert_eq!(stream.next().await, Some(key("ring")));
    }

    #[test]
    fn a_cordoned_or_tainted_node_takes_no_pods() {
        let mut node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n", "labels": {LABEL_ZONE: "a"}}, "spec": {},
        }))
        .expect("a node");
        assert_eq!(
            facts(&node),
            KubernetesNode {
                zone: Some("a".into()),
                schedulable: true,
                ..KubernetesNode::default()
            }
        );
        node.spec.get_or_insert_default().unschedulable = Some(true);
        assert!(!facts(&node).schedulable);
    }
}
