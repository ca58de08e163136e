//! What this client saw of the CA's log. The newest checkpoint is kept, and whatever comes later
//! must continue it: so a log that was rewritten, or put back to an old backup, is noticed.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::files::{self, FileError};
use super::{Api, ApiError, ConfigError, ConfigFolder, Query, now};
use crate::audit::{Checkpoint, CheckpointError, Entry, Hashes, VerifierKey, record_hash};
use crate::model::{CertificateAnswer, ConsistencyProof};

/// The newest checkpoint that this client saw.
pub struct History<'a> {
    folder: &'a ConfigFolder,
    api: &'a Api,
}

impl<'a> History<'a> {
    /// Of the CA that `api` speaks to.
    pub fn new(folder: &'a ConfigFolder, api: &'a Api) -> Self {
        Self { folder, api }
    }

    /// The log's keys of which one must have signed a note. One that is not signed by exactly those
    /// that are known tells that they are others by now, which the CA is asked to prove.
    ///
    /// # Errors
    /// When newer ones can't be kept.
    pub fn keys_of(&self, note: &str) -> Result<Vec<VerifierKey>, HistoryError> {
        let known = self.api.log_keys();
        let as_known = Checkpoint::unchecked(note)
            .is_ok_and(|checkpoint| checkpoint.is_signed_by_exactly(&known.now()));
        if as_known {
            return Ok(known.now());
        }
        self.follow_keys()?;
        Ok(self.api.log_keys().now())
    }

    /// Takes over the keys of the log that a known one vouches for. Without a proof, there is nothing
    /// but what is known.
    ///
    /// # Errors
    /// When newer ones can't be kept.
    pub fn follow_keys(&self) -> Result<(), HistoryError> {
        if let Ok(signed) = self.api.signed_trust()
            && let Some(trust) = self.api.log_keys().believe(&signed)
        {
            self.api.know_log_keys(self.folder.follow_log(&trust)?);
        }
        Ok(())
    }

    /// Checks that an entry of the log records a certificate, and that this log continues the one
    /// seen before.
    ///
    /// # Errors
    /// When it is not proven, or the log was rewritten.
    pub fn check_receipt(&self, answer: &CertificateAnswer) -> Result<(), HistoryError> {
        let receipt = &answer.receipt;
        let checkpoint = self.open(&receipt.checkpoint)?;
        let unproven = |why: &str| HistoryError::Unproven {
            what: format!("that the certificate is its entry {}", answer.entry.0),
            why: why.to_owned(),
        };
        if receipt.body.is_empty() {
            return Err(unproven(
                "the receipt does not have the entry itself; if the CA is of a version before this \
                 client's, it must be upgraded",
            ));
        }
        // Not the hash that the receipt names, which could be any entry's.
        let leaf = record_hash(receipt.body.as_bytes());
        Hashes::try_from(receipt.inclusion.clone())
            .and_then(|hashes| hashes.check_inclusion(answer.entry, leaf, &checkpoint))
            .map_err(|why| unproven(&why.to_string()))?;
        if !is_recorded(answer) {
            return Err(unproven("that entry does not record this certificate"));
        }
        self.follow(&checkpoint)
    }

