//! A store with what a copy needs: a stream of what it executed, and an offset in it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::{Request, RequestParser, write};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
}

/// One command in the stream to replicas.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The offset behind it.
    pub(super) end: u64,
    pub(super) at: Duration,
    /// Nothing for the pings that a primary mixes in.
    pub(super) command: Option<Request>,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) data: BTreeMap<Vec<u8>, Value>,
    pub(super) replication_id: String,
    pub(super) offset: u64,
    pub(super) stream: Vec<Entry>,
    /// The path the engine knows leads here.
    pub(super) is_exposed: bool,
    /// It has no memory for writes.
    pub(super) is_full: bool,
    /// Elements that were added twice, which must never happen.
    pub(super) doubled: Vec<String>,
}

/// One connection to a store.
#[derive(Debug, Default)]
pub(super) struct StoreSession {
    parser: RequestParser,
    inbox: BytesMut,
}

impl StoreSession {
    pub(super) fn receive(&mut self, now: Duration, store: &mut Store, bytes: &[u8]) -> BytesMut {
        self.inbox.extend_from_slice(bytes);
        let mut replies = BytesMut::new();
        while let Some(request) = self
            .parser
            .parse(&mut self.inbox, &Limits::REQUEST)
            .expect("the engine sends RESP")
        {
            replies.extend_from_slice(&store.execute(now, &request));
        }
        replies
    }
}

impl Store {
    pub(super) fn new(name: &str) -> Self {
        Self {
            data: BTreeMap::new(),
            replication_id: format!("id-of-{name}"),
            offset: 0,
            stream: Vec::new(),
            is_exposed: true,
            is_full: false,
            doubled: Vec::new(),
        }
    }

    fn execute(&mut self, now: Duration, request: &Request) -> Bytes {
        match request.arg(0) {
            b"PING" => write::status_reply("PONG"),
            b"INFO" => write::bulk_reply(self.info().as_bytes()),
            _ if self.is_full => write::error_reply("OOM command not allowed"),
            _ => {
                self.offset += request.raw().len() as u64;
                self.stream.push(Entry {
                    end: self.offset,
                    at: now,
                    command: Some(request.clone()),
                });
                self.apply(request)
            }
        }
    }

    fn info(&self) -> String {
        let keyspace = match self.data.len() {
            0 => String::new(),
            count => format!("db0:keys={count},expires=0,avg_ttl=0\r\n"),
        };
        format!(
            "# Replication\r\nrole:master\r\nmaster_replid:{}\r\nmaster_repl_offset:{}\r\n\r\n\
             # Keyspace\r\n{keyspace}",
            self.replication_id, self.offset
        )
    }

    /// A primary tells its replicas now and then that it lives.
    pub(super) fn ping_replicas(&mut self, now: Duration) {
        self.offset += 14;
        self.stream.push(Entry {
            end: self.offset,
            at: now,
            command: None,
        });
    }

    /// Executes a command, from a client or from the stream.
    pub(super) fn apply(&mut self, request: &Request) -> Bytes {
        let key = request.arg(1).to_vec();
        match request.arg(0) {
            b"SET" => {
                let value = Value::Text(request.arg(2).to_vec());
                self.data.insert(key, value);
                write::status_reply("OK")
            }
            b"MSET" | b"mset" => {
                for at in (1..request.len()).step_by(2) {
                    let value = Value::Text(request.arg(at + 1).to_vec());
                    self.data.insert(request.arg(at).to_vec(), value);
                }
                write::status_reply("OK")
            }
            b"DEL" => write::integer_reply(i64::from(self.data.remove(&key).is_some())),
            b"INCR" => {
                let text = self.text(&key);
                let old = std::str::from_utf8(text).map_or(0, |old| old.parse().unwrap_or(0));
                *text = (old + 1).to_string().into_bytes();
                write::integer_reply(old + 1)
            }
            b"APPEND" => {
                let added = request.arg(2).to_vec();
                let text = self.text(&key);
                let doubled = text.windows(added.len()).any(|old| old == added);
                text.extend_from_slice(&added);
                let length = i64::try_from(text.len()).unwrap();
                if doubled {
                    self.doubled
                        .push(String::from_utf8_lossy(&added).into_owned());
                }
                write::integer_reply(length)
            }
            b"LPUSH" => {
                let added = request.arg(2).to_vec();
                let list = self.data.entry(key).or_insert(Value::List(Vec::new()));
                let Value::List(list) = list else {
                    return write::error_reply("WRONGTYPE");
                };
                let doubled = list.contains(&added);
                list.insert(0, added.clone());
                let length = i64::try_from(list.len()).unwrap();
                if doubled {
                    self.doubled
                        .push(String::from_utf8_lossy(&added).into_owned());
                }
                write::integer_reply(length)
            }
            _ => write::error_reply("ERR unknown command"),
        }
    }

    fn text(&mut self, key: &[u8]) -> &mut Vec<u8> {
        let value = self
            .data
            .entry(key.to_vec())
            .or_insert(Value::Text(Vec::new()));
        if let Value::List(_) = value {
            *value = Value::Text(Vec::new());
        }
        match value {
            Value::Text(text) => text,
            Value::List(_) => unreachable!("it was made a text"),
        }
    }
}
