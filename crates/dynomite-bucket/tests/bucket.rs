//! A bucket over HTTP and a directory: what goes up comes down, and what goes wrong is told.

mod fake;

use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{BackupPlace, Provider};
use dynomite_bucket::{Bucket, Patience, Reason};
use fake::{ACCESS_KEY, Act, Fault, S3, SECRET_KEY, credentials};

/// Soon over: the tests wait for what fails.
const IMPATIENT: Patience = Patience {
    retries: 3,
    pause: Duration::from_millis(5),
    whole: Duration::from_secs(20),
    silence: Duration::from_secs(2),
};

const MIB: usize = 1 << 20;

fn open(server: &S3) -> Bucket {
    Bucket::open_with(&server.place(), Some(&credentials()), IMPATIENT).expect("opens")
}

fn directory(path: &std::path::Path) -> BackupPlace {
    BackupPlace {
        store: "local".to_owned(),
        provider: Provider::Local {
            path: path.display().to_string(),
        },
        prefix: String::new(),
        credentials: String::new(),
    }
}

fn bytes(length: usize) -> Bytes {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect::<Vec<u8>>().into()
}

async fn upload(bucket: &Bucket, key: &str, content: &[u8]) -> Result<u64, dynomite_bucket::Error> {
    let mut upload = bucket.upload(key, 0).await?;
    for piece in content.chunks(300_000) {
        upload.push(piece).await?;
    }
    upload.complete().await
}

async fn download(bucket: &Bucket, key: &str) -> Result<Vec<u8>, dynomite_bucket::Error> {
    let mut download = bucket.download(key).await?;
    let mut content = Vec::new();
    while let Some(piece) = download.next().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// Small and large objects, listings and deletions.
async fn everything(bucket: &Bucket) {
    let content = bytes(12 * MIB + 5);
    let stored = upload(bucket, "a/large", &content).await.expect("goes up");
    assert_eq!(stored, content.len() as u64);
    assert!(download(bucket, "a/large").await.expect("comes down") == content);
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        bucket.put(key, Bytes::from(key)).await.expect("goes up");
    }
    bucket
        .put("a/1", Bytes::from_static(b"new"))
        .await
        .expect("replaces");
    let small = bucket.get("a/1", 10).await.expect("comes down");
    assert_eq!(small.as_deref(), Some(b"new".as_slice()));
    let error = bucket.get("a/large", 10).await.expect_err("too large");
    assert_eq!(error.reason, Reason::TooLarge);
    assert_eq!(bucket.get("a/none", 10).await, Ok(None));
    assert_eq!(bucket.head("a/none").await, Ok(None));
    let head = bucket
        .head("a/large")
        .await
        .expect("is there")
        .expect("is there");
    assert_eq!(head.bytes, content.len() as u64);
    let keys = async |under: &str, after: Option<&str>, limit| {
        let (found, more) = bucket.list(under, after, limit).await.expect("lists");
        let keys: Vec<String> = found.into_iter().map(|object| object.key).collect();
        (keys.join(" "), more)
    };
    assert_eq!(
        keys("a", None, 10).await,
        ("a/1 a/2 a/3 a/large".to_owned(), false)
    );
    assert_eq!(
        keys("a/", Some("a/1"), 2).await,
        ("a/2 a/3".to_owned(), true)
    );
    assert_eq!(
        keys("", Some("a/large"), 9).await,
        ("b/1".to_owned(), false)
    );
    assert_eq!(keys("c", None, 9).await, (String::new(), false));
    bucket.delete("a/1").await.expect("deletes");
    bucket.delete("a/1").await.expect("is gone already");
    assert_eq!(keys("a", None, 1).await, ("a/2".to_owned(), true));
    let many: Vec<String> = (0..40).map(|number| format!("many/{number}")).collect();
    for key in &many {
        bucket.put(key, Bytes::new()).await.expect("goes up");
    }
    bucket.delete_all(&many).await.expect("deletes");
    bucket.delete_all(&many).await.expect("are gone already");
    assert_eq!(keys("many", None, 9).await, (String::new(), false));
    let mut given_up = bucket.upload("a/given-up", 0).await.expect("begins");
    given_up.push(&content).await.expect("goes up");
    given_up.abort().await.expect("is removed");
    assert_eq!(bucket.head("a/given-up").await, Ok(None));
    let error = bucket
        .put("a/../b", Bytes::new())
        .await
        .expect_err("leads elsewhere");
    assert_eq!(error.reason, Reason::Invalid);
}

