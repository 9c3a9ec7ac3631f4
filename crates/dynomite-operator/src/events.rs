//! The Events on a `DynomiteCluster`: what changed, told once when it changes, never in steady state.

use dynomite_api::contract::NodePhase;
use dynomite_api::crd::{ConditionType, DynomiteClusterStatus, NodeStatus, condition};

/// How many Events one pass may write about nodes: when a whole ring goes, one
/// Event for each of hundreds of nodes tells less than the first few.
const NODES_TOLD_MAX: usize = 8;

/// Why an Event is written, beside those the planner plans. `docs/events.md` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every node has its token.
    TokensAssigned,
    /// Every node is ready.
    Ready,
    /// A node that was ready is not.
    NodeLost,
    /// A node is ready again.
    NodeReturned,
    /// A node copies its data.
    WarmingUp,
    /// A node could not do what it should.
    NodeFailed,
    /// Something is wrong with a node; the message begins with one word for it.
    NodeFinding,
    /// It is over.
    NodeFindingOver,
    /// A token cannot be served at the configured consistency.
    Unavailable,
    /// Every token can be served again.
    AvailableAgain,
    /// The operator does not go on without a person.
    Stalled,
    /// It goes on.
    GoesOn,
    /// A datacenter elsewhere does not describe itself.
    RemoteUnanswered,
    /// It does again.
    RemoteAnswers,
    /// `spec.paused` was set.
    Paused,
    /// `spec.paused` was removed.
    Resumed,
}

impl Reason {
    /// All reasons, in the order of the page.
    pub const ALL: [Self; 16] = [
        Self::TokensAssigned,
        Self::Ready,
        Self::NodeLost,
        Self::NodeReturned,
        Self::WarmingUp,
        Self::NodeFailed,
        Self::NodeFinding,
        Self::NodeFindingOver,
        Self::Unavailable,
        Self::AvailableAgain,
        Self::Stalled,
        Self::GoesOn,
        Self::RemoteUnanswered,
        Self::RemoteAnswers,
        Self::Paused,
        Self::Resumed,
    ];

