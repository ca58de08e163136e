use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::asked::{AskedError, AskedWitness, Caller, Said};
use super::cosigned::Cosigned;
use super::request::AddCheckpoint;
use crate::audit::{Checkpoint, Hashes, Log, ProofError, Reader, StoreError, VerifierKey};

/// No witness is asked more often, however fast the log grows.
const PACE: Duration = Duration::from_secs(1);
/// The longest that a witness which can't be used is left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Once it told its size, it should take what continues that.
const MOST_CORRECTIONS: u32 = 3;
/// How often it is said that there is still something wrong.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// The witnesses that a CA asks, with what they cosigned.
///
/// All are offered the same checkpoints, one a second at most, so that there are some which all of
/// them cosigned. Each is asked in a task of its own: one that is slow or gone holds nobody up.
#[derive(Default)]
pub struct Witnesses {
    asked: Vec<Asked>,
    cosigned: Mutex<Cosigned>,
    /// The key of the log that comes, by the witnesses that cosign what it signs alone.
    knows: Mutex<BTreeMap<String, VerifierKey>>,
    /// The checkpoint that is offered.
    offer: watch::Sender<Option<Checkpoint>>,
}

struct Asked {
    key: VerifierKey,
    caller: Arc<Caller>,
}

impl Witnesses {
    /// Those of a configuration, with the folder that file names are relative to.
    ///
    /// # Errors
    /// When one can't be asked, whatever it would say.
    pub fn new(witnesses: &[AskedWitness], folder: &Path) -> Result<Self, AskedError> {
        let mut asked: Vec<Asked> = Vec::new();
        for witness in witnesses {
            let name = witness.key.name();
            if asked.iter().any(|other| other.key.name() == name) {
                return Err(AskedError::SameName(name.to_owned()));
            }
            asked.push(Asked {
                key: witness.key.clone(),
                caller: Arc::new(Caller::new(witness, folder)?),
            });
        }
        Ok(Self {
            asked,
            ..Self::default()
        })
    }

    /// The keys of all of them.
    pub fn keys(&self) -> impl Iterator<Item = &VerifierKey> {
        self.asked.iter().map(|witness| &witness.key)
    }

    /// The names of those that don't cosign yet what that key of the log signs alone.
    pub fn strangers_to(&self, log: &VerifierKey) -> Vec<String> {
        let knows = self.knows.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.keys().map(VerifierKey::name);
        names
            .filter(|name| knows.get(*name) != Some(log))
            .map(str::to_owned)
            .collect()
    }

