//! `hallpass audit key`, `prove` and `verify-proof`

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use super::{FIRST_SERIAL, number};
use crate::audit::{Checkpoint, EntryProof, ExportError, ExportProof, VerifierKey};
use crate::cli::ClientArgs;
use crate::cli::entry::in_words;
use crate::cli::failure::Failure;
use crate::cli::output::{both, print};
use crate::client::{ConfigFolder, History, Query, write_private};
use crate::model::Timestamp;

/// Print the key by which others verify the log's checkpoints
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass audit key > hallpass.vkey")]
pub(in crate::cli) struct Key {
    /// Also the one that takes its place or that it took the place of, while the key is rotated
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Print the newest checkpoint of the log
///
/// Its signature is checked, and that it continues the newest one that was seen before. Kept, it
/// shows later whether the log was changed since.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass audit checkpoint > checkpoint-of-today")]
pub(in crate::cli) struct Newest {
    #[command(flatten)]
    client: ClientArgs,
}

/// Prove that an entry is in the log
///
/// The proof holds the entry, a signed checkpoint and the hashes in between (C2SP tlog-proof):
/// whoever has the log's key can check it without the CA.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit prove 1042 --out 1042.tlog-proof
  hallpass audit prove 1180591620717411303
  hallpass audit prove 1042 --witness KEY --out 1042.tlog-proof")]
pub(in crate::cli) struct Prove {
    /// An entry's place in the log, or the serial number of a certificate
    #[arg(value_name = "SERIAL|ENTRY", value_parser = number)]
    number: u64,
    /// Write it to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Prove it by a checkpoint that this witness cosigned; more than once for several
    #[arg(long, value_name = "KEY")]
    witness: Vec<VerifierKey>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Check a proof, or an export, without the CA
///
/// Reads a file from `hallpass audit prove` and shows the entry that it proves; or FILE.proof from
/// `hallpass audit export`, and proves FILE beside it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit verify-proof 1042.tlog-proof
  hallpass audit verify-proof 2026-01.jsonl.proof
  hallpass audit verify-proof 1042.tlog-proof --key \"$(cat hallpass.vkey)\" --witness KEY")]
pub(in crate::cli) struct VerifyProof {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The log's key, as `hallpass audit key` prints it; that of the CA that this account is
    /// connected to when left out
    #[arg(long, value_name = "KEY")]
    key: Option<VerifierKey>,
    /// Demand that this witness cosigned the checkpoint, too; more than once for several
    #[arg(long, value_name = "KEY")]
    witness: Vec<VerifierKey>,
}

pub(super) fn key(args: &Key) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let known = api.log_keys();
    if !args.all {
        return print(format!("{}\n", known.first()));
    }
    let keys = known.now().into_iter();
    print(keys.map(|key| format!("{key}\n")).collect::<String>())
}

pub(super) fn checkpoint(args: &Newest) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    print(History::new(&folder, &api).newest()?.note())
}

pub(super) fn prove(args: &Prove) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let place = if args.number >= FIRST_SERIAL {
        "serials"
    } else {
        "entries"
    };
    let number = args.number.to_string();
    let names: Vec<&str> = args.witness.iter().map(VerifierKey::name).collect();
    let names = (!names.is_empty()).then(|| names.join("+"));
    let target = Query::path(&["v1", "log", "proofs", place, &number]).with("witness", names);
    let text = api.get_text(target.as_str())?;
    let proof: EntryProof = text.parse().map_err(Failure::log)?;
    let history = History::new(&folder, &api);
    let keys = history.keys_of(&proof.note)?;
    let checkpoint = proof.check(&keys).map_err(Failure::log)?;
    for witness in &args.witness {
        cosigned(&checkpoint, witness).map_err(Failure::log)?;
    }
    history.follow(&checkpoint)?;
    match &args.out {
        Some(path) => Ok(write_private(path, text.as_bytes())?),
        None => print(text),
    }
}

