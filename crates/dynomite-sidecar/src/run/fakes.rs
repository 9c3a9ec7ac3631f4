//! A made-up pod for the driver: launchers, a store, an engine and a donor that speak the real protocols.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use dynomite_lifecycle::ProcessName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

use crate::launch::protocol::{Command, Message, Running, Status, encode};
use crate::shared::Site;

/// What the pod is like now; tests look at it and change it.
#[derive(Default)]
pub(super) struct Pod {
    /// How often the store was started; its `run_id` follows from it.
    pub(super) store_starts: u64,
    /// The same for the engine.
    pub(super) engine_starts: u64,
    pub(super) store_runs: bool,
    pub(super) engine_runs: bool,
    pub(super) replica: bool,
    pub(super) keys: u64,
    pub(super) used_memory: u64,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) engine_state: String,
    /// The states the engine was told, in order.
    pub(super) engine_told: Vec<String>,
    store_task: Option<JoinHandle<()>>,
}

/// The pod and what its launchers have to tell.
pub(super) struct Fakes {
    site: Site,
    pod: Arc<Mutex<Pod>>,
    told: broadcast::Sender<(ProcessName, Message)>,
    changed: Arc<Notify>,
}

impl Fakes {
    /// A pod at `site`, whose ports are set to free ones.
    pub(super) async fn start(site: &mut Site) -> Arc<Self> {
        let admin = TcpListener::bind((site.local, 0)).await.expect("a port");
        let client = TcpListener::bind((site.local, 0)).await.expect("a port");
        let tunnel = TcpListener::bind((site.local, 0)).await.expect("a port");
        let port = |listener: &TcpListener| listener.local_addr().expect("is bound").port();
        site.ports.admin = port(&admin);
        site.ports.client = port(&client);
        site.ports.replication = port(&tunnel);
        let fakes = Arc::new(Self {
            site: site.clone(),
            pod: Arc::new(Mutex::new(Pod {
                engine_state: "NORMAL".to_owned(),
                ..Pod::default()
            })),
            told: broadcast::Sender::new(16),
            changed: Arc::new(Notify::new()),
        });
        for name in [ProcessName::Store, ProcessName::Engine] {
            let listener = UnixListener::bind(site.launcher_socket(name)).expect("can listen");
            tokio::spawn(Arc::clone(&fakes).launcher(name, listener));
        }
        tokio::spawn(Arc::clone(&fakes).engine(admin));
        tokio::spawn(Arc::clone(&fakes).clients(client));
        tokio::spawn(Arc::clone(&fakes).donor(tunnel));
        fakes
    }

