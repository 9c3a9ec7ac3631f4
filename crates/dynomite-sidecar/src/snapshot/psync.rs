//! The store's own replication stream, up to the end of its snapshot: asked for as a replica would.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::replication::{Psync, Replies, What};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::broken::Broken;

/// How long the store may say nothing; while it prepares it sends newlines.
const SILENCE: Duration = Duration::from_mins(1);

/// Bytes that are read and handed on at once: the work with them is done in one go.
const PIECE: usize = 256 << 10;

/// What is said before the wish: the end may be a mark, as a snapshot that is made while it is
/// sent has it; and nothing after the snapshot is wanted, so that the store keeps no writes for a
/// replica that will never take them. Stores before Redis 7 do not know the second, and say so.
const OFFERS: [&str; 2] = ["REPLCONF capa eof\r\n", "REPLCONF rdb-only 1\r\n"];

/// A snapshot that the store sends.
#[derive(Debug)]
pub(super) struct Snapshot {
    socket: UnixStream,
    replies: Replies,
    buffer: BytesMut,
    /// The history that the snapshot is of.
    pub(super) id: String,
    /// How far in it, bytes.
    pub(super) offset: u64,
    begun: bool,
}

impl Snapshot {
    /// Asks for one; the store forks for it.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    pub(super) async fn ask(sockets: &[&Path]) -> Result<Self, Broken> {
        let mut snapshot = Self {
            socket: connect(sockets).await?,
            replies: Replies::default(),
            buffer: BytesMut::with_capacity(PIECE),
            id: String::new(),
            offset: 0,
            begun: false,
        };
        for offer in OFFERS {
            snapshot.say(offer).await?;
            while snapshot.piece().await?.0 != What::Reply {}
        }
        snapshot.replies.asked(Psync { follows: None });
        snapshot.say("PSYNC ? -1\r\n").await?;
        loop {
            let (what, raw) = snapshot.piece().await?;
            match what {
                What::FullResync { id, offset } => {
                    (snapshot.id, snapshot.offset) = (id, offset);
                    return Ok(snapshot);
                }
                What::KeepAlive => {}
                _ => return Err(refused(&raw)),
            }
        }
    }

    /// Whoever asks for a copy may have no answer outstanding.
    async fn say(&mut self, words: &str) -> Result<(), Broken> {
        let said = self.socket.write_all(words.as_bytes()).await;
        said.map_err(|error| lost(&error))
    }

    /// The next bytes of the snapshot; `None` after its last.
    ///
    /// # Errors
    /// When the store gives up, goes away or falls silent.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let (what, raw) = self.piece().await?;
            match what {
                What::Snapshot => return Ok(Some(raw)),
                What::SnapshotEnd => return Ok(None),
                What::SnapshotHead { .. } => self.begun = true,
                What::KeepAlive => {}
                _ => return Err(refused(&raw)),
            }
        }
    }

    async fn piece(&mut self) -> Result<(What, Bytes), Broken> {
        loop {
            let piece = self.replies.next(&mut self.buffer);
            let piece = piece.map_err(|error| Broken::passing("StreamBroke", error.to_string()))?;
            if let Some(piece) = piece {
                return Ok((piece.what, piece.raw));
            }
            self.buffer.reserve(PIECE);
            let read = self.socket.read_buf(&mut self.buffer);
            match tokio::time::timeout(SILENCE, read).await {
                Ok(Ok(0)) if !self.begun => {
                    let message = "the store closed the stream before it sent a snapshot: it \
                                   could not fork or save; its log says why";
                    return Err(Broken::passing("SaveFailed", message));
                }
                Ok(Ok(0)) => {
                    let message = "the store closed the stream in the middle of its snapshot";
                    return Err(Broken::passing("StreamBroke", message));
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(lost(&error)),
                Err(_) => {
                    let seconds = SILENCE.as_secs();
                    let message = format!("the store sent nothing for {seconds} s");
                    return Err(Broken::passing("StreamStalled", message));
                }
            }
        }
    }
}

async fn connect(sockets: &[&Path]) -> Result<UnixStream, Broken> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for socket in sockets {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Broken::passing(
        "StoreAway",
        format!("the store cannot be reached: {last}"),
    ))
}

fn lost(error: &io::Error) -> Broken {
    Broken::passing("StreamBroke", format!("the store's stream broke: {error}"))
}

fn refused(raw: &[u8]) -> Broken {
    let words = String::from_utf8_lossy(&raw[..raw.len().min(200)]);
    let message = format!("the store gives no snapshot: {}", words.trim());
    Broken::passing("SaveFailed", message)
}
