use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::cursors::{Cursor, Cursors};
use crate::audit::{Checkpoint, Hash, Reader, StoreError, record_hash};
use crate::model::{DeliveryName, EntryIndex};

/// How soon the first attempt follows on a failure, and the longest time between two.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How much is said of why.
const LONGEST_WHY: usize = 300;

/// What one delivery takes entries from, and where it keeps how far it has come.
pub(super) struct Feed {
    name: DeliveryName,
    reader: Reader,
    newest: watch::Receiver<Option<Checkpoint>>,
    cursors: Arc<Cursors>,
    next: u64,
    /// Whether the last cursor could be kept.
    kept: bool,
    state: State,
    pause: Duration,
}

/// What was last said about the receiver.
#[derive(PartialEq)]
enum State {
    Untried,
    Up,
    Down,
}

/// Entries that follow each other, as they are stored.
pub(super) struct Page {
    pub(super) first: u64,
    pub(super) entries: Vec<String>,
}

impl Page {
    /// How far a delivery is that has delivered it.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        let last = self.entries.last()?;
        Some(Cursor {
            next: self.first + self.entries.len() as u64,
            last: record_hash(last.as_bytes()),
        })
    }
}

impl Feed {
    /// From where it was left, or from the first entry on.
    pub(super) fn resume(
        name: DeliveryName,
        reader: Reader,
        newest: watch::Receiver<Option<Checkpoint>>,
        cursors: Arc<Cursors>,
    ) -> Result<Self, FeedError> {
        let next = match cursors.of(&name)? {
            Some(Cursor { next, last }) if is_before(&reader, next, &last)? => next,
            Some(_) => {
                tracing::warn!(
                    delivery = %name,
                    "the log is not the one that was delivered before: all of it is delivered again"
                );
                0
            }
            None => 0,
        };
        Ok(Self {
            name,
            reader,
            newest,
            cursors,
            next,
            kept: true,
            state: State::Untried,
            pause: FIRST_PAUSE,
        })
    }

    /// The first entry that is not delivered for good.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many entries there are.
    pub(super) fn size(&self) -> u64 {
        let newest = self.newest.borrow();
        newest.as_ref().map_or(0, |checkpoint| checkpoint.size)
    }

    /// The log's name: the first line of its checkpoints.
    pub(super) fn log(&self) -> String {
        let newest = self.newest.borrow();
        let note = newest.as_ref().map_or("", Checkpoint::note);
        note.lines().next().unwrap_or_default().to_owned()
    }

    /// The newest checkpoint.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.newest.borrow().clone()
    }

    /// Waits for an entry at `index` or behind. Never done once the log is closed.
    pub(super) async fn wait_for(&mut self, index: u64) {
        let there =
            |newest: &Option<Checkpoint>| newest.as_ref().is_some_and(|newest| newest.size > index);
        if self.newest.wait_for(there).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Entries from `first` on: at most `most`, and no more bytes than `bytes` but for a first one.
    pub(super) fn page(&self, first: u64, most: usize, bytes: usize) -> Result<Page, String> {
        let read = || self.reader.range(EntryIndex(first), most);
        let mut entries = tokio::task::block_in_place(read).map_err(|error| error.to_string())?;
        let mut length = 0;
        let fitting = entries.iter().take_while(|entry| {
            length += entry.len();
            length <= bytes
        });
        let fitting = fitting.count().max(1);
        entries.truncate(fitting);
        Ok(Page { first, entries })
    }

    /// Everything before the cursor is delivered for good.
    pub(super) fn advance(&mut self, cursor: &Cursor) {
        self.next = cursor.next;
        let kept = tokio::task::block_in_place(|| self.cursors.set(&self.name, cursor));
        if let Err(error) = &kept
            && self.kept
        {
            tracing::warn!(
                delivery = %self.name, %error,
                "delivery.db can't be written: after a restart, entries are delivered again"
            );
        }
        self.kept = kept.is_ok();
    }

    /// The receiver takes entries.
    pub(super) fn up(&mut self) {
        self.pause = FIRST_PAUSE;
        let before = std::mem::replace(&mut self.state, State::Up);
        match before {
            State::Up => {}
            State::Untried => tracing::info!(delivery = %self.name, "the log is being delivered"),
            State::Down => {
                tracing::info!(delivery = %self.name, "the log is being delivered again");
            }
        }
    }

    /// The receiver takes none, which is said once. Waits before it is tried again, at least for
    /// so long as the receiver asks.
    pub(super) async fn down(&mut self, why: &str, asked: Option<Duration>) {
        // The names on a stranger's certificate may be in it.
        let why = &why[..why.floor_char_boundary(LONGEST_WHY)];
        if self.state != State::Down {
            let waiting = self.size().saturating_sub(self.next);
            tracing::warn!(delivery = %self.name, why, waiting, "the log is not delivered: trying again");
            self.state = State::Down;
        } else {
            tracing::debug!(delivery = %self.name, why, "the log is not delivered");
        }
        let pause = self.pause.max(asked.unwrap_or_default());
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        tokio::time::sleep(pause).await;
    }
}

/// Whether the log has that entry before `next`.
fn is_before(reader: &Reader, next: u64, last: &Hash) -> Result<bool, StoreError> {
    let Some(index) = next.checked_sub(1) else {
        return Ok(true);
    };
    Ok(reader.leaf(EntryIndex(index))? == Some(*last))
}

/// Why there are no entries to deliver.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] StoreError),
    /// It is not known how far the delivery has come.
    #[error("delivery.db: {0}")]
    Cursor(#[from] rusqlite::Error),
}
