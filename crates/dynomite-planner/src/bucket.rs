//! Questions to object storage: asked through a node, because the identity lies there, and answered by the next pass.
//!
//! ```text
//! ask --no answer yet--> Action::AskBucket --> Observed::answers --next pass--> Reply::Answer
//! ```
//!
//! An answer that is lost with the operator's memory is asked for again: every
//! question can be asked twice.

use std::collections::BTreeMap;

use dynomite_api::contract::{
    BackupPlace, BucketAction, BucketAnswer, BucketRequest, NodeReport, Provider,
};
use dynomite_api::crd::BackupStore;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::Cluster;
use crate::compare;
use crate::observed::{Observed, Seen};
use crate::plan::Action;
use crate::ring::{Node, Ring};
use crate::steps::Step;

/// Where pods see the volumes of local stores.
pub const DIR_BACKUPS: &str = "/backups";
/// When a question that failed is asked again.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// When a question is asked anew that no other try seemed to help: a person may
/// have helped.
const ANEW: SignedDuration = SignedDuration::from_mins(1);

/// What came of questions, by [`question`].
pub type Answers = BTreeMap<String, Asked>;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When it was asked last.
    pub at: Timestamp,
    /// How often in a row it has failed.
    pub failures: u32,
    /// What the node answered, or why it could not be asked; `None` while it is
    /// being asked.
    pub answer: Option<Result<BucketAnswer, String>>,
}

impl Asked {
    /// Why another try may help, if it has failed that way.
    pub fn trouble(&self) -> Option<String> {
        match self.answer.as_ref()? {
            Err(why) => Some(why.clone()),
            Ok(BucketAnswer::Failed {
                message,
                retry: true,
                ..
            }) => Some(message.clone()),
            Ok(_) => None,
        }
    }
}

/// What tells a question from others.
pub fn question(request: &BucketRequest) -> String {
    compare::digest(request)
}

/// What is known of the answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// The node's answer, which no other try would change.
    Answer(&'a BucketAnswer, Timestamp),
    /// It is being asked, and why that takes so long; empty at first.
    Pending(String),
}

/// Who can be asked.
pub(crate) struct Respondent<'a> {
    /// The pod.
    pub(crate) name: &'a str,
    /// Its UID.
    pub(crate) pod_uid: &'a str,
    /// Its address.
    pub(crate) address: &'a str,
    /// What it said last.
    pub(crate) report: &'a NodeReport,
}

impl<'a> Respondent<'a> {
    fn of(node: &'a Node<'_>) -> Option<Self> {
        let report = node.report.as_ref().ok()?;
        Some(Self {
            name: &node.name,
            pod_uid: node.pod_uid(),
            address: node.address()?,
            report,
        })
    }
}

/// Asks a question, unless it was answered at `since` or later.
pub(crate) fn ask<'a>(
    seen: (&'a Observed, &Ring<'_>),
    step: &mut Step,
    place: &BackupPlace,
    action: BucketAction,
    since: Timestamp,
    now: Timestamp,
) -> Reply<'a> {
    let (observed, ring) = seen;
    let nodes: Vec<Respondent<'_>> = ring
        .nodes
        .iter()
        .filter(|node| !node.terminating())
        .filter_map(Respondent::of)
        .collect();
    ask_of((observed, now), step, place, action, since, &nodes)
}

/// The same of one pod.
pub(crate) fn ask_one<'a>(
    seen: (&'a Observed, Timestamp),
    step: &mut Step,
    place: &BackupPlace,
    action: BucketAction,
    since: Timestamp,
    of: &Respondent<'_>,
) -> Reply<'a> {
    ask_of(seen, step, place, action, since, std::slice::from_ref(of))
}

fn ask_of<'a>(
    seen: (&'a Observed, Timestamp),
    step: &mut Step,
    place: &BackupPlace,
    action: BucketAction,
    since: Timestamp,
    nodes: &[Respondent<'_>],
) -> Reply<'a> {
    let (observed, now) = seen;
    let request = BucketRequest {
        place: place.clone(),
        action,
    };
    let asked = observed.answers.get(&question(&request));
    let asked = asked.filter(|asked| {
        let refused = matches!(&asked.answer, Some(Ok(BucketAnswer::Failed { .. })));
        asked.at >= since && !(refused && now.duration_since(asked.at) > ANEW)
    });
    let trouble = asked.and_then(Asked::trouble);
    match asked.map(|asked| (&asked.answer, asked.at)) {
        Some((None, _)) => return Reply::Pending(String::new()),
        Some((Some(Ok(answer)), at)) if trouble.is_none() => return Reply::Answer(answer, at),
        _ => {}
    }
    let trouble = trouble.unwrap_or_default();
    if let Some(asked) = asked {
        let again = asked.at.saturating_add(AGAIN).unwrap_or(Timestamp::MAX);
        if now < again {
            step.wake(again);
            return Reply::Pending(trouble);
        }
    }
    let tries = asked.map_or(0, |asked| asked.failures as usize);
    let Some(node) = nodes.get(tries % nodes.len().max(1)) else {
        return Reply::Pending("no node of the ring can be asked".to_owned());
    };
    hand_to(step, node, place);
    step.act(
        Action::AskBucket {
            node: node.name.to_owned(),
            pod_uid: node.pod_uid.to_owned(),
            address: node.address.to_owned(),
            request: Box::new(request),
        },
        "object storage is asked through the node",
    );
    Reply::Pending(trouble)
}

