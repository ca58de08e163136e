//! From a grant and a [`Signer`](crate::keys::Signer) to a certificate. No policy, no clock: the
//! nonce, the serial and the validity are inputs. What is on each certificate is specified in
//! docs/certificates.md.

mod ed25519;
mod foreign;
mod inspect;
mod issuer;
mod lent;
mod ssh;
mod subject;
mod x509;

pub use ed25519::{Ed25519Key, Ed25519KeyError, Ed25519Signature};
pub use foreign::{ForeignCa, ForeignCaError, certificate_pem};
pub use inspect::{InspectError, Inspected, inspect};
pub use issuer::{IssuerError, Issuers};
pub use ssh::{SshCa, SshHostGrant, SshUserGrant, parse_public_key};
pub use subject::{CsrSubject, SubjectError, check_ssh_key};
pub use x509::{
    ClientGrant, IssuingCa, ServerGrant, cross_certificate, fingerprint, fingerprint_of_pem,
    is_issued_by, issuing_certificate, issuing_request, revocation_list, root_certificate,
};

use crate::keys::SignError;
use crate::model::{HostTtl, Timestamp, Ttl};

/// How far back a certificate's validity begins, for hosts whose clock is behind.
pub const BACKDATE: std::time::Duration = std::time::Duration::from_secs(60);

/// When a certificate is good, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this.
    pub after: Timestamp,
    /// Not from this on.
    pub before: Timestamp,
}

impl Validity {
    /// A person's: from a minute before `now` until `ttl` after it.
    pub fn person(now: Timestamp, ttl: Ttl) -> Self {
        Self::new(now, ttl.duration())
    }

    /// A host's.
    pub fn host(now: Timestamp, ttl: HostTtl) -> Self {
        Self::new(now, ttl.duration())
    }

    fn new(now: Timestamp, length: std::time::Duration) -> Self {
        let now = now.whole_secs();
        Self {
            after: now.minus(BACKDATE),
            before: now.plus(length),
        }
    }
}

/// The certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The CA's key could not be used.
    #[error(transparent)]
    Sign(SignError),
    /// The SSH certificate could not be encoded.
    #[error("the SSH certificate could not be made: {0}")]
    Ssh(ssh_key::Error),
    /// The X.509 certificate could not be encoded.
    #[error("the X.509 certificate could not be made: {0}")]
    X509(rcgen::Error),
    /// A CA's own certificate can't be read.
    #[error("the CA certificate can't be used: {0}")]
    CaCertificate(&'static str),
    /// The certificate would outlive the CA's.
    #[error("the issuing CA's certificate ends at {0}, before the one asked for would")]
    OutlivesCa(Timestamp),
}

impl From<ssh_key::Error> for CertificateError {
    fn from(error: ssh_key::Error) -> Self {
        lent::failure().map_or(Self::Ssh(error), Self::Sign)
    }
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        lent::failure().map_or(Self::X509(error), Self::Sign)
    }
}
