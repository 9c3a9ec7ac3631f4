//! The stores of backups: what opens them, read by name from Secrets, and questions to them, asked through nodes.
//!
//! What is read stays in memory and goes to nodes only. It is never logged: the
//! types that hold it print no values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynomite_api::contract::{BucketAnswer, BucketRequest, Credentials, StoreCredentials};
use dynomite_api::crd::{BackupSpec, DynomiteBackup};
use dynomite_planner::{Answers, Asked, Cluster, Seen, backups_need_stores, question};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::context::{Context, Memory};
use crate::failure::describe;
use crate::index::ClusterKey;
use crate::node_client::{Error as NodeError, NodeClient, Target};

/// When the Secrets are read again while they are needed.
const FRESH: Duration = Duration::from_secs(10);
/// How long an answer of a node is kept.
const ANSWERS_KEPT: i64 = 900;
/// How many answers are kept of one cluster.
const ANSWERS_MAX: usize = 256;
/// Bytes of a key of encryption.
const KEY_BYTES: usize = 32;

/// What opens the stores of a cluster, as it was last read.
pub struct Held {
    at: Instant,
    /// For the nodes.
    pub credentials: Credentials,
    /// By store: the id of what opens it, or why it could not be read.
    ids: BTreeMap<String, Seen<String>>,
}

/// Questions to stores and what came of them; shared with those that ask.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Answers>>);

impl Desk {
    /// What is known, without what is too old.
    pub fn answers(&self, now: Timestamp) -> Answers {
        let mut answers = self.lock();
        let age = |asked: &Asked| now.duration_since(asked.at).as_secs();
        answers.retain(|_, asked| asked.answer.is_none() || age(asked) < ANSWERS_KEPT);
        while answers.len() > ANSWERS_MAX {
            let oldest = answers.iter().min_by_key(|(_, asked)| asked.at);
            match oldest.map(|(key, _)| key.clone()) {
                Some(key) => drop(answers.remove(&key)),
                None => break,
            }
        }
        answers.clone()
    }

    /// Notes that a question is being asked; `false` when it is already.
    fn begin(&self, key: &str, now: Timestamp) -> bool {
        let mut answers = self.lock();
        let asked = answers.entry(key.to_owned()).or_insert(Asked {
            at: now,
            failures: 0,
            answer: Some(Err(String::new())),
        });
        let free = asked.answer.is_some();
        (asked.answer, asked.at) = (None, now);
        free
    }

