//! `hallpass psql`

use super::ask::RunArgs;
use super::failure::Failure;
use crate::client::{self, Sessions};

/// Run psql with a fresh certificate
///
/// The server must prove itself with a certificate of this CA (sslmode=verify-full). A certificate
/// that is still good for the same is used again.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "\
Example:
  hallpass psql --role patients-read --purpose incident --reason INC-42 -- -h db-1 patients"
)]
pub(super) struct Args {
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (folder, api) = args.run.client.open()?;
    let (ask, arguments) = args.run.split();
    let session = Sessions::open(&folder, &api)?.database(&ask)?;
    Err(client::psql(&session, &arguments).into())
}
