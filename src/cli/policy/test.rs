//! `hallpass policy test`

use std::path::PathBuf;

use super::super::failure::Failure;
use super::super::output::{print, print_json};
use super::{Folder, all_of};
use crate::policy::Case;

/// Ask policies the requests of a table, and compare what they say with what they must
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy test cases.toml
  hallpass policy test policies/cases.toml policies --all-touched

Exit codes: 0 all as expected, 1 not")]
pub(in crate::cli) struct Args {
    /// The table; policies/cases.toml explains it
    table: PathBuf,
    #[command(flatten)]
    folder: Folder,
    /// Fail when there is a policy that decides no case
    #[arg(long)]
    all_touched: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let policy = args.folder.load()?;
    let table = &args.table;
    let text = std::fs::read_to_string(table)
        .map_err(|error| Failure::no_input(format!("{}: {error}", table.display())))?;
    let cases = Case::parse(table, &text).map_err(|errors| Failure::data(all_of(&errors)))?;
    let tested = policy.test(&cases);
    if args.json {
        print_json(&tested)?;
    } else {
        let mut text = String::new();
        for failed in &tested.failed {
            text += &format!(
                "{}:{}: {}: {}\n",
                table.display(),
                failed.line,
                failed.name,
                failed.said
            );
        }
        for policy in &tested.untouched {
            text += &format!("no case touches policy {policy}\n");
        }
        let passed = tested.cases - tested.failed.len();
        text += &format!("{passed} of {} cases as expected\n", tested.cases);
        print(text)?;
    }
    if tested.failed.is_empty() && (tested.untouched.is_empty() || !args.all_touched) {
        Ok(())
    } else {
        Err(Failure::no())
    }
}
