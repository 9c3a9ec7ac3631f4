//! The loop: what the sockets bring goes into the engine, what it wants done is done.
//!
//! ```text
//!   listeners ─┐                                      ┌─▶ write to sockets
//!   readers ───┼─▶ events ─▶ Engine::handle_* ─▶ poll ┼─▶ connect, disconnect, close
//!   admin ─────┤   (bounded)                          └─▶ pause, resume reading
//!   seeds, tick┘
//! ```
//!
//! Everything runs on one thread. Several events are handled before what came of them is sent, so
//! that all that is ready for one connection leaves in one write.

mod connection;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;

use dynomite_engine::limits::TICK;
use dynomite_engine::{
    Attempt, Conn, CutId, Engine, LinkId, Output, RunState, SessionId, Settings,
};
use dynomite_protocol::config::{Config, Endpoint, SeedProvider};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admin::{self, Answer, Reply};
use crate::clock::Clock;
use crate::event::Event;
use crate::limits::{CONNECT_TIMEOUT, DRAIN, EVENTS_PER_TURN, MAX_EVENTS};
use crate::listen;
use crate::seeds_provider;
use crate::socket::Socket;
use connection::Connection;

/// Serves until SIGTERM or SIGINT, then until open requests are answered.
pub(crate) async fn run(config: &Config) -> anyhow::Result<()> {
    let (events, incoming) = mpsc::channel(MAX_EVENTS);
    let mut listeners = Vec::new();
    for (endpoint, peers) in [(&config.listen, false), (&config.dyn_listen, true)] {
        let listener = listen::bind(endpoint, config.backlog).await?;
        listeners
            .push(tokio::task::spawn_local(listener.serve(peers, events.clone())).abort_handle());
    }
    let stats = listen::bind(&config.stats_listen, config.backlog).await?;
    tokio::task::spawn_local(admin::serve(stats, events.clone()));
    if config.seed_provider == SeedProvider::Florida {
        let provider = seeds_provider::Florida::from_env();
        let interval = config.gos_interval;
        tokio::task::spawn_local(seeds_provider::poll(provider, interval, events.clone()));
    }
    let clock = Clock::new();
    let mut settings = Settings::from_config(config, incarnation(clock));
    if let Some(address) = advertised_address() {
        settings.host = address;
    }
    if let Some(state) = start_state()? {
        settings.start_state = state;
    }
    tracing::info!(
        listen = %config.listen, peers = %config.dyn_listen, admin = %config.stats_listen,
        store = %config.server, datacenter = %config.datacenter, rack = %config.rack,
        token = %config.token, "dynomite {}", env!("CARGO_PKG_VERSION")
    );
    let mut driver = Driver {
        engine: Engine::new(settings),
        clock,
        pool_name: config.pool_name.clone(),
        events,
        connections: HashMap::new(),
        touched: HashSet::new(),
        connecting: HashMap::new(),
        cuts: HashMap::new(),
    };
    driver.serve(incoming, listeners).await
}

/// The address to show for this node, by the variables of Netflix's engine.
fn advertised_address() -> Option<String> {
    let names = ["EC2_PUBLIC_IPV4", "EC2_LOCAL_IPV4"];
    names
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
}

/// The state to begin in, by a variable: whoever renders a file for either engine cannot use a key
/// that Netflix's does not know.
fn start_state() -> anyhow::Result<Option<RunState>> {
    match std::env::var("DYNOMITE_START_STATE").as_deref() {
        Ok("standby") => Ok(Some(RunState::Standby)),
        Ok("normal") => Ok(Some(RunState::Normal)),
        Ok(other) => anyhow::bail!("DYNOMITE_START_STATE is normal or standby, not `{other}`"),
        Err(_) => Ok(None),
    }
}

/// Tells this run of the process from every other.
fn incarnation(clock: Clock) -> String {
    let random = RandomState::new().hash_one((std::process::id(), clock.now().unix_millis));
    format!("{random:016x}")
}

