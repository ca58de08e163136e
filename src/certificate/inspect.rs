//! What a certificate says, in words.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Serialize;
use ssh_key::certificate::CertType;
use ssh_key::public::KeyData;
use ssh_key::{Fingerprint, HashAlg};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_SIG_ED25519, OidEntry, OidRegistry, format_oid};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::model::Timestamp;

/// A certificate in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// `SSH user certificate`, `SSH host certificate`, `X.509 certificate` or
    /// `X.509 CA certificate`.
    pub kind: &'static str,
    /// Its serial number, in decimal.
    pub serial: String,
    /// The SSH key id, or the X.509 subject.
    pub subject: String,
    /// The fingerprint of the SSH CA's key, or the X.509 issuer.
    pub signed_by: String,
    /// The fingerprint of an X.509 certificate itself, which is what clients pin of a root.
    pub fingerprint: Option<String>,
    /// The kind and the fingerprint of the key that it certifies.
    pub public_key: String,
    /// The SSH principals, or the X.509 common name and alternative names.
    pub good_for: Vec<String>,
    /// From when it is good; always was, when absent.
    pub valid_after: Option<Timestamp>,
    /// Until when; for ever, when absent.
    pub valid_before: Option<Timestamp>,
    /// `valid`, `not valid yet` or `expired`, by the clock of who asks.
    pub state: &'static str,
    /// SSH critical options.
    pub limits: Vec<String>,
    /// SSH extensions, or X.509 key usages.
    pub permits: Vec<String>,
    /// What makes it worthless, whoever trusts its signer.
    pub faults: Vec<&'static str>,
    /// Whether its signature was held against the key of its signer, which it must name itself: an
    /// X.509 certificate does not.
    pub signature_checked: bool,
}

/// Not a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// A private key.
    #[error("this is a private key: give the certificate, such as the -cert.pub or .crt file")]
    PrivateKey,
    /// A plain public key.
    #[error("this is a plain public key: give the certificate, such as the -cert.pub file")]
    PublicKey,
    /// Another kind of PEM.
    #[error("this is PEM of another kind ({0}): give a certificate (BEGIN CERTIFICATE)")]
    OtherPem(String),
    /// Damaged, or something else.
    #[error("this is no certificate: give an OpenSSH -cert.pub file, or X.509 in PEM or DER")]
    NotACertificate,
}

/// Puts into words what the certificates in `bytes` say: an OpenSSH line, or X.509 as PEM (one or
/// more) or DER. `now` tells whether they are valid.
///
/// # Errors
/// When there is none.
pub fn inspect(bytes: &[u8], now: Timestamp) -> Result<Vec<Inspected>, InspectError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(vec![x509(bytes, now)?]);
    };
    if text.contains("PRIVATE KEY") {
        return Err(InspectError::PrivateKey);
    }
    if text.contains("-----BEGIN ") {
        return Pem::iter_from_buffer(bytes)
            .map(|pem| {
                let pem = pem.map_err(|_| InspectError::NotACertificate)?;
                if pem.label != "CERTIFICATE" {
                    return Err(InspectError::OtherPem(pem.label));
                }
                x509(&pem.contents, now)
            })
            .collect();
    }
    let line = text.trim();
    if let Ok(certificate) = ssh_key::Certificate::from_openssh(line) {
        return Ok(vec![ssh(&certificate, now)]);
    }
    match super::parse_public_key(line) {
        Ok(_) => Err(InspectError::PublicKey),
        Err(_) => Ok(vec![x509(bytes, now)?]),
    }
}

fn ssh(certificate: &ssh_key::Certificate, now: Timestamp) -> Inspected {
    let (after, before) = (certificate.valid_after(), certificate.valid_before());
    let valid_after = (after > 0).then(|| Timestamp::from_secs(after));
    let valid_before = (before < u64::MAX).then(|| Timestamp::from_secs(before));
    let options = |map: &ssh_key::certificate::OptionsMap| {
        map.iter()
            .map(|(name, value)| {
                if value.is_empty() {
                    name.clone()
                } else {
                    format!("{name} {value}")
                }
            })
            .collect()
    };
    let is_user = certificate.cert_type() == CertType::User;
    let mut faults = Vec::new();
    if certificate.valid_principals().is_empty() {
        faults.push("it names no principals");
    }
    // Signatures of other kinds of CA keys can't be checked here.
    let signature_checked = matches!(
        certificate.signature_key(),
        KeyData::Ed25519(_) | KeyData::Ecdsa(_)
    );
    if signature_checked && certificate.verify_signature().is_err() {
        faults.push("its signature does not fit its CA's key");
    }
    Inspected {
        kind: if is_user {
            "SSH user certificate"
        } else {
            "SSH host certificate"
        },
        serial: certificate.serial().to_string(),
        subject: certificate.key_id().to_owned(),
        signed_by: ssh_key_in_words(certificate.signature_key()),
        fingerprint: None,
        public_key: ssh_key_in_words(certificate.public_key()),
        good_for: certificate.valid_principals().to_vec(),
        valid_after,
        valid_before,
        state: state(valid_after, valid_before, now),
        limits: options(certificate.critical_options()),
        permits: options(certificate.extensions()),
        faults,
        signature_checked,
    }
}

fn ssh_key_in_words(key: &KeyData) -> String {
    format!(
        "{} {}",
        key.algorithm(),
        Fingerprint::new(HashAlg::Sha256, key)
    )
}

