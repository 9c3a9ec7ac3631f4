//! Why a place in object storage does not do what it should, and what a person can do.

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure it is; one word for status and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing opens the place: no Secret was handed over, or the pod has no identity.
    CredentialsMissing,
    /// What opens the place cannot be read.
    CredentialsInvalid,
    /// The pod has an identity, and the cloud does not take it for whom it should be.
    IdentityRefused,
    /// The storage knows who asks, or does not, and refuses.
    Forbidden,
    /// There is no such bucket, container or directory.
    NoSuchBucket,
    /// There is no such object.
    NoSuchObject,
    /// Another object lies there than before.
    Changed,
    /// The storage has no room.
    Full,
    /// More than the caller takes.
    TooLarge,
    /// The storage cannot be reached, or is not able now.
    Unavailable,
    /// A name that no storage takes, or a place that cannot be.
    Invalid,
}

impl Reason {
    /// The word for status and reports, `CamelCase`.
    pub fn word(self) -> &'static str {
        match self {
            Self::CredentialsMissing => "CredentialsMissing",
            Self::CredentialsInvalid => "CredentialsInvalid",
            Self::IdentityRefused => "IdentityRefused",
            Self::Forbidden => "Forbidden",
            Self::NoSuchBucket => "NoSuchBucket",
            Self::NoSuchObject => "NoSuchObject",
            Self::Changed => "Changed",
            Self::Full => "StorageFull",
            Self::TooLarge => "TooLarge",
            Self::Unavailable => "Unavailable",
            Self::Invalid => "Invalid",
        }
    }

    /// Whether the same may work later without anybody's help.
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::CredentialsMissing | Self::Unavailable | Self::Changed
        )
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::CredentialsMissing => {
                "name a Secret with credentials, or give the pods' ServiceAccount an identity that \
                 may use the bucket"
            }
            Self::CredentialsInvalid => "correct the Secret",
            Self::IdentityRefused => {
                "let the role trust the issuer, the ServiceAccount and the audience of the pods' \
                 token, or annotate the ServiceAccount with another role"
            }
            Self::Forbidden => {
                "check that the credentials are right, have not expired, and may read, write, list \
                 and delete there"
            }
            Self::NoSuchBucket => "create it, or correct the name, region and endpoint",
            Self::NoSuchObject => "it was deleted, or was never there",
            Self::Changed => "somebody writes to it: try again",
            Self::Full => "make room there",
            Self::TooLarge => "it is not what it should be",
            Self::Unavailable => "check endpoint and network; it is tried again",
            Self::Invalid => "correct it",
        }
    }
}

/// A failure, for people; never with a secret in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What kind.
    pub reason: Reason,
    /// What was to be done with what, and what the storage said to it.
    pub what: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason.remedy())
    }
}

impl Error {
    /// A failure in the words of this crate.
    pub fn new(reason: Reason, what: impl Into<String>) -> Self {
        Self {
            reason,
            what: what.into(),
        }
    }
}

/// Bytes of what a storage says that are passed on.
const MAX_WORDS: usize = 300;

/// Addresses of the services from which a machine gets its identity.
const IDENTITY_SERVICES: [&str; 4] = [
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "sts.",
];

/// What the storage's client says in place of the address that it asks for credentials.
const ASKED_FOR_CREDENTIALS: &str = " REDACTED ";
/// The same, for people.
const SERVICE_OF_IDENTITIES: &str = " the service of identities ";

/// With what a JSON web token begins: `{"` in its encoding.
const TOKEN_BEGINS: &str = "eyJ";

/// What the storage's error means; `secrets` are taken out of its words.
pub(crate) fn explain(error: &object_store::Error, doing: &str, secrets: &[String]) -> Error {
    let text = chain(error);
    let code = between(&text, "<Code>", "</Code>");
    let reason = reason_of(error, &text, code);
    let words = match (code, between(&text, "<Message>", "</Message>")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.replace(ASKED_FOR_CREDENTIALS, SERVICE_OF_IDENTITIES),
    };
    let words = scrub(&words, secrets);
    Error::new(reason, format!("{doing}: {words}"))
}

