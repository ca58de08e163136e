//! `hallpass audit verify`

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::audit::{
    Checkpoint, CheckpointError, Database, Entries, Expected, Reader, StoreError, Stored, Verified,
    VerifierKey, Wrong, verify,
};
use crate::authority::Home;
use crate::cli::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::output::{both, print};
use crate::client::{Api, ApiError, History, now};
use crate::identity::MAX_SKEW;
use crate::model::{EntryIndex, Timestamp};

/// How long an entry may wait for a witness's cosignature.
const LAG: Duration = Duration::from_secs(600);
/// How many entries a bundle of the API has.
const BUNDLE: u64 = 256;

/// Verify the whole log
///
/// Computes everything anew from the entries: their hashes and the tree, their order, the serial
/// numbers, and the signatures of the certificates by the CA keys that the log itself introduced.
/// Names the first entry that does not fit. Entries come from the CA, or from its database with
/// --home.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass audit verify
  hallpass audit verify --since checkpoint-of-last-year --witness KEY
  hallpass audit verify --home /var/lib/hallpass --key \"$(cat hallpass.vkey)\"")]
pub(in crate::cli) struct Verify {
    /// Read the database of this home, on the CA's machine, beside the server or without it, and
    /// check by what it finds entries
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The log's key, as `hallpass audit key` prints it; left out: what this account knows of the
    /// CA, or with --home what lies there, which an intruder could have replaced
    #[arg(long, value_name = "KEY")]
    key: Option<VerifierKey>,
    /// A checkpoint from before, as `hallpass audit checkpoint` prints it: the log must continue
    /// it. More than once for several
    #[arg(long, value_name = "CHECKPOINT-FILE")]
    since: Vec<PathBuf>,
    /// Demand that this witness cosigned the log, all but the last ten minutes of it. More than
    /// once for several
    #[arg(long, value_name = "KEY")]
    witness: Vec<VerifierKey>,
    /// Leave out the signatures of the certificates, which take most of the time
    #[arg(long)]
    no_certificates: bool,
    /// Show how far it is, also where standard error is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Verify) -> Result<(), Failure> {
    match &args.home {
        Some(home) => in_home(args, &Home::new(home)),
        None => from_ca(args),
    }
}

fn unopened(error: StoreError) -> Failure {
    match error {
        StoreError::Altered { .. } => Failure::log(error),
        error => Failure::no_input(error),
    }
}

fn in_home(args: &Verify, home: &Home) -> Result<(), Failure> {
    let keys = match &args.key {
        Some(key) => vec![key.clone()],
        None => home.log_keys().map_err(Failure::no_input)?,
    };
    explain_bus_error();
    let path = home.database();
    let reader = Reader::open(&path).map_err(unopened)?;
    let cosigned = args.witness.iter().map(|witness| {
        let note = reader.cosigned(witness.name()).map_err(Failure::no_input)?;
        let none = || Failure::log(format!("{} has not cosigned this log", witness.name()));
        of_log(&note.ok_or_else(none)?, &keys)
            .map_err(|error| Failure::log(format!("what {} saw: {error}", witness.name())))
    });
    let cosigned = cosigned.collect::<Result<Vec<_>, _>>()?;
    let database = Database::open(&path).map_err(unopened)?;
    let note = database.newest().map_err(Failure::no_input)?;
    let note = note.ok_or_else(|| Failure::log("the log has no checkpoint"))?;
    let newest = of_log(&note, &keys)
        .map_err(|error| Failure::log(format!("the newest checkpoint: {error}")))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let verified = check(args, &database, &newest, &cosigned, &keys, threads)?;
    let last = database.last().map_err(Failure::no_input)?;
    // While a server writes, there is more by now, and a newer checkpoint with it.
    let grown = database.newest().map_err(Failure::no_input)? != Some(note);
    if last.is_some_and(|last| last >= newest.size) && !grown {
        return Err(Failure::log(Wrong::Unsigned { index: newest.size }));
    }
    say(args, &verified, &newest, &cosigned)
}

/// Says what the signal means that ends the process when a page of the mapped database can't be
/// read (mmap(2)).
fn explain_bus_error() {
    extern "C" fn explain(_: libc::c_int) {
        const MESSAGE: &[u8] =
            b"\nhallpass: a part of the database can't be read: somebody cut the \
            file off meanwhile, or the disk fails (the kernel's log tells, `dmesg`); nothing is \
            verified. Keep the file, and restore a backup\n";
        // SAFETY: both may be called in a signal's handler (signal-safety(7)), and MESSAGE is as long
        // as is said.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(Failure::NO_INPUT.into());
        }
    }
    let explain: extern "C" fn(libc::c_int) = explain;
    // SAFETY: the handler does nothing that a handler may not.
    unsafe { libc::signal(libc::SIGBUS, explain as libc::sighandler_t) };
}

