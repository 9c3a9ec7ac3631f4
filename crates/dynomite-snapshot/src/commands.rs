//! A snapshot as the commands that make it again, for people who read, search or pipe them.
//!
//! ```text
//! SELECT 0 │ FUNCTION LOAD .. │ SET k v │ RPUSH l a b c │ HSET h f v │ PEXPIREAT h 4102444800000 │ ..
//! ```
//!
//! Strings, lists, sets, hashes and sorted sets come as what they are. Streams, values of modules
//! and hashes whose fields expire come as `RESTORE`, which only a store reads; so does anything in
//! an encoding that is not decoded here. A store takes all of it by `redis-cli --pipe`.

mod value;

use bytes::BytesMut;
use dynomite_protocol::resp::write;

use crate::rdb::{self, Event, Key, Reader, Record, Version, crc64_of};

/// Elements in one command at most, so that no single one blocks a store for long.
const BATCH: usize = 64;

/// Why a snapshot cannot be written as commands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is broken.
    #[error(transparent)]
    Rdb(#[from] rdb::Error),
    /// A value or library is larger than may be held.
    #[error("what begins at byte {at} is larger than {limit} bytes: allow more, or load the file")]
    TooLarge {
        /// Where it begins.
        at: u64,
        /// How much may be held.
        limit: usize,
    },
}

/// Writes an RDB as commands.
pub struct Commands {
    reader: Reader,
    limit: usize,
    route: Route,
    /// The value or library at hand, as it is in the file.
    held: Vec<u8>,
    database: Option<u32>,
}

/// What becomes of the bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Skipped,
    Held,
}

impl Commands {
    /// A writer that holds values of up to `limit` bytes as they are in the file, and several times
    /// that while it decodes one. Values that compression makes smaller than that come as `RESTORE`
    /// too.
    pub fn new(limit: usize) -> Self {
        Self {
            reader: Reader::new(),
            limit,
            route: Route::Skipped,
            held: Vec::new(),
            database: None,
        }
    }

    /// Takes the next bytes of the file and appends the commands that are complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let mut rest = bytes;
        loop {
            let (begin, version) = (self.reader.offset(), self.reader.version());
            let (taken, event) = self.reader.read(rest)?;
            let (piece, left) = rest.split_at(taken);
            rest = left;
            if self.route == Route::Held {
                if self.held.len() + piece.len() > self.limit {
                    return Err(Error::TooLarge {
                        at: begin - self.held.len() as u64,
                        limit: self.limit,
                    });
                }
                self.held.extend_from_slice(piece);
            }
            let Some(event) = event else { return Ok(()) };
            match event {
                Event::Began(Record::Function) | Event::Key(_) => self.route = Route::Held,
                Event::Ended(Record::Function) => {
                    if let Some(code) = value::text(&self.held, self.limit) {
                        command(out, &[b"FUNCTION", b"LOAD", &code]);
                    }
                    self.route = Route::Skipped;
                    self.held.clear();
                }
                Event::KeyEnded(key) => {
                    if !key.whole {
                        let (at, limit) = (key.begin, crate::limits::MAX_KEY);
                        return Err(Error::TooLarge { at, limit });
                    }
                    if self.database != Some(key.database) {
                        self.database = Some(key.database);
                        let database = key.database.to_string();
                        command(out, &[b"SELECT", database.as_bytes()]);
                    }
                    entry(version, key, &self.held, self.limit, out);
                    self.route = Route::Skipped;
                    self.held.clear();
                }
                _ => {}
            }
        }
    }

    /// After the last byte: an error unless the file was whole.
    pub fn finish(mut self, out: &mut BytesMut) -> Result<(), Error> {
        self.push(&[], out)?;
        self.reader.finish()?;
        Ok(())
    }
}

fn command(out: &mut BytesMut, arguments: &[&[u8]]) {
    write::array(out, arguments.len());
    for argument in arguments {
        write::bulk(out, argument);
    }
}

fn entry(version: Option<Version>, key: &Key, bytes: &[u8], limit: usize, out: &mut BytesMut) {
    let decoded = value::decode(key.encoding, bytes, limit);
    match decoded {
        Some(value::Value::String(text)) => command(out, &[b"SET", &key.name, &text]),
        Some(value::Value::Elements { verb, width, all }) => {
            for batch in all.chunks(BATCH * width) {
                let mut arguments: Vec<&[u8]> = vec![verb, &key.name];
                arguments.extend(batch.iter().map(Vec::as_slice));
                command(out, &arguments);
            }
        }
        None => command(
            out,
            &[
                b"RESTORE",
                &key.name,
                b"0",
                &dumped(version, key.encoding, bytes),
            ],
        ),
    }
    if let Some(expiry) = key.expiry {
        let expiry = expiry.to_string();
        command(out, &[b"PEXPIREAT", &key.name, expiry.as_bytes()]);
    }
}

/// A value as `DUMP` writes it: type, value, format, checksum. Up to format 11 the oldest that has
/// the type is given, so that any store that knows the type takes it; later ones are the store's own.
fn dumped(version: Option<Version>, encoding: u8, bytes: &[u8]) -> Vec<u8> {
    let version: u16 = match (encoding, version) {
        (0..=15, _) => 9,
        (16..=19, _) => 10,
        (20 | 21, _) => 11,
        (_, Some(Version::Valkey(version) | Version::Redis(version))) => version,
        (_, None) => rdb::NEWEST_REDIS,
    };
    let mut dumped = vec![encoding];
    dumped.extend_from_slice(bytes);
    dumped.extend_from_slice(&version.to_le_bytes());
    let checksum = crc64_of(&dumped);
    dumped.extend_from_slice(&checksum.to_le_bytes());
    dumped
}

#[cfg(test)]
mod tests;
