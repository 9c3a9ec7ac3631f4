//! A store that knows just enough Redis to see what the engine sent it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::{Request, RequestParser, write};

/// The data of one store, and everything it was asked.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) data: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Requests in the order of execution, words joined by blanks.
    pub(super) log: Vec<String>,
    /// When set, every request gets this reply.
    pub(super) refuses_with: Option<&'static str>,
    /// Replies in an order of its own, as two stores do for one set.
    pub(super) reversed: bool,
}

/// One connection to a store.
#[derive(Debug, Default)]
pub(super) struct StoreSession {
    parser: RequestParser,
    inbox: BytesMut,
}

impl StoreSession {
    /// Executes what has fully arrived and returns the replies.
    pub(super) fn receive(&mut self, store: &mut Store, bytes: &[u8]) -> Vec<Bytes> {
        self.inbox.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some(request) = self
            .parser
            .parse(&mut self.inbox, &Limits::REQUEST)
            .expect("the engine sends RESP")
        {
            replies.push(store.execute(&request));
        }
        replies
    }
}

fn nil() -> Bytes {
    Bytes::from_static(b"$-1\r\n")
}

impl Store {
    fn execute(&mut self, request: &Request) -> Bytes {
        let words: Vec<_> = request.args_from(0).map(String::from_utf8_lossy).collect();
        self.log.push(words.join(" "));
        if let Some(text) = self.refuses_with {
            return write::error_reply(text);
        }
        let key = request.arg(1).to_vec();
        let name = request.arg(0).to_ascii_lowercase();
        match name.as_slice() {
            b"ping" => write::status_reply("PONG"),
            b"get" => self
                .data
                .get(&key)
                .map_or_else(nil, |value| write::bulk_reply(value)),
            b"set" => {
                self.data.insert(key, request.arg(2).to_vec());
                write::status_reply("OK")
            }
            b"incr" => {
                let old = self.data.get(&key).map_or(Some(0), |value| {
                    std::str::from_utf8(value).ok()?.parse::<i64>().ok()
                });
                let Some(old) = old else {
                    return write::error_reply("ERR value is not an integer or out of range");
                };
                self.data.insert(key, (old + 1).to_string().into_bytes());
                write::integer_reply(old + 1)
            }
            b"append" => {
                let value = self.data.entry(key).or_default();
                value.extend_from_slice(request.arg(2));
                write::integer_reply(i64::try_from(value.len()).unwrap())
            }
            b"mset" => {
                for at in (1..request.len()).step_by(2) {
                    self.data
                        .insert(request.arg(at).to_vec(), request.arg(at + 1).to_vec());
                }
                write::status_reply("OK")
            }
            b"mget" => {
                let mut out = BytesMut::new();
                write::array(&mut out, request.len() - 1);
                for key in request.args_from(1) {
                    let value = self.data.get(key);
                    out.extend_from_slice(
                        &value.map_or_else(nil, |value| write::bulk_reply(value)),
                    );
                }
                out.freeze()
            }
            b"del" | b"exists" | b"unlink" => {
                let mut count = 0;
                for key in request.args_from(1) {
                    count += i64::from(self.data.contains_key(key));
                    if name != b"exists" {
                        self.data.remove(key);
                    }
                }
                write::integer_reply(count)
            }
            b"smembers" => {
                let mut members: Vec<u8> = self.data.get(&key).cloned().unwrap_or_default();
                if self.reversed {
                    members.reverse();
                }
                let mut out = BytesMut::new();
                write::array(&mut out, members.len());
                for member in members {
                    write::bulk(&mut out, &[member]);
                }
                out.freeze()
            }
            b"pexpireat" => write::integer_reply(i64::from(self.data.contains_key(&key))),
            b"keys" => {
                let mut out = BytesMut::new();
                write::array(&mut out, self.data.len());
                for key in self.data.keys() {
                    write::bulk(&mut out, key);
                }
                out.freeze()
            }
            b"script" => write::status_reply("OK"),
            _ => write::error_reply("ERR unknown command"),
        }
    }
}
