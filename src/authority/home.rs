use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::identity::{AttestationRoots, ProviderSettings, WorkloadSettings};
use crate::keys::{TokenSettings, is_ours_to_change};
use crate::model::{Delivery, DeliveryName, HostName, Ttl};
use crate::policy::TimeZone;
use crate::witness::AskedWitness;

/// A home: the folder that holds everything a CA is.
#[derive(Clone, Debug)]
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// Of that folder, which may not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Where a home is when none is named: `/var/lib/hallpass` for root, else `hallpass` in the
    /// user's data folder (`XDG_DATA_HOME`).
    pub fn default_folder() -> PathBuf {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            return PathBuf::from("/var/lib/hallpass");
        }
        let data = std::env::var_os("XDG_DATA_HOME").filter(|folder| !folder.is_empty());
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
        data.map(PathBuf::from)
            .or_else(home)
            .unwrap_or_default()
            .join("hallpass")
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `hallpass.toml`
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("hallpass.toml")
    }

    /// `keys/`
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// `policies/`
    pub fn policies(&self) -> PathBuf {
        self.folder.join("policies")
    }

    /// `archive/`, where old entries of the log are
    pub fn archive(&self) -> PathBuf {
        self.folder.join("archive")
    }

    /// `hallpass.db`
    pub fn database(&self) -> PathBuf {
        self.folder.join("hallpass.db")
    }

    /// `delivery.db`
    pub fn deliveries(&self) -> PathBuf {
        self.folder.join("delivery.db")
    }

    /// Checks that it is a home that nobody else can change, and reads its configuration.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    pub fn config(&self) -> Result<Config, HomeError> {
        let path = self.config_path();
        self.check_whole()?;
        for part in [self.folder.clone(), path.clone()] {
            let metadata = fs::metadata(&part).map_err(|source| HomeError::File {
                path: part.clone(),
                source,
            })?;
            if !is_ours_to_change(&metadata) {
                return Err(HomeError::Writable { path: part });
            }
        }
        let text = fs::read_to_string(&path).map_err(|source| HomeError::File {
            path: path.clone(),
            source,
        })?;
        let config = toml::from_str(&text).map_err(|error| HomeError::Config {
            path,
            detail: error.to_string(),
        })?;
        Config::overridden(config)
    }

    /// Reads whose word counts when a FIDO2 key is enrolled: nobody's when that is not configured.
    ///
    /// # Errors
    /// When the file can't be read, others can change it, or it holds no certificates.
    pub fn attestation_roots(&self, config: &Config) -> Result<AttestationRoots, HomeError> {
        let Some(path) = &config.fido2.attestation_roots else {
            return Ok(AttestationRoots::default());
        };
        let path = self.folder.join(path);
        let file = |source| HomeError::File {
            path: path.clone(),
            source,
        };
        if !is_ours_to_change(&fs::metadata(&path).map_err(file)?) {
            return Err(HomeError::Writable { path });
        }
        let text = fs::read(&path).map_err(file)?;
        AttestationRoots::from_pem(&text).map_err(|error| HomeError::Config {
            path,
            detail: error.to_string(),
        })
    }

    /// Checks that nothing is missing that every home has.
    pub(super) fn check_whole(&self) -> Result<(), HomeError> {
        if !self.folder.is_dir() {
            return Err(HomeError::Missing {
                path: self.folder.clone(),
            });
        }
        let parts = [
            self.keys(),
            self.policies(),
            self.database(),
            self.config_path(),
        ];
        match parts.into_iter().find(|part| !part.exists()) {
            Some(part) => Err(HomeError::Incomplete { part }),
            None => Ok(()),
        }
    }

    /// Takes the home for one process.
    ///
    /// # Errors
    /// When another process has it.
    pub(super) fn lock(&self) -> Result<File, HomeError> {
        let path = self.folder.join("hallpass.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| HomeError::File {
                path: path.clone(),
                source,
            })?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => Err(HomeError::InUse {
                folder: self.folder.clone(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(HomeError::File { path, source }),
        }
    }
}

/// `hallpass.toml`, each value overridden by `HALLPASS_...` where that is set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen (`HALLPASS_LISTEN`).
    #[serde(default = "Config::default_listen")]
    pub listen: SocketAddr,
    /// The names that clients reach the server by (`HALLPASS_NAMES`, separated by commas).
    #[serde(default = "Config::default_names")]
    pub names: Vec<HostName>,
    /// How to write the server's own log (`HALLPASS_LOG_FORMAT`).
    #[serde(default)]
    pub log_format: LogFormat,
    /// Who is asked to cosign the log's checkpoints: the `[[witness]]` tables.
    #[serde(default, rename = "witness")]
    pub witnesses: Vec<AskedWitness>,
    /// Where the log is delivered.
    #[serde(default)]
    pub deliver: Vec<Delivery>,
    /// The PKCS#11 token that keys are in.
    pub token: Option<TokenSettings>,
    /// How policies are read: the table `[policy]`.
    #[serde(default)]
    pub policy: PolicySettings,
    /// What is believed of FIDO2 keys: the table `[fido2]`.
    #[serde(default)]
    pub fido2: Fido2Settings,
    /// With whom people sign in: the `[[provider]]` tables.
    #[serde(default, rename = "provider")]
    pub providers: Vec<ProviderSettings>,
    /// For how long: the table `[sessions]`.
    #[serde(default)]
    pub sessions: SessionSettings,
    /// Which workloads are let in: the `[[workload]]` tables.
    #[serde(default, rename = "workload")]
    pub workloads: Vec<WorkloadSettings>,
}

