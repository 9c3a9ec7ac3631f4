//! Certificates, token record, Services, disruption budget and `StatefulSets`: made, and made again when they differ.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{Pass, Step, delete_seen};
use crate::cluster::{Cluster, Rack};
use crate::compare;
use crate::objects;
use crate::observed::{SecretFacts, Seen};
use crate::ownership::{obstacle, other_ring};
use crate::plan::{Action, Certificates, Kind, Object};
use crate::quantity;
use crate::wait::Wait;

/// Makes what is missing and repairs what differs.
pub(super) fn provision(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    if let Some(wait) = foreign_record(pass) {
        step.wait(wait);
        step.stop = true;
        return step;
    }
    if let Some(problem) = &pass.ring.tokens.problem {
        // Nothing may start on a ring whose tokens are in doubt.
        step.wait(problem.clone());
        step.stop = true;
        return step;
    }
    finalizer(pass, &mut step);
    certificates(pass, &mut step);
    let (cluster, observed) = (pass.cluster, pass.observed);
    let record = objects::token_record(cluster, &pass.ring.tokens.record, pass.ring.served_since);
    let seen = observed.config_maps.get(&cluster.token_record());
    ensure(
        pass,
        &mut step,
        record,
        seen,
        |o| &o.metadata,
        Object::ConfigMap,
    );
    for service in objects::services(cluster) {
        let seen = observed.services.get(name_of(&service.metadata));
        ensure(
            pass,
            &mut step,
            service,
            seen,
            |o| &o.metadata,
            Object::Service,
        );
    }
    disruption_budgets(pass, &mut step);
    for rack in &cluster.racks {
        if let Some(action) = outgrown(pass, rack) {
            step.act(action, "its claim template asks for smaller volumes than declared, and cannot be changed: it is made anew around its pods");
            continue;
        }
        let set = objects::stateful_set(cluster, observed, rack, pass.now);
        let seen = observed.stateful_sets.get(name_of(&set.metadata));
        if seen.is_none()
            && let Some(wait) = foreign_volume(pass, rack)
        {
            step.wait(wait);
            continue;
        }
        ensure(
            pass,
            &mut step,
            set,
            seen,
            |o| &o.metadata,
            Object::StatefulSet,
        );
    }
    let mut racks = cluster.racks.iter();
    if let Some(runs) = racks.find_map(|rack| objects::upgrade_awaits(cluster, observed, rack)) {
        step.wait(Wait::UpgradeAwaitsApproval {
            namespace: cluster.id.namespace.clone(),
            cluster: cluster.id.name.clone(),
            runs,
            image: cluster.defaults.sidecar_image.clone(),
        });
    }
    step
}

/// Whether the name of the token record is somebody else's: what stands in it
/// says nothing about this ring.
fn foreign_record(pass: &Pass<'_>) -> Option<Wait> {
    let name = pass.cluster.token_record();
    let seen = pass.observed.config_maps.get(&name)?;
    obstacle(pass.cluster, Kind::ConfigMap, &seen.metadata)
}

/// A volume that another ring has left under a name that a node of this rack
/// would use: a `StatefulSet` takes claims by their names and asks no more.
fn foreign_volume(pass: &Pass<'_>, rack: &Rack) -> Option<Wait> {
    let cluster = pass.cluster;
    let mut nodes = pass
        .ring
        .of_rack(&rack.name)
        .filter(|_| cluster.has_volumes());
    nodes.find_map(|node| {
        let name = Cluster::claim_name(&node.name);
        let claim = pass.observed.foreign_claims.get(&name)?;
        let ring = other_ring(cluster, &claim.metadata)?;
        Some(Wait::NameTaken {
            kind: Kind::PersistentVolumeClaim,
            name,
            owner: format!("it holds data of ring {ring}"),
        })
    })
}

