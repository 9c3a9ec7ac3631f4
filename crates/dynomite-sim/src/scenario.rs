//! Scenarios: what happens to a ring, what it must come to, and how a run that failed is told.

use std::fmt;

use dynomite_api::annotations::{ANNOTATION_ACCEPT_LOSS, ANNOTATION_REPLACE};
use dynomite_api::crd::{
    DynomiteRestore, DynomiteRestoreSpec, DynomiteRestoreStatus, RestorePhase,
};
use dynomite_lifecycle::{ProcessName, Word};
use dynomite_planner::{Cluster, KubernetesNode, Seen, Wait};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::node::{Without, moment};
use crate::random::Random;
use crate::world::{Config, World};

/// Within which a healthy world must settle, milliseconds.
const SETTLES_MS: u64 = 240_000;

/// What can happen to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// It is made, sometimes with a rack whose pods find no place.
    Provision,
    /// The operator dies after each of its actions in turn.
    CrashAfterEveryAction,
    /// A node cannot be asked for a while, while things happen.
    MuteNode,
    /// The operator misses what happened to some kinds of objects.
    DroppedEvent,
    /// The operator sees what was, everything at once.
    StaleObservation,
    /// Stores, engines, containers, sidecars and pods die.
    KillThings,
    /// Settings change while things die.
    Roll,
    /// Nothing dies and settings change: every token stays served.
    CalmRoll,
    /// All replicas of a token are lost, and a person decides.
    AllReplicasLost,
    /// A rack is cut off and lives on, while things die.
    Partition,
    /// Kubernetes nodes and volumes are lost for good, or a person says so.
    LostForGood,
    /// One call of the operator in ten fails, or its answer is lost.
    FailingCalls,
    /// An operator that was paused goes on a minute later, beside its successor.
    TwoLeaders,
    /// The operator is away for an hour while things die.
    OperatorAway,
    /// Every node is told to stay out, while things die, and let go.
    HeldRing,
    /// A person stops a process of a node, while other things happen, and starts it.
    StoppedByHand,
    /// One packet in three is lost, and the links of a rack break now and then.
    LossyLinks,
    /// Clocks of the operator and of nodes jump by an hour, while things die.
    ClockJumps,
}

/// All scenarios with their names.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("provision", Scenario::Provision),
    ("crash_after_every_action", Scenario::CrashAfterEveryAction),
    ("mute_node", Scenario::MuteNode),
    ("dropped_event", Scenario::DroppedEvent),
    ("stale_observation", Scenario::StaleObservation),
    ("kill_things", Scenario::KillThings),
    ("roll", Scenario::Roll),
    ("calm_roll", Scenario::CalmRoll),
    ("all_replicas_lost", Scenario::AllReplicasLost),
    ("partition", Scenario::Partition),
    ("lost_for_good", Scenario::LostForGood),
    ("failing_calls", Scenario::FailingCalls),
    ("two_leaders", Scenario::TwoLeaders),
    ("operator_away", Scenario::OperatorAway),
    ("held_ring", Scenario::HeldRing),
    ("stopped_by_hand", Scenario::StoppedByHand),
    ("lossy_links", Scenario::LossyLinks),
    ("clock_jumps", Scenario::ClockJumps),
];

impl Scenario {
    /// The name, as in `--scenario`.
    pub fn name(self) -> &'static str {
        let found = SCENARIOS.iter().find(|(_, scenario)| *scenario == self);
        found.map_or("", |(name, _)| name)
    }

    /// The scenario of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        let found = SCENARIOS.iter().find(|(known, _)| *known == name);
        found.map(|(_, scenario)| *scenario)
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Told {
    /// The transcript.
    pub log: Vec<String>,
    /// Virtual time, milliseconds.
    pub took_ms: u64,
    /// Clients' writes, those acknowledged to be lost, and those in the gap of
    /// the plain warm-up.
    pub writes: (usize, u64, u64),
    /// The end state, for comparisons.
    pub end: String,
    /// Actions of the operator.
    pub actions: usize,
}

/// A run in which something did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The scenario.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
    /// The transcript.
    pub log: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LAST: usize = 120;
        let begin = self.log.len().saturating_sub(LAST);
        for line in &self.log[begin..] {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "{} with seed {}: {}",
            self.scenario, self.seed, self.what
        )?;
        write!(
            f,
            "again: DYNOMITE_SIM_SEED={} cargo test -p dynomite-sim {}",
            self.seed, self.scenario
        )
    }
}

