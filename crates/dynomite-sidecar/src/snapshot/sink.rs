//! A file that is written beside the work that fills it, and is on its way to the disk meanwhile.
//!
//! ```text
//! unpack, verify ──full buffers──▶ thread: write, sync now and then ──▶ disk
//!                ◀─empty buffers──
//! ```
//!
//! At the end little is left to be waited for: a volume that takes longer to write than the
//! network to bring is waited for once, and not twice.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes of a buffer, about; it is handed over when it has as many.
const BUFFER: usize = 256 << 10;
/// Full buffers that wait for the disk at most.
const WAITING: usize = 8;
/// Bytes after which the disk is asked to have them.
const SYNC: usize = 32 << 20;

/// What is written. Dropped before it is closed, it leaves a part.
pub(super) struct Sink {
    filling: Vec<u8>,
    full: mpsc::Sender<Vec<u8>>,
    empty: mpsc::Receiver<Vec<u8>>,
    writer: JoinHandle<io::Result<u64>>,
}

impl Sink {
    /// Creates the file. One that had its name before is another one: whoever still writes that
    /// disturbs nobody.
    pub(super) async fn create(path: &Path) -> io::Result<Self> {
        let before = tokio::fs::symlink_metadata(path).await;
        if before.is_ok_and(|before| before.is_file()) {
            tokio::fs::remove_file(path).await?;
        }
        let file = tokio::fs::File::create(path).await?.into_std().await;
        let (full, to_write) = mpsc::channel(WAITING);
        let (written, empty) = mpsc::channel(WAITING);
        Ok(Self {
            filling: Vec::new(),
            full,
            empty,
            writer: spawn_blocking(move || write(file, to_write, &written)),
        })
    }

    /// Takes bytes, and leaves none.
    ///
    /// # Errors
    /// When those before could not be written.
    pub(super) async fn push(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if self.filling.is_empty() && bytes.len() >= BUFFER / 2 {
            std::mem::swap(&mut self.filling, bytes);
        } else {
            self.filling.extend_from_slice(bytes);
        }
        bytes.clear();
        if self.filling.len() < BUFFER {
            return Ok(());
        }
        self.hand_over().await
    }

    async fn hand_over(&mut self) -> io::Result<()> {
        let next = self.empty.try_recv().unwrap_or_default();
        let full = std::mem::replace(&mut self.filling, next);
        if self.full.send(full).await.is_ok() {
            return Ok(());
        }
        // Only an error ends it before the channel does.
        (&mut self.writer).await??;
        Err(io::Error::other("the writer of the file has ended"))
    }

    /// All was pushed: how many bytes are on the disk now.
    ///
    /// # Errors
    /// When they are not.
    pub(super) async fn close(mut self) -> io::Result<u64> {
        if !self.filling.is_empty() {
            self.hand_over().await?;
        }
        drop(self.full);
        self.writer.await?
    }
}

fn write(
    mut file: File,
    mut full: mpsc::Receiver<Vec<u8>>,
    empty: &mpsc::Sender<Vec<u8>>,
) -> io::Result<u64> {
    let (mut bytes, mut unsynced) = (0, 0);
    while let Some(mut buffer) = full.blocking_recv() {
        file.write_all(&buffer)?;
        bytes += buffer.len() as u64;
        unsynced += buffer.len();
        if unsynced >= SYNC {
            file.sync_data()?;
            unsynced = 0;
        }
        buffer.clear();
        // Nobody needs it when there are enough.
        let _ = empty.try_send(buffer);
    }
    file.sync_all()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_pushed_is_in_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("part");
        std::fs::write(&path, "of another attempt").expect("is written");
        let mut sink = Sink::create(&path).await.expect("is created");
        let mut expected = Vec::new();
        for length in [0, 1, BUFFER / 2, 3 * BUFFER, 7, BUFFER - 1, 2] {
            let piece: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            expected.extend_from_slice(&piece);
            let mut piece = piece;
            sink.push(&mut piece).await.expect("is taken");
            assert!(piece.is_empty());
        }
        let bytes = sink.close().await.expect("is on the disk");
        assert_eq!(bytes, expected.len() as u64);
        assert!(std::fs::read(&path).expect("is there") == expected);
    }

    #[tokio::test]
    async fn a_full_disk_is_told() {
        let file = File::options().write(true).open("/dev/full");
        let (full, to_write) = mpsc::channel(WAITING);
        let (written, empty) = mpsc::channel(WAITING);
        let file = file.expect("Linux has it");
        let mut sink = Sink {
            filling: Vec::new(),
            full,
            empty,
            writer: spawn_blocking(move || write(file, to_write, &written)),
        };
        let told = loop {
            if let Err(error) = sink.push(&mut vec![0; BUFFER]).await {
                break error;
            }
        };
        assert_eq!(told.kind(), io::ErrorKind::StorageFull);
    }
}
