use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const REDIS_6: &[u8] = include_bytes!("../../fixtures/redis-6.2.rdb");
const REDIS_7: &[u8] = include_bytes!("../../fixtures/redis-7.0.rdb");
const REDIS_8: &[u8] = include_bytes!("../../fixtures/redis-8.2.rdb");
const VALKEY_9: &[u8] = include_bytes!("../../fixtures/valkey-9.1.rdb");
const REAL: [&[u8]; 4] = [REDIS_6, REDIS_7, REDIS_8, VALKEY_9];

/// A second after the last expiry in the fixtures.
fn late() -> Timestamp {
    Timestamp::from_second(4_102_444_802).expect("in range")
}

fn verify_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Summary, Error> {
    let mut verifier = Verifier::new(late());
    for piece in pieces {
        verifier.update(piece)?;
    }
    verifier.finish()
}

fn verify(bytes: &[u8]) -> Result<Summary, Error> {
    verify_pieces([bytes])
}

/// Header, the bytes of records, end, checksum.
fn file(header: &str, records: &[u8]) -> Vec<u8> {
    let mut bytes = [header.as_bytes(), records, &[255]].concat();
    let checksum = crc64_of(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn read(reader: &mut Reader, bytes: &[u8]) -> Result<(), Error> {
    let mut rest = bytes;
    while let (taken, Some(_)) = reader.read(rest)? {
        rest = &rest[taken..];
    }
    Ok(())
}

/// All keys of a file, in order, with where they begin and end.
fn keys(bytes: &[u8]) -> Vec<(Key, u64)> {
    let mut reader = Reader::new();
    let mut rest = bytes;
    let mut keys = Vec::new();
    loop {
        let (taken, event) = reader.read(rest).expect("in order");
        rest = &rest[taken..];
        let key = match event {
            None => break,
            Some(Event::KeyEnded(key)) => key.clone(),
            Some(_) => continue,
        };
        keys.push((key, reader.offset()));
    }
    reader.finish().expect("whole");
    keys
}

#[test]
fn files_of_real_stores_are_read_whole() {
    for (bytes, version, store, functions, hashes) in [
        (REDIS_6, Version::Redis(9), "6.2.5", 0, 2),
        (REDIS_7, Version::Redis(10), "7.0.15", 1, 2),
        (REDIS_8, Version::Redis(12), "8.2.3", 1, 4),
        (VALKEY_9, Version::Valkey(80), "9.1.2", 1, 4),
    ] {
        let summary = verify(bytes).expect("a real file");
        assert_eq!(summary.version, version);
        assert_eq!(summary.bytes, bytes.len() as u64);
        assert_eq!(summary.checksum, Checksum::Right);
        assert_eq!(summary.store_version(), Some(store));
        assert_eq!(summary.aux["redis-bits"], "64");
        assert_eq!(summary.functions, functions);
        let expected = [
            (Kind::String, 14),
            (Kind::List, 3),
            (Kind::Set, 5),
            (Kind::SortedSet, 3),
            (Kind::Hash, hashes),
            (Kind::Stream, 2),
        ];
        assert_eq!(summary.databases[&0].keys, BTreeMap::from(expected));
        assert_eq!(summary.databases[&3].total(), 1);
        let counts = summary.counts();
        assert_eq!((counts.expiring, counts.expired), (4, 4));
    }
}

#[test]
fn files_of_real_stores_have_the_encodings_of_their_time() {
    for (bytes, expected) in [
        (REDIS_6, vec![0, 2, 4, 5, 11, 12, 13, 14, 15]),
        (REDIS_7, vec![0, 2, 4, 5, 11, 16, 17, 18, 19]),
        (REDIS_8, vec![0, 2, 4, 5, 11, 16, 17, 18, 20, 21, 24, 25]),
        (VALKEY_9, vec![0, 2, 4, 5, 11, 16, 17, 18, 20, 21, 22]),
    ] {
        let found: BTreeSet<u8> = keys(bytes).iter().map(|(key, _)| key.encoding).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn keys_come_with_name_expiry_and_place() {
    let mut at_end = 0;
    let found: BTreeMap<Vec<u8>, Key> = keys(REDIS_7)
        .into_iter()
        .inspect(|(key, end)| {
            assert!(at_end <= key.begin && key.begin < key.value && key.value < *end);
            at_end = *end;
        })
        .map(|(key, _)| (key.name.clone(), key))
        .collect();
    let binary = &found[b"binary:\x00\xff\r\n{tag}".as_slice()];
    assert_eq!((binary.kind, binary.whole), (Kind::String, true));
    let compressed = [b"key:compressed:".as_slice(), &[b'a'; 72]].concat();
    assert!(
        found
            .keys()
            .any(|name| name.starts_with(b"key:compressed:aaaa") && name.len() > 70),
        "{compressed:?}"
    );
    assert_eq!(found[b"ttl:far".as_slice()].expiry, Some(4_102_444_800_123));
    assert_eq!(found[b"list:long".as_slice()].expiry, None);
    assert_eq!(found[b"other:database".as_slice()].database, 3);
}

#[test]
fn every_split_gives_the_same() {
    for bytes in REAL {
        let whole = verify(bytes).expect("a real file");
        // Pieces of one byte split everywhere at once; the others leave longer stretches between.
        for piece in 1..40 {
            let found = verify_pieces(bytes.chunks(piece));
            assert_eq!(found.as_ref(), Ok(&whole), "{piece}");
        }
        for at in (0..bytes.len()).step_by(11) {
            let (left, right) = bytes.split_at(at);
            assert_eq!(verify_pieces([left, right]).as_ref(), Ok(&whole), "{at}");
        }
    }
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused() {
    for bytes in REAL {
        // One reader sees every truncation on its way.
        let mut reader = Reader::new();
        for at in 0..bytes.len() {
            let fault = reader.finish().expect_err("no end").fault;
            assert_eq!(fault, Fault::Truncated, "cut at {at}");
            assert_eq!(read(&mut reader, &bytes[at..=at]), Ok(()), "{at}");
        }
        assert_eq!(reader.finish(), Ok(()));
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << (at % 8);
            let mut reader = Reader::new();
            let read = read(&mut reader, &changed);
            assert!(read.is_err() || reader.finish().is_err(), "flip at {at}");
        }
    }
}

#[test]
fn missing_checksum_is_said() {
    let mut bytes = REDIS_7.to_vec();
    let end = bytes.len() - 8;
    bytes[end..].fill(0);
    let checksum = verify(&bytes).map(|summary| summary.checksum);
    assert_eq!(checksum, Ok(Checksum::NotWritten));
    // Formats before the fifth have none at all.
    let old = b"REDIS0004\xfe\x00\x00\x01a\x01b\xff";
    let summary = verify(old).expect("in order");
    assert_eq!(summary.checksum, Checksum::NotWritten);
    assert_eq!(summary.counts().total(), 1);
    assert!(verify(&old[..old.len() - 1]).is_err());
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let bytes = [REDIS_7, b"*".as_slice()].concat();
    let fault = verify(&bytes).expect_err("one byte more").fault;
    assert_eq!(fault, Fault::Trailing);
}

#[test]
fn unknown_versions_and_types_are_refused() {
    for header in [
        "REDIS0000",
        "REDIS0013",
        "VALKEY079",
        "VALKEY081",
        "REDIS+010",
        "*3\r\n$3\r\nS",
    ] {
        let fault = verify(&file(header, b"")).expect_err(header).fault;
        assert_eq!(fault, Fault::Version, "{header}");
    }
    let fault = verify(&file("REDIS0012", b"\x63\x01a"))
        .expect_err("type")
        .fault;
    assert_eq!(fault, Fault::Opcode(0x63));
}

#[test]
fn expiry_belongs_to_a_key() {
    let dangling = [[252].as_slice(), &[0; 8]].concat();
    let fault = verify(&file("REDIS0010", &dangling)).expect_err("no key");
    assert_eq!(fault.fault, Fault::NoKey);
    let entry = b"\xfd\x02\x00\x00\x00\xf8\x05\xf9\x07\x00\x01a\x01b";
    let keys = keys(&file("REDIS0010", entry));
    assert_eq!(keys[0].0.expiry, Some(2000));
    assert_eq!((keys[0].0.begin, keys[0].1), (9, 9 + entry.len() as u64));
}

/// Values that the fixtures do not have, by type byte, key `k`.
#[test]
fn old_and_rare_encodings_are_read() {
    for (records, kind) in [
        (b"\x01\x01k\x02\x01a\x01b".as_slice(), Kind::List),
        (b"\x03\x01k\x03\x01a\x031.5\x01b\xfe\x01c\xfd", Kind::SortedSet),
        (b"\x09\x01k\x07\x01\x01a\x01\x00b\xff", Kind::Hash),
        (b"\x07\x01k\x81\x01\x02\x03\x04\x05\x06\x07\x08\x02\x05\x05\x03abc\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00", Kind::Module),
        (b"\x18\x01k\x00\x00\x00\x00\x00\x00\x00\x00\x01\x05\x01f\x01v", Kind::Hash),
        (b"\x0a\x01k\x11\x11\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x01a\x03\x01b\xff", Kind::List),
    ] {
        let records = records.to_vec();
        let found = verify(&file("REDIS0012", &records));
        let found = found.map(|summary| summary.counts().keys);
        assert_eq!(found, Ok(BTreeMap::from([(kind, 1)])), "{records:x?}");
    }
}

#[test]
fn structure_is_checked_where_no_checksum_is() {
    for (records, fault) in [
        // A score that is no number.
        (b"\x03\x01k\x01\x01a\x03abc".as_slice(), Fault::Score),
        // A list node that is neither.
        (b"\x12\x01k\x01\x03\x01a", Fault::Node(3)),
        (b"\x00\x01k\xc4", Fault::Encoding(4)),
        (b"\x00\x82", Fault::Length(0x82)),
        // A packed value of a few bytes.
        (b"\x10\x01k\x03abc", Fault::Packed("no end")),
        // An id of a stream that is no id.
        (b"\x15\x01k\x01\x01a", Fault::Number(1)),
        (b"\x07\x01k\x01\x09", Fault::Module(9)),
    ] {
        let found = verify(&file("REDIS0012", records)).expect_err("broken");
        assert_eq!(found.fault, fault);
    }
}

#[test]
fn declared_lengths_take_no_memory() {
    // A string, a list and a key of 2^60: what is there passes, then the end is missing.
    for records in [
        b"\x00\x01k\x81\x10\x00\x00\x00\x00\x00\x00\x00abc".as_slice(),
        b"\x01\x01k\x81\x10\x00\x00\x00\x00\x00\x00\x00\x01a",
        b"\x00\x81\x10\x00\x00\x00\x00\x00\x00\x00abc",
        b"\x00\xc3\x81\x10\x00\x00\x00\x00\x00\x00\x00\x81\x10\x00\x00\x00\x00\x00\x00\x00\x01ab",
    ] {
        let bytes = [b"REDIS0010".as_slice(), records].concat();
        let fault = verify(&bytes).expect_err("no end").fault;
        assert_eq!(fault, Fault::Truncated);
    }
}

#[test]
fn a_key_above_the_limit_passes_cut() {
    let length = crate::limits::MAX_KEY + 7;
    let mut entry = b"\x00\x80".to_vec();
    entry.extend(u32::try_from(length).expect("small").to_be_bytes());
    entry.extend(vec![b'k'; length]);
    entry.extend(b"\x01v");
    let keys = keys(&file("REDIS0010", &entry));
    assert_eq!(keys[0].0.name.len(), crate::limits::MAX_KEY);
    assert!(!keys[0].0.whole);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_alike_in_any_pieces(
        records in prop::collection::vec(any::<u8>(), 0..80),
        piece in 1_usize..20,
    ) {
        let bytes = file("REDIS0010", &records);
        let whole = verify(&bytes).map_err(|error| error.fault);
        let pieces = verify_pieces(bytes.chunks(piece)).map_err(|error| error.fault);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn changed_files_without_checksum_never_break_the_reader(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        piece in 1_usize..400,
        file in 0..REAL.len(),
    ) {
        let mut bytes = REAL[file].to_vec();
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        for (at, value) in changes {
            let at = at.index(end);
            bytes[at] = value;
        }
        // Of two faults close together, the pieces decide which is found first.
        let whole = verify(&bytes).map_err(|_| ());
        let pieces = verify_pieces(bytes.chunks(piece)).map_err(|_| ());
        prop_assert_eq!(whole, pieces);
    }
}
