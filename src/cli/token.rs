//! The options of `hallpass init` for CA keys in a PKCS#11 token.

use std::path::PathBuf;

use super::failure::Failure;
use super::{passphrase, serve};
use crate::keys::{KeyAlgorithm, TokenKeys, TokenSettings};
use crate::model::KeyKind;

#[derive(clap::Args)]
pub(super) struct Place {
    /// Make CA keys in a PKCS#11 token, which they can't leave, by its module, such as
    /// /usr/lib/softhsm/libsofthsm2.so; hallpass.toml then names it
    #[arg(long, value_name = "MODULE.so", requires = "token_label")]
    token: Option<PathBuf>,
    /// The token's label
    #[arg(long, value_name = "LABEL", requires = "token")]
    token_label: Option<String>,
    /// The token's serial number, where several have the same label
    #[arg(long, value_name = "SERIAL", requires = "token")]
    token_serial: Option<String>,
    /// Which keys are made there, such as ssh-user,x509-issuing; all by default, but the log's where
    /// the token has no Ed25519
    #[arg(
        long,
        value_name = "KIND,...",
        requires = "token",
        value_delimiter = ','
    )]
    token_keys: Vec<KeyKind>,
    /// Of which kind: ecdsa-p256, ecdsa-p384 or ed25519; the log's is always ed25519
    #[arg(long, value_name = "ALGORITHM", requires = "token", default_value = "ecdsa-p256",
          value_parser = algorithm)]
    token_algorithm: KeyAlgorithm,
    #[command(flatten)]
    pin: passphrase::PinSource,
}

/// Opens the token that was named, and sees whether it can hold the keys.
pub(super) fn open(args: Place) -> Result<Option<TokenKeys>, Failure> {
    let (Some(module), Some(label)) = (args.token, args.token_label) else {
        return Ok(None);
    };
    // Also found from where the server will be started. A bare name is the linker's to find.
    let module = if module.components().count() > 1 {
        std::path::absolute(&module)
            .map_err(|error| Failure::no_input(format!("--token {}: {error}", module.display())))?
    } else {
        module
    };
    let settings = TokenSettings {
        module,
        label,
        serial: args.token_serial,
    };
    let token = serve::open_token(settings, &args.pin)?;
    TokenKeys::new(token, &args.token_keys, args.token_algorithm)
        .map(Some)
        .map_err(Failure::config)
}

fn algorithm(word: &str) -> Result<KeyAlgorithm, String> {
    let mut algorithms = KeyAlgorithm::ALL.into_iter();
    algorithms
        .find(|algorithm| algorithm.as_str() == word)
        .ok_or_else(|| {
            let names = KeyAlgorithm::ALL.map(KeyAlgorithm::as_str).join(", ");
            format!("there is no such algorithm: give one of {names}")
        })
}