impl std::error::Error for Broken {}

/// Runs a scenario with a seed; `without` leaves a protection out.
pub fn run(scenario: Scenario, seed: u64, without: Without) -> Result<Told, Box<Broken>> {
    if scenario == Scenario::CrashAfterEveryAction {
        return crash_after_every_action(seed, without);
    }
    let mut world = World::new(seed, config_of(scenario, seed, without));
    let went = play(scenario, &mut world);
    tell(scenario, seed, world, went)
}

fn tell(
    scenario: Scenario,
    seed: u64,
    world: World,
    went: Result<(), String>,
) -> Result<Told, Box<Broken>> {
    match went {
        Ok(()) => Ok(Told {
            end: world.end_state(),
            took_ms: world.now,
            writes: (
                world.writes.all.len(),
                world.writes.given_up,
                world.writes.gap,
            ),
            actions: world.operator.actions,
            log: world.log,
        }),
        Err(what) => Err(Box::new(Broken {
            scenario: scenario.name(),
            seed,
            what: format!("at {} ms: {what}", world.now),
            log: world.log,
        })),
    }
}

fn config_of(scenario: Scenario, seed: u64, without: Without) -> Config {
    let mut chance = Random::new(seed ^ 0x5eed);
    let mut config = Config {
        persistent: chance.one_in(2),
        quorum: !chance.one_in(4),
        starts_normal: chance.one_in(2),
        nodes: u32::try_from(chance.between(1, 2)).unwrap_or(1),
        without,
        ..Config::default()
    };
    match scenario {
        Scenario::Provision if chance.one_in(5) => {
            config.racks = 1;
            config.quorum = false;
        }
        Scenario::DroppedEvent => config.stale_ms = 5000,
        Scenario::StaleObservation => {
            config.stale_ms = 5000;
            config.stale_at_once = true;
        }
        Scenario::CalmRoll => config.calm = true,
        Scenario::AllReplicasLost => config.nodes = 1,
        Scenario::LostForGood => {
            config.spare = true;
            config.local = config.persistent && chance.one_in(2);
        }
        Scenario::FailingCalls => config.errors = 10,
        Scenario::TwoLeaders => config.late = true,
        Scenario::Partition | Scenario::LossyLinks => {
            config.numbers = true;
            config.write_every = 2;
        }
        _ => {}
    }
    config
}

fn play(scenario: Scenario, world: &mut World) -> Result<(), String> {
    match scenario {
        Scenario::Provision => provision(world),
        Scenario::MuteNode => mute_node(world),
        Scenario::DroppedEvent | Scenario::StaleObservation | Scenario::FailingCalls => {
            stale(world)
        }
        Scenario::KillThings => trouble(world, false),
        Scenario::Roll | Scenario::TwoLeaders => trouble(world, true),
        Scenario::CalmRoll => calm_roll(world),
        Scenario::AllReplicasLost => all_replicas_lost(world),
        Scenario::Partition => partition(world),
        Scenario::LostForGood => lost_for_good(world),
        Scenario::OperatorAway => operator_away(world),
        Scenario::HeldRing => held_ring(world),
        Scenario::StoppedByHand => stopped_by_hand(world),
        Scenario::LossyLinks => lossy_links(world),
        Scenario::ClockJumps => clock_jumps(world),
        Scenario::CrashAfterEveryAction => Ok(()),
    }
}

impl World {
    /// Lets everything come to rest: every node ready, nothing to do and
    /// nothing to wait for twice, and the status stays as it is.
    pub fn settle(&mut self) -> Result<(), String> {
        self.operator.quiet = 0;
        self.config.stale_ms = 0;
        self.operator.mute.clear();
        self.until("settled", SETTLES_MS, |world| {
            world.operator.quiet >= 2 && world.all_ready()
        })
    }

    /// The same with a person who does what the status asks for.
    fn settle_with_a_person(&mut self) -> Result<(), String> {
        self.operator.quiet = 0;
        self.config.stale_ms = 0;
        self.operator.mute.clear();
        let limit = self.now + SETTLES_MS;
        while !(self.operator.quiet >= 2 && self.all_ready()) {
            if self.now >= limit {
                return Err(format!("does not settle: {}", self.lacks()));
            }
            self.steps(500)?;
            self.accept_proposals();
        }
        Ok(())
    }

