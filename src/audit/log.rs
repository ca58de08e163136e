use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};

use super::checkpoint::{Checkpoint, VerifierKey};
use super::proof::Hashes;
use super::signers::LogSigners;
use super::store::{End, Row, State, Store, Troubles};
use super::tree::Hash;
use super::writer::{Committed, Live, Message, Waiting, Writer, lock};
use super::{Entry, Event, ProofError, StoreError, Trouble};
use crate::keys::random_bytes;
use crate::model::{EntryIndex, LONGEST_SESSION, Serial, Timestamp};

/// How many requests may wait for the disk. Past it, requests are turned away at once.
pub(super) const QUEUE: usize = 1024;
/// How far the clock may be behind the newest entry.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// For how long one answer to whether the log can be written does for all who ask.
const CHECK_LIFE: Duration = Duration::from_secs(1);

/// What of a request must not come again, and is kept on disk for that.
#[derive(Clone, Debug)]
pub struct Spent {
    /// The request's nonce.
    pub nonce: String,
    /// Until when that must be remembered.
    pub expires: Timestamp,
    /// How far the key had counted that signed the request. The highest is remembered.
    pub counter: Option<Counter>,
}

impl Spent {
    /// Of a request that was signed by a key that does not count.
    pub fn new(nonce: String, expires: Timestamp) -> Self {
        Self {
            nonce,
            expires,
            counter: None,
        }
    }
}

/// How far a FIDO2 key has counted its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Which key, since which entry.
    pub of: String,
    /// How far.
    pub value: u32,
}

/// The log, open for writing. Cheap to share.
///
/// A request takes a [`Slot`], whose index it can sign into a certificate, and commits an event
/// to it. The writer commits slots in the order of their indexes; those that wait are committed
/// together. A slot that is dropped is committed as [`Event::RequestFailed`], so that no gap ever
/// forms.
pub struct Log {
    numbering: Arc<Mutex<Numbering>>,
    coming: Coming,
    waiting: Arc<Semaphore>,
    writer: mpsc::UnboundedSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The newest checkpoint.
    newest: watch::Receiver<Option<Checkpoint>>,
    /// The last answer to whether the log can be written.
    checked: tokio::sync::Mutex<Option<(Instant, Result<(), LogError>)>>,
    troubles: Troubles,
}

/// Counts those whose entry will come in a moment.
#[derive(Clone, Default)]
pub(super) struct Coming(Arc<AtomicUsize>);

impl Coming {
    fn one(&self) -> Comer<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Comer(&self.0)
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Somebody whose entry will come in a moment.
pub struct Comer<'a>(&'a AtomicUsize);

impl Drop for Comer<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the next entry gets. Held only to take a number, never across I/O.
pub(super) struct Numbering {
    /// Counts failed commits. Numbers handed out before a failure are void after it, because the
    /// entries in front of them may be missing.
    pub(super) generation: u64,
    pub(super) next: u64,
    pub(super) last_serial: u64,
    pub(super) last_time: Timestamp,
    /// Why the last commit failed, until one succeeds.
    pub(super) failure: Option<String>,
}

/// A log that was read and checked, and is not written to yet.
pub struct Opened {
    store: Store,
    end: End,
    state: State,
    /// Nonces that could still be replayed.
    pub nonces: Vec<(String, Timestamp)>,
    /// No nonce that expires later is missing among them. After the time of the opening, when a
    /// clock that was ahead has swept away some that count.
    pub forgotten: Timestamp,
    /// The highest that each FIDO2 key has counted, by [`Counter::of`].
    pub counters: BTreeMap<String, u32>,
    /// The size and the time of the backup that it was restored from, when no entry says so yet.
    pub restored: Option<(u64, Timestamp)>,
    /// When the last certificate of each CA expires, by the CA's fingerprint.
    pub last_expiries: BTreeMap<String, Timestamp>,
}

impl Opened {
    /// Whether that key signed the newest checkpoint; also when there is none yet.
    pub fn is_signed_by(&self, key: &VerifierKey) -> bool {
        let newest = self.end.checkpoint.as_ref();
        newest.is_none_or(|newest| newest.is_signed_by(key) == Ok(true))
    }

    /// Begins to write, with what signs the log's checkpoints. From then on `live` gets
    /// each entry that changes state, once it is committed and before its [`Slot::commit`] returns,
    /// also when nobody waits for that any more.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(
        self,
        signers: impl Into<LogSigners>,
        live: impl FnMut(&Entry) + Send + 'static,
    ) -> Result<Log, StoreError> {
        Log::start(
            self.store,
            self.end,
            self.state,
            signers.into(),
            Box::new(live),
        )
    }
}

