//! The plain port: probes, metrics, seeds for the engine, and the describing part of Dynomite-manager's REST.
//!
//! Nobody has to show credentials here, so nothing here changes anything: the
//! only method is GET, and the mutating paths of the old REST are refused. The
//! old paths stand under `/REST/v1/admin/` and `/v1/admin/` in any case, as
//! the manager took them; `get_seeds` is answered on loopback only.

mod admin;
mod metrics;
mod resolve;
mod seeds;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{PATH_LIVE, PATH_READY, PATH_STARTUP, env};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::admin::{Admin, Ring};
use self::resolve::Resolver;
use crate::http::{self, Answer, Door, failure, wrong_method};
use crate::shared::{Input, Site, View};
use crate::tunnel::Traffic;

/// Connections at a time: the engine, kubelet, a scraper, and Dyno clients that
/// read the ring.
const CONNECTIONS: usize = 128;

/// Connections at a time from one address.
const CONNECTIONS_EACH: usize = 16;

/// Where the old REST paths begin, in lower case.
const ADMIN_PREFIXES: [&str; 2] = ["/rest/v1/admin/", "/v1/admin/"];

/// What the plain port knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Startup,
    Ready,
    Live,
    Metrics,
    Admin(Admin),
    /// An old path that changes something.
    Mutating,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path {
            PATH_STARTUP => return Some(Self::Startup),
            PATH_READY => return Some(Self::Ready),
            PATH_LIVE => return Some(Self::Live),
            "/metrics" => return Some(Self::Metrics),
            _ => {}
        }
        let path = path.to_ascii_lowercase();
        let name = ADMIN_PREFIXES
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))?;
        if admin::MUTATING.contains(&name) {
            return Some(Self::Mutating);
        }
        Admin::of(name).map(Self::Admin)
    }
}

/// Serves the plain port; clones serve the same node.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    site: Arc<Site>,
    /// This node's address, for whoever reads the ring.
    address: Option<IpAddr>,
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    traffic: Arc<Traffic>,
    resolver: Resolver,
    /// Until when it is not said that the node is not ready.
    taken_up: Instant,
}

/// How long a sidecar that has just started keeps a readiness probe waiting
/// before it says no: it takes up a node that may be ready all the time. With
/// the time in which a sidecar that hangs is found this is less than a probe waits.
const TAKE_UP: Duration = Duration::from_millis(900);

/// Serves the plain port for as long as the task lives.
///
/// # Errors
/// None so far; the signature is that of the other ports.
pub(crate) async fn serve(
    listener: TcpListener,
    site: &Arc<Site>,
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    traffic: Arc<Traffic>,
) -> anyhow::Result<()> {
    let server = Server::new(Arc::clone(site), view, inputs, traffic);
    server.run(listener).await;
    Ok(())
}

impl Server {
    /// A server that shows what `view` holds.
    pub(crate) fn new(
        site: Arc<Site>,
        view: watch::Receiver<View>,
        inputs: mpsc::Sender<Input>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let address = std::env::var(env::POD_IP)
            .ok()
            .and_then(|text| text.parse().ok());
        Self {
            site,
            address,
            resolver: Resolver::spawn(view.clone()),
            taken_up: Instant::now() + TAKE_UP,
            view,
            inputs,
            traffic,
        }
    }

    /// Serves for as long as the task lives.
    pub(crate) async fn run(self, listener: TcpListener) {
        let door = Door::new(listener, CONNECTIONS, CONNECTIONS_EACH);
        loop {
            let (stream, from, place) = door.next().await;
            let server = self.clone();
            tokio::spawn(async move {
                // Probes are single small answers.
                let _ = stream.set_nodelay(true);
                let answer = |request: Request<Incoming>| {
                    let server = server.clone();
                    async move {
                        server.take_up(request.uri().path()).await;
                        server.route(request.method(), request.uri().path(), from)
                    }
                };
                http::serve(stream, answer).await;
                drop(place);
            });
        }
    }

    /// Waits with an answer about readiness while the node is taken up.
    async fn take_up(&self, path: &str) {
        if path == PATH_READY {
            let mut view = self.view.clone();
            let ready = view.wait_for(|view| view.ready);
            // What is answered then is seen then.
            let _ = tokio::time::timeout_at(self.taken_up, ready).await;
        }
    }

    fn route(&self, method: &Method, path: &str, from: SocketAddr) -> Answer {
        let Some(route) = Route::of(path) else {
            let remedy = "ask for a probe, /metrics or a path of /REST/v1/admin";
            return failure(StatusCode::NOT_FOUND, "no such path", remedy);
        };
        let told = route == Route::Mutating && method == Method::POST;
        if method != Method::GET && !told {
            return wrong_method(&Method::GET);
        }
        match route {
            Route::Startup => self.probe(self.view.borrow().started),
            Route::Ready => {
                let ready = self.view.borrow().ready;
                if !ready {
                    // The driver wants to know when kubelet has seen it; a
                    // full queue only makes it wait for the next probe.
                    let _ = self.inputs.try_send(Input::NotReadySeen);
                }
                self.probe(ready)
            }
            Route::Live => {
                // A view without its driver stays as it was for ever.
                let driven = self.view.has_changed().is_ok();
                self.probe(driven && self.view.borrow().live)
            }
            Route::Metrics => self.metrics(),
            Route::Admin(admin) => self.admin(admin, from),
            Route::Mutating => admin::refuse_mutating(&self.view.borrow()),
        }
    }

    fn probe(&self, good: bool) -> Answer {
        if good {
            return http::line(StatusCode::OK, "ok");
        }
        let view = self.view.borrow();
        let report = &view.report;
        let why = format!("{:?}: {} {}", report.phase, report.reason, report.message);
        http::line(StatusCode::SERVICE_UNAVAILABLE, why.trim_end())
    }

    fn metrics(&self) -> Answer {
        let body = metrics::text(&self.view.borrow(), &self.traffic, Instant::now());
        http::text(StatusCode::OK, dynomite_api::exposition::MEDIA_TYPE, body)
    }

    fn admin(&self, admin: Admin, from: SocketAddr) -> Answer {
        let view = self.view.borrow();
        let Some(desired) = view.desired.as_deref() else {
            let remedy = "wait until the operator has told this node who it is";
            return failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "the ring is not known yet",
                remedy,
            );
        };
        let heard = view.operator_heard_at;
        let fresh = heard.is_some_and(|at| at.elapsed() < seeds::OPERATOR_FRESH);
        let ring = Ring {
            desired,
            report: &view.report,
            seeds: seeds::seeds(&view.seeds, fresh, &self.resolver.known()),
            address: self.address,
            client_port: self.site.ports.client,
        };
        // Behind a dual-stack listener IPv4 comes as a mapped address.
        admin.answer(&ring, from.ip().to_canonical().is_loopback())
    }
}
