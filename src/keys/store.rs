use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::is_private;
use super::opener::Opening;
use super::seal::{Sealer, Unsealer};
use super::token::{Place, PlaceError, TokenError, TokenKeys};
use super::{ForeignKey, KeyAlgorithm, Passphrase, SealError, SignError, Signer, Way, ways};
use crate::model::{KeyId, KeyKind};

/// What a new key in a file is. One that is there may be of another algorithm.
fn algorithm(kind: KeyKind) -> KeyAlgorithm {
    match kind {
        KeyKind::SshUser | KeyKind::SshHost | KeyKind::Log | KeyKind::Witness => {
            KeyAlgorithm::Ed25519
        }
        KeyKind::X509Root | KeyKind::X509Issuing => KeyAlgorithm::EcdsaP256,
    }
}

/// The ending of the file that holds the public part.
fn public_ending(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::SshUser | KeyKind::SshHost => "pub",
        KeyKind::X509Root | KeyKind::X509Issuing => "pem",
        KeyKind::Log | KeyKind::Witness => "vkey",
    }
}

/// The folder `keys/` of a home.
///
/// `seal.age` is the identity that everything else is sealed to, itself sealed with the
/// passphrase. A key is `KIND-N.age`, its public part `KIND-N.pub` (an OpenSSH line),
/// `KIND-N.pem` (a certificate) or `KIND-N.vkey` (a verifier key of C2SP signed-note). For a key in
/// a PKCS#11 token, `KIND-N.token` says where it is.
pub struct KeyStore {
    pub(super) folder: PathBuf,
    unsealer: Unsealer,
    sealer: Sealer,
    token: Option<TokenKeys>,
}

/// A key in use, with the public part that lies beside it.
pub struct OpenedKey {
    /// The key.
    pub signer: Arc<Signer>,
    /// The text of the public file.
    pub public: String,
    /// The public file, for errors.
    pub public_path: PathBuf,
}

impl KeyStore {
    pub(super) const SEAL: &'static str = "seal.age";

    /// Makes the folder, or takes one that holds no key.
    ///
    /// # Errors
    /// When there are keys already, or the folder can't be written.
    pub fn create(folder: &Path, passphrase: &Passphrase) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File {
            path: folder.to_owned(),
            source,
        };
        if folder.exists() {
            for file in fs::read_dir(folder).map_err(failed)? {
                let path = file.map_err(failed)?.path();
                if is_key(&path) {
                    return Err(StoreError::Occupied { path });
                }
            }
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(folder, private).map_err(failed)?;
        } else {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        let unsealer = Unsealer::generate();
        let path = folder.join(Self::SEAL);
        write_new(
            &path,
            0o600,
            &unsealer.seal(passphrase).map_err(sealing(&path))?,
        )?;
        Ok(Self {
            folder: folder.to_owned(),
            sealer: unsealer.sealer(),
            unsealer,
            token: None,
        })
    }

