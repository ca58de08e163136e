//! Hosts that keep themselves up to date: invited by an administrator, joined with a key of their
//! own, and from then on renewing their certificates and confirming what they trust.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ssh_key::PublicKey;

use super::enrolment::Suspension;
use super::hosts::bounds;
use super::{Authority, Refusal, cut, now, recorded, request_line};
use crate::audit::{Event, HostActor, HostProfile, RecordedCertificate, Refused, Spent, With};
use crate::certificate::{
    CsrSubject, ServerGrant, SshHostGrant, Validity, check_ssh_key, parse_public_key,
};
use crate::identity::{Directory, Host, KnownHost, ReplayGuard, SignedRequest, Unidentified};
use crate::keys::random_bytes;
use crate::model::{
    Access, CertificateAnswer, HostConfirmation, HostInvitation, HostJoin, HostName, HostState,
    HostSubject, HostSummary, HostTtl, Invited, LockTarget, PrincipalName, SignedTrust, Timestamp,
};
use crate::policy::AdminAction;

/// How long a token is good when nothing else is asked for, and at most.
const TOKEN_LIFE: u64 = 60 * 60;
const LONGEST_TOKEN_LIFE: u64 = 24 * 60 * 60;
/// How long a joined host's certificates live when nothing else is asked for.
const CERTIFICATE_LIFE: u64 = 7 * 24 * 60 * 60;
const MOST_LABELS: usize = 32;

impl Authority {
    /// Lets a host join once, with a token that is shown this one time.
    ///
    /// # Errors
    /// When the requester may not, or the invitation is not right.
    pub async fn invite_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Invited, Refusal> {
        let now = now();
        self.change(
            request,
            source,
            AdminAction::CertifyHosts,
            |by| {
                let ask: HostInvitation = self.parse(request)?;
                let life = ask.token_life.map_or(TOKEN_LIFE, HostTtl::as_secs);
                if life > LONGEST_TOKEN_LIFE {
                    return Err(Refusal::illegal("token_life: use at most 24h"));
                }
                let expires = now.plus(std::time::Duration::from_secs(life));
                let profile = profile(ask)?;
                if profile.database {
                    self.check_not_own(&profile.names)?;
                }
                self.check_names_free(&profile)?;
                let token = self.token()?;
                let invited = Invited {
                    host: profile.host.clone(),
                    token: token.clone(),
                    expires,
                };
                let event = Event::HostInvited {
                    profile,
                    token_sha256: hash(&token),
                    expires,
                    by,
                };
                Ok((invited, event))
            },
            |event| With::holding(Suspension::begin(&self.directory, event)),
        )
        .await
    }

