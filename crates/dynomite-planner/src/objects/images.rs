//! Which images a ring runs: once given by default they stay, so that an upgrade of the operator restarts no pod.

use dynomite_api::annotations::ANNOTATION_IMAGES;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::ring::owned_by;

/// The images that come from the operator's installation and not from the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Images {
    /// The sidecar's.
    pub(crate) sidecar: String,
    /// The engine's, where the spec names none.
    pub(crate) engine: String,
    /// `imagePullPolicy` of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pull_policy: Option<String>,
}

impl Images {
    /// The images a new ring gets.
    pub(crate) fn of_installation(cluster: &Cluster) -> Self {
        let defaults = &cluster.defaults;
        Self {
            sidecar: defaults.sidecar_image.clone(),
            engine: defaults.engine_image.clone(),
            pull_policy: defaults.image_pull_policy.clone(),
        }
    }

    /// The images of a rack: those it was made with, or those its ring runs,
    /// or the installation's; a person's approval moves all of them.
    pub(crate) fn of_rack(cluster: &Cluster, observed: &Observed, rack: &str) -> Self {
        let fresh = Self::of_installation(cluster);
        if cluster.approves_upgrade() {
            return fresh;
        }
        let own = observed.stateful_sets.get(&cluster.rack_name(rack));
        let others = observed.stateful_sets.values();
        own.into_iter()
            .chain(others)
            .filter(|set| owned_by(&set.metadata, &cluster.id.uid))
            .find_map(recorded)
            .unwrap_or(fresh)
    }
}

/// What a `StatefulSet` was made with. The annotation is asked and not the
/// template, so that an image edited by hand comes back.
fn recorded(set: &StatefulSet) -> Option<Images> {
    let text = set.metadata.annotations.as_ref()?.get(ANNOTATION_IMAGES)?;
    serde_json::from_str(text).ok()
}
