//! `hallpass psql`

use std::ffi::OsString;

use super::ClientArgs;
use super::ask::AskArgs;
use super::failure::Failure;
use crate::client::{self, Sessions};
use crate::model::RoleName;

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
    /// The role
    #[arg(long)]
    role: RoleName,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print help; -h is for psql
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// What psql is given, unchanged
    #[arg(
        value_name = "PSQL ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let session = Sessions::open(&folder, &api)?.database(&args.ask.of(args.role))?;
    Err(client::psql(&session, &args.arguments).into())
}
