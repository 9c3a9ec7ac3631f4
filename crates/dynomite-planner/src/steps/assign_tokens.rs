//! Tokens onto the volumes: whoever finds a volume later knows which part of the ring it holds.

use std::collections::BTreeMap;

use dynomite_api::annotations::ANNOTATION_TOKEN;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Pass, Step};
use crate::compare;
use crate::objects::pairs;
use crate::plan::Object;
use crate::quantity;
use crate::ring::Node;
use crate::wait::Wait;

/// Marks each claim with its node's token and lets it grow to the declared size.
pub(super) fn assign_tokens(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for node in &pass.ring.nodes {
        let Some(seen) = node.claim else { continue };
        if seen.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let wanted = marked(&pass.cluster.storage.size, node, seen);
        if !compare::holds(&wanted, seen) {
            step.apply(
                Object::PersistentVolumeClaim(wanted),
                "it lacks its node's token, or is smaller than declared",
            );
        }
        if let Some((from, to)) = growing(seen) {
            step.wait(Wait::VolumeGrowing {
                claim: seen.metadata.name.clone().unwrap_or_default(),
                from,
                to,
                message: said(seen),
            });
        }
    }
    step
}

/// The claim as it should be; it carries the UID, so that a claim which is gone
/// meanwhile is not made anew.
fn marked(size: &Quantity, node: &Node<'_>, seen: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let asked = seen
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    // Volumes never shrink, one that a person has enlarged stays large, and
    // Kubernetes lets only a bound claim grow.
    let size = match asked {
        Some(asked) if !is_bound(seen) || quantity::parse(&asked.0) >= quantity::parse(&size.0) => {
            asked
        }
        _ => size,
    };
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: seen.metadata.name.clone(),
            namespace: seen.metadata.namespace.clone(),
            uid: seen.metadata.uid.clone(),
            annotations: Some(pairs([(ANNOTATION_TOKEN, &node.token.to_string())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// From what size a volume grows, and to which.
fn growing(claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let has = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    let asked = requests.get("storage")?;
    let smaller = quantity::parse(&has.0)? < quantity::parse(&asked.0)?;
    smaller.then(|| (has.0.clone(), asked.0.clone()))
}

/// What Kubernetes says of a volume that grows; empty when it says nothing.
fn said(claim: &PersistentVolumeClaim) -> String {
    let conditions = claim.status.as_ref().and_then(|s| s.conditions.as_ref());
    let said = conditions.into_iter().flatten().find_map(|c| {
        let message = c.message.clone().filter(|message| !message.is_empty());
        (c.status == "True").then(|| message.unwrap_or_else(|| c.type_.clone()))
    });
    said.unwrap_or_default()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Bound")
}
