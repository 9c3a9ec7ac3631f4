//! Real services, or what others take for them: each keeps what it is given, and refuses in words.
//!
//! `cargo xtask test` starts them and says where they listen; without that the
//! tests say so and check nothing.

mod google;
mod identity;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dynomite_api::contract::{BackupPlace, Provider, StoreCredentials};
use dynomite_bucket::{Bucket, Patience, Reason};
use jiff::Timestamp;
use reqwest::{Client, Method};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The bucket that each test makes.
const BUCKET: &str = "backups";
/// What opens the S3 server that xtask starts.
const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET_KEY: &str = "canary-secret-of-services";
/// The account that Azurite has, and its key, which its documentation tells everybody.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where a service listens, as `http://127.0.0.1:1234`.
fn service(name: &str) -> Option<String> {
    let variable = format!("DYNOMITE_SERVICE_{name}");
    let found = std::env::var(&variable).ok();
    if found.is_none() {
        println!("{variable} is not set: `cargo xtask test` starts the service");
    }
    found
}

fn place(provider: Provider, credentials: Option<&StoreCredentials>) -> BackupPlace {
    BackupPlace {
        store: "main".to_owned(),
        provider,
        prefix: String::new(),
        credentials: credentials.map(|it| it.id.clone()).unwrap_or_default(),
    }
}

fn s3(endpoint: &str) -> Provider {
    Provider::S3 {
        bucket: BUCKET.to_owned(),
        region: None,
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
    }
}

fn secret(entries: &[(&str, &str)]) -> StoreCredentials {
    let entries = entries.iter();
    let entries = entries.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    StoreCredentials {
        id: "1".to_owned(),
        entries: entries.collect::<BTreeMap<_, _>>(),
    }
}

/// A request that no client of ours knows: it makes the bucket.
async fn ask(
    method: Method,
    url: &str,
    headers: &[(&str, String)],
    body: impl Into<reqwest::Body>,
) -> u16 {
    let mut request = Client::new().request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.send().await.expect("the service answers");
    answer.status().as_u16()
}

/// Large and small objects, listings, deletions, and an upload that is given up.
async fn keeps_what_it_is_given(bucket: &Bucket) {
    let content: Bytes = (0_u32..3 << 20).flat_map(u32::to_le_bytes).collect();
    let mut upload = bucket.upload("ring/large.rdb", 0).await.expect("begins");
    for piece in content.chunks(300_000) {
        upload.push(piece).await.expect("goes up");
    }
    let stored = upload.complete().await.expect("is whole");
    assert_eq!(stored, content.len() as u64);
    let head = bucket.head("ring/large.rdb").await.expect("is asked");
    assert_eq!(head.map(|it| it.bytes), Some(stored));
    let mut download = bucket.download("ring/large.rdb").await.expect("begins");
    let mut back = Vec::new();
    while let Some(piece) = download.next().await.expect("comes down") {
        back.extend_from_slice(&piece);
    }
    assert!(content == back, "it comes back as it went up");
    bucket
        .put("ring/manifest.json", Bytes::from_static(b"{}"))
        .await
        .expect("goes up");
    let small = bucket
        .get("ring/manifest.json", 10)
        .await
        .expect("comes down");
    assert_eq!(small.as_deref(), Some(b"{}".as_slice()));
    assert_eq!(bucket.get("ring/none", 10).await, Ok(None));
    let keys = async || {
        let (found, more) = bucket.list("ring", None, 10).await.expect("lists");
        assert!(!more);
        let keys: Vec<String> = found.into_iter().map(|object| object.key).collect();
        keys.join(" ")
    };
    assert_eq!(keys().await, "ring/large.rdb ring/manifest.json");
    let mut given_up = bucket.upload("ring/given-up", 0).await.expect("begins");
    given_up.push(&content[..6 << 20]).await.expect("goes up");
    given_up.abort().await.expect("is removed");
    for key in ["ring/large.rdb", "ring/manifest.json", "ring/manifest.json"] {
        bucket.delete(key).await.expect("is deleted, or was");
    }
    assert_eq!(keys().await, "");
}

/// An upload of a process that was killed is found and ended.
async fn ends_what_was_left(bucket: &Bucket) {
    for key in ["ring/left.rdb", "other/left.rdb"] {
        let mut upload = bucket.upload(key, 0).await.expect("begins");
        upload.push(&vec![7; 6 << 20]).await.expect("goes up");
        std::mem::forget(upload);
    }
    let now = Timestamp::now();
    // Clocks of services differ by less.
    let hour = jiff::SignedDuration::from_hours(1);
    let begun_now = |key: &str, begun: Timestamp| {
        assert_eq!(key, "ring/left.rdb", "only of that prefix");
        (now - hour..now + hour).contains(&begun)
    };
    assert_eq!(bucket.end_uploads("ring", begun_now).await, Ok(1));
    assert_eq!(bucket.end_uploads("ring", begun_now).await, Ok(0));
    assert_eq!(bucket.end_uploads("other", |_, _| true).await, Ok(1));
}

