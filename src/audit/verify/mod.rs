//! Verifying a whole log: everything is computed anew from the entries, and held against what is
//! stored and signed.

mod keys;
mod outline;
mod piece;
mod scan;
#[cfg(test)]
mod tests;
mod whole;
mod wrong;

use std::ops::Range;

use self::keys::KeysOverTime;
use self::outline::{EventOutline, Outline};
use self::piece::{Piece, piece};
use self::whole::Whole;
pub use self::wrong::Wrong;
use super::Entry;
use super::checkpoint::{Checkpoint, VerifierKey};
use super::entry::{AuthorityKey, Event};
use crate::certificate::Issuers;
use crate::model::EntryIndex;

/// How many entries are verified in one piece: a complete subtree of the log's tree.
const LEVEL: u8 = 12;
const PIECE: u64 = 1 << LEVEL;
const OTHER_KEY: &str = "it introduces another key of the log";

/// What to hold a log against.
pub struct Expected {
    /// The newest checkpoint: what the log must be. Its signature is checked.
    pub newest: Checkpoint,
    /// Checkpoints that were seen before or elsewhere: what the log must begin with. Theirs as well.
    pub earlier: Vec<Checkpoint>,
    /// The verifier keys that the log is known by. It must have introduced one of them, and one of
    /// them or one that these vouched for must have signed the newest checkpoint.
    pub keys: Vec<VerifierKey>,
    /// Whether the signatures of the certificates are verified, too.
    pub certificates: bool,
}

/// A log that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many entries it has.
    pub entries: u64,
    /// How many certificates they record.
    pub certificates: u64,
}

/// An entry as it is stored.
pub struct Stored<'a> {
    /// Where it is stored.
    pub index: EntryIndex,
    /// What counts.
    pub body: &'a str,
    /// What else is stored with it, where that is known.
    pub beside: Option<Beside<'a>>,
}

/// What a database keeps beside an entry.
pub struct Beside<'a> {
    /// The copies that are searched; none of an entry that was archived.
    pub columns: Option<Columns<'a>>,
    /// The hashes that it adds to the tree, one after the other.
    pub hashes: &'a [u8],
}

/// The copies out of an entry that are searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns<'a> {
    /// In milliseconds since 1970.
    pub time: u64,
    /// Its kind.
    pub kind: &'a str,
    /// Who asked.
    pub requester: Option<&'a str>,
    /// To whom it was done.
    pub subject: Option<&'a str>,
    /// The role asked for, when no entry before asked for it in the same group of 64.
    pub first_role: Option<&'a str>,
    /// The purpose asked for, in the same way.
    pub first_purpose: Option<&'a str>,
    /// The certificate's serial number.
    pub serial: Option<u64>,
}

impl<'a> Columns<'a> {
    /// Those by which an entry is found that is in an archive alone; nothing when it is none.
    pub(super) fn of_archived(body: &'a str) -> Option<Self> {
        let EventOutline {
            kind, certificate, ..
        } = Outline::of(body).ok()?.event;
        Some(Self {
            kind,
            serial: certificate.map(|certificate| certificate.serial.get()),
            ..Self::default()
        })
    }
}

/// Where entries come from, one after the other. Several are read at once, each on a thread.
pub trait Entries: Sync {
    /// Gives the entries of a range in order to `each`, until it says no.
    ///
    /// # Errors
    /// When they can't be read.
    fn read(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong>;

    /// Checks by what entries are found where they come from, once all of them up to that size were
    /// read.
    ///
    /// # Errors
    /// When some would not be found.
    fn check_indexes(&self, size: u64) -> Result<(), Wrong> {
        let _ = size;
        Ok(())
    }
}

/// Verifies a log. `progress` gets the number of entries done so far.
///
/// # Errors
/// Names the first entry that does not fit.
pub fn verify(
    entries: &impl Entries,
    expected: &Expected,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, Wrong> {
    let size = expected.newest.size;
    let (log_keys, issuers) = introduced(entries, expected)?;
    let mut whole = Whole::new(expected, log_keys, issuers);
    let mut first = 0;
    while first < size {
        let ranges: Vec<Range<u64>> = (0..threads.max(1) as u64)
            .map(|piece| first + piece * PIECE)
            .take_while(|start| *start < size)
            .map(|start| start..size.min(start + PIECE))
            .collect();
        let pieces: Vec<Result<Piece, Wrong>> = std::thread::scope(|scope| {
            let work: Vec<_> = ranges
                .iter()
                .map(|range| {
                    let issuers = &whole.issuers;
                    scope.spawn(move || piece(entries, range.clone(), issuers))
                })
                .collect();
            work.into_iter()
                .map(|thread| thread.join().map_err(|_| Wrong::Panicked))
                .collect()
        });
        // In order, so that what is named is the first that does not fit.
        for piece in pieces {
            whole.add(piece?)?;
        }
        first = whole.tree.size();
        progress(first);
    }
    let verified = whole.finish()?;
    entries.check_indexes(size)?;
    Ok(verified)
}

/// The CA keys that the log's first entry introduces, the log's own first.
fn introduced(
    entries: &impl Entries,
    expected: &Expected,
) -> Result<(KeysOverTime, Option<Issuers>), Wrong> {
    let mut keys: Option<Vec<AuthorityKey>> = None;
    if expected.newest.size > 0 {
        entries.read(0..1, &mut |stored| {
            if let Ok(Entry {
                event: Event::AuthorityCreated { keys: created, .. },
                ..
            }) = serde_json::from_str(stored.body)
            {
                keys = Some(created);
            }
            Ok(())
        })?;
    }
    let first = |why: String| Wrong::Entry { index: 0, why };
    let keys = keys.ok_or_else(|| first("it does not introduce the CA's keys".to_owned()))?;
    let log = keys.iter().find(|key| key.purpose == "log");
    let log = log.and_then(|log| KeysOverTime::new(&log.public, &expected.keys));
    let log = log.filter(|log| expected.keys.iter().all(|key| key.name() == log.name()));
    let log = log.ok_or_else(|| first(OTHER_KEY.to_owned()))?;
    if !expected.certificates {
        return Ok((log, None));
    }
    let mut issuers = Issuers::default();
    for AuthorityKey { purpose, public } in &keys {
        issuers
            .introduce(purpose, public)
            .map_err(|error| first(error.to_string()))?;
    }
    Ok((log, Some(issuers)))
}
