use std::collections::HashSet;

use dynomite_protocol::resp::Request;

use super::*;

fn keys(words: &str) -> Option<Vec<usize>> {
    let words: Vec<&str> = words.split(' ').collect();
    let command = lookup(words[0].as_bytes()).expect(words[0]);
    let Class::Keyed(keys) = command.class else {
        panic!("{} is not keyed", command.name);
    };
    keys_of(keys, &Request::from_args(&words)).map(|found| found.to_vec())
}

#[test]
fn names_are_unique_lower_case_and_found_in_any_case() {
    let mut names = HashSet::new();
    for command in all() {
        assert!(names.insert(command.name), "{} twice", command.name);
        assert_eq!(command.name, command.name.to_ascii_lowercase());
        assert_eq!(
            lookup(command.name.to_uppercase().as_bytes()),
            Some(command)
        );
    }
    assert_eq!(lookup(b"nosuch"), None);
    assert_eq!(lookup(&[b'x'; 1000]), None);
    assert_eq!(lookup(b""), None);
}

#[test]
fn keys_are_where_redis_has_them() {
    for (words, expected) in [
        ("get k", vec![1]),
        ("smove a b m", vec![1, 2]),
        ("sunionstore d a b", vec![1, 2, 3]),
        ("msetnx a 1 b 2", vec![1, 3]),
        ("bitop AND d a b", vec![2, 3, 4]),
        ("zunionstore d 2 a b WEIGHTS 1 2", vec![1, 3, 4]),
        ("zinter 2 a b", vec![2, 3]),
        ("sort k BY nosort STORE d", vec![1, 5]),
        ("georadius k 1 2 3 km STOREDIST d", vec![1, 7]),
        ("object ENCODING k", vec![2]),
        ("xread COUNT 2 STREAMS a b 0 0", vec![4, 5]),
    ] {
        assert_eq!(keys(words), Some(expected), "{words}");
    }
}

#[test]
fn requests_without_the_keys_they_announce_are_refused() {
    for words in [
        "zunionstore d 3 a b",
        "zinter 0 a",
        "zinter x a",
        "zinter -1 a",
        "zinter 9223372036854775807 a",
        "sort k STORE",
        "xread STREAMS a b 0",
        "xread COUNT 2 a b",
    ] {
        assert_eq!(keys(words), None, "{words}");
    }
}

#[test]
fn what_stores_a_result_is_a_write() {
    for command in all() {
        let stores = command.name.ends_with("store")
            || ["sort", "georadius", "georadiusbymember", "bitop", "pfmerge"]
                .contains(&command.name);
        if stores {
            assert_eq!(command.access, Access::Write, "{}", command.name);
        }
    }
}

#[test]
fn arity_is_exact_or_at_least() {
    let get = lookup(b"get").unwrap();
    assert!(get.accepts(2) && !get.accepts(1) && !get.accepts(3));
    let del = lookup(b"del").unwrap();
    assert!(del.accepts(2) && del.accepts(50) && !del.accepts(1));
}
