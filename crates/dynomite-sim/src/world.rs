//! The world: one ring in one namespace, its clients, its operator, and virtual time that passes in steps.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::crd::{DynomiteCluster, DynomiteClusterSpec};
use dynomite_lifecycle::{Event, Order};
use dynomite_planner::{Defaults, KubernetesNode, Planned, Seen};
use serde_json::json;

use crate::kubernetes::Seat;
use crate::node::{Disk, Node, Without};
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::processes::Link;
use crate::random::Random;
use crate::server::Server;
use crate::writes::Writes;

/// One step of the world, milliseconds.
pub const STEP_MS: u64 = 50;
/// The most writes that a replica applies in one step.
const STREAM_WRITES: u64 = 4;
/// Lines of the transcript that are kept.
const LOG_LIMIT: usize = 4000;

/// What kind of world.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each answers a question of its own"
)]
pub struct Config {
    /// Racks of the ring.
    pub racks: usize,
    /// Nodes in each.
    pub nodes: u32,
    /// Whether data survives.
    pub persistent: bool,
    /// Whether writes need a quorum.
    pub quorum: bool,
    /// Whether engines start NORMAL, as Netflix's do.
    pub starts_normal: bool,
    /// A client writes once in so many steps; 0 is never.
    pub write_every: u64,
    /// Whether enough replicas of each token must be ready all the time, once they were.
    pub calm: bool,
    /// How many milliseconds old the operator's view may be.
    pub stale_ms: u64,
    /// Whether everything is as old as the rest; else some kinds lag and others do not.
    pub stale_at_once: bool,
    /// Whether engines number their writes.
    pub numbers: bool,
    /// Whether each zone has a second Kubernetes node.
    pub spare: bool,
    /// Whether volumes are on the Kubernetes node where the pod first ran.
    pub local: bool,
    /// One call of the operator in so many fails, before or after it has taken
    /// effect; 0 is never.
    pub errors: u64,
    /// Whether an operator that was paused goes on much later where it was.
    pub late: bool,
    /// Of a hundred packets so many are lost: what a connection carries comes
    /// later, and questions and answers do not come at all.
    pub loss_percent: u64,
    /// What is left out.
    pub without: Without,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            racks: 3,
            nodes: 2,
            persistent: true,
            quorum: true,
            starts_normal: true,
            write_every: 3,
            calm: false,
            stale_ms: 0,
            stale_at_once: false,
            numbers: false,
            spare: false,
            local: false,
            errors: 0,
            late: false,
            loss_percent: 0,
            without: Without::Nothing,
        }
    }
}

/// One ring and everything around it.
pub struct World {
    /// The time since the world began, milliseconds.
    pub now: u64,
    /// What kind of world it is.
    pub config: Config,
    /// Chance.
    pub random: Random,
    /// The API server.
    pub server: Server,
    /// Pods whose containers run, by name.
    pub nodes: BTreeMap<String, Node>,
    /// The volumes of pods that do not run, by pod name.
    pub disks: BTreeMap<String, Disk>,
    /// The clients' writes.
    pub writes: Writes,
    /// The operator.
    pub operator: Operator,
    /// What must hold.
    pub oracle: Oracle,
    /// What happened.
    pub log: Vec<String>,
    /// Pairs of nodes that do not hear each other.
    pub cuts: BTreeSet<(String, String)>,
    /// How far the clock is off where each node runs, milliseconds.
    pub clocks: BTreeMap<String, i64>,
    /// Where the local volumes of pods are.
    pub homes: BTreeMap<String, String>,
    /// What a paused operator still has to do, and when it goes on, milliseconds.
    pub late: Vec<(u64, Vec<Planned>)>,
    pub(crate) seats: BTreeMap<String, Seat>,
    pub(crate) controller_at: u64,
    pub(crate) addresses: u64,
}

/// What the operator's installation decides.
pub fn defaults() -> Defaults {
    Defaults {
        sidecar_image: "operator:1".to_owned(),
        engine_image: "operator:1".to_owned(),
        image_pull_policy: None,
    }
}

fn resource(config: &Config) -> DynomiteCluster {
    let racks: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .take(config.racks)
        .map(|letter| json!({"name": format!("dc1-{letter}"), "zone": format!("zone-{letter}")}))
        .collect();
    let level = if config.quorum { "DC_QUORUM" } else { "DC_ONE" };
    let medium = if config.persistent { "Volume" } else { "None" };
    serde_json::from_value(json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteCluster",
        "metadata": {
            "name": "ring", "namespace": "data", "uid": "cluster-uid", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "datacenter": "dc1", "racks": racks, "nodesPerRack": config.nodes,
            "consistency": {"read": level, "write": level},
            "storage": {"medium": medium},
        },
    }))
    .expect("a resource of the schema")
}