    /// A person accepts what the status proposes.
    fn accept_proposals(&mut self) {
        let proposals: Vec<(String, String)> = self
            .operator
            .last
            .waits
            .iter()
            .filter_map(|waiting| match &waiting.wait {
                Wait::NoProvenReplica { proposal, .. } => proposal.clone(),
                _ => None,
            })
            .collect();
        for (name, uid) in proposals {
            let version = self.server.bump();
            if let Some(pod) = self.server.objects.pods.get_mut(&name) {
                let mark = (ANNOTATION_ACCEPT_LOSS.to_owned(), uid.clone());
                self.oracle.permitted.insert(uid.clone());
                let held = pod.metadata.annotations.get_or_insert_default();
                if held.get(&mark.0) == Some(&mark.1) {
                    continue;
                }
                held.extend([mark]);
                pod.metadata.resource_version = Some(version);
                self.say(format!("a person accepts what {name} has"));
            }
        }
    }

    /// Something dies.
    fn kill_something(&mut self) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        let Some(name) = self.random.pick(&names).cloned() else {
            return;
        };
        let now = self.now;
        let back = now + self.random.between(100, 3000);
        let process = if self.random.one_in(2) {
            ProcessName::Store
        } else {
            ProcessName::Engine
        };
        let what = self.random.below(10);
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        let words = match what {
            0..=3 => {
                node.kill(now, process);
                format!("the {} of {name} is killed", process.name())
            }
            4 => {
                node.container_goes(now, process, back);
                format!("the container {} of {name} is gone", process.name())
            }
            5 | 6 => {
                node.sidecar_crashes(back.min(now + 1000));
                format!("the sidecar of {name} crashes")
            }
            7 => {
                node.sidecar_crashes(back.min(now + 1000));
                node.kill(now, process);
                format!(
                    "the sidecar and the {} of {name} are killed",
                    process.name()
                )
            }
            8 => {
                self.begin_deletion(&name);
                format!("somebody deletes pod {name}")
            }
            _ => {
                self.remove_pod(&name);
                format!("pod {name} is gone at once")
            }
        };
        self.say(words);
    }

    fn somebody_deletes_claim(&mut self, name: &str) {
        let now = moment(self.now);
        self.server.bump();
        let claim = Cluster::claim_name(name);
        if let Some(claim) = self.server.objects.claims.get_mut(&claim) {
            claim.metadata.deletion_timestamp = Some(Time(now));
        }
        self.say(format!("somebody deletes the claim of {name}"));
    }

    fn replace_by_word(&mut self, name: &str) {
        let version = self.server.bump();
        if let Some(pod) = self.server.objects.pods.get_mut(name) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let mark = (ANNOTATION_REPLACE.to_owned(), uid);
            pod.metadata
                .annotations
                .get_or_insert_default()
                .extend([mark]);
            pod.metadata.resource_version = Some(version);
        }
        self.say(format!("a person has {name} replaced"));
    }

    /// A restore is in the phase in which the ring is held, or given up.
    fn hold(&mut self, phase: Option<RestorePhase>) {
        self.say(format!("the ring is held: {}", phase.is_some()));
        let name = "restored".to_owned();
        let mut restore = DynomiteRestore::new(&name, DynomiteRestoreSpec::default());
        restore.metadata.uid = Some("restore-uid".to_owned());
        "ring".clone_into(&mut restore.spec.cluster);
        restore.status = Some(DynomiteRestoreStatus {
            phase: Some(phase.unwrap_or(RestorePhase::Aborted)),
            ..DynomiteRestoreStatus::default()
        });
        self.server.objects.restores.insert(name, restore);
        self.server.bump();
    }

    fn tell(&mut self, name: &str, word: Word) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(name) {
            node.told(now, word);
        }
        self.say(format!("a person tells {name} {word:?}"));
    }

    fn crash_sidecar(&mut self, name: &str) {
        let back = self.now + self.random.between(100, 3000);
        if let Some(node) = self.nodes.get_mut(name) {
            node.sidecar_crashes(back);
        }
        self.say(format!("the sidecar of {name} crashes"));
    }

    fn kill_store(&mut self, name: &str) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(name) {
            node.kill(now, ProcessName::Store);
        }
        self.say(format!("the store of {name} is killed"));
    }

    fn kill_engine(&mut self) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        let now = self.now;
        let name = self.random.pick(&names).cloned().unwrap_or_default();
        if let Some(node) = self.nodes.get_mut(&name) {
            node.kill(now, ProcessName::Engine);
            self.say(format!("the engine of {name} is killed"));
        }
    }

    fn mute_something(&mut self) {
        let names: Vec<String> = self.declared().into_iter().collect();
        if let Some(name) = self.random.pick(&names).cloned() {
            let until = self.now + self.random.between(1000, 20_000);
            self.say(format!(
                "{name} cannot be asked for {} ms",
                until - self.now
            ));
            self.operator.mute.insert(name, until);
        }
    }

    fn change_settings(&mut self, value: u64) {
        self.edit(|spec| {
            // The engine takes none below.
            let value = 100_000 + value;
            let setting = ("max_msgs".to_owned(), value.to_string());
            spec.dynomite.settings.extend([setting]);
        });
    }
}

