use ssh_key::certificate::Builder;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{Certificate, PrivateKey};

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
        Self::with(&ca(1), size, |_| r#"{"kind":"request-failed"}"#.to_owned())
    }

    /// The log of a CA, whose events are those but for the first.
    fn with(ca: &PrivateKey, size: u64, event: impl Fn(u64) -> String) -> Self {
        let signer = NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap();
        let created = format!(
            r#"{{"kind":"authority-created","version":"1","keys":[{{"purpose":"log","public":"{}"}},
                {{"purpose":"ssh-user","public":"{}"}}]}}"#,
            signer.verifier(),
            ca.public_key().to_openssh().unwrap(),
        );
        let body = |index| {
            let event = match index {
                0 => created.clone(),
                _ => event(index),
            };
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

fn ca(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

/// A certificate with that serial number.
fn certificate(ca: &PrivateKey, serial: u64) -> Certificate {
    let mut builder = Builder::new([9; 16], ca.public_key().clone(), 0, 60).unwrap();
    builder.serial(serial).unwrap();
    builder.all_principals_valid().unwrap();
    builder.sign(ca).unwrap()
}

/// The event of its issuance.
fn issued(serial: u64, certificate: &Certificate) -> String {
    let certificate = certificate.to_openssh().unwrap();
    format!(
        r#"{{"kind":"certificate-issued","certificate":{{"form":"ssh-user","serial":"{serial}","certificate":"{certificate}"}}}}"#
    )
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

#[test]
fn a_certificate_that_the_ca_did_not_sign_is_named_among_many_that_it_did() {
    const SIZE: u64 = 70;
    let ours = ca(1);
    let forge = |way: usize, serial: u64| {
        let of_bytes = |bytes: &[u8]| Certificate::from_bytes(bytes).unwrap();
        let mut bytes = certificate(&ours, serial).to_bytes().unwrap();
        let signature = bytes.len() - 64;
        match way {
            0 => return certificate(&ca(2), serial),
            // Another's signature under our name.
            1 => {
                let others = certificate(&ca(2), serial);
                bytes[signature..].copy_from_slice(others.signature().as_bytes());
            }
            // The halves of the signature, the number in the second not too large.
            2 => bytes[signature] ^= 1,
            3 => bytes[signature + 32] ^= 1,
            // The number plus a multiple of the group's order, or near that.
            4 => *bytes.last_mut().unwrap() ^= 0x10,
            // Our signature of another's serial number.
            5 => {
                let other = certificate(&ours, 1000);
                bytes[signature..].copy_from_slice(other.signature().as_bytes());
            }
            _ => {}
        }
        of_bytes(&bytes)
    };
    let with = |way: &dyn Fn(u64) -> Option<usize>| {
        Memory::with(&ours, SIZE, |index| {
            let certificate = match way(index) {
                Some(way) => forge(way, index),
                None => certificate(&ours, index),
            };
            issued(index, &certificate)
        })
    };
    let log = |wrong: &[u64], way| with(&|index| wrong.contains(&index).then_some(way));
    let verified = log(&[1], usize::MAX).verify(&[]).unwrap();
    assert_eq!(verified.certificates, SIZE - 1);
    let first = |log: Memory, entry: u64| {
        let refused = log.verify(&[]).unwrap_err().to_string();
        let named = format!("entry {entry} does not fit");
        assert!(refused.starts_with(&named), "{refused}");
    };
    // Before one whose signature nobody has to verify.
    let mixed = [(5, 1), (7, 0)];
    let way = |index| mixed.iter().find(|(wrong, _)| *wrong == index);
    first(with(&|index| way(index).map(|(_, way)| *way)), 5);
    // Before and after what is found as the entries are read.
    for (other, named) in [(41, 40), (39, 39)] {
        let mut log = log(&[40], 1);
        log.hashes[other][0] ^= 1;
        first(log, named);
    }
    for wrong in [
        &[1][..],
        &[32],
        &[33],
        &[SIZE - 1],
        &[40, 41, 5],
        &[64, 3, 20],
    ] {
        for way in 0..=5 {
            let refused = log(wrong, way).verify(&[]).unwrap_err().to_string();
            let first = wrong.iter().min().unwrap();
            assert_eq!(
                refused,
                format!(
                    "entry {first} does not fit: no CA key that the log introduced signed its \
                     certificate"
                ),
                "{wrong:?} {way}"
            );
        }
    }
}
