use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};

use super::store::{Row, Store};
use super::{Entry, Event, StoreError};
use crate::model::{EntryIndex, Serial, Timestamp};

/// How many requests may wait for the disk. Past it, requests are turned away at once.
const QUEUE: usize = 1024;
/// How far the clock may be behind the newest entry.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// No request's nonce: that is longer.
const PROBE: &str = "probe";

/// The log, open for writing. Cheap to share.
///
/// A request takes a [`Slot`], whose index it can sign into a certificate, and commits an event
/// to it. The writer commits slots in the order of their indexes; those that wait are committed
/// together. A slot that is dropped is committed as [`Event::RequestFailed`], so that no gap ever
/// forms.
pub struct Log {
    numbering: Arc<Mutex<Numbering>>,
    waiting: Arc<Semaphore>,
    writer: mpsc::UnboundedSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the next entry gets. Held only to take a number, never across I/O.
struct Numbering {
    /// Counts failed commits. Numbers handed out before a failure are void after it, because the
    /// entries in front of them may be missing.
    generation: u64,
    next: u64,
    last_serial: u64,
    last_time: Timestamp,
    /// Why the last commit failed, until one succeeds.
    failure: Option<String>,
}

enum Message {
    Entry {
        generation: u64,
        row: Result<Row, String>,
        nonce: Option<(String, Timestamp)>,
        /// Nobody waits for a dropped slot.
        done: Option<oneshot::Sender<Result<(), LogError>>>,
    },
    /// A request that leaves no entry, but whose nonce must be spent for good.
    Nonce {
        nonce: Option<(String, Timestamp)>,
        done: oneshot::Sender<Result<(), LogError>>,
    },
}

/// What a log held when it was opened.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// Nonces that could still be replayed.
    pub nonces: Vec<(String, Timestamp)>,
}

impl Log {
    /// Makes an empty log.
    ///
    /// # Errors
    /// When the file exists or can't be written.
    pub fn create(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        Self::start(Store::create(path)?, now)
    }

    /// Opens a log, gives the entries that state is rebuilt from to `each`, and returns the
    /// nonces that could still be replayed.
    ///
    /// # Errors
    /// When the file is missing, damaged or no log.
    pub fn open(
        path: &Path,
        now: Timestamp,
        each: impl FnMut(Entry),
    ) -> Result<Opened, StoreError> {
        let store = Store::open(path)?;
        let nonces = store.nonces(now)?;
        store.state_entries(each)?;
        Ok(Opened {
            log: Self::start(store, now)?,
            nonces,
        })
    }

    fn start(store: Store, now: Timestamp) -> Result<Self, StoreError> {
        let end = store.end()?;
        let numbering = Arc::new(Mutex::new(Numbering {
            generation: 0,
            next: end.length,
            last_serial: end.last_serial,
            last_time: end.last_time,
            failure: None,
        }));
        let (sender, receiver) = mpsc::unbounded_channel();
        let writer = Writer {
            store,
            numbering: Arc::clone(&numbering),
            next: end.length,
            early: BTreeMap::new(),
            last_sweep: now,
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
            waiting: Arc::new(Semaphore::new(QUEUE)),
            writer: sender,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes the next place in the log and a serial number that was never used.
    ///
    /// # Errors
    /// When too many wait already, or the clock is far behind the log.
    pub fn reserve(&self, now: Timestamp) -> Result<Slot, LogError> {
        let permit = match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(LogError::Busy),
            Err(TryAcquireError::Closed) => return Err(LogError::Stopped),
        };
        let mut numbering = lock(&self.numbering);
        if now.plus(CLOCK_TOLERANCE) < numbering.last_time {
            return Err(LogError::ClockBehind {
                newest: numbering.last_time,
                now,
            });
        }
        let time = now.max(numbering.last_time);
        // Time first and at random below a millisecond: unique even against certificates that a
        // restored backup no longer knows of. The range lasts beyond the year 6000.
        let random = crate::keys::random_bytes::<2>().map_err(|_| LogError::Randomness)?;
        let by_time = now.as_millis() << 16 | u64::from(u16::from_le_bytes(random));
        let serial = by_time.max(numbering.last_serial + 1);
        let slot = Slot {
            index: EntryIndex(numbering.next),
            serial: Serial::new(serial).ok_or(LogError::SerialsExhausted)?,
            time,
            generation: numbering.generation,
            writer: Some(self.writer.clone()),
            _permit: permit,
        };
        numbering.next += 1;
        numbering.last_serial = serial;
        numbering.last_time = time;
        Ok(slot)
    }

    /// Spends a nonce for good without an entry, for requests that only read.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn spend(&self, nonce: String, expires: Timestamp) -> Result<(), LogError> {
        self.write_nonce(Some((nonce, expires))).await
    }

    /// Whether the log can be written, tried out when the last commit failed.
    ///
    /// # Errors
    /// When it can't.
    pub async fn check(&self) -> Result<(), LogError> {
        self.write_nonce(None).await
    }

    async fn write_nonce(&self, nonce: Option<(String, Timestamp)>) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.writer
            .send(Message::Nonce { nonce, done })
            .map_err(|_| LogError::Stopped)?;
        answer.await.unwrap_or(Err(LogError::Stopped))
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

/// A place in the log that waits for its entry.
pub struct Slot {
    index: EntryIndex,
    serial: Serial,
    time: Timestamp,
    generation: u64,
    /// Gone once the entry was handed over.
    writer: Option<mpsc::UnboundedSender<Message>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
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

