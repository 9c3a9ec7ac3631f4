//! Snapshots of real stores, re-sharded or written as commands, and taken by them again: key by key
//! the same.
//!
//! Runs with every store that `DYNOMITE_STORES` names (paths with colons between), or else with the
//! `redis-server` and `valkey-server` found by `PATH`. Machines without any say so and check
//! nothing: the files in `fixtures/` are checked everywhere.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use bytes::BytesMut;
use dynomite_protocol::hash::Placement;
use dynomite_protocol::limits::Limits;
use dynomite_protocol::resp::{Request, RequestParser};
use dynomite_protocol::token::Token;
use dynomite_snapshot::commands::Commands;
use dynomite_snapshot::filter::Filter;
use dynomite_snapshot::ownership::Ownership;
use dynomite_snapshot::rdb::{Checksum, Kind, Summary, Verifier};
use jiff::Timestamp;

/// Values of every type, in sizes on both sides of where stores change the encoding.
const FILL: &str = r"
for i = 1, 400 do
  local n = tostring(i)
  redis.call('SET', 'string:' .. n, string.rep(n, i))
  redis.call('SET', string.rep('long-key-', i % 30) .. n, i)
  redis.call('SET', 'binary:' .. string.char(i % 256, 0, 255, 13, 10) .. n, string.char(0, i % 256))
  redis.call('PEXPIREAT', 'string:' .. n, 4102444800000 + i)
end
for i = 1, 40 do
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
  redis.call('XREADGROUP', 'GROUP', 'group', 'c' .. i, 'COUNT', i, 'STREAMS', 'stream:' .. i, '>')
  redis.call('XDEL', 'stream:' .. i, i .. '-1', i .. '-3')
end
redis.call('RPUSH', 'list:huge', string.rep('x', 3000000), 'y')
redis.call('SETBIT', 'bitmap', 20000000, 1)
return redis.call('DBSIZE')
";

