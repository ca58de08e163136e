//! How keys rest on disk: each is sealed, in the age format, to one X25519 recipient of the home,
//! whose identity is itself sealed with the passphrase. The passphrase's costly key derivation is
//! paid once, and a new key can be sealed without it.

use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::{scrypt, x25519};
use zeroize::Zeroizing;

use super::locked::Locked;
use super::opener::Opening;
use super::scrub::scrubbed;
use super::{AgeRecipient, Passphrase};

/// scrypt's N as a power of two: 128 MiB and about 0.3 s a guess.
const WORK_FACTOR: u8 = 17;

/// Opens what was sealed to its recipient.
pub(super) struct Unsealer(Locked<x25519::Identity>);

/// Seals, and can't open.
pub(super) struct Sealer(x25519::Recipient);

impl Unsealer {
    pub(super) fn generate() -> Self {
        scrubbed(|| Self(Locked::new(x25519::Identity::generate())))
    }

    /// Opens a sealed identity.
    pub(super) fn open(sealed: &[u8], opening: Opening<'_>) -> Result<Self, SealError> {
        scrubbed(|| {
            let text = match opening {
                Opening::Passphrase(passphrase) => open_with_passphrase(sealed, passphrase)?,
                Opening::Identity(identity) => identity.open(sealed)?,
            };
            let text = std::str::from_utf8(&text).map_err(|_| SealError::Damaged)?;
            x25519::Identity::from_str(text)
                .map(|identity| Self(Locked::new(identity)))
                .map_err(|_| SealError::Damaged)
        })
    }

    /// This identity, sealed with the passphrase.
    pub(super) fn seal(&self, passphrase: &Passphrase) -> Result<Vec<u8>, SealError> {
        scrubbed(|| {
            let mut recipient = scrypt::Recipient::new(passphrase.secret());
            recipient.set_work_factor(WORK_FACTOR);
            age::encrypt(&recipient, self.0.to_string().expose_secret().as_bytes())
                .map_err(|_| SealError::Failed)
        })
    }

    /// This identity, sealed to a recipient.
    pub(super) fn seal_to(
        &self,
        recipient: &AgeRecipient,
        callbacks: impl age::Callbacks,
    ) -> Result<Vec<u8>, SealError> {
        scrubbed(|| recipient.seal(self.0.to_string().expose_secret().as_bytes(), callbacks))
    }

    pub(super) fn sealer(&self) -> Sealer {
        scrubbed(|| Sealer(self.0.to_public()))
    }

    pub(super) fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        scrubbed(|| age::decrypt(&*self.0, sealed))
            .map(Zeroizing::new)
            .map_err(|_| SealError::Damaged)
    }
}

fn open_with_passphrase(
    sealed: &[u8],
    passphrase: &Passphrase,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut identity = scrypt::Identity::new(passphrase.secret());
    identity.set_max_work_factor(WORK_FACTOR + 3);
    age::decrypt(&identity, sealed)
        .map(Zeroizing::new)
        .map_err(|error| match error {
            age::DecryptError::DecryptionFailed
            | age::DecryptError::KeyDecryptionFailed
            | age::DecryptError::NoMatchingKeys => SealError::WrongPassphrase,
            _ => SealError::Damaged,
        })
}

impl Sealer {
    pub(super) fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        scrubbed(|| age::encrypt(&self.0, secret)).map_err(|_| SealError::Failed)
    }
}

/// Why something could not be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The passphrase does not open the home's keys.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The age identity is not that of the recipient.
    #[error("the age identity is another's")]
    WrongIdentity,
    /// An age plugin is missing or failed.
    #[error("the age plugin failed: {0}")]
    Plugin(String),
    /// The bytes are not what was sealed.
    #[error("it is damaged or was sealed for another home: restore it from a backup")]
    Damaged,
    /// The system gave no randomness or no memory.
    #[error("sealing failed")]
    Failed,
}

impl SealError {
    /// On one line, without the marks for the direction of text that come around names.
    pub(super) fn plugin(error: &impl std::fmt::Display) -> Self {
        let text = error.to_string().replace(['\u{2068}', '\u{2069}'], "");
        Self::Plugin(text.lines().collect::<Vec<_>>().join(" "))
    }
}
