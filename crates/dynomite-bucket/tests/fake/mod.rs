//! An S3 server in the test's own process, with faults: enough of the protocol for one bucket.
//!
//! It keeps objects in memory or, for large ones, only their lengths.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use dynomite_api::contract::{BackupPlace, Provider, StoreCredentials};
use futures::StreamExt as _;
use tokio::net::TcpListener;

/// The bucket that is there.
pub const BUCKET: &str = "backups";
/// What opens it.
pub const ACCESS_KEY: &str = "canary-access-key";
/// And its other half, which must never be seen in a log or an error.
pub const SECRET_KEY: &str = "canary-secret-key-5f0e";

/// What happens to a request instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 Slow Down.
    Busy,
    /// The connection is cut while the answer is sent.
    Cut,
    /// 403 with this code.
    Refused(&'static str),
    /// It never answers.
    Mute,
    /// What is kept differs in one byte from what was sent.
    Flipped,
    /// It is done, and the answer is lost.
    Unheard,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Create,
    Part(u32),
    Complete,
    Abort,
    Put,
    Get,
    Head,
    List,
    Delete,
}

/// The server's memory.
#[derive(Default)]
pub struct Inside {
    pub objects: BTreeMap<String, Bytes>,
    /// Uploads that are neither completed nor aborted, with their parts.
    pub uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// Faults by act, and how often each happens yet.
    pub faults: BTreeMap<Act, (Fault, usize)>,
    pub acts: Vec<Act>,
    /// Whether only the lengths of parts are kept.
    pub forgetful: bool,
    /// Whether nobody looks at which object is asked for.
    pub careless: bool,
    /// What a part waits before it is answered.
    pub delay: Duration,
    next: u64,
}

/// A running server.
#[derive(Clone)]
pub struct S3 {
    pub address: SocketAddr,
    inside: Arc<Mutex<Inside>>,
}

impl S3 {
    /// Starts one; it ends with the test's runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = Self {
            address,
            inside: Arc::default(),
        };
        let router = Router::new()
            .route("/{bucket}", axum::routing::any(bucket))
            // As clients write it that have no key to ask for.
            .route("/{bucket}/", axum::routing::any(bucket))
            .route("/{bucket}/{*key}", axum::routing::any(object))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("no test panics while it looks")
    }

    /// The next `times` requests of a kind go wrong.
    pub fn fails(&self, act: Act, fault: Fault, times: usize) {
        self.inside().faults.insert(act, (fault, times));
    }

    /// The bucket as a place.
    pub fn place(&self) -> BackupPlace {
        BackupPlace {
            store: "main".to_owned(),
            provider: Provider::S3 {
                bucket: BUCKET.to_owned(),
                region: None,
                endpoint: Some(format!("http://{}", self.address)),
                path_style: true,
            },
            prefix: "team".to_owned(),
            credentials: credentials().id,
        }
    }

    /// The uploads that were begun, an hour or so after the beginning of 2026-11-20.
    fn begun(&self, query: &BTreeMap<String, String>) -> Response {
        let prefix = query.get("prefix").cloned().unwrap_or_default();
        let mut body = String::from("<?xml version=\"1.0\"?><ListMultipartUploadsResult>");
        for id in self.inside().uploads.keys() {
            let key = id.split_once('-').map_or("", |(_, key)| key);
            if key.starts_with(&prefix) {
                let _ = write!(
                    body,
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
                     <Initiated>2026-11-20T01:00:00.000Z</Initiated></Upload>"
                );
            }
        }
        body.push_str("</ListMultipartUploadsResult>");
        xml(body)
    }

    fn fault(&self, act: Act) -> Option<Fault> {
        let mut inside = self.inside();
        inside.acts.push(act);
        let (fault, left) = inside.faults.get_mut(&act)?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }
}

/// What opens the bucket.
pub fn credentials() -> StoreCredentials {
    StoreCredentials {
        id: "1".to_owned(),
        entries: [
            ("AWS_ACCESS_KEY_ID".to_owned(), ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), SECRET_KEY.to_owned()),
        ]
        .into(),
    }
}

