//! Who signed this request? Every request is signed by a key that is bound to a requester; there
//! are no bearer tokens. docs/api.md specifies the signature.

mod accepted;
mod approvals;
mod attestation;
mod counters;
mod directory;
mod envelope;
mod hosts;
mod issuer;
mod jwt;
mod key;
mod locks;
mod oidc;
mod replay;
mod sessions;
mod signature;
mod verifier;
mod workload;

pub use accepted::Accepted;
pub use approvals::{Approvals, Approved};
pub use attestation::{AttestationError, AttestationRoots, RootsError, attest};
pub use counters::{Counted, Counters};
pub use directory::{Directory, EnrolmentError, User};
pub use envelope::{
    MAX_SKEW, Proof, SignedRequest, possession_message, request_message, touch_message,
};
pub use hosts::{Host, Hosts, Invitation, Joined};
pub use issuer::{Issuer, IssuerError, Metadata};
pub use jwt::{Claims, Expected, Jwks, JwtError};
pub use key::{Key, second_factor};
pub use locks::Locked;
pub use oidc::{
    Begun, DeviceGrant, LoginError, Logins, NoLogin, Preset, Provider, ProviderError,
    ProviderSettings, Vouched, Way,
};
pub use replay::{ReplayGuard, Spent};
pub use sessions::{Session, Sessions};
pub use signature::{
    POSSESSION_NAMESPACE, REQUEST_NAMESPACE, SignatureError, Signed, TOUCH_NAMESPACE, Touch, verify,
};
pub use verifier::Verifier;
pub use workload::{
    NoWorkload, Platform, VouchedWorkload, WorkloadError, WorkloadSettings, Workloads,
};

use std::collections::BTreeMap;
use std::net::IpAddr;

use ssh_key::public::KeyData;
use ssh_key::{Fingerprint, HashAlg};

use crate::audit::{Actor, Counter, HostActor, HostProfile};
use crate::model::{
    Circumstances, GroupName, LocalTime, LockTarget, SecondFactor, Timestamp, UserName,
};

/// The method of those whose key is enrolled. No provider is called so.
pub const SSH_KEY: &str = "ssh-key";

/// A requester who was identified, and what the log keeps of it.
#[derive(Clone, Debug)]
pub struct Requester {
    /// Who, by which key, from where.
    pub actor: Actor,
    /// The requester's groups.
    pub groups: Vec<GroupName>,
    /// The kind of the key that signed, as OpenSSH names it.
    pub key_type: String,
    /// The second factor that was shown, if any.
    pub mfa: Option<SecondFactor>,
    /// What is known of a workload; nothing for a person.
    pub workload: Option<BTreeMap<String, String>>,
    /// When the request was signed.
    pub signed: Timestamp,
    /// How many signatures the key had made by then, where it counts them.
    pub counter: Option<Counter>,
}

impl Requester {
    /// What is locked when they are.
    pub fn lock(&self) -> LockTarget {
        LockTarget::User(self.actor.requester.clone())
    }

    /// What policy is told of them at some moment, which is `time` where the CA is.
    pub fn circumstances(&self, now: Timestamp, time: LocalTime) -> Circumstances {
        Circumstances {
            groups: self.groups.clone(),
            method: self.actor.method.clone(),
            key_type: self.key_type.clone(),
            mfa: self.mfa.map(|mfa| mfa.at(now)),
            source: self.actor.source,
            time,
            workload: self.workload.clone(),
            approvals: 0,
        }
    }
}

/// Why nobody was identified. From outside all of these look the same; the log tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// Headers are missing or can't be read.
    #[error("the request is not signed")]
    NotSigned,
    /// The signature does not verify.
    #[error("the signature is wrong: {0}")]
    Signature(#[from] SignatureError),
    /// The request is too old, or from the future.
    #[error("the request was signed at {0}, more than 60 s from this server's clock")]
    Skew(Timestamp),
    /// Whether the same request came before is not known any more.
    #[error("the request was signed at {0}, and what came then is forgotten: send a new one")]
    Forgotten(Timestamp),
    /// The key is nobody's.
    #[error("the key is not enrolled")]
    UnknownKey,
    /// The token invites nobody, or does not any more.
    #[error("the token is none, was used, or has expired")]
    NotInvited,
    /// Somebody signed in by whom it is, and that is over.
    #[error("the session of {0} is over")]
    SessionOver(UserName),
    /// The user was disabled.
    #[error("user {0} is disabled")]
    Disabled(UserName),
    /// The key was locked.
    #[error("the key of {0} is locked")]
    KeyLocked(UserName),
    /// A FIDO2 key that counts its signatures made one that it says came before others.
    #[error(
        "its key counted to {counter}, after {newest}: there may be two of that key of {user}, which \
         is locked from now on"
    )]
    CounterWentBack {
        /// Whose key it is.
        user: UserName,
        /// What the signature says.
        counter: u32,
        /// The highest that one said before.
        newest: u32,
    },
    /// The same request came before.
    #[error("the request was already made")]
    Replayed,
}

