//! The serve gate: when a ring that has never served begins to, and without whom.
//!
//! ```text
//! all poised ----------------------------------------+
//! enough racks complete, the others blocked or late -+
//!   v
//! all permissions to begin empty taken back --> served-since in the record --> serve: true
//! ```

use dynomite_api::contract::ProofKind;
use jiff::{SignedDuration, Timestamp};

use super::warm_up::accepted_by_person;
use super::{Pass, Step};
use crate::objects;
use crate::plan::{Action, EventKind, Object};
use crate::ring::Node;
use crate::wait::Wait;

/// How long complete racks wait for the others before the ring begins without them.
const GATE_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Opens the gate: all nodes, or the complete racks when what the others lack
/// is known to last, or has lasted. Whoever still holds the permission to begin
/// empty could use it after a restart, when the others have been written to.
pub(super) fn gate(pass: &Pass<'_>, step: &mut Step) {
    let ring = pass.ring;
    let missing: Vec<&Node<'_>> = ring.nodes.iter().filter(|node| !node.poised()).collect();
    let holding = |node: &&Node<'_>| may_begin_empty(pass, node);
    let opens = match readiness(pass) {
        Readiness::All | Readiness::WithoutMissing => !ring.nodes.iter().any(|n| holding(&n)),
        Readiness::NotBefore(at) => {
            if let Some(at) = at {
                step.wake(at);
            }
            false
        }
    };
    if !opens {
        let late = ring.nodes.iter().filter(|n| !n.poised() || holding(n));
        let missing = late.map(|node| node.name.clone()).collect();
        step.wait(Wait::ServeGate { missing });
        return;
    }
    let record = objects::token_record(pass.cluster, &ring.tokens.record, Some(pass.now));
    step.apply(
        Object::ConfigMap(record),
        "the nodes are ready: from now on the ring counts as holding data",
    );
    step.act(
        Action::Event {
            kind: EventKind::Normal,
            reason: "RingServes",
            message: if missing.is_empty() {
                "every node is ready for the first time: the ring begins to serve".to_owned()
            } else {
                "enough racks are complete: the ring begins to serve, the other nodes will copy their data"
                    .to_owned()
            },
        },
        "the ring begins to serve",
    );
}

/// Whether a person has accepted what nodes have, and every token has a node:
/// the others copy them, and copies are given only by a ring that serves.
fn is_accepted(pass: &Pass<'_>) -> bool {
    let ring = pass.ring;
    let by_person = |node: &Node<'_>| {
        let proof = node.report.as_ref().map(|report| report.proof.kind);
        accepted_by_person(node) && proof == Ok(ProofKind::AcceptedLocal)
    };
    let mut tokens = ring.tokens.by_ordinal.iter();
    ring.nodes.iter().any(by_person) && tokens.all(|token| ring.replicas(*token).any(Node::poised))
}

/// Whether a ring that has never served could begin.
pub(super) enum Readiness {
    /// Every node waits for nothing else.
    All,
    /// Enough racks are complete, and what the others lack lasts; or a person
    /// has accepted what there is.
    WithoutMissing,
    /// Not yet; when the complete racks will have waited long enough, if there are enough.
    NotBefore(Option<Timestamp>),
}

pub(super) fn readiness(pass: &Pass<'_>) -> Readiness {
    let ring = pass.ring;
    let mut missing = ring.nodes.iter().filter(|node| !node.poised()).peekable();
    if missing.peek().is_none() {
        return Readiness::All;
    }
    if is_accepted(pass) {
        return Readiness::WithoutMissing;
    }
    let complete = complete_racks(pass);
    if complete.len() < pass.cluster.required().max(1) {
        return Readiness::NotBefore(None);
    }
    let since = complete
        .iter()
        .flat_map(|rack| ring.of_rack(rack))
        .filter_map(poised_since)
        .max();
    let open_at = since.and_then(|since| since.checked_add(GATE_GRACE).ok());
    let waited = open_at.is_some_and(|at| at <= pass.now);
    if waited || missing.all(|node| node.blocker.is_some()) {
        return Readiness::WithoutMissing;
    }
    Readiness::NotBefore(open_at)
}

/// Whether a node may hold the permission to begin empty and use it later, when
/// the others have been written to. A pod that has no address yet has never been
/// told anything, and one that leaves is told nothing more; one that runs and
/// cannot be asked may hold it.
fn may_begin_empty(pass: &Pass<'_>, node: &Node<'_>) -> bool {
    if node.address().is_none() || node.terminating() {
        return false;
    }
    let Ok(report) = node.report else { return true };
    let Some(held) = report
        .desired
        .as_ref()
        .filter(|held| held.pod_uid == node.pod_uid())
    else {
        return false;
    };
    held.digest != super::configure::desired(pass, node, report).digest()
}

