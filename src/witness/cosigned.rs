use std::collections::{BTreeMap, BTreeSet};

use crate::audit::Checkpoint;

/// How many checkpoints are kept, of which the newest that several witnesses have in common can be
/// taken. One is made a second at most.
const MOST: usize = 128;

/// Checkpoints with the cosignatures on them.
#[derive(Debug, Default)]
pub struct Cosigned {
    by_size: BTreeMap<u64, (Checkpoint, BTreeSet<String>)>,
}

impl Cosigned {
    /// Adds the lines of a witness that were verified. Gives the checkpoint with all cosignatures
    /// that it has so far.
    pub(super) fn add(&mut self, witness: &str, checkpoint: &Checkpoint, line: &str) -> Checkpoint {
        let (kept, witnesses) = self
            .by_size
            .entry(checkpoint.size)
            .or_insert_with(|| (checkpoint.clone(), BTreeSet::new()));
        if witnesses.insert(witness.to_owned()) {
            *kept = kept.with_lines(line);
        }
        let kept = kept.clone();
        self.prune();
        kept
    }

    /// The newest checkpoint that all of them cosigned; that anybody did, when none is named.
    pub fn newest(&self, witnesses: &[String]) -> Option<&Checkpoint> {
        let all = |by: &BTreeSet<String>| witnesses.iter().all(|witness| by.contains(witness));
        let mut newest = self.by_size.values().rev();
        newest.find(|(_, by)| all(by)).map(|(newest, _)| newest)
    }

    /// Forgets the oldest that is not the newest of any witness.
    fn prune(&mut self) {
        while self.by_size.len() > MOST {
            let mut newer: BTreeSet<&String> = BTreeSet::new();
            let mut oldest = None;
            for (size, (_, by)) in self.by_size.iter().rev() {
                if by.iter().all(|witness| newer.contains(witness)) {
                    oldest = Some(*size);
                }
                newer.extend(by);
            }
            let Some(oldest) = oldest else {
                return;
            };
            self.by_size.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{NoteKind, NoteSigner};
    use crate::keys::Signer;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_that_all_of_them_cosigned_is_found_and_kept() {
        let log = NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap();
        let root = crate::audit::Frontier::default().root();
        let at = |size| log.checkpoint(size, root).unwrap();
        let mut cosigned = Cosigned::default();
        assert!(cosigned.newest(&[]).is_none());
        cosigned.add("slow", &at(5), "1\n");
        let both = cosigned.add("fast", &at(5), "2\n");
        assert!(both.note().ends_with("\n1\n2\n"));
        let again = cosigned.add("fast", &at(5), "2\n");
        assert_eq!(again, both);
        for size in 6..1000 {
            cosigned.add("fast", &at(size), "3\n");
        }
        let newest = |of: &[&str]| cosigned.newest(&names(of)).map(|found| found.size);
        assert_eq!(newest(&[]), Some(999));
        assert_eq!(newest(&["fast"]), Some(999));
        assert_eq!(newest(&["slow"]), Some(5));
        assert_eq!(newest(&["slow", "fast"]), Some(5));
        assert_eq!(newest(&["nobody"]), None);
        assert_eq!(cosigned.by_size.len(), MOST);
    }
}