fn reason_of(error: &object_store::Error, text: &str, code: Option<&str>) -> Reason {
    use object_store::Error as Of;
    if text.contains(ASKED_FOR_CREDENTIALS) {
        return match (status(text), code) {
            // It could not ask whoever has signed the token.
            (_, Some("IDPCommunicationError")) => Reason::Unavailable,
            (Some(400..500), _) => Reason::IdentityRefused,
            _ => Reason::Unavailable,
        };
    }
    let no_identity = IDENTITY_SERVICES.iter().any(|name| text.contains(name));
    if no_identity || text.contains("token file") {
        return Reason::CredentialsMissing;
    }
    match code {
        Some("NoSuchBucket" | "ContainerNotFound") => return Reason::NoSuchBucket,
        Some(
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "AuthenticationFailed"
            | "AuthorizationFailure",
        ) => return Reason::Forbidden,
        _ => {}
    }
    if let Some(io) = io_of(error) {
        return match io {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::Full,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Reason::Forbidden
            }
            std::io::ErrorKind::NotFound => Reason::NoSuchObject,
            _ => Reason::Unavailable,
        };
    }
    match error {
        Of::NotFound { .. } => Reason::NoSuchObject,
        Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => Reason::Forbidden,
        Of::Precondition { .. } | Of::NotModified { .. } => Reason::Changed,
        Of::InvalidPath { .. } | Of::UnknownConfigurationKey { .. } => Reason::Invalid,
        _ => match status(text) {
            Some(401 | 403) => Reason::Forbidden,
            Some(404) => Reason::NoSuchObject,
            Some(416) => Reason::Changed,
            Some(507) => Reason::Full,
            _ => Reason::Unavailable,
        },
    }
}

/// All that an error and its causes say; each cause once.
fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

fn io_of(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    // A directory's failure; that of a connection has a client's error above it.
    let object_store::Error::Generic { store, .. } = error else {
        return match error {
            object_store::Error::PermissionDenied { .. } => {
                Some(std::io::ErrorKind::PermissionDenied)
            }
            _ => None,
        };
    };
    if *store != "LocalFileSystem" {
        return None;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(found, _)| found)
}

/// The words without any secret, on one line, and not longer than a person reads.
fn scrub(words: &str, secrets: &[String]) -> String {
    let mut words = words.to_owned();
    for secret in secrets {
        words = words.replace(secret.as_str(), "***");
    }
    let words = without_tokens(&words);
    let words: Vec<&str> = words.split_whitespace().collect();
    let words = words.join(" ");
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

/// The words without the tokens of identities. Those change all the time, so what they look like
/// tells them; whoever stands between may send back the address that was asked, token and all.
fn without_tokens(words: &str) -> String {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let (mut clean, mut rest) = (String::new(), words);
    while let Some((before, token)) = rest.split_once(TOKEN_BEGINS) {
        clean.push_str(before);
        clean.push_str("***");
        rest = token.trim_start_matches(of_token);
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    #[test]
    fn storages_are_understood() {
        let table = [
            (
                "Server returned non-2xx status code: 404 Not Found: <Error><Code>NoSuchBucket</Code>\
                 <Message>It is not there</Message></Error>",
                Reason::NoSuchBucket,
            ),
            (
                "status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>",
                Reason::Forbidden,
            ),
            ("status code: 403 Forbidden", Reason::Forbidden),
            ("status code: 503 Slow Down", Reason::Unavailable),
            ("connection refused", Reason::Unavailable),
            (
                "Error performing PUT http://169.254.169.254/latest/api/token: timed out",
                Reason::CredentialsMissing,
            ),
            (
                "Failed to read token file '/var/run/secrets/token': No such file or directory",
                Reason::CredentialsMissing,
            ),
            (
                "Error performing POST REDACTED in 1ms - Server returned non-2xx status code: 403 \
                 Forbidden: <ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <Error><Code>AccessDenied</Code></Error></ErrorResponse>",
                Reason::IdentityRefused,
            ),
            (
                "Error performing POST REDACTED in 1ms - HTTP error: connection refused",
                Reason::Unavailable,
            ),
        ];
        for (text, want) in table {
            let error = explain(&generic(text), "cannot list", &[]);
            assert_eq!(error.reason, want, "{text}");
            assert!(error.what.starts_with("cannot list: "), "{error}");
        }
    }

    #[test]
    fn secrets_and_endless_answers_are_not_passed_on() {
        let text = format!("the key canary-17\nis wrong {}", "x".repeat(9000));
        let error = explain(&generic(&text), "cannot list", &["canary-17".to_owned()]);
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary"), "{text}");
        assert!(text.len() < 2000 && text.contains("***"), "{text}");
        let text =
            "400 for /?WebIdentityToken=eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.c2ln-_x&Version=1 (eyJ0)";
        let error = explain(&generic(text), "cannot list", &[]);
        let want = "cannot list: Generic S3 error: 400 for /?WebIdentityToken=***&Version=1 (***)";
        assert_eq!(error.what, want);
    }
}
