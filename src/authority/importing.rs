//! A CA key from elsewhere comes in: sealed, with the next number of its kind, into the log. It is
//! done on the CA's own machine while no server works; no private key ever goes over the API.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::home::{Home, HomeError};
use super::in_force::{InForce, Told, step};
use super::init::{public_fingerprint, random_serial, ssh_line};
use super::now;
use super::open::{OpenError, check_signed, open_keys};
use super::rotation::root_that_crosses;
use crate::audit::{Event, Log, LogError, NewCaKey, Opened, StoreError};
use crate::certificate::{
    CertificateError, ForeignCa, ForeignCaError, cross_certificate, issuing_certificate,
};
use crate::keys::{self, ForeignKey, KeyStore, NoStep, Opening, Signer, Since, TokenKeys};
use crate::model::{EntryIndex, KeyId, KeyKind, KeyState, Reason, Timestamp};

/// A key that is to come in.
pub struct KeyImport {
    /// What it signs.
    pub kind: KeyKind,
    /// The key.
    pub key: Incoming,
    /// The file with the certificate of an X.509 CA, and what it holds.
    pub certificate: Option<(PathBuf, String)>,
    /// The same of the root that an issuing CA stands under.
    pub root: Option<(PathBuf, String)>,
    /// Why it signs at once, without anybody having confirmed it; otherwise it is staged.
    pub activate: Option<Reason>,
}

/// Where a key comes from.
pub enum Incoming {
    /// It was made elsewhere.
    Foreign(ForeignKey),
    /// It was made here, and waited for its certificate.
    Requested(Arc<Signer>),
}

impl Incoming {
    fn signer(&self) -> &Arc<Signer> {
        match self {
            Self::Foreign(key) => key.signer(),
            Self::Requested(signer) => signer,
        }
    }

    fn put(&self, store: &KeyStore, id: KeyId, public: &str) -> Result<(), keys::StoreError> {
        match self {
            Self::Foreign(key) => store.put(id, key, public),
            Self::Requested(_) => store.number_requested(id, public),
        }
    }
}

/// A key that came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyImported {
    /// Which it is now.
    pub key: KeyId,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Where it stands.
    pub state: KeyState,
    /// The root that came in with it, without its private key.
    pub root: Option<KeyId>,
    /// The issuing CA that was made under it.
    pub issuing: Option<KeyId>,
    /// Whether Hallpass's own clients don't follow by themselves, and have to connect anew.
    pub connect_anew: bool,
    /// Whether its certificate lets it sign no lists of revoked certificates, so that none can be
    /// had while it is trusted.
    pub no_lists: bool,
}

impl Home {
    /// Checks that no server works on it, which an import can't stand.
    ///
    /// # Errors
    /// When one does, or it is no home.
    pub fn check_idle(&self) -> Result<(), ImportError> {
        self.check_whole()?;
        self.lock_idle().map(drop)
    }

    pub(super) fn lock_idle(&self) -> Result<std::fs::File, ImportError> {
        self.lock().map_err(|error| match error {
            HomeError::InUse { folder } => ImportError::Served { folder },
            error => error.into(),
        })
    }

    /// Takes a key in.
    ///
    /// # Errors
    /// When a server works on the home, or the key or its certificate won't do. Then nothing is in
    /// the log, and nothing trusts the key.
    pub async fn import_key<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        token: Option<TokenKeys>,
        import: &KeyImport,
    ) -> Result<KeyImported, ImportError> {
        self.check_whole()?;
        let _lock = self.lock_idle()?;
        let (mut plan, opened) = self.plan()?;
        let public = plan.public_part(import)?;
        // What is wrong so far shows before the passphrase's costly key derivation.
        let store = KeyStore::open(&self.keys(), opening)?.with_token(token);
        let imported = plan.make(&store, import, &public)?;
        plan.carry_out(&store, opened).await?;
        Ok(imported)
    }

    /// Begins to plan what comes in, from where the log stands.
    pub(super) fn plan(&self) -> Result<(Plan, Opened), ImportError> {
        let now = now();
        let mut told = Told::default();
        let keys = self.log_keys()?;
        let opened = Log::open(&self.database(), &keys, now, |entry| told.hear(&entry))?;
        if let Some((index, source)) = told.no_step.take() {
            return Err(OpenError::NoStep { index, source }.into());
        }
        check_signed(&opened, &told.keyring)?;
        if opened.restored.is_some() {
            return Err(ImportError::Restored);
        }
        Ok((Plan::new(told, now), opened))
    }
}

