//! Whether a node takes a desired document: compare-and-set, for the right pod and cluster, never backwards.

use std::cmp::Ordering;

use dynomite_api::contract::{ClusterRef, NodeDesired};
use thiserror::Error;

/// Why a desired document was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It was written for another pod.
    #[error("this is pod {own:?}, the document is for pod {given:?}")]
    Pod {
        /// This pod's UID.
        own: String,
        /// The UID in the document.
        given: String,
    },
    /// It was decided for another cluster, or for an earlier one of the same name.
    #[error(
        "this pod belongs to cluster {held:?}, the document is of cluster {given:?}, which is not known to be a later one of the same name"
    )]
    Cluster {
        /// UID of the cluster the node belongs to.
        held: String,
        /// The UID in the document.
        given: String,
    },
    /// It does not follow the document that the node holds.
    #[error("the document that follows must have generation {expected}, this one has {given}")]
    Generation {
        /// The only generation that is taken now.
        expected: u64,
        /// The generation in the document.
        given: u64,
    },
    /// It was decided from an older resource than the document the node holds.
    #[error("the node holds a document of cluster generation {held}, this one is of {given}")]
    ClusterGeneration {
        /// The cluster generation the node holds.
        held: i64,
        /// The one in the document.
        given: i64,
    },
    /// It makes another node of this one: its data belongs to its token.
    #[error("{what} is {held} for life, the document says {given}")]
    Identity {
        /// Which part of the identity.
        what: &'static str,
        /// What the node is.
        held: String,
        /// What the document says.
        given: String,
    },
}

/// Whether the pod `pod_uid`, which holds `held`, takes `given`.
///
/// A cluster that was made again under its old name takes over its pods as they
/// run. Only the later incarnation does: an operator that still sees the earlier
/// one cannot take them back.
///
/// A document of an earlier pod (its volume moved over) counts as held: it
/// orders what follows. Its cluster may be replaced by any that is not an
/// earlier incarnation, because a new ring adopts the volumes it is given.
pub fn accept(
    pod_uid: &str,
    held: Option<&NodeDesired>,
    given: &NodeDesired,
) -> Result<(), Refusal> {
    if given.node.pod_uid != pod_uid {
        return Err(Refusal::Pod {
            own: pod_uid.to_owned(),
            given: given.node.pod_uid.clone(),
        });
    }
    let expected = held.map_or(1, |held| held.generation.saturating_add(1));
    let Some(held) = held else {
        return follows(expected, given);
    };
    if held.cluster.uid == given.cluster.uid {
        same_identity(held, given)?;
        follows(expected, given)?;
        if given.cluster_generation < held.cluster_generation {
            return Err(Refusal::ClusterGeneration {
                held: held.cluster_generation,
                given: given.cluster_generation,
            });
        }
        return Ok(());
    }
    let same_pod = held.node.pod_uid == pod_uid;
    let may_follow = match order(&held.cluster, &given.cluster) {
        Some(order) => order.is_gt(),
        None => !same_pod,
    };
    if !may_follow {
        return Err(Refusal::Cluster {
            held: held.cluster.uid.clone(),
            given: given.cluster.uid.clone(),
        });
    }
    if same_pod {
        same_identity(held, given)?;
    }
    follows(expected, given)
}

/// How `given` stands to `held` in time, if both are incarnations of one
/// cluster. A document that does not say when its cluster was made comes from
/// an operator of before: it counts as the earliest.
fn order(held: &ClusterRef, given: &ClusterRef) -> Option<Ordering> {
    let name = |of: &ClusterRef| (of.namespace.clone(), of.name.clone());
    let known = held.created.is_some() || given.created.is_some();
    (known && name(held) == name(given)).then(|| given.created.cmp(&held.created))
}

fn follows(expected: u64, given: &NodeDesired) -> Result<(), Refusal> {
    if given.generation == expected {
        return Ok(());
    }
    Err(Refusal::Generation {
        expected,
        given: given.generation,
    })
}

