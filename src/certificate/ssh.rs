//! OpenSSH certificates (PROTOCOL.certkeys).

use std::sync::Arc;

use ipnet::IpNet;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, PublicKey, Signature};

use super::{CertificateError, Validity};
use crate::keys::Signer;
use crate::model::{
    EntryIndex, HostName, PrincipalName, Purpose, RoleName, Serial, SshExtension, UserName,
};

/// What an SSH user certificate says.
pub struct SshUserGrant<'a> {
    /// The key to be certified.
    pub subject: &'a KeyData,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The entry that records it.
    pub entry: EntryIndex,
    /// Who asked.
    pub requester: &'a UserName,
    /// For which role.
    pub role: &'a RoleName,
    /// For which purpose.
    pub purpose: &'a Purpose,
    /// The login names.
    pub principals: &'a [PrincipalName],
    /// What the session may do.
    pub extensions: &'a [SshExtension],
    /// The only command that it may run.
    pub force_command: Option<&'a str>,
    /// From where it may be used; anywhere when empty.
    pub source_addresses: &'a [IpNet],
    /// When it is good.
    pub validity: Validity,
    /// Fresh random bytes (PROTOCOL.certkeys wants them against collision attacks).
    pub nonce: [u8; 32],
}

impl SshUserGrant<'_> {
    /// What sshd writes to its log at a login with this certificate.
    pub fn key_id(&self) -> String {
        format!(
            "user={} role={} purpose={} entry={}",
            self.requester, self.role, self.purpose, self.entry
        )
    }
}

/// What an SSH host certificate says.
pub struct SshHostGrant<'a> {
    /// The host's key.
    pub subject: &'a KeyData,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The entry that records it.
    pub entry: EntryIndex,
    /// Who asked: an administrator, or the host itself.
    pub requester: &'a str,
    /// The host's names.
    pub names: &'a [HostName],
    /// When it is good.
    pub validity: Validity,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

impl SshHostGrant<'_> {
    /// What `ssh -v` shows of it.
    pub fn key_id(&self) -> String {
        let name = self.names.first().map_or("", HostName::as_str);
        format!("host={name} by={} entry={}", self.requester, self.entry)
    }
}

/// A CA key that signs SSH certificates.
pub struct SshCa {
    signer: Arc<Signer>,
    public_key: PublicKey,
}

impl SshCa {
    /// From an Ed25519 signer.
    ///
    /// # Errors
    /// When the signer holds another kind of key.
    pub fn new(signer: Arc<Signer>) -> Result<Self, CertificateError> {
        let public_key: &[u8; 32] = signer.public_key().try_into().map_err(|_| {
            CertificateError::CaCertificate("SSH certificates need an Ed25519 CA key")
        })?;
        let public_key = PublicKey::from(KeyData::Ed25519(Ed25519PublicKey(*public_key)));
        Ok(Self { signer, public_key })
    }

    /// The CA's public key, without a comment.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Signs a user certificate and gives its line for a `-cert.pub` file.
    ///
    /// # Errors
    /// When it can't be encoded or signed.
    pub fn user_certificate(&self, grant: &SshUserGrant<'_>) -> Result<String, CertificateError> {
        let mut builder = self.builder(grant.nonce, grant.subject, grant.validity)?;
        builder.cert_type(CertType::User)?;
        builder.serial(grant.serial.get())?;
        builder.key_id(grant.key_id())?;
        for principal in grant.principals {
            builder.valid_principal(principal.as_str())?;
        }
        for extension in grant.extensions {
            builder.extension(extension.as_str(), "")?;
        }
        if let Some(command) = grant.force_command {
            builder.critical_option("force-command", command)?;
        }
        if !grant.source_addresses.is_empty() {
            let networks: Vec<_> = grant
                .source_addresses
                .iter()
                .map(IpNet::to_string)
                .collect();
            builder.critical_option("source-address", networks.join(","))?;
        }
        Ok(builder.sign(&SshSigner(self))?.to_openssh()?)
    }

    /// Signs a host certificate and gives its line for a `-cert.pub` file.
    ///
    /// # Errors
    /// When it can't be encoded or signed.
    pub fn host_certificate(&self, grant: &SshHostGrant<'_>) -> Result<String, CertificateError> {
        let mut builder = self.builder(grant.nonce, grant.subject, grant.validity)?;
        builder.cert_type(CertType::Host)?;
        builder.serial(grant.serial.get())?;
        builder.key_id(grant.key_id())?;
        for name in grant.names {
            builder.valid_principal(name.as_str())?;
        }
        Ok(builder.sign(&SshSigner(self))?.to_openssh()?)
    }

    fn builder(
        &self,
        nonce: [u8; 32],
        subject: &KeyData,
        validity: Validity,
    ) -> Result<Builder, CertificateError> {
        Ok(Builder::new(
            nonce,
            subject.clone(),
            validity.after.as_secs(),
            validity.before.as_secs(),
        )?)
    }
}

/// Reads one line of OpenSSH's public key format (`ssh-ed25519 AAAA... comment`).
///
/// # Errors
/// When it is none, or a certificate.
pub fn parse_public_key(line: &str) -> Result<PublicKey, super::SubjectError> {
    let line = line.trim();
    if line.contains("PRIVATE KEY") {
        return Err(super::SubjectError::PrivateKey);
    }
    if line
        .split(' ')
        .next()
        .is_some_and(|kind| kind.contains("-cert-v"))
    {
        return Err(super::SubjectError::Certificate);
    }
    PublicKey::from_openssh(line).map_err(|_| super::SubjectError::NotAPublicKey)
}

/// Lends a CA's signer to `ssh-key`.
struct SshSigner<'a>(&'a SshCa);

impl signature::Signer<Signature> for SshSigner<'_> {
    fn try_sign(&self, message: &[u8]) -> Result<Signature, signature::Error> {
        let bytes = self
            .0
            .signer
            .sign(message)
            .map_err(signature::Error::from_source)?;
        Signature::new(Algorithm::Ed25519, bytes).map_err(signature::Error::from_source)
    }
}

impl From<&SshSigner<'_>> for KeyData {
    fn from(signer: &SshSigner<'_>) -> Self {
        signer.0.public_key.key_data().clone()
    }
}