impl Log {
    /// Makes an empty log.
    ///
    /// # Errors
    /// When the file exists or can't be written.
    pub fn create(path: &Path, signers: impl Into<LogSigners>) -> Result<Self, StoreError> {
        let signers = signers.into();
        let store = Store::create(path)?;
        let end = store.end(&signers.verifiers())?;
        Self::start(store, end, State::default(), signers, Box::new(|_| {}))
    }

    /// Opens a log, checks that one of these keys signed its newest checkpoint and that it is what
    /// was signed, and gives the entries that state is rebuilt from to `each`. Whether it is the
    /// right one of these keys, those entries tell: see [`Opened::is_signed_by`].
    ///
    /// # Errors
    /// When the file is missing, damaged, no log, or not what the newest checkpoint was signed for.
    pub fn open(
        path: &Path,
        keys: impl AsRef<[VerifierKey]>,
        now: Timestamp,
        each: impl FnMut(Entry),
    ) -> Result<Opened, StoreError> {
        let store = Store::open(path)?;
        let end = store.end(keys.as_ref())?;
        let since = now.minus(LONGEST_SESSION + CLOCK_TOLERANCE);
        let state = store.state(&end, keys.as_ref(), since, each)?;
        Ok(Opened {
            nonces: store.nonces(now)?,
            forgotten: store.forgotten(now)?,
            counters: store.counters()?,
            restored: store.restored()?,
            last_expiries: store.last_expiries()?,
            store,
            end,
            state,
        })
    }