/// A node keeps its place in the ring as long as its cluster lives.
fn same_identity(held: &NodeDesired, given: &NodeDesired) -> Result<(), Refusal> {
    let (was, is) = (&held.node, &given.node);
    let parts = [
        ("the token", was.token.to_string(), is.token.to_string()),
        ("the rack", was.rack.clone(), is.rack.clone()),
        (
            "the datacenter",
            was.datacenter.clone(),
            is.datacenter.clone(),
        ),
    ];
    for (what, held, given) in parts {
        if held != given {
            return Err(Refusal::Identity { what, held, given });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dynomite_api::Token;
    use dynomite_api::contract::{
        Consistency, EngineSettings, HealthSettings, NodeIdentity, StoreSettings,
    };

    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).expect("in range")
    }

    fn document(generation: u64) -> NodeDesired {
        NodeDesired {
            cluster: ClusterRef {
                namespace: "default".to_owned(),
                name: "ring".to_owned(),
                uid: "c1".to_owned(),
                created: Some(at(100)),
            },
            cluster_generation: 5,
            generation,
            node: NodeIdentity {
                name: "ring-a-0".to_owned(),
                pod_uid: "p1".to_owned(),
                datacenter: "dc1".to_owned(),
                rack: "a".to_owned(),
                token: Token(7),
                host: "ring-a-0.nodes".to_owned(),
            },
            peers: Vec::new(),
            donors: Vec::new(),
            grant: None,
            copy_not_before: None,
            snapshot: None,
            restore: None,
            compare: None,
            distrust: None,
            hold: None,
            serve: true,
            consistency: Consistency::default(),
            engine: EngineSettings::default(),
            store: StoreSettings::default(),
            health: HealthSettings::default(),
        }
    }

    fn with(generation: u64, change: impl FnOnce(&mut NodeDesired)) -> NodeDesired {
        let mut document = document(generation);
        change(&mut document);
        document
    }

    fn verdict(held: Option<&NodeDesired>, given: &NodeDesired) -> &'static str {
        match accept("p1", held, given) {
            Ok(()) => "taken",
            Err(Refusal::Pod { .. }) => "pod",
            Err(Refusal::Cluster { .. }) => "cluster",
            Err(Refusal::Generation { .. }) => "generation",
            Err(Refusal::ClusterGeneration { .. }) => "cluster generation",
            Err(Refusal::Identity { what, .. }) => what,
        }
    }

    #[test]
    fn the_first_document_has_generation_one_and_names_this_pod() {
        assert_eq!(verdict(None, &document(1)), "taken");
        assert_eq!(verdict(None, &document(0)), "generation");
        assert_eq!(verdict(None, &document(9)), "generation");
        let other = with(1, |given| given.node.pod_uid = "p2".to_owned());
        assert_eq!(verdict(None, &other), "pod");
    }

    #[test]
    fn a_document_follows_the_one_that_is_held() {
        let held = document(3);
        let table: Vec<(&str, NodeDesired)> = vec![
            ("taken", document(4)),
            ("generation", document(3)),
            ("generation", document(2)),
            ("generation", document(5)),
            ("taken", with(4, |given| given.cluster_generation = 6)),
            (
                "cluster generation",
                with(4, |given| given.cluster_generation = 4),
            ),
            ("pod", with(4, |given| given.node.pod_uid = "p0".to_owned())),
            (
                "cluster",
                with(4, |given| given.cluster.uid = "c2".to_owned()),
            ),
            ("the token", with(4, |given| given.node.token = Token(8))),
            (
                "the rack",
                with(4, |given| given.node.rack = "b".to_owned()),
            ),
            (
                "the datacenter",
                with(4, |given| given.node.datacenter = "dc2".to_owned()),
            ),
        ];
        for (expected, given) in table {
            assert_eq!(verdict(Some(&held), &given), expected, "{given:?}");
        }
    }

    #[test]
    fn only_a_later_incarnation_takes_over_a_pod_that_runs() {
        type Change = fn(&mut NodeDesired);
        let table: Vec<(&str, Change)> = vec![
            ("taken", |given| given.cluster.created = Some(at(101))),
            ("cluster", |_| ()),
            ("cluster", |given| given.cluster.created = Some(at(99))),
            ("cluster", |given| given.cluster.created = None),
            ("cluster", |given| {
                given.cluster.created = Some(at(101));
                given.cluster.name = "other".to_owned();
            }),
            ("cluster", |given| {
                given.cluster.created = Some(at(101));
                given.cluster.namespace = "other".to_owned();
            }),
            ("the token", |given| {
                given.cluster.created = Some(at(101));
                given.node.token = Token(8);
            }),
            ("generation", |given| {
                given.cluster.created = Some(at(101));
                given.generation = 1;
            }),
        ];
        let held = document(3);
        for (expected, change) in table {
            let given = with(4, |given| {
                given.cluster.uid = "c2".to_owned();
                // A resource that was made again begins to count anew.
                given.cluster_generation = 1;
                change(given);
            });
            assert_eq!(verdict(Some(&held), &given), expected, "{given:?}");
            if expected == "taken" {
                // Whoever still sees the earlier one cannot take it back.
                let late = with(5, |late| late.cluster_generation = 99);
                assert_eq!(verdict(Some(&given), &late), "cluster");
            }
        }
        // The operator of before did not say when the cluster was made.
        let untold = with(3, |held| held.cluster.created = None);
        let later = with(4, |given| given.cluster.uid = "c2".to_owned());
        assert_eq!(verdict(Some(&untold), &later), "taken");
        let mut both = later.clone();
        both.cluster.created = None;
        assert_eq!(verdict(Some(&untold), &both), "cluster");
    }

    #[test]
    fn an_earlier_incarnation_does_not_get_a_volume_that_moved() {
        let moved = |created: i64| {
            with(3, |held| {
                held.node.pod_uid = "p0".to_owned();
                held.cluster.uid = "c2".to_owned();
                held.cluster.created = Some(at(created));
            })
        };
        assert_eq!(verdict(Some(&moved(99)), &document(4)), "taken");
        assert_eq!(verdict(Some(&moved(101)), &document(4)), "cluster");
    }

    #[test]
    fn a_volume_that_moved_to_a_new_pod_keeps_the_order_and_the_token() {
        let held = with(3, |held| held.node.pod_uid = "p0".to_owned());
        assert_eq!(verdict(Some(&held), &document(4)), "taken");
        assert_eq!(verdict(Some(&held), &document(1)), "generation");
        let other_token = with(4, |given| given.node.token = Token(8));
        assert_eq!(verdict(Some(&held), &other_token), "the token");
    }

    #[test]
    fn a_cluster_made_again_adopts_the_volume_of_its_predecessor() {
        let held = with(3, |held| {
            held.node.pod_uid = "p0".to_owned();
            held.cluster.uid = "c0".to_owned();
            held.cluster.created = None;
            held.cluster_generation = 99;
        });
        assert_eq!(verdict(Some(&held), &document(4)), "taken");
        assert_eq!(verdict(Some(&held), &document(1)), "generation");
    }
}
