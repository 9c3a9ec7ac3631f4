//! The disruption budgets: for each token, one eviction at a time in the whole datacenter.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{owned, seal, selector};
use crate::cluster::Cluster;

/// The label that Kubernetes gives the pods of a `StatefulSet`: their ordinal.
const LABEL_ORDINAL: &str = "apps.kubernetes.io/pod-index";

/// The budgets; none for a ring of one rack, where they would block every drain
/// for ever without saving anything.
///
/// A budget for each rack would let every replica of a token go at once, and one
/// for the datacenter would keep a Kubernetes node with two nodes of a rack from
/// ever being drained, when they find no other place. So there is one for each
/// token, which is an ordinal, for the racks have the same tokens in the same
/// order. Every token can spare a replica: a quorum needs three racks.
///
/// They never overlap: Kubernetes evicts no pod that two of them are about.
pub(crate) fn disruption_budgets(cluster: &Cluster) -> Vec<PodDisruptionBudget> {
    if cluster.racks.len() < 2 {
        return Vec::new();
    }
    let ordinals = 0..cluster.tokens.len();
    ordinals.map(|ordinal| budget(cluster, ordinal)).collect()
}

fn budget(cluster: &Cluster, ordinal: usize) -> PodDisruptionBudget {
    let name = format!("{}-token-{ordinal}", cluster.id.name);
    let mut labels = selector(cluster, None);
    labels.insert(LABEL_ORDINAL.to_owned(), ordinal.to_string());
    // Racks are at most sixteen.
    let spared = i32::try_from(cluster.racks.len() - 1).unwrap_or(i32::MAX);
    let budget = PodDisruptionBudget {
        metadata: owned(cluster, name, None),
        spec: Some(PodDisruptionBudgetSpec {
            // Not `maxUnavailable: 1`: that counts the replicas of the whole StatefulSets,
            // of which these pods are a part, and would never allow any.
            min_available: Some(IntOrString::Int(spared)),
            selector: Some(LabelSelector {
                match_labels: Some(labels),
                ..LabelSelector::default()
            }),
            // A node that does not serve is not worth a blocked drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    seal(budget, |o| &mut o.metadata)
}
