//! From the answers of the racks to the one answer: pure.
//!
//! ```text
//!          ┌────────┐ sent  ┌─────────┐ silence ┌──────────┐
//!          │ Unsent │──────▶│ Pending │────────▶│ Doubtful │
//!          └────────┘       └────┬────┘         └────┬─────┘
//!                                ▼ answer            ▼ answer
//!        Good (executed)    Bad (executed, an error)    Gone (not executed there)
//! ```

use bytes::{Bytes, BytesMut};
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::resp::{reply, write};

use crate::command::{Access, Compare};
use crate::error_text;

/// What one node has said about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Vote {
    /// It has not been asked.
    Unsent,
    /// It has been asked.
    Pending,
    /// It has been asked, but it seems not to answer.
    Doubtful,
    /// It executed the request.
    Good(Bytes),
    /// It executed the request, which failed there.
    Bad(Bytes),
    /// It did not execute the request, or nobody knows; the error to show.
    Gone(Bytes),
}

impl Vote {
    /// Sorts a reply.
    pub(crate) fn from_reply(reply: Bytes) -> Self {
        if !reply::is_error(&reply) {
            Self::Good(reply)
        } else if error_text::is_refusal(&reply) {
            Self::Gone(reply)
        } else {
            Self::Bad(reply)
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Unsent | Self::Pending | Self::Doubtful)
    }
}

/// How answers are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A consistency level over the racks of the datacenter.
    Level(Consistency),
    /// Every node must answer.
    Everyone,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: answers are missing.
    Wait,
    /// This is the answer.
    Done(Bytes),
    /// Ask one more node.
    AskAnother,
}

/// What the votes belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    pub(crate) rule: Rule,
    pub(crate) access: Access,
    /// Position of the own rack's owner among the votes.
    pub(crate) own: usize,
    /// How answers are compared.
    pub(crate) compare: Compare,
}

pub(crate) fn verdict(question: &Question, votes: &[Vote]) -> Verdict {
    match (question.rule, question.access) {
        (Rule::Level(Consistency::DcOne), Access::Read) => one_read(question, votes),
        (Rule::Level(Consistency::DcOne), Access::Write) => one_write(question, votes),
        (Rule::Level(Consistency::DcQuorum), _) => quorum(question, votes, false),
        (Rule::Level(Consistency::DcSafeQuorum), _) => quorum(question, votes, true),
        (Rule::Everyone, _) => everyone(question, votes),
    }
}

fn first_good(votes: &[Vote]) -> Option<Bytes> {
    votes.iter().find_map(|vote| match vote {
        Vote::Good(reply) => Some(reply.clone()),
        _ => None,
    })
}

fn first_bad(votes: &[Vote]) -> Option<Bytes> {
    votes.iter().find_map(|vote| match vote {
        Vote::Bad(reply) => Some(reply.clone()),
        _ => None,
    })
}

/// The error to show when nobody executed the request: the own rack's, since it was asked first.
fn gone(question: &Question, votes: &[Vote]) -> Bytes {
    let own = votes.get(question.own).into_iter();
    own.chain(votes)
        .find_map(|vote| match vote {
            Vote::Gone(reply) => Some(reply.clone()),
            _ => None,
        })
        .unwrap_or_else(|| error_text::reply(error_text::NO_QUORUM))
}

/// The first rack that executes the read answers; a rack in doubt is overtaken by the next one.
fn one_read(question: &Question, votes: &[Vote]) -> Verdict {
    if let Some(reply) = first_good(votes).or_else(|| first_bad(votes)) {
        return Verdict::Done(reply);
    }
    if votes.contains(&Vote::Pending) {
        return Verdict::Wait;
    }
    if votes.contains(&Vote::Unsent) {
        return Verdict::AskAnother;
    }
    if votes.contains(&Vote::Doubtful) {
        return Verdict::Wait;
    }
    Verdict::Done(gone(question, votes))
}

