//! Desired documents: every node that can be asked gets the one it should have, unless it holds it already.

use dynomite_api::contract::{NodeDesired, NodeIdentity, NodeReport, PORT_PEER, Peer};

use super::donors::{donors, turn};
use super::{Pass, Step, grant, renew};
use crate::comparison;
use crate::plan::Action;
use crate::remotes;
use crate::restore::{self, Terms};
use crate::ring::Node;
use crate::settings::Fault;
use crate::wait::Wait;

/// Hands out documents. A node whose report is unknown is not written to:
/// nobody knows which document it holds.
pub(super) fn configure(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    for wait in remotes::waits(pass.cluster, pass.observed) {
        step.wait(wait);
    }
    for message in refused_settings(pass) {
        step.wait(Wait::SettingRefused { message });
    }
    // Nodes that leave still take writes and pass them on: they must know the others.
    for node in pass.ring.nodes.iter().chain(&pass.ring.leaving) {
        let Some(address) = node.address().filter(|_| !node.terminating()) else {
            continue;
        };
        let report = match &node.report {
            Ok(report) => *report,
            Err(why) => {
                step.wait(Wait::ReportUnknown {
                    node: node.name.clone(),
                    why: why.clone(),
                });
                continue;
            }
        };
        if is_newer(pass, report) {
            step.wait(Wait::NewerDocument {
                node: node.name.clone(),
            });
            continue;
        }
        if restore_terms(pass, node, report).is_none()
            || remotes::are_unknown(pass.cluster, pass.observed)
        {
            // What it was told stays until it is known what it should be told.
            continue;
        }
        let desired = desired(pass, node, report);
        let digest = desired.digest();
        let held = report.desired.as_ref().map(|held| held.digest.as_str());
        if held == Some(&digest) || only_order_differs(pass, node, &desired, held) {
            continue;
        }
        if let Some(why) = pass.observed.documents_refused.get(&node.name) {
            let namespace = &pass.cluster.id.namespace;
            step.wait(Wait::DocumentRefused {
                node: node.name.clone(),
                why: why.clone(),
                command: format!("kubectl delete pod {} --namespace {namespace}", node.name),
            });
        }
        let assign = Action::Assign {
            node: node.name.clone(),
            address: address.to_owned(),
            desired: Box::new(desired),
        };
        step.act(assign, "its document is not what it should be");
    }
    step
}

/// Documents in which only the order of a snapshot is to change: they change
/// nothing of the ring, so they are told apart.
pub(super) fn orders(pass: &Pass<'_>, step: &mut Step) {
    for node in &pass.ring.nodes {
        let (Ok(report), Some(address)) = (&node.report, node.address()) else {
            continue;
        };
        let unknown = restore_terms(pass, node, report).is_none()
            || remotes::are_unknown(pass.cluster, pass.observed);
        if node.terminating() || is_newer(pass, report) || unknown {
            continue;
        }
        let desired = desired(pass, node, report);
        let held = report.desired.as_ref().map(|held| held.digest.as_str());
        if held == Some(&desired.digest()) || !only_order_differs(pass, node, &desired, held) {
            continue;
        }
        let assign = Action::Assign {
            node: node.name.clone(),
            address: address.to_owned(),
            desired: Box::new(desired),
        };
        step.act(assign, "its order of a snapshot is not what it should be");
    }
}

/// Whether a node holds what it should but for the order of a snapshot.
fn only_order_differs(
    pass: &Pass<'_>,
    node: &Node<'_>,
    desired: &NodeDesired,
    held: Option<&str>,
) -> bool {
    let before = crate::backup::earlier_orders(pass.cluster, pass.observed, node);
    let mut candidates = before.into_iter().map(Some).chain([None]);
    candidates.any(|order| {
        let snapshot = order;
        let other = NodeDesired {
            snapshot,
            ..desired.clone()
        };
        held == Some(&other.digest())
    })
}

