use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use super::locked::Locked;
use super::scrub::{scrubbed, scrubbed_signing};

/// The kinds of CA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8032). Signatures are 64 bytes.
    Ed25519,
    /// ECDSA on P-256 with SHA-256 (FIPS 186-5). Signatures are an ASN.1 `Ecdsa-Sig-Value`.
    EcdsaP256,
}

impl KeyAlgorithm {
    /// Makes a new private key as a PKCS#8 document (RFC 5958).
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate(self) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let random = SystemRandom::new();
        scrubbed(|| {
            let document = match self {
                Self::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
                Self::EcdsaP256 => {
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
                }
            };
            let document = document.map_err(|_| SignError)?;
            Ok(Zeroizing::new(document.as_ref().to_vec()))
        })
    }
}

/// A private key that can be used but not read.
pub struct Signer {
    secret: Secret,
    public_key: Vec<u8>,
    random: SystemRandom,
}

enum Secret {
    Ed25519(Locked<Ed25519KeyPair>),
    EcdsaP256(Locked<EcdsaKeyPair>),
}

impl Signer {
    /// From a PKCS#8 document, or nothing when it does not hold a key of that algorithm.
    pub(super) fn from_pkcs8(algorithm: KeyAlgorithm, document: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let (secret, public_key) = scrubbed(|| match algorithm {
            KeyAlgorithm::Ed25519 => {
                let key = Ed25519KeyPair::from_pkcs8(document).ok()?;
                let public_key = key.public_key().as_ref().to_vec();
                Some((Secret::Ed25519(Locked::new(key)), public_key))
            }
            KeyAlgorithm::EcdsaP256 => {
                let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
                let key = EcdsaKeyPair::from_pkcs8(algorithm, document, &random).ok()?;
                let public_key = key.public_key().as_ref().to_vec();
                Some((Secret::EcdsaP256(Locked::new(key)), public_key))
            }
        })?;
        Some(Self {
            secret,
            public_key,
            random,
        })
    }

    /// A fresh Ed25519 key that is kept nowhere.
    #[cfg(test)]
    pub(crate) fn throwaway() -> std::sync::Arc<Self> {
        let document = KeyAlgorithm::Ed25519.generate().unwrap();
        std::sync::Arc::new(Self::from_pkcs8(KeyAlgorithm::Ed25519, &document).unwrap())
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self.secret {
            Secret::Ed25519(_) => KeyAlgorithm::Ed25519,
            Secret::EcdsaP256(_) => KeyAlgorithm::EcdsaP256,
        }
    }

    /// The public key: 32 bytes for Ed25519, an uncompressed point of 65 bytes for P-256.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Signs `message` in the form that [`KeyAlgorithm`] gives.
    ///
    /// # Errors
    /// When the system gives no randomness for an ECDSA signature.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        scrubbed_signing(|| match &self.secret {
            Secret::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Secret::EcdsaP256(key) => key
                .sign(&self.random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError),
        })
    }
}

/// The key could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CA key could not be used: the system gave no randomness")]
pub struct SignError;

/// Random bytes from the operating system.
///
/// # Errors
/// When it gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SignError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| SignError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn signatures_verify_under_the_public_key_alone() {
        for (algorithm, verification) in [
            (
                KeyAlgorithm::Ed25519,
                &ED25519 as &dyn ring::signature::VerificationAlgorithm,
            ),
            (KeyAlgorithm::EcdsaP256, &ECDSA_P256_SHA256_ASN1),
        ] {
            let document = algorithm.generate().unwrap();
            let signer = Signer::from_pkcs8(algorithm, &document).unwrap();
            let signature = signer.sign(b"message").unwrap();
            let public_key = UnparsedPublicKey::new(verification, signer.public_key());
            assert!(public_key.verify(b"message", &signature).is_ok());
            assert!(public_key.verify(b"another", &signature).is_err());
        }
    }

    #[test]
    fn a_document_of_the_other_algorithm_or_cut_short_is_refused() {
        let document = KeyAlgorithm::Ed25519.generate().unwrap();
        assert!(Signer::from_pkcs8(KeyAlgorithm::EcdsaP256, &document).is_none());
        assert!(Signer::from_pkcs8(KeyAlgorithm::Ed25519, &document[..40]).is_none());
    }
}
