//! A store over a Unix socket, in a thread.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::{Request, RequestParser, write};

/// What every store here says about itself.
pub const REPLICATION_ID: &str = "f9718e654c0e1a2b9c3b6df5ad39393deb7f49e6";

#[derive(Default)]
struct Shared {
    data: HashMap<String, String>,
    delay: Duration,
    sessions: Vec<UnixStream>,
    stopped: bool,
}

/// Knows PING, GET, SET and INFO. It ends, with its connections, when it is dropped.
pub struct Store {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl Store {
    pub fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = own.lock().unwrap();
                if state.stopped {
                    return;
                }
                state.sessions.push(stream.try_clone().unwrap());
                drop(state);
                let session = Arc::clone(&own);
                std::thread::spawn(move || serve(stream, &session));
            }
        });
        Self {
            path: path.to_owned(),
            shared,
        }
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.shared.lock().unwrap().data.get(key).cloned()
    }

    /// From now on every answer takes this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().unwrap().delay = delay;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap();
        shared.stopped = true;
        for session in &shared.sessions {
            let _ = session.shutdown(std::net::Shutdown::Both);
        }
        drop(shared);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(mut stream: UnixStream, shared: &Mutex<Shared>) {
    let mut parser = RequestParser::default();
    let mut inbox = BytesMut::new();
    let mut chunk = [0; 4096];
    while let Ok(count) = stream.read(&mut chunk) {
        if count == 0 {
            return;
        }
        inbox.extend_from_slice(&chunk[..count]);
        while let Ok(Some(request)) = parser.parse(&mut inbox, &Limits::REQUEST) {
            let delay = shared.lock().unwrap().delay;
            std::thread::sleep(delay);
            let reply = execute(&mut shared.lock().unwrap().data, &request);
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    }
}

fn execute(data: &mut HashMap<String, String>, request: &Request) -> bytes::Bytes {
    let word = |at: usize| String::from_utf8_lossy(request.arg(at)).into_owned();
    match word(0).to_ascii_lowercase().as_str() {
        "ping" => write::status_reply("PONG"),
        "get" => match data.get(&word(1)) {
            Some(value) => write::bulk_reply(value.as_bytes()),
            None => bytes::Bytes::from_static(b"$-1\r\n"),
        },
        "set" => {
            data.insert(word(1), word(2));
            write::status_reply("OK")
        }
        "info" => {
            let keys = data.len();
            let text = format!(
                "# Replication\r\nrole:master\r\nmaster_replid:{REPLICATION_ID}\r\n\
                 master_repl_offset:1234\r\n# Keyspace\r\ndb0:keys={keys},expires=0\r\n"
            );
            write::bulk_reply(text.as_bytes())
        }
        _ => write::error_reply("ERR unknown command"),
    }
}
