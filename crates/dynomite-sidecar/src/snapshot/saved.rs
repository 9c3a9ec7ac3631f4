//! A file that the store saves for a snapshot: nobody waits for whoever reads it slowly.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_api::contract::Persistence;
use redis::{Client, ConnectionAddr, IntoConnectionInfo as _, RedisError, Value};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::broken::Broken;
use crate::run::info::Info;
use crate::shared::Site;

/// How often the store is asked whether it has saved.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes that are read and handed on at once.
const PIECE: usize = 256 << 10;

/// The file, open: what the store does with its name changes nothing of it.
pub(super) struct Saved {
    file: File,
}

impl Saved {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = self.file.read_buf(&mut piece).await;
        let length = read.map_err(|error| {
            Broken::passing("FileUnreadable", format!("the saved file: {error}"))
        })?;
        Ok((length > 0).then(|| piece.freeze()))
    }
}

/// Has the store save a file, and opens it once it is complete.
///
/// A file counts only if it is another one than before, and only if the store says that it has
/// saved: that of yesterday is no snapshot of today.
pub(super) async fn save(
    site: &Site,
    socket: &Path,
    persistence: Persistence,
) -> Result<Saved, Broken> {
    let named = ask(socket, &["CONFIG", "GET", "dbfilename"]).await?;
    let name = named.lines().nth(1).unwrap_or("dump.rdb");
    let path = site.data_dir.join("store").join(name);
    let before = identity(&path).await;
    ask(socket, &["BGSAVE"]).await?;
    loop {
        tokio::time::sleep(LOOK).await;
        let text = ask(socket, &["INFO", "persistence"]).await?;
        let info = Info::parse(&text);
        if info.flag("rdb_bgsave_in_progress") {
            continue;
        }
        if info.text("rdb_last_bgsave_status") != "ok" {
            let message = "the store could not save: its disk may be full, or it could not fork; \
                           its log says why";
            return Err(Broken::passing("SaveFailed", message));
        }
        break;
    }
    let unreadable = |error: std::io::Error| {
        let message = format!("the saved file {}: {error}", path.display());
        Broken::passing("FileUnreadable", message)
    };
    let file = File::open(&path).await.map_err(unreadable)?;
    if identity(&path).await == before {
        let message = "the store says that it has saved, and its file is the one from before";
        return Err(Broken::passing("SaveFailed", message));
    }
    if persistence == Persistence::None {
        // A store without persistence must find nothing when it starts.
        tokio::fs::remove_file(&path).await.map_err(unreadable)?;
    }
    Ok(Saved { file })
}

async fn identity(path: &PathBuf) -> Option<(u64, i64, i64)> {
    let facts = tokio::fs::metadata(path).await.ok()?;
    Some((facts.ino(), facts.mtime(), facts.mtime_nsec()))
}

/// Asks the store; an answer of several values has one a line.
pub(super) async fn ask(socket: &Path, command: &[&str]) -> Result<String, Broken> {
    let away = |error: RedisError| Broken::passing("StoreAway", error.to_string());
    let address = ConnectionAddr::Unix(socket.to_owned()).into_connection_info();
    let client = Client::open(address.map_err(away)?).map_err(away)?;
    let connected = client.get_multiplexed_async_connection().await;
    let mut connection = connected.map_err(away)?;
    let (name, arguments) = command.split_first().unwrap_or((&"PING", &[]));
    let mut command = redis::cmd(name);
    command.arg(arguments);
    let answer: Value = command.query_async(&mut connection).await.map_err(away)?;
    Ok(words(answer))
}

fn words(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) => text,
        Value::Array(values) => {
            let words: Vec<String> = values.into_iter().map(words).collect();
            words.join("\n")
        }
        Value::Map(pairs) => {
            let pairs = pairs
                .into_iter()
                .flat_map(|(key, value)| [words(key), words(value)]);
            pairs.collect::<Vec<String>>().join("\n")
        }
        _ => String::new(),
    }
}
