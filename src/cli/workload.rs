//! `hallpass workload`

use std::path::PathBuf;

use super::failure::Failure;
use super::output::{print, print_json};
use super::session::in_words;
use crate::client::{IdToken, workload_login};

/// Say who a job or a service is
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Login(Login),
}

/// Begin a session with the token by which this job's platform vouches for it
///
/// The token is that in FILE, else in HALLPASS_ID_TOKEN, else the one that GitHub gives to jobs with the
/// permission `id-token: write`. It is good once.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass workload login
  hallpass request --role web-deploy --purpose deploy --out .")]
pub(super) struct Login {
    /// A file with the token, as Kubernetes and SPIFFE helpers write it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Whom the token that GitHub gives is for; the CA's address when left out
    #[arg(long)]
    audience: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: Command, token: IdToken) -> Result<(), Failure> {
    let Command::Login(args) = command;
    let session = workload_login(token, args.token_file.as_deref(), args.audience.as_deref())?;
    if args.json {
        return print_json(&session);
    }
    print(format!(
        "Signed in as {}: {}.\n",
        session.name,
        in_words(&session)
    ))
}
