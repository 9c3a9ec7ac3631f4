//! Clients that write through the nodes Kubernetes calls ready, and engines that pass the writes on to all replicas.

use std::collections::BTreeMap;

use dynomite_api::contract::ConsistencyLevel;

use crate::processes::{Arrival, Engine};
use crate::world::World;
use crate::writes::{Delivery, What, Write};

/// How long a write is on its way to a replica at most, milliseconds. Warm-up
/// waits 200 ms for what is under way when it begins the cut.
const LATENCY_MS: u64 = 195;
/// Between two looks of an engine at its seeds, milliseconds.
const SEEDS_MS: u64 = 1000;
/// How long a sidecar goes by the addresses of the operator after it was heard, milliseconds.
const OPERATOR_FRESH_MS: u64 = 30_000;

impl World {
    /// The engine asks its sidecar for the addresses of its peers.
    pub(crate) fn read_seeds(&mut self, name: &str) {
        let now = self.now;
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        if node.life.is_none() || node.engine.is_none() || now < node.seeds_at {
            return;
        }
        let Some(desired) = &node.disk.desired else {
            return;
        };
        let fresh = node.heard_at.is_some_and(|at| now - at < OPERATOR_FRESH_MS);
        let mut peers = BTreeMap::new();
        for peer in &desired.peers {
            let other = node_of(&peer.host);
            let by_name = || self.nodes.get(other).map(|node| node.address.clone());
            let told = peer.address.clone().filter(|_| fresh);
            let known = || node.peers.get(other).cloned();
            if let Some(address) = told.or_else(by_name).or_else(known) {
                peers.insert(other.to_owned(), address);
            }
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.peers = peers;
            node.seeds_at = now + SEEDS_MS;
        }
    }

    /// The clients write to the nodes that Kubernetes calls ready.
    pub(crate) fn clients(&mut self) {
        if self.config.write_every == 0 || !self.random.one_in(self.config.write_every) {
            return;
        }
        let open: Vec<String> = self
            .nodes
            .values()
            .filter(|node| node.reads() && self.in_endpoints(&node.name))
            .map(|node| node.name.clone())
            .collect();
        let Some(name) = self.random.pick(&open).cloned() else {
            return;
        };
        let Some(node) = self.nodes.get(&name) else {
            return;
        };
        let (Some(desired), Some(engine)) = (&node.disk.desired, &node.engine) else {
            return;
        };
        let own = &desired.node;
        let mut tokens: Vec<_> = desired.peers.iter().map(|peer| peer.token).collect();
        tokens.push(own.token);
        tokens.sort_unstable();
        tokens.dedup();
        let Some(token) = self.random.pick(&tokens).copied() else {
            return;
        };
        let mut owners: Vec<(String, String)> = desired
            .peers
            .iter()
            .filter(|peer| peer.token == token)
            .map(|peer| (node_of(&peer.host).to_owned(), peer.rack.clone()))
            .collect();
        if own.token == token {
            owners.push((name.clone(), own.rack.clone()));
        }
        let level = desired.consistency.write;
        let one = level == ConsistencyLevel::DcOne;
        let counts = owners.iter().find(|(_, rack)| one && *rack == own.rack);
        let unaddressed = owners.iter().any(|(owner, _)| {
            let takes = self
                .nodes
                .get(owner)
                .filter(|other| other.engine.as_ref().is_some_and(Engine::is_open));
            let known = node.peers.get(owner);
            *owner != name && takes.is_some_and(|other| known != Some(&other.address))
        });
        let write = self.writes.all.len();
        let incarnation = engine.incarnation.clone();
        let reached = |owner: &String| {
            *owner == name || (node.peers.contains_key(owner) && !self.is_cut(&name, owner))
        };
        let cut = owners.iter().any(|(owner, _)| self.is_cut(&name, owner));
        let some = owners.iter().any(|(owner, _)| reached(owner));
        let mut entry = Write {
            token,
            coordinator: (name.clone(), engine.incarnation.clone()),
            acks: 0,
            needed: level.required(owners.len()),
            counts: counts.map(|(owner, _)| owner.clone()),
            acknowledged: false,
            number: 0,
            cut,
            unaddressed,
        };
        let mut coming = Vec::new();
        for (owner, _) in owners {
            let (address, latency) = if owner == name {
                (Some(node.address.clone()), 0)
            } else {
                // Most are fast, and some links are slow for a moment.
                let limit = if self.random.one_in(3) {
                    LATENCY_MS
                } else {
                    20
                };
                let latency = self.random.between(limit * 3 / 4, limit);
                let known = node
                    .peers
                    .get(&owner)
                    .filter(|_| !self.is_cut(&name, &owner));
                (known.cloned(), latency)
            };
            coming.extend(address.map(|address| Delivery {
                due: self.now + latency,
                what: What::Write(write),
                from: (name.clone(), incarnation.clone()),
                node: owner,
                address,
            }));
        }
        let numbers = self.config.numbers && some;
        if let Some(engine) = self
            .nodes
            .get_mut(&name)
            .and_then(|node| node.engine.as_mut())
            && numbers
        {
            entry.number = engine.numbers.give(token);
        }
        if numbers {
            for delivery in &mut coming {
                if delivery.node != name {
                    delivery.due += self.late_by();
                }
                delivery.due = self.in_order(&incarnation, &delivery.node, delivery.due);
            }
        }
        self.writes.all.push(entry);
        self.writes.coming.extend(coming);
    }

