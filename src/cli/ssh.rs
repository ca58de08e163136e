//! `hallpass ssh`

use super::ask::RunArgs;
use super::failure::Failure;
use crate::client::{self, Sessions};

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
    #[command(flatten)]
    pub(super) run: RunArgs,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (folder, api) = args.run.client.open()?;
    let (ask, arguments) = args.run.split();
    let session = Sessions::open(&folder, &api)?.ssh(&ask)?;
    Err(client::ssh(&folder, &session, &arguments).into())
}
