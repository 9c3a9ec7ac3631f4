//! Keeps one process running: starts it again at once, then with a growing pause while it does not stay up.
//!
//! ```text
//!                 LauncherUp{running}
//!       +---------------------------------------+
//!       |      LauncherUp               start   v         Started
//!   NoLauncher ------------> Down{at} -------> Starting ---------> Up
//!       ^                      ^  ^               | Exited          | stop
//!       | LauncherGone         |  +---------------+                 v
//!   (any state)                +---------------------------- Up, Stopping
//!                                         Exited
//! ```

use std::time::Duration;

use dynomite_api::contract::ProcessFacts;
use jiff::Timestamp;

use crate::effect::Effect;
use crate::event::{ProcessEvent, ProcessName};
use crate::reason;
use crate::time::{after, elapsed};

/// The pause before the second restart in a row; the first comes at once.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between restarts.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// A process that ran this long has recovered: its next restart comes at once.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// A launcher that has not answered a start by then is asked again.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What a launcher gets on top of the grace before a stop is asked for again.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    NoLauncher,
    Down {
        restart_at: Timestamp,
    },
    Starting {
        since: Timestamp,
    },
    Up {
        incarnation: String,
        since: Timestamp,
    },
    Stopping {
        since: Timestamp,
        grace: Duration,
    },
}

/// One process of the node and its launcher.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    name: ProcessName,
    state: State,
    /// Ends in a row without a healthy minute between them.
    ends: u32,
    starts: u64,
    last_exit: String,
}

/// What an event of a launcher meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that matters to the node.
    Nothing,
    /// The launcher can be spoken to, and its process runs.
    Attached,
    /// The launcher can be spoken to, and its process does not run.
    AttachedIdle,
    /// The process runs, in the incarnation that [`Process::incarnation`] says.
    Started,
    /// It runs no more.
    Ended,
    /// The container was told to end.
    Terminating,
}

impl Process {
    pub(crate) fn new(name: ProcessName) -> Self {
        Self {
            name,
            state: State::NoLauncher,
            ends: 0,
            starts: 0,
            last_exit: String::new(),
        }
    }

    pub(crate) fn absorb(&mut self, now: Timestamp, event: ProcessEvent) -> Change {
        match event {
            ProcessEvent::LauncherUp { running } => {
                if running {
                    self.state = State::Starting { since: now };
                    Change::Attached
                } else {
                    self.state = State::Down { restart_at: now };
                    Change::AttachedIdle
                }
            }
            ProcessEvent::Started {
                incarnation,
                starts,
                ..
            } => {
                self.starts = starts;
                let same = self.incarnation() == Some(incarnation.as_str());
                if same || matches!(self.state, State::Stopping { .. }) {
                    return Change::Nothing;
                }
                self.state = State::Up {
                    incarnation,
                    since: now,
                };
                Change::Started
            }
            ProcessEvent::Exited { how } => self.ended(now, how),
            ProcessEvent::Terminating => Change::Terminating,
            ProcessEvent::LauncherGone => {
                self.state = State::NoLauncher;
                Change::Nothing
            }
        }
    }

    fn ended(&mut self, now: Timestamp, how: String) -> Change {
        self.last_exit = how;
        let restart_at = match &self.state {
            // Ordered: not a failure of the process.
            State::Stopping { .. } => now,
            State::Up { since, .. } if elapsed(now, *since) >= HEALTHY_AFTER => {
                self.ends = 1;
                now
            }
            _ => {
                self.ends = self.ends.saturating_add(1);
                after(now, pause(self.ends))
            }
        };
        self.state = State::Down { restart_at };
        Change::Ended
    }

    /// What has to be done so that the process runs.
    pub(crate) fn keep_up(&mut self, now: Timestamp) -> Vec<Effect> {
        let due = match &self.state {
            State::Down { restart_at } => *restart_at <= now,
            State::Starting { since } => elapsed(now, *since) >= START_LIMIT,
            State::NoLauncher | State::Up { .. } | State::Stopping { .. } => false,
        };
        if !due {
            return Vec::new();
        }
        self.state = State::Starting { since: now };
        vec![Effect::Start(self.name)]
    }

    /// What has to be done so that the process ends; `None` once it has.
    pub(crate) fn bring_down(&mut self, now: Timestamp, grace: Duration) -> Option<Vec<Effect>> {
        let ordered = match &self.state {
            State::NoLauncher | State::Down { .. } => return None,
            State::Stopping { since, grace } => {
                elapsed(now, *since) < grace.saturating_add(STOP_SLACK)
            }
            State::Starting { .. } | State::Up { .. } => false,
        };
        if ordered {
            return Some(Vec::new());
        }
        self.state = State::Stopping { since: now, grace };
        Some(vec![Effect::Stop {
            process: self.name,
            grace,
        }])
    }

