//! Whether a node takes a desired document: compare-and-set, for the right pod and cluster, never backwards.

use dynomite_api::contract::NodeDesired;
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
    /// It was decided for another cluster.
    #[error("this pod belongs to cluster {held:?}, the document is of cluster {given:?}")]
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
/// A document of an earlier pod (its volume moved over) counts as held: it
/// orders what follows. Only its cluster may be replaced by another, because a
/// cluster that was made again under its old name adopts the volumes.
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
    if held.node.pod_uid == pod_uid {
        return Err(Refusal::Cluster {
            held: held.cluster.uid.clone(),
            given: given.cluster.uid.clone(),
        });
    }
    follows(expected, given)
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