    /// Takes up what was cosigned before the last stop, of checkpoints that one of these keys of the
    /// log signed.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn restore(&self, reader: &Reader, log: &[VerifierKey]) -> Result<(), StoreError> {
        for key in self.keys() {
            let name = key.name();
            let Some(note) = reader.cosigned(name)? else {
                continue;
            };
            let found = Checkpoint::unchecked(&note).ok().and_then(|checkpoint| {
                let checkpoint = checkpoint.with_only(log)?;
                let line = its_line(&checkpoint, &note, key)?;
                Some((checkpoint, line))
            });
            match found {
                Some((checkpoint, line)) => {
                    self.cosigned().add(name, &checkpoint, &line);
                }
                // Another key under the old name, most likely.
                None => tracing::warn!(witness = name, "what it cosigned before does not count"),
            }
        }
        Ok(())
    }

    /// What was cosigned so far.
    pub fn cosigned(&self) -> MutexGuard<'_, Cosigned> {
        self.cosigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the log's newest checkpoints, at the pace at which witnesses are asked. Ends with the
    /// log.
    pub async fn offer(&self, log: &Log) {
        let mut newest = log.newest();
        newest.mark_changed();
        while newest.changed().await.is_ok() {
            let checkpoint = newest.borrow_and_update().clone();
            self.offer.send_replace(checkpoint);
            sleep(PACE).await;
        }
    }

    /// Asks one witness for as long as the log is open. `coming` gives the key that the log is about
    /// to be signed with alone, while there are several.
    pub async fn ask(
        &self,
        place: usize,
        log: &Log,
        reader: &Reader,
        coming: impl Fn() -> Option<VerifierKey>,
    ) {
        let Some(witness) = self.asked.get(place) else {
            return;
        };
        let mut offered = self.offer.subscribe();
        offered.mark_changed();
        let mut standing = Standing::new(witness.key.name());
        let last = self.cosigned().newest(&[standing.name.clone()]).cloned();
        standing.cosigned = last.as_ref().map_or(0, |last| last.size);
        standing.known = standing.cosigned;
        while offered.changed().await.is_ok() {
            loop {
                let Some(checkpoint) = offered.borrow_and_update().clone() else {
                    break;
                };
                if checkpoint.size < standing.known {
                    // It told of a later one, which is offered next.
                    break;
                }
                let begun = Instant::now();
                let outcome = self
                    .ask_once(witness, &checkpoint, &standing, log, reader, coming())
                    .await;
                let end = log
                    .newest()
                    .borrow()
                    .as_ref()
                    .map_or(0, |newest| newest.size);
                let done = standing.take(outcome, end);
                sleep_until(begun + standing.wait).await;
                if done {
                    break;
                }
            }
        }
    }

    /// Notes which key of the log a witness knows that comes.
    fn note(&self, witness: &Asked, coming: Option<VerifierKey>) {
        let mut knows = self.knows.lock().unwrap_or_else(PoisonError::into_inner);
        let name = witness.key.name();
        match coming {
            Some(coming) => knows.insert(name.to_owned(), coming),
            None => knows.remove(name),
        };
    }

    async fn ask_once(
        &self,
        witness: &Asked,
        checkpoint: &Checkpoint,
        standing: &Standing,
        log: &Log,
        reader: &Reader,
        coming: Option<VerifierKey>,
    ) -> Result<Progress, Trouble> {
        let (old, new) = (standing.known, checkpoint.size);
        let proof = tokio::task::block_in_place(|| reader.consistency(old, new))?;
        let ask = |checkpoint: &Checkpoint| {
            let asked = AddCheckpoint {
                old,
                proof: Hashes(proof.0.clone()),
                note: checkpoint.note().to_owned(),
            };
            call(&witness.caller, asked)
        };
        // A cosignature is over the text alone, so it is good whoever else signed that.
        let alone = coming.as_ref().map(std::slice::from_ref);
        let alone = alone.and_then(|coming| checkpoint.with_only(coming));
        let mut said = None;
        if let Some(alone) = alone {
            match ask(&alone).await? {
                Said::Refused(403, _) => self.note(witness, None),
                other => said = Some(other),
            }
        }
        let knows = said.is_some();
        let said = match said {
            Some(said) => said,
            None => ask(checkpoint).await?,
        };
        match said {
            Said::Cosigned(lines) => {
                if knows {
                    self.note(witness, coming);
                }
                let line = its_line(checkpoint, &lines, &witness.key).ok_or(Trouble::NotItsKey)?;
                let name = &standing.name;
                let cosigned = self.cosigned().add(name, checkpoint, &line);
                // Kept for the next start alone: by then there will be others.
                if let Err(error) = log.keep_cosigned(name, &cosigned).await {
                    tracing::debug!(%error, "a cosigned checkpoint is not kept");
                }
                Ok(Progress::Cosigned(new))
            }
            Said::AnotherSize(size) => {
                let end = log
                    .newest()
                    .borrow()
                    .as_ref()
                    .map_or(0, |newest| newest.size);
                if size == old && size == new {
                    return Err(Trouble::Rewritten(format!(
                        "it cosigned another log of {size} entries"
                    )));
                }
                if size > end {
                    return Err(Trouble::Rewritten(format!(
                        "it cosigned {size} entries, and the log has {end}"
                    )));
                }
                Ok(Progress::AnotherSize(size))
            }
            Said::Unproven => Err(Trouble::Rewritten(format!(
                "the log does not continue the {old} entries that it cosigned"
            ))),
            Said::Refused(404, _) => Err(Trouble::Unfollowed),
            Said::Refused(status, text) => Err(Trouble::Refused(status, text)),
        }
    }
}

/// The line under a checkpoint that is this witness's, and right.
fn its_line(checkpoint: &Checkpoint, lines: &str, key: &VerifierKey) -> Option<String> {
    lines
        .lines()
        .filter(|line| line.starts_with('\u{2014}'))
        .map(|line| format!("{line}\n"))
        .find(|line| matches!(checkpoint.with_lines(line).cosigned_by(key), Ok(Some(_))))
}

