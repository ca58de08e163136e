//! Tokens that others signed: JSON Web Tokens (RFC 7519) in the compact form of JWS (RFC 7515).

mod claims;
mod jwk;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::model::Timestamp;
pub use claims::Claims;
pub use jwk::Jwks;

/// No token of a person or a job is larger.
const LARGEST: usize = 64 * 1024;
/// How far the clock of whoever issued a token may be from ours.
const LEEWAY: Duration = Duration::from_secs(60);

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Its `iss`; nothing for a JWT-SVID, which need not have one.
    pub issuer: Option<&'a str>,
    /// Which `aud` must be among its own.
    pub audience: &'a str,
    /// The `nonce` of a login.
    pub nonce: Option<&'a str>,
    /// How long ago somebody may have signed in: then `auth_time` must be there.
    pub max_age: Option<Duration>,
}

/// The header of a token (RFC 7515, section 4). What else stands there changes nothing: keys come from
/// the issuer alone, never from the token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Also when it is null.
    #[serde(default, deserialize_with = "there")]
    crit: bool,
}

fn there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// Verifies a token by the keys of its issuer, and that it says what it must.
///
/// # Errors
/// When it does not count, for one reason of several.
pub(super) fn verify(
    token: &str,
    keys: &Jwks,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Claims, JwtError> {
    let parts = Parts::of(token)?;
    let header: Header = parts.header()?;
    if header.crit {
        return Err(JwtError::Critical);
    }
    let signature = decoded(parts.signature)?;
    keys.verify(
        &header.alg,
        header.kid.as_deref(),
        parts.signed.as_bytes(),
        &signature,
    )?;
    let claims = Claims::parse(&decoded(parts.payload)?)?;
    claims.check(expected, now)?;
    Ok(claims)
}

/// Who a token says has signed it, which nothing proves: it tells whose keys to ask. Nothing when it
/// does not say.
///
/// # Errors
/// When it is no token.
pub(super) fn unverified_issuer(token: &str) -> Result<Option<String>, JwtError> {
    #[derive(Deserialize)]
    struct Payload {
        iss: Option<String>,
    }
    let payload = decoded(Parts::of(token)?.payload)?;
    let payload: Payload = serde_json::from_slice(&payload).map_err(|_| JwtError::NotAToken)?;
    Ok(payload.iss)
}

/// The parts of a token in the compact form.
struct Parts<'a> {
    signed: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > LARGEST {
            return Err(JwtError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::NotAToken)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::NotAToken)?;
        if payload.contains('.') {
            return Err(JwtError::NotAToken);
        }
        Ok(Self {
            signed,
            header,
            payload,
            signature,
        })
    }

    fn header(&self) -> Result<Header, JwtError> {
        serde_json::from_slice(&decoded(self.header)?).map_err(|_| JwtError::NotAToken)
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| JwtError::NotAToken)
}

/// A stranger's words, such that they can stand in a log.
fn shown(text: &str) -> String {
    let text: String = text.chars().take(100).collect();
    text.escape_debug().to_string()
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not in the form of one.
    #[error("it is no JSON Web Token in the compact form")]
    NotAToken,
    /// Larger than any.
    #[error("it is larger than {LARGEST} bytes")]
    TooLarge,
    /// It demands what is not known here (RFC 7515, section 4.1.11).
    #[error("its header demands extensions (crit), and none are known here")]
    Critical,
    /// Not a set of keys.
    #[error("the keys are no JSON Web Key Set, or there are too many")]
    NotKeys,
    /// An algorithm that is not taken.
    #[error(
        "it is signed with the algorithm {0}: RS256 to RS512, PS256 to PS512, ES256, ES384 and EdDSA \
         are taken"
    )]
    Algorithm(String),
    /// No key of the issuer's has that name and is for that algorithm.
    #[error("the issuer has no such key for it: {}", .0.as_deref().unwrap_or("none is named"))]
    UnknownKey(Option<String>),
    /// The signature is not that key's.
    #[error("its signature is not by the issuer's key")]
    Signature,
    /// Somebody else issued it.
    #[error("it is by another issuer: {0}")]
    Issuer(String),
    /// It is for somebody else.
    #[error("it is for another audience: {0}")]
    Audience(String),
    /// It was made for another client.
    #[error("it was made for another party (azp)")]
    Party,
    /// It belongs to another login.
    #[error("it belongs to another login (nonce)")]
    Nonce,
    /// It was good until then.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// It will be good.
    #[error("it is from the future, {0}: one of the clocks is wrong")]
    NotYet(Timestamp),
    /// Nobody signed in for so long.
    #[error("whoever signed in did so too long ago: sign in once more")]
    TooOld,
    /// A claim that must be there is not, or is of another kind.
    #[error("it lacks the claim {0}, or that is not what it should be")]
    Claim(&'static str),
}

impl JwtError {
    /// A word for programs that read the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAToken | Self::TooLarge | Self::Critical | Self::NotKeys => "illegal-token",
            Self::Algorithm(_) => "token-algorithm",
            Self::UnknownKey(_) => "token-key",
            Self::Signature => "token-signature",
            Self::Issuer(_) => "token-issuer",
            Self::Audience(_) | Self::Party => "token-audience",
            Self::Nonce => "token-nonce",
            Self::Expired(_) => "token-expired",
            Self::NotYet(_) => "token-from-the-future",
            Self::TooOld => "token-too-old",
            Self::Claim(_) => "token-claim",
        }
    }
}