    /// New settings are a new chance: no pause before the next start.
    pub(crate) fn forgive(&mut self, now: Timestamp) {
        self.ends = 0;
        if let State::Down { restart_at } = &mut self.state {
            *restart_at = now;
        }
    }

    pub(crate) fn incarnation(&self) -> Option<&str> {
        match &self.state {
            State::Up { incarnation, .. } => Some(incarnation),
            _ => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.incarnation().is_some()
    }

    /// Whether the launcher has said what the process does.
    pub(crate) fn is_known(&self) -> bool {
        self.state != State::NoLauncher
    }

    /// Whether its launcher has said that it does not run.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// Whether it was told to start, or is said to run, and its `Started` is due.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// How often it has ended in a row, as long as it is not up again.
    pub(crate) fn ends_in_a_row(&self) -> u32 {
        self.ends
    }

    pub(crate) fn last_exit(&self) -> &str {
        &self.last_exit
    }

    /// Why it does not do its work: one word, and the same for people.
    pub(crate) fn why_down(&self) -> (&'static str, String) {
        let name = self.name.name();
        if !self.is_known() {
            let message = format!("the launcher of {name} cannot be reached");
            return (reason::LAUNCHER_MISSING, message);
        }
        if self.ends > 0 && !self.is_up() {
            let message = format!(
                "{name} ended {} times in a row, last: {}",
                self.ends, self.last_exit
            );
            return (reason::PROCESS_CRASHING, message);
        }
        let message = format!("{name} is starting");
        (reason::PROCESS_STARTING, message)
    }

    pub(crate) fn facts(&self) -> ProcessFacts {
        ProcessFacts {
            running: self.is_up(),
            starts: self.starts,
            last_exit: self.last_exit.clone(),
        }
    }
}

/// The pause before the restart that follows the `ends`-th end in a row.
fn pause(ends: u32) -> Duration {
    match ends {
        0 | 1 => Duration::ZERO,
        more => PAUSE_FIRST
            .saturating_mul(1 << (more - 2).min(10))
            .min(PAUSE_LIMIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).expect("in range")
    }

    fn started(incarnation: &str) -> ProcessEvent {
        ProcessEvent::Started {
            pid: 7,
            incarnation: incarnation.to_owned(),
            starts: 1,
        }
    }

    fn exited() -> ProcessEvent {
        ProcessEvent::Exited {
            how: "signal 9".to_owned(),
        }
    }

    #[test]
    fn the_pause_grows_from_nothing_to_its_limit() {
        let got: Vec<u128> = (1..=12).map(|ends| pause(ends).as_millis()).collect();
        assert_eq!(
            got,
            [
                0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000
            ]
        );
    }

    #[test]
    fn it_restarts_at_once_and_a_healthy_minute_forgives() {
        let mut process = Process::new(ProcessName::Store);
        process.absorb(at(0), ProcessEvent::LauncherUp { running: false });
        assert_eq!(process.keep_up(at(0)).len(), 1);
        assert_eq!(process.absorb(at(1), started("a")), Change::Started);
        assert_eq!(process.absorb(at(2), exited()), Change::Ended);
        assert_eq!(process.keep_up(at(2)).len(), 1, "at once");
        process.absorb(at(3), started("b"));
        process.absorb(at(4), exited());
        assert!(process.keep_up(at(5)).is_empty(), "the second waits");
        assert_eq!(process.keep_up(at(104)).len(), 1);
        process.absorb(at(105), started("c"));
        process.absorb(at(105 + 60_000), exited());
        assert_eq!(process.keep_up(at(105 + 60_000)).len(), 1);
    }

    #[test]
    fn what_already_runs_is_adopted_and_not_started() {
        let mut process = Process::new(ProcessName::Engine);
        process.absorb(at(0), ProcessEvent::LauncherUp { running: true });
        process.absorb(at(0), started("a"));
        assert!(process.keep_up(at(1)).is_empty());
        process.absorb(at(2), ProcessEvent::LauncherGone);
        assert!(!process.is_known());
        process.absorb(at(3), ProcessEvent::LauncherUp { running: true });
        assert_eq!(process.absorb(at(3), started("a")), Change::Started);
        assert_eq!(process.incarnation(), Some("a"));
    }

    #[test]
    fn an_ordered_end_is_no_failure() {
        let mut process = Process::new(ProcessName::Engine);
        process.absorb(at(0), ProcessEvent::LauncherUp { running: false });
        process.absorb(at(0), started("a"));
        let grace = Duration::from_secs(5);
        assert_eq!(process.bring_down(at(1), grace).map(|e| e.len()), Some(1));
        assert_eq!(process.bring_down(at(2), grace).map(|e| e.len()), Some(0));
        process.absorb(at(3), exited());
        assert_eq!(process.bring_down(at(3), grace), None);
        assert_eq!(process.ends_in_a_row(), 0);
    }
}
