//! The mutual-TLS port over real TLS on loopback: who gets in, who gets what.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{
    CN_ADMIN, CN_NODE, CN_OPERATOR, CallAnswer, CallOutcome, Cut, Donor, NodeReport, Peer, Source,
    Wish,
};
use dynomite_lifecycle::{CutSight, Refusal, Word};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;

use super::*;
use crate::compare::Comparer;
use crate::fixture::{self, DOMAIN, NODE};
use crate::http;
use crate::shared::{Input, Refused, ReplicationAsk, View};
use crate::tunnel::{Traffic, Tunnel};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "dynomite test");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The PEM of a certificate and of its key.
    fn sign(&self, names: &[&str], expired: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let hosts = vec![format!("*.{DOMAIN}")];
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for &name in names {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Lays the files of a Secret out.
    pub(crate) fn files(&self, dir: &Path, name: &str) {
        let (certificate, key) = self.sign(&[name], false);
        fs::write(dir.join("tls.crt"), certificate).unwrap();
        fs::write(dir.join("tls.key"), key).unwrap();
        fs::write(dir.join("ca.crt"), &self.pem).unwrap();
    }

    fn client(&self, certificate: Option<&(String, String)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        }
    }
}

/// A sidecar's mutual-TLS port, with a driver that grants every wish but those
/// of generation 0 and of the cluster "other".
struct Node {
    authority: Authority,
    address: SocketAddr,
    view: watch::Sender<View>,
    traffic: Arc<Traffic>,
    credentials: Credentials,
    store: PathBuf,
    pages: Arc<Pages>,
    dir: TempDir,
}

/// What the engine answers: status and body by path.
type Pages = Mutex<BTreeMap<&'static str, (u16, String)>>;

/// The engine's REST port.
async fn rest(listener: TcpListener, pages: Arc<Pages>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_err() {
            continue;
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        // As Netflix's engine does it.
        let unknown = (200, "OK\r\n".to_owned());
        let page = pages.lock().unwrap().get(path).cloned();
        let (status, body) = page.unwrap_or(unknown);
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.get_mut().write_all(answer.as_bytes()).await;
    }
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        authority.files(dir.path(), CN_NODE);
        let credentials =
            Credentials::watch_every(dir.path().to_owned(), Duration::from_millis(20));
        let store = dir.path().join("store.sock");
        let view = View {
            store_socket: store.clone(),
            ..fixture::view()
        };
        let (view, shown) = watch::channel(view);
        let (inputs, received) = mpsc::channel(16);
        tokio::spawn(drive(received));
        let traffic = Arc::<Traffic>::default();
        let listener = http::listen(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let engine = http::listen(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let admin = engine.local_addr().unwrap();
        let pages = Arc::<Pages>::default();
        tokio::spawn(rest(engine, pages.clone()));
        let desk = Arc::new(Desk::new(Arc::new(fixture::site())).unwrap());
        let client = Client::new(credentials.clone());
        let comparer = Arc::new(Comparer::new(Arc::new(fixture::site()), client));
        let server = Server::new(
            credentials.clone(),
            inputs,
            shown,
            traffic.clone(),
            admin,
            Asked { desk, comparer },
        );
        tokio::spawn(server.run(listener));
        Self {
            authority,
            address,
            view,
            traffic,
            credentials,
            store,
            pages,
            dir,
        }
    }

    fn donor(&self) -> Donor {
        Donor {
            name: NODE.to_owned(),
            host: format!("{NODE}.{DOMAIN}"),
            address: Some(self.address.ip().to_string()),
            port: self.address.port(),
        }
    }

    async fn ask(
        &self,
        config: ClientConfig,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), String> {
        let asked = async {
            let name = ServerName::try_from(format!("{NODE}.{DOMAIN}")).unwrap();
            let stream = TcpStream::connect(self.address).await.unwrap();
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
                .map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Ok((status, body))
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }
}

async fn drive(mut inputs: mpsc::Receiver<Input>) {
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Desired(desired, reply) if desired.generation == 0 => {
                let refused = Refused {
                    why: Refusal::Generation {
                        expected: 1,
                        given: 0,
                    },
                    report: fixture::report(),
                };
                let _ = reply.send(Err(refused));
            }
            Input::Told(word, by, reply) => {
                let right = word == Word::StopStore && by == CN_ADMIN;
                let outcome = if right { Ok(()) } else { Err(by) };
                drop(reply.send(outcome));
            }
            Input::Desired(_, reply) => drop(reply.send(Ok(fixture::report()))),
            Input::Replication(ask, reply) => {
                let known =
                    ask.cluster_uid == "cluster" && ask.token == fixture::desired().node.token;
                let _ = reply.send(known.then_some(()).ok_or("not of this ring".to_owned()));
            }
            _ => {}
        }
    }
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "node")
        .body(Full::new(body.into()))
        .unwrap()
}

