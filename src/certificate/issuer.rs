//! Whether a certificate that is on record was signed by one of the CA's keys.

use ssh_key::Certificate;
use ssh_key::public::KeyData;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::parse_public_key;
use crate::model::Serial;

/// The CA keys that may have signed, each for its kind of certificate.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    ssh_user: Vec<KeyData>,
    ssh_host: Vec<KeyData>,
    /// Issuing CAs' certificates in DER.
    x509: Vec<Vec<u8>>,
}

impl Issuers {
    /// Takes a CA key in: its kind, and its OpenSSH line or its certificate in PEM. Keys of other
    /// kinds sign no certificates that are on record.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn introduce(&mut self, kind: &str, public: &str) -> Result<(), IssuerError> {
        let ssh = || {
            parse_public_key(public)
                .map(|key| key.key_data().clone())
                .map_err(|_| IssuerError::Key)
        };
        match kind {
            "ssh-user" => self.ssh_user.push(ssh()?),
            "ssh-host" => self.ssh_host.push(ssh()?),
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
        match form {
            "ssh-user" => check_ssh(&self.ssh_user, serial, text),
            "ssh-host" => check_ssh(&self.ssh_host, serial, text),
            "x509-client" | "x509-server" => self.check_x509(serial, text),
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

fn check_ssh(keys: &[KeyData], serial: Serial, text: &str) -> Result<(), IssuerError> {
    let certificate = Certificate::from_openssh(text).map_err(|_| IssuerError::Certificate)?;
    if certificate.serial() != serial.get() {
        return Err(IssuerError::Serial);
    }
    if keys.contains(certificate.signature_key()) && certificate.verify_signature().is_ok() {
        Ok(())
    } else {
        Err(IssuerError::Signature)
    }
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
