use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use axum::http::HeaderValue;
use zeroize::Zeroizing;

use crate::keys::is_secret;

/// No token is longer.
const LONGEST: u64 = 8 * 1024;

/// Reads a bearer token from a file that nobody else can read: the value of an `Authorization`
/// header. It is read for each post, so that a new one needs no restart.
///
/// # Errors
/// When it can't be read, or is none. No part of it stands in the error.
pub(super) fn read(path: &Path) -> Result<HeaderValue, BearerError> {
    let of_file = |source| BearerError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(of_file)?;
    if !is_secret(path, &file.metadata().map_err(of_file)?) {
        return Err(BearerError::Exposed {
            path: path.to_owned(),
        });
    }
    let mut text = Zeroizing::new(String::from("Bearer "));
    let before = text.len();
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(of_file)?;
    let token = text.trim_end();
    let is_token = token.len() > before && token[before..].bytes().all(|c| c.is_ascii_graphic());
    let mut value = HeaderValue::from_str(token)
        .ok()
        .filter(|_| is_token)
        .ok_or_else(|| BearerError::NoToken {
            path: path.to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The file can't be read.
    #[error("bearer_file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "others can read bearer_file {path}: run chmod 600 {path} and chown it to the server's user"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// There is something else in it.
    #[error("bearer_file {path}: it must hold one token, in one line of visible ASCII characters")]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}
