//! The old REST calls `backup`, `takesnapshot` and `restore`: shown to the operator, answered as it answers.
//!
//! A call lives in memory and for as long as its caller waits. Whoever goes away
//! takes it back: what nobody waits for any more must not be done later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynomite_api::contract::{Call, CallAnswer, CallOutcome, MAX_CALLS, Wish};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::oneshot;

/// How long a caller is kept waiting: the operator looks at a settled ring every
/// five seconds, and makes the object before it answers.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The longest value of a parameter, bytes: what the operator reads of one.
const VALUE_LIMIT: usize = 300;

/// The last second of a day.
const DAY_END: (i8, i8, i8) = (23, 59, 59);

/// The calls that wait; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// How many there have been.
    count: u64,
    calls: Vec<(Call, oneshot::Sender<CallOutcome>)>,
}

/// A call whose caller waits; it is taken back when this is dropped.
#[derive(Debug)]
pub(super) struct Pending {
    id: String,
    calls: Calls,
    answer: oneshot::Receiver<CallOutcome>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a call from now on; `None` while too many wait.
    pub(super) fn ask(&self, node: &str, wish: Wish, by: String, at: Timestamp) -> Option<Pending> {
        let mut waiting = self.lock();
        if waiting.calls.len() >= MAX_CALLS {
            return None;
        }
        waiting.count += 1;
        // The time tells it from those before the sidecar started again.
        let id = format!("{node}/{at}/{}", waiting.count);
        let (sender, answer) = oneshot::channel();
        let call = Call {
            id: id.clone(),
            wish,
            by,
            at,
        };
        waiting.calls.push((call, sender));
        Some(Pending {
            id,
            calls: self.clone(),
            answer,
        })
    }

    /// Hands an answer on; one to a call that is over changes nothing.
    pub(super) fn answer(&self, answer: CallAnswer) {
        let mut waiting = self.lock();
        let place = waiting.calls.iter().position(|(c, _)| c.id == answer.id);
        if let Some(place) = place {
            let (_, caller) = waiting.calls.swap_remove(place);
            // The caller may have gone this moment.
            let _ = caller.send(answer.outcome);
        }
    }

    /// The calls that wait.
    pub(super) fn waiting(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = self.lock().calls.iter().map(|(c, _)| c.clone()).collect();
        calls.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        calls
    }
}

impl Pending {
    /// The operator's answer, if it comes in time.
    pub(super) async fn outcome(mut self) -> Option<CallOutcome> {
        let answer = tokio::time::timeout(PATIENCE, &mut self.answer).await;
        answer.ok()?.ok()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.calls.lock().calls.retain(|(c, _)| c.id != self.id);
    }
}

/// What a call asks for, from its name in lower case and its parameters. `None`
/// where it is none of these calls, an error where a parameter cannot be read.
pub(super) fn wish(name: &str, query: &str) -> Option<Result<Wish, String>> {
    match name {
        "backup" | "takesnapshot" => Some(backup(query)),
        "restore" => Some(restore(query)),
        _ => None,
    }
}

fn backup(query: &str) -> Result<Wish, String> {
    let [name] = parameters(query, ["name"])?;
    Ok(Wish::Backup { name })
}

fn restore(query: &str) -> Result<Wish, String> {
    let [from, date] = parameters(query, ["from", "date"])?;
    let from = match (from, date) {
        (Some(_), Some(_)) => return Err("give from or date, not both".to_owned()),
        (Some(from), None) => from,
        (None, Some(date)) => end_of(&date)?,
        (None, None) => "latest".to_owned(),
    };
    Ok(Wish::Restore { from })
}

/// The end of a day in UTC: what was restored of a day was its last backup.
fn end_of(date: &str) -> Result<String, String> {
    let (hour, minute, second) = DAY_END;
    let day = Date::strptime("%Y%m%d", date).or_else(|_| date.parse());
    let end = day.map(|day| day.at(hour, minute, second, 0));
    let end = end.map_err(|_| format!("date {date:?} is no day such as 20261120"))?;
    Ok(format!("{}Z", end.strftime("%Y-%m-%dT%H:%M:%S")))
}

/// The values of parameters, each given at most once, and no others.
fn parameters<const N: usize>(
    query: &str,
    names: [&str; N],
) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(place) = names.iter().position(|known| *known == name) else {
            let known = names.join(" and ");
            return Err(format!("there is no parameter {name:?}: it knows {known}"));
        };
        if value.is_empty() || value.len() > VALUE_LIMIT || values[place].is_some() {
            return Err(format!(
                "give {name} once, with 1 to {VALUE_LIMIT} characters"
            ));
        }
        values[place] = Some(value.into_owned());
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Wish {
        Wish::Restore {
            from: text.to_owned(),
        }
    }

    fn named(name: Option<&str>) -> Wish {
        Wish::Backup {
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn calls_mean_what_they_say() {
        for (name, query, wanted) in [
            ("backup", "", Some(named(None))),
            (
                "takesnapshot",
                "name=before-upgrade",
                Some(named(Some("before-upgrade"))),
            ),
            ("backup", "name=a%20b", Some(named(Some("a b")))),
            ("restore", "", Some(from("latest"))),
            ("restore", "from=monday", Some(from("monday"))),
            (
                "restore",
                "date=20261120",
                Some(from("2026-11-20T23:59:59Z")),
            ),
            (
                "restore",
                "date=2026-11-20",
                Some(from("2026-11-20T23:59:59Z")),
            ),
            ("restore", "date=20261131", None),
            ("restore", "date=2026", None),
            ("restore", "from=monday&date=20261120", None),
            ("restore", "from=", None),
            ("restore", "form=monday", None),
            ("backup", "name=a&name=b", None),
        ] {
            let read = wish(name, query).expect("it is one of these calls");
            assert_eq!(read.ok(), wanted, "{name}?{query}");
        }
        assert!(wish("stop", "").is_none());
        assert!(backup(&format!("name={}", "x".repeat(301))).is_err());
    }

    #[test]
    fn a_call_stands_while_its_caller_waits() {
        let calls = Calls::default();
        let ask = || {
            let wish = Wish::Backup { name: None };
            calls.ask("n", wish, "who".to_owned(), Timestamp::UNIX_EPOCH)
        };
        let all: Vec<Pending> = std::iter::from_fn(ask).take(MAX_CALLS + 1).collect();
        assert_eq!(all.len(), MAX_CALLS, "one more is refused");
        let shown = calls.waiting();
        assert_eq!(shown.len(), MAX_CALLS);
        let ids: std::collections::BTreeSet<&String> = shown.iter().map(|c| &c.id).collect();
        assert_eq!(ids.len(), MAX_CALLS);
        drop(all);
        assert!(calls.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_goes_to_its_caller_alone() {
        let calls = Calls::default();
        let ask = || {
            let wish = Wish::Backup { name: None };
            let at = Timestamp::UNIX_EPOCH;
            calls
                .ask("n", wish, "who".to_owned(), at)
                .expect("there is room")
        };
        let (first, second) = (ask(), ask());
        let refused = CallOutcome::Refused {
            why: "no".to_owned(),
        };
        let answer = CallAnswer {
            id: second.id.clone(),
            outcome: refused.clone(),
        };
        calls.answer(answer.clone());
        assert_eq!(calls.waiting().len(), 1);
        assert_eq!(second.outcome().await, Some(refused));
        calls.answer(answer);
        assert_eq!(first.outcome().await, None, "it waits in vain");
        assert!(calls.waiting().is_empty());
    }
}
