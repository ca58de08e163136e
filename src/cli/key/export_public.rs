//! `hallpass key export-public`

use std::str::FromStr;

use super::keys;
use crate::cli::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::output::{clean, print};
use crate::model::{Invalid, KeyId, KeyKind};

/// Print the public part of keys: OpenSSH lines, certificates in PEM, a verifier key
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass key export-public ssh-user-2
  hallpass key export-public ssh-user     (all that are trusted, the one that signs among them)
  hallpass key export-public x509-issuing")]
pub(in crate::cli) struct Args {
    /// A key, or a kind; all that are trusted when left out
    #[arg(value_name = "KEY|KIND")]
    which: Option<Which>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy)]
enum Which {
    Key(KeyId),
    Kind(KeyKind),
}

impl FromStr for Which {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self::Kind).or_else(|kind: Invalid| {
            // Who ends it with a number means a key.
            text.parse().map(Self::Key).map_err(|key: Invalid| {
                let numbered = text.ends_with(|last: char| last.is_ascii_digit());
                if numbered { key } else { kind }
            })
        })
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let shown = keys(&args.client.open()?.1)?;
    let mut found = false;
    for key in &shown {
        let fits = match args.which {
            Some(Which::Key(id)) => key.key == id,
            Some(Which::Kind(kind)) => key.key.kind == kind && key.state.is_trusted(),
            None => key.state.is_trusted(),
        };
        if fits {
            found = true;
            let lines = key.public.lines();
            print(lines.map(|line| clean(line) + "\n").collect::<String>())?;
        }
    }
    match args.which {
        Some(Which::Key(key)) if !found => Err(Failure::data(format!(
            "there is no key {key}: `hallpass key list --all` shows all"
        ))),
        _ => Ok(()),
    }
}
