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
/// Annotation on a `DynomiteCluster` or a pod template: restart since.
pub const ANNOTATION_RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Annotation on a `StatefulSet`: the images its pods got by default when it
/// was made, as JSON. They stay when the operator is upgraded.
pub const ANNOTATION_IMAGES: &str = "dynomite.io/images";
/// Annotation on a `DynomiteCluster`, set by a person: the operator's image to
/// which sidecars and engines may now be rolled. It names the image, so that the
/// next upgrade of the operator needs a word of its own.
pub const ANNOTATION_UPDATE_IMAGES: &str = "dynomite.io/update-images";

/// The finalizer that lets the operator clear volumes before the cluster goes.
pub const FINALIZER: &str = "dynomite.io/cluster";
