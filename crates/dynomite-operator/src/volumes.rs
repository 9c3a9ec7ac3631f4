//! Which Kubernetes nodes a volume is bound to, read only where a pod finds no place.

use std::collections::BTreeMap;
use std::time::Duration;

use dynomite_planner::{Claims, Cluster, HOST_LABELS, Seen, VolumeFacts};
use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume, Pod};
use kube::api::Api;
use tokio::time::Instant;

use crate::context::{Context, Memory};
use crate::failure::describe;

/// When a volume is looked at again.
const VOLUMES: Duration = Duration::from_secs(30);

/// The volumes of pods that find no place, by the claim's name. Where Kubernetes
/// nodes may not be read volumes are not either: nothing could be made of them.
pub async fn look_at_volumes(
    ctx: &Context,
    memory: &mut Memory,
    pods: &BTreeMap<String, Pod>,
    claims: &Claims,
    now: Instant,
) -> BTreeMap<String, Seen<VolumeFacts>> {
    let mut found = BTreeMap::new();
    if ctx.world.nodes.is_none() {
        return found;
    }
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let held = std::mem::take(&mut memory.volumes);
    for pod in pods.iter().filter(|(_, pod)| finds_no_place(pod)) {
        let name = Cluster::claim_name(pod.0);
        let spec = claims.get(&name).and_then(|claim| claim.spec.as_ref());
        let Some(volume) = spec.and_then(|spec| spec.volume_name.clone()) else {
            continue;
        };
        let (at, facts) = match held.get(&volume) {
            Some((at, facts)) if now.duration_since(*at) < VOLUMES => (*at, facts.clone()),
            _ => (now, read(ctx, &api, &volume).await),
        };
        memory.volumes.insert(volume, (at, facts.clone()));
        found.insert(name, facts);
    }
    found
}

async fn read(ctx: &Context, api: &Api<PersistentVolume>, volume: &str) -> Seen<VolumeFacts> {
    match api.get_opt(volume).await {
        Ok(Some(volume)) => Seen::Known(facts(&volume)),
        // The claim says so itself, by its phase, once Kubernetes has noticed.
        Ok(None) => Seen::Unknown("the volume is not there".to_owned()),
        Err(error) => {
            let failure = describe(&error);
            ctx.metrics.call_failed("observe", &failure.reason);
            Seen::Unknown(failure.message)
        }
    }
}

fn finds_no_place(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|c| c.type_ == "PodScheduled" && c.status == "False")
}

/// The single nodes a volume is bound to; none when it can also be used elsewhere.
fn facts(volume: &PersistentVolume) -> VolumeFacts {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    let mut facts = VolumeFacts::default();
    for term in required.iter().flat_map(|r| &r.node_selector_terms) {
        let hosts = hosts(term);
        if hosts.is_empty() {
            return VolumeFacts::default();
        }
        facts.hosts.extend(hosts);
    }
    facts
}

fn hosts(term: &NodeSelectorTerm) -> Vec<(String, String)> {
    let expressions = term.match_expressions.iter().flatten();
    let of_hosts = expressions
        .filter(|e| e.operator == "In" && HOST_LABELS.contains(&e.key.as_str()))
        .flat_map(|e| {
            let values = e.values.iter().flatten();
            values.map(|value| (e.key.clone(), value.clone()))
        });
    of_hosts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_volume_that_is_bound_to_single_nodes_has_hosts() {
        let term = |key: &str, value: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
        let host = || term("kubernetes.io/hostname", "n1");
        let zone = || term("topology.kubernetes.io/zone", "z1");
        for (terms, expected) in [
            (vec![host()], vec!["n1"]),
            (
                vec![host(), term("topology.topolvm.io/node", "n2")],
                vec!["n1", "n2"],
            ),
            (vec![zone()], vec![]),
            (vec![host(), zone()], vec![]),
            (vec![], vec![]),
        ] {
            let volume: PersistentVolume = serde_json::from_value(json!({
                "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}
            }))
            .expect("a volume");
            let hosts: Vec<String> = facts(&volume).hosts.into_iter().map(|h| h.1).collect();
            assert_eq!(hosts, expected);
        }
    }
}
