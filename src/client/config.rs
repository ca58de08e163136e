use std::fmt::Write;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::{LogKeys, Pin, ServerUrl};
use crate::audit::VerifierKey;
use crate::certificate::fingerprint;
use crate::model::{Timestamp, TrustBundle};

const EVIDENCE: &str = "log-changed-";

/// The folder that holds what `hallpass connect` found out. No secrets.
#[derive(Clone, Debug)]
pub struct ConfigFolder(PathBuf);

/// The CA that this client talks to, and the key that it signs with.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where the CA answers.
    pub url: ServerUrl,
    /// The fingerprint of the CA's root certificate.
    pub pin: Pin,
    /// The root certificates that are trusted, that one among them, in PEM.
    pub root_pem: String,
    /// The keys that sign the checkpoints of the CA's log.
    pub log: LogKeys,
    /// The key that signs requests: a private key, or a public one whose private key is in the
    /// agent; nothing for who only ever signs in.
    pub ssh_key: Option<PathBuf>,
}

/// `client.toml`
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientToml {
    url: ServerUrl,
    fingerprint: Pin,
    log_key: VerifierKey,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    log_keys: Vec<VerifierKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    log_keys_before: Vec<VerifierKey>,
    #[serde(default)]
    log_keys_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ssh_key: Option<PathBuf>,
}

impl ConfigFolder {
    /// `HALLPASS_CONFIG`, else `hallpass` in `XDG_CONFIG_HOME`, else `~/.config/hallpass`.
    ///
    /// # Errors
    /// When there is no home folder either.
    pub fn locate() -> Result<Self, ConfigError> {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let folder = set("HALLPASS_CONFIG")
            .or_else(|| Some(set("XDG_CONFIG_HOME")?.join("hallpass")))
            .or_else(|| Some(set("HOME")?.join(".config/hallpass")))
            .ok_or(ConfigError::NoFolder)?;
        // What is stored or handed to ssh must hold in any working directory.
        std::path::absolute(folder)
            .map(Self)
            .map_err(|_| ConfigError::NoFolder)
    }

    /// Another folder.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// `client.toml`
    pub fn client_toml(&self) -> PathBuf {
        self.0.join("client.toml")
    }

    /// `root.pem`: the CA's root certificates.
    pub fn root_pem(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    /// `known_hosts`: the CA keys that sign hosts' SSH certificates.
    pub fn known_hosts(&self) -> PathBuf {
        self.0.join("known_hosts")
    }

    /// `log.checkpoint`: the newest checkpoint of the CA's log that was seen.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("log.checkpoint")
    }

    /// `log.checkpoint.lock`: held by whoever is about to replace it.
    pub(super) fn checkpoint_lock(&self) -> PathBuf {
        self.0.join("log.checkpoint.lock")
    }

    /// `log-changed-TIME`: two checkpoints that do not fit together.
    pub fn evidence(&self, time: Timestamp) -> PathBuf {
        self.0.join(format!("{EVIDENCE}{}", time.as_secs()))
    }

    /// All of these.
    pub(super) fn all_evidence(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files
            .filter(|file| file.file_name().to_string_lossy().starts_with(EVIDENCE))
            .map(|file| file.path())
            .collect()
    }