/// The entries that bring a key in, and the CA keys as they stand after these.
pub(super) struct Plan {
    pub(super) told: Told,
    events: Vec<Event>,
    now: Timestamp,
}

impl Plan {
    fn new(told: Told, now: Timestamp) -> Self {
        Self {
            told,
            events: Vec::new(),
            now,
        }
    }

    /// Checks a key's public part and writes it as the log will have it.
    pub(super) fn public_part(&self, import: &KeyImport) -> Result<String, ImportError> {
        let public = match import.kind {
            KeyKind::SshUser | KeyKind::SshHost => ssh_line(import.key.signer())
                .map_err(|_| CertificateError::CaCertificate("the key can't be written"))?,
            KeyKind::X509Root | KeyKind::X509Issuing => {
                let (path, text) = import
                    .certificate
                    .as_ref()
                    .ok_or(ImportError::NoCertificate)?;
                self.certificate(import, text)
                    .map_err(|source| ImportError::Certificate {
                        path: path.clone(),
                        source,
                    })?
            }
            KeyKind::Log | KeyKind::Witness => return Err(ImportError::Kind(import.kind)),
        };
        match self.find(import.kind, &public) {
            Some((id, KeyState::Staged)) if import.activate.is_some() => {
                tracing::debug!(%id, "is staged already");
            }
            Some((id, state)) => return Err(ImportError::Known { id, state }),
            None => {
                if let Some(staged) = self.told.keyring.staged(import.kind) {
                    return Err(NoStep::Busy(staged).into());
                }
            }
        }
        self.root_part(import, &public)?;
        Ok(public)
    }

    fn certificate(&self, import: &KeyImport, text: &str) -> Result<String, ForeignCaError> {
        let certificate = ForeignCa::of_key(text, import.key.signer())?;
        certificate.check(self.now)?;
        certificate.check_name(import.key.signer())?;
        if import.kind == KeyKind::X509Root {
            certificate.check_root()?;
        }
        Ok(certificate.pem())
    }

    /// The root that an issuing CA stands under, when it has to come in with it.
    fn root_part(&self, import: &KeyImport, public: &str) -> Result<Option<String>, ImportError> {
        let in_file = |(path, _): &(PathBuf, String)| {
            let path = path.clone();
            move |source| ImportError::Certificate { path, source }
        };
        let (KeyKind::X509Issuing, Some(certificate)) = (import.kind, &import.certificate) else {
            return Ok(None);
        };
        let issuing =
            ForeignCa::of_key(public, import.key.signer()).map_err(in_file(certificate))?;
        if self.root_of(&issuing).is_some() {
            return Ok(None);
        }
        let issuer = issuing.issuer().map_err(in_file(certificate))?;
        let Some(file) = &import.root else {
            return Err(in_file(certificate)(ForeignCaError::Issuer(issuer)));
        };
        let root = ForeignCa::root(&file.1).map_err(in_file(file))?;
        let checked = root.check(self.now).and_then(|()| root.check_root());
        checked.map_err(in_file(file))?;
        let pem = root.pem();
        if !issuing.is_under(&pem) {
            return Err(in_file(file)(ForeignCaError::OtherRoot(issuer)));
        }
        if let Some(staged) = self.told.keyring.staged(KeyKind::X509Root) {
            return Err(NoStep::Busy(staged).into());
        }
        Ok(Some(pem))
    }

    /// The trusted root that an issuing CA stands under.
    fn root_of(&self, issuing: &ForeignCa) -> Option<KeyId> {
        let mut roots = self.told.keyring.iter().filter(|(id, key)| {
            id.kind == KeyKind::X509Root && key.state.is_trusted() && issuing.is_under(&key.public)
        });
        roots.next().map(|(id, _)| id)
    }

