//! `hallpass ssh`

use std::ffi::OsString;

use super::ClientArgs;
use super::ask::AskArgs;
use super::failure::Failure;
use crate::client::{self, Sessions};
use crate::model::RoleName;

/// Run ssh with a fresh certificate
///
/// The key lives in your ssh-agent for as long as the certificate is good, or in a private file
/// where there is no agent. A certificate that is still good for the same is used again.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "\
Examples:
  hallpass ssh --role server-operator --purpose incident --reason 'disk full' operator@app-1
  hallpass ssh --role deploy --purpose deploy -- -L 8080:localhost:80 deploy@app-1
  rsync -e 'hallpass ssh --role deploy --purpose deploy --' -a site/ deploy@app-1:site/"
)]
pub(super) struct Args {
    /// The role
    #[arg(long)]
    role: RoleName,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print help; -h is for ssh
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// What ssh is given, unchanged
    #[arg(
        value_name = "SSH ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) arguments: Vec<OsString>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let session = Sessions::open(&folder, &api)?.ssh(&args.ask.of(args.role))?;
    Err(client::ssh(&folder, &session, &args.arguments).into())
}