    /// Opens the folder. With the passphrase, this takes its key derivation.
    ///
    /// # Errors
    /// When files are missing, damaged or readable by others, or what opens it does not.
    pub fn open<'a>(folder: &Path, opening: impl Into<Opening<'a>>) -> Result<Self, StoreError> {
        check_private(folder)?;
        let (unsealer, _) = ways::open(folder, opening.into(), None)?;
        Ok(Self {
            folder: folder.to_owned(),
            sealer: unsealer.sealer(),
            unsealer,
            token: None,
        })
    }

    /// The same with a token, for the keys that are in it or will be.
    #[must_use]
    pub fn with_token(mut self, token: Option<TokenKeys>) -> Self {
        self.token = token;
        self
    }

    /// Generates a key and writes it sealed, or makes it in the token and writes where it is; with
    /// the public part that `public` makes of it. A key that follows one in the token is made there
    /// too. Takes the place of what a crash left behind, which the log never heard of and nobody
    /// trusts: the caller sees to it that no key of that id is known.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn generate<E: From<StoreError>>(
        &self,
        id: KeyId,
        public: impl FnOnce(&Arc<Signer>) -> Result<String, E>,
    ) -> Result<OpenedKey, E> {
        let made = self.make(id)?;
        let signer = Arc::new(made.signer);
        let public = public(&signer)?;
        // What a crash left must not be taken for the key.
        remove(&made.other_path)?;
        write(&made.path, 0o600, &made.content)?;
        let public_path = self.public_path(id);
        write(&public_path, 0o644, public.as_bytes())?;
        Ok(OpenedKey {
            signer,
            public,
            public_path,
        })
    }

    /// A key that nothing is written of yet.
    pub(super) fn make(&self, id: KeyId) -> Result<Made, StoreError> {
        match self.algorithm_in_token(id)? {
            Some(algorithm) => self.generate_in_token(id, algorithm),
            None => self.generate_sealed(id),
        }
    }

    fn generate_sealed(&self, id: KeyId) -> Result<Made, StoreError> {
        let document = algorithm(id.kind).generate()?;
        let signer = Signer::from_pkcs8(&document).ok_or(SignError::NoRandomness)?;
        let path = self.sealed_path(id);
        let content = self.sealer.seal(&document).map_err(sealing(&path))?;
        Ok(Made {
            signer,
            path,
            content,
            other_path: self.place_path(id),
        })
    }

    fn generate_in_token(&self, id: KeyId, algorithm: KeyAlgorithm) -> Result<Made, StoreError> {
        let path = self.place_path(id);
        let token = self.token.as_ref().ok_or_else(|| StoreError::InToken {
            path: path.clone(),
            detail: NO_TOKEN.to_owned(),
        })?;
        let (signer, place) = token.generate(id, algorithm)?;
        Ok(Made {
            signer,
            path,
            content: place.text().into_bytes(),
            other_path: self.sealed_path(id),
        })
    }

    /// What kind of key to make in the token, when it belongs there: since that was asked for, or
    /// since the last one is there.
    fn algorithm_in_token(&self, id: KeyId) -> Result<Option<KeyAlgorithm>, StoreError> {
        if let Some(algorithm) = self.token.as_ref().and_then(|token| token.makes(id.kind)) {
            return Ok(Some(algorithm));
        }
        for number in (1..id.number).rev() {
            let before = KeyId { number, ..id };
            let place = self.place_path(before);
            if place.exists() {
                return Ok(Some(read_place(&place)?.algorithm));
            }
            if self.sealed_path(before).exists() {
                break;
            }
        }
        Ok(None)
    }

    /// Seals a key that was made elsewhere, with its public part. Takes the place of what a crash
    /// left behind, as [`Self::generate`] does.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put(&self, id: KeyId, key: &ForeignKey, public: &str) -> Result<(), StoreError> {
        let path = self.sealed_path(id);
        let sealed = self.sealer.seal(key.document()).map_err(sealing(&path))?;
        remove(&self.place_path(id))?;
        write(&path, 0o600, &sealed)?;
        write(&self.public_path(id), 0o644, public.as_bytes())
    }

    /// Writes the public part of a key whose private part stays elsewhere.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_public(&self, id: KeyId, public: &str) -> Result<(), StoreError> {
        remove(&self.sealed_path(id))?;
        remove(&self.place_path(id))?;
        write(&self.public_path(id), 0o644, public.as_bytes())
    }

    /// Whether the private part of a key is here or in the token, and not elsewhere.
    pub fn has_private(&self, id: KeyId) -> bool {
        self.sealed_path(id).exists() || self.place_path(id).exists()
    }

    /// Opens a key whose place in the token or whose sealed file is there.
    pub(super) fn open_at(&self, place: &Path, sealed: &Path) -> Result<Signer, StoreError> {
        if place.exists() {
            self.open_in_token(place)
        } else {
            self.open_sealed(sealed)
        }
    }

    /// Opens a key for use.
    ///
    /// # Errors
    /// When a file of it is missing, damaged or readable by others, or its token can't be used.
    pub fn signer(&self, id: KeyId) -> Result<OpenedKey, StoreError> {
        Ok(OpenedKey {
            signer: Arc::new(self.open_at(&self.place_path(id), &self.sealed_path(id))?),
            public: self.public(id)?,
            public_path: self.public_path(id),
        })
    }

    fn open_sealed(&self, path: &Path) -> Result<Signer, StoreError> {
        let document = self
            .unsealer
            .unseal(&read_private(path)?)
            .map_err(sealing(path))?;
        Signer::from_pkcs8(&document)
            .ok_or(SealError::Damaged)
            .map_err(sealing(path))
    }

    fn open_in_token(&self, path: &Path) -> Result<Signer, StoreError> {
        let place = read_place(path)?;
        match &self.token {
            Some(token) => token.open(&place).map_err(in_token(path)),
            None => Err(StoreError::InToken {
                path: path.to_owned(),
                detail: format!("the key is in the token {:?}, and {NO_TOKEN}", place.token),
            }),
        }
    }

    /// The public part of a key, without opening it.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn public(&self, id: KeyId) -> Result<String, StoreError> {
        Self::public_in(&self.folder, id)
    }

    /// The same without the passphrase.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn public_in(folder: &Path, id: KeyId) -> Result<String, StoreError> {
        let path = public_path(folder, id);
        fs::read_to_string(&path).map_err(|source| unreadable(&path, source))
    }

    /// The public parts of all keys of a kind that are there, from the first on.
    ///
    /// # Errors
    /// When there is not even a first, or a file can't be read.
    pub fn publics_in(folder: &Path, kind: KeyKind) -> Result<Vec<(KeyId, String)>, StoreError> {
        let mut id = KeyId::first(kind);
        let mut found = vec![(id, Self::public_in(folder, id)?)];
        loop {
            id.number += 1;
            match Self::public_in(folder, id) {
                Ok(public) => found.push((id, public)),
                Err(StoreError::Missing { .. }) => return Ok(found),
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn sealed_path(&self, id: KeyId) -> PathBuf {
        self.folder.join(format!("{id}.age"))
    }

    pub(super) fn place_path(&self, id: KeyId) -> PathBuf {
        self.folder.join(format!("{id}.token"))
    }

    pub(super) fn public_path(&self, id: KeyId) -> PathBuf {
        public_path(&self.folder, id)
    }
}

/// A new key, and what is written of it where.
pub(super) struct Made {
    pub(super) signer: Signer,
    path: PathBuf,
    pub(super) content: Vec<u8>,
    /// Where a key of that id would be if it were the other way round, in a file or in the token.
    other_path: PathBuf,
}

impl Made {
    /// How the file ends that says what is written of it.
    pub(super) fn ending(&self) -> &'static str {
        match self.path.extension() {
            Some(ending) if ending == "token" => "token",
            _ => "age",
        }
    }
}

const NO_TOKEN: &str =
    "hallpass.toml names none: add a table [token] with its `module` and `label`";

/// Whether a file in `keys/` is a sealed key or says where one is.
pub fn is_key(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "age" || ending == "token")
}

