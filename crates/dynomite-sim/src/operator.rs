//! The operator's hands in the made-up world: it observes, maybe late, plans, acts one action after the other, maybe dies, and publishes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dynomite_api::contract::NodeReport;
use dynomite_api::crd::DynomiteCluster;
use dynomite_planner::{
    Action, Cluster, Failure, Kind, Observed, Outcome, Plan, Planned, Seen, StepName, plan, status,
};
use jiff::Timestamp;

use crate::node::{Without, moment, shown};
use crate::server::Refused;
use crate::world::{World, defaults};

/// How often what is seen is kept for a later look that is stale, milliseconds.
const KEEP_MS: u64 = 500;
/// How long an operator that crashed is away, milliseconds.
const AWAY_MS: u64 = 2000;
/// A pass that would see nothing new is left out for so long, milliseconds.
const UNCHANGED_MS: u64 = 2000;

/// The operator.
#[derive(Default)]
pub struct Operator {
    /// When it looks next, milliseconds.
    pub pass_at: u64,
    /// Until when each node cannot be asked, milliseconds.
    pub mute: BTreeMap<String, u64>,
    /// After how many actions it dies.
    pub dies_after: Option<usize>,
    /// How many actions it has carried out.
    pub actions: usize,
    /// Passes in a row with nothing to do, nothing to wait for, and no new status.
    pub quiet: u32,
    /// Whether an action of the last pass failed.
    pub failed: bool,
    /// How far its clock is off, milliseconds.
    pub clock_ms: i64,
    /// How many passes it has made.
    pub passes: u64,
    /// What it planned last.
    pub last: Plan,
    history: VecDeque<(u64, Observed, DynomiteCluster)>,
    /// What the last pass has seen, and when it was.
    seen: (u64, u64, Vec<(String, Option<NodeReport>)>),
}

impl Operator {
    /// The last plan in few words.
    pub fn summary(&self) -> String {
        let actions = self.last.actions.iter().map(|p| p.action.target());
        let waits = self.last.waits.iter().map(|w| w.wait.message());
        let all: Vec<String> = actions.chain(waits).collect();
        if all.is_empty() {
            "nothing to do".to_owned()
        } else {
            all.join("; ")
        }
    }
}

/// A report without what moves all the time and changes no decision.
fn without_counters(mut report: NodeReport) -> NodeReport {
    report.at = Timestamp::UNIX_EPOCH;
    if let Some(store) = &mut report.store {
        store.keys = 0;
        store.replication_offset = 0;
    }
    if let Some(copy) = &mut report.warm_up {
        copy.lag_bytes = None;
    }
    report
}

/// What a pass sees.
struct View {
    resource: DynomiteCluster,
    observed: Observed,
    fresh: bool,
}

impl World {
    /// The operator's share of one step.
    pub(crate) fn operate(&mut self) {
        self.keep_history();
        if self.now < self.operator.pass_at {
            return;
        }
        let settled = self.operator.quiet >= 2;
        let pause = if settled {
            1000
        } else {
            self.random.between(300, 700)
        };
        self.operator.pass_at = self.now + pause;
        let news = self.sees_news();
        if !news {
            return;
        }
        let view = self.observe();
        self.operator.passes += 1;
        let now = shown(self.now, self.operator.clock_ms);
        let cluster = match Cluster::new(&view.resource, &defaults()) {
            Ok(cluster) => cluster,
            Err(violations) => {
                self.oracle
                    .fail(format!("the resource is refused: {violations}"));
                return;
            }
        };
        let mut plan = plan(&cluster, &view.observed, now);
        self.check_plan(&cluster, &view.observed, &plan);
        if self.config.without == Without::Headroom {
            disrupt_more(&mut plan, &view.observed);
        }
        if self.config.without == Without::Replacement {
            plan.actions.retain(|p| p.step != StepName::Replace);
        }
        if self.config.late && self.random.one_in(3) {
            let again = self.now + self.random.between(1000, 60_000);
            self.late.push((again, plan.actions.clone()));
        }
        let Some(outcome) = self.apply(&view.observed, &plan) else {
            return;
        };
        self.operator.failed = !outcome.failures.is_empty();
        self.publish(&cluster, &view, &plan, &outcome, now);
        self.operator.last = plan;
    }

    /// Whether anything has changed since the last pass. A pass decides the same
    /// from the same, so it is left out, but not for long.
    fn sees_news(&mut self) -> bool {
        let now = self.now;
        let mute = &self.operator.mute;
        let said = self.nodes.values_mut().map(|node| {
            let heard = !mute.contains_key(&node.name);
            let report = if heard { node.report(now) } else { None };
            (node.address.clone(), report.map(without_counters))
        });
        let said: Vec<_> = said.collect();
        let (at, version, before) = &self.operator.seen;
        let same = *version == self.server.version && *before == said;
        let leaves_out =
            self.config.stale_ms == 0 && self.operator.quiet != 1 && !self.operator.failed;
        if same && leaves_out && now < at + UNCHANGED_MS {
            return false;
        }
        self.operator.seen = (now, self.server.version, said);
        true
    }

