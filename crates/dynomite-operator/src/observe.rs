//! Gathers what is known of one cluster: from the watches, from its Secrets, and from its nodes' reports.
//!
//! Nothing in here can fail: what could not be read is `Unknown`, and the
//! planner decides what that means.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::annotations::{APP_SCRATCH, LABEL_NAME};
use dynomite_api::contract::NodeReport;
use dynomite_api::crd::{DynomiteRestore, RestorePhase};
use dynomite_planner::{Cluster, Observed, Scratch, SecretFacts, Seen};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use crate::certificates;
use crate::context::{Context, Memory, Refusals, Secrets};
use crate::failure::describe;
use crate::index::{ClusterKey, Index};
use crate::names::add_strangers;
use crate::node_client::{Error as NodeError, NodeClient, Target};
use crate::reports::Answer;
use crate::stores::{key_ids, look_at_stores};
use crate::volumes::look_at_volumes;

/// How many nodes of a cluster are asked at once.
const ASKED_AT_ONCE: usize = 64;
/// When the Secrets of a settled cluster are looked at again.
const SECRETS_SETTLED: Duration = Duration::from_mins(10);
/// When the Secrets of a cluster in which something moves are looked at again.
const SECRETS_MOVING: Duration = Duration::from_secs(10);
/// When the Secrets of a cluster that waits for long are looked at again.
const SECRETS_STUCK: Duration = Duration::from_mins(1);
/// When the warnings of a `StatefulSet` that lacks pods are looked at again.
const WARNINGS: Duration = Duration::from_secs(10);
/// How long a cluster may stand still before its waits count as long.
const LONG: Duration = Duration::from_mins(1);

/// Everything that is known of the cluster now.
pub async fn observe(ctx: &Context, memory: &mut Memory, cluster: &Cluster) -> Observed {
    let key = ClusterKey {
        namespace: cluster.id.namespace.clone(),
        name: cluster.id.name.clone(),
    };
    let now = Instant::now();
    let world = &ctx.world;
    look_at_secrets(ctx, memory, cluster, now).await;
    let (pods, mut scratch): (BTreeMap<_, _>, BTreeMap<_, _>) =
        of(&world.pods, &key).into_iter().partition(|(_, pod)| {
            pod.labels()
                .get(LABEL_NAME)
                .is_none_or(|of| of != APP_SCRATCH)
        });
    let scratch = scratch.remove(&cluster.scratch_pod());
    memory.resizes_refused.retain(|name, refused| {
        let pod = pods.get(name).and_then(|pod| pod.metadata.uid.as_ref());
        pod == Some(&refused.pod_uid)
    });
    memory.refusals.retain(|name, refusals| {
        let pod = pods.get(name).and_then(|pod| pod.metadata.uid.as_deref());
        refusals.is_of(pod)
    });
    let refused = |(name, refusals): (&String, &Refusals)| {
        Some((name.clone(), refusals.lasting()?.to_owned()))
    };
    let documents_refused = memory.refusals.iter().filter_map(refused).collect();
    let stateful_sets = of(&world.stateful_sets, &key);
    let asked = Instant::now();
    let (reports, scratch) = ask_nodes(memory, cluster, &pods, scratch, asked).await;
    memory.asking = asked.elapsed();
    let warnings = warnings(ctx, memory, &key, &stateful_sets, now).await;
    let claims = of(&world.claims, &key);
    let volumes = look_at_volumes(ctx, memory, &pods, &claims, now).await;
    let backups = of(&world.backups, &key);
    let restores = of(&world.restores, &key);
    let is_open = |restore: &DynomiteRestore| {
        let phase = restore.status.as_ref().and_then(|status| status.phase);
        !phase.is_some_and(RestorePhase::is_final)
    };
    let needed = restores.values().any(is_open);
    let store_credentials = look_at_stores(ctx, memory, cluster, &backups, needed, now).await;
    let mut observed = Observed {
        stateful_sets,
        services: of(&world.services, &key),
        config_maps: of(&world.config_maps, &key),
        pod_disruption_budgets: of(&world.budgets, &key),
        claims,
        foreign_claims: BTreeMap::new(),
        pods,
        scratch,
        ca_secret: seen(memory, |secrets| &secrets.ca, certificates::ca_facts),
        node_secret: seen(memory, |secrets| &secrets.node, certificates::leaf_facts),
        admin_secret: seen(memory, |secrets| &secrets.admin, certificates::leaf_facts),
        secrets: secrets_metadata(memory),
        kubernetes_nodes: match world.kubernetes_nodes() {
            Some(nodes) => Seen::Known(nodes.into_iter().collect()),
            None => Seen::Unknown("the operator may not read Kubernetes nodes".to_owned()),
        },
        reports,
        volumes,
        warnings,
        documents_refused,
        resizes_refused: memory.resizes_refused.clone(),
        restores,
        backups,
        encryption_keys: key_ids(memory),
        store_credentials,
        answers: memory.desk.answers(ctx.now()),
        described: memory.remotes.look(ctx, cluster, now),
    };
    add_strangers(ctx, memory, cluster, &mut observed, now).await;
    observed
}

