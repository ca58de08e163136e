//! Proofs that a stretch of entries is all that the log has there.
//!
//! The roots of the complete subtrees before and after the stretch, put together with the entries'
//! own hashes, come to the root of the whole tree: an entry that was left out, added, moved or
//! changed leads to another.

use tlog_tiles::{HashReader, stored_hash_index};

use super::ProofError;
use super::checkpoint::Checkpoint;
use super::proof::Hashes;
use super::tree::{Frontier, Hash, record_hash};

/// A stretch of the log and the size of the tree in which it is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    first: u64,
    next: u64,
    size: u64,
}

impl Stretch {
    /// The largest tree: an entry's index is an integer of SQLite's.
    const LARGEST: u64 = i64::MAX as u64;

    /// The entries from `first` to before `next` in the log of `size` entries.
    ///
    /// # Errors
    /// When no log has them.
    pub fn new(first: u64, next: u64, size: u64) -> Result<Self, ProofError> {
        if first > next || next > size || size > Self::LARGEST {
            return Err(ProofError::OutOfRange);
        }
        Ok(Self { first, next, size })
    }

    /// The index of its first entry.
    pub fn first(self) -> u64 {
        self.first
    }

    /// The index of the entry behind its last.
    pub fn next(self) -> u64 {
        self.next
    }

    /// How many entries the log has.
    pub fn size(self) -> u64 {
        self.size
    }

    /// The levels of the subtrees that cover what stands before it and behind it, in order, each
    /// with its place in its level.
    fn subtrees(self) -> impl Iterator<Item = (u8, u64)> {
        complete(0, self.first).chain(complete(self.next, self.size))
    }

    /// Reads the hashes of what stands around it.
    pub(super) fn prove(self, stored: &impl HashReader) -> Result<Hashes, ProofError> {
        let indexes: Vec<u64> = self
            .subtrees()
            .map(|(level, place)| stored_hash_index(level, place))
            .collect();
        stored
            .read_hashes(&indexes)
            .map(Hashes)
            .map_err(|_| ProofError::Unproven)
    }
}

/// The largest complete subtrees that cover `[from, to)`, in order.
fn complete(mut from: u64, to: u64) -> impl Iterator<Item = (u8, u64)> {
    std::iter::from_fn(move || {
        let room = (to - from).checked_ilog2()?;
        // At the very beginning every size is aligned.
        let level = room.min(from.trailing_zeros());
        let subtree = (level as u8, from >> level);
        from += 1 << level;
        Some(subtree)
    })
}

/// Puts a tree together again out of a stretch's entries and what stands around them.
pub struct Rebuilt<'a> {
    tree: Frontier,
    stretch: Stretch,
    after: &'a [Hash],
}

impl<'a> Rebuilt<'a> {
    /// Begins with what stands before the stretch.
    ///
    /// # Errors
    /// When these are not as many hashes as there must be.
    pub fn new(stretch: Stretch, around: &'a Hashes) -> Result<Self, ProofError> {
        if around.0.len() != stretch.subtrees().count() {
            return Err(ProofError::Malformed);
        }
        let mut tree = Frontier::default();
        let (before, after) = around.0.split_at(complete(0, stretch.first).count());
        for ((level, _), root) in complete(0, stretch.first).zip(before) {
            tree.append_subtree(level, *root);
        }
        Ok(Self {
            tree,
            stretch,
            after,
        })
    }

    /// Takes the next entry, as the log has it.
    pub fn add(&mut self, entry: &[u8]) {
        self.tree.append(record_hash(entry));
    }

