//! A stream of which everything that is read is shown to somebody first, who may end it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose reads fail once `show` has refused some bytes.
#[derive(Debug)]
pub(crate) struct Tapped<S, F> {
    stream: S,
    show: F,
}

impl<S, F: FnMut(&[u8]) -> io::Result<()>> Tapped<S, F> {
    /// Shows what is read from `stream`, before whoever reads gets it.
    pub(crate) fn new(stream: S, show: F) -> Self {
        Self { stream, show }
    }
}

impl<S: AsyncRead + Unpin, F: FnMut(&[u8]) -> io::Result<()> + Unpin> AsyncRead for Tapped<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Err(error) = (self.show)(&buffer.filled()[before..]) {
            // Nothing of what was refused may reach the reader.
            buffer.set_filled(before);
            return Poll::Ready(Err(error));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Tapped<S, F> {
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
