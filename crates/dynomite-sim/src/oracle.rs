//! What must hold after every step, told by what is true in the world and not by what anyone believes.
//!
//! What a node that answers reads must have, exactly: every write of its token
//! that clients were told is done, unless it was passed on while some replica
//! that takes writes was not known to the coordinator by its present address
//! (a pod that moved is in the seeds a moment later). Such writes are counted
//! as the gap of the plain warm-up. What a person accepts to lose, and what a
//! ring of one rack loses with its store, is owed no more.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::Token;
use dynomite_api::annotations::ANNOTATION_SERVED_SINCE;
use dynomite_api::contract::{NodeDesired, ProofKind, Settings};
use dynomite_api::crd::{DynomiteCluster, DynomiteClusterStatus};
use dynomite_planner::{Action, Cluster, Kind, Observed, Outcome, Plan, Ring};

use crate::node::Node;
use crate::world::World;
use crate::writes::What;

/// Entries of `status.plan`; a plan with more waits is cut there.
const PLAN_LIMIT: usize = 32;

/// What is remembered to judge by, and the first thing that did not hold.
#[derive(Default)]
pub struct Oracle {
    /// What does not hold.
    pub violation: Option<String>,
    tokens: BTreeMap<String, Token>,
    /// Newest document of each node: the resource's generation, the pod, the document's own.
    generations: BTreeMap<String, (i64, String, u64)>,
    settings: BTreeMap<i64, Settings>,
    /// Nodes that the operator took out while they were ready, and that have not come back.
    taken: BTreeSet<String>,
    /// Tokens that had enough ready replicas once.
    served: BTreeSet<Token>,
    /// Stores whose acceptance has been taken note of.
    accepted: BTreeSet<String>,
    /// Nodes that were told to serve.
    told: BTreeSet<String>,
    /// Pods whose data a person has accepted.
    pub permitted: BTreeSet<String>,
}

impl Oracle {
    /// Something does not hold; the first is kept.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Takes note of what a generation of the resource says.
    pub fn learn_spec(&mut self, resource: &DynomiteCluster) {
        let generation = resource.metadata.generation.unwrap_or_default();
        let settings = resource.spec.dynomite.settings.clone();
        self.settings.insert(generation, settings);
    }
}

impl World {
    /// What must hold after every step.
    pub(crate) fn check(&mut self) {
        self.check_acceptance();
        let mut found = Vec::new();
        for node in self.nodes.values() {
            found.extend(self.check_node(node));
        }
        if self.config.calm {
            found.extend(self.check_availability());
        }
        self.take_back();
        for what in found {
            self.oracle.fail(what);
        }
    }

    /// Nodes that were taken out and are back.
    fn take_back(&mut self) {
        let mut taken = std::mem::take(&mut self.oracle.taken);
        taken.retain(|name| {
            let node = self.nodes.get(name);
            let back = node.is_some_and(|node| node.is_ready() && node.terminating.is_none());
            !(back && self.in_endpoints(name))
        });
        self.oracle.taken = taken;
    }

    /// A store that was accepted as it is: what it lacks is owed no more. Only
    /// a person may say so, or the rule for a ring of one rack.
    fn check_acceptance(&mut self) {
        for node in self.nodes.values() {
            let (Some(outline), Some(store)) = (node.outline(self.now), &node.store) else {
                continue;
            };
            let new = outline.proof.kind == ProofKind::AcceptedLocal
                && self.oracle.accepted.insert(store.run_id.clone());
            let Some(desired) = node.disk.desired.as_ref().filter(|_| new) else {
                continue;
            };
            if self.config.racks > 1 && !self.oracle.permitted.contains(&node.uid) {
                let what = format!(
                    "{} keeps what it has, and nobody has accepted that",
                    node.name
                );
                self.oracle.violation.get_or_insert(what);
            }
            self.writes.give_up(desired.node.token, &store.has);
        }
    }

    /// Whether the token record says that the ring serves.
    fn record_says_served(&self) -> bool {
        let record = self.server.objects.config_maps.get("ring-tokens");
        let annotations = record.and_then(|record| record.metadata.annotations.as_ref());
        annotations.is_some_and(|all| all.contains_key(ANNOTATION_SERVED_SINCE))
    }

