use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::HostError;
use super::owner::Owner;
use crate::client::{ConfigFolder, write_private};
use crate::model::{HostName, PrincipalName};

/// `host.toml`: what is kept up to date here, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// This host's name among the hosts.
    pub host: HostName,
    /// The version of the trust bundle that was put in place last.
    #[serde(default)]
    pub trust: u64,
    /// Its sshd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshSettings>,
    /// Its PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSettings>,
}

/// How its sshd is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshSettings {
    /// sshd's configuration file.
    pub config: PathBuf,
    /// The folder of further configuration, which it includes.
    pub include: PathBuf,
    /// The folder for keys and principals.
    pub folder: PathBuf,
    /// The host's public key, which is certified.
    pub host_key: PathBuf,
    /// The command that has sshd read its configuration again.
    pub reload: String,
    /// Whether nothing but certificates shall open a door.
    pub only_certificates: bool,
    /// Accounts that principals of other names open, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<String, Vec<PrincipalName>>,
}

/// How its PostgreSQL is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// The data folder.
    pub data: PathBuf,
    /// `postgresql.conf`
    pub config: PathBuf,
    /// Whose the data folder was when the host joined. Whoever takes that user over gets no
    /// further with what is done here.
    owner: Owner,
}

impl PostgresSettings {
    /// Of the PostgreSQL that has its data and its configuration there.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn new(data: PathBuf, config: PathBuf) -> io::Result<Self> {
        let owner = Owner::of(&data)?;
        Ok(Self {
            data,
            config,
            owner,
        })
    }

    /// With whose rights things are done in it.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }
}

/// The folder that a host keeps all this in.
pub(super) struct State {
    pub(super) folder: PathBuf,
    /// Keeps others off.
    _lock: File,
}

impl State {
    /// Takes the folder for oneself, and makes it when it is not there.
    pub(super) fn lock(folder: &Path) -> Result<Self, HostError> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |source| HostError::Io {
            path: folder.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(HostError::AtWork),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// What is kept of the CA.
    pub(super) fn config(&self) -> ConfigFolder {
        ConfigFolder::at(self.folder.clone())
    }

    /// The host's own key.
    pub(super) fn identity(&self) -> PathBuf {
        self.folder.join("identity")
    }

    /// What was in place before.
    pub(super) fn before(&self) -> PathBuf {
        self.folder.join("before")
    }

    /// Says that something is being put in place for that program.
    pub(super) fn begin(&self, program: &str) -> Result<(), HostError> {
        let path = self.unfinished(program);
        File::create(&path)
            .map(drop)
            .map_err(|source| HostError::Io { path, source })
    }

    /// Whether what was put in place for it may not be in force: somebody was killed in between.
    pub(super) fn is_unfinished(&self, program: &str) -> bool {
        self.unfinished(program).exists()
    }

    /// Says that it is in force.
    pub(super) fn finish(&self, program: &str) {
        // What stays has it be done once more.
        fs::remove_file(self.unfinished(program)).ok();
    }

    fn unfinished(&self, program: &str) -> PathBuf {
        self.folder.join(format!("unfinished-{program}"))
    }

    pub(super) fn toml(&self) -> PathBuf {
        self.folder.join("host.toml")
    }

    pub(super) fn load(&self) -> Result<Settings, HostError> {
        let path = self.toml();
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| HostError::Illegal {
                path,
                why: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(HostError::NotJoined { path })
            }
            Err(source) => Err(HostError::Io { path, source }),
        }
    }

    pub(super) fn store(&self, settings: &Settings) -> Result<(), HostError> {
        let path = self.toml();
        let text = toml::to_string(settings).map_err(|error| HostError::Illegal {
            path: path.clone(),
            why: error.to_string(),
        })?;
        Ok(write_private(&path, text.as_bytes())?)
    }
}
