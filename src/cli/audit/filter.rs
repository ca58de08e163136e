//! Which entries `hallpass audit list` and `tail` show.

use crate::client::Query;
use crate::model::{Purpose, RoleName, Serial, Timestamp, UserName};

#[derive(clap::Args)]
pub(super) struct FilterArgs {
    /// Who asked, or whom it was done to
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    /// The role asked for
    #[arg(long)]
    role: Option<RoleName>,
    /// The purpose asked for
    #[arg(long)]
    purpose: Option<Purpose>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// The certificate's serial number
    #[arg(long)]
    serial: Option<Serial>,
}

impl FilterArgs {
    /// The request for what fits, at a path below `/v1/audit`.
    pub(super) fn query(&self, path: &str) -> Query {
        Query::path(&["v1", "audit", path])
            .with("user", self.user.as_ref())
            .with("role", self.role.as_ref())
            .with("purpose", self.purpose.as_ref())
            .with("since", self.since)
            .with("until", self.until)
            .with("serial", self.serial)
    }
}
