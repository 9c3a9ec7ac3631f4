//! The node's certificate and its cluster's authority, read again whenever the files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

/// How often the files are looked at. A Secret's volume follows the Secret
/// within a minute or so, so this adds nothing that anyone notices.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The largest file that is read, bytes.
const FILE_LIMIT: u64 = 256 * 1024;

/// What a connection is made with.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    /// For connections that come in.
    pub(crate) server: Arc<ServerConfig>,
    /// For connections that go out.
    pub(crate) client: Arc<ClientConfig>,
}

/// The credentials that are valid now; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    current: Arc<RwLock<Option<Configs>>>,
}

impl Credentials {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` of a directory, and reads them
    /// again in the background when they change. Files that are missing or do
    /// not fit leave the earlier credentials in place.
    pub(crate) fn watch(dir: PathBuf) -> Self {
        Self::watch_every(dir, LOOK_EVERY)
    }

    /// The same, with another time between two looks.
    pub(super) fn watch_every(dir: PathBuf, every: Duration) -> Self {
        let credentials = Self::default();
        let mut seen = credentials.refresh(&dir, None);
        let watched = credentials.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if Arc::strong_count(&watched.current) == 1 {
                    return;
                }
                seen = watched.refresh(&dir, seen);
            }
        });
        credentials
    }

    /// What connections are made with now; `None` until the files are there.
    pub(crate) fn configs(&self) -> Option<Configs> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the files over if they differ from what was `seen`; returns what is seen now.
    pub(super) fn refresh(&self, dir: &Path, seen: Option<[u8; 32]>) -> Option<[u8; 32]> {
        let files = match Files::read(dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "cannot read the certificates");
                return seen;
            }
        };
        let digest = files.digest();
        if seen == Some(digest) {
            return seen;
        }
        match files.configs() {
            Ok(configs) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Some(configs);
                tracing::info!(dir = %dir.display(), "certificates taken over");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(dir = %dir.display(), error, "the certificates do not fit");
            }
        }
        Some(digest)
    }
}

struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            certificate: read_limited(&dir.join("tls.crt"))?,
            key: read_limited(&dir.join("tls.key"))?,
            authority: read_limited(&dir.join("ca.crt"))?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for file in [&self.certificate, &self.key, &self.authority] {
            hash.update((file.len() as u64).to_be_bytes());
            hash.update(file);
        }
        hash.finalize().into()
    }

    fn configs(&self) -> anyhow::Result<Configs> {
        let chain = certificates(&self.certificate).context("tls.crt")?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).context("tls.key")?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority).context("ca.crt")? {
            roots.add(certificate).context("ca.crt")?;
        }
        let roots = Arc::new(roots);
        Ok(Configs {
            server: Arc::new(server(chain.clone(), key.clone_key(), roots.clone())?),
            client: Arc::new(client(chain, key, roots)?),
        })
    }
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if fs::metadata(path).map_err(named)?.len() > FILE_LIMIT {
        return Err(named(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(named)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    anyhow::ensure!(!found.is_empty(), "no certificate in it");
    Ok(found)
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("tls.crt and tls.key")?;
    // A resumed session would outlive the certificate it was opened with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("tls.crt and tls.key")?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
