//! Speaks with the sidecars of one cluster: their reports, and desired documents, by mutual TLS.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{
    BucketAnswer, BucketRequest, CN_NODE, CallAnswer, Credentials, MAX_SMALL_OBJECT, NodeDesired,
    NodeReport, PATH_BUCKET, PATH_CALLS, PATH_CREDENTIALS, PATH_DESIRED, PATH_REPORT, PORT_SECURE,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificates::{self, KEY_CA, KEY_CERTIFICATE, KEY_PRIVATE};

/// How long a node may take for its report, dialling included.
pub const REPORT_DEADLINE: Duration = Duration::from_secs(1);
/// How long a node may take to put a desired document onto its disk.
pub const ASSIGN_DEADLINE: Duration = Duration::from_secs(3);
/// How long a node may take for a question to a store of backups: it may have to
/// read a whole file for it.
pub const BUCKET_DEADLINE: Duration = Duration::from_mins(30);
/// The longest answer a node may give, bytes: a small object, as JSON.
const ANSWER_MAX: usize = 2 * MAX_SMALL_OBJECT + (1 << 20);

/// Why a node could not be asked. The texts hold nothing that changes from try to try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer in time.
    #[error("no answer within {}", seconds(.0))]
    Deadline(Duration),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(std::io::ErrorKind),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// Somebody else answered.
    #[error("the certificate there is of {0:?}, not of a node")]
    NotANode(String),
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// It answered with something else.
    #[error("it answered {0}: {1}")]
    Status(StatusCode, String),
    /// It answered what cannot be read.
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
    /// Another pod answered at this address.
    #[error("another pod answers at this address")]
    OtherPod,
    /// The cluster's Secret holds no usable client certificate.
    #[error("the operator's certificate cannot be used: {0}")]
    Certificate(String),
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs())
}

/// What became of a desired document.
#[derive(Debug)]
pub enum Assigned {
    /// The node holds it.
    Accepted,
    /// The node does not take it, and says why: most often it holds another one
    /// than the operator thought.
    Conflict(String),
}

/// A node to speak with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's address.
    pub address: IpAddr,
    /// The host name its certificate is checked against.
    pub host: String,
}

/// Speaks with the nodes of one cluster, over connections that stay open.
pub struct NodeClient {
    tls: TlsConnector,
    port: u16,
    /// Open connections by pod UID, each with the address it leads to.
    open: Mutex<HashMap<String, (IpAddr, Sender)>>,
}

type Sender = SendRequest<Full<Bytes>>;

impl NodeClient {
    /// A client with the operator's certificate from the cluster's CA Secret.
    pub fn new(ca: &Secret) -> Result<Self, Error> {
        Self::with_port(ca, PORT_SECURE)
    }

