//! `hallpass audit export`

use std::path::PathBuf;

use crate::audit::Format;
use crate::cli::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::client::Export;
use crate::model::Timestamp;

/// Write the entries of a time to a file, with the proof that they are all
///
/// The file holds every entry from the first to the last of that time, and FILE.proof what proves
/// it: `hallpass audit verify-proof FILE.proof` checks both without the CA.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit export --out 2026-01.jsonl --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z
  hallpass audit export --out log.csv --format csv")]
pub(in crate::cli) struct Args {
    /// The file to write, which must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// jsonl: one entry a line, as the log has it; csv: for spreadsheets; ocsf: events of the Open
    /// Cybersecurity Schema Framework
    #[arg(long, value_name = "jsonl|csv|ocsf", default_value = "jsonl")]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let export = Export {
        file: &args.out,
        format: args.format,
        since: args.since,
        until: args.until,
    };
    let exported = export.run(&folder, &api)?;
    let (count, out) = (exported.next - exported.first, args.out.display());
    print(format!(
        "{count} {} from {} on, of the {} that the log has, are in {out}.\nThe proof that none is \
         missing or changed is {}.\n",
        if count == 1 { "entry" } else { "entries" },
        exported.first,
        exported.size,
        exported.proof.display(),
    ))
}
