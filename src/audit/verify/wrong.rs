//! What may be wrong with a log.

use crate::audit::StoreError;

/// What does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// An entry.
    #[error("entry {index} does not fit: {why}")]
    Entry {
        /// Its place.
        index: u64,
        /// Why.
        why: String,
    },
    /// An entry is not there.
    #[error("entry {index} is missing")]
    Missing {
        /// Its place.
        index: u64,
    },
    /// The newest checkpoint was signed for other entries.
    #[error(
        "the {size} entries are not those that the newest checkpoint was signed for: some were \
         changed together with their hashes. An older checkpoint (--since) narrows down where"
    )]
    Root {
        /// How many there are.
        size: u64,
    },
    /// A checkpoint that was seen before was signed for other entries.
    #[error(
        "the first {size} entries are not those that an earlier checkpoint was signed for: the log \
         was rewritten since"
    )]
    Earlier {
        /// The earlier size.
        size: u64,
    },
    /// The log was longer once.
    #[error("the log has {entries} entries, and had {before} before: it was cut off or put back")]
    Shorter {
        /// How many it has.
        entries: u64,
        /// How many it had.
        before: u64,
    },
    /// A checkpoint is not signed by a key that it should be.
    #[error("{why}")]
    Key {
        /// What is wrong with it.
        why: String,
    },
    /// There are more entries than were signed for.
    #[error("there are entries from {index} on that no checkpoint was signed for")]
    Unsigned {
        /// The first.
        index: u64,
    },
    /// An index of the database.
    #[error(
        "the index {name} of the database has something else of entries {first} to {last} than they \
         say, which are whole: searches, or a start of the server, miss some of them. Keep the file \
         for whoever finds out; REINDEX of the sqlite3 program makes the indexes anew, when the server \
         is stopped. What was deleted that the database keeps of archived entries, their serial numbers \
         for instance, only a backup has"
    )]
    Index {
        /// Which.
        name: &'static str,
        /// The first entry of those that it was compared with together.
        first: u64,
        /// The last.
        last: u64,
    },
    /// It can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't be fetched.
    #[error("entries from {index} on can't be fetched: {source}")]
    Unread {
        /// The first.
        index: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A fault of ours.
    #[error("verifying failed: a thread panicked")]
    Panicked,
}
