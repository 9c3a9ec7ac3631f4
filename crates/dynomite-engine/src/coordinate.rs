//! Sends the parts of a request to their nodes, and turns what those say into the answer.

use bytes::Bytes;
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::dnode::Kind;
use dynomite_protocol::resp::reply;
use dynomite_protocol::token::Token;
use smallvec::SmallVec;

use crate::command::Access;
use crate::engine::Engine;
use crate::error_text;
use crate::job::{Job, JobId, Leg, Numbering, Part};
use crate::limits::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES};
use crate::link::{InFlight, Link, Purpose};
use crate::now::Now;
use crate::numbers::Tag;
use crate::output::{Conn, LinkId, SessionId};
use crate::plan::{Order, Plan};
use crate::run_state::{Admission, RunState};
use crate::session::Session;
use crate::verdict::{Rule, Verdict, Vote};

/// One message to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) access: Access,
    pub(crate) kind: Kind,
    pub(crate) payload: &'a Bytes,
    /// The number of a write.
    pub(crate) tag: Option<Tag>,
}

impl Engine {
    /// Does what the plan for a request says.
    pub(crate) fn follow(&mut self, now: Now, id: SessionId, sequence: u64, plan: Plan) {
        match plan {
            Plan::Answer(answer) => self.answer(id, sequence, answer),
            Plan::AnswerAndClose(answer) => {
                self.answer(id, sequence, answer);
                self.stop_reading(id);
            }
            Plan::Ask(order) => self.start(now, id, sequence, order),
        }
    }

    fn start(&mut self, now: Now, session: SessionId, sequence: u64, order: Order) {
        let Order {
            access,
            parts,
            merge,
            copies,
        } = order;
        let bytes = parts.iter().map(|part| part.payload.len()).sum();
        if self.jobs.len() >= MAX_IN_FLIGHT || self.job_bytes + bytes > MAX_IN_FLIGHT_BYTES {
            self.counters.client_dropped_requests += 1;
            for part in &parts {
                if let Numbering::Given(tag) = part.numbering {
                    self.numbers.passed(tag);
                }
            }
            self.answer(session, sequence, error_text::reply(error_text::OVERLOADED));
            return;
        }
        self.send_abroad(now, &parts, &copies);
        let count = parts.len();
        let from_client = self.sessions.get(session).is_some_and(Session::is_client);
        let job = self.jobs.insert(Job {
            session,
            from_client,
            sequence,
            access,
            parts,
            merge,
            started: now.since_start,
            bytes,
        });
        self.job_bytes += bytes;
        self.client_jobs += usize::from(from_client);
        self.forget_finished_jobs();
        self.jobs_by_age.push_back((now.since_start, job));
        for part in 0..count {
            self.launch(now, job, part);
        }
    }

    /// Keeps the list of jobs by age as short as the jobs themselves allow.
    fn forget_finished_jobs(&mut self) {
        while let Some((_, job)) = self.jobs_by_age.front() {
            if self.jobs.contains_key(*job) {
                return;
            }
            self.jobs_by_age.pop_front();
        }
    }

    fn launch(&mut self, now: Now, job: JobId, index: usize) {
        let Some(part) = self.jobs.get(job).and_then(|job| job.parts.get(index)) else {
            return;
        };
        let one_by_one = part.question.access == Access::Read
            && part.question.rule == Rule::Level(Consistency::DcOne);
        let (votes, numbering) = (part.votes.len(), part.numbering);
        match numbering {
            _ if one_by_one => {}
            Numbering::None => {
                for vote in 0..votes {
                    self.ask(now, job, index, vote, None);
                }
            }
            Numbering::Given(tag) => {
                for vote in 0..votes {
                    self.ask(now, job, index, vote, Some(tag));
                }
            }
            Numbering::Home(token) => self.ask_numbered(now, job, index, Some(token)),
            Numbering::Each => self.ask_numbered(now, job, index, None),
        }
        self.settle_part(now, job, index);
    }