/// Takes away, without its pods, a `StatefulSet` whose next volume would be too
/// small, once all volumes it has have been told to grow: it is made anew.
fn outgrown(pass: &Pass<'_>, rack: &Rack) -> Option<Action> {
    let (cluster, kind) = (pass.cluster, Kind::StatefulSet);
    let set = pass
        .observed
        .stateful_sets
        .get(&cluster.rack_name(&rack.name))?;
    let metadata = &set.metadata;
    if metadata.deletion_timestamp.is_some() || obstacle(cluster, kind, metadata).is_some() {
        return None;
    }
    let declared = quantity::parse(&cluster.storage.size.0)?;
    let small = |size: &Quantity| quantity::parse(&size.0).is_some_and(|size| size < declared);
    let asked = |claim: &PersistentVolumeClaim| {
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        requests.get("storage").cloned()
    };
    let mut nodes = pass.ring.of_rack(&rack.name);
    let grown = nodes.all(|node| {
        let size = node.claim.and_then(asked);
        size.is_some_and(|size| !small(&size))
    });
    let outgrown = grown && objects::template_size(set).as_ref().is_some_and(small);
    outgrown.then(|| Action::Orphan {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    })
}

fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Applies an object unless what is there already says the same, or is not ours.
fn ensure<T: Serialize>(
    pass: &Pass<'_>,
    step: &mut Step,
    wanted: T,
    seen: Option<&T>,
    metadata: fn(&T) -> &ObjectMeta,
    object: fn(T) -> Object,
) {
    let Some(seen) = seen else {
        step.apply(object(wanted), "it is missing");
        return;
    };
    let object = object(wanted);
    if let Some(wait) = obstacle(pass.cluster, object.kind(), metadata(seen)) {
        step.wait(wait);
    } else if metadata(seen).deletion_timestamp.is_some() {
        step.wait(Wait::PreviousOwner {
            kind: object.kind(),
            name: object.name().to_owned(),
        });
    } else if !same(&object, seen) {
        step.apply(object, "it differs from what it should be");
    }
}

fn same<T: Serialize>(wanted: &Object, seen: &T) -> bool {
    match wanted {
        Object::StatefulSet(o) => compare::holds(o, seen),
        Object::Service(o) => compare::holds(o, seen),
        Object::ConfigMap(o) => compare::holds(o, seen),
        Object::PodDisruptionBudget(o) => compare::holds(o, seen),
        Object::PersistentVolumeClaim(o) => compare::holds(o, seen),
    }
}

/// The budgets that are to be are made before others go: two about one pod keep
/// it from being evicted, and none would let everything go.
fn disruption_budgets(pass: &Pass<'_>, step: &mut Step) {
    let seen = &pass.observed.pod_disruption_budgets;
    let wanted = objects::disruption_budgets(pass.cluster);
    let names: BTreeSet<String> = wanted
        .iter()
        .map(|budget| name_of(&budget.metadata).to_owned())
        .collect();
    for budget in wanted {
        let seen = seen.get(name_of(&budget.metadata));
        ensure(
            pass,
            step,
            budget,
            seen,
            |o| &o.metadata,
            Object::PodDisruptionBudget,
        );
    }
    let kind = Kind::PodDisruptionBudget;
    for (name, seen) in seen {
        let stays = names.contains(name)
            || seen.metadata.deletion_timestamp.is_some()
            || obstacle(pass.cluster, kind, &seen.metadata).is_some();
        if let Some(action) = delete_seen(kind, &seen.metadata, false).filter(|_| !stays) {
            let why = if names.is_empty() {
                "a ring of one rack cannot spare a node: a budget would only block drains"
            } else {
                "other budgets stand for it"
            };
            step.act(action, why);
        }
    }
}

/// The finalizer is there only while there is something it has to do, so that
/// it cannot keep a namespace from going for nothing.
fn finalizer(pass: &Pass<'_>, step: &mut Step) {
    let wanted = super::delete::clears_volumes(pass.cluster);
    if wanted != pass.cluster.has_finalizer {
        let why = if wanted {
            "storage.retention is Delete: volumes are cleared when the cluster goes"
        } else {
            "storage.retention is Retain: nothing is to be cleared"
        };
        step.act(Action::SetFinalizer { present: wanted }, why);
    }
}

