//! What is asked for in `request`, `ssh` and `psql`.

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
