//! Verifying a whole log: everything is computed anew from the entries, and held against what is
//! stored and signed.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

use super::checkpoint::Checkpoint;
use super::entry::{AuthorityKey, Event};
use super::tree::{Frontier, Hash, record_hash};
use super::{Entry, StoreError};
use crate::certificate::{IssuerError, Issuers};
use crate::model::{EntryIndex, Serial, Timestamp};

/// How many entries are verified in one piece: a complete subtree of the log's tree.
const LEVEL: u8 = 12;
const PIECE: u64 = 1 << LEVEL;

/// What to hold a log against.
pub struct Expected {
    /// The newest checkpoint: what the log must be.
    pub newest: Checkpoint,
    /// Checkpoints that were seen before or elsewhere: what the log must begin with.
    pub earlier: Vec<Checkpoint>,
    /// The verifier key of the log, which its first entry must introduce.
    pub key: String,
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
    /// The role asked for.
    pub role: Option<&'a str>,
    /// The purpose asked for.
    pub purpose: Option<&'a str>,
    /// The certificate's serial number.
    pub serial: Option<u64>,
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
    let issuers = introduced(entries, expected)?;
    let mut whole = Whole::new(expected);
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
                    let issuers = &issuers;
                    scope.spawn(move || piece(entries, range.clone(), issuers))
                })
                .collect();
            work.into_iter()
                .map(|thread| thread.join().unwrap_or(Err(Wrong::Panicked)))
                .collect()
        });
        // In order, so that what is named is the first that does not fit.
        for piece in pieces {
            whole.add(piece?)?;
        }
        first = whole.tree.size();
        progress(first);
    }
    whole.finish()
}

/// The CA keys that the log's first entry introduces.
fn introduced(entries: &impl Entries, expected: &Expected) -> Result<Option<Issuers>, Wrong> {
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
    if log.is_none_or(|log| log.public != expected.key) {
        return Err(first("it introduces another key of the log".to_owned()));
    }
    if !expected.certificates {
        return Ok(None);
    }
    let mut issuers = Issuers::default();
    for AuthorityKey { purpose, public } in &keys {
        issuers
            .introduce(purpose, public)
            .map_err(|error| first(error.to_string()))?;
    }
    Ok(Some(issuers))
}

/// Entries that were verified among themselves.
struct Piece {
    leaves: Vec<Hash>,
    /// What the last of them adds to the tree above the piece, as it is stored.
    above: Option<Vec<u8>>,
    times: Option<(Timestamp, Timestamp)>,
    /// Whether times may go back before it.
    corrected: bool,
    serials: Vec<(u64, u64)>,
}

/// What is read out of an entry to verify it.
#[derive(Deserialize)]
struct Outline<'a> {
    index: u64,
    time: Timestamp,
    #[serde(borrow)]
    event: EventOutline<'a>,
}

#[derive(Deserialize)]
struct EventOutline<'a> {
    kind: &'a str,
    #[serde(borrow, default)]
    by: Option<ByOutline<'a>>,
    #[serde(default)]
    user: Option<&'a str>,
    #[serde(borrow, default)]
    request: Option<RequestOutline<'a>>,
    #[serde(default)]
    certificate: Option<CertificateOutline<'a>>,
}

#[derive(Deserialize)]
struct ByOutline<'a> {
    requester: &'a str,
}

#[derive(Deserialize)]
struct RequestOutline<'a> {
    role: &'a str,
    purpose: &'a str,
}

#[derive(Deserialize)]
struct CertificateOutline<'a> {
    form: &'a str,
    serial: Serial,
    /// PEM has line breaks, which JSON escapes.
    #[serde(borrow)]
    certificate: std::borrow::Cow<'a, str>,
}

