//! What a person runs: asks the CA for certificates, keeps them while they last, and lends them to
//! the stock `ssh` and `psql`.
//!
//! Nothing here prints. Private keys never leave this machine, and no secret is ever an argument
//! or an environment variable of a program.

mod agent;
mod api;
mod callback;
mod config;
mod connect;
mod export;
mod files;
mod follow;
mod held;
mod history;
mod key;
mod log_keys;
mod login;
mod run;
mod runtime;
mod session;
mod subject;
mod url;
mod verifier;
mod workload;

pub use api::{Api, ApiError, Query, Skew, signed_trust};
pub use config::{ConfigError, ConfigFolder, Connection};
pub use connect::{ConnectError, Connected, connect, connect_in};
pub use export::{Export, ExportFailed, Exported, proof_beside};
pub use files::{FileError, private as write_private, replace as write_public};
pub use follow::{Follower, News};
pub use held::Held;
pub use history::{History, HistoryError};
pub use key::{KeyError, SigningKey};
pub use log_keys::LogKeys;
pub use login::{
    LoggedOut, LoginFailed, LoginWay, Prompt, SignedIn, is_signed_in, login, logout, touch,
};
pub use run::{RunError, psql, psql_environment, ssh, ssh_options};
pub use runtime::RuntimeError;
pub use session::{Ask, Session, SessionError, Sessions};
pub use subject::{Subject, SubjectKeyError};
pub use url::{Pin, ServerUrl};
pub use verifier::{CertificateRule, RuleVerifier};
pub use workload::{IdToken, TokenError, workload_login};

use std::path::Path;
use std::time::SystemTime;

use crate::model::{Timestamp, UserName};

/// Opens the connection that `hallpass connect` made. `identity` signs when one is given, else the key
/// of whoever signed in, else the key that was chosen at `connect`.
///
/// # Errors
/// When there is none, or the key can't be used.
pub fn open(identity: Option<&Path>) -> Result<(ConfigFolder, Api), OpenError> {
    let folder = ConfigFolder::locate()?;
    let connection = folder.load()?;
    let now = now();
    let signed_in = SignedIn::find(&folder);
    let session = signed_in.as_ref().and_then(|session| session.key(now));
    runtime::Runtime::sweep(now);
    let key = match (identity, session, connection.ssh_key.as_deref()) {
        (Some(path), _, _) | (None, None, Some(path)) => SigningKey::open(path)?,
        (None, Some(key), _) => key,
        (None, None, None) => {
            return Err(match signed_in {
                Some(session) => OpenError::SessionOver(session.name),
                None => OpenError::NotSignedIn,
            });
        }
    };
    let api = Api::new(&connection, key);
    Ok((folder, api))
}

/// Why the client can't begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not connected to a CA.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no key to sign requests with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nobody signed in.
    #[error("you are not signed in: run `hallpass login`")]
    NotSignedIn,
    /// Somebody signed in, and that is over.
    #[error("your session as {0} is over, or its key is gone: run `hallpass login`")]
    SessionOver(UserName),
}

/// The time by this machine's clock.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(since_1970.as_millis() as u64)
}
