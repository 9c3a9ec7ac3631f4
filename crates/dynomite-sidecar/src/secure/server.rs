//! The server of the mutual-TLS port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::Token;
use dynomite_api::contract::{
    BucketRequest, COMPARE_BODY_MAX, CallAnswer, CallOutcome, CompareQuestion, MAX_SMALL_OBJECT,
    NodeDesired, NodeReport, PATH_BUCKET, PATH_CALLS, PATH_COMPARE, PATH_CREDENTIALS, PATH_CUT,
    PATH_DESIRED, PATH_REPLICATION, PATH_REPORT, PATH_RING, PREFIX_ADMIN, UPGRADE_REPLICATION,
    Wish,
};
use dynomite_lifecycle::{CutSight, Word};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::calls::{self, Calls};
use super::credentials::Credentials;
use super::guard::guarded;
use super::identity::Identity;
use super::{Asked, HEADER_CLUSTER, HEADER_DONOR, HEADER_NODE, HEADER_TOKEN};
use crate::compare::Reply;
use crate::engine_rest as engine;
use crate::http::{self, Answer, Door, failure, wrong_method};
use crate::shared::{Input, ReplicationAsk, View};
use crate::tunnel::{Traffic, pipe};

/// Connections at a time: the operator's, those of the peers of this token,
/// and room for their successors.
const CONNECTIONS: usize = 64;

/// Connections at a time from one address.
const CONNECTIONS_EACH: usize = 8;

/// Copies of the store at a time; each costs the store a child process or a
/// buffer, so more would only slow each other down.
const STREAMS: usize = 4;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the driver may take to answer.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest desired document, bytes: a ring of some thousand nodes.
const DESIRED_LIMIT: usize = 2 * 1024 * 1024;

/// The largest hand-over of credentials, bytes: Secrets have at most as much.
const CREDENTIALS_LIMIT: usize = 1024 * 1024;

/// The largest answer to a call, bytes: a name, or some sentences.
const ANSWER_LIMIT: usize = 16 * 1024;

/// The largest request to object storage, bytes: a small object as JSON writes it.
const BUCKET_LIMIT: usize = 2 * MAX_SMALL_OBJECT;

/// The longest value of one of our headers, bytes.
const HEADER_LIMIT: usize = 253;

/// Serves the mutual-TLS port; clones serve the same node.
#[derive(Clone, Debug)]
pub(super) struct Server {
    credentials: Credentials,
    inputs: mpsc::Sender<Input>,
    view: watch::Receiver<View>,
    traffic: Arc<Traffic>,
    streams: Arc<Semaphore>,
    /// The engine's REST.
    admin: SocketAddr,
    asked: Asked,
    calls: Calls,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Desired,
    Report,
    Replication,
    Cut,
    Compare,
    Ring,
    Told(Word),
    /// A call that the operator answers; or why it cannot be read.
    Called(Result<Wish, String>),
    Answer,
    Credentials,
    Bucket,
}

/// The old calls that stop and start processes, in lower case.
const WORDS: [(&str, Word); 4] = [
    ("start", Word::StartEngine),
    ("stop", Word::StopEngine),
    ("startstorageprocess", Word::StartStore),
    ("stopstorageprocess", Word::StopStore),
];

impl Route {
    fn of(path: &str, query: &str) -> Option<Self> {
        match path {
            PATH_DESIRED => Some(Self::Desired),
            PATH_REPORT => Some(Self::Report),
            PATH_REPLICATION => Some(Self::Replication),
            PATH_CUT => Some(Self::Cut),
            PATH_COMPARE => Some(Self::Compare),
            PATH_RING => Some(Self::Ring),
            PATH_CREDENTIALS => Some(Self::Credentials),
            PATH_BUCKET => Some(Self::Bucket),
            PATH_CALLS => Some(Self::Answer),
            _ => Self::told(path, query),
        }
    }

    /// The old manager took its paths in any case, and every call by GET.
    fn told(path: &str, query: &str) -> Option<Self> {
        let path = path.to_ascii_lowercase();
        let name = path.strip_prefix(&PREFIX_ADMIN.to_ascii_lowercase())?;
        let found = WORDS.iter().find(|(word, _)| *word == name);
        found
            .map(|&(_, word)| Self::Told(word))
            .or_else(|| calls::wish(name, query).map(Self::Called))
    }

