//! X.509 certificates (RFC 5280).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::x509::X509Name;

use super::lent::Lent;
use super::{CertificateError, CsrSubject, Validity};
use crate::keys::{KeyAlgorithm, SignError, Signer};
use crate::model::{
    DatabaseUser, EntryIndex, HostName, Purpose, RoleName, Serial, Timestamp, UserName,
};

/// `userId`, RFC 4519 section 2.39: the requester.
const OID_USER_ID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];
/// `role`, X.520: the role.
const OID_ROLE: [u64; 4] = [2, 5, 4, 72];
/// `description`, RFC 4519 section 2.5: purpose and entry.
const OID_DESCRIPTION: [u64; 4] = [2, 5, 4, 13];

const CRL_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const ROOT_TITLE: &str = "Hallpass Root CA";

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const ROOT_LIFE: Duration = Duration::from_secs(20 * YEAR.as_secs());
const ISSUING_LIFE: Duration = Duration::from_secs(5 * YEAR.as_secs());

/// What a client certificate for a database says.
pub struct ClientGrant<'a> {
    /// The key to be certified.
    pub subject: &'a CsrSubject,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The entry that records it.
    pub entry: EntryIndex,
    /// Who asked.
    pub requester: &'a UserName,
    /// For which role.
    pub role: &'a RoleName,
    /// For which purpose.
    pub purpose: &'a Purpose,
    /// The CN, by which PostgreSQL's `cert` method knows the user.
    pub user: &'a DatabaseUser,
    /// When it is good.
    pub validity: Validity,
}

impl ClientGrant<'_> {
    /// The subject as PostgreSQL logs it (RFC 2253, most specific first).
    pub fn key_id(&self) -> String {
        format!(
            "CN={},UID={},role={},description=purpose={} entry={}",
            self.user, self.requester, self.role, self.purpose, self.entry
        )
    }

    /// The URI in the subject alternative name.
    fn uri(&self) -> String {
        format!(
            "hallpass://user/{}/role/{}/purpose/{}/entry/{}",
            self.requester, self.role, self.purpose, self.entry
        )
    }
}

/// What a TLS server certificate says.
pub struct ServerGrant<'a, K> {
    /// The key to be certified.
    pub subject: &'a K,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The server's names. The first is also the CN.
    pub names: &'a [HostName],
    /// When it is good.
    pub validity: Validity,
}

/// The CA that signs client and server certificates.
pub struct IssuingCa {
    issuer: Issuer<'static, CaKey>,
    certificate_pem: String,
    ends: Timestamp,
}

