use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

use super::{JwtError, shown};

/// No issuer has more keys at a time.
const MOST: usize = 100;
/// The smallest RSA modulus in bytes (RFC 7518, section 3.3).
const SMALLEST_RSA: usize = 256;

/// The keys of an issuer: a JSON Web Key Set (RFC 7517). Those that can't be used here are left out.
#[derive(Clone, Debug, Default)]
pub struct Jwks(pub(super) Vec<Jwk>);

#[derive(Clone, Debug)]
pub(super) struct Jwk {
    kid: Option<String>,
    /// The only algorithm that it is for, when it says so.
    alg: Option<String>,
    key: Key,
}

#[derive(Clone, Debug)]
enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// On P-256: the uncompressed point.
    P256(Vec<u8>),
    /// On P-384: the uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwks {
    /// Reads a set.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self, JwtError> {
        let set: Set = serde_json::from_slice(json).map_err(|_| JwtError::NotKeys)?;
        if set.keys.len() > MOST {
            return Err(JwtError::NotKeys);
        }
        let written = set.keys.into_iter().map(serde_json::from_value);
        let keys = written.filter_map(|key| Jwk::read(key.ok()?));
        Ok(Self(keys.collect()))
    }

    /// Verifies a signature by the one key that it can be by.
    pub(super) fn verify(
        &self,
        alg: &str,
        kid: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), JwtError> {
        let algorithm = Algorithm::of(alg).ok_or_else(|| JwtError::Algorithm(shown(alg)))?;
        let mut candidates = self.0.iter().filter(|jwk| {
            let named = kid.is_none() || jwk.kid.as_deref() == kid;
            named && jwk.alg.as_deref().is_none_or(|only| only == alg) && algorithm.fits(&jwk.key)
        });
        let unknown = || JwtError::UnknownKey(kid.map(shown));
        let jwk = candidates.next().ok_or_else(unknown)?;
        // Where none is named, there must be no choice.
        if candidates.next().is_some() {
            return Err(unknown());
        }
        if algorithm.verify(&jwk.key, signed, signature) {
            Ok(())
        } else {
            Err(JwtError::Signature)
        }
    }
}

impl Jwk {
    /// A key that signatures can be verified with; nothing for others.
    fn read(written: Written) -> Option<Self> {
        if written.purpose.as_deref() == Some("enc") {
            return None;
        }
        if let Some(operations) = &written.key_ops
            && !operations.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let part = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_ref()?).ok();
        let point = |length: usize| {
            let (x, y) = (part(&written.x)?, part(&written.y)?);
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let key = match (written.kty.as_str(), written.crv.as_deref()) {
            ("RSA", _) => {
                let n = part(&written.n)?;
                let zeros = n.iter().take_while(|byte| **byte == 0).count();
                let n = n[zeros..].to_vec();
                if n.len() < SMALLEST_RSA {
                    return None;
                }
                let e = part(&written.e)?;
                Key::Rsa { n, e }
            }
            ("EC", Some("P-256")) => Key::P256(point(32)?),
            ("EC", Some("P-384")) => Key::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Key::Ed25519(part(&written.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        Some(Self {
            kid: written.kid,
            alg: written.alg,
            key,
        })
    }
}

/// What a token may be signed with (RFC 7518, section 3.1; RFC 8037). Each is for one kind of key, so
/// that no key is taken for another's; `none` and HMAC are not among them.
enum Algorithm {
    Rsa(&'static RsaParameters),
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    fn fits(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Self::Rsa(_), Key::Rsa { .. })
                | (Self::Es256, Key::P256(_))
                | (Self::Es384, Key::P384(_))
                | (Self::EdDsa, Key::Ed25519(_))
        )
    }

    fn verify(&self, key: &Key, signed: &[u8], signature: &[u8]) -> bool {
        let plain = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            let key = UnparsedPublicKey::new(algorithm, key);
            key.verify(signed, signature).is_ok()
        };
        match (self, key) {
            (Self::Rsa(parameters), Key::Rsa { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, signed, signature).is_ok()
            }
            (Self::Es256, Key::P256(point)) => plain(&ECDSA_P256_SHA256_FIXED, point),
            (Self::Es384, Key::P384(point)) => plain(&ECDSA_P384_SHA384_FIXED, point),
            (Self::EdDsa, Key::Ed25519(key)) => plain(&ED25519, key),
            _ => false,
        }
    }
}