    fn keep_history(&mut self) {
        if self.config.stale_ms == 0 || !self.now.is_multiple_of(KEEP_MS) {
            return;
        }
        let seen = (
            self.now,
            self.server.objects.clone(),
            self.server.resource.clone(),
        );
        let history = &mut self.operator.history;
        history.push_back(seen);
        while history
            .front()
            .is_some_and(|(at, ..)| at + self.config.stale_ms < self.now)
        {
            history.pop_front();
        }
    }

    /// What the operator sees now: objects maybe of some time ago, all or some
    /// kinds of them, lists in any order, and the nodes' own words.
    fn observe(&mut self) -> View {
        let mut view = View {
            resource: self.server.resource.clone(),
            observed: self.server.objects.clone(),
            fresh: true,
        };
        let stale = self.config.stale_ms > 0 && self.random.one_in(3);
        let pick = self.random.below(self.operator.history.len() as u64);
        let old = self
            .operator
            .history
            .get(usize::try_from(pick).unwrap_or(0))
            .cloned();
        if let (true, Some((_, old, resource))) = (stale, old) {
            view.fresh = false;
            // Each kind has a watch of its own: any of them may lag.
            let lags: Vec<bool> = (0..7)
                .map(|_| self.config.stale_at_once || self.random.one_in(2))
                .collect();
            let o = &mut view.observed;
            let mut which = lags.into_iter();
            let mut lag = || which.next() == Some(true);
            if lag() {
                o.stateful_sets = old.stateful_sets;
            }
            if lag() {
                o.services = old.services;
            }
            if lag() {
                o.config_maps = old.config_maps;
            }
            if lag() {
                o.pods = old.pods;
            }
            if lag() {
                o.claims = old.claims;
            }
            if lag() {
                o.ca_secret = old.ca_secret;
                o.node_secret = old.node_secret;
                o.admin_secret = old.admin_secret;
            }
            if lag() {
                view.resource = resource;
            }
        }
        self.shuffle(&mut view.observed);
        self.ask(&mut view.observed);
        view
    }

    fn shuffle(&mut self, observed: &mut Observed) {
        for pod in observed.pods.values_mut() {
            let status = pod.status.as_mut();
            if let Some(conditions) = status.and_then(|status| status.conditions.as_mut()) {
                self.random.shuffle(conditions);
            }
        }
    }

    /// Asks every pod with an address; whoever answers there answers.
    fn ask(&mut self, observed: &mut Observed) {
        let now = self.now;
        self.operator.mute.retain(|_, until| *until > now);
        let pods: Vec<(String, String)> = observed
            .pods
            .iter()
            .filter_map(|(name, pod)| Some((name.clone(), pod.status.as_ref()?.pod_ip.clone()?)))
            .collect();
        for (name, address) in pods {
            let answer = self
                .at_address(&address)
                .filter(|node| !self.operator.mute.contains_key(node));
            let report = answer
                .filter(|_| !self.is_lost())
                .and_then(|node| self.nodes.get_mut(&node))
                .and_then(|node| node.report(now));
            let seen = match report {
                Some(report) => Seen::Known(report),
                None => Seen::Unknown("connection refused".to_owned()),
            };
            observed.reports.insert(name, seen);
        }
    }

    /// The node at an address.
    fn at_address(&self, address: &str) -> Option<String> {
        let mut nodes = self.nodes.values();
        nodes
            .find(|node| node.address == address)
            .map(|node| node.name.clone())
    }

    /// Carries out the plan; `None` when the operator died on the way.
    fn apply(&mut self, observed: &Observed, plan: &Plan) -> Option<Outcome> {
        let seen = watched(observed);
        let now = moment(self.now);
        let mut outcome = Outcome::default();
        for planned in &plan.actions {
            let target = planned.action.target();
            let fails = self.config.errors > 0 && self.random.one_in(self.config.errors);
            // Some calls fail on the way there, of some the answer is lost.
            let refused = fails && self.random.one_in(2);
            let result = match &planned.action {
                _ if refused => Err((false, "TooManyRequests")),
                Action::Assign {
                    address, desired, ..
                } => self.assign(address, desired),
                action => {
                    self.check_disruption(action);
                    let result = self.server.act(now, action, &seen);
                    result.map_err(|why| (why == Refused::NotFound, "NotFound"))
                }
            };
            let result = if fails {
                result.and(Err((false, "Timeout")))
            } else {
                result
            };
            self.say(format!("operator: {target}: {} {result:?}", planned.why));
            if let Err((false, reason)) = result
                && reason != "NotFound"
            {
                outcome.failures.push(Failure {
                    step: planned.step,
                    target,
                    reason: reason.to_owned(),
                    message: "it cannot be reached".to_owned(),
                });
            }
            self.operator.actions += 1;
            if self.operator.dies_after == Some(self.operator.actions) {
                self.operator.dies_after = None;
                self.operator_dies(AWAY_MS);
                return None;
            }
        }
        Some(outcome)
    }