    fn find(&self, kind: KeyKind, public: &str) -> Option<(KeyId, KeyState)> {
        let mut keys = self.told.keyring.iter();
        keys.find(|(id, key)| id.kind == kind && key.public == public.trim_end())
            .map(|(id, key)| (id, key.state))
    }

    /// Writes the files, and plans the entries.
    pub(super) fn make(
        &mut self,
        store: &KeyStore,
        import: &KeyImport,
        public: &str,
    ) -> Result<KeyImported, ImportError> {
        let mut root = None;
        if let Some(pem) = self.root_part(import, public)? {
            let id = self.told.keyring.next(KeyKind::X509Root);
            store.put_public(id, &pem)?;
            self.stage(id, &pem)?;
            root = Some(id);
        }
        let key = match self.find(import.kind, public) {
            Some((id, _)) => id,
            None => {
                let id = self.told.keyring.next(import.kind);
                import.key.put(store, id, public)?;
                self.stage(id, public)?;
                id
            }
        };
        let issuing = match &import.activate {
            Some(reason) => self.activate(store, import, key, reason)?,
            None => None,
        };
        let state = self.told.keyring.find(key).map(|key| key.state);
        let certificate = import.certificate.as_ref();
        let certificate =
            certificate.and_then(|_| ForeignCa::of_key(public, import.key.signer()).ok());
        Ok(KeyImported {
            key,
            fingerprint: public_fingerprint(public)?,
            state: state.unwrap_or(KeyState::Staged),
            root,
            issuing,
            no_lists: certificate.is_some_and(|certificate| !certificate.may_sign_lists()),
            connect_anew: self.events.iter().any(|event| {
                matches!(event, Event::CaKeyActivated { key, cross: None, .. }
                    if key.kind == KeyKind::X509Root)
            }),
        })
    }

    fn stage(&mut self, key: KeyId, public: &str) -> Result<(), ImportError> {
        let public = public.trim_end().to_owned();
        let new = NewCaKey { key, public };
        self.take(Event::CaKeyStaged { new, by: None })
    }

    /// Gives the issuing CA that was made, when a root needs one.
    fn activate(
        &mut self,
        store: &KeyStore,
        import: &KeyImport,
        key: KeyId,
        reason: &Reason,
    ) -> Result<Option<KeyId>, ImportError> {
        let mut activated = key;
        let (mut issuing, mut cross, mut made) = (None, None, None);
        match key.kind {
            KeyKind::X509Root => {
                let id = self.told.keyring.next(KeyKind::X509Issuing);
                issuing = Some(self.issuing_under(store, import, key, id)?);
                cross = self.cross(store, key)?;
                made = Some(id);
            }
            KeyKind::X509Issuing => {
                let new = self.new_key(key)?;
                let certificate = ForeignCa::of_key(&new.public, import.key.signer());
                let root = certificate.ok().and_then(|issuing| self.root_of(&issuing));
                // A root that is not in use yet takes along what stands under it.
                if let Some(root) = root
                    && self.told.keyring.staged(KeyKind::X509Root) == Some(root)
                {
                    (activated, issuing) = (root, Some(new));
                    cross = self.cross(store, root)?;
                }
            }
            _ => {}
        }
        self.take(Event::CaKeyActivated {
            key: activated,
            issuing,
            cross,
            forced: Some(reason.to_string()),
            by: None,
        })?;
        Ok(made)
    }

    fn issuing_under(
        &self,
        store: &KeyStore,
        import: &KeyImport,
        root: KeyId,
        id: KeyId,
    ) -> Result<NewCaKey, ImportError> {
        let root = self.new_key(root)?;
        let opened = store.generate(id, |signer| {
            let root_signer = import.key.signer().clone();
            let serial =
                random_serial().map_err(|_| CertificateError::CaCertificate("no randomness"))?;
            let signer = signer.clone();
            issuing_certificate(&root.public, root_signer, signer, serial, self.now)
                .map_err(ImportError::from)
        })?;
        Ok(NewCaKey {
            key: id,
            public: opened.public.trim_end().to_owned(),
        })
    }