impl World {
    /// A world in which somebody has just applied a `DynomiteCluster`.
    pub fn new(seed: u64, config: Config) -> Self {
        let mut server = Server::new(resource(&config));
        let mut hosts = BTreeMap::new();
        for zone in server
            .resource
            .spec
            .racks
            .iter()
            .filter_map(|r| r.zone.clone())
        {
            for suffix in ["", "-spare"].iter().take(1 + usize::from(config.spare)) {
                let name = format!("host-{zone}{suffix}");
                let label = ("kubernetes.io/hostname".to_owned(), name.clone());
                let node = KubernetesNode {
                    zone: Some(zone.clone()),
                    schedulable: true,
                    host_labels: [label].into(),
                    ..KubernetesNode::default()
                };
                hosts.insert(name, node);
            }
        }
        server.objects.kubernetes_nodes = Seen::Known(hosts);
        let mut world = Self {
            now: 0,
            config,
            random: Random::new(seed),
            server,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            writes: Writes::default(),
            operator: Operator::default(),
            oracle: Oracle::default(),
            log: Vec::new(),
            cuts: BTreeSet::new(),
            clocks: BTreeMap::new(),
            homes: BTreeMap::new(),
            late: Vec::new(),
            seats: BTreeMap::new(),
            controller_at: 0,
            addresses: 0,
        };
        world.oracle.learn_spec(&world.server.resource);
        world
    }

    /// Adds a line to the transcript.
    pub fn say(&mut self, line: impl AsRef<str>) {
        if self.log.len() < LOG_LIMIT {
            let (seconds, rest) = (self.now / 1000, self.now % 1000);
            self.log
                .push(format!("{seconds:4}.{rest:03}  {}", line.as_ref()));
        }
    }

    /// A change of the spec.
    pub fn edit(&mut self, change: impl FnOnce(&mut DynomiteClusterSpec)) {
        change(&mut self.server.resource.spec);
        *self.server.resource.metadata.generation.get_or_insert(1) += 1;
        self.server.resource.metadata.resource_version = Some(self.server.bump());
        self.oracle.learn_spec(&self.server.resource);
        self.say("the spec is changed");
    }

    /// Lets one step of time pass; `Err` says what does not hold any more.
    pub fn step(&mut self) -> Result<(), String> {
        self.now += STEP_MS;
        self.kubernetes();
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.live(name);
        }
        self.clients();
        self.tell_numbers();
        self.deliver();
        for name in &names {
            self.flush(name);
        }
        self.operate();
        self.late_leader();
        self.hear_logs();
        self.check();
        match self.oracle.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Lets time pass.
    pub fn steps(&mut self, ms: u64) -> Result<(), String> {
        let until = self.now + ms;
        while self.now < until {
            self.step()?;
        }
        Ok(())
    }

    /// Lets time pass until something holds; it must within `bound` milliseconds.
    pub fn until(
        &mut self,
        what: &str,
        bound: u64,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let limit = self.now + bound;
        while !holds(self) {
            if self.now >= limit {
                let lacks = self.lacks();
                return Err(format!("not within {} s: {what}; {lacks}", bound / 1000));
            }
            self.step()?;
        }
        Ok(())
    }

    fn hear_logs(&mut self) {
        let mut lines = Vec::new();
        for node in self.nodes.values_mut() {
            lines.append(&mut node.log);
        }
        for line in lines {
            self.say(line);
        }
    }

