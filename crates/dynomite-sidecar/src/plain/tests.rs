//! Every path of the plain port: what it answers, to whom, and that none of them changes anything.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::fixture;

const HERE: &str = "127.0.0.1:40000";
const HERE_MAPPED: &str = "[::ffff:127.0.0.1]:40000";
const ELSEWHERE: &str = "10.0.0.9:40000";

struct Node {
    server: Server,
    view: watch::Sender<View>,
    inputs: mpsc::Receiver<Input>,
}

fn node() -> Node {
    let (view, shown) = watch::channel(fixture::view());
    let (sender, inputs) = mpsc::channel(16);
    let mut server = Server::new(Arc::new(fixture::site()), shown, sender, Arc::default());
    server.address = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));
    Node {
        server,
        view,
        inputs,
    }
}

impl Node {
    async fn ask(&self, method: &str, path: &str, from: &str) -> (u16, String) {
        use http_body_util::BodyExt;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = self.server.route(&method, path, from.parse().unwrap());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, ELSEWHERE).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test]
async fn no_path_takes_anything_but_get_and_none_mutates() {
    let mut node = node();
    let mut paths: Vec<String> = ["/startupz", "/readyz", "/livez", "/metrics"]
        .map(str::to_owned)
        .into();
    let describing = admin::PATHS.iter().map(|(name, _)| *name);
    for name in describing.chain(admin::MUTATING) {
        paths.push(format!("/REST/v1/admin/{name}"));
        paths.push(format!("/v1/Admin/{}", name.to_uppercase()));
    }
    for path in &paths {
        for method in ["PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"] {
            let (status, _) = node.ask(method, path, HERE).await;
            let name = path.rsplit('/').next().unwrap().to_lowercase();
            let mutating = admin::MUTATING.contains(&name.as_str()) && method == "POST";
            let want = if mutating { 403 } else { 405 };
            assert_eq!(status, want, "{method} {path}");
        }
        for from in [HERE, ELSEWHERE] {
            let (status, body) = node.ask("GET", path, from).await;
            let name = path.rsplit('/').next().unwrap().to_lowercase();
            let mutating = admin::MUTATING.contains(&name.as_str());
            let seeds = name == "get_seeds" && from == ELSEWHERE;
            let want = if mutating || seeds { 403 } else { 200 };
            assert_eq!(status, want, "{path} from {from}: {body}");
            if mutating {
                let host = "https://ring-dc1-a-0.ring-nodes.default.svc.cluster.local:8443";
                assert!(
                    body.contains(host) && body.contains("ring-admin-tls"),
                    "{body}"
                );
            }
        }
    }
    for path in [
        "/",
        "/v1/desired",
        "/v1/report",
        "/READYZ",
        "/v1/admin",
        "/v1/admin/ring/1",
    ] {
        assert_eq!(node.ask("GET", path, HERE).await.0, 404, "{path}");
        assert_eq!(node.ask("PUT", path, HERE).await.0, 404, "{path}");
    }
    assert!(
        node.inputs.try_recv().is_err(),
        "the driver heard of nothing"
    );
}

#[tokio::test]
async fn probes_say_what_the_view_says() {
    let mut node = node();
    node.view.send_modify(|view| {
        view.started = false;
        view.ready = false;
        view.live = false;
        view.report.reason = "NoDonor".to_owned();
    });
    for path in ["/startupz", "/livez", "/readyz"] {
        let (status, body) = node.ask("GET", path, ELSEWHERE).await;
        assert_eq!(status, 503);
        assert_eq!(body, "Serving: NoDonor\n", "{path}");
    }
    assert!(matches!(node.inputs.try_recv(), Ok(Input::NotReadySeen)));
    assert!(node.inputs.try_recv().is_err(), "only readiness is told");
    node.view.send_modify(|view| view.live = true);
    assert_eq!(node.ask("GET", "/livez", HERE).await.0, 200);
    let Node { server, view, .. } = node;
    drop(view);
    let answer = server.route(&Method::GET, "/livez", HERE.parse().unwrap());
    assert_eq!(answer.status(), 503, "a sidecar without its driver is dead");
}

