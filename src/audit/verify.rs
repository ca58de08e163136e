//! Verifying a whole log: everything is computed anew from the entries, and held against what is
//! stored and signed.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::checkpoint::{Checkpoint, VerifierKey};
use super::entry::{AuthorityKey, Event, NewCaKey};
use super::tree::{Frontier, Hash, record_hash};
use super::verify_keys::KeysOverTime;
use super::{Entry, StoreError};
use crate::certificate::{IssuerError, Issuers};
use crate::model::{EntryIndex, Serial, Timestamp};

/// How many entries are verified in one piece: a complete subtree of the log's tree.
const LEVEL: u8 = 12;
const PIECE: u64 = 1 << LEVEL;
/// How the kinds of entry begin that CA keys are in.
const CA_KEY: &str = "ca-key-";
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

/// Entries that were verified among themselves.
struct Piece {
    leaves: Vec<Hash>,
    /// The root of the tree of the leaves alone.
    root: Hash,
    /// What the last of them adds to the tree above the piece, as it is stored.
    above: Option<Vec<u8>>,
    times: Option<(Timestamp, Timestamp)>,
    /// Whether times may go back before it.
    corrected: bool,
    serials: Vec<(u64, u64)>,
    /// CA keys that entries introduce.
    introduced: Vec<(u64, NewCaKey)>,
    /// Entries that change the log's keys.
    log_keys: Vec<(u64, Event)>,
    /// Certificates that no CA key signed which was known in front of the piece.
    unsigned: Vec<(u64, Unsigned)>,
}

/// A certificate whose CA key is still to be found.
struct Unsigned {
    form: String,
    serial: Serial,
    certificate: String,
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
    #[serde(borrow, default, alias = "removed_by")]
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
    /// None when it is a host.
    #[serde(default)]
    requester: Option<&'a str>,
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
    /// A JSON string, whose escaped line breaks only the check of the certificate has to read.
    #[serde(borrow)]
    certificate: &'a RawValue,
}

