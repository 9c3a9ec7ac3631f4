//! Questions to the engine's REST port, each over a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use dynomite_api::contract::{Cut, RingView};
use dynomite_lifecycle::CutSight;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest answer that is read; Netflix's `/info` has about 6 KiB for each peer.
const BODY_LIMIT: usize = 4 << 20;

/// How much of a refusal is repeated, bytes.
const WORDS_LIMIT: usize = 512;

/// How long an engine may take for a question that another node has asked.
const ASKED_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer that is not an error of the connection.
struct Answered {
    status: StatusCode,
    body: Bytes,
}

impl Answered {
    fn words(&self) -> String {
        let body = &self.body[..self.body.len().min(WORDS_LIMIT)];
        String::from_utf8_lossy(body).trim().to_owned()
    }
}

/// The body of a page; an error is words.
pub(crate) async fn get(admin: SocketAddr, path: &str) -> Result<Bytes, String> {
    let answered = exchange(admin, Method::GET, path, Bytes::new()).await?;
    if answered.status != StatusCode::OK {
        return Err(format!("answered {path} with {}", answered.status));
    }
    Ok(answered.body)
}

/// Posts a document; what the engine says against it is the error.
pub(crate) async fn post(admin: SocketAddr, path: &str, body: Vec<u8>) -> Result<Bytes, String> {
    let answered = exchange(admin, Method::POST, path, body.into()).await?;
    if answered.status != StatusCode::OK {
        return Err(answered.words());
    }
    Ok(answered.body)
}

/// A moment of the store behind the engine.
///
/// # Errors
/// In the engine's words, when it cannot name one now.
pub(crate) async fn read_cut(admin: SocketAddr) -> Result<CutSight, String> {
    let asked = async {
        let answered = exchange(admin, Method::GET, "/cut", Bytes::new()).await?;
        if answered.status == StatusCode::OK {
            // Netflix's engine says OK to every path.
            let cut = serde_json::from_slice::<Cut>(&answered.body);
            return Ok(cut.map_or_else(
                |_| CutSight::Unnumbered {
                    why: "the donor's engine does not number its writes".to_owned(),
                },
                |cut| CutSight::Cut(Box::new(cut)),
            ));
        }
        let why = answered.words();
        // An engine that says what it has received can name a moment later.
        let info = get(admin, "/info").await?;
        let info: Value = serde_json::from_slice(&info).map_err(|error| error.to_string())?;
        match info.get("received") {
            Some(received) if !received.is_null() => Err(why),
            _ => Ok(CutSight::Unnumbered { why }),
        }
    };
    let late = || Err("the engine did not answer in time".to_owned());
    let answer = tokio::time::timeout(ASKED_TIMEOUT, asked).await;
    answer.unwrap_or_else(|_| late())
}

/// Where the engine looks for its peers.
///
/// # Errors
/// In words, when it does not say.
pub(crate) async fn read_ring(admin: SocketAddr) -> Result<RingView, String> {
    let asked = tokio::time::timeout(ASKED_TIMEOUT, get(admin, "/cluster_describe"));
    let body = asked
        .await
        .map_err(|_| "the engine did not answer in time".to_owned())??;
    let ring: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(ring_view(&ring))
}

/// `{"dcs": [{"racks": [{"servers": [{"host": ...}]}]}]}`
fn ring_view(ring: &Value) -> RingView {
    let list = |value: &Value, name: &str| -> Vec<Value> {
        let found = value.get(name).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    };
    let mut addresses = Vec::new();
    for datacenter in list(ring, "dcs") {
        for rack in list(&datacenter, "racks") {
            for server in list(&rack, "servers") {
                let host = server.get("host").and_then(Value::as_str);
                addresses.extend(host.map(str::to_owned));
            }
        }
    }
    RingView { addresses }
}

async fn exchange(
    admin: SocketAddr,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Answered, String> {
    let stream = TcpStream::connect(admin)
        .await
        .map_err(|error| format!("cannot be reached at its REST port: {error}"))?;
    let broken = |error: hyper::Error| format!("broke off at {path}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| format!("broke off at {path}: {error}"))?;
        let body = body.to_bytes();
        Ok(Answered { status, body })
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may be over before its answer has been taken.
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_server_of_the_ring_map_is_seen() {
        let ring = json!({"dcs": [
            {"name": "dc1", "racks": [
                {"name": "a", "servers": [{"host": "10.0.0.1", "token": 0}]},
                {"name": "b", "servers": [{"host": "10.0.0.2"}, {"host": "::1"}]},
            ]},
            {"name": "dc2", "racks": []},
        ]});
        assert_eq!(ring_view(&ring).addresses, ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!(ring_view(&json!("OK")).addresses, [""; 0]);
    }
}