    fn end(&self, key: &str, answer: Result<BucketAnswer, String>, now: Timestamp) {
        let mut answers = self.lock();
        if let Some(asked) = answers.get_mut(key) {
            (asked.answer, asked.at) = (Some(answer), now);
            asked.failures = match asked.trouble() {
                Some(_) => asked.failures.saturating_add(1),
                None => 0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the Secrets of the stores while something needs them, and forgets them
/// when nothing does: a settled cluster reads none.
pub async fn look_at_stores(
    ctx: &Context,
    memory: &mut Memory,
    cluster: &Cluster,
    backups: &BTreeMap<String, DynomiteBackup>,
    needed: bool,
    now: Instant,
) -> BTreeMap<String, Seen<String>> {
    let needed = needed || backups_need_stores(cluster, backups);
    let Some(spec) = cluster.spec.backup.as_ref().filter(|_| needed) else {
        memory.stores = None;
        return BTreeMap::new();
    };
    if let Some(held) = &memory.stores
        && now.duration_since(held.at) < FRESH
    {
        return held.ids.clone();
    }
    let held = read(ctx, &cluster.id.namespace, spec, now).await;
    let ids = held.ids.clone();
    memory.stores = Some(held);
    ids
}

/// The ids of the keys of encryption that were read, old ones too.
pub fn key_ids(memory: &Memory) -> BTreeSet<String> {
    let held = memory.stores.iter();
    let keys = held.flat_map(|held| held.credentials.encryption_keys.keys());
    keys.cloned().collect()
}

async fn read(ctx: &Context, namespace: &str, spec: &BackupSpec, now: Instant) -> Held {
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let secret = async |name: &str| match api.get_opt(name).await {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(format!("Secret {name} does not exist: make it")),
        Err(error) => {
            let failure = describe(&error);
            ctx.metrics.call_failed("observe", &failure.reason);
            Err(format!("Secret {name} cannot be read: {}", failure.message))
        }
    };
    let mut credentials = Credentials::default();
    let mut keys = Ok(None);
    if let Some(encryption) = &spec.encryption {
        keys = match secret(&encryption.key_secret).await {
            Ok(secret) => encryption_keys(&secret, &encryption.key_id).map(|keys| {
                credentials.encryption_keys = keys;
                Some(version(&secret))
            }),
            Err(why) => Err(why),
        };
    }
    let mut ids = BTreeMap::new();
    for store in &spec.stores {
        let opens = match &store.credentials_secret {
            Some(name) => secret(name)
                .await
                .and_then(|secret| Ok((Some(version(&secret)), entries(&secret)?))),
            None => Ok((None, BTreeMap::new())),
        };
        let id = match (opens, keys.clone()) {
            (Err(why), _) | (_, Err(why)) => Seen::Unknown(why),
            (Ok((version, entries)), Ok(key_version)) => {
                let id = id(&[version.as_deref(), key_version.as_deref()]);
                let opened = StoreCredentials {
                    id: id.clone(),
                    entries,
                };
                credentials.stores.insert(store.name.clone(), opened);
                Seen::Known(id)
            }
        };
        ids.insert(store.name.clone(), id);
    }
    Held {
        at: now,
        credentials,
        ids,
    }
}

/// Which state of a Secret this is, without anything of its content.
fn version(secret: &Secret) -> String {
    let uid = secret.uid().unwrap_or_default();
    format!("{uid}/{}", secret.resource_version().unwrap_or_default())
}

/// A word for these states of Secrets.
fn id(versions: &[Option<&str>]) -> String {
    let text: Vec<&str> = versions.iter().map(|v| v.unwrap_or("-")).collect();
    let digest = Sha256::digest(text.join(" ").as_bytes());
    digest.iter().take(8).fold(String::new(), |text, byte| {
        let high = char::from_digit(u32::from(byte >> 4), 16);
        let low = char::from_digit(u32::from(byte & 15), 16);
        text + &high.into_iter().chain(low).collect::<String>()
    })
}

/// The entries of a Secret as text.
fn entries(secret: &Secret) -> Result<BTreeMap<String, String>, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| match String::from_utf8(value.0.clone()) {
        Ok(text) => Ok((key.clone(), text)),
        Err(_) => Err(format!(
            "entry {key} of Secret {} is not text",
            secret.name_any()
        )),
    })
    .collect()
}

/// The keys of a Secret, Base64 of 32 bytes each. What is no key is left out,
/// unless it is the one that is needed.
fn encryption_keys(secret: &Secret, wanted: &str) -> Result<BTreeMap<String, String>, String> {
    let mut keys = BTreeMap::new();
    for (id, value) in secret.data.iter().flatten() {
        if let Some(key) = encryption_key(&value.0) {
            keys.insert(id.clone(), STANDARD.encode(key));
        }
    }
    if keys.contains_key(wanted) {
        return Ok(keys);
    }
    Err(format!(
        "Secret {} has no key {wanted} of {KEY_BYTES} bytes: add it, as in `openssl rand 32`",
        secret.name_any()
    ))
}

/// 32 bytes, as they are or as Base64.
fn encryption_key(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() == KEY_BYTES {
        return Some(value.to_vec());
    }
    let text = std::str::from_utf8(value).ok()?;
    let key = STANDARD.decode(text.trim()).ok()?;
    (key.len() == KEY_BYTES).then_some(key)
}

/// Asks a question through a node, beside the reconcile, which a slow store
/// must not hold up; the cluster is woken when there is an answer.
pub fn ask(
    ctx: &Context,
    desk: &Desk,
    cluster: &Cluster,
    client: Arc<NodeClient>,
    target: Target,
    request: BucketRequest,
) {
    let key = question(&request);
    if !desk.begin(&key, ctx.now()) {
        return;
    }
    let (desk, world) = (desk.clone(), Arc::clone(&ctx.world));
    let cluster = ClusterKey {
        namespace: cluster.id.namespace.clone(),
        name: cluster.id.name.clone(),
    };
    tokio::spawn(async move {
        let answer = client.ask_bucket(&target, &request).await;
        let answer = answer.map_err(|error: NodeError| error.to_string());
        desk.end(&key, answer, Timestamp::now());
        world.triggers.push(cluster);
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(entries: &[(&str, &[u8])]) -> Secret {
        let data = entries.iter();
        let data = data.map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())));
        Secret {
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    #[test]
    fn keys_are_bytes_or_base64_and_the_wanted_one_must_be_one() {
        let text = STANDARD.encode([7_u8; 32]);
        let held = secret(&[("a", &[7; 32]), ("b", text.as_bytes()), ("note", b"short")]);
        let keys = encryption_keys(&held, "b").expect("it is there");
        assert_eq!(keys["a"], keys["b"]);
        assert_eq!(keys.len(), 2);
        for wanted in ["note", "c"] {
            let why = encryption_keys(&held, wanted).expect_err("it is no key");
            assert!(why.contains(wanted) && !why.contains("short"), "{why}");
        }
    }

    #[test]
    fn an_id_changes_with_the_state_of_each_secret_and_tells_nothing_of_it() {
        let (one, other) = (id(&[Some("u/1"), None]), id(&[Some("u/2"), None]));
        assert!(one != other && one != id(&[None, Some("u/1")]));
        assert!(!one.contains('u'));
    }

    #[test]
    fn what_is_held_is_never_printed() {
        let entries = [("AWS_SECRET_ACCESS_KEY".to_owned(), "canary".to_owned())];
        let credentials = Credentials {
            stores: BTreeMap::from([(
                "s".to_owned(),
                StoreCredentials {
                    id: "1".to_owned(),
                    entries: entries.into(),
                },
            )]),
            encryption_keys: BTreeMap::from([("k".to_owned(), "canary".to_owned())]),
        };
        let printed = format!("{credentials:?}");
        assert!(printed.contains("AWS_SECRET_ACCESS_KEY") && !printed.contains("canary"));
    }

    #[test]
    fn a_question_is_asked_once_at_a_time_and_failures_are_counted() {
        let (desk, now) = (Desk::default(), Timestamp::UNIX_EPOCH);
        assert!(desk.begin("q", now));
        assert!(!desk.begin("q", now));
        desk.end("q", Err("away".to_owned()), now);
        assert_eq!(desk.answers(now)["q"].failures, 1);
        assert!(desk.begin("q", now));
        desk.end("q", Ok(BucketAnswer::Done), now);
        assert_eq!(desk.answers(now)["q"].failures, 0);
        let later = Timestamp::from_second(ANSWERS_KEPT + 1).expect("in range");
        assert!(desk.answers(later).is_empty());
    }
}
