use dynomite_protocol::consistency::Consistency::{DcOne, DcQuorum, DcSafeQuorum};
use proptest::prelude::*;

use super::*;

/// Votes as letters: `.` unsent, `?` pending, `~` doubtful, a capital for a good reply, a small
/// letter for an error, `-` for nobody there.
fn votes(letters: &str) -> Vec<Vote> {
    letters
        .chars()
        .map(|letter| match letter {
            '.' => Vote::Unsent,
            '?' => Vote::Pending,
            '~' => Vote::Doubtful,
            '-' => Vote::Gone(Bytes::from_static(b"-gone")),
            letter if letter.is_uppercase() => Vote::Good(Bytes::from(letter.to_string())),
            letter => Vote::Bad(Bytes::from(letter.to_string())),
        })
        .collect()
}

fn decide(rule: Rule, access: Access, letters: &str) -> String {
    let question = Question {
        rule,
        access,
        own: 0,
        compare: Compare::Bytes,
    };
    match verdict(&question, &votes(letters)) {
        Verdict::Wait => "wait".to_owned(),
        Verdict::AskAnother => "ask".to_owned(),
        Verdict::Done(reply) => String::from_utf8_lossy(&reply).trim().to_owned(),
    }
}

#[test]
fn a_read_at_one_is_answered_by_whoever_executes_it() {
    for (letters, expected) in [
        ("...", "ask"),
        ("?..", "wait"),
        ("A..", "A"),
        ("a..", "a"),
        ("-..", "ask"),
        ("~..", "ask"),
        ("~?.", "wait"),
        ("~B.", "B"),
        ("~--", "wait"),
        ("---", "-gone"),
        ("-B-", "B"),
    ] {
        assert_eq!(
            decide(Rule::Level(DcOne), Access::Read, letters),
            expected,
            "{letters}"
        );
    }
}

#[test]
fn a_write_at_one_is_answered_by_the_own_rack_as_long_as_it_can() {
    for (letters, expected) in [
        ("?BB", "wait"),
        ("A??", "A"),
        ("a??", "a"),
        ("aBB", "a"),
        ("~??", "wait"),
        ("~?B", "B"),
        ("-??", "wait"),
        ("-?B", "B"),
        ("-b?", "wait"),
        ("-b-", "b"),
        ("---", "-gone"),
    ] {
        assert_eq!(
            decide(Rule::Level(DcOne), Access::Write, letters),
            expected,
            "{letters}"
        );
    }
}

#[test]
fn a_quorum_is_more_than_half_of_all_racks() {
    for (letters, quorum, safe) in [
        ("A", "A", "A"),
        ("-", "-gone", "-gone"),
        ("A?", "wait", "wait"),
        ("AA", "A", "A"),
        ("AB", "A", "-ERR Dynomite: Failed to achieve Quorum"),
        ("A-", "-gone", "-gone"),
        ("AA?", "A", "A"),
        ("AB?", "wait", "wait"),
        ("ABB", "B", "B"),
        ("ABC", "A", "-ERR Dynomite: Failed to achieve Quorum"),
        ("-BB", "B", "B"),
        ("-BC", "B", "-ERR Dynomite: Failed to achieve Quorum"),
        ("ab?", "a", "a"),
        ("a-?", "a", "a"),
        ("AAaa", "a", "a"),
        ("AAAa", "A", "A"),
        ("AAABB", "A", "A"),
        ("AABB?", "wait", "wait"),
        ("AABBC", "A", "-ERR Dynomite: Failed to achieve Quorum"),
    ] {
        assert_eq!(
            decide(Rule::Level(DcQuorum), Access::Read, letters),
            quorum,
            "{letters}"
        );
        assert_eq!(
            decide(Rule::Level(DcSafeQuorum), Access::Write, letters),
            safe,
            "{letters}"
        );
    }
}

#[test]
fn everyone_is_waited_for() {
    for (letters, expected) in [
        ("AA?", "wait"),
        ("AAB", "A"),
        ("AbA", "b"),
        ("A-A", "A"),
        ("--", "-gone"),
    ] {
        assert_eq!(
            decide(Rule::Everyone, Access::Write, letters),
            expected,
            "{letters}"
        );
    }
}

#[test]
fn replies_are_sorted_by_what_they_say_about_the_request() {
    let sort = |text: &'static str| Vote::from_reply(Bytes::from_static(text.as_bytes()));
    assert!(matches!(sort("+OK\r\n"), Vote::Good(_)));
    assert!(matches!(sort("-WRONGTYPE x\r\n"), Vote::Bad(_)));
    assert!(matches!(sort("-ERR no such key\r\n"), Vote::Bad(_)));
    assert!(matches!(sort("-OOM x\r\n"), Vote::Bad(_)));
    for refusal in [
        "-ERR Peer: Peer Node is down\r\n",
        "-ERR Storage: Datastore refused connection\r\n",
        "-LOADING x\r\n",
        "-READONLY x\r\n",
    ] {
        assert!(matches!(sort(refusal), Vote::Gone(_)), "{refusal}");
    }
}

proptest! {
    #[test]
    fn there_is_always_an_answer_when_nobody_is_left_to_wait_for(
        letters in "[A-C][a-c-]{0,6}|[A-Ca-c-]{1,7}",
    ) {
        for access in [Access::Read, Access::Write] {
            for rule in [Rule::Level(DcOne), Rule::Level(DcQuorum), Rule::Level(DcSafeQuorum), Rule::Everyone] {
                let decided = decide(rule, access, &letters);
                prop_assert!(decided != "wait" && decided != "ask");
            }
        }
    }

    #[test]
    fn a_success_means_that_enough_racks_executed_the_request(letters in "[A-Ba-b?~-]{1,7}") {
        let good = |reply: &str| letters.matches(reply).count();
        let needed = letters.len() / 2 + 1;
        let all_good: usize = ["A", "B"].iter().map(|reply| good(reply)).sum();
        let quorum = decide(Rule::Level(DcQuorum), Access::Write, &letters);
        if quorum == "A" || quorum == "B" {
            prop_assert!(all_good >= needed);
        }
        let safe = decide(Rule::Level(DcSafeQuorum), Access::Write, &letters);
        if safe == "A" || safe == "B" {
            prop_assert!(good(&safe) >= needed);
        }
    }
}
