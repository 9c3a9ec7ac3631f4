//! Small disks: volumes with a file system of their own in memory, which can be filled without filling the machine's.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::cluster::{Cluster, run, variable};
use crate::harm::{self, LAUNCHERS};

/// What the volumes pretend to have; what they have is less.
const PRETENDED: &str = "1Gi";
/// More than any of them takes: a larger one is not one of ours.
const LIMIT_MIB: usize = 512;
/// The file that fills one, in a node's data directory.
const FILLER: &str = "data/filler";

/// A `StorageClass` of small disks on the embedded cluster's nodes.
#[derive(Debug)]
pub struct SmallDisks {
    cluster: Cluster,
    class: String,
    volumes: Vec<String>,
    /// Where they are mounted, and a process that sees them there.
    mounts: Vec<(u32, PathBuf)>,
}

impl SmallDisks {
    /// Makes a class with `per_node` volumes of `mebibytes` on each of the nodes.
    pub fn make(cluster: &Cluster, class: &str, per_node: usize, mebibytes: usize) -> Result<Self> {
        let mut disks = Self {
            cluster: cluster.clone(),
            class: class.to_owned(),
            volumes: Vec::new(),
            mounts: Vec::new(),
        };
        disks.remove_objects();
        let storage_class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": class},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        cluster.apply("default", &storage_class.to_string())?;
        for node in ["node1", "node2", "node3"] {
            let (pid, directory) = node_process(node)?;
            for number in 0..per_node {
                let name = format!("{class}-{node}-{number}");
                let path = directory.join("volumes").join(&name);
                mount(pid, &path, mebibytes)?;
                disks.mounts.push((pid, path.clone()));
                let volume = json!({
                    "apiVersion": "v1", "kind": "PersistentVolume",
                    "metadata": {"name": name, "labels": {"small-disks": class}},
                    "spec": {
                        "capacity": {"storage": PRETENDED},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": class,
                        "local": {"path": path},
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                            "key": "kubernetes.io/hostname", "operator": "In", "values": [node],
                        }]}]}},
                    },
                });
                cluster.apply("default", &volume.to_string())?;
                disks.volumes.push(name);
            }
        }
        Ok(disks)
    }

    fn remove_objects(&self) {
        let selector = format!("small-disks={}", self.class);
        let volumes = ["delete", "pv", "-l", &selector, "--timeout=20s"];
        let class = ["delete", "storageclass", &self.class, "--ignore-not-found"];
        for args in [&volumes[..], &class[..]] {
            if let Err(error) = self.cluster.kubectl(args) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        self.remove_objects();
        for (pid, path) in &self.mounts {
            if let Err(error) = inside(*pid, &["umount", "--lazy", &path.display().to_string()]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The containerd of a node of the embedded cluster, and the node's directory.
fn node_process(node: &str) -> Result<(u32, PathBuf)> {
    let cluster = variable("DYNOMITE_CLUSTER")?;
    let tail = format!("/{cluster}/{node}/containerd.toml");
    let nested = format!("/{cluster}/nodes/{node}/containerd.toml");
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        if !words
            .next()
            .is_some_and(|program| program.ends_with("containerd"))
        {
            continue;
        }
        let found = words.find(|word| word.ends_with(&tail) || word.ends_with(&nested));
        if let Some(directory) =
            found.and_then(|word| PathBuf::from(word).parent().map(PathBuf::from))
        {
            return Ok((pid, directory));
        }
    }
    bail!("the containerd of {node} does not run")
}

fn mount(pid: u32, path: &std::path::Path, mebibytes: usize) -> Result<()> {
    let path = path.display().to_string();
    inside(pid, &["mkdir", "-p", &path])?;
    let options = format!("size={mebibytes}m,mode=777");
    inside(
        pid,
        &["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &path],
    )
}

/// Runs a program of this machine where a process sees its files.
fn inside(pid: u32, words: &[&str]) -> Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--mount=/proc/{pid}/ns/mnt"))
        .args(words);
    let output = run(command, None)?;
    ensure!(output.success, "{}: {}", words.join(" "), output.stderr);
    Ok(())
}

/// Fills the disk of a node's data to the last byte.
pub fn fill(pod_uid: &str) -> Result<()> {
    let mut file = File::create(filler(pod_uid)?)?;
    let block = vec![0_u8; 1 << 20];
    for size in [block.len(), 4096, 1] {
        for _ in 0..LIMIT_MIB * 4 {
            match file.write_all(&block[..size]) {
                Ok(()) => ensure!(
                    file.metadata()?.len() < (LIMIT_MIB as u64) << 20,
                    "this is no small disk"
                ),
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }
    Ok(())
}

/// Gives the room back.
pub fn free(pod_uid: &str) -> Result<()> {
    fs::remove_file(filler(pod_uid)?).context("freeing the disk")
}

/// Where the sidecar's launcher has it: it is there whatever becomes of the store.
fn filler(pod_uid: &str) -> Result<PathBuf> {
    let pids = harm::processes(pod_uid, LAUNCHERS)?;
    let pid = pids.first().context("the pod has no sidecar")?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")).join(FILLER))
}
