//! Certificates for people: identify, decide, grant, sign, log, release. docs/issuance.md tells
//! why in this order.

use std::net::IpAddr;

use ipnet::IpNet;
use ssh_key::SshSig;
use ssh_key::public::KeyData;

use super::{Authority, Refusal, decision, now, recorded, spent};
use crate::access::Waits;
use crate::audit::{Asked, Decision, Event, Place, RecordedCertificate, Slot};
use crate::certificate::{
    ClientGrant, CsrSubject, SshUserGrant, SubjectError, Validity, check_ssh_key, parse_public_key,
};
use crate::identity::{POSSESSION_NAMESPACE, Requester, SignedRequest, possession_message};
use crate::keys::random_bytes;
use crate::model::{
    Access, CertificateAnswer, Circumstances, DatabaseAccess, DatabaseUser, LockTarget,
    PrincipalName, Purpose, Receipt, Role, Serial, SourceAddress, SshAccess, SshCertificateRequest,
    Timestamp, Ttl, X509CertificateRequest,
};
use crate::policy::{Ask, OutOfBounds, PolicySet, Wanted};

/// A request within its role's bounds that policy permits.
struct Granted<'a> {
    role: &'a Role,
    purpose: Purpose,
    ttl: Ttl,
    asked: Asked,
    decision: Decision,
}

impl Granted<'_> {
    /// On how many approvals it was decided.
    fn approvals(&self) -> u32 {
        let circumstances = self.decision.circumstances.as_ref();
        circumstances.map_or(0, |circumstances| circumstances.approvals)
    }
}

/// A certificate that nobody has yet.
struct Signed {
    /// What the log should have of it.
    record: RecordedCertificate,
    /// What the requester gets.
    certificate: String,
    /// The login names or the database user.
    good_for: Vec<String>,
}

/// A request that is refused, with what of it the log should have.
pub(super) struct Declined {
    /// How many approvals it needs in all, when it waits for them.
    needs: Option<u32>,
    asked: Option<Asked>,
    decision: Option<Decision>,
    refusal: Refusal,
}

impl Declined {
    pub(super) fn new(
        asked: Option<Asked>,
        decision: Option<Decision>,
        refusal: Refusal,
    ) -> Box<Self> {
        Box::new(Self {
            needs: None,
            asked,
            decision,
            refusal,
        })
    }
}

impl From<Refusal> for Box<Declined> {
    fn from(refusal: Refusal) -> Self {
        Declined::new(None, None, refusal)
    }
}

impl Authority {
    /// Issues an SSH user certificate.
    ///
    /// # Errors
    /// When the request is refused or can't be served; every refusal is in the log.
    pub async fn issue_ssh(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let issued = async {
            let now = now();
            let requester = self.identify(request, source, now).await?;
            let policy = self.policy();
            match self.grant_ssh(&policy, request, &requester, now).await {
                Ok((subject, access, granted)) => {
                    let slot = self
                        .reserve_unlocked(request, &requester, &granted, now)
                        .await?;
                    let signed =
                        self.sign_ssh(&slot, &requester, &subject, access, &granted, now)?;
                    self.release(&requester, slot, granted, signed).await
                }
                Err(declined) => Err(self.decline(&requester, request, declined, now).await),
            }
        };
        self.log.about_to_commit(issued).await
    }