    /// `identity.pub`: the public part of a key that is in the agent alone.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity.pub")
    }

    /// Reads what [`Self::store`] wrote.
    ///
    /// # Errors
    /// When there is nothing, or it does not fit together.
    pub fn load(&self) -> Result<Connection, ConfigError> {
        let path = self.client_toml();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigError::NotConnected { path });
            }
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        let stored: ClientToml = toml::from_str(&text).map_err(|error| ConfigError::Illegal {
            path,
            detail: error.to_string(),
        })?;
        let path = self.root_pem();
        let root_pem = fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        })?;
        if !certificates(&root_pem).any(|root| root == stored.fingerprint.as_str()) {
            return Err(ConfigError::WrongRoot { path });
        }
        Ok(Connection {
            url: stored.url,
            pin: stored.fingerprint,
            root_pem,
            log: LogKeys {
                first: stored.log_key,
                others: stored.log_keys,
                before: stored.log_keys_before,
                version: stored.log_keys_version,
            },
            ssh_key: stored.ssh_key,
        })
    }

    /// Writes all that [`Self::load`] reads, and forgets the log of the connection before.
    /// `client.toml` comes last: without it, there is no connection.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn store(&self, connection: &Connection) -> Result<(), FileError> {
        self.make()?;
        self.forget_log()?;
        files::replace(&self.root_pem(), connection.root_pem.as_bytes())?;
        self.store_toml(connection)
    }

    fn forget_log(&self) -> Result<(), FileError> {
        let seen = self.checkpoint();
        match fs::remove_file(&seen) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::new(&seen, error))
            }
            _ => Ok(()),
        }
    }

    fn store_toml(&self, connection: &Connection) -> Result<(), FileError> {
        let path = self.client_toml();
        let text = toml::to_string(&ClientToml {
            url: connection.url.clone(),
            fingerprint: connection.pin.clone(),
            ssh_key: connection.ssh_key.clone(),
            log_key: connection.log.first.clone(),
            log_keys: connection.log.others.clone(),
            log_keys_before: connection.log.before.clone(),
            log_keys_version: connection.log.version,
        })
        .map_err(|error| FileError::new(&path, io::Error::other(error)))?;
        files::replace(&path, text.as_bytes())
    }

    /// Takes in what the CA says is to be trusted, when that is not known yet.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn take_trust(&self, trust: &TrustBundle) -> Result<(), ConfigError> {
        self.trust_hosts(trust)?;
        self.trust_roots(trust)
    }

    /// A new root is trusted as soon as the CA says so, and pinned once it signs: it stands first. At
    /// each moment, what is on disk fits together.
    fn trust_roots(&self, trust: &TrustBundle) -> Result<(), ConfigError> {
        let known = self.load()?;
        let roots = trust.x509.concat();
        let first = certificates(&roots).next();
        let Some(pin) = first.and_then(|root| root.parse::<Pin>().ok()) else {
            return Ok(());
        };
        if known.root_pem == roots && known.pin.as_str() == pin.as_str() {
            return Ok(());
        }
        if known.pin.as_str() != pin.as_str() {
            let both = format!("{roots}{}", known.root_pem);
            files::replace(&self.root_pem(), both.as_bytes())?;
            self.store_toml(&Connection { pin, ..known })?;
        }
        files::replace(&self.root_pem(), roots.as_bytes())?;
        Ok(())
    }

    /// Takes in the log's keys that a bundle names which a known one has signed. Gives those that are
    /// known then.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn follow_log(&self, trust: &TrustBundle) -> Result<LogKeys, ConfigError> {
        let known = self.load()?;
        match known.log.followed(trust) {
            Some(log) => {
                self.store_toml(&Connection {
                    log: log.clone(),
                    ..known
                })?;
                Ok(log)
            }
            None => Ok(known.log),
        }
    }

    /// Believes in that key of the log alone, whatever was known, and forgets what was seen of the log.
    ///
    /// # Errors
    /// When it is of another log, or can't be written.
    pub fn believe_in(&self, key: VerifierKey) -> Result<(), ConfigError> {
        let known = self.load()?;
        let name = known.log.first().name();
        if key.name() != name || key.kind() != known.log.first().kind() {
            return Err(ConfigError::OtherLog {
                log: key.name().to_owned(),
                expected: name.to_owned(),
            });
        }
        let log = key.into();
        self.forget_log()?;
        Ok(self.store_toml(&Connection { log, ..known })?)
    }

    /// Makes `known_hosts` say what the CA says, when it does not yet.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn trust_hosts(&self, trust: &TrustBundle) -> Result<(), FileError> {
        let mut text = String::new();
        for key in &trust.ssh_host {
            // Another line in here would be another key to trust.
            let key = key.lines().next().unwrap_or_default();
            writeln!(text, "@cert-authority * {key}").map_err(|_| {
                FileError::new(&self.known_hosts(), io::ErrorKind::OutOfMemory.into())
            })?;
        }
        if fs::read_to_string(self.known_hosts()).is_ok_and(|known| known == text) {
            return Ok(());
        }
        self.make()?;
        files::replace(&self.known_hosts(), text.as_bytes())
    }

    /// Keeps the public part of a key whose private part only the agent has.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep_identity(&self, public_key: &str) -> Result<PathBuf, FileError> {
        self.make()?;
        files::replace(&self.identity(), format!("{public_key}\n").as_bytes())?;
        Ok(self.identity())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn make(&self) -> Result<(), FileError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|source| FileError::new(&self.0, source))
    }
}

/// The fingerprints of certificates in PEM.
fn certificates(pem: &str) -> impl Iterator<Item = String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(Result::ok)
        .map(|certificate| fingerprint(&certificate))
}

/// What is wrong with the client's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to look.
    #[error("there is no home folder: set HALLPASS_CONFIG to a folder for hallpass's own files")]
    NoFolder,
    /// `connect` was never run.
    #[error(
        "not connected to a CA ({path} is not there): run `hallpass connect URL --fingerprint \
         SHA256:...`, with what the CA's administrator tells you"
    )]
    NotConnected {
        /// `client.toml`
        path: PathBuf,
    },
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value is not legal.
    #[error("{path}: {detail}\nmend it, or run `hallpass connect` again")]
    Illegal {
        /// `client.toml`
        path: PathBuf,
        /// What and where.
        detail: String,
    },
    /// A key of another log.
    #[error("this is a key of {log}, and the CA's log is {expected}")]
    OtherLog {
        /// Whose it is.
        log: String,
        /// Whose it should be.
        expected: String,
    },
    /// What the CA says can't be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate is not the one that is pinned.
    #[error(
        "{path} has no certificate with the fingerprint in client.toml: run `hallpass connect` \
         again"
    )]
    WrongRoot {
        /// `root.pem`
        path: PathBuf,
    },
}