    /// Commits the event, with the nonce of the request behind it. When it returns, both are on
    /// disk.
    ///
    /// # Errors
    /// When they are not.
    pub async fn commit(
        mut self,
        event: Event,
        nonce: Option<(String, Timestamp)>,
    ) -> Result<Entry, LogError> {
        let entry = Entry {
            index: self.index,
            time: self.time,
            event,
        };
        let (done, answer) = oneshot::channel();
        self.hand_over(Row::new(&entry), nonce, Some(done))?;
        answer.await.unwrap_or(Err(LogError::Stopped))?;
        Ok(entry)
    }

    fn hand_over(
        &mut self,
        row: Result<Row, serde_json::Error>,
        nonce: Option<(String, Timestamp)>,
        done: Option<oneshot::Sender<Result<(), LogError>>>,
    ) -> Result<(), LogError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        writer
            .send(Message::Entry {
                generation: self.generation,
                row: row.map_err(|error| error.to_string()),
                nonce,
                done,
            })
            .map_err(|_| LogError::Stopped)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let entry = Entry {
            index: self.index,
            time: self.time,
            event: Event::RequestFailed,
        };
        // Without a writer there is no log that could have a gap.
        self.hand_over(Row::new(&entry), None, None).ok();
    }
}

/// The one thread that writes.
struct Writer {
    store: Store,
    numbering: Arc<Mutex<Numbering>>,
    /// The index that the file is ready for.
    next: u64,
    /// Entries whose predecessors have not arrived yet.
    early: BTreeMap<u64, Waiting>,
    /// Expired nonces were last deleted then.
    last_sweep: Timestamp,
}

struct Waiting {
    row: Row,
    nonce: Option<(String, Timestamp)>,
    done: Option<oneshot::Sender<Result<(), LogError>>>,
}

/// What is committed together.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    nonces: Vec<(String, Timestamp)>,
    done: Vec<oneshot::Sender<Result<(), LogError>>>,
    /// Somebody asks whether the log can be written.
    probe: bool,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(first) = messages.blocking_recv() {
            let mut batch = Batch::default();
            self.take(first, &mut batch);
            while batch.done.len() < QUEUE {
                let Ok(message) = messages.try_recv() else {
                    break;
                };
                self.take(message, &mut batch);
            }
            self.write(batch);
        }
    }

    fn take(&mut self, message: Message, batch: &mut Batch) {
        match message {
            Message::Entry {
                generation,
                row,
                nonce,
                done,
            } => {
                if generation != lock(&self.numbering).generation {
                    answer(done, Err(LogError::Overtaken));
                    return;
                }
                match row {
                    Ok(row) => {
                        self.early.insert(row.index.0, Waiting { row, nonce, done });
                    }
                    Err(error) => self.fail(Batch::default(), &error, done),
                }
            }
            Message::Nonce { nonce, done } => {
                batch.probe |= nonce.is_none();
                batch.nonces.extend(nonce);
                batch.done.push(done);
            }
        }
    }

    fn write(&mut self, mut batch: Batch) {
        let mut next = self.next;
        while let Some(waiting) = self.early.remove(&next) {
            batch.rows.push(waiting.row);
            batch.nonces.extend(waiting.nonce);
            batch.done.extend(waiting.done);
            next += 1;
        }
        if batch.done.is_empty() && batch.rows.is_empty() {
            return;
        }
        if batch.probe && lock(&self.numbering).failure.is_some() {
            // An empty transaction would not touch the disk.
            batch.nonces.push((PROBE.to_owned(), self.last_sweep));
        }
        let sweep = batch
            .nonces
            .iter()
            .map(|(_, expires)| *expires)
            .max()
            .map_or(self.last_sweep, |latest| {
                latest.minus(Duration::from_secs(600))
            });
        match self.store.commit(&batch.rows, &batch.nonces, sweep) {
            Ok(()) => {
                self.next = next;
                self.last_sweep = sweep;
                let mut numbering = lock(&self.numbering);
                if numbering.failure.take().is_some() {
                    tracing::info!("the audit log can be written again");
                }
                drop(numbering);
                for done in batch.done {
                    answer(Some(done), Ok(()));
                }
            }
            Err(error) => self.fail(batch, &error.to_string(), None),
        }
    }

    /// Nothing that waits can be committed any more: what comes later was numbered after it.
    fn fail(
        &mut self,
        batch: Batch,
        error: &str,
        also: Option<oneshot::Sender<Result<(), LogError>>>,
    ) {
        tracing::error!(error, "the audit log can't be written: nothing is issued");
        {
            let mut numbering = lock(&self.numbering);
            numbering.generation += 1;
            numbering.next = self.next;
            numbering.failure = Some(error.to_owned());
        }
        let early = std::mem::take(&mut self.early);
        let waiting = early.into_values().filter_map(|waiting| waiting.done);
        for done in batch.done.into_iter().chain(also).chain(waiting) {
            answer(Some(done), Err(LogError::Unwritable(error.to_owned())));
        }
    }
}

fn answer(done: Option<oneshot::Sender<Result<(), LogError>>>, result: Result<(), LogError>) {
    if let Some(done) = done {
        // The request may be gone; its entry stands all the same.
        done.send(result).ok();
    }
}

fn lock(numbering: &Mutex<Numbering>) -> MutexGuard<'_, Numbering> {
    numbering.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// An entry in front of this one failed.
    #[error("the audit log just failed to take another entry: try again")]
    Overtaken,
    /// The server ends.
    #[error("the server is stopping: try again in a moment")]
    Stopped,
    /// The clock was set back.
    #[error(
        "the server's clock says {now}, but the newest log entry is from {newest}: set the clock \
         right"
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
