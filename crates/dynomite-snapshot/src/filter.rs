//! Copies RDBs while they stream, with only the keys that one node of a ring owns.
//!
//! ```text
//! snapshot of token a ──┐   keys that the source owned     ┌─▶ one RDB, to be loaded
//! snapshot of token b ──┴─▶ and that the new node owns ────┘   by the new node
//! ```
//!
//! A ring of another size needs for each of its nodes the snapshots of all tokens whose ranges it
//! shares. Keys that a source held without owning them are left out: the owner's snapshot has them
//! too, and a store refuses a file that has a key twice.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dynomite_protocol::hash::Placement;
use jiff::Timestamp;

use crate::limits::MAX_HELD;
use crate::ownership::Ownership;
use crate::rdb::{self, Counts, Event, Key, Reader, Record, Version, crc64};

/// Why an RDB cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The source is broken.
    #[error(transparent)]
    Rdb(#[from] rdb::Error),
    /// Nobody can tell whose a key is that is not held.
    #[error("the key at byte {at} is longer than {MAX_HELD} bytes: delete it and back up again")]
    KeyTooLong {
        /// Where the key begins.
        at: u64,
    },
    /// The copy has one header, and it is written by now.
    #[error("a source is written as {later}, the first one as {first}: give the newest one first")]
    Newer {
        /// Of the first source.
        first: Version,
        /// Of this one.
        later: Version,
    },
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Bytes of the copy.
    pub bytes: u64,
    /// Keys in the copy.
    pub kept: Counts,
    /// Keys that belong to other nodes.
    pub others: u64,
    /// Keys that belong to the new node, but the source did not own them.
    pub strays: u64,
    /// Keys in the copy outside of database 0, which no client of Dynomite can ask for.
    pub elsewhere: u64,
}

/// Copies one source after the other into one RDB.
pub struct Filter {
    placement: Placement,
    target: Ownership,
    now: Timestamp,
    source: Option<Ownership>,
    reader: Reader,
    route: Route,
    /// What was read of a record before it was clear whether it is copied.
    held: Vec<u8>,
    database: u32,
    /// What the source says about how many keys follow: all, and those that expire.
    hint: Option<(u64, u64)>,
    /// Marks of the copied keys that nobody has taken yet, if anybody wants them.
    marks: Option<Vec<u64>>,
    output: Output,
}

/// Where bytes of the source go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Held,
    Copied,
    Dropped,
}

impl Filter {
    /// A copy for the node that owns `target` in a ring that places keys by `placement`. The first
    /// source is about to come: `source` is what it owned, and `None` when it held everything, such
    /// as a store outside of any ring.
    pub fn new(
        placement: Placement,
        target: Ownership,
        source: Option<Ownership>,
        now: Timestamp,
    ) -> Self {
        Self {
            placement,
            target,
            now,
            source,
            reader: Reader::new(),
            route: Route::Dropped,
            held: Vec::new(),
            database: 0,
            hint: None,
            marks: None,
            output: Output::new(),
        }
    }

    /// From now on each key that is copied leaves a mark: sources that are not of one ring may
    /// share keys, and a store refuses a copy that has one twice.
    pub fn mark_keys(&mut self) {
        self.marks.get_or_insert_default();
    }

    /// The marks since this was asked last. Equal keys have equal marks; that different ones do is
    /// a chance of one in 2^64 for each pair.
    pub fn take_marks(&mut self) -> Vec<u64> {
        self.marks.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What was copied so far.
    pub fn so_far(&self) -> &Filtered {
        &self.output.filtered
    }

    /// Takes the next bytes of the source and appends to `out` what is copied of them. After an
    /// error the copy is worthless.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut rest = bytes;
        loop {
            let (taken, event) = self.reader.read(rest)?;
            let (piece, left) = rest.split_at(taken);
            rest = left;
            match self.route {
                Route::Held => self.held.extend_from_slice(piece),
                Route::Copied => self.output.write(piece, out),
                Route::Dropped => {}
            }
            let Some(event) = event else { break };
            let first = self.output.sources == 0;
            match event {
                Event::Header(version) => {
                    self.output.header(version, out)?;
                    self.route = Route::Held;
                }
                Event::Began(record) => {
                    self.route = route_of(record, first);
                    if self.route == Route::Copied {
                        self.output.write(&self.held, out);
                    }
                    if self.route != Route::Held {
                        self.held.clear();
                    }
                }
                // Nobody may go on with the replication of the source from other data than its.
                Event::Aux { name, .. } => {
                    if first && !name.starts_with(b"repl-") {
                        self.output.write(&self.held, out);
                    }
                    self.held.clear();
                }
                Event::Database(database) => {
                    (self.database, self.hint) = (database, None);
                    self.route = Route::Held;
                }
                Event::Resize { keys, expiring } => {
                    self.hint = Some((keys, expiring));
                    self.route = Route::Held;
                }
                Event::Key(key) => {
                    if !key.whole {
                        return Err(Error::KeyTooLong { at: key.begin });
                    }
                    let source = self.source.as_ref();
                    let wanted = judge(self.placement, &self.target, source, key);
                    self.route = Route::Dropped;
                    self.output.filtered.count(wanted, key, self.now);
                    if wanted == Wanted::Yes {
                        if let Some(marks) = &mut self.marks {
                            marks.push(mark(key));
                        }
                        self.output.filtered.elsewhere += u64::from(self.database != 0);
                        self.route = Route::Copied;
                        let hint = self.hint.take();
                        let hint = hint.map(|hint| scale(hint, &self.target, source));
                        self.output.select(self.database, hint, out);
                        self.output.write(&self.held, out);
                    }
                    self.held.clear();
                }
                Event::KeyEnded(_) | Event::Ended(_) => self.route = Route::Held,
                Event::Finished(_) => self.route = Route::Dropped,
            }
        }
        if self.held.len() > MAX_HELD {
            return Err(Error::KeyTooLong {
                at: self.reader.offset() - self.held.len() as u64,
            });
        }
        Ok(())
    }