    /// Every host that was invited or has joined.
    ///
    /// # Errors
    /// When the requester may not know.
    pub async fn hosts(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<HostSummary>, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::CertifyHosts, now)
            .await?;
        self.read(&requester).await?;
        let trust = self.keys.now().trust.version;
        let directory = self.directory();
        Ok(directory
            .hosts()
            .iter()
            .map(|host| summary(host, trust, now))
            .collect())
    }

    /// Takes no more requests of a host. Its certificates stay good until they end.
    ///
    /// # Errors
    /// When the requester may not, or there is no such host.
    pub async fn remove_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<(), Refusal> {
        self.change(
            request,
            source,
            AdminAction::CertifyHosts,
            |by| {
                let found = name.parse().ok().filter(|name| {
                    let directory = self.directory();
                    directory.hosts().find(name).is_some()
                });
                let host: HostName = found.ok_or_else(|| nowhere(name))?;
                let removed_by = Some(by);
                Ok(((), Event::HostRemoved { host, removed_by }))
            },
            |event| With::holding(Suspension::begin(&self.directory, event)),
        )
        .await
    }

    /// Takes in a host that has a good token. The key that signs the request is the host's from then
    /// on.
    ///
    /// # Errors
    /// When the token is not good, or the key is somebody's already.
    pub async fn join_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<HostState, Refusal> {
        let now = now();
        let invited = || {
            let token = self.parse::<HostJoin>(request).ok()?.token;
            let directory = self.directory();
            let host = directory.invited(&hash(&token), now);
            host.map(|host| host.profile.clone())
        };
        let newcomer = self.stranger(request, source, now).await?;
        if invited().is_none() {
            let refusal = newcomer.refused(Unidentified::NotInvited);
            return Err(self.unidentified(request, source, refusal, now).await?);
        }
        let newcomer = self.admitted(request, source, newcomer, now).await?;
        // Strangers never get here, and so hold nobody up. Of two with one token, one was first.
        let alone = Arc::clone(&self.changes).lock_owned().await;
        let Some(profile) = invited() else {
            let refusal = newcomer.refused(Unidentified::NotInvited);
            return Err(self.unidentified(request, source, refusal, now).await?);
        };
        let key = PublicKey::from(newcomer.key.clone());
        let fits = check_ssh_key(key.key_data())
            .map_err(|error| Refusal::illegal(error.to_string()))
            .and_then(|()| Ok(self.directory().check_new_key(&key)?));
        if let Err(refusal) = fits {
            let refused = self.not_signed_in(request, source, &newcomer, refusal.into(), now);
            return Err(refused.await);
        }
        let event = Event::HostJoined {
            host: profile.host.clone(),
            public_key: super::enrolment::line(&key)?,
            source,
        };
        let nonce = Spent::new(newcomer.nonce, ReplayGuard::expiry(newcomer.signed));
        // The key that it had until now, where it joined before.
        let held = (Suspension::begin(&self.directory, &event), alone);
        self.log
            .reserve(now)?
            .commit_with(event, Some(nonce), With::holding(held))
            .await?;
        self.state_of(&profile)
    }

    /// What a host must trust and let in, and how its certificates should look.
    ///
    /// # Errors
    /// When no host is identified.
    pub async fn host_state(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<HostState, Refusal> {
        let host = self.known_host(request, source).await?;
        self.log.spend(spent(&host)).await?;
        self.state_of(&host.profile)
    }

    /// Certifies the SSH key of a host that asks for it itself.
    ///
    /// # Errors
    /// When no host is identified, or it has no sshd.
    pub async fn renew_ssh_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let host = self.known_host(request, source).await?;
        let now = now();
        let granted = || {
            if !host.profile.ssh {
                return Err(not_invited_for(&host.profile, "--ssh"));
            }
            let ask: HostSubject = self.parse(request)?;
            let illegal = |error| Refusal::illegal(format!("subject: {error}"));
            let key = parse_public_key(&ask.subject).map_err(illegal)?;
            check_ssh_key(key.key_data()).map_err(illegal)?;
            let validity = Validity::host(now, life(&host.profile)?);
            Ok((key, validity, self.reserve_for(&host, now)?))
        };
        let (key, validity, slot) = self.or_refused(&host, request, granted(), now).await?;
        let grant = SshHostGrant {
            subject: key.key_data(),
            serial: slot.serial(),
            entry: slot.index(),
            requester: host.profile.host.as_str(),
            names: &host.profile.names,
            validity,
            nonce: random_bytes()?,
        };
        let keys = self.keys.to_sign(|keys| &keys.ssh_host, validity.before)?;
        let certificate = keys.ssh_host.ca.host_certificate(&grant)?;
        let record = recorded(
            "ssh-host",
            slot.serial(),
            grant.key_id(),
            validity,
            keys.ssh_host.fingerprint.clone(),
            certificate.clone(),
        );
        self.release_renewed(host, slot, record, certificate).await
    }

    /// Certifies the TLS key of a database whose host asks for it itself.
    ///
    /// # Errors
    /// When no host is identified, or it has no database.
    pub async fn renew_tls_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let host = self.known_host(request, source).await?;
        let now = now();
        let granted = || {
            if !host.profile.database {
                return Err(not_invited_for(&host.profile, "--postgres"));
            }
            // It may have been invited before the CA was called so.
            self.check_not_own(&host.profile.names)?;
            let ask: HostSubject = self.parse(request)?;
            let subject = CsrSubject::from_pem(&ask.subject)
                .map_err(|error| Refusal::illegal(format!("subject: {error}")))?;
            let validity = Validity::host(now, life(&host.profile)?);
            Ok((subject, validity, self.reserve_for(&host, now)?))
        };
        let (subject, validity, slot) = self.or_refused(&host, request, granted(), now).await?;
        let grant = ServerGrant {
            subject: &subject,
            serial: slot.serial(),
            names: &host.profile.names,
            validity,
        };
        let keys = self.keys.to_sign(|keys| &keys.x509, validity.before)?;
        let certificate = keys.x509.ca.server_certificate(&grant)?;
        let chain = format!("{certificate}{}", keys.x509.ca.certificate_pem());
        let record = recorded(
            "x509-server",
            slot.serial(),
            format!("CN={}", host.profile.names[0]),
            validity,
            keys.x509.fingerprint.clone(),
            certificate,
        );
        self.release_renewed(host, slot, record, chain).await
    }

    /// Notes which trust bundle is in force on a host.
    ///
    /// # Errors
    /// When no host is identified, or there is no such bundle yet.
    pub async fn confirm_trust(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<(), Refusal> {
        let now = now();
        let host = self.known_host(request, source).await?;
        let ask = self.parse(request).and_then(|ask: HostConfirmation| {
            if ask.trust > self.keys.now().trust.version {
                return Err(Refusal::illegal("trust: there is no such version yet"));
            }
            Ok(ask)
        });
        let ask = self.or_refused(&host, request, ask, now).await?;
        let nonce = spent(&host);
        if host.confirmed == Some(ask.trust) {
            return Ok(self.log.spend(nonce).await?);
        }
        // Or it would confirm for another that has joined in its place.
        let slot = {
            let directory = self.directory();
            check_still(&directory, &host).and_then(|()| Ok(self.log.reserve(now)?))
        };
        let slot = self.or_refused(&host, request, slot, now).await?;
        let event = Event::HostConfirmed {
            host: host.profile.host,
            trust: ask.trust,
            source,
        };
        slot.commit(event, Some(nonce)).await?;
        Ok(())
    }

    /// Takes no more requests of the host that asks for it.
    ///
    /// # Errors
    /// When no host is identified.
    pub async fn leave_host(&self, request: &SignedRequest, source: IpAddr) -> Result<(), Refusal> {
        let now = now();
        let host = self.known_host(request, source).await?;
        let alone = Arc::clone(&self.changes).lock_owned().await;
        // Or it would remove another that has joined in its place.
        let still = check_still(&self.directory(), &host);
        self.or_refused(&host, request, still, now).await?;
        let nonce = spent(&host);
        let event = Event::HostRemoved {
            host: host.profile.host,
            removed_by: None,
        };
        let held = (Suspension::begin(&self.directory, &event), alone);
        self.log
            .reserve(now)?
            .commit_with(event, Some(nonce), With::holding(held))
            .await?;
        Ok(())
    }

    /// The hosts for which it matters that have not confirmed a bundle of that version or a newer.
    pub(super) fn unconfirmed(
        &self,
        version: u64,
        matters: impl Fn(&HostProfile) -> bool,
    ) -> Vec<HostName> {
        let directory = self.directory();
        directory
            .hosts()
            .iter()
            .filter(|host| matters(&host.profile))
            .filter(|host| {
                let joined = host.joined.as_ref();
                joined.is_some_and(|joined| joined.confirmed.is_none_or(|has| has < version))
            })
            .map(|host| host.profile.host.clone())
            .collect()
    }

    async fn known_host(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<KnownHost, Refusal> {
        let now = now();
        let found = self.authenticate(request, now).await.and_then(|authentic| {
            authentic.host(source, self.directory().hosts(), &self.replays, now)
        });
        match found {
            Ok(host) => Ok(host),
            Err(refusal) => Err(self.unidentified(request, source, refusal, now).await?),
        }
    }

    /// What a host gets. When it is refused, that stands in the log first, unless it is refused too often;
    /// when it can't be logged, that is what the host is told.
    async fn or_refused<T>(
        &self,
        host: &KnownHost,
        request: &SignedRequest,
        granted: Result<T, Refusal>,
        now: Timestamp,
    ) -> Result<T, Refusal> {
        let refusal = match granted {
            Err(refusal) if refusal.is_logged() => refusal,
            granted => return granted,
        };
        let nonce = spent(host);
        let HostActor {
            host: name,
            fingerprint,
            source,
            ..
        } = &host.actor;
        match self.refused_hosts.list(name.clone(), now) {
            None => self.log.spend(nonce).await?,
            Some(unlisted) => {
                tracing::info!(%source, %name, why = %refusal, "refused");
                let event = Event::UnauthenticatedRefused {
                    source: *source,
                    fingerprint: Some(fingerprint.clone()),
                    host: Some(name.clone()),
                    refused: Refused {
                        request: request_line(request),
                        code: refusal.code().to_owned(),
                        detail: cut(&refusal.to_string()),
                    },
                    unlisted,
                };
                self.log.reserve(now)?.commit(event, Some(nonce)).await?;
            }
        }
        Err(refusal)
    }

    /// Takes a place in the log for what a host is certified, which is what it was when it asked and is
    /// not locked. From the moment that somebody removes it, or it is invited or joins anew, there is
    /// none for what it was before.
    fn reserve_for(&self, host: &KnownHost, now: Timestamp) -> Result<crate::audit::Slot, Refusal> {
        let directory = self.directory();
        check_still(&directory, host)?;
        directory.check_unlocked(|| [LockTarget::Host(host.profile.host.clone())])?;
        Ok(self.log.reserve(now)?)
    }

    /// Checks that an invitation gives away no name of another host that is locked. Those that had one
    /// before, as two of a cluster do, keep it.
    fn check_names_free(&self, profile: &HostProfile) -> Result<(), Refusal> {
        let directory = self.directory();
        let host = &profile.host;
        let locked = directory.check_unlocked(|| [LockTarget::Host(host.clone())]);
        if locked.is_ok() {
            directory.check_names_unlocked(&profile.names)?;
            directory.check_names_unlocked(std::slice::from_ref(host))?;
        }
        Ok(())
    }

    async fn release_renewed(
        &self,
        host: KnownHost,
        slot: crate::audit::Slot,
        record: RecordedCertificate,
        certificate: String,
    ) -> Result<CertificateAnswer, Refusal> {
        let (serial, validity) = (record.serial, (record.valid_after, record.valid_before));
        let good_for = host.profile.names.iter().map(HostName::to_string).collect();
        let nonce = spent(&host);
        let by: HostActor = host.actor;
        let event = Event::HostCertificateRenewed {
            by,
            names: host.profile.names,
            certificate: record,
        };
        let place = slot.commit(event, Some(nonce)).await?;
        self.answer(place, serial, certificate, validity, good_for)
    }

    /// What must be trusted, signed by the log's keys.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn signed_trust(&self) -> Result<SignedTrust, Refusal> {
        let keys = self.keys.now();
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, signed)) = &*signed
            && *version == keys.trust.version
        {
            return Ok(signed.clone());
        }
        let bundle = serde_json::to_string(&keys.trust)
            .map_err(|error| Refusal::Internal(error.to_string()))?;
        let signature = keys.log.sign_statement(&bundle)?;
        let fresh = SignedTrust { bundle, signature };
        *signed = Some((keys.trust.version, fresh.clone()));
        Ok(fresh)
    }

    /// A token: the fingerprint that the host pins, and what nobody can guess.
    fn token(&self) -> Result<String, Refusal> {
        let fingerprint = self.fingerprint();
        let pin = STANDARD_NO_PAD
            .decode(fingerprint.trim_start_matches("SHA256:"))
            .map_err(|error| Refusal::Internal(error.to_string()))?;
        let random: [u8; 32] = random_bytes()?;
        let [pin, random] = [pin.as_slice(), &random].map(|part| URL_SAFE_NO_PAD.encode(part));
        Ok(format!("{pin}.{random}"))
    }

    fn state_of(&self, profile: &HostProfile) -> Result<HostState, Refusal> {
        let keys = self.keys.now();
        let policy = self.policy();
        let mut principals: Vec<PrincipalName> = policy
            .roles
            .iter()
            .filter_map(|role| match &role.access {
                Access::Ssh(access) if profile.ssh && access.is_for(known_as(profile)) => {
                    Some(access.principals.clone())
                }
                _ => None,
            })
            .flatten()
            .collect();
        principals.sort();
        principals.dedup();
        Ok(HostState {
            host: profile.host.clone(),
            names: profile.names.clone(),
            ssh: profile.ssh,
            database: profile.database,
            trust: self.signed_trust()?,
            principals,
            ssh_host_ca: keys.ssh_host.fingerprint.clone(),
            x509_ca: keys.x509.fingerprint.clone(),
        })
    }
}

