//! OpenSSH certificates (PROTOCOL.certkeys).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use ssh_encoding::Encode;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData};
use ssh_key::{Certificate, PublicKey, Signature};

use super::lent::Lent;
use super::{CertificateError, Validity};
use crate::keys::{KeyAlgorithm, SignError, Signer, ecdsa_integers};
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
    signer: Lent,
    public_key: PublicKey,
}

impl SshCa {
    /// From a signer of any algorithm.
    ///
    /// # Errors
    /// When its public key can't be one of SSH.
    pub fn new(signer: Arc<Signer>) -> Result<Self, CertificateError> {
        let bytes = signer.public_key();
        let key = match signer.algorithm() {
            KeyAlgorithm::Ed25519 => KeyData::Ed25519(Ed25519PublicKey::try_from(bytes)?),
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
                KeyData::Ecdsa(EcdsaPublicKey::from_sec1_bytes(bytes)?)
            }
        };
        Ok(Self {
            signer: Lent(signer),
            public_key: PublicKey::from(key),
        })
    }

    /// The CA's public key, without a comment.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Checks that its key can be used now.
    ///
    /// # Errors
    /// Says why it can't.
    pub fn check(&self) -> Result<(), SignError> {
        self.signer.0.check()
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
        line(&builder.sign(&SshSigner(self))?)
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
        line(&builder.sign(&SshSigner(self))?)
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

/// The line of a `-cert.pub` file. `ssh-key` writes the same in four times the time: its base64 is made
/// for secrets.
fn line(certificate: &Certificate) -> Result<String, CertificateError> {
    let kind = certificate.algorithm().to_certificate_type();
    let blob = STANDARD.encode(certificate.to_bytes()?);
    Ok(format!("{kind} {blob}"))
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
        let SshCa { signer, public_key } = self.0;
        let bytes = signer.sign(message).ok_or_else(signature::Error::new)?;
        let bytes = match signer.0.algorithm() {
            KeyAlgorithm::Ed25519 => Some(bytes),
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => ecdsa_blob(&bytes),
        };
        let bytes = bytes.ok_or_else(signature::Error::new)?;
        Signature::new(public_key.algorithm(), bytes).map_err(signature::Error::from_source)
    }
}

/// An ECDSA signature as SSH has it (RFC 5656, section 3.1.2), from an `Ecdsa-Sig-Value`.
fn ecdsa_blob(der: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = ecdsa_integers(der)?;
    let mut blob = Vec::new();
    r.encode(&mut blob).ok()?;
    s.encode(&mut blob).ok()?;
    Some(blob)
}

impl From<&SshSigner<'_>> for KeyData {
    fn from(signer: &SshSigner<'_>) -> Self {
        signer.0.public_key.key_data().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn a_ca_key_of_any_algorithm_signs_what_its_public_key_verifies() {
        let subject = PublicKey::from(Ed25519PublicKey([7; 32]));
        for algorithm in KeyAlgorithm::ALL {
            let ca = SshCa::new(Signer::throwaway_of(algorithm)).unwrap();
            // Often enough for zeros and high bits in front of r and s.
            for number in 0..300_u64 {
                let grant = SshHostGrant {
                    subject: subject.key_data(),
                    serial: Serial::new(number + 1).unwrap(),
                    entry: EntryIndex(number),
                    requester: "alice",
                    names: &["app-1".parse().unwrap()],
                    validity: Validity {
                        after: Timestamp::from_secs(1000),
                        before: Timestamp::from_secs(2000),
                    },
                    nonce: [1; 32],
                };
                let line = ca.host_certificate(&grant).unwrap();
                let certificate = ssh_key::Certificate::from_openssh(&line).unwrap();
                assert_eq!(certificate.signature_key(), ca.public_key().key_data());
                certificate.verify_signature().unwrap();
                assert_eq!(certificate.to_openssh().unwrap(), line);
            }
        }
    }
}
