//! Resources beside a cluster: what is written is exactly of what was seen, and what is made is this cluster's.

use dynomite_api::crd::{DynomiteBackup, DynomiteRestore, DynomiteRestoreStatus, RestorePhase};
use dynomite_operator::apply::Error;
use dynomite_operator::beside;
use dynomite_planner::AsSeen;

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
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
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
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
}
