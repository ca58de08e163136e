//! `hallpass policy`

mod explain;

use super::Shown;
use super::failure::Failure;
use crate::model::PolicyInForce;

/// Check, test, prove, load and explain policies
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Reload(Reload),
    Explain(Box<explain::Args>),
}

/// Have the CA load its policies from their files
///
/// All or nothing: when anything in them is wrong, the old ones stay in force. The CA also does so by
/// itself when the files change, and on SIGHUP.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass policy reload")]
pub(super) struct Reload {
    #[command(flatten)]
    shown: Shown,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Reload(args) => reload(args),
        Command::Explain(args) => explain::run(*args),
    }
}

fn reload(args: Reload) -> Result<(), Failure> {
    let loaded: PolicyInForce = args.shown.open()?.post_nothing("/v1/policy/reload")?;
    args.shown.print(&loaded, |loaded| {
        if loaded.changed {
            format!("Loaded policy set {}.\n", loaded.policy_set)
        } else {
            format!(
                "Policy set {} was in force already: the files are the same.\n",
                loaded.policy_set
            )
        }
    })
}
