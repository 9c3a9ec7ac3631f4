//! Settings: what can change while the processes run, what waits for their restart, and what no store would take.
//!
//! A line that the store refuses would keep it from starting again. It is left
//! out of the file, which keeps the value before it if there was one, until the
//! resource says otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dynomite_api::contract::{EngineSettings, Persistence, StoreSettings};
use jiff::Timestamp;

use crate::effect::Order;
use crate::event::SettingFault;
use crate::lifecycle::Lifecycle;
use crate::readiness::Why;
use crate::reason;

/// What Redis and Valkey say before the line of their file that they cannot read.
const BAD_LINE: &str = ">>> '";

/// Whether a line of a store's log shows the line of its file that it cannot read.
pub fn shows_bad_line(line: &str) -> bool {
    line.starts_with(BAD_LINE)
}

/// A setting that the store has not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    value: String,
    fault: SettingFault,
    /// The store's words.
    why: String,
}

/// The store's name for its memory limit.
const MAX_MEMORY: &str = "maxmemory";

/// The store's name for when it writes snapshots; it goes by the persistence.
const SAVE: &str = "save";

/// The settings of a store that may be set while it runs, by its own names.
fn settable(settings: &StoreSettings) -> BTreeMap<&str, String> {
    let mut all: BTreeMap<&str, String> = settings
        .settings
        .iter()
        .filter(|(name, _)| *name != SAVE || settings.persistence == Persistence::Rdb)
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    all.insert(MAX_MEMORY, settings.max_memory_bytes.to_string());
    all
}

impl Lifecycle {
    /// Orders one setting of the store that is not what it should be.
    pub(crate) fn order_setting(&mut self, now: Timestamp) {
        if let Some((name, value)) = self.next_setting() {
            self.order(now, Order::StoreSetting { name, value });
        }
    }

    fn next_setting(&self) -> Option<(String, String)> {
        let (wanted, _) = self.wanted()?;
        settable(wanted)
            .into_iter()
            .find(|(name, value)| {
                self.in_force(name).as_ref() != Some(value)
                    && self.refused_settings.get(*name).map(|r| &r.value) != Some(value)
            })
            .map(|(name, value)| (name.to_owned(), value))
    }

    /// The settings of the document, once they are known to be valid: neither
    /// a change nor a restart would help those that are not.
    fn wanted(&self) -> Option<(&StoreSettings, &EngineSettings)> {
        let files = self.files.as_ref().filter(|_| self.invalid.is_none())?;
        Some((&files.0, &files.1))
    }

    /// What the running store has for a setting, as far as we have set it.
    fn in_force(&self, name: &str) -> Option<String> {
        if let Some(value) = self.record.live.get(name) {
            return Some(value.clone());
        }
        let started = &self.record.store.as_ref()?.settings;
        settable(started).remove(name)
    }

    pub(crate) fn setting_taken(&mut self, name: &str, value: &str) {
        self.refused_settings.remove(name);
        self.record.live.insert(name.to_owned(), value.to_owned());
        self.save();
    }

    pub(crate) fn setting_refused(
        &mut self,
        name: &str,
        value: &str,
        fault: SettingFault,
        why: &str,
    ) {
        let message = match fault {
            SettingFault::AtStart => format!("the store takes {name} only when it starts: {why}"),
            SettingFault::Unknown | SettingFault::Value => format!(
                "the store takes no {name} {value:?}, and would not start with it: it is left out: {why}"
            ),
        };
        self.note(fault.is_bad(), reason::SETTING_REFUSED, message);
        let refused = Refused {
            value: value.to_owned(),
            fault,
            why: why.to_owned(),
        };
        self.refused_settings.insert(name.to_owned(), refused);
        if fault.is_bad() {
            // The file must be without it before the store reads it again.
            self.render_asked = false;
        }
    }

    /// A store that has started has read what it takes only then.
    pub(crate) fn forget_late_settings(&mut self) {
        self.refused_settings
            .retain(|_, refused| refused.fault.is_bad());
    }

