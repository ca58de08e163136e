//! `hallpass audit list` and `hallpass audit show`

use serde_json::Value;
use serde_json::value::RawValue;

use super::filter::FilterArgs;
use super::{FIRST_SERIAL, number};
use crate::cli::ClientArgs;
use crate::cli::entry::{in_words, row};
use crate::cli::failure::Failure;
use crate::cli::output::{Table, print, printable};
use crate::client::{Api, Query};
use crate::model::{AuditPage, EntryIndex};

/// How many entries are asked for at once.
const PAGE: usize = 1000;

/// List entries, oldest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit list --user bob --since 2026-01-31T00:00:00Z
  hallpass audit list --role patients-read --json")]
pub(in crate::cli) struct List {
    #[command(flatten)]
    filter: FilterArgs,
    /// Print JSON: one entry a line, as the log has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Show one entry whole
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit show 1042
  hallpass audit show 1180591620717411303")]
pub(in crate::cli) struct Show {
    /// An entry's place in the log, or the serial number of a certificate, as sshd's and
    /// PostgreSQL's logs have it
    #[arg(value_name = "SERIAL|ENTRY", value_parser = number)]
    number: u64,
    /// Print JSON: the entry as the log has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn list(args: List) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    if args.json {
        return each_page(&api, &args, |page| {
            let lines = page.iter().map(|entry| printable(entry.get()) + "\n");
            print(lines.collect::<String>())
        });
    }
    let mut table = Table::new([
        "ENTRY", "TIME", "KIND", "USER", "ROLE", "PURPOSE", "SERIAL", "DETAIL",
    ]);
    each_page(&api, &args, |page| {
        for entry in page {
            table.add(row(&value(entry)?));
        }
        Ok(())
    })?;
    print(table.to_string())
}

fn each_page(
    api: &Api,
    args: &List,
    mut with: impl FnMut(&[Box<RawValue>]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut from = None;
    loop {
        let target = args
            .filter
            .query("entries")
            .with("from", from)
            .with("limit", Some(PAGE));
        let page: AuditPage = api.get(target.as_str())?;
        with(&page.entries)?;
        match page.next {
            // Never back, or there would be no end.
            Some(EntryIndex(next)) if from.is_none_or(|before| next > before) => from = Some(next),
            _ => return Ok(()),
        }
    }
}

pub(super) fn show(args: &Show) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let place = if args.number >= FIRST_SERIAL {
        "serials"
    } else {
        "entries"
    };
    let target = Query::path(&["v1", "audit", place, &args.number.to_string()]);
    let entry: Box<RawValue> = api.get(target.as_str())?;
    if args.json {
        print(printable(entry.get()) + "\n")
    } else {
        print(in_words(&value(&entry)?))
    }
}

/// An entry, taken apart for people.
pub(super) fn value(entry: &RawValue) -> Result<Value, Failure> {
    serde_json::from_str(entry.get()).map_err(Failure::internal)
}
