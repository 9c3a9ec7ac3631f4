//! Labels, annotations and fixed names that operator, tools and people share.

/// The field manager of everything the operator applies.
pub const FIELD_MANAGER: &str = "dynomite-operator";

/// Label: what the object belongs to; always [`APP_NAME`].
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label: the name of the `DynomiteCluster`.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: always [`FIELD_MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the role of an object within its cluster.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: the rack's name.
pub const LABEL_RACK: &str = "dynomite.io/rack";
/// Label: the datacenter's name.
pub const LABEL_DATACENTER: &str = "dynomite.io/datacenter";

/// The value of [`LABEL_NAME`].
pub const APP_NAME: &str = "dynomite";
/// The value of [`LABEL_NAME`] on pods with a scratch store: Services and budgets
/// select by [`APP_NAME`], and such a pod is no node.
pub const APP_SCRATCH: &str = "dynomite-scratch";
/// The value of [`LABEL_COMPONENT`] on pods.
pub const COMPONENT_NODE: &str = "node";

/// Annotation on every applied object: a digest of what the operator wrote.
pub const ANNOTATION_APPLIED_HASH: &str = "dynomite.io/applied-hash";
/// Annotation on the pod template: a digest of the settings that need a restart.
pub const ANNOTATION_SETTINGS_HASH: &str = "dynomite.io/settings-hash";
/// Annotation on a `PersistentVolumeClaim`: the token its data belongs to.
pub const ANNOTATION_TOKEN: &str = "dynomite.io/token";
/// Annotation on the token record: when the ring first served, RFC 3339.
pub const ANNOTATION_SERVED_SINCE: &str = "dynomite.io/served-since";
/// Annotation on a pod, set by a person: serve what this node has, its value is
/// the pod's UID. For the case that no proven node of the token is left.
pub const ANNOTATION_ACCEPT_LOSS: &str = "dynomite.io/accept-loss";
/// Annotation on a pod, set by a person: give this node a fresh volume and a
/// new pod. Its value is the pod's UID, and `<uid>,force` when that is to happen
/// although no other node is known to hold its data.
pub const ANNOTATION_REPLACE: &str = "dynomite.io/replace";
/// Annotation on a `DynomiteCluster`, set by a person: take a backup of this
/// name. The operator takes it off when the `DynomiteBackup` is there.
pub const ANNOTATION_BACKUP: &str = "dynomite.io/backup";
/// Annotation on a `DynomiteCluster`, set by a person: restore what it names, a
/// `DynomiteBackup`, the directory of a backup, `latest`, or the newest as of a
/// time. The operator takes it off when the `DynomiteRestore` is there.
pub const ANNOTATION_RESTORE: &str = "dynomite.io/restore";
/// Annotation on a `DynomiteRestore`, set by a person: load the backup again on a
/// token whose restored data was lost after it had served. Its value, from the
/// restore's message, names token and attempt: no word counts twice.
pub const ANNOTATION_LOAD_AGAIN: &str = "dynomite.io/load-again";
/// Annotation on a `DynomiteCluster`, set by a person: make a `DynomiteBackup` for
/// each backup in its stores that has none; `rebuild` for those of this ring's
/// namespace and name, `NAMESPACE/CLUSTER` for those of another. The operator takes
/// it off when they are there.
pub const ANNOTATION_CATALOG: &str = "dynomite.io/catalog";
/// Label on a `DynomiteBackup` that was made for what lay in a store: `true`.
pub const LABEL_FOUND: &str = "dynomite.io/found";
/// Annotation on a `DynomiteBackup` or `DynomiteRestore` that a person asked for
/// by one of the old REST calls: the id of the call.
pub const ANNOTATION_CALL: &str = "dynomite.io/call";
/// Annotation on a `DynomiteBackup` or `DynomiteRestore` of a schedule: the time
/// it is for, RFC 3339.
pub const ANNOTATION_SCHEDULED_FOR: &str = "dynomite.io/scheduled-for";
/// Label on a `DynomiteBackup` or `DynomiteRestore` of a schedule: the schedule's
/// name.
pub const LABEL_SCHEDULE: &str = "dynomite.io/schedule";
/// Annotation on a `DynomiteCluster` or a pod template: restart since.
pub const ANNOTATION_RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Annotation on the pod template: which files the store keeps. Another value is
/// another kind of file, which a lone rack's store would not read.
pub const ANNOTATION_PERSISTENCE: &str = "dynomite.io/persistence";
/// Annotation on the pod template: a digest of all of it but the resources,
/// which a running pod can be given in place.
pub const ANNOTATION_SHAPE: &str = "dynomite.io/shape";
/// Annotation on a `StatefulSet`: digests of what its template was made from and
/// of what was made, as JSON. By them a change of the spec is told from an
/// upgrade of the operator, which restarts no pod until a person approves.
pub const ANNOTATION_TEMPLATE: &str = "dynomite.io/template";
/// Annotation on a `StatefulSet` that lacks pods: when it was last touched, so
/// that its controller tries again before its own pauses are over.
pub const ANNOTATION_TRY_AGAIN: &str = "dynomite.io/try-again";

/// Annotation on a `StatefulSet`: the images its pods got by default when it
/// was made, as JSON. They stay when the operator is upgraded.
pub const ANNOTATION_IMAGES: &str = "dynomite.io/images";
/// Annotation on a `DynomiteCluster`, set by a person: the operator's image to
/// which sidecars, engines and the template of their pods may now be rolled. It names the image, so that the
/// next upgrade of the operator needs a word of its own.
pub const ANNOTATION_UPDATE_IMAGES: &str = "dynomite.io/update-images";

/// The finalizer that lets the operator remove what a backup has stored.
pub const BACKUP_FINALIZER: &str = "dynomite.io/backup";
/// The finalizer that lets the operator clear volumes before the cluster goes.
pub const FINALIZER: &str = "dynomite.io/cluster";