fn x509(der: &[u8], now: Timestamp) -> Result<Inspected, InspectError> {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err(InspectError::NotACertificate);
    };
    let secs = |time: x509_parser::time::ASN1Time| {
        Some(Timestamp::from_secs(u64::try_from(time.timestamp()).ok()?))
    };
    let validity = certificate.validity();
    let (valid_after, valid_before) = (secs(validity.not_before), secs(validity.not_after));
    let names = registry();
    let in_words = |name: &X509Name<'_>| {
        name.to_string_with_registry(&names)
            .unwrap_or_else(|_| name.to_string())
    };
    let good_for = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| Some(format!("CN {}", name.as_str().ok()?)))
        .chain(certificate.extensions().iter().flat_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    names.general_names.iter().map(name_in_words).collect()
                }
                _ => Vec::new(),
            }
        }))
        .collect();
    Ok(Inspected {
        kind: if certificate.is_ca() {
            "X.509 CA certificate"
        } else {
            "X.509 certificate"
        },
        serial: certificate.tbs_certificate.serial.to_string(),
        subject: in_words(certificate.subject()),
        signed_by: in_words(certificate.issuer()),
        fingerprint: Some(super::fingerprint(&der.into())),
        public_key: x509_key_in_words(certificate.public_key(), &names),
        good_for,
        valid_after,
        valid_before,
        state: state(valid_after, valid_before, now),
        limits: Vec::new(),
        permits: usages(&certificate),
        faults: Vec::new(),
        signature_checked: false,
    })
}

/// With the attributes that stand on Hallpass's certificates and not in the registry.
fn registry() -> OidRegistry<'static> {
    let mut registry = OidRegistry::default().with_crypto().with_x509();
    registry.insert(oid!(2.5.4.72), OidEntry::new("role", "role (X.520)"));
    // As OpenSSL and PostgreSQL write it.
    let user_id = OidEntry::new("UID", "userId (RFC 4519)");
    registry.insert(oid!(0.9.2342.19200300.100.1.1), user_id);
    registry
}

fn x509_key_in_words(key: &SubjectPublicKeyInfo<'_>, names: &OidRegistry<'_>) -> String {
    let algorithm = &key.algorithm.algorithm;
    let kind = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA, {} bits,", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("ECDSA, {} bits,", point.key_size()),
        _ if *algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => format_oid(algorithm, names),
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, key.raw);
    format!("{kind} SHA256:{}", STANDARD_NO_PAD.encode(digest))
}

fn name_in_words(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS {name}"),
        GeneralName::URI(uri) => format!("URI {uri}"),
        GeneralName::RFC822Name(name) => format!("mail {name}"),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6)
                .map_or_else(|_| "an illegal address".to_owned(), |ip| format!("IP {ip}"))
        }
        other => other.to_string(),
    }
}

fn usages(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut usages = Vec::new();
    if let Ok(Some(usage)) = certificate.key_usage() {
        usages.extend(usage.value.to_string().split(", ").map(str::to_owned));
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage() {
        let usage = usage.value;
        let named = [
            (usage.client_auth, "TLS client"),
            (usage.server_auth, "TLS server"),
            (usage.any, "anything"),
        ];
        usages.extend(
            named
                .into_iter()
                .filter(|(set, _)| *set)
                .map(|(_, name)| name.to_owned()),
        );
    }
    usages
}

fn state(after: Option<Timestamp>, before: Option<Timestamp>, now: Timestamp) -> &'static str {
    if after.is_some_and(|after| now < after) {
        "not valid yet"
    } else if before.is_some_and(|before| now >= before) {
        "expired"
    } else {
        "valid"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ssh_key::PrivateKey;
    use ssh_key::certificate::Builder;
    use ssh_key::private::Ed25519Keypair;

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
    }

    fn line() -> String {
        let mut builder =
            Builder::new([1; 16], key(1).public_key().key_data().clone(), 1000, 2000).unwrap();
        builder.cert_type(CertType::User).unwrap();
        builder.serial(42).unwrap();
        builder.key_id("user=alice").unwrap();
        builder.valid_principal("operator").unwrap();
        builder.extension("permit-pty", "").unwrap();
        builder.sign(&key(2)).unwrap().to_openssh().unwrap()
    }

    #[test]
    fn an_ssh_certificate_is_put_into_words() {
        let seen = &inspect(line().as_bytes(), Timestamp::from_secs(1500)).unwrap()[0];
        assert_eq!(seen.kind, "SSH user certificate");
        assert_eq!(
            (seen.serial.as_str(), seen.subject.as_str()),
            ("42", "user=alice")
        );
        assert_eq!(seen.good_for, ["operator"]);
        assert_eq!(seen.permits, ["permit-pty"]);
        assert_eq!(seen.state, "valid");
        assert!(seen.faults.is_empty());
        for (now, state) in [(999, "not valid yet"), (2000, "expired")] {
            let seen = inspect(line().as_bytes(), Timestamp::from_secs(now)).unwrap();
            assert_eq!(seen[0].state, state);
        }
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let now = Timestamp::from_secs(0);
        let private = key(1).to_openssh(ssh_key::LineEnding::LF).unwrap();
        let public = key(1).public_key().to_openssh().unwrap();
        for (text, error) in [
            (private.as_str(), InspectError::PrivateKey),
            (&public, InspectError::PublicKey),
            ("", InspectError::NotACertificate),
            ("hello", InspectError::NotACertificate),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                InspectError::NotACertificate,
            ),
            (
                "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
                InspectError::OtherPem("CERTIFICATE REQUEST".to_owned()),
            ),
        ] {
            assert_eq!(inspect(text.as_bytes(), now), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, cut in 0usize..400, flip: u8) {
            let now = Timestamp::from_secs(0);
            let _ = inspect(&bytes, now);
            let mut line = line().into_bytes();
            let place = cut.min(line.len() - 1);
            line[place] ^= flip;
            let _ = inspect(&line, now);
            line.truncate(cut);
            let _ = inspect(&line, now);
        }
    }
}
