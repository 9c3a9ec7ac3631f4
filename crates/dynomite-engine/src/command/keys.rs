//! Finds the keys in a request.

use dynomite_protocol::resp::Request;
use smallvec::SmallVec;

use super::Keys;

/// The positions of the keys, in order; `None` when the request does not have the shape of its
/// command (a count that is not there, a `STORE` without a name).
pub fn keys_of(keys: Keys, request: &Request) -> Option<SmallVec<[usize; 4]>> {
    let count = request.len();
    let found: SmallVec<[usize; 4]> = match keys {
        Keys::First => SmallVec::from_slice(&[1]),
        Keys::Second => SmallVec::from_slice(&[2]),
        Keys::FirstTwo => SmallVec::from_slice(&[1, 2]),
        Keys::All => (1..count).collect(),
        Keys::Pairs => (1..count).step_by(2).collect(),
        Keys::FromSecond => (2..count).collect(),
        Keys::Counted(at) => counted(request, at)?,
        Keys::CountedWithDestination => {
            let mut found = counted(request, 2)?;
            found.insert(0, 1);
            found
        }
        Keys::FirstAndStore => first_and_store(request)?,
        Keys::Streams => streams(request)?,
    };
    let whole = found.iter().all(|&at| at < count) && !found.is_empty();
    whole.then_some(found)
}

fn counted(request: &Request, at: usize) -> Option<SmallVec<[usize; 4]>> {
    let count = usize::try_from(request.number(at)?).ok()?;
    let end = at.checked_add(1)?.checked_add(count)?;
    (count > 0 && end <= request.len()).then(|| (at + 1..end).collect())
}

fn is(request: &Request, at: usize, word: &[u8]) -> bool {
    request.arg(at).eq_ignore_ascii_case(word)
}

fn first_and_store(request: &Request) -> Option<SmallVec<[usize; 4]>> {
    let mut found = SmallVec::from_slice(&[1]);
    for at in 2..request.len() {
        if is(request, at, b"store") || is(request, at, b"storedist") {
            if at + 1 >= request.len() {
                return None;
            }
            found.push(at + 1);
        }
    }
    Some(found)
}

fn streams(request: &Request) -> Option<SmallVec<[usize; 4]>> {
    let start = 1 + (1..request.len()).find(|&at| is(request, at, b"streams"))?;
    let rest = request.len() - start;
    (rest > 0 && rest.is_multiple_of(2)).then(|| (start..start + rest / 2).collect())
}