#[tokio::test(start_paused = true)]
async fn a_new_sidecar_says_that_a_node_is_not_ready_only_once_it_has_taken_it_up() {
    let node = node();
    node.view.send_modify(|view| view.ready = false);
    let begun = Instant::now();
    node.server.take_up("/livez").await;
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "only readiness is kept waiting"
    );
    let becomes_ready = async {
        tokio::time::sleep(TAKE_UP / 3).await;
        node.view.send_modify(|view| view.ready = true);
    };
    tokio::join!(node.server.take_up("/readyz"), becomes_ready);
    assert_eq!(begun.elapsed(), TAKE_UP / 3);
    assert_eq!(node.ask("GET", "/readyz", HERE).await.0, 200);
    node.view.send_modify(|view| view.ready = false);
    node.server.take_up("/readyz").await;
    assert_eq!(begun.elapsed(), TAKE_UP, "and that not for long");
    node.server.take_up("/readyz").await;
    assert_eq!(begun.elapsed(), TAKE_UP, "and once");
}

#[tokio::test]
async fn seeds_name_every_peer_by_address() {
    let node = node();
    let want = "10.0.0.1:8101:dc1-a:dc1:3530913378|10.0.0.0:8101:dc1-b:dc1:1383429731";
    for from in [HERE, HERE_MAPPED, "[::1]:1"] {
        let got = node.ask("GET", "/REST/v1/admin/get_seeds", from).await;
        assert_eq!(got, (200, want.to_owned()), "{from}");
    }
    let parsed = dynomite_protocol::seeds::parse_list(want).unwrap();
    assert_eq!(parsed.len(), 2);
    node.view.send_modify(|view| {
        let mut peer = fixture::peer("dc1-b", 0, 5);
        peer.address = Some("fd00::1".to_owned());
        view.seeds = vec![peer].into();
    });
    let (_, body) = node.ask("GET", "/v1/admin/get_seeds", HERE).await;
    assert_eq!(body, "[fd00::1]:8101:dc1-b:dc1:5");
    node.view.send_modify(|view| view.desired = None);
    let (status, _) = node.ask("GET", "/v1/admin/get_seeds", HERE).await;
    assert_eq!(status, 503, "an unknown ring is not an empty one");
}

#[tokio::test]
async fn the_old_paths_answer_in_the_old_shapes() {
    let node = node();
    let ring = node.json("/REST/v1/admin/cluster_describe").await;
    let own = json!({
        "token": "1383429731",
        "hostname": "ring-dc1-a-0.ring-nodes.default.svc.cluster.local",
        "port": "8102",
        "secure_port": "8102",
        "secure_storage_port": "8102",
        "peer_port": "8101",
        "rack": "dc1-a",
        "ip": "10.0.0.7",
        "zone": "dc1-a",
        "dc": "dc1",
    });
    assert_eq!(ring[0], own);
    assert_eq!(ring.as_array().unwrap().len(), 3);
    assert_eq!(ring[2]["ip"], "10.0.0.0");
    let other = "ring-dc1-b-0.ring-nodes.default.svc.cluster.local";
    assert_eq!(ring[2]["hostname"], other);

    let status = node.json("/v1/admin/status").await;
    let want = json!({
        "warmup": {"status": "not started", "time": "1970-01-01T00:00:00Z"},
        "backup": {"status": "not started", "time": ""},
        "restore": {"status": "not started", "time": ""},
        "consistency": {"read": "DC_ONE", "write": "DC_ONE"},
        "health": {"dynomiteAlive": true, "storageAlive": true, "Overall": true},
        "tokens": "1383429731",
        "storage engine": "Redis",
    });
    assert_eq!(status, want);
    assert_eq!(node.json("/v1/admin/version").await, json!(["0.1.0"]));
    let levels = json!({"read_consistency": "DC_ONE", "write_consistency": "DC_ONE"});
    assert_eq!(node.json("/v1/admin/consistency").await, levels);
    let hashtag = node.json("/v1/admin/hashtag").await;
    assert_eq!(hashtag, json!({"hashtag": "none"}));
    assert_eq!(node.json("/v1/admin/info").await["node"], fixture::NODE);
}

/// What Netflix's engine sends, and what it needs to find in the answer.
#[tokio::test]
async fn an_old_engine_gets_its_seeds_over_http_1_0() {
    let node = node();
    let listener = http::listen(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(node.server.clone().run(listener));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let request = "GET /REST/v1/admin/get_seeds HTTP/1.0\r\nHost: 127.0.0.1\r\nUser-Agent: HTMLGET 1.0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Up to the end: the server closes the connection.
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("10.0.0.1:8101:"), "{body}");
}
