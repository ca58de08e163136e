//! `hallpass whoami`

use super::ClientArgs;
use super::failure::Failure;
use super::output::{Facts, print, print_json};
use super::session::in_words as session_in_words;
use crate::model::{GroupName, Identity};

/// Show who the CA takes you for
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass whoami")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let identity: Identity = api.get("/v1/whoami")?;
    if args.json {
        return print_json(&identity);
    }
    let mut facts = Facts::new();
    facts.add("name", &identity.name);
    let groups: Vec<&str> = identity.groups.iter().map(GroupName::as_str).collect();
    facts.add(
        "groups",
        if groups.is_empty() {
            "none".to_owned()
        } else {
            groups.join(", ")
        },
    );
    facts.add("key", &identity.fingerprint);
    facts.add("from", &identity.source_address);
    if let Some(session) = &identity.session {
        facts.add("signed in", session_in_words(session));
    }
    print(facts.to_string())
}
