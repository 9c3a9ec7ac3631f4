//! The florida seeds provider: an HTTP server, usually the sidecar, that knows the ring.

use std::time::Duration;

use anyhow::{Context as _, bail};
use dynomite_protocol::limits::MAX_SEEDS_LIST;
use dynomite_protocol::seeds::{Seed, parse_list};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use crate::event::Event;
use crate::limits::{EMPTY_SEEDS, MAX_HTTP_HEAD, SEEDS_INTERVAL_MIN, SEEDS_TIMEOUT};

const DEFAULT_REQUEST: &str = "GET /REST/v1/admin/get_seeds HTTP/1.0\r\nHost: 127.0.0.1\r\n\
     User-Agent: HTMLGET 1.0\r\n\r\n";

/// Where the provider is, and what it is asked.
pub(crate) struct Florida {
    host: String,
    port: u16,
    request: String,
}

impl Florida {
    /// The variables of Netflix's engine. `DYNOMITE_FLORIDA_REQUEST` is a whole HTTP request
    /// there; a mere path is understood too.
    pub(crate) fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let port = variable("DYNOMITE_FLORIDA_PORT").and_then(|port| port.parse().ok());
        let request = match variable("DYNOMITE_FLORIDA_REQUEST") {
            None => DEFAULT_REQUEST.to_owned(),
            Some(path) if path.starts_with('/') => {
                format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            }
            Some(whole) => whole,
        };
        Self {
            host: variable("DYNOMITE_FLORIDA_IP").unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: port.unwrap_or(8080),
            request,
        }
    }

    async fn ask(&self) -> anyhow::Result<Vec<Seed>> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut limited = stream.take((MAX_HTTP_HEAD + MAX_SEEDS_LIST) as u64);
        let mut chunk = [0; 4096];
        loop {
            let count = limited.read(&mut chunk).await?;
            answer.extend_from_slice(&chunk[..count]);
            if let Some(list) = body(&answer, count == 0)? {
                return parse_list(&list).context("the list is not usable");
            }
        }
    }
}

/// The body of an HTTP answer, when all of it is there: by its announced length, or by the end of
/// the connection.
fn body(answer: &[u8], ended: bool) -> anyhow::Result<Option<String>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        if ended || answer.len() > MAX_HTTP_HEAD {
            bail!("the answer is not HTTP");
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&answer[..end + 2]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!(
            "the answer is `{}`",
            status.chars().take(80).collect::<String>()
        );
    }
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let body = &answer[end + 4..];
    let complete = match announced {
        Some(length) if body.len() >= length => Some(&body[..length]),
        Some(_) if ended => bail!("the answer was cut off"),
        None if ended => Some(body),
        _ => None,
    };
    Ok(complete.map(|body| String::from_utf8_lossy(body).into_owned()))
}

/// Asks again and again; tells the driver when the answer changes.
pub(crate) async fn poll(provider: Florida, every: Duration, events: Sender<Event>) {
    let mut last: Option<Vec<Seed>> = None;
    let mut empty = 0;
    let mut complained = false;
    loop {
        let asked = timeout(SEEDS_TIMEOUT, provider.ask()).await;
        match asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))) {
            Ok(seeds) => {
                complained = false;
                empty = if seeds.is_empty() { empty + 1 } else { 0 };
                let believed = !seeds.is_empty() || empty >= EMPTY_SEEDS;
                if believed && last.as_ref() != Some(&seeds) {
                    last = Some(seeds.clone());
                    if events.send(Event::Seeds(seeds)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(host = %provider.host, port = provider.port, "seeds provider: {error:#}");
                }
                complained = true;
            }
        }
        // A node that does not know its ring yet serves nothing, so it asks as often as it may.
        let usual = every.max(SEEDS_INTERVAL_MIN);
        let pause = if last.is_none() {
            SEEDS_INTERVAL_MIN
        } else {
            usual
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(answer: &str, ended: bool) -> Result<Option<String>, String> {
        body(answer.as_bytes(), ended).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_ends_with_its_length_or_with_the_connection() {
        let plain = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\na:1:r:d:1";
        assert_eq!(parsed(plain, false), Ok(None));
        assert_eq!(parsed(plain, true), Ok(Some("a:1:r:d:1".to_owned())));
        let measured = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd";
        assert_eq!(parsed(measured, false), Ok(Some("abc".to_owned())));
        for end in 0..measured.len() - 1 {
            assert_eq!(parsed(&measured[..end], false), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_no_good_answer_is_refused() {
        assert!(parsed("HTTP/1.1 503 Service Unavailable\r\n\r\nx", true).is_err());
        assert!(parsed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", true).is_err());
        assert!(parsed("hello", true).is_err());
        assert!(parsed(&"x".repeat(MAX_HTTP_HEAD + 1), false).is_err());
    }
}
