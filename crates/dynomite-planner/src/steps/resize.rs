//! Resources in place: what only a pod's CPU and memory separate from its template it is given while it runs.
//!
//! ```text
//! template differs in resources only --Resize--> kubelet works --> Same
//!        |                                          |
//!        | the API server refuses                   | Infeasible, or not done after a while
//!        +--------------------> Replace <-----------+
//! ```

use std::collections::BTreeMap;

use dynomite_api::annotations::ANNOTATION_SHAPE;
use dynomite_api::contract::StoreSettings;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Pass, Step};
use crate::cluster::Cluster;
use crate::plan::{Action, ByContainer, EventKind, Resources};
use crate::quantity;
use crate::ring::Node;
use crate::safety;
use crate::wait::Wait;

/// The label in which the `StatefulSet` controller writes a pod's revision.
pub(super) const REVISION: &str = "controller-revision-hash";
/// How long the kubelet may take before the pod is replaced instead.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// The resources a running pod can be given, which are all that are ours to give.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// How a pod fits its rack's template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fit {
    /// It is as it should be.
    Same,
    /// It needs other resources, and can be given them.
    Resize(Resources),
    /// The kubelet gives them to it; until when it may take, and what it says.
    Underway(Option<Timestamp>, String),
    /// Only another pod will do, and why.
    Replace(String),
}

/// Gives at most one pod at a time its resources, so that what goes wrong goes
/// wrong on one node.
pub(super) fn resize(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    if pass.is_moving() {
        return step;
    }
    let mut next = None;
    for node in &pass.ring.nodes {
        match fit(pass, node) {
            Fit::Underway(until, message) => {
                if let Some(until) = until {
                    step.wake(until);
                }
                step.wait(Wait::Resizing {
                    node: node.name.clone(),
                    message,
                });
            }
            Fit::Resize(resources) if next.is_none() => next = Some((node, resources)),
            Fit::Same | Fit::Resize(_) | Fit::Replace(_) => {}
        }
    }
    let Some((node, resources)) = next.filter(|_| step.waits.is_empty()) else {
        return step;
    };
    // What is taken away may be missed: then another replica must be there.
    if shrinks(node, &resources)
        && let Err(refusal) = safety::may_leave(pass.cluster, pass.ring, node)
    {
        step.wait(Wait::MayNotLeave {
            node: node.name.clone(),
            refusal,
        });
        return step;
    }
    let action = Action::Resize {
        pod: node.name.clone(),
        uid: node.pod_uid().to_owned(),
        resources,
    };
    let why = "its resources are not what they should be";
    step.act(action, why);
    let told = Action::Event {
        kind: EventKind::Normal,
        reason: "PodResized",
        message: format!("pod {} is given other resources while it runs", node.name),
    };
    step.act(told, why);
    step
}

/// How a node's pod fits the template of its rack, whose controller has seen
/// the newest spec.
pub(super) fn fit(pass: &Pass<'_>, node: &Node<'_>) -> Fit {
    let Some((set, pod)) = node.set.zip(node.pod).filter(|_| !node.terminating()) else {
        return Fit::Same;
    };
    let labels = pod.metadata.labels.as_ref();
    let (Some(revision), Some(label)) = (revision(set), labels.and_then(|l| l.get(REVISION)))
    else {
        return Fit::Same;
    };
    let older = label != revision;
    let is_shaped = same_shape(set, pod);
    // A pod that was never changed is as its template made it, whatever others
    // have added to it on the way.
    let changed = pod.metadata.generation.unwrap_or_default() > 1;
    if !(older || is_shaped && changed) {
        return Fit::Same;
    }
    if !is_shaped || node.blocker.is_some() || node.address().is_none() {
        return Fit::Replace("it is of an older revision".to_owned());
    }
    let wanted = Resources::of(template(set));
    let has = Resources::of(pod.spec.as_ref());
    if !names_all(&wanted, &has) {
        return Fit::Replace("it has resources that cannot be taken away in place".to_owned());
    }
    if holds_all(&wanted, &has) {
        return progress(pass, node.name.as_str(), pod);
    }
    let refused = pass.observed.resizes_refused.get(&node.name);
    let same = refused.filter(|r| r.pod_uid == node.pod_uid() && r.resources == wanted.digest());
    match same {
        Some(refused) => Fit::Replace(format!(
            "it cannot be given other resources in place: {}",
            refused.why
        )),
        None => Fit::Resize(wanted),
    }
}

