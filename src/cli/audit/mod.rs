//! `hallpass audit`

mod archive;
mod export;
mod filter;
mod list;
mod proof;
mod tail;
mod verify;

use super::failure::Failure;

/// Serial numbers begin here; no log has as many entries.
const FIRST_SERIAL: u64 = 1 << 40;

/// Read the audit log, and check it
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(list::List),
    Show(list::Show),
    Tail(tail::Tail),
    Key(proof::Key),
    Checkpoint(proof::Newest),
    Prove(proof::Prove),
    Verify(verify::Verify),
    VerifyProof(proof::VerifyProof),
    Export(export::Args),
    Archive(archive::Args),
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::list(args),
        Command::Show(args) => list::show(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Key(args) => proof::key(&args),
        Command::Checkpoint(args) => proof::checkpoint(&args),
        Command::Prove(args) => proof::prove(&args),
        Command::Verify(args) => verify::run(&args),
        Command::VerifyProof(args) => proof::verify_proof(&args),
        Command::Export(args) => export::run(&args),
        Command::Archive(args) => archive::run(&args),
    }
}

fn number(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .map_err(|_| "use the decimal number of an entry or of a certificate")
}
