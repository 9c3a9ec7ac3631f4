//! Asks datacenters elsewhere to describe themselves: beside the reconcile, over plain HTTP, within bounds of time and size.
//!
//! Whoever may write a `DynomiteCluster` decides where the operator connects. So
//! only the one path is asked, no redirection is followed, addresses of the
//! operator's own machine are refused, and nothing of an answer is repeated.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::Peer;
use dynomite_planner::{Cluster, DescribeUrl, Described, is_unreachable, read_description};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::context::Context;
use crate::index::ClusterKey;

/// How often a datacenter that answers is asked; a little less than the pause
/// between two looks at a settled cluster, so that each look asks.
const EVERY: Duration = Duration::from_secs(4);
/// The longest pause after questions without an answer.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// How long a question may take, from the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one address is waited for: behind a name there may be others.
const CONNECT: Duration = Duration::from_secs(1);
/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;
/// The longest answer, bytes: some hundred for each node.
const ANSWER_MAX: usize = 1 << 20;

/// What is known of the datacenters elsewhere of one cluster; shared with the questions.
#[derive(Clone, Default)]
pub struct Remotes(Arc<Mutex<BTreeMap<String, Asked>>>);

struct Asked {
    url: DescribeUrl,
    busy: bool,
    next: Instant,
    failures: u32,
    /// `None` before the first question has ended.
    described: Option<Described>,
}

impl Remotes {
    /// What is known now, after beginning what is due. Never waits for an answer.
    pub fn look(
        &self,
        ctx: &Context,
        cluster: &Cluster,
        now: Instant,
    ) -> BTreeMap<String, Described> {
        for (datacenter, url) in self.due(cluster, now) {
            let (remotes, world) = (self.clone(), Arc::clone(&ctx.world));
            let key = ClusterKey {
                namespace: cluster.id.namespace.clone(),
                name: cluster.id.name.clone(),
            };
            tokio::spawn(async move {
                let answer = ask(&url, &datacenter, is_unreachable, DEADLINE).await;
                if remotes.note(&datacenter, &url, answer, Instant::now()) {
                    world.triggers.push(key);
                }
            });
        }
        let asked = self.lock();
        let known = asked.iter();
        known
            .filter_map(|(name, asked)| Some((name.clone(), asked.described.clone()?)))
            .collect()
    }

    /// Which are to be asked now; they count as being asked from here on. What
    /// is not of the cluster any more is forgotten.
    fn due(&self, cluster: &Cluster, now: Instant) -> Vec<(String, DescribeUrl)> {
        let mut asked = self.lock();
        asked.retain(|name, _| cluster.remotes.iter().any(|remote| remote.name == *name));
        let mut due = Vec::new();
        for remote in &cluster.remotes {
            let entry = asked.entry(remote.name.clone());
            let entry = entry.or_insert_with(|| Asked {
                url: remote.url.clone(),
                busy: false,
                next: now,
                failures: 0,
                described: None,
            });
            if entry.url != remote.url {
                // The nodes stay until the new place has told of others.
                entry.url = remote.url.clone();
                (entry.busy, entry.next, entry.failures) = (false, now, 0);
            }
            if !entry.busy && entry.next <= now {
                entry.busy = true;
                due.push((remote.name.clone(), entry.url.clone()));
            }
        }
        due
    }