    fn methods(&self) -> &'static [Method] {
        match self {
            Self::Desired | Self::Credentials | Self::Answer => &[Method::PUT],
            Self::Bucket | Self::Compare => &[Method::POST],
            Self::Report | Self::Replication | Self::Cut | Self::Ring => &[Method::GET],
            Self::Told(_) | Self::Called(_) => &[Method::POST, Method::GET],
        }
    }

    fn open_to(&self, identity: &Identity) -> bool {
        match self {
            Self::Desired | Self::Credentials | Self::Bucket | Self::Answer => {
                *identity == Identity::Operator
            }
            Self::Report | Self::Ring => {
                matches!(identity, Identity::Operator | Identity::Node)
            }
            Self::Replication | Self::Cut | Self::Compare => *identity == Identity::Node,
            Self::Told(_) | Self::Called(_) => {
                matches!(identity, Identity::Operator | Identity::Admin)
            }
        }
    }
}

/// The answer 409: a report that also says why.
#[derive(Serialize)]
struct Conflict<'a> {
    error: String,
    remedy: &'a str,
    #[serde(flatten)]
    report: &'a NodeReport,
}

impl Server {
    /// A server that asks the driver through `inputs`, the engine at `admin`,
    /// object storage and comparisons through `asked`, and counts its copies in `traffic`.
    pub(crate) fn new(
        credentials: Credentials,
        inputs: mpsc::Sender<Input>,
        view: watch::Receiver<View>,
        traffic: Arc<Traffic>,
        admin: SocketAddr,
        asked: Asked,
    ) -> Self {
        Self {
            credentials,
            inputs,
            view,
            traffic,
            streams: Arc::new(Semaphore::new(STREAMS)),
            admin,
            asked,
            calls: Calls::default(),
        }
    }

    /// Serves for as long as the task lives.
    pub(crate) async fn run(self, listener: TcpListener) {
        let door = Door::new(listener, CONNECTIONS, CONNECTIONS_EACH);
        loop {
            let (stream, from, place) = door.next().await;
            let server = self.clone();
            tokio::spawn(async move {
                server.connection(stream, from).await;
                drop(place);
            });
        }
    }