    /// The store ended; whether a line of its file is why.
    pub(crate) fn note_bad_line(&mut self) {
        let said = self.store_process.last_exit().to_owned();
        let Some((_, line)) = said.split_once(BAD_LINE) else {
            return;
        };
        let ends = |c: char| c.is_whitespace() || c == '\'';
        let named = line.split(ends).next().unwrap_or_default();
        let desired = self.desired.as_ref().map(|desired| &desired.store.settings);
        let found = desired
            .into_iter()
            .flatten()
            .find(|(name, _)| name.eq_ignore_ascii_case(named));
        if let Some((name, value)) = found {
            let (name, value) = (name.clone(), value.clone());
            self.setting_refused(&name, &value, SettingFault::Value, &said);
        }
    }

    /// The desired settings that the store refuses to run with.
    fn bad_settings(&self) -> impl Iterator<Item = (&String, &Refused)> {
        let desired = self.desired.as_ref().map(|desired| &desired.store.settings);
        self.refused_settings.iter().filter(move |(name, refused)| {
            let wanted = desired.is_some_and(|all| all.get(*name) == Some(&refused.value));
            wanted && refused.fault.is_bad()
        })
    }

    /// The store's settings as its file should have them: where it refuses one,
    /// what was in force before, or nothing.
    pub fn startable(&self, settings: &StoreSettings) -> StoreSettings {
        let mut startable = settings.clone();
        for (name, refused) in self.bad_settings() {
            match self.in_force(name).filter(|value| *value != refused.value) {
                Some(before) => startable.settings.insert(name.clone(), before),
                None => startable.settings.remove(name),
            };
        }
        startable
    }

    /// Which settings are left out, and why, with what a person can do.
    pub(crate) fn refused_why(&self) -> Option<Why> {
        if let Some(why) = &self.invalid {
            let message = format!("the node goes on with its earlier settings: {why}");
            return Some((reason::SETTING_REFUSED, message));
        }
        let mut message = String::new();
        for (name, refused) in self.bad_settings() {
            let fault = match refused.fault {
                SettingFault::Unknown => "the store does not know it",
                SettingFault::Value | SettingFault::AtStart => "the store does not take its value",
            };
            // Writing to a string cannot fail.
            let _ = write!(
                message,
                "store.settings {name} {:?} is left out, because {fault} ({}); ",
                refused.value, refused.why
            );
        }
        (!message.is_empty()).then(|| {
            message.push_str("correct it in the resource, or take it out");
            (reason::SETTING_REFUSED, message)
        })
    }

    /// The settings that take effect only when a process starts again.
    pub fn restart_required(&self) -> Vec<String> {
        let Some((store, engine)) = self.wanted() else {
            return Vec::new();
        };
        let mut names = Vec::new();
        if let Some(started) = &self.record.engine {
            engine_differences(&started.settings, engine, &mut names);
        }
        if let Some(started) = &self.record.store {
            if started.settings.persistence != store.persistence {
                names.push("store.persistence".to_owned());
            }
            let wanted = settable(store);
            for (name, refused) in &self.refused_settings {
                if !refused.fault.is_bad() && wanted.get(name.as_str()) == Some(&refused.value) {
                    names.push(format!("store.{name}"));
                }
            }
            // The store cannot be asked for what it would have had by default.
            for name in settable(&started.settings)
                .into_keys()
                .chain(self.record.live.keys().map(String::as_str))
            {
                if !wanted.contains_key(name) {
                    names.push(format!("store.{name}"));
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

fn engine_differences(started: &EngineSettings, wanted: &EngineSettings, names: &mut Vec<String>) {
    if started.timeout_ms != wanted.timeout_ms {
        names.push("dynomite.timeout".to_owned());
    }
    for name in started.settings.keys().chain(wanted.settings.keys()) {
        if started.settings.get(name) != wanted.settings.get(name) {
            names.push(format!("dynomite.{name}"));
        }
    }
}
