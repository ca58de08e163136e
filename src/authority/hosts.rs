//! Certificates for hosts, which an administrator asks for, and the server's own.

use std::net::IpAddr;

use super::{Authority, Refusal, now, recorded, spent};
use crate::audit::{Event, Slot};
use crate::certificate::{
    CsrSubject, ServerGrant, SshHostGrant, Validity, check_ssh_key, parse_public_key,
};
use crate::identity::{Requester, SignedRequest};
use crate::keys::random_bytes;
use crate::model::{CertificateAnswer, HostCertificateRequest, HostName, HostTtl, Timestamp};
use crate::policy::AdminAction;

/// How long a host's certificate lives when nothing else is asked for.
const DEFAULT_HOST_TTL: u64 = 30 * 24 * 60 * 60;
const MOST_NAMES: usize = 32;

/// The server's TLS certificate and the key that it belongs to.
pub struct ServerCertificate {
    /// Its chain in PEM: the certificate, the issuing CA's, the root's. The root is sent along so
    /// that a client which knows no more than its fingerprint can pin it.
    pub chain: String,
    /// The private key, which never leaves the process's memory.
    pub key: rcgen::KeyPair,
    /// Until when it is good.
    pub valid_before: Timestamp,
}

impl Authority {
    /// Issues an SSH host certificate.
    ///
    /// # Errors
    /// When the request is refused or can't be served.
    pub async fn certify_ssh_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let now = now();
        let (requester, decision) = self
            .administrator(request, source, AdminAction::CertifyHosts, now)
            .await?;
        let subject = self.parse(request).and_then(|ask: HostCertificateRequest| {
            let key = parse_public_key(&ask.subject)
                .map_err(|error| Refusal::illegal(format!("subject: {error}")))?;
            check_ssh_key(key.key_data())
                .map_err(|error| Refusal::illegal(format!("subject: {error}")))?;
            let (names, ttl) = bounds(ask.names, ask.ttl)?;
            Ok((key, names, ttl))
        });
        let (subject, names, ttl) = match subject {
            Ok(subject) => subject,
            Err(refusal) => {
                return Err(self
                    .refuse(&requester, request, None, None, refusal, now)
                    .await);
            }
        };
        let validity = Validity::host(now, ttl);
        let slot = self
            .reserve_for_names(request, &requester, &names, now)
            .await?;
        let grant = SshHostGrant {
            subject: subject.key_data(),
            serial: slot.serial(),
            entry: slot.index(),
            requester: requester.actor.requester.as_str(),
            names: &names,
            validity,
            nonce: random_bytes()?,
        };
        let keys = self.keys.to_sign(|keys| &keys.ssh_host, validity.before)?;
        let certificate = keys.ssh_host.ca.host_certificate(&grant)?;
        let ca = keys.ssh_host.fingerprint.clone();
        let key_id = grant.key_id();
        let record = recorded(
            "ssh-host",
            slot.serial(),
            key_id,
            validity,
            ca,
            certificate.clone(),
        );
        self.release_host(requester, slot, names, decision, record, certificate)
            .await
    }

    /// Issues a TLS server certificate, such as a database's.
    ///
    /// # Errors
    /// When the request is refused or can't be served.
    pub async fn certify_tls_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let now = now();
        let (requester, decision) = self
            .administrator(request, source, AdminAction::CertifyHosts, now)
            .await?;
        let subject = self.parse(request).and_then(|ask: HostCertificateRequest| {
            let key = CsrSubject::from_pem(&ask.subject)
                .map_err(|error| Refusal::illegal(format!("subject: {error}")))?;
            let (names, ttl) = bounds(ask.names, ask.ttl)?;
            self.check_not_own(&names)?;
            Ok((key, names, ttl))
        });
        let (subject, names, ttl) = match subject {
            Ok(subject) => subject,
            Err(refusal) => {
                return Err(self
                    .refuse(&requester, request, None, None, refusal, now)
                    .await);
            }
        };
        let validity = Validity::host(now, ttl);
        let slot = self
            .reserve_for_names(request, &requester, &names, now)
            .await?;
        let serial = slot.serial();
        let grant = ServerGrant {
            subject: &subject,
            serial,
            names: &names,
            validity,
        };
        let keys = self.keys.to_sign(|keys| &keys.x509, validity.before)?;
        let certificate = keys.x509.ca.server_certificate(&grant)?;
        let chain = format!("{certificate}{}", keys.x509.ca.certificate_pem());
        let ca = keys.x509.fingerprint.clone();
        let record = recorded(
            "x509-server",
            serial,
            common_name(&names),
            validity,
            ca,
            certificate,
        );
        self.release_host(requester, slot, names, decision, record, chain)
            .await
    }

    /// Issues the server's own TLS certificate, with a fresh key.
    ///
    /// # Errors
    /// When it can't be made or logged.
    pub async fn certify_itself(&self, ttl: HostTtl) -> Result<ServerCertificate, Refusal> {
        let now = now();
        let names = self.names.clone();
        let validity = Validity::host(now, ttl);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(crate::certificate::CertificateError::from)?;
        let slot = self.log.reserve(now)?;
        let serial = slot.serial();
        let grant = ServerGrant {
            subject: &key,
            serial,
            names: &names,
            validity,
        };
        // Nobody waits for it to expire: it is renewed whenever the keys change.
        let waited_for = Timestamp::default();
        let keys = self.keys.to_sign(|keys| &keys.x509, waited_for)?;
        let certificate = keys.x509.ca.own_server_certificate(&grant)?;
        let chain = format!(
            "{certificate}{}{}",
            keys.x509.ca.certificate_pem(),
            keys.above
        );
        let ca = keys.x509.fingerprint.clone();
        let certificate = recorded(
            "x509-server",
            serial,
            common_name(&names),
            validity,
            ca,
            certificate,
        );
        slot.commit(Event::ServerCertificateIssued { names, certificate }, None)
            .await?;
        Ok(ServerCertificate {
            chain,
            key,
            valid_before: validity.before,
        })
    }

    /// Checks that no other TLS server is to be certified under the CA's own names: whoever goes by
    /// them is believed as the CA. `localhost` is anybody's, and nobody's on another machine.
    pub(super) fn check_not_own(&self, names: &[HostName]) -> Result<(), Refusal> {
        let is_own = |name: &&HostName| {
            let name = name.canonical();
            !name.is_loopback() && self.names.iter().any(|own| own.canonical() == name)
        };
        match names.iter().find(is_own) {
            None => Ok(()),
            Some(name) => Err(Refusal::Conflict(format!(
                "{name} is the CA's own name, and a TLS server with a certificate for it could pose \
                 as the CA: give the server a name of its own, or take this one out of the CA's \
                 `names`"
            ))),
        }
    }

    async fn release_host(
        &self,
        requester: Requester,
        slot: Slot,
        names: Vec<HostName>,
        decision: crate::audit::Decision,
        record: crate::audit::RecordedCertificate,
        certificate: String,
    ) -> Result<CertificateAnswer, Refusal> {
        let (serial, validity) = (record.serial, (record.valid_after, record.valid_before));
        let good_for = names.iter().map(HostName::to_string).collect();
        let nonce = spent(&requester);
        let by = requester.actor;
        let event = Event::HostCertificateIssued {
            by,
            names,
            decision,
            certificate: record,
        };
        let place = slot.commit(event, Some(nonce)).await?;
        self.answer(place, serial, certificate, validity, good_for)
    }
}

pub(super) fn bounds(
    names: Vec<HostName>,
    ttl: Option<HostTtl>,
) -> Result<(Vec<HostName>, HostTtl), Refusal> {
    if names.is_empty() || names.len() > MOST_NAMES {
        return Err(Refusal::illegal(format!(
            "names: give 1 to {MOST_NAMES} host names"
        )));
    }
    let ttl = match ttl {
        Some(ttl) => ttl,
        None => HostTtl::from_secs(DEFAULT_HOST_TTL)
            .map_err(|error| Refusal::Internal(error.to_string()))?,
    };
    Ok((names, ttl))
}

fn common_name(names: &[HostName]) -> String {
    format!("CN={}", names.first().map_or("", HostName::as_str))
}