/// The client for the nodes of the cluster, made anew when the Secret has changed.
pub fn node_client(memory: &mut Memory) -> Result<Arc<NodeClient>, String> {
    let secret = match memory.secrets.as_ref().map(|secrets| &secrets.ca) {
        Some(Ok(Some(secret))) => secret,
        Some(Err(why)) => return Err(format!("the operator's certificate is unknown: {why}")),
        Some(Ok(None)) | None => return Err("there are no certificates yet".to_owned()),
    };
    let version = secret.resource_version().unwrap_or_default();
    if let Some((made_from, client)) = &memory.nodes
        && *made_from == version
    {
        return Ok(Arc::clone(client));
    }
    let client = Arc::new(NodeClient::new(secret).map_err(|error| error.to_string())?);
    memory.nodes = Some((version, Arc::clone(&client)));
    Ok(client)
}

fn of<K>(index: &Index<K>, key: &ClusterKey) -> BTreeMap<String, K>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let objects = index.of_cluster(key);
    objects
        .iter()
        .map(|object| (object.name_any(), object.as_ref().clone()))
        .collect()
}

fn seen(
    memory: &Memory,
    which: fn(&Secrets) -> &Result<Option<Secret>, String>,
    facts: fn(&Secret) -> SecretFacts,
) -> Seen<Option<SecretFacts>> {
    match memory.secrets.as_ref().map(which) {
        Some(Ok(secret)) => Seen::Known(secret.as_ref().map(facts)),
        Some(Err(why)) => Seen::Unknown(why.clone()),
        None => Seen::Unknown("not read yet".to_owned()),
    }
}

/// Whose the Secrets are, as far as they were read.
fn secrets_metadata(memory: &Memory) -> BTreeMap<String, ObjectMeta> {
    let held = memory
        .secrets
        .iter()
        .flat_map(|held| [&held.ca, &held.node, &held.admin]);
    held.filter_map(|read| read.as_ref().ok()?.as_ref())
        .map(|secret| (secret.name_any(), secret.metadata.clone()))
        .collect()
}

/// Reads the Secrets again when what is held of them is too old. A watch would
/// need the right to list them, and with it to read everyone's.
async fn look_at_secrets(ctx: &Context, memory: &mut Memory, cluster: &Cluster, now: Instant) {
    let pause = match (
        memory.pace.is_settled(),
        memory.pace.unchanged_for(now) > LONG,
    ) {
        (true, _) => SECRETS_SETTLED,
        (false, true) => SECRETS_STUCK,
        (false, false) => SECRETS_MOVING,
    };
    if let Some(held) = &memory.secrets
        && held.ca.is_ok()
        && held.node.is_ok()
        && held.admin.is_ok()
        && now.duration_since(held.at) < pause
    {
        return;
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &cluster.id.namespace);
    let (ca, node) = (cluster.ca_secret(), cluster.node_secret());
    let admin = cluster.admin_secret();
    let (ca, node, admin) =
        futures::join!(api.get_opt(&ca), api.get_opt(&node), api.get_opt(&admin));
    let understood = |read: Result<Option<Secret>, kube::Error>| {
        read.map_err(|error| {
            let failure = describe(&error);
            ctx.metrics.call_failed("observe", &failure.reason);
            failure.message
        })
    };
    memory.secrets = Some(Secrets {
        ca: understood(ca),
        node: understood(node),
        admin: understood(admin),
        at: now,
    });
}