    /// The Event's `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokensAssigned => "TokensAssigned",
            Self::Ready => "Ready",
            Self::NodeLost => "NodeLost",
            Self::NodeReturned => "NodeReturned",
            Self::WarmingUp => "WarmingUp",
            Self::NodeFailed => "NodeFailed",
            Self::NodeFinding => "NodeFinding",
            Self::NodeFindingOver => "NodeFindingOver",
            Self::Unavailable => "Unavailable",
            Self::AvailableAgain => "AvailableAgain",
            Self::Stalled => "Stalled",
            Self::GoesOn => "GoesOn",
            Self::RemoteUnanswered => "RemoteUnanswered",
            Self::RemoteAnswers => "RemoteAnswers",
            Self::Paused => "Paused",
            Self::Resumed => "Resumed",
        }
    }

    /// Whether it asks for attention.
    pub fn warns(self) -> bool {
        matches!(
            self,
            Self::NodeLost
                | Self::NodeFailed
                | Self::NodeFinding
                | Self::Unavailable
                | Self::Stalled
                | Self::RemoteUnanswered
        )
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// What has changed from one status to the next that people should hear of.
pub fn changes(old: &DynomiteClusterStatus, new: &DynomiteClusterStatus) -> Vec<Told> {
    let mut told = Vec::new();
    let mut tell = |reason, message: String| told.push(Told { reason, message });
    let is = |status: &DynomiteClusterStatus, of| {
        condition(&status.conditions, of).map(|c| c.status == "True")
    };
    let words = |of| {
        condition(&new.conditions, of)
            .map(|c| c.message.clone())
            .unwrap_or_default()
    };
    let flips = [
        (
            ConditionType::TokensAssigned,
            Some(Reason::TokensAssigned),
            None,
        ),
        (ConditionType::Ready, Some(Reason::Ready), None),
        (
            ConditionType::Stalled,
            Some(Reason::Stalled),
            Some(Reason::GoesOn),
        ),
        (
            ConditionType::Paused,
            Some(Reason::Paused),
            Some(Reason::Resumed),
        ),
    ];
    for (of, on_true, on_false) in flips {
        let reason = match (is(old, of), is(new, of)) {
            (was, Some(true)) if was != Some(true) => on_true,
            (Some(true), now) if now != Some(true) => on_false,
            _ => None,
        };
        if let Some(reason) = reason {
            tell(reason, words(of));
        }
    }
    let remotes = (
        is(old, ConditionType::RemotesKnown),
        is(new, ConditionType::RemotesKnown),
    );
    match remotes {
        (None | Some(true), Some(false)) => {
            tell(Reason::RemoteUnanswered, words(ConditionType::RemotesKnown));
        }
        (Some(false), Some(true)) => {
            tell(Reason::RemoteAnswers, words(ConditionType::RemotesKnown));
        }
        _ => {}
    }
    // Before a ring has served, nothing was there that could be lost.
    if new.served_since.is_some() && has_been_available(old) {
        match (
            is(old, ConditionType::Available),
            is(new, ConditionType::Available),
        ) {
            (Some(true), Some(false)) => {
                tell(Reason::Unavailable, words(ConditionType::Available));
            }
            (Some(false), Some(true)) => {
                tell(Reason::AvailableAgain, words(ConditionType::Available));
            }
            _ => {}
        }
        // While a ring comes up its nodes become ready for the first time.
        let returns = has_been_ready(old);
        let news = nodes(old, new).filter(|(reason, _)| returns || *reason != Reason::NodeReturned);
        for (reason, message) in news.take(NODES_TOLD_MAX) {
            tell(reason, message);
        }
    }
    told
}

/// Whether the ring had been open to clients and available at least once: its
/// nodes become ready one by one just after it was opened.
fn has_been_available(status: &DynomiteClusterStatus) -> bool {
    let Some(since) = &status.served_since else {
        return false;
    };
    condition(&status.conditions, ConditionType::Available)
        .is_some_and(|c| c.status == "True" || c.last_transition_time.0 > since.0)
}

/// Whether every node has been ready at least once since the ring serves.
fn has_been_ready(status: &DynomiteClusterStatus) -> bool {
    let Some(since) = &status.served_since else {
        return false;
    };
    condition(&status.conditions, ConditionType::Ready)
        .is_some_and(|c| c.status == "True" || c.last_transition_time.0 > since.0)
}

/// What happened to the nodes of a ring that has served.
fn nodes<'a>(
    old: &'a DynomiteClusterStatus,
    new: &'a DynomiteClusterStatus,
) -> impl Iterator<Item = (Reason, String)> + 'a {
    let before = |name: &str| {
        old.racks
            .iter()
            .flat_map(|rack| &rack.nodes)
            .find(|node| node.name == name)
    };
    new.racks
        .iter()
        .flat_map(|rack| &rack.nodes)
        .filter_map(move |node| Some((before(&node.name)?, node)))
        .flat_map(|(was, is)| node_change(was, is).into_iter().chain(findings(was, is)))
}

/// What is wrong with a node since now, and what no more. A node that failed is
/// told of by an Event of its own.
fn findings(was: &NodeStatus, is: &NodeStatus) -> Vec<(Reason, String)> {
    let name = &is.name;
    let lacks = |node: &NodeStatus, reason: &str| {
        reason != Reason::NodeFailed.name() && node.findings.iter().all(|f| f.reason != reason)
    };
    let fresh = is.findings.iter().filter(|f| lacks(was, &f.reason));
    let over = was.findings.iter().filter(|f| lacks(is, &f.reason));
    let told = fresh.map(|f| {
        let words = format!("node {name}: {}: {}", f.reason, f.message);
        (Reason::NodeFinding, words)
    });
    let untold = over.map(|f| {
        let words = format!("node {name}: {} is over", f.reason);
        (Reason::NodeFindingOver, words)
    });
    told.chain(untold).collect()
}