fn from_ca(args: &Verify) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let history = History::new(&folder, &api);
    // Before the newest, which then is not older.
    let cosigned = args.witness.iter().map(|witness| history.cosigned(witness));
    let cosigned = cosigned.collect::<Result<Vec<_>, _>>()?;
    let newest = history.newest()?;
    let known = api.log_keys();
    let name = known.first().name();
    let keys = match &args.key {
        Some(key) if key.name() != name => {
            return Err(Failure::log(format!(
                "this account is connected to the CA of the log {name}, not of {}",
                key.name()
            )));
        }
        Some(key) => vec![key.clone()],
        None => known.now(),
    };
    let verified = check(args, &Remote(&api), &newest, &cosigned, &keys, 1)?;
    say(args, &verified, &newest, &cosigned)
}

/// Reads a checkpoint of a log. Which of its keys should have signed it, only its entries tell.
fn of_log(note: &str, keys: &[VerifierKey]) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = Checkpoint::unchecked(note)?;
    let origin = Checkpoint::origin(note);
    for key in keys {
        if key.name() != origin {
            return Err(CheckpointError::AnotherLog {
                origin: origin.to_owned(),
                expected: key.name().to_owned(),
            });
        }
        checkpoint.is_signed_by(key)?;
    }
    Ok(checkpoint)
}

fn check(
    args: &Verify,
    entries: &impl Entries,
    newest: &Checkpoint,
    cosigned: &[Checkpoint],
    keys: &[VerifierKey],
    threads: usize,
) -> Result<Verified, Failure> {
    let mut earlier = cosigned.to_vec();
    for path in &args.since {
        let name = path.display();
        let note = std::fs::read_to_string(path)
            .map_err(|error| Failure::no_input(format!("{name}: {error}")))?;
        let checkpoint =
            of_log(&note, keys).map_err(|error| Failure::data(format!("{name}: {error}")))?;
        if checkpoint.size > newest.size {
            return Err(Failure::log(Wrong::Shorter {
                entries: newest.size,
                before: checkpoint.size,
            }));
        }
        earlier.push(checkpoint);
    }
    let expected = Expected {
        newest: newest.clone(),
        earlier,
        keys: keys.to_vec(),
        certificates: !args.no_certificates,
    };
    let mut bar = Bar::new(args.progress, newest.size);
    let verified = verify(entries, &expected, threads, &mut |done| bar.show(done));
    bar.clear();
    let verified = verified.map_err(failure)?;
    for (witness, seen) in args.witness.iter().zip(cosigned) {
        check_lag(entries, witness, seen, newest)?;
    }
    Ok(verified)
}

/// A witness that did not cosign what has been in the log for a while has refused to, or nobody
/// asks it any more: that is what a log looks like that was rewritten. One entry from a clock that was
/// ahead does not excuse those after it.
fn check_lag(
    entries: &impl Entries,
    witness: &VerifierKey,
    seen: &Checkpoint,
    newest: &Checkpoint,
) -> Result<(), Failure> {
    #[derive(serde::Deserialize)]
    struct When {
        time: Timestamp,
    }
    let first = seen.size;
    let now = now();
    let mut earliest: Option<Timestamp> = None;
    let mut next = first;
    while next < newest.size && earliest.is_none_or(|time| now <= time.plus(LAG)) {
        let end = newest.size.min((next / BUNDLE + 1) * BUNDLE);
        let read = entries.read(next..end, &mut |stored| {
            let when: Option<When> = serde_json::from_str(stored.body).ok();
            let time = when.map_or_else(Timestamp::default, |When { time }| time);
            earliest = Some(earliest.map_or(time, |earliest| earliest.min(time)));
            Ok(())
        });
        read.map_err(failure)?;
        next = end;
    }
    let Some(since) = earliest else {
        return Ok(());
    };
    let why = if now > since.plus(LAG) {
        "the CA can't reach it, or it saw another log; its own log and the CA's tell"
    } else if since > now.plus(MAX_SKEW) {
        "that is ahead of this machine's clock, so for how long is not known; find out which clock \
         is wrong, here or on the CA, and verify again"
    } else {
        return Ok(());
    };
    Err(Failure::log(format!(
        "{} has not cosigned what the log has from entry {first} on, since {}: {why}",
        witness.name(),
        both(since)
    )))
}

