//! May this node leave now? By token headroom, one disruption at a time in a datacenter.

use std::fmt;

use dynomite_api::annotations::ANNOTATION_PERSISTENCE;

use crate::cluster::Cluster;
use crate::ring::{Node, Ring};

/// Why a node may not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another node is not ready: one at a time.
    OtherNodeDown {
        /// That node.
        other: String,
        /// What it lacks.
        message: String,
    },
    /// A node of the same token is copying its data.
    PeerWarmingUp {
        /// That node.
        peer: String,
    },
    /// A node has missed writes and is to be renewed first.
    OtherBehind {
        /// That node.
        other: String,
    },
    /// A node does not hear another: a replica that is ready may be out of
    /// reach for those that would need it.
    OtherCutOff {
        /// That node.
        other: String,
    },
    /// Too few replicas of its token would stay.
    NoHeadroom {
        /// Ready replicas without this one.
        ready: usize,
        /// How many the consistency levels need.
        required: usize,
    },
    /// Its data would not survive the restart, and there is no replica.
    WouldLoseData,
    /// No replica of its token is known to hold its data.
    OnlyCopy,
    /// A setting of the spec is refused: its new pod would come up without it.
    SettingRefused,
}

/// Whether a node may leave now.
///
/// Every other node of the datacenter must be ready, so that there is one
/// disruption at a time, and enough replicas of its token must stay. Whatever
/// is unknown, leaves or is not yet warm counts as down. In a ring of one rack
/// every roll is an outage of a part of it; it is allowed where the volume
/// keeps the data, because the declared change cannot be had otherwise.
pub fn may_leave(cluster: &Cluster, ring: &Ring<'_>, node: &Node<'_>) -> Result<(), Refusal> {
    let others = || ring.nodes.iter().filter(|other| other.name != node.name);
    if let Some(peer) = others().find(|o| o.token == node.token && o.warming_up()) {
        return Err(Refusal::PeerWarmingUp {
            peer: peer.name.clone(),
        });
    }
    if let Some(other) = others().find(|other| !other.ready()) {
        return Err(Refusal::OtherNodeDown {
            other: other.name.clone(),
            message: other.lacks(),
        });
    }
    no_partition(ring, node)?;
    if let Some((other, _)) = ring.levels.all_behind().find(|(o, _)| **o != node.name) {
        return Err(Refusal::OtherBehind {
            other: other.clone(),
        });
    }
    let ready = others()
        .filter(|o| o.token == node.token && o.ready())
        .count();
    if cluster.racks.len() == 1 {
        return if cluster.persistent() && !changes_persistence(cluster, node) {
            Ok(())
        } else {
            Err(Refusal::WouldLoseData)
        };
    }
    let required = cluster.required();
    if ready < required {
        return Err(Refusal::NoHeadroom { ready, required });
    }
    Ok(())
}

/// Whether a node that has missed writes may leave the endpoints now to copy
/// them.
///
/// It serves what its replicas know to be old, so it waits for less than a node
/// that is whole: a node of another token that does not run keeps nobody from
/// being renewed. One that copies or leaves does: one at a time.
pub fn may_renew(cluster: &Cluster, ring: &Ring<'_>, node: &Node<'_>) -> Result<(), Refusal> {
    let others = || ring.nodes.iter().filter(|other| other.name != node.name);
    if let Some(peer) = others().find(|o| o.token == node.token && o.warming_up()) {
        return Err(Refusal::PeerWarmingUp {
            peer: peer.name.clone(),
        });
    }
    no_partition(ring, node)?;
    let moves = |other: &&Node<'_>| other.warming_up() || other.terminating();
    if let Some(other) = others().find(moves) {
        return Err(Refusal::OtherNodeDown {
            other: other.name.clone(),
            message: other.lacks(),
        });
    }
    let ready = others()
        .filter(|o| o.token == node.token && o.ready())
        .count();
    let required = cluster.required();
    if ready < required {
        return Err(Refusal::NoHeadroom { ready, required });
    }
    Ok(())
}

/// While a partition lasts a replica on its other side counts for nothing, and
/// nobody knows yet which side has what.
fn no_partition(ring: &Ring<'_>, node: &Node<'_>) -> Result<(), Refusal> {
    let mut cut_off = ring.levels.all_cut_off();
    match cut_off.find(|(other, _)| **other != node.name) {
        Some((other, _)) => Err(Refusal::OtherCutOff {
            other: other.clone(),
        }),
        None => Ok(()),
    }
}

