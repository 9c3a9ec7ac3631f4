//! The launcher as a process of its own: what it does with its child, its socket and its signals.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A launcher that does not outlive its test.
struct Launcher(Child);

impl Launcher {
    fn new(run_dir: &Path, grace: u64, script: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_dynomite-sidecar"))
            .args([
                "launch",
                "store",
                "--grace",
                &grace.to_string(),
                "--run-dir",
            ])
            .arg(run_dir)
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    fn ended(&mut self) {
        let status = eventually("the launcher ends", || self.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // SIGTERM first, so that it takes its child along.
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.terminate();
            let _ = self.0.wait();
        }
    }
}

/// The sidecar's end of the socket.
struct Sidecar(BufReader<UnixStream>);

impl Sidecar {
    fn connect(run_dir: &Path) -> (Self, Value) {
        let path = run_dir.join("launch/store.sock");
        let stream = eventually("the launcher listens", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sidecar = Self(BufReader::new(stream));
        let status = sidecar.next();
        (sidecar, status)
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn say(&mut self, command: &Value) {
        writeln!(self.0.get_mut(), "{command}").unwrap();
    }

    fn start(&mut self) -> Value {
        self.say(&json!({"command": "start"}));
        let started = self.next();
        assert_eq!(started["event"], "started", "{started}");
        started
    }
}

fn wait_for(path: &Path) {
    eventually("the program has begun", || path.exists().then_some(()));
}

#[test]
fn a_program_is_held_started_watched_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (first, up) = (dir.path().join("first"), dir.path().join("up"));
    let script = format!(
        "if mkdir {} 2>/dev/null; then exit 3; fi; trap '' TERM; echo up > {}; while :; do sleep 0.01; done",
        first.display(),
        up.display(),
    );
    // A file in the way, as an earlier launcher leaves it.
    fs::create_dir(dir.path().join("launch")).unwrap();
    fs::write(dir.path().join("launch/store.sock"), "").unwrap();
    let mut launcher = Launcher::new(dir.path(), 25, &script);
    let (mut sidecar, status) = Sidecar::connect(dir.path());
    assert_eq!(status["running"], Value::Null);

    let once = sidecar.start();
    let exited = json!({"event": "exited", "how": "exit status 3"});
    assert_eq!(sidecar.next(), exited);
    let twice = sidecar.start();
    assert_eq!(twice["starts"], 2);
    assert_ne!(twice["incarnation"], once["incarnation"]);
    wait_for(&up);

    let (_other, status) = Sidecar::connect(dir.path());
    assert_eq!(status["running"]["incarnation"], twice["incarnation"]);
    sidecar.say(&json!({"command": "stop", "grace_ms": 30}));
    let killed = json!({"event": "exited", "how": "killed by signal 9"});
    assert_eq!(sidecar.next(), killed);

    launcher.terminate();
    assert_eq!(sidecar.next(), json!({"event": "terminating"}));
    launcher.ended();

    // The counts go on in the next container.
    let _next = Launcher::new(dir.path(), 25, &script);
    let (_sidecar, status) = Sidecar::connect(dir.path());
    assert_eq!(status["starts"], 2);
}

#[test]
fn a_program_that_fails_is_told_with_the_line_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "echo first; echo '# Internal error in RDB reading offset 0' >&2; echo last; exit 1";
    let _launcher = Launcher::new(dir.path(), 25, script);
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    sidecar.start();
    let exited = json!({
        "event": "exited",
        "how": "exit status 1: # Internal error in RDB reading offset 0"
    });
    assert_eq!(sidecar.next(), exited);
    let dir = tempfile::tempdir().unwrap();
    let _launcher = Launcher::new(dir.path(), 25, "echo first; echo last; exit 1");
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    sidecar.start();
    let exited = json!({"event": "exited", "how": "exit status 1: last"});
    assert_eq!(sidecar.next(), exited);
}

#[test]
fn a_terminating_launcher_holds_its_program_until_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut launcher = Launcher::new(dir.path(), 25, "exec sleep 600");
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    let started = sidecar.start();
    launcher.terminate();
    assert_eq!(sidecar.next(), json!({"event": "terminating"}));
    sidecar.say(&json!({"command": "status"}));
    let status = sidecar.next();
    assert_eq!(status["running"]["incarnation"], started["incarnation"]);
    sidecar.say(&json!({"command": "start"}));
    sidecar.say(&json!({"command": "stop", "grace_ms": 10_000}));
    assert_eq!(sidecar.next()["event"], "refused");
    let stopped = json!({"event": "exited", "how": "killed by signal 15"});
    assert_eq!(sidecar.next(), stopped);
    launcher.ended();
}

