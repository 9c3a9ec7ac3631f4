//! Writes an image as one tar that is an OCI layout and a `docker save` archive at once.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tree::{Entry, Tree, append};

/// What an image is made of.
pub(crate) struct ImageSpec {
    /// Full references with registry and tag, for example `localhost/redis:7`.
    pub(crate) references: Vec<String>,
    /// Its one layer.
    pub(crate) tree: Tree,
    /// `uid:gid` of its processes.
    pub(crate) user: String,
    /// Environment, `NAME=value` each.
    pub(crate) environment: Vec<String>,
    /// Default command; empty when the pod always names one.
    pub(crate) command: Vec<String>,
    /// `org.opencontainers.image.*` labels.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Digest of the image's manifest, `sha256:…`: the same input gives the same digest.
    pub(crate) digest: String,
    /// Bytes a registry would store and a node would pull.
    pub(crate) compressed: u64,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes `spec` to the archive `out`. Both containerd and Docker read the same blobs from it:
/// the first through `index.json`, the second through `manifest.json`.
pub(crate) fn write(spec: &ImageSpec, out: &Path) -> Result<Written> {
    let plain = spec.tree.to_tar()?;
    let layer = Blob::new(compress(&plain)?);
    let config = Blob::of(&config(spec, &sha256(&plain)))?;
    let manifest = Blob::of(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    }))?;
    let named: Vec<_> = spec
        .references
        .iter()
        .map(|reference| {
            let mut named = manifest.descriptor(MANIFEST);
            named["annotations"] = json!({
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": tag(reference),
            });
            named
        })
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": named,
    });
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": spec.references,
        "Layers": [layer.path()],
    }]);
    let digest = manifest.digest.clone();
    let compressed = [&layer, &config, &manifest]
        .iter()
        .map(|blob| blob.content.len() as u64)
        .sum();

    let mut files = Tree::new();
    files.add_text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    files.add_text("index.json", &index.to_string());
    files.add_text("manifest.json", &docker.to_string());
    for blob in [layer, config, manifest] {
        let path = blob.path();
        files.add(
            &path,
            Entry::File {
                mode: 0o644,
                content: blob.content,
            },
        );
    }
    save(&files, out)?;
    Ok(Written { digest, compressed })
}

/// The image configuration: `os` and `architecture` are required, containerd drops images without.
fn config(spec: &ImageSpec, diff_id: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": spec.user,
            "Env": spec.environment,
            "Cmd": spec.command,
            "WorkingDir": "/",
            "Labels": spec.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask images" }],
    })
}

/// Writes beside `out` first: an interrupted build must not leave half an archive behind.
fn save(files: &Tree, out: &Path) -> Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in files.entries() {
        append(&mut archive, path, entry)?;
    }
    let bytes = archive.into_inner()?;
    if let Some(directory) = out.parent() {
        fs::create_dir_all(directory)?;
    }
    let partial = out.with_extension("partial");
    fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, out).with_context(|| format!("writing {}", out.display()))
}

/// One content-addressed file of the archive.
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        Self {
            digest: sha256(&content),
            content,
        }
    }

    fn of(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.content.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

/// Compresses with no file name and no time in the header.
fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::new(6));
    encoder.write_all(plain)?;
    Ok(encoder.finish()?)
}

/// The digest of `bytes` as image manifests write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal digits of `bytes`.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The tag of a full reference; a port's colon stands before the last slash.
fn tag(reference: &str) -> &str {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn spec() -> ImageSpec {
        let mut tree = Tree::new();
        tree.add_text("etc/passwd", "root:x:0:0::/:/bin/false\n");
        ImageSpec {
            references: vec!["localhost/example:dev".to_owned()],
            tree,
            user: "65532:65532".to_owned(),
            environment: vec!["PATH=/usr/local/bin".to_owned()],
            command: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, content)
            })
            .collect()
    }

    #[test]
    fn both_indexes_name_blobs_that_are_there_with_their_digests() {
        let out = std::env::temp_dir().join(format!("xtask-oci-{}.tar", std::process::id()));
        let first = write(&spec(), &out).unwrap();
        let bytes = fs::read(&out).unwrap();
        let second = write(&spec(), &out).unwrap();
        assert_eq!(
            (first, bytes),
            (second.clone(), fs::read(&out).unwrap()),
            "not reproducible"
        );
        let files = files(&out);
        fs::remove_file(&out).unwrap();
        for (path, content) in &files {
            if let Some(digest) = path.strip_prefix("blobs/sha256/").filter(|d| !d.is_empty()) {
                assert_eq!(sha256(content), format!("sha256:{digest}"));
            }
        }
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert!(files.contains_key(docker[0]["Config"].as_str().unwrap()));
        assert!(files.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
        assert_eq!(docker[0]["RepoTags"][0], "localhost/example:dev");
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], second.digest.as_str());
    }

    #[test]
    fn tag_is_not_confused_by_a_port() {
        assert_eq!(tag("localhost:5000/a/b:v1"), "v1");
        assert_eq!(tag("localhost:5000/a/b"), "latest");
    }
}