/// All names by which roles may mean a host.
fn known_as(profile: &HostProfile) -> impl Iterator<Item = &HostName> {
    let names = [&profile.host].into_iter().chain(&profile.names);
    names.chain(&profile.labels)
}

fn profile(ask: HostInvitation) -> Result<HostProfile, Refusal> {
    if !ask.ssh && !ask.database {
        return Err(Refusal::illegal(
            "say what the host has: ssh, database or both",
        ));
    }
    if ask.labels.len() > MOST_LABELS {
        return Err(Refusal::illegal(format!(
            "labels: give at most {MOST_LABELS}"
        )));
    }
    let mut names = ask.names;
    if names.is_empty() {
        names.push(ask.host.clone());
    }
    let ttl = match ask.ttl {
        Some(ttl) => ttl,
        None => HostTtl::from_secs(CERTIFICATE_LIFE)
            .map_err(|error| Refusal::Internal(error.to_string()))?,
    };
    let (names, ttl) = bounds(names, Some(ttl))?;
    Ok(HostProfile {
        host: ask.host,
        names,
        labels: ask.labels,
        ssh: ask.ssh,
        database: ask.database,
        ttl: ttl.as_secs(),
    })
}

fn summary(host: &Host, trust: u64, now: Timestamp) -> HostSummary {
    let Host {
        profile,
        invitation,
        joined,
    } = host;
    let confirmed = joined.as_ref().and_then(|joined| joined.confirmed);
    HostSummary {
        host: profile.host.clone(),
        names: profile.names.clone(),
        labels: profile.labels.clone(),
        ssh: profile.ssh,
        database: profile.database,
        invited_until: invitation
            .as_ref()
            .map(|invitation| invitation.expires)
            .filter(|until| *until > now),
        joined: joined.as_ref().map(|joined| joined.since),
        confirmed,
        up_to_date: confirmed == Some(trust),
    }
}

fn life(profile: &HostProfile) -> Result<HostTtl, Refusal> {
    HostTtl::from_secs(profile.ttl).map_err(|error| Refusal::Internal(error.to_string()))
}

fn spent(host: &KnownHost) -> Spent {
    Spent::new(host.actor.nonce.clone(), ReplayGuard::expiry(host.signed))
}

/// The SHA-256 of a token in hexadecimal.
pub(super) fn hash(token: &str) -> String {
    base16ct::lower::encode_string(digest(&SHA256, token.as_bytes()).as_ref())
}

fn nowhere(name: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    Refusal::NotFound(format!(
        "there is no host {name:?}: `hallpass host list` shows all"
    ))
}

fn check_still(directory: &Directory, host: &KnownHost) -> Result<(), Refusal> {
    if directory.is_still(host) {
        return Ok(());
    }
    Err(Refusal::Denied {
        code: "host-changed",
        detail: format!(
            "host {} was removed, invited or joined anew in this moment: ask again",
            host.profile.host
        ),
    })
}

fn not_invited_for(profile: &HostProfile, option: &str) -> Refusal {
    Refusal::Denied {
        code: "not-invited",
        detail: format!(
            "host {} was not invited with {option}: have it invited again",
            profile.host
        ),
    }
}
