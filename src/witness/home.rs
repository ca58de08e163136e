use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use super::judging::Witness;
use super::store::{Store, WitnessStoreError};
use crate::audit::{IllegalKey, NoteKind, NoteSigner, VerifierKey};
use crate::keys::{self, KeyStore, Opening, Passphrase, is_ours_to_change};
use crate::model::{Invalid, KeyId, KeyKind};

/// The folder that holds everything a witness is: its sealed key, what it cosigned, its
/// configuration.
#[derive(Clone, Debug)]
pub struct WitnessHome {
    folder: PathBuf,
}

/// What a witness calls itself, in each of its cosignatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessName(String);

impl FromStr for WitnessName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'+';
        if (1..=100).contains(&text.len()) && text.bytes().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        let expected = "use 1 to 100 characters without spaces or +, such as witness.example.org/1";
        Err(Invalid::new("witness name", text, expected))
    }
}

impl fmt::Display for WitnessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `witness.toml`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Where to listen.
    #[serde(default = "WitnessConfig::default_listen")]
    pub listen: SocketAddr,
    /// The keys of the logs that are followed.
    pub logs: Vec<VerifierKey>,
}

impl WitnessConfig {
    /// What `witness init` writes.
    const STARTER: &'static str = include_str!("witness.toml");

    fn default_listen() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8444)
    }
}

impl WitnessHome {
    /// Of that folder, which may not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `witness.toml`
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("witness.toml")
    }

    fn database(&self) -> PathBuf {
        self.folder.join("witness.db")
    }

    fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Checks that nothing here would be overwritten.
    ///
    /// # Errors
    /// When a part of a home, a witness's or a CA's, is there.
    pub fn check_free(&self) -> Result<(), WitnessHomeError> {
        let parts = [
            self.config_path(),
            self.database(),
            self.keys(),
            self.folder.join("hallpass.toml"),
        ];
        match parts.into_iter().find(|part| part.exists()) {
            Some(path) => Err(WitnessHomeError::Occupied { path }),
            None => Ok(()),
        }
    }

    /// Makes the home. Gives the witness's key.
    ///
    /// # Errors
    /// When something is there already or can't be written. What was written so far is not taken
    /// for a home, because `witness.toml` comes last.
    pub fn create(
        &self,
        passphrase: &Passphrase,
        name: &WitnessName,
    ) -> Result<VerifierKey, WitnessHomeError> {
        self.check_free()?;
        if !self.folder.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)
                .map_err(|source| WitnessHomeError::File {
                    path: self.folder.clone(),
                    source,
                })?;
        }
        let keys = KeyStore::create(&self.keys(), passphrase)?;
        let key = keys.generate(KeyId::first(KeyKind::Witness), |signer| {
            NoteSigner::new(&name.0, NoteKind::Cosignature, Arc::clone(signer))
                .map(|signer| format!("{}\n", signer.verifier()))
                .ok_or(WitnessHomeError::Key)
        })?;
        drop(Store::create(&self.database())?);
        let path = self.config_path();
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(WitnessConfig::STARTER.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| WitnessHomeError::File {
            path: path.clone(),
            source,
        })?;
        Ok(key.public.parse()?)
    }

    /// Checks that it is a home that nobody else can change, and reads its configuration.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    pub fn config(&self) -> Result<WitnessConfig, WitnessHomeError> {
        let path = self.config_path();
        if !path.exists() {
            return Err(WitnessHomeError::None {
                folder: self.folder.clone(),
            });
        }
        let failed = |source| WitnessHomeError::File {
            path: path.clone(),
            source,
        };
        for part in [&self.folder, &path] {
            if !is_ours_to_change(&fs::metadata(part).map_err(failed)?) {
                return Err(WitnessHomeError::Writable { path: part.clone() });
            }
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        let illegal = |detail: String| WitnessHomeError::Config {
            path: path.clone(),
            detail,
        };
        let config: WitnessConfig =
            toml::from_str(&text).map_err(|error| illegal(error.to_string()))?;
        if config.logs.is_empty() {
            let detail = "logs is empty: list the keys of the logs to follow, as `hallpass audit \
                          key` prints them";
            return Err(illegal(detail.to_owned()));
        }
        let signs = |key: &&VerifierKey| key.kind() == NoteKind::Checkpoint;
        if let Some(other) = config.logs.iter().find(|key| !signs(key)) {
            return Err(illegal(format!(
                "logs: {} is a witness's key, not a log's: take what `hallpass audit key` prints",
                other.name()
            )));
        }
        Ok(config)
    }

    /// Opens the witness's key and what it cosigned.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    pub fn open<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        logs: Vec<VerifierKey>,
    ) -> Result<Witness, WitnessHomeError> {
        let store = Store::open(&self.database())?;
        let key = KeyStore::open(&self.keys(), opening)?.signer(KeyId::first(KeyKind::Witness))?;
        let signer = NoteSigner::open(&key)
            .filter(|signer| signer.verifier().kind() == NoteKind::Cosignature)
            .ok_or(WitnessHomeError::Key)?;
        Ok(Witness::new(logs, signer, store))
    }
}

/// What is wrong with a witness's home.
#[derive(Debug, thiserror::Error)]
pub enum WitnessHomeError {
    /// There is none.
    #[error(
        "there is no witness's home at {folder}: make one with `hallpass witness init --home \
         {folder} --name NAME`"
    )]
    None {
        /// The folder.
        folder: PathBuf,
    },
    /// There is a home already, or a part of one.
    #[error("{path} exists already: choose another --home")]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
    /// Others can change it.
    #[error(
        "others can change {path}: run chmod go-w {path} and chown it to the witness's user or root"
    )]
    Writable {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is not legal.
    #[error("{path}: {detail}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What and where.
        detail: String,
    },
    /// The key is none, or not the one beside it.
    #[error(
        "keys/witness-1.vkey is not the verifier key of keys/witness-1.age: restore keys/ from a \
         backup"
    )]
    Key,
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::StoreError),
    /// What was cosigned.
    #[error(transparent)]
    Store(#[from] WitnessStoreError),
}

impl From<IllegalKey> for WitnessHomeError {
    fn from(_: IllegalKey) -> Self {
        Self::Key
    }
}
