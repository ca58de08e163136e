//! `hallpass inspect`

use std::io::Read;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output::{Facts, both, length, print, print_json};
use crate::certificate::{Inspected, inspect};
use crate::client;
use crate::model::Timestamp;

/// The largest certificate file that makes sense.
const LARGEST: u64 = 1024 * 1024;

/// Show what a certificate says
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass inspect id-cert.pub
  psql ... | hallpass inspect -")]
pub(super) struct Args {
    /// An OpenSSH certificate (-cert.pub), or X.509 in PEM or DER; - for standard input
    file: PathBuf,
    /// Print JSON: one certificate a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let now = client::now();
    let name = args.file.display();
    let bytes = read(&args.file).map_err(|error| Failure::no_input(format!("{name}: {error}")))?;
    let seen = inspect(&bytes, now).map_err(|error| Failure::data(format!("{name}: {error}")))?;
    if args.json {
        return seen.iter().try_for_each(print_json);
    }
    let seen: Vec<String> = seen.iter().map(|one| in_words(one, now)).collect();
    print(seen.join("\n"))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(LARGEST).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?
            .take(LARGEST)
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn in_words(seen: &Inspected, now: Timestamp) -> String {
    let mut facts = Facts::new();
    facts.add("kind", seen.kind);
    facts.add("state", state(seen, now));
    facts.add_all("fault", &seen.faults);
    facts.add("serial", &seen.serial);
    facts.add(
        if seen.kind.starts_with("SSH") {
            "key id"
        } else {
            "subject"
        },
        &seen.subject,
    );
    facts.add_all("good for", &seen.good_for);
    facts.add(
        "from",
        seen.valid_after.map_or_else(|| "always".to_owned(), both),
    );
    facts.add(
        "until",
        seen.valid_before
            .map_or_else(|| "for ever".to_owned(), both),
    );
    facts.add_all("limited to", &seen.limits);
    facts.add_all("permits", &seen.permits);
    facts.add_all("fingerprint", &seen.fingerprint);
    facts.add("key", &seen.public_key);
    facts.add("signed by", &seen.signed_by);
    if !seen.signature_checked {
        facts.add("", "by its own word: the signature was not checked");
    }
    facts.to_string()
}

fn state(seen: &Inspected, now: Timestamp) -> String {
    match seen.valid_before {
        Some(before) if seen.state == "valid" => {
            format!("valid for another {}", length(before.distance(now)))
        }
        Some(before) if seen.state == "expired" => {
            format!("expired {} ago", length(before.distance(now)))
        }
        _ => seen.state.to_owned(),
    }
}
