//! The certificates with which operator and nodes of one cluster know each other: made here, and judged here.
//!
//! ```text
//! CA (10 years) --+-- operator's client certificate (CN dynomite-operator)
//!                 +-- people's client certificate (CN dynomite-admin)
//!                 +-- the nodes' certificate (CN dynomite-node, both ways)
//! ```
//!
//! A new CA keeps its predecessors in `ca.crt`, newest first: nodes learn of
//! it at their own pace, and until then they trust each other by the old one.

use std::collections::BTreeMap;
use std::fmt::Write;

use dynomite_api::contract::{CN_ADMIN, CN_NODE, CN_OPERATOR};
use dynomite_planner::SecretFacts;
use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long a CA lives, years.
const CA_YEARS: i64 = 10;
/// How long a certificate lives, days.
const LEAF_DAYS: i64 = 365;
/// How many CAs `ca.crt` holds at most, the newest included.
const TRUSTED_CAS_MAX: usize = 3;

/// Key of the certificate in a Secret, PEM.
pub const KEY_CERTIFICATE: &str = "tls.crt";
/// Key of the private key in a Secret, PEM.
pub const KEY_PRIVATE: &str = "tls.key";
/// Key of the trusted CAs in a Secret, PEM, newest first.
pub const KEY_CA: &str = "ca.crt";
/// Key of the CA's private key in the CA's Secret, PEM.
pub const KEY_CA_PRIVATE: &str = "ca.key";

/// Why certificates could not be made. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refused.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The CA's Secret does not hold a usable CA.
    #[error("the Secret of the CA has no usable {0}")]
    Missing(&'static str),
    /// The calendar ended.
    #[error("no date that far ahead: {0}")]
    Calendar(#[from] jiff::Error),
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    certificate: String,
    key: String,
}

/// The content of the CA's Secret: a CA, and the operator's certificate by it.
///
/// `trusted` are the CAs that were trusted before, PEM; they stay trusted.
pub fn new_ca(
    cluster: &str,
    trusted: Option<&[u8]>,
    now: Timestamp,
) -> Result<BTreeMap<String, ByteString>, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = validity(CertificateParams::default(), now, 366 * CA_YEARS)?;
    params.distinguished_name.push(
        DnType::CommonName,
        format!("dynomite CA of {cluster}, {now:.0}"),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.pem();
    let mut bundle = certificate.clone();
    let trusted = pem_blocks(trusted.unwrap_or_default());
    bundle.extend(trusted.into_iter().take(TRUSTED_CAS_MAX - 1));
    let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key.serialize_pem())?)?;
    let operator = leaf(CN_OPERATOR, &[], &issuer, now)?;
    Ok(content([
        (KEY_CA, bundle),
        (KEY_CA_PRIVATE, key.serialize_pem()),
        (KEY_CERTIFICATE, operator.certificate),
        (KEY_PRIVATE, operator.key),
    ]))
}

/// The content of the CA's Secret with a new certificate for the operator, by the CA it holds.
pub fn renew_operator(ca: &Secret, now: Timestamp) -> Result<BTreeMap<String, ByteString>, Error> {
    let operator = leaf(CN_OPERATOR, &[], &issuer(ca)?, now)?;
    let mut data = ca.data.clone().unwrap_or_default();
    data.extend(content([
        (KEY_CERTIFICATE, operator.certificate),
        (KEY_PRIVATE, operator.key),
    ]));
    Ok(data)
}

/// The content of the nodes' Secret, signed by the CA of `ca`.
pub fn new_node(
    ca: &Secret,
    dns_names: &[String],
    now: Timestamp,
) -> Result<BTreeMap<String, ByteString>, Error> {
    let node = leaf(CN_NODE, dns_names, &issuer(ca)?, now)?;
    with_ca(ca, node)
}

/// The content of the Secret with which people speak to nodes, signed by the CA of `ca`.
pub fn new_admin(ca: &Secret, now: Timestamp) -> Result<BTreeMap<String, ByteString>, Error> {
    let admin = leaf(CN_ADMIN, &[], &issuer(ca)?, now)?;
    with_ca(ca, admin)
}

