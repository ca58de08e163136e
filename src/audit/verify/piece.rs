//! A piece of the log, verified in itself.

use std::ops::Range;

use super::outline::{CertificateOutline, Outline};
use super::{Entries, PIECE, Stored, Wrong};
use crate::audit::Entry;
use crate::audit::entry::{Event, NewCaKey};
use crate::audit::firsts::Firsts;
use crate::audit::tree::{Frontier, Hash, record_hash};
use crate::certificate::{Ed25519Signature, IssuerError, Issuers};
use crate::model::{Serial, Timestamp};

/// How the kinds of entry begin that CA keys are in.
const CA_KEY: &str = "ca-key-";

/// How many certificates' signatures are verified together. More would hardly cost less each.
const TOGETHER: usize = 32;

/// Entries that were verified among themselves.
pub(super) struct Piece {
    pub(super) leaves: Vec<Hash>,
    /// Of the group of the next.
    firsts: Firsts,
    /// The root of the tree of the leaves alone.
    pub(super) root: Hash,
    /// What the last of them adds to the tree above the piece, as it is stored.
    pub(super) above: Option<Vec<u8>>,
    pub(super) times: Option<(Timestamp, Timestamp)>,
    /// Whether times may go back before it.
    pub(super) corrected: bool,
    pub(super) serials: Vec<(u64, u64)>,
    /// CA keys that entries introduce.
    pub(super) introduced: Vec<(u64, NewCaKey)>,
    /// Entries that change the log's keys.
    pub(super) log_keys: Vec<(u64, Event)>,
    /// Certificates that no CA key signed which was known in front of the piece.
    pub(super) unsigned: Vec<(u64, Unsigned)>,
    /// Certificates whose signatures are still to be verified.
    unverified: Vec<(Ed25519Signature, (u64, Unsigned))>,
    /// What does not fit in itself, behind the entries that were taken in.
    pub(super) wrong: Option<Wrong>,
}

/// A certificate whose CA key is still to be found.
pub(super) struct Unsigned {
    pub(super) form: String,
    pub(super) serial: Serial,
    pub(super) certificate: String,
}

pub(super) fn piece(entries: &impl Entries, range: Range<u64>, issuers: &Option<Issuers>) -> Piece {
    let mut piece = Piece {
        leaves: Vec::with_capacity(PIECE as usize),
        firsts: Firsts::default(),
        root: Hash::default(),
        above: None,
        times: None,
        corrected: false,
        serials: Vec::new(),
        introduced: Vec::new(),
        log_keys: Vec::new(),
        unsigned: Vec::new(),
        unverified: Vec::with_capacity(TOGETHER),
        wrong: None,
    };
    let mut tree = Frontier::default();
    let mut next = range.start;
    let read = entries.read(range.clone(), &mut |stored| {
        if stored.index.0 != next {
            return Err(Wrong::Missing { index: next });
        }
        piece
            .take(stored, next, &mut tree, issuers)
            .map_err(|why| Wrong::Entry { index: next, why })?;
        next += 1;
        Ok(())
    });
    piece.wrong = match read {
        Ok(()) if next < range.end => Some(Wrong::Missing { index: next }),
        Ok(()) => None,
        Err(wrong) => Some(wrong),
    };
    piece.verify_certificates();
    piece.unsigned.sort_unstable_by_key(|(index, _)| *index);
    piece.root = tree.root();
    piece
}

impl Piece {
    fn take(
        &mut self,
        stored: &Stored<'_>,
        index: u64,
        tree: &mut Frontier,
        issuers: &Option<Issuers>,
    ) -> Result<(), String> {
        let outline =
            Outline::of(stored.body).map_err(|error| format!("it can't be read: {error}"))?;
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
        }
        if outline.index != index {
            return Err(format!("it says that it is entry {}", outline.index));
        }
        let columns = outline.columns(&mut self.firsts);
        let copied = stored.beside.as_ref().and_then(|beside| beside.columns);
        if copied.is_some_and(|copied| !outline.allows(&copied, &columns)) {
            return Err("what is searched is not what it says".to_owned());
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
                let certificate: String = serde_json::from_str(certificate)
                    .map_err(|error| format!("its certificate can't be read: {error}"))?;
                let checked = issuers.check_except_signature(form, *serial, &certificate);
                let unsigned = |certificate| Unsigned {
                    form: (*form).to_owned(),
                    serial: *serial,
                    certificate,
                };
                match checked {
                    Ok(None) => {}
                    Ok(Some(signature)) => {
                        let unsigned = (index, unsigned(certificate));
                        self.unverified.push((signature, unsigned));
                        if self.unverified.len() == TOGETHER {
                            self.verify_certificates();
                        }
                    }
                    // A key may have been introduced within the piece.
                    Err(IssuerError::Signature) => {
                        self.unsigned.push((index, unsigned(certificate)));
                    }
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

    /// Finds those whose signature does not fit.
    fn verify_certificates(&mut self) {
        let (signatures, certificates): (Vec<_>, Vec<_>) = self.unverified.drain(..).unzip();
        if Ed25519Signature::verify_all(&signatures) {
            return;
        }
        let each = signatures.iter().zip(certificates);
        let unsigned = each.filter(|(signature, _)| !signature.verify());
        self.unsigned
            .extend(unsigned.map(|(_, certificate)| certificate));
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
