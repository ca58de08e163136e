//! `hallpass audit archive`

use crate::cli::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::model::{ArchiveAnswer, ArchiveRequest, Timestamp};

/// Move old entries out of the database into compressed files
///
/// They stay in the log: they are listed, shown, proven and exported as before, out of the files in
/// the home's `archive` folder. The newest 1000 entries stay in the database, and those that say who
/// may do what.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass audit archive --before 2026-01-01T00:00:00Z")]
pub(in crate::cli) struct Args {
    /// Entries from before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    before: Timestamp,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let ask = ArchiveRequest {
        before: args.before,
    };
    let mut count = 0;
    loop {
        let answer: ArchiveAnswer = api.post("/v1/audit/archive", &ask)?;
        let Some(file) = answer.archived else {
            break;
        };
        count += 1;
        print(format!(
            "entries {} to {} are in archive/{}\n  sha256 {}\n",
            file.first,
            file.next.saturating_sub(1),
            file.file,
            file.sha256
        ))?;
        if !answer.more {
            break;
        }
    }
    if count == 0 {
        return print(
            "Nothing to archive: less than 256 entries are older that are not among the newest.\n",
        );
    }
    print("Back them up: what is in these files is no longer in the database.\n")
}