fn with_ca(ca: &Secret, leaf: Pair) -> Result<BTreeMap<String, ByteString>, Error> {
    let trusted = value(ca, KEY_CA).ok_or(Error::Missing(KEY_CA))?;
    let mut data = content([(KEY_CERTIFICATE, leaf.certificate), (KEY_PRIVATE, leaf.key)]);
    data.insert(KEY_CA.to_owned(), ByteString(trusted.to_vec()));
    Ok(data)
}

/// What can be said of the CA's Secret without showing what it holds.
pub fn ca_facts(secret: &Secret) -> SecretFacts {
    facts(secret, true)
}

/// What can be said of the Secret of nodes or of people without showing what it holds.
pub fn leaf_facts(secret: &Secret) -> SecretFacts {
    facts(secret, false)
}

fn facts(secret: &Secret, is_ca: bool) -> SecretFacts {
    let authorities = certificates(value(secret, KEY_CA).unwrap_or_default());
    let leaves = certificates(value(secret, KEY_CERTIFICATE).unwrap_or_default());
    let readable = |key: &str| value(secret, key).is_some_and(|pem| private_key(pem).is_some());
    let mut judged: Vec<&CertificateDer<'_>> = leaves.first().into_iter().collect();
    if is_ca {
        judged.extend(authorities.first());
    }
    let spans: Vec<(Timestamp, Timestamp)> = judged.iter().filter_map(|der| span(der)).collect();
    SecretFacts {
        uid: secret.metadata.uid.clone().unwrap_or_default(),
        owner_uid: secret
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone()),
        complete: !authorities.is_empty()
            && !leaves.is_empty()
            && spans.len() == judged.len()
            && readable(KEY_PRIVATE)
            && (!is_ca || readable(KEY_CA_PRIVATE)),
        not_before: spans.iter().map(|span| span.0).min(),
        not_after: spans.iter().map(|span| span.1).min(),
        ca_digest: authorities.first().map(digest).unwrap_or_default(),
        dns_names: leaves.first().map(dns_names).unwrap_or_default(),
    }
}

/// Whether two thirds of a certificate's life are over, or it cannot be read.
pub fn renewal_is_due(pem: Option<&[u8]>, now: Timestamp) -> bool {
    let leaves = certificates(pem.unwrap_or_default());
    let Some((begin, end)) = leaves.first().and_then(span) else {
        return true;
    };
    let life = end.as_second() - begin.as_second();
    now.as_second() >= begin.as_second() + life / 3 * 2
}

/// The value of a key of a Secret.
pub fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret
        .data
        .as_ref()?
        .get(key)
        .map(|bytes| bytes.0.as_slice())
}

/// The certificates in a PEM text; what cannot be read is left out.
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

/// The common name of a certificate's subject.
pub fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

fn issuer(ca: &Secret) -> Result<Issuer<'static, KeyPair>, Error> {
    let authorities = certificates(value(ca, KEY_CA).unwrap_or_default());
    let newest = authorities.first().ok_or(Error::Missing(KEY_CA))?;
    let key = value(ca, KEY_CA_PRIVATE)
        .and_then(private_key)
        .ok_or(Error::Missing(KEY_CA_PRIVATE))?;
    Ok(Issuer::from_ca_cert_der(newest, key)?)
}

