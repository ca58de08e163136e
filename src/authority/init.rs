use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ssh_key::PublicKey;

use super::enrolment::line;
use super::home::{Config, Home, HomeError};
use super::now;
use super::policies::log_policy;
use crate::audit::{
    AuthorityKey, Event, Log, LogError, NoteKind, NoteSigner, StoreError, VerifierKey,
};
use crate::certificate::{
    CertificateError, SshCa, fingerprint_of_pem, issuing_certificate, root_certificate,
};
use crate::identity::key_fingerprint;
use crate::keys::{
    self, KeyStore, OpenedKey, Passphrase, SignError, Signer, TokenKeys, is_key, random_bytes,
};
use crate::model::{GroupName, KeyId, KeyKind, Serial, Timestamp, UserName};
use crate::policy::{PolicyError, PolicySet, STARTER};

/// The group that the starter policies let administer.
const ADMINISTRATORS: &str = "administrators";

/// What a new home holds, for the person who made it.
pub struct Created {
    /// The folder.
    pub folder: PathBuf,
    /// What clients pin.
    pub fingerprint: String,
    /// The public parts of the CA keys.
    pub keys: Inventory,
}

/// The CA keys of a home by kind, each with its fingerprint.
pub type Inventory = BTreeMap<KeyKind, String>;

impl Home {
    /// Checks that nothing here would be overwritten.
    ///
    /// # Errors
    /// When a part of a home is there.
    pub fn check_free(&self) -> Result<(), InitError> {
        let sealed = fs::read_dir(self.keys())
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .find(|path| is_key(path));
        let parts = [self.config_path(), self.database()]
            .into_iter()
            .filter(|path| path.exists());
        match parts.chain(sealed).next() {
            Some(path) => Err(InitError::Occupied { path }),
            None => Ok(()),
        }
    }

