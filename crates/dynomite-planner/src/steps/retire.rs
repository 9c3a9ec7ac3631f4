//! Racks that left the spec: their `StatefulSets` go when the racks that stay can do without them.

use dynomite_api::annotations::LABEL_RACK;
use dynomite_api::contract::{PORT_PEER, Peer};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Pass, Step, delete_seen};
use crate::plan::{Action, EventKind, Kind};
use crate::ring::owned_by;
use crate::safety;
use crate::wait::Wait;

/// Takes one removed rack away in a pass. Its volumes stay: whoever removes the
/// rack by mistake puts it back and finds them.
pub(super) fn retire(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    let Some(set) = leaving_sets(pass).next() else {
        services(pass, &mut step);
        return step;
    };
    let name = set.metadata.name.clone().unwrap_or_default();
    if set.metadata.deletion_timestamp.is_some() {
        step.wait(Wait::PodsLeaving { pods: vec![name] });
        return step;
    }
    if pass.is_moving() {
        return step;
    }
    if let Err(refusal) = safety::may_do_without(pass.cluster, pass.ring) {
        step.wait(Wait::MayNotLeave {
            node: name,
            refusal,
        });
        return step;
    }
    if let Some(action) = delete_seen(Kind::StatefulSet, &set.metadata, false) {
        let why = "its rack is no longer in the spec";
        step.act(action, why);
        let told = Action::Event {
            kind: EventKind::Normal,
            reason: "RackRetired",
            message: format!("StatefulSet {name} is deleted: {why}; its volumes stay"),
        };
        step.act(told, why);
    }
    step
}

/// The Services of racks that are gone.
fn services(pass: &Pass<'_>, step: &mut Step) {
    for service in pass.observed.services.values() {
        let meta = &service.metadata;
        if is_leaving(pass, meta)
            && meta.deletion_timestamp.is_none()
            && let Some(action) = delete_seen(Kind::Service, meta, false)
        {
            step.act(action, "its rack is no longer in the spec");
        }
    }
}

fn leaving_sets<'a>(pass: &Pass<'a>) -> impl Iterator<Item = &'a StatefulSet> {
    let sets = pass.observed.stateful_sets.values();
    let leaving: Vec<_> = sets.filter(|set| is_leaving(pass, &set.metadata)).collect();
    leaving.into_iter()
}

/// Whether an object is ours and of a rack that the spec does not name.
fn is_leaving(pass: &Pass<'_>, metadata: &ObjectMeta) -> bool {
    let rack = metadata.labels.as_ref().and_then(|l| l.get(LABEL_RACK));
    owned_by(metadata, &pass.cluster.id.uid)
        && rack.is_some_and(|rack| pass.cluster.racks.iter().all(|r| r.name != *rack))
}

/// The nodes of leaving racks that still run: until they are gone they get
/// their writes like everyone, for clients may still read from them.
pub(super) fn leaving_peers(pass: &Pass<'_>) -> Vec<Peer> {
    let leaving = pass.ring.leaving.iter();
    leaving
        .filter_map(|node| {
            Some(Peer {
                host: node.host.clone(),
                address: Some(node.address()?.to_owned()),
                port: PORT_PEER,
                datacenter: pass.cluster.spec.datacenter.clone(),
                rack: node.rack.name.clone(),
                token: node.token,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::world::World;

    #[test]
    fn a_removed_rack_goes_when_the_others_are_whole() {
        let mut world = World::settled(3, 2);
        world.kill("ring-a-0");
        world.edit(|spec| {
            spec.racks.pop();
            spec.consistency = dynomite_api::crd::ConsistencySpec::default();
        });
        let first = world.pass();
        assert!(!first.actions.iter().any(|p| p.action.disrupts()));
        assert!(world.observed.stateful_sets.contains_key("ring-c"));
        world.settle();
        assert!(!world.observed.stateful_sets.contains_key("ring-c"));
        assert!(!world.observed.services.contains_key("ring-c"));
        // Its volumes stay, and so do its tokens.
        assert!(world.observed.claims.contains_key("data-ring-c-0"));
        let record = &world.observed.config_maps["ring-tokens"].data;
        assert!(record.as_ref().expect("data")["tokens.json"].contains("ring-c-1"));
    }

    /// Replaces all racks of a ring whose nodes have keys by others.
    fn replace_all(from: usize, to: &[&str]) -> World {
        let mut world = World::settled(from, 1);
        for life in world.lives.values_mut() {
            life.keys = 8;
        }
        world.tick();
        let racks = to.iter().map(|name| serde_json::json!({ "name": name }));
        let racks: serde_json::Value = racks.collect();
        world.edit(|spec| {
            spec.racks = serde_json::from_value(racks).expect("racks");
            spec.consistency = dynomite_api::crd::ConsistencySpec::default();
        });
        world
    }

    #[test]
    fn racks_that_replace_all_others_copy_them_first() {
        for (from, to) in [
            (1, &["z"][..]),
            (3, &["z"][..]),
            (3, &["x", "y", "z"][..]),
            (3, &["a"][..]),
        ] {
            let mut world = replace_all(from, to);
            for _ in 0..60 {
                let stalled = world.waits().into_iter().find(crate::wait::Wait::stalls);
                assert_eq!(stalled, None, "{from} racks replaced by {to:?}");
                world.pass();
            }
            let nodes: Vec<_> = world.observed.pods.keys().cloned().collect();
            let expected: Vec<_> = to.iter().map(|rack| format!("ring-{rack}-0")).collect();
            assert_eq!(nodes, expected);
            for node in &nodes {
                assert_eq!(world.lives[node].keys, 8, "{node} of {from} to {to:?}");
            }
        }
    }

    #[test]
    fn nodes_that_leave_know_those_that_come() {
        let mut world = replace_all(3, &["z"]);
        let before = world.lives["ring-a-0"].desired.clone();
        world.slow.push("ring-z-0".to_owned());
        for _ in 0..4 {
            world.pass();
        }
        let life = &world.lives["ring-a-0"];
        assert_ne!(life.desired, before);
        let racks = |life: &crate::world::Life| {
            let peers = &life.desired.as_ref().expect("it has one").peers;
            peers.iter().map(|p| p.rack.clone()).collect::<Vec<_>>()
        };
        assert_eq!(racks(life), ["b", "c", "z"]);
    }

    #[test]
    fn until_it_is_gone_its_nodes_are_peers() {
        let mut world = World::settled(3, 1);
        world.mute.push("ring-a-0".to_owned());
        world.tick();
        world.edit(|spec| {
            spec.racks.pop();
            spec.consistency = dynomite_api::crd::ConsistencySpec::default();
        });
        world.pass();
        world.pass();
        let desired = world.lives["ring-b-0"]
            .desired
            .as_ref()
            .expect("it has one");
        assert_eq!(desired.cluster_generation, 2);
        assert!(desired.peers.iter().any(|peer| peer.rack == "c"));
        world.mute.clear();
        world.settle();
        let desired = world.lives["ring-b-0"]
            .desired
            .as_ref()
            .expect("it has one");
        assert!(!desired.peers.iter().any(|peer| peer.rack == "c"));
    }
}