fn read_place(path: &Path) -> Result<Place, StoreError> {
    let text = String::from_utf8_lossy(&read_private(path)?).into_owned();
    Place::from_text(&text).map_err(in_token(path))
}

fn in_token(path: &Path) -> impl FnOnce(PlaceError) -> StoreError {
    let path = path.to_owned();
    move |error| match error {
        PlaceError::Token(source) => StoreError::Token { path, source },
        error => StoreError::InToken {
            path,
            detail: error.to_string(),
        },
    }
}

fn public_path(folder: &Path, id: KeyId) -> PathBuf {
    folder.join(format!("{id}.{}", public_ending(id.kind)))
}

pub(super) fn check_private(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if is_private(&metadata) {
        Ok(())
    } else {
        let mode = if metadata.is_dir() { 700 } else { 600 };
        Err(StoreError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, StoreError> {
    check_private(path)?;
    fs::read(path).map_err(|source| unreadable(path, source))
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { path },
        _ => StoreError::File { path, source },
    }
}

/// Writes a file whole or not at all and waits until it is on disk, its name included.
pub(super) fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), StoreError> {
    let failed = |source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    let draft = path.with_added_extension("new");
    remove(&draft)?;
    write_new(&draft, mode, content)?;
    fs::rename(&draft, path).map_err(failed)?;
    sync_folder(path)
}

/// Waits until a file's name, or that it has none any more, is on disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })
}

/// Removes a file, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Writes a file that must not exist yet and waits until it is on disk, its name included.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Occupied {
            path: path.to_owned(),
        },
        _ => StoreError::File {
            path: path.to_owned(),
            source,
        },
    })
}

pub(super) fn sealing(path: &Path) -> impl FnOnce(SealError) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Seal { path, source }
}

