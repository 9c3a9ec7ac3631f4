//! A real S3 server in a test's namespace, and what lies in it.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynomite_api::contract::{BackupPlace, Provider, StoreCredentials};

use crate::{Cluster, Namespace, harm, wait_for};

/// The bucket.
pub const BUCKET: &str = "backups";
/// The Secret with the keys that open it.
pub const SECRET: &str = "s3-credentials";
/// The key's secret half: it must be found nowhere but in the Secret and in the server's own.
pub const CANARY: &str = "canary-9f2c1b7e-secret-half";
/// The key's public half.
const ACCESS_KEY: &str = "AKIDEXAMPLE";
/// Where the nodes find the server.
pub const ENDPOINT: &str = "http://s3:8333";

/// How long the server may take to start.
const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// The bucket as whoever restores opens it, at an address of the server.
pub fn place(endpoint: &str) -> (BackupPlace, StoreCredentials) {
    let credentials = StoreCredentials {
        id: "tests".to_owned(),
        entries: [
            ("AWS_ACCESS_KEY_ID".to_owned(), ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), CANARY.to_owned()),
        ]
        .into(),
    };
    let place = BackupPlace {
        store: "main".to_owned(),
        provider: Provider::S3 {
            bucket: BUCKET.to_owned(),
            region: None,
            endpoint: Some(endpoint.to_owned()),
            path_style: true,
        },
        prefix: String::new(),
        credentials: credentials.id.clone(),
    };
    (place, credentials)
}

/// An S3 server with one bucket.
#[derive(Debug)]
pub struct ObjectStorage<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl<'a> ObjectStorage<'a> {
    /// Starts the server and makes its bucket.
    pub fn start(cluster: &'a Cluster, namespace: &'a Namespace) -> Result<Self> {
        let namespace = namespace.name.as_str();
        cluster.apply(namespace, &manifest())?;
        let wait = format!("--timeout={}s", STARTS_WITHIN.as_secs());
        cluster.kubectl(&[
            "wait",
            "-n",
            namespace,
            "--for=condition=Ready",
            &wait,
            "pod/s3",
        ])?;
        let storage = Self { cluster, namespace };
        wait_for("the bucket", STARTS_WITHIN, || {
            storage.shell(&format!("s3.bucket.create -name {BUCKET}"))?;
            let names = storage.look("/buckets")?;
            let found = names.iter().any(|name| name == BUCKET);
            Ok(if found {
                Ok(())
            } else {
                Err(format!("there are {names:?}"))
            })
        })?;
        Ok(storage)
    }

    /// Where programs in the cluster's network find the server.
    pub fn endpoint(&self) -> Result<String> {
        let args = ["get", "pod", "s3", "-n", self.namespace];
        let pod = self.cluster.json(&args)?;
        let address = pod["status"]["podIP"].as_str();
        let address = address.context("the server has an address")?;
        Ok(if address.contains(':') {
            format!("http://[{address}]:8333")
        } else {
            format!("http://{address}:8333")
        })
    }

    /// The server that was started in a namespace.
    pub fn of(cluster: &'a Cluster, namespace: &'a Namespace) -> Self {
        let namespace = namespace.name.as_str();
        Self { cluster, namespace }
    }

    /// What the server's own shell says to a command.
    fn shell(&self, command: &str) -> Result<String> {
        let args = [
            "exec",
            "-i",
            "-n",
            self.namespace,
            "s3",
            "--",
            "weed",
            "shell",
        ];
        let input = format!("{command}\nexit\n");
        Ok(self.cluster.try_kubectl(&args, Some(&input))?.stdout)
    }

    /// The names of what lies in a directory of the server.
    fn look(&self, directory: &str) -> Result<Vec<String>> {
        let listed = self.shell(&format!("fs.ls {directory}"))?;
        Ok(listed
            .lines()
            .map(|line| line.trim_matches('/').to_owned())
            .collect())
    }

