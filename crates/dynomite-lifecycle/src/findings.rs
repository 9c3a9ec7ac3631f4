//! Findings: what is wrong with the node now, since when, and the remedy that is tried, bounded.
//!
//! A process that answers nothing any more is restarted when that can lose
//! nothing: where a replica can be copied afterwards, or nothing is proven. The
//! pauses between restarts double, and after some of them a person has to look.
//! Everything else heals by itself or by somebody else; it is said all the same.

use std::time::Duration;

use dynomite_api::contract::{Finding, Peer, StoreFacts};
use jiff::Timestamp;

use crate::event::ProcessName;
use crate::lifecycle::Lifecycle;
use crate::process::Process;
use crate::reason;
use crate::state::State;
use crate::time::{after, elapsed};

/// How long nothing may answer before the process counts as hung.
const HANG: Duration = Duration::from_secs(10);
/// How long a store may read its files before that is worth a word.
const LOADING_LONG: Duration = Duration::from_mins(10);
/// How long peers may be away: they restart, too.
const PEERS_AWAY: Duration = Duration::from_secs(30);
/// When a hung process is restarted first; the pause doubles each time.
const RESTART_FIRST: Duration = Duration::from_mins(1);
/// Restarts that are tried.
const RESTARTS: u32 = 5;
/// How long a finding that is gone keeps the count of its remedies, should it
/// come back.
const KEPT: Duration = Duration::from_hours(1);
/// What a hung process gets to end by itself.
const RESTART_GRACE: Duration = Duration::from_secs(5);

/// Something that is wrong, for as long as it is seen.
struct Sign {
    reason: &'static str,
    message: String,
    /// How long it must last before it is a finding.
    after: Duration,
    /// The process whose restart may help.
    restart: Option<ProcessName>,
}

impl Sign {
    fn new(reason: &'static str, message: String) -> Self {
        Self {
            reason,
            message,
            after: Duration::ZERO,
            restart: None,
        }
    }
}

/// What is remembered of a sign.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    message: String,
    since: Timestamp,
    after: Duration,
    remedies: u32,
    /// When it was last seen.
    seen: Timestamp,
    gone: bool,
}

