//! A sidecar that warms its node up, in the order of the design.
//!
//! ```text
//!   Idle ─▶ Copying ─▶ Following ─▶ Capturing ─▶ Asked ─▶ Ending ─▶ Detached ─▶ Committed ─▶ Done
//!    ▲                                 ▲          │ not covered
//!    │ donor lost, capture void        └──────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::random::Random;
use super::store::{Entry, Value};
use super::world::{NODES, World, is_counted};
use crate::{Cut, CutId, Engine, RunState};

const AGAIN: Duration = Duration::from_millis(100);
/// Cuts that are tried before the capture begins anew.
const CUTS: u32 = 8;

/// The copy as far as it has come.
struct Copying {
    donor: usize,
    snapshot: Option<BTreeMap<Vec<u8>, Value>>,
    arrives: Duration,
    /// Entries of the donor's stream that are applied.
    applied: usize,
    offset: u64,
    /// How far the replica is behind.
    lag: Duration,
}

enum Phase {
    Idle,
    Copying,
    Following,
    Capturing { since: Duration },
    Asked { id: CutId, until: Duration },
    Answered { cut: Box<Cut>, at: Duration },
    Ending { cut: Box<Cut> },
    Detached { cut: Box<Cut>, at: Duration },
    Committed { at: Duration },
    Done,
}

pub(super) struct Newcomer {
    pub(super) node: usize,
    phase: Phase,
    next: Duration,
    copy: Option<Copying>,
    cuts: u32,
    /// The stream is not stopped at the offset of the cut.
    pub(super) overshoots: bool,
    /// What held writes became of.
    pub(super) dropped: usize,
    pub(super) applied: usize,
    /// What the commit left open though the cut was covered.
    pub(super) gaps: Vec<String>,
    /// How fast the sidecar acts, in milliseconds at most.
    pace: u64,
    /// Warm-ups that began.
    pub(super) attempts: u32,
}