#[test]
fn a_terminating_launcher_ends_the_hold_when_its_grace_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut launcher = Launcher::new(dir.path(), 0, "exec sleep 600");
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    sidecar.start();
    launcher.terminate();
    assert_eq!(sidecar.next(), json!({"event": "terminating"}));
    let stopped = json!({"event": "exited", "how": "killed by signal 15"});
    assert_eq!(sidecar.next(), stopped);
    launcher.ended();
}

#[test]
fn what_a_program_leaves_behind_is_killed_and_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("left");
    let script = format!("sleep 600 & echo $! > {}", left.display());
    let _launcher = Launcher::new(dir.path(), 25, &script);
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    sidecar.start();
    assert_eq!(sidecar.next()["event"], "exited");
    let pid = fs::read_to_string(&left).unwrap();
    let proc = Path::new("/proc").join(pid.trim());
    eventually("the orphan is gone, not a zombie", || {
        (!proc.exists()).then_some(())
    });
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_dynomite-sidecar"))
        .args(["launch", "store", "--run-dir"])
        .arg(dir.path())
        .args(["--", "/no/such/program"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _launcher = Launcher(child);
    let (mut sidecar, _) = Sidecar::connect(dir.path());
    sidecar.say(&json!({"command": "start"}));
    let exited = sidecar.next();
    let how = exited["how"].as_str().unwrap();
    assert!(how.contains("/no/such/program"), "{exited}");
}

#[test]
fn a_sidecar_that_ends_is_run_again_until_it_is_terminated() {
    let dir = tempfile::tempdir().unwrap();
    // `run` ends at once, because its data lies nowhere.
    let mut child = Command::new(env!("CARGO_BIN_EXE_dynomite-sidecar"))
        .args(["launch", "sidecar", "--run-dir"])
        .arg(dir.path())
        .args(["--", "--data-dir", "/dev/null/nowhere"])
        .args(["--listen", "127.0.0.1", "--plain-port", "0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut launcher = Launcher(child);
    let runs = log
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.contains("is run again"));
    assert_eq!(runs.take(3).count(), 3);
    launcher.terminate();
    let status = eventually("the launcher ends", || launcher.0.try_wait().unwrap());
    assert!(!status.success(), "it ends as its sidecar ended");

    let copy = fs::read(dir.path().join("bin/dynomite-sidecar")).unwrap();
    let own = fs::read(env!("CARGO_BIN_EXE_dynomite-sidecar")).unwrap();
    assert!(
        copy == own,
        "the other containers launch with the same binary"
    );
}

/// What kubelet does with a probe: one connection, and so long to answer.
fn probe(port: u16, path: &str) -> std::io::Result<String> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn child_of(launcher: &Launcher) -> Option<Pid> {
    let pid = launcher.0.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let first = children.split_whitespace().next()?;
    Pid::from_raw(first.parse().ok()?)
}

#[test]
fn a_sidecar_that_hangs_or_crashes_is_replaced_between_two_answers_to_probes() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let child = Command::new(env!("CARGO_BIN_EXE_dynomite-sidecar"))
        .args(["launch", "sidecar", "--run-dir"])
        .arg(dir.path().join("run"))
        .args(["--", "--listen", "127.0.0.1", "--secure-port", "0"])
        .args(["--replication-port", "0", "--plain-port"])
        .arg(port.to_string())
        .arg("--run-dir")
        .arg(dir.path().join("run"))
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let launcher = Launcher(child);
    eventually("the sidecar is alive", || {
        let line = probe(port, "/livez").ok()?;
        line.contains("200").then_some(())
    });

    // Between two probes, for what is being answered dies with who answers.
    let between = Arc::new(Mutex::new(()));
    let (stop, stopped) = mpsc::channel::<()>();
    let prober = std::thread::spawn({
        let between = Arc::clone(&between);
        move || {
            let (mut asked, mut longest) = (0, Duration::ZERO);
            while stopped.try_recv().is_err() {
                let probing = between.lock().unwrap();
                let begun = Instant::now();
                let line = probe(port, "/livez").expect("every probe is answered");
                assert!(line.contains("200"), "{line}");
                longest = longest.max(begun.elapsed());
                asked += 1;
                drop(probing);
                std::thread::sleep(Duration::from_millis(10));
            }
            (asked, longest)
        }
    });
    for signal in [Signal::STOP, Signal::KILL, Signal::STOP] {
        let before = eventually("the sidecar runs", || child_of(&launcher));
        let nobody = between.lock().unwrap();
        kill_process(before, signal).unwrap();
        drop(nobody);
        eventually("another sidecar runs", || {
            let now = child_of(&launcher)?;
            (now != before && !prober.is_finished()).then_some(())
        });
        drop(between.lock().unwrap());
        eventually("it answers", || probe(port, "/livez").ok());
    }
    stop.send(()).unwrap();
    let (asked, longest) = prober.join().expect("no probe failed");
    assert!(asked >= 3, "{asked}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}
