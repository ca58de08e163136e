use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request::{AddCheckpoint, Malformed};
use super::store::{Latest, Store, WitnessStoreError};
use crate::audit::{Checkpoint, CheckpointError, NoteSigner, VerifierKey};

/// How long nothing else is reported of a log whose proof did not hold: with a wrong proof, anybody
/// can send a checkpoint that is right.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// A witness at work.
pub struct Witness {
    /// The logs that it follows. One log may have several keys.
    logs: Vec<VerifierKey>,
    signer: NoteSigner,
    store: Mutex<Store>,
    /// What was reported last of each log.
    reported: Mutex<HashMap<String, Reported>>,
}

struct Reported {
    note: String,
    when: Instant,
}

/// What is odd about a checkpoint that the log's key signed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Oddity {
    TwoLogs,
    NoProof,
}

/// What a witness says to a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It cosigned it. The line of its signature, which is on record.
    Cosigned(String),
    /// The body can't be read.
    Malformed(Malformed),
    /// It does not follow this log.
    UnknownLog,
    /// None of the log's keys signed it.
    Unsigned,
    /// The size that it cosigned last is another than the one given.
    AnotherSize(u64),
    /// It cosigned another log of this size.
    AnotherRoot(u64),
    /// The proof does not hold.
    Unproven,
}

impl Witness {
    pub(super) fn new(logs: Vec<VerifierKey>, signer: NoteSigner, store: Store) -> Self {
        Self {
            logs,
            signer,
            store: Mutex::new(store),
            reported: Mutex::default(),
        }
    }

    /// The key that others verify its cosignatures with.
    pub fn key(&self) -> &VerifierKey {
        self.signer.verifier()
    }

    /// The logs that it follows.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Cosigns a checkpoint when it continues what was cosigned before, `now` being the time in
    /// seconds since 1970. May wait for the disk.
    ///
    /// # Errors
    /// When that can't be looked up or put on record, which must come before the answer.
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Result<Answer, WitnessStoreError> {
        let asked = std::str::from_utf8(body)
            .map_err(|_| Malformed::Body)
            .and_then(str::parse::<AddCheckpoint>);
        let asked = match asked {
            Ok(asked) => asked,
            Err(malformed) => return Ok(Answer::Malformed(malformed)),
        };
        match self.open(&asked.note) {
            Ok(checkpoint) => self.judge(&asked, &checkpoint, now),
            Err(refused) => Ok(refused),
        }
    }

    /// Reads a checkpoint that a log which is followed has signed.
    fn open(&self, note: &str) -> Result<Checkpoint, Answer> {
        let origin = Checkpoint::origin(note);
        let mut answer = Answer::UnknownLog;
        for log in self.logs.iter().filter(|log| log.name() == origin) {
            match Checkpoint::open(note, log) {
                // What SQLite can't hold, no log has.
                Ok(checkpoint) if i64::try_from(checkpoint.size).is_ok() => return Ok(checkpoint),
                Ok(_) | Err(CheckpointError::Malformed) => {
                    return Err(Answer::Malformed(Malformed::Checkpoint));
                }
                Err(_) => answer = Answer::Unsigned,
            }
        }
        Err(answer)
    }

    fn judge(
        &self,
        asked: &AddCheckpoint,
        checkpoint: &Checkpoint,
        now: u64,
    ) -> Result<Answer, WitnessStoreError> {
        if asked.old > checkpoint.size {
            return Ok(Answer::Malformed(Malformed::Backwards));
        }
        let origin = Checkpoint::origin(checkpoint.note());
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = store.turn()?;
        let latest = turn.latest(origin)?;
        if latest.size == checkpoint.size && latest.root != checkpoint.root {
            // Said even when the old size is another: what could prove more?
            self.report(origin, &latest, checkpoint, Oddity::TwoLogs);
        }
        if asked.old != latest.size {
            return Ok(Answer::AnotherSize(latest.size));
        }
        let (old, new) = (
            (latest.size, latest.root),
            (checkpoint.size, checkpoint.root),
        );
        if old.0 == new.0 && old.1 != new.1 {
            return Ok(Answer::AnotherRoot(latest.size));
        }
        if asked.proof.check_consistency(old, new).is_err() {
            self.report(origin, &latest, checkpoint, Oddity::NoProof);
            return Ok(Answer::Unproven);
        }
        // Never an earlier time than before, whatever the clock says.
        let time = now.max(latest.time);
        let line = self.signer.cosign(checkpoint, time)?;
        turn.keep(origin, checkpoint, time)?;
        tracing::debug!(origin, size = checkpoint.size, "cosigned");
        Ok(Answer::Cosigned(line))
    }

    /// Puts both checkpoints, each signed by the log's key, where the witness's operator sees them.
    fn report(&self, origin: &str, latest: &Latest, checkpoint: &Checkpoint, odd: Oddity) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let note = checkpoint.note();
        if let Some(last) = reported.get(origin)
            && (last.note == note || odd == Oddity::NoProof && last.when.elapsed() < REPORT_EVERY)
        {
            return;
        }
        let cosigned = latest.note.as_str();
        match odd {
            Oddity::TwoLogs => tracing::error!(
                origin,
                cosigned,
                refused = note,
                "THE LOG WAS REWRITTEN: its key signed two checkpoints of one size that differ; \
                 keep both, they prove it"
            ),
            Oddity::NoProof => tracing::error!(
                origin,
                cosigned,
                refused = note,
                "a checkpoint that the log's key signed came without a proof that it continues \
                 the one that was cosigned: the log may have been rewritten, or the sender made a \
                 mistake; keep both"
            ),
        }
        let note = note.to_owned();
        let when = Instant::now();
        reported.insert(origin.to_owned(), Reported { note, when });
    }
}