/// All keys with their types and when they expire, or, before Redis 7, whether.
const LIST: &str = r"
local cursor, found = '0', {}
repeat
  local reply = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = reply[1]
  for _, key in ipairs(reply[2]) do
    found[#found + 1] = key
    found[#found + 1] = redis.call('TYPE', key).ok
    local expiry = redis.pcall('PEXPIRETIME', key)
    if type(expiry) == 'table' then expiry = redis.call('PTTL', key) > 0 end
    found[#found + 1] = tostring(expiry)
  end
until cursor == '0'
return found
";

struct Store {
    directory: tempfile::TempDir,
    child: Child,
}

impl Drop for Store {
    fn drop(&mut self) {
        // It is going away either way, and its files with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Store {
    /// Starts a server, with a file to load if one is given.
    fn start(server: &Path, rdb: Option<&[u8]>) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        if let Some(rdb) = rdb {
            fs::write(directory.path().join("dump.rdb"), rdb)?;
        }
        let mut command = Command::new(server);
        command.args(["--port", "0", "--save", "", "--unixsocket", "socket"]);
        // Digests of values; 6.2 has no such setting and needs none.
        let version = Command::new(server).arg("--version").output()?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=6") {
            command.args(["--enable-debug-command", "yes"]);
        }
        let log = fs::File::create(directory.path().join("log"))?;
        let child = command
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut store = Self { directory, child };
        store.wait()?;
        Ok(store)
    }

    fn wait(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let ready = self.ask(&[b"PING"]).is_ok_and(|reply| reply == b"+PONG");
            if ready {
                return Ok(());
            }
            let ended = self.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.directory.path().join("log"))?;
                return Err(io::Error::other(format!("the store did not start:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One command and its reply, elements of an array one a line.
    fn ask(&self, arguments: &[&[u8]]) -> io::Result<Vec<u8>> {
        let lines = self.lines(arguments)?;
        Ok(lines.join(b"\n".as_slice()))
    }

    fn lines(&self, arguments: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let mut stream = UnixStream::connect(self.directory.path().join("socket"))?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend(format!("${}\r\n", argument.len()).into_bytes());
            request.extend_from_slice(argument);
            request.extend(b"\r\n");
        }
        stream.write_all(&request)?;
        let mut reader = io::BufReader::new(stream);
        read_reply(&mut reader)
    }

    fn dump(&self) -> io::Result<Vec<u8>> {
        let saved = self.ask(&[b"SAVE"])?;
        assert_eq!(saved, b"+OK");
        fs::read(self.directory.path().join("dump.rdb"))
    }

    /// Each key with its type, its expiry, and a digest of its value.
    fn contents(&self) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let listed = self.lines(&[b"EVAL", LIST.as_bytes(), b"0"])?;
        let mut contents = BTreeMap::new();
        for part in listed.chunks_exact(3) {
            let [key, kind, expires] = part else { continue };
            let digest = self.ask(&[b"DEBUG", b"DIGEST-VALUE", key])?;
            let value = [kind.as_slice(), expires, &digest].join(b" ".as_slice());
            contents.insert(key.clone(), value);
        }
        Ok(contents)
    }
}

fn read_reply(reader: &mut impl BufRead) -> io::Result<Vec<Vec<u8>>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let line = line.trim_ascii_end();
    let number = || -> io::Result<usize> {
        let digits = line
            .get(1..)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| io::Error::other("no length in a reply"))
    };
    match line.first() {
        Some(b'*') => {
            let mut all = Vec::new();
            for _ in 0..number()? {
                all.extend(read_reply(reader)?);
            }
            Ok(all)
        }
        Some(b'$') => {
            let mut bulk = vec![0; number()? + 2];
            reader.read_exact(&mut bulk)?;
            bulk.truncate(bulk.len() - 2);
            Ok(vec![bulk])
        }
        Some(b'-') => Err(io::Error::other(String::from_utf8_lossy(line).into_owned())),
        _ => Ok(vec![line.to_vec()]),
    }
}

fn servers() -> Vec<PathBuf> {
    if let Some(named) = env::var_os("DYNOMITE_STORES") {
        return env::split_paths(&named).collect();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    ["redis-server", "valkey-server"]
        .iter()
        .filter_map(|name| {
            let mut found = env::split_paths(&path).map(|directory| directory.join(name));
            found.find(|server| server.is_file())
        })
        .collect()
}

fn verify(rdb: &[u8]) -> Summary {
    let mut verifier = Verifier::new(Timestamp::now());
    for piece in rdb.chunks(100_000) {
        verifier.update(piece).expect("a store wrote it");
    }
    verifier.finish().expect("a store wrote it")
}

/// The snapshot as commands; all are of the first database.
fn commands(rdb: &[u8]) -> Vec<Request> {
    let mut out = BytesMut::new();
    let mut commands = Commands::new(16 << 20);
    for piece in rdb.chunks(100_000) {
        commands.push(piece, &mut out).expect("in order");
    }
    commands.finish(&mut out).expect("whole");
    let limits = Limits {
        max_bytes: usize::MAX,
        max_args: 1000,
    };
    let mut parser = RequestParser::default();
    let mut all = Vec::new();
    while let Some(request) = parser.parse(&mut out, &limits).expect("RESP") {
        all.push(request);
    }
    all
}

#[test]
fn stores_take_what_was_filtered_or_written_as_commands_and_nothing_is_lost() {
    let servers = servers();
    if servers.is_empty() {
        println!("no store on this machine: set DYNOMITE_STORES");
    }
    for server in servers {
        let store = Store::start(&server, None).expect("the store starts");
        store
            .ask(&[b"EVAL", FILL.as_bytes(), b"0"])
            .expect("filled");
        let dump = store.dump().expect("saved");
        let contents = store.contents().expect("listed");
        let summary = verify(&dump);
        assert_eq!(summary.checksum, Checksum::Right);
        let counts = summary.counts();
        assert_eq!(counts.total(), contents.len() as u64);
        let value = |key: &str| &contents[key.as_bytes()];
        assert_ne!(
            value("list:1"),
            value("list:2"),
            "digests tell values apart"
        );
        assert_eq!(counts.expiring, 400);
        assert_eq!(
            (counts.keys[&Kind::Stream], counts.keys[&Kind::List]),
            (40, 41)
        );

        let replayed = Store::start(&server, None).expect("the store starts");
        for command in commands(&dump) {
            let arguments: Vec<&[u8]> = command.args_from(0).collect();
            let reply = replayed.ask(&arguments);
            assert!(reply.is_ok(), "{reply:?} to {:?}", arguments[0]);
        }
        let replayed = replayed.contents().expect("listed");
        assert!(replayed == contents, "{server:?}");

        let tokens = [7, 1 << 31, 3 << 30].map(Token);
        let mut found = BTreeMap::new();
        for token in tokens {
            let target = Ownership::new(&tokens, token);
            let mut filter = Filter::new(Placement::default(), target, None, Timestamp::now());
            let mut part = Vec::new();
            for piece in dump.chunks(100_000) {
                filter.push(piece, &mut part).expect("in order");
            }
            filter.finish(&mut part).expect("whole");
            let loaded = Store::start(&server, Some(&part)).expect("the store loads it");
            let part = loaded.contents().expect("listed");
            assert!(part.len() > contents.len() / 10, "{server:?}");
            found.extend(part);
        }
        assert!(found == contents, "{server:?}");
    }
}
