use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::home::{Home, HomeError};
use super::throttle::Throttle;
use super::{Authority, now};
use crate::audit::{Entry, Event, Log, LogError, NoteSigner, Reader, StoreError, VerifierKey};
use crate::certificate::{CertificateError, IssuingCa, SshCa, fingerprint_of_pem};
use crate::identity::{Directory, ReplayGuard};
use crate::keys::{self, KeyKind, KeyStore, Passphrase};
use crate::model::{Timestamp, TrustBundle};
use crate::policy::{PolicyError, PolicySet};
use crate::witness::Witnesses;

/// What is thought of the machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It must not be behind the log's newest entry, but for five minutes.
    FitsTheLog,
    /// An administrator says that it is right, whatever the log has.
    IsRight,
}

impl Authority {
    /// Opens a home: checks it, opens its keys, rebuilds what the log says, and logs the start.
    ///
    /// # Errors
    /// When anything is not right: says what and how to mend it.
    pub async fn open(
        home: &Home,
        passphrase: &Passphrase,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let now = now();
        let lock = home.lock()?;
        // Cheap checks before the passphrase's costly key derivation.
        let policy = PolicySet::load(&home.policies())?;
        let mut directory = Directory::default();
        let shared = Arc::new(RwLock::default());
        let live = Arc::clone(&shared);
        let mut introduced = BTreeMap::new();
        let mut last_policy_set = None;
        let each = |entry: Entry| {
            directory.apply(&entry);
            match entry.event {
                Event::AuthorityCreated { keys, .. } => {
                    introduced.extend(keys.into_iter().map(|key| (key.purpose, key.public)));
                }
                Event::PolicyLoaded { policy_set, .. } => last_policy_set = Some(policy_set),
                _ => {}
            }
        };
        let log_key = KeyStore::public_in(&home.keys(), KeyKind::Log)?;
        let verifier: VerifierKey = log_key.parse().map_err(|_| OpenError::LogKey)?;
        let mut opened = Log::open(&home.database(), &verifier, now, each)?;
        *shared.write().unwrap_or_else(PoisonError::into_inner) = directory;
        let reader = Reader::open(&home.database())?;

        let store = KeyStore::open(&home.keys(), passphrase)?;
        let known = |kind: KeyKind, public: &str| match introduced.get(kind.as_str()) {
            Some(expected) if expected == public.trim_end() => Ok(()),
            _ => Err(OpenError::UnknownKey { kind }),
        };
        let ssh_user = open_ssh(&store, KeyKind::SshUser, known)?;
        let ssh_host = open_ssh(&store, KeyKind::SshHost, known)?;
        let issuing = store.signer(KeyKind::X509Issuing)?;
        known(KeyKind::X509Issuing, &issuing.public)?;
        let x509_fingerprint = fingerprint_of_pem(&issuing.public)?;
        let x509 = IssuingCa::new(&issuing.public, issuing.signer)?;
        // The root only ever signs issuing CAs: its key stays sealed.
        let root = store.public(KeyKind::X509Root)?;
        known(KeyKind::X509Root, &root)?;
        known(KeyKind::Log, &log_key)?;
        let signer = NoteSigner::open(&store.signer(KeyKind::Log)?).ok_or(OpenError::LogKey)?;

        let replays = ReplayGuard::new(std::mem::take(&mut opened.nonces), opened.forgotten, now);
        let (restored, forgotten) = (opened.restored, opened.forgotten);
        let log = opened.start(signer, move |entry| {
            let live: &RwLock<Directory> = &live;
            live.write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(entry);
        })?;
        if clock == Clock::IsRight
            && let Some(newest) = log.correct_clock(now)
        {
            let event = Event::ClockCorrected { newest };
            log.reserve(now)?.commit(event, None).await?;
        }
        if let Some((size, backup)) = restored {
            let event = Event::LogRestored { size, backup };
            log.reserve(now)?.commit(event, None).await?;
            // No request of the second of the restore is taken: nobody is told that this server
            // listens while that second lasts.
            if ReplayGuard::expiry(super::now().whole_secs()) <= forgotten {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        // What a stop in between left.
        log.clear_archived().await?;
        for path in reader.missing_archives()? {
            tracing::error!(
                ?path,
                "archived entries are missing: restore it from a backup"
            );
        }
        if last_policy_set.as_deref() != Some(policy.digest.as_str()) {
            log_policy(&log, &policy, now).await?;
        }
        let started = Event::ServerStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy_set: policy.digest.clone(),
        };
        log.reserve(now)?.commit(started, None).await?;
        Ok(Self {
            trust: TrustBundle {
                ssh_user: vec![openssh(&ssh_user)?],
                ssh_host: vec![openssh(&ssh_host)?],
                x509: vec![root.clone()],
                log: log_key.trim_end().to_owned(),
            },
            ssh_user,
            ssh_host,
            x509,
            audiences: vec![fingerprint_of_pem(&root)?],
            x509_fingerprint,
            policy,
            directory: shared,
            changes: Arc::default(),
            archiving: Arc::default(),
            replays,
            strangers: Throttle::new(),
            known: Throttle::new(),
            log,
            reader,
            witnesses: Witnesses::default(),
            _lock: lock,
        })
    }
}

/// Logs a policy set that comes into force, with all of its text.
pub(super) async fn log_policy(
    log: &Log,
    policy: &PolicySet,
    now: Timestamp,
) -> Result<(), LogError> {
    for (file, text) in &policy.files {
        let pieces = pieces(text);
        for (place, piece) in pieces.iter().enumerate() {
            let event = Event::PolicyText {
                policy_set: policy.digest.clone(),
                file: file.clone(),
                part: place + 1,
                parts: pieces.len(),
                text: (*piece).to_owned(),
            };
            log.reserve(now)?.commit(event, None).await?;
        }
    }
    let event = Event::PolicyLoaded {
        policy_set: policy.digest.clone(),
        files: policy.files.keys().cloned().collect(),
    };
    log.reserve(now)?.commit(event, None).await?;
    Ok(())
}

/// A text in pieces that each fit an entry, whatever is escaped in them.
fn pieces(text: &str) -> Vec<&str> {
    const LONGEST: usize = 8 << 10;
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > LONGEST {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(LONGEST));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

fn open_ssh(
    store: &KeyStore,
    kind: KeyKind,
    known: impl Fn(KeyKind, &str) -> Result<(), OpenError>,
) -> Result<SshCa, OpenError> {
    let opened = store.signer(kind)?;
    let ca = SshCa::new(opened.signer)?;
    // What signs must be what the file beside it says, and what the log introduced.
    if openssh(&ca)? != opened.public.trim_end() {
        return Err(OpenError::UnknownKey { kind });
    }
    known(kind, &opened.public)?;
    Ok(ca)
}

fn openssh(ca: &SshCa) -> Result<String, CertificateError> {
    Ok(ca.public_key().to_openssh()?)
}

/// Why a home can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::StoreError),
    /// A key is not the one that the log introduced.
    #[error(
        "the {kind} key in keys/ is not the one that the audit log introduced: restore keys/ and \
         hallpass.db from the same backup"
    )]
    UnknownKey {
        /// Which.
        kind: KeyKind,
    },
    /// The log's key is none, or not the one beside it.
    #[error(
        "keys/log-1.vkey is not the verifier key of keys/log-1.age: restore keys/ from a backup"
    )]
    LogKey,
    /// A CA's certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The policies.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}
