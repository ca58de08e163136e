//! Reading what is proven.

use ring::digest::{SHA256, digest};
use ssh_encoding::{Decode, Reader};
use ssh_key::public::KeyData;

use super::{AttestationError, MAGIC};

const UNREADABLE: AttestationError =
    AttestationError::Malformed("what its authenticator says can't be read");

/// The parts of an attestation file.
pub(super) struct Blob {
    pub(super) certificate: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// As CBOR.
    authenticator: Vec<u8>,
}

impl Blob {
    pub(super) fn read(mut bytes: &[u8]) -> Result<Self, AttestationError> {
        let broken = |_| AttestationError::Malformed("it ends early");
        let magic = Vec::<u8>::decode(&mut bytes).map_err(broken)?;
        if magic != MAGIC.as_bytes() {
            return Err(AttestationError::Malformed("it is of another kind"));
        }
        let mut next = || Vec::<u8>::decode(&mut bytes).map_err(broken);
        let blob = Self {
            certificate: next()?,
            signature: next()?,
            authenticator: next()?,
        };
        // Reserved for what is to come, which nobody here would understand.
        let flags = u32::decode(&mut bytes).map_err(broken)?;
        let reserved = Vec::<u8>::decode(&mut bytes).map_err(broken)?;
        if flags != 0 || !reserved.is_empty() || !bytes.is_finished() {
            return Err(AttestationError::Malformed("there is more in it"));
        }
        Ok(blob)
    }

    /// What the authenticator says.
    pub(super) fn authenticator(&self) -> Result<&[u8], AttestationError> {
        byte_string(&self.authenticator).ok_or(UNREADABLE)
    }
}

/// What an authenticator says of a key that it made (WebAuthn 6.1, "authenticator data").
pub(super) struct Made<'a> {
    /// The SHA-256 of the key's application.
    pub(super) application: &'a [u8],
    /// The model.
    pub(super) aaguid: [u8; 16],
    pub(super) credential: &'a [u8],
}

impl<'a> Made<'a> {
    /// Reads it, when it is of a key.
    pub(super) fn read(data: &'a [u8], key: &KeyData) -> Result<Self, AttestationError> {
        const ATTESTED: u8 = 1 << 6;
        const EXTENDED: u8 = 1 << 7;
        let broken = UNREADABLE;
        let (application, rest) = data.split_at_checked(32).ok_or(broken)?;
        let (flags, rest) = rest.split_first().ok_or(broken)?;
        if flags & ATTESTED == 0 {
            return Err(AttestationError::Malformed("it is of no key"));
        }
        let (_counter, rest) = rest.split_at_checked(4).ok_or(broken)?;
        let (aaguid, rest) = rest.split_first_chunk().ok_or(broken)?;
        let (length, rest) = rest.split_first_chunk().ok_or(broken)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (credential, rest) = rest.split_at_checked(length).ok_or(broken)?;
        let (public, same_application) = match key {
            KeyData::SkEd25519(key) => {
                let cose: &[u8] = b"\xa4\x01\x01\x03\x27\x20\x06\x21\x58\x20";
                let public = [cose, key.public_key().as_ref()].concat();
                (public, is_hash(application, key.application()))
            }
            KeyData::SkEcdsaSha2NistP256(key) => {
                let (x, y) = (key.ec_point().x(), key.ec_point().y());
                let (Some(x), Some(y)) = (x, y) else {
                    return Err(AttestationError::OtherKey);
                };
                let cose: &[u8] = b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20";
                let public = [cose, x, b"\x22\x58\x20", y].concat();
                (public, is_hash(application, key.application()))
            }
            _ => return Err(AttestationError::NotFido),
        };
        // CTAP2 leaves but one way to write a key down.
        let rest = rest.strip_prefix(public.as_slice());
        let rest = rest.ok_or(AttestationError::OtherKey)?;
        if !same_application {
            return Err(AttestationError::OtherKey);
        }
        if rest.is_empty() == (flags & EXTENDED != 0) {
            return Err(broken);
        }
        Ok(Self {
            application,
            aaguid: *aaguid,
            credential,
        })
    }
}

/// The bytes of a CBOR byte string of the lengths that come here.
fn byte_string(cbor: &[u8]) -> Option<&[u8]> {
    const SHORT: u8 = 0x58;
    const LONG: u8 = 0x59;
    let (length, bytes) = match cbor {
        [SHORT, length, bytes @ ..] => (usize::from(*length), bytes),
        [LONG, high, low, bytes @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), bytes),
        _ => return None,
    };
    (bytes.len() == length).then_some(bytes)
}

fn is_hash(hash: &[u8], text: &str) -> bool {
    digest(&SHA256, text.as_bytes()).as_ref() == hash
}