impl IssuingCa {
    /// From the CA's certificate and the key that belongs to it.
    ///
    /// # Errors
    /// When the certificate can't be read or is another key's.
    pub fn new(certificate_pem: &str, signer: Arc<Signer>) -> Result<Self, CertificateError> {
        let der = certificate_from_pem(certificate_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|_| CertificateError::CaCertificate("it is not an X.509 certificate"))?;
        let certified = &parsed.tbs_certificate.subject_pki.subject_public_key.data;
        if certified.as_ref() != signer.public_key() {
            return Err(CertificateError::CaCertificate("it belongs to another key"));
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der, CaKey::new(signer))?,
            certificate_pem: certificate_pem.to_owned(),
            ends: Timestamp::from_secs(ends),
        })
    }

    /// Checks that its key can be used now.
    ///
    /// # Errors
    /// Says why it can't.
    pub fn check(&self) -> Result<(), SignError> {
        self.issuer.key().0.0.check()
    }

    /// The CA's own certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs a client certificate. Gives its PEM, without the chain.
    ///
    /// # Errors
    /// When it can't be encoded or signed, or would outlive the CA.
    pub fn client_certificate(&self, grant: &ClientGrant<'_>) -> Result<String, CertificateError> {
        let mut name = DistinguishedName::new();
        // PostgreSQL prints the last first, and cuts pg_stat_ssl.client_dn at 63 bytes: the user
        // and the person are what must be seen.
        name.push(
            DnType::CustomDnType(OID_DESCRIPTION.to_vec()),
            format!("purpose={} entry={}", grant.purpose, grant.entry),
        );
        name.push(DnType::CustomDnType(OID_ROLE.to_vec()), grant.role.as_str());
        name.push(
            DnType::CustomDnType(OID_USER_ID.to_vec()),
            grant.requester.as_str(),
        );
        name.push(DnType::CommonName, grant.user.as_str());
        let mut params = self.leaf(name, grant.serial, grant.validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(grant.uri().try_into()?)];
        Ok(params.signed_by(grant.subject.key(), &self.issuer)?.pem())
    }

    /// Signs a TLS server certificate for the key of a request. Gives its PEM, without the chain.
    ///
    /// # Errors
    /// When it can't be encoded or signed, or would outlive the CA.
    pub fn server_certificate(
        &self,
        grant: &ServerGrant<'_, CsrSubject>,
    ) -> Result<String, CertificateError> {
        self.sign_server(grant, grant.subject.key())
    }

    /// The same for a key pair of our own.
    ///
    /// # Errors
    /// As [`Self::server_certificate`].
    pub fn own_server_certificate(
        &self,
        grant: &ServerGrant<'_, rcgen::KeyPair>,
    ) -> Result<String, CertificateError> {
        self.sign_server(grant, grant.subject)
    }

    fn sign_server<K>(
        &self,
        grant: &ServerGrant<'_, K>,
        key: &impl PublicKeyData,
    ) -> Result<String, CertificateError> {
        let mut name = DistinguishedName::new();
        if let Some(first) = grant.names.first() {
            // X.520 bounds the CN at 64 characters; clients read the alternative names.
            name.push(
                DnType::CommonName,
                first.as_str().chars().take(64).collect::<String>(),
            );
        }
        let mut params = self.leaf(name, grant.serial, grant.validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = grant
            .names
            .iter()
            .map(|name| match name.address() {
                Some(address) => Ok(SanType::IpAddress(address)),
                None => Ok(SanType::DnsName(name.as_str().try_into()?)),
            })
            .collect::<Result<_, rcgen::Error>>()?;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    fn leaf(
        &self,
        name: DistinguishedName,
        serial: Serial,
        validity: Validity,
    ) -> Result<CertificateParams, CertificateError> {
        if validity.before > self.ends {
            return Err(CertificateError::OutlivesCa(self.ends));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.serial_number = Some(serial_number(serial));
        params.not_before = validity.after.date_time();
        params.not_after = validity.before.date_time();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// Makes the self-signed certificate of a root key, in PEM.
///
/// # Errors
/// When it can't be encoded or signed.
pub fn root_certificate(
    signer: Arc<Signer>,
    serial: Serial,
    now: Timestamp,
) -> Result<String, CertificateError> {
    let key = CaKey::new(signer);
    let params = ca_params(ROOT_TITLE, &key, serial, now, ROOT_LIFE, 1);
    Ok(params.self_signed(&key)?.pem())
}

/// Makes the certificate of an issuing key under a root, in PEM.
///
/// # Errors
/// When it can't be encoded or signed, or the root's certificate can't be read.
pub fn issuing_certificate(
    root_pem: &str,
    root: Arc<Signer>,
    issuing: Arc<Signer>,
    serial: Serial,
    now: Timestamp,
) -> Result<String, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(root_pem, CaKey::new(root))?;
    let key = CaKey::new(issuing);
    let mut params = ca_params("Hallpass Issuing CA", &key, serial, now, ISSUING_LIFE, 0);
    // A root that came from elsewhere may end sooner.
    let root_der = certificate_from_pem(root_pem)?;
    params.not_after = params
        .not_after
        .min(parsed(&root_der)?.validity().not_after.to_datetime());
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(&key, &issuer)?.pem())
}

/// Makes the request for an issuing CA's certificate (PKCS#10), in PEM, for a root that is elsewhere.
///
/// # Errors
/// When it can't be encoded or signed.
pub fn issuing_request(issuing: Arc<Signer>) -> Result<String, CertificateError> {
    let key = CaKey::new(issuing);
    let mut params = CertificateParams::default();
    params.distinguished_name = ca_name("Hallpass Issuing CA", &key);
    Ok(params.serialize_request(&key)?.pem()?)
}

/// Makes the certificate of a new root's key by an older root's, in PEM, for those who only know the
/// older. It has the name and the key identifier of the new root's own.
///
/// # Errors
/// When it can't be encoded or signed, or one of the roots' certificates can't be read.
pub fn cross_certificate(
    old_pem: &str,
    old: Arc<Signer>,
    new_pem: &str,
    serial: Serial,
    now: Timestamp,
) -> Result<String, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(old_pem, CaKey::new(old))?;
    let new_der = certificate_from_pem(new_pem)?;
    let new = parsed(&new_der)?;
    let key = SubjectPublicKeyInfo::from_der(new.public_key().raw)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name_of(new.subject())?;
    params.serial_number = Some(serial_number(serial));
    params.not_before = now.whole_secs().minus(super::BACKDATE).date_time();
    params.not_after = now.whole_secs().plus(ISSUING_LIFE).date_time();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    for extension in new.extensions() {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id.0.to_vec());
        }
    }
    let cross = params.signed_by(&key, &issuer)?;
    // Path building goes by name.
    if parsed(cross.der())?.subject().as_raw() != new.subject().as_raw() {
        return Err(CertificateError::CaCertificate(
            "its name can't be written as it stands there",
        ));
    }
    Ok(cross.pem())
}

/// A name for a certificate, of strings of the same kinds.
fn name_of(name: &X509Name<'_>) -> Result<DistinguishedName, CertificateError> {
    let unknown = CertificateError::CaCertificate("its name is of an old kind");
    let mut copy = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let (Some(oid), Ok(text)) = (attribute.attr_type().iter(), attribute.as_str()) else {
            return Err(unknown);
        };
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into()?),
            _ => return Err(unknown),
        };
        copy.push(DnType::from_oid(&oid.collect::<Vec<u64>>()), value);
    }
    Ok(copy)
}

