use std::fmt;

use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::locked::Locked;
use super::scrub::{scrubbed, scrubbed_signing};
use super::token::{TokenError, TokenKey};

/// The kinds of CA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8032). Signatures are 64 bytes.
    Ed25519,
    /// ECDSA on P-256 with SHA-256 (FIPS 186-5). Signatures are an ASN.1 `Ecdsa-Sig-Value`.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384. Signatures are an ASN.1 `Ecdsa-Sig-Value`.
    EcdsaP384,
}

impl KeyAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::EcdsaP256, Self::EcdsaP384];

    /// Its name in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
        }
    }

    /// How many bytes a public key has: an uncompressed point for ECDSA.
    pub fn public_key_length(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::EcdsaP256 => 65,
            Self::EcdsaP384 => 97,
        }
    }

    /// Whether that key made that signature of a message.
    pub(super) fn verifies(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self {
            Self::Ed25519 => &ED25519,
            Self::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
        };
        UnparsedPublicKey::new(algorithm, public_key)
            .verify(message, signature)
            .is_ok()
    }

    /// What `ring` signs ECDSA with.
    fn ecdsa(self) -> Option<&'static EcdsaSigningAlgorithm> {
        match self {
            Self::Ed25519 => None,
            Self::EcdsaP256 => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Self::EcdsaP384 => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        }
    }

    /// Makes a new private key as a PKCS#8 document (RFC 5958).
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate(self) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let random = SystemRandom::new();
        scrubbed(|| {
            let document = match self.ecdsa() {
                None => Ed25519KeyPair::generate_pkcs8(&random),
                Some(algorithm) => EcdsaKeyPair::generate_pkcs8(algorithm, &random),
            };
            let document = document.map_err(|_| SignError::NoRandomness)?;
            Ok(Zeroizing::new(document.as_ref().to_vec()))
        })
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A private key that can be used but not read.
pub struct Signer {
    secret: Secret,
    algorithm: KeyAlgorithm,
    public_key: Vec<u8>,
    random: SystemRandom,
}

enum Secret {
    Ed25519(Locked<SigningKey>),
    Ecdsa(Locked<EcdsaKeyPair>),
    Token(TokenKey),
}

impl Signer {
    /// From a PKCS#8 document, whatever its algorithm, or nothing when it holds no key.
    pub(super) fn from_pkcs8(document: &[u8]) -> Option<Self> {
        KeyAlgorithm::ALL
            .into_iter()
            .find_map(|algorithm| Self::of_algorithm(algorithm, document))
    }

    fn of_algorithm(algorithm: KeyAlgorithm, document: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let (secret, public_key) = scrubbed(|| match algorithm.ecdsa() {
            None => {
                let key = SigningKey::from_pkcs8_der(document).ok()?;
                let public_key = key.verifying_key().to_bytes().to_vec();
                Some((Secret::Ed25519(Locked::new(key)), public_key))
            }
            Some(ecdsa) => {
                let key = EcdsaKeyPair::from_pkcs8(ecdsa, document, &random).ok()?;
                let public_key = key.public_key().as_ref().to_vec();
                Some((Secret::Ecdsa(Locked::new(key)), public_key))
            }
        })?;
        Some(Self {
            secret,
            algorithm,
            public_key,
            random,
        })
    }

    /// Of a key in a token.
    pub(super) fn in_token(key: TokenKey, public_key: Vec<u8>) -> Self {
        Self {
            algorithm: key.algorithm(),
            secret: Secret::Token(key),
            public_key,
            random: SystemRandom::new(),
        }
    }

    /// A fresh Ed25519 key that is kept nowhere.
    #[cfg(test)]
    pub(crate) fn throwaway() -> std::sync::Arc<Self> {
        Self::throwaway_of(KeyAlgorithm::Ed25519)
    }

    /// A fresh key that is kept nowhere.
    #[cfg(test)]
    pub(crate) fn throwaway_of(algorithm: KeyAlgorithm) -> std::sync::Arc<Self> {
        let document = algorithm.generate().unwrap();
        std::sync::Arc::new(Self::from_pkcs8(&document).unwrap())
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public key: 32 bytes for Ed25519, an uncompressed point for ECDSA, of 65 bytes for P-256
    /// and 97 for P-384.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Checks that it could sign now. One in memory always can.
    ///
    /// # Errors
    /// When the key's token can't be used.
    pub fn check(&self) -> Result<(), SignError> {
        match &self.secret {
            Secret::Ed25519(_) | Secret::Ecdsa(_) => Ok(()),
            Secret::Token(key) => Ok(key.check()?),
        }
    }

    /// Signs `message` in the form that [`KeyAlgorithm`] gives. With a key in a token, this waits
    /// for the token.
    ///
    /// # Errors
    /// When the system gives no randomness for an ECDSA signature, or the token can't be used.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        scrubbed_signing(|| match &self.secret {
            Secret::Ed25519(key) => Ok(key.sign(message).to_vec()),
            Secret::Ecdsa(key) => key
                .sign(&self.random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::NoRandomness),
            Secret::Token(key) => Ok(key.sign(message)?),
        })
    }
}

/// The key could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The system gave no randomness.
    #[error("the CA key could not be used: the system gave no randomness")]
    NoRandomness,
    /// The key's token can't be used.
    #[error("the CA key can't be used: {0}")]
    Token(#[from] TokenError),
}

/// Random bytes from the operating system.
///
/// # Errors
/// When it gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SignError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| SignError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_verify_under_the_public_key_alone() {
        for algorithm in KeyAlgorithm::ALL {
            let document = algorithm.generate().unwrap();
            let signer = Signer::from_pkcs8(&document).unwrap();
            assert_eq!(signer.algorithm(), algorithm);
            let public_key = signer.public_key();
            assert_eq!(public_key.len(), algorithm.public_key_length());
            let signature = signer.sign(b"message").unwrap();
            assert!(algorithm.verifies(public_key, b"message", &signature));
            assert!(!algorithm.verifies(public_key, b"another", &signature));
        }
    }

    #[test]
    fn a_document_cut_short_is_refused() {
        for algorithm in KeyAlgorithm::ALL {
            let document = algorithm.generate().unwrap();
            assert!(Signer::from_pkcs8(&document[..40]).is_none());
        }
    }

    #[test]
    fn an_algorithm_has_one_name() {
        for algorithm in KeyAlgorithm::ALL {
            let name = serde_json::to_string(&algorithm).unwrap();
            assert_eq!(name, format!("{:?}", algorithm.as_str()));
        }
    }
}
