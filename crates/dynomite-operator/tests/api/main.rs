//! The reconcile against an API server in memory: it settles, survives a crash after every write, and bears trouble.

mod beside;
mod many;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::annotations::{FIELD_MANAGER, LABEL_MANAGED_BY};
use dynomite_api::crd::{ClusterPhase, ConditionType, DynomiteCluster, condition};
use dynomite_operator::context::Context;
use dynomite_operator::index::{ClusterKey, Index};
use dynomite_operator::leadership::Leadership;
use dynomite_operator::lease::Election;
use dynomite_operator::metrics::Metrics;
use dynomite_operator::reconcile::{Error, reconcile};
use dynomite_operator::world::World;
use dynomite_planner::Defaults;
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource;
use kube::api::Api;
use kube_runtime::events::Recorder;
use kube_runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use server::{Key, Server};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// More rounds than any of the tests needs to settle.
const ROUNDS_MAX: usize = 60;

fn cluster() -> Value {
    json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteCluster",
        "metadata": {"namespace": "db", "name": "ring"},
        "spec": {
            "datacenter": "dc1", "nodesPerRack": 2,
            "racks": [{"name": "dc1-a"}, {"name": "dc1-b"}, {"name": "dc1-c"}],
        },
    })
}

fn server_with(cluster: Value) -> Server {
    let server = Server::default();
    server.put("dynomiteclusters", cluster);
    server
}

/// An operator that has just started: it knows nothing.
fn operator(server: &Server, leadership: Leadership) -> Arc<Context> {
    let metrics = Arc::new(Metrics::default());
    let world = Arc::new(World::new(false, Arc::clone(&metrics)));
    let client = server.client();
    let defaults = Defaults {
        sidecar_image: "operator:1".into(),
        engine_image: "operator:1".into(),
        image_pull_policy: None,
    };
    let recorder = Recorder::new(client.clone(), "test".into());
    Arc::new(Context::new(
        client, defaults, leadership, world, metrics, recorder,
    ))
}

/// Shows the operator what its watches would show.
fn show(server: &Server, ctx: &Context) {
    let objects = server.objects();
    let world = &ctx.world;
    show_kind(&objects, "dynomiteclusters", &world.clusters, false);
    show_kind(&objects, "statefulsets", &world.stateful_sets, true);
    show_kind(&objects, "services", &world.services, true);
    show_kind(&objects, "configmaps", &world.config_maps, true);
    show_kind(&objects, "poddisruptionbudgets", &world.budgets, true);
}

fn show_kind<K>(objects: &BTreeMap<Key, Value>, plural: &str, index: &Index<K>, labelled: bool)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    index.handle(&None, Event::Init);
    for (_, object) in objects.iter().filter(|(key, _)| key.0 == plural) {
        let label = &object["metadata"]["labels"][LABEL_MANAGED_BY];
        if !labelled || label == FIELD_MANAGER {
            let object = serde_json::from_value(object.clone()).expect("an object of its kind");
            index.handle(&None, Event::InitApply(object));
        }
    }
    index.handle(&None, Event::InitDone);
}

async fn look(server: &Server, ctx: &Arc<Context>) -> Result<(), Error> {
    show(server, ctx);
    look_at(ctx, "ring").await
}

async fn look_at(ctx: &Arc<Context>, name: &str) -> Result<(), Error> {
    let found = ctx.world.clusters.get("db", name).expect("the cluster");
    reconcile(found, Arc::clone(ctx)).await.map(|_| ())
}

/// Looks until a look changes nothing; returns how many looks it took.
async fn settle(server: &Server, ctx: &Arc<Context>) -> usize {
    for round in 1..=ROUNDS_MAX {
        // Small news of the status wait for each other.
        sleep(Duration::from_millis(1500)).await;
        let before = server.writes();
        let result = look(server, ctx).await;
        if result.is_ok() && server.writes() == before {
            return round;
        }
    }
    panic!("it does not settle: {:?}", status(server));
}

/// What is there, without what differs from run to run.
fn shape(server: &Server) -> BTreeMap<Key, Value> {
    let mut objects = server.objects();
    objects.retain(|key, _| key.0 != "events");
    for (key, object) in &mut objects {
        let meta = object["metadata"].as_object_mut().expect("metadata");
        for field in ["uid", "resourceVersion", "ownerReferences", "annotations"] {
            meta.remove(field);
        }
        if key.0 == "secrets" {
            let data = object["data"].as_object().expect("data");
            object["data"] = json!(data.keys().collect::<Vec<_>>());
        }
        if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
            for condition in conditions {
                condition["lastTransitionTime"] = Value::Null;
            }
        }
    }
    objects
}

