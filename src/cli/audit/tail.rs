//! `hallpass audit tail`

use std::collections::VecDeque;
use std::io::{self, Write};

use clap::builder::TypedValueParser;
use serde_json::value::RawValue;

use super::FIRST_SERIAL;
use super::filter::FilterArgs;
use super::list::value;
use crate::cli::ClientArgs;
use crate::cli::entry::row;
use crate::cli::failure::Failure;
use crate::cli::output::{clean, print, printable};
use crate::client::{Api, Follower, History, News};
use crate::model::{AuditPage, EntryIndex};

/// How many entries are shown when nothing says from where.
const LAST: usize = 10;
/// How many entries are looked at first to find them, and how much farther back each time.
const FIRST_LOOK: u64 = 64;
const FARTHER: u64 = 8;
/// How many entries are asked for at once.
const PAGE: usize = 1000;

/// Show the newest entries, and follow the log
///
/// Prints the last ten entries that match, one a line. With --follow it goes on with each entry as
/// it is committed, until it is interrupted; when the connection breaks, it connects again and goes
/// on where it was.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit tail
  hallpass audit tail --follow --role patients-read
  hallpass audit tail --follow --json --from 1042")]
pub(in crate::cli) struct Tail {
    /// Go on with each entry as it is committed
    #[arg(long, short)]
    follow: bool,
    /// Begin at this entry, instead of the last ten
    #[arg(long, value_name = "ENTRY", value_parser = entry_index())]
    from: Option<EntryIndex>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print JSON: one entry a line, as the log has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Tail {
    /// An entry's line.
    fn line(&self, entry: &RawValue) -> Result<String, Failure> {
        if self.json {
            return Ok(printable(entry.get()) + "\n");
        }
        let [index, time, kind, user, role, purpose, serial, detail] = row(&value(entry)?);
        let mut line = format!("{index:>6}  {time:<24}  {kind:<26}");
        for word in [user, role, purpose, serial, detail] {
            line.push_str("  ");
            line.push_str(if word.is_empty() { "-" } else { &word });
        }
        Ok(clean(&line).into_owned() + "\n")
    }
}

fn entry_index() -> impl TypedValueParser<Value = EntryIndex> {
    clap::value_parser!(u64)
        .range(..FIRST_SERIAL)
        .map(EntryIndex)
}

pub(super) fn run(args: &Tail) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    if args.follow {
        end_with_reader();
    }
    let from = match args.from {
        Some(from) => from,
        None => {
            let size = History::new(&folder, &api).newest()?.size;
            let mut lines = String::new();
            for entry in last(&api, args, size)? {
                lines += &args.line(&entry)?;
            }
            print(lines)?;
            EntryIndex(size)
        }
    };
    if !args.follow {
        return match args.from {
            Some(_) => each_page(&api, args, from, None, |entry| print(args.line(&entry)?)),
            None => Ok(()),
        };
    }
    let mut follower = Follower::start(&folder, &api, args.filter.query("tail"), from)?;
    loop {
        match follower.wait()? {
            News::Entry(_, entry) => print(args.line(&entry)?)?,
            News::Lost(why) => say(&format!("the connection was lost: {why}; trying again")),
            News::Refused(why) => say(&format!("{why}; trying again")),
            News::Regained => say("the connection is back"),
        }
    }
}

/// The last entries that match, of the first `size`.
fn last(api: &Api, args: &Tail, size: u64) -> Result<VecDeque<Box<RawValue>>, Failure> {
    let mut look = FIRST_LOOK;
    loop {
        let from = size.saturating_sub(look);
        let mut found = VecDeque::with_capacity(LAST + 1);
        each_page(api, args, EntryIndex(from), Some(size), |entry| {
            found.push_back(entry);
            if found.len() > LAST {
                found.pop_front();
            }
            Ok(())
        })?;
        if found.len() == LAST || from == 0 {
            return Ok(found);
        }
        look = look.saturating_mul(FARTHER);
    }
}

/// Gives each entry that matches, from one index on and before another.
fn each_page(
    api: &Api,
    args: &Tail,
    from: EntryIndex,
    before: Option<u64>,
    mut with: impl FnMut(Box<RawValue>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut from = from.0;
    loop {
        let target = args
            .filter
            .query("entries")
            .with("from", Some(from))
            .with("limit", Some(PAGE));
        let page: AuditPage = api.get(target.as_str())?;
        for entry in page.entries {
            let index = value(&entry)?["index"].as_u64();
            if before.is_some_and(|before| index.is_none_or(|index| index >= before)) {
                return Ok(());
            }
            with(entry)?;
        }
        match page.next {
            // Never back, or there would be no end.
            Some(EntryIndex(next)) if next > from => from = next,
            _ => return Ok(()),
        }
    }
}

/// A word to whoever runs it. When it can't be said, the entries still go on.
fn say(what: &str) {
    writeln!(io::stderr(), "hallpass: {}", clean(what)).ok();
}

/// Ends the program without complaint once nobody can read what it prints any more, also while
/// there is nothing to print.
fn end_with_reader() {
    std::thread::spawn(|| {
        let mut stdout = libc::pollfd {
            fd: libc::STDOUT_FILENO,
            // An error or a hang-up is told without being asked for.
            events: 0,
            revents: 0,
        };
        loop {
            // SAFETY: one descriptor, which outlives the call.
            let ready = unsafe { libc::poll(&raw mut stdout, 1, -1) };
            if ready > 0 {
                std::process::exit(0);
            }
        }
    });
}
