//! Resources beside a cluster: what is written is exactly of what was seen, and what is made is this cluster's.

use dynomite_api::crd::{DynomiteBackup, DynomiteRestore, DynomiteRestoreStatus, RestorePhase};
use dynomite_operator::apply::Error;
use dynomite_operator::beside;
use dynomite_planner::AsSeen;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;

fn restore(cluster: &str) -> Value {
    json!({
        "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteRestore",
        "metadata": {"namespace": "db", "name": "back"},
        "spec": {"cluster": cluster, "from": {"latest": true}},
    })
}

fn held(server: &Server, plural: &str) -> Value {
    let mut objects = server.objects().into_iter();
    let found = objects.find(|(key, _)| key.0 == plural);
    found.expect("it is there").1
}

fn seen(server: &Server) -> AsSeen {
    let held = held(server, "dynomiterestores");
    let held: DynomiteRestore = serde_json::from_value(held).expect("a restore");
    AsSeen::of(&held.metadata)
}

fn says(phase: RestorePhase) -> DynomiteRestoreStatus {
    DynomiteRestoreStatus {
        phase: Some(phase),
        ..DynomiteRestoreStatus::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_decided_from_an_older_one_is_not_written() {
    let server = Server::default();
    server.put("dynomiterestores", restore("ring"));
    let ctx = operator(&server, Leadership::unlimited());
    let write = |seen: AsSeen, phase| {
        let ctx = Arc::clone(&ctx);
        async move { beside::write::<DynomiteRestore>(&ctx, "db", &seen, &says(phase)).await }
    };
    let late = seen(&server);
    write(late.clone(), RestorePhase::Leveling)
        .await
        .expect("it is written");
    // An operator that was deposed on the way saw what was before.
    let refused = write(late, RestorePhase::Loading).await;
    assert!(matches!(refused, Err(Error::Outdated)), "{refused:?}");
    let status = &held(&server, "dynomiterestores")["status"];
    assert_eq!(status["phase"], "Leveling");
    write(seen(&server), RestorePhase::Completed)
        .await
        .expect("it has looked again");
}

#[tokio::test(start_paused = true)]
async fn what_another_cluster_has_by_that_name_is_no_success() {
    let server = Server::default();
    let ctx = operator(&server, Leadership::unlimited());
    let wanted: DynomiteRestore = serde_json::from_value(restore("ring")).expect("a restore");
    beside::make(&ctx, &wanted).await.expect("it is made");
    beside::make(&ctx, &wanted).await.expect("it is there");
    let other: DynomiteRestore = serde_json::from_value(restore("ring-2")).expect("a restore");
    let refused = beside::make(&ctx, &other).await;
    assert!(matches!(refused, Err(Error::Taken(_))), "{refused:?}");
    let backup = |cluster: &str| -> DynomiteBackup {
        let backup = json!({
            "apiVersion": "dynomite.io/v1alpha1", "kind": "DynomiteBackup",
            "metadata": {"namespace": "db", "name": "monday"}, "spec": {"cluster": cluster},
        });
        serde_json::from_value(backup).expect("a backup")
    };
    beside::make(&ctx, &backup("ring"))
        .await
        .expect("it is made");
    let refused = beside::make(&ctx, &backup("ring-2")).await;
    assert!(matches!(refused, Err(Error::Taken(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_cannot_be_made_is_told_in_the_status() {
    let mut ring = cluster();
    ring["spec"]["backup"] = json!({"stores": [{"name": "main", "s3": {"bucket": "backups"}}]});
    ring["spec"]["bootstrap"] = json!({"restoreFrom": {"from": {"latest": true}}});
    let server = server_with(ring);
    let mut taken = restore("elsewhere");
    taken["metadata"]["name"] = json!("ring-bootstrap");
    server.put("dynomiterestores", taken.clone());
    let ctx = operator(&server, Leadership::unlimited());
    settle(&server, &ctx).await;
    let conditions = status(&server).status.expect("a status").conditions;
    let words = "DynomiteRestore ring-bootstrap is of cluster elsewhere";
    let told = |c: &Condition| c.reason == "NameTaken" && c.message.contains(words);
    assert!(conditions.iter().any(told), "{conditions:#?}");
    assert_eq!(held(&server, "dynomiterestores")["spec"], taken["spec"]);
    // It goes on by itself when the name is free.
    server.remove("dynomiterestores", "db", "ring-bootstrap");
    let successor = operator(&server, Leadership::unlimited());
    settle(&server, &successor).await;
    let made = &held(&server, "dynomiterestores")["spec"];
    assert_eq!(made["cluster"], "ring");
}
