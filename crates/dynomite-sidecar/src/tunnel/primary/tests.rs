use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use redis::{Client, Connection, ConnectionAddr, IntoConnectionInfo, Value};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::fixture;

const HISTORY: &str = "00112233445566778899aabbccddeeff00112233";
const PATIENCE: Duration = Duration::from_mins(1);

/// Values of every type, some that expire, and keys that are no text.
const FILL: &str = r"
for i = 1, 200 do
  local n = tostring(i)
  redis.call('SET', 'string:' .. n, string.rep(n, i))
  redis.call('SET', 'binary:' .. string.char(i % 256, 0, 255, 13, 10) .. n, string.char(0, i % 256))
  redis.call('PEXPIREAT', 'string:' .. n, 4102444800000 + i)
end
for i = 1, 20 do
  for j = 1, i * i do
    local v = (j % 3 == 0) and tostring(j * 1000003) or string.rep('v', j % 90)
    redis.call('RPUSH', 'list:' .. i, v)
    redis.call('SADD', 'set:' .. i, v .. j)
    redis.call('SADD', 'integers:' .. i, j * 2 ^ (i % 40))
    redis.call('HSET', 'hash:' .. i, 'f' .. j, v)
    redis.call('ZADD', 'zset:' .. i, j / 7, v .. j)
    redis.call('PFADD', 'hll:' .. i, j)
    redis.call('XADD', 'stream:' .. i, i .. '-' .. j, 'f', v, 'g' .. (j % 5), j)
  end
  redis.call('XGROUP', 'CREATE', 'stream:' .. i, 'group', '0')
end
redis.call('RPUSH', 'list:huge', string.rep('x', 3000000), 'y')
return redis.call('DBSIZE')
";

/// A real store with a Unix socket in a directory of its own.
pub(crate) struct Store {
    directory: TempDir,
    child: Child,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Store {
    /// Started, with further settings.
    pub(crate) fn start(server: &Path, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let child = Self::spawn(server, directory.path(), more);
        let store = Self { directory, child };
        store.until("it answers", |store| store.try_connect().is_some());
        store
    }

    fn spawn(server: &Path, directory: &Path, more: &[&str]) -> Child {
        let log = fs::File::create(directory.join("log")).expect("a log");
        let mut command = Command::new(server);
        command.args(["--port", "0", "--save", "", "--unixsocket", "socket"]);
        command
            .args(["--repl-diskless-load", "on-empty-db"])
            .args(more);
        // 6.2 has no such setting and needs none.
        let version = Command::new(server).arg("--version").output();
        let version = version.expect("it says its version").stdout;
        if !String::from_utf8_lossy(&version).contains("v=6") {
            command.args(["--enable-debug-command", "yes"]);
        }
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("starts")
    }

    /// Killed, and started again from its own files.
    fn restart(&mut self, server: &Path, more: &[&str]) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.child = Self::spawn(server, self.directory.path(), more);
        self.until("it has loaded", |store| {
            store.try_connect().is_some() && store.info("loading") == "0"
        });
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    fn try_connect(&self) -> Option<Connection> {
        let socket = self.directory.path().join("socket");
        let mut info = ConnectionAddr::Unix(socket).into_connection_info().ok()?;
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        info = info.set_redis_settings(settings);
        let mut connection = Client::open(info).ok()?.get_connection().ok()?;
        redis::cmd("PING").query::<Value>(&mut connection).ok()?;
        Some(connection)
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut connection = self.try_connect().expect("it answers");
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection).expect("is answered")
    }

    fn info(&self, name: &str) -> String {
        let text: String = self.ask(&[b"INFO"]);
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.into_iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// Fills it with values of every type.
    pub(crate) fn fill(&self) {
        let _: i64 = self.ask(&[b"EVAL", FILL.as_bytes(), b"0"]);
    }

    /// What it has, as a file.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let _: String = self.ask(&[b"SAVE"]);
        fs::read(self.directory.path().join("dump.rdb")).expect("it was saved")
    }

