use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
};
use signature::Verifier as _;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, Mpint, Signature, SshSig};

use crate::certificate::{Ed25519Key, Ed25519KeyError, Ed25519Signature, check_ssh_key};

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

impl From<Ed25519KeyError> for SignatureError {
    fn from(error: Ed25519KeyError) -> Self {
        match error {
            Ed25519KeyError::NoPoint => Self::Mismatch,
            Ed25519KeyError::LowOrder => Self::WeakKey,
        }
    }
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
    let unverified = Unverified::new(sig, namespace, message, Ed25519Key::read)?;
    let fits = match &unverified {
        Unverified::Ed25519(signature) => signature.verify(),
        Unverified::Other(signed) => fits(sig, signed),
    };
    made(sig, fits)
}

/// An SSHSIG for the right namespace, by a key of a kind and strength that is taken.
pub(super) enum Unverified {
    /// It can be verified together with others.
    Ed25519(Box<Ed25519Signature>),
    /// What a key of another kind signed, for [`fits`].
    Other(Vec<u8>),
}

impl Unverified {
    /// `read` does what [`Ed25519Key::read`] does.
    pub(super) fn new(
        sig: &SshSig,
        namespace: &str,
        message: &[u8],
        read: impl FnOnce(&[u8; 32]) -> Result<Ed25519Key, Ed25519KeyError>,
    ) -> Result<Self, SignatureError> {
        if sig.namespace() != namespace || !sig.reserved().is_empty() {
            return Err(SignatureError::Namespace);
        }
        check_ssh_key(sig.public_key()).map_err(|_| SignatureError::WeakKey)?;
        let signed = SshSig::signed_data(namespace, sig.hash_alg(), message)
            .map_err(|_| SignatureError::Mismatch)?;
        let KeyData::Ed25519(key) = sig.public_key() else {
            return Ok(Self::Other(signed));
        };
        if sig.signature().algorithm() != Algorithm::Ed25519 {
            return Err(SignatureError::Mismatch);
        }
        let key = read(&key.0)?;
        Ed25519Signature::new(key, sig.signature_bytes(), signed)
            .map(|signature| Self::Ed25519(Box::new(signature)))
            .ok_or(SignatureError::Mismatch)
    }
}

/// Whether a signature that is not Ed25519's fits what its key should have signed.
pub(super) fn fits(sig: &SshSig, signed: &[u8]) -> bool {
    let key = sig.public_key();
    match key {
        KeyData::Rsa(key) => verify_rsa(&key.n, &key.e, sig.signature(), signed),
        // The rest is rare enough for `ssh-key`'s own slower arithmetic.
        KeyData::Ecdsa(_) => key.verify(signed, sig.signature()).is_ok(),
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            touch(sig).is_some()
                && sig.signature().algorithm() == key.algorithm()
                && key.verify(signed, sig.signature()).is_ok()
        }
        _ => false,
    }
}

/// What made a signature, when it fits.
pub(super) fn made(sig: &SshSig, fits: bool) -> Result<Signed, SignatureError> {
    if !fits {
        return Err(SignatureError::Mismatch);
    }
    Ok(Signed {
        key: sig.public_key().clone(),
        touch: touch(sig),
    })
}

fn touch(sig: &SshSig) -> Option<Touch> {
    match sig.public_key() {
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Touch::of(sig.signature()),
        _ => None,
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