fn provision(world: &mut World) -> Result<(), String> {
    if world.config.racks > 1 && world.random.one_in(4) {
        return late_node(world);
    }
    let blocked = world.config.racks > 1 && world.random.one_in(3);
    if blocked {
        set_zone(world, "c", false);
        world.until("the other racks serve", SETTLES_MS, |world| {
            let ready = world.nodes.values().filter(|node| node.is_ready()).count();
            ready == 2 * world.config.nodes as usize
        })?;
        world.steps(2000)?;
        set_zone(world, "c", true);
    }
    world.settle()
}

/// A node has its permission to begin empty, and its containers start only when
/// the others may have begun without it; perhaps nobody can ask it meanwhile.
fn late_node(world: &mut World) -> Result<(), String> {
    let names: Vec<String> = world.declared().into_iter().collect();
    let Some(name) = world.random.pick(&names).cloned() else {
        return Ok(());
    };
    world.until("it has a document", SETTLES_MS, |world| {
        let node = world.nodes.get(&name);
        node.is_some_and(|node| node.disk.desired.is_some())
    })?;
    let late = world.now + world.random.between(56_000, 75_000);
    if let Some(node) = world.nodes.get_mut(&name) {
        node.container_goes(world.now, ProcessName::Store, late);
    }
    world.say(format!("the store of {name} comes late"));
    if world.random.one_in(2) {
        world.operator.mute.insert(name, late + 10_000);
    }
    world.steps(90_000)?;
    world.settle()
}

fn set_zone(world: &mut World, letter: &str, schedulable: bool) {
    let zone = format!("zone-{letter}");
    if let Seen::Known(nodes) = &mut world.server.objects.kubernetes_nodes {
        let node = KubernetesNode {
            zone: Some(zone.clone()),
            schedulable,
            ..KubernetesNode::default()
        };
        nodes.insert(format!("host-{zone}"), node);
    }
    world.say(format!("{zone} takes pods: {schedulable}"));
}

fn crash_after_every_action(seed: u64, without: Without) -> Result<Told, Box<Broken>> {
    let scenario = Scenario::CrashAfterEveryAction;
    let attempt = |dies_after: Option<usize>| {
        let mut config = config_of(scenario, seed, without);
        config.write_every = 4;
        let mut world = World::new(seed, config);
        world.operator.dies_after = dies_after;
        let mut went = world.settle();
        if went.is_ok() {
            world.change_settings(300_000);
            went = world.settle();
        }
        tell(scenario, seed, world, went)
    };
    let whole = attempt(None)?;
    for k in 1..=whole.actions {
        let told = attempt(Some(k))?;
        if told.end != whole.end {
            let what = format!(
                "after a crash behind action {k} the end is another:\n{}\ninstead of\n{}",
                told.end, whole.end
            );
            return Err(Box::new(Broken {
                scenario: scenario.name(),
                seed,
                what,
                log: told.log,
            }));
        }
    }
    Ok(whole)
}

fn mute_node(world: &mut World) -> Result<(), String> {
    for _ in 0..6 {
        let pause = world.random.between(500, 8000);
        world.steps(pause)?;
        world.mute_something();
        match world.random.below(4) {
            0 => world.kill_something(),
            1 => world.change_settings(pause),
            2 => world.operator_dies(3000),
            _ => {}
        }
    }
    world.settle_with_a_person()
}