fn document(generation: u64) -> Vec<u8> {
    let mut desired = fixture::desired();
    desired.generation = generation;
    serde_json::to_vec(&desired).unwrap()
}

#[tokio::test]
async fn only_those_the_authority_knows_pass_the_handshake() {
    let node = Node::new();
    let right = node.authority.sign(&[CN_OPERATOR], false);
    let foreign = Authority::new().sign(&[CN_OPERATOR], false);
    let expired = node.authority.sign(&[CN_OPERATOR], true);
    let cases = [
        ("no certificate", None, false),
        ("another authority's", Some(&foreign), false),
        ("expired", Some(&expired), false),
        ("right", Some(&right), true),
    ];
    for (what, certificate, passes) in cases {
        let config = node.authority.client(certificate);
        let answer = node.ask(config, request("GET", "/v1/report", "")).await;
        assert_eq!(answer.is_ok(), passes, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn credentials_are_taken_and_never_given_back() {
    let node = Node::new();
    let certificate = node.authority.sign(&[CN_OPERATOR], false);
    let ask = async |method, path, body: &str| {
        let config = node.authority.client(Some(&certificate));
        let answer = node.ask(config, request(method, path, body.to_owned()));
        let (status, body) = answer.await.unwrap();
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    };
    let place = |id| {
        format!(
            r#"{{"place":{{"store":"main","provider":{{"local":{{"path":"/nowhere"}}}},
            "credentials":"{id}"}},"action":{{"kind":"get","key":"x"}}}}"#
        )
    };
    let (status, answer) = ask("POST", "/v1/bucket", &place("7f")).await;
    assert!(
        status == 200 && answer.contains("CredentialsMissing"),
        "{answer}"
    );
    let good = r#"{"stores":{"main":{"id":"7f","entries":{"KEY":"canary"}}},
        "encryptionKeys":{"2026":"canary"}}"#;
    let bad = r#"{"stores":{"main":{"id":"7f","entries":"canary"}}}"#;
    let (status, answer) = ask("PUT", "/v1/credentials", good).await;
    assert!(
        status == 200 && answer.contains(r#""credentials":["7f"]"#),
        "{answer}"
    );
    assert!(!answer.contains("canary"));
    let (status, answer) = ask("PUT", "/v1/credentials", bad).await;
    assert!(status == 400 && !answer.contains("canary"), "{answer}");
    let (status, answer) = ask("POST", "/v1/bucket", &place("7f")).await;
    assert!(status == 200 && answer.contains("NoSuchBucket"), "{answer}");
    let endless = "x".repeat(9 << 20);
    let (status, _) = ask("POST", "/v1/bucket", &endless).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn the_common_name_decides_which_paths_are_open() {
    let node = Node::new();
    // Status by (operator, node, another name, two names).
    let cases = [
        ("PUT", "/v1/desired", [200, 403, 403, 403]),
        ("GET", "/v1/report", [200, 200, 403, 403]),
        ("GET", "/v1/replication", [403, 400, 403, 403]),
        ("GET", "/v1/cut", [403, 400, 403, 403]),
        // It says whose ring map it is asked for, and is not that node.
        ("GET", "/v1/ring", [409, 409, 403, 403]),
        // A desired document is neither of what these take.
        ("PUT", "/v1/credentials", [400, 403, 403, 403]),
        ("POST", "/v1/bucket", [400, 403, 403, 403]),
        ("PUT", "/v1/calls", [400, 403, 403, 403]),
        ("GET", "/v1/credentials", [405, 403, 403, 403]),
        ("GET", "/v1/desired", [405, 403, 403, 403]),
        ("PUT", "/v1/report", [405, 405, 403, 403]),
        ("DELETE", "/v1/replication", [403, 405, 403, 403]),
        ("GET", "/v1/nothing", [404, 404, 404, 404]),
        ("GET", "/V1/report", [404, 404, 404, 404]),
    ];
    let names: [&[&str]; 4] = [&[CN_OPERATOR], &[CN_NODE], &["dynomite-operator2"], &[]];
    let certificates = names.map(|names| node.authority.sign(names, false));
    for (method, path, want) in cases {
        for (certificate, (names, want)) in certificates.iter().zip(names.iter().zip(want)) {
            let config = node.authority.client(Some(certificate));
            let answer = node.ask(config, request(method, path, document(1))).await;
            let (status, body) = answer.unwrap();
            assert_eq!(status.as_u16(), want, "{method} {path} as {names:?}");
            if !status.is_success() {
                let failure: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert!(failure["error"].is_string() && failure["remedy"].is_string());
            }
        }
    }
}

#[tokio::test]
async fn the_old_calls_are_open_to_people_and_answer_in_the_old_words() {
    let node = Node::new();
    let ask = |name, method, path| {
        let certificate = node.authority.sign(&[name], false);
        let config = node.authority.client(Some(&certificate));
        node.ask(config, request(method, path, ""))
    };
    for (method, path) in [
        ("GET", "/REST/v1/admin/stopstorageprocess"),
        ("POST", "/rest/V1/Admin/stopStorageProcess"),
    ] {
        let (status, body) = ask(CN_ADMIN, method, path).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"[\"ok\"]"[..]));
        let (status, _) = ask(CN_NODE, method, path).await.unwrap();
        assert_eq!(status, StatusCode::FORBIDDEN, "no node stops another");
    }
    for path in [
        "/REST/v1/admin/start",
        "/REST/v1/admin/stop",
        "/REST/v1/admin/startstorageprocess",
    ] {
        let (status, body) = ask(CN_OPERATOR, "POST", path).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "could not be kept");
        let words = String::from_utf8_lossy(&body).into_owned();
        assert!(words.contains("dynomite-operator"), "{words}");
        let (status, _) = ask(CN_ADMIN, "PUT", path).await.unwrap();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    for path in ["/v1/desired", "/v1/report", "/v1/replication"] {
        let (status, _) = ask(CN_ADMIN, "GET", path).await.unwrap();
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    }
    let (status, _) = ask(CN_ADMIN, "GET", "/REST/v1/admin/destroy")
        .await
        .unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_person_asks_for_a_backup_and_hears_what_the_operator_makes() {
    let node = Node::new();
    let ask = |name, method, path, body: String| {
        let certificate = node.authority.sign(&[name], false);
        let config = node.authority.client(Some(&certificate));
        node.ask(config, request(method, path, body))
    };
    let call = async |path: &'static str, outcome: CallOutcome| {
        let asked = ask(CN_ADMIN, "GET", path, String::new());
        let operator = async {
            // The call is shown to the operator while the person waits.
            let call = loop {
                let report = ask(CN_OPERATOR, "GET", "/v1/report", String::new()).await;
                let report: NodeReport = serde_json::from_slice(&report.unwrap().1).unwrap();
                if let Some(call) = report.calls.into_iter().next() {
                    break call;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(call.by, CN_ADMIN);
            let id = call.id.clone();
            let answer = serde_json::to_string(&CallAnswer { id, outcome }).unwrap();
            let put = async |name| {
                let (status, _) = ask(name, "PUT", "/v1/calls", answer.clone()).await.unwrap();
                status
            };
            assert_eq!(put(CN_NODE).await, StatusCode::FORBIDDEN);
            assert_eq!(put(CN_ADMIN).await, StatusCode::FORBIDDEN);
            assert_eq!(put(CN_OPERATOR).await, StatusCode::OK);
            call.wish
        };
        let (heard, wish) = tokio::join!(asked, operator);
        let (status, body) = heard.unwrap();
        (wish, status, String::from_utf8(body.to_vec()).unwrap())
    };
    let made = CallOutcome::Made {
        object: "DynomiteBackup".to_owned(),
        namespace: "data".to_owned(),
        name: "b".to_owned(),
    };
    let (wish, status, body) = call("/REST/v1/admin/takeSnapshot?name=b", made).await;
    let name = Some("b".to_owned());
    assert_eq!((wish, status), (Wish::Backup { name }, StatusCode::OK));
    let words: Vec<String> = serde_json::from_str(&body).unwrap();
    assert_eq!(words[..2], ["ok", "DynomiteBackup b"]);
    assert!(
        words[2].contains("-n data wait dynomitebackup/b "),
        "{body}"
    );

    let why = "there is no such backup".to_owned();
    let refused = CallOutcome::Refused { why: why.clone() };
    let (wish, status, body) = call("/REST/v1/admin/restore", refused).await;
    let from = "latest".to_owned();
    assert_eq!(
        (wish, status),
        (Wish::Restore { from }, StatusCode::CONFLICT)
    );
    assert!(body.contains(&why), "{body}");

    let path = "/REST/v1/admin/restore?date=yesterday";
    let (status, _) = ask(CN_ADMIN, "GET", path, String::new()).await.unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = ask(CN_NODE, "GET", path, String::new()).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN, "no node asks for a restore");
}

