use ring::signature::{
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use signature::Verifier;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, Mpint, Signature, SshSig};

use crate::certificate::check_ssh_key;

/// The SSHSIG namespace of requests.
pub const REQUEST_NAMESPACE: &str = "hallpass-request-v1";
/// The SSHSIG namespace of proofs of possession.
pub const POSSESSION_NAMESPACE: &str = "hallpass-possession-v1";

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

/// Verifies an SSHSIG (PROTOCOL.sshsig) over `message` and gives the key that made it.
///
/// # Errors
/// When the namespace is another, the key is weak, or the signature does not fit.
pub fn verify(sig: &SshSig, namespace: &str, message: &[u8]) -> Result<KeyData, SignatureError> {
    if sig.namespace() != namespace || !sig.reserved().is_empty() {
        return Err(SignatureError::Namespace);
    }
    let key = sig.public_key();
    check_ssh_key(key).map_err(|_| SignatureError::WeakKey)?;
    let signed = SshSig::signed_data(namespace, sig.hash_alg(), message)
        .map_err(|_| SignatureError::Mismatch)?;
    let fits = match key {
        KeyData::Ed25519(key) => {
            sig.signature().algorithm() == Algorithm::Ed25519
                && UnparsedPublicKey::new(&ED25519, key.as_ref())
                    .verify(&signed, sig.signature_bytes())
                    .is_ok()
        }
        KeyData::Rsa(key) => verify_rsa(&key.n, &key.e, sig.signature(), &signed),
        // The rest is rare enough for `ssh-key`'s own slower arithmetic.
        KeyData::Ecdsa(_) => key.verify(&signed, sig.signature()).is_ok(),
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            was_touched(sig.signature()) && key.verify(&signed, sig.signature()).is_ok()
        }
        _ => false,
    };
    if fits {
        Ok(key.clone())
    } else {
        Err(SignatureError::Mismatch)
    }
}

/// Whether a FIDO2 key says that somebody touched it (PROTOCOL.u2f: the signature ends in a byte of
/// flags, of which bit 0 is user presence, and a four-byte counter). sshd demands it too.
fn was_touched(signature: &Signature) -> bool {
    const USER_PRESENCE: u8 = 1;
    let flags = signature.as_bytes().iter().nth_back(4);
    flags.is_some_and(|flags| flags & USER_PRESENCE != 0)
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
