//! Chains of changes: whatever a ring went through, it ends as one that was made like this from the start.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{World, resource};

/// Changes that a person may make, as merge patches of the specification.
fn changes() -> Vec<Value> {
    vec![
        json!({"consistency": {"write": "DC_ONE"}}),
        json!({"consistency": {"read": "DC_SAFE_QUORUM", "write": "DC_QUORUM"}}),
        json!({"dynomite": {"timeoutMilliseconds": 800}}),
        json!({"dynomite": {"settings": {"mbuf_size": "32768"}}}),
        json!({"dynomite": {"settings": null}}),
        json!({"dynomite": {"image": "engine:2", "resources": {"limits": {"memory": "64Mi"}}}}),
        json!({"dynomite": {"image": null, "resources": {"limits": null}}}),
        json!({"store": {"settings": {"hz": "20", "maxmemory-policy": "allkeys-lru"}}}),
        json!({"store": {"settings": {"databases": "1"}}}),
        json!({"store": {"image": "store:2"}}),
        json!({"store": {"memoryPercent": 40, "resources": {"limits": {"memory": "512Mi"}}}}),
        json!({"store": {"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}}}}),
        json!({"health": {"intervalMilliseconds": 250, "probePeriodSeconds": 3}}),
        json!({"pod": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}),
        json!({"pod": {"labels": null, "priorityClassName": "high"}}),
        json!({"pod": {"terminationGracePeriodSeconds": 30}}),
        json!({"storage": {"retention": "Delete"}}),
        json!({"storage": {"retention": "Retain"}}),
        json!({"racks": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]}),
        json!({"racks": [{"name": "a", "zone": "zone-a"}, {"name": "c"}, {"name": "b"}]}),
        json!({"racks": [
            {"name": "b", "tolerations": [{"key": "spot", "operator": "Exists"}]},
            {"name": "c", "nodeSelector": {"disk": "fast"}},
            {"name": "e", "zone": "zone-e"},
        ]}),
        json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["far:8101:r:dc2:5"]}]}),
        json!({"remoteDatacenters": []}),
        json!({"clusterDomain": "example.org"}),
    ]
}

/// Lays a JSON merge patch (RFC 7396) over a document.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        match into.as_object_mut() {
            Some(map) if value.is_null() => drop(map.remove(name)),
            Some(map) => merge(map.entry(name).or_insert(Value::Null), value),
            None => {}
        }
    }
}

fn change(world: &mut World, patch: &Value) {
    let mut spec = serde_json::to_value(&world.resource.spec).expect("a specification is JSON");
    merge(&mut spec, patch);
    let spec = serde_json::from_value(spec).expect("the patches fit the specification");
    world.edit(|old| *old = spec);
}

/// What a ring's objects ask for, without what tells two objects of one name apart.
fn declared(world: &World) -> BTreeMap<String, Value> {
    fn add<T: serde::Serialize>(
        into: &mut BTreeMap<String, Value>,
        kind: &str,
        objects: &BTreeMap<String, T>,
    ) {
        for (name, object) in objects {
            let object = serde_json::to_value(object).expect("an object is JSON");
            let said = json!({
                "labels": object["metadata"]["labels"],
                "spec": object["spec"],
                "data": object["data"],
            });
            into.insert(format!("{kind} {name}"), said);
        }
    }
    let mut all = BTreeMap::new();
    let observed = &world.observed;
    add(&mut all, "StatefulSet", &observed.stateful_sets);
    add(&mut all, "Service", &observed.services);
    add(
        &mut all,
        "PodDisruptionBudget",
        &observed.pod_disruption_budgets,
    );
    // The record keeps the tokens of retired nodes for the day they come back.
    let record = &observed.config_maps["ring-tokens"].data;
    let tokens = record.as_ref().map(|data| data["tokens.json"].as_str());
    let tokens: Value = serde_json::from_str(tokens.unwrap_or_default()).expect("the record");
    let alive = world
        .lives
        .iter()
        .filter(|(name, _)| observed.pods.contains_key(*name));
    for (name, life) in alive {
        let desired = life
            .desired
            .as_ref()
            .expect("a settled node has its document");
        let mut desired = serde_json::to_value(desired).expect("a document is JSON");
        // Counters, and which incarnation of a pod is meant, are each ring's own.
        for own in ["generation", "clusterGeneration", "donors"] {
            desired.as_object_mut().expect("an object").remove(own);
        }
        desired["node"]["podUid"] = Value::Null;
        for peer in desired["peers"].as_array_mut().expect("a list") {
            peer["address"] = Value::Null;
        }
        all.insert(format!("token {name}"), tokens[name].clone());
        all.insert(format!("desired {name}"), desired);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_of_changes_ends_as_a_fresh_ring(
        chain in prop::collection::vec((0..changes().len(), any::<bool>()), 1..8),
    ) {
        let patches = changes();
        let mut world = World::settled(3, 1);
        for (index, at_once) in &chain {
            change(&mut world, &patches[*index]);
            if *at_once {
                // The next change comes before this one is through.
                world.pass();
            } else {
                world.settle();
            }
        }
        world.settle();
        let mut fresh = World::new(resource(3, 1));
        fresh.resource.spec = world.resource.spec.clone();
        fresh.settle();
        let (ended, fresh) = (declared(&world), declared(&fresh));
        let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&ended), names(&fresh));
        for (name, value) in &fresh {
            prop_assert_eq!(&ended[name], value, "{}", name);
        }
    }
}
