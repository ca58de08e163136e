//! What a host runs: it joins a CA once, and from then on keeps what it trusts and its own
//! certificates up to date, and tells the CA which trust bundle is in force.
//!
//! Nothing here prints. Each file is put in place whole or not at all, checked before anything is
//! reloaded, and given back at the end as it was. A host that can't reach the CA goes on with what it
//! has.

mod change;
mod owner;
mod postgres;
mod settings;
mod ssh;
mod sync;

pub use change::{Change, What};
pub use settings::{PostgresSettings, Settings, SshSettings};
pub use sync::{Joining, Left, Synced, join, leave, sync};

use std::io;
use std::path::PathBuf;

use crate::client::{
    ApiError, ConfigError, ConnectError, FileError, HistoryError, KeyError, SubjectKeyError,
};

/// Why a host is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It has not joined.
    #[error("this host has not joined a CA ({path} is not there): `hallpass host join` does it")]
    NotJoined {
        /// `host.toml`
        path: PathBuf,
    },
    /// It has joined already.
    #[error("this host has joined already ({path} is there): `hallpass host leave` comes first")]
    Joined {
        /// `host.toml`
        path: PathBuf,
    },
    /// Another `hallpass host` is at work.
    #[error("another `hallpass host` is at work here: try again when it is done")]
    AtWork,
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Illegal {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The token is none.
    #[error("the token is not one that `hallpass host invite` printed: copy all of it")]
    Token,
    /// The CA's word for what to trust is not signed by its log's key.
    #[error(
        "the CA's trust bundle is not signed by its log's key, and is not taken: tell the CA's \
         administrators. If they have revoked that key, they give you the new one for `hallpass \
         host sync --log-key KEY`"
    )]
    Unsigned,
    /// The CA gave an older bundle than before.
    #[error(
        "the CA's trust bundle has version {got}, and this host has {has} already: it is not \
         taken. If the CA was restored from a backup, join again"
    )]
    RolledBack {
        /// The version that is in force.
        has: u64,
        /// The one that came.
        got: u64,
    },
    /// What the CA shows of its log can't be believed, and no certificate of its is taken.
    #[error(
        "{0}\nUntil then, this host takes no new certificate and keeps the one that it has. Where \
         people run `hallpass connect` again, a host runs `hallpass host sync --log-key KEY`, with \
         the log's key as the CA's administrators give it"
    )]
    Log(HistoryError),
    /// The new configuration would not work; the old one is back in place.
    #[error("{program} does not take the new configuration, and the old one is back: {why}")]
    Unfit {
        /// Which program says so.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// What is in place is not in force.
    #[error("{0}")]
    NotInForce(String),
    /// Neither sshd nor PostgreSQL.
    #[error("{0}. And: {1}")]
    Both(Box<Self>, Box<Self>),
    /// The CA said no, or can't be reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The CA is not the one that was meant.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What is kept of the CA can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host's own key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key can't be made.
    #[error(transparent)]
    Subject(#[from] SubjectKeyError),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<HistoryError> for HostError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Rewritten { .. }
            | HistoryError::Checkpoint(_)
            | HistoryError::Unproven { .. }
            | HistoryError::Damaged { .. } => Self::Log(error),
            HistoryError::Unreadable { path, source } => Self::Io { path, source },
            HistoryError::Config(error) => Self::Config(error),
            HistoryError::Api(error) => Self::Api(error),
            HistoryError::File(error) => Self::File(error),
        }
    }
}
