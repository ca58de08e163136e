//! What the maker of a FIDO2 key says of it: the file that `ssh-keygen -O write-attestation` writes
//! (PROTOCOL.u2f), which holds a statement in WebAuthn's "packed" or "fido-u2f" form.

mod file;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
        PKCS_ECDSA_P384_SHA384,
    };
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use ssh_encoding::Encode;
    use ssh_key::public::{Ed25519PublicKey, SkEcdsaSha2NistP256, SkEd25519};

    use super::*;

    const CHALLENGE: &[u8] = b"a challenge of whatever length";
    const MODEL: [u8; 16] = *b"model-of-an-auth";

    /// A maker of authenticators.
    struct Maker {
        root: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Maker {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "Maker's root");
            let key = KeyPair::generate().unwrap();
            let root = params.self_signed(&key).unwrap().der().clone();
            let issuer = Issuer::new(params, key);
            Self { root, issuer }
        }

        fn roots(&self) -> AttestationRoots {
            AttestationRoots(vec![self.root.clone()])
        }

        /// Certifies a key.
        fn certify(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
            let mut params = CertificateParams::default();
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "Authenticator\n7");
            change(&mut params);
            let certificate = params.signed_by(key, &self.issuer).unwrap();
            certificate.der().to_vec()
        }
    }

    fn names_model(params: &mut CertificateParams, model: [u8; 16]) {
        let value = [b"\x04\x10", model.as_slice()].concat();
        let oid = [1, 3, 6, 1, 4, 1, 45724, 1, 1, 4];
        let extension = CustomExtension::from_oid_content(&oid, value);
        params.custom_extensions.push(extension);
    }

    fn key(seed: u8) -> KeyData {
        let public = Ed25519PublicKey([seed; 32]);
        KeyData::SkEd25519(SkEd25519::new(public, "ssh:".to_owned()))
    }

    /// What an authenticator says of [`key`] 1.
    fn authenticator_data(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut data = digest(&SHA256, b"ssh:").as_ref().to_vec();
        data.push(flags);
        data.extend([0, 0, 0, 0]);
        data.extend(MODEL);
        data.extend(b"\0\x04cred\xa4\x01\x01\x03\x27\x20\x06\x21\x58\x20");
        data.extend([1; 32]);
        data.extend(rest);
        data
    }

    fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(kind, &key.serialize_der(), &random).unwrap();
        key.sign(&random, message).unwrap().as_ref().to_vec()
    }

    fn file(certificate: &[u8], signature: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        MAGIC.as_bytes().encode(&mut bytes).unwrap();
        certificate.encode(&mut bytes).unwrap();
        signature.encode(&mut bytes).unwrap();
        let mut cbor = vec![0x59];
        cbor.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        cbor.extend(data);
        cbor.as_slice().encode(&mut bytes).unwrap();
        bytes.extend([0; 8]);
        bytes
    }

    fn attested(
        maker: &Maker,
        data: &[u8],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let hash = digest(&SHA256, CHALLENGE);
        let signature = sign(&key, &[data, hash.as_ref()].concat());
        file(&maker.certify(&key, change), &signature, data)
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_makers_word_is_taken_when_the_maker_is_trusted() {
        let maker = Maker::new();
        let data = authenticator_data(0x41, &[]);
        let file = attested(&maker, &data, |params| names_model(params, MODEL));
        let attestation = attest(&key(1), &file, CHALLENGE, &maker.roots(), now()).unwrap();
        assert_eq!(attestation.root.as_deref(), Some("CN=Maker's root"));
        assert_eq!(attestation.subject, "CN=Authenticator?7");
        assert_eq!(
            attestation.aaguid.as_deref(),
            Some("6d6f6465-6c2d-6f66-2d61-6e2d61757468")
        );
        assert!(attestation.certificate.starts_with("-----BEGIN"));

        // Somebody else of the same name.
        for roots in [Maker::new().roots(), AttestationRoots::default()] {
            let attestation = attest(&key(1), &file, CHALLENGE, &roots, now()).unwrap();
            assert_eq!(attestation.root, None);
        }
    }

    #[test]
    fn it_is_of_one_key_and_one_challenge() {
        let maker = Maker::new();
        let data = authenticator_data(0x41, &[]);
        let file = attested(&maker, &data, |_| {});
        let check = |key: &KeyData, challenge: &[u8]| {
            attest(key, &file, challenge, &maker.roots(), now()).map(drop)
        };
        assert_eq!(check(&key(1), CHALLENGE), Ok(()));
        assert_eq!(check(&key(2), CHALLENGE), Err(AttestationError::OtherKey));
        let public = Ed25519PublicKey([1; 32]);
        let other = SkEd25519::new(public, "ssh:other".to_owned());
        let other = KeyData::SkEd25519(other);
        assert_eq!(check(&other, CHALLENGE), Err(AttestationError::OtherKey));
        let plain = KeyData::Ed25519(public);
        assert_eq!(check(&plain, CHALLENGE), Err(AttestationError::NotFido));
        assert_eq!(check(&key(1), b"another"), Err(AttestationError::Signature));
    }

    #[test]
    fn a_challenge_of_32_bytes_may_be_signed_as_it_is() {
        let maker = Maker::new();
        let data = authenticator_data(0x41, &[]);
        let signer = KeyPair::generate().unwrap();
        let challenge = [7; 32];
        let signature = sign(&signer, &[data.as_slice(), &challenge].concat());
        let file = file(&maker.certify(&signer, |_| {}), &signature, &data);
        assert!(attest(&key(1), &file, &challenge, &maker.roots(), now()).is_ok());
    }

    #[test]
    fn a_u2f_authenticator_signs_in_its_own_way() {
        let (maker, signer, made) = (
            Maker::new(),
            KeyPair::generate().unwrap(),
            KeyPair::generate().unwrap(),
        );
        let point = made.public_key_raw();
        let public = p256::EncodedPoint::from_bytes(point).unwrap();
        let key = SkEcdsaSha2NistP256::new(public, "ssh:".to_owned());
        let key = KeyData::SkEcdsaSha2NistP256(key);
        let application = digest(&SHA256, b"ssh:");
        let (x, y) = point[1..].split_at(32);
        let cose: &[u8] = b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20";
        let data = [
            application.as_ref(),
            b"\x41\0\0\0\0",
            &[0; 16],
            b"\0\x04cred",
            cose,
            x,
            b"\x22\x58\x20",
            y,
        ]
        .concat();
        let hash = digest(&SHA256, CHALLENGE);
        let message = [&[0], application.as_ref(), hash.as_ref(), b"cred", point].concat();
        let file = file(
            &maker.certify(&signer, |_| {}),
            &sign(&signer, &message),
            &data,
        );
        let attestation = attest(&key, &file, CHALLENGE, &maker.roots(), now()).unwrap();
        assert!(attestation.root.is_some() && attestation.aaguid.is_none());
        let other = attest(&key, &file, b"another", &maker.roots(), now());
        assert_eq!(other, Err(AttestationError::Signature));
    }

    #[test]
    fn certificates_that_no_authenticator_has_are_refused() {
        let maker = Maker::new();
        let data = authenticator_data(0x41, &[]);
        let refused = |change: &dyn Fn(&mut CertificateParams)| {
            let file = attested(&maker, &data, change);
            let error = attest(&key(1), &file, CHALLENGE, &maker.roots(), now()).unwrap_err();
            assert!(matches!(error, AttestationError::Certificate(_)), "{error}");
        };
        refused(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        refused(&|params| names_model(params, [0; 16]));
        refused(&|params| params.not_before = rcgen::date_time_ymd(2027, 1, 1));
        refused(&|params| params.not_after = rcgen::date_time_ymd(2026, 1, 1));
        let other_curve = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let file = file(&maker.certify(&other_curve, |_| {}), b"signature", &data);
        let error = attest(&key(1), &file, CHALLENGE, &maker.roots(), now()).unwrap_err();
        assert!(matches!(error, AttestationError::Certificate(_)), "{error}");
    }

    #[test]
    fn what_an_authenticator_says_is_read_to_its_end() {
        let maker = Maker::new();
        let check = |flags, rest: &[u8]| {
            let file = attested(&maker, &authenticator_data(flags, rest), |_| {});
            attest(&key(1), &file, CHALLENGE, &maker.roots(), now())
        };
        assert!(
            check(0xc1, b"\xa1\x6bcredProtect\x02").is_ok(),
            "extensions"
        );
        for (flags, rest) in [(0x41, &b"\xa0"[..]), (0xc1, &[]), (0x01, &[])] {
            let error = check(flags, rest).unwrap_err();
            assert!(matches!(error, AttestationError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn one_without_a_certificate_proves_nothing() {
        let data = authenticator_data(0x41, &[]);
        let error = attest(
            &key(1),
            &file(&[], &[], &data),
            CHALLENGE,
            &Maker::new().roots(),
            now(),
        );
        assert_eq!(error, Err(AttestationError::Anonymous));
    }

    #[test]
    fn every_byte_counts() {
        let maker = Maker::new();
        let file = attested(&maker, &authenticator_data(0x41, &[]), |_| {});
        let check = |file: &[u8]| attest(&key(1), file, CHALLENGE, &maker.roots(), now());
        let says = |it: &Attestation| (it.subject.clone(), it.aaguid.clone());
        let said = says(&check(&file).unwrap());
        for place in 0..file.len() {
            let mut changed = file.clone();
            changed[place] ^= 0x20;
            // A certificate can be written down in several ways, but not say anything else.
            if let Ok(attestation) = check(&changed)
                && attestation.root.is_some()
            {
                assert_eq!(says(&attestation), said, "{place}");
            }
            assert!(check(&file[..place]).is_err(), "{place}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(
            bytes: Vec<u8>, certificate: Vec<u8>, signature: Vec<u8>, data: Vec<u8>,
        ) {
            let roots = AttestationRoots::default();
            let _ = attest(&key(1), &bytes, CHALLENGE, &roots, now());
            let made = file(&certificate, &signature, &data);
            let _ = attest(&key(1), &made, CHALLENGE, &roots, now());
            let _ = Made::read(&data, &key(1));
            let start = authenticator_data(0x41, &[]);
            let _ = Made::read(&start[..data.len() % start.len()], &key(1));
            let _ = AttestationRoots::from_pem(&bytes);
        }
    }
}
