//! `/metrics`, `/livez` and `/readyz`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use dynomite_api::exposition;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::world::World;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    world: Arc<World>,
}

/// Listens at `address`; where IPv6 is switched off, at the same port of IPv4.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        Err(error) => Err(error),
    }
}

/// Serves until `stop` is cancelled.
///
/// Liveness says only that the process still answers: an API server that is
/// away is no reason to be restarted.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    world: Arc<World>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(exposition))
        .with_state(Shared { metrics, world });
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn readiness(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.world.is_synced() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the watches have not shown everything yet\n",
        )
    }
}

async fn exposition(State(shared): State<Shared>) -> impl IntoResponse {
    shared.metrics.queued(shared.world.triggers.len());
    match shared.metrics.text() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, exposition::MEDIA_TYPE)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
