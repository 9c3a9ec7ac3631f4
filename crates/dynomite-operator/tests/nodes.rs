//! The client for nodes against real TLS: who is believed, what a broken connection means, how long a hang lasts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dynomite_api::Token;
use dynomite_api::contract::{
    ClusterRef, Consistency, EngineSettings, HealthSettings, NodeDesired, NodeIdentity, NodePhase,
    NodeReport, Proof, ProofKind, StoreSettings,
};
use dynomite_operator::certificates;
use dynomite_operator::node_client::{Assigned, Error, NodeClient, Target};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const HOST: &str = "ring-a-0.ring-nodes.db.svc.cluster.local";

/// The two Secrets of a cluster.
struct Secrets {
    ca: Secret,
    node: Secret,
}

fn secrets() -> Secrets {
    let now = Timestamp::now();
    let names = ["*.ring-nodes.db.svc.cluster.local".to_owned()];
    let ca = secret(certificates::new_ca("ring", None, now).expect("a CA"));
    let node = secret(certificates::new_node(&ca, &names, now).expect("a certificate"));
    Secrets { ca, node }
}

fn secret(data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        data: Some(data),
        ..Secret::default()
    }
}

/// How a node of the test behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answer,
    /// It closes the connection after each answer.
    CloseEachTime,
    Refuse,
    Hang,
}

struct Node {
    port: u16,
    connections: Arc<AtomicUsize>,
}

/// A node that shows the certificate of `shown` and trusts the CA of `trusts`.
async fn node(shown: &Secret, trusts: &Secret, manner: Manner) -> Node {
    let value = |secret: &Secret, key| certificates::value(secret, key).expect(key).to_vec();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates::certificates(&value(trusts, "ca.crt")));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates::certificates(&value(shown, "tls.crt")),
            PrivateKeyDer::from_pem_slice(&value(shown, "tls.key")).expect("a key"),
        )
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(move |request| answer(request, manner));
                let mut server = hyper::server::conn::http1::Builder::new();
                server.keep_alive(manner != Manner::CloseEachTime);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Node { port, connections }
}

async fn answer(
    request: Request<Incoming>,
    manner: Manner,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let method = request.method().clone();
    request.into_body().collect().await?;
    if manner == Manner::Hang {
        std::future::pending::<()>().await;
    }
    let (status, body) = match (manner, method) {
        (Manner::Refuse, Method::PUT) => (StatusCode::CONFLICT, "{}".to_owned()),
        (Manner::Refuse, _) => (StatusCode::FORBIDDEN, "not you".to_owned()),
        (_, Method::PUT) => (StatusCode::OK, String::new()),
        _ => (
            StatusCode::OK,
            serde_json::to_string(&report()).expect("JSON"),
        ),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    Ok(response)
}

fn report() -> NodeReport {
    NodeReport {
        phase: NodePhase::Serving,
        ready: true,
        proof: Proof {
            kind: ProofKind::Bootstrap,
            since: None,
            exact: None,
            before: true,
            remembered: None,
        },
        ..NodeReport::new("ring-a-0", "pod-1", "1", Timestamp::UNIX_EPOCH)
    }
}

fn desired() -> NodeDesired {
    NodeDesired {
        cluster: ClusterRef {
            namespace: "db".into(),
            name: "ring".into(),
            uid: "c".into(),
            created: None,
        },
        cluster_generation: 1,
        generation: 1,
        node: NodeIdentity {
            name: "ring-a-0".into(),
            pod_uid: "pod-1".into(),
            datacenter: "dc1".into(),
            rack: "a".into(),
            token: Token(1),
            host: HOST.into(),
        },
        peers: Vec::new(),
        donors: Vec::new(),
        grant: None,
        copy_not_before: None,
        snapshot: None,
        restore: None,
        compare: None,
        distrust: None,
        hold: None,
        serve: false,
        consistency: Consistency::default(),
        engine: EngineSettings::default(),
        store: StoreSettings::default(),
        health: HealthSettings::default(),
    }
}

fn target(pod_uid: &str) -> Target {
    Target {
        pod_uid: pod_uid.into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        host: HOST.into(),
    }
}

fn client(ca: &Secret, node: &Node) -> NodeClient {
    NodeClient::with_port(ca, node.port).expect("a client")
}

#[tokio::test]
async fn one_connection_serves_many_questions_and_a_closed_one_is_made_anew() {
    let secrets = secrets();
    for (manner, connections) in [(Manner::Answer, 1), (Manner::CloseEachTime, 4)] {
        let node = node(&secrets.node, &secrets.ca, manner).await;
        let client = client(&secrets.ca, &node);
        for _ in 0..3 {
            let got = client.report(&target("pod-1")).await.expect("a report");
            assert_eq!(got, report());
        }
        let assigned = client.assign(&target("pod-1"), &desired()).await;
        assert!(matches!(assigned, Ok(Assigned::Accepted)), "{assigned:?}");
        assert_eq!(node.connections.load(Ordering::SeqCst), connections);
    }
}

#[tokio::test]
async fn only_a_node_of_this_cluster_is_believed() {
    let (ours, others) = (secrets(), secrets());
    // Another cluster's node, and somebody who stole the operator's own certificate.
    for shown in [&others.node, &ours.ca] {
        let impostor = node(shown, &ours.ca, Manner::Answer).await;
        let result = client(&ours.ca, &impostor).report(&target("pod-1")).await;
        assert!(
            matches!(result, Err(Error::Handshake(_) | Error::NotANode(_))),
            "{result:?}"
        );
    }
    // A node's certificate does not make its holder an operator's peer of another name.
    let node = node(&ours.node, &ours.ca, Manner::Answer).await;
    let mut elsewhere = target("pod-1");
    elsewhere.host = "other-a-0.other-nodes.db.svc.cluster.local".into();
    let result = client(&ours.ca, &node).report(&elsewhere).await;
    assert!(matches!(result, Err(Error::Handshake(_))), "{result:?}");
}

#[tokio::test]
async fn the_answer_of_another_pod_at_the_address_does_not_count() {
    let secrets = secrets();
    let node = node(&secrets.node, &secrets.ca, Manner::Answer).await;
    let result = client(&secrets.ca, &node).report(&target("pod-2")).await;
    assert!(matches!(result, Err(Error::OtherPod)), "{result:?}");
}

#[tokio::test]
async fn refusals_and_conflicts_are_told_apart() {
    let secrets = secrets();
    let node = node(&secrets.node, &secrets.ca, Manner::Refuse).await;
    let client = client(&secrets.ca, &node);
    let result = client.report(&target("pod-1")).await;
    assert!(
        matches!(&result, Err(Error::Status(StatusCode::FORBIDDEN, why)) if why == "not you"),
        "{result:?}"
    );
    let assigned = client.assign(&target("pod-1"), &desired()).await;
    assert!(
        matches!(assigned, Ok(Assigned::Conflict(_))),
        "{assigned:?}"
    );
}

#[tokio::test]
async fn a_node_that_hangs_costs_a_second() {
    let secrets = secrets();
    let node = node(&secrets.node, &secrets.ca, Manner::Hang).await;
    let result = client(&secrets.ca, &node).report(&target("pod-1")).await;
    assert!(matches!(result, Err(Error::Deadline(_))), "{result:?}");
}

#[test]
fn a_damaged_secret_makes_no_client() {
    let mut ca = secrets().ca;
    ca.data.get_or_insert_default().remove("tls.key");
    let error = NodeClient::new(&ca).err().expect("an error");
    assert!(matches!(error, Error::Certificate(_)), "{error}");
}