fn list(ways: &[Way]) -> String {
    let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
    if ways.is_empty() {
        return "nothing else".to_owned();
    }
    ways.join(" or ")
}

/// What is wrong with the key folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or the folder itself is not there.
    #[error("{path} is missing: restore keys/ and hallpass.db from the same backup")]
    Missing {
        /// The file or folder.
        path: PathBuf,
    },
    /// Others can read a secret file, or list the folder.
    #[error("others can open {path}: run chmod {mode} {path} and chown it to the server's user")]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// The mode that it should have, in octal digits.
        mode: u32,
    },
    /// A key is there already.
    #[error("{path} exists already and is not overwritten")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be opened with the passphrase.
    #[error("can't open {path}: {source}")]
    Seal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// A key that is in a token can't be opened.
    #[error("{path}: {detail}")]
    InToken {
        /// The file that says where it is.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The token that a key is in can't be used.
    #[error("{path}: {source}")]
    Token {
        /// The file that says where the key is.
        path: PathBuf,
        /// Why.
        source: TokenError,
    },
    /// It opens in other ways.
    #[error("{folder} opens with {}, and not with what was given", list(ways))]
    OtherWays {
        /// The folder.
        folder: PathBuf,
        /// The ways.
        ways: Vec<Way>,
    },
    /// There is no such way to take off.
    #[error("{way} does not open {folder}: `hallpass key reseal --list` shows what does")]
    NoSuchWay {
        /// The folder.
        folder: PathBuf,
        /// The way.
        way: Way,
    },
    /// Nothing would open the keys any more.
    #[error("{way} is the only way to open the keys: add another before you remove it")]
    LastWay {
        /// The way.
        way: Way,
    },
    /// Another process changes how it opens.
    #[error("another hallpass is resealing {path}: wait until it is done")]
    Resealing {
        /// The folder.
        path: PathBuf,
    },
    /// No request waits for a certificate.
    #[error(
        "no request for a certificate waits in {folder}: `hallpass key csr {kind}` makes one; what \
         was installed is in `hallpass key list`"
    )]
    NoRequest {
        /// The folder.
        folder: PathBuf,
        /// Of what kind.
        kind: KeyKind,
    },
    /// No key could be made.
    #[error(transparent)]
    NotMade(#[from] SignError),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use zeroize::Zeroizing;

    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    #[test]
    fn a_key_opens_with_the_passphrase_and_with_nothing_else() {
        let home = std::env::temp_dir().join(format!("hallpass-keys-{}", std::process::id()));
        fs::remove_dir_all(&home).ok();
        let right = passphrase("correct horse battery");
        let store = KeyStore::create(&home, &right).unwrap();
        let made = store
            .generate(KeyId::first(KeyKind::SshUser), |_| {
                Ok::<_, StoreError>("public".to_owned())
            })
            .unwrap();

        let opened = KeyStore::open(&home, &right)
            .unwrap()
            .signer(KeyId::first(KeyKind::SshUser))
            .unwrap();
        assert_eq!(opened.signer.public_key(), made.signer.public_key());
        assert_eq!(opened.public, "public");

        let wrong = KeyStore::open(&home, &passphrase("correct horse batteri"))
            .err()
            .unwrap();
        assert!(
            wrong.to_string().ends_with("the passphrase is wrong"),
            "{wrong}"
        );
        assert!(matches!(
            KeyStore::create(&home, &right).err().unwrap(),
            StoreError::Occupied { .. }
        ));

        let sealed = home.join("ssh-user-1.age");
        fs::set_permissions(&sealed, PermissionsExt::from_mode(0o640)).unwrap();
        let exposed = KeyStore::open(&home, &right)
            .unwrap()
            .signer(KeyId::first(KeyKind::SshUser));
        assert!(exposed.err().unwrap().to_string().contains("run chmod 600"));
        fs::set_permissions(&sealed, PermissionsExt::from_mode(0o600)).unwrap();

        let mut bytes = fs::read(&sealed).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&sealed, bytes).unwrap();
        let damaged = KeyStore::open(&home, &right)
            .unwrap()
            .signer(KeyId::first(KeyKind::SshUser));
        assert!(damaged.err().unwrap().to_string().contains("it is damaged"));
        fs::remove_dir_all(&home).unwrap();
    }
}
