//! Two streams joined, with the bytes of one direction counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};

use super::tap::Tapped;

/// The buffer of the direction that carries the data, bytes: large, because a
/// whole store passes through it.
pub(super) const DATA_BUFFER: usize = 256 * 1024;

/// The buffer of the other direction, bytes: it carries acknowledgements.
pub(super) const REPLY_BUFFER: usize = 8 * 1024;

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
    let mut source = Tapped::new(source, |bytes: &[u8]| {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    });
    tokio::io::copy_bidirectional_with_sizes(&mut source, &mut target, DATA_BUFFER, REPLY_BUFFER)
        .await?;
    Ok(())
}
