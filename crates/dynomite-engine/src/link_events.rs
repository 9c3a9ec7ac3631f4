//! What happens to links: they come up, bring answers, fall silent, break, are tried again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::dnode::{self, Kind};

use crate::command::Access;
use crate::coordinate::Message;
use crate::engine::Engine;
use crate::error_text;
use crate::limits::{PROBE_INTERVAL, SILENCE_MIN, SUSPECT_AFTER_MAX, SUSPECT_AFTER_MIN};
use crate::link::{Answer, Heard, InFlight, Link, Purpose, State};
use crate::now::Now;
use crate::output::{Attempt, Conn, LinkId, Output};
use crate::protection::Protection;
use crate::verdict::Vote;

/// The question how a peer is: answered like any read of its own store, so the answer tells its
/// run state too, and Netflix's engine understands it.
const PROBE: &[u8] = b"*1\r\n$4\r\nPING\r\n";

impl Engine {
    /// A connection asked for by [`Output::Connect`] stands. False when it is not wanted any more,
    /// because the peer was removed meanwhile: it must be dropped then.
    #[must_use]
    pub fn handle_link_up(&mut self, now: Now, id: LinkId, attempt: Attempt) -> bool {
        let fresh = self
            .link_mut(id)
            .filter(|link| link.attempt == attempt && link.state == State::Connecting);
        let wanted = fresh.is_some();
        if let Some(link) = fresh {
            link.up(now.since_start);
            tracing::info!(link = %link.endpoint, "connected");
            if id == LinkId::STORE {
                self.release_held(now);
            } else {
                self.probe(now, id);
            }
        }
        self.settle(now);
        wanted
    }

    /// Bytes arrived over a link.
    pub fn handle_link_bytes(&mut self, now: Now, id: LinkId, attempt: Attempt, bytes: BytesMut) {
        let Some(link) = self
            .link_mut(id)
            .filter(|link| link.attempt == attempt && link.is_up())
        else {
            return;
        };
        link.receive(now.since_start, bytes);
        while let Some(link) = self.link_mut(id) {
            match link.next_heard() {
                Ok(None) => break,
                Ok(Some(Heard::Greeting)) => self.introduce(id),
                Ok(Some(Heard::Answer(answer))) => {
                    if !self.take_answer(now, id, answer) {
                        self.drop_link(now, id, "an answer nobody asked for");
                        break;
                    }
                }
                Err(why) => {
                    self.drop_link(now, id, &why);
                    break;
                }
            }
        }
        self.settle(now);
    }

    /// A connection ended, or could not be made.
    pub fn handle_link_down(&mut self, now: Now, id: LinkId, attempt: Attempt) {
        let current = self.link(id).is_some_and(|link| {
            link.attempt == attempt && !matches!(link.state, State::Down { .. })
        });
        if current {
            self.fail_link(now, id);
        }
        self.settle(now);
    }

    /// Time has passed: connects what is to be connected, asks peers how they are, gives up what
    /// has waited too long. To be called every [`crate::limits::TICK`].
    pub fn handle_tick(&mut self, now: Now) {
        let ids: Vec<LinkId> = self.link_ids().collect();
        for id in ids {
            self.connect_if_due(now, id);
            self.watch(now, id);
            self.tell_given(id);
        }
        self.numbers.prune(now.since_start);
        self.expire(now);
        self.release_held(now);
        self.settle(now);
    }

