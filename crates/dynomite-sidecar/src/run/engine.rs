//! Asks the engine's REST interface and its client port, and gives it orders.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{Consistency, EngineFacts, EngineState, Received};
use dynomite_lifecycle::{EngineObservation, EngineSight, PingAnswer};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::pace::{Ear, ORDER_LIMIT, Pace, Said, Turn};
use crate::engine_rest::{get, post};
use crate::shared::Site;

/// What is ordered of the engine.
#[derive(Clone, Debug)]
pub(super) enum EngineOrder {
    /// Be in this state.
    State(EngineState),
    /// Use this consistency.
    Consistency(Consistency),
    /// Say whether what it has captured follows this.
    CheckCapture(Box<Received>),
    /// Take this over, and let go what follows it.
    CommitCapture(Box<Received>),
}

/// Looks at the engine and carries out orders, until the driver ends.
pub(super) async fn attend(site: Arc<Site>, mut ear: Ear<EngineOrder>, said: mpsc::Sender<Said>) {
    loop {
        let message = match ear.turn().await {
            Turn::Order(id, order) => {
                let obeyed = tokio::time::timeout(ORDER_LIMIT, obey(site.admin(), order)).await;
                let outcome =
                    obeyed.unwrap_or_else(|_| Err("the engine's REST did not answer".to_owned()));
                Said::answer(id, outcome)
            }
            Turn::Look(pace) => Said::Engine(look(&site, pace).await),
            Turn::End => return,
        };
        if said.send(message).await.is_err() {
            return;
        }
    }
}

async fn look(site: &Site, pace: Pace) -> EngineObservation {
    let rest = tokio::time::timeout(pace.timeout, see(site.admin()));
    let (seen, ping) = tokio::join!(rest, ping(site.client(), pace));
    match seen {
        Ok(Ok(mut sight)) => {
            sight.ping = ping;
            EngineObservation::Facts(sight)
        }
        Ok(Err(why)) => EngineObservation::Unreachable { why },
        Err(_) => EngineObservation::Slow,
    }
}

async fn see(admin: SocketAddr) -> Result<EngineSight, String> {
    let state = get(admin, "/state/get_state").await?;
    let info = get(admin, "/info").await?;
    let info: Value =
        serde_json::from_slice(&info).map_err(|error| format!("gave a bad /info: {error}"))?;
    let state = parse_state(&String::from_utf8_lossy(&state));
    Ok(read_info(&info, state))
}

/// `State: NORMAL`.
fn parse_state(text: &str) -> EngineState {
    let word = text.rsplit(':').next().unwrap_or_default().trim();
    match word.to_ascii_uppercase().as_str() {
        "STANDBY" => EngineState::Standby,
        "WRITES_ONLY" => EngineState::WritesOnly,
        "RESUMING" => EngineState::Resuming,
        "NORMAL" => EngineState::Normal,
        _ => EngineState::Other,
    }
}

