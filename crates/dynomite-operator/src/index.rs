//! What the watches have shown, indexed by cluster, and never older than what the operator itself wrote.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use dynomite_api::annotations::LABEL_INSTANCE;
use kube::{Resource, ResourceExt};
use kube_runtime::watcher::Event;

/// How many deleted objects are remembered, so that the late answer to a write
/// cannot bring one back that the watch has already buried.
const GRAVES_MAX: usize = 1024;

/// Which `DynomiteCluster` something belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    /// The namespace of the cluster and of everything that belongs to it.
    pub namespace: String,
    /// The cluster's name.
    pub name: String,
}

impl ClusterKey {
    /// The cluster that the label `app.kubernetes.io/instance` of an object names.
    pub fn of_child<K: Resource>(object: &K) -> Option<Self> {
        Some(Self {
            namespace: object.meta().namespace.clone()?,
            name: object.labels().get(LABEL_INSTANCE)?.clone(),
        })
    }

    /// The cluster of that name, in the namespace of an object whose spec names it.
    pub fn named_by<K: Resource>(object: &K, cluster: &str) -> Option<Self> {
        Some(Self {
            namespace: object.meta().namespace.clone()?,
            name: cluster.to_owned(),
        })
    }

    /// The cluster that this resource itself is.
    pub fn of_self<K: Resource>(object: &K) -> Option<Self> {
        Some(Self {
            namespace: object.meta().namespace.clone()?,
            name: object.meta().name.clone()?,
        })
    }

    /// No cluster: for kinds that are looked up by name only.
    pub fn none<K: Resource>(_: &K) -> Option<Self> {
        None
    }
}

impl std::fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an event changed.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new or different.
    Applied(Arc<K>),
    /// The object is gone.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied(object) | Self::Deleted(object) => object,
        }
    }
}

/// `(namespace, name)`; the namespace is empty for kinds without one.
type ObjectKey = (String, String);

/// All watched objects of one kind.
pub struct Index<K> {
    cluster_of: fn(&K) -> Option<ClusterKey>,
    inner: RwLock<Inner<K>>,
}

struct Inner<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    by_cluster: HashMap<ClusterKey, BTreeSet<ObjectKey>>,
    /// Keys seen since the list of a scope began.
    listing: HashMap<Scope, HashSet<ObjectKey>>,
    graves: VecDeque<String>,
}

/// The part of the API one watch covers: a namespace, or all of them.
pub type Scope = Option<String>;

impl<K: Resource<DynamicType = ()> + Clone> Index<K> {
    /// An empty index; `cluster_of` says which cluster an object belongs to.
    pub fn new(cluster_of: fn(&K) -> Option<ClusterKey>) -> Self {
        Self {
            cluster_of,
            inner: RwLock::new(Inner {
                objects: BTreeMap::new(),
                by_cluster: HashMap::new(),
                listing: HashMap::new(),
                graves: VecDeque::new(),
            }),
        }
    }