fn private_key(pem: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

fn leaf(
    common_name: &str,
    dns_names: &[String],
    issuer: &Issuer<'_, KeyPair>,
    now: Timestamp,
) -> Result<Pair, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = validity(CertificateParams::new(dns_names)?, now, LEAF_DAYS)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !dns_names.is_empty() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(Pair {
        certificate: params.signed_by(&key, issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

/// Begins a day early, because clocks of Kubernetes nodes differ.
fn validity(
    mut params: CertificateParams,
    now: Timestamp,
    days: i64,
) -> Result<CertificateParams, Error> {
    let today: Zoned = now.to_zoned(TimeZone::UTC);
    let date = |zoned: Zoned| -> Result<_, Error> {
        let (month, day) = (zoned.month().unsigned_abs(), zoned.day().unsigned_abs());
        Ok(rcgen::date_time_ymd(i32::from(zoned.year()), month, day))
    };
    params.not_before = date(today.checked_sub(1.day())?)?;
    params.not_after = date(today.checked_add(days.days())?)?;
    Ok(params)
}

fn span(der: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((
        Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        Timestamp::from_second(validity.not_after.timestamp()).ok()?,
    ))
}

fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    names
        .into_iter()
        .flat_map(|extension| extension.value.general_names.iter())
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

fn digest(der: &CertificateDer<'static>) -> String {
    Sha256::digest(der)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The certificates of a PEM text, each as it stands there, without what is between them.
fn pem_blocks(pem: &[u8]) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    text.split(END)
        .filter_map(|part| part.find(BEGIN).map(|at| format!("{}{END}\n", &part[at..])))
        .collect()
}

fn content<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, ByteString> {
    pairs
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn secret(data: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    #[test]
    fn the_secrets_are_complete_and_belong_together() {
        let now = at("2026-03-01T12:00:00Z");
        let names = vec![
            "*.ring-nodes.db.svc.cluster.local".to_owned(),
            "localhost".to_owned(),
        ];
        let ca = secret(new_ca("ring", None, now).expect("a CA"));
        let node = secret(new_node(&ca, &names, now).expect("a certificate"));
        let (of_ca, of_node) = (ca_facts(&ca), leaf_facts(&node));
        assert!(of_ca.complete && of_node.complete);
        assert_eq!(of_ca.ca_digest, of_node.ca_digest);
        assert_eq!(of_node.dns_names, names);
        assert_eq!(of_node.not_after, Some(at("2027-03-01T00:00:00Z")));
        let leaf = &certificates(value(&node, KEY_CERTIFICATE).expect("there"))[0];
        assert_eq!(common_name(leaf).as_deref(), Some(CN_NODE));
        let admin = secret(new_admin(&ca, now).expect("a certificate"));
        let of_admin = leaf_facts(&admin);
        assert!(of_admin.complete && of_admin.ca_digest == of_ca.ca_digest);
        let leaf = &certificates(value(&admin, KEY_CERTIFICATE).expect("there"))[0];
        assert_eq!(common_name(leaf).as_deref(), Some(CN_ADMIN));
        let operator = &certificates(value(&ca, KEY_CERTIFICATE).expect("there"))[0];
        assert_eq!(common_name(operator).as_deref(), Some(CN_OPERATOR));
    }

    #[test]
    fn a_new_ca_stays_trusted_beside_its_predecessors_and_their_number_is_limited() {
        let now = at("2026-03-01T12:00:00Z");
        let mut ca = secret(new_ca("ring", None, now).expect("a CA"));
        for _ in 0..5 {
            let trusted = value(&ca, KEY_CA).map(<[u8]>::to_vec);
            let next = secret(new_ca("ring", trusted.as_deref(), now).expect("a CA"));
            let old = certificates(&trusted.expect("there"));
            let new = certificates(value(&next, KEY_CA).expect("there"));
            assert!(new.len() <= TRUSTED_CAS_MAX);
            assert_eq!(new[1], old[0]);
            assert_ne!(ca_facts(&ca).ca_digest, ca_facts(&next).ca_digest);
            ca = next;
        }
    }

    #[test]
    fn renewal_is_due_after_two_thirds_and_for_what_cannot_be_read() {
        let now = at("2026-03-01T12:00:00Z");
        let ca = secret(new_ca("ring", None, now).expect("a CA"));
        let pem = value(&ca, KEY_CERTIFICATE);
        let after = |days: i64| now + SignedDuration::from_hours(24 * days);
        assert!(!renewal_is_due(pem, after(240)));
        assert!(renewal_is_due(pem, after(245)));
        assert!(renewal_is_due(None, now));
        assert!(renewal_is_due(Some(b"no certificate"), now));
        let renewed = secret(renew_operator(&ca, after(245)).expect("a certificate"));
        assert!(!renewal_is_due(
            value(&renewed, KEY_CERTIFICATE),
            after(245)
        ));
        assert_eq!(value(&renewed, KEY_CA), value(&ca, KEY_CA));
    }

    #[test]
    fn a_damaged_secret_is_not_complete() {
        let now = at("2026-03-01T12:00:00Z");
        let data = new_ca("ring", None, now).expect("a CA");
        for key in data.keys() {
            for damage in [None, Some(ByteString(b"damaged".to_vec()))] {
                let mut data = data.clone();
                match damage {
                    Some(bytes) => data.insert(key.clone(), bytes),
                    None => data.remove(key),
                };
                assert!(!ca_facts(&secret(data)).complete, "{key}");
            }
        }
    }
}
