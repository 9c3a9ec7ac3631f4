//! One request on its way: its parts, whom each was sent to, what they said.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::resp::{reply, write};
use dynomite_protocol::token::Token;
use smallvec::SmallVec;

use crate::command::Access;
use crate::error_text;
use crate::numbers::Tag;
use crate::output::{LinkId, SessionId};
use crate::verdict::{Question, Verdict, Vote, verdict};

slotmap::new_key_type! {
    /// One request in flight.
    pub(crate) struct JobId;
}

/// Which vote of which request a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) job: JobId,
    pub(crate) part: u32,
    pub(crate) vote: u32,
}

/// What one node, or one group of racks, is asked.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) payload: Bytes,
    pub(crate) question: Question,
    pub(crate) targets: SmallVec<[LinkId; 3]>,
    pub(crate) votes: SmallVec<[Vote; 3]>,
    pub(crate) answer: Option<Bytes>,
    pub(crate) numbering: Numbering,
}

/// Which number a write has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// None: it is a read, or comes from an engine that gives none.
    None,
    /// The next one of this token, for the nodes that have it.
    Home(Token),
    /// For each node the next one of its own token.
    Each,
    /// The one its coordinator gave it.
    Given(Tag),
}

impl Part {
    pub(crate) fn new(payload: Bytes, question: Question, targets: SmallVec<[LinkId; 3]>) -> Self {
        let votes = targets.iter().map(|_| Vote::Unsent).collect();
        Self {
            payload,
            question,
            targets,
            votes,
            answer: None,
            numbering: Numbering::None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        verdict(&self.question, &self.votes)
    }
}

/// How the answers of the parts become the answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Merge {
    /// There is one part; its answer is the answer.
    Only,
    /// Part and element of it, for each element of the answer.
    Array(Vec<(u32, u32)>),
    /// The sum of all.
    Sum,
    /// All are `+OK`.
    AllOk,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: SessionId,
    /// The session is a client's; it may be gone when the job ends.
    pub(crate) from_client: bool,
    /// The place of its answer among the session's answers.
    pub(crate) sequence: u64,
    pub(crate) access: Access,
    pub(crate) parts: SmallVec<[Part; 1]>,
    pub(crate) merge: Merge,
    pub(crate) started: Duration,
    pub(crate) bytes: usize,
}

impl Job {
    /// The answer, when every part has one.
    pub(crate) fn answer(&self) -> Option<Bytes> {
        if let (Merge::Only, [part]) = (&self.merge, &self.parts[..]) {
            return part.answer.clone();
        }
        let answers: Option<Vec<Bytes>> =
            self.parts.iter().map(|part| part.answer.clone()).collect();
        let answers = answers?;
        if let Some(error) = answers.iter().find(|answer| reply::is_error(answer)) {
            return Some(error.clone());
        }
        Some(merged(&self.merge, &answers))
    }
}

fn merged(merge: &Merge, answers: &[Bytes]) -> Bytes {
    let unusable = || error_text::reply(b"-ERR unknown: unknown\r\n");
    match merge {
        Merge::Only | Merge::AllOk => answers.first().cloned().unwrap_or_else(unusable),
        Merge::Sum => {
            let sum: Option<i64> = answers.iter().map(|answer| reply::integer(answer)).sum();
            sum.map_or_else(unusable, write::integer_reply)
        }
        Merge::Array(places) => {
            let lists: Option<Vec<Vec<Bytes>>> = answers.iter().map(reply::elements).collect();
            let Some(lists) = lists else {
                return unusable();
            };
            let mut out = BytesMut::new();
            write::array(&mut out, places.len());
            for (part, element) in places {
                match lists[*part as usize].get(*element as usize) {
                    Some(bytes) => out.extend_from_slice(bytes),
                    None => return unusable(),
                }
            }
            out.freeze()
        }
    }
}