    /// The object of this name, if it is there.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner
            .objects
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Every object of a cluster, by name.
    pub fn of_cluster(&self, cluster: &ClusterKey) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let keys = inner.by_cluster.get(cluster);
        keys.into_iter()
            .flatten()
            .filter_map(|key| inner.objects.get(key).cloned())
            .collect()
    }

    /// Every object, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.values().cloned().collect()
    }

    /// Which cluster an object belongs to.
    pub fn cluster_of(&self, object: &K) -> Option<ClusterKey> {
        (self.cluster_of)(object)
    }

    /// Takes in an event of the watch over `scope`; returns what changed by it.
    pub fn handle(&self, scope: &Scope, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                inner.listing.insert(scope.clone(), HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = object_key(&object);
                if let Some(seen) = inner.listing.get_mut(scope) {
                    seen.insert(key);
                }
                inner.put(object, self.cluster_of)
            }
            Event::Apply(object) => inner.put(object, self.cluster_of),
            Event::Delete(object) => {
                inner.remove(&object_key(&object), object.meta().uid.as_deref())
            }
            Event::InitDone => {
                let seen = inner.listing.remove(scope).unwrap_or_default();
                let missing: Vec<ObjectKey> = inner
                    .objects
                    .keys()
                    .filter(|key| scope.as_ref().is_none_or(|namespace| *namespace == key.0))
                    .filter(|key| !seen.contains(key))
                    .cloned()
                    .collect();
                missing
                    .iter()
                    .flat_map(|key| inner.remove(key, None))
                    .collect()
            }
        }
    }

    /// Takes in the answer to a write, so that the next look sees at least that.
    pub fn absorb(&self, object: K) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let buried = object
            .meta()
            .uid
            .as_ref()
            .is_some_and(|uid| inner.graves.contains(uid));
        if !buried {
            inner.put(object, self.cluster_of);
        }
    }

    /// Forgets an object that the API server said is gone, if it is still the one with that UID.
    pub fn forget(&self, namespace: &str, name: &str, uid: &str) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let same = inner
            .objects
            .get(&key)
            .is_some_and(|object| object.meta().uid.as_deref() == Some(uid));
        if same {
            inner.remove(&key, None);
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Inner<K> {
    fn put(&mut self, object: K, cluster_of: fn(&K) -> Option<ClusterKey>) -> Vec<Change<K>> {
        let key = object_key(&object);
        if let Some(held) = self.objects.get(&key) {
            if !supersedes(held.as_ref(), &object) {
                return Vec::new();
            }
            if let Some(cluster) = cluster_of(held)
                && let Some(keys) = self.by_cluster.get_mut(&cluster)
            {
                keys.remove(&key);
            }
        }
        if let Some(cluster) = cluster_of(&object) {
            self.by_cluster
                .entry(cluster)
                .or_default()
                .insert(key.clone());
        }
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        vec![Change::Applied(object)]
    }

    /// Removes what is held under `key`, unless it is known to be a successor of `uid`.
    fn remove(&mut self, key: &ObjectKey, uid: Option<&str>) -> Vec<Change<K>> {
        let Some(held) = self.objects.get(key) else {
            return Vec::new();
        };
        let held_uid = held.meta().uid.clone();
        if uid.is_some() && held_uid.as_deref() != uid {
            return Vec::new();
        }
        if let Some(uid) = held_uid {
            if self.graves.len() == GRAVES_MAX {
                self.graves.pop_front();
            }
            self.graves.push_back(uid);
        }
        let gone = self.objects.remove(key);
        self.by_cluster.retain(|_, keys| {
            keys.remove(key);
            !keys.is_empty()
        });
        gone.map(Change::Deleted).into_iter().collect()
    }
}

fn object_key<K: Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// Whether `incoming` is news beside `held`.
///
/// Resource versions of one object grow. Where one cannot be read as a number
/// nothing is known about the order, and the newcomer wins.
fn supersedes<K: Resource>(held: &K, incoming: &K) -> bool {
    let version =
        |object: &K| -> Option<u128> { object.meta().resource_version.as_ref()?.parse().ok() };
    if held.meta().uid != incoming.meta().uid {
        return true;
    }
    match (version(held), version(incoming)) {
        (Some(held), Some(incoming)) => incoming > held,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(namespace: &str, name: &str, uid: &str, version: u32) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some(namespace.into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object.metadata.labels = Some([(LABEL_INSTANCE.to_owned(), "ring".to_owned())].into());
        object
    }

    fn names(index: &Index<ConfigMap>) -> Vec<String> {
        let key = ClusterKey {
            namespace: "a".into(),
            name: "ring".into(),
        };
        let objects = index.of_cluster(&key);
        objects.iter().map(|o| o.name_any()).collect()
    }

    #[test]
    fn a_relist_removes_what_it_does_not_show_and_only_in_its_scope() {
        let index = Index::new(ClusterKey::of_child::<ConfigMap>);
        let scope = Some("a".to_owned());
        for o in [
            object("a", "x", "1", 1),
            object("a", "y", "2", 1),
            object("b", "z", "3", 1),
        ] {
            index.handle(&scope, Event::Apply(o));
        }
        index.handle(&scope, Event::Init);
        index.handle(&scope, Event::InitApply(object("a", "y", "2", 1)));
        let changes = index.handle(&scope, Event::InitDone);
        assert!(matches!(&changes[..], [Change::Deleted(o)] if o.name_any() == "x"));
        assert_eq!(names(&index), ["y"]);
        assert!(index.get("b", "z").is_some());
    }

    #[test]
    fn a_relist_holds_no_object_twice() {
        const OBJECTS: usize = 1000;
        let index = Index::new(ClusterKey::of_child::<ConfigMap>);
        let of = |i: usize, version| object("a", &format!("x{i}"), &format!("uid{i}"), version);
        let held = |i: usize| index.get("a", &format!("x{i}")).expect("it is held");
        for version in 1..=3 {
            index.handle(&None, Event::Init);
            for i in 0..OBJECTS {
                let before = (version > 1).then(|| Arc::downgrade(&held(i)));
                let changes = index.handle(&None, Event::InitApply(of(i, version)));
                assert_eq!(changes.len(), 1);
                drop(changes);
                let gone = before.is_none_or(|before| before.upgrade().is_none());
                assert!(gone, "what it takes the place of is let go at once");
            }
            assert!(index.handle(&None, Event::InitDone).is_empty());
            assert_eq!(index.all().len(), OBJECTS);
        }
        let before = held(0);
        index.handle(&None, Event::Init);
        let changes = index.handle(&None, Event::InitApply(of(0, 3)));
        assert!(changes.is_empty() && Arc::ptr_eq(&before, &held(0)));
    }

    #[test]
    fn an_event_older_than_our_own_write_changes_nothing() {
        let index = Index::new(ClusterKey::of_child::<ConfigMap>);
        index.absorb(object("a", "x", "1", 7));
        assert!(
            index
                .handle(&None, Event::Apply(object("a", "x", "1", 5)))
                .is_empty()
        );
        // A successor counts its versions on; only its UID tells it apart.
        assert_eq!(
            index
                .handle(&None, Event::Apply(object("a", "x", "2", 6)))
                .len(),
            1
        );
    }

    #[test]
    fn the_late_answer_to_a_write_does_not_raise_the_dead() {
        let index = Index::new(ClusterKey::of_child::<ConfigMap>);
        index.handle(&None, Event::Apply(object("a", "x", "1", 1)));
        index.handle(&None, Event::Delete(object("a", "x", "1", 3)));
        index.absorb(object("a", "x", "1", 2));
        assert!(names(&index).is_empty());
    }

    #[test]
    fn a_stale_delete_spares_the_successor() {
        let index = Index::new(ClusterKey::of_child::<ConfigMap>);
        index.handle(&None, Event::Apply(object("a", "x", "2", 9)));
        assert!(
            index
                .handle(&None, Event::Delete(object("a", "x", "1", 3)))
                .is_empty()
        );
        index.forget("a", "x", "1");
        assert_eq!(names(&index), ["x"]);
        index.forget("a", "x", "2");
        assert!(names(&index).is_empty());
    }
}
