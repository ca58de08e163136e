use ed25519_dalek::{Signature, VerifyingKey};

/// An Ed25519 signature (RFC 8032) with all that it takes to verify it.
pub struct Ed25519Signature {
    key: VerifyingKey,
    signature: Signature,
    signed: Vec<u8>,
}

impl Ed25519Signature {
    /// By a key that must not be of low order: that would fit signatures that anybody can make.
    /// Nothing when these are no bytes of a signature.
    pub fn new(key: VerifyingKey, signature: &[u8], signed: Vec<u8>) -> Option<Self> {
        Some(Self {
            key,
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
