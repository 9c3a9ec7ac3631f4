//! HTTP around the routes.

use std::convert::Infallible;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admin::routes::{Answer, Asked};
use crate::event::Event;
use crate::limits::{ACCEPT_PAUSE, ADMIN_TIMEOUT, MAX_ADMIN_BODY};
use crate::listen::Listener;

/// Serves one request per connection, as the original does.
pub(crate) async fn serve(listener: Listener, events: Sender<Event>) {
    let Listener::Tcp(listener) = listener else {
        return;
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let events = events.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| respond(request, events.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .timer(TokioTimer::new())
                .header_read_timeout(ADMIN_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(ADMIN_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the admin port"),
                Err(_) => tracing::debug!("an admin request took too long"),
            }
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    events: Sender<Event>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // The original answers OK to whatever it does not understand; scripts rely on it.
    let mut answer = Answer::text("OK\r\n");
    let path = request.uri().path().to_owned();
    let posts = request.method() == Method::POST;
    if posts || request.method() == Method::GET {
        let posted = if posts {
            match Limited::new(request.into_body(), MAX_ADMIN_BODY)
                .collect()
                .await
            {
                Ok(body) => Some(body.to_bytes().into()),
                Err(error) => {
                    return Ok(respond_with(StatusCode::BAD_REQUEST, format!("{error}\n")));
                }
            }
        } else {
            None
        };
        let (reply, wanted) = oneshot::channel();
        let asked = Asked { path, posted };
        let sent = events.send(Event::Admin(asked, reply)).await.is_ok();
        match wanted.await {
            Ok(found) if sent => answer = found,
            _ => {
                let stopping = "stopping\n".to_owned();
                return Ok(respond_with(StatusCode::SERVICE_UNAVAILABLE, stopping));
            }
        }
    }
    let mut response = respond_with(answer.status, answer.body);
    if let Ok(kind) = answer.content_type.parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    Ok(response)
}

fn respond_with(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
