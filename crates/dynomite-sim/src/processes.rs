//! The two processes of a pod: a store that can copy another, and an engine in its four states.

use dynomite_api::contract::{EngineState, StoreFacts, StoreRole};
use dynomite_lifecycle::{DonorSight, ReplicaLink, StoreSight};

use crate::numbers::Numbers;
use crate::writes::Bits;

/// Bytes of the replication stream for one write.
pub const WRITE_BYTES: u64 = 100;
/// What an engine holds longer than this it drops, milliseconds (its `timeout`).
pub const HOLD_MS: u64 = 5000;

/// One incarnation of a store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its name.
    pub run_id: String,
    /// The writes it has.
    pub has: Bits,
    /// Whether it takes writes of its own.
    pub role: StoreRole,
    /// The link to its donor, while it is a replica.
    pub link: Option<Link>,
    /// The name of the history its offset counts in.
    pub history: String,
    /// The writes of that history since it began.
    pub log: Vec<usize>,
    /// Until when it reads its files, milliseconds.
    pub loading_until: u64,
}

/// A replica's copy of a donor.
#[derive(Clone, Debug)]
pub struct Link {
    /// The donor's incarnation.
    pub run_id: String,
    /// The donor's history.
    pub history: String,
    /// What the donor had when the copy began.
    pub snapshot: Bits,
    /// How much of the donor's log was in it.
    pub begins: usize,
    /// When the copy will have arrived, milliseconds.
    pub copied_at: u64,
    /// How much of the donor's log has been applied.
    pub applied: usize,
    /// Until when nothing of the stream arrives, milliseconds.
    pub stalls_until: u64,
    /// Whether the stream runs.
    pub up: bool,
}

impl Store {
    /// A store that starts with what its files hold.
    pub fn new(run_id: String, has: Bits, loading_until: u64) -> Self {
        Self {
            history: format!("history-of-{run_id}"),
            run_id,
            has,
            role: StoreRole::Primary,
            link: None,
            log: Vec::new(),
            loading_until,
        }
    }

    /// Applies a write of its own; `false` when it may not.
    pub fn apply(&mut self, write: usize, now: u64) -> bool {
        if self.role != StoreRole::Primary || now < self.loading_until {
            return false;
        }
        self.has.insert(write);
        self.log.push(write);
        true
    }

    /// Becomes a primary of a history of its own.
    pub fn detach(&mut self) {
        self.role = StoreRole::Primary;
        self.link = None;
        self.log.clear();
        self.history = format!("{}+", self.history);
    }

    /// Takes in what has arrived of the donor's stream, at most `writes` of it.
    pub fn follow(&mut self, donor: &Self, now: u64, writes: usize) {
        let Some(link) = &mut self.link else { return };
        if now < link.copied_at || now < link.stalls_until {
            return;
        }
        if !link.up {
            link.up = true;
            self.has = link.snapshot.clone();
            self.history = link.history.clone();
            link.applied = link.begins;
        }
        let until = donor.log.len().min(link.applied + writes);
        for write in &donor.log[link.applied..until] {
            self.has.insert(*write);
        }
        link.applied = until;
    }

    /// Its offset in its history, bytes.
    pub fn offset(&self) -> u64 {
        match &self.link {
            Some(link) => link.applied as u64 * WRITE_BYTES,
            None => self.log.len() as u64 * WRITE_BYTES,
        }
    }

    /// What it says when it is asked.
    pub fn sight(&self, now: u64) -> StoreSight {
        StoreSight {
            facts: StoreFacts {
                run_id: self.run_id.clone(),
                role: self.role,
                loading: now < self.loading_until,
                keys: self.has.len(),
                replication_offset: self.offset(),
                ..StoreFacts::default()
            },
            empty: self.has.is_empty(),
            all_keys: self.has.len(),
            durable: true,
            replication_id: self.history.clone(),
            left: None,
            link: (self.role == StoreRole::Replica).then(|| {
                let up = self.link.as_ref().is_some_and(|link| link.up);
                ReplicaLink {
                    up,
                    copying: self.link.is_some() && !up,
                    bytes_done: 0,
                    bytes_total: None,
                    offset: self.offset(),
                }
            }),
        }
    }

    /// What it says to a replica's sidecar.
    pub fn donor_sight(&self) -> DonorSight {
        DonorSight {
            run_id: self.run_id.clone(),
            replication_id: self.history.clone(),
            offset: self.offset(),
            keys: self.has.len(),
            primary: self.role == StoreRole::Primary,
            data_bytes: 0,
        }
    }
}

/// One incarnation of an engine.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Its name.
    pub incarnation: String,
    /// Its state.
    pub state: EngineState,
    /// The writes it holds, and since when, milliseconds.
    pub held: Vec<(u64, usize)>,
    /// Requests it got.
    pub requests: u64,
    /// What it knows of numbers.
    pub numbers: Numbers,
}

/// What an engine does with a write that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It goes to the store.
    Pass,
    /// It is held.
    Held,
    /// It is refused.
    Refused,
}

impl Engine {
    /// An engine that starts in a state: Netflix's is NORMAL at once.
    pub fn new(incarnation: String, state: EngineState) -> Self {
        Self {
            incarnation,
            state,
            held: Vec::new(),
            requests: 0,
            numbers: Numbers::default(),
        }
    }

    /// Takes a write in, with its coordinator's incarnation and number.
    pub fn take(&mut self, write: usize, of: (&str, u64), now: u64) -> Arrival {
        self.requests += 1;
        match self.state {
            EngineState::WritesOnly => {
                self.held.push((now, write));
                Arrival::Held
            }
            // Writes without a number are all new.
            EngineState::Resuming | EngineState::Normal
                if of.1 > 0 && !self.numbers.arrives(of.0, of.1) =>
            {
                Arrival::Refused
            }
            EngineState::Resuming | EngineState::Normal => Arrival::Pass,
            EngineState::Standby | EngineState::Other => Arrival::Refused,
        }
    }

    /// What was held for too long, and is no more.
    pub fn expire(&mut self, now: u64) -> Vec<usize> {
        let over = |(since, _): &(u64, usize)| now - since >= HOLD_MS;
        let expired = self.held.iter().filter(|held| over(held));
        let expired = expired.map(|(_, write)| *write).collect();
        self.held.retain(|held| !over(held));
        expired
    }

    /// The held writes that go to the store now.
    pub fn flush(&mut self) -> Vec<usize> {
        match self.state {
            EngineState::Resuming | EngineState::Normal => {
                self.held.drain(..).map(|(_, write)| write).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it takes or holds writes.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, EngineState::Standby | EngineState::Other)
    }
}