    /// Whether the Service sends clients to a pod.
    pub fn in_endpoints(&self, pod: &str) -> bool {
        let Some(pod) = self.server.objects.pods.get(pod) else {
            return false;
        };
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready = conditions.is_some_and(|list| {
            list.iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        });
        ready && pod.metadata.deletion_timestamp.is_none()
    }

    pub(crate) fn deliver(&mut self) {
        let now = self.now;
        let coming = std::mem::take(&mut self.writes.coming);
        for delivery in coming {
            if delivery.due > now {
                self.writes.coming.push(delivery);
                continue;
            }
            if self.is_cut(&delivery.from.0, &delivery.node) {
                if let What::Write(write) = delivery.what {
                    self.writes.cut(write);
                }
                continue;
            }
            let node = self.nodes.get_mut(&delivery.node);
            let Some(node) = node.filter(|node| node.address == delivery.address) else {
                continue;
            };
            let Some(engine) = node.engine.as_mut() else {
                continue;
            };
            let incarnation = delivery.from.1.as_str();
            match delivery.what {
                What::Word(given) if engine.is_open() => engine.numbers.word(incarnation, given),
                What::Word(_) => {}
                What::Write(write) => {
                    let number = self.writes.all.get(write).map_or(0, |entry| entry.number);
                    if engine.take(write, (incarnation, number), now) == Arrival::Pass {
                        self.pass_to_store(&delivery.node, write);
                    }
                }
            }
        }
    }

    /// An engine passes a write to its store.
    fn pass_to_store(&mut self, name: &str, write: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let exposed = node.exposed;
        let applied = node
            .store
            .as_mut()
            .is_some_and(|store| exposed && store.apply(write, now));
        let Some(entry) = self.writes.all.get(write) else {
            return;
        };
        let coordinator = self.nodes.get(&entry.coordinator.0);
        let engine = coordinator.and_then(|node| node.engine.as_ref());
        let alive = engine.is_some_and(|engine| engine.incarnation == entry.coordinator.1);
        if applied {
            self.writes.applied(write, name, alive);
        }
    }

    pub(crate) fn flush(&mut self, name: &str) {
        let now = self.now;
        let engine = self
            .nodes
            .get_mut(name)
            .and_then(|node| node.engine.as_mut());
        let Some(engine) = engine else { return };
        for write in engine.expire(now) {
            if let Some(entry) = self.writes.all.get(write).filter(|entry| entry.number > 0) {
                engine.numbers.lost(&entry.coordinator.1, entry.number);
            }
        }
        for write in engine.flush() {
            self.pass_to_store(name, write);
        }
    }
}

/// The node a host name belongs to.
fn node_of(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}