fn failure(status: u16, code: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>It is so</Message></Error>"
    );
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

fn xml(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

/// What the fault does to an answer; `None` when the request goes on.
async fn spoilt(fault: Option<Fault>) -> Option<Response> {
    match fault? {
        Fault::Busy => Some(failure(503, "SlowDown")),
        Fault::Refused(code) => Some(failure(403, code)),
        Fault::Mute => std::future::pending().await,
        Fault::Cut => {
            let broken = futures::stream::once(async {
                Err::<Bytes, _>(std::io::Error::other("cut on purpose"))
            });
            Some(Response::new(Body::from_stream(broken)))
        }
        Fault::Flipped | Fault::Unheard => None,
    }
}

/// Who does not sign is nobody.
fn signed(headers: &HeaderMap) -> bool {
    let authorization = headers.get(header::AUTHORIZATION);
    authorization.is_some_and(|text| {
        let text = text.to_str().unwrap_or_default();
        text.contains(ACCESS_KEY) && !text.contains(SECRET_KEY)
    })
}

async fn bucket(
    State(server): State<S3>,
    Path(bucket): Path<String>,
    method: Method,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let by_query = query.get("X-Amz-Credential");
    if !signed(&headers) && !by_query.is_some_and(|text| text.starts_with(ACCESS_KEY)) {
        return failure(403, "AccessDenied");
    }
    if bucket != BUCKET {
        return failure(404, "NoSuchBucket");
    }
    if method != Method::GET {
        return failure(501, "NotImplemented");
    }
    if query.contains_key("uploads") {
        return server.begun(&query);
    }
    if let Some(spoilt) = spoilt(server.fault(Act::List)).await {
        return spoilt;
    }
    let of = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (
        of("prefix"),
        of("continuation-token").max(of("start-after")),
    );
    let limit = of("max-keys").parse().unwrap_or(1000);
    let inside = server.inside();
    let found = inside.objects.iter();
    let mut found = found.filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let mut body = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    let mut last = String::new();
    for (key, content) in found.by_ref().take(limit) {
        let _ = write!(
            body,
            "<Contents><Key>{key}</Key><Size>{}</Size>\
             <LastModified>2026-11-20T00:00:00.000Z</LastModified><ETag>\"e\"</ETag></Contents>",
            content.len()
        );
        last.clone_from(key);
    }
    if found.next().is_some() {
        let _ = write!(
            body,
            "<NextContinuationToken>{last}</NextContinuationToken>"
        );
    }
    body.push_str("</ListBucketResult>");
    xml(body)
}

fn act_of(method: &Method, query: &BTreeMap<String, String>) -> Option<Act> {
    let number = query.get("partNumber").and_then(|text| text.parse().ok());
    Some(
        match (method.as_str(), number, query.contains_key("uploadId")) {
            ("POST", None, false) => Act::Create,
            ("PUT", Some(number), true) => Act::Part(number),
            ("POST", None, true) => Act::Complete,
            ("DELETE", None, true) => Act::Abort,
            ("PUT", None, false) => Act::Put,
            ("GET", None, false) => Act::Get,
            ("HEAD", None, false) => Act::Head,
            ("DELETE", None, false) => Act::Delete,
            _ => return None,
        },
    )
}

async fn object(
    State(server): State<S3>,
    Path((bucket, key)): Path<(String, String)>,
    method: Method,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !signed(&headers) {
        return failure(403, "AccessDenied");
    }
    if bucket != BUCKET {
        return failure(404, "NoSuchBucket");
    }
    let Some(act) = act_of(&method, &query) else {
        return failure(501, "NotImplemented");
    };
    let fault = server.fault(act);
    // An answer may be cut in its middle: the object is there, and was partly sent.
    if !(fault == Some(Fault::Cut) && act == Act::Get)
        && let Some(spoilt) = spoilt(fault).await
    {
        return spoilt;
    }
    if matches!(act, Act::Part(_)) {
        let delay = server.inside().delay;
        tokio::time::sleep(delay).await;
    }
    let upload = query.get("uploadId").cloned().unwrap_or_default();
    let mut inside = server.inside();
    match act {
        Act::Create => {
            inside.next += 1;
            let id = format!("{}-{key}", inside.next);
            inside.uploads.insert(id.clone(), BTreeMap::new());
            xml(format!(
                "<?xml version=\"1.0\"?><InitiateMultipartUploadResult>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        Act::Part(number) => {
            let mut content = body.to_vec();
            if fault == Some(Fault::Flipped) {
                let middle = content.len() / 2;
                content[middle] ^= 1;
            }
            if inside.forgetful {
                content = Vec::new();
            }
            let Some(parts) = inside.uploads.get_mut(&upload) else {
                return failure(404, "NoSuchUpload");
            };
            parts.insert(number, content.into());
            ([(header::ETAG, format!("\"{number}\""))], "").into_response()
        }
        Act::Complete => {
            let Some(parts) = inside.uploads.remove(&upload) else {
                return failure(404, "NoSuchUpload");
            };
            let parts: Vec<&[u8]> = parts.values().map(AsRef::as_ref).collect();
            let whole = parts.concat();
            inside.objects.insert(key, whole.into());
            if fault == Some(Fault::Unheard) {
                return failure(500, "InternalError");
            }
            xml("<?xml version=\"1.0\"?><CompleteMultipartUploadResult>\
                 <ETag>\"whole\"</ETag></CompleteMultipartUploadResult>"
                .to_owned())
        }
        Act::Abort => {
            inside.uploads.remove(&upload);
            StatusCode::NO_CONTENT.into_response()
        }
        Act::Put => {
            inside.objects.insert(key, body);
            ([(header::ETAG, "\"put\"")], "").into_response()
        }
        Act::Delete => {
            inside.objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        Act::Get | Act::Head => {
            let Some(content) = inside.objects.get(&key).cloned() else {
                return failure(404, "NoSuchKey");
            };
            let careless = inside.careless;
            drop(inside);
            give(act, fault, &headers, &content, careless)
        }
        Act::List => failure(501, "NotImplemented"),
    }
}

/// What tells an object from another one of its key.
fn tag(content: &Bytes) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:x}\"", hasher.finish())
}

fn give(
    act: Act,
    fault: Option<Fault>,
    headers: &HeaderMap,
    content: &Bytes,
    careless: bool,
) -> Response {
    let length = content.len();
    let tag = tag(content);
    if headers
        .get(header::IF_MATCH)
        .is_some_and(|wanted| *wanted != *tag)
        && !careless
    {
        return failure(412, "PreconditionFailed");
    }
    let range = headers
        .get(header::RANGE)
        .and_then(|text| text.to_str().ok());
    let from = range.and_then(|text| text.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok());
    let from: usize = from.unwrap_or(0);
    if from > length {
        return failure(416, "InvalidRange");
    }
    let mut answer = Response::builder()
        .header(header::ETAG, tag)
        .header(header::LAST_MODIFIED, "Fri, 20 Nov 2026 00:00:00 GMT")
        .header(header::CONTENT_LENGTH, length - from);
    if range.is_some() {
        let range = format!("bytes {from}-{}/{length}", length - 1);
        answer = answer.status(206).header(header::CONTENT_RANGE, range);
    }
    let content = content.slice(from..);
    let body = match (act, fault) {
        (Act::Head, _) => Body::empty(),
        (_, Some(Fault::Cut)) => {
            let half = content.slice(..content.len() / 2);
            let broken = futures::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]);
            // What was sent arrives before the cut does.
            Body::from_stream(broken.then(|piece| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                piece
            }))
        }
        _ => Body::from(content),
    };
    answer.body(body).expect("an answer")
}
