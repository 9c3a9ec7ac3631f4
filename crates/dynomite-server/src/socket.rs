//! TCP and Unix sockets as one.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::Shutdown;

use bytes::BytesMut;
use dynomite_protocol::config::Endpoint;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use crate::limits::{KEEP_ALIVE, READ_BYTES};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

thread_local! {
    // Bytes are read here and then copied into a buffer of their own size: thousands of idle
    // connections hold no read buffers.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl Socket {
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                Self::tcp(stream)
            }
            Endpoint::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE);
        SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
        Ok(Self::Tcp(stream))
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(crate) fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            Self::Unix(stream) => stream.try_write_vectored(pieces),
        }
    }

    /// Says a last word, if the other side takes it at once.
    pub(crate) fn say(&self, text: &str) {
        if let Err(error) = self.try_write(&[IoSlice::new(text.as_bytes())]) {
            tracing::trace!(%error, "the other side did not listen");
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// The next bytes; none at the end.
    pub(crate) async fn read(&self) -> io::Result<BytesMut> {
        loop {
            self.readable().await?;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let count = self.try_read(scratch)?;
                Ok(BytesMut::from(&scratch[..count]))
            });
            match read {
                Err(error) if would_block(&error) => {}
                other => return other,
            }
        }
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn shutdown_write(&self) {
        let ended = match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "the other side was gone already");
        }
    }
}

pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
