//! What the admin port may ask and change.

use std::time::Duration;

use dynomite_protocol::config::Endpoint;
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::seeds::Seed;
use dynomite_protocol::topology::Datacenter;

use crate::counters::{Counters, Histogram, StoreRequests};
use crate::engine::{Engine, Settings};
use crate::link::LinkCounters;
use crate::now::Now;
use crate::output::LinkId;
use crate::run_state::RunState;

/// No peer has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no peer is called `{0}`")]
pub struct UnknownPeer(pub String);

/// One link as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The link's number, as the topology names it.
    pub id: LinkId,
    /// The peer; `None` for the store.
    pub peer: Option<Seed>,
    /// Where it connects to.
    pub endpoint: Endpoint,
    /// Whether there is a connection that takes writes.
    pub connected: bool,
    /// Whether it answers, and says that it serves.
    pub serving: bool,
    /// Messages without an answer.
    pub in_flight: usize,
    /// Bytes that wait to be sent.
    pub unsent_bytes: usize,
    /// Numbers since the start.
    pub counters: LinkCounters,
}

/// Everything about the engine at one moment.
#[derive(Debug)]
pub struct Report<'a> {
    /// What it was started with.
    pub settings: &'a Settings,
    /// Run state.
    pub state: RunState,
    /// Level of reads.
    pub read_consistency: Consistency,
    /// Level of writes.
    pub write_consistency: Consistency,
    /// What `timeout` is multiplied with.
    pub timeout_factor: u32,
    /// Connected clients.
    pub clients: usize,
    /// Connected peers.
    pub peer_sessions: usize,
    /// Requests of clients without an answer.
    pub client_in_flight: usize,
    /// Requests of all without an answer.
    pub in_flight: usize,
    /// Their bytes.
    pub in_flight_bytes: usize,
    /// Writes held back by `WRITES_ONLY`.
    pub held_writes: usize,
    /// Whether the ring is known: by the file, or because a seeds provider has answered.
    pub topology_known: bool,
    /// Store and peers.
    pub links: Vec<LinkReport>,
    /// The ring.
    pub datacenters: &'a [Datacenter<LinkId>],
    /// Numbered writes that did not arrive here, as far as they are remembered.
    pub missing_writes: u64,
    /// Coordinators of whose writes this node keeps account, the own engine included.
    pub sources: usize,
    /// Numbers since the start.
    pub counters: &'a Counters,
    /// Requests to the local store.
    pub store_requests: &'a StoreRequests,
    /// Latency of requests in microseconds.
    pub latency: &'a Histogram,
    /// Size of requests in bytes.
    pub payload: &'a Histogram,
}

impl Engine {
    /// Everything, for whoever wants to show it.
    pub fn report(&self) -> Report<'_> {
        let links = self
            .link_ids()
            .filter_map(|id| self.link_report(id))
            .collect();
        Report {
            settings: &self.settings,
            state: self.state,
            read_consistency: self.read_level,
            write_consistency: self.write_level,
            timeout_factor: self.timeout_factor,
            clients: self.clients,
            peer_sessions: self.sessions.len() - self.clients,
            client_in_flight: self.client_jobs,
            in_flight: self.jobs.len(),
            in_flight_bytes: self.job_bytes,
            held_writes: self.held.len(),
            topology_known: self.topology_known,
            links,
            datacenters: self.topology.datacenters(),
            missing_writes: self.numbers.missing(),
            sources: self.numbers.sources(),
            counters: &self.counters,
            store_requests: &self.store_requests,
            latency: &self.latency,
            payload: &self.payload,
        }
    }

    fn link_report(&self, id: LinkId) -> Option<LinkReport> {
        let link = self.link(id)?;
        Some(LinkReport {
            id,
            peer: link.peer.clone(),
            endpoint: link.endpoint.clone(),
            connected: link.takes_writes(),
            serving: link.is_trusted(),
            in_flight: link.in_flight.len(),
            unsent_bytes: link.out.unsent,
            counters: link.counters,
        })
    }

    /// The run state.
    pub fn state(&self) -> RunState {
        self.state
    }

    /// Changes the run state. Writes that were held back leave as soon as the new state and the
    /// store let them; in STANDBY they are refused.
    pub fn handle_state(&mut self, now: Now, state: RunState) {
        if self.state != state {
            tracing::info!(from = %self.state, to = %state, "run state");
        }
        self.note_capture(self.state, state);
        self.state = state;
        if state == RunState::Standby {
            self.refuse_held(now);
        }
        self.release_held(now);
        self.settle(now);
    }

    /// Changes the level of reads, for every client that has not chosen its own.
    pub fn set_read_consistency(&mut self, level: Consistency) {
        self.read_level = level;
    }

    /// Changes the level of writes, for every client that has not chosen its own.
    pub fn set_write_consistency(&mut self, level: Consistency) {
        self.write_level = level;
    }

    /// Multiplies the timeout; from 1 to 10, as in Netflix's engine.
    pub fn set_timeout_factor(&mut self, factor: u32) {
        self.timeout_factor = factor.clamp(1, 10);
    }

    /// How long a request may take now.
    pub fn current_timeout(&self) -> Duration {
        self.timeout()
    }

    /// Forgets the histograms.
    pub fn reset_histograms(&mut self) {
        self.latency.reset();
        self.payload.reset();
    }

    /// Connects a peer anew: by its host, or `all` of them.
    pub fn handle_peer_reset(&mut self, now: Now, name: &str) -> Result<(), UnknownPeer> {
        let chosen: Vec<LinkId> = self
            .link_ids()
            .filter(|id| {
                let peer = self.link(*id).and_then(|link| link.peer.as_ref());
                peer.is_some_and(|peer| name == "all" || peer.host == name)
            })
            .collect();
        if chosen.is_empty() {
            return Err(UnknownPeer(name.chars().take(80).collect()));
        }
        for id in chosen {
            self.drop_link(now, id, "somebody asked for a reset");
        }
        self.settle(now);
        Ok(())
    }
}