fn complete_racks<'r>(pass: &Pass<'r>) -> Vec<&'r str> {
    let racks = pass.cluster.racks.iter().map(|rack| rack.name.as_str());
    racks
        .filter(|rack| {
            pass.ring
                .nodes
                .iter()
                .filter(|n| n.rack.name == *rack)
                .all(Node::poised)
        })
        .collect()
}

fn poised_since(node: &Node<'_>) -> Option<Timestamp> {
    let report = node.report.as_ref().ok()?;
    Some(report.proof.since.unwrap_or(report.since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, resource};

    fn tokens_served(world: &World) -> bool {
        crate::tokens::served_since(&world.cluster(), &world.observed).is_some()
    }

    #[test]
    fn a_new_ring_opens_only_when_all_are_poised() {
        let mut world = World::new(resource(3, 2));
        world.mute.push("ring-b-1".to_owned());
        for _ in 0..6 {
            world.pass();
        }
        assert!(world.reasons().contains(&"ServeGate"));
        assert!(
            world
                .lives
                .values()
                .all(|life| life.desired.as_ref().is_none_or(|d| !d.serve))
        );
        world.mute.clear();
        world.settle();
        assert!(
            world
                .lives
                .values()
                .all(|life| life.proof == Some(ProofKind::Bootstrap))
        );
    }

    #[test]
    fn nobody_holds_a_permission_when_the_ring_begins() {
        let mut world = World::new(resource(3, 2));
        let granted = |world: &World| {
            let lives = world.lives.values();
            let documents = lives.filter_map(|life| life.desired.as_ref());
            documents.filter(|desired| desired.grant.is_some()).count()
        };
        let mut most = 0;
        while !tokens_served(&world) {
            world.pass();
            most = most.max(granted(&world));
        }
        // A store that restarts now must not begin empty a second time.
        assert_eq!((most, granted(&world)), (6, 0));
    }

    #[test]
    fn complete_racks_begin_without_a_blocked_one() {
        let mut world = World::new(resource(3, 2));
        world.blocked.push("ring-c-0".to_owned());
        for _ in 0..8 {
            world.pass();
        }
        let (began, waits) = (tokens_served(&world), world.reasons());
        assert!(began && waits.contains(&"ImageNotPulled"), "{waits:?}");
        // It is repaired: the node that comes late copies, for the others were written to.
        world.blocked.clear();
        world.kill("ring-c-0");
        world.settle();
        assert_eq!(world.lives["ring-c-0"].proof, Some(ProofKind::WarmUp));
    }

    #[test]
    fn a_silent_node_may_hold_the_permission_to_begin_empty() {
        let mut world = World::new(resource(3, 2));
        world.mute.push("ring-b-1".to_owned());
        for _ in 0..60 {
            world.pass();
        }
        assert!(!tokens_served(&world));
        assert!(world.reasons().contains(&"ServeGate"));
        // Its pod is told to go: what comes after it has another UID.
        let pod = world
            .observed
            .pods
            .get_mut("ring-b-1")
            .expect("it is there");
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now);
        pod.metadata.deletion_timestamp = Some(now);
        world.pass();
        assert!(tokens_served(&world));
    }

    #[test]
    fn complete_racks_begin_after_a_while_and_a_late_node_gives_its_permission_back_first() {
        let mut world = World::new(resource(3, 2));
        // It has its document and does not come up.
        world.slow.push("ring-b-1".to_owned());
        let grant = |world: &World| {
            let life = world.lives.get("ring-b-1");
            life.and_then(|life| life.desired.as_ref()?.grant.clone())
        };
        for _ in 0..10 {
            world.pass();
        }
        assert!(grant(&world).is_some() && !tokens_served(&world));
        for _ in 0..60 {
            world.pass();
            assert!(grant(&world).is_none() || !tokens_served(&world));
        }
        assert!(tokens_served(&world));
        world.slow.clear();
        world.settle();
        assert_eq!(world.lives["ring-b-1"].proof, Some(ProofKind::WarmUp));
    }

    #[test]
    fn too_few_complete_racks_do_not_begin() {
        let mut world = World::new(resource(3, 1));
        world.blocked = vec!["ring-b-0".to_owned(), "ring-c-0".to_owned()];
        for _ in 0..60 {
            world.pass();
        }
        assert!(!tokens_served(&world));
    }
}