/// Signals that Netflix's engine answers by changing its log, and that would end or stop a process
/// that does not know them: SIGTTIN and SIGTTOU have the numbers 21 and 22.
fn ignore_signals() -> anyhow::Result<()> {
    let user = [
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let terminal = [21, 22].map(SignalKind::from_raw);
    for kind in user.into_iter().chain(terminal) {
        let mut stream = signal(kind)?;
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                tracing::info!("signal {} is ignored", kind.as_raw_value());
            }
        });
    }
    Ok(())
}

struct Driver {
    engine: Engine,
    clock: Clock,
    pool_name: String,
    events: Sender<Event>,
    connections: HashMap<Conn, Connection>,
    /// Connections with something new to write.
    touched: HashSet<Conn>,
    connecting: HashMap<LinkId, AbortHandle>,
    /// Who waits for which cut.
    cuts: HashMap<CutId, oneshot::Sender<Answer>>,
}

impl Driver {
    async fn serve(
        &mut self,
        mut incoming: Receiver<Event>,
        listeners: Vec<AbortHandle>,
    ) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        ignore_signals()?;
        loop {
            tokio::select! {
                Some(event) = incoming.recv() => self.handle(event),
                _ = tick.tick() => self.engine.handle_tick(self.clock.now()),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            self.turn(&mut incoming);
        }
        tracing::info!("stopping: open requests are finished first");
        listeners.iter().for_each(AbortHandle::abort);
        self.engine.handle_drain(self.clock.now());
        self.turn(&mut incoming);
        let drained = timeout(DRAIN, async {
            while !self.engine.is_drained() {
                tokio::select! {
                    Some(event) = incoming.recv() => self.handle(event),
                    _ = tick.tick() => self.engine.handle_tick(self.clock.now()),
                }
                self.turn(&mut incoming);
            }
        });
        if drained.await.is_err() {
            tracing::warn!("some requests were still open");
        }
        Ok(())
    }

