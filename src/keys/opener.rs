//! What opens a home's keys: its passphrase, or an age identity that was added as another way.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::plugin::{self, RecipientPluginV1};
use age::{Callbacks, IdentityFile, x25519};
use zeroize::Zeroizing;

use super::scrub::scrubbed;
use super::{Passphrase, SealError, is_secret};

/// What opens a home's keys.
pub enum Opener {
    /// Its passphrase.
    Passphrase(Passphrase),
    /// The identity of a recipient that was added.
    Identity(AgeIdentity),
}

/// The same, lent.
#[derive(Clone, Copy)]
pub enum Opening<'a> {
    /// A passphrase.
    Passphrase(&'a Passphrase),
    /// An age identity.
    Identity(&'a AgeIdentity),
}

impl<'a> From<&'a Passphrase> for Opening<'a> {
    fn from(passphrase: &'a Passphrase) -> Self {
        Self::Passphrase(passphrase)
    }
}

impl<'a> From<&'a Opener> for Opening<'a> {
    fn from(opener: &'a Opener) -> Self {
        match opener {
            Opener::Passphrase(passphrase) => Self::Passphrase(passphrase),
            Opener::Identity(identity) => Self::Identity(identity),
        }
    }
}

/// The age identities in a file: native ones, or those of plugins, which keep the secret elsewhere.
pub struct AgeIdentity(Vec<Box<dyn age::Identity + Send + Sync>>);

impl AgeIdentity {
    const LONGEST_FILE: u64 = 64 << 10;

    /// Out of a file as `age-keygen` or a plugin makes it. `callbacks` is how a plugin talks to
    /// whoever is there.
    ///
    /// # Errors
    /// When the file can't be read, others than its owner can read it, or it holds no identities.
    pub fn from_file(path: &Path, callbacks: impl Callbacks) -> Result<Self, AgeIdentityError> {
        let unreadable = |source| AgeIdentityError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_file() && !is_secret(path, &metadata) {
            return Err(AgeIdentityError::Exposed {
                path: path.to_owned(),
            });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(Self::LONGEST_FILE as usize));
        file.take(Self::LONGEST_FILE)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        let none = |detail: String| AgeIdentityError::None {
            path: path.to_owned(),
            detail,
        };
        scrubbed(|| {
            let identities = IdentityFile::from_buffer(text.as_slice())
                .map_err(|error| none(error.to_string()))?
                .with_callbacks(callbacks)
                .into_identities()
                .map_err(|error| none(error.to_string()))?;
            if identities.is_empty() {
                return Err(none("it is empty".to_owned()));
            }
            Ok(Self(identities))
        })
    }

    /// Opens what was sealed to one of their recipients.
    pub(super) fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let failed = |error| match error {
            age::DecryptError::NoMatchingKeys
            | age::DecryptError::KeyDecryptionFailed
            | age::DecryptError::DecryptionFailed => SealError::WrongIdentity,
            age::DecryptError::Plugin(_) | age::DecryptError::PluginResolve(_) => {
                SealError::plugin(&error)
            }
            _ => SealError::Damaged,
        };
        let identities = self.0.iter().map(|one| &**one as &dyn age::Identity);
        let mut reader = age::Decryptor::new(sealed)
            .and_then(|decryptor| decryptor.decrypt(identities))
            .map_err(failed)?;
        // Never more than what it comes from, so that it is not moved while it grows.
        let mut opened = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader
            .read_to_end(&mut opened)
            .map_err(|_| SealError::Damaged)?;
        Ok(opened)
    }
}

/// Why there is no usable age identity.
#[derive(Debug, thiserror::Error)]
pub enum AgeIdentityError {
    /// The file can't be read.
    #[error("can't read the age identity file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("others can read the age identity file {path}: run chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It holds none that can be used.
    #[error(
        "{path} can't be used as an age identity file: {detail}; `age-keygen` makes one, or an age \
         plugin in PATH"
    )]
    None {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// Whom a home's seal can be sealed to: an age recipient, such as `age1...` of `age-keygen`, or
/// `age1yubikey1...` of a plugin.
#[derive(Clone)]
pub struct AgeRecipient(Kind);

#[derive(Clone)]
enum Kind {
    Native(x25519::Recipient),
    Plugin(plugin::Recipient),
}

impl AgeRecipient {
    /// Seals a secret. `callbacks` is how a plugin talks to whoever is there.
    pub(super) fn seal(
        &self,
        secret: &[u8],
        callbacks: impl Callbacks,
    ) -> Result<Vec<u8>, SealError> {
        match &self.0 {
            Kind::Native(recipient) => age::encrypt(recipient, secret),
            Kind::Plugin(recipient) => {
                let recipients = std::slice::from_ref(recipient);
                let plugin = RecipientPluginV1::new(recipient.plugin(), recipients, &[], callbacks)
                    .map_err(|error| SealError::plugin(&error))?;
                age::encrypt(&plugin, secret)
            }
        }
        .map_err(|error| match error {
            age::EncryptError::Plugin(_) => SealError::plugin(&error),
            _ => SealError::Failed,
        })
    }
}

impl fmt::Display for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Native(recipient) => recipient.fmt(f),
            Kind::Plugin(recipient) => recipient.fmt(f),
        }
    }
}

impl FromStr for AgeRecipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("AGE-SECRET-KEY-") || text.starts_with("AGE-PLUGIN-") {
            return Err(
                "this is an age identity, a secret: give its recipient, `age-keygen -y FILE` \
                 prints it"
                    .to_owned(),
            );
        }
        let native = text.parse().map(Kind::Native);
        native
            .or_else(|_| text.parse().map(Kind::Plugin))
            .map(Self)
            .map_err(|_: &str| {
                "no age recipient: give one such as age1..., as `age-keygen` prints it".to_owned()
            })
    }
}