    /// The certificate of a root by an older one's key: with it, clients that only know that follow.
    /// A name that can't be written, of a root whose key is elsewhere, has none.
    fn cross(&self, store: &KeyStore, new: KeyId) -> Result<Option<String>, ImportError> {
        let Some(old) = root_that_crosses(&self.told.keyring, store, new) else {
            return Ok(None);
        };
        let (old, new) = (store.signer(old)?, self.new_key(new)?);
        let serial =
            random_serial().map_err(|_| CertificateError::CaCertificate("no randomness"))?;
        let cross = cross_certificate(&old.public, old.signer, &new.public, serial, self.now);
        match cross {
            Ok(cross) => Ok(Some(cross)),
            Err(error @ CertificateError::Sign(_)) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "clients have to connect anew");
                Ok(None)
            }
        }
    }

    fn new_key(&self, key: KeyId) -> Result<NewCaKey, ImportError> {
        let known = self.told.keyring.find(key).ok_or(NoStep::Unknown(key))?;
        Ok(NewCaKey {
            key,
            public: known.public.clone(),
        })
    }

    fn take(&mut self, event: Event) -> Result<(), ImportError> {
        if let Some(step) = step(&event) {
            let at = Since {
                time: self.now,
                entry: self.told.version,
            };
            self.told.keyring.take(&step, at)?;
        }
        if let Event::CaKeyActivated {
            key,
            cross: Some(pem),
            ..
        } = &event
        {
            self.told.cross.insert(*key, pem.clone());
        }
        self.events.push(event);
        Ok(())
    }

    /// Brings what is planned into the log.
    pub(super) async fn carry_out(
        self,
        store: &KeyStore,
        opened: Opened,
    ) -> Result<(), ImportError> {
        let in_force = self.try_out(store, &opened)?;
        let log = opened.start(in_force.log, |_| {})?;
        for event in self.events {
            log.reserve(self.now)?.commit(event, None).await?;
        }
        log.close();
        Ok(())
    }

    /// The keys as a server will find them after what is planned.
    fn try_out(&self, store: &KeyStore, opened: &Opened) -> Result<InForce, ImportError> {
        let keyring = self.told.keyring.clone();
        let open = open_keys(store, &keyring, &opened.last_expiries)?;
        let cross = self.told.cross.clone();
        Ok(InForce::new(keyring, &open, cross, EntryIndex(0))?)
    }
}

/// Why a key did not come in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A server works on the home.
    #[error(
        "a server works on {folder}: stop the server first, import, and start it again (systemctl \
         stop hallpass)"
    )]
    Served {
        /// The home.
        folder: PathBuf,
    },
    /// Such keys are not imported.
    #[error("a {0} key is not imported: give ssh-user, ssh-host, x509-issuing or x509-root")]
    Kind(KeyKind),
    /// Such keys have no certificate from somebody else.
    #[error(
        "a {0} key needs no certificate from elsewhere: only x509-issuing is requested and installed"
    )]
    NotIssued(KeyKind),
    /// An X.509 CA is more than a key.
    #[error("an X.509 CA's key comes with its certificate: give it with --certificate FILE")]
    NoCertificate,
    /// A certificate won't do.
    #[error("{path}: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ForeignCaError,
    },
    /// It is here already.
    #[error("this key is here already: it is {id}, {state}; `hallpass key list --all` shows it")]
    Known {
        /// Which it is.
        id: KeyId,
        /// Where it stands.
        state: KeyState,
    },
    /// The log has to tell of the restore first.
    #[error(
        "this home was restored and never started since: start the server once, stop it, and import \
         then"
    )]
    Restored,
    /// The home is not right.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The home can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::StoreError),
    /// It is no step that a key can take now.
    #[error(transparent)]
    NoStep(#[from] NoStep),
    /// The key can't be taken into use.
    #[error(transparent)]
    Ca(#[from] CertificateError),
    /// The log's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}