/// Whether what a CA's key signs names the CA as its own certificate does, byte for byte.
pub(super) fn keeps_name(der: &[u8], signer: &Arc<Signer>) -> Result<bool, CertificateError> {
    let ca = CertificateDer::from(der);
    let issuer = Issuer::from_ca_cert_der(&ca, CaKey::new(Arc::clone(signer)))?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(1_u64));
    let signed = params.signed_by(&CaKey::new(Arc::clone(signer)), &issuer)?;
    Ok(parsed(signed.der())?.issuer().as_raw() == parsed(der)?.subject().as_raw())
}

fn parsed(der: &[u8]) -> Result<x509_parser::certificate::X509Certificate<'_>, CertificateError> {
    x509_parser::parse_x509_certificate(der)
        .map(|(_, certificate)| certificate)
        .map_err(|_| CertificateError::CaCertificate("it is not an X.509 certificate"))
}

/// Makes a CA's list of the certificates that it revoked (RFC 5280 section 5), in PEM, good for a
/// month.
///
/// # Errors
/// When it can't be encoded or signed, or a certificate can't be read.
pub fn revocation_list(
    issuer_pem: &str,
    issuer: Arc<Signer>,
    revoked: &[(&str, Timestamp)],
    now: Timestamp,
) -> Result<String, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(issuer_pem, CaKey::new(issuer))?;
    let revoked_certs = revoked
        .iter()
        .map(|(pem, since)| {
            let der = certificate_from_pem(pem)?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed(&der)?.raw_serial()),
                revocation_time: since.whole_secs().date_time(),
                reason_code: Some(RevocationReason::Superseded),
                invalidity_date: None,
            })
        })
        .collect::<Result<_, CertificateError>>()?;
    let params = CertificateRevocationListParams {
        this_update: now.whole_secs().minus(super::BACKDATE).date_time(),
        next_update: now.whole_secs().plus(CRL_LIFE).date_time(),
        // It only ever rises.
        crl_number: SerialNumber::from_slice(&now.as_millis().to_be_bytes()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&issuer)?.pem()?)
}

/// Whether a CA's certificate was signed by another's key.
///
/// # Errors
/// When one of them can't be read.
pub fn is_issued_by(pem: &str, issuer_pem: &str) -> Result<bool, CertificateError> {
    let (der, issuer_der) = (
        certificate_from_pem(pem)?,
        certificate_from_pem(issuer_pem)?,
    );
    let (certificate, issuer) = (parsed(&der)?, parsed(&issuer_der)?);
    Ok(certificate
        .verify_signature(Some(issuer.public_key()))
        .is_ok())
}

/// A certificate's fingerprint: `SHA256:` and the unpadded base64 of the SHA-256 of its DER, as
/// OpenSSH writes fingerprints of keys.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
}

/// The fingerprint of a certificate in PEM.
///
/// # Errors
/// When it is none.
pub fn fingerprint_of_pem(pem: &str) -> Result<String, CertificateError> {
    Ok(fingerprint(&certificate_from_pem(pem)?))
}

fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| CertificateError::CaCertificate("it is not a PEM certificate"))
}

fn ca_params(
    title: &str,
    key: &CaKey,
    serial: Serial,
    now: Timestamp,
    life: Duration,
    path_length: u8,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = ca_name(title, key);
    params.serial_number = Some(serial_number(serial));
    params.not_before = now.whole_secs().minus(super::BACKDATE).date_time();
    params.not_after = now.whole_secs().plus(life).date_time();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The name of a CA. Path building goes by name: no two CAs may share one.
fn ca_name(title: &str, key: &CaKey) -> DistinguishedName {
    let key_digest = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    let mark = base16ct::lower::encode_string(&key_digest.as_ref()[..4]);
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("{title} {mark}"));
    name
}

fn serial_number(serial: Serial) -> SerialNumber {
    SerialNumber::from_slice(&serial.get().to_be_bytes())
}

/// Lends a signer to `rcgen`.
struct CaKey(Lent);

impl CaKey {
    fn new(signer: Arc<Signer>) -> Self {
        Self(Lent(signer))
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0.0.algorithm() {
            KeyAlgorithm::Ed25519 => &PKCS_ED25519,
            KeyAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ca_keys_of_any_algorithm_make_a_chain_that_verifies() {
        let now = Timestamp::from_secs(1_800_000_000);
        let serial = Serial::new(1).unwrap();
        for algorithm in KeyAlgorithm::ALL {
            let [root, issuing] = [0; 2].map(|_| Signer::throwaway_of(algorithm));
            let root_pem = root_certificate(Arc::clone(&root), serial, now).unwrap();
            let pem = issuing_certificate(&root_pem, root, Arc::clone(&issuing), serial, now);
            let pem = pem.unwrap();
            let [root, issued] = [&root_pem, &pem].map(|pem| certificate_from_pem(pem).unwrap());
            let (_, root) = x509_parser::parse_x509_certificate(&root).unwrap();
            let (_, issued) = x509_parser::parse_x509_certificate(&issued).unwrap();
            root.verify_signature(None).unwrap();
            issued.verify_signature(Some(root.public_key())).unwrap();
            IssuingCa::new(&pem, issuing).unwrap();
        }
    }
}