pub(super) fn verify_proof(args: &VerifyProof) -> Result<(), Failure> {
    let [log, now] = known(args)?;
    let path = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::no_input(format!("{path}: {error}")))?;
    if ExportProof::is_one(&text) {
        return verify_export(args, [&log, &now], &text);
    }
    let wrong = |error: &dyn std::fmt::Display| Failure::log(format!("{path}: {error}"));
    let proof: EntryProof = text
        .parse()
        .map_err(|error| Failure::data(format!("{path}: {error}")))?;
    let checkpoint = proof.check(&log).map_err(|error| wrong(&error))?;
    let proven = format!(
        "Proven: entry {} of the {} that {} had.\n",
        proof.index.0,
        checkpoint.size,
        log[0].name()
    );
    let witnessed = signed_before(&now, &checkpoint).to_owned() + &witnessed(args, &checkpoint)?;
    let entry = serde_json::from_str(&proof.entry).map_err(|error| wrong(&error))?;
    print(format!("{proven}{witnessed}\n{}", in_words(&entry)))
}

fn verify_export(
    args: &VerifyProof,
    [log, now]: [&[VerifierKey]; 2],
    text: &str,
) -> Result<(), Failure> {
    let path = args.file.display();
    let proof: ExportProof = text
        .parse()
        .map_err(|error| Failure::data(format!("{path}: {error}")))?;
    let checkpoint = proof
        .checkpoint(log)
        .map_err(|error| Failure::log(format!("{path}: {error}")))?;
    // Beside the proof, whatever the two were renamed to.
    if args.file.extension().is_none_or(|ending| ending != "proof") {
        return Err(Failure::no_input(format!(
            "{path}: the proof of FILE is called FILE.proof: rename it"
        )));
    }
    let data = args.file.with_extension("");
    let file = File::open(&data)
        .map_err(|error| Failure::no_input(format!("{}: {error}", data.display())))?;
    let checked = proof.check(&checkpoint, BufReader::new(file));
    checked.map_err(|error| {
        let message = format!("{}: {error}", data.display());
        match error {
            ExportError::Line { .. } | ExportError::NoProof => Failure::data(message),
            ExportError::File(_) => Failure::no_input(message),
            ExportError::Misplaced { .. }
            | ExportError::Short { .. }
            | ExportError::Long { .. }
            | ExportError::Unproven(_) => Failure::log(message),
        }
    })?;
    let witnessed = signed_before(now, &checkpoint).to_owned() + &witnessed(args, &checkpoint)?;
    let what = match proof.next - proof.first {
        0 => format!("{} has no entries", data.display()),
        1 => format!("{} is entry {}", data.display(), proof.first),
        _ => format!(
            "{} is all entries from {} to {}",
            data.display(),
            proof.first,
            proof.next - 1
        ),
    };
    print(format!(
        "Proven: {what}, of the {} that {} had.\n{witnessed}",
        checkpoint.size,
        log[0].name()
    ))
}

/// The log's keys to verify with, and those of them that sign now.
fn known(args: &VerifyProof) -> Result<[Vec<VerifierKey>; 2], Failure> {
    if let Some(key) = &args.key {
        return Ok([vec![key.clone()], vec![key.clone()]]);
    }
    // What was proven once may be signed by a key that was retired since.
    let known = ConfigFolder::locate()?.load()?.log;
    Ok([known.ever(), known.now()])
}

/// A line when a key signed it that others have taken the place of: whoever got hold of that since
/// could have signed as well.
fn signed_before(now: &[VerifierKey], checkpoint: &Checkpoint) -> &'static str {
    match Checkpoint::open(checkpoint.note(), now) {
        Ok(_) => "",
        Err(_) => "Signed by a key that was the log's before.\n",
    }
}

/// A line for each witness that is demanded.
fn witnessed(args: &VerifyProof, checkpoint: &Checkpoint) -> Result<String, Failure> {
    let wrong =
        |error: &dyn std::fmt::Display| Failure::log(format!("{}: {error}", args.file.display()));
    let mut lines = String::new();
    for witness in &args.witness {
        let time = cosigned(checkpoint, witness).map_err(|error| wrong(&error))?;
        let time = both(Timestamp::from_secs(time));
        lines += &format!("Cosigned by {} at {time}.\n", witness.name());
    }
    Ok(lines)
}

/// When a witness cosigned a checkpoint, in seconds since 1970.
fn cosigned(checkpoint: &Checkpoint, witness: &VerifierKey) -> Result<u64, String> {
    let time = checkpoint.cosigned_by(witness);
    time.map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{} did not cosign its checkpoint", witness.name()))
}