fn piece(
    entries: &impl Entries,
    range: Range<u64>,
    issuers: &Option<Issuers>,
) -> Result<Piece, Wrong> {
    let mut piece = Piece {
        leaves: Vec::with_capacity(PIECE as usize),
        root: Hash::default(),
        above: None,
        times: None,
        corrected: false,
        serials: Vec::new(),
        introduced: Vec::new(),
        log_keys: Vec::new(),
        unsigned: Vec::new(),
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
    piece.root = tree.root();
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
                let certificate: String = serde_json::from_str(certificate.get())
                    .map_err(|error| format!("its certificate can't be read: {error}"))?;
                match issuers.check(form, *serial, &certificate) {
                    Ok(()) => {}
                    // A key may have been introduced within the piece.
                    Err(IssuerError::Signature) => self.unsigned.push((
                        index,
                        Unsigned {
                            form: (*form).to_owned(),
                            serial: *serial,
                            certificate,
                        },
                    )),
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        if outline.event.kind.starts_with(CA_KEY) {
            let entry: Entry = serde_json::from_str(stored.body)
                .map_err(|error| format!("it can't be read: {error}"))?;
            let new = entry.event.new_ca_keys().iter().cloned();
            self.introduced.extend(new.map(|new| (index, new)));
            if entry.event.changes_log_keys() {
                self.log_keys.push((index, entry.event));
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
            requester: event.by.as_ref().and_then(|by| by.requester),
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
    log_keys: KeysOverTime,
    /// The CA keys so far, when certificates are verified.
    issuers: Option<Issuers>,
    /// Roots that the tree must have had, by size.
    claims: BTreeMap<u64, Vec<&'a Checkpoint>>,
    tree: Frontier,
    last_time: Timestamp,
    serials: Vec<(u64, u64)>,
    certificates: u64,
}

impl<'a> Whole<'a> {
    fn new(expected: &'a Expected, log_keys: KeysOverTime, issuers: Option<Issuers>) -> Self {
        let mut claims: BTreeMap<u64, Vec<&Checkpoint>> = BTreeMap::new();
        for checkpoint in expected.earlier.iter().chain([&expected.newest]) {
            claims.entry(checkpoint.size).or_default().push(checkpoint);
        }
        Self {
            expected,
            log_keys,
            issuers,
            claims,
            tree: Frontier::default(),
            last_time: Timestamp::default(),
            serials: Vec::new(),
            certificates: 0,
        }
    }

    /// Takes in the CA keys of a piece, and looks for them behind the certificates that no earlier
    /// key signed.
    fn check_issuers(
        &mut self,
        introduced: Vec<(u64, NewCaKey)>,
        unsigned: Vec<(u64, Unsigned)>,
    ) -> Result<(), Wrong> {
        let Some(issuers) = &mut self.issuers else {
            return Ok(());
        };
        let wrong = |index, error: IssuerError| Wrong::Entry {
            index,
            why: error.to_string(),
        };
        let mut introduced = introduced.into_iter().peekable();
        let mut introduce = |issuers: &mut Issuers, before: u64| {
            while let Some((index, new)) = introduced.next_if(|(index, _)| *index < before) {
                issuers
                    .introduce(new.key.kind.as_str(), &new.public)
                    .map_err(|error| wrong(index, error))?;
            }
            Ok(())
        };
        for (index, unsigned) in unsigned {
            introduce(issuers, index)?;
            issuers
                .check(&unsigned.form, unsigned.serial, &unsigned.certificate)
                .map_err(|error| wrong(index, error))?;
        }
        introduce(issuers, u64::MAX)
    }

    fn add(&mut self, mut piece: Piece) -> Result<(), Wrong> {
        self.check_issuers(
            std::mem::take(&mut piece.introduced),
            std::mem::take(&mut piece.unsigned),
        )?;

        for (index, event) in std::mem::take(&mut piece.log_keys) {
            let taken = self.log_keys.take(index, &event, &self.expected.keys);
            taken.map_err(|why| Wrong::Entry { index, why })?;
        }

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
        let end = index + piece.leaves.len() as u64;
        let claimed_within = self.claims.range(index + 1..end).next().is_some();
        // What the last entry completes, from the root of a whole piece up.
        let mut completed = Vec::new();
        if piece.leaves.len() as u64 == PIECE && !claimed_within {
            completed = self.tree.append_subtree(LEVEL, piece.root);
            self.check_claims()?;
        } else {
            for leaf in &piece.leaves {
                completed = self.tree.append(*leaf);
                self.check_claims()?;
            }
            completed.drain(..completed.len().min(usize::from(LEVEL)));
        }
        if let Some(above) = piece.above {
            // Those within the piece were compared there.
            let above_piece = completed.iter().skip(1);
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
        if !self.log_keys.knows_any(&self.expected.keys) {
            let why = OTHER_KEY.to_owned();
            return Err(Wrong::Entry { index: 0, why });
        }
        let newest = [(&self.expected.newest, true)];
        let earlier = self.expected.earlier.iter().map(|seen| (seen, false));
        for (checkpoint, is_new) in newest.into_iter().chain(earlier) {
            let checked = self.log_keys.check(checkpoint, is_new);
            checked.map_err(|why| Wrong::Key { why })?;
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
    /// A checkpoint is not signed by a key that it should be.
    #[error("{why}")]
    Key {
        /// What is wrong with it.
        why: String,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::{NoteKind, NoteSigner};
    use crate::keys::Signer;

    /// A log in memory, as a database would have it.
    struct Memory {
        bodies: Vec<String>,
        hashes: Vec<Vec<u8>>,
        signer: NoteSigner,
        /// A checkpoint for every size.
        checkpoints: Vec<Checkpoint>,
    }

    impl Memory {
        fn of(size: u64) -> Self {
            let signer = NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap();
            let created = format!(
                r#"{{"kind":"authority-created","version":"1","keys":[{{"purpose":"log","public":"{}"}}]}}"#,
                signer.verifier()
            );
            let failed = r#"{"kind":"request-failed"}"#;
            let body = |index| {
                let event = if index == 0 { &created } else { failed };
                format!(r#"{{"index":{index},"time":"2026-01-31T09:30:00Z","event":{event}}}"#)
            };
            let mut log = Self {
                bodies: (0..size).map(body).collect(),
                hashes: Vec::new(),
                signer,
                checkpoints: Vec::new(),
            };
            let mut tree = Frontier::default();
            for body in &log.bodies {
                let hashes = tree.append(record_hash(body.as_bytes()));
                log.hashes
                    .push(hashes.iter().flat_map(|hash| hash.0).collect());
                let checkpoint = log.signer.checkpoint(tree.size(), tree.root());
                log.checkpoints.push(checkpoint.unwrap());
            }
            log
        }

        fn verify(&self, earlier: &[u64]) -> Result<Verified, Wrong> {
            let expected = Expected {
                newest: self.checkpoints.last().unwrap().clone(),
                earlier: earlier
                    .iter()
                    .map(|size| self.checkpoints[*size as usize - 1].clone())
                    .collect(),
                keys: vec![self.signer.verifier().clone()],
                certificates: true,
            };
            verify(self, &expected, 2, &mut |_| {})
        }
    }

    impl Entries for Memory {
        fn read(
            &self,
            range: Range<u64>,
            each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
        ) -> Result<(), Wrong> {
            for index in range {
                each(&Stored {
                    index: EntryIndex(index),
                    body: &self.bodies[index as usize],
                    beside: Some(Beside {
                        columns: None,
                        hashes: &self.hashes[index as usize],
                    }),
                })?;
            }
            Ok(())
        }
    }

    const LONG: u64 = 3 * PIECE + 5;

    #[test]
    fn a_log_of_many_pieces_verifies_against_checkpoints_of_any_size() {
        let log = Memory::of(LONG);
        let done = Verified {
            entries: LONG,
            certificates: 0,
        };
        for earlier in [
            &[][..],
            &[1],
            &[PIECE],
            &[PIECE - 1, PIECE + 1],
            &[2 * PIECE, LONG - 1, LONG],
        ] {
            assert_eq!(log.verify(earlier).unwrap(), done, "{earlier:?}");
        }
        for size in [1, PIECE - 1, PIECE, PIECE + 1] {
            assert_eq!(Memory::of(size).verify(&[]).unwrap().entries, size);
        }
    }

    #[test]
    fn each_hash_of_each_level_counts() {
        for (entry, hash) in [
            (0, 0),
            (3, 2),
            (PIECE - 1, LEVEL.into()),
            // Above the pieces.
            (2 * PIECE - 1, usize::from(LEVEL) + 1),
            (LONG - 1, 0),
        ] {
            let mut log = Memory::of(LONG);
            log.hashes[entry as usize][hash * 32] ^= 1;
            let wrong = log.verify(&[]).unwrap_err().to_string();
            assert!(
                wrong.starts_with(&format!("entry {entry} does not fit")),
                "{wrong}"
            );
        }
        for entry in [7, PIECE - 1, 2 * PIECE - 1, LONG - 1] {
            let mut log = Memory::of(LONG);
            log.hashes[entry as usize].extend([0; 32]);
            let wrong = log.verify(&[]).unwrap_err().to_string();
            assert!(
                wrong.starts_with(&format!("entry {entry} does not fit")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_checkpoint_of_another_history_is_noticed_wherever_it_ends() {
        for size in [1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE] {
            let mut log = Memory::of(LONG);
            let other = log
                .signer
                .checkpoint(size, record_hash(b"another"))
                .unwrap();
            log.checkpoints[size as usize - 1] = other;
            assert!(matches!(log.verify(&[size]), Err(Wrong::Earlier { size: at }) if at == size));
        }
        let mut log = Memory::of(LONG);
        let other = log
            .signer
            .checkpoint(LONG, record_hash(b"another"))
            .unwrap();
        *log.checkpoints.last_mut().unwrap() = other;
        assert!(matches!(log.verify(&[]), Err(Wrong::Root { size: LONG })));
    }
}