#[tokio::test]
async fn a_refused_document_is_answered_with_the_report() {
    let node = Node::new();
    let certificate = node.authority.sign(&[CN_OPERATOR], false);
    let put = |body: Vec<u8>| {
        let config = node.authority.client(Some(&certificate));
        node.ask(config, request("PUT", "/v1/desired", body))
    };
    let (status, body) = put(document(1)).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        serde_json::from_slice::<NodeReport>(&body).unwrap(),
        fixture::report()
    );
    let (status, body) = put(document(0)).await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        serde_json::from_slice::<NodeReport>(&body).unwrap(),
        fixture::report()
    );
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(value["error"].as_str().unwrap().contains("generation"));

    assert_eq!(put(b"{".to_vec()).await.unwrap().0, StatusCode::BAD_REQUEST);
    let large = put(vec![b' '; 3 * 1024 * 1024]).await;
    // The server may close while the client still sends.
    assert!(large.is_err() || large.unwrap().0 == StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let node = Node::new();
    let before = node.credentials.configs().unwrap();
    let next = Authority::new();
    next.files(node.dir.path(), CN_NODE);
    let taken_over = async {
        while Arc::ptr_eq(&node.credentials.configs().unwrap().server, &before.server) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken_over).await.unwrap();
    let certificate = next.sign(&[CN_OPERATOR], false);
    let config = next.client(Some(&certificate));
    let answer = node.ask(config, request("GET", "/v1/report", "")).await;
    assert_eq!(answer.unwrap().0, StatusCode::OK);

    // Files that do not fit leave everything as it was.
    let before = node.credentials.configs().unwrap();
    for file in ["tls.key", "ca.crt", "tls.crt"] {
        fs::write(node.dir.path().join(file), "nothing of use").unwrap();
        node.credentials.refresh(node.dir.path(), None);
        let after = node.credentials.configs().unwrap();
        assert!(Arc::ptr_eq(&after.server, &before.server), "{file}");
    }
}