    /// The source ended; another one begins, which owned `source`.
    pub fn next(&mut self, source: Option<Ownership>, out: &mut Vec<u8>) -> Result<(), Error> {
        self.end(out)?;
        self.reader = Reader::new();
        self.source = source;
        self.route = Route::Dropped;
        self.database = 0;
        self.hint = None;
        Ok(())
    }

    /// The last source ended: completes the copy.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Filtered, Error> {
        self.end(out)?;
        Ok(self.output.finish(out))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        // Formats without checksum end with a record that needs no further byte.
        self.push(&[], out)?;
        self.reader.finish()?;
        self.output.sources += 1;
        self.output.database = None;
        Ok(())
    }
}

/// What becomes of a record, by its first byte; `first` tells whether it is of the first source.
fn route_of(record: Record, first: bool) -> Route {
    match record {
        Record::Entry | Record::Aux => Route::Held,
        // Every node has the same libraries, and a store refuses one twice.
        Record::Function | Record::ModuleAux if first => Route::Copied,
        _ => Route::Dropped,
    }
}

impl Filtered {
    fn count(&mut self, wanted: Wanted, key: &Key, now: Timestamp) {
        match wanted {
            Wanted::Yes => self.kept.add(key, now),
            Wanted::No => self.others += 1,
            Wanted::Stray => self.strays += 1,
        }
    }
}

/// The same for the same key of the same database, and else hardly ever.
fn mark(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key.database, &key.name).hash(&mut hasher);
    hasher.finish()
}

/// Whether a key is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
    Stray,
}

fn judge(
    placement: Placement,
    target: &Ownership,
    source: Option<&Ownership>,
    key: &Key,
) -> Wanted {
    let token = placement.token(&key.name);
    match (target.owns(token), source) {
        (false, _) => Wanted::No,
        (true, Some(source)) if !source.owns(token) => Wanted::Stray,
        (true, _) => Wanted::Yes,
    }
}

/// Of so many keys of a source about so many are copied, if they lie evenly on the ring. A store
/// makes room by it; it need not be exact.
fn scale(hint: (u64, u64), target: &Ownership, source: Option<&Ownership>) -> (u64, u64) {
    let everything = Ownership::new(&[], dynomite_protocol::token::Token(0));
    let source = source.unwrap_or(&everything);
    let (part, whole) = (target.shared(source), source.shared(source).max(1));
    let scaled = |count: u64| {
        let scaled = u128::from(count) * u128::from(part) / u128::from(whole);
        u64::try_from(scaled).unwrap_or(count)
    };
    (scaled(hint.0), scaled(hint.1))
}

/// The copy.
struct Output {
    version: Option<Version>,
    digest: crc_fast::Digest,
    /// Sources that ended.
    sources: u64,
    /// The database that was selected last for this source.
    database: Option<u32>,
    /// The hints given so far: those of later sources add to them.
    hinted: BTreeMap<u32, (u64, u64)>,
    filtered: Filtered,
}

impl Output {
    fn new() -> Self {
        Self {
            version: None,
            digest: crc64(),
            sources: 0,
            database: None,
            hinted: BTreeMap::new(),
            filtered: Filtered::default(),
        }
    }

    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.digest.update(bytes);
        self.filtered.bytes += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }

    /// Writes the header for the first source. Values of the others must be readable under it.
    fn header(&mut self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(first) = self.version else {
            self.version = Some(version);
            self.write(version.to_string().as_bytes(), out);
            return Ok(());
        };
        if first.covers(version) {
            return Ok(());
        }
        let later = version;
        Err(Error::Newer { first, later })
    }

    /// Selects a database, unless it is selected, and says how many keys to expect.
    fn select(&mut self, database: u32, hint: Option<(u64, u64)>, out: &mut Vec<u8>) {
        if self.database == Some(database) {
            return;
        }
        self.database = Some(database);
        let mut record = vec![254];
        length(&mut record, u64::from(database));
        if let Some((keys, expiring)) = hint {
            let hinted = self.hinted.entry(database).or_default();
            hinted.0 = hinted.0.saturating_add(keys);
            hinted.1 = hinted.1.saturating_add(expiring);
            record.push(251);
            length(&mut record, hinted.0);
            length(&mut record, hinted.1);
        }
        self.write(&record, out);
    }

    fn finish(mut self, out: &mut Vec<u8>) -> Filtered {
        self.write(&[255], out);
        if self.version.is_some_and(Version::has_checksum) {
            let checksum = self.digest.finalize().to_le_bytes();
            self.filtered.bytes += checksum.len() as u64;
            out.extend_from_slice(&checksum);
        }
        self.filtered
    }
}

/// Writes a length as RDB does.
fn length(out: &mut Vec<u8>, number: u64) {
    match number {
        0..0x40 => out.push(number.to_le_bytes()[0]),
        0x40..0x4000 => {
            let [low, high, ..] = number.to_le_bytes();
            out.extend([0x40 | high, low]);
        }
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&number.to_be_bytes()[4..]);
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
