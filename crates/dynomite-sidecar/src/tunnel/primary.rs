//! Plays the donor of this node's own store with data from elsewhere: one whole copy, and no writes after it.
//!
//! ```text
//!   store                            primary
//!     PING, REPLCONF ...   ------->
//!                          <-------  +PONG, +OK ...
//!     PSYNC <any>          ------->
//!                          <-------  +FULLRESYNC <history> 0
//!                          <-------  $<length>, the data
//!     REPLCONF ACK ...     ------->
//!                          <-------  PING now and then, as a primary does
//! ```
//!
//! A store that loads a file when it starts reads one kind of file or another,
//! by its settings; one that copies a primary takes what it is given, and writes
//! its own files anew. Each connection gets the whole copy: a store that lost its
//! link has nothing to go on from.

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::{Request, RequestParser};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::gate::{Gate, Passage};
use super::pipe::{DATA_BUFFER, REPLY_BUFFER};

/// What a replica says of itself is short.
const REQUESTS: Limits = Limits {
    max_bytes: 4096,
    max_args: 32,
};

/// Between two PINGs, as stores have it by default; after a minute without any
/// a replica gives its link up.
const PING_PERIOD: Duration = Duration::from_secs(10);

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The data of a copy, from its beginning.
pub(crate) struct Opened {
    /// How many bytes it has.
    pub(crate) length: u64,
    /// They.
    pub(crate) data: Pin<Box<dyn AsyncRead + Send>>,
}

/// Where the data of a copy comes from.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// Opens it; each call begins anew.
    fn open(&self) -> Pin<Box<dyn Future<Output = io::Result<Opened>> + Send + '_>>;
}

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct File(pub(crate) PathBuf);

impl Source for File {
    fn open(&self) -> Pin<Box<dyn Future<Output = io::Result<Opened>> + Send + '_>> {
        Box::pin(async {
            let file = tokio::fs::File::open(&self.0).await?;
            let length = file.metadata().await?.len();
            let data = Box::pin(file);
            Ok(Opened { length, data })
        })
    }
}

/// What the store is given instead of a donor's data.
#[derive(Debug)]
pub(crate) struct Play {
    /// The id of the replication history that it seems to be, 40 hexadecimal
    /// digits; never used before.
    pub(crate) history: String,
    /// The data.
    pub(crate) source: Box<dyn Source>,
}

/// The id of a history that nobody has had, made from what is true only once.
pub(crate) fn fresh_history(once: &str) -> String {
    let digest = Sha256::digest(once.as_bytes());
    let mut history = String::with_capacity(40);
    for byte in digest.iter().take(20) {
        // Writing to a string cannot fail.
        let _ = write!(history, "{byte:02x}");
    }
    history
}

/// Why a copy was not given.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The store went away, which it may: it comes again.
    Store(io::Error),
    /// The data cannot be read.
    Source(io::Error),
}

/// Gives the store that has connected its copy, and keeps the link up until the
/// store leaves.
pub(crate) async fn play<S>(store: S, play: &Play, gate: &Gate) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut from_store, mut to_store) = tokio::io::split(store);
    handshake(&mut from_store, &mut to_store)
        .await
        .map_err(Ended::Store)?;
    let mut opened = play.source.open().await.map_err(Ended::Source)?;
    let passage = gate.connect();
    tokio::select! {
        ended = ignore(&mut from_store) => ended.map_err(Ended::Store),
        ended = give(&mut to_store, &play.history, &mut opened, &passage) => ended,
    }
}

/// Answers what a replica says before it asks for its copy.
async fn handshake(
    store: &mut (impl AsyncRead + Unpin),
    answers: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut parser = RequestParser::default();
    let mut buffer = BytesMut::with_capacity(REPLY_BUFFER);
    loop {
        while let Some(request) = parser.parse(&mut buffer, &REQUESTS).map_err(garbled)? {
            match answer(&request) {
                Some(answer) => answers.write_all(answer).await?,
                None => return Ok(()),
            }
        }
        answers.flush().await?;
        if store.read_buf(&mut buffer).await? == 0 {
            let why = "the store left before it asked for a copy";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    }
}

/// The answer to a replica; `None` when it asks for its copy.
fn answer(request: &Request) -> Option<&'static [u8]> {
    let command = request.arg(0).to_ascii_uppercase();
    match command.as_slice() {
        b"PSYNC" | b"SYNC" => None,
        b"PING" => Some(b"+PONG\r\n"),
        // What it can do, its address, its version: nothing of it matters here.
        b"REPLCONF" | b"AUTH" => Some(b"+OK\r\n"),
        _ => Some(b"-ERR there is nothing here but a copy\r\n"),
    }
}

/// Acknowledgements, until the store is gone.
async fn ignore(store: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; REPLY_BUFFER];
    while store.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn give(
    store: &mut (impl AsyncWrite + Unpin),
    history: &str,
    opened: &mut Opened,
    passage: &Passage<'_>,
) -> Result<(), Ended> {
    let begins = passage.begins(history, 0).map_err(io::Error::other);
    begins.map_err(Ended::Store)?;
    passage.copy_has(Some(opened.length));
    let head = format!("+FULLRESYNC {history} 0\r\n${}\r\n", opened.length);
    to(store, head.as_bytes()).await?;
    let mut buffer = vec![0; DATA_BUFFER];
    let mut left = opened.length;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = opened.data.read(&mut buffer[..most]).await;
        let length = length.map_err(Ended::Source)?;
        if length == 0 {
            let why = format!("the data ended {left} bytes before its end");
            let why = io::Error::new(io::ErrorKind::UnexpectedEof, why);
            return Err(Ended::Source(why));
        }
        to(store, &buffer[..length]).await?;
        passage.copied(length as u64);
        left -= length as u64;
    }
    drop(buffer);
    loop {
        tokio::time::sleep(PING_PERIOD).await;
        to(store, PING).await?;
    }
}

async fn to(store: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Ended> {
    store.write_all(bytes).await.map_err(Ended::Store)?;
    store.flush().await.map_err(Ended::Store)
}

fn garbled(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
pub(crate) mod tests;