/// Certificates are renewed when two thirds of their life are over.
fn certificates(pass: &Pass<'_>, step: &mut Step) {
    let cluster = pass.cluster;
    let observed = pass.observed;
    let mut known = Vec::new();
    for secret in [
        &observed.ca_secret,
        &observed.node_secret,
        &observed.admin_secret,
    ] {
        match secret {
            Seen::Known(facts) => known.push(facts.as_ref()),
            Seen::Unknown(why) => {
                step.wait(Wait::CertificatesUnknown { why: why.clone() });
                return;
            }
        }
    }
    let names = [
        cluster.ca_secret(),
        cluster.node_secret(),
        cluster.admin_secret(),
    ];
    for name in &names {
        let seen = pass.observed.secrets.get(name);
        if let Some(wait) = seen.and_then(|seen| obstacle(cluster, Kind::Secret, seen)) {
            step.wait(wait);
            return;
        }
    }
    for (facts, name) in known.iter().zip(names) {
        if let Some(owner) = facts.and_then(|f| f.owner_uid.as_ref())
            && *owner != cluster.id.uid
        {
            let kind = Kind::Secret;
            step.wait(Wait::PreviousOwner { kind, name });
            return;
        }
    }
    let (ca, node, admin) = (known[0], known[1], known[2]);
    let dns_names = dns_names(pass);
    let ca_lacks = match ca {
        None => Some("the cluster has no certificate authority yet"),
        Some(facts) => stale(facts, pass.now),
    };
    let of_another = |leaf: &SecretFacts| ca.is_some_and(|ca| ca.ca_digest != leaf.ca_digest);
    let node_lacks = ca_lacks.or(match node {
        None => Some("the nodes have no certificate yet"),
        Some(node) if of_another(node) => Some("the nodes' certificate is of another authority"),
        Some(node) if node.dns_names != dns_names => Some("the nodes' names have changed"),
        Some(node) => stale(node, pass.now),
    });
    let admin_lacks = ca_lacks.or(match admin {
        None => Some("there is no certificate for people yet"),
        Some(admin) if of_another(admin) => {
            Some("the certificate for people is of another authority")
        }
        Some(admin) => stale(admin, pass.now),
    });
    if let Some(why) = node_lacks.or(admin_lacks) {
        let what = Certificates {
            ca_secret: cluster.ca_secret(),
            new_ca: ca_lacks.is_some(),
            node_secret: cluster.node_secret(),
            new_node: node_lacks.is_some(),
            dns_names,
            admin_secret: cluster.admin_secret(),
            new_admin: admin_lacks.is_some(),
        };
        step.act(Action::IssueCertificates(what), why);
        return;
    }
    for facts in known.into_iter().flatten() {
        if let Some(at) = renew_at(facts) {
            step.wake(at);
        }
    }
}

/// The names under which nodes reach each other.
fn dns_names(pass: &Pass<'_>) -> Vec<String> {
    let cluster = pass.cluster;
    let short = format!("*.{}.{}.svc", cluster.nodes_service(), cluster.id.namespace);
    vec![format!("*.{}", cluster.nodes_domain()), short]
}

fn stale(facts: &SecretFacts, now: Timestamp) -> Option<&'static str> {
    if !facts.complete {
        return Some("a certificate cannot be read");
    }
    match renew_at(facts) {
        None => Some("a certificate does not say how long it is valid"),
        Some(at) if at <= now => Some("a certificate nears its end"),
        Some(_) => None,
    }
}