    fn start(
        store: Store,
        end: End,
        state: State,
        signers: LogSigners,
        live: Live,
    ) -> Result<Self, StoreError> {
        let numbering = Arc::new(Mutex::new(Numbering {
            generation: 0,
            next: end.tree.size(),
            last_serial: end.last_serial,
            last_time: end.last_time,
            failure: None,
        }));
        let (sender, receiver) = mpsc::unbounded_channel();
        let coming = Coming::default();
        let (newest, watching) = watch::channel(end.checkpoint);
        let troubles = store.troubles();
        let writer = Writer {
            store,
            signers,
            numbering: Arc::clone(&numbering),
            coming: coming.clone(),
            in_company: false,
            tree: end.tree,
            state,
            newest,
            early: BTreeMap::new(),
            swept: Timestamp::default(),
            live,
        };
        let thread = std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|source| StoreError::File {
                path: "a thread".into(),
                source,
            })?;
        Ok(Self {
            numbering,
            coming,
            waiting: Arc::new(Semaphore::new(QUEUE)),
            writer: sender,
            thread: Mutex::new(Some(thread)),
            newest: watching,
            checked: tokio::sync::Mutex::default(),
            troubles,
        })
    }

    /// The newest checkpoint, from now on. It changes with each commit.
    pub fn newest(&self) -> watch::Receiver<Option<Checkpoint>> {
        self.newest.clone()
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, LogError> {
        Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(|error| match error {
                TryAcquireError::NoPermits => LogError::Busy,
                TryAcquireError::Closed => LogError::Stopped,
            })
    }

    /// Does work that commits an entry. As long as it computes, and does not wait for something,
    /// the writer holds back a commit that it could be part of, for some milliseconds at most: the
    /// more entries share a commit, the less each costs.
    pub fn about_to_commit<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        // Such work is large, and what holds it is moved a few times before it begins.
        let mut work = Box::pin(work);
        poll_fn(move |context| {
            let _comer = self.coming();
            work.as_mut().poll(context)
        })
    }

    /// The same for as long as what it gives lives: where work waits for what comes in no time.
    pub fn coming(&self) -> Comer<'_> {
        self.coming.one()
    }

    /// Takes the next place in the log and a serial number that was never used.
    ///
    /// # Errors
    /// When too many wait already, or the clock is far behind the log.
    pub fn reserve(&self, now: Timestamp) -> Result<Slot, LogError> {
        let permit = self.permit()?;
        let mut numbering = lock(&self.numbering);
        numbering.check_clock(now)?;
        let time = now.max(numbering.last_time);
        // Time first and at random below a millisecond: unique even against certificates that a
        // restored backup no longer knows of. The range lasts beyond the year 6000.
        let random = random_bytes::<2>().map_err(|_| LogError::Randomness)?;
        let by_time = now.as_millis() << 16 | u64::from(u16::from_le_bytes(random));
        let serial = by_time.max(numbering.last_serial + 1);
        let slot = Slot {
            index: EntryIndex(numbering.next),
            serial: Serial::new(serial).ok_or(LogError::SerialsExhausted)?,
            time,
            generation: numbering.generation,
            writer: Some(self.writer.clone()),
            permit: Some(permit),
        };
        numbering.next += 1;
        numbering.last_serial = serial;
        numbering.last_time = time;
        Ok(slot)
    }

    /// Takes `now` for right although the log has newer entries, from a clock that was ahead.
    /// Gives the time of the newest, when there is one to correct.
    pub fn correct_clock(&self, now: Timestamp) -> Option<Timestamp> {
        let mut numbering = lock(&self.numbering);
        let newest = numbering.last_time;
        if newest <= now {
            return None;
        }
        numbering.last_time = now;
        // By time again, so that a restored backup gives out others.
        numbering.last_serial = 0;
        Some(newest)
    }

    /// Keeps what a request has spent without an entry, for those that only read.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn spend(&self, spent: Spent) -> Result<(), LogError> {
        self.send(|waiting| Message::Spent { spent, waiting }).await
    }

    /// Keeps the newest checkpoint that a witness cosigned, beside the log and in place of the one
    /// before.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn keep_cosigned(
        &self,
        witness: &str,
        checkpoint: &Checkpoint,
    ) -> Result<(), LogError> {
        let cosigned = (witness.to_owned(), checkpoint.note().to_owned());
        self.send(|waiting| Message::Cosigned { cosigned, waiting })
            .await
    }

    /// Whether an entry could be written at `now`, tried out at most once a second.
    ///
    /// # Errors
    /// When it can't.
    pub async fn check(&self, now: Timestamp) -> Result<(), LogError> {
        lock(&self.numbering).check_clock(now)?;
        let mut checked = self.checked.lock().await;
        let works = lock(&self.numbering).failure.is_none();
        if let Some((when, answer)) = &*checked
            && when.elapsed() < CHECK_LIFE
            && answer.is_ok() == works
        {
            return answer.clone();
        }
        let answer = self.send(|waiting| Message::Probe { waiting }).await;
        *checked = Some((Instant::now(), answer.clone()));
        answer
    }

    /// What is wrong while entries can be written all the same.
    pub fn trouble(&self) -> Option<Trouble> {
        self.troubles.now()
    }

    /// Deletes the entries before a place that are archived, a few at a time with whatever waits in
    /// between: see [`Reader::clearable`](super::Reader::clearable).
    ///
    /// # Errors
    /// When the file can't be written.
    pub async fn clear_archived(&self, before: u64) -> Result<(), LogError> {
        loop {
            let (done, answer) = oneshot::channel();
            self.writer
                .send(Message::Clear { before, done })
                .map_err(|_| LogError::Stopped)?;
            if !answer.await.unwrap_or(Err(LogError::Stopped))? {
                return Ok(());
            }
        }
    }

    async fn send(&self, message: impl FnOnce(Waiting) -> Message) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            done: Some(done),
            _permit: Some(self.permit()?),
            ..Waiting::default()
        };
        self.writer
            .send(message(waiting))
            .map_err(|_| LogError::Stopped)?;
        match answer.await {
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(LogError::Stopped),
        }
    }

    /// Waits until everything handed over is on disk, and closes the file.
    pub fn close(self) {
        let Self { writer, thread, .. } = self;
        drop(writer);
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the writer was reported where it happened.
            thread.join().ok();
        }
    }
}

impl Numbering {
    fn check_clock(&self, now: Timestamp) -> Result<(), LogError> {
        if now.plus(CLOCK_TOLERANCE) < self.last_time {
            return Err(LogError::ClockBehind {
                newest: self.last_time,
                now,
            });
        }
        Ok(())
    }
}

/// What comes with an entry.
#[derive(Default)]
pub struct With {
    /// Let go only when the outcome is certain and taken in, also when nobody waits for that any
    /// more.
    pub held: Option<Box<dyn Send>>,
    /// What signs the first checkpoint that covers the entry, and all later ones.
    pub signers: Option<LogSigners>,
}

impl With {
    /// Something that is let go when the outcome is certain.
    pub fn holding(held: impl Send + 'static) -> Self {
        Self {
            held: Some(Box::new(held)),
            signers: None,
        }
    }
}