    fn check_node(&self, node: &Node) -> Option<String> {
        let name = &node.name;
        if node.is_ready() {
            if !self.record_says_served() {
                return Some(format!(
                    "{name} is ready and the record does not say that the ring serves"
                ));
            }
            let outline = node.outline(self.now)?;
            if outline.proof.kind == ProofKind::Unproven {
                return Some(format!("{name} is ready and unproven"));
            }
            let record = node.disk.record.proof.as_ref();
            let run_id = node.store.as_ref().map(|store| store.run_id.as_str());
            let engine = node
                .engine
                .as_ref()
                .map(|engine| engine.incarnation.as_str());
            let of_these = record.is_some_and(|proof| {
                Some(proof.run_id.as_str()) == run_id && Some(proof.engine.as_str()) == engine
            });
            if !of_these {
                return Some(format!(
                    "{name} is ready and its proof is of another incarnation"
                ));
            }
            if !node
                .disk
                .desired
                .as_ref()
                .is_some_and(|desired| desired.serve)
            {
                return Some(format!("{name} is ready and was not told to serve"));
            }
        }
        if node.reads() && node.disk.desired.is_some() {
            return self.check_data(node);
        }
        None
    }

    /// Whether a node that answers reads has all that it owes.
    fn check_data(&self, node: &Node) -> Option<String> {
        let token = node.disk.desired.as_ref()?.node.token;
        let owed = self.writes.owed.get(&token)?;
        let store = node.store.as_ref()?;
        // Who was cut off lacks something until it is renewed; see `check_level`.
        if self.config.numbers {
            return None;
        }
        let mut missing = owed.missing_in(&store.has);
        if missing.is_empty() {
            return None;
        }
        missing.retain(|write| {
            !self
                .writes
                .coming
                .iter()
                .any(|d| d.what == What::Write(*write) && d.address == node.address)
        });
        let write = missing.first()?;
        Some(format!(
            "{} answers reads and lacks {} acknowledged writes, the first is {write}",
            node.name,
            missing.len()
        ))
    }

    /// Whether the replicas of each token have the same writes, and all that
    /// clients were told is done. To be asked when all has come to rest.
    pub fn check_level(&self) -> Result<(), String> {
        let mut first: BTreeMap<Token, &Node> = BTreeMap::new();
        for node in self.nodes.values() {
            let (Some(desired), Some(store)) = (&node.disk.desired, &node.store) else {
                continue;
            };
            let token = desired.node.token;
            if let Some(owed) = self.writes.owed.get(&token) {
                let lost = owed.missing_in(&store.has);
                if let Some(write) = lost.first() {
                    let count = lost.len();
                    return Err(format!(
                        "{} lacks {count} acknowledged writes, the first is {write}: {:?}",
                        node.name, self.writes.all[*write]
                    ));
                }
            }
            let other = *first.entry(token).or_insert(node);
            if other.store.as_ref().map(|other| &other.has) != Some(&store.has) {
                return Err(format!(
                    "{} and {} have different writes",
                    other.name, node.name
                ));
            }
        }
        Ok(())
    }

