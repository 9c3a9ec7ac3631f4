//! Object storage of others, on loopback: fetched once into the cache, started for tests and measurements, and ended.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};

use crate::stage::{Stage, Stages};
use crate::{image, process, workspace};

/// Azure's own emulator; the newest that Node.js 20 runs.
const AZURITE: &str = "3.35.0";
/// Google's storage, as far as its JSON API goes: by the XML API it gives, lists and deletes.
const FAKE_GCS: &str = "1.56.1";
/// Amazon's S3 and STS, in Python packages, each with its version.
const MOTO: &str = include_str!("services/moto.txt");
/// How long a service may take until it listens.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// What opens the S3 server; the tests know it too.
pub(crate) const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_KEY: &str = "canary-secret-of-services";

/// A service that runs; it ends when this is dropped.
pub(crate) struct Service {
    child: Child,
    directory: PathBuf,
    /// What tests are told of it.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Service {
    /// What tests are told under a name.
    pub(crate) fn told(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(told, _)| *told == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// How a service is started.
type Start = fn(&Stage) -> Result<Service>;

/// A tool that this machine lacks: no failure of what is tested.
#[derive(Debug)]
struct Lacking(&'static str);

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {}, with which it comes or runs", self.0)
    }
}

impl std::error::Error for Lacking {}

/// Refuses when one of these tools is not on the search path.
pub(crate) fn needs(tools: &[&'static str]) -> Result<()> {
    let lacking = tools.iter().find(|tool| process::find(tool).is_none());
    lacking.map_or(Ok(()), |tool| Err(Lacking(tool).into()))
}

/// Starts each of them, and says which failed and why; one whose tools this machine lacks is
/// skipped.
pub(crate) fn all(stages: &mut Stages) -> (Vec<Service>, Vec<(String, Error)>) {
    let starts: [(&str, Start); 4] = [
        ("SeaweedFS", seaweedfs),
        ("Azurite", azurite),
        ("moto", moto),
        ("fake-gcs-server", fake_gcs),
    ];
    let (mut running, mut failed) = (Vec::new(), Vec::new());
    for (name, start) in starts {
        let named = format!("start {name}");
        match stages.run(&named, |stage| match start(stage) {
            Err(error) if error.is::<Lacking>() => Ok(Err(error)),
            other => other.map(Ok),
        }) {
            Ok(Ok(service)) => running.push(service),
            Ok(Err(why)) => stages.skip(name, &format!("{why:#}")),
            Err(error) => failed.push((named, error)),
        }
    }
    (running, failed)
}

/// An S3 server in one program, from a Python package.
pub(crate) fn seaweedfs(stage: &Stage) -> Result<Service> {
    let program = image::seaweedfs(stage)?;
    let directory = scratch("seaweedfs")?;
    let config = directory.join("s3.json");
    let keys = format!(
        "{{\"identities\": [{{\"name\": \"tests\", \"credentials\": [{{\"accessKey\": \
         \"{ACCESS_KEY}\", \"secretKey\": \"{SECRET_KEY}\"}}], \
         \"actions\": [\"Read\", \"Write\", \"List\", \"Admin\"]}}]}}"
    );
    fs::write(&config, keys)?;
    let names = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
    ];
    let ports = ports(names.len())?;
    let mut command = Command::new(program);
    command
        .args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
        ])
        .args(["-volume.max=50", "-master.volumeSizeLimitMB=256"])
        // Their ports are fixed, so a second server on this machine would end at once.
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg("-master.telemetry=false")
        .arg(format!("-dir={}", directory.display()))
        .arg(format!("-s3.config={}", config.display()));
    for (name, port) in names.iter().zip(&ports) {
        command.arg(format!("-{name}={port}"));
    }
    let (filer, s3) = (ports[4], ports[6]);
    let environment = vec![
        ("DYNOMITE_SERVICE_SEAWEEDFS", address(s3)),
        ("DYNOMITE_SERVICE_SEAWEEDFS_FILER", address(filer)),
    ];
    // The filer listens before it has found its master; S3 is the last that does.
    start(command, directory, &[filer, s3], environment)
}

fn azurite(stage: &Stage) -> Result<Service> {
    let packages = workspace::cache().join(format!("tools/azurite-{AZURITE}"));
    let program = "node_modules/azurite/dist/src/blob/main.js";
    if !packages.join(program).is_file() {
        needs(&["node", "npm"])?;
        fetch(
            &packages,
            "the npm registry",
            Command::new("npm")
                .args(["install", "--silent", "--no-audit", "--no-fund"])
                .args(["--ignore-scripts", "--omit=dev", "--prefix"])
                .arg(partial(&packages))
                .arg(format!("azurite@{AZURITE}")),
            stage,
        )?;
    }
    let directory = scratch("azurite")?;
    let port = ports(1)?[0];
    let mut command = Command::new("node");
    command
        .arg(packages.join(program))
        .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
        .args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck"])
        .args(["--disableTelemetry"]);
    let environment = vec![("DYNOMITE_SERVICE_AZURITE", address(port))];
    start(command, directory, &[port], environment)
}

