//! The log put together from its pieces.

use std::collections::BTreeMap;

use super::keys::KeysOverTime;
use super::piece::{Piece, Unsigned};
use super::{Expected, LEVEL, OTHER_KEY, PIECE, Verified, Wrong};
use crate::audit::checkpoint::Checkpoint;
use crate::audit::entry::NewCaKey;
use crate::audit::tree::Frontier;
use crate::certificate::{IssuerError, Issuers};
use crate::model::Timestamp;

/// The log so far.
pub(super) struct Whole<'a> {
    expected: &'a Expected,
    log_keys: KeysOverTime,
    /// The CA keys so far, when certificates are verified.
    pub(super) issuers: Option<Issuers>,
    /// Roots that the tree must have had, by size.
    claims: BTreeMap<u64, Vec<&'a Checkpoint>>,
    pub(super) tree: Frontier,
    last_time: Timestamp,
    serials: Vec<(u64, u64)>,
    certificates: u64,
}

impl<'a> Whole<'a> {
    pub(super) fn new(
        expected: &'a Expected,
        log_keys: KeysOverTime,
        issuers: Option<Issuers>,
    ) -> Self {
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

    pub(super) fn add(&mut self, mut piece: Piece) -> Result<(), Wrong> {
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
        if let Some(wrong) = piece.wrong {
            return Err(wrong);
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

    pub(super) fn finish(mut self) -> Result<Verified, Wrong> {
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