/// The own rack answers. Only when it cannot, another rack that executed the write does: the
/// client then knows that a copy exists, and the own rack's node comes back by a warm-up.
fn one_write(question: &Question, votes: &[Vote]) -> Verdict {
    match votes.get(question.own) {
        Some(Vote::Good(reply) | Vote::Bad(reply)) => return Verdict::Done(reply.clone()),
        Some(Vote::Pending) => return Verdict::Wait,
        _ => {}
    }
    if let Some(reply) = first_good(votes) {
        return Verdict::Done(reply);
    }
    if votes.iter().any(Vote::is_open) {
        return Verdict::Wait;
    }
    Verdict::Done(first_bad(votes).unwrap_or_else(|| gone(question, votes)))
}

/// More than half of the racks, those included that cannot be reached.
fn quorum(question: &Question, votes: &[Vote], must_agree: bool) -> Verdict {
    let needed = votes.len() / 2 + 1;
    let good: Vec<&Bytes> = votes
        .iter()
        .filter_map(|vote| match vote {
            Vote::Good(reply) => Some(reply),
            _ => None,
        })
        .collect();
    let open = votes.iter().filter(|vote| vote.is_open()).count();
    if good.len() >= needed {
        let agreed = good.iter().find(|reply| {
            good.iter()
                .filter(|other| same(reply, other, question.compare))
                .count()
                >= needed
        });
        if let Some(reply) = agreed {
            return Verdict::Done((*reply).clone());
        }
    }
    if good.len() + open < needed {
        return Verdict::Done(first_bad(votes).unwrap_or_else(|| gone(question, votes)));
    }
    if open > 0 {
        return Verdict::Wait;
    }
    let own = match votes.get(question.own) {
        Some(Vote::Good(reply)) => Some(reply),
        _ => None,
    };
    let fallback = if must_agree {
        None
    } else {
        own.or(good.first().copied())
    };
    let by_element = match question.compare {
        Compare::ByElement => majority_by_element(&good, needed, fallback),
        _ => None,
    };
    let reply = by_element.or_else(|| fallback.cloned());
    Verdict::Done(reply.unwrap_or_else(|| error_text::reply(error_text::NO_QUORUM)))
}

/// One value per key: each that has a majority, else the one of the `fallback`. Nothing when a
/// value has neither, or the answers are no lists of one length.
fn majority_by_element(good: &[&Bytes], needed: usize, fallback: Option<&Bytes>) -> Option<Bytes> {
    let lists: Option<Vec<Vec<Bytes>>> = good.iter().map(|reply| reply::elements(reply)).collect();
    let lists = lists?;
    let fallback = fallback.and_then(reply::elements);
    let length = lists.first()?.len();
    if lists.iter().any(|list| list.len() != length) {
        return None;
    }
    let mut out = BytesMut::new();
    write::array(&mut out, length);
    for at in 0..length {
        let values = || lists.iter().map(|list| &list[at]);
        let agreed =
            values().find(|value| values().filter(|other| other == value).count() >= needed);
        let own = fallback.as_ref().and_then(|list| list.get(at));
        out.extend_from_slice(agreed.or(own)?);
    }
    Some(out.freeze())
}

fn same(a: &Bytes, b: &Bytes, compare: Compare) -> bool {
    if a == b {
        return true;
    }
    if compare != Compare::AsSets || a.len() != b.len() {
        return false;
    }
    match (reply::elements(a), reply::elements(b)) {
        (Some(mut a), Some(mut b)) => {
            a.sort_unstable();
            b.sort_unstable();
            a == b
        }
        _ => false,
    }
}

fn everyone(question: &Question, votes: &[Vote]) -> Verdict {
    if votes.iter().any(Vote::is_open) {
        return Verdict::Wait;
    }
    let reply = first_bad(votes).or_else(|| first_good(votes));
    Verdict::Done(reply.unwrap_or_else(|| gone(question, votes)))
}

#[cfg(test)]
mod tests;