    /// Takes in what came of a question; returns whether it says something new.
    fn note(
        &self,
        datacenter: &str,
        url: &DescribeUrl,
        answer: Result<Vec<Peer>, String>,
        now: Instant,
    ) -> bool {
        let mut asked = self.lock();
        let Some(entry) = asked.get_mut(datacenter).filter(|entry| entry.url == *url) else {
            return false;
        };
        entry.busy = false;
        let before = entry.described.take();
        let known = before.as_ref().and_then(|before| before.nodes.clone());
        let described = match answer {
            Ok(nodes) => {
                entry.failures = 0;
                Described {
                    nodes: Some(nodes),
                    trouble: None,
                }
            }
            Err(why) => {
                entry.failures = entry.failures.saturating_add(1);
                Described {
                    nodes: known,
                    trouble: Some(why),
                }
            }
        };
        entry.next = now
            + EVERY
                .saturating_mul(1 << entry.failures.min(16))
                .min(PAUSE_MAX);
        let is_new = before.as_ref() != Some(&described);
        entry.described = Some(described);
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a datacenter for its nodes. `refused` says which addresses are not
/// connected to. The words of an error hold nothing that changes from try to try.
async fn ask(
    url: &DescribeUrl,
    datacenter: &str,
    refused: fn(&IpAddr) -> bool,
    deadline: Duration,
) -> Result<Vec<Peer>, String> {
    let asking = async {
        let body = get(url, refused).await?;
        read_description(&body, datacenter)
    };
    let hung = || Err(format!("no answer within {} s", deadline.as_secs()));
    tokio::time::timeout(deadline, asking)
        .await
        .unwrap_or_else(|_| hung())
}

async fn get(url: &DescribeUrl, refused: fn(&IpAddr) -> bool) -> Result<Bytes, String> {
    let stream = connect(url, refused).await?;
    let broke = |_| "the connection broke".to_owned();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // It ends when its sender is dropped.
    tokio::spawn(connection);
    let host = if url.host.contains(':') {
        format!("[{}]:{}", url.host, url.port)
    } else {
        format!("{}:{}", url.host, url.port)
    };
    let request = Request::builder()
        .method(Method::GET)
        .uri(&url.path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| "the URL cannot be asked".to_owned())?;
    let answer = sender.send_request(request).await.map_err(broke)?;
    let status = answer.status();
    if status.is_redirection() {
        return Err(format!(
            "it answered {}: a redirection is not followed, so name the place itself",
            status.as_u16()
        ));
    }
    if status != StatusCode::OK {
        return Err(format!("it answered {}", status.as_u16()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    let body =
        body.map_err(|_| format!("its answer broke off, or has more than {ANSWER_MAX} bytes"))?;
    Ok(body.to_bytes())
}

async fn connect(url: &DescribeUrl, refused: fn(&IpAddr) -> bool) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let found: Vec<SocketAddr> = found
        .map_err(|_| format!("{} has no address", url.host))?
        .collect();
    let allowed: Vec<&SocketAddr> = found.iter().filter(|at| !refused(&at.ip())).collect();
    if allowed.is_empty() {
        return Err(format!(
            "{} leads to no other machine: give an address that every node can reach",
            url.host
        ));
    }
    let mut why = String::new();
    for address in allowed.into_iter().take(ADDRESSES_MAX) {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("cannot connect: {}", error.kind()),
            Err(_) => "cannot connect: timed out".clone_into(&mut why),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use dynomite_api::crd::DynomiteCluster;
    use dynomite_planner::Defaults;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Anything may be asked: the tests have only this machine.
    fn anywhere(_: &IpAddr) -> bool {
        false
    }

    fn nodes(ip: &str) -> String {
        json!([
            {"token": "7", "hostname": "far-a-0.far", "peer_port": "8101", "rack": "far-a",
             "ip": ip, "zone": "far-a", "dc": "dc2"},
            {"token": "1", "hostname": "near", "rack": "dc1-a", "ip": "10.0.0.1", "dc": "dc1"},
        ])
        .to_string()
    }

    fn ok(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// A server that says the same to everyone, and what it was asked first.
    async fn says(answer: String) -> (DescribeUrl, Arc<Mutex<String>>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = DescribeUrl {
            host: "localhost".to_owned(),
            port: listener.local_addr().expect("bound").port(),
            path: "/REST/v1/admin/cluster_describe".to_owned(),
        };
        let (asked, count) = (Arc::new(Mutex::new(String::new())), Arc::default());
        let (heard, counted) = (Arc::clone(&asked), Arc::clone(&count));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                AtomicUsize::fetch_add(&counted, 1, Ordering::SeqCst);
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                *heard.lock().expect("unpoisoned") =
                    String::from_utf8_lossy(&request[..read]).into_owned();
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        (url, asked, count)
    }

    #[tokio::test]
    async fn a_datacenter_is_asked_as_dynomite_manager_was() {
        let (url, asked, _) = says(ok(&nodes("10.1.0.2"))).await;
        let peers = ask(&url, "dc2", anywhere, DEADLINE).await.expect("nodes");
        let address = peers[0].address.as_deref();
        assert_eq!((peers.len(), address), (1, Some("10.1.0.2")));
        let asked = asked.lock().expect("unpoisoned").clone();
        assert!(asked.starts_with("GET /REST/v1/admin/cluster_describe HTTP/1.1\r\n"));
        assert!(
            asked.to_ascii_lowercase().contains("\r\nhost: localhost:"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_without_a_word_of_it() {
        let (there, _, there_asked) = says(ok(&nodes("10.1.0.2"))).await;
        let elsewhere = format!("http://localhost:{}{}", there.port, there.path);
        let long = format!("[{}]", " ".repeat(ANSWER_MAX));
        for (answer, words) in [
            (
                format!("HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n"),
                "302: a redirection",
            ),
            (
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ncanary".to_owned(),
                "it answered 403",
            ),
            (ok("canary"), "not a JSON list"),
            (ok(&long), "more than"),
            (ok(&nodes("127.0.0.1")), "address"),
            ("canary\r\n\r\n".to_owned(), "the connection broke"),
        ] {
            let (url, _, _) = says(answer).await;
            let why = ask(&url, "dc2", anywhere, DEADLINE).await;
            let why = why.expect_err(words);
            assert!(why.contains(words) && !why.contains("canary"), "{why}");
        }
        assert_eq!(there_asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn who_does_not_answer_is_waited_for_only_so_long() {
        let (url, _, _) = says(String::new()).await;
        let soon = Duration::from_millis(200);
        let why = ask(&url, "dc2", anywhere, soon)
            .await
            .expect_err("it hangs");
        assert!(why.contains("no answer within"), "{why}");
    }

    #[tokio::test]
    async fn the_operators_own_machine_is_not_asked() {
        let (mut url, _, count) = says(ok(&nodes("10.1.0.2"))).await;
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ] {
            url.host = host.to_owned();
            let why = ask(&url, "dc2", is_unreachable, DEADLINE).await;
            let why = why.expect_err("it is this machine");
            assert!(why.contains("no other machine"), "{host}: {why}");
        }
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    fn cluster(url: Option<&str>) -> Cluster {
        let remotes = url.map(|url| json!({"name": "dc2", "describe": url}));
        let resource: DynomiteCluster = serde_json::from_value(json!({
            "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteCluster",
            "metadata": {"name": "ring", "namespace": "db", "uid": "u", "generation": 1},
            "spec": {"datacenter": "dc1", "racks": [{"name": "a"}], "nodesPerRack": 1,
                     "remoteDatacenters": remotes.into_iter().collect::<Vec<_>>()},
        }))
        .expect("a resource");
        let defaults = Defaults {
            sidecar_image: "i".to_owned(),
            engine_image: "i".to_owned(),
            image_pull_policy: None,
        };
        Cluster::new(&resource, &defaults).expect("valid")
    }

    #[test]
    fn one_question_at_a_time_and_ever_more_rarely_while_there_is_no_answer() {
        let remotes = Remotes::default();
        let here = cluster(Some("http://far:8080/v1/admin/cluster_describe"));
        let now = Instant::now();
        let due = remotes.due(&here, now);
        assert_eq!(due.len(), 1);
        let url = &due[0].1;
        assert!(remotes.due(&here, now + DEADLINE).is_empty(), "it is asked");
        assert!(remotes.note("dc2", url, Err("away".to_owned()), now));
        assert!(remotes.due(&here, now + EVERY).is_empty());
        let later = now + 2 * EVERY;
        assert_eq!(remotes.due(&here, later).len(), 1);
        assert!(
            !remotes.note("dc2", url, Err("away".to_owned()), later),
            "nothing new"
        );
        for i in 0..20 {
            let at = later + i * PAUSE_MAX + PAUSE_MAX;
            assert_eq!(remotes.due(&here, at).len(), 1, "never given up");
            remotes.note("dc2", url, Err("away".to_owned()), at);
        }
        let at = later + 40 * PAUSE_MAX;
        remotes.due(&here, at);
        let peer = read_description(nodes("10.1.0.2").as_bytes(), "dc2");
        assert!(remotes.note("dc2", url, peer.clone(), at));
        assert_eq!(remotes.due(&here, at + EVERY).len(), 1);
        // Trouble takes nothing away, and so does another URL.
        assert!(remotes.note("dc2", url, Err("away".to_owned()), at));
        let known = |remotes: &Remotes| remotes.lock()["dc2"].described.clone();
        assert_eq!(known(&remotes).and_then(|d| d.nodes), peer.ok());
        let there = cluster(Some("http://other:8080/v1/admin/cluster_describe"));
        assert_eq!(remotes.due(&there, at).len(), 1, "another place, at once");
        assert!(
            !remotes.note("dc2", url, Ok(Vec::new()), at),
            "an old answer"
        );
        assert!(known(&remotes).is_some_and(|d| d.nodes.is_some_and(|n| n.len() == 1)));
        assert!(remotes.due(&cluster(None), at).is_empty());
        assert!(remotes.lock().is_empty());
    }
}
