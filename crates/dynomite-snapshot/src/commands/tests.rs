use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::RequestParser;
use proptest::prelude::*;

use super::*;

const REDIS_6: &[u8] = include_bytes!("../../fixtures/redis-6.2.rdb");
const REDIS_7: &[u8] = include_bytes!("../../fixtures/redis-7.0.rdb");
const REDIS_8: &[u8] = include_bytes!("../../fixtures/redis-8.2.rdb");
const VALKEY_9: &[u8] = include_bytes!("../../fixtures/valkey-9.1.rdb");

const LIMIT: usize = 1 << 20;

fn commands_in(rdb: &[u8], piece: usize, limit: usize) -> Result<Vec<Vec<Bytes>>, Error> {
    let mut commands = Commands::new(limit);
    let mut out = BytesMut::new();
    for piece in rdb.chunks(piece) {
        commands.push(piece, &mut out)?;
    }
    commands.finish(&mut out)?;
    let mut parser = RequestParser::default();
    let mut all = Vec::new();
    while out.has_remaining() {
        let limits = Limits {
            max_bytes: usize::MAX,
            max_args: 1000,
        };
        let request = parser.parse(&mut out, &limits).expect("RESP");
        let request = request.expect("whole");
        all.push(request.args_from(0).map(Bytes::copy_from_slice).collect());
    }
    Ok(all)
}

/// Arguments behind the key, of all commands that name it, by command.
fn of_key(all: &[Vec<Bytes>], key: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for command in all.iter().filter(|command| command[1] == key.as_bytes()) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let arguments = command[2..].iter().map(text);
        found
            .entry(text(&command[0]))
            .or_default()
            .extend(arguments);
    }
    found
}

#[test]
fn values_of_every_encoding_become_their_commands() {
    for rdb in [REDIS_6, REDIS_7, REDIS_8, VALKEY_9] {
        let all = commands_in(rdb, 500, LIMIT).expect("a real file");
        let one = |key: &str, verb: &str| {
            let mut found = of_key(&all, key);
            found
                .remove(verb)
                .unwrap_or_else(|| panic!("{verb} {key}: {found:?}"))
        };
        let sorted = |key: &str, verb: &str| {
            let mut found = one(key, verb);
            found.sort();
            found
        };
        let strings = |range: std::ops::RangeInclusive<u32>, prefix: &str| -> BTreeSet<String> {
            range.map(|number| format!("{prefix}{number}")).collect()
        };
        assert_eq!(one("string:plain", "SET"), ["hello world"]);
        assert_eq!(one("string:int8", "SET"), ["-7"]);
        assert_eq!(one("string:int16", "SET"), ["12345"]);
        assert_eq!(one("string:int32", "SET"), ["-1234567890"]);
        assert_eq!(one("string:compressed", "SET"), ["abcdefghij".repeat(400)]);
        assert_eq!(one("string:empty", "SET"), [""]);
        assert_eq!(one("ttl:far", "PEXPIREAT"), ["4102444800123"]);
        assert_eq!(one("list:short", "RPUSH"), ["a", "b", "c"]);
        let long: Vec<String> = (1..=40)
            .flat_map(|number| [format!("element-{number}"), number.to_string()])
            .collect();
        assert_eq!(one("list:long", "RPUSH"), long);
        assert_eq!(
            one("list:plain", "RPUSH"),
            ["x".repeat(9000), "y".to_owned()]
        );
        assert_eq!(sorted("set:int", "SADD"), ["-4", "1", "2", "3"]);
        assert_eq!(sorted("set:int16", "SADD"), ["1", "2", "3", "30000"]);
        assert_eq!(sorted("set:int64", "SADD"), ["1", "9000000000000000000"]);
        assert_eq!(sorted("set:text", "SADD"), ["3", "a", "b"]);
        let table: BTreeSet<String> = one("set:table", "SADD").into_iter().collect();
        assert_eq!(table, strings(1..=200, "member-"));
        assert_eq!(one("hash:small", "HSET"), ["a", "1", "b", "two"]);
        assert_eq!(one("hash:table", "HSET").len(), 40);
        assert_eq!(
            one("zset:small", "ZADD"),
            ["-inf", "c", "1", "a", "2.5", "b"]
        );
        let table = one("zset:table", "ZADD");
        let third = table.chunks(2).find(|pair| pair[1] == "member-1");
        assert_eq!(third.expect("there")[0], "0.3333333333333333");
        assert_eq!(one("stream", "RESTORE").len(), 2);
        let selected: Vec<&Vec<Bytes>> = all.iter().filter(|one| one[0] == "SELECT").collect();
        assert_eq!((selected.len(), &selected[1][1][..]), (2, b"3".as_slice()));
        let libraries = all
            .iter()
            .filter(|command| command[0] == "FUNCTION")
            .count();
        assert_eq!(libraries, usize::from(rdb != REDIS_6));
    }
}

#[test]
fn values_above_the_limit_are_refused_with_their_place() {
    // The largest in the file has 2.3 kB; what is larger only when unpacked is restored.
    let fits = commands_in(REDIS_7, 100, 3000).expect("held");
    assert!(of_key(&fits, "string:compressed").contains_key("RESTORE"));
    for limit in [0, 100, 2000] {
        let Err(Error::TooLarge { at, .. }) = commands_in(REDIS_7, 100, limit) else {
            panic!("{limit} bytes suffice");
        };
        assert!((81..REDIS_7.len() as u64).contains(&at), "{at}");
    }
    assert!(matches!(
        commands_in(&REDIS_7[..100], 100, LIMIT),
        Err(Error::Rdb(_))
    ));
}

#[test]
fn integers_of_every_width_are_signed() {
    // A listpack with 7, 13, 16, 24, 32 and 64 bits, as Redis writes them.
    let elements: [&[u8]; 7] = [
        &[0x7f, 1],
        &[0xdf, 0xff, 2],
        &[0xcf, 0xff, 2],
        &[0xf1, 0x00, 0x80, 3],
        &[0xf2, 0x00, 0x00, 0x80, 4],
        &[0xf3, 0x00, 0x00, 0x00, 0x80, 5],
        &[0xf4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9],
    ];
    let mut bytes = vec![0; 6];
    bytes.extend(elements.concat());
    bytes.push(0xff);
    let mut stored = vec![u8::try_from(bytes.len()).expect("small")];
    stored.append(&mut bytes);
    let decoded = value::decode(20, &stored, LIMIT);
    let expected = [
        "127",
        "-1",
        "4095",
        "-32768",
        "-8388608",
        "-2147483648",
        "-1",
    ];
    let Some(value::Value::Elements { all, .. }) = decoded else {
        panic!("{decoded:?}");
    };
    assert_eq!(all, expected.map(|text| text.as_bytes().to_vec()));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(piece in 1_usize..3000) {
        let whole = commands_in(VALKEY_9, VALKEY_9.len(), LIMIT).expect("a real file");
        prop_assert_eq!(commands_in(VALKEY_9, piece, LIMIT), Ok(whole));
    }

    #[test]
    fn any_bytes_decode_or_do_not(encoding in 0_u8..30, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = value::decode(encoding, &bytes, LIMIT);
        let with_length = [vec![u8::try_from(bytes.len()).expect("small")], bytes].concat();
        if let Some(value::Value::Elements { width, all, .. }) = value::decode(encoding, &with_length, LIMIT) {
            prop_assert!(all.len().is_multiple_of(width) && !all.is_empty());
        }
    }
}
