use proptest::prelude::*;

use super::*;

const KINDS: [(Compression, bool); 4] = [
    (Compression::None, false),
    (Compression::Zstd, false),
    (Compression::None, true),
    (Compression::Zstd, true),
];

const CONTEXT: &[u8] = b"ring/backup/token";

fn key() -> Key {
    Key::new([7; 32])
}

fn pack(compression: Compression, encrypted: bool, raw: &[u8], piece: usize) -> Vec<u8> {
    let key = key();
    let secret = Secret {
        key: &key,
        salt: [9; SALT],
        context: CONTEXT,
    };
    let mut pack = Pack::new(compression, encrypted.then_some(&secret)).expect("begins");
    let mut out = Vec::new();
    for piece in raw.chunks(piece) {
        pack.push(piece, &mut out).expect("packs");
    }
    let extent = pack.finish(&mut out).expect("packs");
    assert_eq!(extent.bytes, out.len() as u64);
    assert_eq!(extent.sha256.0[..], Sha256::digest(&out)[..]);
    out
}

fn unpack_with(
    compression: Compression,
    secret: Option<(&Key, &[u8])>,
    object: &[u8],
    piece: usize,
) -> Result<Vec<u8>, Error> {
    let mut unpack = Unpack::new(compression, secret)?;
    let mut raw = Vec::new();
    for mut piece in object.chunks(piece) {
        while !piece.is_empty() {
            let before = raw.len();
            unpack.push(&mut piece, &mut raw)?;
            assert!(raw.len() - before <= OUTPUT + STEP + piece.len());
        }
    }
    loop {
        let before = raw.len();
        let extent = unpack.finish(&mut raw)?;
        assert!(raw.len() - before <= OUTPUT + STEP);
        if let Some(extent) = extent {
            assert_eq!(extent.bytes, object.len() as u64);
            assert_eq!(extent.sha256.0[..], Sha256::digest(object)[..]);
            return Ok(raw);
        }
    }
}

fn unpack(compression: Compression, encrypted: bool, object: &[u8]) -> Result<Vec<u8>, Error> {
    let key = key();
    let secret = encrypted.then_some((&key, CONTEXT));
    unpack_with(compression, secret, object, 1000)
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    step.take(length).collect()
}

#[test]
fn every_length_around_a_piece_comes_back() {
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let raw = noise(length);
        for (compression, encrypted) in KINDS {
            let object = pack(compression, encrypted, &raw, 7777);
            let again = unpack(compression, encrypted, &object).expect("unpacks");
            assert!(again == raw, "{length} {compression:?} {encrypted}");
        }
        let sealed = pack(Compression::None, true, &raw, 9999);
        let pieces = length.div_ceil(65_536).max(1);
        assert_eq!(sealed.len(), length + OVERHEAD.0 + pieces * OVERHEAD.1);
    }
}

#[test]
fn few_bytes_that_become_many_come_in_portions() {
    let raw = vec![b'x'; 20 << 20];
    for encrypted in [false, true] {
        let object = pack(Compression::Zstd, encrypted, &raw, 1 << 20);
        assert!(object.len() < 20_000);
        let again = unpack(Compression::Zstd, encrypted, &object).expect("unpacks");
        assert!(again == raw);
    }
}

#[test]
fn every_cut_is_noticed() {
    let raw = noise(1000);
    for (compression, encrypted) in &KINDS[1..] {
        let object = pack(*compression, *encrypted, &raw, 100);
        for cut in 0..object.len() {
            let cut = unpack(*compression, *encrypted, &object[..cut]);
            assert!(cut.is_err(), "{compression:?} {encrypted}");
        }
    }
}

