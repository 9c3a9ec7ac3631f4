//! Follows an RDB byte by byte and says where its records begin and end.
//!
//! ```text
//!          header          opcode: aux, select ...      items read
//!   Header ───────▶ Opcode ───────────────────▶ Items ─────────────▶ Opcode
//!                     │  ▲  expiry, idle, freq    ▲ │
//!                     │  └────────────────────────┘ │ type: name, then value
//!                     └── EOF ──▶ Checksum ──▶ Ended
//! ```
//!
//! What the items of a record are stands in the grammar; a stack of at most a handful of frames
//! remembers where in it the bytes ended.

use super::event::{Event, Key, Record};
use super::grammar::{self, Item, Use};
use super::text::Text;
use super::{Checksum, Error, Fault, Kind, Version, crc64};

/// Longest primitive: the text of a score.
const SCRATCH: usize = 256;

/// Follows one RDB. After an error it must not be used any more.
pub struct Reader {
    at: u64,
    version: Option<Version>,
    digest: crc_fast::Digest,
    state: State,
    scratch: [u8; SCRATCH],
    filled: usize,
    frames: Vec<Frame>,
    text: Option<Text>,
    prelude: Prelude,
    record: Record,
    /// Expiry, idle time or frequency came, its key not yet.
    prefixed: bool,
    database: u32,
    key: Key,
    /// Name and value of an auxiliary field.
    fields: [Vec<u8>; 2],
    numbers: [u64; 2],
    /// How many of `fields` or `numbers` are there.
    parts: usize,
}

/// What the next call of the reader expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Opcode,
    Items,
    Checksum,
    Ended,
}

/// A part of the grammar that is being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    items: &'static [Item],
    at: usize,
    /// How many times the items still come, this time included.
    left: u64,
}

/// An [`Event`] before it borrows.
enum Signal {
    Header(Version),
    Began,
    Key,
    Ended,
    Finished(Checksum),
}

/// What was read of what stands before the bytes of a string.
#[derive(Debug, Clone, Copy)]
enum Prelude {
    /// Nothing: its length comes, or a special form.
    Form,
    /// That it is compressed.
    Compressed,
    /// Its compressed length.
    Length(u64),
}

/// A length, or one of the special forms of a string.
enum Length {
    Of(u64),
    Special(u8),
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader that expects the first byte.
    pub fn new() -> Self {
        Self {
            at: 0,
            version: None,
            digest: crc64(),
            state: State::Header,
            scratch: [0; SCRATCH],
            filled: 0,
            frames: Vec::with_capacity(8),
            text: None,
            prelude: Prelude::Form,
            record: Record::End,
            prefixed: false,
            database: 0,
            key: Key {
                database: 0,
                kind: Kind::String,
                encoding: 0,
                name: Vec::new(),
                whole: true,
                expiry: None,
                begin: 0,
                value: 0,
            },
            fields: [Vec::new(), Vec::new()],
            numbers: [0; 2],
            parts: 0,
        }
    }

    /// How many bytes were read.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The version, once it was read.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Whether the whole RDB was read.
    pub fn is_finished(&self) -> bool {
        self.state == State::Ended
    }

