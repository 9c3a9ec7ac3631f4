//! Backups of a real store, loaded into another one and compared.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{BucketAction, BucketAnswer, BucketRequest, RestorePart};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::bench::{self, Bench, KEYS};
use super::{PATIENCE, entry};
use crate::fixture;
use crate::secure::{Client, Credentials};
use crate::shared::{INPUT_QUEUE, ProcessName, Site};
use crate::snapshot::Desk;
use crate::tunnel::{Gate, Tunnel};

/// A launcher that holds a real store, for as long as somebody listens to it.
fn launcher(listener: &UnixListener, server: &Path, site: &Site) {
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
        let say = |stream: &mut UnixStream, line: &str| writeln!(stream, "{line}").is_ok();
        let status =
            r#"{"event":"status","running":null,"starts":0,"last_exit":"","terminating":false}"#;
        let mut child: Option<Child> = None;
        let mut alive = say(&mut stream, status);
        let (mut buffer, mut heard) = ([0; 1024], Vec::new());
        while alive {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => heard.extend_from_slice(&buffer[..count]),
                Err(_) => {}
            }
            while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = heard.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                if line.contains("start") && child.is_none() {
                    let started = Command::new(server)
                        .arg(site.store_conf())
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .spawn();
                    child = Some(started.expect("the store starts"));
                    let started = r#"{"event":"started","pid":7,"incarnation":"a-1","starts":1}"#;
                    alive &= say(&mut stream, started);
                } else if line.contains("stop")
                    && let Some(running) = &mut child
                {
                    let _ = running.kill();
                }
            }
            if child
                .as_mut()
                .is_some_and(|it| it.try_wait().is_ok_and(|exit| exit.is_some()))
            {
                child = None;
                alive &= say(&mut stream, r#"{"event":"exited","how":"signal 9"}"#);
            }
        }
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A pod with a scratch store, as its sidecar has it.
struct Pod {
    desk: Arc<Desk>,
    _directory: tempfile::TempDir,
    _view: watch::Sender<crate::shared::View>,
}

impl Pod {
    async fn start() -> Option<Self> {
        Self::with_launcher(|_| true).await
    }

    /// A pod whose launcher is there as soon as `may_begin` holds of its site.
    async fn with_launcher(may_begin: fn(&Site) -> bool) -> Option<Self> {
        let server = fixture::stores().into_iter().next()?;
        let directory = tempfile::tempdir().expect("a directory");
        let mut site = crate::run::tests::site_in(directory.path());
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        site.ports.replication = port.local_addr().expect("it is bound").port();
        let site = Arc::new(site);
        let socket = site.launcher_socket(ProcessName::Store);
        let of_launcher = Arc::clone(&site);
        std::thread::spawn(move || {
            while !may_begin(&of_launcher) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let listener = UnixListener::bind(socket).expect("a socket");
            launcher(&listener, &server, &of_launcher);
        });
        let desk = Arc::new(Desk::new(Arc::clone(&site)).expect("a thread"));
        desk.take_credentials(bench::credentials(true));
        let (inputs, heard) = mpsc::channel(INPUT_QUEUE);
        let gate = Arc::<Gate>::default();
        crate::verify::scratch(&site, &gate, &desk, &inputs, heard);
        let view = watch::Sender::new(fixture::view());
        let client = Client::new(Credentials::default());
        let traffic = Arc::default();
        let tunnel = Tunnel::new(client, inputs, view.subscribe(), traffic, gate);
        tokio::spawn(tunnel.run(port));
        Some(Self {
            desk,
            _directory: directory,
            _view: view,
        })
    }

    async fn load(&self, bench: &Bench, pod_uid: &str, part: &RestorePart) -> BucketAnswer {
        let request = BucketRequest {
            place: bench.server.place(),
            action: BucketAction::Load {
                pod_uid: pod_uid.to_owned(),
                part: Box::new(part.clone()),
                bytes_per_second: None,
            },
        };
        let asked = Arc::clone(&self.desk).small(request);
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        answered.expect("it ends")
    }
}

fn refusal(answer: &BucketAnswer) -> (&str, bool) {
    match answer {
        BucketAnswer::Failed { reason, retry, .. } => (reason, *retry),
        other => panic!("{other:?} is no refusal"),
    }
}

