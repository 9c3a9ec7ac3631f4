//! Processes, stores and a seeds provider for the tests over sockets.

mod store;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use store::{REPLICATION_ID, Store};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory that goes with the test.
pub struct Dir(PathBuf);

impl std::ops::Deref for Dir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fresh directory with a short path, because a socket's path has at most 107 bytes.
pub fn socket_dir(name: &str) -> Dir {
    let dir = std::env::temp_dir().join(format!("dyn-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    Dir(dir)
}

/// Client, peer and admin addresses that nobody uses.
pub fn ports() -> [SocketAddr; 3] {
    let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

pub fn config(
    dir: &Path,
    name: &str,
    rack: &str,
    token: u32,
    extra: &str,
    at: &[SocketAddr; 3],
) -> String {
    let store = dir.join(format!("{name}.sock"));
    format!(
        "dyn_o_mite:\n  datacenter: dc1\n  rack: {rack}\n  listen: {}\n  dyn_listen: {}\n  \
         stats_listen: {}\n  servers:\n  - {}:1\n  tokens: '{token}'\n  data_store: 0\n  \
         timeout: 5000\n{extra}",
        at[0],
        at[1],
        at[2],
        store.display()
    )
}

pub fn test_config(path: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dynomite"))
        .args(["-t", "-c"])
        .arg(path)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A running `dynomite`.
pub struct Node {
    child: Child,
    rack: String,
    token: u32,
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    pub admin: SocketAddr,
}

impl Node {
    pub fn start(
        dir: &Path,
        name: &str,
        rack: &str,
        token: u32,
        extra: &str,
        provider: Option<&Provider>,
    ) -> Self {
        let at = ports();
        let path = dir.join(format!("{name}.yml"));
        std::fs::write(&path, config(dir, name, rack, token, extra, &at)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynomite"));
        command.arg("-c").arg(&path).stderr(Stdio::null());
        if let Some(provider) = provider {
            command.env("DYNOMITE_FLORIDA_PORT", provider.port.to_string());
        }
        Self {
            child: command.spawn().unwrap(),
            rack: rack.to_owned(),
            token,
            clients: at[0],
            peers: at[1],
            admin: at[2],
        }
    }

    /// This node as its peers know it.
    pub fn seed(&self) -> String {
        format!(
            "{}:{}:{}:dc1:{}",
            self.peers.ip(),
            self.peers.port(),
            self.rack,
            self.token
        )
    }

    pub fn client(&self) -> Client {
        let mut stream = None;
        eventually("the node takes clients", || {
            stream = TcpStream::connect(self.clients).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    pub fn wait_until_it_serves(&self) {
        eventually("the node serves", || {
            self.client().ask(&["PING"]) == "+PONG\r\n"
        });
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let answer = http(
            &self.admin,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
        )?;
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
    }

    /// Posts a body; returns the status and the body of the answer.
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        answer_of(&http(&self.admin, &request).unwrap())
    }

    /// Gets a path; returns the status too.
    pub fn try_get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        answer_of(&http(&self.admin, &request).unwrap())
    }

    pub fn info(&self) -> serde_json::Value {
        let body = self.get("/info").unwrap_or_default();
        serde_json::from_str(&body).unwrap_or_default()
    }

    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer_of(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), body.to_owned())
}

pub fn http(address: &SocketAddr, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A client connection.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += "$";
            request += &word.len().to_string();
            request += "\r\n";
            request += word;
            request += "\r\n";
        }
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    /// Sends a request and reads its answer, which must be a line or one bulk string.
    pub fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        let mut answer = self.line();
        if let Some(length) = answer.strip_prefix('$')
            && !length.starts_with('-')
        {
            answer += &self.line();
        }
        answer
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") && self.stream.read(&mut byte).unwrap_or(0) == 1 {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn read_to_end(&mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).unwrap();
        text
    }
}

/// A florida seeds provider.
pub struct Provider {
    pub port: u16,
    list: Arc<Mutex<String>>,
}

impl Provider {
    /// Before the first list is set, it answers 503.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let list: Arc<Mutex<String>> = Arc::new(Mutex::new("unset".to_owned()));
        let shared = Arc::clone(&list);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &shared.lock().unwrap());
            }
        });
        Self { port, list }
    }

    pub fn set(&self, seeds: &str) {
        seeds.clone_into(&mut self.list.lock().unwrap());
    }
}

fn answer(mut stream: TcpStream, list: &str) {
    let mut request = [0; 1024];
    if stream.read(&mut request).is_err() {
        return;
    }
    let status = if list == "unset" {
        "503 Service Unavailable"
    } else {
        "200 OK"
    };
    // The asker may have given up.
    let _ = write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\n\r\n{list}"
    );
}
