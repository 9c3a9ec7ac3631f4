//! From the bytes of a session to its requests.

use dynomite_protocol::dnode::{Header, Introduction, Kind, Tag};
use dynomite_protocol::resp::{ProtocolError, Request, write};

use crate::engine::Engine;
use crate::now::Now;
use crate::numbers;
use crate::output::{Conn, Output, SessionId};
use crate::session::{PeerSpeaks, Role, Session};

/// What stands at the front of a session's bytes.
enum Next {
    Nothing,
    Request(Request, Option<Header>),
    /// A word about the numbers of writes.
    Word(Tag),
    /// The bytes make no sense; clients are told why.
    Malformed(ProtocolError),
    /// A peer that cannot be understood.
    Unusable(String),
}

impl Engine {
    /// Takes requests from a session until its bytes or its room end.
    pub(crate) fn take_requests(&mut self, now: Now, id: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(id) else {
                return;
            };
            if session.closing {
                return;
            }
            if session.paused {
                if !session.has_room() {
                    return;
                }
                session.paused = false;
                self.outputs.push_back(Output::ResumeRead(id));
                continue;
            }
            if session.is_full() {
                session.paused = true;
                self.outputs.push_back(Output::PauseRead(id));
                return;
            }
            let before = session.inbox.len();
            let next = next_request(session, &self.request_limits);
            self.partial_bytes -= before - session.inbox.len();
            match next {
                Next::Nothing => {
                    if session.inbox.is_empty() {
                        // An idle connection holds no buffer.
                        session.inbox = bytes::BytesMut::new();
                    }
                    return;
                }
                Next::Request(request, header) => self.take(now, id, &request, header.as_ref()),
                Next::Word(tag) => self.take_word(id, tag),
                Next::Malformed(error) => {
                    self.counters.client_err += 1;
                    let sequence = session.open_slot(None);
                    let reply = write::error_reply(&format!("ERR Protocol error: {error}"));
                    self.answer(id, sequence, reply);
                    self.stop_reading(id);
                    return;
                }
                Next::Unusable(why) => {
                    tracing::warn!(%why, "closing the connection of a peer");
                    self.counters.dnode_client_err += 1;
                    self.abort(id);
                    return;
                }
            }
        }
    }

    fn take(&mut self, now: Now, id: SessionId, request: &Request, header: Option<&Header>) {
        if let Some(header) = header {
            self.note_speech(id, header);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let sequence = session.open_slot(header);
        self.payload.record(request.raw().len() as u64);
        let plan = match header.map(|header| header.kind) {
            None => self.plan_for_client(now, id, request),
            Some(Kind::Forward) => self.plan_for_forward(now, request),
            Some(_) => {
                let number = header.and_then(|header| self.number_of(id, header));
                self.plan_for_peer(request, number)
            }
        };
        if let Some(session) = self.sessions.get_mut(id) {
            session.shape_newest(request);
        }
        self.follow(now, id, sequence, plan);
    }

    /// The first message within a datacenter tells whether the sender numbers its writes.
    fn note_speech(&mut self, id: SessionId, header: &Header) {
        let session = self.sessions.get_mut(id).filter(|_| header.same_dc);
        let Some(session) = session else { return };
        let Some(peer) = session.peer_mut() else {
            return;
        };
        if peer.speaks != PeerSpeaks::Unknown {
            return;
        }
        if header.tag == Tag::Offer {
            peer.speaks = PeerSpeaks::Numbers;
            session.greet();
            self.list(Conn::Session(id));
        } else {
            peer.speaks = PeerSpeaks::Plain;
            self.plain_sessions += 1;
        }
    }

    /// The number of a message, when its sender has said who it is.
    fn number_of(&self, id: SessionId, header: &Header) -> Option<numbers::Tag> {
        let Tag::Number(number) = header.tag else {
            return None;
        };
        match self.sessions.get(id)?.peer()?.speaks {
            PeerSpeaks::Source(source) => Some(numbers::Tag { source, number }),
            _ => None,
        }
    }

    fn take_word(&mut self, id: SessionId, tag: Tag) {
        let speaks = self.sessions.get(id).and_then(Session::peer);
        match (tag, speaks.map(|peer| peer.speaks)) {
            (Tag::Introduction(who), Some(PeerSpeaks::Numbers | PeerSpeaks::Source(_))) => {
                self.take_introduction(id, &who);
            }
            (Tag::Given(number), Some(PeerSpeaks::Source(source))) => {
                self.numbers.passed(numbers::Tag { source, number });
            }
            _ => {}
        }
    }

    /// A coordinator says who it is. One that takes us for another node, because an address has
    /// found a new owner, must not go on: its writes belong elsewhere.
    fn take_introduction(&mut self, id: SessionId, who: &Introduction) {
        let settings = &self.settings;
        if who.token != settings.token || who.incarnation == settings.incarnation {
            tracing::warn!(wanted = %who.token, "a peer takes this node for another one");
            self.counters.dnode_client_err += 1;
            self.abort(id);
            return;
        }
        let (source, former) = self.numbers.introduced(&who.incarnation, id, who.given);
        if let Some(peer) = self.sessions.get_mut(id).and_then(Session::peer_mut) {
            peer.speaks = PeerSpeaks::Source(source);
        }
        if let Some(former) = former {
            self.abort(former);
        }
    }

    /// Gives a session an answer.
    pub(crate) fn answer(&mut self, id: SessionId, sequence: u64, answer: bytes::Bytes) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let sends = session.answer(sequence, answer) && !session.closed;
        if session.paused || session.closing {
            self.woken.push(id);
        }
        if sends {
            self.list(Conn::Session(id));
        }
    }
}

fn next_request(session: &mut Session, limits: &dynomite_protocol::limits::Limits) -> Next {
    let Role::Peer(peer) = &mut session.role else {
        return match session.parser.parse(&mut session.inbox, limits) {
            Ok(Some(request)) => Next::Request(request, None),
            Ok(None) => Next::Nothing,
            Err(error) => Next::Malformed(error),
        };
    };
    while peer.header.is_none() {
        match peer.headers.parse(&mut session.inbox) {
            Ok(None) => return Next::Nothing,
            Ok(Some(header)) if header.encrypted => {
                return Next::Unusable("it encrypts, which is not built".to_owned());
            }
            Ok(Some(header)) if header.kind == Kind::Numbers => return Next::Word(header.tag),
            Ok(Some(header)) => {
                // Gossip and answers nobody asked for are skipped with whatever follows them.
                peer.header =
                    matches!(header.kind, Kind::Request | Kind::Forward).then_some(header);
            }
            Err(error) => return Next::Unusable(error.to_string()),
        }
    }
    match session.parser.parse(&mut session.inbox, limits) {
        Ok(Some(request)) => Next::Request(request, peer.header.take()),
        Ok(None) => Next::Nothing,
        Err(error) => Next::Unusable(error.to_string()),
    }
}
