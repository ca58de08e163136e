//! The one thread that writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::checkpoint::Checkpoint;
use super::log::{Coming, LogError, Numbering, QUEUE, Spent};
use super::signers::LogSigners;
use super::store::{Commit, Row, State, Store};
use super::tree::{Frontier, Hash, Recent};
use super::{Entry, StoreError};
use crate::model::Timestamp;

/// How long a nonce stays on disk after it has expired, and how often they are swept.
const NONCE_REST: Duration = Duration::from_secs(600);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long a commit is held back for entries that will come in a moment, and how often it is
/// looked whether there are any.
const LONGEST_HOLD: Duration = Duration::from_millis(4);
const HOLD: Duration = Duration::from_micros(200);
/// How many share a commit well enough when no more are coming than that: those are computed while it
/// waits for the disk.
const COMPANY: usize = 8;

/// What the writer is asked.
pub(super) enum Message {
    Entry {
        generation: u64,
        row: Box<Row>,
        waiting: Waiting,
    },
    /// A request that leaves no entry, but must not come again.
    Spent { spent: Spent, waiting: Waiting },
    /// A checkpoint that a witness cosigned: its name and the note.
    Cosigned {
        cosigned: (String, String),
        waiting: Waiting,
    },
    /// Somebody asks whether the log can be written.
    Probe { waiting: Waiting },
    /// Archived entries may be deleted.
    Clear {
        /// Only those in front of it.
        before: u64,
        /// Is told whether there are more.
        done: oneshot::Sender<Result<bool, LogError>>,
    },
}

/// Who waits for a commit. The request behind it may be gone by then: what it held back for as
/// long as the outcome was open is held here.
#[derive(Default)]
pub(super) struct Waiting {
    /// Nobody waits for a dropped slot.
    pub(super) done: Option<oneshot::Sender<Result<Option<Arc<Committed>>, LogError>>>,
    pub(super) spent: Option<Spent>,
    /// What the log's owner must take in once it is committed.
    pub(super) change: Option<Box<Entry>>,
    pub(super) held: Option<Box<dyn Send>>,
    /// What signs each checkpoint that covers the entry.
    pub(super) signers: Option<LogSigners>,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// What takes in each committed entry that [is heard](Event::is_heard).
pub(super) type Live = Box<dyn FnMut(&Entry) + Send>;

/// What those have in common whose entries were committed together.
pub(super) struct Committed {
    pub(super) checkpoint: Checkpoint,
    pub(super) recent: Recent,
}

/// The one thread that writes.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) signers: LogSigners,
    pub(super) numbering: Arc<Mutex<Numbering>>,
    pub(super) coming: Coming,
    /// The last commit served several.
    pub(super) in_company: bool,
    /// The tree of what is on disk; its size is the index that the file is ready for.
    pub(super) tree: Frontier,
    /// Which of them state is rebuilt from.
    pub(super) state: State,
    pub(super) newest: watch::Sender<Option<Checkpoint>>,
    /// Entries whose predecessors have not arrived yet.
    pub(super) early: BTreeMap<u64, (Box<Row>, Waiting)>,
    /// Nonces that expired before this were deleted.
    pub(super) swept: Timestamp,
    pub(super) live: Live,
}

/// What is committed together.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    spent: Vec<Spent>,
    cosigned: Vec<(String, String)>,
    waiting: Vec<Waiting>,
    /// What signs its checkpoint and those after it, when that is not what signed before.
    signers: Option<LogSigners>,
    probe: bool,
}

impl Batch {
    fn add(&mut self, mut waiting: Waiting) {
        self.spent.extend(waiting.spent.take());
        if waiting.signers.is_some() {
            self.signers = waiting.signers.take();
        }
        self.waiting.push(waiting);
    }
}