#[tokio::test]
async fn a_service_and_a_directory_keep_what_they_are_given() {
    let server = S3::start().await;
    everything(&open(&server)).await;
    assert!(server.inside().uploads.is_empty(), "no parts are left");
    let path = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::open(&directory(path.path()), None).expect("opens");
    everything(&bucket).await;
    let left: Vec<_> = std::fs::read_dir(path.path().join("a"))
        .expect("is there")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(left.len(), 3, "no half of an upload is left: {left:?}");
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_from_memory() {
    let content = bytes(16 * MIB);
    for fault in [Fault::Busy, Fault::Cut, Fault::Mute] {
        for act in [
            Act::Create,
            Act::Part(1),
            Act::Part(2),
            Act::Part(4),
            Act::Complete,
        ] {
            // Whether an upload that was asked for in vain was begun, nobody knows.
            let server = S3::start().await;
            server.fails(act, fault, 2);
            let bucket = open(&server);
            let stored = upload(&bucket, "x", &content).await;
            assert_eq!(stored, Ok(content.len() as u64), "{fault:?} at {act:?}");
            assert!(
                server.inside().objects["x"] == content,
                "{fault:?} at {act:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_object_that_was_made_unheard_is_found() {
    let content = bytes(6 * MIB);
    let server = S3::start().await;
    server.fails(Act::Complete, Fault::Unheard, 1);
    let stored = upload(&open(&server), "x", &content).await;
    assert_eq!(stored, Ok(content.len() as u64));
    assert!(server.inside().objects["x"] == content);
}

#[tokio::test]
async fn an_upload_that_dies_at_any_part_leaves_nothing() {
    let content = bytes(16 * MIB);
    for act in [
        Act::Part(1),
        Act::Part(2),
        Act::Part(3),
        Act::Part(4),
        Act::Complete,
    ] {
        let server = S3::start().await;
        server.fails(act, Fault::Busy, usize::MAX);
        let bucket = open(&server);
        let error = upload(&bucket, "x", &content)
            .await
            .expect_err("never succeeds");
        assert_eq!(error.reason, Reason::Unavailable, "{act:?}: {error}");
        assert!(error.to_string().contains("SlowDown"), "{error}");
        until(|| server.inside().uploads.is_empty()).await;
        assert!(server.inside().objects.is_empty(), "{act:?}");
    }
}

/// Whoever was killed has begun an upload and ends it no more.
#[tokio::test]
async fn uploads_that_nobody_completes_are_ended() {
    let content = bytes(6 * MIB);
    let server = S3::start().await;
    let path = tempfile::tempdir().expect("a directory");
    let local = Bucket::open(&directory(path.path()), None).expect("opens");
    for bucket in [&open(&server), &local] {
        for key in ["ring/b1/5-0.rdb", "ring/b1/7-0.rdb", "other/b1/5-0.rdb"] {
            let mut upload = bucket.upload(key, 0).await.expect("begins");
            upload.push(&content).await.expect("goes up");
            // As a process that is killed: nothing of it is dropped.
            std::mem::forget(upload);
        }
        bucket
            .put("ring/b1/9-0.rdb", content.clone())
            .await
            .expect("goes up");
        let of_token = |key: &str, _| key == "ring/b1/5-0.rdb";
        let never = bucket.end_uploads("ring", |_, _| false).await;
        assert_eq!(never, Ok(0));
        let ended = bucket.end_uploads("ring", of_token).await;
        assert_eq!(ended, Ok(1));
        assert_eq!(
            bucket.end_uploads("ring", of_token).await,
            Ok(0),
            "it is gone"
        );
        let now = jiff::Timestamp::now();
        let early = |_: &str, begun| begun <= now;
        let ended = bucket.end_uploads("ring", early).await;
        assert_eq!(ended, Ok(1), "and objects stay");
        let kept = bucket.head("ring/b1/9-0.rdb").await.expect("is asked");
        assert!(kept.is_some());
        assert_eq!(bucket.end_uploads("other/b1", early).await, Ok(1));
    }
    assert!(server.inside().uploads.is_empty());
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    waited.expect("what is waited for comes");
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let content = bytes(9 * MIB);
    let server = S3::start().await;
    server
        .inside()
        .objects
        .insert("x".to_owned(), content.clone());
    server.fails(Act::Get, Fault::Cut, 5);
    let bucket = open(&server);
    assert!(download(&bucket, "x").await.expect("comes down") == content);
    let asked = server.inside().acts.len();
    assert!(asked >= 6, "it was cut: {asked} requests");
    // It does not go on for ever where nothing comes.
    server.fails(Act::Get, Fault::Mute, usize::MAX);
    let error = download(&bucket, "x").await.expect_err("never comes");
    assert_eq!(error.reason, Reason::Unavailable);
    // Nor with another object, also where the storage does not look which one is asked for.
    for (careless, other, words) in [
        (
            false,
            content.iter().rev().copied().collect(),
            "Precondition",
        ),
        (true, bytes(7 * MIB), "its length is another now"),
    ] {
        let put = |content: &Bytes| {
            let (key, content) = ("x".to_owned(), content.clone());
            server.inside().objects.insert(key, content);
        };
        put(&content);
        server.inside().careless = careless;
        server.fails(Act::Get, Fault::Cut, 1);
        let mut download = bucket.download("x").await.expect("begins");
        let changed = async {
            while download.next().await?.is_some() {
                put(&other);
            }
            Ok::<_, dynomite_bucket::Error>(())
        };
        let error = changed.await.expect_err("another object");
        assert_eq!(error.reason, Reason::Changed, "{error}");
        assert!(error.what.contains(words), "{error}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_tell_no_secret() {
    let server = S3::start().await;
    let place = server.place();
    let named = |bucket: &str| {
        let Provider::S3 { endpoint, .. } = place.provider.clone() else {
            panic!("it is S3")
        };
        BackupPlace {
            provider: Provider::S3 {
                bucket: bucket.to_owned(),
                region: None,
                endpoint,
                path_style: true,
            },
            ..place.clone()
        }
    };
    let with = |place: &BackupPlace, credentials: &_| {
        Bucket::open_with(place, Some(credentials), IMPATIENT)
    };
    let missing = with(&named("other"), &credentials()).expect("opens");
    let mut texts = Vec::new();
    let mut is = |error: dynomite_bucket::Error, reason| {
        assert_eq!(error.reason, reason, "{error}");
        texts.push(format!("{error} {error:?}"));
    };
    is(
        missing.upload("x", 0).await.err().expect("no bucket"),
        Reason::NoSuchBucket,
    );
    is(
        missing.list("", None, 1).await.expect_err("no bucket"),
        Reason::NoSuchBucket,
    );
    is(
        missing.get("x", 1).await.expect_err("no bucket"),
        Reason::NoSuchBucket,
    );
    let bucket = with(&place, &credentials()).expect("opens");
    for code in [
        "ExpiredToken",
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
    ] {
        server.fails(Act::Create, Fault::Refused(code), 1);
        let error = bucket.upload("x", 0).await.err().expect("refused");
        assert!(error.to_string().contains(code), "{error}");
        is(error, Reason::Forbidden);
    }
    let mut other = credentials();
    other
        .entries
        .insert("AWS_ACCESS_KEY_ID".to_owned(), "canary-nobody".to_owned());
    let wrong = with(&place, &other).expect("opens");
    is(
        wrong.put("x", Bytes::new()).await.expect_err("refused"),
        Reason::Forbidden,
    );
    other.id = "2".to_owned();
    is(
        with(&place, &other).expect_err("not those"),
        Reason::CredentialsMissing,
    );
    is(
        Bucket::open(&place, None).expect_err("none"),
        Reason::CredentialsMissing,
    );
    let mut half = credentials();
    half.entries.remove("AWS_ACCESS_KEY_ID");
    is(
        with(&place, &half).expect_err("half"),
        Reason::CredentialsInvalid,
    );
    let mut forged = credentials();
    forged.entries.insert(
        "ca.crt".to_owned(),
        "-----BEGIN CERTIFICATE-----\nx".to_owned(),
    );
    is(
        with(&place, &forged).expect_err("no CA"),
        Reason::CredentialsInvalid,
    );
    texts.push(format!("{bucket:?} {:?}", credentials()));
    for text in texts {
        assert!(
            !text.contains(SECRET_KEY) && !text.contains(ACCESS_KEY),
            "{text}"
        );
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn places_that_cannot_be_are_refused_before_anything_is_sent() {
    let path = tempfile::tempdir().expect("a directory");
    let error = Bucket::open(&directory(&path.path().join("none")), None).expect_err("none");
    assert_eq!(error.reason, Reason::NoSuchBucket);
    let server = S3::start().await;
    let mut place = server.place();
    for wrong in ["storage.example.com", "ftp://x", "http://"] {
        if let Provider::S3 { endpoint, .. } = &mut place.provider {
            *endpoint = Some(wrong.to_owned());
        }
        let error = Bucket::open(&place, Some(&credentials())).expect_err("no endpoint");
        assert_eq!(error.reason, Reason::Invalid, "{wrong}");
    }
    // TLS without a certificate of the machine's.
    if let Provider::S3 { endpoint, .. } = &mut place.provider {
        *endpoint = Some(format!("https://{}", server.address));
    }
    let bucket = Bucket::open_with(&place, Some(&credentials()), IMPATIENT).expect("opens");
    let error = bucket
        .put("x", Bytes::new())
        .await
        .expect_err("speaks no TLS");
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
}
