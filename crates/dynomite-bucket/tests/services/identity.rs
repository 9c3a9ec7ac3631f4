//! A role that is taken with a pod's token, without any key: moto, behind an STS that trusts.
//!
//! moto gives credentials to whoever asks, for whatever role, and knows the account of each
//! afterwards. So before it stands what a cloud has too: it takes one role and one token.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dynomite_api::contract::{Provider, StoreCredentials};
use dynomite_bucket::{Bucket, ENTRY_CA, Error, Identity, Patience, Reason};
use jiff::Timestamp;
use reqwest::{Certificate, Client, Method};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use super::{ACCESS_KEY, BUCKET, SECRET_KEY, keeps_what_it_is_given, place, s3, secret, service};

/// The role of the account that the bucket belongs to.
const ROLE: &str = "arn:aws:iam::111122223333:role/backups";
/// One that trusts, and whose account has no right to the bucket.
const STRANGER: &str = "arn:aws:iam::444455556666:role/backups";
/// One that does not trust.
const REFUSES: &str = "arn:aws:iam::111122223333:role/refuses";

/// Where moto listens, and who signs its certificate.
pub(crate) fn moto() -> Option<(String, String)> {
    let endpoint = service("MOTO")?;
    let authority = std::fs::read_to_string(service("MOTO_CA")?).expect("a file");
    Some((endpoint, authority))
}

/// A client that believes moto.
pub(crate) fn client(authority: &str) -> Client {
    // Another test may have chosen already.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let certificate = Certificate::from_pem(authority.as_bytes()).expect("a certificate");
    let client = Client::builder().tls_certs_only([certificate]);
    client.build().expect("a client")
}

/// What a cloud knows beside credentials.
#[derive(Clone)]
struct Sts {
    moto: String,
    client: Client,
    /// The only token that has not expired.
    fresh: Arc<Mutex<String>>,
    /// Those it was shown.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Sts {
    async fn credentials(&self, query: String) -> String {
        let request = self.client.post(&self.moto).body(query);
        let form = "application/x-www-form-urlencoded";
        let answer = request.header("content-type", form).send().await;
        answer.expect("moto answers").text().await.expect("a text")
    }

    fn trusts(&self, token: &str) {
        token.clone_into(&mut self.fresh.lock().expect("no test panics with it"));
    }

    fn shown(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no test panics with it"))
    }
}

async fn assume(
    State(sts): State<Sts>,
    Query(asked): Query<BTreeMap<String, String>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let token = asked["WebIdentityToken"].trim().to_owned();
    let fresh = *sts.fresh.lock().expect("no test panics with it") == token;
    sts.seen.lock().expect("no test panics with it").push(token);
    // Some that stand between send back what was asked.
    if asked["RoleArn"] == REFUSES {
        let why = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
        return failure(StatusCode::FORBIDDEN, "AccessDenied", why, &query);
    }
    if !fresh {
        let why = "Token expired";
        return failure(
            StatusCode::BAD_REQUEST,
            "ExpiredTokenException",
            why,
            &query,
        );
    }
    let answer = sts.credentials(query).await;
    let (begin, rest) = answer.split_once("<Expiration>").expect("when they expire");
    let (_, end) = rest.split_once("</Expiration>").expect("when they expire");
    // So each request asks anew, and nobody waits an hour.
    format!("{begin}<Expiration>{}</Expiration>{end}", Timestamp::now()).into_response()
}

fn failure(status: StatusCode, code: &str, why: &str, query: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{why} (/?{query})</Message></Error>\
         <RequestId>1</RequestId></ErrorResponse>"
    );
    (status, body).into_response()
}

/// Identities are asked for over TLS only.
struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.expect("somebody comes");
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Starts it; says where it listens and who signs its certificate.
async fn start(sts: Sts) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they fit");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let listener = Tls(listener, TlsAcceptor::from(Arc::new(config)));
    let router = Router::new().route("/", axum::routing::post(assume));
    tokio::spawn(async move { axum::serve(listener, router.with_state(sts)).await });
    (format!("https://{address}"), made.cert.pem())
}

/// As Kubernetes signs them; nobody here verifies it.
fn token(number: usize) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!("{{\"sub\":\"system:serviceaccount:shop:ring\",\"number\":{number}}}");
    let signature = part(&format!("signature {number}"));
    format!(
        "{}.{}.{signature}",
        part("{\"alg\":\"RS256\"}"),
        part(&claims)
    )
}

/// The bucket, made by its owner.
async fn make_bucket(sts: &Sts) {
    let query = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={ROLE}\
         &RoleSessionName=owner&WebIdentityToken=any"
    );
    let answer = sts.credentials(query).await;
    let (_, rest) = answer.split_once("<AccessKeyId>").expect("credentials");
    let (key, _) = rest.split_once("</AccessKeyId>").expect("credentials");
    // moto looks who it is, and not at the signature.
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={key}/20261123/us-east-1/s3/aws4_request, \
         SignedHeaders=host, Signature=0"
    );
    let url = format!("{}/{BUCKET}", sts.moto);
    let request = sts.client.request(Method::PUT, url);
    let made = request.header("authorization", authorization).send().await;
    assert_eq!(made.expect("moto answers").status(), 200);
}