    /// Sends a write with its next number to every node that counts by the token `home`, or by
    /// its own when that is nothing; without a number to the others. A number that nobody took is
    /// used again.
    fn ask_numbered(&mut self, now: Now, job: JobId, index: usize, home: Option<Token>) {
        let Some(part) = self.jobs.get(job).and_then(|job| job.parts.get(index)) else {
            return;
        };
        let targets = part.targets.clone();
        let source = self.numbers.own();
        // Token, number, whether somebody took it.
        let mut used: SmallVec<[(Token, u64, bool); 1]> = SmallVec::new();
        for (vote, target) in targets.into_iter().enumerate() {
            let token = self.token_of(target);
            let Some(token) = token.filter(|token| home.is_none_or(|home| home == *token)) else {
                self.ask(now, job, index, vote, None);
                continue;
            };
            let at = used.iter().position(|(used, ..)| *used == token);
            let at = at.unwrap_or_else(|| {
                used.push((token, self.numbers.given(token) + 1, false));
                used.len() - 1
            });
            let number = used[at].1;
            let tag = Some(Tag { source, number });
            used[at].2 |= self.ask(now, job, index, vote, tag);
        }
        for (token, number, taken) in used {
            if taken {
                self.numbers.give(token, number);
                if token == self.settings.token {
                    // If the own store refused it, the own node misses it.
                    self.numbers.passed(Tag { source, number });
                }
            }
        }
    }

    /// The token of a node of the own datacenter.
    pub(crate) fn token_of(&self, target: LinkId) -> Option<Token> {
        if target == LinkId::STORE {
            return Some(self.settings.token);
        }
        let link = self.link(target).filter(|link| link.is_counted())?;
        link.peer.as_ref().map(|peer| peer.token)
    }

    /// Sends one node its share of a request and notes what to expect of it. Returns whether it
    /// was taken.
    fn ask(&mut self, now: Now, job: JobId, index: usize, vote: usize, tag: Option<Tag>) -> bool {
        let Some(part) = self.jobs.get(job).and_then(|job| job.parts.get(index)) else {
            return false;
        };
        let (target, payload) = (part.targets[vote], part.payload.clone());
        let access = part.question.access;
        let leg = Leg {
            job,
            part: number(index),
            vote: number(vote),
        };
        let message = Message {
            purpose: Purpose::Leg(leg),
            access,
            kind: Kind::Request,
            payload: &payload,
            tag,
        };
        let outcome = self.send(now, target, message);
        let taken = !matches!(outcome, Vote::Gone(_));
        if let Some(part) = self
            .jobs
            .get_mut(job)
            .and_then(|job| job.parts.get_mut(index))
        {
            part.votes[vote] = outcome;
        }
        taken
    }

    /// Acts on what is known about a part until it has its answer or must wait.
    fn settle_part(&mut self, now: Now, job: JobId, index: usize) {
        loop {
            let Some(part) = self
                .jobs
                .get_mut(job)
                .and_then(|job| job.parts.get_mut(index))
            else {
                return;
            };
            if part.answer.is_some() {
                return;
            }
            match part.verdict() {
                Verdict::Wait => return,
                Verdict::Done(answer) => {
                    part.answer = Some(answer);
                    self.finish_if_answered(now, job);
                    return;
                }
                Verdict::AskAnother => {
                    let Some(vote) = self.best_unasked(job, index) else {
                        return;
                    };
                    self.ask(now, job, index, vote, None);
                }
            }
        }
    }

    /// The node to read from next: the own rack first, then round the racks; nodes that serve
    /// before those that are connected, those before the rest.
    fn best_unasked(&mut self, job: JobId, index: usize) -> Option<usize> {
        let part = self.jobs.get(job)?.parts.get(index)?;
        let count = part.votes.len();
        let own = part.question.own;
        let in_order = || {
            (0..count)
                .map(|offset| (own + offset) % count)
                .filter(|&vote| part.votes[vote] == Vote::Unsent)
        };
        let up = |target: LinkId| self.link(target).is_some_and(Link::is_up);
        let best = in_order()
            .find(|&vote| self.is_trusted(part.targets[vote]))
            .or_else(|| in_order().find(|&vote| up(part.targets[vote])))
            .or_else(|| in_order().next())?;
        if best != own {
            self.counters.read_failover_requests += 1;
        }
        Some(best)
    }