/// The revision that pods should have, once the controller has seen the newest spec.
pub(super) fn revision(set: &StatefulSet) -> Option<&str> {
    let status = set.status.as_ref()?;
    let current = status.observed_generation >= set.metadata.generation;
    status.update_revision.as_deref().filter(|_| current)
}

fn template(set: &StatefulSet) -> Option<&PodSpec> {
    set.spec.as_ref()?.template.spec.as_ref()
}

/// Whether a pod was made from the template but for resources.
fn same_shape(set: &StatefulSet, pod: &Pod) -> bool {
    fn shape(metadata: Option<&ObjectMeta>) -> Option<&String> {
        metadata?.annotations.as_ref()?.get(ANNOTATION_SHAPE)
    }
    let of_template = set.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
    let wanted = shape(of_template);
    wanted.is_some() && shape(Some(&pod.metadata)) == wanted
}

/// Whether everything `ours` gives is given by `theirs` too.
fn holds_all(ours: &Resources, theirs: &Resources) -> bool {
    let holds = |ours: &ResourceRequirements, theirs: &ResourceRequirements| {
        amounts(ours).all(|(list, name, amount)| {
            let other = list_of(theirs, list).and_then(|l| l.get(name));
            other.is_some_and(|other| quantity::parse(&other.0) == quantity::parse(&amount.0))
        })
    };
    let all = |ours: &ByContainer, theirs: &ByContainer| {
        ours.iter()
            .all(|(name, ours)| given(theirs, name).is_some_and(|theirs| holds(ours, theirs)))
    };
    all(&ours.init, &theirs.init) && all(&ours.main, &theirs.main)
}

/// Whether `ours` gives an amount of everything that `theirs` has one of.
fn names_all(ours: &Resources, theirs: &Resources) -> bool {
    let names = |ours: Option<&ResourceRequirements>, theirs: &ResourceRequirements| {
        amounts(theirs).all(|(list, name, _)| {
            let ours = ours.and_then(|ours| list_of(ours, list));
            ours.is_some_and(|ours| ours.contains_key(name))
        })
    };
    let all = |ours: &ByContainer, theirs: &ByContainer| {
        let mut theirs = theirs.iter();
        theirs.all(|(name, theirs)| names(given(ours, name), theirs))
    };
    all(&ours.init, &theirs.init) && all(&ours.main, &theirs.main)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Requests,
    Limits,
}

fn list_of(of: &ResourceRequirements, list: List) -> Option<&BTreeMap<String, Quantity>> {
    match list {
        List::Requests => of.requests.as_ref(),
        List::Limits => of.limits.as_ref(),
    }
}

/// What a container is given.
fn given<'a>(list: &'a ByContainer, container: &str) -> Option<&'a ResourceRequirements> {
    let found = list.iter().find(|(name, _)| name == container)?;
    Some(&found.1)
}

fn amounts(of: &ResourceRequirements) -> impl Iterator<Item = (List, &String, &Quantity)> {
    [List::Requests, List::Limits]
        .into_iter()
        .flat_map(move |list| {
            let amounts = list_of(of, list).into_iter().flatten();
            amounts.map(move |(name, amount)| (list, name, amount))
        })
}