fn piece(
    entries: &impl Entries,
    range: Range<u64>,
    issuers: &Option<Issuers>,
) -> Result<Piece, Wrong> {
    let mut piece = Piece {
        leaves: Vec::with_capacity(PIECE as usize),
        above: None,
        times: None,
        corrected: false,
        serials: Vec::new(),
    };
    let mut tree = Frontier::default();
    let mut next = range.start;
    entries.read(range.clone(), &mut |stored| {
        if stored.index.0 != next {
            return Err(Wrong::Missing { index: next });
        }
        piece
            .take(stored, next, &mut tree, issuers)
            .map_err(|why| Wrong::Entry { index: next, why })?;
        next += 1;
        Ok(())
    })?;
    if next < range.end {
        return Err(Wrong::Missing { index: next });
    }
    Ok(piece)
}

impl Piece {
    fn take(
        &mut self,
        stored: &Stored<'_>,
        index: u64,
        tree: &mut Frontier,
        issuers: &Option<Issuers>,
    ) -> Result<(), String> {
        let outline: Outline<'_> = serde_json::from_str(stored.body)
            .map_err(|error| format!("it can't be read: {error}"))?;
        let leaf = record_hash(stored.body.as_bytes());
        let computed = tree.append(leaf);
        if let Some(beside) = &stored.beside {
            let mut kept = beside.hashes.as_chunks::<32>().0.iter();
            if kept.next() != Some(&leaf.0) {
                return Err("it is not what was committed: its hash is another".to_owned());
            }
            if !computed[1..]
                .iter()
                .all(|hash| kept.next() == Some(&hash.0))
            {
                return Err("the hashes of the tree above it are not what they were".to_owned());
            }
            let above: Vec<u8> = kept.flatten().copied().collect();
            if !(index + 1).is_multiple_of(PIECE) && !above.is_empty() {
                return Err("there are more hashes with it than the tree has".to_owned());
            }
            self.above = Some(above);
            if beside
                .columns
                .is_some_and(|columns| columns != outline.columns())
            {
                return Err("what is searched is not what it says".to_owned());
            }
        }
        if outline.index != index {
            return Err(format!("it says that it is entry {}", outline.index));
        }
        self.take_time(outline.time, outline.event.kind)?;
        if let Some(certificate) = &outline.event.certificate {
            self.serials.push((certificate.serial.get(), index));
            if let Some(issuers) = issuers {
                let CertificateOutline {
                    form,
                    serial,
                    certificate,
                } = certificate;
                issuers
                    .check(form, *serial, certificate)
                    .map_err(|error: IssuerError| error.to_string())?;
            }
        }
        self.leaves.push(leaf);
        Ok(())
    }

    fn take_time(&mut self, time: Timestamp, kind: &str) -> Result<(), String> {
        let corrected = kind == "clock-corrected";
        match &mut self.times {
            None => {
                self.times = Some((time, time));
                self.corrected = corrected;
            }
            Some((_, last)) if time >= *last || corrected => *last = time,
            Some(_) => return Err("it is older than the entry before it".to_owned()),
        }
        Ok(())
    }
}

impl Outline<'_> {
    /// What the database should have copied out of it.
    fn columns(&self) -> Columns<'_> {
        let event = &self.event;
        // Of these, the first two are about what somebody asked for, and the rest about somebody.
        let asks = matches!(event.kind, "certificate-issued" | "request-refused");
        let request = event.request.as_ref().filter(|_| asks);
        Columns {
            time: self.time.as_millis(),
            kind: event.kind,
            requester: event.by.as_ref().map(|by| by.requester),
            subject: event.user,
            role: request.map(|request| request.role),
            purpose: request.map(|request| request.purpose),
            serial: event
                .certificate
                .as_ref()
                .map(|certificate| certificate.serial.get()),
        }
    }
}

/// The log so far.
struct Whole<'a> {
    expected: &'a Expected,
    /// Roots that the tree must have had, by size.
    claims: BTreeMap<u64, Vec<&'a Checkpoint>>,
    tree: Frontier,
    last_time: Timestamp,
    serials: Vec<(u64, u64)>,
    certificates: u64,
}

