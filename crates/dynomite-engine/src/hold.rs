//! What happens to the writes that are held back: released in order, or refused.

use std::time::Duration;

use dynomite_protocol::dnode::Kind;

use crate::command::Access;
use crate::coordinate::Message;
use crate::engine::Engine;
use crate::error_text;
use crate::link::Purpose;
use crate::now::Now;
use crate::output::LinkId;
use crate::run_state::{Admission, HeldWrite};
use crate::verdict::Vote;

impl Engine {
    pub(crate) fn hold(&mut self, now: Now, message: Message<'_>) -> Vote {
        let write = HeldWrite {
            purpose: message.purpose,
            payload: message.payload.clone(),
            since: now.since_start,
            tag: message.tag,
        };
        if self.held.push(write).is_ok() {
            return Vote::Doubtful;
        }
        self.void_capture();
        self.refused(LinkId::STORE, Access::Write, error_text::STATE)
    }

    /// Lets the held writes go when the state and the store allow it.
    pub(crate) fn release_held(&mut self, now: Now) {
        while self.may_release() {
            let Some(write) = self.held.pop() else {
                return;
            };
            self.store_requests.write_requests += 1;
            let message = Message {
                purpose: write.purpose,
                access: Access::Write,
                kind: Kind::Request,
                payload: &write.payload,
                tag: write.tag,
            };
            self.transmit(now, LinkId::STORE, message);
        }
    }

    fn may_release(&self) -> bool {
        let store = self.link(LinkId::STORE);
        self.state.admission(Access::Write) == Admission::Send
            && store.is_some_and(|link| link.is_up() && !link.is_congested())
    }

    pub(crate) fn expire_held(&mut self, now: Now, limit: Duration) {
        while let Some(write) = self.held.pop_older_than(limit) {
            self.refuse_held_write(now, &write);
        }
    }

    /// Refuses every held write: whoever waits for it is told.
    pub(crate) fn refuse_held(&mut self, now: Now) {
        while let Some(write) = self.held.pop() {
            self.refuse_held_write(now, &write);
        }
    }

    fn refuse_held_write(&mut self, now: Now, write: &HeldWrite) {
        self.void_capture();
        self.counters.held_writes_expired += 1;
        self.count_missed_write(LinkId::STORE);
        if let Some(tag) = write.tag {
            self.numbers.lost(tag);
        }
        self.tell_refused(now, write, error_text::STATE);
    }

    /// Tells whoever waits for a held write that it is not executed here.
    pub(crate) fn tell_refused(&mut self, now: Now, write: &HeldWrite, text: &'static [u8]) {
        if let Purpose::Leg(leg) = write.purpose {
            self.vote(now, leg, Vote::Gone(error_text::reply(text)));
        }
    }
}
