//! `hallpass audit`

use super::ClientArgs;
use super::entry::{in_words, row};
use super::failure::Failure;
use super::output::{Table, json, print, print_json};
use crate::client::{Api, Query};
use crate::model::{AuditPage, EntryIndex, Purpose, RoleName, Serial, Timestamp, UserName};

/// How many entries are asked for at once.
const PAGE: usize = 1000;
/// Serial numbers begin here; no log has as many entries.
const FIRST_SERIAL: u64 = 1 << 40;

/// Read the audit log
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Show(Show),
}

/// List entries, oldest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit list --user bob --since 2026-01-31T00:00:00Z
  hallpass audit list --role patients-read --json")]
pub(super) struct List {
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
pub(super) struct Show {
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

fn number(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .map_err(|_| "use the decimal number of an entry or of a certificate")
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args),
        Command::Show(args) => show(&args),
    }
}

fn list(args: List) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    if args.json {
        return each_page(&api, &args, |page| {
            let lines: Result<String, Failure> = page.iter().map(json).collect();
            print(lines?)
        });
    }
    let mut table = Table::new([
        "ENTRY", "TIME", "KIND", "USER", "ROLE", "PURPOSE", "SERIAL", "DETAIL",
    ]);
    each_page(&api, &args, |page| {
        page.iter().for_each(|entry| table.add(row(entry)));
        Ok(())
    })?;
    print(table.to_string())
}

fn each_page(
    api: &Api,
    args: &List,
    mut with: impl FnMut(&[serde_json::Value]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut from = None;
    loop {
        let target = Query::path(&["v1", "audit", "entries"])
            .with("user", args.user.as_ref())
            .with("role", args.role.as_ref())
            .with("purpose", args.purpose.as_ref())
            .with("since", args.since)
            .with("until", args.until)
            .with("serial", args.serial)
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

fn show(args: &Show) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let place = if args.number >= FIRST_SERIAL {
        "serials"
    } else {
        "entries"
    };
    let target = Query::path(&["v1", "audit", place, &args.number.to_string()]);
    let entry: serde_json::Value = api.get(target.as_str())?;
    if args.json {
        print_json(&entry)
    } else {
        print(in_words(&entry))
    }
}
