use ed25519_dalek::VerifyingKey;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
};
use signature::Verifier as _;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, Mpint, Signature, SshSig};

use crate::certificate::check_ssh_key;

/// The SSHSIG namespace of requests.
pub const REQUEST_NAMESPACE: &str = "hallpass-request-v1";
/// The SSHSIG namespace of proofs of possession.
pub const POSSESSION_NAMESPACE: &str = "hallpass-possession-v1";

/// The SSHSIG namespace of touches that are a login's second factor.
pub const TOUCH_NAMESPACE: &str = "hallpass-touch-v1";

/// Why a signature is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Made for something else.
    #[error("it was made for another namespace")]
    Namespace,
    /// A key of a kind or strength that is not taken.
    #[error("its key is of a kind or strength that is not taken")]
    WeakKey,
    /// Not this key's signature of this message.
    #[error("it does not fit the key and the message")]
    Mismatch,
}

/// What made a signature, and what it says of the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The key.
    pub key: KeyData,
    /// What a FIDO2 key says beside; nothing for other keys.
    pub touch: Option<Touch>,
}

/// What a FIDO2 key that somebody touched says in each signature (PROTOCOL.u2f).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Whether it knew its owner, by PIN or finger.
    pub verified: bool,
    /// How many signatures it has made, or 0 each time when it does not count.
    pub counter: u32,
}

impl Touch {
    /// Reads the end of a signature by a FIDO2 key, behind the signature proper: a byte of flags
    /// and a counter of four bytes. Nothing when the key does not say that somebody touched it.
    /// sshd demands that too.
    fn read(trailer: &[u8]) -> Option<Self> {
        const USER_PRESENT: u8 = 1 << 0;
        const USER_VERIFIED: u8 = 1 << 2;
        let (flags, counter) = trailer.split_first()?;
        if flags & USER_PRESENT == 0 {
            return None;
        }
        Some(Self {
            verified: flags & USER_VERIFIED != 0,
            counter: u32::from_be_bytes(counter.try_into().ok()?),
        })
    }

    /// Of a signature, whose end the key signs with the rest.
    fn of(signature: &Signature) -> Option<Self> {
        const TRAILER: usize = 5;
        let bytes = signature.as_bytes();
        Self::read(bytes.get(bytes.len().checked_sub(TRAILER)?..)?)
    }
}

/// Verifies an SSHSIG (PROTOCOL.sshsig) over `message` and gives what made it.
///
/// # Errors
/// When the namespace is another, the key is weak, or the signature does not fit.
pub fn verify(sig: &SshSig, namespace: &str, message: &[u8]) -> Result<Signed, SignatureError> {
    let unverified = Unverified::new(sig, namespace, message)?;
    let fits = match unverified.ed25519()? {
        Some(signature) => signature.verify(),
        None => unverified.fits(),
    };
    unverified.when(fits)
}

/// An SSHSIG for the right namespace, by a key of a kind and strength that is taken.
pub(super) struct Unverified<'a> {
    sig: &'a SshSig,
    /// What the key signed.
    signed: Vec<u8>,
}

impl<'a> Unverified<'a> {
    pub(super) fn new(
        sig: &'a SshSig,
        namespace: &str,
        message: &[u8],
    ) -> Result<Self, SignatureError> {
        if sig.namespace() != namespace || !sig.reserved().is_empty() {
            return Err(SignatureError::Namespace);
        }
        check_ssh_key(sig.public_key()).map_err(|_| SignatureError::WeakKey)?;
        let signed = SshSig::signed_data(namespace, sig.hash_alg(), message)
            .map_err(|_| SignatureError::Mismatch)?;
        Ok(Self { sig, signed })
    }

    /// The signature by itself when it is Ed25519's, which can be verified together with others.
    pub(super) fn ed25519(&self) -> Result<Option<Ed25519Signature>, SignatureError> {
        let KeyData::Ed25519(key) = self.sig.public_key() else {
            return Ok(None);
        };
        if self.sig.signature().algorithm() != Algorithm::Ed25519 {
            return Err(SignatureError::Mismatch);
        }
        let mismatch = |_| SignatureError::Mismatch;
        let key = VerifyingKey::from_bytes(&key.0).map_err(mismatch)?;
        // It would fit signatures that anybody can make.
        if key.is_weak() {
            return Err(SignatureError::WeakKey);
        }
        Ok(Some(Ed25519Signature {
            key,
            signature: ed25519_dalek::Signature::from_slice(self.sig.signature_bytes())
                .map_err(mismatch)?,
            signed: self.signed.clone(),
        }))
    }

