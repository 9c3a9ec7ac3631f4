//! The ring as its status tells it, and as a table.

use anyhow::Result;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::process;

/// What the demo needs of a `DynomiteCluster`.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Whether the condition Ready is true for the generation that was applied.
    pub(crate) ready: bool,
    /// What the operator says about it.
    pub(crate) message: String,
    /// How many nodes the spec asks for.
    pub(crate) size: usize,
    /// The nodes that the status knows, rack by rack.
    pub(crate) nodes: Vec<Node>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) rack: String,
    pub(crate) name: String,
    pub(crate) ready: bool,
    token: String,
    phase: String,
    place: String,
}

impl Ring {
    /// Reads the resource.
    pub(crate) fn read(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self> {
        let mut command = cluster.kubectl();
        command.args([
            "--namespace",
            namespace,
            "get",
            "dyn",
            name,
            "--output",
            "json",
        ]);
        Ok(Self::new(&serde_json::from_str(&process::read(
            &mut command,
        )?)?))
    }

    fn new(resource: &Value) -> Self {
        let status = &resource["status"];
        let generation = &resource["metadata"]["generation"];
        let condition = list(&status["conditions"])
            .iter()
            .find(|condition| condition["type"] == "Ready");
        let current = status["observedGeneration"] == *generation;
        let racks = list(&resource["spec"]["racks"]).len();
        let nodes_per_rack = resource["spec"]["nodesPerRack"].as_u64().unwrap_or(0);
        Self {
            ready: current && condition.is_some_and(|condition| condition["status"] == "True"),
            message: condition.map_or_else(
                || "the operator has not looked at it yet".to_owned(),
                |condition| text(&condition["message"]),
            ),
            size: racks * usize::try_from(nodes_per_rack).unwrap_or(0),
            nodes: list(&status["racks"])
                .iter()
                .flat_map(|rack| {
                    list(&rack["nodes"])
                        .iter()
                        .map(|node| Node::new(text(&rack["name"]), node))
                })
                .collect(),
        }
    }

    /// The racks' names, in order.
    pub(crate) fn racks(&self) -> Vec<String> {
        let mut racks: Vec<_> = self.nodes.iter().map(|node| node.rack.clone()).collect();
        racks.dedup();
        racks
    }

    /// One line for each node.
    pub(crate) fn table(&self) -> String {
        let header = ["RACK", "NODE", "TOKEN", "HEALTH", "RUNS ON"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(header)
            .chain(self.nodes.iter().map(Node::row))
            .collect();
        let mut widths = [0; 5];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        rows.iter()
            .map(|row| {
                let cells: Vec<_> = row
                    .iter()
                    .zip(widths)
                    .map(|(cell, width)| format!("{cell:<width$}"))
                    .collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Node {
    fn new(rack: String, node: &Value) -> Self {
        let place = [&node["kubernetesNode"], &node["zone"]].map(text).join(" ");
        Self {
            rack,
            name: text(&node["name"]),
            ready: node["ready"] == true,
            token: text(&node["token"]),
            phase: text(&node["phase"]),
            place: place.trim().to_owned(),
        }
    }

    fn row(&self) -> [String; 5] {
        let health = if self.ready {
            format!("{}, ready", self.phase)
        } else {
            format!("{}, not ready", self.phase)
        };
        [
            self.rack.clone(),
            self.name.clone(),
            self.token.clone(),
            health.trim_start_matches(", ").to_owned(),
            self.place.clone(),
        ]
    }
}

/// The items of a list; none of anything else.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string or number as text; nothing of anything else.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(observed: u64, ready: &str) -> Value {
        json!({
            "metadata": { "generation": 2 },
            "spec": { "nodesPerRack": 1, "racks": [{ "name": "a" }, { "name": "b" }] },
            "status": {
                "observedGeneration": observed,
                "conditions": [{ "type": "Ready", "status": ready, "message": "why" }],
                "racks": [
                    { "name": "a", "nodes": [{ "name": "r-a-0", "token": 1_383_429_731, "ready": true, "phase": "Serving", "kubernetesNode": "node1", "zone": "zone-a" }] },
                    { "name": "b", "nodes": [{ "name": "r-b-0", "token": "7", "ready": false }] },
                ],
            },
        })
    }

    #[test]
    fn status_of_an_older_generation_is_not_ready() {
        assert!(Ring::new(&resource(2, "True")).ready);
        assert!(!Ring::new(&resource(1, "True")).ready);
        assert!(!Ring::new(&resource(2, "False")).ready);
        assert!(!Ring::new(&json!({ "metadata": { "generation": 1 } })).ready);
    }

    #[test]
    fn table_has_a_line_for_each_node() {
        let ring = Ring::new(&resource(2, "True"));
        assert_eq!(ring.racks(), ["a", "b"]);
        assert_eq!(ring.size, 2);
        let table = ring.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "RACK  NODE   TOKEN       HEALTH          RUNS ON");
        assert_eq!(
            lines[1],
            "a     r-a-0  1383429731  Serving, ready  node1 zone-a"
        );
        assert_eq!(lines[2], "b     r-b-0  7           not ready");
    }
}