    /// The same for nodes that listen elsewhere.
    pub fn with_port(ca: &Secret, port: u16) -> Result<Self, Error> {
        let unusable = |what: &str| Error::Certificate(format!("{what} is missing or damaged"));
        let pem = |key: &str| certificates::value(ca, key).ok_or_else(|| unusable(key));
        let mut roots = RootCertStore::empty();
        let (trusted, _) =
            roots.add_parsable_certificates(certificates::certificates(pem(KEY_CA)?));
        if trusted == 0 {
            return Err(unusable(KEY_CA));
        }
        let chain = certificates::certificates(pem(KEY_CERTIFICATE)?);
        let key =
            PrivateKeyDer::from_pem_slice(pem(KEY_PRIVATE)?).map_err(|_| unusable(KEY_PRIVATE))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Certificate(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            port,
            open: Mutex::new(HashMap::new()),
        })
    }

    /// The node's report; an answer of another pod at the same address is an error.
    pub async fn report(&self, target: &Target) -> Result<NodeReport, Error> {
        let request = self.send(target, Method::GET, PATH_REPORT, Bytes::new());
        let (status, body) = within(REPORT_DEADLINE, request).await?;
        if status != StatusCode::OK {
            return Err(Error::Status(status, first_line(&body)));
        }
        let report: NodeReport =
            serde_json::from_slice(&body).map_err(|error| Error::Unreadable(error.to_string()))?;
        if report.pod_uid != target.pod_uid {
            return Err(Error::OtherPod);
        }
        Ok(report)
    }

    /// Hands the node a desired document.
    pub async fn assign(&self, target: &Target, desired: &NodeDesired) -> Result<Assigned, Error> {
        let body =
            serde_json::to_vec(desired).map_err(|error| Error::Unreadable(error.to_string()))?;
        let request = self.send(target, Method::PUT, PATH_DESIRED, body.into());
        let (status, body) = within(ASSIGN_DEADLINE, request).await?;
        match status {
            StatusCode::CONFLICT => Ok(Assigned::Conflict(words(&body))),
            status if status.is_success() => Ok(Assigned::Accepted),
            status => Err(Error::Status(status, first_line(&body))),
        }
    }

    /// Hands the node what opens the stores of backups.
    pub async fn hand_credentials(
        &self,
        target: &Target,
        credentials: &Credentials,
    ) -> Result<(), Error> {
        let body = serde_json::to_vec(credentials)
            .map_err(|error| Error::Unreadable(error.to_string()))?;
        let request = self.send(target, Method::PUT, PATH_CREDENTIALS, body.into());
        match within(ASSIGN_DEADLINE, request).await? {
            (status, _) if status.is_success() => Ok(()),
            // Its words may repeat what it was sent.
            (status, _) => Err(Error::Status(status, "the credentials".to_owned())),
        }
    }

    /// Tells the node what became of a call that a person waits at.
    pub async fn answer_call(&self, target: &Target, answer: &CallAnswer) -> Result<(), Error> {
        let body =
            serde_json::to_vec(answer).map_err(|error| Error::Unreadable(error.to_string()))?;
        let request = self.send(target, Method::PUT, PATH_CALLS, body.into());
        match within(ASSIGN_DEADLINE, request).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, body) => Err(Error::Status(status, words(&body))),
        }
    }

    /// Asks a store of backups something through the node.
    pub async fn ask_bucket(
        &self,
        target: &Target,
        request: &BucketRequest,
    ) -> Result<BucketAnswer, Error> {
        let body =
            serde_json::to_vec(request).map_err(|error| Error::Unreadable(error.to_string()))?;
        let request = self.send(target, Method::POST, PATH_BUCKET, body.into());
        let (status, body) = within(BUCKET_DEADLINE, request).await?;
        if !status.is_success() {
            return Err(Error::Status(status, words(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| Error::Unreadable(error.to_string()))
    }

    /// Closes the connections to pods that are not among `pods`.
    pub fn keep_only(&self, pods: &HashSet<&str>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|uid, _| pods.contains(uid.as_str()));
    }

    async fn send(
        &self,
        target: &Target,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        if let Some(mut sender) = self.take(target) {
            // A kept connection may have been closed by the node at any time:
            // that says nothing about the node, so it is tried anew.
            if sender.ready().await.is_ok()
                && let Ok(answer) =
                    exchange(&mut sender, request(target, &method, path, &body)?).await
            {
                self.put(target, sender);
                return Ok(answer);
            }
        }
        let mut sender = self.dial(target).await?;
        let answer = exchange(&mut sender, request(target, &method, path, &body)?).await?;
        self.put(target, sender);
        Ok(answer)
    }

    fn take(&self, target: &Target) -> Option<Sender> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, sender) = open.remove(&target.pod_uid)?;
        (address == target.address).then_some(sender)
    }

    fn put(&self, target: &Target, sender: Sender) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(target.pod_uid.clone(), (target.address, sender));
    }

    async fn dial(&self, target: &Target) -> Result<Sender, Error> {
        let tcp = TcpStream::connect((target.address, self.port))
            .await
            .map_err(|error| Error::Connect(error.kind()))?;
        tcp.set_nodelay(true)
            .map_err(|error| Error::Connect(error.kind()))?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|error| Error::Handshake(error.to_string()))?;
        let stream = self
            .tls
            .connect(name, tcp)
            .await
            .map_err(|error| Error::Handshake(error.to_string()))?;
        let peer = stream.get_ref().1.peer_certificates();
        let name = peer
            .and_then(|chain| certificates::common_name(chain.first()?))
            .unwrap_or_default();
        if name != CN_NODE {
            return Err(Error::NotANode(name));
        }
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Error::Broken)?;
        // It ends when its sender is dropped or the node closes it.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or(Err(Error::Deadline(deadline)))
}

fn request(
    target: &Target,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> Result<Request<Full<Bytes>>, Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &target.host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.clone()))
        .map_err(|error| Error::Unreadable(error.to_string()))
}

async fn exchange(
    sender: &mut Sender,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Error> {
    let answer = sender
        .send_request(request)
        .await
        .map_err(|_| Error::Broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|error| Error::Unreadable(error.to_string()))?;
    Ok((status, body.to_bytes()))
}

/// The first line of an answer, short enough for a message.
/// The node's own words in the body of a refusal.
fn words(body: &[u8]) -> String {
    let answer: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let error = answer.as_ref().and_then(|answer| answer["error"].as_str());
    error.map_or_else(|| first_line(body), str::to_owned)
}

fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(200).collect()
}