    async fn connection(self, stream: TcpStream, from: SocketAddr) {
        let Some(configs) = self.credentials.configs() else {
            tracing::warn!(%from, "a connection came before there were certificates");
            return;
        };
        // Reports are small and waited for.
        let _ = stream.set_nodelay(true);
        let accepting = TlsAcceptor::from(configs.server).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::warn!(%from, %error, "a handshake was refused");
                return;
            }
            Err(_) => {
                tracing::warn!(%from, "a handshake did not end in time");
                return;
            }
        };
        let identity = identity(&stream);
        http::serve(stream, |request| {
            self.clone().request(request, identity.clone(), from)
        })
        .await;
    }

    async fn request(
        self,
        request: Request<Incoming>,
        identity: Identity,
        from: SocketAddr,
    ) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.answer(request, &identity).await;
        let status = answer.status().as_u16();
        if (method == Method::GET || path == PATH_COMPARE) && status == 200 {
            // The operator asks every few seconds, a replica that compares more often.
            tracing::debug!(%identity, %from, %method, path, status, "answered");
        } else {
            tracing::info!(%identity, %from, %method, path, status, "answered");
        }
        answer
    }

    async fn answer(self, request: Request<Incoming>, identity: &Identity) -> Answer {
        let uri = request.uri();
        let Some(route) = Route::of(uri.path(), uri.query().unwrap_or_default()) else {
            let remedy = "ask for /v1/desired, /v1/report, /v1/replication, /v1/cut, /v1/compare, /v1/ring, \
                          /v1/credentials, /v1/bucket, /v1/calls, or \
                          start, stop, startstorageprocess, stopstorageprocess, \
                          backup, takesnapshot, restore of /REST/v1/admin";
            return failure(StatusCode::NOT_FOUND, "no such path", remedy);
        };
        if !route.open_to(identity) {
            return failure(
                StatusCode::FORBIDDEN,
                format!("a certificate with the common name {identity} does not open this path"),
                "use the certificate that the operator made for this",
            );
        }
        if !route.methods().contains(request.method()) {
            return wrong_method(&route.methods()[0]);
        }
        match route {
            Route::Desired => self.desired(request).await,
            Route::Report => self.report(identity),
            Route::Replication => self.replication(request).await,
            Route::Cut => self.cut(request).await,
            Route::Compare => self.compare(request).await,
            Route::Ring => self.ring(request).await,
            Route::Told(word) => self.told(word, identity).await,
            Route::Called(wish) => self.called(wish, identity).await,
            Route::Answer => self.answer_call(request).await,
            Route::Credentials => self.credentials(request).await,
            Route::Bucket => self.bucket(request).await,
        }
    }

    async fn desired(self, request: Request<Incoming>) -> Answer {
        let body = match http::body(request, DESIRED_LIMIT).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let desired: NodeDesired = match serde_json::from_slice(&body) {
            Ok(desired) => desired,
            Err(error) => {
                let remedy = "send a desired document of this version";
                return failure(StatusCode::BAD_REQUEST, error.to_string(), remedy);
            }
        };
        let asked = self.ask(|reply| Input::Desired(Box::new(desired), reply));
        match asked.await {
            Ok(Ok(report)) => http::json(StatusCode::OK, &report),
            Ok(Err(refused)) => http::json(
                StatusCode::CONFLICT,
                &Conflict {
                    error: refused.why.to_string(),
                    remedy: "decide again from the report that comes with this answer",
                    report: &refused.report,
                },
            ),
            Err(answer) => *answer,
        }
    }

    async fn told(self, word: Word, identity: &Identity) -> Answer {
        let by = identity.to_string();
        match self.ask(|reply| Input::Told(word, by, reply)).await {
            Ok(Ok(())) => http::json(StatusCode::OK, &["ok"]),
            Ok(Err(why)) => {
                let error = format!("it is done, and forgotten when the sidecar ends: {why}");
                let remedy = "see that the data volume has space, and call again";
                failure(StatusCode::SERVICE_UNAVAILABLE, error, remedy)
            }
            Err(answer) => *answer,
        }
    }

    /// Asks the operator for a backup or a restore of the ring, and waits for its word.
    async fn called(self, wish: Result<Wish, String>, identity: &Identity) -> Answer {
        let wish = match wish {
            Ok(wish) => wish,
            Err(why) => {
                let remedy = "backup and takesnapshot take name; restore takes from or date";
                return failure(StatusCode::BAD_REQUEST, why, remedy);
            }
        };
        let (node, by) = (self.view.borrow().report.node.clone(), identity.to_string());
        let Some(pending) = self.calls.ask(&node, wish, by, Timestamp::now()) else {
            let error = "too many calls wait for the operator";
            return failure(StatusCode::SERVICE_UNAVAILABLE, error, "try again later");
        };
        match pending.outcome().await {
            Some(CallOutcome::Made {
                object,
                namespace,
                name,
            }) => {
                let what = format!("{object} {name}");
                let kind = object.to_ascii_lowercase();
                let follow = format!(
                    "kubectl -n {namespace} wait {kind}/{name} --for=condition=Completed --timeout=1h"
                );
                // The first word is all the old callers look at.
                http::json(StatusCode::OK, &["ok".to_owned(), what, follow])
            }
            Some(CallOutcome::Refused { why }) => failure(
                StatusCode::CONFLICT,
                why,
                "see what it says, and call again",
            ),
            None => {
                let within = calls::PATIENCE.as_secs();
                let error = format!("the operator has not answered within {within} seconds");
                let remedy = "see whether it runs and the cluster is not paused; `kubectl get \
                              dynb,dynr` shows what it has made; then call again";
                failure(StatusCode::GATEWAY_TIMEOUT, error, remedy)
            }
        }
    }

    /// Takes the operator's word on a call.
    async fn answer_call(self, request: Request<Incoming>) -> Answer {
        let body = match http::body(request, ANSWER_LIMIT).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        match serde_json::from_slice::<CallAnswer>(&body) {
            Ok(answer) => {
                self.calls.answer(answer);
                http::json(StatusCode::OK, &["ok"])
            }
            Err(error) => {
                let remedy = "send an answer of this version";
                failure(StatusCode::BAD_REQUEST, error.to_string(), remedy)
            }
        }
    }

    /// Takes what opens object storage. What cannot be read is not repeated: it is secret.
    async fn credentials(self, request: Request<Incoming>) -> Answer {
        let body = match http::body(request, CREDENTIALS_LIMIT).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let Ok(credentials) = serde_json::from_slice(&body) else {
            let remedy = "send credentials of this version";
            return failure(StatusCode::BAD_REQUEST, "these are no credentials", remedy);
        };
        self.asked.desk.take_credentials(credentials);
        let mut report = self.view.borrow().report.clone();
        self.asked.desk.add_to(&mut report);
        http::json(StatusCode::OK, &report)
    }

    /// Small work in object storage. Whoever goes away meanwhile ends it not: it may be a write.
    async fn bucket(self, request: Request<Incoming>) -> Answer {
        let body = match http::body(request, BUCKET_LIMIT).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let request: BucketRequest = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                let remedy = "send a request of this version";
                return failure(StatusCode::BAD_REQUEST, error.to_string(), remedy);
            }
        };
        http::json(StatusCode::OK, &self.asked.desk.small(request).await)
    }

    fn report(&self, identity: &Identity) -> Answer {
        if *identity == Identity::Operator {
            // A full queue means the driver has more urgent news; the next
            // report will be asked for soon.
            let _ = self.inputs.try_send(Input::OperatorHeard);
        }
        let mut report = self.view.borrow().report.clone();
        report.calls = self.calls.waiting();
        http::json(StatusCode::OK, &report)
    }

    /// Asks the driver and waits for its answer.
    async fn ask<T>(
        &self,
        input: impl FnOnce(oneshot::Sender<T>) -> Input,
    ) -> Result<T, Box<Answer>> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.inputs.send(input(reply)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(DRIVER_TIMEOUT, asked).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err("the sidecar is ending"),
            Err(_) => Err("the sidecar did not decide in time"),
        }
        .map_err(|error| Box::new(failure(StatusCode::SERVICE_UNAVAILABLE, error, "try again")))
    }

    /// Which peer asks, if it means this node; the answer to send if not.
    fn asker(&self, headers: &HeaderMap) -> Result<ReplicationAsk, Box<Answer>> {
        let refused = |status, error: String, remedy| Err(Box::new(failure(status, error, remedy)));
        let ask = match replication_ask(headers) {
            Ok(ask) => ask,
            Err(error) => return refused(StatusCode::BAD_REQUEST, error, "ask as the nodes do"),
        };
        let own = self.view.borrow().report.node.clone();
        let meant = header(headers, HEADER_DONOR).unwrap_or_default();
        if meant != own {
            let error = format!("this is {own}, not {meant}");
            let remedy = "look the donor's address up again";
            return refused(StatusCode::CONFLICT, error, remedy);
        }
        Ok(ask)
    }

    /// Whether a peer may copy this node now; the answer to send if not.
    async fn grant(&self, headers: &HeaderMap) -> Result<ReplicationAsk, Box<Answer>> {
        let refused = |status, error: String, remedy| Err(Box::new(failure(status, error, remedy)));
        let ask = self.asker(headers)?;
        let granted = self.ask(|reply| Input::Replication(ask.clone(), reply));
        match granted.await? {
            Ok(()) => Ok(ask),
            Err(why) => refused(StatusCode::CONFLICT, why, "try another donor, or later"),
        }
    }

    /// A moment of this node's store, for a peer that copies it.
    async fn cut(self, request: Request<Incoming>) -> Answer {
        if let Err(answer) = self.grant(request.headers()).await {
            return *answer;
        }
        match engine::read_cut(self.admin).await {
            Ok(CutSight::Cut(cut)) => http::json(StatusCode::OK, &*cut),
            Ok(CutSight::Unnumbered { why }) => {
                let remedy = "copy without numbers; that is not exact";
                failure(StatusCode::NOT_IMPLEMENTED, why, remedy)
            }
            Err(why) => failure(StatusCode::CONFLICT, why, "try again"),
        }
    }

    /// A question of another replica that compares.
    async fn compare(self, request: Request<Incoming>) -> Answer {
        let ask = match self.asker(request.headers()) {
            Ok(ask) => ask,
            Err(answer) => return *answer,
        };
        let body = match http::body(request, COMPARE_BODY_MAX).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let question: CompareQuestion = match serde_json::from_slice(&body) {
            Ok(question) => question,
            Err(error) => {
                let remedy = "ask as the nodes of this version do";
                return failure(StatusCode::BAD_REQUEST, error.to_string(), remedy);
            }
        };
        let answer = self.asked.comparer.answer(&self.view, &ask, question);
        match answer.await {
            Ok(Reply::Json(body)) => http::text(StatusCode::OK, "application/json", body),
            Ok(Reply::Value(body)) => http::text(StatusCode::OK, "application/octet-stream", body),
            Err(why) => failure(StatusCode::CONFLICT, why, "try again in the next round"),
        }
    }

    /// Where this node's engine looks for the others.
    async fn ring(self, request: Request<Incoming>) -> Answer {
        let meant = header(request.headers(), "host").unwrap_or_default();
        let desired = self.view.borrow().desired.clone();
        let own = desired.map(|desired| desired.node.host.clone());
        if own.as_deref() != Some(meant) {
            let error = format!("this is {}, not {meant}", own.unwrap_or_default());
            let remedy = "look the node's address up again";
            return failure(StatusCode::CONFLICT, error, remedy);
        }
        match engine::read_ring(self.admin).await {
            Ok(ring) => http::json(StatusCode::OK, &ring),
            Err(why) => failure(StatusCode::SERVICE_UNAVAILABLE, why, "try again"),
        }
    }

    async fn replication(self, mut request: Request<Incoming>) -> Answer {
        let refused = |status, error: String, remedy| failure(status, error, remedy);
        let upgrade = header(request.headers(), "upgrade").unwrap_or_default();
        if !upgrade.eq_ignore_ascii_case(UPGRADE_REPLICATION) {
            let error = format!("header upgrade must be {UPGRADE_REPLICATION}");
            return refused(StatusCode::BAD_REQUEST, error, "ask as the nodes do");
        }
        let Ok(place) = self.streams.clone().try_acquire_owned() else {
            let error = format!("{STREAMS} copies are under way already");
            let remedy = "try another donor, or later";
            return refused(StatusCode::SERVICE_UNAVAILABLE, error, remedy);
        };
        let ask = match self.grant(request.headers()).await {
            Ok(ask) => ask,
            Err(answer) => return *answer,
        };
        let socket = self.view.borrow().store_socket.clone();
        let store = match UnixStream::connect(&socket).await {
            Ok(store) => store,
            Err(error) => {
                let error = format!("the store at {} does not answer: {error}", socket.display());
                let remedy = "try another donor, or later";
                return refused(StatusCode::SERVICE_UNAVAILABLE, error, remedy);
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let own = self.view.borrow().report.node.clone();
        tokio::spawn(self.donate(upgrade, store, ask, place));
        switching(&own)
    }

    /// Copies bytes both ways until one end is done, or until what the store
    /// has is no longer known to be whole.
    async fn donate(
        self,
        upgrade: OnUpgrade,
        store: UnixStream,
        ask: ReplicationAsk,
        place: OwnedSemaphorePermit,
    ) {
        let Ok(peer) = upgrade.await else {
            return;
        };
        tracing::info!(node = ask.node, "copies this node's store");
        let mut view = self.view.clone();
        let sent = &self.traffic.sent;
        let before = sent.load(Ordering::Relaxed);
        let end = tokio::select! {
            ended = pipe(store, guarded(TokioIo::new(peer)), sent) => match ended {
                Ok(()) => "closed by the peer".to_owned(),
                Err(error) => error.to_string(),
            },
            _ = view.wait_for(|view| !view.donates) => "the data is not proven any more".to_owned(),
        };
        drop(place);
        let bytes = sent.load(Ordering::Relaxed).wrapping_sub(before);
        tracing::info!(
            node = ask.node,
            bytes,
            end,
            "the copy of this node's store ended"
        );
    }
}

fn identity(stream: &TlsStream<TcpStream>) -> Identity {
    let (_, connection) = stream.get_ref();
    connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map_or_else(|| Identity::Other(String::new()), Identity::of)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value).filter(|value| !value.is_empty() && value.len() <= HEADER_LIMIT)
}

fn replication_ask(headers: &HeaderMap) -> Result<ReplicationAsk, String> {
    let wanted = |name| header(headers, name).ok_or_else(|| format!("header {name} is missing"));
    let token = wanted(HEADER_TOKEN)?;
    Ok(ReplicationAsk {
        node: wanted(HEADER_NODE)?.to_owned(),
        cluster_uid: wanted(HEADER_CLUSTER)?.to_owned(),
        token: token.parse::<Token>().map_err(|error| error.to_string())?,
    })
}

fn switching(own: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_REPLICATION));
    if let Ok(own) = HeaderValue::from_str(own) {
        headers.insert(HeaderName::from_static(HEADER_DONOR), own);
    }
    answer
}
