//! An operator behind a proxy that makes trouble: requests fail, answers get lost, the operator is killed.
//!
//! ```text
//!   operator --http--> this --http--> kubectl proxy --https--> API server
//! ```
//!
//! It prints `started` when the operator runs, and at the end of its standard
//! input a [`Trouble`] as JSON.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use dynomite_e2e::chaos::Random;
use dynomite_e2e::ended::until_input_ends;
use dynomite_e2e::trouble::{Kind, Trouble};

/// Requests of which one in so many fails in a storm.
const ONE_IN: u64 = 10;
/// How long a request hangs that is never answered.
const HANG: Duration = Duration::from_secs(2);
/// How long a watch lasts before it is told that its version is too old.
const WATCH_LASTS: Duration = Duration::from_secs(5);
/// The longest head of a request, bytes.
const HEAD_LIMIT: usize = 64 * 1024;

#[derive(Parser)]
struct Arguments {
    /// What goes wrong.
    #[arg(long)]
    trouble: Kind,
    /// The API server's address where this runs.
    #[arg(long)]
    server: String,
    #[arg(long)]
    kubectl: PathBuf,
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    operator: PathBuf,
    #[arg(long)]
    image: String,
    #[arg(long)]
    namespace: String,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut forwarder = Forwarder::start(&arguments)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let config = std::env::temp_dir().join(format!("troubled-{}.yaml", std::process::id()));
    std::fs::write(&config, kubeconfig(&format!("http://{address}")))?;
    let proxy = Arc::new(Proxy {
        kind: arguments.trouble,
        upstream: forwarder.address.clone(),
        random: Mutex::new(Random::new(arguments.seed)),
        seen: Mutex::default(),
        condemned: AtomicBool::new(false),
    });
    let serving = Arc::clone(&proxy);
    thread::spawn(move || serving.serve(&listener));
    let ended = until_input_ends(arguments.seconds);
    let mut operator = start_operator(&arguments, &config)?;
    println!("started");
    while !ended.load(Ordering::Relaxed) {
        let dead = operator.try_wait()?.is_some();
        if dead || proxy.condemned.swap(false, Ordering::SeqCst) {
            operator.kill()?;
            operator.wait()?;
            proxy.note(|seen| seen.lives += 1);
            operator = start_operator(&arguments, &config)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    operator.kill()?;
    operator.wait()?;
    forwarder.child.kill()?;
    forwarder.child.wait()?;
    std::fs::remove_file(&config)?;
    let seen = proxy.seen.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}", serde_json::to_string(&*seen)?);
    Ok(())
}

fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: troubled\nclusters:\n\
         - {{name: troubled, cluster: {{server: \"{server}\"}}}}\nusers:\n- {{name: troubled, user: {{}}}}\n\
         contexts:\n- {{name: troubled, context: {{cluster: troubled, user: troubled}}}}\n"
    )
}

fn start_operator(arguments: &Arguments, config: &PathBuf) -> Result<Child> {
    Command::new(&arguments.operator)
        .env("KUBECONFIG", config)
        .args(["--namespaces", &arguments.namespace])
        .args(["--image", &arguments.image])
        .args(["--image-pull-policy", "Never"])
        .args(["--leader-elect", "false", "--log-level", "off"])
        .args(["--metrics-addr", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| arguments.operator.display().to_string())
}

/// `kubectl proxy`: it has the certificates.
struct Forwarder {
    child: Child,
    address: String,
}

impl Forwarder {
    fn start(arguments: &Arguments) -> Result<Self> {
        let mut child = Command::new(&arguments.kubectl)
            .arg("--kubeconfig")
            .arg(&arguments.kubeconfig)
            .args(["--server", &arguments.server])
            .args(["proxy", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("kubectl has an output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        ensure!(address.contains(':'), "kubectl proxy says {line:?}");
        Ok(Self { child, address })
    }
}

struct Proxy {
    kind: Kind,
    upstream: String,
    random: Mutex<Random>,
    seen: Mutex<Trouble>,
    /// The operator is to be killed now.
    condemned: AtomicBool,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Pass,
    /// Refused with this status before it reaches the server.
    Refuse(u16),
    /// Not answered for a while, and then cut.
    Hang,
    /// Done, but the answer is lost.
    LoseAnswer,
    /// Done, and the operator dies before it hears.
    Kill,
    /// A watch that soon learns that its version is too old.
    Gone,
}

struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(client: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if client.read_line(&mut head)? == 0 {
                return Ok(None);
            }
            ensure!(head.len() < HEAD_LIMIT, "a head without an end");
            if &head[before..] == "\r\n" {
                break;
            }
        }
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        Ok(Some(Self { head, body }))
    }

    fn writes(&self) -> bool {
        // Events are told and forgotten: nothing is decided by them.
        !self.head.starts_with("GET") && !self.head.contains("/events")
    }

    fn watches(&self) -> bool {
        self.head
            .lines()
            .next()
            .is_some_and(|line| line.contains("watch=true"))
    }

    /// The head with which one exchange ends its connection.
    fn closing_head(&self) -> String {
        let mut lines = self.head.trim_end().lines();
        let first = lines.next().unwrap_or_default();
        let rest = lines.filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !name.eq_ignore_ascii_case("connection")
        });
        let rest: Vec<&str> = rest.collect();
        format!(
            "{first}\r\n{}\r\nConnection: close\r\n\r\n",
            rest.join("\r\n")
        )
    }
}

impl Proxy {
    fn note(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            let proxy = Arc::clone(self);
            thread::spawn(move || {
                // A client that is gone, or was killed, is nobody's failure.
                let _ = proxy.exchange(client);
            });
        }
    }

    fn exchange(&self, client: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let Some(request) = Request::read(&mut reader)? else {
            return Ok(());
        };
        self.note(|seen| {
            seen.requests += 1;
            seen.writes += u64::from(request.writes());
        });
        let fate = self.fate(&request);
        if !matches!(fate, Fate::Pass) {
            self.note(|seen| seen.troubled += 1);
        }
        match fate {
            Fate::Pass => self.forward(&request, Some(client)),
            Fate::Refuse(status) => refuse(client, status),
            Fate::Hang => {
                thread::sleep(HANG);
                Ok(client.shutdown(Shutdown::Both)?)
            }
            Fate::LoseAnswer => {
                self.forward(&request, None)?;
                Ok(client.shutdown(Shutdown::Both)?)
            }
            Fate::Kill => {
                self.forward(&request, None)?;
                self.condemned.store(true, Ordering::SeqCst);
                // The answer must not arrive before the end does.
                thread::sleep(HANG);
                Ok(())
            }
            Fate::Gone => {
                let ended = client.try_clone()?;
                thread::spawn(move || {
                    thread::sleep(WATCH_LASTS);
                    let _ = ended.shutdown(Shutdown::Both);
                });
                let gone = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired","message":"too old resource version"}}"#;
                answer(client, 200, gone)
            }
        }
    }

    fn fate(&self, request: &Request) -> Fate {
        match self.kind {
            Kind::Kill if request.writes() => return Fate::Kill,
            Kind::Kill | Kind::Calm => return Fate::Pass,
            Kind::Storm => {}
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if random.below(ONE_IN) != 0 {
            return Fate::Pass;
        }
        if request.watches() {
            return Fate::Gone;
        }
        let conflict = if request.writes() { 409 } else { 503 };
        *random.pick(&[
            Fate::Refuse(conflict),
            Fate::Refuse(429),
            Fate::Refuse(500),
            Fate::Hang,
            Fate::LoseAnswer,
        ])
    }

    /// Sends a request on; the answer goes to the client, if it is to have one.
    fn forward(&self, request: &Request, client: Option<TcpStream>) -> Result<()> {
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(request.closing_head().as_bytes())?;
        upstream.write_all(&request.body)?;
        let Some(mut client) = client else {
            let mut answer = Vec::new();
            upstream.read_to_end(&mut answer)?;
            return Ok(());
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = upstream.read(&mut buffer)?;
            if count == 0 {
                return Ok(client.shutdown(Shutdown::Both)?);
            }
            client.write_all(&buffer[..count])?;
        }
    }
}

fn refuse(client: TcpStream, status: u16) -> Result<()> {
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"made trouble","reason":"{reason}","code":{status}}}"#
    );
    answer(client, status, &body)
}

fn answer(mut client: TcpStream, status: u16, body: &str) -> Result<()> {
    write!(
        client,
        "HTTP/1.1 {status} Trouble\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(client.shutdown(Shutdown::Write)?)
}