/// S3 over TLS, and beside it what gives credentials for a role. It keeps accounts apart.
fn moto(stage: &Stage) -> Result<Service> {
    needs(&["python3", "openssl"])?;
    // Some of the packages are compiled for one version of Python.
    let python = process::read(Command::new("python3").arg("--version"))?;
    let digest = image::oci::sha256(format!("{MOTO}{python}").as_bytes());
    let digest = digest.trim_start_matches("sha256:");
    let packages = workspace::cache().join(format!("tools/moto-{}", &digest[..16]));
    if !packages.join("moto/server.py").is_file() {
        fetch(
            &packages,
            image::PYTHON_INDEX,
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--no-deps"])
                .args(["--only-binary", ":all:", "--disable-pip-version-check"])
                .args(["--root-user-action", "ignore", "--target"])
                .arg(partial(&packages))
                .args(MOTO.lines().filter(|line| !line.starts_with('#'))),
            stage,
        )?;
    }
    let directory = scratch("moto")?;
    let file = |name: &str| directory.join(name).display().to_string();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    // Google's accounts sign by RSA, of which nothing of ours makes keys.
    let account = file("account.key");
    process::run(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA"])
            .args(["-pkeyopt", "rsa_keygen_bits:2048", "-out", &account]),
        stage,
    )?;
    let port = ports(1)?[0];
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", &packages)
        .env("MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS", "false")
        // Without what is installed on this machine.
        .args(["-S", "-m", "moto.server", "--host", "127.0.0.1"])
        .args(["--port", &port.to_string()])
        .args(["--ssl-cert", &certificate, "--ssl-key", &key]);
    let environment = vec![
        ("DYNOMITE_SERVICE_MOTO", format!("https://127.0.0.1:{port}")),
        ("DYNOMITE_SERVICE_MOTO_CA", certificate),
        ("DYNOMITE_SERVICE_MOTO_KEY", account),
    ];
    start(command, directory, &[port], environment)
}

fn fake_gcs(stage: &Stage) -> Result<Service> {
    let programs = workspace::cache().join(format!("tools/fake-gcs-server-{FAKE_GCS}"));
    let program = programs.join("fake-gcs-server");
    if !program.is_file() {
        needs(&["go"])?;
        fetch(
            &programs,
            "the proxy of Go modules",
            Command::new("go")
                .env("CGO_ENABLED", "0")
                .env("GOWORK", "off")
                .env("GOFLAGS", "-buildvcs=false")
                .env("GOBIN", partial(&programs))
                .args(["install", "-trimpath", "-ldflags=-s -w"])
                .arg(format!("github.com/fsouza/fake-gcs-server@v{FAKE_GCS}")),
            stage,
        )?;
    }
    let directory = scratch("fake-gcs-server")?;
    let port = ports(1)?[0];
    let mut command = Command::new(program);
    command
        .args(["-scheme", "http", "-backend", "memory"])
        .args(["-host", "127.0.0.1", "-port", &port.to_string()])
        // At whatever port it is called: tests put a bad network before it.
        .args(["-public-host", "127.0.0.1"]);
    let environment = vec![("DYNOMITE_SERVICE_FAKE_GCS", address(port))];
    start(command, directory, &[port], environment)
}

/// Beside its place first, so that what was interrupted looks like nothing.
fn fetch(to: &Path, from: &str, command: &mut Command, stage: &Stage) -> Result<()> {
    let partial = partial(to);
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    stage.note(&format!("fetching into {}", to.display()));
    let fetched = process::run(command, stage);
    fetched.with_context(|| not_given(from))?;
    fs::rename(&partial, to).with_context(|| format!("naming {}", to.display()))
}

/// Why something is not here that a registry has.
pub(crate) fn not_given(from: &str) -> String {
    format!("{from} did not give it; see whether it can be reached, and try again")
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

fn start(
    mut command: Command,
    directory: PathBuf,
    ports: &[u16],
    environment: Vec<(&'static str, String)>,
) -> Result<Service> {
    let log = directory.join("log");
    let out = fs::File::create(&log)?;
    let child = command
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let mut service = Service {
        child,
        directory,
        environment,
    };
    let begin = Instant::now();
    for port in ports {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_err() {
            let ended = service.child.try_wait()?;
            if ended.is_some() || begin.elapsed() > STARTS_WITHIN {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                bail!("it does not listen: {}", last.join(" / "));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(service)
}

fn scratch(name: &str) -> Result<PathBuf> {
    let name = format!("dynomite-{name}-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Ports that nobody listened at a moment ago, all different.
fn ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let ports = held.iter().map(|it| Ok(it.local_addr()?.port()));
    ports.collect()
}

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