/// Asks every pod that has an address, all at once, for its report; the one that is no node too.
async fn ask_nodes(
    memory: &mut Memory,
    cluster: &Cluster,
    pods: &BTreeMap<String, Pod>,
    scratch: Option<Pod>,
    now: Instant,
) -> (BTreeMap<String, Seen<NodeReport>>, Option<Scratch>) {
    let beside = scratch.iter().map(|pod| (pod.name_any(), pod));
    let all = pods.iter().map(|(name, pod)| (name.clone(), pod));
    let mut reports = ask_all(memory, cluster, all.chain(beside), now).await;
    let scratch = scratch.map(|pod| {
        let report = reports.remove(&pod.name_any());
        let unknown = || Seen::Unknown("it has no address yet".to_owned());
        Scratch {
            report: report.unwrap_or_else(unknown),
            pod,
        }
    });
    (reports, scratch)
}

async fn ask_all(
    memory: &mut Memory,
    cluster: &Cluster,
    pods: impl Iterator<Item = (String, &Pod)>,
    now: Instant,
) -> BTreeMap<String, Seen<NodeReport>> {
    let targets: Vec<(String, Target)> = pods
        .filter_map(|(name, pod)| {
            let target = target(cluster, &name, pod)?;
            Some((name, target))
        })
        .collect();
    let there: HashSet<&str> = targets
        .iter()
        .map(|(_, target)| target.pod_uid.as_str())
        .collect();
    memory.pauses.keep_only(|uid| there.contains(uid));
    let client = match node_client(memory) {
        Ok(client) => client,
        Err(why) => {
            let unknown = |(name, _)| (name, Seen::Unknown(why.clone()));
            return targets.into_iter().map(unknown).collect();
        }
    };
    client.keep_only(&there);
    let mut reports = BTreeMap::new();
    let mut asked = Vec::new();
    for (name, target) in targets {
        match memory.pauses.reason(&target.pod_uid, target.address, now) {
            Some(why) => {
                reports.insert(name, Seen::Unknown(why));
            }
            None => asked.push((name, target)),
        }
    }
    let answers: Vec<_> = stream::iter(asked)
        .map(|(name, target)| {
            let client = Arc::clone(&client);
            async move {
                let answer = ask(&client, &target).await;
                (name, target, answer)
            }
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    for (name, target, answer) in answers {
        let now = Instant::now();
        let report = memory
            .pauses
            .note(&target.pod_uid, target.address, answer, now);
        reports.insert(name, report);
    }
    reports
}

async fn ask(client: &NodeClient, target: &Target) -> Answer {
    match client.report(target).await {
        Ok(report) => Answer::Report(Box::new(report)),
        Err(error @ NodeError::Deadline(_)) => Answer::Hung(error.to_string()),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// The pod as somebody to speak with, once it has an address.
fn target(cluster: &Cluster, name: &str, pod: &Pod) -> Option<Target> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(Target {
        pod_uid: pod.uid()?,
        address,
        host: cluster.host(name),
    })
}

/// Why pods of a `StatefulSet` cannot be created is told by Events only.
async fn warnings(
    ctx: &Context,
    memory: &mut Memory,
    key: &ClusterKey,
    stateful_sets: &BTreeMap<String, StatefulSet>,
    now: Instant,
) -> BTreeMap<String, String> {
    let lacking: Vec<&String> = stateful_sets
        .iter()
        .filter(|(_, set)| lacks_pods(set))
        .map(|(name, _)| name)
        .collect();
    if lacking.is_empty() {
        memory.warnings = None;
        return BTreeMap::new();
    }
    match &memory.warnings {
        Some((at, held)) if now.duration_since(*at) < WARNINGS => return held.clone(),
        // A StatefulSet that was just made lacks pods and needs no excuse yet.
        None if memory.pace.unchanged_for(now) < WARNINGS / 2 => return BTreeMap::new(),
        _ => {}
    }
    let api: Api<Event> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mut found = BTreeMap::new();
    for name in lacking {
        let fields =
            format!("involvedObject.kind=StatefulSet,involvedObject.name={name},type=Warning");
        match api
            .list(&ListParams::default().fields(&fields).limit(50))
            .await
        {
            Ok(events) => {
                let newest = events
                    .items
                    .into_iter()
                    .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
                if let Some(message) = newest.and_then(|event| event.message) {
                    found.insert(name.clone(), message);
                }
            }
            Err(error) => ctx.metrics.call_failed("observe", &describe(&error).reason),
        }
    }
    memory.warnings = Some((now, found.clone()));
    found
}

fn lacks_pods(set: &StatefulSet) -> bool {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let there = set.status.as_ref().map_or(0, |status| status.replicas);
    there < wanted
}
