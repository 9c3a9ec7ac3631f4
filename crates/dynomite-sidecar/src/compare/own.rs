//! This node's own store, as the comparison asks it: keys, votes, values, and the one write it makes.

use std::path::Path;

use dynomite_api::contract::{Broken, COMPARE_BODY_MAX, CompareKeys, Key, KeyVote};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, FromRedisValue, Value};

use crate::run::info::Info;
use crate::run::store;

const VOTES: &str = concat!(include_str!("digest.lua"), include_str!("votes.lua"));
const VALUE: &str = concat!(include_str!("digest.lua"), include_str!("value.lua"));
const LEVEL: &str = concat!(include_str!("digest.lua"), include_str!("level.lua"));

/// How many keys the store walks over in one step.
const STEP: usize = 128;

/// Longer keys, bytes, are left out: what is told of a key must have bounds.
const KEY_MAX: usize = 1024;

/// What expires sooner than this, milliseconds, is not compared: one replica may
/// have deleted it already, and a repair would come too late.
const FLEETING_MS: i64 = 30_000;

/// A connection to the store.
#[derive(Debug)]
pub(super) struct Own {
    connection: MultiplexedConnection,
    /// Whether the store deletes keys by itself for want of memory.
    evicts: bool,
}

impl Own {
    /// Connects.
    ///
    /// # Errors
    /// When the store cannot be reached, or cannot be read without harm.
    pub(super) async fn open(socket: &Path) -> Result<Self, Broken> {
        let address = ConnectionAddr::Unix(socket.to_owned());
        let connection = store::connect(address).await;
        let mut own = Self {
            connection: connection.map_err(|error| away(&store::words(&error)))?,
            evicts: false,
        };
        let info: String = own
            .ask(&redis::cmd("INFO"))
            .await
            .map_err(|why| away(&why))?;
        let info = Info::parse(&info);
        let policy = info.text("maxmemory_policy");
        own.evicts = info.number("maxmemory") > 0 && policy != "noeviction";
        let mut untouched = redis::cmd("CLIENT");
        untouched.arg("NO-TOUCH").arg("ON");
        let untouched = own.ask::<Value>(&untouched).await;
        let by_use = policy.ends_with("-lru") || policy.ends_with("-lfu");
        if let (Err(why), true) = (untouched, own.evicts && by_use) {
            return Err(Broken {
                reason: "WouldTouchKeys".to_owned(),
                message: format!(
                    "the store evicts what is used least, and reading its keys would count as \
                     use: a store that knows CLIENT NO-TOUCH can be compared ({why})"
                ),
            });
        }
        Ok(own)
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, String> {
        let asked = command.query_async(&mut self.connection).await;
        asked.map_err(|error| store::words(&error))
    }

    /// Some keys from a place on.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn keys(&mut self, cursor: &str) -> Result<CompareKeys, String> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(STEP);
        let (cursor, keys): (String, Vec<Vec<u8>>) = self.ask(&scan).await?;
        let keys = keys.into_iter().filter(|key| key.len() <= KEY_MAX);
        Ok(CompareKeys {
            cursor,
            keys: keys.map(Key).collect(),
        })
    }

    /// What it has of the first of these keys: as many as can be told in one go,
    /// one at least.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn votes(&mut self, keys: &[Key]) -> Result<Vec<KeyVote>, String> {
        let mut script = redis::cmd("EVAL");
        script.arg(VOTES).arg(keys.len());
        for key in keys {
            script.arg(&key.0);
        }
        let told: Vec<Value> = self.ask(&script).await?;
        let strange = || "the store's answer cannot be understood".to_owned();
        let mut told = told.into_iter();
        let seconds: i64 = told
            .next()
            .and_then(|now| text(&now)?.parse().ok())
            .ok_or_else(strange)?;
        let now = seconds.saturating_mul(1000);
        let mut votes = Vec::with_capacity(keys.len());
        while let (Some(digest), Some(expiry)) = (told.next(), told.next()) {
            let digest = text(&digest).ok_or_else(strange)?;
            let Value::Int(expiry) = expiry else {
                return Err(strange());
            };
            votes.push(self.vote(digest, expiry, now));
        }
        Ok(votes)
    }

    fn vote(&self, digest: String, expiry: i64, now: i64) -> KeyVote {
        let expires_at = (expiry >= 0).then_some(expiry);
        match digest.as_str() {
            "" if self.evicts => KeyVote::Abstains,
            "" => KeyVote::Absent,
            "?" => KeyVote::Unknown,
            _ if expires_at.is_some_and(|at| at < now.saturating_add(FLEETING_MS)) => {
                KeyVote::Unknown
            }
            _ => KeyVote::Value { digest, expires_at },
        }
    }

    /// The value of a key as another store takes it; `None` when it is another
    /// than it was.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn value(
        &mut self,
        key: &Key,
        is: &KeyVote,
    ) -> Result<Option<Vec<u8>>, String> {
        let (digest, expiry) = arguments(is);
        let mut script = redis::cmd("EVAL");
        script.arg(VALUE).arg(1).arg(&key.0).arg(digest).arg(expiry);
        let dump: Option<Vec<u8>> = self.ask(&script).await?;
        Ok(dump.filter(|dump| dump.len() <= COMPARE_BODY_MAX))
    }

    /// Gives a key a value with its expiry, or none; `false` when the key is
    /// another than it was, and stays.
    ///
    /// # Errors
    /// What the store says: it may have no room, or not understand the value.
    pub(super) async fn level(
        &mut self,
        key: &Key,
        is: &KeyVote,
        becomes: Option<(&[u8], Option<i64>)>,
    ) -> Result<bool, String> {
        let (digest, expiry) = arguments(is);
        let (dump, expires_at) = becomes.unwrap_or_default();
        let mut script = redis::cmd("EVAL");
        script.arg(LEVEL).arg(1).arg(&key.0).arg(digest).arg(expiry);
        script.arg(dump).arg(expires_at.unwrap_or(-1));
        let done: i64 = self.ask(&script).await?;
        Ok(done == 1)
    }
}

/// How the scripts are told what a key was.
fn arguments(is: &KeyVote) -> (&str, i64) {
    match is {
        KeyVote::Value { digest, expires_at } => (digest, expires_at.unwrap_or(-1)),
        _ => ("", -1),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn away(why: &str) -> Broken {
    Broken {
        reason: "StoreAway".to_owned(),
        message: format!("the node's own store cannot be asked: {why}"),
    }
}