#[tokio::test]
async fn a_store_loads_what_was_stored_and_what_was_changed_is_found() {
    let (Some(mut bench), Some(pod)) = (Bench::start().await, Pod::start().await) else {
        return;
    };
    // It may be in the backup, and is past its time when it is loaded.
    bench.ask("SET soon x PX 1500");
    bench.ask(
        "EVAL \"for i=1,90 do redis.call('HSET','h:'..i%9,i,i) redis.call('ZADD','z',i,i) end\" 0",
    );
    bench.order(|order| {
        order.compress = true;
        order.encryption_key = Some("2026".to_owned());
    });
    let entry = entry(bench.ended().await);
    let part = bench::part(&entry);
    let over = async {
        while bench.ask("EXISTS soon").contains(":1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over)
        .await
        .expect("it expires");
    let keys = entry.counts().total();
    assert!(keys >= KEYS + 10, "{keys}");
    let loaded = BucketAnswer::Loaded { keys };
    assert_eq!(pod.load(&bench, "uid", &part).await, loaded);
    // Whoever lost the answer asks again, and nothing is loaded again.
    let object = bench
        .server
        .inside()
        .objects
        .remove(&part.key)
        .expect("it is there");
    assert_eq!(pod.load(&bench, "uid", &part).await, loaded);

    let put = |bench: &Bench, key: &str, content: &[u8]| {
        let content = bytes::Bytes::copy_from_slice(content);
        bench
            .server
            .inside()
            .objects
            .insert(key.to_owned(), content);
        RestorePart {
            key: key.to_owned(),
            ..part.clone()
        }
    };
    let mut flipped = object.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let bad = put(&bench, "flipped", &flipped);
    let answer = pod.load(&bench, "uid", &bad).await;
    assert_eq!(refusal(&answer), ("Damaged", false));
    // A manifest that promises what is not in the file.
    let mut lying = put(&bench, "lying", &object);
    let said = lying.entry.as_mut().expect("it has one");
    said["keys"]["0"]["keys"]["string"] = (KEYS + 7).into();
    let answer = pod.load(&bench, "uid", &lying).await;
    assert_eq!(refusal(&answer), ("KeysDiffer", false), "{answer:?}");
    // After all that, a good one still loads, into a store begun anew.
    let good = put(&bench, "good", &object);
    assert_eq!(pod.load(&bench, "uid", &good).await, loaded);
}

#[tokio::test]
async fn what_is_not_at_hand_is_asked_for_and_no_node_loads() {
    let (Some(mut bench), Some(pod)) = (Bench::start().await, Pod::start().await) else {
        return;
    };
    bench.order(|order| order.encryption_key = Some("2026".to_owned()));
    let entry = entry(bench.ended().await);
    let part = bench::part(&entry);
    let other = pod.load(&bench, "another", &part).await;
    assert_eq!(refusal(&other), ("NoScratchStore", false));
    let node = Pod {
        desk: Arc::clone(&bench.desk),
        _directory: tempfile::tempdir().expect("a directory"),
        _view: watch::Sender::new(fixture::view()),
    };
    let by_node = node.load(&bench, "uid", &part).await;
    assert_eq!(refusal(&by_node), ("NoScratchStore", false));
    pod.desk.take_credentials(bench::credentials(false));
    let without = pod.load(&bench, "uid", &part).await;
    assert_eq!(refusal(&without), ("EncryptionKeyMissing", true));
    pod.desk.take_credentials(bench::credentials(true));
    let loaded = BucketAnswer::Loaded { keys: KEYS };
    assert_eq!(pod.load(&bench, "uid", &part).await, loaded);
}

/// The sidecar of a pod that starts may be asked before the store's container runs.
#[tokio::test]
async fn a_store_whose_launcher_comes_late_is_started_when_it_comes() {
    let late = |site: &Site| site.staged("scratch").is_file();
    let pod = Pod::with_launcher(late).await;
    let (Some(mut bench), Some(pod)) = (Bench::start().await, pod) else {
        return;
    };
    bench.order(|_| {});
    let part = bench::part(&entry(bench.ended().await));
    let loaded = BucketAnswer::Loaded { keys: KEYS };
    assert_eq!(pod.load(&bench, "uid", &part).await, loaded);
}
