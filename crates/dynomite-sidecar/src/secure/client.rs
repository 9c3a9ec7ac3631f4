//! This node's way to a donor's store: mutual TLS, then an upgraded connection.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{
    COMPARE_BODY_MAX, Donor, PATH_COMPARE, PATH_CUT, PATH_REPLICATION, PATH_RING, Peer, RingView,
    UPGRADE_REPLICATION,
};
use dynomite_lifecycle::CutSight;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::http::request;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::credentials::Credentials;
use super::{HEADER_CLUSTER, HEADER_DONOR, HEADER_NODE, HEADER_TOKEN};
use crate::shared::ReplicationAsk;

/// How long the way to a donor may take, from the first packet to its answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one address may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a donor may take to name a moment: writes are held meanwhile.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long another replica may take with one question of a comparison.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest moment or ring map that is read, bytes: what has been received
/// of some thousand coordinators.
const CUT_LIMIT: usize = 4 * 1024 * 1024;

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

    /// Reads a moment of the donor's store, on behalf of `ask`.
    ///
    /// # Errors
    /// In words why there is none; the donor's own words if it refused.
    pub(crate) async fn cut(
        &self,
        donor: &Donor,
        ask: &ReplicationAsk,
    ) -> Result<CutSight, String> {
        let asked = async {
            let request = donor_request(PATH_CUT, donor, ask).body(Empty::new());
            let mut sender = self.reach(&Place::of(donor)).await?;
            let response = sender.send_request(request.map_err(words)?);
            let response = response.await.map_err(words)?;
            match response.status() {
                StatusCode::OK => {
                    let cut = json(response, CUT_LIMIT).await?;
                    Ok(CutSight::Cut(Box::new(cut)))
                }
                StatusCode::NOT_IMPLEMENTED => {
                    let why = refusal(response).await;
                    Ok(CutSight::Unnumbered { why })
                }
                _ => Err(refusal(response).await),
            }
        };
        tokio::time::timeout(CUT_TIMEOUT, asked)
            .await
            .unwrap_or_else(|_| Err(format!("{} did not answer in time", donor.name)))
    }

    /// Reads where the engine of `peer` looks for its peers; `port` is that of
    /// its sidecar.
    ///
    /// # Errors
    /// In words why it cannot be read.
    pub(crate) async fn ring(&self, peer: &Peer, port: u16) -> Result<RingView, String> {
        let request = Request::get(PATH_RING)
            .header(HOST, &peer.host)
            .body(Empty::new())
            .map_err(words)?;
        let place = Place {
            host: &peer.host,
            address: peer.address.as_deref(),
            port,
        };
        let mut sender = self.reach(&place).await?;
        let response = sender.send_request(request).await.map_err(words)?;
        if response.status() == StatusCode::OK {
            return json(response, CUT_LIMIT).await;
        }
        Err(refusal(response).await)
    }

    async fn open(&self, donor: &Donor, ask: &ReplicationAsk) -> Result<ReplicationStream, String> {
        let request = donor_request(PATH_REPLICATION, donor, ask)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, UPGRADE_REPLICATION)
            .body(Empty::new())
            .map_err(words)?;
        let mut sender = self.reach(&Place::of(donor)).await?;
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

    /// A way to another replica, for questions on behalf of `ask`; it is opened
    /// with the first.
    pub(crate) fn link(&self, to: Donor, ask: ReplicationAsk) -> Link {
        Link {
            client: self.clone(),
            to,
            ask,
            sender: None,
        }
    }

    /// A connection to another node's sidecar.
    async fn reach<B>(&self, place: &Place<'_>) -> Result<SendRequest<B>, String>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let configs = self
            .credentials
            .configs()
            .ok_or("this node has no certificate yet")?;
        let name = ServerName::try_from(place.host.to_owned()).map_err(words)?;
        let stream = connect(place).await?;
        // Acknowledgements of replication are small and waited for.
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(configs.client)
            .connect(name, stream)
            .await
            .map_err(words)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(words)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

/// A way to another replica that is kept between questions.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    to: Donor,
    ask: ReplicationAsk,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Link {
    /// Asks one question of a comparison.
    ///
    /// # Errors
    /// In words why there is no answer; the replica's own words if it refused.
    pub(crate) async fn ask(&mut self, question: Bytes) -> Result<Bytes, String> {
        let asked = tokio::time::timeout(COMPARE_TIMEOUT, self.answer(question)).await;
        let asked = asked.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        if asked.is_err() {
            // What of it is still to come must not be taken for the next answer.
            self.sender = None;
        }
        asked
    }

    async fn answer(&mut self, question: Bytes) -> Result<Bytes, String> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(self.client.reach(&Place::of(&self.to)).await?);
        }
        let Some(sender) = &mut self.sender else {
            return Err("there is no connection".to_owned());
        };
        sender.ready().await.map_err(words)?;
        let request = donor_request(PATH_COMPARE, &self.to, &self.ask).method(Method::POST);
        let request = request.body(Full::new(question)).map_err(words)?;
        let response = sender.send_request(request).await.map_err(words)?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let body = Limited::new(response.into_body(), COMPARE_BODY_MAX);
        let body = body.collect().await.map_err(words)?;
        Ok(body.to_bytes())
    }
}

/// Where a node's sidecar is.
struct Place<'a> {
    host: &'a str,
    address: Option<&'a str>,
    port: u16,
}

impl<'a> Place<'a> {
    fn of(donor: &'a Donor) -> Self {
        Self {
            host: &donor.host,
            address: donor.address.as_deref(),
            port: donor.port,
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// By the address that the operator last saw, else by name: a node that has
/// moved is found again although the operator is away.
async fn connect(to: &Place<'_>) -> Result<TcpStream, String> {
    let known = to.address.map(str::parse::<IpAddr>);
    if let Some(Ok(address)) = known
        && let Ok(stream) = dial(SocketAddr::new(address, to.port)).await
    {
        return Ok(stream);
    }
    let host = to.host;
    let mut last = format!("{host} has no address");
    for address in tokio::net::lookup_host((host, to.port))
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

fn donor_request(path: &str, donor: &Donor, ask: &ReplicationAsk) -> request::Builder {
    Request::get(path)
        .header(HOST, &donor.host)
        .header(HEADER_DONOR, &donor.name)
        .header(HEADER_NODE, &ask.node)
        .header(HEADER_TOKEN, ask.token.to_string())
        .header(HEADER_CLUSTER, &ask.cluster_uid)
}

async fn json<T: DeserializeOwned>(
    response: Response<Incoming>,
    limit: usize,
) -> Result<T, String> {
    let body = Limited::new(response.into_body(), limit).collect().await;
    let body = body.map_err(words)?.to_bytes();
    serde_json::from_slice(&body).map_err(words)
}

async fn refusal(response: Response<Incoming>) -> String {
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