impl Unidentified {
    /// A word for programs that read the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSigned => "not-signed",
            Self::Signature(_) => "bad-signature",
            Self::Skew(_) => "clock-skew",
            Self::Forgotten(_) => "forgotten",
            Self::UnknownKey => "unknown-key",
            Self::NotInvited => "not-invited",
            Self::SessionOver(_) => "session-over",
            Self::Disabled(_) => "user-disabled",
            Self::KeyLocked(_) => "key-locked",
            Self::CounterWentBack { .. } => "counter-went-back",
            Self::Replayed => "replayed",
        }
    }
}

/// What was found out before nobody was identified: the key, once its signature verified.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub why: Unidentified,
    /// The fingerprint of the key that signed.
    pub fingerprint: Option<String>,
}

/// A request whose signature verified. Who the key's owner is, is not known yet.
pub struct Authentic<'a> {
    proof: &'a Proof,
    key: KeyData,
    touch: Option<Touch>,
    fingerprint: String,
}

/// Verifies the signature of a request for one of `audiences`, and its time at `now`. The signature
/// comes first: what an unsigned request says is not worth a look, and a key that is not enrolled
/// costs as much time as one that is.
///
/// # Errors
/// When it is not signed, not signed well, or not at this time.
pub async fn authenticate<'a>(
    request: &'a SignedRequest,
    audiences: &[String],
    verifier: &Verifier,
    now: Timestamp,
) -> Result<Authentic<'a>, Refusal> {
    let unsigned = |why| Refusal {
        why,
        fingerprint: None,
    };
    let proof = request
        .proof
        .as_ref()
        .ok_or_else(|| unsigned(Unidentified::NotSigned))?;
    let mut signed = Err(SignatureError::Mismatch);
    for audience in audiences {
        let message = request_message(
            audience,
            &request.method,
            &request.target,
            &request.body,
            proof.time,
            &proof.nonce,
        );
        signed = verifier
            .verify(&proof.signature, REQUEST_NAMESPACE, message.as_bytes())
            .await;
        if signed.is_ok() {
            break;
        }
    }
    let Signed { key, touch } = signed.map_err(|why| unsigned(why.into()))?;
    let authentic = Authentic {
        proof,
        fingerprint: key_fingerprint(&key),
        key,
        touch,
    };
    if proof.time.distance(now) > MAX_SKEW {
        return Err(authentic.refused(Unidentified::Skew(proof.time)));
    }
    Ok(authentic)
}