impl Newcomer {
    pub(super) fn new(node: usize, at: Duration, pace: u64) -> Self {
        Self {
            node,
            phase: Phase::Idle,
            next: at,
            copy: None,
            cuts: 0,
            overshoots: false,
            dropped: 0,
            applied: 0,
            gaps: Vec::new(),
            pace,
            attempts: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    fn wait(&mut self, random: &mut Random, millis: u64, now: Duration) {
        self.next = now + random.millis(millis);
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, world: &mut World) {
        if world.now < self.next {
            return;
        }
        let lost = self.copy.as_ref().is_some_and(|copy| {
            let is_attached = !matches!(
                self.phase,
                Phase::Detached { .. } | Phase::Committed { .. } | Phase::Done
            );
            is_attached && world.nodes[copy.donor].engine.is_none()
        });
        if lost {
            self.begin_anew(world);
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = self.step(world, phase);
    }

    fn begin_anew(&mut self, world: &mut World) {
        self.phase = Phase::Idle;
        self.copy = None;
        let now = world.now;
        self.wait(&mut world.random, 50, now);
    }

    fn step(&mut self, world: &mut World, phase: Phase) -> Phase {
        let now = world.now;
        match phase {
            Phase::Idle => self.begin(world),
            Phase::Copying => self.load(world),
            Phase::Following => {
                self.follow(world, None);
                if !world.random.one_in(6) {
                    return Phase::Following;
                }
                self.cuts = 0;
                self.set_state(world, RunState::WritesOnly);
                self.wait(&mut world.random, self.pace, now);
                Phase::Capturing { since: now }
            }
            Phase::Capturing { since } => self.ask(world, since),
            Phase::Asked { id, until } => {
                let donor = self.donor();
                match world.cuts.remove(&(donor, id)) {
                    Some(Ok(cut)) => {
                        let at = now + world.random.millis(self.pace);
                        Phase::Answered { cut, at }
                    }
                    Some(Err(_)) => self.again(world),
                    None if now > until => self.again(world),
                    None => Phase::Asked { id, until },
                }
            }
            Phase::Answered { cut, at } if now < at => Phase::Answered { cut, at },
            Phase::Answered { cut, .. } => {
                let covered = world
                    .with_engine(self.node, |engine, _| engine.check_capture(&cut.received))
                    .expect("the newcomer's engine lives");
                match covered {
                    Ok(()) => Phase::Ending { cut },
                    Err(_) => self.again(world),
                }
            }
            Phase::Ending { cut } => self.end(world, cut),
            Phase::Detached { cut, at } if now < at => Phase::Detached { cut, at },
            Phase::Detached { cut, .. } => self.commit(world, &cut),
            Phase::Committed { at } if now < at => Phase::Committed { at },
            Phase::Committed { .. } => {
                self.set_state(world, RunState::Normal);
                Phase::Done
            }
            Phase::Done => Phase::Done,
        }
    }

    fn donor(&self) -> usize {
        self.copy.as_ref().expect("there is a copy").donor
    }

    fn set_state(&self, world: &mut World, state: RunState) {
        world.with_engine(self.node, |engine, now| engine.handle_state(now, state));
    }

    fn begin(&mut self, world: &mut World) -> Phase {
        let now = world.now;
        self.set_state(world, RunState::Standby);
        world.nodes[self.node].store.is_exposed = false;
        world.break_store(self.node);
        let serves = |node: &usize| {
            let engine = world.nodes[*node].engine.as_ref();
            is_counted(*node)
                && *node != self.node
                && engine.is_some_and(|engine| engine.state() == RunState::Normal)
        };
        let donors: Vec<usize> = (0..NODES).filter(serves).collect();
        if donors.is_empty() {
            self.next = now + AGAIN;
            return Phase::Idle;
        }
        self.attempts += 1;
        let donor = world.random.pick(&donors);
        let store = &world.nodes[donor].store;
        let (data, applied, offset) = (store.data.clone(), store.stream.len(), store.offset);
        self.copy = Some(Copying {
            donor,
            snapshot: Some(data),
            // What had been sent to the store before has arrived by then: a replica takes no more.
            arrives: now + Duration::from_millis(20) + world.random.millis(120),
            applied,
            offset,
            lag: world.random.millis(self.pace),
        });
        Phase::Copying
    }

    fn load(&mut self, world: &mut World) -> Phase {
        let Some(copy) = &mut self.copy else {
            return Phase::Idle;
        };
        if world.now < copy.arrives {
            return Phase::Copying;
        }
        if let Some(data) = copy.snapshot.take() {
            world.nodes[self.node].store.data = data;
        }
        Phase::Following
    }

    /// Applies what has come of the donor's stream, up to an offset.
    fn follow(&mut self, world: &mut World, up_to: Option<u64>) {
        let Some(copy) = &mut self.copy else { return };
        let now = world.now;
        let due = |entry: &&Entry| {
            entry.at + copy.lag <= now && up_to.is_none_or(|offset| entry.end <= offset)
        };
        let stream = &world.nodes[copy.donor].store.stream;
        let new: Vec<Entry> = stream[copy.applied..]
            .iter()
            .take_while(due)
            .cloned()
            .collect();
        let store = &mut world.nodes[self.node].store;
        for entry in new {
            if let Some(command) = &entry.command {
                store.apply(command);
            }
            copy.applied += 1;
            copy.offset = entry.end;
        }
    }

    fn ask(&mut self, world: &mut World, since: Duration) -> Phase {
        let donor = self.donor();
        match world.with_engine(donor, Engine::handle_cut) {
            Some(Ok(id)) => Phase::Asked {
                id,
                until: world.now + Duration::from_secs(1),
            },
            _ if world.now > since + Duration::from_secs(1) => self.give_up(world),
            _ => {
                self.next = world.now + AGAIN;
                Phase::Capturing { since }
            }
        }
    }

    /// The stream goes on, and a later cut is tried.
    fn again(&mut self, world: &mut World) -> Phase {
        self.cuts += 1;
        if self.cuts > CUTS {
            return self.give_up(world);
        }
        self.follow(world, None);
        self.next = world.now + AGAIN;
        Phase::Capturing { since: world.now }
    }

    /// What is held is refused; the copy goes on.
    fn give_up(&mut self, world: &mut World) -> Phase {
        self.set_state(world, RunState::Standby);
        self.next = world.now + AGAIN;
        Phase::Following
    }

    fn end(&mut self, world: &mut World, cut: Box<Cut>) -> Phase {
        let up_to = (!self.overshoots).then_some(cut.offset);
        self.follow(world, up_to);
        let copy = self.copy.as_ref().expect("there is a copy");
        if copy.offset < cut.offset {
            return Phase::Ending { cut };
        }
        if !self.overshoots {
            assert_eq!(copy.offset, cut.offset, "the cut lies between two commands");
            let keys = world.nodes[self.node].store.data.len() as u64;
            assert_eq!(keys, cut.keys, "the copy is whole");
        }
        world.nodes[self.node].store.is_exposed = true;
        let at = world.now + world.random.millis(self.pace);
        Phase::Detached { cut, at }
    }

    /// Nothing may lie between the copy and what was held.
    fn look_for_gaps(&mut self, world: &World, cut: &Cut) {
        let engine = world.nodes[self.node].engine.as_ref();
        let Some(Ok(own)) = engine.map(|engine| engine.received(world.clock())) else {
            return;
        };
        for (name, theirs) in cut.received.sources() {
            let gaps = &own.sources()[name].missing;
            let open = theirs.closed_seconds.is_none();
            if open && gaps.iter().any(|gap| gap.1 > theirs.last) {
                let last = theirs.last;
                self.gaps
                    .push(format!("{name}: {gaps:?} after a cut at {last}"));
            }
        }
    }

    fn commit(&mut self, world: &mut World, cut: &Cut) -> Phase {
        let done = world
            .with_engine(self.node, |engine, now| {
                engine.handle_commit(now, &cut.received)
            })
            .expect("the newcomer's engine lives");
        let Ok(done) = done else {
            self.begin_anew(world);
            return Phase::Idle;
        };
        self.look_for_gaps(world, cut);
        self.dropped += done.dropped;
        self.applied += done.applied;
        let at = world.now + world.random.millis(100);
        Phase::Committed { at }
    }
}
