//! `hallpass role`

use super::ClientArgs;
use super::failure::Failure;
use super::output::{Facts, print, print_json};
use crate::model::RoleSummary;

/// See what you may ask for
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(List),
}

/// List the roles that you may ask for, with their purposes and longest lifetimes
///
/// Policy is asked without a reason: what it grants for certain reasons only is not listed, and
/// `hallpass policy explain --reason TEXT` tells of it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass role list")]
pub(super) struct List {
    /// Print JSON: one role a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    let Command::List(args) = command;
    let (_, api) = args.client.open()?;
    let roles: Vec<RoleSummary> = api.get("/v1/roles")?;
    if args.json {
        return roles.iter().try_for_each(print_json);
    }
    if roles.is_empty() {
        return print(
            "Policy grants you no role before it knows a reason: ask an administrator for a group.\n",
        );
    }
    let sections: Vec<String> = roles.iter().map(section).collect();
    print(sections.join("\n"))
}

fn section(role: &RoleSummary) -> String {
    let mut facts = Facts::new();
    facts.add(role.name.as_str(), &role.description);
    let kind = if role.kind == "ssh" {
        "  logs in as"
    } else {
        "  database user"
    };
    facts.add(kind, role.good_for.join(", "));
    if !role.places.is_empty() {
        facts.add("  meant for", role.places.join(", "));
    }
    facts.add_all(
        "  purposes",
        role.purposes.iter().map(|one| {
            let needs = match one.approvals {
                0 => String::new(),
                1 => ", needs approval".to_owned(),
                approvals => format!(", needs {approvals} approvals"),
            };
            format!("{} (at most {}{needs})", one.name, one.max_ttl)
        }),
    );
    facts.add("  without --ttl", role.default_ttl);
    facts.add("  reason", &role.reason);
    facts.to_string()
}