impl Authentic<'_> {
    /// Finds who signed, and spends the nonce and the key's count in memory.
    ///
    /// # Errors
    /// When nobody can be identified.
    pub fn requester(
        self,
        source: IpAddr,
        directory: &Directory,
        replays: &ReplayGuard,
        counters: &Counters,
        now: Timestamp,
    ) -> Result<Requester, Refusal> {
        let accepted = directory
            .accepted(&self.fingerprint, now)
            .map_err(|why| self.refused(why))?;
        self.spend(replays, now)?;
        // After the nonce: a request that somebody sends again has its own count again, and that is
        // nothing against the key.
        let (mfa, counter) = match (self.touch, accepted.user) {
            (Some(touch), Some(user)) if accepted.session.is_none() => {
                let (fingerprint, signed) = (&self.fingerprint, self.proof.time);
                second_factor(user, fingerprint, touch, counters, signed, now)
                    .map_err(|why| self.refused(why))
                    .map(|(mfa, counter)| (Some(mfa), counter))?
            }
            _ => (accepted.mfa(), None),
        };
        let session = accepted.session;
        let method = session.map_or(SSH_KEY, |session| session.account.provider.as_str());
        Ok(Requester {
            groups: accepted.groups(),
            workload: session.and_then(|session| session.workload.clone()),
            actor: Actor {
                requester: accepted.name.clone(),
                method: method.to_owned(),
                fingerprint: self.fingerprint,
                source,
                nonce: self.proof.nonce.clone(),
                counter: counter.as_ref().map(|counter| counter.value),
            },
            key_type: self.key.algorithm().as_str().to_owned(),
            mfa,
            signed: self.proof.time,
            counter,
        })
    }

    /// Whether one of these hosts signed.
    pub fn is_by_host(&self, hosts: &Hosts) -> bool {
        hosts.of_key(&self.fingerprint).is_some()
    }

    /// Finds which host signed, and spends the nonce in memory.
    ///
    /// # Errors
    /// When none can be identified.
    pub fn host(
        self,
        source: IpAddr,
        hosts: &Hosts,
        replays: &ReplayGuard,
        now: Timestamp,
    ) -> Result<KnownHost, Refusal> {
        let host = hosts
            .of_key(&self.fingerprint)
            .ok_or_else(|| self.refused(Unidentified::UnknownKey))?;
        self.spend(replays, now)?;
        Ok(KnownHost {
            actor: HostActor {
                host: host.profile.host.clone(),
                fingerprint: self.fingerprint,
                source,
                nonce: self.proof.nonce.clone(),
            },
            profile: host.profile.clone(),
            confirmed: host.joined.as_ref().and_then(|joined| joined.confirmed),
            signed: self.proof.time,
        })
    }

    /// Somebody who is not known yet. Nothing of them is remembered until they are let in with
    /// [`NewcomersKey::admit`].
    pub fn newcomer(self) -> NewcomersKey {
        NewcomersKey {
            nonce: self.proof.nonce.clone(),
            signed: self.proof.time,
            key: self.key,
            fingerprint: self.fingerprint,
        }
    }

    fn refused(&self, why: Unidentified) -> Refusal {
        Refusal {
            why,
            fingerprint: Some(self.fingerprint.clone()),
        }
    }

    fn spend(&self, replays: &ReplayGuard, now: Timestamp) -> Result<(), Refusal> {
        let Proof { nonce, time, .. } = self.proof;
        spend(nonce, *time, replays, now).map_err(|why| self.refused(why))
    }
}

/// A host that was identified.
#[derive(Clone, Debug)]
pub struct KnownHost {
    /// Which, by which key, from where.
    pub actor: HostActor,
    /// What it was invited for.
    pub profile: HostProfile,
    /// The version of the trust bundle that it said is in force.
    pub confirmed: Option<u64>,
    /// When the request was signed.
    pub signed: Timestamp,
}

/// A request by a key that nobody knows yet: who sent it holds that key.
#[derive(Clone, Debug)]
pub struct NewcomersKey {
    /// The key that signed.
    pub key: KeyData,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The request's nonce.
    pub nonce: String,
    /// When it was signed.
    pub signed: Timestamp,
}

impl NewcomersKey {
    /// Spends the nonce of somebody who may come.
    ///
    /// # Errors
    /// When the same request came before.
    pub fn admit(&self, replays: &ReplayGuard, now: Timestamp) -> Result<(), Refusal> {
        spend(&self.nonce, self.signed, replays, now).map_err(|why| self.refused(why))
    }

    /// Why they may not.
    pub fn refused(&self, why: Unidentified) -> Refusal {
        Refusal {
            why,
            fingerprint: Some(self.fingerprint.clone()),
        }
    }
}

/// Spends a nonce: last, so that a stranger can't fill the memory of nonces.
fn spend(
    nonce: &str,
    signed: Timestamp,
    replays: &ReplayGuard,
    now: Timestamp,
) -> Result<(), Unidentified> {
    match replays.spend(nonce, signed, now) {
        Spent::Now => Ok(()),
        Spent::Before => Err(Unidentified::Replayed),
        Spent::Unknown => Err(Unidentified::Forgotten(signed)),
    }
}

/// A key's fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64.
pub fn key_fingerprint(key: &KeyData) -> String {
    Fingerprint::new(HashAlg::Sha256, key).to_string()
}
