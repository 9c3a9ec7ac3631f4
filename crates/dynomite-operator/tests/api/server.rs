//! An API server in memory: enough of one to reconcile against, and as unreliable as a test wants it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};

/// What the server does with a call instead of carrying it out.
pub type Fault = Box<dyn FnMut(&Call) -> Option<StatusCode> + Send>;

/// A call as a fault sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whether it would change something.
    pub writes: bool,
    /// What it is about, such as `services`.
    pub plural: String,
    /// How many writes were carried out before it.
    pub writes_before: usize,
}

/// `(plural, namespace, name)`.
pub type Key = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    version: u64,
    writes: usize,
    calls: usize,
    fault: Option<Fault>,
}

/// The server; clones share one state.
#[derive(Clone, Default)]
pub struct Server {
    state: Arc<Mutex<State>>,
}

struct Target {
    /// `v1` or `GROUP/VERSION`.
    api_version: String,
    plural: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

type Answer = Result<Value, (StatusCode, &'static str)>;

impl Server {
    /// A client that speaks with this server.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// From now on calls meet this fault; `None` heals the server.
    pub fn fail(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// How many writes were carried out.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// How many calls came in.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    /// Puts an object there as a person would.
    pub fn put(&self, plural: &str, object: Value) {
        let mut state = self.lock();
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), text("namespace"), text("name"));
        state.store(&key, object);
    }

    /// Takes an object away as a person would.
    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.lock().objects.remove(&key);
    }

    /// Everything that is there.
    pub fn objects(&self) -> BTreeMap<Key, Value> {
        self.lock().objects.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let target = target(parts.uri.path());
        let mut state = self.lock();
        state.calls += 1;
        let call = Call {
            writes: parts.method != Method::GET,
            plural: target.plural.clone(),
            writes_before: state.writes,
        };
        let fault = state.fault.as_mut().and_then(|fault| fault(&call));
        let answer = match fault {
            Some(status) => Err((status, "Injected")),
            None => state.carry_out(&parts.method, &target, &body),
        };
        match answer {
            Ok(object) => response(StatusCode::OK, &object),
            Err((code, reason)) => response(
                code,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code.as_u16(), "reason": reason, "message": reason}),
            ),
        }
    }
}

impl State {
    fn carry_out(&mut self, method: &Method, target: &Target, body: &Value) -> Answer {
        let Some(name) = target.name.clone().or_else(|| name_of(body, method)) else {
            return Ok(self.list(target));
        };
        let key = (target.plural.clone(), target.namespace.clone(), name);
        let held = self.objects.get(&key).cloned();
        if *method == Method::GET {
            return held.ok_or((StatusCode::NOT_FOUND, "NotFound"));
        }
        let stale = |held: &Value, wanted: &Value| {
            ["uid", "resourceVersion"].iter().any(|field| {
                !wanted[*field].is_null() && wanted[*field] != held["metadata"][*field]
            })
        };
        let conflict = Err((StatusCode::CONFLICT, "Conflict"));
        match (method, held) {
            (&Method::POST, Some(_)) => Err((StatusCode::CONFLICT, "AlreadyExists")),
            (&Method::POST, None) => Ok(self.write(&key, body.clone())),
            (&Method::DELETE, None) => Err((StatusCode::NOT_FOUND, "NotFound")),
            (&Method::DELETE, Some(held)) => {
                if stale(&held, &body["preconditions"]) {
                    return conflict;
                }
                self.writes += 1;
                self.objects.remove(&key);
                Ok(held)
            }
            (_, Some(held)) if stale(&held, &body["metadata"]) => conflict,
            // Server-side apply makes what is missing, unless it must be a certain one.
            (_, None) if target.subresource.is_some() => Err((StatusCode::NOT_FOUND, "NotFound")),
            (_, None) if !body["metadata"]["uid"].is_null() => conflict,
            (&Method::PUT, _) => {
                let mut object = body.clone();
                object["metadata"]["namespace"] = json!(key.1);
                Ok(self.write(&key, object))
            }
            (_, held) => {
                let mut merged = held.unwrap_or_else(|| json!({}));
                merge(&mut merged, body);
                merged["metadata"]["namespace"] = json!(key.1);
                Ok(self.write(&key, merged))
            }
        }
    }

    fn list(&self, target: &Target) -> Value {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| key.0 == target.plural && key.1 == target.namespace)
            .map(|(_, object)| object)
            .filter(|object| object["apiVersion"] == *target.api_version)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn write(&mut self, key: &Key, object: Value) -> Value {
        self.writes += 1;
        self.store(key, object)
    }

    fn store(&mut self, key: &Key, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
            meta["generation"] = json!(1);
        }
        meta["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        object
    }
}

/// Deep for maps; everything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                // Of a patch of the status nothing else of the object is taken.
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, Value::Object(from)) => {
            *into = Value::Object(Map::new());
            merge(into, &Value::Object(from.clone()));
        }
        (into, from) => *into = from.clone(),
    }
}

fn name_of(body: &Value, method: &Method) -> Option<String> {
    if *method != Method::POST {
        return None;
    }
    let name = body["metadata"]["name"].as_str().unwrap_or("unnamed");
    Some(name.to_owned())
}

/// Takes `/api/v1/namespaces/NS/PLURAL/NAME/SUB` or `/apis/GROUP/V/...` apart.
fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let at = parts
        .iter()
        .position(|part| *part == "namespaces")
        .expect("a namespaced path");
    let part = |i: usize| parts.get(at + i).map(|part| (*part).to_owned());
    Target {
        api_version: parts[1..at].join("/"),
        namespace: part(1).unwrap_or_default(),
        plural: part(2).unwrap_or_default(),
        name: part(3),
        subresource: part(4),
    }
}

fn response(code: StatusCode, object: &Value) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(object.to_string().into_bytes()))
        .expect("a response")
}
