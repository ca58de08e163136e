//! Which keys may be certified.

use rcgen::SubjectPublicKeyInfo;
use ssh_key::public::KeyData;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::Oid;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

const SHORTEST_RSA: usize = 2048;
const LONGEST_RSA: usize = 8192;

/// Why a key can't be certified or enrolled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Not one line of OpenSSH's public key format.
    #[error("this is not an OpenSSH public key: give the one line of a .pub file")]
    NotAPublicKey,
    /// A private key came over the wire.
    #[error(
        "this is a private key, which must never leave its machine: replace it, and give its \
         .pub file or a certificate request"
    )]
    PrivateKey,
    /// A certificate where a plain key was wanted.
    #[error("this is a certificate: give the plain public key that it certifies")]
    Certificate,
    /// A kind of key that is not certified.
    #[error(
        "keys of type {0} are not taken: use Ed25519, ECDSA (P-256, P-384, P-521), RSA from 2048 \
         bits, or a FIDO2 key"
    )]
    UnknownType(String),
    /// An RSA key that is too short, or too long to verify.
    #[error(
        "this RSA key has {0} bits: use {SHORTEST_RSA} to {LONGEST_RSA} bits, or better an \
         Ed25519 key"
    )]
    RsaSize(usize),
    /// Not a PKCS#10 request.
    #[error(
        "this is not a certificate signing request: give the PEM of a PKCS#10 request \
         (BEGIN CERTIFICATE REQUEST)"
    )]
    NotACsr,
    /// A request whose key or signature algorithm is not taken.
    #[error(
        "the request's key or signature algorithm is not taken: use Ed25519, ECDSA P-256 or P-384, \
         or RSA from 2048 bits, signed with SHA-256 or better"
    )]
    CsrAlgorithm,
    /// The request was not signed by the key in it.
    #[error("the request's signature does not fit its key: make the request again")]
    CsrSignature,
}

/// Checks that an SSH key is of a kind and strength that is taken.
///
/// # Errors
/// When it is not.
pub fn check_ssh_key(key: &KeyData) -> Result<(), SubjectError> {
    match key {
        KeyData::Ed25519(_)
        | KeyData::Ecdsa(_)
        | KeyData::SkEd25519(_)
        | KeyData::SkEcdsaSha2NistP256(_) => Ok(()),
        KeyData::Rsa(rsa) => {
            let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
            let leading = modulus
                .first()
                .map_or(0, |byte| byte.leading_zeros() as usize);
            check_rsa_size(modulus.len() * 8 - leading)
        }
        other => Err(SubjectError::UnknownType(other.algorithm().to_string())),
    }
}

/// The key of a certificate signing request whose signature was checked. What else the request
/// says is ignored.
#[derive(Clone, Debug)]
pub struct CsrSubject {
    key: SubjectPublicKeyInfo,
}

impl CsrSubject {
    /// Reads a PKCS#10 request in PEM (RFC 2986, RFC 7468) and checks its signature.
    ///
    /// # Errors
    /// When it is none, its key is weak or of a kind not taken, or the signature does not fit.
    pub fn from_pem(pem: &str) -> Result<Self, SubjectError> {
        if pem.contains("PRIVATE KEY") {
            return Err(SubjectError::PrivateKey);
        }
        let (rest, pem) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| SubjectError::NotACsr)?;
        // Of two, one could be meant and the other be certified.
        if !rest.trim_ascii().is_empty() {
            return Err(SubjectError::NotACsr);
        }
        if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&pem.label.as_str()) {
            return Err(SubjectError::NotACsr);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|_| SubjectError::NotACsr)?;
        if !rest.is_empty() {
            return Err(SubjectError::NotACsr);
        }
        check_csr_algorithms(&request)?;
        request
            .verify_signature()
            .map_err(|_| SubjectError::CsrSignature)?;
        SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map(|key| Self { key })
            .map_err(|_| SubjectError::CsrAlgorithm)
    }

    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// Checks that key and signature algorithm belong together, and that both are strong.
fn check_csr_algorithms(request: &X509CertificationRequest<'_>) -> Result<(), SubjectError> {
    let key = &request.certification_request_info.subject_pki;
    let signed_with = |allowed: &[Oid<'_>]| {
        if allowed.contains(&request.signature_algorithm.algorithm) {
            Ok(())
        } else {
            Err(SubjectError::CsrAlgorithm)
        }
    };
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
            return Err(SubjectError::NotACsr);
        };
        check_rsa_size(rsa.key_size())?;
        signed_with(&[
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
        ])
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        if !curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384) {
            return Err(SubjectError::CsrAlgorithm);
        }
        signed_with(&[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384])
    } else if *algorithm == OID_SIG_ED25519 {
        signed_with(&[OID_SIG_ED25519])
    } else {
        Err(SubjectError::CsrAlgorithm)
    }
}

fn check_rsa_size(bits: usize) -> Result<(), SubjectError> {
    if (SHORTEST_RSA..=LONGEST_RSA).contains(&bits) {
        Ok(())
    } else {
        Err(SubjectError::RsaSize(bits))
    }
}