    /// Asks for the newest checkpoint, and checks that it continues the one seen before.
    ///
    /// # Errors
    /// When there is none, or the log was rewritten.
    pub fn newest(&self) -> Result<Checkpoint, HistoryError> {
        let checkpoint = self.open(&self.api.get_text("/v1/log/checkpoint")?)?;
        self.follow(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Asks for the newest checkpoint that a witness cosigned, and checks that it is of the log that
    /// was seen before.
    ///
    /// # Errors
    /// When there is none, the witness did not cosign it, or the log was rewritten.
    pub fn cosigned(&self, witness: &VerifierKey) -> Result<Checkpoint, HistoryError> {
        let target = Query::path(&["v1", "log", "checkpoint", "cosigned"])
            .with("witness", Some(witness.name()));
        let checkpoint = self.open(&self.api.get_text(target.as_str())?)?;
        let cosigned = checkpoint.cosigned_by(witness);
        if cosigned.map_err(HistoryError::Checkpoint)?.is_none() {
            return Err(HistoryError::Unproven {
                what: format!("what {} saw of its log", witness.name()),
                why: "the checkpoint is not cosigned by this key".to_owned(),
            });
        }
        self.follow(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Checks that a checkpoint and the newest one seen are of one log, and remembers the newer.
    ///
    /// # Errors
    /// When they are not.
    pub fn follow(&self, checkpoint: &Checkpoint) -> Result<(), HistoryError> {
        let mut seen = self.seen()?;
        loop {
            if let Some(seen) = &seen {
                self.check(seen, checkpoint)?;
                if checkpoint.size <= seen.size {
                    return Ok(());
                }
            }
            // Never across a request, which the CA could hold back.
            let lock = files::lock(&self.folder.checkpoint_lock());
            let _lock =
                lock.map_err(|source| FileError::new(&self.folder.checkpoint_lock(), source))?;
            let newest = self.seen()?;
            let is_same =
                newest.as_ref().map(Checkpoint::note) == seen.as_ref().map(Checkpoint::note);
            if is_same {
                return self.remember(checkpoint);
            }
            // Another command saw more meanwhile: whatever it kept must fit, too.
            seen = newest;
        }
    }

    /// Checks that a checkpoint is of the same log as one that was seen before, whichever is the newer.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, seen: &Checkpoint, other: &Checkpoint) -> Result<(), HistoryError> {
        let (old, new) = if seen.size <= other.size {
            (seen, other)
        } else {
            (other, seen)
        };
        let hashes = if old.size == new.size {
            Some(Hashes(Vec::new()))
        } else {
            self.consistency(old, new)?
        };
        let ends = ((old.size, old.root), (new.size, new.root));
        match hashes {
            Some(hashes) if hashes.check_consistency(ends.0, ends.1).is_ok() => Ok(()),
            _ => Err(HistoryError::Rewritten {
                old: old.size,
                new: new.size,
                evidence: self.keep_evidence(seen, other),
            }),
        }
    }

    /// The proof that the CA gives, if any.
    fn consistency(
        &self,
        old: &Checkpoint,
        new: &Checkpoint,
    ) -> Result<Option<Hashes>, HistoryError> {
        let target = Query::path(&["v1", "log", "consistency"])
            .with("old", Some(old.size))
            .with("new", Some(new.size));
        let proof: ConsistencyProof = match self.api.get(target.as_str()) {
            Ok(proof) => proof,
            // It once was as long as that, and can't be shorter.
            Err(ApiError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Hashes::try_from(proof.hashes).ok())
    }

    fn open(&self, note: &str) -> Result<Checkpoint, HistoryError> {
        Checkpoint::open(note, self.keys_of(note)?).map_err(HistoryError::Checkpoint)
    }

    /// The newest checkpoint that was seen.
    fn seen(&self) -> Result<Option<Checkpoint>, HistoryError> {
        let path = self.folder.checkpoint();
        let note = match fs::read_to_string(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HistoryError::Unreadable { path, source }),
        };
        // It was checked when it was new.
        match Checkpoint::open(&note, self.api.log_keys().ever()) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(source) => Err(HistoryError::Damaged { path, source }),
        }
    }

    fn remember(&self, checkpoint: &Checkpoint) -> Result<(), HistoryError> {
        Ok(files::replace(
            &self.folder.checkpoint(),
            checkpoint.note().as_bytes(),
        )?)
    }

    /// Keeps what proves that the log was changed: once, since a host asks every minute.
    fn keep_evidence(&self, seen: &Checkpoint, other: &Checkpoint) -> Option<PathBuf> {
        let begins = format!("{}\n", seen.note());
        let mut kept = self.folder.all_evidence();
        kept.retain(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with(&begins)));
        if let Some(kept) = kept.pop() {
            return Some(kept);
        }
        let evidence = self.folder.evidence(now());
        let text = format!("{begins}{}", other.note());
        let written = files::replace(&evidence, text.as_bytes()).is_ok();
        written.then_some(evidence)
    }
}

/// Whether the entry of the receipt records the certificate that it came with.
fn is_recorded(answer: &CertificateAnswer) -> bool {
    const END: &str = "-----END CERTIFICATE-----\n";
    let text = &answer.certificate;
    // X.509 comes with the CA's own above it.
    let end = text.find(END).map_or(text.len(), |at| at + END.len());
    let entry: Option<Entry> = serde_json::from_str(&answer.receipt.body).ok();
    entry.is_some_and(|entry| {
        let recorded = entry.event.certificate();
        entry.index == answer.entry
            && recorded.is_some_and(|recorded| {
                recorded.serial == answer.serial && recorded.certificate == text[..end]
            })
    })
}

/// Why the log is not believed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Two checkpoints that the log's key signed do not fit together.
    #[error(
        "THE CA'S AUDIT LOG WAS CHANGED. What it shows now, {new} entries, does not continue what \
         it showed before, {old} entries, and both are signed by its key. Nothing that it says \
         should be believed before somebody has found out why: tell whoever is responsible for \
         security.{}\nIf an old backup of the CA was restored on purpose, \
         run `hallpass connect` again to begin anew.",
        evidence.as_ref().map_or_else(String::new, |path| format!(" The proof is kept in {}.", path.display()))
    )]
    Rewritten {
        /// The smaller size.
        old: u64,
        /// The larger size.
        new: u64,
        /// Both checkpoints.
        evidence: Option<PathBuf>,
    },
    /// A checkpoint that is not the log's.
    #[error(
        "the CA's checkpoint of its log can't be believed: {0}; if the CA was made anew, or the \
         log's key was revoked, run `hallpass connect` again"
    )]
    Checkpoint(CheckpointError),
    /// A proof that does not hold.
    #[error("the CA does not prove {what}: {why}; tell its administrator")]
    Unproven {
        /// What it should have proven.
        what: String,
        /// Why it did not.
        why: String,
    },
    /// What was remembered can't be read.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log's newer keys can't be kept.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was remembered is not the log's.
    #[error(
        "{path} should be the newest checkpoint of the CA's log that was seen here: {source}; run \
         `hallpass connect` again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The CA gave no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The checkpoint can't be kept.
    #[error(transparent)]
    File(#[from] FileError),
}
