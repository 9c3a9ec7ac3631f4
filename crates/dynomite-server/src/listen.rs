//! Listeners: for clients, for peers, for the admin port.

use std::net::SocketAddr;

use anyhow::Context as _;
use dynomite_engine::SessionKind;
use dynomite_protocol::config::Endpoint;
use tokio::net::{TcpListener, TcpSocket, UnixListener, lookup_host};
use tokio::sync::mpsc::Sender;

use crate::event::Event;
use crate::limits::ACCEPT_PAUSE;
use crate::socket::Socket;

/// A bound listener.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds an endpoint. A stale Unix socket is replaced.
pub(crate) async fn bind(endpoint: &Endpoint, backlog: u32) -> anyhow::Result<Listener> {
    let context = || format!("cannot listen at {endpoint}");
    match endpoint {
        Endpoint::Tcp(host, port) => {
            let mut addresses = lookup_host((host.as_str(), *port))
                .await
                .with_context(context)?;
            let address = addresses.next().with_context(context)?;
            let listener = bind_tcp(address, backlog).with_context(context)?;
            Ok(Listener::Tcp(listener))
        }
        Endpoint::Unix(path) => {
            let stale = std::os::unix::net::UnixStream::connect(path).is_err();
            if stale && std::path::Path::new(path).exists() {
                std::fs::remove_file(path).with_context(context)?;
            }
            Ok(Listener::Unix(
                UnixListener::bind(path).with_context(context)?,
            ))
        }
    }
}

fn bind_tcp(address: SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

impl Listener {
    async fn accept(&self) -> std::io::Result<(Socket, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Socket::tcp(stream)?, address.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), "unix".to_owned()))
            }
        }
    }

    /// Accepts until the driver is gone. Errors concern one connection, or pass.
    pub(crate) async fn serve(self, peers: bool, events: Sender<Event>) {
        loop {
            match self.accept().await {
                Ok((socket, address)) => {
                    let kind = if peers {
                        SessionKind::Peer
                    } else {
                        SessionKind::Client(address)
                    };
                    if events.send(Event::Accepted(socket, kind)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