fn ask() -> ReplicationAsk {
    ReplicationAsk {
        node: "ring-dc1-b-0".to_owned(),
        cluster_uid: "cluster".to_owned(),
        token: fixture::desired().node.token,
    }
}

#[tokio::test]
async fn a_copy_is_opened_for_a_peer_and_cut_when_it_is_not_proven() {
    let node = Node::new();
    let client = Client::new(node.credentials.clone());
    let refused = client.replicate(&node.donor(), &ask()).await;
    assert!(refused.unwrap_err().contains("does not answer"), "no store");

    let store = UnixListener::bind(&node.store).unwrap();
    let mut stream = client.replicate(&node.donor(), &ask()).await.unwrap();
    let (mut local, _) = store.accept().await.unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut heard = [0; 6];
    local.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"PING\r\n");
    local.write_all(&vec![7; 100_000]).await.unwrap();
    let mut copied = vec![0; 100_000];
    stream.read_exact(&mut copied).await.unwrap();
    assert!(copied.iter().all(|&byte| byte == 7));
    assert_eq!(node.traffic.sent.load(Ordering::Relaxed), 100_000);

    // A request that does not belong to replication never arrives.
    let mut rogue = client.replicate(&node.donor(), &ask()).await.unwrap();
    let (mut untouched, _) = store.accept().await.unwrap();
    rogue.write_all(b"PING\r\nFLUSHALL\r\n").await.unwrap();
    let mut arrived = Vec::new();
    untouched.read_to_end(&mut arrived).await.unwrap();
    assert!(!arrived.windows(8).any(|word| word == b"FLUSHALL"));

    node.view.send_modify(|view| view.donates = false);
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut heard)).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)), "the stream is cut");
}

