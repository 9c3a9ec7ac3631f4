//! What can happen to the driver.

use std::rc::Rc;

use bytes::BytesMut;
use dynomite_engine::{Attempt, Conn, LinkId, SessionId, SessionKind};
use dynomite_protocol::seeds::Seed;
use tokio::sync::oneshot;

use crate::admin::{Answer, Asked};
use crate::socket::Socket;

pub(crate) enum Event {
    /// A listener accepted a connection.
    Accepted(Socket, SessionKind),
    /// A session sent something.
    SessionBytes(SessionId, BytesMut),
    /// A session sends nothing more.
    SessionEof(SessionId),
    /// A session is gone.
    SessionClosed(SessionId),
    /// A link stands.
    LinkUp(LinkId, Attempt, Rc<Socket>),
    /// A link brought something.
    LinkBytes(LinkId, Attempt, BytesMut),
    /// A link ended or could not be made.
    LinkDown(LinkId, Attempt),
    /// A connection takes bytes again.
    Writable(Conn),
    /// The seeds provider answered.
    Seeds(Vec<Seed>),
    /// Somebody asked the admin port.
    Admin(Asked, oneshot::Sender<Answer>),
}