/// A place that nothing opens but the identity.
struct Place {
    moto: String,
    /// Who signs the certificates of both.
    trusted: StoreCredentials,
    sts: String,
    file: String,
}

impl Place {
    fn open(&self, role: &str) -> Bucket {
        let identity = Identity::from([
            ("AWS_ROLE_ARN", role.to_owned()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", self.file.clone()),
            ("AWS_ENDPOINT_URL_STS", self.sts.clone()),
        ]);
        let place = place(s3(&self.moto), Some(&self.trusted));
        let opened = Bucket::open_as(&place, Some(&self.trusted), Patience::default(), &identity);
        opened.expect("opens")
    }
}

/// A refusal that says what to do, and shows no token.
async fn refusal(bucket: &Bucket, reason: Reason, words: &[&str]) {
    let error = bucket.list("ring", None, 1).await.expect_err("is refused");
    let text = format!("{error} {error:?} {bucket:?}");
    assert_eq!(error.reason, reason, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    for number in 1..=2 {
        for part in token(number).split('.') {
            assert!(!text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn a_role_is_taken_with_the_token_that_lies_there_now() {
    let Some((moto, authority)) = moto() else {
        return;
    };
    let sts = Sts {
        client: client(&authority),
        moto: moto.clone(),
        fresh: Arc::default(),
        seen: Arc::default(),
    };
    make_bucket(&sts).await;
    let (endpoint, own) = start(sts.clone()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    let place = Place {
        moto,
        trusted: secret(&[(ENTRY_CA, &(authority + &own))]),
        sts: endpoint,
        file: file.display().to_string(),
    };
    let bucket = place.open(ROLE);
    let path = place.file.as_str();
    refusal(
        &bucket,
        Reason::CredentialsMissing,
        &[path, "ServiceAccount"],
    )
    .await;

    write(&file, &token(1));
    sts.trusts(&token(1));
    keeps_what_it_is_given(&bucket).await;
    assert!(sts.shown().iter().all(|shown| *shown == token(1)));

    sts.trusts(&token(2));
    let words = ["Token expired", "***", "audience of the pods' token"];
    refusal(&bucket, Reason::IdentityRefused, &words).await;
    assert_eq!(sts.shown(), [token(1)], "asked once: no second try helps");
    write(&file, &token(2));
    let listed: Result<_, Error> = bucket.list("ring", None, 1).await;
    assert_eq!(listed.expect("the new token is read").0, []);
    assert_eq!(sts.shown(), [token(2)]);

    let words = ["sts:AssumeRoleWithWebIdentity", "***", "let the role trust"];
    refusal(&place.open(REFUSES), Reason::IdentityRefused, &words).await;
    let words = ["AccessDenied", "may read, write, list"];
    refusal(&place.open(STRANGER), Reason::Forbidden, &words).await;
    let nobody = Place {
        sts: "https://127.0.0.1:9".to_owned(),
        ..place
    };
    let words = ["service of identities"];
    refusal(&nobody.open(ROLE), Reason::Unavailable, &words).await;
}

/// A second service that speaks S3. Uploads that were left are found by a signed address, of which
/// moto does not read who has signed it: so by keys, which it takes for those of its own account.
/// It has one time for the beginning of all uploads.
#[tokio::test]
async fn moto_keeps_what_it_is_given_by_keys() {
    let Some((moto, authority)) = moto() else {
        return;
    };
    let made = client(&authority).put(format!("{moto}/by-keys")).send();
    assert_eq!(made.await.expect("moto answers").status(), 200);
    let keys = secret(&[
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        (ENTRY_CA, &authority),
    ]);
    let mut provider = s3(&moto);
    if let Provider::S3 { bucket, .. } = &mut provider {
        "by-keys".clone_into(bucket);
    }
    let bucket = Bucket::open(&place(provider, Some(&keys)), Some(&keys)).expect("opens");
    keeps_what_it_is_given(&bucket).await;
    let mut upload = bucket.upload("ring/left.rdb", 0).await.expect("begins");
    upload.push(&vec![7; 6 << 20]).await.expect("goes up");
    std::mem::forget(upload);
    let left = |key: &str, _| key == "ring/left.rdb";
    assert_eq!(bucket.end_uploads("ring", left).await, Ok(1));
    assert_eq!(bucket.end_uploads("ring", left).await, Ok(0));
}

/// As the kubelet does: what is read is the old one or the new one.
fn write(file: &Path, token: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, token).expect("is written");
    std::fs::rename(beside, file).expect("is renamed");
}
