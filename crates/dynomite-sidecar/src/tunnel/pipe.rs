//! Two streams joined, with the bytes of one direction counted.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The buffer of the direction that carries the data, bytes: large, because a
/// whole store passes through it.
const DATA_BUFFER: usize = 256 * 1024;

/// The buffer of the other direction, bytes: it carries acknowledgements.
const REPLY_BUFFER: usize = 8 * 1024;

/// Joins a stream that carries data to one that takes it, until both are done,
/// and adds the bytes of data to `count` as they come.
///
/// # Errors
/// When either stream fails.
pub(crate) async fn pipe<S, T>(source: S, mut target: T, count: &AtomicU64) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut source = Counted {
        stream: source,
        count,
    };
    tokio::io::copy_bidirectional_with_sizes(&mut source, &mut target, DATA_BUFFER, REPLY_BUFFER)
        .await?;
    Ok(())
}

/// A stream whose reads are counted.
struct Counted<'a, S> {
    stream: S,
    count: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