/// Calls on a thread of its own, which holds nothing: when the server stops, nobody waits for it.
async fn call(caller: &Arc<Caller>, asked: AddCheckpoint) -> Result<Said, Trouble> {
    let caller = Arc::clone(caller);
    let (done, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("witness".to_owned())
        .spawn(move || done.send(caller.call(&asked)).ok())
        .map_err(|error| Trouble::Unreachable(error.to_string()))?;
    match answer.await {
        Ok(said) => said.map_err(Trouble::Unreachable),
        Err(_) => Err(Trouble::Unreachable("the call broke off".to_owned())),
    }
}

/// What came of asking.
enum Progress {
    Cosigned(u64),
    /// It has another than was thought, and is asked again.
    AnotherSize(u64),
}

/// What is wrong with a witness, or with the log in its eyes.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error(
        "it does not follow this log: have it list the line that `hallpass audit key` prints in \
         its witness.toml"
    )]
    Unfollowed,
    #[error("it answers with status {0}: {1}")]
    Refused(u16, String),
    #[error("each time that it is asked, it has cosigned another size")]
    Unsteady,
    #[error(
        "its cosignature is not by its key, and does not count: check key in hallpass.toml against \
         what `hallpass witness init` printed"
    )]
    NotItsKey,
    #[error(
        "{0}: THE LOG WAS REWRITTEN, or put back to an old backup. Nobody who trusts this witness \
         will believe it any more"
    )]
    Rewritten(String),
    #[error("there is no proof for it: {0}")]
    NoProof(#[from] ProofError),
}

/// How it goes with a witness.
struct Standing {
    name: String,
    /// How many entries the checkpoint has that it cosigned last, as far as it told.
    known: u64,
    /// The same as far as its cosignature is here.
    cosigned: u64,
    /// How often in a row it told another size than was thought.
    corrections: u32,
    wait: Duration,
    trouble: Option<(std::mem::Discriminant<Trouble>, Instant)>,
    /// It was said that it cosigns.
    told: bool,
}

impl Standing {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            known: 0,
            cosigned: 0,
            corrections: 0,
            wait: PACE,
            trouble: None,
            told: false,
        }
    }

    /// Takes in what came of asking, when the log had `end` entries. Whether the witness has what
    /// it was offered.
    fn take(&mut self, outcome: Result<Progress, Trouble>, end: u64) -> bool {
        self.corrections = match &outcome {
            Ok(Progress::AnotherSize(_)) => self.corrections + 1,
            _ => 0,
        };
        let witness = &self.name;
        match outcome {
            Ok(Progress::Cosigned(size)) => {
                (self.known, self.cosigned) = (size, size);
                self.wait = PACE;
                let behind = end.saturating_sub(size);
                if self.trouble.take().is_some() || !self.told {
                    tracing::info!(
                        witness,
                        cosigned = size,
                        behind,
                        "the witness cosigns the log"
                    );
                    self.told = true;
                } else {
                    tracing::debug!(witness, cosigned = size, behind, "cosigned");
                }
                true
            }
            Ok(Progress::AnotherSize(size)) => {
                self.known = size;
                if self.corrections > MOST_CORRECTIONS {
                    return self.take(Err(Trouble::Unsteady), end);
                }
                self.wait = PACE;
                false
            }
            Err(trouble) => {
                self.warn(&trouble, end);
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                false
            }
        }
    }

    /// Says what is wrong: once, and again when it is something else or lasts.
    fn warn(&mut self, trouble: &Trouble, end: u64) {
        let kind = std::mem::discriminant(trouble);
        if let Some((before, when)) = self.trouble
            && before == kind
            && when.elapsed() < REMIND_EVERY
        {
            return;
        }
        self.trouble = Some((kind, Instant::now()));
        let (witness, cosigned) = (&self.name, self.cosigned);
        let behind = end.saturating_sub(cosigned);
        match trouble {
            Trouble::Rewritten(_) => {
                tracing::error!(
                    witness,
                    cosigned,
                    behind,
                    "the witness refuses the log: {trouble}"
                );
            }
            _ => tracing::warn!(
                witness,
                cosigned,
                behind,
                "the witness does not cosign the log: {trouble}; it is asked again and again"
            ),
        }
    }
}
