//! Settings: what can change while the processes run, and what waits for their restart.

use std::collections::BTreeMap;

use dynomite_api::contract::{EngineSettings, Persistence, StoreSettings};
use jiff::Timestamp;

use crate::effect::Order;
use crate::lifecycle::Lifecycle;
use crate::reason;

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
                    && self.refused_settings.get(*name) != Some(value)
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

    pub(crate) fn setting_refused(&mut self, name: &str, value: &str, why: &str) {
        self.refused_settings
            .insert(name.to_owned(), value.to_owned());
        let message = format!("the store takes {name} only when it starts: {why}");
        self.note(false, reason::SETTING_REFUSED, message);
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
            for name in self.refused_settings.keys() {
                if wanted.get(name.as_str()) == self.refused_settings.get(name) {
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
