//! Opens a place: which storage, by whose authority, over which TLS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path as File;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::{BackupPlace, Provider, StoreCredentials};
use object_store::StaticCredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::{Error, Reason, explain};
use crate::leftover::Begun;

/// The entry of a Secret with certificates in PEM that are trusted besides the public ones.
pub const ENTRY_CA: &str = "ca.crt";
/// The names of a Secret's entries that open storage, of whatever kind.
pub fn entry_names() -> impl Iterator<Item = &'static str> {
    let s3 = ENTRIES_S3.iter().map(|(name, _)| *name);
    let azure = ENTRIES_AZURE.iter().map(|(name, _)| *name);
    s3.chain([ENTRY_GOOGLE]).chain(azure)
}

/// Entries of a Secret for Amazon S3 and what speaks its protocol.
const ENTRIES_S3: [(&str, AmazonS3ConfigKey); 3] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
];
/// The pod's environment where its `ServiceAccount` has an identity at Amazon.
const IDENTITY_S3: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        AmazonS3ConfigKey::WebIdentityTokenFile,
    ),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ),
    (
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    ),
];
/// The entry of a Secret for Google: a service account's key, JSON.
const ENTRY_GOOGLE: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
/// Entries of a Secret for Azure: a key, a shared access signature, or a service principal.
const ENTRIES_AZURE: [(&str, AzureConfigKey); 5] = [
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
];
/// The pod's environment where its `ServiceAccount` has an identity at Azure.
const IDENTITY_AZURE: [(&str, AzureConfigKey); 4] = [
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
    (
        "AZURE_FEDERATED_TOKEN_FILE",
        AzureConfigKey::FederatedTokenFile,
    ),
    ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
];

/// What the pod's environment says of its identity with a cloud: names of files and addresses, which
/// the cloud's own webhook puts there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity(BTreeMap<String, String>);

impl Identity {
    /// That of this process.
    pub fn of_environment() -> Self {
        let s3 = IDENTITY_S3.iter().map(|(name, _)| *name);
        let names = s3.chain(IDENTITY_AZURE.iter().map(|(name, _)| *name));
        let found = names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        Self(found.collect())
    }
}

impl<const N: usize> From<[(&str, String); N]> for Identity {
    fn from(entries: [(&str, String); N]) -> Self {
        let entries = entries.map(|(name, value)| (name.to_owned(), value));
        Self(entries.into())
    }
}

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How patient a place is with its storage.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a request is sent again.
    pub retries: usize,
    /// The longest pause before that.
    pub pause: Duration,
    /// For how long it is sent again; credentials of a request last some minutes.
    pub whole: Duration,
    /// How long the storage may say nothing while it is asked or read.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            retries: 8,
            pause: Duration::from_secs(10),
            whole: Duration::from_mins(2),
            silence: Duration::from_mins(1),
        }
    }
}

impl Patience {
    pub(crate) fn first_pause(&self) -> Duration {
        Duration::from_millis(100).min(self.pause)
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.first_pause(),
                max_backoff: self.pause,
                base: 2.0,
            },
            max_retries: self.retries,
            retry_timeout: self.whole,
        }
    }
}

/// A place in object storage, opened. Clones share its connections.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) patience: Patience,
    pub(crate) begun: Begun,
    /// Whether a listing comes by key.
    pub(crate) sorted: bool,
    /// The bucket, for people.
    name: String,
    secrets: Arc<[String]>,
}

