//! The state in which a world has settled, without what may differ between two histories.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::world::World;

/// Fields that name an incarnation or a moment, and the digests of both.
const INCIDENTAL: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "dynomite.io/served-since",
    "dynomite.io/applied-hash",
    "address",
    "podUid",
    "observedGeneration",
    "updateRevision",
];

impl World {
    /// What the operator has made of the cluster, as text: equal for worlds that
    /// came to the same end by different ways.
    pub fn end_state(&self) -> String {
        let o = &self.server.objects;
        let mut text = String::new();
        let mut add = |what: &str, value: serde_json::Result<Value>| {
            let mut value = value.unwrap_or(Value::Null);
            strip(&mut value);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{what}: {value}");
        };
        add("sets", serde_json::to_value(&o.stateful_sets));
        add("services", serde_json::to_value(&o.services));
        add("config maps", serde_json::to_value(&o.config_maps));
        add("budgets", serde_json::to_value(&o.pod_disruption_budgets));
        add("claims", serde_json::to_value(&o.claims));
        for (name, node) in &self.nodes {
            add(name, serde_json::to_value(&node.disk.desired));
        }
        if let Some(status) = &self.server.resource.status {
            let conditions: Vec<Value> = status
                .conditions
                .iter()
                .map(|c| json!([c.type_, c.status, c.reason]))
                .collect();
            let rest = json!([status.phase, status.nodes, status.racks_ready, conditions]);
            add("status", Ok(rest));
        }
        text
    }
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !INCIDENTAL.contains(&key.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}