/// Whether a limit of memory becomes smaller.
fn shrinks(node: &Node<'_>, wanted: &Resources) -> bool {
    let memory = |of: &ResourceRequirements| {
        let limit = of.limits.as_ref()?.get("memory")?;
        quantity::parse(&limit.0)
    };
    let has = Resources::of(node.pod.and_then(|pod| pod.spec.as_ref()));
    wanted.main.iter().any(|(name, wanted)| {
        let before = given(&has.main, name).and_then(memory);
        before
            .zip(memory(wanted))
            .is_some_and(|(old, new)| new < old)
    })
}

/// What the kubelet has made of the resources a pod was given.
fn progress(pass: &Pass<'_>, name: &str, pod: &Pod) -> Fit {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let holds = |kind: &str| {
        let mut list = conditions.into_iter().flatten();
        list.find(|c| c.type_ == kind && c.status == "True")
    };
    let until = |c: &PodCondition| {
        let since = c.last_transition_time.as_ref().map(|at| at.0);
        since.and_then(|since| since.checked_add(PATIENCE).ok())
    };
    if let Some(condition) = holds("PodResizePending").or_else(|| holds("PodResizeInProgress")) {
        let reason = condition.reason.as_deref().unwrap_or_default();
        let until = until(condition);
        if reason == "Infeasible" {
            return Fit::Replace("its Kubernetes node has no such resources".to_owned());
        }
        if until.is_some_and(|until| until <= pass.now) {
            return Fit::Replace("its Kubernetes node did not give it other resources".to_owned());
        }
        let word = if reason.is_empty() {
            "it works on it"
        } else {
            reason
        };
        let message = format!("the kubelet gives {name} other resources ({word})");
        return Fit::Underway(until, message);
    }
    let seen = status.and_then(|s| s.observed_generation);
    if seen.is_some() && seen < pod.metadata.generation {
        let message = format!("the kubelet has not seen the other resources of {name} yet");
        return Fit::Underway(None, message);
    }
    Fit::Same
}

/// How the store of a node runs: its `maxmemory` is a share of the memory that
/// the node really has, which follows a change of the declared limit when the
/// kubelet has granted it, and goes before when it shrinks.
pub(super) fn store_settings(cluster: &Cluster, node: &Node<'_>) -> StoreSettings {
    let mut settings = cluster.store.clone();
    let share = node
        .pod
        .and_then(memory_limit)
        .map(|limit| cluster.share_of(limit));
    settings.max_memory_bytes = match (share, settings.max_memory_bytes) {
        (None, declared) => declared,
        (Some(real), 0) => real,
        (Some(real), declared) => real.min(declared),
    };
    settings
}

/// The memory limit of a pod's store as the kubelet enforces it, or else as it is asked for.
fn memory_limit(pod: &Pod) -> Option<u64> {
    let limit = |resources: Option<&ResourceRequirements>| {
        let limit = resources?.limits.as_ref()?.get("memory")?;
        quantity::bytes(&limit.0)
    };
    let status = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let enforced = status.into_iter().flatten().find(|c| c.name == "store");
    let is_store = |c: &&Container| c.name == "store";
    let asked = pod
        .spec
        .as_ref()
        .and_then(|s| s.containers.iter().find(is_store));
    limit(enforced.and_then(|c| c.resources.as_ref()))
        .or_else(|| limit(asked.and_then(|c| c.resources.as_ref())))
}

impl Resources {
    /// What the containers of a pod are given of what can be given in place.
    fn of(spec: Option<&PodSpec>) -> Self {
        let of = |list: &[Container]| {
            let given = list.iter().filter_map(|c| {
                let resources = resizable(c.resources.as_ref()?);
                amounts(&resources).next()?;
                Some((c.name.clone(), resources))
            });
            given.collect()
        };
        let init = spec.and_then(|s| s.init_containers.as_deref());
        Self {
            init: init.map(of).unwrap_or_default(),
            main: spec.map(|s| of(&s.containers)).unwrap_or_default(),
        }
    }
}