fn stale(world: &mut World) -> Result<(), String> {
    for _ in 0..6 {
        let pause = world.random.between(1000, 8000);
        world.steps(pause)?;
        match world.random.below(5) {
            0 => world.kill_something(),
            1 => world.change_settings(pause),
            2 => {
                let after = world.operator.actions + usize::try_from(pause % 9).unwrap_or(0) + 1;
                world.operator.dies_after = Some(after);
            }
            _ => {}
        }
    }
    world.settle_with_a_person()
}

fn trouble(world: &mut World, roll: bool) -> Result<(), String> {
    if !world.random.one_in(4) {
        world.settle()?;
    }
    let events = world.random.between(3, 10);
    for _ in 0..events {
        let pause = world.random.between(100, 9000);
        world.steps(pause)?;
        world.kill_something();
        if roll && world.random.one_in(3) {
            world.change_settings(pause);
        }
        if world.random.one_in(6) {
            world.mute_something();
        }
        if world.random.one_in(6) {
            world.operator_dies(pause);
        }
    }
    world.settle_with_a_person()
}

fn calm_roll(world: &mut World) -> Result<(), String> {
    world.settle()?;
    let before: Vec<String> = world.nodes.values().map(|node| node.uid.clone()).collect();
    world.change_settings(300_000);
    world.steps(1000)?;
    world.settle()?;
    if world.nodes.values().any(|node| before.contains(&node.uid)) {
        return Err("a pod was not replaced".to_owned());
    }
    Ok(())
}

/// Something of one rack is lost for good; the node comes back with its token
/// and all data, on another Kubernetes node or with another volume.
fn lost_for_good(world: &mut World) -> Result<(), String> {
    world.settle()?;
    // Pods are old enough that their Kubernetes nodes must be known.
    world.steps(61_000)?;
    for _ in 0..world.random.between(1, 2) {
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        let name = world.random.pick(&names).cloned().unwrap_or_default();
        let claim = world.server.objects.claims.get(&Cluster::claim_name(&name));
        let claim = claim.and_then(|claim| claim.metadata.uid.clone());
        let fresh = match world.random.below(4) {
            0 if claim.is_some() => {
                world.volume_is_lost(&name);
                true
            }
            1 if claim.is_some() => {
                world.somebody_deletes_claim(&name);
                true
            }
            2 => {
                world.replace_by_word(&name);
                claim.is_some()
            }
            _ => {
                let pod = world.server.objects.pods.get(&name);
                let spec = pod.and_then(|pod| pod.spec.as_ref());
                let host = spec.and_then(|spec| spec.node_name.clone());
                let removed = world.random.one_in(2);
                world.host_dies(&host.unwrap_or_default(), removed);
                world.config.local
            }
        };
        world.settle_with_a_person()?;
        let now = world.server.objects.claims.get(&Cluster::claim_name(&name));
        let now = now.and_then(|claim| claim.metadata.uid.clone());
        if fresh && now == claim {
            return Err(format!("{name} has its old volume"));
        }
    }
    Ok(())
}

/// Nodes heal by themselves while the operator is away, and its return takes
/// nothing down.
fn operator_away(world: &mut World) -> Result<(), String> {
    const AWAY_MS: u64 = 3_600_000;
    world.settle()?;
    world.operator_dies(AWAY_MS);
    let back = world.now + AWAY_MS;
    for _ in 0..world.random.between(2, 6) {
        let pause = world.random.between(1000, 20_000);
        world.steps(pause)?;
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        let name = world.random.pick(&names).cloned().unwrap_or_default();
        let process = if world.random.one_in(2) {
            ProcessName::Store
        } else {
            ProcessName::Engine
        };
        let now = world.now;
        if let Some(node) = world.nodes.get_mut(&name) {
            node.kill(now, process);
        }
        world.say(format!("the {} of {name} is killed", process.name()));
        // One after the other: without a replica a person has to decide.
        world.until("nodes heal alone", 60_000, World::all_ready)?;
    }
    // Clients go on; that it is more than now and then changes nothing.
    world.config.write_every = 200;
    world.steps(back - world.now)?;
    let before: Vec<String> = world.nodes.values().map(|node| node.uid.clone()).collect();
    world.settle()?;
    let after: Vec<String> = world.nodes.values().map(|node| node.uid.clone()).collect();
    if before != after {
        return Err("the operator's return has replaced pods".to_owned());
    }
    Ok(())
}