    pub(crate) fn link_ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        let present = self
            .links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.is_some());
        present.map(|(index, _)| LinkId(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    fn connect_if_due(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if let State::Down { retry_at } = link.state
            && retry_at <= now.since_start
        {
            let attempt = link.connecting();
            let endpoint = link.endpoint.clone();
            self.outputs.push_back(Output::Connect {
                link: id,
                attempt,
                endpoint,
            });
        }
    }

    /// Looks for silence where an answer is due. Silence first makes a link suspect, so that
    /// reads go elsewhere and writes are not waited for; much later the link is connected anew,
    /// because after a cut of the network the old connection may take minutes to notice.
    fn watch(&mut self, now: Now, id: LinkId) {
        let timeout = self.timeout();
        let suspect_after = (timeout / 4).clamp(SUSPECT_AFTER_MIN, SUSPECT_AFTER_MAX);
        let silence_max = (timeout * 2).max(SILENCE_MIN);
        let Some(link) = self.link_mut(id).filter(|link| link.is_up()) else {
            return;
        };
        let is_peer = link.peer.is_some();
        let probe_due = is_peer
            && now.since_start.saturating_sub(link.last_probe) >= PROBE_INTERVAL
            && !link
                .in_flight
                .iter()
                .rev()
                .take(1)
                .any(|last| last.purpose == Purpose::Probe);
        if let Some(oldest) = link.in_flight.front() {
            let since = oldest.sent.max(link.last_received);
            let silence = now.since_start.saturating_sub(since);
            if silence >= silence_max && is_peer {
                self.drop_link(now, id, "it has been silent for too long");
                return;
            }
            if silence >= suspect_after && !link.suspect {
                self.suspect(now, id, silence);
            }
        }
        if probe_due {
            self.probe(now, id);
        }
    }

    fn suspect(&mut self, now: Now, id: LinkId, silence: Duration) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        link.suspect = true;
        tracing::debug!(link = %link.endpoint, ?silence, "no answer; reads go elsewhere");
        let legs: Vec<_> = link
            .in_flight
            .iter()
            .map(|message| message.purpose)
            .collect();
        for purpose in legs {
            if let Purpose::Leg(leg) = purpose {
                self.vote(now, leg, Vote::Doubtful);
            }
        }
    }

    fn probe(&mut self, now: Now, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.last_probe = now.since_start;
        }
        let probe = Message {
            purpose: Purpose::Probe,
            access: Access::Read,
            kind: Kind::Request,
            payload: &Bytes::from_static(PROBE),
            tag: None,
        };
        self.transmit(now, id, probe);
    }

    /// Says over a new connection whose numbers will come.
    fn introduce(&mut self, id: LinkId) {
        let Some(token) = self.token_of(id) else {
            return;
        };
        let given = self.numbers.given(token);
        let incarnation = self.settings.incarnation.clone();
        let who = dnode::Introduction {
            token,
            given,
            incarnation,
        };
        self.tell(id, dnode::Tag::Introduction(Box::new(who)), given);
    }

    /// Tells a peer about numbers it was not sent, so that it knows at once what it misses.
    fn tell_given(&mut self, id: LinkId) {
        let counts = |link: &&Link| link.counts() && !link.is_congested();
        if let Some(told) = self.link(id).filter(counts).and_then(|link| link.told)
            && let Some(token) = self.token_of(id)
        {
            let given = self.numbers.given(token);
            if given > told && self.protects_by(Protection::Given) {
                self.tell(id, dnode::Tag::Given(given), given);
            }
        }
    }

    fn tell(&mut self, id: LinkId, tag: dnode::Tag, given: u64) {
        let message = self.next_message;
        self.next_message += 1;
        if let Some(link) = self.link_mut(id) {
            link.tell(message, tag, given);
            let attempt = link.attempt;
            self.list(Conn::Link(id, attempt));
        }
    }

    /// Gives an answer to whoever waits for it. False when nobody can have asked for it.
    fn take_answer(&mut self, now: Now, id: LinkId, answer: Answer) -> bool {
        let Some(link) = self.link_mut(id) else {
            return true;
        };
        let Some(wanted) = answer.id else {
            let Some(message) = link.in_flight.pop_front() else {
                return false;
            };
            self.deliver(now, id, &message, answer.reply);
            return true;
        };
        // Peers answer in order. One that left answers out will not bring them any more.
        let skipped = link
            .in_flight
            .iter()
            .take_while(|message| message.id < wanted)
            .count();
        if link
            .in_flight
            .get(skipped)
            .is_none_or(|message| message.id != wanted)
        {
            link.counters.mismatches += 1;
            return true;
        }
        let passed: VecDeque<InFlight> = link.in_flight.drain(..skipped).collect();
        link.counters.mismatches += passed.len() as u64;
        let found = link.in_flight.pop_front();
        self.fail(now, id, passed);
        if let Some(message) = found {
            self.deliver(now, id, &message, answer.reply);
        }
        true
    }

    fn deliver(&mut self, now: Now, id: LinkId, message: &InFlight, answer: Bytes) {
        self.note_health(id, message, &answer);
        if message.write && error_text::is_missed_write(&answer) {
            self.count_missed_write(id);
        }
        if message.write && error_text::is_lost_write(&answer) {
            self.note_lost(id, message);
        }
        match message.purpose {
            Purpose::Leg(leg) => self.vote(now, leg, Vote::from_reply(answer)),
            Purpose::Cut(cut) => self.finish_cut(cut, &answer),
            Purpose::Copy | Purpose::Probe => {}
        }
    }

    /// Ends a connection from our side.
    pub(crate) fn drop_link(&mut self, now: Now, id: LinkId, why: &str) {
        let Some(link) = self.link(id) else { return };
        tracing::warn!(link = %link.endpoint, why, "dropping a connection");
        let attempt = link.attempt;
        self.outputs
            .push_back(Output::Disconnect { link: id, attempt });
        self.fail_link(now, id);
    }

    pub(crate) fn fail_link(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if link.is_up() {
            tracing::info!(link = %link.endpoint, "disconnected");
        }
        let lost = link.down(now.since_start);
        self.fail(now, id, lost);
    }

    fn fail(&mut self, now: Now, id: LinkId, lost: VecDeque<InFlight>) {
        let text = if id == LinkId::STORE {
            error_text::STORE_REFUSED
        } else {
            error_text::PEER_REFUSED
        };
        for message in lost {
            if message.write {
                self.count_missed_write(id);
                self.note_lost(id, &message);
            }
            match message.purpose {
                Purpose::Leg(leg) => {
                    self.vote(now, leg, Vote::Gone(error_text::reply(text)));
                }
                Purpose::Cut(cut) => self.abandon_cut(cut),
                Purpose::Copy | Purpose::Probe => {}
            }
        }
    }
}
