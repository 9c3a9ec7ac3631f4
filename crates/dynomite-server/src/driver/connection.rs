//! One socket: what waits to be written, and the task that reads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use dynomite_engine::{Attempt, Conn, LinkId, SessionId};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::event::Event;
use crate::limits::{LINGER, PIECES_PER_WRITE};
use crate::socket::{Socket, would_block};

/// Lets a reader read, or not.
pub(super) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(super) fn set(&self, open: bool) {
        self.0.send_replace(open);
    }
}

pub(super) struct Connection {
    socket: Rc<Socket>,
    unwritten: VecDeque<Bytes>,
    /// A task waits for the socket to take bytes again.
    pub(super) waiting: bool,
    /// It is to be closed when everything is written.
    pub(super) closing: bool,
    pub(super) gate: Gate,
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    fn new(socket: Rc<Socket>, gate: Gate, reader: AbortHandle) -> Self {
        Self {
            socket,
            unwritten: VecDeque::new(),
            waiting: false,
            closing: false,
            gate,
            reader,
        }
    }

    pub(super) fn session(id: SessionId, socket: Rc<Socket>, events: Sender<Event>) -> Self {
        let (gate, mut open) = watch::channel(true);
        let reading = Rc::clone(&socket);
        let task = async move {
            loop {
                if open.wait_for(|open| *open).await.is_err() {
                    return;
                }
                let event = match reading.read().await {
                    Ok(bytes) if bytes.is_empty() => Event::SessionEof(id),
                    Ok(bytes) => Event::SessionBytes(id, bytes),
                    Err(_) => Event::SessionClosed(id),
                };
                let last = !matches!(event, Event::SessionBytes(..));
                if events.send(event).await.is_err() || last {
                    return;
                }
            }
        };
        let reader = tokio::task::spawn_local(task).abort_handle();
        Self::new(socket, Gate(gate), reader)
    }

    pub(super) fn link(
        id: LinkId,
        attempt: Attempt,
        socket: Rc<Socket>,
        events: Sender<Event>,
    ) -> Self {
        let (gate, _) = watch::channel(true);
        let reading = Rc::clone(&socket);
        let task = async move {
            loop {
                let event = match reading.read().await {
                    Ok(bytes) if !bytes.is_empty() => Event::LinkBytes(id, attempt, bytes),
                    _ => Event::LinkDown(id, attempt),
                };
                let last = matches!(event, Event::LinkDown(..));
                if events.send(event).await.is_err() || last {
                    return;
                }
            }
        };
        let reader = tokio::task::spawn_local(task).abort_handle();
        Self::new(socket, Gate(gate), reader)
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.unwritten.push_back(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Writes what the socket takes, and says how much that was. When it takes no more, an event
    /// tells when it does again.
    pub(super) fn write(&mut self, to: Conn, events: &Sender<Event>) -> io::Result<usize> {
        let mut total = 0;
        while !self.unwritten.is_empty() && !self.waiting {
            let pieces: Vec<IoSlice<'_>> = self
                .unwritten
                .iter()
                .take(PIECES_PER_WRITE)
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            match self.socket.try_write(&pieces) {
                Ok(count) => {
                    total += count;
                    self.written(count);
                }
                Err(error) if would_block(&error) => self.wait(to, events.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn written(&mut self, mut count: usize) {
        while let Some(front) = self.unwritten.front_mut() {
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.unwritten.pop_front();
        }
    }

    fn wait(&mut self, to: Conn, events: Sender<Event>) {
        self.waiting = true;
        let socket = Rc::clone(&self.socket);
        tokio::task::spawn_local(async move {
            // A broken socket shows itself at the next write.
            let _ = socket.writable().await;
            let _ = events.send(Event::Writable(to)).await;
        });
    }

    /// Ends the connection so that the other side still gets the last bytes: a socket that is
    /// closed with unread bytes takes back what it has sent.
    pub(super) fn linger(self) {
        self.reader.abort();
        self.socket.shutdown_write();
        let socket = Rc::clone(&self.socket);
        tokio::task::spawn_local(async move {
            let drained = timeout(LINGER, async {
                while socket.read().await.is_ok_and(|bytes| !bytes.is_empty()) {}
            });
            // However it ends, the socket is dropped.
            let _ = drained.await;
        });
    }
}
