//! Proofs about the log that are checked without it (RFC 6962, section 2.1; C2SP tlog-proof).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tlog_tiles::HashReader;

use super::checkpoint::{Checkpoint, CheckpointError, VerifierKey};
use super::tree::{Hash, record_hash};
use crate::model::EntryIndex;

/// The most hashes that a proof about a log of any size needs, and some more.
const MOST_HASHES: usize = 130;

/// The hashes of an inclusion or a consistency proof, in base64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Hashes(pub Vec<Hash>);

impl TryFrom<Vec<String>> for Hashes {
    type Error = ProofError;

    fn try_from(lines: Vec<String>) -> Result<Self, ProofError> {
        if lines.len() > MOST_HASHES {
            return Err(ProofError::Malformed);
        }
        let hashes = lines.iter().map(|line| Hash::parse_hash(line));
        let hashes = hashes.collect::<Result<_, _>>();
        hashes.map(Self).map_err(|_| ProofError::Malformed)
    }
}

impl From<Hashes> for Vec<String> {
    fn from(hashes: Hashes) -> Self {
        hashes.0.iter().map(Hash::to_string).collect()
    }
}

impl Hashes {
    /// Proves that the leaf at `index` is in a tree.
    pub(super) fn of_inclusion(
        index: EntryIndex,
        size: u64,
        stored: &impl HashReader,
    ) -> Result<Self, ProofError> {
        if index.0 >= size {
            return Err(ProofError::OutOfRange);
        }
        tlog_tiles::prove_record(size, index.0, stored)
            .map(Self)
            .map_err(|_| ProofError::Unproven)
    }

    /// Proves that a tree begins with the older one.
    pub(super) fn of_consistency(
        old: u64,
        new: u64,
        stored: &impl HashReader,
    ) -> Result<Self, ProofError> {
        if old > new {
            return Err(ProofError::OutOfRange);
        }
        if old == 0 || old == new {
            return Ok(Self(Vec::new()));
        }
        tlog_tiles::prove_tree(new, old, stored)
            .map(Self)
            .map_err(|_| ProofError::Unproven)
    }

    /// Checks that a leaf stands at `index` in the log that the checkpoint is of.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_inclusion(
        &self,
        index: EntryIndex,
        leaf: Hash,
        checkpoint: &Checkpoint,
    ) -> Result<(), ProofError> {
        let Checkpoint { size, root, .. } = *checkpoint;
        if index.0 >= size || self.0.len() > MOST_HASHES {
            return Err(ProofError::OutOfRange);
        }
        tlog_tiles::check_record(&self.0, size, root, index.0, leaf)
            .map_err(|_| ProofError::Unproven)
    }

    /// Checks that the newer log begins with all of the older.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_consistency(&self, old: (u64, Hash), new: (u64, Hash)) -> Result<(), ProofError> {
        if old.0 > new.0 || self.0.len() > MOST_HASHES {
            return Err(ProofError::OutOfRange);
        }
        let proven = if old.0 == new.0 {
            self.0.is_empty() && old.1 == new.1
        } else if old.0 == 0 {
            self.0.is_empty() && old.1 == tlog_tiles::EMPTY_HASH
        } else {
            tlog_tiles::check_tree(&self.0, new.0, new.1, old.0, old.1).is_ok()
        };
        if proven {
            Ok(())
        } else {
            Err(ProofError::Unproven)
        }
    }
}

/// An entry with the proof that it is in the log: a `.tlog-proof` file. Its text is that of C2SP
/// tlog-proof, with the entry as extra data.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryProof {
    /// The entry as the log has it.
    pub entry: String,
    /// Where it stands.
    pub index: EntryIndex,
    /// The way up from its leaf.
    pub hashes: Hashes,
    /// The signed note of a checkpoint that covers it.
    pub note: String,
}

impl EntryProof {
    const HEADER: &str = "c2sp.org/tlog-proof@v1";

    /// Checks all of it against the log's key, or several. Gives the checkpoint.
    ///
    /// # Errors
    /// When anything does not fit.
    pub fn check(&self, log: impl AsRef<[VerifierKey]>) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.note, log)?;
        let leaf = record_hash(self.entry.as_bytes());
        self.hashes.check_inclusion(self.index, leaf, &checkpoint)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for EntryProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::HEADER)?;
        writeln!(f, "extra {}", STANDARD.encode(&self.entry))?;
        writeln!(f, "index {}", self.index.0)?;
        for hash in &self.hashes.0 {
            writeln!(f, "{hash}")?;
        }
        writeln!(f)?;
        f.write_str(&self.note)
    }
}

impl FromStr for EntryProof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let (head, note) = text.split_once("\n\n").ok_or(ProofError::Malformed)?;
        let mut lines = head.lines();
        if lines.next() != Some(Self::HEADER) {
            return Err(ProofError::Malformed);
        }
        let mut field = |name: &str| {
            let line = lines.next().ok_or(ProofError::Malformed)?;
            line.strip_prefix(name).ok_or(ProofError::Malformed)
        };
        let entry = field("extra ")?;
        let entry = STANDARD.decode(entry).map_err(|_| ProofError::Malformed)?;
        let written = field("index ")?;
        let index: u64 = written.parse().map_err(|_| ProofError::Malformed)?;
        if index.to_string() != written {
            return Err(ProofError::Malformed);
        }
        Ok(Self {
            entry: String::from_utf8(entry).map_err(|_| ProofError::Malformed)?,
            index: EntryIndex(index),
            hashes: Hashes::try_from(lines.map(str::to_owned).collect::<Vec<_>>())?,
            note: note.to_owned(),
        })
    }
}

/// Why something is not proven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not in the form that it should have.
    #[error("it is no proof (C2SP tlog-proof with the entry as extra data)")]
    Malformed,
    /// About entries that the log does not have.
    #[error("it is about entries that the log does not have")]
    OutOfRange,
    /// The hashes don't lead to the checkpoint's root.
    #[error("the hashes do not lead to the checkpoint: this is not what the log has")]
    Unproven,
    /// The checkpoint is not the log's.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
}
