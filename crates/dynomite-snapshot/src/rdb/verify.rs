//! Counts and digests an RDB while it passes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checksum, Error, Event, Fault, Key, Kind, Reader, Version};
use crate::limits::{MAX_AUX_FIELDS, MAX_DATABASES};

/// What an RDB turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its format.
    pub version: Version,
    /// All its bytes.
    pub bytes: u64,
    /// Their digest.
    pub sha256: [u8; 32],
    /// Whether the store had written a checksum.
    pub checksum: Checksum,
    /// What the store says about itself and the file, such as `redis-ver`. Of more than
    /// [`MAX_AUX_FIELDS`] the first ones.
    pub aux: BTreeMap<String, String>,
    /// Libraries of functions.
    pub functions: u64,
    /// Keys by database.
    pub databases: BTreeMap<u32, Counts>,
}

/// Keys of one database, or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// All keys, by what they hold.
    pub keys: BTreeMap<Kind, u64>,
    /// Those that have an expiry.
    pub expiring: u64,
    /// Those whose expiry had passed: a store drops them when it loads the file.
    pub expired: u64,
}

impl Counts {
    /// All keys.
    pub fn total(&self) -> u64 {
        // Counts also come from manifests, which may say anything.
        let keys = self.keys.values();
        keys.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Counts a key, as of `now`.
    pub fn add(&mut self, key: &Key, now: Timestamp) {
        *self.keys.entry(key.kind).or_default() += 1;
        if let Some(expiry) = key.expiry {
            self.expiring += 1;
            self.expired += u64::from(expiry <= now.as_millisecond());
        }
    }

    /// Adds what another count has.
    pub fn extend(&mut self, other: &Self) {
        for (kind, count) in &other.keys {
            let sum = self.keys.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.expiring = self.expiring.saturating_add(other.expiring);
        self.expired = self.expired.saturating_add(other.expired);
    }
}

impl Summary {
    /// Keys of all databases.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for counts in self.databases.values() {
            all.extend(counts);
        }
        all
    }

    /// The version of the store that wrote it, as it says.
    pub fn store_version(&self) -> Option<&str> {
        let names = ["valkey-ver", "redis-ver"];
        let found = names.iter().find_map(|name| self.aux.get(*name));
        found.map(String::as_str)
    }
}

/// Checks an RDB while it passes, in whatever pieces it comes.
pub struct Verifier {
    reader: Reader,
    sha256: Sha256,
    found: Found,
}

/// What was found so far.
struct Found {
    now: Timestamp,
    checksum: Option<Checksum>,
    aux: BTreeMap<String, String>,
    functions: u64,
    databases: BTreeMap<u32, Counts>,
}

impl Found {
    fn take(&mut self, event: &Event<'_>) -> Result<(), Error> {
        match *event {
            Event::Key(key) => {
                if self.databases.len() >= MAX_DATABASES
                    && !self.databases.contains_key(&key.database)
                {
                    return Err(Error {
                        at: key.begin,
                        fault: Fault::Databases(MAX_DATABASES),
                    });
                }
                let counts = self.databases.entry(key.database).or_default();
                counts.add(key, self.now);
            }
            Event::Aux { name, value } if self.aux.len() < MAX_AUX_FIELDS => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                self.aux.insert(text(name), text(value));
            }
            Event::Ended(super::Record::Function) => self.functions += 1,
            Event::Finished(checksum) => self.checksum = Some(checksum),
            _ => {}
        }
        Ok(())
    }
}

impl Verifier {
    /// Begins; keys that expire up to `now` are counted as expired.
    pub fn new(now: Timestamp) -> Self {
        Self {
            reader: Reader::new(),
            sha256: Sha256::new(),
            found: Found {
                now,
                checksum: None,
                aux: BTreeMap::new(),
                functions: 0,
                databases: BTreeMap::new(),
            },
        }
    }

    /// How many bytes were taken.
    pub fn bytes(&self) -> u64 {
        self.reader.offset()
    }

    /// Takes the next bytes. After an error it must not be used any more.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sha256.update(bytes);
        let found = &mut self.found;
        self.reader.read_all(bytes, |event| found.take(&event))
    }

    /// After the last byte: what passed, if it was a whole RDB.
    pub fn finish(mut self) -> Result<Summary, Error> {
        // Formats without checksum end with a record that needs no further byte.
        self.update(&[])?;
        self.reader.finish()?;
        let (Some(version), Some(checksum)) = (self.reader.version(), self.found.checksum) else {
            return Err(Error {
                at: self.reader.offset(),
                fault: Fault::Truncated,
            });
        };
        Ok(Summary {
            version,
            bytes: self.reader.offset(),
            sha256: self.sha256.finalize().into(),
            checksum,
            aux: self.found.aux,
            functions: self.found.functions,
            databases: self.found.databases,
        })
    }
}
