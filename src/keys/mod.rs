//! CA keys and their life: generate, seal, open, sign, rotate.
//!
//! A [`Signer`] is a key that can be used but not read. On disk a key is always sealed; opened,
//! it lives in one locked page that is zeroized when it goes, and nowhere else. Or it lives in a
//! PKCS#11 token, and never leaves it: then a file on disk only says where it is.

mod ecdsa;
mod foreign;
mod keyring;
mod locked;
mod opener;
mod ownership;
mod passphrase;
mod process;
mod requested;
mod scrub;
mod seal;
mod secret_file;
mod signer;
mod store;
mod token;
mod ways;

pub use ecdsa::ecdsa_integers;
pub use foreign::{ForeignError, ForeignFile, ForeignKey};
pub use keyring::{CaKey, Keyring, NewKey, NoStep, Since, Step};
pub use opener::{AgeIdentity, AgeIdentityError, AgeRecipient, Opener, Opening};
pub(crate) use ownership::is_secret;
pub use ownership::{is_ours_to_change, is_private};
pub use passphrase::{Passphrase, PassphraseError, first_line};
pub use process::protect_memory;
pub use seal::SealError;
pub(crate) use secret_file::{SecretFileError, first_line as secret_line};
pub use signer::{KeyAlgorithm, SignError, Signer, random_bytes};
pub use store::{KeyStore, OpenedKey, StoreError, is_key};
pub use token::{Pin, PinError, Token, TokenError, TokenKeys, TokenSettings};
pub use ways::{Reseal, Way, WayName, recipient_of, ways};
