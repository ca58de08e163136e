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

fn attested(maker: &Maker, data: &[u8], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
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
