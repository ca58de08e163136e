//! The ways to open a home's keys. The home's own age identity, which all keys are sealed to, lies
//! in `seal.age` sealed with the passphrase, and in each `seal-NAME.age` sealed to a recipient
//! whose line is in `seal-NAME.recipient`.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::Callbacks;

use super::opener::Opening;
use super::seal::Unsealer;
use super::store::{check_private, read_private, sealing, sync_folder, unreadable, write};
use super::{AgeRecipient, KeyStore, Passphrase, SealError, StoreError};
use crate::model::Invalid;

/// A way to open a home's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// With the passphrase.
    Passphrase,
    /// With the age identity of a recipient.
    Identity(WayName),
}

impl Way {
    fn path(&self, folder: &Path) -> PathBuf {
        match self {
            Self::Passphrase => folder.join(KeyStore::SEAL),
            Self::Identity(name) => folder.join(format!("seal-{name}.age")),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("the passphrase"),
            Self::Identity(name) => write!(f, "the age identity {name}"),
        }
    }
}

/// What an age identity is called among the ways to open a home's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayName(String);

impl WayName {
    /// The name of a recipient that was given none: the end of its line.
    pub fn of(recipient: &AgeRecipient) -> Self {
        let line = recipient.to_string();
        Self(line[line.len().saturating_sub(8)..].to_owned())
    }
}

impl fmt::Display for WayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WayName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(legal) {
            return Ok(Self(text.to_owned()));
        }
        let expected = "1 to 32 lower-case letters, digits and hyphens";
        Err(Invalid::new("name of an age identity", text, expected))
    }
}

/// The changes of how a home opens, one process at a time. A server may run meanwhile: it opened the
/// keys when it started.
pub struct Reseal {
    folder: PathBuf,
    _lock: File,
}

impl Reseal {
    /// Takes the folder `keys/` of a home.
    ///
    /// # Errors
    /// When it is missing or open to others, or another process changes it.
    pub fn begin(folder: &Path) -> Result<Self, StoreError> {
        check_private(folder)?;
        let failed = |source| unreadable(folder, source);
        let lock = File::open(folder).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StoreError::Resealing {
                path: folder.to_owned(),
            },
            fs::TryLockError::Error(source) => failed(source),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Puts a new passphrase in place of the one before, or adds one where there was none.
    ///
    /// # Errors
    /// When what opens it does not, or the file can't be written; then the one before stays.
    pub fn set_passphrase<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        new: &Passphrase,
    ) -> Result<(), StoreError> {
        let (unsealer, _) = open(&self.folder, opening.into(), None)?;
        let path = Way::Passphrase.path(&self.folder);
        let sealed = unsealer.seal(new).map_err(sealing(&path))?;
        // Nothing else may open the keys: it is tried before it takes the other's place.
        Unsealer::open(&sealed, new.into()).map_err(sealing(&path))?;
        write(&path, 0o600, &sealed)
    }

    /// Adds a recipient whose identity opens the keys.
    ///
    /// # Errors
    /// When what opens it does not, there is one of that name, or the files can't be written.
    pub fn add_identity<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        name: &WayName,
        recipient: &AgeRecipient,
        callbacks: impl Callbacks,
    ) -> Result<(), StoreError> {
        let path = Way::Identity(name.clone()).path(&self.folder);
        if path.exists() {
            return Err(StoreError::Occupied { path });
        }
        let (unsealer, _) = open(&self.folder, opening.into(), None)?;
        let sealed = unsealer
            .seal_to(recipient, callbacks)
            .map_err(sealing(&path))?;
        // The way itself comes last: what a crash leaves behind is none.
        let line = format!("{recipient}\n");
        write(&recipient_path(&self.folder, name), 0o644, line.as_bytes())?;
        write(&path, 0o600, &sealed)
    }

    /// Takes a way off, when the keys open in another.
    ///
    /// # Errors
    /// When there is no such way, or what opens the keys is that way or none.
    pub fn remove<'a>(&self, opening: impl Into<Opening<'a>>, way: &Way) -> Result<(), StoreError> {
        let ways = ways(&self.folder)?;
        if !ways.contains(way) {
            return Err(StoreError::NoSuchWay {
                folder: self.folder.clone(),
                way: way.clone(),
            });
        }
        if ways.len() == 1 {
            return Err(StoreError::LastWay { way: way.clone() });
        }
        // Nobody is locked out: what stays is shown to work.
        open(&self.folder, opening.into(), Some(way))?;
        self.delete(&way.path(&self.folder))?;
        match way {
            Way::Passphrase => Ok(()),
            Way::Identity(name) => self.delete(&recipient_path(&self.folder, name)),
        }
    }

    fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(unreadable(path, source));
            }
            _ => {}
        }
        sync_folder(path)
    }
}

/// The ways to open the keys of a folder `keys/`, the passphrase first.
///
/// # Errors
/// When the folder can't be read.
pub fn ways(folder: &Path) -> Result<Vec<Way>, StoreError> {
    let failed = |source| unreadable(folder, source);
    let mut names = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)? {
        let file = file.map_err(failed)?.file_name();
        let name = file
            .to_str()
            .and_then(|name| name.strip_prefix("seal-")?.strip_suffix(".age"))
            .and_then(|name| name.parse::<WayName>().ok());
        names.extend(name);
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    let passphrase = Way::Passphrase.path(folder).exists();
    let first = passphrase.then_some(Way::Passphrase);
    Ok(first
        .into_iter()
        .chain(names.into_iter().map(Way::Identity))
        .collect())
}

/// The recipient's line of an age identity, for people.
pub fn recipient_of(folder: &Path, name: &WayName) -> Option<String> {
    let text = fs::read_to_string(recipient_path(folder, name)).ok()?;
    Some(text.trim_end().to_owned())
}

fn recipient_path(folder: &Path, name: &WayName) -> PathBuf {
    folder.join(format!("seal-{name}.recipient"))
}

/// Opens the seal in whichever way fits, but for one. Gives the way that it was.
pub(super) fn open(
    folder: &Path,
    opening: Opening<'_>,
    except: Option<&Way>,
) -> Result<(Unsealer, Way), StoreError> {
    let not_so = || StoreError::OtherWays {
        folder: folder.to_owned(),
        ways: ways(folder)
            .unwrap_or_default()
            .into_iter()
            .filter(|way| Some(way) != except)
            .collect(),
    };
    match opening {
        Opening::Passphrase(_) => {
            let way = Way::Passphrase;
            let path = way.path(folder);
            let others = ways(folder).is_ok_and(|ways| !ways.is_empty());
            if except == Some(&way) || (!path.exists() && others) {
                return Err(not_so());
            }
            let sealed = read_private(&path)?;
            let unsealer = Unsealer::open(&sealed, opening).map_err(sealing(&path))?;
            Ok((unsealer, way))
        }
        Opening::Identity(_) => {
            for way in ways(folder)? {
                let path = way.path(folder);
                if way == Way::Passphrase || Some(&way) == except {
                    continue;
                }
                match Unsealer::open(&read_private(&path)?, opening) {
                    Ok(unsealer) => return Ok((unsealer, way)),
                    Err(SealError::WrongIdentity) => {}
                    Err(error) => return Err(sealing(&path)(error)),
                }
            }
            Err(not_so())
        }
    }
}
