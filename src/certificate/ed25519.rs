use ed25519_dalek::{Signature, VerifyingKey};

/// A public key (RFC 8032, section 5.1.3) that signatures can be verified with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ed25519Key(VerifyingKey);

impl Ed25519Key {
    /// Finds the point of the curve whose encoding that is.
    ///
    /// # Errors
    /// When there is none, or it is of low order.
    pub fn read(key: &[u8; 32]) -> Result<Self, Ed25519KeyError> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| Ed25519KeyError::NoPoint)?;
        if key.is_weak() {
            return Err(Ed25519KeyError::LowOrder);
        }
        Ok(Self(key))
    }
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ed25519KeyError {
    /// It is no point of the curve.
    #[error("it is no Ed25519 key")]
    NoPoint,
    /// Signatures that anybody can make would fit it.
    #[error("it is an Ed25519 key of low order, which anybody can sign with")]
    LowOrder,
}

/// An Ed25519 signature (RFC 8032) with all that it takes to verify it.
pub struct Ed25519Signature {
    key: VerifyingKey,
    signature: Signature,
    signed: Vec<u8>,
}

impl Ed25519Signature {
    /// Of what that key should have signed. Nothing when these are no bytes of a signature.
    pub fn new(key: Ed25519Key, signature: &[u8], signed: Vec<u8>) -> Option<Self> {
        Some(Self {
            key: key.0,
            signature: Signature::from_slice(signature).ok()?,
            signed,
        })
    }

    /// Whether it fits.
    pub fn verify(&self) -> bool {
        self.key
            .verify_strict(&self.signed, &self.signature)
            .is_ok()
    }

    /// Whether all of them fit: a random linear combination of their equations, which costs
    /// less than half as much for each when there are many (Bernstein et al., "High-speed
    /// high-security signatures", section 5). Beside those that [verify](Self::verify)
    /// takes it may take one in which the owner of the key hid a point of low order. Whoever has
    /// the key could as well have signed as they should, and nobody else can make such a signature.
    pub fn verify_all(signatures: &[Self]) -> bool {
        let signed: Vec<&[u8]> = signatures.iter().map(|one| &*one.signed).collect();
        let keys: Vec<VerifyingKey> = signatures.iter().map(|one| one.key).collect();
        let signatures: Vec<_> = signatures.iter().map(|one| one.signature).collect();
        ed25519_dalek::verify_batch(&signed, &signatures, &keys).is_ok()
    }
}
