//! Whether a certificate that is on record was signed by one of the CA's keys.

use ssh_encoding::Encode as _;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Certificate};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Ed25519Key, Ed25519Signature, parse_public_key};
use crate::model::Serial;

/// The CA keys that may have signed, each for its kind of certificate.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    ssh_user: Vec<SshIssuer>,
    ssh_host: Vec<SshIssuer>,
    /// Issuing CAs' certificates in DER.
    x509: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct SshIssuer {
    key: KeyData,
    /// The same, if it is one of Ed25519.
    ed25519: Option<Ed25519Key>,
}

impl SshIssuer {
    fn new(public: &str) -> Result<Self, IssuerError> {
        let key = parse_public_key(public).map_err(|_| IssuerError::Key)?;
        let key = key.key_data().clone();
        let ed25519 = key.ed25519().map(|key| Ed25519Key::read(&key.0));
        Ok(Self {
            ed25519: ed25519.transpose().map_err(|_| IssuerError::Key)?,
            key,
        })
    }
}

impl Issuers {
    /// Takes a CA key in: its kind, and its OpenSSH line or its certificate in PEM. Keys of other
    /// kinds sign no certificates that are on record.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn introduce(&mut self, kind: &str, public: &str) -> Result<(), IssuerError> {
        match kind {
            "ssh-user" => self.ssh_user.push(SshIssuer::new(public)?),
            "ssh-host" => self.ssh_host.push(SshIssuer::new(public)?),
            "x509-issuing" => self.x509.push(der(public).ok_or(IssuerError::Key)?),
            _ => {}
        }
        Ok(())
    }

    /// Checks that a certificate of that form and serial number was signed by one of these keys.
    ///
    /// # Errors
    /// When it was not.
    pub fn check(&self, form: &str, serial: Serial, text: &str) -> Result<(), IssuerError> {
        match self.check_except_signature(form, serial, text)? {
            Some(signature) if !signature.verify() => Err(IssuerError::Signature),
            _ => Ok(()),
        }
    }

    /// The same except for an Ed25519 signature, which it gives to be verified with others.
    ///
    /// # Errors
    /// When it was not.
    pub fn check_except_signature(
        &self,
        form: &str,
        serial: Serial,
        text: &str,
    ) -> Result<Option<Ed25519Signature>, IssuerError> {
        match form {
            "ssh-user" => check_ssh(&self.ssh_user, serial, text),
            "ssh-host" => check_ssh(&self.ssh_host, serial, text),
            "x509-client" | "x509-server" => self.check_x509(serial, text).map(|()| None),
            _ => Err(IssuerError::Form),
        }
    }

    fn check_x509(&self, serial: Serial, text: &str) -> Result<(), IssuerError> {
        let der = der(text).ok_or(IssuerError::Certificate)?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| IssuerError::Certificate)?;
        if certificate.serial != serial.get().into() {
            return Err(IssuerError::Serial);
        }
        let signed = self.x509.iter().any(|issuer| {
            X509Certificate::from_der(issuer).is_ok_and(|(_, issuer)| {
                let key = Some(issuer.public_key());
                certificate.verify_signature(key).is_ok()
            })
        });
        if signed {
            Ok(())
        } else {
            Err(IssuerError::Signature)
        }
    }
}

fn check_ssh(
    issuers: &[SshIssuer],
    serial: Serial,
    text: &str,
) -> Result<Option<Ed25519Signature>, IssuerError> {
    let certificate = Certificate::from_openssh(text).map_err(|_| IssuerError::Certificate)?;
    if certificate.serial() != serial.get() {
        return Err(IssuerError::Serial);
    }
    let mut issuers = issuers.iter();
    let issuer = issuers
        .find(|issuer| issuer.key == *certificate.signature_key())
        .ok_or(IssuerError::Signature)?;
    let signature = certificate.signature();
    let Some(key) = issuer.ed25519 else {
        let verified = certificate.verify_signature();
        return verified.map(|()| None).map_err(|_| IssuerError::Signature);
    };
    if signature.algorithm() != Algorithm::Ed25519 {
        return Err(IssuerError::Signature);
    }
    let signed = signed(&certificate).ok_or(IssuerError::Certificate)?;
    Ed25519Signature::new(key, signature.as_bytes(), signed)
        .map(Some)
        .ok_or(IssuerError::Signature)
}

/// What the CA signed of a certificate: all that stands before the signature
/// (PROTOCOL.certkeys).
fn signed(certificate: &Certificate) -> Option<Vec<u8>> {
    let mut bytes = certificate.to_bytes().ok()?;
    let signature = certificate.signature().encoded_len_prefixed().ok()?;
    bytes.truncate(bytes.len().checked_sub(signature)?);
    Some(bytes)
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let block = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    Some(block.contents)
}

/// What is wrong with a certificate on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// A CA's public part can't be read.
    #[error("the CA key that it introduces can't be read")]
    Key,
    /// No such form of certificate.
    #[error("its certificate is of a form that there is not")]
    Form,
    /// It is none.
    #[error("its certificate can't be read")]
    Certificate,
    /// It is another.
    #[error("its certificate has another serial number")]
    Serial,
    /// Nobody of ours signed it.
    #[error("no CA key that the log introduced signed its certificate")]
    Signature,
}

#[cfg(test)]
mod tests {
    use ssh_key::public::Ed25519PublicKey;

    use super::*;

    #[test]
    fn a_key_that_anybody_can_sign_with_is_no_ca_key() {
        let point = |first: u8| {
            let mut point = [0; 32];
            point[0] = first;
            let key = KeyData::Ed25519(Ed25519PublicKey(point));
            ssh_key::PublicKey::from(key).to_openssh().unwrap()
        };
        // The neutral point, one of order four, and no point of the curve.
        for first in [1, 0, 2] {
            let mut issuers = Issuers::default();
            for kind in ["ssh-user", "ssh-host"] {
                let refused = issuers.introduce(kind, &point(first));
                assert_eq!(refused, Err(IssuerError::Key), "{first}");
            }
        }
    }
}