#[test]
fn pieces_cannot_be_cut_off_moved_repeated_or_changed() {
    let raw = noise(65_536 * 3);
    let object = pack(Compression::None, true, &raw, 4096);
    let (head, rest) = object.split_at(OVERHEAD.0);
    let pieces: Vec<&[u8]> = rest.chunks(65_536 + 16).collect();
    assert_eq!(pieces.len(), 3);
    let open = |pieces: &[&[u8]]| {
        let object = [head, &pieces.concat()].concat();
        unpack(Compression::None, true, &object)
    };
    assert!(open(&pieces).expect("whole") == raw);
    for (order, forged) in [
        (vec![0, 1], 1),
        (vec![0], 0),
        (vec![1, 0, 2], 0),
        (vec![0, 2, 1], 1),
        (vec![0, 1, 1, 2], 2),
        (vec![0, 1, 2, 2], 2),
        (vec![2], 0),
    ] {
        let chosen: Vec<&[u8]> = order.iter().map(|number| pieces[*number]).collect();
        let error = open(&chosen).expect_err("noticed");
        assert!(
            matches!(error, Error::Forged(number) if number == forged),
            "{order:?} {error}"
        );
    }
    for at in [8, 39, 40, 5000, object.len() - 1] {
        let mut changed = object.clone();
        changed[at] ^= 1;
        let changed = unpack(Compression::None, true, &changed);
        assert!(matches!(changed, Err(Error::Forged(_))), "{at}");
    }
    let not = unpack(Compression::None, true, &noise(100));
    assert!(matches!(not, Err(Error::NotEncrypted)));
}

#[test]
fn another_key_or_context_opens_nothing() {
    let object = pack(Compression::Zstd, true, b"secret", 100);
    let other = Key::new([8; 32]);
    for (key, context) in [(&key(), b"ring/backup/other".as_slice()), (&other, CONTEXT)] {
        let opened = unpack_with(Compression::Zstd, Some((key, context)), &object, 10);
        assert!(matches!(opened, Err(Error::Forged(0))));
    }
    assert!(!object.windows(6).any(|bytes| bytes == b"secret"));
    assert_eq!(format!("{:?}", key()), "Key(..)");
}

#[test]
fn bytes_behind_compressed_data_are_refused() {
    let object = pack(Compression::Zstd, false, b"data", 100);
    let twice = [object.clone(), object.clone()].concat();
    for more in [twice, [object, vec![0]].concat()] {
        let error = unpack(Compression::Zstd, false, &more).expect_err("more");
        assert!(matches!(error, Error::Trailing), "{error}");
    }
}

#[test]
fn windows_that_would_take_much_memory_are_refused() {
    let mut encoder = Encoder::new(19).expect("begins");
    encoder
        .set_parameter(CParameter::WindowLog(27))
        .expect("fine");
    let mut out = vec![0; 1 << 20];
    let raw = noise(1000);
    let run = encoder.run_on_buffers(&raw, &mut out).expect("packs");
    let mut end = zstd::zstd_safe::OutBuffer::around(&mut out[run.bytes_written..]);
    encoder.finish(&mut end, true).expect("packs");
    let length = run.bytes_written + end.as_slice().len();
    let refused = unpack(Compression::Zstd, false, &out[..length]);
    assert!(matches!(refused, Err(Error::Damaged(_))));
}

/// The same came from HKDF and AES-GCM of Python's `hmac` and `cryptography`.
#[test]
fn sealed_bytes_are_as_documented() {
    let object = pack(Compression::None, true, b"hello", 5);
    assert_eq!(object[..8], *b"DYNSNAP\x01");
    assert_eq!(object[8..40], [9; 32]);
    let sealed = [
        0xa8, 0xeb, 0x47, 0xc1, 0x42, 0x70, 0xc0, 0x7c, 0xa1, 0xe3, 0x7e, 0x44, 0x31, 0x70, 0x29,
        0xde, 0x89, 0xad, 0xac, 0x3a, 0x98,
    ];
    assert_eq!(object[40..], sealed);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        length in 0_usize..150_000,
        taken in 1_usize..100_000,
        given in 1_usize..100_000,
        kind in 0_usize..4,
    ) {
        let (compression, encrypted) = KINDS[kind];
        let raw = [noise(length / 2), vec![b'x'; length - length / 2]].concat();
        let object = pack(compression, encrypted, &raw, taken);
        let key = key();
        let secret = encrypted.then_some((&key, CONTEXT));
        let again = unpack_with(compression, secret, &object, given).expect("unpacks");
        prop_assert!(again == raw);
    }

    #[test]
    fn any_bytes_are_refused_or_unpacked(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 1_usize..4) {
        let (compression, encrypted) = KINDS[kind];
        prop_assert!(unpack(compression, encrypted, &bytes).is_err());
    }
}
