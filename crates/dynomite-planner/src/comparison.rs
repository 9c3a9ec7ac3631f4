//! When the replicas of a token are compared key by key, and who is told of it.
//!
//! ```text
//!  due: a replica is another incarnation, the interval has passed, or the last round left something
//!    --nothing moves, all ready and level--> ordered (one token at a time) --finished--> withdrawn
//! ```
//!
//! Nothing is remembered here: rounds are numbered by what the nodes report, so an
//! operator that starts anew goes on with the round that is under way.

use dynomite_api::Token;
use dynomite_api::contract::{CompareOrder, CompareReport, CompareRound, Donor};
use dynomite_api::crd::BackupTokenPhase;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::Cluster;
use crate::compare;
use crate::observed::Observed;
use crate::ring::{Node, Ring};
use crate::steps::donor;

/// How long the replicas of a token must have been the same incarnations: what
/// follows a restart has settled by then.
const CALM: SignedDuration = SignedDuration::from_secs(60);

/// When a comparison that was broken off is tried again.
const AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// Reasons for which a round ends early when the ring changes meanwhile: it is
/// tried again, and what is wrong is told elsewhere.
const PASSING: [&str; 3] = ["Withdrawn", "ReplicaAway", "StoreAway"];

/// What is compared now, and when that is to be decided anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    round: Option<Round>,
    /// When the next comparison is due, where none is under way.
    pub(crate) due: Option<Timestamp>,
}

/// A comparison that is to be under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Round {
    token: Token,
    number: u64,
    basis: String,
}

/// The replicas of a token that can be compared, in the order in which their
/// values count; the first leads.
struct Replicas<'r, 'a> {
    token: Token,
    nodes: Vec<&'r Node<'a>>,
    said: Vec<&'r CompareReport>,
}

/// Decides what is compared now.
pub(crate) fn next(
    cluster: &Cluster,
    observed: &Observed,
    ring: &Ring<'_>,
    now: Timestamp,
) -> Next {
    if !is_quiet(cluster, observed, ring) {
        return Next::default();
    }
    let tokens = ring.tokens.by_ordinal.iter();
    let all: Vec<Replicas<'_, '_>> = tokens.filter_map(|token| replicas(ring, *token)).collect();
    if let Some((of, number)) = all.iter().find_map(|of| Some((of, of.under_way()?))) {
        return of.round(number);
    }
    let interval = SignedDuration::from_secs(i64::from(cluster.spec.compare.interval_seconds));
    let due = all.iter().map(|of| (of.due(interval), of));
    // Tokens that are due at once: the first of them.
    let Some((due, of)) = due.min_by_key(|(due, _)| *due) else {
        return Next::default();
    };
    if due > now {
        return Next {
            round: None,
            due: Some(due),
        };
    }
    let led = of
        .said
        .iter()
        .filter_map(|said| Some(said.last.as_ref()?.round));
    let after = led.max().unwrap_or(0).saturating_add(1);
    // One that only some have been told of yet is this one.
    let told = of.said.iter().filter_map(|said| said.ordered);
    of.round(told.fold(after, u64::max))
}

/// Whether a comparison may go on: nobody copies, leaves, or is behind, and no
/// backup is taken. All of these go before it.
fn is_quiet(cluster: &Cluster, observed: &Observed, ring: &Ring<'_>) -> bool {
    let levels = &ring.levels;
    let taking = observed.backups.values().any(|backup| {
        let tokens = backup.status.iter().flat_map(|status| &status.tokens);
        let mut phases = tokens.map(|token| token.phase);
        phases.any(|phase| phase == BackupTokenPhase::Running)
    });
    cluster.spec.compare.enabled
        && cluster.racks.len() > 1
        && ring.served_since.is_some()
        && ring.leaving.is_empty()
        && ring.nodes.iter().all(Node::ready)
        && levels.all_behind().next().is_none()
        && levels.all_cut_off().next().is_none()
        && !taking
        && crate::restore::in_the_way(cluster, observed).is_none()
}