    fn is_trusted(&self, target: LinkId) -> bool {
        let serves = target != LinkId::STORE || self.state == RunState::Normal;
        serves && self.link(target).is_some_and(Link::is_trusted)
    }

    /// Sends a message over a link. The vote says what to expect: an answer, perhaps an answer,
    /// or none.
    pub(crate) fn send(&mut self, now: Now, target: LinkId, message: Message<'_>) -> Vote {
        if target != LinkId::STORE {
            return self.transmit(now, target, message);
        }
        let vote = match self.state.admission(message.access) {
            Admission::Refuse => self.refused(target, message.access, error_text::STATE),
            Admission::Hold => self.hold(now, message),
            // What is held back goes first.
            Admission::Send if message.access == Access::Write && self.held.len() > 0 => {
                self.hold(now, message)
            }
            Admission::Send => {
                match message.access {
                    Access::Read => self.store_requests.read_requests += 1,
                    Access::Write => self.store_requests.write_requests += 1,
                }
                self.transmit(now, target, message)
            }
        };
        match (message.tag, &vote) {
            // The own node's share of an own write is judged when the number is used.
            (Some(tag), Vote::Gone(_)) if tag.source != self.numbers.own() => {
                self.numbers.passed(tag);
            }
            (Some(tag), Vote::Pending | Vote::Doubtful) => self.numbers.arrived(tag),
            _ => {}
        }
        vote
    }

    pub(crate) fn transmit(&mut self, now: Now, target: LinkId, message: Message<'_>) -> Vote {
        let Message {
            purpose,
            access,
            kind,
            payload,
            tag,
        } = message;
        let trusted = self.is_trusted(target);
        let id = self.next_message;
        let usable = self.link_mut(target).filter(|link| {
            let open = link.is_up() && (access == Access::Read || link.takes_writes());
            open && !link.is_congested()
        });
        let Some(link) = usable else {
            if target == LinkId::STORE {
                self.counters.server_dropped_requests += 1;
                return self.refused(target, access, error_text::STORE_REFUSED);
            }
            self.counters.forward_error += 1;
            return self.refused(target, access, error_text::PEER_NOT_CONNECTED);
        };
        let message = InFlight {
            purpose,
            write: access == Access::Write,
            id,
            sent: now.since_start,
            tag,
        };
        link.send(message, kind, payload);
        let attempt = link.attempt;
        self.next_message += 1;
        self.list(Conn::Link(target, attempt));
        if trusted {
            Vote::Pending
        } else {
            Vote::Doubtful
        }
    }

    pub(crate) fn refused(&mut self, target: LinkId, access: Access, text: &'static [u8]) -> Vote {
        if access == Access::Write {
            self.count_missed_write(target);
        }
        Vote::Gone(error_text::reply(text))
    }

    pub(crate) fn count_missed_write(&mut self, target: LinkId) {
        if let Some(link) = self.link_mut(target) {
            link.counters.missed_writes += 1;
        }
    }

    /// Each other datacenter gets one copy, by the owner in one rack; that node distributes it.
    fn send_abroad(&mut self, now: Now, parts: &[Part], segments: &SmallVec<[usize; 1]>) {
        for (part, &segment) in parts.iter().zip(segments) {
            for place in 0..self.topology.segment(segment).remote.len() {
                let racks = self.topology.segment(segment).remote[place].clone();
                let usable = |id: &LinkId, trusted: bool| {
                    self.link(*id).is_some_and(|link| {
                        link.is_up() && !link.is_congested() && (link.is_trusted() || !trusted)
                    })
                };
                let found = racks
                    .iter()
                    .position(|id| usable(id, true))
                    .or_else(|| racks.iter().position(|id| usable(id, false)));
                let Some(rack) = found else {
                    self.counters.remote_peer_dropped_requests += 1;
                    self.count_missed_write(racks[0]);
                    continue;
                };
                self.counters.remote_peer_failover_requests += u64::from(rack > 0);
                let message = Message {
                    purpose: Purpose::Copy,
                    access: Access::Write,
                    kind: Kind::Forward,
                    payload: &part.payload,
                    tag: None,
                };
                self.transmit(now, racks[rack], message);
            }
        }
    }