    /// One step of a node's life.
    fn live(&mut self, name: &str) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        if node.life.is_none() || node.without == Without::SteadyClock {
            node.clock_ms = self.clocks.get(name).copied().unwrap_or(0);
        }
        node.come_back(now);
        for (id, order) in node.due_orders(now) {
            let event = match order {
                Order::ReadDonor if self.is_lost() => {
                    Event::Failed(id, "the donor gives no answer in time".to_owned())
                }
                Order::ReadDonor => self.read_donor(name, id),
                Order::AskPeers => Event::Introduced(id, self.unaware_of(name)),
                Order::Detach => {
                    self.cut_exactly(name);
                    match self.nodes.get_mut(name) {
                        Some(node) => node.obey(id, order),
                        None => return,
                    }
                }
                order => match self.nodes.get_mut(name) {
                    Some(node) => node.obey(id, order),
                    None => return,
                },
            };
            if let Some(node) = self.nodes.get_mut(name) {
                node.send(now, event);
            }
        }
        self.replicate(name);
        self.read_seeds(name);
        if let Some(node) = self.nodes.get_mut(name)
            && now >= node.look_at
        {
            node.look(now);
        }
    }

    /// The nodes whose engines look for this one at another address; those
    /// whose engine does not run learn it when they start.
    fn unaware_of(&self, name: &str) -> Vec<String> {
        let Some(own) = self.nodes.get(name) else {
            return Vec::new();
        };
        let others = self.nodes.values();
        let unaware = others.filter(|node| {
            let knows = node.peers.get(name) == Some(&own.address);
            node.name != name && node.engine.is_some() && !knows
        });
        unaware.map(|node| node.name.clone()).collect()
    }

    fn read_donor(&self, name: &str, id: dynomite_lifecycle::OrderId) -> Event {
        match self.reach_donor(name) {
            Ok((_, donor)) => match &donor.store {
                Some(store) => Event::Donor(id, store.donor_sight()),
                None => Event::Failed(id, "the donor's store is gone".to_owned()),
            },
            Err(why) => Event::Failed(id, why),
        }
    }

    /// The donor a node copies, if it may; a copy that began goes on while the
    /// donor is proven.
    fn reach_donor(&self, name: &str) -> Result<(String, &Node), String> {
        let nobody = || "there is no donor".to_owned();
        let node = self.nodes.get(name).ok_or_else(nobody)?;
        let life = node.life.as_ref().ok_or_else(nobody)?;
        let donor = life.donor().ok_or_else(nobody)?.name.clone();
        let gone = || format!("{donor} cannot be reached");
        let peer = self
            .nodes
            .get(&donor)
            .filter(|_| !self.is_cut(name, &donor));
        let peer = peer.ok_or_else(gone)?;
        let other = peer.life.as_ref().ok_or_else(gone)?;
        let link = node.store.as_ref().and_then(|store| store.link.as_ref());
        if link.is_none() || !other.donates() {
            let desired = life.desired().ok_or_else(nobody)?;
            let (uid, token) = (&desired.cluster.uid, desired.node.token);
            other.may_be_copied(peer.clock(self.now), uid, token)?;
        }
        Ok((donor, peer))
    }

    /// A replica follows its donor, or begins a copy.
    fn replicate(&mut self, name: &str) {
        use dynomite_api::contract::StoreRole;
        let now = self.now;
        let replica = self.nodes.get(name).and_then(|node| node.store.as_ref());
        if !replica.is_some_and(|store| store.role == StoreRole::Replica) {
            return;
        }
        let held = replica
            .and_then(|store| store.link.as_ref())
            .map(|link| link.run_id.clone());
        let found = self
            .reach_donor(name)
            .map(|(donor, peer)| (donor, peer.store.clone()));
        let writes = usize::try_from(self.random.between(1, STREAM_WRITES)).unwrap_or(1);
        let pause = self.random.between(100, 900);
        let stalls = self.random.one_in(20);
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let Some(store) = &mut node.store else { return };
        match found {
            Ok((_, Some(donor))) if held.as_ref() == Some(&donor.run_id) => {
                store.follow(&donor, now, writes);
                if let Some(link) = store.link.as_mut().filter(|_| stalls) {
                    link.stalls_until = now + pause;
                }
            }
            Ok((_, Some(donor))) if donor.role == StoreRole::Primary => {
                store.link = Some(Link {
                    run_id: donor.run_id.clone(),
                    history: donor.history.clone(),
                    snapshot: donor.has.clone(),
                    begins: donor.log.len(),
                    copied_at: now + pause,
                    applied: 0,
                    stalls_until: 0,
                    up: false,
                });
            }
            Ok(_) => store.link = None,
            Err(why) => {
                store.link = None;
                let donor = node.life.as_ref().and_then(|life| life.donor());
                if let Some(donor) = donor.map(|donor| donor.name.clone()) {
                    node.send(now, Event::DonorRefused { donor, why });
                }
            }
        }
    }

    /// The names of all nodes that are declared.
    pub fn declared(&self) -> BTreeSet<String> {
        let spec = &self.server.resource.spec;
        let names = spec.racks.iter().flat_map(|rack| {
            (0..spec.nodes_per_rack).map(move |ordinal| format!("ring-{}-{ordinal}", rack.name))
        });
        names.collect()
    }

    /// Whether every declared node is ready, by its own word and by Kubernetes'.
    pub fn all_ready(&self) -> bool {
        self.declared()
            .iter()
            .all(|name| self.in_endpoints(name) && self.nodes.get(name).is_some_and(Node::is_ready))
    }

    /// Why the world has not settled, in words.
    pub fn lacks(&self) -> String {
        let mut words = Vec::new();
        for name in self.declared() {
            let outline = self
                .nodes
                .get(&name)
                .and_then(|node| node.outline(self.now));
            match outline {
                None => words.push(format!("{name} does not run")),
                Some(outline) if !self.nodes[&name].is_ready() => words.push(format!(
                    "{name} is {:?}: {} {:?}",
                    outline.phase, outline.message, outline.awaiting
                )),
                Some(_) => {}
            }
        }
        words.push(format!("the operator: {}", self.operator.summary()));
        words.join("; ")
    }
}