    /// Handles what else has happened, and does what the engine wants done.
    fn turn(&mut self, incoming: &mut Receiver<Event>) {
        for _ in 0..EVENTS_PER_TURN {
            let Ok(event) = incoming.try_recv() else {
                break;
            };
            self.handle(event);
        }
        loop {
            while let Some(output) = self.engine.poll_output() {
                self.perform(output);
            }
            if self.touched.is_empty() {
                return;
            }
            for to in std::mem::take(&mut self.touched) {
                self.flush(to);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Accepted(socket, kind) => match self.engine.handle_accept(kind) {
                Ok(id) => self.add_session(id, Rc::new(socket)),
                Err(error) => {
                    tracing::debug!(%error, "a connection is refused");
                    socket.say("-ERR max number of clients reached\r\n");
                }
            },
            Event::SessionBytes(id, bytes) => self.engine.handle_session_bytes(now, id, bytes),
            Event::SessionEof(id) => self.engine.handle_session_eof(now, id),
            Event::SessionClosed(id) => self.forget_session(id),
            Event::LinkUp(id, attempt, socket) => self.add_link(id, attempt, socket),
            Event::LinkBytes(id, attempt, bytes) => {
                self.engine.handle_link_bytes(now, id, attempt, bytes);
            }
            Event::LinkDown(id, attempt) => {
                self.connections.remove(&Conn::Link(id, attempt));
                self.engine.handle_link_down(now, id, attempt);
            }
            Event::Writable(to) => {
                if let Some(connection) = self.connections.get_mut(&to) {
                    connection.waiting = false;
                    self.touched.insert(to);
                }
            }
            Event::Seeds(seeds) => self.engine.handle_seeds(now, seeds),
            Event::Admin(asked, reply) => {
                match admin::answer(&mut self.engine, now, &self.pool_name, &asked) {
                    // Whoever asked may have gone.
                    Reply::Now(answer) => drop(reply.send(answer)),
                    Reply::WhenCut(id) => drop(self.cuts.insert(id, reply)),
                }
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                if let Some(connection) = self.connections.get_mut(&to) {
                    connection.push(bytes);
                    self.touched.insert(to);
                }
            }
            Output::PauseRead(id) => self.gate(id, false),
            Output::ResumeRead(id) => self.gate(id, true),
            Output::Close(id) => {
                let to = Conn::Session(id);
                if let Some(connection) = self.connections.get_mut(&to) {
                    connection.closing = true;
                    self.touched.insert(to);
                } else {
                    self.forget_session(id);
                }
            }
            Output::Abort(id) => self.forget_session(id),
            Output::Connect {
                link,
                attempt,
                endpoint,
            } => self.connect(link, attempt, endpoint),
            Output::Cut { id, outcome } => {
                if let Some(reply) = self.cuts.remove(&id) {
                    let answer = match outcome {
                        Ok(cut) => admin::made(&cut),
                        Err(why) => admin::refused(&why),
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(answer);
                }
            }
            Output::Disconnect { link, attempt } => {
                if let Some(handle) = self.connecting.remove(&link) {
                    handle.abort();
                }
                self.connections.remove(&Conn::Link(link, attempt));
            }
        }
    }

    fn add_session(&mut self, id: SessionId, socket: Rc<Socket>) {
        let connection = Connection::session(id, socket, self.events.clone());
        self.connections.insert(Conn::Session(id), connection);
    }

    fn add_link(&mut self, id: LinkId, attempt: Attempt, socket: Rc<Socket>) {
        self.connecting.remove(&id);
        if self.engine.handle_link_up(self.clock.now(), id, attempt) {
            let connection = Connection::link(id, attempt, socket, self.events.clone());
            self.connections.insert(Conn::Link(id, attempt), connection);
        }
    }

    fn forget_session(&mut self, id: SessionId) {
        self.connections.remove(&Conn::Session(id));
        self.engine.handle_session_closed(self.clock.now(), id);
    }

    fn gate(&mut self, id: SessionId, open: bool) {
        if let Some(connection) = self.connections.get(&Conn::Session(id)) {
            connection.gate.set(open);
        }
    }

    /// Names are looked up at every attempt: an address that changed is found without anybody
    /// telling, and a name that does not exist yet is no reason not to start.
    fn connect(&mut self, link: LinkId, attempt: Attempt, endpoint: Endpoint) {
        let events = self.events.clone();
        let task = async move {
            let event = match timeout(CONNECT_TIMEOUT, Socket::connect(&endpoint)).await {
                Ok(Ok(socket)) => Event::LinkUp(link, attempt, Rc::new(socket)),
                Ok(Err(error)) => {
                    tracing::debug!(%endpoint, %error, "cannot connect");
                    Event::LinkDown(link, attempt)
                }
                Err(_) => {
                    tracing::debug!(%endpoint, "connecting took too long");
                    Event::LinkDown(link, attempt)
                }
            };
            // Nobody is left to tell when the driver has ended.
            let _ = events.send(event).await;
        };
        let handle = tokio::task::spawn_local(task).abort_handle();
        self.connecting.insert(link, handle);
    }

    fn flush(&mut self, to: Conn) {
        let Some(connection) = self.connections.get_mut(&to) else {
            return;
        };
        let written = connection.write(to, &self.events);
        let done = connection.closing && connection.is_empty();
        match written {
            Ok(0) => {}
            Ok(count) => self.engine.handle_sent(self.clock.now(), to, count),
            Err(error) => {
                tracing::debug!(%error, "a connection broke");
                self.broken(to);
                return;
            }
        }
        if done {
            if let Some(connection) = self.connections.remove(&to) {
                connection.linger();
            }
            self.broken(to);
        }
    }

    fn broken(&mut self, to: Conn) {
        match to {
            Conn::Session(id) => self.forget_session(id),
            Conn::Link(id, attempt) => {
                self.connections.remove(&to);
                self.engine.handle_link_down(self.clock.now(), id, attempt);
            }
        }
    }
}