    /// Whether each token has enough ready replicas, once it had.
    fn check_availability(&mut self) -> Vec<String> {
        let mut ready: BTreeMap<Token, usize> = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.is_ready()) {
            if let Some(desired) = &node.disk.desired {
                *ready.entry(desired.node.token).or_default() += 1;
            }
        }
        let spec = &self.server.resource.spec;
        let required = spec.consistency.write.required(spec.racks.len());
        for (token, count) in &ready {
            if *count >= required {
                self.oracle.served.insert(*token);
            }
        }
        let poor = |token: &&Token| ready.get(token).copied().unwrap_or(0) < required;
        let served = self.oracle.served.iter();
        served
            .filter(poor)
            .map(|token| format!("token {token} has fewer than {required} ready replicas"))
            .collect()
    }

    /// What must hold of a plan.
    pub(crate) fn check_plan(&mut self, cluster: &Cluster, observed: &Observed, plan: &Plan) {
        let disruptive = plan.actions.iter().filter(|p| p.action.disrupts()).count();
        if disruptive > 1 && !cluster.deleting {
            self.oracle
                .fail(format!("{disruptive} disruptions in one plan"));
        }
        for planned in &plan.actions {
            if let Action::Delete {
                kind,
                name,
                uid,
                resource_version,
            } = &planned.action
                && (uid.is_empty() || (*kind == Kind::Pod && resource_version.is_none()))
            {
                let what = format!("{name} is to be deleted without saying which");
                self.oracle.fail(what);
            }
        }
        let ring = Ring::new(cluster, observed);
        let idle = plan.actions.is_empty() && plan.waits.is_empty();
        if let Some(node) = ring
            .nodes
            .iter()
            .find(|node| !node.ready())
            .filter(|_| idle)
        {
            let what = format!(
                "{} is not ready, and nobody acts or waits: {}",
                node.name,
                node.lacks()
            );
            self.oracle.fail(what);
        }
    }

    /// What must hold when the operator takes a node out.
    pub(crate) fn check_disruption(&mut self, action: &Action) {
        let Action::Delete {
            kind: Kind::Pod,
            name,
            uid,
            resource_version,
        } = action
        else {
            return;
        };
        let seen = self.server.objects.pods.get(name);
        let meets = seen.is_some_and(|pod| {
            pod.metadata.uid.as_ref() == Some(uid)
                && pod.metadata.resource_version == *resource_version
        });
        let Some(node) = self.nodes.get(name).filter(|_| meets) else {
            return;
        };
        let began = |node: &Node| {
            node.disk
                .desired
                .as_ref()
                .is_some_and(|desired| desired.serve)
        };
        if !self.nodes.values().any(began) || !(node.is_ready() || node.is_proven(self.now)) {
            return;
        }
        self.take_back();
        let declared = self.declared();
        let down: Vec<&String> = declared
            .iter()
            .filter(|other| *other != name)
            .filter(|other| !self.nodes.get(*other).is_some_and(Node::is_ready))
            .collect();
        let mut what = Vec::new();
        if let Some(other) = down.first() {
            what.push(format!("{name} is taken out while {other} is down"));
        }
        if let Some(other) = self.oracle.taken.first().filter(|other| *other != name) {
            what.push(format!(
                "{name} is taken out while {other}, taken out before, is not back"
            ));
        }
        self.oracle.taken.insert(name.clone());
        for what in what {
            self.oracle.fail(what);
        }
    }

    /// What must hold of a document that a node has taken.
    pub(crate) fn check_document(&mut self, name: &str, given: &NodeDesired) {
        let token = *self
            .oracle
            .tokens
            .entry(name.to_owned())
            .or_insert(given.node.token);
        if token != given.node.token {
            let what = format!("{name} had token {token} and gets {}", given.node.token);
            self.oracle.fail(what);
        }
        let pod = given.node.pod_uid.clone();
        let new = (given.cluster_generation, pod, given.generation);
        let old = self.oracle.generations.insert(name.to_owned(), new.clone());
        // A pod without a volume remembers no document of its predecessor.
        let back = |old: &(i64, String, u64)| new.0 < old.0 || (new.1 == old.1 && new.2 <= old.2);
        if let Some(old) = old.filter(back) {
            self.oracle
                .fail(format!("{name} is moved back from {old:?} to {new:?}"));
        }
        if given.serve {
            self.oracle.told.insert(name.to_owned());
        } else if self.oracle.told.contains(name) {
            self.oracle
                .fail(format!("{name} was told to serve and is told not to"));
        }
        let said = self.oracle.settings.get(&given.cluster_generation);
        if said != Some(&given.engine.settings) {
            let what = format!(
                "{name} gets settings that generation {} does not have",
                new.0
            );
            self.oracle.fail(what);
        }
    }

    /// What must hold of a status.
    pub(crate) fn check_status(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        outcome: &Outcome,
        made: &DynomiteClusterStatus,
        fresh: bool,
    ) {
        let told = |reason: &str| {
            let mut entries = made.plan.iter();
            entries.any(|entry| entry.reason == reason && !entry.message.is_empty())
        };
        if made.plan.len() < PLAN_LIMIT
            && let Some(wait) = plan.waits.iter().find(|w| !told(w.wait.reason()))
        {
            let what = format!(
                "status does not tell of {}: {}",
                wait.wait.reason(),
                wait.wait.message()
            );
            self.oracle.fail(what);
        }
        let ready = made.conditions.iter().find(|c| c.type_ == "Ready");
        let Some(ready) = ready else {
            self.oracle.fail("status has no condition Ready".to_owned());
            return;
        };
        if ready.reason.is_empty() || (ready.status != "True" && ready.message.is_empty()) {
            let what = format!("Ready is {} without a reason", ready.status);
            self.oracle.fail(what);
        }
        let failed = !outcome.failures.is_empty();
        if ready.status == "True" && failed {
            self.oracle
                .fail("Ready is True although an action failed".to_owned());
        }
        let all = observed
            .pods
            .keys()
            .all(|name| self.nodes.get(name).is_some_and(Node::is_ready));
        if ready.status == "True" && fresh && !all {
            self.oracle
                .fail("Ready is True although a node is not ready".to_owned());
        }
    }
}
