//! What a rack's template was made from: by it an upgrade of the operator is told from a change of the spec.

use std::collections::BTreeMap;

use dynomite_api::annotations::ANNOTATION_TEMPLATE;
use dynomite_api::crd::PodSpec;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements, Toleration};
use serde::{Deserialize, Serialize};

use super::Images;
use crate::cluster::{Cluster, Rack};
use crate::compare;
use crate::observed::Observed;
use crate::ring::owned_by;
use crate::settings;

/// What a template was made from and what was made, as digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Of everything a person decides of it.
    inputs: String,
    /// Of the template.
    template: String,
}

/// Everything a person decides of a template. A field that a later version adds
/// is left out while it has its default, or every ring would look changed.
#[derive(Serialize)]
struct Inputs<'a> {
    cluster: &'a str,
    datacenter: &'a str,
    rack: &'a Rack,
    node_selector: Option<&'a BTreeMap<String, String>>,
    tolerations: Option<&'a Vec<Toleration>>,
    pod: &'a PodSpec,
    images: &'a Images,
    engine_image: Option<&'a String>,
    engine_resources: Option<&'a ResourceRequirements>,
    store_image: &'a str,
    store_resources: Option<&'a ResourceRequirements>,
    probe_period_seconds: i32,
    volumes: bool,
    persistence: &'static str,
    settings: String,
    restarted_at: Option<&'a String>,
}

impl Made {
    pub(crate) fn of(
        cluster: &Cluster,
        rack: &Rack,
        images: &Images,
        template: &PodTemplateSpec,
    ) -> Self {
        let spec = &cluster.spec;
        let declared = cluster.rack_spec(&rack.name);
        let inputs = Inputs {
            cluster: &cluster.id.name,
            datacenter: &spec.datacenter,
            rack,
            node_selector: declared.map(|rack| &rack.node_selector),
            tolerations: declared.map(|rack| &rack.tolerations),
            pod: &spec.pod,
            images,
            engine_image: spec.dynomite.image.as_ref(),
            engine_resources: spec.dynomite.resources.as_ref(),
            store_image: &spec.store.image,
            store_resources: spec.store.resources.as_ref(),
            probe_period_seconds: spec.health.probe_period_seconds,
            volumes: cluster.has_volumes(),
            persistence: cluster.store.persistence.name(),
            settings: settings::restart_digest(cluster),
            restarted_at: cluster.restarted_at.as_ref(),
        };
        Self {
            inputs: compare::digest(&inputs),
            template: compare::digest(template),
        }
    }

    /// As it stands in the annotation.
    pub(crate) fn text(&self) -> String {
        // A struct of strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What stands in the annotation of a `StatefulSet`.
    fn recorded(set: &StatefulSet) -> Option<Self> {
        let text = set
            .metadata
            .annotations
            .as_ref()?
            .get(ANNOTATION_TEMPLATE)?;
        serde_json::from_str(text).ok()
    }
}

/// The template an earlier operator made from the same declaration, where this
/// one would make another: it stays until a person approves the upgrade.
pub(crate) fn held(
    cluster: &Cluster,
    observed: &Observed,
    rack: &Rack,
    fresh: &Made,
) -> Option<(PodTemplateSpec, Made)> {
    if cluster.approves_upgrade() {
        return None;
    }
    let existing = observed.stateful_sets.get(&cluster.rack_name(&rack.name))?;
    let made =
        Made::recorded(existing).filter(|_| owned_by(&existing.metadata, &cluster.id.uid))?;
    let upgraded = made.inputs == fresh.inputs && made.template != fresh.template;
    upgraded.then(|| {
        let template = existing.spec.clone().unwrap_or_default().template;
        (template, made)
    })
}