    /// Verifies one that is not Ed25519's.
    pub(super) fn fits(&self) -> bool {
        let Self { sig, signed } = self;
        let key = sig.public_key();
        match key {
            KeyData::Rsa(key) => verify_rsa(&key.n, &key.e, sig.signature(), signed),
            // The rest is rare enough for `ssh-key`'s own slower arithmetic.
            KeyData::Ecdsa(_) => key.verify(signed, sig.signature()).is_ok(),
            KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
                self.touch().is_some()
                    && sig.signature().algorithm() == key.algorithm()
                    && key.verify(signed, sig.signature()).is_ok()
            }
            _ => false,
        }
    }

    /// What made it, when it fits.
    pub(super) fn when(&self, fits: bool) -> Result<Signed, SignatureError> {
        if !fits {
            return Err(SignatureError::Mismatch);
        }
        Ok(Signed {
            key: self.sig.public_key().clone(),
            touch: self.touch(),
        })
    }

    fn touch(&self) -> Option<Touch> {
        match self.sig.public_key() {
            KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
                Touch::of(self.sig.signature())
            }
            _ => None,
        }
    }
}

/// An Ed25519 signature (RFC 8032) with all that it takes to verify it.
pub(super) struct Ed25519Signature {
    /// Not of low order.
    key: VerifyingKey,
    signature: ed25519_dalek::Signature,
    signed: Vec<u8>,
}

impl Ed25519Signature {
    pub(super) fn verify(&self) -> bool {
        self.key
            .verify_strict(&self.signed, &self.signature)
            .is_ok()
    }

    /// Whether all of them fit: a random linear combination of their equations, which costs
    /// less than half as much for each when there are many (Bernstein et al., "High-speed
    /// high-security signatures", section 5). Beside those that [verify](Self::verify)
    /// takes it may take one in which the owner of the key hid a point of low order. Whoever has
    /// the key could as well have signed as they should, and nobody else can make such a signature.
    pub(super) fn verify_all(signatures: &[Self]) -> bool {
        let signed: Vec<&[u8]> = signatures.iter().map(|one| &*one.signed).collect();
        let keys: Vec<VerifyingKey> = signatures.iter().map(|one| one.key).collect();
        let signatures: Vec<_> = signatures.iter().map(|one| one.signature).collect();
        ed25519_dalek::verify_batch(&signed, &signatures, &keys).is_ok()
    }
}

fn verify_rsa(n: &Mpint, e: &Mpint, signature: &Signature, signed: &[u8]) -> bool {
    let (Some(n), Some(e)) = (n.as_positive_bytes(), e.as_positive_bytes()) else {
        return false;
    };
    // SHA-1 (`ssh-rsa`) is not among them.
    let parameters = match signature.algorithm() {
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        } => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        } => &RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    RsaPublicKeyComponents { n, e }
        .verify(parameters, signed, signature.as_bytes())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ssh_encoding::Encode;
    use ssh_key::PrivateKey;
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;

    fn signed(namespace: &str, message: &[u8]) -> SshSig {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
        key.sign(namespace, HashAlg::Sha512, message).unwrap()
    }

    #[test]
    fn a_signature_is_good_for_its_message_and_namespace_alone() {
        let sig = signed(REQUEST_NAMESPACE, b"message");
        assert!(verify(&sig, REQUEST_NAMESPACE, b"message").is_ok());
        assert_eq!(
            verify(&sig, REQUEST_NAMESPACE, b"massage"),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(
            verify(&sig, POSSESSION_NAMESPACE, b"message"),
            Err(SignatureError::Namespace)
        );
    }

    #[test]
    fn a_trailer_says_who_was_there_and_how_often() {
        let read = |flags: u8| Touch::read(&[flags, 0x12, 0x34, 0x56, 0x78]);
        let touch = |verified| Touch {
            verified,
            counter: 0x1234_5678,
        };
        assert_eq!(read(0b001), Some(touch(false)));
        assert_eq!(read(0b101), Some(touch(true)));
        assert_eq!(
            read(0b1111_1010),
            None,
            "anything but that somebody was there"
        );
        assert_eq!(read(0b100), None, "verified without being there");
        for wrong in [&[][..], &[1], &[1, 0, 0, 0], &[1, 0, 0, 0, 0, 0]] {
            assert_eq!(Touch::read(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_trailer_panics(trailer: Vec<u8>, rest: Vec<u8>) {
            let _ = Touch::read(&trailer);
            for kind in ["sk-ssh-ed25519@openssh.com", "rsa-sha2-256", "other@example.org"] {
                let mut blob = Vec::new();
                kind.encode(&mut blob).unwrap();
                rest.encode(&mut blob).unwrap();
                blob.extend(&trailer);
                if let Ok(signature) = Signature::try_from(blob.as_slice()) {
                    let _ = Touch::of(&signature);
                }
            }
        }
    }

    #[test]
    fn a_signature_under_another_key_is_refused() {
        let sig = signed(REQUEST_NAMESPACE, b"message");
        let other = PrivateKey::from(Ed25519Keypair::from_seed(&[8; 32]));
        let KeypairData::Ed25519(_) = other.key_data() else {
            unreachable!()
        };
        let forged = SshSig::new(
            other.public_key().key_data().clone(),
            REQUEST_NAMESPACE,
            HashAlg::Sha512,
            sig.signature().clone(),
        )
        .unwrap();
        assert_eq!(
            verify(&forged, REQUEST_NAMESPACE, b"message"),
            Err(SignatureError::Mismatch)
        );
    }
}