    /// Issues an X.509 client certificate for a database.
    ///
    /// # Errors
    /// When the request is refused or can't be served; every refusal is in the log.
    pub async fn issue_x509(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<CertificateAnswer, Refusal> {
        let issued = async {
            let now = now();
            let requester = self.identify(request, source, now).await?;
            let policy = self.policy();
            match self.grant_x509(&policy, request, &requester, now) {
                Ok((subject, access, granted)) => {
                    let slot = self
                        .reserve_unlocked(request, &requester, &granted, now)
                        .await?;
                    let signed =
                        self.sign_x509(&slot, &requester, &subject, access, &granted, now)?;
                    self.release(&requester, slot, granted, signed).await
                }
                Err(declined) => Err(self.decline(&requester, request, declined, now).await),
            }
        };
        self.log.about_to_commit(issued).await
    }

    /// Takes a place in the log for a role that is not locked, for somebody who is not.
    async fn reserve_unlocked(
        &self,
        request: &SignedRequest,
        requester: &Requester,
        granted: &Granted<'_>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let reserved = self.accepted(requester, now, |directory, _| {
            let name = &requester.actor.requester;
            directory.check_unlocked(|| {
                let role = LockTarget::Role(granted.role.name.clone());
                [role, requester.lock()]
            })?;
            let decided_on = granted.approvals();
            if decided_on > 0 {
                let count = directory.approvals(name, &granted.asked, now).count();
                if count < decided_on as usize {
                    return Err(Refusal::Denied {
                        code: "approval-ended",
                        detail:
                            "an approval that counted a moment ago does not any more: ask again"
                                .to_owned(),
                    });
                }
            }
            Ok::<_, Refusal>(self.log.reserve(now)?)
        });
        match reserved {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(refusal)) => {
                let (asked, decision) = (granted.asked.clone(), granted.decision.clone());
                Err(self
                    .refuse(
                        requester,
                        request,
                        Some(asked),
                        Some(decision),
                        refusal,
                        now,
                    )
                    .await)
            }
            Err(refusal) => {
                let source = requester.actor.source;
                Err(self.unidentified(request, source, refusal, now).await?)
            }
        }
    }

    async fn grant_ssh<'a>(
        &self,
        policy: &'a PolicySet,
        request: &SignedRequest,
        requester: &Requester,
        now: Timestamp,
    ) -> Result<(KeyData, &'a SshAccess, Granted<'a>), Box<Declined>> {
        let ask: SshCertificateRequest = self.parse(request)?;
        let wanted = Wanted {
            role: ask.role,
            purpose: ask.purpose,
            reason: ask.reason,
            ttl: ask.ttl,
        };
        let granted = self.grant(policy, requester, wanted, now)?;
        let Access::Ssh(access) = &granted.role.access else {
            return Err(wrong_kind(
                granted,
                "ask for an X.509 certificate (`hallpass psql`)",
            ));
        };
        let subject = self.ssh_subject(&ask.public_key, &ask.possession, requester);
        match subject.await {
            Ok(subject) => Ok((subject, access, granted)),
            Err(refusal) => Err(Declined::new(Some(granted.asked), None, refusal)),
        }
    }

    fn grant_x509<'a>(
        &self,
        policy: &'a PolicySet,
        request: &SignedRequest,
        requester: &Requester,
        now: Timestamp,
    ) -> Result<(CsrSubject, &'a DatabaseAccess, Granted<'a>), Box<Declined>> {
        let ask: X509CertificateRequest = self.parse(request)?;
        let wanted = Wanted {
            role: ask.role,
            purpose: ask.purpose,
            reason: ask.reason,
            ttl: ask.ttl,
        };
        let granted = self.grant(policy, requester, wanted, now)?;
        let Access::Database(access) = &granted.role.access else {
            return Err(wrong_kind(
                granted,
                "ask for an SSH certificate (`hallpass ssh`)",
            ));
        };
        match CsrSubject::from_pem(&ask.csr) {
            Ok(subject) => Ok((subject, access, granted)),
            Err(error) => Err(Declined::new(
                Some(granted.asked),
                None,
                Refusal::illegal(format!("csr: {error}")),
            )),
        }
    }

    /// Holds a request against its role and policy.
    fn grant<'a>(
        &self,
        policy: &'a PolicySet,
        requester: &Requester,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<Granted<'a>, Box<Declined>> {
        let asked = |ttl: Ttl| Asked {
            role: wanted.role.clone(),
            purpose: wanted.purpose.clone(),
            reason: wanted.reason.clone(),
            ttl: ttl.as_secs(),
        };
        let (role, ttl) = policy.bounded(&wanted).map_err(|bound| {
            let role = policy.roles.find(&wanted.role);
            let ttl = role.map(|role| wanted.ttl.unwrap_or(role.default_ttl));
            Declined::new(ttl.map(asked), None, bound.into())
        })?;
        let asked = asked(ttl);
        let name = &requester.actor.requester;
        let circumstances = Circumstances {
            approvals: self.approvals(name, &asked, now),
            ..self.circumstances(requester, now)
        };
        let ask = Ask {
            requester: name,
            role,
            purpose: &wanted.purpose,
            reason: wanted.reason.as_ref(),
            ttl,
            circumstances: &circumstances,
        };
        let verdict = policy.engine.decide_request(&ask);
        if !verdict.allowed
            && let Some(needs) = policy.engine.approvals_needed(&ask)
        {
            let refusal = Refusal::needs_approval(&asked, needs, circumstances.approvals);
            return Err(Box::new(Declined {
                needs: Some(needs),
                asked: Some(asked),
                decision: Some(decision(policy, &verdict, circumstances)),
                refusal,
            }));
        }
        let decision = decision(policy, &verdict, circumstances);
        if !verdict.allowed {
            let refusal = Refusal::denied(&verdict, || {
                format!(
                    "no policy permits {} role {} for purpose {}: `hallpass role list` shows what \
                     you may ask for",
                    name, wanted.role, wanted.purpose
                )
            });
            return Err(Declined::new(Some(asked), Some(decision), refusal));
        }
        Ok(Granted {
            role,
            purpose: wanted.purpose,
            ttl,
            asked,
            decision,
        })
    }

    /// Reads the key to be certified and checks that the requester holds it.
    async fn ssh_subject(
        &self,
        public_key: &str,
        possession: &str,
        requester: &Requester,
    ) -> Result<KeyData, Refusal> {
        let illegal = |error: SubjectError| Refusal::illegal(format!("public_key: {error}"));
        let subject = parse_public_key(public_key)
            .map_err(illegal)?
            .key_data()
            .clone();
        check_ssh_key(&subject).map_err(illegal)?;
        let unproven = || Refusal::Denied {
            code: "no-possession",
            detail: "possession: it does not prove that you hold this key for this request: sign \
                     the text that docs/api.md gives with the key to be certified"
                .to_owned(),
        };
        let signature = SshSig::from_pem(possession).map_err(|_| unproven())?;
        let _coming = self.log.coming();
        for audience in &self.keys.now().audiences {
            let message = possession_message(
                audience,
                &requester.actor.fingerprint,
                &requester.actor.nonce,
            );
            let signed = self
                .verifier
                .verify(&signature, POSSESSION_NAMESPACE, message.as_bytes())
                .await;
            if signed.is_ok_and(|signed| signed.key == subject) {
                return Ok(subject);
            }
        }
        Err(unproven())
    }

    fn sign_ssh(
        &self,
        slot: &Slot,
        requester: &Requester,
        subject: &KeyData,
        access: &SshAccess,
        granted: &Granted<'_>,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        let source_addresses = match &access.source_address {
            SourceAddress::Any => Vec::new(),
            SourceAddress::Requester => vec![IpNet::from(requester.actor.source)],
            SourceAddress::Networks(networks) => networks.clone(),
        };
        let validity = Validity::person(now, granted.ttl);
        let grant = SshUserGrant {
            subject,
            serial: slot.serial(),
            entry: slot.index(),
            requester: &requester.actor.requester,
            role: &granted.role.name,
            purpose: &granted.purpose,
            principals: &access.principals,
            extensions: &access.extensions,
            force_command: access.force_command.as_deref(),
            source_addresses: &source_addresses,
            validity,
            nonce: random_bytes()?,
        };
        let keys = self.keys.to_sign(|keys| &keys.ssh_user, validity.before)?;
        let certificate = keys.ssh_user.ca.user_certificate(&grant)?;
        let ca = keys.ssh_user.fingerprint.clone();
        let record = recorded(
            "ssh-user",
            grant.serial,
            grant.key_id(),
            validity,
            ca,
            certificate.clone(),
        );
        let good_for = access
            .principals
            .iter()
            .map(PrincipalName::to_string)
            .collect();
        Ok(Signed {
            record,
            certificate,
            good_for,
        })
    }

    fn sign_x509(
        &self,
        slot: &Slot,
        requester: &Requester,
        subject: &CsrSubject,
        access: &DatabaseAccess,
        granted: &Granted<'_>,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        let validity = Validity::person(now, granted.ttl);
        let grant = ClientGrant {
            subject,
            serial: slot.serial(),
            entry: slot.index(),
            requester: &requester.actor.requester,
            role: &granted.role.name,
            purpose: &granted.purpose,
            user: &access.user,
            validity,
        };
        let keys = self.keys.to_sign(|keys| &keys.x509, validity.before)?;
        let certificate = keys.x509.ca.client_certificate(&grant)?;
        let chain = format!("{certificate}{}", keys.x509.ca.certificate_pem());
        let record = recorded(
            "x509-client",
            grant.serial,
            grant.key_id(),
            validity,
            keys.x509.fingerprint.clone(),
            certificate,
        );
        Ok(Signed {
            record,
            certificate: chain,
            good_for: vec![DatabaseUser::to_string(&access.user)],
        })
    }

    /// Commits the entry; the certificate exists for the world only after that.
    async fn release(
        &self,
        requester: &Requester,
        slot: Slot,
        granted: Granted<'_>,
        signed: Signed,
    ) -> Result<CertificateAnswer, Refusal> {
        let Signed {
            record,
            certificate,
            good_for,
        } = signed;
        let (serial, validity) = (record.serial, (record.valid_after, record.valid_before));
        let waited = (granted.approvals() > 0).then(|| granted.asked.clone());
        let event = Event::CertificateIssued {
            by: requester.actor.clone(),
            request: granted.asked,
            decision: granted.decision,
            certificate: record,
        };
        let place = slot.commit(event, Some(spent(requester))).await?;
        if let Some(asked) = waited {
            let name = &requester.actor.requester;
            self.waiting.done(name, &asked, now());
        }
        self.answer(place, serial, certificate, validity, good_for)
    }

    /// What the requester gets, now that the entry is on disk.
    pub(super) fn answer(
        &self,
        place: Place,
        serial: Serial,
        certificate: String,
        (valid_after, valid_before): (Timestamp, Timestamp),
        good_for: Vec<String>,
    ) -> Result<CertificateAnswer, Refusal> {
        Ok(CertificateAnswer {
            entry: place.index,
            serial,
            certificate,
            valid_after,
            valid_before,
            good_for,
            receipt: Receipt {
                leaf_hash: place.leaf.to_string(),
                inclusion: place.inclusion()?.into(),
                checkpoint: place.checkpoint().note().to_owned(),
                body: place.body,
            },
            trust: self.trust(),
        })
    }

    pub(super) async fn decline(
        &self,
        requester: &Requester,
        request: &SignedRequest,
        declined: Box<Declined>,
        now: Timestamp,
    ) -> Refusal {
        let Declined {
            needs,
            asked,
            decision,
            refusal,
        } = *declined;
        let (Some(needs), Some(asked)) = (needs, asked.clone()) else {
            return self
                .refuse(requester, request, asked, decision, refusal, now)
                .await;
        };
        let waits = Waits {
            requester: requester.actor.requester.clone(),
            request: asked.clone(),
            needs,
            since: now,
        };
        let asked = Some(asked);
        let logged = self.log_refusal(requester, request, asked, decision, &refusal, now);
        match logged.await {
            Ok(entry) => {
                self.waiting.add(entry, waits);
                refusal.and_waits(entry)
            }
            Err(error) => error,
        }
    }
}

fn wrong_kind(granted: Granted<'_>, instead: &str) -> Box<Declined> {
    let (name, kind) = (&granted.role.name, granted.role.access.kind());
    let refusal = Refusal::Denied {
        code: "wrong-kind",
        detail: format!("role {name} is for {kind}: {instead}"),
    };
    Declined::new(Some(granted.asked), None, refusal)
}

impl From<OutOfBounds> for Refusal {
    fn from(refused: OutOfBounds) -> Self {
        Self::Denied {
            code: refused.code,
            detail: refused.detail,
        }
    }
}