/// Whether the store would start again with another kind of file than it
/// writes now: it would not read what it has.
fn changes_persistence(cluster: &Cluster, node: &Node<'_>) -> bool {
    let annotations = node.pod.and_then(|pod| pod.metadata.annotations.as_ref());
    let made_with = annotations.and_then(|a| a.get(ANNOTATION_PERSISTENCE));
    if made_with.is_some_and(|made_with| made_with != cluster.store.persistence.name()) {
        return true;
    }
    let waiting = node.report.as_ref().map(|report| &report.restart_required);
    waiting.is_ok_and(|names| names.iter().any(|name| name == "store.persistence"))
}

/// Whether the declared racks can do without all others: every declared node is ready.
///
/// A ring that never served has nothing to lose.
pub fn may_do_without(cluster: &Cluster, ring: &Ring<'_>) -> Result<(), Refusal> {
    if ring.served_since.is_none() {
        return Ok(());
    }
    if let Some(other) = ring.nodes.iter().find(|node| !node.ready()) {
        return Err(Refusal::OtherNodeDown {
            other: other.name.clone(),
            message: other.lacks(),
        });
    }
    let required = cluster.required();
    for token in &ring.tokens.by_ordinal {
        let ready = ring.replicas(*token).filter(|node| node.ready()).count();
        if ready < required {
            return Err(Refusal::NoHeadroom { ready, required });
        }
    }
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNodeDown { other, message } => {
                write!(f, "node {other} is not ready ({message}), and one at a time may leave")
            }
            Self::PeerWarmingUp { peer } => {
                write!(f, "node {peer} of the same token is copying its data")
            }
            Self::OtherBehind { other } => {
                write!(f, "node {other} has missed writes and copies them first")
            }
            Self::OtherCutOff { other } => write!(
                f,
                "node {other} does not hear every coordinator: a partition lasts"
            ),
            Self::NoHeadroom { ready, required } => write!(
                f,
                "{ready} ready replicas of its token would stay and the consistency needs {required}"
            ),
            Self::SettingRefused => f.write_str(
                "a setting of the spec is refused, and nodes are not restarted into it: correct it first",
            ),
            Self::OnlyCopy => f.write_str("no other node is known to hold its data"),
            Self::WouldLoseData => f.write_str(
                "its data would not survive the restart and no other rack holds it: delete the pod yourself to accept the loss",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::ConsistencyLevel;

    use super::*;
    use crate::observed::Seen;
    use crate::world::World;

    fn verdict(world: &World, name: &str) -> Result<(), Refusal> {
        let cluster = world.cluster();
        let ring = Ring::new(&cluster, &world.observed);
        let node = ring.nodes.iter().find(|node| node.name == name);
        may_leave(&cluster, &ring, node.expect("it is declared"))
    }

    #[test]
    fn a_whole_ring_can_spare_a_node_if_the_consistency_allows() {
        for (racks, level, expected) in [
            (3, ConsistencyLevel::DcQuorum, Ok(())),
            (3, ConsistencyLevel::DcSafeQuorum, Ok(())),
            (2, ConsistencyLevel::DcOne, Ok(())),
            (1, ConsistencyLevel::DcOne, Ok(())),
        ] {
            let mut world = World::settled(racks, 1);
            world.edit(|spec| spec.consistency.write = level);
            assert_eq!(
                verdict(&world, "ring-a-0"),
                expected,
                "{racks} racks at {level:?}"
            );
        }
        // The schema refuses a quorum of two racks; what is there is judged all the same.
        let world = World::settled(2, 1);
        let mut cluster = world.cluster();
        cluster.consistency.write = ConsistencyLevel::DcQuorum;
        let ring = Ring::new(&cluster, &world.observed);
        let refused = may_leave(&cluster, &ring, &ring.nodes[0]);
        assert_eq!(
            refused,
            Err(Refusal::NoHeadroom {
                ready: 1,
                required: 2
            })
        );
    }

    #[test]
    fn nobody_leaves_while_a_peer_copies() {
        let mut world = World::settled(3, 1);
        world.kill("ring-b-0");
        for _ in 0..3 {
            let plan = world.plan();
            for planned in &plan.actions {
                world.act(&planned.action);
            }
            world.tick();
            if world.lives["ring-b-0"].warming {
                break;
            }
        }
        let peer = "ring-b-0".to_owned();
        assert_eq!(
            verdict(&world, "ring-a-0"),
            Err(Refusal::PeerWarmingUp { peer })
        );
    }

    #[test]
    fn a_lone_rack_leaves_only_with_data_that_it_will_read_again() {
        let mut world = World::settled(1, 1);
        let Some(Seen::Known(report)) = world.observed.reports.get_mut("ring-a-0") else {
            panic!("it was heard");
        };
        report.restart_required = vec!["store.persistence".to_owned()];
        assert_eq!(verdict(&world, "ring-a-0"), Err(Refusal::WouldLoseData));
    }
}
