//! The judgement: may the operations of a history have led to what the racks hold?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{History, Operation, Outcome, State, Value, What};

/// How many complaints a verdict spells out.
const COMPLAINTS: usize = 20;

/// What came of the judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Operations that were acknowledged.
    pub acknowledged: usize,
    /// Operations of which nobody knows whether they happened.
    pub unknown: usize,
    /// Keys that were judged.
    pub keys: usize,
    /// What cannot be, in words; empty when all is well.
    pub complaints: Vec<String>,
    /// How many complaints there are, those that are not spelled out included.
    pub complained: usize,
}

impl Verdict {
    fn complain(&mut self, words: String) {
        self.complained += 1;
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(words);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} acknowledged operations, {} of unknown outcome, {} complaints",
            self.keys, self.acknowledged, self.unknown, self.complained
        )?;
        for complaint in &self.complaints {
            write!(f, "\n  {complaint}")?;
        }
        Ok(())
    }
}

/// Judges what each rack, by its name, holds after a history.
pub fn check(history: &History, racks: &BTreeMap<String, State>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        match operation.outcome {
            Outcome::Acknowledged => verdict.acknowledged += 1,
            Outcome::Unknown => verdict.unknown += 1,
        }
        by_key.entry(&operation.key).or_default().push(operation);
    }
    verdict.keys = by_key.len();
    for (key, operations) in by_key {
        let mut first: Option<(&str, &Value)> = None;
        for (rack, state) in racks {
            let value = state.get(key).unwrap_or(&Value::Absent);
            if let Some((other, seen)) = first {
                if seen != value {
                    verdict.complain(format!(
                        "{key} differs: {rack} has {}, {other} has {}",
                        short(value),
                        short(seen)
                    ));
                }
                continue;
            }
            first = Some((rack, value));
            if let Err(why) = possible(&operations, value) {
                verdict.complain(format!("{key} in {rack}: {why}"));
            }
        }
    }
    verdict
}

/// A value that fits on a line.
fn short(value: &Value) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.len()),
        None => text,
    }
}

fn possible(operations: &[&Operation], value: &Value) -> Result<(), String> {
    match operations.first().map(|operation| operation.what) {
        Some(What::Add(_)) => counter(operations, value),
        Some(What::Insert(_)) => set(operations, value),
        Some(What::Append(_)) => list(operations, value),
        Some(What::Set(_) | What::Delete) | None => register(operations, value),
    }
}

fn counter(operations: &[&Operation], value: &Value) -> Result<(), String> {
    let sum = |only_acknowledged: bool| -> u64 {
        let counted = operations
            .iter()
            .filter(|o| !only_acknowledged || o.outcome == Outcome::Acknowledged);
        counted
            .map(|operation| match operation.what {
                What::Add(amount) => amount,
                _ => 0,
            })
            .sum()
    };
    let (least, most) = (sum(true), sum(false));
    let found = match value {
        Value::Number(number) => *number,
        Value::Absent => 0,
        other => return Err(format!("is {}, not a counter", short(other))),
    };
    if found < least {
        Err(format!("{found}, but {least} was acknowledged"))
    } else if found > most {
        Err(format!("{found}, but only {most} was ever added"))
    } else {
        Ok(())
    }
}

fn elements(operations: &[&Operation], wanted: Option<Outcome>) -> Vec<u64> {
    let chosen = operations
        .iter()
        .filter(|operation| wanted.is_none_or(|wanted| operation.outcome == wanted));
    chosen
        .filter_map(|operation| match operation.what {
            What::Insert(element) | What::Append(element) | What::Set(element) => Some(element),
            What::Add(_) | What::Delete => None,
        })
        .collect()
}

fn set(operations: &[&Operation], value: &Value) -> Result<(), String> {
    let found = match value {
        Value::Set(found) => found.as_slice(),
        Value::Absent => &[],
        other => return Err(format!("is {}, not a set", short(other))),
    };
    membership(operations, found)
}

/// Every acknowledged element exactly once, every other at most once, none that nobody wrote.
fn membership(operations: &[&Operation], found: &[u64]) -> Result<(), String> {
    let there: BTreeSet<u64> = found.iter().copied().collect();
    if there.len() != found.len() {
        let mut seen = BTreeSet::new();
        let twice = found.iter().find(|element| !seen.insert(**element));
        return Err(format!("element {twice:?} is there twice"));
    }
    let tried: BTreeSet<u64> = elements(operations, None).into_iter().collect();
    if let Some(stranger) = there.difference(&tried).next() {
        return Err(format!("element {stranger} was never written"));
    }
    let acknowledged = elements(operations, Some(Outcome::Acknowledged));
    match acknowledged.iter().find(|element| !there.contains(element)) {
        Some(lost) => Err(format!("element {lost} was acknowledged and is gone")),
        None => Ok(()),
    }
}

