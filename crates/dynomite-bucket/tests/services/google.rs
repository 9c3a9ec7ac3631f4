//! Google's protocol, in two halves: no emulator that is to be had speaks all of it.
//!
//! fake-gcs-server gives, lists and deletes objects as Google does, and takes none the way our
//! client sends them. moto takes them, in parts too: Google's XML API is a dialect of S3's.

use bytes::Bytes;
use dynomite_api::contract::Provider;
use dynomite_bucket::{Bucket, ENTRY_CA, Patience, Reason};
use reqwest::Method;
use std::time::Duration;

use super::{BUCKET, ask, bad_network, identity, keeps_what_it_is_given, place, secret, service};

fn google(bucket: &str, endpoint: &str) -> Provider {
    Provider::Google {
        bucket: bucket.to_owned(),
        endpoint: Some(endpoint.to_owned()),
    }
}

async fn whole(bucket: &Bucket, key: &str) -> Vec<u8> {
    let mut download = bucket.download(key).await.expect("begins");
    let mut back = Vec::new();
    while let Some(piece) = download.next().await.expect("comes down") {
        back.extend_from_slice(&piece);
    }
    back
}

#[tokio::test]
async fn google_gives_lists_and_deletes() {
    let Some(endpoint) = service("FAKE_GCS") else {
        return;
    };
    let patience = Patience {
        pause: Duration::from_millis(50),
        ..Patience::default()
    };
    let open = |endpoint: &str| {
        let place = place(google(BUCKET, endpoint), None);
        Bucket::open_with(&place, None, patience).expect("opens")
    };
    let bucket = open(&endpoint);
    let content: Bytes = (0_u32..3 << 20).flat_map(u32::to_le_bytes).collect();
    let made = format!("{{\"name\": \"{BUCKET}\"}}");
    let json = [("content-type", "application/json".to_owned())];
    let url = format!("{endpoint}/storage/v1/b?project=tests");
    assert_eq!(ask(Method::POST, &url, &json, made).await, 200);
    for (name, content) in [
        ("ring%2Flarge.rdb", content.clone()),
        ("ring%2Fmanifest.json", Bytes::from_static(b"{}")),
    ] {
        let url = format!("{endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}");
        assert_eq!(ask(Method::POST, &url, &[], content).await, 200);
    }
    let head = bucket.head("ring/large.rdb").await.expect("is asked");
    assert_eq!(head.map(|it| it.bytes), Some(content.len() as u64));
    assert!(content == whole(&bucket, "ring/large.rdb").await);
    let cut = open(&bad_network(&endpoint, 4, 1 << 20).await);
    assert!(content == whole(&cut, "ring/large.rdb").await, "goes on");
    let small = bucket.get("ring/manifest.json", 10).await;
    assert_eq!(small.expect("comes down").as_deref(), Some(&b"{}"[..]));
    assert_eq!(bucket.get("ring/none", 10).await, Ok(None));
    let keys = async || {
        let (found, _) = bucket.list("ring", None, 10).await.expect("lists");
        let keys: Vec<String> = found.into_iter().map(|object| object.key).collect();
        keys.join(" ")
    };
    assert_eq!(keys().await, "ring/large.rdb ring/manifest.json");
    for key in ["ring/large.rdb", "ring/manifest.json", "ring/manifest.json"] {
        bucket.delete(key).await.expect("is deleted, or was");
    }
    assert_eq!(keys().await, "");
    assert_eq!(bucket.end_uploads("ring", |_, _| true).await, Ok(0));
}

#[tokio::test]
async fn google_takes_objects_in_parts() {
    let (Some((endpoint, authority)), Some(key)) = (identity::moto(), service("MOTO_KEY")) else {
        return;
    };
    let made = identity::client(&authority)
        .put(format!("{endpoint}/of-google"))
        .send();
    assert_eq!(made.await.expect("moto answers").status(), 200);
    let account = serde_json::json!({
        "type": "service_account",
        "client_email": "ring@tests.example.com",
        "private_key_id": "1",
        "private_key": std::fs::read_to_string(key).expect("a file"),
    });
    let keys = secret(&[
        ("GOOGLE_SERVICE_ACCOUNT_KEY", &account.to_string()),
        (ENTRY_CA, &authority),
    ]);
    let open = |bucket: &str| {
        let place = place(google(bucket, &endpoint), Some(&keys));
        Bucket::open(&place, Some(&keys)).expect("opens")
    };
    keeps_what_it_is_given(&open("of-google")).await;
    let error = open("elsewhere").list("ring", None, 1).await;
    let error = error.expect_err("is not there");
    assert_eq!(error.reason, Reason::NoSuchBucket, "{error}");
    assert!(!error.to_string().contains("PRIVATE"), "{error}");
}
