//! Pods of an older revision: replaced one at a time, rack by rack, each only when its ring can spare it.

use dynomite_api::contract::{NodePhase, NodeReport, ProofKind};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::resize::{self, Fit, revision};
use super::{Pass, Step, delete_seen};
use crate::plan::{Action, EventKind, Kind};
use crate::ring::Node;
use crate::safety::{self, Refusal};
use crate::settings;
use crate::wait::Wait;

/// Replaces at most one pod in a pass.
///
/// Broken pods of an older revision go first and without asking: a StatefulSet
/// never takes them back by itself, and they serve nobody.
pub(super) fn roll(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    if pass.is_moving() || pass.is_resizing() {
        return step;
    }
    let mut outdated = Vec::new();
    for node in &pass.ring.nodes {
        let Some(set) = node.set else { continue };
        if revision(set).is_none() {
            pending(&mut step, set);
        } else if let Some(why) = is_outdated(pass, node).filter(|_| !node.held()) {
            outdated.push((node, why));
        }
    }
    if let Some((broken, why)) = outdated.iter().find(|(node, _)| is_broken(pass, node)) {
        replace(&mut step, broken, &format!("{why}, and does not run"));
        return step;
    }
    // A pod that is down already costs nothing; then rack by rack.
    let next = outdated
        .iter()
        .find(|(node, _)| !node.ready())
        .or(outdated.first());
    let Some((node, why)) = next else { return step };
    let may_leave = if refuses_a_setting(pass) {
        Err(Refusal::SettingRefused)
    } else {
        safety::may_leave(pass.cluster, pass.ring, node)
    };
    match may_leave {
        Ok(()) => replace(&mut step, node, why),
        Err(refusal) => step.wait(Wait::MayNotLeave {
            node: node.name.clone(),
            refusal,
        }),
    }
    step
}

/// Whether new pods would come up without a setting of the spec. What a store
/// of another image says does not count: the declared one may know better.
fn refuses_a_setting(pass: &Pass<'_>) -> bool {
    let declared = pass.cluster.spec.store.image.as_str();
    let refuses = |node: &Node<'_>| {
        let spec = node.pod.and_then(|pod| pod.spec.as_ref());
        let containers = spec.map_or(&[][..], |spec| &spec.containers);
        let of_image = |c: &Container| c.name == "store" && c.image.as_deref() == Some(declared);
        node.refused_setting().is_some() && containers.iter().any(of_image)
    };
    !pass.cluster.faults.is_empty() || pass.ring.nodes.iter().any(refuses)
}

fn pending(step: &mut Step, set: &StatefulSet) {
    let name = set.metadata.name.clone().unwrap_or_default();
    let wait = Wait::RevisionPending { name };
    if !step.waits.contains(&wait) {
        step.wait(wait);
    }
}

/// Why a pod must be another one, if it must.
fn is_outdated(pass: &Pass<'_>, node: &Node<'_>) -> Option<String> {
    node.pod.filter(|_| !node.terminating())?;
    match resize::fit(pass, node) {
        Fit::Replace(why) => Some(why),
        _ if runs_older_settings(node) => Some("it runs with older settings".to_owned()),
        Fit::Same | Fit::Resize(_) | Fit::Underway(..) => None,
    }
}

/// Whether a pod of the newest revision runs with older settings: it came up
/// with the document on its volume, before it was told the newest.
fn runs_older_settings(node: &Node<'_>) -> bool {
    node.report.as_ref().is_ok_and(|report| {
        // Of what does not run, the report knows how it last ran, in an earlier pod.
        let runs = report.store_process.running && report.engine_process.running;
        let mut names = report.restart_required.iter();
        runs && names.any(|name| settings::restart_is_decided(name))
    })
}

