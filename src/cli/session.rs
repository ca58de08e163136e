//! `hallpass session`

use super::failure::Failure;
use super::output::{Table, both, print, print_json};
use super::{ClientArgs, Shown};
use crate::client::Query;
use crate::model::SessionSummary;

/// See and end sessions
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(List),
    End(End),
}

/// List the sessions that last
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass session list --all")]
pub(super) struct List {
    /// Everybody's; for those who manage users
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    shown: Shown,
}

/// End a session at once
///
/// Your own, or anybody's if you manage users. Certificates that were issued stay good until they end.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass session end SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")]
pub(super) struct End {
    /// The session's key, as `hallpass session list` shows it
    #[arg(value_name = "SHA256:...")]
    fingerprint: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(&args),
        Command::End(args) => {
            let target = Query::path(&["v1", "sessions", &args.fingerprint]);
            args.client.open()?.1.delete(target.as_str())?;
            print(format!("Ended {}.\n", args.fingerprint))
        }
    }
}

fn list(args: &List) -> Result<(), Failure> {
    let target = Query::path(&["v1", "sessions"]).with("all", args.all.then_some(true));
    let sessions: Vec<SessionSummary> = args.shown.open()?.get(target.as_str())?;
    if args.shown.json {
        return sessions.iter().try_for_each(print_json);
    }
    let mut table = Table::new(["NAME", "WITH", "SECOND FACTOR", "FROM", "UNTIL", "KEY"]);
    for session in &sessions {
        table.add([
            session.name.to_string(),
            session.provider.to_string(),
            factor(session),
            session.source_address.clone(),
            session.expires.whole_secs().to_string(),
            session.fingerprint.clone(),
        ]);
    }
    print(table.to_string())
}

/// A session in a line.
pub(super) fn in_words(session: &SessionSummary) -> String {
    let until = both(session.expires.whole_secs());
    let mut words = format!("with {}, until {until}", session.provider);
    if session.mfa.is_some() {
        words += &format!(", second factor {}", factor(session));
    }
    words
}

fn factor(session: &SessionSummary) -> String {
    match &session.mfa {
        None => "none".to_owned(),
        // When it was shown is not known.
        Some(mfa) if mfa.age > 10 * 365 * 24 * 60 * 60 => "some time ago".to_owned(),
        Some(mfa) => format!("{} s ago", mfa.age),
    }
}
