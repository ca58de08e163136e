//! The Merkle tree over the log's entries (RFC 6962, section 2.1), as hashes that are stored once
//! and never changed.

use tlog_tiles::{Error, HashReader, node_hash, stored_hash_count, stored_hash_index};
pub use tlog_tiles::{Hash, record_hash};

/// What is needed to append to a tree and to know its root: the roots of its complete subtrees,
/// largest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// Reads the frontier of a stored tree.
    pub(super) fn read(size: u64, stored: &impl HashReader) -> Result<Self, Error> {
        let subtrees = stored.read_hashes(&subtree_indexes(size))?;
        Ok(Self { size, subtrees })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. Gives what must be stored with it: its own hash, then the roots of the
    /// subtrees that it completes, from the bottom up.
    pub fn append(&mut self, leaf: Hash) -> Vec<Hash> {
        self.append_subtree(0, leaf)
    }

    /// Appends a complete subtree of `2^level` leaves, of which the size must be a multiple. Gives
    /// its root and those of the larger ones that it completes.
    pub fn append_subtree(&mut self, level: u8, root: Hash) -> Vec<Hash> {
        let mut completed = vec![root];
        let mut root = root;
        let mut place = self.size >> level;
        while place & 1 == 1 {
            let Some(left) = self.subtrees.pop() else {
                break;
            };
            root = node_hash(left, root);
            completed.push(root);
            place >>= 1;
        }
        self.subtrees.push(root);
        self.size += 1 << level;
        completed
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        match subtrees.next() {
            Some(smallest) => subtrees.fold(*smallest, |right, left| node_hash(*left, right)),
            None => tlog_tiles::EMPTY_HASH,
        }
    }
}

/// Where the complete subtrees of a tree of that size are stored, largest first.
fn subtree_indexes(size: u64) -> Vec<u64> {
    let mut before = 0;
    (0..64_u8)
        .rev()
        .filter(|level| size >> level & 1 == 1)
        .map(|level| {
            let index = stored_hash_index(level, before >> level);
            before += 1 << level;
            index
        })
        .collect()
}

/// The newest part of a tree, enough to prove that entries of the last commit are in it.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    /// The complete subtrees before the commit, with where they are stored.
    before: Vec<(u64, Hash)>,
    /// Where the first of `stored` is stored.
    first: u64,
    stored: Vec<Hash>,
}

impl Recent {
    /// From the frontier before a commit and what the commit stores.
    pub(super) fn new(before: &Frontier, stored: Vec<Hash>) -> Self {
        let indexes = subtree_indexes(before.size);
        Self {
            before: indexes.into_iter().zip(before.subtrees.clone()).collect(),
            first: stored_hash_count(before.size),
            stored,
        }
    }

    fn find(&self, index: u64) -> Option<Hash> {
        if let Some(place) = index.checked_sub(self.first) {
            return self.stored.get(usize::try_from(place).ok()?).copied();
        }
        let place = self
            .before
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        Some(self.before[place].1)
    }
}

impl HashReader for Recent {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        indexes
            .iter()
            .map(|index| self.find(*index).ok_or(Error::IndexesNotInTree))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every hash of a tree, as the log stores them.
    fn stored(leaves: u64) -> (Vec<Hash>, Frontier) {
        let mut frontier = Frontier::default();
        let stored = (0..leaves)
            .flat_map(|leaf| frontier.append(record_hash(&leaf.to_be_bytes())))
            .collect();
        (stored, frontier)
    }

    struct All<'a>(&'a [Hash]);

    impl HashReader for All<'_> {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            Ok(indexes
                .iter()
                .map(|index| self.0[*index as usize])
                .collect())
        }
    }

    #[test]
    fn what_is_stored_and_the_root_are_those_of_rfc_6962() {
        for size in 0..70 {
            let (all, frontier) = stored(size);
            assert_eq!(all.len() as u64, stored_hash_count(size));
            assert_eq!(
                frontier.root(),
                tlog_tiles::tree_hash(size, &All(&all)).unwrap()
            );
            assert_eq!(frontier, Frontier::read(size, &All(&all)).unwrap());
        }
    }

    #[test]
    fn subtrees_and_their_leaves_come_to_the_same_tree() {
        let (_, whole) = stored(77);
        let mut parts = Frontier::default();
        let (_, eight) = stored(8);
        parts.append_subtree(3, eight.root());
        for leaf in 8..77_u64 {
            parts.append(record_hash(&leaf.to_be_bytes()));
        }
        assert_eq!(parts, whole);
    }

    #[test]
    fn a_commit_proves_its_entries_from_memory() {
        for (before, after) in [(0, 1), (0, 7), (1, 2), (5, 21), (64, 65), (63, 130)] {
            let (all, frontier) = stored(before);
            let (longer, newer) = stored(after);
            let recent = Recent::new(&frontier, longer[all.len()..].to_vec());
            for leaf in before..after {
                let proof = tlog_tiles::prove_record(after, leaf, &recent).unwrap();
                let hash = record_hash(&leaf.to_be_bytes());
                tlog_tiles::check_record(&proof, after, newer.root(), leaf, hash).unwrap();
            }
        }
    }
}