    /// Makes the home: keys, policies, log, configuration, and the first administrator. `token` is
    /// where keys are made that are not to be in files.
    ///
    /// # Errors
    /// When something is there already or can't be written. What was written so far stays and is
    /// not taken for a home, because `hallpass.toml` comes last.
    pub async fn create(
        &self,
        passphrase: &Passphrase,
        admin: UserName,
        admin_key: &PublicKey,
        token: Option<TokenKeys>,
    ) -> Result<Created, InitError> {
        self.check_free()?;
        let now = now();
        let folder = self.folder();
        if !folder.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| InitError::File {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        let lock = self.lock()?;
        self.write_policies()?;
        let policy = PolicySet::load(&self.policies())?;
        policy.check_roles(&self.policies())?;

        let config = Config::starter(token.as_ref().map(|keys| keys.token().settings()))?;
        let store = KeyStore::create(&self.keys(), passphrase)?.with_token(token);
        let opened = generate(&store, now)?;
        let fingerprints = opened
            .iter()
            .map(|(kind, key)| Ok((*kind, public_fingerprint(&key.public)?)))
            .collect::<Result<Inventory, InitError>>()?;

        let log_key = &opened[&KeyKind::Log];
        let log = Log::create(
            &self.database(),
            NoteSigner::open(log_key).ok_or(InitError::LogKey)?,
        )?;
        let keys = opened
            .iter()
            .map(|(kind, key)| AuthorityKey {
                purpose: kind.to_string(),
                public: key.public.trim_end().to_owned(),
            })
            .collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        log.reserve(now)?
            .commit(Event::AuthorityCreated { version, keys }, None)
            .await?;
        log_policy(&log, &policy, now).await?;
        let group: GroupName = ADMINISTRATORS.parse().expect("a legal word");
        let enrolled = Event::UserEnrolled {
            user: admin,
            groups: vec![group],
            public_key: line(admin_key)?,
            attestation: None,
            by: None,
        };
        log.reserve(now)?.commit(enrolled, None).await?;
        log.close();

        write_new(&self.config_path(), 0o600, &config)?;
        drop(lock);
        Ok(Created {
            folder: folder.to_owned(),
            fingerprint: fingerprints[&KeyKind::X509Root].clone(),
            keys: fingerprints,
        })
    }

    /// Writes the starter policies, or keeps a folder of policies that is there.
    fn write_policies(&self) -> Result<(), InitError> {
        let folder = self.policies();
        if folder.exists() {
            return Ok(());
        }
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .map_err(|source| InitError::File {
                path: folder.clone(),
                source,
            })?;
        for (name, text) in STARTER {
            write_new(&folder.join(name), 0o644, text)?;
        }
        Ok(())
    }
}

fn generate(store: &KeyStore, now: Timestamp) -> Result<BTreeMap<KeyKind, OpenedKey>, InitError> {
    let ssh_user = store.generate(KeyId::first(KeyKind::SshUser), ssh_line)?;
    let ssh_host = store.generate(KeyId::first(KeyKind::SshHost), ssh_line)?;
    let root = store.generate(KeyId::first(KeyKind::X509Root), |signer| {
        Ok::<_, InitError>(root_certificate(Arc::clone(signer), random_serial()?, now)?)
    })?;
    let issuing = store.generate(KeyId::first(KeyKind::X509Issuing), |signer| {
        let root_signer = Arc::clone(&root.signer);
        let signer = Arc::clone(signer);
        issuing_certificate(&root.public, root_signer, signer, random_serial()?, now)
            .map_err(InitError::from)
    })?;
    let origin = log_origin()?;
    let log = store.generate(KeyId::first(KeyKind::Log), |signer| {
        log_key(&origin, signer)
    })?;
    Ok(BTreeMap::from([
        (KeyKind::Log, log),
        (KeyKind::SshUser, ssh_user),
        (KeyKind::SshHost, ssh_host),
        (KeyKind::X509Root, root),
        (KeyKind::X509Issuing, issuing),
    ]))
}

pub(super) fn ssh_line(signer: &Arc<Signer>) -> Result<String, InitError> {
    let line = SshCa::new(Arc::clone(signer))?.public_key().to_openssh()?;
    Ok(format!("{line}\n"))
}

/// The verifier key of a key of the log with that name.
pub(super) fn log_key(origin: &str, signer: &Arc<Signer>) -> Result<String, InitError> {
    let signer = NoteSigner::new(origin, NoteKind::Checkpoint, Arc::clone(signer));
    let signer = signer.ok_or(InitError::LogKey)?;
    Ok(format!("{}\n", signer.verifier()))
}

/// The name of a log, which no other has: it stands at the head of each checkpoint.
fn log_origin() -> Result<String, InitError> {
    let random = u64::from_be_bytes(random_bytes()?);
    Ok(format!("hallpass/{random:016x}"))
}

/// The serial number of a CA's own certificate, which is not among those of the log.
pub(super) fn random_serial() -> Result<Serial, InitError> {
    let number = u64::from_be_bytes(random_bytes()?) >> 1;
    Ok(Serial::new(number.max(1)).expect("1 to 2^63 - 1"))
}

/// The fingerprint of a public key line or a certificate; a verifier key as it is.
pub(super) fn public_fingerprint(public: &str) -> Result<String, CertificateError> {
    if public.parse::<VerifierKey>().is_ok() {
        return Ok(public.trim_end().to_owned());
    }
    if public.starts_with("ssh-") || public.starts_with("ecdsa-") {
        let key = PublicKey::from_openssh(public.trim())?;
        return Ok(key_fingerprint(key.key_data()));
    }
    fingerprint_of_pem(public)
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), InitError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| InitError::File {
        path: path.to_owned(),
        source,
    })
}

/// Why no home was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is a home already, or a part of one.
    #[error(
        "{path} exists already: choose another --home, or remove the old home if nothing trusts \
         its keys any more"
    )]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
    /// A file can't be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The keys can't be stored.
    #[error(transparent)]
    Keys(#[from] keys::StoreError),
    /// The log's key is none.
    #[error("the log's key could not be made")]
    LogKey,
    /// No key could be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A CA's public part could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The policies that are there don't check.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log can't be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log can't be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<ssh_key::Error> for InitError {
    fn from(error: ssh_key::Error) -> Self {
        Self::Certificate(error.into())
    }
}