    pub(super) fn pod(&self) -> MutexGuard<'_, Pod> {
        self.pod.lock().expect("no test panicked with it")
    }

    /// The store dies, data and all.
    pub(super) fn kill_store(&self) {
        {
            let mut pod = self.pod();
            pod.store_runs = false;
            pod.keys = 0;
            pod.replica = false;
            if let Some(task) = pod.store_task.take() {
                task.abort();
            }
        }
        let how = "signal 9".to_owned();
        self.tell(ProcessName::Store, Message::Exited { how });
    }

    fn tell(&self, name: ProcessName, message: Message) {
        // Nobody listening is no launcher connected.
        let _ = self.told.send((name, message));
        self.changed.notify_waiters();
    }

    async fn launcher(self: Arc<Self>, name: ProcessName, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut told = self.told.subscribe();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let status = Message::Status(self.status(name));
            if write.write_all(&encode(&status)).await.is_err() {
                continue;
            }
            loop {
                let message = tokio::select! {
                    line = lines.next_line() => match line {
                        Ok(Some(line)) => Some(self.obey(name, &line)),
                        _ => break,
                    },
                    message = told.recv() => match message {
                        Ok((to, message)) if to == name => Some(message),
                        Ok(_) => None,
                        Err(_) => break,
                    },
                };
                if let Some(message) = message
                    && write.write_all(&encode(&message)).await.is_err()
                {
                    break;
                }
            }
        }
    }

    fn status(&self, name: ProcessName) -> Status {
        let pod = self.pod();
        let (runs, starts) = match name {
            ProcessName::Store => (pod.store_runs, pod.store_starts),
            ProcessName::Engine => (pod.engine_runs, pod.engine_starts),
        };
        Status {
            running: runs.then(|| Running {
                pid: 7,
                incarnation: starts.to_string(),
            }),
            starts,
            ..Status::default()
        }
    }

    fn obey(&self, name: ProcessName, line: &str) -> Message {
        match serde_json::from_str(line).expect("a command") {
            Command::Start => self.start_process(name),
            Command::Stop { .. } => {
                let mut pod = self.pod();
                match name {
                    ProcessName::Store => pod.store_runs = false,
                    ProcessName::Engine => pod.engine_runs = false,
                }
                let how = "exit status 0".to_owned();
                Message::Exited { how }
            }
            Command::Status => Message::Status(self.status(name)),
        }
    }

    fn start_process(&self, name: ProcessName) -> Message {
        let mut pod = self.pod();
        let starts = match name {
            ProcessName::Store => {
                if !pod.store_runs {
                    pod.store_runs = true;
                    pod.store_starts += 1;
                    let path = self.site.store_private_socket();
                    let pod_of_store = Arc::clone(&self.pod);
                    pod.store_task = Some(tokio::spawn(store(path, pod_of_store)));
                }
                pod.store_starts
            }
            ProcessName::Engine => {
                if !pod.engine_runs {
                    pod.engine_runs = true;
                    pod.engine_starts += 1;
                    "NORMAL".clone_into(&mut pod.engine_state);
                }
                pod.engine_starts
            }
        };
        Message::Started {
            pid: 7,
            incarnation: starts.to_string(),
            starts,
        }
    }

    /// The engine's REST.
    async fn engine(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_err() {
                continue;
            }
            let path = line.split(' ').nth(1).unwrap_or_default();
            let body = self.rest(path);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.get_mut().write_all(answer.as_bytes()).await;
        }
    }

    fn rest(&self, path: &str) -> String {
        let mut pod = self.pod();
        match path {
            "/state/get_state" => format!("State: {}\n", pod.engine_state),
            "/info" => "{\"uptime\":1,\"dyn_o_mite\":{\"client_read_requests\":0}}".to_owned(),
            _ => {
                if let Some(state) = path.strip_prefix("/state/") {
                    let state = state.to_ascii_uppercase();
                    pod.engine_told.push(state.clone());
                    pod.engine_state = state;
                }
                "OK\r\n".to_owned()
            }
        }
    }

    /// The engine's client port.
    async fn clients(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            while let Some(command) = read_command(&mut stream).await {
                assert_eq!(command, ["PING"]);
                let normal = self.pod().engine_state == "NORMAL";
                let reaches = self.site.store_socket().exists();
                let answer = if normal && reaches {
                    "+PONG\r\n"
                } else {
                    "-ERR not now\r\n"
                };
                if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }

    /// What the replication tunnel leads to: a proven store of three keys.
    async fn donor(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            while read_command(&mut stream).await.is_some() {
                let info = "run_id:donor\r\nrole:master\r\nmaster_replid:donor\r\n\
                    master_repl_offset:100\r\ndb0:keys=3,expires=0\r\n";
                if answer_bulk(&mut stream, info).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// One incarnation of the store, until its task is aborted.
async fn store(path: PathBuf, pod: Arc<Mutex<Pod>>) {
    // As Redis does it: whatever lies there belongs to nobody any more.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).expect("can listen");
    // Dropped with the task, so that its connections end with the store.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, Arc::clone(&pod)));
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pod: Arc<Mutex<Pod>>) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream).await {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let sent = match words.as_slice() {
            ["PING"] => stream.get_mut().write_all(b"+PONG\r\n").await,
            ["INFO"] => {
                let info = info(&pod.lock().expect("no test panicked with it"));
                answer_bulk(&mut stream, &info).await
            }
            ["REPLICAOF", host, _] => {
                {
                    let mut pod = pod.lock().expect("no test panicked with it");
                    pod.replica = *host != "NO";
                    if pod.replica {
                        pod.keys = 3;
                    }
                }
                stream.get_mut().write_all(b"+OK\r\n").await
            }
            ["CONFIG", "SET", "maxmemory-polcy", _] => {
                let error = b"-ERR Unknown option or number of arguments\r\n";
                stream.get_mut().write_all(error).await
            }
            ["CONFIG", "SET", "hz", "often"] => {
                let error = b"-ERR CONFIG SET failed - couldn't be parsed into an integer\r\n";
                stream.get_mut().write_all(error).await
            }
            ["CONFIG", "SET", "databases", _] => {
                let error = b"-ERR CONFIG SET failed - can't set immutable config\r\n";
                stream.get_mut().write_all(error).await
            }
            ["CONFIG", "GET", "maxmemory-polcy"] => stream.get_mut().write_all(b"*0\r\n").await,
            ["CONFIG", "GET", _] => {
                let found = b"*2\r\n$1\r\nx\r\n$1\r\n1\r\n";
                stream.get_mut().write_all(found).await
            }
            ["CONFIG", "SET", name, value] => {
                {
                    let mut pod = pod.lock().expect("no test panicked with it");
                    pod.settings.insert((*name).to_owned(), (*value).to_owned());
                }
                stream.get_mut().write_all(b"+OK\r\n").await
            }
            other => panic!("the store was asked {other:?}"),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn info(pod: &Pod) -> String {
    let run = pod.store_starts;
    let replication = if pod.replica {
        "role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\n\
         slave_repl_offset:100\r\nmaster_replid:donor\r\n"
            .to_owned()
    } else {
        format!("role:master\r\nmaster_replid:own-{run}\r\nmaster_repl_offset:0\r\n")
    };
    format!(
        "run_id:run-{run}\r\nloading:0\r\nused_memory:{}\r\n{replication}\
         db0:keys={},expires=0\r\n",
        pod.used_memory, pod.keys
    )
}

async fn answer_bulk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    text: &str,
) -> std::io::Result<()> {
    let answer = format!("${}\r\n{text}\r\n", text.len());
    stream.get_mut().write_all(answer.as_bytes()).await
}

/// The words of one command; `None` when the connection has ended.
async fn read_command<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Vec<String>> {
    let count: usize = read_line(stream).await?.strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        read_line(stream).await?;
        words.push(read_line(stream).await?);
    }
    Some(words)
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(count) if count > 0 => Some(line.trim_end().to_owned()),
        _ => None,
    }
}
