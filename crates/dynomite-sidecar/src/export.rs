//! `dynomite-sidecar export`: a backup as the commands that make it again, for people who read, search or pipe them.
//!
//! It needs neither a ring nor Kubernetes: it reads where the backup lies with what opens that
//! in its environment, under the names that the entries of the store's Secret have.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::BytesMut;
use clap::Args;
use dynomite_api::contract::{BackupPlace, MAX_SMALL_OBJECT, Provider, StoreCredentials};
use dynomite_bucket::{Bucket, ENTRY_CA, entry_names};
use dynomite_snapshot::commands::Commands;
use dynomite_snapshot::envelope::Key;
use dynomite_snapshot::manifest::{Manifest, Snapshot};
use dynomite_snapshot::transfer::Download;
use jiff::Timestamp;

/// The largest value or library that is written as commands, bytes: several times as much is held.
const LARGEST: usize = 512 << 20;

/// Bytes that are unpacked at once.
const PIECE: usize = 256 << 10;

/// `dynomite-sidecar export`
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Where the backup lies: `status.location` of its `DynomiteBackup` (`s3://`, `gs://`,
    /// `azure://`, `file://`), its directory on this machine, or a single RDB file
    location: String,
    /// Only the data of this token; of all tokens when it is not given
    #[arg(long)]
    token: Vec<u32>,
    /// A key of encryption: its id, and a file with its 32 bytes
    #[arg(long, value_name = "ID=FILE", value_parser = key)]
    key: Vec<(String, PathBuf)>,
    /// The URL of a service other than the cloud's own
    #[arg(long)]
    endpoint: Option<String>,
    /// The region, for Amazon
    #[arg(long)]
    region: Option<String>,
    /// The bucket stands in the path of a URL instead of its host, for Amazon's protocol
    #[arg(long)]
    path_style: bool,
    /// Certificates that sign the endpoint's, where they are no public ones
    #[arg(long)]
    ca: Option<PathBuf>,
}

fn key(text: &str) -> Result<(String, PathBuf), String> {
    let (id, file) = text.split_once('=').ok_or("give the id, `=`, and a file")?;
    Ok((id.to_owned(), PathBuf::from(file)))
}

/// Writes the commands to standard output.
///
/// # Errors
/// When the backup cannot be read or is not what its manifest says; what was written by then is
/// not whole.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut out = io::BufWriter::with_capacity(PIECE, io::stdout().lock());
    runtime.block_on(export(arguments, &mut out))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the commands of a backup, or of an RDB file.
pub(crate) async fn export(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let file = Path::new(&arguments.location);
    if file.is_file() {
        return plain(file, out);
    }
    let (provider, directory) = place(arguments)?;
    let entries = entries(arguments)?;
    let credentials = StoreCredentials {
        id: "environment".to_owned(),
        entries,
    };
    let held = !credentials.entries.is_empty();
    let place = BackupPlace {
        store: "export".to_owned(),
        provider,
        prefix: String::new(),
        credentials: if held {
            credentials.id.clone()
        } else {
            String::new()
        },
    };
    let bucket = Bucket::open(&place, Some(&credentials))?;
    let key = format!("{directory}manifest.json");
    let Some(text) = bucket.get(&key, MAX_SMALL_OBJECT).await? else {
        bail!("there is no {key}: give the directory of a backup, which has a manifest");
    };
    let manifest = Manifest::read(&text)?;
    let has = |token: &u32| manifest.snapshots.iter().any(|part| part.token.0 == *token);
    if let Some(missing) = arguments.token.iter().find(|token| !has(token)) {
        let tokens: Vec<String> = manifest
            .snapshots
            .iter()
            .map(|p| p.token.to_string())
            .collect();
        bail!(
            "the backup has no token {missing}, but {}",
            tokens.join(", ")
        );
    }
    for snapshot in &manifest.snapshots {
        if arguments.token.is_empty() || arguments.token.contains(&snapshot.token.0) {
            let done = object(arguments, &bucket, &directory, &manifest, snapshot, out).await;
            done.with_context(|| {
                format!("token {}: what was written is not whole", snapshot.token)
            })?;
        }
    }
    Ok(())
}

/// An RDB file of any store.
fn plain(file: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(file)?;
    let (mut commands, mut text) = (Commands::new(LARGEST), BytesMut::new());
    let mut buffer = vec![0; PIECE];
    loop {
        let length = io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            break;
        }
        commands.push(&buffer[..length], &mut text)?;
        out.write_all(&text)?;
        text.clear();
    }
    commands.finish(&mut text)?;
    Ok(out.write_all(&text)?)
}