/// A place in the log that waits for its entry.
pub struct Slot {
    index: EntryIndex,
    serial: Serial,
    time: Timestamp,
    generation: u64,
    /// Gone once the entry was handed over.
    writer: Option<mpsc::UnboundedSender<Message>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// The entry's index.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// A serial number for the certificate that the entry records.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// Hands the event over, with what the request behind it has spent. When what this gives is
    /// done, both are on disk.
    ///
    /// # Errors
    /// When they are not.
    pub fn commit(
        self,
        event: Event,
        spent: Option<Spent>,
    ) -> impl Future<Output = Result<Place, LogError>> {
        self.commit_with(event, spent, With::default())
    }

    /// The same with what comes with it.
    ///
    /// # Errors
    /// When event and nonce are not on disk.
    pub fn commit_with(
        mut self,
        event: Event,
        spent: Option<Spent>,
        with: With,
    ) -> impl Future<Output = Result<Place, LogError>> {
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            done: Some(done),
            spent,
            held: with.held,
            signers: with.signers,
            ..Waiting::default()
        };
        let index = self.index;
        let handed_over = self.hand_over(event, waiting);
        async move {
            let (leaf, body) = handed_over?;
            let committed = answer.await.unwrap_or(Err(LogError::Stopped))?;
            Ok(Place {
                index,
                leaf,
                body,
                committed: committed.ok_or(LogError::Stopped)?,
            })
        }
    }

    /// Gives the hash of the entry, and its text.
    fn hand_over(
        &mut self,
        event: Event,
        mut waiting: Waiting,
    ) -> Result<(Hash, String), LogError> {
        let salt = event.is_guessable().then(salt).transpose()?;
        let Some(writer) = self.writer.take() else {
            return Err(LogError::Stopped);
        };
        let entry = Entry {
            index: self.index,
            time: self.time,
            event,
            salt,
        };
        let row = match Row::new(&entry) {
            Ok(row) => row,
            Err(error) => {
                self.writer = Some(writer);
                return Err(error);
            }
        };
        let handed_over = (row.leaf, row.body.clone());
        waiting._permit = self.permit.take();
        if entry.event.is_heard() {
            waiting.change = Some(Box::new(entry));
        }
        writer
            .send(Message::Entry {
                generation: self.generation,
                row: Box::new(row),
                waiting,
            })
            .map_err(|_| LogError::Stopped)?;
        Ok(handed_over)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Without a writer there is no log that could have a gap.
        self.hand_over(Event::RequestFailed, Waiting::default())
            .ok();
    }
}

/// What nobody can guess.
fn salt() -> Result<String, LogError> {
    let bytes: [u8; 16] = random_bytes().map_err(|_| LogError::Randomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Where an entry stands that is on disk.
pub struct Place {
    /// Its index.
    pub index: EntryIndex,
    /// Its hash.
    pub leaf: Hash,
    /// Its text, as the log has it.
    pub body: String,
    committed: Arc<Committed>,
}

impl Place {
    /// The first checkpoint that covers it.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.committed.checkpoint
    }

    /// The proof that it is in the log of that checkpoint.
    ///
    /// # Errors
    /// Never, unless the tree was not what it should be.
    pub fn inclusion(&self) -> Result<Hashes, ProofError> {
        let Committed { checkpoint, recent } = &*self.committed;
        Hashes::of_inclusion(self.index, checkpoint.size, recent)
    }
}

/// Why something is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The queue is full.
    #[error("the server is busy: try again in a moment")]
    Busy,
    /// The disk or the database failed.
    #[error("the audit log can't be written: {0}")]
    Unwritable(String),
    /// What was committed before can't be read.
    #[error("the audit log can't be read: {0}")]
    Unreadable(String),
    /// An entry in front of this one failed.
    #[error("the audit log just failed to take another entry: try again")]
    Overtaken,
    /// The server ends.
    #[error("the server is stopping: try again in a moment")]
    Stopped,
    /// The entry can't be written down.
    #[error("this can't be written to the audit log: {0}")]
    Illegal(String),
    /// The clock was set back.
    #[error(
        "the server's clock says {now}, but the newest log entry is from {newest}: set the clock \
         right; if it is right, and was ahead before, start the server once with --accept-clock"
    )]
    ClockBehind {
        /// The newest entry's time.
        newest: Timestamp,
        /// The clock's.
        now: Timestamp,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Randomness,
    /// After the year 6000.
    #[error("there are no serial numbers left")]
    SerialsExhausted,
}