/// Hands a node what opens a place, if it lacks it.
pub(crate) fn hand_credentials(step: &mut Step, node: &Node<'_>, place: &BackupPlace) {
    if let Some(node) = Respondent::of(node) {
        hand_to(step, &node, place);
    }
}

/// The same for whoever can be asked.
pub(crate) fn hand_to(step: &mut Step, node: &Respondent<'_>, place: &BackupPlace) {
    let held = &node.report.credentials;
    if place.credentials.is_empty() || held.contains(&place.credentials) {
        return;
    }
    let hand = Action::HandCredentials {
        node: node.name.to_owned(),
        pod_uid: node.pod_uid.to_owned(),
        address: node.address.to_owned(),
    };
    step.act_once(hand, "it lacks what opens the store of backups");
}

/// The place of a store, or why it is not known.
pub(crate) fn place(
    cluster: &Cluster,
    observed: &Observed,
    store: &str,
) -> Result<BackupPlace, NoPlace> {
    let place = place_with(cluster, store, String::new())?;
    let backup = cluster.spec.backup.as_ref();
    let encrypts = backup.is_some_and(|backup| backup.encryption.is_some());
    let found = backup.and_then(|backup| backup.store(Some(store)));
    if !encrypts && found.is_none_or(|found| found.credentials_secret.is_none()) {
        return Ok(place);
    }
    let credentials = match observed.store_credentials.get(store) {
        Some(Seen::Known(id)) => id.clone(),
        Some(Seen::Unknown(why)) => return Err(NoPlace::Credentials(why.clone())),
        None => return Err(NoPlace::Credentials("they were not read yet".to_owned())),
    };
    Ok(BackupPlace {
        credentials,
        ..place
    })
}

/// The place of a store, with credentials that are known already.
pub(crate) fn place_with(
    cluster: &Cluster,
    store: &str,
    credentials: String,
) -> Result<BackupPlace, NoPlace> {
    let backup = cluster.spec.backup.as_ref().ok_or(NoPlace::NoStores)?;
    let found = backup.store(Some(store));
    let found = found.ok_or_else(|| NoPlace::NoSuchStore(store.to_owned()))?;
    Ok(BackupPlace {
        store: store.to_owned(),
        provider: provider(found),
        prefix: found.prefix.trim_matches('/').to_owned(),
        credentials,
    })
}

/// Why a place is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// `spec.backup` is absent.
    NoStores,
    /// It names no such store.
    NoSuchStore(String),
    /// What opens it is not known.
    Credentials(String),
}

impl NoPlace {
    /// One word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoStores => "NoStores",
            Self::NoSuchStore(_) => "NoSuchStore",
            Self::Credentials(_) => "CredentialsUnknown",
        }
    }

    /// For people, with what they can do.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::NoStores => {
                "the cluster has no store for backups: name one in its spec.backup.stores"
                    .to_owned()
            }
            Self::NoSuchStore(name) => format!(
                "the cluster's spec.backup.stores has no {name:?}: add it, or name another store"
            ),
            Self::Credentials(why) => format!("what opens the store is not known: {why}"),
        }
    }
}

fn provider(store: &BackupStore) -> Provider {
    if let Some(s3) = &store.s3 {
        return Provider::S3 {
            bucket: s3.bucket.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            path_style: s3.path_style,
        };
    }
    if let Some(google) = &store.google {
        return Provider::Google {
            bucket: google.bucket.clone(),
            endpoint: google.endpoint.clone(),
        };
    }
    if let Some(azure) = &store.azure {
        return Provider::Azure {
            account: azure.account.clone(),
            container: azure.container.clone(),
            endpoint: azure.endpoint.clone(),
        };
    }
    let within = store.local.as_ref().map_or("", |local| local.path.as_str());
    let path = format!("{DIR_BACKUPS}/{}/{within}", store.name);
    Provider::Local {
        path: path.trim_end_matches('/').to_owned(),
    }
}

/// Where something lies, as a URL for people.
pub(crate) fn url(place: &BackupPlace, key: &str) -> String {
    match &place.provider {
        Provider::S3 { bucket, .. } => format!("s3://{bucket}/{key}"),
        Provider::Google { bucket, .. } => format!("gs://{bucket}/{key}"),
        Provider::Azure {
            account, container, ..
        } => format!("azure://{account}/{container}/{key}"),
        Provider::Local { path } => format!("file://{path}/{key}"),
    }
}