async fn object(
    arguments: &Arguments,
    bucket: &Bucket,
    directory: &str,
    manifest: &Manifest,
    snapshot: &Snapshot,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let key = snapshot.encryption.as_ref();
    let key = key
        .map(|with| encryption_key(arguments, &with.key_id))
        .transpose()?;
    let mut download = Download::new(manifest, snapshot, key.as_ref(), Timestamp::now())?;
    let name = format!("{directory}{}", snapshot.object);
    let mut pieces = bucket.download(&name).await?;
    let (mut commands, mut text) = (Commands::new(LARGEST), BytesMut::new());
    let mut raw = Vec::new();
    let mut write = |raw: &mut Vec<u8>| -> anyhow::Result<()> {
        commands.push(raw, &mut text)?;
        raw.clear();
        out.write_all(&text)?;
        text.clear();
        Ok(())
    };
    while let Some(piece) = pieces.next().await? {
        let mut rest: &[u8] = &piece;
        while !rest.is_empty() {
            download.push(&mut rest, &mut raw)?;
            write(&mut raw)?;
        }
    }
    loop {
        let ended = download.finish(&mut raw)?;
        write(&mut raw)?;
        if ended.is_some() {
            break;
        }
    }
    commands.finish(&mut text)?;
    Ok(out.write_all(&text)?)
}

fn encryption_key(arguments: &Arguments, id: &str) -> anyhow::Result<Key> {
    let Some((_, file)) = arguments.key.iter().find(|(given, _)| given == id) else {
        bail!("it is encrypted with the key `{id}`: give it by --key {id}=FILE");
    };
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|_| anyhow::anyhow!("{} does not have 32 bytes", file.display()))?;
    Ok(Key::new(bytes))
}

/// Whose storage it is, and what the keys of the backup begin with.
fn place(arguments: &Arguments) -> anyhow::Result<(Provider, String)> {
    let location = arguments.location.as_str();
    let endpoint = arguments.endpoint.clone();
    let Some((scheme, rest)) = location.split_once("://") else {
        return Ok((directory(location), String::new()));
    };
    let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
    let keys = |path: &str| match path.trim_matches('/') {
        "" => String::new(),
        path => format!("{path}/"),
    };
    Ok(match scheme {
        "file" => (directory(rest), String::new()),
        "s3" => {
            let provider = Provider::S3 {
                bucket: first.to_owned(),
                region: arguments.region.clone(),
                endpoint,
                path_style: arguments.path_style,
            };
            (provider, keys(path))
        }
        "gs" => {
            let bucket = first.to_owned();
            (Provider::Google { bucket, endpoint }, keys(path))
        }
        "azure" => {
            let (container, path) = path.split_once('/').unwrap_or((path, ""));
            let provider = Provider::Azure {
                account: first.to_owned(),
                container: container.to_owned(),
                endpoint,
            };
            (provider, keys(path))
        }
        _ => bail!("{location}: give s3://, gs://, azure:// or file://, or a path"),
    })
}

fn directory(path: &str) -> Provider {
    Provider::Local {
        path: path.to_owned(),
    }
}