fn failure(wrong: Wrong) -> Failure {
    match wrong {
        Wrong::Unread { source, .. } => match source.downcast::<ApiError>() {
            Ok(error) => (*error).into(),
            Err(error) => Failure::unavailable(error),
        },
        wrong => Failure::log(format!("THE LOG DOES NOT VERIFY: {wrong}")),
    }
}

fn say(
    args: &Verify,
    verified: &Verified,
    newest: &Checkpoint,
    cosigned: &[Checkpoint],
) -> Result<(), Failure> {
    let Verified {
        entries,
        certificates,
    } = verified;
    let mut said = format!(
        "Verified: all {entries} entries of {} with {certificates} certificates, root {}.\n",
        Checkpoint::origin(newest.note()),
        newest.root
    );
    for (witness, checkpoint) in args.witness.iter().zip(cosigned) {
        let name = witness.name();
        let time = checkpoint.cosigned_by(witness).ok().flatten();
        let none = || {
            Failure::log(format!(
                "the checkpoint of {name} is not cosigned by this key"
            ))
        };
        let time = both(Timestamp::from_secs(time.ok_or_else(none)?));
        said += &format!(
            "Cosigned by {name} at {time}: the first {}.\n",
            checkpoint.size
        );
    }
    print(said)
}

/// The entries as the CA hands them out.
struct Remote<'a>(&'a Api);

impl Entries for Remote<'_> {
    fn read(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let mut next = range.start;
        while next < range.end {
            let bundle = next / BUNDLE;
            let width = BUNDLE.min(range.end - bundle * BUNDLE);
            let unread = |source| Wrong::Unread {
                index: next,
                source,
            };
            let bytes = self
                .0
                .get_bytes(&bundle_target(bundle, width))
                .map_err(|error| unread(error.into()))?;
            let mut rest = bytes.as_slice();
            for index in bundle * BUNDLE..bundle * BUNDLE + width {
                let (body, after) =
                    split(rest).ok_or_else(|| unread("the bundle is cut short".into()))?;
                rest = after;
                if range.contains(&index) {
                    each(&Stored {
                        index: EntryIndex(index),
                        body,
                        beside: None,
                    })?;
                }
            }
            next = bundle * BUNDLE + width;
        }
        Ok(())
    }
}

fn bundle_target(bundle: u64, width: u64) -> String {
    let mut groups = format!("{:03}", bundle % 1000);
    let mut above = bundle / 1000;
    while above > 0 {
        groups = format!("x{:03}/{groups}", above % 1000);
        above /= 1000;
    }
    let part = if width == BUNDLE {
        String::new()
    } else {
        format!(".p/{width}")
    };
    format!("/v1/log/tile/entries/{groups}{part}")
}

/// The first entry of a bundle and the rest of it.
fn split(bundle: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bundle.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((std::str::from_utf8(body).ok()?, rest))
}

/// A line on standard error that says how far it is.
struct Bar {
    shown: bool,
    total: u64,
    begun: Instant,
    next: Instant,
}

impl Bar {
    const EVERY: Duration = Duration::from_millis(200);

    fn new(wanted: bool, total: u64) -> Self {
        let now = Instant::now();
        Self {
            shown: wanted || std::io::stderr().is_terminal(),
            total,
            begun: now,
            next: now + Self::EVERY,
        }
    }

    fn show(&mut self, done: u64) {
        if !self.shown || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Self::EVERY;
        let Self { total, begun, .. } = self;
        let rate = done as f64 / begun.elapsed().as_secs_f64().max(0.001);
        let percent = done * 100 / (*total).max(1);
        let filled = (percent / 5) as usize;
        let left = total.saturating_sub(done) as f64 / rate.max(1.0);
        write!(
            std::io::stderr(),
            "\r[{:#<filled$}{:.<rest$}] {percent:3} %  {done} of {total}  {rate:.0}/s  {left:.0} s left \x1b[K",
            "",
            "",
            rest = 20 - filled.min(20)
        )
        .ok();
    }

    fn clear(&self) {
        if self.shown {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_named_as_tlog_tiles_has_it() {
        assert_eq!(bundle_target(0, 256), "/v1/log/tile/entries/000");
        assert_eq!(
            bundle_target(1_234_067, 7),
            "/v1/log/tile/entries/x001/x234/067.p/7"
        );
    }

    #[test]
    fn a_bundle_that_is_cut_short_gives_nothing() {
        assert_eq!(split(b"\0\x02ab\0"), Some(("ab", &b"\0"[..])));
        for cut in [&b""[..], b"\0", b"\0\x03ab", b"\0\x01\xff"] {
            assert_eq!(split(cut), None);
        }
    }
}
