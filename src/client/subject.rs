use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::key::check_exposure;
use super::{KeyError, SigningKey};
use crate::identity::POSSESSION_NAMESPACE;
use crate::keys::{SignError, random_bytes};

/// The key to be certified.
pub enum Subject {
    /// A fresh SSH key.
    FreshSsh(Box<PrivateKey>),
    /// An SSH key of the user's.
    Ssh(SigningKey),
    /// A fresh key for X.509.
    FreshX509(KeyPair),
    /// A key for X.509 of the user's, in that file.
    X509(PathBuf, KeyPair),
}

impl Subject {
    /// A fresh Ed25519 key for SSH.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn fresh_ssh(comment: &str) -> Result<Self, SubjectKeyError> {
        let seed = Zeroizing::new(random_bytes()?);
        let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        key.set_comment(comment);
        Ok(Self::FreshSsh(Box::new(key)))
    }

    /// A fresh ECDSA P-256 key for X.509.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn fresh_x509() -> Result<Self, SubjectKeyError> {
        Ok(Self::FreshX509(KeyPair::generate_for(
            &PKCS_ECDSA_P256_SHA256,
        )?))
    }

    /// The user's own SSH key.
    ///
    /// # Errors
    /// When it can't be used.
    pub fn ssh(path: &Path) -> Result<Self, SubjectKeyError> {
        Ok(Self::Ssh(SigningKey::open(path)?))
    }

    /// The user's own key for X.509, as PKCS#8 in PEM.
    ///
    /// # Errors
    /// When it can't be used.
    pub fn x509(path: &Path) -> Result<Self, SubjectKeyError> {
        let unreadable = |source| SubjectKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let pem = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
        check_exposure(path)?;
        Self::x509_in(path, &pem)
    }

    /// The key for X.509 that a file holds.
    ///
    /// # Errors
    /// When it holds none in PKCS#8.
    pub(crate) fn x509_in(path: &Path, pem: &str) -> Result<Self, SubjectKeyError> {
        let path = path.to_owned();
        match KeyPair::from_pem(pem) {
            Ok(key) => Ok(Self::X509(path, key)),
            Err(_) => Err(SubjectKeyError::NotPkcs8 { path }),
        }
    }

    /// The public part of a key for X.509, as a certificate has it (SubjectPublicKeyInfo).
    pub(crate) fn public_key_info(&self) -> Option<Vec<u8>> {
        match self {
            Self::FreshX509(key) | Self::X509(_, key) => Some(key.subject_public_key_info()),
            Self::FreshSsh(_) | Self::Ssh(_) => None,
        }
    }

    /// The OpenSSH line of an SSH key's public part.
    pub fn ssh_line(&self) -> Result<String, SubjectKeyError> {
        let mut key = match self {
            Self::FreshSsh(key) => key.public_key().clone(),
            Self::Ssh(key) => key.public_key().clone(),
            Self::FreshX509(_) | Self::X509(..) => return Err(SubjectKeyError::WrongKind),
        };
        // The comment is nobody's business.
        key.set_comment("");
        Ok(key.to_openssh()?)
    }

    /// Proves that we hold an SSH key: an armored SSHSIG over `message`.
    pub(super) fn prove(&self, message: &str) -> Result<String, SubjectKeyError> {
        let message = message.as_bytes();
        match self {
            Self::FreshSsh(key) => Ok(key
                .sign(POSSESSION_NAMESPACE, HashAlg::Sha512, message)?
                .to_pem(LineEnding::LF)?),
            Self::Ssh(key) => Ok(key.sign(POSSESSION_NAMESPACE, message)?),
            Self::FreshX509(_) | Self::X509(..) => Err(SubjectKeyError::WrongKind),
        }
    }

    /// A PKCS#10 request by a key for X.509. It says nothing else: the CA decides what the
    /// certificate says.
    pub fn csr(&self) -> Result<String, SubjectKeyError> {
        let (Self::FreshX509(key) | Self::X509(_, key)) = self else {
            return Err(SubjectKeyError::WrongKind);
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(key)?.pem()?)
    }

    /// A fresh key's private part as its file holds it; nothing for a key that has its own file.
    pub fn private_part(&self) -> Result<Option<Zeroizing<String>>, SubjectKeyError> {
        Ok(match self {
            Self::FreshSsh(key) => Some(key.to_openssh(LineEnding::LF)?),
            Self::FreshX509(key) => Some(Zeroizing::new(key.serialize_pem())),
            Self::Ssh(_) | Self::X509(..) => None,
        })
    }

    /// The file of a key that has its own.
    pub fn own_file(&self) -> Option<&Path> {
        match self {
            Self::Ssh(key) => Some(key.path()),
            Self::X509(path, _) => Some(path),
            Self::FreshSsh(_) | Self::FreshX509(_) => None,
        }
    }

    /// Whether it is for SSH.
    pub fn is_ssh(&self) -> bool {
        matches!(self, Self::FreshSsh(_) | Self::Ssh(_))
    }
}

/// Why a key can't be certified.
#[derive(Debug, thiserror::Error)]
pub enum SubjectKeyError {
    /// No SSH key that can be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file can't be read.
    #[error("can't read the key {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a key for X.509.
    #[error(
        "{path} is not an unencrypted PKCS#8 private key in PEM (BEGIN PRIVATE KEY) of type ECDSA \
         P-256 or P-384, Ed25519 or RSA: make one with openssl genpkey -algorithm EC -pkeyopt \
         ec_paramgen_curve:P-256, or leave --key out for a fresh one"
    )]
    NotPkcs8 {
        /// The file.
        path: PathBuf,
    },
    /// An SSH key for a database, or the other way round.
    #[error("this kind of key does not fit the kind of certificate")]
    WrongKind,
    /// No random bytes.
    #[error("no key could be made: {0}")]
    Random(#[from] SignError),
    /// The SSH key can't be encoded or used.
    #[error("no SSH key could be made: {0}")]
    Ssh(#[from] ssh_key::Error),
    /// The key or the request can't be made.
    #[error("no certificate request could be made: {0}")]
    X509(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use ssh_key::SshSig;

    use super::*;
    use crate::certificate::CsrSubject;
    use crate::identity::verify;

    #[test]
    fn a_fresh_ssh_key_proves_that_it_is_held() {
        let subject = Subject::fresh_ssh("comment").unwrap();
        let line = subject.ssh_line().unwrap();
        let signature = SshSig::from_pem(subject.prove("message\n").unwrap()).unwrap();
        let signed = verify(&signature, POSSESSION_NAMESPACE, b"message\n").unwrap();
        assert_eq!(
            ssh_key::PublicKey::from(signed.key).to_openssh().unwrap(),
            line.trim_end()
        );
        assert!(subject.csr().is_err());
    }

    #[test]
    fn a_request_by_a_fresh_key_is_one_that_the_ca_takes() {
        let subject = Subject::fresh_x509().unwrap();
        assert!(CsrSubject::from_pem(&subject.csr().unwrap()).is_ok());
        assert!(
            subject
                .private_part()
                .unwrap()
                .unwrap()
                .contains("BEGIN PRIVATE KEY")
        );
        assert!(subject.ssh_line().is_err());
    }
}