/// Takes what there is: Netflix's engine does not say all that ours does.
fn read_info(info: &Value, state: EngineState) -> EngineSight {
    let text = |name: &str| {
        let value = info.get(name).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let pool = pool(info);
    let count = |name: &str| {
        let value = pool.and_then(|pool| pool.get(name)).and_then(Value::as_u64);
        value.unwrap_or_default()
    };
    let either = |name: &str| {
        info.get(name)
            .or_else(|| pool.and_then(|pool| pool.get(name)))
            .and_then(Value::as_u64)
    };
    EngineSight {
        facts: EngineFacts {
            state,
            incarnation: text("incarnation"),
            version: text("version"),
            uptime_seconds: either("uptime").unwrap_or_default(),
            peers_connected: either("peers_connected").and_then(|n| u32::try_from(n).ok()),
            received: info
                .get("received")
                .and_then(|received| serde_json::from_value(received.clone()).ok()),
        },
        ping: PingAnswer::NotAsked,
        client_requests: count("client_read_requests") + count("client_write_requests"),
        in_flight: either("client_in_flight"),
    }
}

/// The part of `/info` that is about the engine's one pool, whatever its name.
fn pool(info: &Value) -> Option<&Map<String, Value>> {
    info.as_object()?
        .values()
        .filter_map(Value::as_object)
        .find(|part| part.contains_key("client_read_requests"))
}

async fn obey(admin: SocketAddr, order: EngineOrder) -> Result<(), String> {
    match order {
        EngineOrder::State(state) => {
            let word = match state {
                EngineState::Standby => "standby",
                EngineState::WritesOnly => "writes_only",
                EngineState::Resuming => "resuming",
                EngineState::Normal => "normal",
                EngineState::Other => return Err("no such state".to_owned()),
            };
            get(admin, &format!("/state/{word}")).await?;
        }
        EngineOrder::Consistency(consistency) => {
            for (what, level) in [("read", consistency.read), ("write", consistency.write)] {
                let level = level.name().to_ascii_lowercase();
                get(admin, &format!("/set_consistency/{what}/{level}")).await?;
            }
        }
        EngineOrder::CheckCapture(received) => {
            post(admin, "/capture/check", json(&received)?).await?;
        }
        EngineOrder::CommitCapture(received) => {
            let answer = post(admin, "/capture/commit", json(&received)?).await?;
            let answer = String::from_utf8_lossy(&answer);
            tracing::info!(
                answer = answer.trim(),
                "the engine has taken over from the donor"
            );
        }
    }
    Ok(())
}

fn json(received: &Received) -> Result<Vec<u8>, String> {
    serde_json::to_vec(received).map_err(|error| error.to_string())
}

/// Asks as a client would, over a connection of its own.
async fn ping(client: SocketAddr, pace: Pace) -> PingAnswer {
    if !pace.client_port {
        return PingAnswer::NotAsked;
    }
    let answer = tokio::time::timeout(pace.timeout, ping_once(client)).await;
    match answer {
        Ok(Ok(line)) if line.starts_with("+PONG") => PingAnswer::Pong,
        Ok(Ok(line)) => PingAnswer::Refused {
            why: format!("answers PING at its client port with {:?}", line.trim_end()),
        },
        Ok(Err(error)) => PingAnswer::Refused {
            why: format!("does not answer PING at its client port: {error}"),
        },
        Err(_) => PingAnswer::Slow,
    }
}

async fn ping_once(client: SocketAddr) -> io::Result<String> {
    /// No answer to PING is longer.
    const LINE_LIMIT: usize = 512;
    let mut stream = TcpStream::connect(client).await?;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
    let mut line = Vec::new();
    let mut buffer = [0; 128];
    while !line.ends_with(b"\n") && line.len() < LINE_LIMIT {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// How long a first look waits when nothing is known of the node's settings.
pub(super) const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_are_read_as_the_engine_words_them() {
        let table = [
            ("State: NORMAL\n", EngineState::Normal),
            ("State: WRITES_ONLY\n", EngineState::WritesOnly),
            ("standby", EngineState::Standby),
            ("State: RESUMING\n", EngineState::Resuming),
            ("State: JOINING\n", EngineState::Other),
            ("", EngineState::Other),
        ];
        for (text, expected) in table {
            assert_eq!(parse_state(text), expected, "{text:?}");
        }
    }

    #[test]
    fn netflix_info_is_understood() {
        let info = json!({
            "service": "dynomite", "version": "", "uptime": 271,
            "dyn_o_mite": {
                "client_read_requests": 604, "client_write_requests": 272,
                "127.0.0.1:22122": { "server_eof": 0 }
            }
        });
        let sight = read_info(&info, EngineState::Normal);
        assert_eq!(sight.client_requests, 876);
        assert_eq!(sight.in_flight, None);
        assert_eq!(sight.facts.uptime_seconds, 271);
        assert_eq!(sight.facts.incarnation, "");
    }

    #[test]
    fn our_own_info_says_more() {
        let info = json!({
            "incarnation": "i-1", "version": "0.1.0", "uptime": 1,
            "client_in_flight": 3, "peers_connected": 5,
            "received": { "i-2": { "last": 9 } },
            "dyn_o_mite": { "client_read_requests": 1 }
        });
        let sight = read_info(&info, EngineState::Standby);
        assert_eq!(sight.in_flight, Some(3));
        assert_eq!(sight.facts.peers_connected, Some(5));
        assert_eq!(sight.facts.incarnation, "i-1");
        let received = sight.facts.received.expect("it numbers");
        assert!(received.is_past("i-2", 9));
        let silent = json!({ "received": null });
        let sight = read_info(&silent, EngineState::Standby);
        assert_eq!(sight.facts.received, None, "a foreign engine is near");
    }
}