/// The replicas of a token, if all of them know what a comparison is.
fn replicas<'r, 'a>(ring: &'r Ring<'a>, token: Token) -> Option<Replicas<'r, 'a>> {
    let nodes: Vec<&Node<'a>> = ring.replicas(token).collect();
    let said = nodes.iter().map(|node| said(node)).collect::<Option<_>>()?;
    Some(Replicas { token, nodes, said })
}

/// What a node says of comparisons, if it knows what that is.
pub(crate) fn said<'n>(node: &'n Node<'_>) -> Option<&'n CompareReport> {
    node.report.as_ref().ok()?.compare.as_ref()
}

impl Replicas<'_, '_> {
    /// The round that the leader has been told of and has not ended.
    fn under_way(&self) -> Option<u64> {
        let leader = self.said.first()?;
        let ordered = leader.ordered?;
        let ended = |last: &CompareRound| last.round == ordered && last.finished_at.is_some();
        (!leader.last.as_ref().is_some_and(ended)).then_some(ordered)
    }

    fn round(&self, number: u64) -> Next {
        let round = Round {
            token: self.token,
            number,
            basis: self.basis(),
        };
        Next {
            round: Some(round),
            due: None,
        }
    }

    /// Which incarnations these are.
    fn basis(&self) -> String {
        let of = self.nodes.iter().map(|node| {
            let report = node.report.as_ref().ok();
            let engine = report.and_then(|report| report.engine.as_ref());
            let store = report.and_then(|report| report.store.as_ref());
            (
                node.pod_uid(),
                report.and_then(|report| report.proof.since),
                engine.map(|engine| engine.incarnation.as_str()),
                store.map(|store| store.run_id.as_str()),
            )
        });
        compare::digest(&of.collect::<Vec<_>>())
    }

    /// Since when they are.
    fn settled(&self) -> Timestamp {
        let since = self.nodes.iter().filter_map(|node| {
            let report = node.report.as_ref().ok()?;
            let engine = report.engine.as_ref().and_then(|engine| {
                let up = SignedDuration::from_secs(i64::try_from(engine.uptime_seconds).ok()?);
                report.at.checked_sub(up).ok()
            });
            report.proof.since.max(engine)
        });
        since.max().unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn due(&self, interval: SignedDuration) -> Timestamp {
        let calm = interval.min(CALM);
        let after = |at: Timestamp, pause| at.checked_add(pause).unwrap_or(Timestamp::MAX);
        let settled = after(self.settled(), calm);
        let Some(last) = self.said.first().and_then(|leader| leader.last.as_ref()) else {
            return settled;
        };
        let ended = last.finished_at.unwrap_or(last.started_at);
        let found = &last.found;
        let pause = if last.broken.is_some() {
            interval.min(AGAIN)
        } else if found.more || (found.left > 0 && found.repaired > 0) {
            calm
        } else {
            interval
        };
        let next = after(ended, pause);
        if last.basis == self.basis() {
            next
        } else {
            next.min(settled.max(after(ended, calm)))
        }
    }
}

/// What a node is to be told.
pub(crate) fn order(
    cluster: &Cluster,
    ring: &Ring<'_>,
    next: &Next,
    node: &Node<'_>,
) -> Option<CompareOrder> {
    let round = next.round.as_ref().filter(|r| r.token == node.token)?;
    let replicas: Vec<Donor> = ring.replicas(node.token).map(donor).collect();
    Some(CompareOrder {
        pod_uid: node.pod_uid().to_owned(),
        round: round.number,
        basis: round.basis.clone(),
        leader: replicas.first()?.name.clone(),
        replicas,
        repair: cluster.spec.compare.repair,
    })
}

/// The last comparison that a node has led to its end.
pub(crate) fn ended<'n>(node: &'n Node<'_>) -> Option<&'n CompareRound> {
    let last = said(node)?.last.as_ref()?;
    last.finished_at.is_some().then_some(last)
}

/// How many keys a node has found to differ, and they still do, for all that is known.
pub(crate) fn left(node: &Node<'_>) -> u64 {
    said(node).map_or(0, |said| said.left)
}

/// Why a node could not compare its token.
pub(crate) fn failed<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    let broken = ended(node)?.broken.as_ref()?;
    (!PASSING.contains(&broken.reason.as_str())).then_some(&broken.message)
}
