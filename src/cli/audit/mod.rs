//! `hallpass audit`

mod filter;
mod list;
mod proof;
mod tail;

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
    Prove(proof::Prove),
    VerifyProof(proof::VerifyProof),
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::list(args),
        Command::Show(args) => list::show(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Key(args) => proof::key(&args),
        Command::Prove(args) => proof::prove(&args),
        Command::VerifyProof(args) => proof::verify_proof(&args),
    }
}

fn number(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .map_err(|_| "use the decimal number of an entry or of a certificate")
}
