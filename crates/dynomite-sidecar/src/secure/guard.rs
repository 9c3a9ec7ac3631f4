//! What a peer may say to this node's store: what replication needs, and nothing else.
//!
//! Every node of a cluster carries the same certificate, so whoever takes over
//! one node could else empty all the others through their replication streams.

use std::io;

use crate::tunnel::Tapped;

/// The longest line of a request, bytes; replication needs far less.
const LINE_LIMIT: usize = 512;

/// The most arguments of a request.
const ARGUMENTS_LIMIT: u64 = 16;

/// The longest argument, bytes.
const ARGUMENT_LIMIT: u64 = 512;

/// Commands of a replica and of a sidecar that reads how far its donor is;
/// with a second word when only that form is meant.
const ALLOWED: [(&str, Option<&str>); 7] = [
    ("client", Some("setinfo")),
    ("info", None),
    ("ping", None),
    ("psync", None),
    ("quit", None),
    ("replconf", None),
    ("sync", None),
];

/// Reads requests as they pass, however they are cut.
#[derive(Debug, Default)]
struct Guard {
    line: Vec<u8>,
    /// Arguments of the request that are still to come; none between requests.
    missing: u64,
    /// Bytes of the argument that are still to come, its line end included.
    argument: Option<u64>,
    /// The first two words of the request.
    words: Vec<String>,
}

impl Guard {
    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.iter().try_for_each(|&byte| self.byte(byte))
    }

    fn byte(&mut self, byte: u8) -> io::Result<()> {
        if let Some(left) = self.argument {
            return self.argument_byte(left, byte);
        }
        if byte != b'\n' {
            self.line.push(byte);
            return limit(self.line.len() as u64, LINE_LIMIT as u64, "line");
        }
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = line.trim_end_matches('\r');
        if self.missing > 0 {
            let length = number(line, '$')?;
            limit(length, ARGUMENT_LIMIT, "argument")?;
            self.argument = Some(length + 2);
            return Ok(());
        }
        if line.starts_with('*') {
            self.missing = number(line, '*')?;
            return limit(self.missing, ARGUMENTS_LIMIT, "request");
        }
        // Older replicas write the words of a request in one line, and a bare
        // line end says that a replica is alive while it loads.
        self.words = line
            .split_ascii_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect();
        self.request()
    }

    fn argument_byte(&mut self, left: u64, byte: u8) -> io::Result<()> {
        if left > 2 {
            self.line.push(byte);
        }
        if left > 1 {
            self.argument = Some(left - 1);
            return Ok(());
        }
        self.argument = None;
        self.missing -= 1;
        let word = std::mem::take(&mut self.line);
        if self.words.len() < 2 {
            self.words.push(String::from_utf8_lossy(&word).into_owned());
        }
        if self.missing > 0 {
            return Ok(());
        }
        self.request()
    }

    /// A whole request has passed by; its last byte has not gone on yet.
    fn request(&mut self) -> io::Result<()> {
        let words = std::mem::take(&mut self.words);
        let Some(name) = words.first() else {
            return Ok(());
        };
        let allowed = ALLOWED.iter().any(|(command, second)| {
            let follows = |want: &str| words.get(1).is_some_and(|is| is.eq_ignore_ascii_case(want));
            name.eq_ignore_ascii_case(command) && second.is_none_or(follows)
        });
        if allowed {
            return Ok(());
        }
        Err(refused(&format!("the peer may not say {name:?}")))
    }
}

fn number(line: &str, mark: char) -> io::Result<u64> {
    let digits = line.strip_prefix(mark);
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| refused("the peer does not speak the store's protocol"))
}

fn limit(is: u64, most: u64, what: &str) -> io::Result<()> {
    if is <= most {
        return Ok(());
    }
    Err(refused(&format!("the peer sent too large a {what}")))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// A peer's stream, whose reads fail at the first request that is not allowed.
pub(super) fn guarded<S>(stream: S) -> Tapped<S, impl FnMut(&[u8]) -> io::Result<()>> {
    let mut guard = Guard::default();
    Tapped::new(stream, move |bytes: &[u8]| guard.pass(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Passes a text in two parts, cut everywhere; all cuts must agree.
    fn passes(text: &[u8]) -> bool {
        let outcome = |cut: usize| {
            let mut guard = Guard::default();
            let (first, second) = text.split_at(cut);
            guard.pass(first).and_then(|()| guard.pass(second)).is_ok()
        };
        let whole = outcome(0);
        for cut in 0..=text.len() {
            assert_eq!(outcome(cut), whole, "{text:?} cut at {cut}");
        }
        whole
    }

    #[test]
    fn replication_passes_and_nothing_else() {
        let cases: [(&[u8], bool); 14] = [
            (b"*1\r\n$4\r\nPING\r\n", true),
            (
                b"\n\n*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n",
                true,
            ),
            (b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n", true),
            (b"PING\r\nREPLCONF capa eof\r\nPSYNC ? -1\r\n", true),
            (b"*2\r\n$4\r\ninfo\r\n$11\r\nreplication\r\n", true),
            (
                b"*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$1\r\na\r\n$1\r\nb\r\n",
                true,
            ),
            (b"*2\r\n$6\r\nCLIENT\r\n$5\r\nPAUSE\r\n", false),
            (b"*1\r\n$6\r\nCLIENT\r\n", false),
            (b"*1\r\n$8\r\nFLUSHALL\r\n", false),
            (b"FLUSHALL\r\n", false),
            (b"*1\r\n$4\r\nPING\r\nFLUSHALL\n", false),
            // An argument that looks like a request is none.
            (b"*2\r\n$4\r\nPING\r\n$9\r\nFLUSHALL\n\r\n", true),
            (b"*99\r\n", false),
            (b"*1\r\n$9999\r\n", false),
        ];
        for (text, want) in cases {
            assert_eq!(passes(text), want, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut guard = Guard::default();
        assert!(guard.pass(&[b'x'; LINE_LIMIT + 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_guard(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            passes(&bytes);
        }

        #[test]
        fn no_other_command_passes(name in "[a-zA-Z]{1,12}") {
            let request = format!("*1\r\n${}\r\n{name}\r\n", name.len());
            let lower = name.to_lowercase();
            let known = ALLOWED.iter().any(|(command, second)| *command == lower && second.is_none());
            prop_assert_eq!(passes(request.as_bytes()), known);
        }
    }
}