/// What is said of settings that are left out: what is known to be wrong, and
/// what nodes report of theirs, each message once.
fn refused_settings(pass: &Pass<'_>) -> Vec<String> {
    let known = pass.cluster.faults.iter().map(|fault| {
        let Fault { of, name, why } = fault;
        format!("{of} {name} is left out ({why}): correct it in the resource, or take it out")
    });
    let reported = pass.ring.nodes.iter().filter_map(Node::refused_setting);
    let mut messages: Vec<String> = Vec::new();
    for message in known.chain(reported.map(str::to_owned)) {
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    messages
}

/// Whether the node knows a newer resource than we do: our view is stale.
fn is_newer(pass: &Pass<'_>, report: &NodeReport) -> bool {
    report.desired.as_ref().is_some_and(|held| {
        held.cluster_uid == pass.cluster.id.uid && held.cluster_generation > pass.cluster.generation
    })
}

/// What a node should have.
pub(super) fn desired(pass: &Pass<'_>, node: &Node<'_>, report: &NodeReport) -> NodeDesired {
    let cluster = pass.cluster;
    let held = report.desired.as_ref().map_or(0, |held| held.generation);
    let terms = restore_terms(pass, node, report).unwrap_or_default();
    let mut donors = donors(pass.ring, node);
    if let Some(whole) = &terms.donors {
        donors.retain(|donor| whole.contains(&donor.name));
    }
    let (grant, distrust) = if terms.decides {
        let accepted = terms.may_accept.then(|| grant(pass, node)).flatten();
        (accepted, terms.distrust)
    } else {
        let behind = renew::distrust(pass, node, report);
        let left = || restore::left_held(pass.ring, node, report);
        (grant(pass, node), behind.or_else(left))
    };
    NodeDesired {
        cluster: cluster.id.clone(),
        cluster_generation: cluster.generation,
        generation: held.saturating_add(1),
        node: NodeIdentity {
            name: node.name.clone(),
            pod_uid: node.pod_uid().to_owned(),
            datacenter: cluster.spec.datacenter.clone(),
            rack: node.rack.name.clone(),
            token: node.token,
            host: node.host.clone(),
        },
        peers: peers(pass, node),
        donors,
        copy_not_before: turn(pass, node),
        snapshot: crate::backup::order(cluster, pass.observed, node),
        restore: terms.order,
        compare: comparison::order(cluster, pass.ring, pass.compared, node),
        grant,
        distrust,
        hold: terms.hold,
        // Opened for all at once, and only once it stands in the token record.
        serve: super::warm_up::gate_is_open(pass),
        consistency: cluster.consistency,
        engine: cluster.engine.clone(),
        store: super::resize::store_settings(cluster, node),
        health: cluster.health.clone(),
    }
}

/// The document of a node that holds all of it but the order of a comparison, and where it goes.
pub(super) fn known<'n>(pass: &Pass<'_>, node: &'n Node<'_>) -> Option<(NodeDesired, &'n str)> {
    let report = node.report.as_ref().ok()?;
    let address = node.address().filter(|_| !node.terminating())?;
    restore_terms(pass, node, report)?;
    let desired = desired(pass, node, report);
    let held = report.desired.as_ref()?;
    (held.digest == desired.digest() && !is_newer(pass, report)).then_some((desired, address))
}

/// What the ring's restore means for a node, if that can be known now.
fn restore_terms(pass: &Pass<'_>, node: &Node<'_>, report: &NodeReport) -> Option<Terms> {
    let view = restore::View {
        cluster: pass.cluster,
        observed: pass.observed,
        ring: pass.ring,
        now: pass.now,
        is_told: &|_| false,
    };
    restore::terms(&view, node, report)
}

/// Whether a node that answers holds the document that it should have.
pub(super) fn is_told(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    let Ok(report) = &node.report else {
        return false;
    };
    if restore_terms(pass, node, report).is_none()
        || remotes::are_unknown(pass.cluster, pass.observed)
    {
        return false;
    }
    let desired = desired(pass, node, report);
    let held = report.desired.as_ref().map(|held| held.digest.as_str());
    held == Some(&desired.digest()) || only_order_differs(pass, node, &desired, held)
}