/// For how long a key signs for whom a provider vouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSettings {
    /// A person's session (`HALLPASS_SESSION_LIFE`).
    #[serde(default = "SessionSettings::default_life")]
    pub life: Ttl,
}

impl SessionSettings {
    fn default_life() -> Ttl {
        Ttl::HOUR
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            life: Self::default_life(),
        }
    }
}

/// What is believed of FIDO2 keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fido2Settings {
    /// A file with certificates of makers of authenticators, within the home or absolute
    /// (`HALLPASS_ATTESTATION_ROOTS`).
    pub attestation_roots: Option<PathBuf>,
}

/// How policies are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// Where their hours and weekdays are (`HALLPASS_TIME_ZONE`).
    #[serde(default)]
    pub time_zone: TimeZone,
    /// Whether only policies are loaded whose invariants are proven.
    #[serde(default)]
    pub require_proof: bool,
}

/// How the server's own log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line a record, for people.
    #[default]
    Text,
    /// One JSON object a record.
    Json,
}

impl Config {
    const STARTER: &'static str = include_str!("hallpass.toml");

    /// Where to listen when nothing is configured.
    pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

    /// What `init` writes, with the token that the keys are in.
    ///
    /// # Errors
    /// When the module's path is no text, which TOML is.
    pub(super) fn starter(token: Option<&TokenSettings>) -> Result<String, HomeError> {
        let Some(settings) = token else {
            return Ok(Self::STARTER.to_owned());
        };
        let table = toml::to_string(settings).map_err(|_| HomeError::NoText {
            path: settings.module.clone(),
        })?;
        let words = "The PKCS#11 token that CA keys are in: keys/README.md tells more.";
        Ok(format!("{}\n# {words}\n[token]\n{table}", Self::STARTER))
    }

    fn default_listen() -> SocketAddr {
        Self::DEFAULT_LISTEN
    }

    fn default_names() -> Vec<HostName> {
        ["localhost", "127.0.0.1"]
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    fn overridden(mut self) -> Result<Self, HomeError> {
        if let Some((name, value)) = variable("HALLPASS_LISTEN") {
            self.listen = value.parse().map_err(|_| HomeError::Variable {
                name,
                detail: format!("{value:?} is no address: use one such as 0.0.0.0:8443"),
            })?;
        }
        if let Some((name, value)) = variable("HALLPASS_NAMES") {
            self.names = value
                .split(',')
                .map(|part| part.trim().parse())
                .collect::<Result<_, _>>()
                .map_err(|error: crate::model::Invalid| HomeError::Variable {
                    name,
                    detail: error.to_string(),
                })?;
        }
        if let Some((name, value)) = variable("HALLPASS_LOG_FORMAT") {
            self.log_format = match value.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => {
                    let detail = format!("{value:?} is no format: use text or json");
                    return Err(HomeError::Variable { name, detail });
                }
            };
        }
        if let Some((name, value)) = variable("HALLPASS_TIME_ZONE") {
            self.policy.time_zone =
                TimeZone::try_from(value).map_err(|error| HomeError::Variable {
                    name,
                    detail: error.to_string(),
                })?;
        }
        if let Some((_, value)) = variable("HALLPASS_ATTESTATION_ROOTS") {
            self.fido2.attestation_roots = Some(value.into());
        }
        if let Some((name, value)) = variable("HALLPASS_SESSION_LIFE") {
            self.sessions.life =
                value
                    .parse()
                    .map_err(|error: crate::model::Invalid| HomeError::Variable {
                        name,
                        detail: error.to_string(),
                    })?;
        }
        if self.names.is_empty() {
            return Err(HomeError::NoNames);
        }
        for (place, delivery) in self.deliver.iter().enumerate() {
            let name = &delivery.name;
            if self.deliver[..place]
                .iter()
                .any(|other| other.name == *name)
            {
                return Err(HomeError::DeliverTwice { name: name.clone() });
            }
        }
        Ok(self)
    }
}

fn variable(name: &'static str) -> Option<(&'static str, String)> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .map(|value| (name, value))
}

/// What is wrong with a home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// There is no such folder.
    #[error("there is no home at {path}: make one with `hallpass init --home {path}`")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// Something that every home has is not there.
    #[error(
        "{part} is missing: restore it from a backup; when `hallpass init` was interrupted, remove \
         the home and run it again"
    )]
    Incomplete {
        /// What.
        part: PathBuf,
    },
    /// Others can change it.
    #[error(
        "others can change {path}: run chmod go-w {path} and chown it to the server's user or root"
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
    /// A path can't stand in the configuration.
    #[error("{path} is not UTF-8, so that hallpass.toml can't name it: use another path")]
    NoText {
        /// The path.
        path: PathBuf,
    },
    /// A variable is not legal.
    #[error("{name}: {detail}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What.
        detail: String,
    },
    /// Nobody could reach the server.
    #[error("hallpass.toml: names is empty: list the names that clients reach the server by")]
    NoNames,
    /// It would not be known which has come how far.
    #[error("hallpass.toml: deliver {:?}: another table has the same name: choose another", name.as_str())]
    DeliverTwice {
        /// The name.
        name: DeliveryName,
    },
    /// Another process works on it.
    #[error("another hallpass works on {folder}: stop it first")]
    InUse {
        /// The home.
        folder: PathBuf,
    },
}