    /// The keys of all objects under a prefix, which ends with a slash or is empty.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut open = vec![prefix.to_owned()];
        while let Some(directory) = open.pop() {
            for name in self.look(&format!("/buckets/{BUCKET}/{directory}"))? {
                // Every object of ours has a dot in its last segment, no directory has; the
                // server's own begin with one.
                if name.starts_with('.') || name.is_empty() {
                    continue;
                }
                if name.contains('.') {
                    keys.push(format!("{directory}{name}"));
                } else {
                    open.push(format!("{directory}{name}/"));
                }
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// An object's content.
    pub fn read(&self, key: &str) -> Result<String> {
        self.cluster.kubectl(&["get", "--raw", &self.path(key)])
    }

    /// Changes one bit of one byte in the middle of an object.
    pub fn flip(&self, key: &str) -> Result<()> {
        let path = self.path(key);
        let read = self.cluster.command(&["get", "--raw", &path]).output()?;
        let mut content = read.stdout;
        let middle = content.len() / 2;
        let byte = content.get_mut(middle).context("the object is empty")?;
        *byte ^= 1;
        let file = std::env::temp_dir().join(format!("flipped-{}", std::process::id()));
        std::fs::write(&file, &content)?;
        let written = file.to_string_lossy().into_owned();
        let put = ["replace", "--raw", &path, "-f", &written];
        let put = self.cluster.kubectl(&put);
        std::fs::remove_file(&file)?;
        put?;
        let read = self.cluster.command(&["get", "--raw", &path]).output()?;
        ensure!(read.stdout == content, "{key} was not changed");
        Ok(())
    }

    fn path(&self, key: &str) -> String {
        let namespace = self.namespace;
        format!("/api/v1/namespaces/{namespace}/pods/s3:8888/proxy/buckets/{BUCKET}/{key}")
    }

    /// Lays an object there, past the server's own checks, as somebody else would
    /// have done long ago.
    pub fn write(&self, key: &str, content: &[u8]) -> Result<()> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/s3:8888/proxy/buckets/{BUCKET}/{key}",
            self.namespace
        );
        let mut command = self
            .cluster
            .command(&["replace", "--raw", &path, "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut pipe = child.stdin.take().context("kubectl has an input")?;
        pipe.write_all(content)?;
        drop(pipe);
        let said = child.wait_with_output()?;
        let why = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "{key} is not written: {why}");
        Ok(())
    }

    /// Nothing that anybody can read in the namespace, and nothing that the
    /// operator or a node has printed or was started with, holds the secret half of the key.
    pub fn check_canary(&self, operator_namespace: &str) -> Result<()> {
        let args = |kind| ["get", kind, "-n", self.namespace, "-o", "yaml"];
        for kind in [
            "dyn,dynb,dynr",
            "events",
            "pods",
            "configmaps",
            "statefulsets",
        ] {
            let text = self.cluster.kubectl(&args(kind))?;
            ensure!(!text.contains(CANARY), "{kind} hold the secret key");
        }
        let all = "app.kubernetes.io/name";
        for (namespace, label) in [(self.namespace, all), (operator_namespace, all)] {
            let text = self.cluster.kubectl(&[
                "logs",
                "-n",
                namespace,
                "-l",
                label,
                "--all-containers",
                "--tail=-1",
                "--max-log-requests=40",
            ])?;
            ensure!(!text.is_empty(), "{namespace} has logs");
            ensure!(
                !text.contains(CANARY),
                "logs of {namespace} hold the secret key"
            );
            self.check_processes(namespace, label)?;
        }
        Ok(())
    }

    /// The same of the environments and command lines of pods' processes.
    fn check_processes(&self, namespace: &str, label: &str) -> Result<()> {
        let pods = self
            .cluster
            .json(&["get", "pods", "-n", namespace, "-l", label])?;
        let mut seen = 0;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            for pid in harm::all_processes(uid)? {
                for file in ["environ", "cmdline"] {
                    // A process may end while it is looked at.
                    let content = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                    seen += content.len();
                    ensure!(
                        !String::from_utf8_lossy(&content).contains(CANARY),
                        "{file} of a process of {} holds the secret key",
                        pod["metadata"]["name"]
                    );
                }
            }
        }
        ensure!(seen > 0, "processes of {namespace} are looked at");
        Ok(())
    }
}

/// Server, Service and Secret. The server runs as the restricted level wants it.
fn manifest() -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: {SECRET}}}
stringData: {{AWS_ACCESS_KEY_ID: {ACCESS_KEY}, AWS_SECRET_ACCESS_KEY: {CANARY}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: s3-server}}
stringData:
  s3.json: '{{"identities": [{{"name": "backup", "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{CANARY}"}}], "actions": ["Read", "Write", "List", "Admin"]}}]}}'
---
apiVersion: v1
kind: Service
metadata: {{name: s3}}
spec:
  selector: {{app: s3}}
  ports: [{{port: 8333}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: s3, labels: {{app: s3}}}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 999, fsGroup: 999, seccompProfile: {{type: RuntimeDefault}}}}
  volumes:
    - {{name: data, emptyDir: {{}}}}
    - {{name: config, secret: {{secretName: s3-server}}}}
  containers:
    - name: weed
      image: localhost/seaweedfs:dev
      imagePullPolicy: Never
      command: [weed, server, -dir=/data, -ip=127.0.0.1, -ip.bind=0.0.0.0, -volume.max=50, -master.volumeSizeLimitMB=256, -filer, -s3, -s3.port=8333, -s3.config=/etc/weed/s3.json]
      workingDir: /data
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
      volumeMounts: [{{name: data, mountPath: /data}}, {{name: config, mountPath: /etc/weed}}]
      readinessProbe: {{httpGet: {{path: /healthz, port: 8333}}, periodSeconds: 1}}
"#
    )
}