impl<'a> Whole<'a> {
    fn new(expected: &'a Expected) -> Self {
        let mut claims: BTreeMap<u64, Vec<&Checkpoint>> = BTreeMap::new();
        for checkpoint in expected.earlier.iter().chain([&expected.newest]) {
            claims.entry(checkpoint.size).or_default().push(checkpoint);
        }
        Self {
            expected,
            claims,
            tree: Frontier::default(),
            last_time: Timestamp::default(),
            serials: Vec::new(),
            certificates: 0,
        }
    }

    fn add(&mut self, piece: Piece) -> Result<(), Wrong> {
        let index = self.tree.size();
        let wrong = |index, why: &str| Wrong::Entry {
            index,
            why: why.to_owned(),
        };
        if let Some((first, last)) = piece.times {
            if first < self.last_time && !piece.corrected {
                return Err(wrong(index, "it is older than the entry before it"));
            }
            self.last_time = last;
        }
        let mut completed = Vec::new();
        for leaf in &piece.leaves {
            completed = self.tree.append(*leaf);
            self.check_claims()?;
        }
        if let Some(above) = piece.above {
            // Those within the piece were compared there.
            let above_piece = completed.iter().skip(usize::from(LEVEL) + 1);
            if !above_piece.flat_map(|hash| hash.0).eq(above) {
                let last = self.tree.size() - 1;
                return Err(wrong(
                    last,
                    "the hashes of the tree above it are not what they were",
                ));
            }
        }
        self.certificates += piece.serials.len() as u64;
        self.serials.extend(piece.serials);
        Ok(())
    }

    fn check_claims(&self) -> Result<(), Wrong> {
        let size = self.tree.size();
        let Some(claims) = self.claims.get(&size) else {
            return Ok(());
        };
        let root = self.tree.root();
        match claims.iter().find(|claim| claim.root != root) {
            None => Ok(()),
            Some(_) if size == self.expected.newest.size => Err(Wrong::Root { size }),
            Some(_) => Err(Wrong::Earlier { size }),
        }
    }

    fn finish(mut self) -> Result<Verified, Wrong> {
        if let Some(longer) = self.claims.keys().find(|size| **size > self.tree.size()) {
            return Err(Wrong::Shorter {
                entries: self.tree.size(),
                before: *longer,
            });
        }
        // They rise, but where a clock was corrected.
        self.serials.sort_unstable();
        let twice = self.serials.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some(pair) = twice {
            return Err(Wrong::Entry {
                index: pair[1].1,
                why: format!(
                    "its certificate has the serial number of that of entry {}",
                    pair[0].1
                ),
            });
        }
        Ok(Verified {
            entries: self.tree.size(),
            certificates: self.certificates,
        })
    }
}

/// What does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// An entry.
    #[error("entry {index} does not fit: {why}")]
    Entry {
        /// Its place.
        index: u64,
        /// Why.
        why: String,
    },
    /// An entry is not there.
    #[error("entry {index} is missing")]
    Missing {
        /// Its place.
        index: u64,
    },
    /// The newest checkpoint was signed for other entries.
    #[error(
        "the {size} entries are not those that the newest checkpoint was signed for: some were \
         changed together with their hashes. An older checkpoint (--since) narrows down where"
    )]
    Root {
        /// How many there are.
        size: u64,
    },
    /// A checkpoint that was seen before was signed for other entries.
    #[error(
        "the first {size} entries are not those that an earlier checkpoint was signed for: the log \
         was rewritten since"
    )]
    Earlier {
        /// The earlier size.
        size: u64,
    },
    /// The log was longer once.
    #[error("the log has {entries} entries, and had {before} before: it was cut off or put back")]
    Shorter {
        /// How many it has.
        entries: u64,
        /// How many it had.
        before: u64,
    },
    /// There are more entries than were signed for.
    #[error("there are entries from {index} on that no checkpoint was signed for")]
    Unsigned {
        /// The first.
        index: u64,
    },
    /// It can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't be fetched.
    #[error("entries from {index} on can't be fetched: {source}")]
    Unread {
        /// The first.
        index: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A fault of ours.
    #[error("verifying failed: a thread panicked")]
    Panicked,
}