// Never derived: the storage's client holds what opens it.
impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens a place with what was handed over for it; nothing is asked of the storage yet.
    ///
    /// # Errors
    /// `CredentialsMissing` when the place names others than these, `CredentialsInvalid` or
    /// `Invalid` when they or the place cannot be used.
    pub fn open(
        place: &BackupPlace,
        credentials: Option<&StoreCredentials>,
    ) -> Result<Self, Error> {
        Self::open_with(place, credentials, Patience::default())
    }

    /// Like [`open`](Self::open), with a patience of the caller's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        place: &BackupPlace,
        credentials: Option<&StoreCredentials>,
        patience: Patience,
    ) -> Result<Self, Error> {
        Self::open_as(place, credentials, patience, &Identity::of_environment())
    }

    /// Like [`open_with`](Self::open_with), with an identity of the caller's, which opens the place
    /// if the credentials do not.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_as(
        place: &BackupPlace,
        credentials: Option<&StoreCredentials>,
        patience: Patience,
        identity: &Identity,
    ) -> Result<Self, Error> {
        let none = BTreeMap::new();
        let entries = match credentials {
            _ if place.credentials.is_empty() => &none,
            Some(held) if held.id == place.credentials => &held.entries,
            _ => {
                let what = format!("the credentials of store `{}` are not at hand", place.store);
                return Err(Error::new(Reason::CredentialsMissing, what));
            }
        };
        // Who has chosen a provider already keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = name_of(&place.provider);
        let client = client(&place.provider, entries, patience)?;
        // A shorter text would be taken out of everything.
        let secrets: Arc<[String]> = entries
            .iter()
            .filter(|(key, value)| *key != ENTRY_CA && value.trim().len() >= 6)
            .map(|(_, value)| value.trim().to_owned())
            .collect();
        let opened = match &place.provider {
            Provider::S3 {
                bucket,
                region,
                endpoint,
                path_style,
            } => s3(&S3 {
                bucket,
                region: region.as_deref(),
                endpoint: endpoint.as_deref(),
                path_style: *path_style,
                entries,
                identity,
                client,
                patience,
            }),
            Provider::Google { bucket, endpoint } => {
                google(bucket, endpoint.as_deref(), entries, client, patience).map(hidden)
            }
            Provider::Azure {
                account,
                container,
                endpoint,
            } => {
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_account(account)
                    .with_container_name(container)
                    .with_client_options(client)
                    .with_retry(patience.retry());
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                for (key, value) in chosen(&ENTRIES_AZURE, entries, &IDENTITY_AZURE, identity) {
                    builder = builder.with_config(key, value);
                }
                builder.build().map(|store| hidden(shared(store)))
            }
            Provider::Local { path } => {
                if !File::new(path).is_dir() {
                    let what = format!("there is no directory {path}");
                    return Err(Error::new(Reason::NoSuchBucket, what));
                }
                LocalFileSystem::new_with_prefix(path).map(|store| {
                    let store = store.with_fsync(true).with_automatic_cleanup(true);
                    (shared(store), Begun::Local(path.into()))
                })
            }
        };
        let (store, begun) = opened.map_err(|error| {
            let doing = format!("cannot open {name}");
            let explained = explain(&error, &doing, &secrets);
            Error::new(Reason::CredentialsInvalid, explained.what)
        })?;
        Ok(Self {
            store,
            patience,
            begun,
            sorted: !matches!(place.provider, Provider::Local { .. }),
            name,
            secrets,
        })
    }

    pub(crate) fn explain(&self, doing: &str, key: &str, error: &object_store::Error) -> Error {
        let doing = format!("cannot {doing} {key} in {}", self.name);
        explain(error, &doing, &self.secrets)
    }

    pub(crate) fn failure(&self, reason: Reason, doing: &str, key: &str, why: &str) -> Error {
        Error::new(
            reason,
            format!("cannot {doing} {key} in {}: {why}", self.name),
        )
    }
}

fn shared(store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    Arc::new(store)
}

fn hidden(store: Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Begun) {
    (store, Begun::Hidden)
}

fn name_of(provider: &Provider) -> String {
    match provider {
        Provider::S3 { bucket, .. } | Provider::Google { bucket, .. } => {
            format!("bucket {bucket}")
        }
        Provider::Azure { container, .. } => format!("container {container}"),
        Provider::Local { path } => format!("directory {path}"),
    }
}

