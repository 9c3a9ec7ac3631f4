//! Conditions: their types, and how one is set without touching what did not change.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The types of conditions a `DynomiteCluster` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// Every node of the declared state is ready.
    Ready,
    /// The operator is changing something, or waits while it does.
    Reconciling,
    /// It does not go on without a person.
    Stalled,
    /// Every token can be served at the configured consistency.
    Available,
    /// The nodes of each token have received the same writes.
    ReplicasLevel,
    /// Every node has its token.
    TokensAssigned,
    /// Every datacenter elsewhere that has a describing URL answers there.
    RemotesKnown,
    /// The last backup is good and not too old.
    BackupHealthy,
    /// The operator changes nothing, because `spec.paused` says so.
    Paused,
}

/// The condition of a backup or a restore that became what it should.
pub const CONDITION_COMPLETED: &str = "Completed";
/// The condition of a backup or a restore that did not.
pub const CONDITION_FAILED: &str = "Failed";
/// The condition of a backup that a store has loaded, and that was right.
pub const CONDITION_VERIFIED: &str = "Verified";

impl ConditionType {
    /// The condition's `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Available => "Available",
            Self::ReplicasLevel => "ReplicasLevel",
            Self::TokensAssigned => "TokensAssigned",
            Self::RemotesKnown => "RemotesKnown",
            Self::BackupHealthy => "BackupHealthy",
            Self::Paused => "Paused",
        }
    }
}

/// The condition of the given type, if it is there.
pub fn condition(conditions: &[Condition], of: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == of.name())
}

/// Sets a condition; its transition time moves only when its status flips.
///
/// `status` is `None` for Unknown. `reason` is `CamelCase` and never empty.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    of: ConditionType,
    status: Option<bool>,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    set_named(
        conditions,
        of.name(),
        status,
        (reason, message),
        generation,
        now,
    );
}

/// Sets a condition of any type, as [`set_condition`] does; `said` is its reason
/// and its message.
fn set_named(
    conditions: &mut Vec<Condition>,
    of: &str,
    status: Option<bool>,
    said: (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let since = conditions
        .iter()
        .find(|c| c.type_ == of)
        .filter(|old| old.status == status)
        .map_or(Time(now), |old| old.last_transition_time.clone());
    let fresh = Condition {
        type_: of.to_owned(),
        status: status.to_owned(),
        reason: said.0.to_owned(),
        message: said.1.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == of) {
        Some(slot) => *slot = fresh,
        None => conditions.push(fresh),
    }
}

/// Sets the conditions Completed and Failed of what ends once, a backup or a restore.
///
/// `said` is the reason, which may be empty while nothing is to be explained, and the message.
pub fn set_outcome(
    conditions: &mut Vec<Condition>,
    completed: bool,
    failed: bool,
    said: (&str, &str),
    now: Timestamp,
) {
    let (reason, message) = said;
    let reason = if reason.is_empty() { "Going" } else { reason };
    for (of, is) in [(CONDITION_COMPLETED, completed), (CONDITION_FAILED, failed)] {
        set_named(conditions, of, Some(is), (reason, message), None, now);
    }
}

/// Sets the condition Verified of a backup; `None` while that is being found out.
pub fn set_verified(
    conditions: &mut Vec<Condition>,
    verified: Option<bool>,
    said: (&str, &str),
    now: Timestamp,
) {
    let (reason, message) = said;
    let reason = if reason.is_empty() { "Going" } else { reason };
    set_named(
        conditions,
        CONDITION_VERIFIED,
        verified,
        (reason, message),
        None,
        now,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let mut list = Vec::new();
        let of = ConditionType::Ready;
        set_condition(&mut list, of, Some(false), "Starting", "a", Some(1), at(10));
        set_condition(&mut list, of, Some(false), "Waiting", "b", Some(2), at(20));
        let got = condition(&list, of).expect("was set");
        assert_eq!(
            (got.last_transition_time.0, got.message.as_str()),
            (at(10), "b")
        );
        set_condition(&mut list, of, Some(true), "AllReady", "c", Some(2), at(30));
        let got = condition(&list, of).expect("was set");
        assert_eq!((got.last_transition_time.0, list.len()), (at(30), 1));
    }
}
