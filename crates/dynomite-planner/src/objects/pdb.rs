//! The disruption budget: one node of the whole datacenter at a time, whatever its rack.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{owned, seal, selector};
use crate::cluster::Cluster;

/// The budget; none for a ring of one rack, where it would block every drain
/// for ever without saving anything.
///
/// One for all racks: a budget for each would let every replica of a token go at once.
pub(crate) fn disruption_budget(cluster: &Cluster) -> Option<PodDisruptionBudget> {
    if cluster.racks.len() < 2 {
        return None;
    }
    let budget = PodDisruptionBudget {
        metadata: owned(cluster, cluster.id.name.clone(), None),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(cluster, None)),
                ..LabelSelector::default()
            }),
            // A node that does not serve is not worth a blocked drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    Some(seal(budget, |o| &mut o.metadata))
}
