//! The cluster's certificates, and kubeconfigs made of them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The certificate authority of one cluster; it lives only while the files are written.
pub(super) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate names.
#[derive(Default)]
pub(super) struct Subject<'a> {
    /// The user, for Kubernetes.
    pub(super) common_name: &'a str,
    /// The group, for Kubernetes.
    pub(super) organization: Option<&'a str>,
    /// Names and addresses it serves under; none for clients.
    pub(super) names: &'a [&'a str],
    /// See `names`.
    pub(super) addresses: &'a [IpAddr],
}

impl Authority {
    /// Makes an authority whose certificate is `ca.crt` in `directory`.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
            .distinguished_name
            .push(DnType::CommonName, "dynomite-cluster");
        fs::write(
            directory.join("ca.crt"),
            parameters.self_signed(&key)?.pem(),
        )?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(parameters, key),
        })
    }

    /// Writes `NAME.crt` and `NAME.key` for `subject`.
    pub(super) fn issue(&self, name: &str, subject: &Subject) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        let distinguished = &mut parameters.distinguished_name;
        distinguished.push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            distinguished.push(DnType::OrganizationName, organization);
        }
        for name in subject.names {
            let name = (*name).try_into().context("a host name in a certificate")?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        for address in subject.addresses {
            parameters
                .subject_alt_names
                .push(SanType::IpAddress(*address));
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        fs::write(self.certificate(name), certificate.pem())?;
        fs::write(self.key(name), key.serialize_pem())?;
        Ok(())
    }

    /// Writes `NAME.key` and `NAME.pub`, with which the API server signs pods' tokens.
    pub(super) fn signing_key(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        fs::write(self.key(name), key.serialize_pem())?;
        fs::write(
            self.directory.join(format!("{name}.pub")),
            key.public_key_pem(),
        )?;
        Ok(())
    }

    /// Writes a kubeconfig that holds `NAME`'s certificate and needs no other file.
    pub(super) fn kubeconfig(
        &self,
        name: &str,
        context: &str,
        server: &str,
        to: &Path,
    ) -> Result<()> {
        let encoded = |path: PathBuf| -> Result<String> {
            let pem = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(BASE64_STANDARD.encode(pem))
        };
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: {context}\n\
             clusters:\n\
             - name: {context}\n\
             \x20 cluster:\n\
             \x20   server: {server}\n\
             \x20   certificate-authority-data: {authority}\n\
             users:\n\
             - name: {context}\n\
             \x20 user:\n\
             \x20   client-certificate-data: {certificate}\n\
             \x20   client-key-data: {key}\n\
             contexts:\n\
             - name: {context}\n\
             \x20 context:\n\
             \x20   cluster: {context}\n\
             \x20   user: {context}\n",
            authority = encoded(self.certificate("ca"))?,
            certificate = encoded(self.certificate(name))?,
            key = encoded(self.key(name))?,
        );
        fs::write(to, text)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.crt"))
    }

    fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}
