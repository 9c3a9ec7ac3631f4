//! Makes writes deterministic before they fan out: the racks execute them at different moments,
//! and must still come to the same data.
//!
//! Times to live become moments of expiry by the coordinator's wall clock, and a stream entry gets
//! its id here. `SPOP`, and scripts that read time or randomness, cannot be helped this way.

use dynomite_protocol::resp::Request;

use crate::now::Now;

/// The last stream id given out, so that ids of one coordinator only grow.
#[derive(Debug, Default)]
pub(crate) struct StreamClock {
    millis: u64,
    sequence: u64,
}

impl StreamClock {
    fn next(&mut self, now: Now) -> String {
        if now.unix_millis > self.millis {
            self.millis = now.unix_millis;
            self.sequence = 0;
        } else {
            self.sequence += 1;
        }
        format!("{}-{}", self.millis, self.sequence)
    }
}

/// The deterministic form of a write, or `None` when it already has it. A time that the store
/// would refuse is left to it: its error is the same in every rack.
pub(crate) fn deterministic(
    name: &str,
    request: &Request,
    now: Now,
    streams: &mut StreamClock,
) -> Option<Request> {
    match name {
        "expire" => expire(request, now, 1000),
        "pexpire" => expire(request, now, 1),
        "setex" => set_with_expiry(request, now, 1000),
        "psetex" => set_with_expiry(request, now, 1),
        "set" => expiry_option(request, now, 3),
        "getex" => expiry_option(request, now, 2),
        "restore" => restore(request, now),
        "xadd" => add_to_stream(request, now, streams),
        _ => None,
    }
}

/// The moment `amount` units from now, in milliseconds.
fn moment(now: Now, amount: i64, unit: i64) -> Option<String> {
    let now = i64::try_from(now.unix_millis).ok()?;
    Some(amount.checked_mul(unit)?.checked_add(now)?.to_string())
}

/// The moment a positive time to live ends.
fn expiry(request: &Request, at: usize, now: Now, unit: i64) -> Option<String> {
    let amount = request.number(at).filter(|&amount| amount > 0)?;
    moment(now, amount, unit)
}

fn expire(request: &Request, now: Now, unit: i64) -> Option<Request> {
    let at = moment(now, request.number(2)?, unit)?;
    let mut args: Vec<&[u8]> = vec![b"PEXPIREAT", request.arg(1), at.as_bytes()];
    args.extend(request.args_from(3));
    Some(Request::from_args(&args))
}

fn set_with_expiry(request: &Request, now: Now, unit: i64) -> Option<Request> {
    let at = expiry(request, 2, now, unit)?;
    Some(Request::from_args(&[
        b"SET",
        request.arg(1),
        request.arg(3),
        b"PXAT",
        at.as_bytes(),
    ]))
}

/// Replaces `EX n` or `PX n` among the options from argument `first` on.
fn expiry_option(request: &Request, now: Now, first: usize) -> Option<Request> {
    let option = |at: usize, word: &[u8]| request.arg(at).eq_ignore_ascii_case(word);
    let position = (first..request.len()).find(|&at| option(at, b"ex") || option(at, b"px"))?;
    let unit = if option(position, b"ex") { 1000 } else { 1 };
    let at = expiry(request, position + 1, now, unit)?;
    let mut args: Vec<&[u8]> = request.args_from(0).collect();
    args[position] = b"PXAT";
    args[position + 1] = at.as_bytes();
    Some(Request::from_args(&args))
}

fn restore(request: &Request, now: Now) -> Option<Request> {
    if request
        .args_from(4)
        .any(|arg| arg.eq_ignore_ascii_case(b"absttl"))
    {
        return None;
    }
    let at = expiry(request, 2, now, 1)?;
    let mut args: Vec<&[u8]> = request.args_from(0).collect();
    args[2] = at.as_bytes();
    args.push(b"ABSTTL");
    Some(Request::from_args(&args))
}

fn add_to_stream(request: &Request, now: Now, streams: &mut StreamClock) -> Option<Request> {
    let mut at = 2;
    loop {
        let word = request.arg(at).to_ascii_lowercase();
        at += match word.as_slice() {
            b"nomkstream" => 1,
            b"maxlen" | b"minid" => {
                let approximate = matches!(request.arg(at + 1), b"~" | b"=");
                if approximate { 3 } else { 2 }
            }
            b"limit" => 2,
            _ => break,
        };
    }
    if request.arg(at) != b"*" {
        return None;
    }
    let id = streams.next(now);
    let mut args: Vec<&[u8]> = request.args_from(0).collect();
    args[at] = id.as_bytes();
    Some(Request::from_args(&args))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Now {
        since_start: Duration::ZERO,
        unix_millis: 1_700_000_000_000,
    };

    fn rewritten(words: &str) -> Option<String> {
        let words: Vec<&str> = words.split(' ').collect();
        let request = Request::from_args(&words);
        let name = words[0].to_ascii_lowercase();
        let found = deterministic(&name, &request, NOW, &mut StreamClock::default())?;
        let text: Vec<_> = found.args_from(0).map(String::from_utf8_lossy).collect();
        Some(text.join(" "))
    }

    #[test]
    fn times_to_live_become_moments() {
        for (words, expected) in [
            ("EXPIRE k 10", "PEXPIREAT k 1700000010000"),
            ("EXPIRE k -1 NX", "PEXPIREAT k 1699999999000 NX"),
            ("PEXPIRE k 10", "PEXPIREAT k 1700000000010"),
            ("SETEX k 10 v", "SET k v PXAT 1700000010000"),
            ("PSETEX k 10 v", "SET k v PXAT 1700000000010"),
            ("set k v ex 10", "set k v PXAT 1700000010000"),
            ("SET k v NX PX 10 GET", "SET k v NX PXAT 1700000000010 GET"),
            ("GETEX k EX 1", "GETEX k PXAT 1700000001000"),
            (
                "RESTORE k 5 data REPLACE",
                "RESTORE k 1700000000005 data REPLACE ABSTTL",
            ),
            ("XADD k * f v", "XADD k 1700000000000-0 f v"),
            (
                "XADD k NOMKSTREAM MAXLEN ~ 10 LIMIT 5 * f v",
                "XADD k NOMKSTREAM MAXLEN ~ 10 LIMIT 5 1700000000000-0 f v",
            ),
        ] {
            assert_eq!(rewritten(words).as_deref(), Some(expected), "{words}");
        }
    }

    #[test]
    fn what_is_deterministic_or_wrong_is_left_to_the_store() {
        for words in [
            "SET k v",
            "SET k v KEEPTTL",
            "SET ex v",
            "SET k ex",
            "SET k v EX 0",
            "SET k v EX",
            "SET k v EX ten",
            "SETEX k 0 v",
            "SETEX k -5 v",
            "EXPIRE k ten",
            "EXPIRE k 9223372036854775807",
            "EXPIREAT k 5",
            "RESTORE k 0 data",
            "RESTORE k 5 data ABSTTL",
            "XADD k 5-1 f v",
            "INCR k",
        ] {
            assert_eq!(rewritten(words), None, "{words}");
        }
    }

    #[test]
    fn stream_ids_only_grow() {
        let mut clock = StreamClock::default();
        let earlier = Now {
            unix_millis: NOW.unix_millis - 5,
            ..NOW
        };
        let ids = [clock.next(NOW), clock.next(NOW), clock.next(earlier)];
        assert_eq!(
            ids,
            ["1700000000000-0", "1700000000000-1", "1700000000000-2"]
        );
    }
}