/// Whether a pod can be replaced without a loss to anyone: it is not ready, it
/// holds nothing that would be lost, and either something keeps it from
/// running, or it has given up, or the ring has never served.
fn is_broken(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    if node.pod_ready() || would_lose(pass, node) {
        return false;
    }
    let failed = |report: &NodeReport| report.phase == NodePhase::Failed;
    node.blocker.is_some()
        || pass.ring.served_since.is_none()
        || node.report.as_ref().is_ok_and(|report| failed(report))
}

/// Whether the pod's end would be the end of data: proven data anywhere, and
/// in a ring that keeps it in memory only any data at all, for it may be the
/// best that is left. A store that runs and cannot be asked may hold some.
fn would_lose(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let volatile = !pass.cluster.persistent() && pass.ring.served_since.is_some();
    match &node.report {
        Ok(report) if report.proof.kind != ProofKind::Unproven => true,
        _ if !volatile => false,
        Ok(report) => report.store.as_ref().is_some_and(|store| store.keys > 0),
        Err(_) => node.pod.is_some_and(store_runs),
    }
}

fn store_runs(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let running = |c: &ContainerStatus| {
        c.name == "store"
            && c.state
                .as_ref()
                .is_some_and(|state| state.running.is_some())
    };
    statuses.is_some_and(|list| list.iter().any(running))
}

fn replace(step: &mut Step, node: &Node<'_>, why: &str) {
    let action = node
        .pod
        .and_then(|pod| delete_seen(Kind::Pod, &pod.metadata, true));
    let Some(action) = action else { return };
    step.act(action, why);
    let told = Action::Event {
        kind: EventKind::Normal,
        reason: "PodReplaced",
        message: format!("pod {} is replaced: {why}", node.name),
    };
    step.act(told, why);
}

#[cfg(test)]
mod tests {
    use dynomite_api::annotations::ANNOTATION_SHAPE;
    use dynomite_api::contract::{FINDING_SETTING_REFUSED, Finding};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::resize::REVISION;
    use super::*;
    use crate::observed::Seen;
    use crate::plan::StepName;
    use crate::world::{World, resource, targets};

    fn change(world: &mut World) {
        world.edit(|spec| {
            let setting = ("max_msgs".to_owned(), "300000".to_owned());
            spec.dynomite.settings.extend([setting]);
        });
    }

    #[test]
    fn one_pod_at_a_time_and_each_comes_back_first() {
        let mut world = World::settled(3, 2);
        let before = world.uids();
        change(&mut world);
        let mut order = Vec::new();
        for _ in 0..60 {
            let plan = world.pass();
            for target in targets(&plan, StepName::Roll) {
                if target.starts_with("Pod") {
                    order.push(target);
                    let down = world
                        .observed
                        .pods
                        .keys()
                        .filter(|pod| world.lives[*pod].proof.is_none());
                    assert_eq!(down.count(), 1);
                }
            }
        }
        assert_eq!(
            order,
            [
                "Pod ring-a-0",
                "Pod ring-a-1",
                "Pod ring-b-0",
                "Pod ring-b-1",
                "Pod ring-c-0",
                "Pod ring-c-1"
            ]
        );
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
        assert!(world.plan().actions.is_empty());
    }