impl Lifecycle {
    /// What is wrong now, for the report.
    pub(crate) fn findings(&self, now: Timestamp) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (reason, noted) in &self.noted {
            if noted.gone || elapsed(now, noted.since) < noted.after {
                continue;
            }
            let mut message = noted.message.clone();
            if noted.remedies >= RESTARTS {
                message.push_str("; restarting it did not help: look at its log and its machine");
            }
            findings.push(Finding {
                reason: (*reason).to_owned(),
                message,
                since: noted.since,
                remedies: noted.remedies,
            });
        }
        findings
    }

    /// Looks what is wrong, and tries what may help.
    pub(crate) fn note_findings(&mut self, now: Timestamp) {
        let signs = if matches!(self.state, State::Draining(_) | State::Stopped { .. }) {
            Vec::new()
        } else {
            self.signs()
        };
        for noted in self.noted.values_mut() {
            noted.gone = true;
        }
        for sign in signs {
            let noted = self.noted.entry(sign.reason).or_insert_with(|| Noted {
                message: String::new(),
                since: now,
                after: sign.after,
                remedies: 0,
                seen: now,
                gone: false,
            });
            // Not seen at the last look: it has come back.
            if noted.seen < self.looked_at {
                noted.since = now;
            }
            noted.message = sign.message;
            noted.seen = now;
            noted.gone = false;
            let pause = RESTART_FIRST.saturating_mul(1 << noted.remedies.min(10));
            let due = noted.remedies < RESTARTS && after(noted.since, pause) <= now;
            if let Some(name) = sign.restart.filter(|_| due) {
                noted.remedies += 1;
                self.restart(now, name, sign.reason);
            }
        }
        self.noted
            .retain(|_, noted| !noted.gone || elapsed(now, noted.seen) < KEPT);
        self.looked_at = now;
    }

    fn restart(&mut self, now: Timestamp, name: ProcessName, reason: &'static str) {
        let message = format!("{} is restarted: it answers nothing", name.name());
        self.note(true, reason, message);
        let process = match name {
            ProcessName::Store => &mut self.store_process,
            ProcessName::Engine => &mut self.engine_process,
        };
        if let Some(effects) = process.bring_down(now, RESTART_GRACE) {
            self.effects.extend(effects);
        }
    }

    fn signs(&self) -> Vec<Sign> {
        let mut signs = Vec::new();
        if let Some((reason, message)) = self.spoilt_why() {
            signs.push(Sign::new(reason, message));
        } else if let Some(message) = crashing(&self.store_process) {
            signs.push(Sign::new(reason::STORE_CRASHING, message));
        }
        if let Some(message) = crashing(&self.engine_process) {
            signs.push(Sign::new(reason::ENGINE_CRASHING, message));
        }
        if let Some((reason, message)) = self.refused_why() {
            signs.push(Sign::new(reason, message));
        }
        signs.extend(self.hung());
        let facts = self.store.last().map(|sight| &sight.facts);
        if let Some(facts) = facts.filter(|_| self.store_process.is_up()) {
            signs.extend(complaint(facts));
        }
        signs.extend(self.peers_lost());
        if let Some((reason, message)) = self.renewal_why() {
            signs.push(Sign::new(reason, message));
        }
        if let Some(failure) = &self.failure
            && self.failed_warm_ups > 0
        {
            let attempts = self.failed_warm_ups;
            let message = format!("{} ({attempts} attempts failed)", failure.message);
            signs.push(Sign::new(reason::WARM_UP_FAILS, message));
        }
        if let State::WarmUp(copy) = &self.state
            && let Some((reason, why)) = &copy.trouble
        {
            signs.push(Sign::new(reason, why.clone()));
        }
        signs
    }

    /// Processes that run and answer nothing.
    fn hung(&self) -> Vec<Sign> {
        let patience = self.patience();
        // After a restart the data has to come from somewhere, unless there was none.
        let copyable = self.desired.as_ref().is_some_and(|d| !d.donors.is_empty());
        let unproven = self.proof().is_none();
        let hangs = |name: ProcessName, reason, process: &Process, slow: bool, may: bool| {
            (process.is_up() && slow).then(|| {
                let remedy = if may {
                    "it is restarted when that lasts"
                } else {
                    "restarting it could lose the only copy: look at its machine, or delete the pod"
                };
                Sign {
                    message: format!("{} runs and answers nothing; {remedy}", name.name()),
                    after: HANG,
                    restart: may.then_some(name),
                    ..Sign::new(reason, String::new())
                }
            })
        };
        let (store, engine) = (ProcessName::Store, ProcessName::Engine);
        let alone = !self.has_replicas();
        [
            hangs(
                store,
                reason::STORE_HANGS,
                &self.store_process,
                self.store.is_slow(&patience),
                copyable || unproven,
            ),
            hangs(
                engine,
                reason::ENGINE_HANGS,
                &self.engine_process,
                self.engine.is_slow(&patience),
                copyable || unproven || alone,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn peers_lost(&self) -> Option<Sign> {
        let State::Open { .. } = &self.state else {
            return None;
        };
        let connected = self.engine.last()?.facts.peers_connected? as usize;
        let desired = self.desired.as_ref()?;
        let near = |peer: &&Peer| peer.datacenter == desired.node.datacenter;
        let peers = desired.peers.iter().filter(near).count();
        (connected < peers).then(|| Sign {
            message: format!(
                "the engine is connected to {connected} peers of the {peers} of its datacenter: writes for the others \
                 are refused or missed there; see to them, or to the network"
            ),
            after: PEERS_AWAY,
            ..Sign::new(reason::PEERS_LOST, String::new())
        })
    }
}

fn crashing(process: &Process) -> Option<String> {
    /// So many ends in a row are no accident any more.
    const CRASHING: u32 = 3;
    let crashes = process.ends_in_a_row() >= CRASHING && !process.is_up();
    crashes.then(|| {
        let (_, message) = process.why_down();
        format!("{message}; it is started again every 10 s: look at its log and its settings")
    })
}

/// What the store itself says.
fn complaint(facts: &StoreFacts) -> Option<Sign> {
    if facts.loading {
        let message = "the store is still reading its files; a large volume or a slow disk needs \
                       its time, and a copy of a replica may be faster: delete the pod's volume"
            .to_owned();
        return Some(Sign {
            after: LOADING_LONG,
            ..Sign::new(reason::STORE_LOADING_LONG, message)
        });
    }
    let text = facts.complaint.as_deref().filter(|text| !text.is_empty())?;
    let (reason, remedy) = if text.starts_with("OOM") {
        let remedy = "give it more memory, let keys expire, or set maxmemory-policy";
        (reason::STORE_FULL, remedy)
    } else if text.starts_with("MISCONF") {
        let remedy = "it cannot save: see that the data volume has space and can be written";
        (reason::STORE_CANNOT_SAVE, remedy)
    } else if text.starts_with("LOADING") {
        return None;
    } else {
        (reason::STORE_COMPLAINS, "look at the store's log")
    };
    Some(Sign::new(reason, format!("{text}; {remedy}")))
}