async fn refuses(bucket: &Bucket, secrets: &[&str]) {
    let error = bucket
        .put("ring/x", Bytes::new())
        .await
        .expect_err("is refused");
    assert_eq!(error.reason, Reason::Forbidden, "{error}");
    let text = format!("{error} {error:?} {bucket:?}");
    for secret in secrets {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn seaweedfs() {
    let (Some(endpoint), Some(filer)) = (service("SEAWEEDFS"), service("SEAWEEDFS_FILER")) else {
        return;
    };
    let keys = |secret_key| {
        secret(&[
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
        ])
    };
    let open = |provider, secret_key| {
        let keys = keys(secret_key);
        Bucket::open(&place(provider, Some(&keys)), Some(&keys)).expect("opens")
    };
    let bucket = open(s3(&endpoint), SECRET_KEY);
    let made = ask(
        Method::POST,
        &format!("{filer}/buckets/{BUCKET}/"),
        &[],
        String::new(),
    )
    .await;
    assert_eq!(made, 201);
    keeps_what_it_is_given(&bucket).await;
    ends_what_was_left(&bucket).await;
    survives_cuts(&endpoint).await;
    let wrong = "another-canary-secret";
    refuses(&open(s3(&endpoint), wrong), &[wrong, SECRET_KEY]).await;
    let mut elsewhere = s3(&endpoint);
    if let Provider::S3 { bucket, .. } = &mut elsewhere {
        "elsewhere".clone_into(bucket);
    }
    let error = open(elsewhere, SECRET_KEY).list("ring", None, 1).await;
    assert_eq!(
        error.expect_err("is not there").reason,
        Reason::NoSuchBucket
    );
}

/// Between us and a service: the first connections are cut after so many bytes, whoever sent them.
async fn bad_network(service: &str, cuts: usize, after: usize) -> String {
    let upstream = service.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut left = cuts;
        loop {
            let (mut near, _) = listener.accept().await.expect("somebody comes");
            let mut far = TcpStream::connect(&upstream).await.expect("it listens");
            let limit = if left > 0 { after } else { usize::MAX };
            left = left.saturating_sub(1);
            tokio::spawn(async move {
                let (mut from_near, mut to_near) = near.split();
                let (mut from_far, mut to_far) = far.split();
                tokio::select! {
                    () = pass(&mut from_near, &mut to_far, limit) => {}
                    () = pass(&mut from_far, &mut to_near, limit) => {}
                }
            });
        }
    });
    format!("http://{address}")
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    limit: usize,
) {
    let (mut passed, mut piece) = (0, vec![0; 64 << 10]);
    while passed < limit {
        match from.read(&mut piece).await {
            Ok(length) if length > 0 => {
                passed += length;
                if to.write_all(&piece[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// A real server over a network that cuts at every part, on the way up and on the way down.
async fn survives_cuts(endpoint: &str) {
    let keys = secret(&[
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ]);
    let patience = Patience {
        pause: Duration::from_millis(50),
        ..Patience::default()
    };
    let content: Bytes = (0_u32..3 << 20).flat_map(u32::to_le_bytes).collect();
    for after in [1, 1 << 20, 6 << 20, 11 << 20] {
        let proxy = bad_network(endpoint, 4, after).await;
        let place = place(s3(&proxy), Some(&keys));
        let bucket = Bucket::open_with(&place, Some(&keys), patience).expect("opens");
        let mut upload = bucket.upload("cut/up.rdb", 0).await.expect("begins");
        upload.push(&content).await.expect("goes up");
        let stored = upload.complete().await;
        assert_eq!(stored, Ok(content.len() as u64), "cut after {after}");
        let proxy = bad_network(endpoint, 4, after.max(1 << 16)).await;
        let place = BackupPlace {
            provider: s3(&proxy),
            ..place
        };
        let bucket = Bucket::open_with(&place, Some(&keys), patience).expect("opens");
        let mut download = bucket.download("cut/up.rdb").await.expect("begins");
        let mut back = Vec::new();
        while let Some(piece) = download.next().await.expect("comes down") {
            back.extend_from_slice(&piece);
        }
        assert!(content == back, "cut after {after}");
        bucket.delete("cut/up.rdb").await.expect("is deleted");
    }
}

#[tokio::test]
async fn azurite() {
    let Some(endpoint) = service("AZURITE") else {
        return;
    };
    let endpoint = format!("{endpoint}/{AZURITE_ACCOUNT}");
    let provider = Provider::Azure {
        account: AZURITE_ACCOUNT.to_owned(),
        container: BUCKET.to_owned(),
        endpoint: Some(endpoint.clone()),
    };
    let open = |key: &str| {
        let keys = secret(&[("AZURE_STORAGE_KEY", key)]);
        Bucket::open(&place(provider.clone(), Some(&keys)), Some(&keys)).expect("opens")
    };
    let bucket = open(AZURITE_KEY);
    make_container(&endpoint).await;
    keeps_what_it_is_given(&bucket).await;
    let hidden = bucket.end_uploads("ring", |_, _| true).await;
    assert_eq!(hidden, Ok(0), "Azure shows none");
    let wrong = STANDARD.encode("a canary that opens nothing");
    refuses(&open(&wrong), &[&wrong, AZURITE_KEY]).await;
}

/// Signed by the account's key, as Azure wants it of whoever makes a container.
async fn make_container(endpoint: &str) {
    let date = Timestamp::now()
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    let version = "2021-08-06";
    let signed = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{version}\n\
         /{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{BUCKET}\nrestype:container",
        "\n".repeat(12)
    );
    let key = STANDARD.decode(AZURITE_KEY).expect("is Base64");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signature = STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    let headers = [
        ("x-ms-date", date),
        ("x-ms-version", version.to_owned()),
        (
            "authorization",
            format!("SharedKey {AZURITE_ACCOUNT}:{signature}"),
        ),
        ("content-length", "0".to_owned()),
    ];
    let url = format!("{endpoint}/{BUCKET}?restype=container");
    assert_eq!(ask(Method::PUT, &url, &headers, String::new()).await, 201);
}
