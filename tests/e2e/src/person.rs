//! A person at a node's mutual-TLS port, as the documentation tells them to go there: with kubectl and curl.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::Ring;
use crate::cluster::{Cluster, run};

/// How long one call may take, seconds.
const PATIENCE: &str = "60";

/// Somebody with a certificate.
#[derive(Debug)]
pub struct Person<'a> {
    cluster: &'a Cluster,
    ring: &'a Ring<'a>,
    /// With `ca.crt`, `tls.crt` and `tls.key`.
    files: PathBuf,
}

/// A port of this machine that leads to a pod, for as long as it lives.
struct Forward {
    kubectl: Child,
    /// It must stay open: kubectl ends when it cannot tell of a connection.
    output: BufReader<ChildStdout>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl Forward {
    fn to(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Self> {
        let pod = format!("pod/{pod}");
        let mut command = cluster.command(&["port-forward", "-n", namespace, &pod, ":8443"]);
        let mut kubectl = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = kubectl.stdout.take().context("its output is read")?;
        Ok(Self {
            kubectl,
            output: BufReader::new(output),
        })
    }

    /// Waits until it leads there: `Forwarding from 127.0.0.1:40213 -> 8443`.
    fn port(&mut self) -> Result<u16> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let port = line.split([':', ' ']).find_map(|word| word.parse().ok());
        port.with_context(|| format!("kubectl port-forward says {line:?}"))
    }
}

impl<'a> Person<'a> {
    /// Somebody who may read a Secret of the ring, `admin-tls` or `node-tls`.
    pub fn with(cluster: &'a Cluster, ring: &'a Ring<'a>, secret: &str) -> Result<Self> {
        let name = format!("{}-{secret}", ring.name);
        let files = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&files)?;
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            let template = format!("go-template={{{{index .data {file:?} | base64decode}}}}");
            let get = [
                "get",
                "secret",
                &name,
                "-n",
                ring.namespace(),
                "-o",
                &template,
            ];
            fs::write(files.join(file), cluster.kubectl(&get)?)?;
        }
        Ok(Self {
            cluster,
            ring,
            files,
        })
    }

    /// Calls a node: the status of the answer and its text. With no certificate
    /// shown, or one that is not taken, there is no answer, which is an error.
    pub fn call(&self, pod: &str, what: &str, shown: bool) -> Result<(u16, String)> {
        let namespace = self.ring.namespace();
        let mut forward = Forward::to(self.cluster, namespace, pod)?;
        let port = forward.port()?;
        let host = format!(
            "{pod}.{}-nodes.{namespace}.svc.cluster.local",
            self.ring.name
        );
        let file = |name: &str| self.files.join(name).display().to_string();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", PATIENCE, "-X", "POST"])
            .args(["-w", "\n%{http_code}", "--cacert", &file("ca.crt")])
            .args(["--connect-to", &format!("{host}:8443:127.0.0.1:{port}")]);
        if shown {
            curl.args(["--cert", &file("tls.crt"), "--key", &file("tls.key")]);
        }
        curl.arg(format!("https://{host}:8443/REST/v1/admin/{what}"));
        let said = run(curl, None)?;
        ensure!(said.success, "curl: {}", said.stderr.trim());
        let (text, status) = said.stdout.rsplit_once('\n').context("a status")?;
        Ok((status.parse()?, text.to_owned()))
    }
}

impl Drop for Person<'_> {
    fn drop(&mut self) {
        // A key is not left behind; what cannot be removed now is in a temporary place.
        let _ = fs::remove_dir_all(&self.files);
    }
}