    /// Each key with a digest of its value and when it expires.
    fn contents(&self) -> BTreeMap<Vec<u8>, (Vec<String>, i64)> {
        let keys: Vec<Vec<u8>> = self.ask(&[b"KEYS", b"*"]);
        let value = |key: Vec<u8>| {
            let value: Vec<String> = self.ask(&[b"DEBUG", b"DIGEST-VALUE", &key]);
            let left: i64 = self.ask(&[b"PTTL", &key]);
            let now = jiff::Timestamp::now().as_millisecond();
            // As moments go that were not seen in the same one.
            let at = if left > 0 {
                (now + left + 500_000) / 1_000_000
            } else {
                left
            };
            (key, (value, at))
        };
        keys.into_iter().map(value).collect()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let log = || fs::read_to_string(self.directory.path().join("log"));
            assert!(Instant::now() < deadline, "never: {what}: {:?}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn replica_of(&self, port: u16) {
        let port = port.to_string();
        let _: String = self.ask(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    }

    fn is_synchronised(&self) -> bool {
        self.info("master_link_status") == "up" && self.info("master_replid") == HISTORY
    }
}

/// Data whose first `cuts` openings end in the middle.
#[derive(Debug)]
struct Cut {
    bytes: Arc<Vec<u8>>,
    cuts: std::sync::atomic::AtomicUsize,
}

impl Source for Cut {
    fn open(&self) -> Pin<Box<dyn Future<Output = io::Result<Opened>> + Send + '_>> {
        use std::sync::atomic::Ordering;
        let left = self.cuts.load(Ordering::Relaxed);
        let cut = left > 0;
        self.cuts.store(left.saturating_sub(1), Ordering::Relaxed);
        let given = if cut {
            self.bytes.len() / 2
        } else {
            self.bytes.len()
        };
        let data = io::Cursor::new(self.bytes[..given].to_vec());
        let length = self.bytes.len() as u64;
        Box::pin(async move {
            let data = Box::pin(data);
            Ok(Opened { length, data })
        })
    }
}

/// A primary on a free port, until it is dropped.
struct Primary {
    port: u16,
    ends: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Primary {
    fn of(source: impl Source + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("can be set");
        let port = listener.local_addr().expect("is bound").port();
        let (ends, ended) = tokio::sync::oneshot::channel::<()>();
        let given = Play {
            history: HISTORY.to_owned(),
            source: Box::new(source),
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let serve = async {
                    let gate = Gate::default();
                    while let Ok((stream, _)) = listener.accept().await {
                        let _ = play(stream, &given, &gate).await;
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            port,
            ends: Some(ends),
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        drop(self.ends.take());
    }
}

#[test]
fn a_store_takes_the_whole_copy_whatever_it_had_and_however_it_persists() {
    for server in fixture::stores() {
        let origin = Store::start(&server, &[]);
        origin.fill();
        let expected = origin.contents();
        let dump = origin.dump();
        let file = origin.directory.path().join("given.rdb");
        fs::write(&file, &dump).expect("can be written");
        for (append, had) in [("no", true), ("no", false), ("yes", true), ("yes", false)] {
            let primary = Primary::of(File(file.clone()));
            let more = ["--appendonly", append];
            let mut store = Store::start(&server, &more);
            if had {
                let _: String = store.ask(&[b"SET", b"old", b"data"]);
            }
            store.replica_of(primary.port);
            store.until("synchronised", Store::is_synchronised);
            assert_eq!(store.info("slave_repl_offset"), "0");
            store.until("its log is written anew", |store| {
                store.info("aof_rewrite_in_progress") == "0"
                    && store.info("aof_rewrite_scheduled") == "0"
            });
            let _: String = store.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
            assert_eq!(store.info("master_replid2"), HISTORY);
            assert!(store.contents() == expected, "{server:?} {append} {had}");
            let _: String = store.ask(&[b"SET", b"later", b"write"]);
            drop(primary);
            if append == "yes" {
                // It is in its files as well, the write after it too.
                store.until("it is synced", |store| {
                    store.info("aof_pending_bio_fsync") == "0"
                });
                store.restart(&server, &more);
                let _: i64 = store.ask(&[b"DEL", b"later"]);
                assert!(store.contents() == expected, "{server:?} after a restart");
            }
        }
    }
}

#[test]
fn a_copy_that_is_cut_off_is_never_called_whole_and_comes_again() {
    for server in fixture::stores() {
        let origin = Store::start(&server, &[]);
        origin.fill();
        let expected = origin.contents();
        let bytes = Arc::new(origin.dump());
        for had in [true, false] {
            let cuts = std::sync::atomic::AtomicUsize::new(2);
            let primary = Primary::of(Cut {
                bytes: Arc::clone(&bytes),
                cuts,
            });
            let store = Store::start(&server, &[]);
            if had {
                let _: String = store.ask(&[b"SET", b"old", b"data"]);
            }
            store.replica_of(primary.port);
            // Whenever it calls itself synchronised, it has all of it.
            store.until("synchronised", Store::is_synchronised);
            assert!(store.contents() == expected, "{server:?} {had}");
        }
        let primary = Primary::of(Cut {
            bytes,
            cuts: usize::MAX.into(),
        });
        let store = Store::start(&server, &[]);
        let _: String = store.ask(&[b"SET", b"old", b"data"]);
        store.replica_of(primary.port);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            assert!(!store.is_synchronised(), "{server:?}");
            let had: Option<String> = store.ask(&[b"GET", b"old"]);
            assert_eq!(had.as_deref(), Some("data"), "{server:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
