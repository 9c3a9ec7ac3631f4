//! What the plain and the mutual-TLS server share: listening, limits, answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// How long a client may take for the head of a request, and how long an open
/// connection may say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request, bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// Connections that the kernel keeps while they are not accepted.
const BACKLOG: i32 = 128;

/// The pause after a connection that could not be accepted, for want of file
/// descriptors: trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A whole answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request failed, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// What is wrong.
    pub(crate) error: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// Text of a media type.
pub(crate) fn text(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Plain text with a newline.
pub(crate) fn line(status: StatusCode, body: &str) -> Answer {
    text(status, "text/plain; charset=utf-8", format!("{body}\n"))
}

/// JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // What is answered here holds only string keys, which JSON can always say.
    let body = serde_json::to_vec(value).unwrap_or_default();
    text(status, "application/json", body)
}

/// `{"error": ..., "remedy": ...}`
pub(crate) fn failure(status: StatusCode, error: impl Into<String>, remedy: &str) -> Answer {
    let failure = Failure {
        error: error.into(),
        remedy: remedy.to_owned(),
    };
    json(status, &failure)
}

/// The answer to a path that exists, asked by another method than `allowed`.
pub(crate) fn wrong_method(allowed: &Method) -> Answer {
    let mut answer = failure(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not know this method",
        &format!("use {allowed}"),
    );
    if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}

/// Reads a whole body of at most `limit` bytes, or says how to refuse it.
///
/// # Errors
/// The answer to send: 413 above the limit, 408 when the body does not arrive in time.
pub(crate) async fn body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Box<Answer>> {
    let collected = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(Box::new(failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            error.to_string(),
            &format!("send at most {limit} bytes"),
        ))),
        Err(_) => Err(Box::new(failure(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
            "try again",
        ))),
    }
}

/// Listens at a port; an unspecified address means IPv4 and IPv6 alike, or IPv4
/// alone on a machine without IPv6.
///
/// # Errors
/// When the port is taken or the address is not this machine's.
pub(crate) fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    if address.is_unspecified() {
        let every = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        if let Ok(listener) = bind(every) {
            return Ok(listener);
        }
        return bind(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    bind(SocketAddr::new(address, port))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A sidecar that crashed must get its ports back at once.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A listener that never has more than so many connections open, in all and
/// from one address: whoever hoards connections must not keep probes out.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    places: usize,
    places_each: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place behind its [`Door`]; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

impl Door {
    /// Lets `places` connections in at a time, and `places_each` from one address.
    pub(crate) fn new(listener: TcpListener, places: usize, places_each: usize) -> Self {
        Self {
            listener,
            places,
            places_each,
            taken: Arc::default(),
        }
    }

    /// The next connection that finds a place; one that finds none is closed
    /// at once, so that its client can go elsewhere. Keep the place as long as
    /// the connection.
    pub(crate) async fn next(&self) -> (TcpStream, SocketAddr, Place) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(place) = self.place(from.ip()) {
                        return (stream, from, place);
                    }
                    tracing::warn!(%from, "too many connections; one was closed");
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn place(&self, from: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.get(&from).copied().unwrap_or_default();
        if taken.values().sum::<usize>() >= self.places || here >= self.places_each {
            return None;
        }
        taken.insert(from, here + 1);
        Some(Place {
            taken: Arc::clone(&self.taken),
            from,
        })
    }
}

/// Serves one connection until it ends; `answer` is asked for every request.
pub(crate) async fn serve<S, F, A>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_door_lets_no_more_in_than_it_has_places() {
        let listener = listen(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door::new(listener, 1, 1);
        let mut first = TcpStream::connect(address).await.unwrap();
        let (inside, _, place) = door.next().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut buffer = [0; 1];
        tokio::select! {
            _ = door.next() => panic!("there was no place"),
            read = second.read(&mut buffer) => assert!(matches!(read, Ok(0) | Err(_))),
        }
        drop((inside, place));
        assert_eq!(first.read(&mut buffer).await.unwrap(), 0);
        let third = TcpStream::connect(address).await.unwrap();
        let (_, from, _) = door.next().await;
        assert_eq!(from, third.local_addr().unwrap());
    }

    #[tokio::test]
    async fn nobody_takes_all_the_places() {
        let listener = listen(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let door = Door::new(listener, 3, 2);
        let [one, other, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let (first, second) = (door.place(one), door.place(one));
        assert!(first.is_some() && second.is_some());
        assert!(door.place(one).is_none(), "two are its share");
        let last = door.place(other);
        assert!(last.is_some());
        assert!(door.place(third).is_none(), "three are all there are");
        drop(first);
        assert!(door.place(one).is_some());
        drop((second, last));
        assert!(door.taken.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_unspecified_address_means_ipv4_too() {
        for address in ["0.0.0.0", "::"] {
            let listener = listen(address.parse().unwrap(), 0).unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
        }
    }
}