fn renew_at(facts: &SecretFacts) -> Option<Timestamp> {
    let (from, until) = (facts.not_before?, facts.not_after?);
    let life = until.duration_since(from);
    let seconds = life.as_secs().max(0) / 3 * 2;
    from.checked_add(SignedDuration::from_secs(seconds)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StepName;
    use crate::world::{World, resource, targets};

    #[test]
    fn everything_is_made_in_one_pass_certificates_first() {
        let world = World::new(resource(3, 2));
        let made = targets(&world.plan(), StepName::Provision);
        let expected = [
            "Secret ring-node-tls",
            "ConfigMap ring-tokens",
            "Service ring",
            "Service ring-nodes",
            "Service ring-a",
            "Service ring-b",
            "Service ring-c",
            "PodDisruptionBudget ring-token-0",
            "PodDisruptionBudget ring-token-1",
            "StatefulSet ring-a",
            "StatefulSet ring-b",
            "StatefulSet ring-c",
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn what_was_edited_or_deleted_comes_back_without_touching_pods() {
        let mut world = World::settled(3, 2);
        let pods = world.uids();
        world.observed.services.remove("ring-b");
        let set = world
            .observed
            .stateful_sets
            .get_mut("ring-a")
            .expect("it is there");
        set.spec.as_mut().expect("a spec").replicas = Some(5);
        let service = world
            .observed
            .services
            .get_mut("ring")
            .expect("it is there");
        service.metadata.owner_references = None;
        let again = targets(&world.plan(), StepName::Provision);
        assert_eq!(
            again,
            ["Service ring", "Service ring-b", "StatefulSet ring-a"]
        );
        world.settle();
        assert_eq!(world.uids(), pods);
    }

    #[test]
    fn what_belongs_to_others_is_left_alone() {
        let mut world = World::settled(3, 1);
        let service = world
            .observed
            .services
            .get_mut("ring")
            .expect("it is there");
        let owner = &mut service
            .metadata
            .owner_references
            .as_mut()
            .expect("an owner")[0];
        owner.uid = "another".to_owned();
        assert_eq!(world.reasons(), ["PreviousOwner"]);
        assert!(world.plan().actions.is_empty());
        let service = world
            .observed
            .services
            .get_mut("ring")
            .expect("it is there");
        service.metadata.owner_references = None;
        service.metadata.labels = None;
        assert_eq!(world.reasons(), ["NameTaken"]);
        assert!(world.plan().actions.is_empty());
    }

    #[test]
    fn what_belongs_to_another_ring_is_left_alone_whatever_its_kind() {
        let labelled = |meta: &mut ObjectMeta| {
            meta.owner_references = None;
            let labels = meta.labels.get_or_insert_default();
            let instance = dynomite_api::annotations::LABEL_INSTANCE;
            labels.insert(instance.to_owned(), "other".to_owned());
        };
        let owned = |meta: &mut ObjectMeta| {
            let owners = meta.owner_references.as_mut().expect("an owner");
            owners[0].uid = "other-uid".to_owned();
            owners[0].name = "other".to_owned();
        };
        for change in [&labelled as &dyn Fn(&mut ObjectMeta), &owned] {
            for kind in ["Service", "StatefulSet", "PodDisruptionBudget", "Secret"] {
                let mut world = World::settled(3, 1);
                let o = &mut world.observed;
                let meta = match kind {
                    "Service" => &mut o.services.get_mut("ring-b").expect("it is there").metadata,
                    "StatefulSet" => {
                        let set = o.stateful_sets.get_mut("ring-b");
                        &mut set.expect("it is there").metadata
                    }
                    "PodDisruptionBudget" => {
                        let budget = o.pod_disruption_budgets.get_mut("ring-token-0");
                        &mut budget.expect("it is there").metadata
                    }
                    _ => {
                        let meta = o.services["ring"].metadata.clone();
                        let secrets = &mut o.secrets;
                        secrets.insert("ring-ca".to_owned(), meta);
                        secrets.get_mut("ring-ca").expect("it is there")
                    }
                };
                change(meta);
                let plan = world.plan();
                let taken = plan.waits.iter().find(|w| w.wait.reason() == "NameTaken");
                let message = taken.expect(kind).wait.message();
                assert!(
                    message.contains(kind) && message.contains("other"),
                    "{message}"
                );
                assert!(targets(&plan, StepName::Provision).is_empty(), "{kind}");
            }
        }
    }

    #[test]
    fn a_rack_does_not_take_over_the_volumes_another_ring_has_left() {
        let mut world = World::new(resource(1, 2));
        let mut claim = PersistentVolumeClaim::default();
        let instance = dynomite_api::annotations::LABEL_INSTANCE;
        let labels = [(instance.to_owned(), "other".to_owned())];
        claim.metadata.labels = Some(labels.into());
        let name = "data-ring-a-1".to_owned();
        world.observed.foreign_claims.insert(name, claim);
        let plan = world.plan();
        let made = targets(&plan, StepName::Provision);
        assert!(!made.contains(&"StatefulSet ring-a".to_owned()), "{made:?}");
        let taken = plan.waits.iter().find(|w| w.wait.reason() == "NameTaken");
        let message = taken.expect("it is told").wait.message();
        assert!(
            message.contains("data-ring-a-1") && message.contains("ring other"),
            "{message}"
        );
        world.observed.foreign_claims.clear();
        let made = targets(&world.plan(), StepName::Provision);
        assert!(made.contains(&"StatefulSet ring-a".to_owned()), "{made:?}");
    }

    #[test]
    fn certificates_are_renewed_in_time_and_never_on_a_guess() {
        let mut world = World::settled(3, 1);
        world.observed.ca_secret = Seen::Unknown("forbidden".to_owned());
        assert_eq!(world.reasons(), ["CertificatesUnknown"]);
        assert!(world.plan().actions.is_empty());

        let mut world = World::settled(3, 1);
        let at = world.plan().wake_at.expect("certificates end some day");
        world.now = at
            .checked_sub(SignedDuration::from_secs(1))
            .expect("in range");
        assert!(world.plan().actions.is_empty());
        world.now = at;
        assert_eq!(
            targets(&world.plan(), StepName::Provision),
            ["Secret ring-node-tls"]
        );
    }

    #[test]
    fn the_certificate_for_people_is_made_alone_where_only_it_is_missing() {
        let issued = |world: &World| {
            let actions = world.plan().actions;
            actions
                .into_iter()
                .find_map(|planned| match planned.action {
                    Action::IssueCertificates(what) => Some(what),
                    _ => None,
                })
        };
        let mut world = World::settled(3, 1);
        assert_eq!(issued(&world), None);
        let made = world.observed.admin_secret.clone();
        // As an operator of before has left it.
        world.observed.admin_secret = Seen::Known(None);
        let what = issued(&world).expect("it is missing");
        assert!(what.new_admin && !what.new_node && !what.new_ca);
        assert_eq!(what.admin_secret, "ring-admin-tls");
        let Seen::Known(Some(mut other)) = made else {
            panic!("it was made");
        };
        other.ca_digest = "another".to_owned();
        world.observed.admin_secret = Seen::Known(Some(other));
        assert!(issued(&world).expect("it opens nothing").new_admin);
        world.observed.admin_secret = Seen::Unknown("forbidden".to_owned());
        assert_eq!(world.reasons(), ["CertificatesUnknown"]);
    }

    #[test]
    fn a_statefulset_that_cannot_make_its_pods_is_touched_now_and_then() {
        let mut world = World::settled(3, 1);
        let exceeded = "exceeded quota: pods".to_owned();
        world
            .observed
            .warnings
            .insert("ring-b".to_owned(), exceeded);
        let mut touched = Vec::new();
        for _ in 0..9 {
            let begin = world.now;
            let plan = world.pass();
            if !targets(&plan, StepName::Provision).is_empty() {
                touched.push(begin);
            }
        }
        let pauses = touched
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]));
        assert_eq!(touched.len(), 3);
        assert!(pauses.into_iter().all(|pause| pause.as_secs() == 20));
        world.observed.warnings.clear();
        assert!(targets(&world.plan(), StepName::Provision).is_empty());
    }

    #[test]
    fn a_statefulset_is_made_anew_for_larger_volumes_only_once_all_it_has_may_grow() {
        let mut world = World::settled(3, 2);
        let claim = world.observed.claims.get_mut("data-ring-b-1");
        claim.expect("it is there").status = None;
        world.edit(|spec| spec.storage.size = Quantity("20Gi".to_owned()));
        let mut gone = Vec::new();
        for _ in 0..8 {
            let orphaned = |p: &crate::Planned| match &p.action {
                Action::Orphan { name, .. } => Some(name.clone()),
                _ => None,
            };
            gone.extend(world.pass().actions.iter().filter_map(orphaned));
        }
        // A claim that is not bound cannot grow yet.
        assert_eq!(gone, ["ring-a", "ring-c"]);
        let status = world.observed.claims["data-ring-a-0"].status.clone();
        let claim = world.observed.claims.get_mut("data-ring-b-1");
        claim.expect("it is there").status = status;
        let before = world.uids();
        world.settle();
        assert_eq!(world.uids(), before);
        let size = objects::template_size(&world.observed.stateful_sets["ring-b"]);
        assert_eq!(size, Some(Quantity("20Gi".to_owned())));
    }

    #[test]
    fn a_volume_that_grows_is_told_of_and_keeps_nothing_waiting() {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.storage.size = Quantity("20Gi".to_owned()));
        world.settle();
        let claim = world.observed.claims.get_mut("data-ring-a-0");
        let status = claim.and_then(|claim| claim.status.as_mut());
        let capacity = [("storage".to_owned(), Quantity("10Gi".to_owned()))];
        status.expect("it has one").capacity = Some(capacity.into());
        let waits = world.waits();
        assert_eq!(world.reasons(), ["VolumeGrowing"]);
        assert!(waits[0].informs());
        assert!(waits[0].message().contains("from 10Gi to 20Gi"));
    }

    fn budgets(world: &World) -> Vec<(String, Option<String>)> {
        let budgets = world.observed.pod_disruption_budgets.iter();
        budgets
            .map(|(name, budget)| {
                let spec = budget.spec.as_ref().expect("a spec");
                let labels = spec.selector.as_ref().and_then(|s| s.match_labels.as_ref());
                let ordinal = labels.and_then(|l| l.get("apps.kubernetes.io/pod-index"));
                (name.clone(), ordinal.cloned())
            })
            .collect()
    }

    #[test]
    fn each_token_has_its_budget() {
        let each = [
            ("ring-token-0".to_owned(), Some("0".to_owned())),
            ("ring-token-1".to_owned(), Some("1".to_owned())),
        ];
        for racks in [2, 3] {
            assert_eq!(budgets(&World::settled(racks, 2)), each);
        }
    }

    #[test]
    fn the_budget_of_before_goes_and_those_of_strangers_stay() {
        let mut world = World::settled(2, 1);
        // As an operator of before has left it, and somebody else's.
        let mut old = world.observed.pod_disruption_budgets["ring-token-0"].clone();
        old.metadata.name = Some("ring".to_owned());
        let mut strange = old.clone();
        strange.metadata.name = Some("theirs".to_owned());
        let owners = strange.metadata.owner_references.as_mut();
        owners.expect("an owner")[0].uid = "another".to_owned();
        let seen = &mut world.observed.pod_disruption_budgets;
        seen.insert("ring".to_owned(), old);
        seen.insert("theirs".to_owned(), strange);
        let gone = targets(&world.plan(), StepName::Provision);
        assert_eq!(gone, ["PodDisruptionBudget ring"]);
        world.settle();
        let left: Vec<String> = budgets(&world).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["ring-token-0", "theirs"]);
    }

    #[test]
    fn a_ring_of_one_rack_has_no_budget() {
        let mut world = World::settled(2, 1);
        assert!(!world.observed.pod_disruption_budgets.is_empty());
        world.edit(|spec| drop(spec.racks.pop()));
        world.settle();
        assert!(world.observed.pod_disruption_budgets.is_empty());
    }
}