fn node_change(was: &NodeStatus, is: &NodeStatus) -> Option<(Reason, String)> {
    let name = &is.name;
    if is.ready && !was.ready {
        return Some((Reason::NodeReturned, format!("node {name} is ready")));
    }
    if was.ready && !is.ready {
        return Some((
            Reason::NodeLost,
            format!("node {name} is not ready: {}", is.message),
        ));
    }
    if was.phase == is.phase {
        return None;
    }
    match is.phase? {
        NodePhase::WarmingUp => {
            let donor = is.warm_up.as_ref().map_or("", |warm_up| &warm_up.donor);
            Some((
                Reason::WarmingUp,
                format!("node {name} copies its data from {donor}"),
            ))
        }
        NodePhase::Failed => Some((Reason::NodeFailed, format!("node {name}: {}", is.message))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::Token;
    use dynomite_api::crd::{FindingStatus, RackStatus, set_condition};
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(nodes: &[(&str, bool, NodePhase)]) -> DynomiteClusterStatus {
        let nodes = nodes.iter().map(|(name, ready, phase)| NodeStatus {
            name: (*name).to_owned(),
            token: Token(1),
            pod_uid: None,
            addresses: Vec::new(),
            kubernetes_node: None,
            zone: None,
            phase: Some(*phase),
            since: None,
            ready: *ready,
            message: String::new(),
            warm_up: None,
            findings: Vec::new(),
        });
        let status = DynomiteClusterStatus {
            served_since: Some(Time(Timestamp::UNIX_EPOCH)),
            racks: vec![RackStatus {
                name: "a".into(),
                ready: String::new(),
                message: String::new(),
                nodes: nodes.collect(),
            }],
            ..DynomiteClusterStatus::default()
        };
        let status = with(status, ConditionType::Available, true);
        with(status, ConditionType::Ready, true)
    }

    fn with(
        mut status: DynomiteClusterStatus,
        of: ConditionType,
        is: bool,
    ) -> DynomiteClusterStatus {
        let later = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1);
        set_condition(&mut status.conditions, of, Some(is), "R", "m", None, later);
        status
    }

    fn reasons(old: &DynomiteClusterStatus, new: &DynomiteClusterStatus) -> Vec<Reason> {
        changes(old, new)
            .into_iter()
            .map(|told| told.reason)
            .collect()
    }

    #[test]
    fn nothing_is_told_of_what_stays_as_it_is() {
        for ready in [true, false] {
            let status = with(
                status(&[("x", ready, NodePhase::Failed)]),
                ConditionType::Stalled,
                true,
            );
            assert!(reasons(&status, &status).is_empty());
        }
    }

    #[test]
    fn each_change_is_told_by_its_own_reason() {
        use NodePhase::{Failed, Serving, Starting, WarmingUp};
        let table = [
            (
                ("x", true, Serving),
                ("x", false, Starting),
                Reason::NodeLost,
            ),
            (
                ("x", false, WarmingUp),
                ("x", true, Serving),
                Reason::NodeReturned,
            ),
            (
                ("x", false, Starting),
                ("x", false, WarmingUp),
                Reason::WarmingUp,
            ),
            (
                ("x", false, WarmingUp),
                ("x", false, Failed),
                Reason::NodeFailed,
            ),
        ];
        for (old, new, reason) in table {
            assert_eq!(reasons(&status(&[old]), &status(&[new])), [reason]);
        }
        let flips = [
            (
                ConditionType::Available,
                Reason::AvailableAgain,
                Some(Reason::Unavailable),
            ),
            (
                ConditionType::Stalled,
                Reason::Stalled,
                Some(Reason::GoesOn),
            ),
            (ConditionType::Paused, Reason::Paused, Some(Reason::Resumed)),
            (
                ConditionType::RemotesKnown,
                Reason::RemoteAnswers,
                Some(Reason::RemoteUnanswered),
            ),
            (ConditionType::Ready, Reason::Ready, None),
        ];
        for (of, on_true, on_false) in flips {
            let (no, yes) = (with(status(&[]), of, false), with(status(&[]), of, true));
            assert_eq!(reasons(&no, &yes), [on_true]);
            assert_eq!(reasons(&yes, &no), on_false.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_finding_is_told_when_it_begins_and_when_it_is_over() {
        let old = status(&[("x", true, NodePhase::Serving)]);
        let mut new = old.clone();
        new.racks[0].nodes[0].findings = ["StoreHangs", "NodeFailed"]
            .map(|reason| FindingStatus {
                reason: reason.to_owned(),
                message: "m".to_owned(),
                since: None,
            })
            .to_vec();
        assert_eq!(reasons(&old, &new), [Reason::NodeFinding]);
        assert_eq!(changes(&old, &new)[0].message, "node x: StoreHangs: m");
        assert_eq!(reasons(&new, &old), [Reason::NodeFindingOver]);
        assert!(reasons(&new, &new).is_empty());
    }

    #[test]
    fn a_ring_that_never_served_loses_nothing() {
        let mut old = status(&[("x", true, NodePhase::Serving)]);
        let mut new = status(&[("x", false, NodePhase::Starting)]);
        (old.served_since, new.served_since) = (None, None);
        assert!(reasons(&old, &new).is_empty());
        new.served_since = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(reasons(&old, &new).is_empty());
        // Its nodes become ready one by one after it was opened.
        old.served_since.clone_from(&new.served_since);
        old = with(old, ConditionType::Available, false);
        let opened = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        old.served_since = Some(Time(opened));
        assert!(reasons(&old, &new).is_empty());
    }

    #[test]
    fn a_node_returns_only_to_a_ring_that_was_complete() {
        let mut old = status(&[("x", false, NodePhase::Held)]);
        let new = status(&[("x", true, NodePhase::Serving)]);
        // Two racks of three serve, and the third comes up: it was never away.
        let ready = |c: &&mut Condition| c.type_ == ConditionType::Ready.name();
        let first = old.conditions.iter_mut().find(ready).expect("it is there");
        first.status = "False".to_owned();
        first.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        assert_eq!(reasons(&old, &new), [Reason::Ready]);
        // It was complete, and a node went.
        let flipped = old.conditions.iter_mut().find(ready).expect("it is there");
        flipped.last_transition_time = Time(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1));
        assert_eq!(reasons(&old, &new), [Reason::Ready, Reason::NodeReturned]);
    }

    /// The reasons in the planner's source, which tells of what it does itself.
    fn planned() -> Vec<String> {
        let planner = concat!(env!("CARGO_MANIFEST_DIR"), "/../dynomite-planner/src");
        let mut found = Vec::new();
        let folders = ["steps", "backup", "restore"].map(|name| format!("{planner}/{name}"));
        let files = folders.iter().flat_map(std::fs::read_dir).flatten();
        for file in files.map(|file| file.expect("a file").path()) {
            if file.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(file).expect("text");
            for (at, _) in text.match_indices("Action::Event {") {
                let reason = text[at..].split("reason: \"").nth(1);
                found.extend(reason.and_then(|rest| rest.split('"').next().map(str::to_owned)));
            }
            // Where kind, reason and message are chosen together.
            for kind in ["EventKind::Normal,", "EventKind::Warning,"] {
                for (at, _) in text.match_indices(kind) {
                    let rest = text[at + kind.len()..].trim_start().strip_prefix('"');
                    let reason = rest.and_then(|rest| rest.split('"').next());
                    found.extend(reason.map(str::to_owned));
                }
            }
        }
        found
    }

    #[test]
    fn the_page_explains_every_reason_and_no_other() {
        let page = include_str!("../../../docs/events.md");
        let explained: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let mut all: Vec<String> = Reason::ALL.map(|reason| reason.name().to_owned()).to_vec();
        let planned = planned();
        assert!(!planned.is_empty());
        all.extend(planned);
        for reason in &all {
            assert!(
                explained.contains(&reason.as_str()),
                "{reason} is not explained"
            );
        }
        for reason in explained {
            assert!(
                all.iter().any(|known| known == reason),
                "{reason} is never written"
            );
        }
    }
}
