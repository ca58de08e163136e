//! What the maker of a FIDO2 key says of it: the file that `ssh-keygen -O write-attestation` writes
//! (PROTOCOL.u2f), which holds a statement in WebAuthn's "packed" or "fido-u2f" form.

mod file;
#[cfg(test)]
mod tests;

use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, pem};
use ssh_key::public::KeyData;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::der_parser::asn1_rs::oid;
use x509_parser::oid_registry::OID_EC_P256;

use crate::certificate::certificate_pem;
use crate::model::{Attestation, Timestamp};
use file::{Blob, Made};

/// What an attestation file begins with.
const MAGIC: &str = "ssh-sk-attest-v01";
/// The largest certificate that is kept in the log.
const LARGEST_CERTIFICATE: usize = 8 << 10;
/// id-fido-gen-ce-aaguid
const AAGUID: Oid<'static> = oid!(1.3.6.1.4.1.45724.1.1.4);

/// Certificates of those whose word counts: makers of authenticators.
#[derive(Clone, Debug, Default)]
pub struct AttestationRoots(Vec<CertificateDer<'static>>);

impl AttestationRoots {
    /// Reads certificates in PEM, one after the other.
    ///
    /// # Errors
    /// When there are none, or one can't be read.
    pub fn from_pem(text: &[u8]) -> Result<Self, RootsError> {
        let roots = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, pem::Error>>()
            .map_err(|_| RootsError::NotPem)?;
        if roots.is_empty() {
            return Err(RootsError::NotPem);
        }
        for (place, root) in roots.iter().enumerate() {
            x509_parser::parse_x509_certificate(root)
                .map_err(|_| RootsError::NotACertificate(place + 1))?;
        }
        Ok(Self(roots))
    }

    /// The subject of the one that signed a certificate, when one did.
    fn of(&self, certificate: &X509Certificate<'_>) -> Option<String> {
        let roots = self.0.iter();
        let mut roots = roots.filter_map(|root| x509_parser::parse_x509_certificate(root).ok());
        let (_, root) = roots.find(|(_, root)| {
            root.subject() == certificate.issuer()
                && certificate
                    .verify_signature(Some(root.public_key()))
                    .is_ok()
        })?;
        Some(name(&root))
    }
}

/// Why a file of roots is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// No PEM.
    #[error("it holds no certificate in PEM (BEGIN CERTIFICATE)")]
    NotPem,
    /// Something that calls itself a certificate.
    #[error("its certificate number {0} can't be read")]
    NotACertificate(usize),
}

/// Why an attestation proves nothing of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// A key that no authenticator holds.
    #[error("the key is no FIDO2 key: only those have an attestation")]
    NotFido,
    /// No such file.
    #[error(
        "it is no attestation as ssh-keygen writes it (-O write-attestation=FILE, {MAGIC}): {0}"
    )]
    Malformed(&'static str),
    /// Nobody vouches for the key.
    #[error(
        "it holds no certificate: this authenticator does not say who made it; enrol the key without \
         --attestation"
    )]
    Anonymous,
    /// The certificate can't be what it should be.
    #[error("its certificate is not one that authenticators are attested with: {0}")]
    Certificate(&'static str),
    /// Of another key.
    #[error("it is of another key: give the one that was written when this key was made")]
    OtherKey,
    /// Not what the certificate's key signed.
    #[error(
        "its signature does not fit: give the challenge that ssh-keygen had (-O challenge=FILE) when \
         it made this key"
    )]
    Signature,
}