fn list(operations: &[&Operation], value: &Value) -> Result<(), String> {
    let found = match value {
        Value::List(found) => found.as_slice(),
        Value::Absent => &[],
        other => return Err(format!("is {}, not a list", short(other))),
    };
    membership(operations, found)?;
    let order: BTreeMap<u64, usize> = elements(operations, None)
        .into_iter()
        .enumerate()
        .map(|(place, element)| (element, place))
        .collect();
    let places: Vec<_> = found.iter().filter_map(|e| order.get(e)).collect();
    if places.is_sorted() {
        Ok(())
    } else {
        Err("its elements are not in the order in which they were appended".to_owned())
    }
}

/// The value of the last acknowledged operation, or of any that came after it.
fn register(operations: &[&Operation], value: &Value) -> Result<(), String> {
    let last = operations
        .iter()
        .rposition(|operation| operation.outcome == Outcome::Acknowledged);
    let outcome = |operation: &Operation| match operation.what {
        What::Set(value) => Value::Number(value),
        _ => Value::Absent,
    };
    let mut allowed: Vec<Value> = operations[last.unwrap_or_default()..]
        .iter()
        .map(|operation| outcome(operation))
        .collect();
    if last.is_none() {
        allowed.push(Value::Absent);
    }
    if allowed.contains(value) {
        Ok(())
    } else {
        Err(format!(
            "is {}, allowed: {}",
            short(value),
            allowed.iter().map(short).collect::<Vec<_>>().join(" or ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(what: What, outcome: Outcome) -> Operation {
        Operation {
            key: "k".to_owned(),
            what,
            outcome,
            begun: 0,
            took: 0,
        }
    }

    fn done(what: What) -> Operation {
        operation(what, Outcome::Acknowledged)
    }

    fn unknown(what: What) -> Operation {
        operation(what, Outcome::Unknown)
    }

    fn complaints(operations: &[Operation], racks: &[Value]) -> usize {
        let history = History {
            operations: operations.to_vec(),
        };
        let racks = racks.iter().enumerate().map(|(number, value)| {
            let state = State::from([("k".to_owned(), value.clone())]);
            (format!("rack-{number}"), state)
        });
        check(&history, &racks.collect()).complained
    }

    #[test]
    fn a_counter_lies_between_acknowledged_and_attempted() {
        let history = [
            done(What::Add(2)),
            unknown(What::Add(3)),
            done(What::Add(1)),
        ];
        for (value, expected) in [
            (Value::Number(2), 1),
            (Value::Number(3), 0),
            (Value::Number(6), 0),
            (Value::Number(7), 1),
            (Value::Absent, 1),
            (Value::List(vec![3]), 1),
        ] {
            assert_eq!(
                complaints(&history, std::slice::from_ref(&value)),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_set_has_what_was_acknowledged_and_nothing_strange() {
        let history = [done(What::Insert(1)), unknown(What::Insert(2))];
        for (value, expected) in [
            (Value::Set(vec![1]), 0),
            (Value::Set(vec![1, 2]), 0),
            (Value::Set(vec![2]), 1),
            (Value::Set(vec![1, 3]), 1),
            (Value::Absent, 1),
        ] {
            assert_eq!(
                complaints(&history, std::slice::from_ref(&value)),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_list_has_each_element_once_and_in_order() {
        let history = [
            done(What::Append(1)),
            done(What::Append(2)),
            unknown(What::Append(3)),
        ];
        for (value, expected) in [
            (Value::List(vec![1, 2]), 0),
            (Value::List(vec![1, 2, 3]), 0),
            (Value::List(vec![2, 1]), 1),
            (Value::List(vec![1, 2, 2]), 1),
            (Value::List(vec![1]), 1),
            (Value::List(vec![1, 2, 9]), 1),
        ] {
            assert_eq!(
                complaints(&history, std::slice::from_ref(&value)),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_register_holds_the_last_acknowledged_value_or_a_later_one() {
        let history = [
            done(What::Set(1)),
            unknown(What::Set(2)),
            done(What::Set(3)),
            unknown(What::Delete),
        ];
        for (value, expected) in [
            (Value::Number(3), 0),
            (Value::Absent, 0),
            (Value::Number(2), 1),
            (Value::Number(1), 1),
        ] {
            assert_eq!(
                complaints(&history, std::slice::from_ref(&value)),
                expected,
                "{value:?}"
            );
        }
        assert_eq!(complaints(&[unknown(What::Set(1))], &[Value::Absent]), 0);
        // A deleted value must not come back.
        let deleted = [done(What::Set(1)), done(What::Delete)];
        assert_eq!(complaints(&deleted, &[Value::Number(1)]), 1);
    }

    #[test]
    fn racks_must_not_differ() {
        let history = [done(What::Set(1)), unknown(What::Set(2))];
        let differing = [Value::Number(1), Value::Number(1), Value::Number(2)];
        assert_eq!(complaints(&history, &differing), 1);
        assert_eq!(complaints(&history, &differing[..2]), 0);
    }
}
