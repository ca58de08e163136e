use super::*;
use crate::audit::checkpoint::{NoteKind, NoteSigner};
use crate::audit::tree::{Frontier, record_hash};
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
