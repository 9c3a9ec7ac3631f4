//! What a launcher does next, decided without a process or a socket.
//!
//! ```text
//!               Start                     Stop, or the hold is over
//!  +---------+ ------> +---------+ SIGTERM --------> +----------+
//!  | Holding |         | Running |                   | Stopping | grace over: SIGKILL
//!  +---------+ <------ +---------+                   +----------+
//!    |     ^    Exited                                 | Exited
//!    |     +-------------------------------------------+
//!    | terminating
//!    v
//!   Exit
//! ```
//!
//! SIGTERM to the launcher (`Terminate`) sets *terminating*: nothing is started
//! any more, and a program that runs is held until the sidecar orders the stop.
//! The hold is over when no sidecar has been connected for [`ORPHAN_AFTER`], or
//! when the container's grace has elapsed.

use std::time::Duration;

use super::protocol::{Command, Message, Running, Status};

/// How long a terminating launcher waits for a sidecar that is not connected:
/// longer than a crashed sidecar needs to come back, far shorter than a pod's grace.
pub(crate) const ORPHAN_AFTER: Duration = Duration::from_secs(5);

/// How long a program that the launcher stops on its own may take to end.
pub(crate) const KILL_AFTER: Duration = Duration::from_secs(10);

/// Something that happened to a launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The sidecar asks.
    Command(Command),
    /// A sidecar has connected.
    Connected,
    /// A sidecar's connection has ended.
    Disconnected,
    /// The program was started, as [`Effect::Spawn`] asked.
    Spawned {
        /// Its process id.
        pid: i32,
        /// A name for this run that no other run has.
        incarnation: String,
    },
    /// The program could not be started.
    SpawnFailed {
        /// Why, in words.
        why: String,
    },
    /// The program has ended.
    Exited {
        /// How, in words.
        how: String,
    },
    /// The launcher was told to end.
    Terminate,
    /// Nothing but time.
    Tick,
}

/// Something a launcher must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start the program and report [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn,
    /// SIGTERM to the program.
    Term {
        /// The program's process id.
        pid: i32,
    },
    /// SIGKILL to the program and all it started.
    Kill {
        /// The program's process id.
        pid: i32,
    },
    /// Tell every connected sidecar.
    Push(Message),
    /// Tell the sidecar that asked.
    Reply(Message),
    /// End the launcher.
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Holding,
    Running(Running),
    Stopping {
        running: Running,
        kill_at: Option<Duration>,
    },
}

/// One launcher. Times are durations since an arbitrary epoch.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    grace: Duration,
    state: State,
    starts: u64,
    last_exit: String,
    sidecars: usize,
    /// When the last sidecar left, or the launcher began.
    alone_since: Duration,
    terminating_since: Option<Duration>,
}

impl Machine {
    /// A launcher that holds: `starts` programs were started in this pod before
    /// it, and a terminating one waits at most `grace` for its order.
    pub(crate) fn new(now: Duration, grace: Duration, starts: u64, last_exit: String) -> Self {
        Self {
            grace,
            state: State::Holding,
            starts,
            last_exit,
            sidecars: 0,
            alone_since: now,
            terminating_since: None,
        }
    }

    /// How things are.
    pub(crate) fn status(&self) -> Status {
        Status {
            running: self.running().cloned(),
            starts: self.starts,
            last_exit: self.last_exit.clone(),
            terminating: self.terminating_since.is_some(),
        }
    }

    fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Holding => None,
            State::Running(running) | State::Stopping { running, .. } => Some(running),
        }
    }

    /// When [`Event::Tick`] is due, if time alone will change anything.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Holding => None,
            State::Running(_) => self.hold_ends(),
            State::Stopping { kill_at, .. } => *kill_at,
        }
    }

    fn hold_ends(&self) -> Option<Duration> {
        let since = self.terminating_since?;
        let grace_ends = since + self.grace;
        if self.sidecars > 0 {
            return Some(grace_ends);
        }
        Some(grace_ends.min(self.alone_since.max(since) + ORPHAN_AFTER))
    }

    /// Takes in one event and says what to do, in order.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        match event {
            Event::Command(Command::Start) => self.start(),
            Event::Command(Command::Stop { grace_ms }) => {
                self.stop(now + Duration::from_millis(grace_ms))
            }
            Event::Command(Command::Status) => {
                vec![Effect::Reply(Message::Status(self.status()))]
            }
            Event::Connected => {
                self.sidecars += 1;
                vec![Effect::Reply(Message::Status(self.status()))]
            }
            Event::Disconnected => {
                self.sidecars = self.sidecars.saturating_sub(1);
                self.alone_since = now;
                Vec::new()
            }
            Event::Spawned { pid, incarnation } => self.spawned(pid, incarnation),
            Event::SpawnFailed { why } => self.ended(why),
            Event::Exited { how } => self.ended(how),
            Event::Terminate => self.terminate(now),
            Event::Tick => self.tick(now),
        }
    }

    fn start(&mut self) -> Vec<Effect> {
        let refused = |why: &str| vec![Effect::Reply(Message::Refused { why: why.into() })];
        if self.terminating_since.is_some() {
            return refused("the container is to end; nothing is started any more");
        }
        match self.state {
            State::Holding => vec![Effect::Spawn],
            State::Running(_) => vec![Effect::Reply(Message::Status(self.status()))],
            State::Stopping { .. } => {
                refused("the program is stopping; start it when it has ended")
            }
        }
    }

    fn stop(&mut self, kill_at: Duration) -> Vec<Effect> {
        match &mut self.state {
            State::Holding => vec![Effect::Reply(Message::Status(self.status()))],
            State::Running(running) => {
                let running = running.clone();
                let pid = running.pid;
                self.state = State::Stopping {
                    running,
                    kill_at: Some(kill_at),
                };
                vec![Effect::Term { pid }]
            }
            State::Stopping { kill_at: held, .. } => {
                // A second order may shorten the first, never prolong it.
                *held = held.map(|at| at.min(kill_at));
                Vec::new()
            }
        }
    }

    fn spawned(&mut self, pid: i32, incarnation: String) -> Vec<Effect> {
        self.starts += 1;
        let message = Message::Started {
            pid,
            incarnation: incarnation.clone(),
            starts: self.starts,
        };
        self.state = State::Running(Running { pid, incarnation });
        vec![Effect::Push(message)]
    }

    fn ended(&mut self, how: String) -> Vec<Effect> {
        self.last_exit.clone_from(&how);
        self.state = State::Holding;
        let mut effects = vec![Effect::Push(Message::Exited { how })];
        if self.terminating_since.is_some() {
            effects.push(Effect::Exit);
        }
        effects
    }

    fn terminate(&mut self, now: Duration) -> Vec<Effect> {
        if self.terminating_since.is_some() {
            return Vec::new();
        }
        self.terminating_since = Some(now);
        let mut effects = vec![Effect::Push(Message::Terminating)];
        if self.state == State::Holding {
            effects.push(Effect::Exit);
        }
        effects
    }

    fn tick(&mut self, now: Duration) -> Vec<Effect> {
        if self.deadline().is_none_or(|at| now < at) {
            return Vec::new();
        }
        match &mut self.state {
            State::Holding => Vec::new(),
            State::Running(_) => self.stop(now + KILL_AFTER),
            State::Stopping { running, kill_at } => {
                // Once is enough: nothing survives SIGKILL.
                *kill_at = None;
                vec![Effect::Kill { pid: running.pid }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(25);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn stop(seconds: u64) -> Event {
        Event::Command(Command::stop(at(seconds)))
    }

    fn running() -> Machine {
        let mut machine = Machine::new(at(0), GRACE, 0, String::new());
        machine.handle(at(0), Event::Connected);
        assert_eq!(
            machine.handle(at(0), Event::Command(Command::Start)),
            [Effect::Spawn]
        );
        let spawned = Event::Spawned {
            pid: 7,
            incarnation: "a-1".into(),
        };
        machine.handle(at(0), spawned);
        machine
    }

    #[test]
    fn it_boots_holding_and_starts_when_told() {
        let mut machine = Machine::new(at(0), GRACE, 3, "killed".into());
        assert_eq!(machine.status().running, None);
        assert_eq!(machine.deadline(), None);
        assert_eq!(
            machine.handle(at(9), Event::Command(Command::Start)),
            [Effect::Spawn]
        );
        let effects = machine.handle(
            at(9),
            Event::Spawned {
                pid: 7,
                incarnation: "a-4".into(),
            },
        );
        let started = Message::Started {
            pid: 7,
            incarnation: "a-4".into(),
            starts: 4,
        };
        assert_eq!(effects, [Effect::Push(started)]);
        assert!(matches!(
            machine.handle(at(9), Event::Command(Command::Start))[..],
            [Effect::Reply(Message::Status(_))]
        ));
    }

    #[test]
    fn a_stop_terminates_then_kills_once() {
        let mut machine = running();
        assert_eq!(machine.handle(at(1), stop(4)), [Effect::Term { pid: 7 }]);
        assert_eq!(machine.deadline(), Some(at(5)));
        assert_eq!(machine.handle(at(2), stop(1)), []);
        assert_eq!(machine.deadline(), Some(at(3)));
        assert_eq!(machine.handle(at(2), stop(60)), []);
        assert_eq!(
            machine.handle(at(3), Event::Tick),
            [Effect::Kill { pid: 7 }]
        );
        assert_eq!(machine.handle(at(4), Event::Tick), []);
        let exited = Event::Exited {
            how: "killed".into(),
        };
        let push = Effect::Push(Message::Exited {
            how: "killed".into(),
        });
        assert_eq!(machine.handle(at(4), exited), [push]);
        assert_eq!(machine.status().last_exit, "killed");
    }

    #[test]
    fn a_crash_is_told_and_not_repaired() {
        let mut machine = running();
        let effects = machine.handle(
            at(1),
            Event::Exited {
                how: "exit 1".into(),
            },
        );
        assert_eq!(
            effects,
            [Effect::Push(Message::Exited {
                how: "exit 1".into()
            })]
        );
        assert_eq!(machine.status().running, None);
    }

    #[test]
    fn a_terminating_launcher_holds_until_it_is_told() {
        let mut machine = running();
        assert_eq!(
            machine.handle(at(10), Event::Terminate),
            [Effect::Push(Message::Terminating)]
        );
        assert_eq!(machine.handle(at(30), Event::Tick), []);
        assert_eq!(machine.handle(at(31), stop(3)), [Effect::Term { pid: 7 }]);
        let effects = machine.handle(
            at(32),
            Event::Exited {
                how: "exit 0".into(),
            },
        );
        assert_eq!(effects.last(), Some(&Effect::Exit));
    }

    #[test]
    fn the_hold_ends_by_grace_or_by_absence() {
        // (what happens at 10 s besides SIGTERM, when the hold must be over)
        let cases: [(&[Event], u64); 3] = [
            (&[], 35),
            (&[Event::Disconnected], 15),
            (&[Event::Disconnected, Event::Connected], 35),
        ];
        for (events, over) in cases {
            let mut machine = running();
            machine.handle(at(10), Event::Terminate);
            for event in events {
                machine.handle(at(10), event.clone());
            }
            assert_eq!(machine.deadline(), Some(at(over)), "{events:?}");
            assert_eq!(machine.handle(at(over - 1), Event::Tick), [], "{events:?}");
            assert_eq!(
                machine.handle(at(over), Event::Tick),
                [Effect::Term { pid: 7 }],
                "{events:?}"
            );
            assert_eq!(machine.deadline(), Some(at(over) + KILL_AFTER));
        }
    }

    #[test]
    fn absence_before_the_signal_does_not_count() {
        let mut machine = running();
        machine.handle(at(1), Event::Disconnected);
        machine.handle(at(100), Event::Terminate);
        assert_eq!(machine.deadline(), Some(at(105)));
    }

    #[test]
    fn nothing_is_started_while_terminating() {
        let mut machine = running();
        machine.handle(at(1), Event::Terminate);
        assert!(matches!(
            machine.handle(at(1), Event::Command(Command::Start))[..],
            [Effect::Reply(Message::Refused { .. })]
        ));
    }

    #[test]
    fn a_holding_launcher_ends_at_once() {
        let mut machine = Machine::new(at(0), GRACE, 0, String::new());
        assert_eq!(
            machine.handle(at(1), Event::Terminate),
            [Effect::Push(Message::Terminating), Effect::Exit]
        );
    }

    #[test]
    fn a_program_that_cannot_start_is_an_exit() {
        let mut machine = Machine::new(at(0), GRACE, 0, String::new());
        machine.handle(at(0), Event::Command(Command::Start));
        let effects = machine.handle(
            at(0),
            Event::SpawnFailed {
                why: "absent".into(),
            },
        );
        assert_eq!(
            effects,
            [Effect::Push(Message::Exited {
                how: "absent".into()
            })]
        );
        assert_eq!(machine.status().starts, 0);
    }
}
