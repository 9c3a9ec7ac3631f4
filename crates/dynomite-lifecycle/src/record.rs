//! What a node remembers on disk, so that a sidecar that starts again knows what runs and what is proven.

use std::collections::BTreeMap;

use dynomite_api::contract::{EngineSettings, Grant, ProofKind, StoreSettings};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hold::{HeldRecord, Told};
use crate::load::{LoadRecord, PreviousRecord};

/// What a node remembers.
///
/// Every part names the incarnation it is about, so an outdated record proves
/// nothing: the file only has to be atomic, not fresh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The proof, if the data is proven.
    pub proof: Option<ProofRecord>,
    /// Grants that have been used and open nothing any more.
    pub used: Vec<Grant>,
    /// With what the running store was started.
    pub store: Option<Started<StoreSettings>>,
    /// With what the running engine was started.
    pub engine: Option<Started<EngineSettings>>,
    /// Settings of the store that were changed since it was started.
    pub live: BTreeMap<String, String>,
    /// Whether the data on this volume was ever proven.
    pub before: bool,
    /// How the proven data is held, while it is.
    pub held: Option<HeldRecord>,
    /// What the pod was told by the old REST calls.
    pub told: Told,
    /// The load of a backup that was begun last.
    pub load: Option<LoadRecord>,
    /// The node's own data, saved before a load.
    pub previous: Option<PreviousRecord>,
    /// Whether files that the store could not load lie aside since the data was
    /// last proven.
    pub set_aside: bool,
}

/// By what the data of one store is proven, and for how long.
///
/// It lives as long as this incarnation of the store: what a store loads from
/// its files when it starts again is a new question, so nothing here depends
/// on whether the files were synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofRecord {
    /// The pod in which it was proven.
    pub pod_uid: String,
    /// The store's `run_id`.
    pub run_id: String,
    /// The engine's incarnation: with another one, writes may have been missed.
    pub engine: String,
    /// By what.
    pub kind: ProofKind,
    /// Since when.
    pub since: Timestamp,
    /// Whether a copy took over exactly; absent where nothing was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// The restore that the data came from, if it was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

/// With which settings a process was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started<S> {
    /// The incarnation the launcher gave it.
    pub incarnation: String,
    /// The settings that were rendered for it.
    pub settings: S,
}
