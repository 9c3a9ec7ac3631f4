use super::*;

/// Measured on the real library: foo, bar, "hello world", dynomite.
const MEASURED: &[(&str, [u32; 4])] = &[
    (
        "one_at_a_time",
        [596_015_325, 2_151_715_081, 1_045_060_183, 3_540_839_119],
    ),
    (
        "md5",
        [3_675_831_724, 421_377_335, 3_141_252_702, 843_804_418],
    ),
    (
        "crc16",
        [205_303_702, 1_276_220_357, 4_060_494_820, 544_347_094],
    ),
    ("crc32", [3187, 30463, 3402, 6446]),
    (
        "crc32a",
        [2_356_372_769, 1_996_459_178, 222_957_957, 2_569_968_690],
    ),
    (
        "fnv1_64",
        [1_805_727_027, 1_806_514_304, 2_979_073_647, 3_381_542_102],
    ),
    (
        "fnv1a_64",
        [4_275_688_823, 322_520_602, 37_540_583, 3_682_671_960],
    ),
    (
        "fnv1_32",
        [1_083_137_555, 513_390_112, 1_418_570_095, 4_155_229_334],
    ),
    (
        "fnv1a_32",
        [2_851_307_223, 1_991_736_602, 3_582_672_807, 27_136_184],
    ),
    (
        "hsieh",
        [1_993_659_431, 2_197_238_083, 1_333_368_947, 1_510_603_185],
    ),
    (
        "murmur",
        [3_303_027_599, 516_654_467, 1_578_702_139, 2_238_574_922],
    ),
    (
        "jenkins",
        [2_583_187_353, 2_006_320_315, 355_681_275, 1_205_424_406],
    ),
];

#[test]
fn every_function_gives_the_measured_values() {
    for (name, expected) in MEASURED {
        let hash: Hash = name.parse().unwrap();
        let got = ["foo", "bar", "hello world", "dynomite"].map(|key| hash.token(key.as_bytes()).0);
        assert_eq!(got, *expected, "{name}");
    }
}

#[test]
fn murmur_gives_the_measured_values_for_keys_of_all_lengths() {
    let long = "x".repeat(37);
    let table: &[(&[u8], u32)] = &[
        (b"user:1", 3_587_224_931),
        (b"a", 1_262_581_116),
        (b"key:10", 3_109_049_557),
        (b"key:13", 2_443_613_321),
        (b"12345678", 1_674_122_888),
        (long.as_bytes(), 1_332_351_928),
        (b"session:abcdef", 2_534_871_814),
        (b"0", 2_680_312_085),
        (&[0xe9, 0xff], 2_647_831_066),
    ];
    for (key, token) in table {
        assert_eq!(Hash::Murmur.token(key), Token(*token), "{key:?}");
    }
}

#[test]
fn unusable_names_are_refused_with_the_remedy() {
    assert_eq!("murmur3".parse::<Hash>(), Err(UnknownHash::Murmur3));
    assert!("Murmur".parse::<Hash>().is_err());
}

#[test]
fn no_function_fails_on_any_length() {
    let bytes: Vec<u8> = (0..=255).collect();
    for (name, _) in MEASURED {
        let hash: Hash = name.parse().unwrap();
        for length in 0..bytes.len() {
            hash.token(&bytes[..length]);
        }
    }
}

#[test]
fn the_tag_is_what_stands_between_the_first_pair() {
    let tag = HashTag {
        open: b'{',
        close: b'}',
    };
    for (key, part) in [
        ("x{user1}y", "user1"),
        ("{user1}:a", "user1"),
        ("user1", "user1"),
        ("a{b}{c}", "b"),
        ("{{b}}", "{b"),
        ("}a{", "}a{"),
        ("{open", "{open"),
        ("{}abc", "{}abc"),
        ("", ""),
    ] {
        assert_eq!(tag.hashed_part(key.as_bytes()), part.as_bytes(), "{key}");
    }
}
