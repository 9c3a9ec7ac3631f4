//! This node's way to a donor's store: mutual TLS, then an upgraded connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{Donor, PATH_REPLICATION, UPGRADE_REPLICATION};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::credentials::Credentials;
use super::{HEADER_CLUSTER, HEADER_DONOR, HEADER_NODE, HEADER_TOKEN};
use crate::shared::ReplicationAsk;

/// How long the way to a donor may take, from the first packet to its answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one address may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest refusal that is read, bytes.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// The bytes of a donor's store.
pub(crate) type ReplicationStream = TokioIo<Upgraded>;

/// Reaches other nodes' sidecars with this node's certificate.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    credentials: Credentials,
}

/// What a donor says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    /// A client with these credentials, as they are when it connects.
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// Opens a stream to the store of `donor`, on behalf of `ask`.
    ///
    /// The certificate must be valid for the donor's host name, whichever
    /// address is dialled, and the donor must name itself as `donor.name`.
    ///
    /// # Errors
    /// In words why there is no stream; the donor's own words if it refused.
    pub(crate) async fn replicate(
        &self,
        donor: &Donor,
        ask: &ReplicationAsk,
    ) -> Result<ReplicationStream, String> {
        tokio::time::timeout(OPEN_TIMEOUT, self.open(donor, ask))
            .await
            .unwrap_or_else(|_| Err(format!("{} did not answer in time", donor.name)))
    }

    async fn open(&self, donor: &Donor, ask: &ReplicationAsk) -> Result<ReplicationStream, String> {
        let configs = self
            .credentials
            .configs()
            .ok_or("this node has no certificate yet")?;
        let name = ServerName::try_from(donor.host.clone()).map_err(words)?;
        let stream = connect(donor).await?;
        // Acknowledgements of replication are small and waited for.
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(configs.client)
            .connect(name, stream)
            .await
            .map_err(words)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(words)?;
        tokio::spawn(connection.with_upgrades());
        let request = request(donor, ask).map_err(words)?;
        let mut response = sender.send_request(request).await.map_err(words)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let named = response.headers().get(HEADER_DONOR);
        if named.is_none_or(|name| name.as_bytes() != donor.name.as_bytes()) {
            return Err(format!("{} names itself {named:?}", donor.name));
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(words)?;
        Ok(TokioIo::new(upgraded))
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// By the address that the operator last saw, else by name: a donor that has
/// moved is found again although the operator is away.
async fn connect(donor: &Donor) -> Result<TcpStream, String> {
    let known = donor.address.as_deref().map(str::parse::<IpAddr>);
    if let Some(Ok(address)) = known
        && let Ok(stream) = dial(SocketAddr::new(address, donor.port)).await
    {
        return Ok(stream);
    }
    let host = donor.host.as_str();
    let mut last = format!("{host} has no address");
    for address in tokio::net::lookup_host((host, donor.port))
        .await
        .map_err(|error| format!("{host} is not found: {error}"))?
    {
        match dial(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address} does not answer: {error}"),
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await?
}

fn request(
    donor: &Donor,
    ask: &ReplicationAsk,
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(PATH_REPLICATION)
        .header(HOST, &donor.host)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, UPGRADE_REPLICATION)
        .header(HEADER_DONOR, &donor.name)
        .header(HEADER_NODE, &ask.node)
        .header(HEADER_TOKEN, ask.token.to_string())
        .header(HEADER_CLUSTER, &ask.cluster_uid)
        .body(Empty::new())
}

async fn refusal(response: Response<hyper::body::Incoming>) -> String {
    let status = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_LIMIT)
        .collect()
        .await;
    body.ok()
        .and_then(|body| serde_json::from_slice::<Refusal>(&body.to_bytes()).ok())
        .map_or_else(
            || format!("the donor answered {status}"),
            |refusal| refusal.error,
        )
}