    /// Reads up to the next event and says how many bytes of `input` that took. Without an event
    /// all of it was read.
    pub fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Event<'_>>), Error> {
        let (taken, signal) = self.step(input)?;
        if !self.is_past_end() || matches!(signal, Some(Signal::Began)) {
            self.digest.update(&input[..taken]);
        }
        Ok((taken, signal.map(|signal| self.event(&signal))))
    }

    /// Reads all of `input` and tells every event. It is digested in few and long pieces: small
    /// values would otherwise cost a call for each of their parts.
    pub fn read_all(
        &mut self,
        input: &[u8],
        mut tell: impl FnMut(Event<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rest = input;
        let mut undigested = if self.is_past_end() { &[] } else { input };
        loop {
            let (taken, signal) = self.step(rest)?;
            rest = &rest[taken..];
            if self.is_past_end() && !undigested.is_empty() {
                // This is where the end begins, so only the checksum can follow.
                self.digest
                    .update(&undigested[..undigested.len() - rest.len()]);
                undigested = &[];
            }
            let Some(signal) = signal else {
                self.digest.update(undigested);
                return Ok(());
            };
            tell(self.event(&signal))?;
        }
    }

    /// Whether what was read last is not covered by the checksum; but the end's own first byte
    /// is, with whose event this begins.
    fn is_past_end(&self) -> bool {
        matches!(self.state, State::Checksum | State::Ended)
    }

    /// Reads up to the next event, and digests nothing.
    fn step(&mut self, input: &[u8]) -> Result<(usize, Option<Signal>), Error> {
        let mut rest = input;
        let result = self.advance(&mut rest);
        let taken = input.len() - rest.len();
        let fault = |fault| Error {
            at: self.at + taken as u64,
            fault,
        };
        let signal = result.map_err(fault)?;
        self.at += taken as u64;
        if matches!(signal, Some(Signal::Key)) {
            self.key.value = self.at;
        }
        Ok((taken, signal))
    }

    /// After the last byte: an error unless the RDB is whole.
    pub fn finish(&self) -> Result<(), Error> {
        if self.is_finished() {
            return Ok(());
        }
        Err(Error {
            at: self.at,
            fault: Fault::Truncated,
        })
    }

    fn event(&self, signal: &Signal) -> Event<'_> {
        match *signal {
            Signal::Header(version) => Event::Header(version),
            Signal::Began => Event::Began(self.record),
            Signal::Key => Event::Key(&self.key),
            Signal::Finished(checksum) => Event::Finished(checksum),
            Signal::Ended => match self.record {
                Record::Entry => Event::KeyEnded(&self.key),
                Record::Aux => Event::Aux {
                    name: &self.fields[0],
                    value: &self.fields[1],
                },
                Record::Select => Event::Database(self.database),
                Record::Resize => Event::Resize {
                    keys: self.numbers[0],
                    expiring: self.numbers[1],
                },
                record => Event::Ended(record),
            },
        }
    }

    /// Reads until something is to be said or the input is used up.
    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Signal>, Fault> {
        loop {
            match self.state {
                State::Header => {
                    if !self.gather(input, Version::LENGTH) {
                        return Ok(None);
                    }
                    let text = &self.scratch[..Version::LENGTH];
                    let version = Version::parse(text).ok_or(Fault::Version)?;
                    self.version = Some(version);
                    self.next(State::Opcode);
                    return Ok(Some(Signal::Header(version)));
                }
                State::Opcode => {
                    if !self.gather(input, 1) {
                        return Ok(None);
                    }
                    let first = !self.prefixed;
                    self.next(State::Items);
                    self.opcode(self.scratch[0])?;
                    if first {
                        return Ok(Some(Signal::Began));
                    }
                }
                State::Items => {
                    if let Some(item) = self.top() {
                        if !self.item(item, input)? {
                            return Ok(None);
                        }
                        if matches!(item, Item::Text(Use::Name)) {
                            return Ok(Some(Signal::Key));
                        }
                    } else {
                        self.state = State::Opcode;
                        if !self.prefixed {
                            return Ok(Some(Signal::Ended));
                        }
                    }
                }
                State::Checksum => return self.checksum(input),
                State::Ended if input.is_empty() => return Ok(None),
                State::Ended => return Err(Fault::Trailing),
            }
        }
    }

    fn checksum(&mut self, input: &mut &[u8]) -> Result<Option<Signal>, Fault> {
        let written = self.version.is_some_and(Version::has_checksum);
        if written && !self.gather(input, 8) {
            return Ok(None);
        }
        let stored = if written { self.little(8) } else { 0 };
        self.next(State::Ended);
        if stored == 0 {
            return Ok(Some(Signal::Finished(Checksum::NotWritten)));
        }
        let computed = self.digest.finalize();
        if stored != computed {
            return Err(Fault::Checksum { stored, computed });
        }
        Ok(Some(Signal::Finished(Checksum::Right)))
    }

    /// Begins the record of an opcode or type.
    fn opcode(&mut self, code: u8) -> Result<(), Fault> {
        let prefix = match code {
            252 => Some(grammar::EXPIRY),
            253 => Some(grammar::EXPIRY_SECONDS),
            248 => Some(grammar::IDLE),
            249 => Some(grammar::FREQUENCY),
            _ => None,
        };
        if !self.prefixed {
            // A key begins with its expiry, if it has one.
            self.key.begin = self.at;
            self.key.expiry = None;
        }
        if let Some(items) = prefix {
            self.prefixed = true;
            self.record = Record::Entry;
            self.push(items, 1);
            return Ok(());
        }
        let (record, items) = match code {
            244 => (Record::Slot, grammar::SLOT),
            245 => (Record::Function, grammar::FUNCTION),
            247 => (Record::ModuleAux, grammar::MODULE_AUX),
            250 => (Record::Aux, grammar::AUX),
            251 => (Record::Resize, grammar::RESIZE),
            254 => (Record::Select, grammar::SELECT),
            255 => (Record::End, grammar::NOTHING),
            _ => {
                let version = self.version.unwrap_or(Version::Redis(1));
                let (kind, items) = grammar::value(version, code).ok_or(Fault::Opcode(code))?;
                self.key.kind = kind;
                self.key.encoding = code;
                self.key.database = self.database;
                self.key.name.clear();
                self.push(items, 1);
                self.prefixed = false;
                (Record::Entry, grammar::NAME)
            }
        };
        if self.prefixed {
            return Err(Fault::NoKey);
        }
        self.record = record;
        self.parts = 0;
        self.fields.iter_mut().for_each(Vec::clear);
        self.push(items, 1);
        if record == Record::End {
            self.state = State::Checksum;
        }
        Ok(())
    }

    fn push(&mut self, items: &'static [Item], left: u64) {
        if left > 0 && !items.is_empty() {
            self.frames.push(Frame { items, at: 0, left });
        }
    }

    /// The item to read next; `None` at the end of the record.
    fn top(&mut self) -> Option<Item> {
        loop {
            let frame = self.frames.last_mut()?;
            if let Some(item) = frame.items.get(frame.at) {
                return Some(*item);
            }
            frame.at = 0;
            frame.left -= 1;
            if frame.left == 0 {
                self.frames.pop();
            }
        }
    }

    /// The item at hand was read.
    fn done(&mut self) {
        self.filled = 0;
        if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    fn next(&mut self, state: State) {
        self.filled = 0;
        self.state = state;
    }

    /// Reads an item; `false` when it goes on in bytes that are not here yet.
    fn item(&mut self, item: Item, input: &mut &[u8]) -> Result<bool, Fault> {
        match item {
            Item::Text(purpose) => return self.text(purpose, input),
            Item::Bytes(length) => {
                if !self.gather(input, length) {
                    return Ok(false);
                }
                self.done();
            }
            Item::Expiry(length) => {
                if !self.gather(input, length) {
                    return Ok(false);
                }
                let bytes = self.little(length);
                self.key.expiry = Some(match length {
                    4 => i64::from(u32::try_from(bytes).unwrap_or(0).cast_signed()) * 1000,
                    _ => bytes.cast_signed(),
                });
                self.done();
            }
            Item::Score => return self.score(input),
            Item::Length | Item::Number | Item::Many(_) | Item::Node | Item::Module => {
                let Some(number) = self.number(input)? else {
                    return Ok(false);
                };
                self.counted(item, number)?;
            }
        }
        Ok(true)
    }

    /// Goes on after the number with which an item begins.
    fn counted(&mut self, item: Item, number: u64) -> Result<(), Fault> {
        // The parts of a module's value go on until their end mark.
        let goes_on = matches!(item, Item::Module) && number != 0;
        if !goes_on {
            self.done();
        }
        match item {
            Item::Number => self.remember(number)?,
            Item::Many(items) => self.push(items, number),
            Item::Node => match number {
                1 => self.push(grammar::PLAIN_NODE, 1),
                2 => self.push(grammar::PACKED_NODE, 1),
                _ => return Err(Fault::Node(number)),
            },
            Item::Module => match number {
                0 => {}
                1 | 2 => self.push(grammar::MODULE_INTEGER, 1),
                3 => self.push(grammar::MODULE_FLOAT, 1),
                4 => self.push(grammar::MODULE_DOUBLE, 1),
                5 => self.push(grammar::MODULE_STRING, 1),
                _ => return Err(Fault::Module(number)),
            },
            _ => {}
        }
        Ok(())
    }

    fn remember(&mut self, number: u64) -> Result<(), Fault> {
        if self.record == Record::Select {
            self.database = u32::try_from(number).map_err(|_| Fault::Number(number))?;
        }
        if let Some(place) = self.numbers.get_mut(self.parts) {
            *place = number;
            self.parts += 1;
        }
        Ok(())
    }

    /// A score as text: its length, or one of three values without text.
    fn score(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        if !self.gather(input, 1) {
            return Ok(false);
        }
        let length = usize::from(self.scratch[0]);
        if length < 253 {
            if !self.gather(input, 1 + length) {
                return Ok(false);
            }
            let text = std::str::from_utf8(&self.scratch[1..=length]);
            let number = text.ok().and_then(|text| text.parse::<f64>().ok());
            number.ok_or(Fault::Score)?;
        }
        self.done();
        Ok(true)
    }

    fn text(&mut self, purpose: Use, input: &mut &[u8]) -> Result<bool, Fault> {
        if self.text.is_none() {
            let Some(text) = self.begin_text(purpose, input)? else {
                return Ok(false);
            };
            self.text = Some(text);
        }
        let kept = match purpose {
            Use::Aux => &mut self.fields[self.parts.min(1)],
            _ => &mut self.key.name,
        };
        let Some(text) = &mut self.text else {
            return Ok(false);
        };
        if !text.push(input, kept)? {
            return Ok(false);
        }
        let whole = self.text.take().map_or(Ok(true), Text::finish)?;
        match purpose {
            Use::Name => self.key.whole = whole,
            Use::Aux => self.parts += 1,
            _ => {}
        }
        self.done();
        Ok(true)
    }

    /// Reads what stands before the bytes of a string. Strings written as numbers are kept as the
    /// digits that they stand for.
    fn begin_text(&mut self, purpose: Use, input: &mut &[u8]) -> Result<Option<Text>, Fault> {
        loop {
            match self.prelude {
                Prelude::Form => {}
                Prelude::Compressed => {
                    let Some(length) = self.number(input)? else {
                        return Ok(None);
                    };
                    self.prelude = Prelude::Length(length);
                    continue;
                }
                Prelude::Length(compressed) => {
                    let Some(length) = self.number(input)? else {
                        return Ok(None);
                    };
                    self.prelude = Prelude::Form;
                    return Text::compressed(compressed, length, purpose).map(Some);
                }
            }
            let Some(length) = self.peek_length(input)? else {
                return Ok(None);
            };
            match length {
                Length::Of(length) => {
                    self.filled = 0;
                    return Text::plain(length, purpose).map(Some);
                }
                Length::Special(form @ 0..=2) => {
                    if !matches!(purpose, Use::Skip | Use::Name | Use::Aux) {
                        return Err(Fault::Encoding(form));
                    }
                    if !self.gather(input, 1 + (1 << form)) {
                        return Ok(None);
                    }
                    self.keep_digits(form, purpose);
                    self.filled = 0;
                    return Text::plain(0, purpose).map(Some);
                }
                Length::Special(3) => {
                    self.filled = 0;
                    self.prelude = Prelude::Compressed;
                }
                Length::Special(form) => return Err(Fault::Encoding(form)),
            }
        }
    }

    fn keep_digits(&mut self, form: u8, purpose: Use) {
        let bytes = &self.scratch[1..=1 << form];
        let number = match *bytes {
            [byte] => i64::from(byte.cast_signed()),
            [low, high] => i64::from(i16::from_le_bytes([low, high])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => 0,
        };
        let digits = number.to_string().into_bytes();
        match purpose {
            Use::Name => self.key.name = digits,
            Use::Aux => self.fields[self.parts.min(1)] = digits,
            _ => {}
        }
    }

    /// A length where no special form may stand.
    fn number(&mut self, input: &mut &[u8]) -> Result<Option<u64>, Fault> {
        match self.peek_length(input)? {
            None => Ok(None),
            Some(Length::Of(number)) => {
                self.filled = 0;
                Ok(Some(number))
            }
            Some(Length::Special(_)) => Err(Fault::Length(self.scratch[0])),
        }
    }

    /// A length; it stays in the scratch because a special form goes on behind it.
    fn peek_length(&mut self, input: &mut &[u8]) -> Result<Option<Length>, Fault> {
        if !self.gather(input, 1) {
            return Ok(None);
        }
        let first = self.scratch[0];
        let size = match first {
            0..0x40 | 0xc0.. => 1,
            0x40..0x80 => 2,
            0x80 => 5,
            0x81 => 9,
            _ => return Err(Fault::Length(first)),
        };
        if !self.gather(input, size) {
            return Ok(None);
        }
        let head = u64::from(first & 0x3f);
        let rest = &self.scratch[1..size];
        Ok(Some(match first {
            0xc0.. => Length::Special(first & 0x3f),
            0x80 | 0x81 => Length::Of(big_endian(0, rest)),
            _ => Length::Of(big_endian(head, rest)),
        }))
    }

    /// Fills the scratch up to `length` bytes; `false` when the input does not suffice.
    fn gather(&mut self, input: &mut &[u8], length: usize) -> bool {
        let missing = length.saturating_sub(self.filled);
        let (piece, rest) = input.split_at(missing.min(input.len()));
        self.scratch[self.filled..self.filled + piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        *input = rest;
        self.filled >= length
    }

    fn little(&self, length: usize) -> u64 {
        let bytes = self.scratch[..length].iter().rev();
        bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

fn big_endian(head: u64, bytes: &[u8]) -> u64 {
    let bytes = bytes.iter();
    bytes.fold(head, |number, &byte| number << 8 | u64::from(byte))
}
