use std::collections::{BTreeMap, BTreeSet};

use dynomite_protocol::hash::{Hash, HashTag};
use dynomite_protocol::token::Token;
use proptest::prelude::*;

use super::*;
use crate::rdb::{Checksum, Summary, Verifier};

const REDIS_7: &[u8] = include_bytes!("../../fixtures/redis-7.0.rdb");
const REDIS_6: &[u8] = include_bytes!("../../fixtures/redis-6.2.rdb");
const VALKEY_9: &[u8] = include_bytes!("../../fixtures/valkey-9.1.rdb");

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn everything() -> Ownership {
    Ownership::new(&[], Token(0))
}

fn ring(nodes: u32) -> Vec<Token> {
    (0..nodes)
        .map(|node| Token(node * (u32::MAX / nodes) + 7))
        .collect()
}

fn copy(sources: &[(&[u8], Option<Ownership>)], target: Ownership, piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut filter = Filter::new(Placement::default(), target, sources[0].1.clone(), now());
    for (number, (bytes, source)) in sources.iter().enumerate() {
        if number > 0 {
            filter.next(source.clone(), &mut out).expect("whole");
        }
        for piece in bytes.chunks(piece) {
            filter.push(piece, &mut out).expect("in order");
        }
    }
    let filtered = filter.finish(&mut out).expect("whole");
    assert_eq!(filtered.bytes, out.len() as u64);
    assert_eq!(filtered.kept, summary(&out).counts());
    out
}

fn summary(bytes: &[u8]) -> Summary {
    let mut verifier = Verifier::new(now());
    verifier.update(bytes).expect("in order");
    verifier.finish().expect("whole")
}

/// Each key by database and name, with the bytes that it takes.
fn entries(bytes: &[u8]) -> BTreeMap<(u32, Vec<u8>), Vec<u8>> {
    let mut reader = Reader::new();
    let mut at = 0;
    let mut entries = BTreeMap::new();
    while let (taken, Some(event)) = reader.read(&bytes[at..]).expect("in order") {
        at += taken;
        if let Event::KeyEnded(key) = event {
            let begin = usize::try_from(key.begin).expect("small");
            let entry = bytes[begin..at].to_vec();
            let double = entries.insert((key.database, key.name.clone()), entry);
            assert_eq!(double, None);
        }
    }
    entries
}

#[test]
fn a_ring_of_any_size_gets_every_key_once_and_unchanged() {
    for bytes in [REDIS_6, REDIS_7, VALKEY_9] {
        for nodes in [1, 2, 3, 7] {
            let tokens = ring(nodes);
            let mut found = BTreeMap::new();
            for token in &tokens {
                let target = Ownership::new(&tokens, *token);
                let part = copy(&[(bytes, None)], target.clone(), 100);
                for ((database, name), entry) in entries(&part) {
                    assert!(target.owns(Placement::default().token(&name)));
                    assert_eq!(found.insert((database, name), entry), None);
                }
            }
            assert_eq!(found, entries(bytes));
        }
    }
}

#[test]
fn two_nodes_become_three() {
    let (two, three) = (ring(2), ring(3));
    let parts: Vec<(Vec<u8>, Option<Ownership>)> = two
        .iter()
        .map(|token| {
            let owned = Ownership::new(&two, *token);
            (copy(&[(REDIS_7, None)], owned.clone(), 5000), Some(owned))
        })
        .collect();
    let sources: Vec<(&[u8], Option<Ownership>)> = parts
        .iter()
        .map(|(bytes, owned)| (bytes.as_slice(), owned.clone()))
        .collect();
    let mut found = BTreeMap::new();
    for token in &three {
        let part = copy(&sources, Ownership::new(&three, *token), 64);
        // A library twice would make the store refuse the file.
        assert_eq!(summary(&part).functions, 1);
        assert_eq!(summary(&part).checksum, Checksum::Right);
        found.extend(entries(&part));
    }
    assert_eq!(found, entries(REDIS_7));
}

#[test]
fn keys_that_a_source_did_not_own_come_from_their_owner_only() {
    // Both sources hold everything, each owns a half.
    let two = ring(2);
    let sources: Vec<(&[u8], Option<Ownership>)> = two
        .iter()
        .map(|token| (REDIS_7, Some(Ownership::new(&two, *token))))
        .collect();
    let copied = copy(&sources, everything(), 999);
    assert_eq!(entries(&copied), entries(REDIS_7));
}

