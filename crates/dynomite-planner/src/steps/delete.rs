//! The deletion of a cluster: its data stays, unless the spec says that volumes go with it.

use dynomite_api::crd::Retention;

use super::{Pass, Step, delete_seen};
use crate::cluster::Cluster;
use crate::objects::selector;
use crate::ownership::obstacle;
use crate::plan::{Action, Kind};
use crate::ring::controller_uid;
use crate::wait::Wait;

/// Whether deleting the cluster deletes its volumes.
pub(super) fn clears_volumes(cluster: &Cluster) -> bool {
    cluster.has_volumes() && cluster.storage.retention == Retention::Delete
}

/// Clears what has no owner, then lets the cluster go. Kubernetes collects the rest.
pub(super) fn delete(pass: &Pass<'_>) -> Step {
    let mut step = Step::default();
    if !pass.cluster.deleting {
        return step;
    }
    step.stop = true;
    if let Some(scratch) = &pass.observed.scratch {
        crate::backup::end_scratch(&scratch.pod, &mut step);
    }
    if !pass.cluster.has_finalizer {
        return step;
    }
    if clears_volumes(pass.cluster) && !volumes_are_gone(pass, &mut step) {
        return step;
    }
    step.act(
        Action::SetFinalizer { present: false },
        "everything that had to go is gone",
    );
    step
}

/// Takes the racks away, then their volumes and the token record: a
/// `StatefulSet` that lives would make the claims again.
fn volumes_are_gone(pass: &Pass<'_>, step: &mut Step) -> bool {
    let mut pods = Vec::new();
    for set in pass.observed.stateful_sets.values() {
        if obstacle(pass.cluster, Kind::StatefulSet, &set.metadata).is_some() {
            continue;
        }
        pods.extend(set.metadata.name.clone());
        if set.metadata.deletion_timestamp.is_none()
            && let Some(action) = delete_seen(Kind::StatefulSet, &set.metadata, false)
        {
            step.act(action, "the cluster is being deleted");
        }
    }
    pods.extend(pass.observed.pods.keys().cloned());
    if !pods.is_empty() {
        step.wait(Wait::PodsLeaving { pods });
        return false;
    }
    let mut gone = true;
    for claim in pass.observed.claims.values() {
        // Only claims made from our template: those carry its labels, and nothing controls them.
        let labels = claim.metadata.labels.as_ref();
        let from_template = selector(pass.cluster, None)
            .iter()
            .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
        if !from_template || controller_uid(&claim.metadata).is_some() {
            continue;
        }
        gone = false;
        if claim.metadata.deletion_timestamp.is_none()
            && let Some(action) = delete_seen(Kind::PersistentVolumeClaim, &claim.metadata, false)
        {
            step.act(action, "storage.retention is Delete");
        }
    }
    if let Some(record) = pass.observed.config_maps.get(&pass.cluster.token_record())
        && obstacle(pass.cluster, Kind::ConfigMap, &record.metadata).is_none()
    {
        gone = false;
        if let Some(action) = delete_seen(Kind::ConfigMap, &record.metadata, false) {
            step.act(action, "the volumes it was kept for go");
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use dynomite_api::crd::Retention;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::plan::StepName;
    use crate::world::{World, targets};

    fn deleted(retention: Retention) -> World {
        let mut world = World::settled(3, 1);
        world.edit(|spec| spec.storage.retention = retention);
        world.settle();
        world.resource.metadata.deletion_timestamp = Some(Time(world.now));
        world
    }

    #[test]
    fn data_stays_by_default_and_nothing_holds_the_resource() {
        let world = deleted(Retention::Retain);
        assert!(!world.cluster().has_finalizer);
        assert!(world.plan().actions.is_empty());
    }

    #[test]
    fn a_spec_that_cannot_be_carried_out_holds_up_no_deletion() {
        use crate::cluster::Cluster;
        use crate::observed::Observed;
        use crate::plan::Outcome;
        use crate::world::defaults;

        let mut world = World::settled(3, 2);
        world.edit(|spec| spec.storage.retention = Retention::Delete);
        world.settle();
        let mut resource = world.resource.clone();
        let spec = &mut resource.spec;
        spec.racks.push(spec.racks[0].clone());
        spec.racks[1].tokens = Some(vec![dynomite_api::Token(3); 3]);
        spec.nodes_per_rack = 0;
        spec.consistency.write = dynomite_api::contract::ConsistencyLevel::DcQuorum;
        assert!(Cluster::new(&resource, &defaults()).is_err());
        assert_eq!(Cluster::leaving(&resource, &defaults()), None);
        resource.metadata.deletion_timestamp = Some(Time(world.now));
        let cluster = Cluster::leaving(&resource, &defaults()).expect("it leaves");
        let plan = crate::plan(&cluster, &world.observed, world.now);
        let sets = targets(&plan, StepName::Delete);
        assert_eq!(sets.len(), 3, "{sets:?}");
        let (seen, outcome) = (&world.observed, Outcome::default());
        let status = crate::status(&cluster, seen, &plan, None, &outcome, world.now);
        assert_eq!(
            status.phase,
            Some(dynomite_api::crd::ClusterPhase::Deleting)
        );
        let plan = crate::plan(&cluster, &Observed::default(), world.now);
        let finalizer = Action::SetFinalizer { present: false };
        assert!(plan.actions.iter().any(|p| p.action == finalizer));
    }

    #[test]
    fn volumes_go_after_the_pods_when_asked() {
        let mut world = deleted(Retention::Delete);
        assert!(world.cluster().has_finalizer);
        let mut foreign = world.observed.claims["data-ring-a-0"].clone();
        foreign.metadata.labels = None;
        world
            .observed
            .claims
            .insert("data-ring-a-7".to_owned(), foreign);
        let first = world.plan();
        assert!(first.actions.iter().all(|p| matches!(
            p.action,
            Action::Delete {
                kind: Kind::StatefulSet,
                ..
            }
        )));
        for _ in 0..5 {
            world.pass();
        }
        let left: Vec<&String> = world.observed.claims.keys().collect();
        assert_eq!(left, ["data-ring-a-7"], "what is not ours stays");
        assert!(!world.observed.config_maps.contains_key("ring-tokens"));
        assert!(!world.cluster().has_finalizer);
    }
}