/// The Secret's entries, or else the pod's own identity.
fn chosen<K: Copy>(
    entries: &[(&'static str, K)],
    secret: &BTreeMap<String, String>,
    names: &[(&'static str, K)],
    identity: &Identity,
) -> Vec<(K, String)> {
    let of_secret = entries.iter().filter_map(|(name, key)| {
        let value = secret.get(*name)?.trim();
        Some((*key, value.to_owned()))
    });
    let found: Vec<(K, String)> = of_secret.collect();
    if !found.is_empty() {
        return found;
    }
    let of_pod = names
        .iter()
        .filter_map(|(name, key)| Some((*key, identity.0.get(*name)?.clone())));
    of_pod.collect()
}

fn client(
    provider: &Provider,
    entries: &BTreeMap<String, String>,
    patience: Patience,
) -> Result<ClientOptions, Error> {
    let endpoint = match provider {
        Provider::S3 { endpoint, .. }
        | Provider::Google { endpoint, .. }
        | Provider::Azure { endpoint, .. } => endpoint.as_deref(),
        Provider::Local { .. } => None,
    };
    let endpoint = endpoint.map(|text| {
        let url = Url::parse(text).ok();
        let usable = url.filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
        usable.ok_or_else(|| {
            let what = format!("endpoint `{text}` is no URL such as https://storage.example.com");
            Error::new(Reason::Invalid, what)
        })
    });
    let plain = endpoint
        .transpose()?
        .is_some_and(|url| url.scheme() == "http");
    let mut options = ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT)
        // Whole objects take as long as they take; silence is what tells of a dead connection.
        .with_timeout_disabled()
        .with_read_timeout(patience.silence)
        // The image of the sidecar has no certificates of a system.
        .with_no_system_certificates(true);
    for public in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        if let Ok(certificate) = Certificate::from_der(public) {
            options = options.with_root_certificate(certificate);
        }
    }
    if let Some(bundle) = entries.get(ENTRY_CA) {
        let bundle = Certificate::from_pem_bundle(bundle.as_bytes()).map_err(|error| {
            let what = format!("entry {ENTRY_CA} of the Secret: {error}");
            Error::new(Reason::CredentialsInvalid, what)
        })?;
        for certificate in bundle {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

struct S3<'a> {
    bucket: &'a str,
    region: Option<&'a str>,
    endpoint: Option<&'a str>,
    path_style: bool,
    entries: &'a BTreeMap<String, String>,
    identity: &'a Identity,
    client: ClientOptions,
    patience: Patience,
}

fn s3(place: &S3<'_>) -> object_store::Result<(Arc<dyn ObjectStore>, Begun)> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(place.bucket)
        .with_region(place.region.unwrap_or("us-east-1"))
        // Not every service that speaks the protocol knows how to delete several at once.
        .with_disable_bulk_delete(true)
        .with_client_options(place.client.clone())
        .with_retry(place.patience.retry());
    let endpoint = place
        .endpoint
        .and_then(|endpoint| Url::parse(endpoint).ok());
    // TLS keeps what is sent from being changed; without it the signature has to, and then each part
    // is hashed once more.
    let protected = endpoint
        .as_ref()
        .is_none_or(|endpoint| endpoint.scheme() == "https");
    builder = builder.with_unsigned_payload(protected);
    let mut virtual_hosted = !place.path_style;
    if let Some(mut endpoint) = endpoint {
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        // An address can have no name before it.
        virtual_hosted &= !address && host != "localhost";
        if virtual_hosted {
            let host = format!("{}.{host}", place.bucket);
            // A host that cannot be is refused when it is asked.
            let _ = endpoint.set_host(Some(&host));
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    for (key, value) in chosen(&ENTRIES_S3, place.entries, &IDENTITY_S3, place.identity) {
        builder = builder.with_config(key, value);
    }
    let store = Arc::new(builder.build()?);
    let begun = Begun::S3(Arc::clone(&store), Arc::new(place.client.clone()));
    Ok((store, begun))
}

fn google(
    bucket: &str,
    endpoint: Option<&str>,
    entries: &BTreeMap<String, String>,
    client: ClientOptions,
    patience: Patience,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(patience.retry());
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(key) = entries.get(ENTRY_GOOGLE) {
        builder = builder.with_service_account_key(key.trim());
    } else if endpoint.is_some() {
        // A service of somebody's own has no identities of Google's.
        builder = builder
            .with_skip_signature(true)
            // Writes ask for a token even so, and there is nobody who gives one.
            .with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential {
                bearer: String::new(),
            })));
    }
    builder.build().map(shared)
}
