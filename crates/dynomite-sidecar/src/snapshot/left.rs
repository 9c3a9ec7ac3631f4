//! Which uploads that were begun are nobody's: whoever began them was killed, or has given them up.

use std::time::Duration;

use dynomite_protocol::token::Token;
use dynomite_snapshot::layout::{Directory, Found, Object, find};
use jiff::Timestamp;

/// After what time an upload that no sidecar completes is nobody's any more.
const LEFT_AFTER: Duration = Duration::from_hours(24);

/// Whether the upload to `key` is one that nobody completes, in the eyes of a node that begins the
/// `attempt` of a token in the directory of a backup: of an attempt before this one, which the
/// operator has given up, or of another backup of the same ring and a day old.
pub(super) fn is_left(
    directory: &Directory,
    attempt: (Token, u32),
    key: &str,
    begun: Timestamp,
    now: Timestamp,
) -> bool {
    let Found::Ours(found, object) = find(directory.place.prefix(), key) else {
        return false;
    };
    if found.place != directory.place {
        return false;
    }
    if found.id != directory.id {
        let age = Duration::try_from(now.duration_since(begun));
        return age.is_ok_and(|age| age > LEFT_AFTER);
    }
    let (own, this) = attempt;
    matches!(object, Object::Snapshot { token, attempt, .. } if token == own && attempt < this)
}

#[cfg(test)]
mod tests {
    use dynomite_snapshot::layout::{BackupId, Place};
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn what_was_given_up_is_nobodys_and_what_may_go_on_is_left_alone() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("a time");
        let directory = |prefix: &str, cluster: &str, uid: &str, day: &str| {
            let started = format!("{day}T02:30:00Z").parse().expect("a time");
            Directory {
                place: Place::new(prefix, "shop", cluster, uid).expect("fine"),
                id: BackupId::new(started, 7, "nightly").expect("fine"),
            }
        };
        let (today, yesterday) = ("2026-11-20", "2026-11-19");
        let own = directory("team", "ring", "u", today);
        let before = directory("team", "ring", "u", yesterday);
        let an_hour = SignedDuration::from_hours(1);
        let a_day = SignedDuration::from_hours(24);
        let more = a_day + SignedDuration::from_secs(1);
        let table = [
            // Attempts of this backup: whatever came before the third is given up at once.
            (&own, "5-0.rdb", SignedDuration::ZERO, true),
            (&own, "5-1.rdb.zst.enc", SignedDuration::ZERO, true),
            (&own, "5-2.rdb", more, false),
            (&own, "5-3.rdb", more, false),
            // Other nodes are at it, and see to theirs themselves.
            (&own, "7-0.rdb", more, false),
            (&own, "manifest.json", more, false),
            // Another backup may be taken beside this one, by an operator that nobody here knows.
            (&before, "5-0.rdb", an_hour, false),
            (&before, "5-0.rdb", a_day, false),
            (&before, "5-0.rdb", more, true),
            (&before, "7-9.rdb.zst", more, true),
            // A clock that went back.
            (&before, "5-0.rdb", -more, false),
            // Other rings, one of the same name that was deleted among them, and what is no
            // backup's.
            (
                &directory("team", "other", "u", yesterday),
                "5-0.rdb",
                more,
                false,
            ),
            (
                &directory("team", "ring", "v", yesterday),
                "5-0.rdb",
                more,
                false,
            ),
            (
                &directory("mates", "ring", "u", yesterday),
                "5-0.rdb",
                more,
                false,
            ),
            (&own, "video.mp4", more, false),
        ];
        for (directory, object, age, left) in table {
            let key = format!("{directory}{object}");
            let found = is_left(&own, (Token(5), 2), &key, now - age, now);
            assert_eq!(found, left, "{key}, begun {age} ago");
        }
    }
}