#[test]
fn keys_follow_their_hash_tag() {
    let placement = Placement {
        hash: Hash::Murmur,
        hash_tag: Some(HashTag {
            open: b'{',
            close: b'}',
        }),
    };
    let token = Hash::Murmur.token(b"tag");
    let target = Ownership::new(&[Token(token.0.wrapping_sub(1))], token);
    let mut filter = Filter::new(placement, target, None, now());
    let mut out = Vec::new();
    filter.push(REDIS_7, &mut out).expect("in order");
    filter.finish(&mut out).expect("whole");
    let names: BTreeSet<_> = entries(&out).into_keys().map(|(_, name)| name).collect();
    assert_eq!(
        names,
        BTreeSet::from([b"binary:\x00\xff\r\n{tag}".to_vec()])
    );
}

#[test]
fn what_the_source_says_about_its_replication_is_left_out() {
    let source =
        b"REDIS0010\xfa\x07repl-id\x01a\xfa\x04some\x01b\xfe\x00\xfb\x28\x14\x00\x01k\x01v\xff\
                   \0\0\0\0\0\0\0\0";
    let copied = copy(&[(source, None)], everything(), 1);
    assert_eq!(
        summary(&copied).aux,
        BTreeMap::from([("some".to_owned(), "b".to_owned())])
    );
    // Of all keys all are expected; of half the ring, half.
    assert!(copied.windows(5).any(|at| at == b"\xfe\x00\xfb\x28\x14"));
    let key = Placement::default().token(b"k");
    let half = Ownership::new(&[Token(key.0.wrapping_add(1 << 31))], key);
    let copied = copy(&[(source, None)], half, 1);
    assert!(copied.windows(5).any(|at| at == b"\xfe\x00\xfb\x14\x0a"));
}

#[test]
fn sources_that_the_header_does_not_cover_are_refused() {
    let file = |header: &str| [header.as_bytes(), b"\xff\0\0\0\0\0\0\0\0"].concat();
    for (first, second, fits) in [
        ("REDIS0010", "REDIS0009", true),
        ("REDIS0010", "REDIS0010", true),
        ("REDIS0009", "REDIS0010", false),
        ("VALKEY080", "REDIS0011", true),
        ("VALKEY080", "REDIS0012", false),
        ("REDIS0012", "VALKEY080", false),
    ] {
        let mut out = Vec::new();
        let mut filter = Filter::new(Placement::default(), everything(), None, now());
        filter.push(&file(first), &mut out).expect("first");
        filter.next(None, &mut out).expect("whole");
        let second = filter.push(&file(second), &mut out);
        assert_eq!(second.is_ok(), fits, "{first} {second:?}");
    }
}

#[test]
fn broken_sources_give_no_copy() {
    for cut in [0, 8, 9, 100, REDIS_7.len() - 1] {
        let mut out = Vec::new();
        let mut filter = Filter::new(Placement::default(), everything(), None, now());
        filter.push(&REDIS_7[..cut], &mut out).expect("so far");
        assert!(filter.next(None, &mut out).is_err(), "{cut}");
    }
}

#[test]
fn a_key_that_cannot_be_held_is_refused() {
    let mut filter = Filter::new(Placement::default(), everything(), None, now());
    let mut out = Vec::new();
    let begin = b"REDIS0010\x00\x81\x10\x00\x00\x00\x00\x00\x00\x00";
    filter.push(begin, &mut out).expect("so far");
    let piece = vec![b'k'; 1 << 16];
    let endless = std::iter::repeat_with(|| filter.push(&piece, &mut out));
    let error = endless.take(100).find_map(Result::err);
    assert_eq!(error, Some(Error::KeyTooLong { at: 9 }));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(piece in 1_usize..6000, nodes in 1_u32..5) {
        let tokens = ring(nodes);
        let target = Ownership::new(&tokens, tokens[0]);
        let whole = copy(&[(VALKEY_9, None)], target.clone(), VALKEY_9.len());
        prop_assert_eq!(copy(&[(VALKEY_9, None)], target, piece), whole);
    }
}

#[test]
fn a_key_of_two_sources_leaves_the_same_mark_twice() {
    let mut out = Vec::new();
    let mut filter = Filter::new(Placement::default(), everything(), None, now());
    filter.mark_keys();
    filter.push(REDIS_7, &mut out).expect("in order");
    let first = filter.take_marks();
    let different: BTreeSet<&u64> = first.iter().collect();
    assert_eq!(first.len() as u64, summary(REDIS_7).counts().total());
    assert_eq!(different.len(), first.len(), "different keys");
    assert!(filter.take_marks().is_empty(), "each once");
    filter.next(None, &mut out).expect("whole");
    filter.push(REDIS_7, &mut out).expect("in order");
    assert_eq!(filter.take_marks(), first, "the same keys");
    let outside: u64 = summary(REDIS_7)
        .databases
        .iter()
        .filter(|(d, _)| **d != 0)
        .map(|(_, counts)| counts.total())
        .sum();
    assert_eq!(filter.so_far().elsewhere, 2 * outside);
}
