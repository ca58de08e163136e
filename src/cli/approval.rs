//! `hallpass approval`

use super::Shown;
use super::failure::Failure;
use super::output::{Table, both, print, print_json};
use crate::client::Query;
use crate::model::{GivenApproval, UserName, WaitingRequest};

/// Approve what others ask for
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Give(Give),
}

/// List the requests that wait for an approval which you may give, and your own
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass approval list")]
pub(super) struct List {
    #[command(flatten)]
    shown: Shown,
}

/// Approve what another asked for
///
/// It counts for exactly that request, for as long as that may live, and an hour at most: whoever asked
/// asks again, with the same role, purpose, reason and lifetime.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass approval give 1042")]
pub(super) struct Give {
    /// The number that whoever asked was told, as `hallpass approval list` shows it
    #[arg(value_name = "ENTRY")]
    entry: u64,
    #[command(flatten)]
    shown: Shown,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(&args),
        Command::Give(args) => give(&args),
    }
}

fn list(args: &List) -> Result<(), Failure> {
    let waiting: Vec<WaitingRequest> = args.shown.open()?.get("/v1/approvals")?;
    if args.shown.json {
        return waiting.iter().try_for_each(print_json);
    }
    if waiting.is_empty() {
        return print("Nothing waits for your approval.\n");
    }
    let mut table = Table::new([
        "ENTRY",
        "WHO",
        "ROLE",
        "PURPOSE",
        "TTL",
        "REASON",
        "NEEDS",
        "APPROVED BY",
        "UNTIL",
    ]);
    for one in waiting {
        let approved: Vec<&str> = one.approved_by.iter().map(UserName::as_str).collect();
        table.add([
            one.entry.to_string(),
            one.requester.to_string(),
            one.role.to_string(),
            one.purpose.to_string(),
            one.ttl.to_string(),
            one.reason
                .map_or_else(String::new, |reason| reason.to_string()),
            one.needs.to_string(),
            approved.join(", "),
            one.until.whole_secs().to_string(),
        ]);
    }
    print(table.to_string())
}

fn give(args: &Give) -> Result<(), Failure> {
    let target = Query::path(&["v1", "approvals", &args.entry.to_string()]);
    let given: GivenApproval = args.shown.open()?.post_nothing(target.as_str())?;
    args.shown.print(&given, |given| {
        let WaitingRequest {
            requester,
            role,
            purpose,
            ttl,
            needs,
            approved_by,
            ..
        } = &given.request;
        let until = both(given.expires.whole_secs());
        let missing = (*needs as usize).saturating_sub(approved_by.len());
        let next = match missing {
            0 => format!("{requester} may ask again"),
            missing => format!("{missing} more must approve it"),
        };
        format!("Approved {role} for {purpose}, {ttl}, by {requester} until {until}: {next}.\n")
    })
}