/// Proves what the maker of a key says of it: an attestation file and the challenge that the key was
/// made with.
///
/// # Errors
/// When it proves nothing of this key.
pub fn attest(
    key: &KeyData,
    attestation: &[u8],
    challenge: &[u8],
    roots: &AttestationRoots,
    now: Timestamp,
) -> Result<Attestation, AttestationError> {
    if !matches!(key, KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_)) {
        return Err(AttestationError::NotFido);
    }
    let blob = Blob::read(attestation)?;
    if blob.certificate.is_empty() {
        return Err(AttestationError::Anonymous);
    }
    if blob.certificate.len() > LARGEST_CERTIFICATE {
        return Err(AttestationError::Certificate("it is too large"));
    }
    let certificate = parsed(&blob.certificate, now)?;
    let data = blob.authenticator()?;
    let made = Made::read(data, key)?;
    check_model(&certificate, made.aaguid)?;
    let signer = UnparsedPublicKey::new(
        &ECDSA_P256_SHA256_ASN1,
        &certificate.public_key().subject_public_key.data,
    );
    let hashed = digest(&SHA256, challenge);
    let mut hashes = vec![hashed.as_ref()];
    // What some middleware gives to the authenticator as it is.
    if challenge.len() == 32 {
        hashes.push(challenge);
    }
    let fits = hashes.into_iter().any(|hash| {
        let packed = [data, hash].concat();
        let old = of_u2f(&made, key, hash);
        let signed = |message: &[u8]| signer.verify(message, &blob.signature).is_ok();
        signed(&packed) || old.is_some_and(|old| signed(&old))
    });
    if !fits {
        return Err(AttestationError::Signature);
    }
    Ok(Attestation {
        subject: name(&certificate),
        aaguid: (made.aaguid != [0; 16]).then(|| model(made.aaguid)),
        root: roots.of(&certificate),
        certificate: certificate_pem(&blob.certificate),
    })
}

/// What a U2F authenticator signs instead (FIDO U2F raw message formats, 4.3).
fn of_u2f(made: &Made<'_>, key: &KeyData, hash: &[u8]) -> Option<Vec<u8>> {
    let KeyData::SkEcdsaSha2NistP256(key) = key else {
        return None;
    };
    let point = key.ec_point().as_bytes();
    Some([&[0], made.application, hash, made.credential, point].concat())
}

/// The certificate, when it is one that an authenticator can have.
fn parsed(der: &[u8], now: Timestamp) -> Result<X509Certificate<'_>, AttestationError> {
    use AttestationError::Certificate;
    let (rest, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| Certificate("it can't be read"))?;
    if !rest.is_empty() {
        return Err(Certificate("there is more behind it"));
    }
    if certificate.is_ca() {
        return Err(Certificate("it is a CA's"));
    }
    let seconds = i64::try_from(now.as_millis() / 1000).unwrap_or(i64::MAX);
    let (from, until) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    if seconds < from || seconds > until {
        return Err(Certificate("it is not good at this time"));
    }
    let curve = certificate.public_key().algorithm.parameters.as_ref();
    let curve = curve.and_then(|curve| curve.as_oid().ok());
    if curve != Some(OID_EC_P256) {
        return Err(Certificate("its key is not on the curve P-256"));
    }
    Ok(certificate)
}

/// A certificate that is for one model is not for another (WebAuthn 8.2.1).
fn check_model(
    certificate: &X509Certificate<'_>,
    aaguid: [u8; 16],
) -> Result<(), AttestationError> {
    use AttestationError::Certificate;
    let extension = certificate
        .get_extension_unique(&AAGUID)
        .map_err(|_| Certificate("it names several models"))?;
    match extension {
        // An OCTET STRING in the extension's own.
        Some(extension) if extension.value.strip_prefix(b"\x04\x10") != Some(&aaguid) => {
            Err(Certificate("it is for another model"))
        }
        _ => Ok(()),
    }
}

/// The subject, short enough for the log.
fn name(certificate: &X509Certificate<'_>) -> String {
    const LONGEST: usize = 300;
    let name = certificate.subject().to_string();
    let name = name.chars().take(LONGEST);
    name.map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A model as others write it.
fn model(aaguid: [u8; 16]) -> String {
    let mut text = String::new();
    for (place, byte) in aaguid.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