    /// Checks that the entries are the stretch of the log that the checkpoint is of.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(mut self, checkpoint: &Checkpoint) -> Result<(), ProofError> {
        let Stretch { next, size, .. } = self.stretch;
        if self.tree.size() != next || size != checkpoint.size {
            return Err(ProofError::Unproven);
        }
        for ((level, _), root) in complete(next, size).zip(self.after) {
            self.tree.append_subtree(level, *root);
        }
        if self.tree.root() == checkpoint.root {
            Ok(())
        } else {
            Err(ProofError::Unproven)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tlog_tiles::Error;

    use super::*;
    use crate::audit::{NoteKind, NoteSigner};
    use crate::keys::Signer;

    struct Stored(Vec<Hash>);

    impl Stored {
        fn of(entries: &[Vec<u8>]) -> Self {
            let mut tree = Frontier::default();
            let hashes = entries
                .iter()
                .flat_map(|entry| tree.append(record_hash(entry)));
            Self(hashes.collect())
        }
    }

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            indexes
                .iter()
                .map(|index| self.0.get(*index as usize).copied())
                .map(|hash| hash.ok_or(Error::IndexesNotInTree))
                .collect()
        }
    }

    fn entries(count: u64) -> Vec<Vec<u8>> {
        (0..count).map(|n| format!("entry {n}").into()).collect()
    }

    fn check(
        stretch: Stretch,
        around: &Hashes,
        entries: &[Vec<u8>],
        checkpoint: &Checkpoint,
    ) -> Result<(), ProofError> {
        let mut rebuilt = Rebuilt::new(stretch, around)?;
        entries.iter().for_each(|entry| rebuilt.add(entry));
        rebuilt.check(checkpoint)
    }

    fn signer() -> NoteSigner {
        NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap()
    }

    /// The checkpoint of these entries, whose root another implementation computed.
    fn checkpoint(signer: &NoteSigner, entries: &[Vec<u8>], stored: &Stored) -> Checkpoint {
        let size = entries.len() as u64;
        let root = tlog_tiles::tree_hash(size, stored).unwrap();
        signer.checkpoint(size, root).unwrap()
    }

    #[test]
    fn every_stretch_of_every_small_log_is_proven_and_no_other_is() {
        let signer = signer();
        for size in 0..=20 {
            let all = entries(size);
            let stored = Stored::of(&all);
            let checkpoint = checkpoint(&signer, &all, &stored);
            for first in 0..=size {
                for next in first..=size {
                    let stretch = Stretch::new(first, next, size).unwrap();
                    let around = stretch.prove(&stored).unwrap();
                    let own = &all[first as usize..next as usize];
                    check(stretch, &around, own, &checkpoint).unwrap();
                    attacks(stretch, &around, own, &checkpoint);
                }
            }
        }
    }

    fn attacks(stretch: Stretch, around: &Hashes, own: &[Vec<u8>], checkpoint: &Checkpoint) {
        let Stretch { first, next, size } = stretch;
        let fails = |stretch, around: &Hashes, entries: &[Vec<u8>], what: &str| {
            assert!(
                check(stretch, around, entries, checkpoint).is_err(),
                "{what} {stretch:?}"
            );
        };
        for place in 0..own.len() {
            let mut removed = own.to_vec();
            removed.remove(place);
            fails(stretch, around, &removed, "removed");
            let mut changed = own.to_vec();
            changed[place].push(b' ');
            fails(stretch, around, &changed, "changed");
            if place > 0 {
                let mut swapped = own.to_vec();
                swapped.swap(place - 1, place);
                fails(stretch, around, &swapped, "swapped");
            }
            // The hole is given out for the end.
            if let Ok(shorter) = Stretch::new(first, next - 1, size) {
                fails(shorter, around, &removed, "shorter");
            }
        }
        let mut added = own.to_vec();
        added.push(b"one more".to_vec());
        fails(stretch, around, &added, "added");
        if let Ok(longer) = Stretch::new(first, next + 1, size) {
            fails(longer, around, &added, "longer");
        }
        for (first, next, size) in [
            (first + 1, next + 1, size),
            (first.wrapping_sub(1), next.wrapping_sub(1), size),
            (first, next, size + 1),
            (first, next, size.wrapping_sub(1)),
        ] {
            // Of nothing, it is true elsewhere as well.
            if let Ok(other) = Stretch::new(first, next, size)
                && !own.is_empty()
            {
                fails(other, around, own, "elsewhere");
            }
        }
        for place in 0..around.0.len() {
            let mut hashes = around.clone();
            hashes.0[place] = record_hash(b"another");
            fails(stretch, &hashes, own, "another hash");
            hashes.0.remove(place);
            fails(stretch, &hashes, own, "a hash less");
        }
    }

    #[test]
    fn no_stretch_lies_outside_of_its_log() {
        for (first, next, size) in [(1, 0, 2), (0, 3, 2), (0, 0, u64::MAX), (5, 5, 4)] {
            assert_eq!(Stretch::new(first, next, size), Err(ProofError::OutOfRange));
        }
        // As long a proof as there can be.
        let longest = Stretch::new(
            i64::MAX as u64 >> 1,
            (i64::MAX as u64 >> 1) + 1,
            i64::MAX as u64,
        );
        assert_eq!(longest.unwrap().subtrees().count(), 124);
    }

    proptest! {
        #[test]
        fn the_largest_subtrees_cover_without_gap(from in 0..1_u64 << 40, length in 0..1_u64 << 40) {
            let mut at = from;
            for (level, place) in complete(from, from + length) {
                prop_assert_eq!(place << level, at);
                at += 1 << level;
            }
            prop_assert_eq!(at, from + length);
        }

        #[test]
        fn stretches_of_larger_logs_are_proven(size in 1_u64..600, a in 0_u64..600, b in 0_u64..600) {
            let (first, next) = (a.min(b) % (size + 1), a.max(b) % (size + 1));
            let (first, next) = (first.min(next), first.max(next));
            let all = entries(size);
            let stored = Stored::of(&all);
            let checkpoint = checkpoint(&signer(), &all, &stored);
            let stretch = Stretch::new(first, next, size).unwrap();
            let around = stretch.prove(&stored).unwrap();
            let own = &all[first as usize..next as usize];
            prop_assert_eq!(check(stretch, &around, own, &checkpoint), Ok(()));
        }
    }
}