    /// A node has said something about a part, or is not going to.
    pub(crate) fn vote(&mut self, now: Now, leg: Leg, vote: Vote) {
        let index = leg.part as usize;
        let place = self
            .jobs
            .get_mut(leg.job)
            .and_then(|job| job.parts.get_mut(index))
            .and_then(|part| part.votes.get_mut(leg.vote as usize));
        let Some(place) = place else {
            return;
        };
        if vote == Vote::Doubtful && *place != Vote::Pending {
            return;
        }
        *place = vote;
        self.settle_part(now, leg.job, index);
    }

    fn finish_if_answered(&mut self, now: Now, id: JobId) {
        let Some(answer) = self.jobs.get(id).and_then(Job::answer) else {
            return;
        };
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.job_bytes -= job.bytes;
        if job.from_client {
            self.client_jobs -= 1;
            self.latency
                .record_time(now.since_start.saturating_sub(job.started));
        }
        if answer.as_ref() == error_text::NO_QUORUM {
            match job.access {
                Access::Read => self.counters.client_non_quorum_r_responses += 1,
                Access::Write => self.counters.client_non_quorum_w_responses += 1,
            }
        }
        self.answer(job.session, job.sequence, answer);
    }

    /// Gives up what has waited for as long as a request may.
    pub(crate) fn expire(&mut self, now: Now) {
        let Some(limit) = now.since_start.checked_sub(self.timeout()) else {
            return;
        };
        self.expire_held(now, limit);
        while let Some(&(started, job)) = self.jobs_by_age.front() {
            if started > limit && self.jobs.contains_key(job) {
                return;
            }
            self.jobs_by_age.pop_front();
            let parts = self.jobs.get(job).map_or(0, |job| job.parts.len());
            for index in 0..parts {
                self.expire_part(now, job, index);
            }
        }
    }

    fn expire_part(&mut self, now: Now, job: JobId, index: usize) {
        let Some(part) = self
            .jobs
            .get_mut(job)
            .and_then(|job| job.parts.get_mut(index))
        else {
            return;
        };
        if part.answer.is_some() {
            return;
        }
        let mut late: SmallVec<[LinkId; 3]> = SmallVec::new();
        for (vote, &target) in part.votes.iter_mut().zip(&part.targets) {
            let text = match (&vote, target) {
                (Vote::Unsent, _) => error_text::PEER_NOT_CONNECTED,
                (Vote::Pending | Vote::Doubtful, LinkId::STORE) => error_text::STORE_REFUSED,
                (Vote::Pending | Vote::Doubtful, _) => error_text::PEER_REFUSED,
                _ => continue,
            };
            if *vote != Vote::Unsent {
                late.push(target);
            }
            *vote = Vote::Gone(error_text::reply(text));
        }
        for target in late {
            if target == LinkId::STORE {
                self.counters.server_timedout_requests += 1;
            } else {
                self.counters.peer_timedout_requests += 1;
            }
            if let Some(link) = self.link_mut(target) {
                link.counters.timeouts += 1;
            }
        }
        self.settle_part(now, job, index);
    }

    /// Whether an answer shows that the peer serves.
    pub(crate) fn note_health(&mut self, id: LinkId, message: &InFlight, answer: &Bytes) {
        let refusal = error_text::is_refusal(answer) && answer != error_text::PAST;
        let Some(link) = self.link_mut(id).filter(|link| link.peer.is_some()) else {
            return;
        };
        match message.purpose {
            Purpose::Probe => link.serving = !reply::is_error(answer),
            _ if refusal => link.serving = false,
            // A node that is catching up takes writes already; only a read shows that it serves.
            _ if !message.write => link.serving = true,
            _ => {}
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