    #[test]
    fn nobody_is_rolled_into_a_setting_that_a_store_refuses() {
        let mut world = about_to_roll();
        let image = world.resource.spec.store.image.clone();
        for (of, rolls) in [(image.as_str(), false), ("another", true)] {
            let pod = world
                .observed
                .pods
                .get_mut("ring-c-0")
                .expect("it is there");
            let spec = pod.spec.as_mut().expect("it has one");
            let store = spec.containers.iter_mut().find(|c| c.name == "store");
            store.expect("it has a store").image = Some(of.to_owned());
            let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-c-0") else {
                panic!("it was heard");
            };
            report.findings = vec![Finding {
                reason: FINDING_SETTING_REFUSED.to_owned(),
                message: "store.settings hz is left out".to_owned(),
                since: world.now,
                remedies: 0,
            }];
            let plan = world.plan();
            assert_eq!(
                plan.actions.iter().any(|p| p.action.disrupts()),
                rolls,
                "{of}"
            );
            let told = world.waits();
            let told = told.iter().filter(|w| w.reason() == "SettingRefused");
            let told: Vec<String> = told.map(Wait::message).collect();
            assert!(told[0].contains("hz is left out"), "{told:?}");
            assert_eq!(told.len(), if rolls { 1 } else { 2 }, "{told:?}");
        }
    }

    #[test]
    fn a_live_setting_restarts_nothing() {
        let mut world = World::settled(3, 2);
        let before = world.uids();
        world.edit(|spec| {
            spec.store
                .settings
                .insert("maxmemory-policy".to_owned(), "allkeys-lru".to_owned());
            spec.consistency.read = dynomite_api::contract::ConsistencyLevel::DcOne;
        });
        world.settle();
        assert_eq!(world.uids(), before);
        assert!(world.lives.values().all(|life| {
            let desired = life.desired.as_ref().expect("it has one");
            desired.store.settings.contains_key("maxmemory-policy")
        }));
    }

    #[test]
    fn an_upgrade_of_the_operator_restarts_nothing_until_a_person_says_so() {
        let mut world = World::settled(3, 1);
        let before = world.uids();
        world.defaults.sidecar_image = "operator:2".to_owned();
        world.defaults.engine_image = "operator:2".to_owned();
        world.defaults.image_pull_policy = Some("Always".to_owned());
        let plan = world.plan();
        assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        assert_eq!(world.reasons(), ["UpgradeAwaitsApproval"]);
        assert!(world.waits()[0].message().contains("=operator:2"));
        let mark = (
            dynomite_api::annotations::ANNOTATION_UPDATE_IMAGES.to_owned(),
            "operator:2".to_owned(),
        );
        world.resource.metadata.annotations = Some([mark].into());
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
    }

    /// As if every rack had been made by an operator whose templates look otherwise.
    fn made_by_another_operator(world: &mut World) {
        for set in world.observed.stateful_sets.values_mut() {
            let annotations = set.metadata.annotations.get_or_insert_default();
            let made = &annotations[dynomite_api::annotations::ANNOTATION_TEMPLATE];
            let mut made: serde_json::Value = serde_json::from_str(made).expect("JSON");
            made["template"] = "another".into();
            let key = dynomite_api::annotations::ANNOTATION_TEMPLATE.to_owned();
            annotations.insert(key, made.to_string());
            let spec = set.spec.as_mut().expect("it has one");
            let metadata = spec.template.metadata.as_mut().expect("it has one");
            let shape = (ANNOTATION_SHAPE.to_owned(), "another".to_owned());
            metadata.annotations.get_or_insert_default().extend([shape]);
        }
        world.tick();
        for pod in world.observed.pods.values_mut() {
            let shape = (ANNOTATION_SHAPE.to_owned(), "another".to_owned());
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.extend([shape]);
            let label = pod.metadata.labels.as_mut().expect("it has labels");
            let rack = label[dynomite_api::annotations::LABEL_RACK].clone();
            let set = &world.observed.stateful_sets[&format!("ring-{rack}")];
            let status = set.status.clone().expect("it has one");
            let revision = status.update_revision.expect("it has one");
            label.insert(REVISION.to_owned(), revision);
        }
    }

    #[test]
    fn a_template_that_only_the_operator_has_changed_waits_for_approval() {
        let mut world = World::settled(3, 1);
        made_by_another_operator(&mut world);
        let before = world.uids();
        world.settle();
        assert_eq!(world.uids(), before);
        assert_eq!(world.reasons(), ["UpgradeAwaitsApproval"]);
        // What hands change of the rest is still repaired.
        let set = world.observed.stateful_sets.get_mut("ring-b");
        set.and_then(|set| set.spec.as_mut())
            .expect("a spec")
            .replicas = Some(0);
        let plan = world.plan();
        let repaired = targets(&plan, StepName::Provision);
        assert_eq!(repaired, ["StatefulSet ring-b"]);
        world.settle();
        let approved = world.defaults.sidecar_image.clone();
        let key = dynomite_api::annotations::ANNOTATION_UPDATE_IMAGES.to_owned();
        world.resource.metadata.annotations = Some([(key, approved)].into());
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
        assert!(world.reasons().is_empty());
    }

    #[test]
    fn a_change_of_the_spec_takes_a_waiting_template_along() {
        let mut world = World::settled(3, 1);
        made_by_another_operator(&mut world);
        let before = world.uids();
        change(&mut world);
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
        assert!(world.reasons().is_empty());
    }

    #[test]
    fn another_kind_of_file_rolls_where_a_replica_has_the_data() {
        let other = Some(dynomite_api::contract::Persistence::Rdb);
        let mut world = World::settled(3, 1);
        let before = world.uids();
        world.edit(|spec| spec.store.persistence = other);
        world.settle();
        assert!(world.uids().iter().all(|uid| !before.contains(uid)));
        let mut world = World::settled(1, 2);
        let before = world.uids();
        world.edit(|spec| spec.store.persistence = other);
        for _ in 0..10 {
            world.pass();
        }
        assert_eq!(world.uids(), before);
        assert!(world.waits().iter().any(Wait::stalls));
        assert_eq!(world.reasons(), ["WouldLoseData"]);
    }

    /// Settled, then changed so that every pod is to be replaced.
    fn about_to_roll() -> World {
        let mut world = World::settled(3, 1);
        change(&mut world);
        let plan = world.plan();
        for planned in &plan.actions {
            world.act(&planned.action);
        }
        world.tick();
        world
    }

    #[test]
    fn nothing_leaves_while_another_leaves() {
        let mut world = about_to_roll();
        let pod = world
            .observed
            .pods
            .get_mut("ring-c-0")
            .expect("it is there");
        pod.metadata.deletion_timestamp = Some(Time(world.now));
        let plan = world.plan();
        assert!(!plan.actions.iter().any(|p| p.action.disrupts()));
        assert!(world.reasons().contains(&"OtherNodeDown"));
    }

    #[test]
    fn a_node_that_was_told_to_stay_out_keeps_its_pod_and_the_others_theirs() {
        let mut world = about_to_roll();
        let report = world.observed.reports.get_mut("ring-c-0");
        let Some(Seen::Known(report)) = report else {
            panic!("it was heard");
        };
        report.phase = NodePhase::Held;
        report.ready = false;
        report.message = "stopped by REST call stop of dynomite-admin".to_owned();
        let plan = world.plan();
        assert!(!plan.actions.iter().any(|p| p.action.disrupts()));
        let reasons: Vec<&str> = plan.waits.iter().map(|w| w.wait.reason()).collect();
        assert!(reasons.contains(&"OtherNodeDown"), "{reasons:?}");
        let held = plan.waits.iter().find(|w| w.wait.reason() == "NodeHeld");
        let message = held.expect("it is told").wait.message();
        assert!(message.contains("dynomite-admin"), "{message}");
    }

    #[test]
    fn only_the_unknown_node_itself_may_leave() {
        let mut world = about_to_roll();
        world.mute.push("ring-c-0".to_owned());
        world.tick();
        let gone = targets(&world.plan(), StepName::Roll);
        assert_eq!(gone, ["Pod ring-c-0", "Event PodReplaced"]);
        world.mute.push("ring-b-0".to_owned());
        world.tick();
        assert!(targets(&world.plan(), StepName::Roll).is_empty());
        assert!(world.reasons().contains(&"OtherNodeDown"));
    }

    #[test]
    fn a_pod_is_deleted_only_as_it_was_seen() {
        let world = about_to_roll();
        let plan = world.plan();
        let deletion = plan.actions.iter().find(|p| p.action.disrupts());
        let expected = Action::Delete {
            kind: Kind::Pod,
            name: "ring-a-0".to_owned(),
            uid: world.pod_uid("ring-a-0"),
            resource_version: Some("1".to_owned()),
        };
        assert_eq!(deletion.map(|p| &p.action), Some(&expected));
    }

    #[test]
    fn reverting_a_change_that_cannot_run_heals_by_itself() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.store.image = "nowhere".to_owned());
        world.blocked = vec!["ring-a-0".to_owned()];
        for _ in 0..10 {
            world.pass();
        }
        assert!(world.reasons().contains(&"ImageNotPulled"));
        assert!(world.lives["ring-b-0"].proof.is_some() && world.lives["ring-c-0"].proof.is_some());
        world.edit(|spec| spec.store.image = "docker.io/valkey/valkey:8".to_owned());
        world.blocked.clear();
        world.settle();
    }

    #[test]
    fn a_new_ring_that_cannot_run_heals_by_a_revert_too() {
        let mut world = World::new(resource(3, 1));
        world.edit(|spec| spec.store.image = "nowhere".to_owned());
        world.blocked = ["a", "b", "c"]
            .iter()
            .map(|r| format!("ring-{r}-0"))
            .collect();
        for _ in 0..5 {
            world.pass();
        }
        world.edit(|spec| spec.store.image = "docker.io/valkey/valkey:8".to_owned());
        world.blocked.clear();
        world.settle();
    }

    #[test]
    fn memory_without_a_replica_is_not_thrown_away() {
        let mut resource = resource(1, 1);
        resource.spec.storage.medium = dynomite_api::crd::StorageMedium::None;
        let mut world = World::new(resource);
        world.settle();
        change(&mut world);
        for _ in 0..5 {
            world.pass();
        }
        assert_eq!(world.reasons(), ["WouldLoseData"]);
    }

    #[test]
    fn unproven_data_in_memory_is_kept_for_a_person_to_judge() {
        let mut resource = resource(3, 1);
        resource.spec.storage.medium = dynomite_api::crd::StorageMedium::None;
        let mut world = World::new(resource);
        world.settle();
        for name in ["ring-a-0", "ring-b-0", "ring-c-0"] {
            // Every engine has restarted: no data is proven, and it is all there is.
            let life = world.lives.get_mut(name).expect("it lives");
            (life.proof, life.keys) = (None, 7);
        }
        world.tick();
        change(&mut world);
        for _ in 0..5 {
            let plan = world.pass();
            assert!(!plan.actions.iter().any(|p| p.action.disrupts()));
        }
        assert!(world.reasons().contains(&"NoProvenReplica"));
    }

    #[test]
    fn a_new_pod_that_came_up_with_older_settings_is_replaced() {
        for (name, runs, goes) in [
            ("dynomite.max_msgs", true, true),
            ("store.databases", true, true),
            ("store.maxmemory-samples", true, false),
            ("dynomite.max_msgs", false, false),
        ] {
            let mut world = World::settled(3, 1);
            let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-b-0") else {
                panic!("it was heard");
            };
            report.restart_required = vec![name.to_owned()];
            report.store_process.running = true;
            report.engine_process.running = runs;
            let gone = targets(&world.plan(), StepName::Roll);
            assert_eq!(
                gone.contains(&"Pod ring-b-0".to_owned()),
                goes,
                "{name} {runs}"
            );
        }
    }

    #[test]
    fn a_controller_that_lags_is_waited_for() {
        let mut world = World::settled(3, 1);
        let set = world
            .observed
            .stateful_sets
            .get_mut("ring-a")
            .expect("it is there");
        set.metadata.generation = Some(9);
        assert_eq!(world.reasons(), ["RevisionPending"]);
    }
}