fn status(server: &Server) -> DynomiteCluster {
    status_of(server, "ring")
}

fn status_of(server: &Server, name: &str) -> DynomiteCluster {
    let objects = server.objects();
    let key = ("dynomiteclusters".into(), "db".into(), name.into());
    serde_json::from_value(objects[&key].clone()).expect("a cluster")
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_costs_no_call_at_all() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let kinds: Vec<String> = server.objects().into_keys().map(|key| key.0).collect();
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!((count("statefulsets"), count("secrets")), (3, 3));
    let calls = server.calls();
    for _ in 0..5 {
        look(&server, &ctx).await.expect("a look");
    }
    assert_eq!(server.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_ends_in_the_same_place() {
    let reference = server_with(cluster());
    settle(&reference, &operator(&reference, Leadership::unlimited())).await;
    let writes = reference.writes();
    assert!(writes > 10);
    for last in 0..writes {
        let server = server_with(cluster());
        server.fail(Some(Box::new(move |call| {
            let dead = call.writes && call.writes_before >= last;
            dead.then_some(StatusCode::SERVICE_UNAVAILABLE)
        })));
        let doomed = operator(&server, Leadership::unlimited());
        for _ in 0..ROUNDS_MAX {
            if server.writes() == last {
                break;
            }
            // Whether it notices is not what this is about.
            let _ = look(&server, &doomed).await;
        }
        assert_eq!(server.writes(), last);
        server.fail(None);
        settle(&server, &operator(&server, Leadership::unlimited())).await;
        assert_eq!(shape(&server), shape(&reference), "after write {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_every_kind_delay_and_change_nothing() {
    let reference = server_with(cluster());
    settle(&reference, &operator(&reference, Leadership::unlimited())).await;
    for seed in 0..8_u64 {
        let server = server_with(cluster());
        // A small generator with a seed, so that a failure can be repeated.
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        server.fail(Some(Box::new(move |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let errors = [
                StatusCode::CONFLICT,
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::INTERNAL_SERVER_ERROR,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            (random % 5 == 0).then(|| errors[(random >> 8) as usize % errors.len()])
        })));
        let ctx = operator(&server, Leadership::unlimited());
        for _ in 0..8 {
            let _ = look(&server, &ctx).await;
        }
        server.fail(None);
        settle(&server, &ctx).await;
        assert_eq!(shape(&server), shape(&reference), "seed {seed}");
    }
}

/// A bug is one cluster's: the call that it comes up in panics, once.
#[tokio::test(start_paused = true)]
async fn a_panic_over_one_cluster_is_told_there_and_keeps_no_other_waiting() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    server.put("dynomiteclusters", named("other", &["dc1-d"]));
    server.remove("services", "db", "ring");
    let mut panics = true;
    server.fail(Some(Box::new(move |_| {
        assert!(!std::mem::take(&mut panics), "a bug");
        None
    })));
    let ended = look(&server, &ctx).await;
    assert!(matches!(&ended, Err(Error::Panicked(words)) if words.contains("a bug")));
    let (reason, message) = stalled(&server, "ring").expect("it is told");
    assert_eq!(reason, "OperatorPanicked");
    assert!(message.contains("a bug"), "{message}");

    show(&server, &ctx);
    look_at(&ctx, "other").await.expect("a look at the other");
    let made = ("services".into(), "db".into(), "other".into());
    assert!(server.objects().contains_key(&made), "the other is made");

    settle(&server, &ctx).await;
    let service = ("services".into(), "db".into(), "ring".into());
    assert!(server.objects().contains_key(&service), "it goes on here");
    assert_eq!(stalled(&server, "ring"), None);
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_taken_away_is_named_and_its_return_heals() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let reference = shape(&server);
    server.remove("services", "db", "ring");
    server.fail(Some(Box::new(|call| {
        let forbidden = call.writes && call.plural == "services";
        forbidden.then_some(StatusCode::FORBIDDEN)
    })));
    for _ in 0..5 {
        sleep(Duration::from_millis(1500)).await;
        look(&server, &ctx).await.expect("a look");
    }
    let conditions = status(&server).status.expect("a status").conditions;
    let said = condition(&conditions, ConditionType::Reconciling).expect("it is set");
    assert_eq!(
        (said.status.as_str(), said.reason.as_str()),
        ("True", "Forbidden")
    );
    assert!(said.message.contains("Service ring"), "{}", said.message);
    server.fail(None);
    settle(&server, &ctx).await;
    assert_eq!(shape(&server), reference);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deleted_comes_back() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let reference = shape(&server);
    for (plural, namespace, name) in reference.keys() {
        // Secrets are not watched: they are looked at again after a while.
        if plural != "dynomiteclusters" && plural != "secrets" {
            server.remove(plural, namespace, name);
            settle(&server, &ctx).await;
            assert_eq!(shape(&server), reference, "{plural} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_is_left_alone_and_named_in_the_status() {
    let server = server_with(cluster());
    server.put(
        "services",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "db", "name": "ring"},
            "spec": {"selector": {"app": "mine"}}}),
    );
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let objects = server.objects();
    let service = &objects[&("services".into(), "db".into(), "ring".into())];
    assert_eq!(service["spec"], json!({"selector": {"app": "mine"}}));
    let conditions = status(&server).status.expect("a status").conditions;
    let stalled = condition(&conditions, ConditionType::Stalled).expect("Stalled");
    assert_eq!(stalled.status, "True");
    assert!(
        stalled.message.contains("Service ring"),
        "{}",
        stalled.message
    );
    // It goes on by itself when the name is free.
    server.remove("services", "db", "ring");
    let successor = operator(&server, Leadership::unlimited());
    settle(&server, &successor).await;
    let conditions = status(&server).status.expect("a status").conditions;
    let stalled = condition(&conditions, ConditionType::Stalled).expect("Stalled");
    assert_eq!(stalled.status, "False");
}

fn named(name: &str, racks: &[&str]) -> Value {
    let mut cluster = cluster();
    cluster["metadata"]["name"] = json!(name);
    let racks: Vec<Value> = racks.iter().map(|name| json!({"name": name})).collect();
    cluster["spec"]["racks"] = json!(racks);
    cluster
}

/// Whose each object of a kind is, by the name of its controller.
fn owners(server: &Server, plural: &str) -> BTreeMap<String, String> {
    let mut objects = server.objects();
    objects.retain(|key, _| key.0 == plural);
    let owner = |o: &Value| {
        let owner = &o["metadata"]["ownerReferences"][0]["name"];
        owner.as_str().unwrap_or_default().to_owned()
    };
    objects
        .into_iter()
        .map(|(key, object)| (key.2, owner(&object)))
        .collect()
}

/// The reason and the message of `Stalled`, if it is true.
fn stalled(server: &Server, name: &str) -> Option<(String, String)> {
    let conditions = status_of(server, name).status?.conditions;
    let stalled = condition(&conditions, ConditionType::Stalled)?;
    (stalled.status == "True").then(|| (stalled.reason.clone(), stalled.message.clone()))
}

/// Each pair wants one Service, or a Service and a StatefulSet, of the same name.
#[tokio::test(start_paused = true)]
async fn of_two_rings_that_want_one_name_one_gets_it_and_the_other_says_so() {
    for (first, second, contested) in [
        (
            named("cache", &["eu"]),
            named("cache-eu", &["a"]),
            "cache-eu",
        ),
        (named("x", &["a-b"]), named("x-a", &["b"]), "x-a-b"),
    ] {
        for at_once in [false, true] {
            let server = server_with(first.clone());
            let ctx = operator(&server, Leadership::unlimited());
            let names = [&first, &second].map(|c| c["metadata"]["name"].as_str().expect("a name"));
            let rounds = |rounds: usize| {
                let (server, ctx) = (&server, &ctx);
                async move {
                    for _ in 0..rounds {
                        sleep(Duration::from_millis(1500)).await;
                        show(server, ctx);
                        let there = server.objects();
                        let looks = names.iter().filter(|name| {
                            let key = ("dynomiteclusters".into(), "db".into(), (**name).into());
                            there.contains_key(&key)
                        });
                        let looks = looks.map(|name| look_at(ctx, name));
                        for result in futures::future::join_all(looks).await {
                            result.expect("a look");
                        }
                    }
                }
            };
            if !at_once {
                rounds(8).await;
            }
            server.put("dynomiteclusters", second.clone());
            rounds(8).await;
            let held = |plural: &str| owners(&server, plural).get(contested).cloned();
            let winner = held("services").expect("it is made");
            if let Some(owner) = held("statefulsets") {
                assert_eq!(owner, winner, "one has all of it");
            }
            assert!(at_once || winner == names[0]);
            let loser = if winner == names[0] {
                names[1]
            } else {
                names[0]
            };
            assert_eq!(stalled(&server, &winner), None);
            let (reason, message) = stalled(&server, loser).expect("it says so");
            assert_eq!(reason, "NameTaken");
            assert!(message.contains(contested), "{message}");
            assert!(message.contains(&winner), "{message}");
            let writes = server.writes();
            rounds(12).await;
            assert_eq!(server.writes(), writes, "they do not fight");

            server.remove("dynomiteclusters", "db", &winner);
            for plural in ["services", "statefulsets", "poddisruptionbudgets"] {
                for (name, _) in owners(&server, plural).iter().filter(|o| *o.1 == winner) {
                    server.remove(plural, "db", name);
                }
            }
            rounds(8).await;
            assert_eq!(stalled(&server, loser), None);
            assert_eq!(held("services").as_deref(), Some(loser));
        }
    }
}

/// A Secret is no exception, and the status does not waver while it is there.
#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_else_is_not_written_over() {
    let server = server_with(cluster());
    server.put(
        "secrets",
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"mine": "bWluZQ=="},
            "metadata": {"namespace": "db", "name": "ring-ca"}}),
    );
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let objects = server.objects();
    let secret = &objects[&("secrets".into(), "db".into(), "ring-ca".into())];
    assert_eq!(secret["data"], json!({"mine": "bWluZQ=="}));
    let writes = server.writes();
    for _ in 0..20 {
        let (reason, message) = stalled(&server, "ring").expect("it says so");
        assert_eq!(reason, "NameTaken");
        assert!(message.contains("Secret ring-ca"), "{message}");
        sleep(Duration::from_secs(4)).await;
        look(&server, &ctx).await.expect("a look");
    }
    assert_eq!(server.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_writes_nothing() {
    // The lease is lost when this many writes were carried out; what is under
    // way at that moment may still arrive: one Secret, or eight objects.
    for (written, under_way) in [(0, 1), (1, 1), (2, 8)] {
        let server = server_with(cluster());
        let leadership = Leadership::unlimited();
        let ctx = operator(&server, leadership.clone());
        server.fail(Some(Box::new(move |call| {
            if call.writes && call.writes_before == written {
                leadership.end();
            }
            None
        })));
        let result = look(&server, &ctx).await;
        assert!(matches!(result, Err(Error::NotLeader)), "{result:?}");
        let writes = server.writes();
        assert!(writes <= written + under_way, "{writes}");
        assert!(matches!(look(&server, &ctx).await, Err(Error::NotLeader)));
        assert_eq!(server.writes(), writes);
    }
}

/// Two operators: the second leads only when the first may no longer write.
#[tokio::test(start_paused = true)]
async fn two_operators_never_lead_at_once() {
    let server = Server::default();
    let election = |name: &str, leadership: &Leadership| {
        let api: Api<Lease> = Api::namespaced(server.client(), "ops");
        Election::new(api, "lease", name.to_owned(), leadership.clone())
    };
    let (first, second) = (Leadership::absent(), Leadership::absent());
    let running = tokio::spawn(election("first", &first).run(CancellationToken::new()));
    first
        .follow()
        .wait_for(|leads| *leads)
        .await
        .expect("leads");
    let stop = CancellationToken::new();
    let successor = tokio::spawn(election("second", &second).run(stop.clone()));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(
        (first.check().is_ok(), second.check().is_ok()),
        (true, false)
    );
    // The first freezes: it neither renews nor gives back.
    running.abort();
    let mut followed = second.follow();
    let mut leads = Box::pin(followed.wait_for(|leads| *leads));
    let begun = Instant::now();
    loop {
        tokio::select! {
            _ = &mut leads => break,
            () = sleep(Duration::from_millis(100)) => {
                assert!(first.check().is_err() || second.check().is_err());
            }
        }
    }
    assert!(first.check().is_err());
    assert!(begun.elapsed() < Duration::from_secs(30));
    // The second ends in order: the next need not wait for the lease to expire.
    stop.cancel();
    successor.await.expect("it ends");
    assert!(second.check().is_err());
    let third = Leadership::absent();
    let begun = Instant::now();
    let running = tokio::spawn(election("third", &third).run(CancellationToken::new()));
    third
        .follow()
        .wait_for(|leads| *leads)
        .await
        .expect("leads");
    assert!(begun.elapsed() < Duration::from_secs(2));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_carried_out_says_so_and_costs_nothing_more() {
    let mut bad = cluster();
    bad["spec"]["racks"][1]["name"] = json!("dc1-a");
    let server = server_with(bad);
    let ctx = operator(&server, Leadership::unlimited());
    let result = look(&server, &ctx).await;
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    let after = status(&server).status.expect("a status");
    assert_eq!(after.phase, Some(ClusterPhase::Stalled));
    let calls = server.calls();
    let result = look(&server, &ctx).await;
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    assert_eq!(server.calls(), calls);
    let made = |key: &Key| key.0 != "dynomiteclusters" && key.0 != "events";
    assert_eq!(server.objects().keys().filter(|key| made(key)).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_carried_out_can_be_deleted() {
    for (retention, kept) in [("Delete", 0), ("Retain", 1)] {
        let mut doomed = cluster();
        doomed["metadata"]["uid"] = json!("uid-of-ring");
        doomed["metadata"]["finalizers"] = json!([dynomite_api::annotations::FINALIZER]);
        doomed["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        doomed["spec"]["storage"] = json!({"retention": retention});
        doomed["spec"]["racks"][1]["name"] = json!("dc1-a");
        let server = server_with(doomed);
        let labels = json!({"app.kubernetes.io/name": "dynomite",
            "app.kubernetes.io/instance": "ring", LABEL_MANAGED_BY: FIELD_MANAGER});
        let left = |name: &str| {
            json!({"metadata": {"namespace": "db", "name": name, "labels": labels,
                "ownerReferences": [{"apiVersion": "dynomite.io/v1alpha1", "controller": true,
                    "kind": "DynomiteCluster", "name": "ring", "uid": "uid-of-ring"}]}})
        };
        let mut set = left("ring-dc1-a");
        set["apiVersion"] = json!("apps/v1");
        server.put("statefulsets", set);
        let mut record = left("ring-tokens");
        record["apiVersion"] = json!("v1");
        record["metadata"]["ownerReferences"] = json!([]);
        server.put("configmaps", record);
        let ctx = operator(&server, Leadership::unlimited());
        for _ in 0..6 {
            look(&server, &ctx).await.expect("a look");
        }
        let after = status(&server);
        assert_eq!(
            after.metadata.finalizers.unwrap_or_default(),
            Vec::<String>::new()
        );
        let objects = server.objects();
        let count = |kind: &str| objects.keys().filter(|key| key.0 == kind).count();
        assert_eq!(count("configmaps"), kept, "{retention}");
        assert_eq!(count("statefulsets"), kept, "{retention}");
        assert_eq!(count("secrets"), 0, "nothing is made any more");
    }
}

/// A StatefulSet that cannot create its pods says why in Events only.
#[tokio::test(start_paused = true)]
async fn a_quota_that_is_exhausted_reaches_the_status_and_stays_there() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    server.put(
        "events",
        json!({"apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"namespace": "db", "name": "failed-create"},
            "lastTimestamp": "2026-01-01T00:00:00Z", "message": "exceeded quota: pods",
            "involvedObject": {"kind": "StatefulSet", "name": "ring-dc1-a"}}),
    );
    // The first look touches the StatefulSets, the second has no more to do.
    for _ in 0..2 {
        sleep(Duration::from_secs(6)).await;
        look(&server, &ctx).await.expect("a look");
    }
    let writes = server.writes();
    for _ in 0..5 {
        let conditions = status(&server).status.expect("a status").conditions;
        let ready = condition(&conditions, ConditionType::Ready).expect("Ready");
        assert!(
            ready.message.contains("exceeded quota"),
            "{}",
            ready.message
        );
        sleep(Duration::from_secs(4)).await;
        look(&server, &ctx).await.expect("a look");
    }
    assert_eq!(server.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn the_status_follows_the_cluster_it_was_made_from() {
    let server = server_with(cluster());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let status = status(&server).status.expect("a status");
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.nodes, "0/6");
    let text = ctx.metrics.text().expect("metrics");
    let key = ClusterKey {
        namespace: "db".into(),
        name: "ring".into(),
    };
    assert!(text.contains(&format!(
        "dynomite_cluster_nodes{{namespace=\"{}\",cluster=\"{}\"}} 6",
        key.namespace, key.name
    )));
}
