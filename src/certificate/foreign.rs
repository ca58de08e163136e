//! Certificates of CAs that were made elsewhere: whether they can be a CA's here.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::x509::keeps_name;
use crate::keys::Signer;
use crate::model::Timestamp;

/// A CA's certificate that was made elsewhere.
pub struct ForeignCa {
    der: Vec<u8>,
}

impl ForeignCa {
    /// The certificate that belongs to a key, out of PEM that may hold a chain.
    ///
    /// # Errors
    /// When none does.
    pub fn of_key(text: &str, signer: &Signer) -> Result<Self, ForeignCaError> {
        let belongs = |certificate: &X509Certificate<'_>| {
            let key = &certificate.tbs_certificate.subject_pki.subject_public_key;
            key.data.as_ref() == signer.public_key()
        };
        Self::find(text, belongs).ok_or_else(|| Self::none(text, ForeignCaError::OtherKey))
    }

    /// The certificate of a root, out of PEM that may hold a chain.
    ///
    /// # Errors
    /// When there is none.
    pub fn root(text: &str) -> Result<Self, ForeignCaError> {
        let is_root =
            |certificate: &X509Certificate<'_>| certificate.verify_signature(None).is_ok();
        Self::find(text, is_root).ok_or_else(|| Self::none(text, ForeignCaError::NotSelfSigned))
    }

    fn find(text: &str, fits: impl Fn(&X509Certificate<'_>) -> bool) -> Option<Self> {
        blocks(text).map(|der| Self { der }).find(|one| {
            X509Certificate::from_der(&one.der)
                .is_ok_and(|(rest, certificate)| rest.is_empty() && fits(&certificate))
        })
    }

    fn none(text: &str, otherwise: ForeignCaError) -> ForeignCaError {
        match blocks(text).next() {
            None => ForeignCaError::None,
            Some(der) if X509Certificate::from_der(&der).is_err() => ForeignCaError::Damaged,
            Some(_) => otherwise,
        }
    }

    /// Checks that it is a CA's, and good at that time.
    ///
    /// # Errors
    /// Says what it lacks.
    pub fn check(&self, now: Timestamp) -> Result<(), ForeignCaError> {
        let certificate = self.parsed()?;
        let constraints = certificate.basic_constraints().ok().flatten();
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(ForeignCaError::NotCa);
        }
        let usage = certificate.key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(ForeignCaError::NoCertSign);
        }
        let extended = certificate.extended_key_usage().ok().flatten();
        if extended.is_some_and(|usage| {
            !(usage.value.any || usage.value.client_auth && usage.value.server_auth)
        }) {
            return Err(ForeignCaError::Usage);
        }
        let validity = certificate.validity();
        let time = |time: i64| Timestamp::from_secs(u64::try_from(time).unwrap_or(0));
        let (begins, ends) = (
            time(validity.not_before.timestamp()),
            time(validity.not_after.timestamp()),
        );
        if ends <= now {
            return Err(ForeignCaError::Expired(ends));
        }
        if begins > now {
            return Err(ForeignCaError::NotYet(begins));
        }
        Ok(())
    }

    /// Whether its key may sign lists of revoked certificates.
    pub fn may_sign_lists(&self) -> bool {
        let usage = |certificate: &X509Certificate<'_>| {
            let usage = certificate.key_usage().ok().flatten();
            usage.is_some_and(|usage| usage.value.crl_sign())
        };
        self.parsed().is_ok_and(|certificate| usage(&certificate))
    }

    /// Checks that it is a root's under which an issuing CA can stand.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_root(&self) -> Result<(), ForeignCaError> {
        let certificate = self.parsed()?;
        if certificate.verify_signature(None).is_err() {
            return Err(ForeignCaError::NotSelfSigned);
        }
        let constraints = certificate.basic_constraints().ok().flatten();
        match constraints.and_then(|constraints| constraints.value.path_len_constraint) {
            Some(0) => Err(ForeignCaError::PathLength),
            _ => Ok(()),
        }
    }

    /// Checks that what its key signs will name it, byte for byte.
    ///
    /// # Errors
    /// When it won't.
    pub fn check_name(&self, signer: &Arc<Signer>) -> Result<(), ForeignCaError> {
        if keeps_name(&self.der, signer).unwrap_or(false) {
            return Ok(());
        }
        let subject = self.parsed()?.subject().to_string();
        Err(ForeignCaError::Name(subject))
    }

    /// Whether that root's key signed it, and it says so.
    pub fn is_under(&self, root_pem: &str) -> bool {
        let Some(root) = blocks(root_pem).next() else {
            return false;
        };
        let (Ok(certificate), Ok((_, root))) = (self.parsed(), X509Certificate::from_der(&root))
        else {
            return false;
        };
        certificate.issuer().as_raw() == root.subject().as_raw()
            && certificate
                .verify_signature(Some(root.public_key()))
                .is_ok()
    }

    /// Who issued it, for people.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn issuer(&self) -> Result<String, ForeignCaError> {
        Ok(self.parsed()?.issuer().to_string())
    }

    /// The certificate alone, in PEM.
    pub fn pem(&self) -> String {
        certificate_pem(&self.der)
    }

    fn parsed(&self) -> Result<X509Certificate<'_>, ForeignCaError> {
        X509Certificate::from_der(&self.der)
            .map(|(_, certificate)| certificate)
            .map_err(|_| ForeignCaError::Damaged)
    }
}

/// A certificate in PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = vec!["-----BEGIN CERTIFICATE-----"];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        lines.push(line);
        rest = after;
    }
    lines.push("-----END CERTIFICATE-----\n");
    lines.join("\n")
}

fn blocks(text: &str) -> impl Iterator<Item = Vec<u8>> {
    Pem::iter_from_buffer(text.as_bytes())
        .filter_map(Result::ok)
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| block.contents)
}

/// Why a certificate can't be a CA's here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignCaError {
    /// There is none.
    #[error("it holds no certificate in PEM (BEGIN CERTIFICATE)")]
    None,
    /// It can't be read.
    #[error("its certificate is damaged: copy it again")]
    Damaged,
    /// It is another key's.
    #[error("no certificate in it belongs to the key: give the one that was issued for it")]
    OtherKey,
    /// It is no CA.
    #[error("its certificate is not a CA's: its basic constraints don't say CA:TRUE")]
    NotCa,
    /// It may not sign certificates.
    #[error("its certificate may not sign others: its key usage lacks keyCertSign")]
    NoCertSign,
    /// It may not sign what is needed here.
    #[error(
        "its certificate may not sign for TLS clients and servers: its extended key usage is limited"
    )]
    Usage,
    /// It is over.
    #[error("its certificate expired at {0}: renew it where it came from")]
    Expired(Timestamp),
    /// It is not good yet.
    #[error("its certificate is not good before {0}")]
    NotYet(Timestamp),
    /// It is no root.
    #[error("no certificate in it is a root's, which its own key signed")]
    NotSelfSigned,
    /// No issuing CA fits under it.
    #[error("its certificate allows no CA below it (pathlen:0): it can't be a root here")]
    PathLength,
    /// Certificates would name another issuer.
    #[error(
        "its name ({0}) can't be written as it stands there, with parts that occur twice or of an \
         old kind: issue it a certificate with a plain name"
    )]
    Name(String),
    /// Nobody here trusts what it stands under.
    #[error(
        "its certificate was issued by {0}, which is no trusted root of this home: give that root's \
         certificate with --root FILE"
    )]
    Issuer(String),
    /// The root that was given is another's.
    #[error("its root did not issue the CA's certificate: {0} did")]
    OtherRoot(String),
}