/// The ring is held as for a restore: nobody answers, whatever dies meanwhile, and
/// when it is let go nobody copies who has kept what it had.
fn held_ring(world: &mut World) -> Result<(), String> {
    world.settle()?;
    world.hold(Some(RestorePhase::Holding));
    world.until("the ring is held", 60_000, |world| {
        let mut nodes = world.nodes.values();
        nodes.all(|node| !node.is_ready() && !node.reads())
    })?;
    let proofs = |world: &World| -> Vec<_> {
        let outlines = world.nodes.values();
        outlines
            .filter_map(|node| Some(node.outline(world.now)?.proof))
            .collect()
    };
    world.steps(2000)?;
    let before = proofs(world);
    let mut whole = true;
    for _ in 0..world.random.between(1, 4) {
        let pause = world.random.between(1000, 15_000);
        for _ in 0..pause / 500 {
            world.steps(500)?;
            if let Some(node) = world.nodes.values().find(|node| node.reads()) {
                return Err(format!("{} answers while the ring is held", node.name));
            }
        }
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        let name = world.random.pick(&names).cloned().unwrap_or_default();
        match world.random.below(4) {
            0 => world.operator_dies(pause),
            1 | 2 => world.crash_sidecar(&name),
            _ => {
                whole = false;
                world.kill_store(&name);
            }
        }
    }
    world.steps(5000)?;
    world.hold(None);
    world.settle_with_a_person()?;
    if whole && proofs(world) != before {
        return Err("a node that was held and kept its data copies it all the same".to_owned());
    }
    Ok(())
}

/// What a person stopped stays stopped, its node stays out and nobody else is
/// taken down, until the person starts it; then the node has what it missed.
fn stopped_by_hand(world: &mut World) -> Result<(), String> {
    world.settle()?;
    let names: Vec<String> = world.nodes.keys().cloned().collect();
    let name = world.random.pick(&names).cloned().unwrap_or_default();
    let (process, stop, start) = if world.random.one_in(2) {
        (ProcessName::Store, Word::StopStore, Word::StartStore)
    } else {
        (ProcessName::Engine, Word::StopEngine, Word::StartEngine)
    };
    let pods = |world: &World| -> Vec<_> {
        let nodes = world.nodes.values();
        nodes.map(|node| node.uid.clone()).collect()
    };
    let before = pods(world);
    world.tell(&name, stop);
    world.until("the process is stopped", 60_000, |world| {
        !world.nodes[&name].runs(process)
    })?;
    for _ in 0..world.random.between(2, 6) {
        let pause = world.random.between(1000, 15_000);
        match world.random.below(4) {
            0 => world.change_settings(pause),
            1 => world.operator_dies(pause),
            _ => world.crash_sidecar(&name),
        }
        for _ in 0..pause / 500 {
            world.steps(500)?;
            if world.nodes[&name].runs(process) {
                return Err(format!("what a person stopped on {name} runs"));
            }
        }
        if pods(world) != before {
            return Err(format!("a pod was replaced while {name} was stopped"));
        }
    }
    // The sidecar may be down for a moment, and a call needs one.
    world.until("somebody listens", 10_000, |world| {
        world.nodes[&name].life.is_some()
    })?;
    world.tell(&name, start);
    world.settle_with_a_person()
}

/// A rack is cut off from the others, clients and operator reach all of them;
/// when the network is whole again the replicas end equal without help.
fn partition(world: &mut World) -> Result<(), String> {
    world.settle()?;
    // A partition that begins before the nodes of the last one were renewed, or
    // an engine that dies during one, may leave every replica without something
    // that a majority had: then they end equal, and that is all.
    let overlapping = world.random.one_in(3);
    let mut two_faults = overlapping;
    for _ in 0..world.random.between(1, 3) {
        let letters = ["a", "b", "c"];
        let letter = *world.random.pick(&letters).unwrap_or(&"a");
        world.cut_rack(letter);
        let lasts = world.random.between(1000, 20_000);
        world.steps(lasts / 2)?;
        if world.random.one_in(3) {
            two_faults = true;
            world.kill_engine();
        }
        if world.random.one_in(4) {
            world.operator_dies(lasts);
        }
        world.steps(lasts / 2)?;
        world.heal();
        if overlapping {
            let pause = world.random.between(100, 8000);
            world.steps(pause)?;
        } else {
            world.steps(8000)?;
            world.settle_with_a_person()?;
        }
    }
    if two_faults {
        world.writes.owed.clear();
    }
    ends_level(world)
}

