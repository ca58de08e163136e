//! What is asked for in `request`, `ssh` and `psql`, and how the latter two take the rest.

use std::ffi::OsString;

use super::ClientArgs;
use crate::client::Ask;
use crate::model::{Purpose, Reason, RoleName, Ttl};

#[derive(clap::Args)]
pub(super) struct AskArgs {
    /// What for; one of the role's purposes
    #[arg(long)]
    purpose: Purpose,
    /// Why, in words or as a ticket number, as the role demands; kept in the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<Reason>,
    /// How long the certificate shall live, such as 90s, 15m or 8h; the role's default if left out
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    ttl: Option<Ttl>,
}

impl AskArgs {
    pub(super) fn of(self, role: RoleName) -> Ask {
        Ask {
            role,
            purpose: self.purpose,
            reason: self.reason,
            ttl: self.ttl,
        }
    }
}

/// What `hallpass ssh` and `hallpass psql` take before the program's own arguments.
#[derive(clap::Args)]
pub(super) struct RunArgs {
    /// The role
    #[arg(long)]
    role: RoleName,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    pub(super) client: ClientArgs,
    /// Print help; -h is for the program
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// What the program is given, unchanged
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) arguments: Vec<OsString>,
}

impl RunArgs {
    /// What to ask for, and the program's own arguments.
    pub(super) fn split(self) -> (Ask, Vec<OsString>) {
        (self.ask.of(self.role), self.arguments)
    }
}