fn resizable(given: &ResourceRequirements) -> ResourceRequirements {
    let of = |list: Option<&BTreeMap<String, Quantity>>| {
        let mut list = list?.clone();
        list.retain(|name, _| RESIZABLE.contains(&name.as_str()));
        (!list.is_empty()).then_some(list)
    };
    ResourceRequirements {
        limits: of(given.limits.as_ref()),
        requests: of(given.requests.as_ref()),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observed::ResizeRefused;
    use crate::plan::StepName;
    use crate::world::{World, resource, targets};

    const GIB: u64 = 1 << 30;

    fn limit(world: &mut World, memory: &str) {
        let limits = json!({"limits": {"memory": memory}, "requests": {"memory": memory}});
        let limits = serde_json::from_value(limits).expect("resources");
        world.edit(|spec| spec.store.resources = Some(limits));
    }

    /// A ring whose stores have a limit of 1 GiB.
    fn limited() -> World {
        let mut world = World::new(resource(3, 1));
        limit(&mut world, "1Gi");
        world.settle();
        world
    }

    fn has(world: &World, pod: &str) -> Option<u64> {
        memory_limit(&world.observed.pods[pod])
    }

    fn max_memory(world: &World, pod: &str) -> u64 {
        let desired = world.lives[pod].desired.as_ref().expect("it has one");
        desired.store.max_memory_bytes
    }

    /// The spec has changed and the `StatefulSet`s say so.
    fn grown() -> World {
        let mut world = limited();
        limit(&mut world, "2Gi");
        let plan = world.plan();
        for planned in &plan.actions {
            world.act(&planned.action);
        }
        world.tick();
        world
    }

    fn condition(world: &mut World, kind: &str, reason: &str) {
        let condition = PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                world.now,
            )),
            ..PodCondition::default()
        };
        let pod = world
            .observed
            .pods
            .get_mut("ring-a-0")
            .expect("it is there");
        let status = pod.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(condition);
    }

    #[test]
    fn nodes_grow_one_by_one_without_a_restart_and_the_store_follows() {
        let mut world = limited();
        let before = world.uids();
        limit(&mut world, "2Gi");
        let mut order = Vec::new();
        for _ in 0..20 {
            let plan = world.pass();
            let resized = targets(&plan, StepName::Resize);
            assert!(resized.len() <= 2, "{resized:?}");
            order.extend(resized.into_iter().filter(|t| t.starts_with("Pod")));
        }
        assert_eq!(order, ["Pod ring-a-0", "Pod ring-b-0", "Pod ring-c-0"]);
        assert_eq!(world.uids(), before);
        assert_eq!(has(&world, "ring-c-0"), Some(2 * GIB));
        assert_eq!(max_memory(&world, "ring-c-0"), 2 * GIB / 100 * 65);
        assert!(world.plan().actions.is_empty());
        // And back, by another word of the same person.
        limit(&mut world, "1Gi");
        assert_eq!(max_memory(&world, "ring-a-0"), 2 * GIB / 100 * 65);
        world.settle();
        assert_eq!(world.uids(), before);
        assert_eq!(has(&world, "ring-a-0"), Some(GIB));
        assert_eq!(max_memory(&world, "ring-a-0"), GIB / 100 * 65);
    }

    #[test]
    fn the_store_grows_only_when_the_kubelet_has_granted_it() {
        let mut world = grown();
        let pod = world
            .observed
            .pods
            .get_mut("ring-a-0")
            .expect("it is there");
        let enforced = json!([{"name": "store", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "resources": {"limits": {"memory": "1Gi"}}}]);
        let status = pod.status.get_or_insert_default();
        status.container_statuses = serde_json::from_value(enforced).expect("statuses");
        for _ in 0..12 {
            world.pass();
        }
        assert_eq!(max_memory(&world, "ring-a-0"), GIB / 100 * 65);
        assert_eq!(max_memory(&world, "ring-b-0"), 2 * GIB / 100 * 65);
    }

    #[test]
    fn a_change_of_more_than_resources_rolls() {
        let mut world = limited();
        let before = world.uids();
        limit(&mut world, "2Gi");
        world.edit(|spec| spec.store.image = "store:2".to_owned());
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
    }

    #[test]
    fn a_limit_that_is_taken_away_rolls() {
        let mut world = limited();
        let before = world.uids();
        world.edit(|spec| spec.store.resources = None);
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
        assert_eq!(max_memory(&world, "ring-a-0"), 0);
    }

    #[test]
    fn what_cannot_be_given_in_place_is_given_to_another_pod() {
        let mut world = grown();
        let plan = world.plan();
        let given = plan.actions.iter().find_map(|p| match &p.action {
            Action::Resize { resources, .. } => Some(resources.digest()),
            _ => None,
        });
        let refused = |resources: &str, uid: &str| ResizeRefused {
            pod_uid: uid.to_owned(),
            resources: resources.to_owned(),
            why: "it is Invalid".to_owned(),
        };
        let (uid, digest) = (world.pod_uid("ring-a-0"), given.expect("it is resized"));
        for (refused, rolls) in [
            (refused(&digest, &uid), true),
            (refused(&digest, "another"), false),
            (refused("others", &uid), false),
        ] {
            let of = [("ring-a-0".to_owned(), refused)];
            world.observed.resizes_refused = of.into();
            // Another node can be given its own meanwhile: one thing after the other.
            for name in ["ring-b-0", "ring-c-0"] {
                let resources = Resources::of(template(&world.observed.stateful_sets["ring-a"]));
                let pod = world.pod_uid(name);
                let done = has(&world, name) == Some(2 * GIB);
                let action = Action::Resize {
                    pod: name.to_owned(),
                    uid: pod,
                    resources,
                };
                if !done {
                    world.act(&action);
                }
            }
            let gone = targets(&world.plan(), StepName::Roll);
            assert_eq!(gone.contains(&"Pod ring-a-0".to_owned()), rolls, "{gone:?}");
        }
    }

    #[test]
    fn a_kubelet_that_cannot_or_does_not_is_not_waited_for() {
        for (kind, reason, after, waits) in [
            ("PodResizePending", "Deferred", 0, true),
            ("PodResizePending", "Deferred", 299, true),
            ("PodResizePending", "Deferred", 300, false),
            ("PodResizePending", "Infeasible", 0, false),
            ("PodResizeInProgress", "", 0, true),
            ("PodResizeInProgress", "Error", 301, false),
        ] {
            let mut world = grown();
            let plan = world.plan();
            for planned in &plan.actions {
                world.act(&planned.action);
            }
            condition(&mut world, kind, reason);
            world.now += SignedDuration::from_secs(after);
            let plan = world.plan();
            let rolled = targets(&plan, StepName::Roll);
            let reasons = world.reasons();
            assert_eq!(
                reasons.contains(&"Resizing"),
                waits,
                "{kind} {reason} {after}"
            );
            // The others are given theirs first, or it is replaced.
            let goes_on = !rolled.is_empty() || !targets(&plan, StepName::Resize).is_empty();
            assert_eq!(goes_on, !waits, "{kind} {reason} {after}: {reasons:?}");
        }
    }

    #[test]
    fn less_memory_is_taken_only_from_a_node_that_could_leave() {
        let mut world = limited();
        limit(&mut world, "512Mi");
        let plan = world.plan();
        for planned in &plan.actions {
            world.act(&planned.action);
        }
        world.mute.push("ring-c-0".to_owned());
        world.tick();
        assert!(targets(&world.plan(), StepName::Resize).is_empty());
        assert!(world.reasons().contains(&"OtherNodeDown"));
        world.mute.clear();
        world.settle();
        assert_eq!(has(&world, "ring-a-0"), Some(GIB / 2));
    }
}