    /// An operator that was paused goes on where it was, and does not know that
    /// another one leads: documents and deletions stand for themselves. What
    /// it would apply the fence of the lease keeps from happening.
    pub(crate) fn late_leader(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.late = later;
        let due: Vec<(u64, Vec<Planned>)> = due;
        for planned in due.into_iter().flat_map(|(_, actions)| actions) {
            match &planned.action {
                Action::Assign {
                    address, desired, ..
                } => drop(self.assign(address, desired)),
                action @ (Action::Delete { .. } | Action::DeleteAtOnce { .. }) => {
                    self.check_disruption(action);
                    let at = moment(now);
                    let _ = self.server.act(at, action, &BTreeSet::new());
                }
                _ => {}
            }
        }
    }

    /// The operator dies and comes back after a while, remembering nothing.
    pub fn operator_dies(&mut self, away_ms: u64) {
        self.say("operator: dies");
        self.operator.pass_at = self.now + away_ms;
        self.operator.quiet = 0;
        self.operator.seen = (0, 0, Vec::new());
    }

    /// Hands a document to whoever is at the address. `Err` says whether it is
    /// only outdated, and what failed.
    fn assign(
        &mut self,
        address: &str,
        desired: &dynomite_api::contract::NodeDesired,
    ) -> Result<(), (bool, &'static str)> {
        let now = self.now;
        let unreachable = Err((false, "NodeUnreachable"));
        let Some(name) = self.at_address(address) else {
            return unreachable;
        };
        if self.operator.mute.contains_key(&name) || self.is_lost() {
            return unreachable;
        }
        let Some(node) = self.nodes.get_mut(&name).filter(|node| node.life.is_some()) else {
            return unreachable;
        };
        match node.assign(now, desired) {
            Ok(()) => {
                self.check_document(&name, desired);
                // The answer may be lost, too.
                if self.is_lost() {
                    return unreachable;
                }
                Ok(())
            }
            Err(_) => Err((true, "Outdated")),
        }
    }

    fn publish(
        &mut self,
        cluster: &Cluster,
        view: &View,
        plan: &Plan,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        let previous = view.resource.status.as_ref();
        let mut made = status(cluster, &view.observed, plan, previous, outcome, now);
        if self.config.without == Without::Reasons {
            made.plan.clear();
        }
        self.check_status(&view.observed, plan, outcome, &made, view.fresh);
        let changed = self.server.resource.status.as_ref() != Some(&made);
        // A status that says the same as what was seen is not written.
        if previous != Some(&made) {
            self.server.publish(made);
        }
        let idle = plan.actions.is_empty() && plan.waits.is_empty() && outcome.failures.is_empty();
        self.operator.quiet = if idle && !changed && view.fresh {
            self.operator.quiet + 1
        } else if view.fresh {
            0
        } else {
            self.operator.quiet
        };
    }
}

/// Without headroom: a second pod goes with each.
fn disrupt_more(plan: &mut Plan, observed: &Observed) {
    let first = plan.actions.iter().find(|p| p.action.disrupts()).cloned();
    let Some(mut planned) = first else { return };
    let target = planned.action.target();
    let mut pods = observed.pods.iter();
    let other = pods.find(|(name, _)| !target.ends_with(name.as_str()));
    if let (
        Action::Delete {
            name,
            uid,
            resource_version,
            ..
        },
        Some((pod, seen)),
    ) = (&mut planned.action, other)
    {
        name.clone_from(pod);
        *uid = seen.metadata.uid.clone().unwrap_or_default();
        resource_version.clone_from(&seen.metadata.resource_version);
        plan.actions.push(planned);
    }
}

/// What the watches showed.
fn watched(observed: &Observed) -> BTreeSet<(Kind, String)> {
    let mut seen = BTreeSet::new();
    let mut add = |kind: Kind, names: Vec<&String>| {
        seen.extend(names.into_iter().map(|name| (kind, name.clone())));
    };
    add(Kind::StatefulSet, observed.stateful_sets.keys().collect());
    add(Kind::Service, observed.services.keys().collect());
    add(Kind::ConfigMap, observed.config_maps.keys().collect());
    add(
        Kind::PodDisruptionBudget,
        observed.pod_disruption_budgets.keys().collect(),
    );
    seen
}