/// All other nodes: those of the ring with or without a pod, those of racks
/// that are leaving as long as they have pods, and those elsewhere. The order
/// does not depend on the order of anything that was read.
fn peers(pass: &Pass<'_>, node: &Node<'_>) -> Vec<Peer> {
    let cluster = pass.cluster;
    let others = pass
        .ring
        .nodes
        .iter()
        .filter(|other| other.name != node.name);
    let mut peers: Vec<Peer> = others
        .map(|other| Peer {
            host: other.host.clone(),
            address: other
                .address()
                .map(str::to_owned)
                .or_else(|| cluster.status_addresses.get(&other.name).cloned()),
            port: PORT_PEER,
            datacenter: cluster.spec.datacenter.clone(),
            rack: other.rack.name.clone(),
            token: other.token,
        })
        .collect();
    let leaving = super::retire::leaving_peers(pass);
    peers.extend(leaving.into_iter().filter(|peer| peer.host != node.host));
    peers.extend(remotes::peers(cluster, pass.observed).unwrap_or_default());
    peers.sort_by(|a, b| {
        let key = |p: &Peer| {
            (
                p.datacenter.clone(),
                p.rack.clone(),
                p.token,
                p.host.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    peers
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::observed::Seen;
    use crate::plan::StepName;
    use crate::ring::Ring;
    use crate::world::{World, targets};

    #[test]
    fn a_silent_node_is_not_written_to_and_does_not_stop_the_others() {
        let mut world = World::settled(3, 1);
        world.mute.push("ring-a-0".to_owned());
        world.tick();
        world.edit(|spec| spec.health.failure_threshold = 5);
        let plan = world.plan();
        let told: Vec<String> = plan.actions.iter().map(|p| p.action.target()).collect();
        assert_eq!(told, ["node ring-b-0", "node ring-c-0"]);
        assert!(world.reasons().contains(&"NodeUnknown"));
    }

    #[test]
    fn a_directive_that_the_engine_would_not_start_with_is_told_and_goes_to_no_node() {
        let mut world = World::settled(3, 1);
        let before = world.uids();
        let settings = |world: &mut World, all: &[(&str, &str)]| {
            let all = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let all = all.collect();
            world.edit(|spec| spec.dynomite.settings = all);
        };
        settings(&mut world, &[("max_mgs", "300000"), ("mbuf_size", "1")]);
        for _ in 0..10 {
            world.pass();
        }
        assert_eq!(world.reasons(), ["SettingRefused", "SettingRefused"]);
        let said = world.waits()[0].message() + &world.waits()[1].message();
        for words in ["max_mgs", "unknown", "mbuf_size", "from 512", "take it out"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(world.uids(), before);
        for life in world.lives.values() {
            let held = &life.desired.as_ref().expect("it has one").engine.settings;
            assert!(held.is_empty(), "{held:?}");
        }
        // Another engine may know what ours does not.
        world.defaults.engine_image = "netflix:1".to_owned();
        assert!(!world.reasons().contains(&"SettingRefused"));
        world.defaults.engine_image = world.defaults.sidecar_image.clone();
        settings(&mut world, &[]);
        world.settle();
        assert!(world.reasons().is_empty());
        assert_eq!(world.uids(), before);
    }

    #[test]
    fn a_document_that_is_refused_again_and_again_is_told_and_tried_on() {
        let mut world = World::settled(3, 1);
        let refused = &mut world.observed.documents_refused;
        refused.insert("ring-a-0".to_owned(), "of another cluster".to_owned());
        assert!(world.reasons().is_empty(), "it holds what it should");
        world.edit(|spec| spec.health.failure_threshold = 5);
        let plan = world.plan();
        assert_eq!(targets(&plan, StepName::Configure).len(), 3);
        let told = plan
            .waits
            .iter()
            .find(|w| w.wait.reason() == "DocumentRefused");
        let message = told.expect("it is told").wait.message();
        assert!(message.contains("of another cluster"), "{message}");
        assert!(message.contains("kubectl delete pod ring-a-0"), "{message}");
    }

    /// Deleted with `--cascade=orphan` and applied again.
    #[test]
    fn a_cluster_made_again_around_its_pods_takes_them_over() {
        let mut world = World::settled(3, 2);
        let pods = world.uids();
        let meta = &mut world.resource.metadata;
        meta.uid = Some("cluster-uid-2".to_owned());
        let made = jiff::SignedDuration::from_hours(1);
        let made = world.now.checked_add(made).expect("in range");
        meta.creation_timestamp = Some(Time(made));
        world.resource.status = None;
        let o = &mut world.observed;
        let services = o.services.values_mut().map(|o| &mut o.metadata);
        let sets = o.stateful_sets.values_mut().map(|o| &mut o.metadata);
        let budgets = o
            .pod_disruption_budgets
            .values_mut()
            .map(|o| &mut o.metadata);
        for meta in services.chain(sets).chain(budgets) {
            meta.owner_references = None;
        }
        for secret in [&mut o.ca_secret, &mut o.node_secret, &mut o.admin_secret] {
            if let Seen::Known(Some(facts)) = secret {
                facts.owner_uid = None;
            }
        }
        world.settle();
        assert_eq!(world.uids(), pods);
        for life in world.lives.values() {
            let held = &life.desired.as_ref().expect("it has one").cluster;
            assert_eq!(held.uid, "cluster-uid-2");
            assert_eq!(held.created, Some(made));
        }
    }

    #[test]
    fn a_report_of_another_pod_is_not_taken() {
        let mut world = World::settled(3, 1);
        let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-a-0") else {
            panic!("it was heard");
        };
        report.pod_uid = "somebody".to_owned();
        assert!(world.reasons().contains(&"NodeUnknown"));
        assert!(
            world
                .plan()
                .actions
                .iter()
                .all(|p| p.action.target() != "node ring-a-0")
        );
    }

    #[test]
    fn an_older_view_moves_no_node_back() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.health.failure_threshold = 5);
        world.settle();
        world.resource.metadata.generation = Some(1);
        world.resource.spec.health.failure_threshold = 2;
        let plan = world.plan();
        assert!(
            !plan
                .actions
                .iter()
                .any(|p| matches!(p.action, Action::Assign { .. }))
        );
        assert!(world.reasons().contains(&"NewerDocument"));
    }

    #[test]
    fn a_node_that_is_away_keeps_its_place() {
        let mut world = World::settled(3, 1);
        let pod = world.observed.pods.remove("ring-a-0").expect("it is there");
        let address = pod.status.and_then(|s| s.pod_ip);
        let cluster = world.cluster();
        let ring = Ring::new(&cluster, &world.observed);
        let pass = Pass {
            cluster: &cluster,
            observed: &world.observed,
            ring: &ring,
            now: world.now,
            earlier: &crate::plan::Plan::default(),
            compared: &comparison::Next::default(),
        };
        let peers = peers(&pass, &ring.nodes[1]);
        let away = peers
            .iter()
            .find(|peer| peer.rack == "a")
            .expect("it is a peer");
        assert_eq!(away.address, address);
    }
}
