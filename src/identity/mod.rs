//! Who signed this request? Every request is signed by a key that is bound to a requester; there
//! are no bearer tokens. docs/api.md specifies the signature.

mod directory;
mod envelope;
mod replay;
mod signature;

pub use directory::{Directory, EnrolmentError, User};
pub use envelope::{MAX_SKEW, Proof, SignedRequest, possession_message, request_message};
pub use replay::{ReplayGuard, Spent};
pub use signature::{POSSESSION_NAMESPACE, REQUEST_NAMESPACE, SignatureError, verify};

use std::net::IpAddr;

use ssh_key::public::KeyData;
use ssh_key::{Fingerprint, HashAlg};

use crate::audit::Actor;
use crate::model::{GroupName, Timestamp};

/// A requester who was identified, and what the log keeps of it.
#[derive(Clone, Debug)]
pub struct Requester {
    /// Who, by which key, from where.
    pub actor: Actor,
    /// The requester's groups.
    pub groups: Vec<GroupName>,
    /// When the request was signed.
    pub signed: Timestamp,
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
    /// The user was disabled.
    #[error("user {0} is disabled")]
    Disabled(crate::model::UserName),
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
            Self::Disabled(_) => "user-disabled",
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

/// Finds who signed `request` for one of `audiences`, at `now`, and spends its nonce in memory.
///
/// # Errors
/// When nobody can be identified.
pub fn identify(
    request: &SignedRequest,
    audiences: &[String],
    source: IpAddr,
    directory: &Directory,
    replays: &ReplayGuard,
    now: Timestamp,
) -> Result<Requester, Refusal> {
    let unsigned = |why| Refusal {
        why,
        fingerprint: None,
    };
    let proof = request
        .proof
        .as_ref()
        .ok_or_else(|| unsigned(Unidentified::NotSigned))?;
    // The signature comes first: what an unsigned request says is not worth a look, and a key
    // that is not enrolled costs as much time as one that is.
    let key = audiences
        .iter()
        .find_map(|audience| {
            let message = request_message(
                audience,
                &request.method,
                &request.target,
                &request.body,
                proof.time,
                &proof.nonce,
            );
            verify(&proof.signature, REQUEST_NAMESPACE, message.as_bytes()).ok()
        })
        .ok_or_else(|| unsigned(Unidentified::Signature(SignatureError::Mismatch)))?;
    let fingerprint = key_fingerprint(&key);
    let refused = |why| Refusal {
        why,
        fingerprint: Some(fingerprint.clone()),
    };
    if proof.time.distance(now) > MAX_SKEW {
        return Err(refused(Unidentified::Skew(proof.time)));
    }
    let user = directory.accepted(&fingerprint).map_err(refused)?;
    // Last, so that a stranger can't fill the memory of nonces.
    match replays.spend(&proof.nonce, proof.time, now) {
        Spent::Now => {}
        Spent::Before => return Err(refused(Unidentified::Replayed)),
        Spent::Unknown => return Err(refused(Unidentified::Forgotten(proof.time))),
    }
    Ok(Requester {
        actor: Actor {
            requester: user.name.clone(),
            method: "ssh-key".to_owned(),
            fingerprint,
            source,
            nonce: proof.nonce.clone(),
        },
        groups: user.groups.clone(),
        signed: proof.time,
    })
}

/// A key's fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64.
pub fn key_fingerprint(key: &KeyData) -> String {
    Fingerprint::new(HashAlg::Sha256, key).to_string()
}