/// The network loses packets: what connections carry comes seconds later, and
/// the operator's questions and documents do not come at all. Where connections
/// break besides, the replicas end equal without help.
fn lossy_links(world: &mut World) -> Result<(), String> {
    const LOSS_PERCENT: u64 = 30;
    world.settle()?;
    let breaks = world.random.one_in(2);
    world.config.loss_percent = LOSS_PERCENT;
    world.say(format!("{LOSS_PERCENT} packets in a hundred are lost"));
    for _ in 0..world.random.between(3, 8) {
        let pause = world.random.between(500, 9000);
        world.steps(pause)?;
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        match world.random.below(6) {
            0 => {
                let name = world.random.pick(&names).cloned().unwrap_or_default();
                world.kill_store(&name);
            }
            1 => world.change_settings(pause),
            2 => world.operator_dies(pause),
            _ if breaks => {
                world.cut_rack("b");
                let lasts = world.random.between(50, 3000);
                world.steps(lasts)?;
                world.heal();
            }
            _ => {}
        }
    }
    world.steps(5000)?;
    world.config.loss_percent = 0;
    world.say("nothing is lost any more");
    if breaks {
        // Of what was under way when a connection broke, each replica may lack
        // something else.
        world.writes.owed.clear();
    }
    ends_level(world)
}

/// When nothing is written any more the replicas are equal, and they stay so.
fn ends_level(world: &mut World) -> Result<(), String> {
    let write_every = std::mem::replace(&mut world.config.write_every, 0);
    world.settle_with_a_person()?;
    // What a coordinator that died sent last counts some seconds later.
    world.steps(8000)?;
    world.settle()?;
    world.check_level()?;
    // And it stays so while clients write.
    world.config.write_every = write_every;
    world.steps(5000)?;
    world.config.write_every = 0;
    world.steps(2000)?;
    world.settle()?;
    world.check_level()
}

/// Clocks jump by an hour, ahead or back: where the operator runs it goes by that
/// at once, a sidecar when it starts again. It takes nobody out, and what dies
/// meanwhile heals.
fn clock_jumps(world: &mut World) -> Result<(), String> {
    const HOUR_MS: i64 = 3_600_000;
    let calm = world.random.one_in(2);
    if calm || !world.random.one_in(4) {
        world.settle()?;
    }
    let standing = |world: &World| -> Vec<_> {
        let nodes = world.nodes.values();
        let all = nodes.map(|node| (node.uid.clone(), node.outline(world.now).map(|o| o.proof)));
        all.collect()
    };
    world.steps(2000)?;
    let before = standing(world);
    for _ in 0..world.random.between(2, 6) {
        let pause = world.random.between(500, 9000);
        world.steps(pause)?;
        let off = *world.random.pick(&[-HOUR_MS, HOUR_MS, 0]).unwrap_or(&0);
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        let name = world.random.pick(&names).cloned().unwrap_or_default();
        match world.random.below(4) {
            0 => {
                world.operator.clock_ms = off;
                world.say(format!("the operator's clock is off by {off} ms"));
            }
            1 => {
                world.clocks.insert(name.clone(), off);
                world.say(format!("the clock of {name} is off by {off} ms"));
            }
            _ => {
                world.clocks.insert(name.clone(), off);
                world.say(format!("the clock of {name} is off by {off} ms"));
                world.crash_sidecar(&name);
            }
        }
        if !calm {
            world.kill_something();
        }
    }
    world.settle_with_a_person()?;
    if calm && standing(world) != before {
        return Err("a clock alone has taken a node out".to_owned());
    }
    Ok(())
}

fn all_replicas_lost(world: &mut World) -> Result<(), String> {
    world.settle()?;
    world.steps(3000)?;
    let names: Vec<String> = world.nodes.keys().cloned().collect();
    let now = world.now;
    for name in &names {
        if let Some(node) = world.nodes.get_mut(name) {
            node.kill(now, ProcessName::Store);
        }
    }
    world.say("every store is killed");
    world.until("the status says Stalled", 60_000, |world| {
        let status = world.server.resource.status.as_ref();
        status.is_some_and(|status| {
            let conditions = status.conditions.iter();
            conditions
                .clone()
                .any(|c| c.type_ == "Stalled" && c.status == "True")
        })
    })?;
    world.steps(10_000)?;
    if world.nodes.values().any(crate::node::Node::reads) {
        return Err("a node serves what nobody has accepted".to_owned());
    }
    world.settle_with_a_person()
}