impl Writer {
    pub(super) fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(first) = messages.blocking_recv() {
            let mut batch = Batch::default();
            self.take(first, &mut batch);
            if self.in_company {
                self.hold(&messages);
            }
            while batch.waiting.len() < QUEUE {
                let Ok(message) = messages.try_recv() else {
                    break;
                };
                self.take(message, &mut batch);
            }
            self.write(batch);
        }
    }

    /// Waits for those whose entry will come in a moment. Nothing wakes the thread meanwhile, which
    /// is cheaper than being told of each.
    fn hold(&self, messages: &mpsc::UnboundedReceiver<Message>) {
        let begin = Instant::now();
        // Between two of them there may be none for a moment.
        let mut quiet = self.coming.count() == 0;
        while begin.elapsed() < LONGEST_HOLD {
            std::thread::sleep(HOLD);
            let coming = self.coming.count();
            let was_quiet = std::mem::replace(&mut quiet, coming == 0);
            // One was taken already.
            let here = messages.len() + 1;
            if was_quiet && quiet || here >= COMPANY.max(coming) {
                break;
            }
        }
    }

    fn take(&mut self, message: Message, batch: &mut Batch) {
        match message {
            Message::Entry {
                generation,
                row,
                waiting,
            } => {
                if generation != lock(&self.numbering).generation {
                    waiting.end(Err(LogError::Overtaken));
                    return;
                }
                self.early.insert(row.index.0, (row, waiting));
            }
            Message::Spent { spent, waiting } => {
                batch.spent.push(spent);
                batch.waiting.push(waiting);
            }
            Message::Cosigned { cosigned, waiting } => {
                batch.cosigned.push(cosigned);
                batch.waiting.push(waiting);
            }
            Message::Probe { waiting } => {
                batch.probe = true;
                batch.waiting.push(waiting);
            }
            Message::Clear { before, done } => {
                let cleared = self.store.clear(before);
                // Who asked may be gone; the next start goes on.
                done.send(cleared.map_err(|error| LogError::Unwritable(error.to_string())))
                    .ok();
            }
        }
    }

    fn write(&mut self, mut batch: Batch) {
        let mut next = self.tree.size();
        while let Some((row, waiting)) = self.early.remove(&next) {
            batch.rows.push(*row);
            batch.add(waiting);
            next += 1;
        }
        if batch.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut batch.waiting);
        self.in_company = waiting.len() > 1;
        let written = match self.commit(&batch) {
            Ok(written) => written,
            Err(error) => return self.fail(waiting, &error.to_string()),
        };
        if written.is_some() || batch.probe {
            let failed = lock(&self.numbering).failure.take().is_some();
            if failed {
                tracing::info!("the audit log can be written again");
            }
        }
        for waiting in waiting {
            if let Some(entry) = &waiting.change {
                (self.live)(entry);
            }
            waiting.end(Ok(written.clone()));
        }
    }

    /// Brings a batch to disk, with the tree and the checkpoint that it makes.
    fn commit(&mut self, batch: &Batch) -> Result<Option<Arc<Committed>>, StoreError> {
        let mut tree = self.tree.clone();
        let hashes: Vec<Vec<Hash>> = batch.rows.iter().map(|row| tree.append(row.leaf)).collect();
        let mut state = self.state.clone();
        for row in &batch.rows {
            state.take(row.index.0, row.kind, row.leaf);
        }
        let before = self.newest.borrow().clone();
        let (after, mark) = if batch.rows.is_empty() {
            (None, None)
        } else {
            // The log's keys as they stand after its last entry: a key that this batch revokes does
            // not sign it.
            let signers = batch.signers.as_ref().unwrap_or(&self.signers);
            (
                Some(signers.checkpoint(tree.size(), tree.root())?),
                state.mark(&tree, signers, batch.signers.is_some())?,
            )
        };
        let sweep = self.sweep_before(&batch.spent);
        self.store.commit(&Commit {
            rows: &batch.rows,
            next: self.tree.size(),
            hashes: &hashes,
            before: before.as_ref(),
            after: after.as_ref(),
            state: mark.as_deref(),
            spent: &batch.spent,
            sweep,
            cosigned: &batch.cosigned,
            probe: batch.probe,
        })?;
        self.swept = sweep.unwrap_or(self.swept);
        let Some(checkpoint) = after else {
            return Ok(None);
        };
        let recent = Recent::new(&self.tree, hashes.concat());
        self.tree = tree;
        self.state = state;
        if let Some(signers) = &batch.signers {
            self.signers = signers.clone();
        }
        self.newest.send_replace(Some(checkpoint.clone()));
        Ok(Some(Arc::new(Committed { checkpoint, recent })))
    }

    /// Before when nonces must have expired to be deleted now, when it is time for that.
    fn sweep_before(&self, spent: &[Spent]) -> Option<Timestamp> {
        let newest = spent.iter().map(|spent| spent.expires).max()?;
        let before = newest.minus(NONCE_REST);
        (before >= self.swept.plus(SWEEP_EVERY)).then_some(before)
    }

    /// Nothing that waits can be committed any more: what comes later was numbered after it.
    fn fail(&mut self, waiting: Vec<Waiting>, error: &str) {
        tracing::error!(error, "the audit log can't be written: nothing is issued");
        {
            let mut numbering = lock(&self.numbering);
            numbering.generation += 1;
            numbering.next = self.tree.size();
            numbering.failure = Some(error.to_owned());
        }
        let early = std::mem::take(&mut self.early);
        let early = early.into_values().map(|(_, waiting)| waiting);
        for waiting in waiting.into_iter().chain(early) {
            waiting.end(Err(LogError::Unwritable(error.to_owned())));
        }
    }
}

impl Waiting {
    /// Lets go of what was held, then tells who waits.
    fn end(self, outcome: Result<Option<Arc<Committed>>, LogError>) {
        drop(self.held);
        if let Some(done) = self.done {
            // The request may be gone; its entry stands all the same.
            done.send(outcome).ok();
        }
    }
}

/// A panic within never leaves it half changed.
pub(super) fn lock(numbering: &Mutex<Numbering>) -> MutexGuard<'_, Numbering> {
    numbering.lock().unwrap_or_else(PoisonError::into_inner)
}