#[tokio::test]
async fn a_copy_is_refused_to_strangers_and_by_strangers() {
    let node = Node::new();
    let _store = UnixListener::bind(&node.store).unwrap();
    let client = Client::new(node.credentials.clone());
    let stranger = ReplicationAsk {
        cluster_uid: "other".to_owned(),
        ..ask()
    };
    let other_name = Donor {
        name: "ring-dc1-c-0".to_owned(),
        ..node.donor()
    };
    let other_host = Donor {
        host: "ring-dc1-a-0.other-nodes.default.svc.cluster.local".to_owned(),
        ..node.donor()
    };
    let cases = [
        (node.donor(), stranger, "not of this ring"),
        (other_name, ask(), "this is ring-dc1-a-0"),
        (other_host, ask(), "certificate"),
    ];
    for (donor, ask, want) in cases {
        let why = client.replicate(&donor, &ask).await.unwrap_err();
        assert!(why.contains(want), "{why}");
    }
    node.view.send_modify(|view| view.donates = true);
    client.replicate(&node.donor(), &ask()).await.unwrap();
}

#[tokio::test]
async fn a_moment_is_named_to_a_peer_that_may_copy() {
    let node = Node::new();
    let client = Client::new(node.credentials.clone());
    let says = |path, status, body: &str| {
        let page = (status, body.to_owned());
        node.pages.lock().unwrap().insert(path, page);
    };
    // Netflix's engine answers every path.
    let sight = client.cut(&node.donor(), &ask()).await.unwrap();
    assert!(matches!(sight, CutSight::Unnumbered { .. }), "{sight:?}");
    let cut = Cut {
        replication_id: "r1".to_owned(),
        offset: 1000,
        keys: 3,
        received: [("c".to_owned(), Source::default())].into_iter().collect(),
    };
    says("/cut", 200, &serde_json::to_string(&cut).unwrap());
    let sight = client.cut(&node.donor(), &ask()).await.unwrap();
    assert_eq!(sight, CutSight::Cut(Box::new(cut)));
    // A refusal that time may cure, and one for want of numbers.
    says("/cut", 409, "the store is not connected\n");
    says("/info", 200, r#"{"received": {}}"#);
    let why = client.cut(&node.donor(), &ask()).await.unwrap_err();
    assert_eq!(why, "the store is not connected");
    says("/info", 200, r#"{"received": null}"#);
    let sight = client.cut(&node.donor(), &ask()).await.unwrap();
    let why = "the store is not connected".to_owned();
    assert_eq!(sight, CutSight::Unnumbered { why });
    let stranger = ReplicationAsk {
        cluster_uid: "other".to_owned(),
        ..ask()
    };
    let why = client.cut(&node.donor(), &stranger).await.unwrap_err();
    assert_eq!(why, "not of this ring");
    let other = Donor {
        name: "ring-dc1-b-0".to_owned(),
        ..node.donor()
    };
    assert!(
        client.cut(&other, &ask()).await.is_err(),
        "it is not that node"
    );
}

#[tokio::test]
async fn a_node_says_where_its_engine_looks_for_the_others() {
    let node = Node::new();
    let client = Client::new(node.credentials.clone());
    let peer = Peer {
        host: format!("{NODE}.{DOMAIN}"),
        address: Some(node.address.ip().to_string()),
        ..fixture::peer("dc1-b", 0, 7)
    };
    let ring = r#"{"dcs": [{"racks": [{"servers": [{"host": "10.0.0.9"}]}]}]}"#;
    let page = (200, ring.to_owned());
    node.pages.lock().unwrap().insert("/cluster_describe", page);
    let view = client.ring(&peer, node.address.port()).await.unwrap();
    assert_eq!(view.addresses, ["10.0.0.9"]);
    let other = Peer {
        host: format!("ring-dc1-b-0.{DOMAIN}"),
        ..peer
    };
    let asked = client.ring(&other, node.address.port()).await;
    assert!(asked.unwrap_err().contains("not ring-dc1-b-0"));
}

/// The newcomer's tunnel in front of `node`'s store.
fn tunnel(node: &Node, view: View) -> (SocketAddr, watch::Sender<View>, mpsc::Receiver<Input>) {
    let (view, shown) = watch::channel(view);
    let (inputs, received) = mpsc::channel(16);
    let listener = http::listen(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new(node.credentials.clone());
    let tunnel = Tunnel::new(client, inputs, shown, node.traffic.clone(), Arc::default());
    tokio::spawn(tunnel.run(listener));
    (address, view, received)
}

#[tokio::test]
async fn the_tunnel_leads_to_the_donor_of_the_warm_up_and_to_nobody_else() {
    let node = Node::new();
    let store = UnixListener::bind(&node.store).unwrap();
    let mut desired = fixture::desired();
    desired.donors = vec![node.donor()];
    let idle = View {
        desired: Some(Arc::new(desired)),
        ..fixture::view()
    };
    let (address, view, _inputs) = tunnel(&node, idle);
    let closed = async |mut stream: TcpStream| {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        assert!(matches!(read.unwrap(), Ok(0) | Err(_)));
    };
    closed(TcpStream::connect(address).await.unwrap()).await;
    // A donor that the ring map does not know is nobody's donor.
    view.send_modify(|view| view.donor = Some(fixture::donor("ring-dc1-x-0")));
    closed(TcpStream::connect(address).await.unwrap()).await;

    view.send_modify(|view| view.donor = Some(node.donor()));
    let mut local = TcpStream::connect(address).await.unwrap();
    local.write_all(b"PING\n").await.unwrap();
    let (mut remote, _) = store.accept().await.unwrap();
    let mut heard = [0; 5];
    remote.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"PING\n");
    remote.write_all(b"+OK\n").await.unwrap();
    local.read_exact(&mut heard[..4]).await.unwrap();
    assert_eq!(node.traffic.received.load(Ordering::Relaxed), 4);

    // A new address of the same donor cuts nothing; the end of the warm-up does.
    let moved = Donor {
        address: Some("192.0.2.1".to_owned()),
        ..node.donor()
    };
    view.send_modify(|view| view.donor = Some(moved));
    remote.write_all(b"+OK\n").await.unwrap();
    local.read_exact(&mut heard[..4]).await.unwrap();
    view.send_modify(|view| view.donor = None);
    closed(local).await;
}

#[tokio::test]
async fn the_driver_hears_why_a_donor_refused() {
    let node = Node::new();
    let mut desired = fixture::desired();
    desired.cluster.uid = "other".to_owned();
    desired.donors = vec![node.donor()];
    let view = View {
        desired: Some(Arc::new(desired)),
        donor: Some(node.donor()),
        ..fixture::view()
    };
    let (address, _view, mut inputs) = tunnel(&node, view);
    let _local = TcpStream::connect(address).await.unwrap();
    match inputs.recv().await {
        Some(Input::DonorRefused { donor, why }) => {
            assert_eq!((donor.as_str(), why.as_str()), (NODE, "not of this ring"));
        }
        other => panic!("unexpected {other:?}"),
    }
}
