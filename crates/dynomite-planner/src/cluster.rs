//! A `DynomiteCluster` after validation: every field that is decided by is resolved, names and tokens included.

use std::collections::BTreeMap;
use std::fmt;

use dynomite_api::Token;
use dynomite_api::contract::{
    ClusterRef, Consistency, EngineSettings, HealthSettings, Peer, StoreSettings,
};
use dynomite_api::crd::{DynomiteClusterSpec, StorageSpec};
use jiff::Timestamp;

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
    /// Since when the status says that the ring has served.
    pub served_since: Option<Timestamp>,
    /// The tokens the status holds, by node name.
    pub status_tokens: BTreeMap<String, Token>,
    /// Its racks, in the order of the spec.
    pub racks: Vec<Rack>,
    /// The tokens of each rack by ordinal, by the spec or by the formula.
    pub tokens: Vec<Token>,
    /// Whether the spec names the tokens.
    pub tokens_given: bool,
    /// The nodes of rings elsewhere.
    pub remote_peers: Vec<Peer>,
    /// How many replicas must agree.
    pub consistency: Consistency,
    /// How the engine runs.
    pub engine: EngineSettings,
    /// How the store runs.
    pub store: StoreSettings,
    /// How health is checked.
    pub health: HealthSettings,
    /// Where the data lies.
    pub storage: StorageSpec,
    /// What the installation decides.
    pub defaults: Defaults,
    /// The rest of the spec, for what goes into objects unchanged.
    pub spec: DynomiteClusterSpec,
}

/// A rack.
#[derive(Clone, Debug, PartialEq, Eq)]
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