fn entries(arguments: &Arguments) -> anyhow::Result<BTreeMap<String, String>> {
    let given = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
    let mut entries: BTreeMap<String, String> = entry_names().filter_map(given).collect();
    if let Some(file) = &arguments.ca {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        entries.insert(ENTRY_CA.to_owned(), text);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use dynomite_snapshot::envelope::{SALT, Secret};
    use dynomite_snapshot::manifest::{Compression, Extent};
    use dynomite_snapshot::transfer::{Upload, context};
    use serde_json::json;

    use super::*;
    use crate::fixture;
    use crate::fixture::store::Store;

    const UID: &str = "0d3f8a6e-1f0b-4c55-9d9e-0a5a3a1c2b3d";
    const ID: &str = "20261120T000000Z-00c0ffee00c0ffee-before-upgrade";

    /// Writes a backup with one token into a directory, as a node and the operator do.
    fn lay(directory: &Path, rdb: &[u8], key: &Key) {
        let bound = context(UID, ID, dynomite_protocol::token::Token(7));
        let secret = Secret {
            key,
            salt: [1; SALT],
            context: &bound,
        };
        let now = Timestamp::UNIX_EPOCH;
        let mut upload = Upload::new(Compression::Zstd, Some(&secret), now).expect("begins");
        let mut object = Vec::new();
        upload.push(rdb, &mut object).expect("it is an RDB");
        let (summary, stored) = upload.finish(&mut object).expect("it is whole");
        let at = "2026-11-20T00:00:00Z";
        let manifest = json!({
            "formatVersion": 1,
            "backup": {"id": ID, "startedAt": at, "finishedAt": at, "operatorVersion": "0.1.0"},
            "ring": {
                "cluster": "ring", "namespace": "shop", "uid": UID, "datacenter": "dc1",
                "racks": ["a"], "nodesPerRack": 1, "tokens": [7], "hash": "murmur",
            },
            "snapshots": [{
                "token": 7, "object": "7-0.rdb.zst.enc", "stored": stored,
                "raw": Extent::from(&summary), "checksum": summary.checksum,
                "rdb": summary.version, "keys": summary.databases, "functions": 0,
                "source": {
                    "node": "ring-a-0", "rack": "a", "replicationId": "8".repeat(40),
                    "offset": 1, "storeVersion": "7.0.15",
                },
                "compression": "zstd",
                "encryption": {"cipher": "AES-256-GCM-STREAM", "keyId": "2026"},
                "startedAt": at, "finishedAt": at,
            }],
        });
        std::fs::write(directory.join("manifest.json"), manifest.to_string()).expect("written");
        std::fs::write(directory.join("7-0.rdb.zst.enc"), object).expect("written");
    }

    /// What a store holds, whatever the order, streams' groups aside.
    fn digest(store: &Store) -> String {
        store.ask(&[b"DEBUG", b"DIGEST"])
    }

    #[tokio::test]
    async fn what_is_piped_into_a_store_is_what_was_backed_up() {
        for server in fixture::stores() {
            let origin = Store::start(&server, &[]);
            origin.fill();
            let directory = tempfile::tempdir().expect("a directory");
            lay(directory.path(), &origin.dump(), &Key::new([7; 32]));
            let file = directory.path().join("key");
            std::fs::write(&file, [7; 32]).expect("can be written");
            let mut asked = arguments(&directory.path().to_string_lossy());
            let refused = export(&asked, &mut Vec::new()).await;
            let refused = format!("{:#}", refused.expect_err("there is no key"));
            assert!(refused.contains("--key 2026="), "{refused}");
            asked.key.push(("2026".to_owned(), file));
            let mut commands = Vec::new();
            export(&asked, &mut commands).await.expect("it is whole");

            let target = Store::start(&server, &[]);
            let socket = target.socket();
            let mut stream = UnixStream::connect(socket).expect("it listens");
            let mut writer = stream.try_clone().expect("a second end");
            let write = std::thread::spawn(move || {
                writer.write_all(&commands).expect("it takes them");
                writer.write_all(b"QUIT\r\n").expect("it takes it");
            });
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).expect("it answers");
            write.join().expect("all is written");
            let answers = String::from_utf8_lossy(&answers);
            let refused = answers.lines().find(|line| line.starts_with('-'));
            assert_eq!(refused, None, "{server:?}");
            assert_eq!(digest(&target), digest(&origin), "{server:?}");

            // One byte of the object is another one.
            let object = directory.path().join("7-0.rdb.zst.enc");
            let mut bytes = std::fs::read(&object).expect("it is there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&object, bytes).expect("can be written");
            let refused = export(&asked, &mut Vec::new()).await;
            let refused = format!("{:#}", refused.expect_err("it was changed"));
            assert!(refused.contains("not whole"), "{refused}");
        }
    }

    fn arguments(location: &str) -> Arguments {
        Arguments {
            location: location.to_owned(),
            token: Vec::new(),
            key: Vec::new(),
            endpoint: None,
            region: None,
            path_style: false,
            ca: None,
        }
    }

    #[test]
    fn a_location_is_read_as_the_status_writes_it() {
        let of = |text| place(&arguments(text)).expect("it can be read");
        let (provider, keys) = of("s3://backups/team/data/ring/uid/id/");
        assert!(matches!(provider, Provider::S3 { bucket, .. } if bucket == "backups"));
        assert_eq!(keys, "team/data/ring/uid/id/");
        let (provider, keys) = of("azure://account/container/ring/id/");
        assert!(matches!(provider, Provider::Azure { container, .. } if container == "container"));
        assert_eq!(keys, "ring/id/");
        for text in ["file:///backups/nas/ring/id", "/backups/nas/ring/id"] {
            let path = "/backups/nas/ring/id".to_owned();
            assert_eq!(of(text), (Provider::Local { path }, String::new()));
        }
        assert!(place(&arguments("ftp://host/dir")).is_err());
    }
}
