//! Who is at the other end of a mutual-TLS connection, by its certificate's common name.

use std::fmt;

use dynomite_api::contract::{CN_ADMIN, CN_NODE, CN_OPERATOR};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The operator.
    Operator,
    /// A person, or a script of theirs.
    Admin,
    /// A node of the cluster.
    Node,
    /// Somebody the cluster's authority knows, but who may nothing here.
    Other(String),
}

impl Identity {
    /// Of a certificate that has been verified already; one with no common
    /// name, or with several, is nobody's.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        match common_name(certificate).as_deref() {
            Some(CN_OPERATOR) => Self::Operator,
            Some(CN_ADMIN) => Self::Admin,
            Some(CN_NODE) => Self::Node,
            other => Self::Other(other.unwrap_or_default().to_owned()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str(CN_OPERATOR),
            Self::Admin => f.write_str(CN_ADMIN),
            Self::Node => f.write_str(CN_NODE),
            Self::Other(name) => write!(f, "{name:?}"),
        }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    name.as_str().ok().map(str::to_owned)
}
